// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// allBut are the ports that a transparent proxy's redirect takes in.
func allBut(ports ...uint16) firewall.PortSet {
	var all firewall.PortSet
	all.AddRange(1, 65535)
	return all.Minus(firewall.Ports(ports...))
}

// redirecting is a host whose kernel sends IPv4 to web's transparent proxy, and that has no other version of IP.
func redirecting(listener string) Input {
	in := settled(listener)
	in.Registrations[1].Proxy.Mode = consul.ModeTransparent
	in.Host = &Host{
		Facts:     facts.Facts{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}},
		Redirects: []firewall.Redirect{{Family: firewall.IPv4, To: 21000, Ports: allBut(22)}}, RedirectsKnown: true,
	}
	return in
}

func TestTransparentProxy(t *testing.T) {
	const (
		nothing = "nothing redirects the network's connections to the sidecar (consul connect redirect-traffic)"
		leaves  = "the redirect of the network's connections leaves this port out"
		half    = "the network's connections to it are redirected over one version of IP only"
	)
	v6 := func(in *Input) { in.Host.Addresses = append(in.Host.Addresses, netip.MustParseAddr("fe80::1")) }
	for _, test := range []struct {
		name     string
		listener string
		change   func(in *Input)
		why      string // of an open finding, "-" for none; "" for a mitigated one
	}{
		{"redirected", "tcp 0.0.0.0:8080", func(*Input) {}, ""},
		{"redirected to where the proxy really listens", "tcp 0.0.0.0:8080", func(in *Input) {
			in.Registrations[1].Proxy.BindPort, in.Host.Redirects[0].To = 20000, 20000
		}, ""},
		{"redirected to somebody else", "tcp 0.0.0.0:8080", func(in *Input) { in.Host.Redirects[0].To = 20000 }, nothing},
		{"to a proxy that is none", "tcp 0.0.0.0:8080", func(in *Input) { in.Registrations[1].Proxy.Mode = "direct" }, "-"},
		{"the rules are gone", "tcp 0.0.0.0:8080", func(in *Input) { in.Host.Redirects = nil }, nothing},
		{"the rules cannot be read", "tcp 0.0.0.0:8080", func(in *Input) { in.Host.Redirects, in.Host.RedirectsKnown = nil, false }, "-"},
		{"the host was not looked at", "tcp 0.0.0.0:8080", func(in *Input) { in.Host = nil }, "-"},
		{"the port is excluded", "tcp 0.0.0.0:8080", func(in *Input) { in.Host.Redirects[0].Ports = allBut(8080) }, leaves},
		{"both versions of IP, of which the host has one", "tcp [::]:8080", func(*Input) {}, ""},
		{"both versions of IP", "tcp [::]:8080", v6, half},
		{"both versions of IP, addresses unknown", "tcp [::]:8080", func(in *Input) { in.Host.Addresses = nil }, half},
		{"both versions of IP redirected", "tcp [::]:8080", func(in *Input) {
			v6(in)
			in.Host.Redirects = append(in.Host.Redirects, firewall.Redirect{Family: firewall.IPv6, To: 21000, Ports: allBut()})
		}, ""},
		{"IPv4 alone, of a host that has both", "tcp 0.0.0.0:8080", v6, ""},
		{"IPv4 in an IPv6 socket", "tcp [::ffff:10.0.0.1]:8080", func(in *Input) {
			v6(in)
			in.Registrations[0].Address = "10.0.0.1"
		}, ""},
		{"the other version", "tcp 0.0.0.0:8080", func(in *Input) { in.Host.Redirects[0].Family = firewall.IPv6 }, leaves},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := redirecting(test.listener + " cg=5 | 7 web /w web.service")
			in.Policy.Quarantine = &Quarantine{Findings: []catalog.ID{catalog.ExposedListener}}
			test.change(&in)
			var got []Finding
			refused := false
			for _, f := range Evaluate(in).Findings {
				if f.ID == catalog.ExposedListener {
					got = append(got, f)
				}
				refused = refused || f.ID == catalog.QuarantineRefused
			}
			if len(got) != 1 {
				t.Fatalf("findings: %+v", got)
			}
			f := got[0]
			_, why, _ := strings.Cut(f.Remedy, "; its sidecar is in transparent mode, but ")
			wantState := Open
			if test.why == "" {
				wantState = Mitigated
				want(t, "message", "web listens on "+test.listener+": only the redirect to its transparent proxy keeps the network from it", f.Message)
			} else {
				want(t, "why", strings.Trim(test.why, "-"), why)
			}
			if f.State != wantState {
				t.Errorf("state %s, want %s", f.State, wantState)
			}
			if refused != (wantState == Open) {
				t.Errorf("quarantine is asked for: %v", refused)
			}
		})
	}
}

// TestRedirectCoversSiblingsToo: a redirect takes in every port of the namespace.
func TestRedirectCoversSiblingsToo(t *testing.T) {
	in := redirecting(webAlone)
	inhabit(&in, "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service", "tcp 0.0.0.0:22222 cg=5 | 7 web - web.service")
	in.Host.Redirects[0].Ports = allBut(22222)
	var got []string
	for _, f := range Evaluate(in).Findings {
		if f.ID == catalog.ExposedSibling {
			got = append(got, string(f.State)+" "+address(f.Listener))
		}
	}
	want(t, "siblings", "open tcp 0.0.0.0:22222, mitigated tcp 0.0.0.0:9102", strings.Join(got, ", "))
}

// TestRedirectsAreLookedAtOften: what others' rules keep safe is safe only while they stand.
func TestRedirectsAreLookedAtOften(t *testing.T) {
	now := time.Now()
	looked := 0
	host := &Host{}
	a := &Agent{news: newNews(), parts: Parts{Log: slog.New(slog.DiscardHandler), Host: func(context.Context) *Host {
		looked++
		clone := *host
		return &clone
	}}}
	look := func(after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		a.lookAtHost(t.Context(), now)
		if looked != want {
			t.Errorf("looked %d times, want %d", looked, want)
		}
	}
	look(0, 1)
	a.lookAgain()
	look(afreshEvery, 1)
	host.Redirects = []firewall.Redirect{{Family: firewall.IPv4, To: 21000}}
	look(hostEvery, 2)
	look(afreshEvery, 3)
	look(time.Second, 3)
	a.lookAgain() // somebody changed rules
	look(0, 4)
	if len(a.host.Redirects) != 1 {
		t.Error("the redirects are not there")
	}
	before := &Host{Redirects: host.Redirects, RedirectsKnown: true}
	unread := &Host{Partial: true}
	if unread.keep(before); len(unread.Redirects) != 0 || unread.RedirectsKnown {
		t.Error("redirects that cannot be read keep standing")
	}
}
