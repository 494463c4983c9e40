// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// inNamespace puts listeners into another namespace of in, which has an address.
func inNamespace(in *Input, n sockets.Namespace, address string, texts ...string) {
	n.Addresses = []netip.Addr{netip.MustParseAddr(address)}
	in.Namespaces = append(in.Namespaces, n)
	for _, l := range listeners(texts...) {
		l.Namespace, l.Cookie = n.ID, l.Cookie+n.ID<<32
		in.Elsewhere = append(in.Elsewhere, l)
	}
}

// published has nat rules of in pass on ports: "21000 172.17.0.2:21000".
func published(in *Input, rules ...string) {
	if in.Host == nil {
		in.Host = &Host{}
	}
	for _, rule := range rules {
		var p firewall.Published
		if _, err := fmt.Sscanf(rule, "%d %s", &p.First, &p.To); err != nil {
			panic(err)
		}
		p.Last, p.Chain = p.First, "DOCKER"
		in.Host.Published = append(in.Host.Published, p)
	}
}

var (
	alloc = sockets.Namespace{ID: 4026532001, PID: 100, Container: "0123456789ab", Runtime: "nomad"}
	other = sockets.Namespace{ID: 4026532002, PID: 200, Name: "blue"}
	bare  = sockets.Namespace{ID: 4026532003, PID: 300}
)

// onlyFindings are the findings of a result, and the services' listeners.
func onlyFindings(r Result) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(dump(r), "\n") {
		if !strings.HasPrefix(line, "range ") && !strings.HasPrefix(line, "guard ") && !strings.HasPrefix(line, "open ") && !strings.HasPrefix(line, "2") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func TestElsewhere(t *testing.T) {
	const (
		fine    = "service web tcp 127.0.0.1:8080\n"
		exposed = "service web tcp 0.0.0.0:8080\nwarning exposed-listener open \"web\": web listens on tcp 0.0.0.0:8080"
		within  = exposed + " in container 0123456789ab (nomad): whatever shares a network with it reaches it without mTLS and without intentions\n"
		onHost  = exposed + ": the network reaches it without mTLS and without intentions\n"
		silent  = "warning sidecar-not-listening open \"web\": nothing listens on port 21000 that web-sidecar-proxy registered\n"
	)
	for _, test := range []struct {
		name   string
		change func(in *Input)
		want   string
	}{
		{"led there by a nat rule, on loopback", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
		}, fine},
		{"led there by a nat rule, exposed", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, within},
		{"somebody else's port on the host is not blamed", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp 0.0.0.0:8080")
		}, fine},
		{"to another port", func(in *Input) {
			published(in, "21000 172.26.64.2:20000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:20000")
		}, within},
		{"to where nothing listens", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080")
		}, silent + "service web\n"},
		{"to where nobody is seen", func(in *Input) {
			published(in, "21000 172.26.64.9:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080")
		}, "service web\n"},
		{"nowhere at all", func(in *Input) { inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:9") }, silent + "service web\n"},
		{"only on loopback there", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 127.0.0.1:21000")
		}, silent + "service web\n"},
		{"no rule is seen, and the host has nothing", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, within},
		{"all rules are seen, and none leads there", func(in *Input) {
			in.Host = &Host{}
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, silent + "service web\n"},
		{"some rules cannot be read", func(in *Input) {
			in.Host = &Host{Partial: true}
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, within},
		{"rules of another kind stand", func(in *Input) {
			in.Host = &Host{ForeignNAT: true}
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, within},
		{"no rule is seen, and the host has the application", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp 0.0.0.0:8080")
		}, onHost},
		{"no rule is seen, and the host has the sidecar", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp [::]:21000")
		}, "service web\n"},
		{"no rule is seen, and the application is not there", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:21000")
		}, "service web\n"},
		{"registered at its address", func(in *Input) {
			in.Registrations[1].Address = "172.26.64.2"
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp 0.0.0.0:8080")
		}, within},
		{"registered at the host's own address, which somebody took there, too", func(in *Input) {
			in.Registrations[1].Address = "10.0.0.1"
			inNamespace(in, bare, "10.0.0.1", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp 0.0.0.0:8080")
		}, onHost},
		{"several, told apart by address", func(in *Input) {
			in.Registrations[1].Address = "172.26.64.2"
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			inNamespace(in, other, "172.26.64.3", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, within},
		{"several, told apart by the application's port", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			inNamespace(in, other, "172.26.64.3", "tcp 0.0.0.0:21000")
		}, within},
		{"several that look alike", func(in *Input) {
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			inNamespace(in, other, "172.26.64.3", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, "service web\n"},
		{"two namespaces of one address", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
			inNamespace(in, other, "172.26.64.2")
		}, within},
		{"the proxy binds another port", func(in *Input) {
			in.Registrations[1].Proxy.BindPort = 20000
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:20000")
		}, within},
		{"the sidecar calls the application elsewhere", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			in.Registrations[1].Proxy.LocalServiceAddress = "10.0.0.1"
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:21000")
			in.Listeners = listeners("tcp 0.0.0.0:8080")
		}, onHost},
		{"the sidecar calls the application at its own address", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			in.Registrations[1].Proxy.LocalServiceAddress = "172.26.64.2"
			inNamespace(in, alloc, "172.26.64.2", "tcp 172.26.64.2:8080", "tcp 0.0.0.0:21000")
		}, strings.ReplaceAll(within, "0.0.0.0:8080", "172.26.64.2:8080")},
		{"in a namespace that has a name", func(in *Input) {
			inNamespace(in, other, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, strings.ReplaceAll(within, "container 0123456789ab (nomad)", "network namespace blue")},
		{"in a namespace of which nothing is known", func(in *Input) {
			inNamespace(in, bare, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, strings.ReplaceAll(within, "container 0123456789ab (nomad)", "another network namespace")},
		{"only its own port is published, and the sidecar is there", func(in *Input) {
			published(in, "8080 172.26.64.2:8080")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
			inNamespace(in, other, "172.26.64.3", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
		}, fine + "warning exposed-listener open \"web\": web listens on port 8080 of the host, passed on to 172.26.64.2:8080 in container 0123456789ab (nomad): the network reaches it without mTLS and without intentions\n" + silent},
		{"its own port is published, too", func(in *Input) {
			published(in, "21000 172.26.64.2:21000", "8080 172.26.64.2:8080")
			inNamespace(in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
		}, fine + "warning exposed-listener open \"web\": web listens on port 8080 of the host, passed on to 172.26.64.2:8080 in container 0123456789ab (nomad): the network reaches it without mTLS and without intentions\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			in.Listeners = nil
			test.change(&in)
			lines := strings.SplitAfter(strings.TrimSpace(test.want)+"\n", "\n")
			got := strings.SplitAfter(onlyFindings(Evaluate(in)), "\n")
			shared := func(line string) bool { return strings.Contains(line, "range-shared") }
			if got, want := slices.ContainsFunc(got, shared), strings.HasPrefix(test.name, "to where"); got != want {
				t.Errorf("the rule for the sidecar is told as somebody else's: %t, want %t", got, want)
			}
			got = slices.DeleteFunc(got, shared)
			slices.Sort(lines)
			slices.Sort(got)
			if diff := cmp.Diff(lines, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPublishedPorts: what a container publishes is told with the container behind, with a proxy of the runtime's that
// listens and without.
func TestPublishedPorts(t *testing.T) {
	docker := sockets.Namespace{ID: 4026532009, PID: 9, Container: "0123456789ab"}
	proxy := func(in *Input) {
		in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8080 uid=0")
		for cookie, owner := range in.Owners {
			owner.Processes[0].Forwards = "172.17.0.2:80"
			in.Owners[cookie] = owner
		}
	}
	const behind = ", passed on to 172.17.0.2:80 in container 0123456789ab (docker): the network reaches it without mTLS and without intentions\n"
	for _, test := range []struct {
		name   string
		change func(in *Input)
		want   string
	}{
		{"proxy and rule", func(in *Input) {
			in.Listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000")
			published(in, "8080 172.17.0.2:80")
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
			proxy(in)
		}, "service web tcp 0.0.0.0:8080\nwarning exposed-listener open \"web\": web listens on tcp 0.0.0.0:8080" + behind},
		{"proxy alone", func(in *Input) {
			in.Listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000")
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
			proxy(in)
		}, "service web tcp 0.0.0.0:8080\nwarning exposed-listener open \"web\": web listens on tcp 0.0.0.0:8080" + behind},
		{"proxy whose arguments are out of sight", func(in *Input) {
			in.Listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000")
			published(in, "8080 172.17.0.2:80")
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
			in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8080 uid=0")
		}, "service web tcp 0.0.0.0:8080\nwarning exposed-listener open \"web\": web listens on tcp 0.0.0.0:8080" + behind},
		{"rule alone", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			published(in, "8080 172.17.0.2:80")
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
		}, "service web\nwarning exposed-listener open \"web\": web listens on port 8080 of the host" + behind},
		{"rule of both variants", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			published(in, "8080 172.17.0.2:80", "8080 172.17.0.2:80")
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
		}, "service web\nwarning exposed-listener open \"web\": web listens on port 8080 of the host" + behind},
		{"rule to a container that is not seen", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			published(in, "8080 172.17.0.2:80")
		}, "service web\nwarning exposed-listener open \"web\": web listens on port 8080 of the host, passed on to 172.17.0.2:80: the network reaches it without mTLS and without intentions\n"},
		{"rule beside the application on loopback", func(in *Input) { published(in, "8080 172.17.0.2:80") }, "service web tcp 127.0.0.1:8080\n"},
		{"rule to the host itself", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			published(in, "8080 :9090", "8080 10.0.0.1:9090")
		}, "service web\n"},
		{"rule for a service of another host", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			in.Registrations[0].Address = "10.0.0.77"
			in.Host = &Host{}
			in.Host.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
			published(in, "8080 172.17.0.2:80")
		}, "service web\n"},
		{"the guard holds the port", func(in *Input) {
			in.Listeners = listeners("tcp [::]:21000")
			in.Enforced = firewall.Ports(8080)
			published(in, "8080 172.17.0.2:80")
		}, "service web\ninfo exposed-listener mitigated \"web\": web listens on port 8080 of the host, passed on to 172.17.0.2:80: only hostagent's guard keeps the network from it\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			test.change(&in)
			r := Evaluate(in)
			if diff := cmp.Diff(test.want, onlyFindings(r)); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
			if strings.Contains(test.want, "0123456789ab") {
				if len(r.Published) != 1 || r.Published[0].Container != "0123456789ab" || r.Published[0].Runtime != "docker" || r.Published[0].To != "172.17.0.2:80" {
					t.Errorf("published: %+v", r.Published)
				}
				if f := r.Findings[0]; f.Behind == nil || f.Behind.Container != "0123456789ab" || !strings.Contains(f.Remedy, "docker run -p 127.0.0.1:8080:80") {
					t.Errorf("finding: %+v", f)
				}
			}
		})
	}
}

// TestWaysElsewhere: the host's own addresses lead to no listener of another namespace.
func TestWaysElsewhere(t *testing.T) {
	in := infected()
	published(&in, "21000 172.26.64.2:21000")
	inNamespace(&in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
	for _, f := range Evaluate(in).Findings {
		if len(f.Ways) > 0 {
			t.Errorf("%s: %v", f.Message, f.Ways)
		}
	}
}

func TestQuarantineElsewhere(t *testing.T) {
	eachInput(t, infected, quarantineDump, []inputCase{
		{"it lives in another namespace", func(in *Input) {
			published(in, "21000 172.26.64.2:21000")
			inNamespace(in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, refused8080("it listens in container 0123456789ab (nomad), where hostagent keeps no rules", "bind it to loopback there")},
		{"somebody's namespace lifts nothing", func(in *Input) {
			in.Listeners = slices.DeleteFunc(in.Listeners, func(l sockets.Listener) bool { return l.Addr.Port() == 21000 })
			inNamespace(in, bare, "10.200.0.1", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, closed8080},
		{"only a nat rule has the port", func(in *Input) {
			in.Listeners = slices.DeleteFunc(in.Listeners, func(l sockets.Listener) bool { return l.Addr.Port() == 8080 })
			published(in, "8080 172.17.0.2:80")
		}, closed8080},
		{"somebody's namespace lifts nothing of a nat rule", func(in *Input) {
			in.Listeners = listeners("tcp 10.0.0.1:8301 uid=100")
			published(in, "8080 172.17.0.2:80")
			inNamespace(in, bare, "10.200.0.1", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, closed8080},
		{"nor of a container runtime's proxy", func(in *Input) {
			in.Listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp 10.0.0.1:8301 uid=100")
			in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8080 uid=0")
			inNamespace(in, bare, "10.200.0.1", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
		}, closed8080},
		{"nat rules send it to several places", func(in *Input) {
			in.Listeners = slices.DeleteFunc(in.Listeners, func(l sockets.Listener) bool { return l.Addr.Port() == 8080 })
			published(in, "8080 172.17.0.2:80", "8080 172.17.0.3:80")
		}, refused8080("nat rules send it to several places", "publish each container on a port of its own")},
	})
}

// TestScanElsewhere: a look into other namespaces that fails is a note, and what is out of sight is told.
func TestScanElsewhere(t *testing.T) {
	in := base()
	inNamespace(&in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080")
	spaces := sockets.Spaces{Listeners: in.Elsewhere, Namespaces: in.Namespaces, Incomplete: []string{"dark"}}
	scan, into := &Scan{}, Input{}
	look := func(parts Parts) {
		scan.takeElsewhere(begin(func() (sockets.Spaces, error) { return parts.lookElsewhere(t.Context()) }), &into)
	}
	look(Parts{})
	look(Parts{Elsewhere: func(context.Context) (sockets.Spaces, error) { return spaces, nil }})
	if len(into.Elsewhere) != 1 || len(into.Namespaces) != 1 || !slices.Equal(scan.Notes, []string{"dark"}) {
		t.Errorf("got %+v, notes %q", into, scan.Notes)
	}
	failing := func(context.Context) (sockets.Spaces, error) { return sockets.Spaces{}, errors.New("no luck") }
	look(Parts{Elsewhere: failing})
	if !slices.Equal(scan.Notes, []string{"dark", "no luck"}) {
		t.Errorf("notes %q", scan.Notes)
	}
}

// TestLookElsewhere: the loop looks at other namespaces now and then; a failure keeps the last list and is told once, in
// the log and in the status.
func TestLookElsewhere(t *testing.T) {
	h := newFakeHost()
	in := base()
	published(&in, "21000 172.26.64.2:21000")
	inNamespace(&in, alloc, "172.26.64.2", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:21000")
	h.listeners = nil
	looks, fails := 0, error(nil)
	parts := h.parts(ModeObserve)
	parts.Host = func(context.Context) *Host { return in.Host }
	parts.Elsewhere = func(context.Context) (sockets.Spaces, error) {
		looks++
		if fails != nil {
			return sockets.Spaces{}, fails
		}
		return sockets.Spaces{Listeners: in.Elsewhere, Namespaces: in.Namespaces, Incomplete: []string{"dark"}}, nil
	}
	h.runAgent(t, parts, func(agent *Agent, _ chan<- Parts) {
		exposed := func(when string) {
			t.Helper()
			found := agent.Status().Findings
			if len(found) != 1 || found[0].ID != "exposed-listener" || found[0].Listener.Namespace != alloc.ID {
				t.Errorf("%s: %+v", when, found)
			}
		}
		pass(2 * time.Second)
		exposed("at first")
		if looks != 1 || !slices.Contains(agent.Status().Degradations, "dark") {
			t.Errorf("%d looks, degradations %q", looks, agent.Status().Degradations)
		}
		fails = errors.New("no luck")
		pass(20 * time.Second)
		exposed("while it fails")
		if looks != 5 || !slices.Contains(agent.Status().Degradations, "no luck") || strings.Count(h.log.String(), "step=namespaces") != 1 {
			t.Errorf("%d looks, degradations %q, log\n%s", looks, agent.Status().Degradations, h.log.String())
		}
		fails = nil
		agent.lookElsewhereSoon()
		pass(time.Second)
		if looks != 6 || !strings.Contains(h.log.String(), "msg=recovered step=namespaces") {
			t.Errorf("%d looks, log\n%s", looks, h.log.String())
		}
		pass(10 * time.Second)
		exposed("later")
	})
}

// TestNotHijacked: any user can make a namespace, give it any address and listen in it. That takes nothing on the host out
// of sight.
func TestNotHijacked(t *testing.T) {
	const exposed = "open web listens on tcp 0.0.0.0:8080"
	docker := sockets.Namespace{ID: 4026532009, PID: 9, Container: "0123456789ab", Runtime: "docker"}
	for _, test := range []struct {
		name   string
		change func(in *Input)
		want   string
	}{
		{"with the address of a load balancer that the sidecar is registered at", func(in *Input) {
			in.Host = &Host{}
			in.Host.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
			in.Registrations[1].Address = "203.0.113.7"
			inNamespace(in, bare, "203.0.113.7", "tcp 0.0.0.0:21000")
		}, exposed + ": the network reaches it without mTLS and without intentions"},
		{"with the host's own address, while that is not known", func(in *Input) {
			in.Registrations[0].Address = "10.0.0.77"
			inNamespace(in, bare, "10.0.0.77", "tcp 0.0.0.0:21000")
		}, exposed + ": the network reaches it without mTLS and without intentions"},
		{"while a container's sidecar is down", func(in *Input) {
			in.Listeners = listeners("tcp 0.0.0.0:8080 uid=0")
			in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8080 uid=0")
			for _, owner := range in.Owners {
				owner.Processes[0].Forwards = "172.17.0.2:80"
			}
			inNamespace(in, docker, "172.17.0.2", "tcp [::]:80")
			inNamespace(in, bare, "10.9.9.9", "tcp 0.0.0.0:21000")
		}, exposed + ", passed on to 172.17.0.2:80 in container 0123456789ab (docker): the network reaches it without mTLS and without intentions"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			in.Listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
			test.change(&in)
			if got := strings.Join(findingsOf(Evaluate(in), catalog.ExposedListener), "\n"); got != test.want {
				t.Errorf("exposed:\n%s\nwant:\n%s", got, test.want)
			}
		})
	}
}

// TestPublishedElsewhere: an application in a container is exposed on whatever port of the host leads to its own, and on no
// port that leads to another container.
func TestPublishedElsewhere(t *testing.T) {
	const all = " without mTLS and without intentions"
	rootless := func(in *Input) {
		in.Listeners = listeners("tcp 0.0.0.0:8080")
		in.Owners = owned("rootlessport", "tcp 0.0.0.0:8080")
	}
	for _, test := range []struct {
		name   string
		change func(in *Input)
		want   []string
	}{
		{"another port leads to it", func(in *Input) { published(in, "80 172.26.64.2:8080") },
			[]string{"open web listens on port 80 of the host, passed on to 172.26.64.2:8080 in container 0123456789ab (nomad): the network reaches it" + all}},
		{"its port leads to another container", func(in *Input) {
			published(in, "8080 172.26.64.3:80")
			inNamespace(in, other, "172.26.64.3", "tcp 0.0.0.0:80")
		}, nil},
		{"its port leads to nobody knows where", func(in *Input) { published(in, "8080 192.0.2.1:80") },
			[]string{"open web listens on port 8080 of the host, passed on to 192.0.2.1:80: the network reaches it" + all}},
		{"a program that does not say where to passes its port on", rootless,
			[]string{"open web listens on tcp 0.0.0.0:8080: the network reaches it" + all}},
		{"over both versions of IP, in one finding", func(in *Input) { published(in, "8080 172.26.64.2:8080", "8080 [fd00::2]:8080") },
			[]string{"open web listens on port 8080 of the host, passed on to 172.26.64.2:8080 in container 0123456789ab (nomad) and [fd00::2]:8080: the network reaches it" + all}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			in.Listeners = nil
			published(&in, "21000 172.26.64.2:21000")
			inNamespace(&in, alloc, "172.26.64.2", "tcp 127.0.0.1:8080", "tcp 0.0.0.0:21000")
			test.change(&in)
			if diff := cmp.Diff(test.want, findingsOf(Evaluate(in), catalog.ExposedListener)); diff != "" {
				t.Errorf("exposed (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRulesOfServices: on a node of Kubernetes nat rules pass on the ports of each service's own address. The host's ports
// of the same numbers are none of theirs.
func TestRulesOfServices(t *testing.T) {
	in := base()
	in.Listeners = nil
	published(&in, "8080 10.244.1.5:8080", "21000 10.244.1.6:443", "21003 10.244.1.7:443")
	for i := range in.Host.Published {
		in.Host.Published[i].Destination = netip.MustParsePrefix("10.96.0.10/32")
	}
	in.Host.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1")}
	want := "warning sidecar-not-listening open \"web\": nothing listens on port 21000 that web-sidecar-proxy registered\n"
	result := Evaluate(in)
	if got := onlyFindings(result); got != "service web\n"+want {
		t.Errorf("findings:\n%swant:\n%s", got, want)
	}
	if len(result.Published) != 0 {
		t.Errorf("published: %v", result.Published)
	}
	for i := range in.Host.Published {
		in.Host.Published[i].Destination = netip.MustParsePrefix("10.0.0.0/24")
	}
	if got := len(Evaluate(in).Published); got != 3 {
		t.Errorf("%d ports are published on the host's own address, want 3", got)
	}
}
