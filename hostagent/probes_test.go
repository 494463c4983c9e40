// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/hostagent/probe"
	"github.com/hostagent/hostagent/sockets"
)

// named is what a sidecar of a service shows.
func named(service string) probe.Result {
	return probe.Result{Outcome: probe.Named, Name: probe.Name{Namespace: "default", Datacenter: "dc1", Service: service}}
}

// probingHost is the host of base that probes, and has addresses.
func probingHost() Input {
	in := base()
	in.Agent.Datacenter = "dc1"
	in.Policy.Probe = true
	in.Registrations[1].Proxy.LocalServicePort = 8080
	in.Host = &Host{Facts: facts.Facts{Addresses: []netip.Addr{
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fe80::1"),
	}}}
	return in
}

// answerAll lets every target of in show the same, as often as it takes.
func answerAll(in *Input, result probe.Result, lasting bool) {
	in.Probes = nil
	for _, t := range Evaluate(*in).Probes {
		in.Probes = append(in.Probes, Probed{ProbeTarget: t, Result: result, Lasting: lasting})
	}
}

// TestAccuse: what is made of what listeners show, by whom they claim to be.
func TestAccuse(t *testing.T) {
	const intro = "what listens on tcp [::]:21000 for web is no sidecar of it: "
	api := func(in *Input) { in.Registrations = append(in.Registrations, sidecar("api", 21000)) }
	for _, test := range []struct {
		name    string
		shows   probe.Result
		lasting bool
		change  func(in *Input)
		finding string
		note    string
	}{
		{"its sidecar", named("web"), false, nil, "", ""},
		{"names have no case", named("WEB"), false, nil, "", ""},
		{"sidecar of another service", named("api"), false, nil, "its certificate is that of api", ""},
		{"untrusted name", named("a\x1b[31m"), false, nil, `its certificate is that of a\u001b[31m`, ""},
		{"of another datacenter", probe.Result{Outcome: probe.Named, Name: probe.Name{Namespace: "default", Datacenter: "dc2", Service: "web"}}, false, nil,
			"its certificate is that of web in namespace default of datacenter dc2", ""},
		{"of a datacenter that the agent did not tell", probe.Result{Outcome: probe.Named, Name: probe.Name{Namespace: "default", Datacenter: "dc2", Service: "web"}}, false,
			func(in *Input) { in.Agent.Datacenter = "" }, "", ""},
		{"of another namespace", probe.Result{Outcome: probe.Named, Name: probe.Name{Namespace: "blue", Datacenter: "dc1", Service: "web"}}, false, nil,
			"its certificate is that of web in namespace blue of datacenter dc1", ""},
		{"of its namespace", probe.Result{Outcome: probe.Named, Name: probe.Name{Partition: "default", Namespace: "blue", Datacenter: "dc1", Service: "web"}}, false,
			func(in *Input) { in.Registrations[1].Namespace = "blue" }, "", ""},
		{"of another partition", probe.Result{Outcome: probe.Named, Name: probe.Name{Partition: "p2", Namespace: "default", Datacenter: "dc1", Service: "web"}}, false, nil,
			"its certificate is that of web in namespace default of datacenter dc1, partition p2", ""},
		{"port claimed twice, by one", named("web"), false, api, "", ""},
		{"port claimed twice, by the other", named("api"), false, api, "", ""},
		{"port claimed twice, by neither", named("db"), false, api, "for api and web is no sidecar of it: its certificate is that of db", ""},
		{"certificate of an agent", probe.Result{Outcome: probe.Unnamed}, false, nil, "its certificate is of the mesh's CA, but names no service of the mesh", ""},
		{"expired", probe.Result{Outcome: probe.Expired, Detail: "x"}, false, nil, "its certificate is of the mesh's CA, but not valid now", ""},
		{"another CA", probe.Result{Outcome: probe.Foreign, Detail: "x"}, false, nil, "it has no certificate of the mesh's CA", ""},
		{"no TLS", probe.Result{Outcome: probe.Plain}, false, nil, "it does not speak TLS", ""},
		{"alert, once", probe.Result{Outcome: probe.Refused, Detail: "an alert"}, false, nil, "", "an alert"},
		{"alert, again and again", probe.Result{Outcome: probe.Refused, Detail: "an alert"}, true, nil,
			"it speaks TLS, but shows no certificate to whoever gives no name", ""},
		{"closed, once", probe.Result{Outcome: probe.Closed, Detail: "closed"}, false, nil, "", "closed"},
		{"closed, again and again, while the application listens", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true, nil,
			"it closes connections before it has shown a certificate, although the application listens", ""},
		{"closed while the application does not listen", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true,
			func(in *Input) { in.Listeners = in.Listeners[1:] }, "", "closed, as Consul's own proxy does while its application does not listen"},
		{"closed while the application listens elsewhere", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true,
			func(in *Input) { in.Listeners[0] = listener("tcp 127.0.0.2:8080") }, "", "closed, as Consul's own proxy does while its application does not listen"},
		{"closed where the application has a unix socket", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true,
			func(in *Input) { in.Registrations[1].Proxy.LocalServiceSocket = "/run/web" }, "", "closed, as Consul's own proxy does while its application does not listen"},
		{"closed beside a transparent proxy", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true, func(in *Input) {
			in.Host.Redirects = []firewall.Redirect{{Family: firewall.IPv4, To: 21000, Ports: allBut()}}
		}, "it closes connections before it has shown a certificate, although the application listens", ""},
		{"closed beside a transparent proxy, not over loopback", probe.Result{Outcome: probe.Closed, Detail: "closed"}, true, func(in *Input) {
			in.Host.Redirects = []firewall.Redirect{{Family: firewall.IPv4, To: 21000, Ports: allBut()}}
			in.Listeners[1].Addr = netip.MustParseAddrPort("10.0.0.1:21000")
		}, "", "closed, and a transparent proxy may be asked in its place"},
		{"silent, for ever", probe.Result{Outcome: probe.Silent, Detail: "silent"}, true, nil, "", "silent"},
		{"not to be asked", probe.Result{Outcome: probe.Unknown, Detail: "refused"}, true, nil, "", "refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := probingHost()
			if test.change != nil {
				test.change(&in)
			}
			answerAll(&in, test.shows, test.lasting)
			if len(in.Probes) != 1 {
				t.Fatalf("%d targets, want 1", len(in.Probes))
			}
			result := Evaluate(in)
			var got []string
			for _, f := range result.Findings {
				if f.ID == catalog.NotASidecar {
					got = append(got, f.Message)
					if f.Severity != catalog.Critical || f.Listener == nil || f.Port != 21000 || f.ServiceID == "" {
						t.Errorf("finding %+v", f)
					}
				}
			}
			switch {
			case test.finding == "":
				if len(got) > 0 || len(result.Accused) > 0 {
					t.Errorf("findings %q", got)
				}
			case len(got) != 1 || !strings.HasSuffix(got[0], test.finding) || !strings.Contains(test.finding, "sidecar of it") && got[0] != intro+test.finding:
				t.Errorf("findings %q, want %q", got, test.finding)
			case len(result.Accused) != 1 || result.Accused[0] != in.Probes[0].ProbeTarget:
				t.Errorf("accused %+v", result.Accused)
			}
			var notes []string
			if test.note != "" {
				notes = []string{"nobody knows if what listens on " + address(&in.Listeners[len(in.Listeners)-1]) + " is the sidecar of web: " + test.note}
			}
			if diff := cmp.Diff(notes, result.Unprobed); diff != "" {
				t.Errorf("notes (-want +got)\n%s", diff)
			}
		})
	}
}

// TestTargets: who is asked, and where.
func TestTargets(t *testing.T) {
	many := func(count int, format string) (texts []string) {
		for i := range count {
			texts = append(texts, fmt.Sprintf(format, i%250+2, i))
		}
		return texts
	}
	for _, test := range []struct {
		name      string
		listeners []string
		change    func(in *Input)
		want      string
	}{
		{"dual stack", []string{"tcp [::]:21000"}, nil, "[::]:21000 at 127.0.0.1"},
		{"IPv4", []string{"tcp 0.0.0.0:21000"}, nil, "0.0.0.0:21000 at 127.0.0.1"},
		{"IPv6", []string{"tcp [::]:21000 v6only"}, nil, "[::]:21000 at ::1"},
		{"one address", []string{"tcp 10.0.0.1:21000"}, nil, "10.0.0.1:21000 at 10.0.0.1"},
		{"one v4-mapped address", []string{"tcp [::ffff:10.0.0.1]:21000"}, nil, "[::ffff:10.0.0.1]:21000 at 10.0.0.1"},
		{"an address that the host does not have", []string{"tcp 192.0.2.1:21000"}, nil, ""},
		{"the host was not looked at", []string{"tcp 10.0.0.1:21000"}, func(in *Input) { in.Host = nil }, ""},
		{"a link-local address", []string{"tcp [fe80::1]:21000 v6only"}, nil, ""},
		{"one network card", []string{"tcp [::]:21000 dev=2"}, nil, "[::]:21000 at 10.0.0.1"},
		{"one network card behind another listener", []string{"tcp 0.0.0.0:21000", "tcp [::]:21000 dev=2"}, nil,
			"0.0.0.0:21000 at 127.0.0.1, [::]:21000 at fd00::1"},
		{"one network card behind everybody", []string{"tcp [::]:21000", "tcp 0.0.0.0:21000 dev=2"}, nil, "[::]:21000 at 127.0.0.1"},
		{"one address of one network card", []string{"tcp 10.0.0.1:21000 dev=2"}, nil, "10.0.0.1:21000 at 10.0.0.1"},
		{"either may get it", []string{"tcp 0.0.0.0:21000", "tcp [::]:21000 dev=1"}, nil, "[::]:21000 at ::1"},
		{"loopback", []string{"tcp 127.0.0.9:21000"}, nil, "127.0.0.9:21000 at 127.0.0.9"},
		{"bound to lo", []string{"tcp 0.0.0.0:21000 dev=1"}, nil, "0.0.0.0:21000 at 127.0.0.1"},
		{"two users on both IP versions", []string{"tcp 0.0.0.0:21000", "tcp [::]:21000 v6only uid=1001"}, nil,
			"0.0.0.0:21000 at 127.0.0.1, [::]:21000 at ::1"},
		{"one in front of the other", []string{"tcp 127.0.0.1:21000", "tcp [::]:21000"}, nil,
			"[::]:21000 at ::1, 127.0.0.1:21000 at 127.0.0.1"},
		{"one behind all others", []string{"tcp 127.0.0.1:21000", "tcp [::1]:21000", "tcp 10.0.0.1:21000", "tcp [::]:21000"}, nil,
			"10.0.0.1:21000 at 10.0.0.1, [::]:21000 at fd00::1, 127.0.0.1:21000 at 127.0.0.1, [::1]:21000 at ::1"},
		{"one behind v4 only", []string{"tcp 0.0.0.0:21000 uid=1", "tcp [::]:21000"}, nil, "0.0.0.0:21000 at 127.0.0.1, [::]:21000 at ::1"},
		{"UDP", []string{"udp [::]:21000"}, nil, ""},
		{"an upstream on loopback", []string{"tcp 127.0.0.1:21000", "tcp 10.0.0.1:21000"}, func(in *Input) {
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 21000}}
		}, "10.0.0.1:21000 at 10.0.0.1"},
		{"a crowd on loopback", append(many(300, "tcp 127.0.0.%d:21000 uid=%d"), "tcp [::]:21000"), nil,
			"[::]:21000 at 127.0.0.1, 127.0.0.2:21000 at 127.0.0.2, 127.0.0.3:21000 at 127.0.0.3, 127.0.0.4:21000 at 127.0.0.4"},
		{"a crowd on addresses of others", append(many(300, "tcp 192.0.2.%d:21000 uid=%d"), "tcp [::]:21000"), nil, "[::]:21000 at 127.0.0.1"},
		{"nobody's port", []string{"tcp [::]:21007"}, nil, ""},
		{"protected port", []string{"tcp [::]:21000"}, func(in *Input) { in.Policy.Protected = firewall.Ports(21000) }, ""},
		{"port beyond the range", []string{"tcp [::]:9443"}, func(in *Input) { in.Registrations[1].Port = 9443 }, ""},
		{"extra port", []string{"tcp [::]:9443"}, func(in *Input) {
			in.Registrations[1].Port, in.Policy.ExtraPorts = 9443, firewall.Ports(9443)
		}, "[::]:9443 at 127.0.0.1"},
		{"held port", []string{"tcp [::]:21000"}, func(in *Input) {
			in.Registrations, in.Held = in.Registrations[:1], []Held{{ID: "web-sidecar-proxy", Port: 21000}}
		}, ""},
		{"predicted port", []string{"tcp [::]:21000"}, func(in *Input) { in.Registrations[1].Predicted = true }, ""},
		{"definitions", []string{"tcp [::]:21000"}, func(in *Input) { in.Source = SourceFiles }, ""},
		{"no answer yet", []string{"tcp [::]:21000"}, func(in *Input) { in.Source = SourceNone }, ""},
		{"not wanted", []string{"tcp [::]:21000"}, func(in *Input) { in.Policy.Probe = false }, ""},
		{"confirmed gateway", []string{"tcp [::]:21000"}, func(in *Input) {
			in.Registrations[1] = consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Port: 21000}
			in.Policy.Gateways = []string{"gw"}
		}, ""},
		{"confirmed native service", []string{"tcp [::]:21000"}, func(in *Input) {
			in.Registrations[1] = consul.Registration{ID: "n", Name: "n", Native: true, Port: 21000}
			in.Policy.Native = []string{"n"}
		}, "[::]:21000 at 127.0.0.1"},
		{"another namespace", []string{"tcp [::]:21000"}, func(in *Input) { in.Listeners[0].Namespace = 7 }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := probingHost()
			in.Source = SourceAgent
			in.Listeners = listeners(test.listeners...)
			if test.change != nil {
				test.change(&in)
			}
			bound := map[uint64]string{}
			for _, l := range in.Listeners {
				bound[l.Cookie] = l.Addr.String()
			}
			var got []string
			for _, target := range Evaluate(in).Probes {
				got = append(got, bound[target.Cookie]+" at "+target.At.Addr().String())
			}
			slices.Sort(got)
			want := strings.Split(test.want, ", ")
			if test.want == "" {
				want = nil
			}
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestGroupIsAskedAgainWhenItGrows: sockets of one user that share a port are one listener, until another one comes.
func TestGroupIsAskedAgainWhenItGrows(t *testing.T) {
	in := probingHost()
	before := Evaluate(in).Probes
	twin := in.Listeners[1]
	twin.Cookie = 1 << 40
	in.Listeners = append(in.Listeners, twin)
	after := Evaluate(in).Probes
	if len(before) != 1 || len(after) != 1 || after[0].Cookie != twin.Cookie || after[0].At != before[0].At {
		t.Errorf("targets %v, and with one more socket %v", before, after)
	}
}

func TestFewAreNamedThatWereAskedInVain(t *testing.T) {
	in := probingHost()
	in.Registrations, in.Listeners = nil, nil
	for i := range 20 {
		in.Registrations = append(in.Registrations, sidecar(fmt.Sprintf("s%02d", i), 21000+i))
		in.Listeners = append(in.Listeners, sockets.Listener{
			Protocol: sockets.TCP, Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(21000+i)), Cookie: uint64(1000 + i),
		})
	}
	answerAll(&in, probe.Result{Outcome: probe.Silent, Detail: "silent"}, false)
	got := Evaluate(in).Unprobed
	if len(got) != maxUnprobed+1 || got[maxUnprobed] != "15 more listeners on sidecars' ports were asked in vain" {
		t.Errorf("notes %q", got)
	}
}
