// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// infected is a settled host on which quarantine acts and web is exposed on port 8080.
func infected() Input {
	in := base()
	in.Agent.Ports["serf_lan"] = 8301
	in.Listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000", "tcp 10.0.0.1:8301 uid=100")
	in.Policy.Quarantine = &Quarantine{Ports: firewall.Ports(8080), Findings: []catalog.ID{catalog.ExposedListener}}
	in.Host = &Host{Facts: facts.Facts{Addresses: []netip.Addr{
		netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("127.0.0.1"),
	}}}
	return in
}

// quarantineDump writes what quarantine made of an input: the gate's sets, who is in quarantine, and who is refused.
func quarantineDump(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "guard %s\ncut %s %v\n", r.Rules.Guard, r.Rules.Cut, r.Rules.CutRules)
	for _, q := range r.Quarantined {
		fmt.Fprintf(&b, "%d%s held=%v\n", q.Port, quarantineText(q), q.Held)
	}
	for _, f := range r.Findings {
		if f.ID == catalog.QuarantineRefused {
			fmt.Fprintf(&b, "%s %s %q %d: %s; %s\n", f.Severity, f.ID, f.ServiceID, f.Port, f.Message, f.Remedy)
		}
	}
	return b.String()
}

const (
	closed8080 = "guard 8080, 21000-21255\ncut 8080 true\n8080 for web held=false\n"
	closedNone = "guard 21000-21255\ncut none true\n"
)

// refused8080 is the outcome where web's port is refused.
func refused8080(reason, fix string) string {
	return closedNone + "warning quarantine-refused \"web\" 8080: port 8080 of web is not closed to the network: " + reason + "; " + fix + "\n"
}

// holders gives the i-th listener an owner.
func holders(in *Input, owners ...sockets.Owner) {
	in.Owners = map[uint64]sockets.Owner{}
	for i, owner := range owners {
		in.Listeners[i].Cookie = uint64(100000 + i)
		in.Owners[in.Listeners[i].Cookie] = owner
	}
}

// program is an owner with one process.
func program(pid int32, name, exe, unit string) sockets.Owner {
	return sockets.Owner{Unit: unit, Processes: []sockets.Process{{PID: pid, Name: name, Exe: exe}}}
}

const (
	otherPort  = "give each application a port of its own"
	hostSide   = "run the sidecar in the host's network namespace"
	agentSide  = "run the Consul agent in the host's network namespace"
	nameIt     = "deregister what does not listen there, or add the name of the service that does to quarantine_services" + notEmpty
	notEmpty   = ", with the names of all others to be closed, for the empty list stands for all"
	confirmIt  = "if web is what listens there, add its name to quarantine_services" + notEmpty + "; if not, deregister it"
	rootsAlone = "it is root's, and a registration alone closes no port of root's"
)

func TestQuarantine(t *testing.T) {
	eachInput(t, infected, quarantineDump, []inputCase{
		{"exposed", func(*Input) {}, closed8080},
		{"observed", func(in *Input) { in.Policy.Mode = ModeObserve }, closed8080},
		{"only reported", func(in *Input) { in.Policy.Quarantine = nil }, "guard 21000-21255\ncut none false\n"},
		{"for another finding", func(in *Input) { in.Policy.Quarantine.Findings = []catalog.ID{catalog.SquattedPort} }, closedNone},
		{"for its service", func(in *Input) { in.Policy.Quarantine.Services = []string{"api", "web"} }, closed8080},
		{"for another service", func(in *Input) { in.Policy.Quarantine.Services = []string{"api"} }, closedNone},
		{"on loopback", func(in *Input) { in.Listeners[0] = listener("tcp 127.0.0.1:8080") }, closedNone},
		{"gone", func(in *Input) { in.Listeners = in.Listeners[1:] }, closedNone},
		{"with a sidecar that is down", func(in *Input) { in.Listeners = append(in.Listeners[:1], in.Listeners[2]) }, closed8080},
		{"on two addresses of one program", func(in *Input) {
			in.Listeners = append(listeners("tcp 127.0.0.1:8080"), in.Listeners...)
			holders(in, program(7, "web", "/web", ""), program(7, "web", "/web", ""))
		}, closed8080},

		// Not settled.
		{"before the answers settle", func(in *Input) { in.Settled = false }, "guard none\ncut none true\n"},
		{"before the answers settle, guarded by an earlier run", func(in *Input) {
			in.Settled, in.AdoptedGuard = false, firewall.Ports(8080, 21000)
		}, "guard 8080, 21000\ncut 8080 true\n8080 for web held=false\n"},
		{"before any answer, guarded by an earlier run", func(in *Input) {
			in.Settled, in.AdoptedGuard, in.Source, in.Registrations = false, firewall.Ports(8080), SourceNone, nil
			in.Quarantined = []Quarantined{{Port: 8080, Held: true}}
		}, "guard 8080\ncut 8080 true\n8080 held=true\n"},

		// The port alone.
		{"outside of quarantine_ports", func(in *Input) { in.Policy.Quarantine.Ports = firewall.Ports(8081) },
			refused8080("it is not in quarantine_ports", "bind it to loopback, or add 8080 to quarantine_ports")},
		{"protected", func(in *Input) { in.Policy.Protected.Add(8080) },
			refused8080("it is a protected port", "register the port on which the application really listens")},
		{"Consul's", func(in *Input) { in.Agent.Ports["https"] = 8080 },
			refused8080("it is a protected port", "register the port on which the application really listens")},
		{"sshd's", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Owners = owned("sshd", "tcp 0.0.0.0:8080 uid=0")
		}, refused8080("it is a protected port", "register the port on which the application really listens")},
		{"in the sidecar range", func(in *Input) {
			in.Policy.SidecarRange = &PortRange{First: 8080, Last: 8090}
		}, "guard 8080-8090\ncut none true\n" + strings.TrimPrefix(refused8080("it lies in the sidecar range", "move the application out of 8080-8090"), closedNone)},
		{"open for a sidecar", func(in *Input) {
			in.Registrations = append(in.Registrations, sidecar("api", 8080))
			in.Policy.ExtraPorts = firewall.Ports(8080)
		}, refused8080("it is open for a sidecar or gateway that is registered on it", "give the application a port of its own")},
		{"held open for a sidecar", func(in *Input) {
			in.Held, in.Policy.ExtraPorts = []Held{{ID: "api-sidecar-proxy", Port: 8080}}, firewall.Ports(8080)
		}, refused8080("it is open for a sidecar or gateway that is registered on it", "give the application a port of its own")},

		{"held for a registration that no port is open for", func(in *Input) {
			in.Held = []Held{{ID: "evil-sidecar-proxy", Port: 8080}}
		}, closed8080},

		// Who else names it.
		{"named by another service", func(in *Input) { in.Registrations = append(in.Registrations, app("plain", 8080)) },
			refused8080("another registration names the same port: plain", nameIt)},
		{"named by a sidecar of another service", func(in *Input) {
			evil := sidecar("evil", 21001)
			evil.Proxy.LocalServicePort, evil.Proxy.DestinationID = 8080, ""
			in.Registrations = append(in.Registrations, evil)
		}, refused8080("another registration names the same port: evil", nameIt)},
		{"registered for a sidecar that does not get it", func(in *Input) { in.Registrations = append(in.Registrations, sidecar("api", 8080)) },
			refused8080("another registration names the same port: api-sidecar-proxy", nameIt)},
		{"named by a gateway nobody confirmed", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Port: 8080})
		}, refused8080("another registration names the same port: gw", nameIt)},
		{"where a gateway nobody confirmed says that it listens, too", func(in *Input) {
			in.Registrations = append(in.Registrations, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: []consul.Bind{{Port: 8080}}}))
		}, refused8080("another registration names the same port: gw", nameIt)},
		{"named by several, with letters that drive a terminal", func(in *Input) {
			in.Registrations = append(in.Registrations, app("a\x1b[2J", 8080), app("b", 8080))
		}, refused8080(`another registration names the same port: a\u001b[2J and b`, nameIt)},
		{"named by many", func(in *Input) {
			for i := range 9 {
				in.Registrations = append(in.Registrations, app(fmt.Sprint("s", i), 8080))
			}
		}, refused8080("another registration names the same port: s0, s1 and others", nameIt)},
		{"named by another service at another address of this host", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "plain", Name: "plain", Port: 8080, Address: "10.0.0.2"})
		}, refused8080("another registration names the same port: plain", nameIt)},
		{"named by a service of another host", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "plain", Name: "plain", Port: 8080, Address: "192.0.2.1"})
		}, closed8080},
		{"another instance of the service", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "web-2", Name: "web", Port: 8080})
		}, closed8080},
		{"named by another service, but the operator named this one", func(in *Input) {
			in.Registrations = append(in.Registrations, app("plain", 8080), sidecar("api", 8080))
			in.Policy.Quarantine.Services = []string{"web"}
		}, closed8080},
		{"called over the network by a sidecar of another service that names its id", func(in *Input) {
			evil := sidecar("evil", 21001)
			evil.Proxy.DestinationID, evil.Proxy.LocalServiceAddress = "web", "192.0.2.1"
			in.Registrations = append(in.Registrations, evil)
		}, closed8080},
		{"without a sidecar but one of another service that names its id", func(in *Input) {
			evil := sidecar("evil", 21000)
			evil.Proxy.DestinationID = "web"
			in.Registrations[1] = evil
		}, closedNone},
		{"a service that the operator named, called there by somebody else's sidecar only", func(in *Input) {
			evil := sidecar("evil", 21001)
			evil.Proxy.LocalServicePort, evil.Proxy.DestinationID = 5432, "web"
			in.Registrations = append(in.Registrations, evil)
			in.Listeners[0] = listener("tcp 0.0.0.0:5432 uid=70")
			in.Policy.Quarantine = &Quarantine{Ports: firewall.Ports(5432), Findings: in.Policy.Quarantine.Findings, Services: []string{"web"}}
		}, closedNone},

		// Who else listens on it.
		{"another user on loopback", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 127.0.0.1:8080 uid=1001"), in.Listeners[1:]...)
		}, refused8080("several users listen on it (uids 1000 1001)", otherPort)},
		{"another user, whatever the operator named", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080 uid=1001"), in.Listeners[1:]...)
			in.Policy.Quarantine.Services = []string{"web"}
		}, refused8080("several users listen on it (uids 1000 1001)", otherPort)},
		{"another program of the user", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
			holders(in, program(7, "web", "/web", "apps.service"), program(8, "other", "/other", "apps.service"))
		}, refused8080("several programs listen on it: web on 10.0.0.1 and other on 10.0.0.2", otherPort)},
		{"another unit of the user", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
			holders(in, program(7, "java", "/java", "web.service"), program(8, "java", "/java", "other.service"))
		}, refused8080("several programs listen on it: java on 10.0.0.1 and java on 10.0.0.2", otherPort)},
		{"another container of the user", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
			a, b := program(7, "java", "/java", ""), program(8, "java", "/java", "")
			a.Container, b.Container = "aaaa", "bbbb"
			holders(in, a, b)
		}, refused8080("several programs listen on it: java on 10.0.0.1 and java on 10.0.0.2", otherPort)},
		{"sockets of unknown owners", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
		}, refused8080("several sockets listen on it, and it is not known whether one program holds them",
			"run hostagent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; or let one socket listen")},
		{"sockets of unknown owners that were in quarantine before", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
			in.Quarantined = []Quarantined{{Port: 8080, Services: []string{"web"}}}
		}, closed8080},
		{"sockets of unknown owners in one cgroup", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080", "tcp 10.0.0.2:8080"), in.Listeners[1:]...)
			in.Listeners[0].CgroupID, in.Listeners[1].CgroupID = 9, 9
		}, closed8080},
		{"workers with a socket each", func(in *Input) {
			in.Listeners = append(listeners("tcp 0.0.0.0:8080", "tcp 0.0.0.0:8080"), in.Listeners[1:]...)
			holders(in, program(7, "web", "/web (deleted)", "web.service"), program(8, "web", "/web", "web.service"))
		}, closed8080},
		{"a UDP socket of another user", func(in *Input) { in.Listeners = append(in.Listeners, listener("udp 0.0.0.0:8080 uid=5")) }, closed8080},

		// Root's.
		{"root's", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Owners = owned("nginx", "tcp 0.0.0.0:8080 uid=0")
		}, refused8080(rootsAlone, confirmIt)},
		{"root's, out of sight", func(in *Input) { in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0") }, refused8080(rootsAlone, confirmIt)},
		{"root's, out of sight for the moment", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Quarantined = []Quarantined{{Port: 8080}}
		}, closed8080},
		{"root's, of a service that the operator named", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Policy.Quarantine.Services = []string{"web"}
		}, closed8080},

		// Containers.
		{"docker-proxy for the application", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8080 uid=0")
			in.Host.Published = []firewall.Published{{Family: firewall.IPv4, First: 8080, Last: 8080, To: "172.17.0.2:8080"}}
		}, closed8080},
		{"docker-proxy out of sight", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080 uid=0")
			in.Host.Published = []firewall.Published{{Family: firewall.IPv4, First: 8080, Last: 8080, To: "172.17.0.2:8080"}}
		}, closed8080},
		{"two containers on two addresses", func(in *Input) {
			in.Listeners = append(listeners("tcp 10.0.0.1:8080 uid=0", "tcp 10.0.0.2:8080 uid=0"), in.Listeners[1:]...)
			holders(in, program(7, "docker-proxy", "/dp", "docker.service"), program(8, "docker-proxy", "/dp", "docker.service"))
			in.Host.Published = []firewall.Published{
				{Family: firewall.IPv4, First: 8080, Last: 8080, To: "172.17.0.2:8080"}, {Family: firewall.IPv4, First: 8080, Last: 8080, To: "172.17.0.3:8080"},
			}
		}, refused8080("nat rules send it to several places", "publish each container on a port of its own")},
		{"a container's, and the application listens beside it", func(in *Input) {
			in.Owners = owned("web", "tcp 0.0.0.0:8080")
			in.Host.Published = []firewall.Published{{Family: firewall.IPv4, First: 8080, Last: 8080, To: "172.17.0.2:8080"}}
		}, refused8080("nat rules send what comes for it to somebody else than who listens on it", "give each a port of its own")},

		// The sidecar.
		{"called over a bridge", func(in *Input) { in.Registrations[1].Proxy.LocalServiceAddress = "10.0.0.1" },
			refused8080("sidecar web-sidecar-proxy calls it at 10.0.0.1, not over loopback", "set local_service_address of web-sidecar-proxy to 127.0.0.1")},
		{"called by name", func(in *Input) { in.Registrations[1].Proxy.LocalServiceAddress = "web.internal" },
			refused8080("sidecar web-sidecar-proxy calls it at web.internal, not over loopback", "set local_service_address of web-sidecar-proxy to 127.0.0.1")},
		{"called at no address", func(in *Input) { in.Registrations[1].Proxy.LocalServiceAddress = "" }, closed8080},
		{"called at localhost", func(in *Input) { in.Registrations[1].Proxy.LocalServiceAddress = "localhost" }, closed8080},
		{"called over a unix socket by one of two sidecars", func(in *Input) {
			other := sidecar("web", 21001)
			other.ID, other.Proxy.LocalServiceSocket, other.Proxy.LocalServiceAddress = "web-2", "/run/web", "10.0.0.1"
			in.Registrations = append(in.Registrations, other)
		}, closed8080},
		{"sidecar in a container, seen by nat rules", func(in *Input) {
			in.Host.Published = []firewall.Published{{First: 21000, Last: 21000, To: "172.17.0.2:21000"}}
		}, refused8080("sidecar web-sidecar-proxy, whose port 21000 is published for a container, does not call it over loopback", hostSide)},
		{"sidecar in a container, seen by its proxy", func(in *Input) { in.Owners = owned("docker-proxy", "tcp [::]:21000") },
			refused8080("sidecar web-sidecar-proxy, whose port 21000 is published for a container, does not call it over loopback", hostSide)},
		{"sidecar in a container on the port that it really has", func(in *Input) {
			in.Registrations[1].Proxy.BindPort = 20000
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:20000 uid=0"))
			in.Owners = owned("docker-proxy", "tcp 0.0.0.0:20000 uid=0")
		}, refused8080("sidecar web-sidecar-proxy, whose port 20000 is published for a container, does not call it over loopback", hostSide)},
		{"sidecar at an address of another host", func(in *Input) { in.Registrations[1].Address = "172.17.0.9" },
			refused8080("sidecar web-sidecar-proxy is registered at 172.17.0.9, which is not known as this host's", hostSide)},
		{"sidecar at another address of this host", func(in *Input) { in.Registrations[1].Address = "10.0.0.2" }, closed8080},
		{"sidecar at an address while those of the host are not known", func(in *Input) {
			in.Registrations[1].Address, in.Host = "10.0.0.2", nil
		}, refused8080("sidecar web-sidecar-proxy is registered at 10.0.0.2, which is not known as this host's", hostSide)},

		// The agent.
		{"agent in a container, seen by nat rules", func(in *Input) {
			in.Host.Published = []firewall.Published{{First: 8301, Last: 8301, To: "172.17.0.2:8301"}}
		}, refused8080("the Consul agent lives in a container: its checks come over a bridge", agentSide)},
		{"agent in a container, seen by its proxy", func(in *Input) { in.Owners = owned("docker-proxy", "tcp 10.0.0.1:8301 uid=100") },
			refused8080("the Consul agent lives in a container: its checks come over a bridge", agentSide)},
		{"a user's docker-proxy beside the agent", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 127.0.0.5:8301"))
			in.Owners = owned("docker-proxy", "tcp 127.0.0.5:8301")
		}, closed8080},
		{"agent nowhere to be seen", func(in *Input) { in.Listeners = in.Listeners[:2] },
			refused8080("the Consul agent does not listen in this network namespace: its checks may come over a bridge", agentSide)},
		{"agent that is down for the moment", func(in *Input) {
			in.Listeners = in.Listeners[:2]
			in.Quarantined = []Quarantined{{Port: 8080, Services: []string{"web"}}}
		}, closed8080},
		{"agent that tells no gossip port, by another one", func(in *Input) {
			delete(in.Agent.Ports, "serf_lan")
			in.Listeners[2] = listener("tcp 127.0.0.1:8500")
		}, closed8080},
		{"agent that tells nothing", func(in *Input) { in.Agent.Ports = nil },
			refused8080("it is not known whether the Consul agent lives in this network namespace", "give hostagent's token agent:read on this node")},
		{"no agent was asked", func(in *Input) { in.Agent.Ports, in.Source = nil, SourceFiles }, closed8080},

		// While a registration is missing.
		{"held", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Services: []string{"web"}, Held: true}}
		}, strings.Replace(closed8080, "held=false", "held=true", 1)},
		{"held by an earlier run", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
		}, "guard 8080, 21000-21255\ncut 8080 true\n8080 held=true\n"},
		{"held, and on loopback now", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
			in.Listeners[0] = listener("tcp 127.0.0.1:8080")
		}, closedNone},
		{"held, and out of quarantine_ports now", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
			in.Policy.Quarantine.Ports = firewall.Ports(8081)
		}, closedNone},
		{"held, and in the sidecar range now", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
			in.Policy.SidecarRange = &PortRange{First: 8080, Last: 8090}
		}, "guard 8080-8090\ncut none true\n"},
		{"held, and out of quarantine_services now", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Services: []string{"web"}, Held: true}}
			in.Policy.Quarantine.Services = []string{"api"}
		}, closedNone},
		{"held, and quarantine is off now", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
			in.Policy.Quarantine = nil
		}, "guard 21000-21255\ncut none false\n"},
		{"held, and somebody else came", func(in *Input) {
			in.Registrations, in.Quarantined = nil, []Quarantined{{Port: 8080, Held: true}}
			in.Listeners = append(in.Listeners, listener("tcp 127.0.0.9:8080 uid=1001"))
		}, closedNone},
		{"refused now, though it was in quarantine", func(in *Input) {
			in.Quarantined = []Quarantined{{Port: 8080, Services: []string{"web"}}}
			in.Registrations = append(in.Registrations, app("plain", 8080))
		}, refused8080("another registration names the same port: plain", nameIt)},
	})
}

// TestHostileRegistrations: whoever may register one service closes nobody's port.
func TestHostileRegistrations(t *testing.T) {
	in := infected()
	in.Registrations = in.Registrations[:0]
	in.Policy.Quarantine.Ports = firewall.Ports(443, 6443, 8080)
	in.Listeners = listeners("tcp 0.0.0.0:22 uid=0", "tcp 0.0.0.0:443 uid=33", "tcp 0.0.0.0:5432 uid=70", "tcp 0.0.0.0:6443 uid=0", "tcp 10.0.0.1:8301 uid=100")
	in.Registrations = append(in.Registrations, app("nginx", 443), app("evil", 0))
	for i, port := range []int{22, 443, 5432, 6443} {
		p := sidecar("evil", 21000+i)
		p.ID, p.Proxy.LocalServicePort = fmt.Sprintf("evil-%d", i), port
		in.Registrations = append(in.Registrations, p)
	}
	refused := func(port int, reason, fix string) string {
		return fmt.Sprintf("warning quarantine-refused \"evil\" %d: port %[1]d of evil is not closed to the network: %s; %s\n", port, reason, fix)
	}
	want(t, "hostile registrations", closedNone+
		refused(22, "it is a protected port", "register the port on which the application really listens")+
		refused(443, "another registration names the same port: nginx", nameIt)+
		refused(5432, "it is not in quarantine_ports", "bind it to loopback, or add 5432 to quarantine_ports")+
		refused(6443, rootsAlone, strings.ReplaceAll(confirmIt, "web", "evil")), quarantineDump(Evaluate(in)))
}

// TestQuarantineIsMitigated: what the kernel keeps the network from is no open finding.
func TestQuarantineIsMitigated(t *testing.T) {
	in := infected()
	in.Enforced = firewall.Ports(8080)
	want(t, "quarantined", `range 21000-21255
guard 8080, 21000-21255
open 21000
21000 for web by web-sidecar-proxy
service web tcp 0.0.0.0:8080
info exposed-listener mitigated "web": web listens on tcp 0.0.0.0:8080: only hostagent's guard keeps the network from it
`, dump(Evaluate(in)))
}

// TestQuarantineAsksForOwners: all that could refuse a quarantine is looked up, and nothing on ports that are none of ours.
func TestQuarantineAsksForOwners(t *testing.T) {
	in := infected()
	in.Policy.Quarantine.Ports.Add(8081)
	in.Listeners = append(in.Listeners, listeners("tcp 127.0.0.1:8080", "tcp 0.0.0.0:8081 uid=0", "tcp 0.0.0.0:9000 uid=0")...)
	var got []string
	for _, l := range Evaluate(in).Suspects {
		got = append(got, address(&l))
	}
	// Root's listener on a port that may be closed may be sshd, and an exposed one may be the sidecar's.
	want(t, "suspects", "tcp 0.0.0.0:8080, tcp 0.0.0.0:8081, tcp 10.0.0.1:8301, tcp 127.0.0.1:8080, tcp [::]:21000", strings.Join(got, ", "))
}

func TestCutOnClose(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(in *Input)
		want   string
	}{
		{"closed for good", func(in *Input) { in.WasOpen = firewall.Ports(21000, 21007) }, "cut 21007 true"},
		{"switched off", func(in *Input) { in.WasOpen, in.Policy.CutOnClose = firewall.Ports(21007), false }, "cut none false"},
		{"out of the guard", func(in *Input) { in.WasOpen = firewall.Ports(9443) }, "cut none true"},
		{"protected", func(in *Input) { in.WasOpen = firewall.Ports(22) }, "cut none true"},
		{"still held", func(in *Input) {
			in.WasOpen, in.Held = firewall.Ports(21007), []Held{{ID: "old", Port: 21007}}
		}, "cut none true"},
		{"before the answers settle", func(in *Input) { in.WasOpen, in.Settled = firewall.Ports(21007), false }, "cut none true"},
		{"before the answers settle, guarded by an earlier run", func(in *Input) {
			in.WasOpen, in.Settled, in.AdoptedGuard = firewall.Ports(21007, 21008), false, firewall.Ports(21007)
		}, "cut 21007 true"},
		{"a squatter was never open", func(in *Input) { in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21007")) }, "cut none true"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := base()
			in.Policy.CutOnClose = true
			test.change(&in)
			rules := Evaluate(in).Rules
			want(t, "cut", test.want, fmt.Sprintf("cut %s %v", rules.Cut, rules.CutRules))
		})
	}
}

// TestGateHoldsWhateverIsAsked: between what is judged and the kernel stands one function.
func TestGateHoldsWhateverIsAsked(t *testing.T) {
	in := infected()
	in.Policy.CutOnClose, in.WasOpen = true, firewall.Ports(21007, 9000)
	in.Policy.Quarantine.Ports = firewall.Ports(8080, 8081, 21000, 8500)
	in.Policy.ExtraPorts = firewall.Ports(8081)
	rules := ruleset(in, DefaultSidecarRange(), protectedPorts(in), firewall.Ports(21000, 8081), firewall.Ports(22, 8080, 8081, 9000, 21000, 8500))
	want(t, "gate", "guard 8080, 21000-21255 open 8081, 21000 cut 8080, 21007",
		fmt.Sprintf("guard %s open %s cut %s", rules.Guard, rules.Open, rules.Cut))
	in.Policy.Quarantine = nil
	rules = ruleset(in, DefaultSidecarRange(), protectedPorts(in), firewall.PortSet{}, firewall.Ports(8080))
	want(t, "gate without quarantine", "guard 21000-21255 cut 21007", fmt.Sprintf("guard %s cut %s", rules.Guard, rules.Cut))
}

func TestMemoryOfQuarantine(t *testing.T) {
	m := newMemory()
	at := time.Now()
	after := func(d time.Duration) int {
		at = at.Add(d)
		m.answer(at, nil, 30*time.Second, time.Hour)
		return len(m.quarantined())
	}
	after(0)
	m.keep([]Quarantined{{Port: 8080, Services: []string{"web"}}})
	if after(time.Minute) != 1 {
		t.Error("the first answer that may lack a registration releases the port")
	}
	m.keep([]Quarantined{{Port: 8080, Services: []string{"web"}, Held: true}})
	if after(20*time.Second) != 1 {
		t.Error("released before close_delay")
	}
	m.keep(m.quarantined())
	if after(10*time.Second) != 0 {
		t.Error("not released after close_delay")
	}
}

func TestMemoryOfOpenPorts(t *testing.T) {
	m := newMemory()
	m.opened(firewall.Ports(21000), firewall.PortSet{})
	m.opened(firewall.PortSet{}, firewall.PortSet{})
	want(t, "before the answers settle nothing is forgotten", "21000", m.wasOpen.String())
	m.settled = true
	m.opened(firewall.Ports(9443), firewall.Ports(21000))
	want(t, "settled", "9443, 21000", m.wasOpen.String())
	m.opened(firewall.PortSet{}, firewall.Ports(21000))
	want(t, "what is neither open nor guarded is forgotten", "21000", m.wasOpen.String())
	m.adoptCut(firewall.Ports(21001, 21002, 21003), firewall.Ports(21002), firewall.Ports(21001, 21002, 21009))
	want(t, "adopted", "21000-21002", m.wasOpen.String())
	want(t, "adopted as in quarantine", "[{21001 [] true}]", fmt.Sprint(m.quarantined()))
}

// TestCrowdOnOnePort: thousands of services and thousands of sockets on one port are judged as few are. How long quarantine
// takes beside the rest is logged.
func TestCrowdOnOnePort(t *testing.T) {
	for _, sameName := range []bool{true, false} {
		in := infected()
		for i := range 800 {
			name := "web"
			if !sameName {
				name = fmt.Sprint("web", i)
			}
			a, p := app(name, 8080), sidecar(name, 21000)
			a.ID = fmt.Sprint("id", i)
			p.ID, p.Proxy.DestinationID = fmt.Sprint("proxy", i), a.ID
			in.Registrations = append(in.Registrations, a, p)
		}
		for i := range 800 {
			l := listener("tcp 127.0.0.1:8080")
			l.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 9, byte(i >> 8), byte(i)}), 8080)
			l.Cookie, l.CgroupID = uint64(1000+i), 7
			in.Listeners = append(in.Listeners, l)
		}
		in.Listeners[0].CgroupID = 7
		start := time.Now()
		result := Evaluate(in)
		took := time.Since(start)
		in.Policy.Quarantine = nil
		start = time.Now()
		Evaluate(in)
		t.Logf("with quarantine %v, without %v", took, time.Since(start))
		if quarantined := len(result.Quarantined) == 1; quarantined != sameName {
			t.Errorf("same name %v: in quarantine %v", sameName, result.Quarantined)
		}
	}
}

// TestQuarantineOfWaysAround: further ports of an application, and its sidecar's, are closed under the same guards, and a
// sidecar's only where it was seen to be the sidecar's, of a sidecar that has its port.
func TestQuarantineOfWaysAround(t *testing.T) {
	const (
		sibling = "tcp 0.0.0.0:9102 cg=5 | 7 web /usr/bin/web web.service"
		admin   = "tcp 0.0.0.0:19000 uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"
		up      = "tcp 0.0.0.0:9191 uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"
		agent   = "tcp 10.0.0.1:8301 uid=100"
	)
	closed := func(ports ...string) string {
		text := ""
		for _, port := range ports {
			text += port + " for web held=false\n"
		}
		return fmt.Sprintf("guard %s, 21000-21255\ncut %[1]s true\n%s", strings.Join(ports, ", "), text)
	}
	for _, test := range []struct {
		name   string
		owners []string
		change func(in *Input)
		want   string
	}{
		{"all", []string{sibling, admin, up}, func(*Input) {}, "guard 9102, 9191, 19000, 21000-21255\ncut 9102, 9191, 19000 true\n" +
			"9102 for web held=false\n9191 for web held=false\n19000 for web held=false\n"},
		{"of siblings alone", []string{sibling, admin, up}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedSibling}
		}, closed("9102")},
		{"of upstreams alone", []string{sibling, admin, up}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedUpstream}
		}, closed("9191")},
		{"of administration alone", []string{sibling, admin, up}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedAdmin}
		}, closed("19000")},
		{"of registered ports alone", []string{sibling, admin, up}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedListener}
		}, closedNone},
		{"of registered ports alone from now on", []string{sibling}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedListener}
			in.Quarantined = []Quarantined{{Port: 9102, Services: []string{"web"}}}
		}, closedNone},
		{"of registered ports alone after a restart", []string{sibling}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedListener}
			in.Quarantined = []Quarantined{{Port: 9102}}
		}, closedNone},
		{"of registered ports alone, and of one that is not registered for the moment", []string{sibling}, func(in *Input) {
			in.Policy.Quarantine.Findings = []catalog.ID{catalog.ExposedListener}
			in.Quarantined = []Quarantined{{Port: 9102, Services: []string{"api"}}} // served by web's process, too
		}, strings.Replace(closed("9102"), "for web held=false", "for api held=true", 1)},
		{"of another service", []string{sibling}, func(in *Input) { in.Policy.Quarantine.Services = []string{"api"} }, closedNone},
		{"not in quarantine_ports", []string{sibling}, func(in *Input) { in.Policy.Quarantine.Ports = firewall.Ports(8080) },
			closedNone + "warning quarantine-refused \"web\" 9102: port 9102 of web is not closed to the network: it is not in quarantine_ports; bind it to loopback, or add 9102 to quarantine_ports\n"},
		{"protected", []string{sibling}, func(in *Input) { in.Policy.Protected.Add(9102) },
			closedNone + "warning quarantine-refused \"web\" 9102: port 9102 of web is not closed to the network: it is a protected port; register the port on which the application really listens\n"},
		{"root's", []string{strings.Replace(sibling, "cg=5", "uid=0 cg=5", 1)}, func(*Input) {},
			closedNone + strings.ReplaceAll(strings.TrimPrefix(refused8080(rootsAlone, confirmIt), closedNone), "8080", "9102")},
		{"root's, of a service that is listed", []string{strings.Replace(sibling, "cg=5", "uid=0 cg=5", 1)}, func(in *Input) {
			in.Policy.Quarantine.Services = []string{"web"}
		}, closed("9102")},
		{"somebody else listens there, too", []string{sibling, "tcp 127.0.0.1:9102 uid=3 | 9 other - -"}, func(*Input) {},
			closedNone + strings.ReplaceAll(strings.TrimPrefix(refused8080("several users listen on it (uids 3 1000)", otherPort), closedNone), "8080", "9102")},
		{"an upstream of nobody knows whom", []string{"tcp 0.0.0.0:9191"}, func(*Input) {}, closedNone},
		{"of a sidecar that has not got its port", []string{admin, up, "tcp [::]:30000 uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"}, func(in *Input) {
			in.Registrations[1].Port = 30000
		}, closedNone},
		{"in the sidecar range, which is closed anyway", []string{strings.Replace(up, "9191", "21007", 1)}, func(in *Input) {
			in.Registrations[1].Proxy.Upstreams[0].Port = 21007
			in.Policy.Quarantine.Ports.Add(21007)
		}, closedNone},
		{"over its redirect", []string{sibling}, func(in *Input) {
			in.Registrations[1].Proxy.Mode = consul.ModeTransparent
			in.Host.Redirects = []firewall.Redirect{{Family: firewall.IPv4, To: 21000, Ports: allBut()}}
		}, closedNone},
		{"held, while the owner is out of sight", []string{"tcp 0.0.0.0:9102 cg=5"}, func(in *Input) {
			in.Quarantined = []Quarantined{{Port: 9102, Services: []string{"web"}}}
		}, strings.Replace(closed("9102"), "held=false", "held=true", 1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := infected()
			in.Listeners = nil
			inhabit(&in, append([]string{webAlone, sidecarAlone, agent}, test.owners...)...)
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Address: "0.0.0.0", Port: 9191}}
			in.Policy.Quarantine = &Quarantine{Ports: firewall.Ports(9102, 9191, 19000), Findings: []catalog.ID{
				catalog.ExposedListener, catalog.ExposedSibling, catalog.ExposedUpstream, catalog.ExposedAdmin,
			}}
			test.change(&in)
			want(t, "quarantine", test.want, quarantineDump(Evaluate(in)))
		})
	}
}

// TestRedirectEndsQuarantine: as at boot, where the rules of a transparent proxy come after hostagent. Closed, the port would
// be closed to the proxy's callers, too.
func TestRedirectEndsQuarantine(t *testing.T) {
	in := infected()
	in.Registrations[1].Proxy.Mode = consul.ModeTransparent
	want(t, "without the rules", closed8080, quarantineDump(Evaluate(in)))
	in.Quarantined = []Quarantined{{Port: 8080, Services: []string{"web"}}}
	in.Host.Redirects, in.Host.RedirectsKnown = []firewall.Redirect{{Family: firewall.IPv4, To: 21000, Ports: allBut()}}, true
	want(t, "with the rules", closedNone, quarantineDump(Evaluate(in)))
	in.Registrations = append(in.Registrations, app("api", 8080), sidecar("api", 21001))
	in.Policy.Quarantine.Services = []string{"api"}
	want(t, "where another service has no redirect", strings.ReplaceAll(closed8080, "web", "api"), quarantineDump(Evaluate(in)))
	in.Policy.Quarantine.Services, in.Registrations = nil, nil
	want(t, "without registrations", strings.ReplaceAll(closed8080, "false", "true"), quarantineDump(Evaluate(in)))
}

// TestRefusedOnce: an application may be exposed on one port as what it is registered as and as its own sibling, over the
// other version of IP. That the port is not closed is one finding.
func TestRefusedOnce(t *testing.T) {
	in := settled()
	in.Listeners = nil
	const nginx = " | 7 nginx /usr/sbin/nginx nginx.service"
	inhabit(&in, sidecarAlone, "tcp 0.0.0.0:8080 uid=0 cg=5"+nginx, "tcp [::]:8080 uid=0 cg=5 v6only"+nginx)
	in.Policy.Quarantine = &Quarantine{
		Ports: ports(PortRange{First: 8080, Last: 8080}), Findings: []catalog.ID{catalog.ExposedListener, catalog.ExposedSibling},
	}
	result := Evaluate(in)
	if len(findingsOf(result, catalog.ExposedListener)) != 1 || len(findingsOf(result, catalog.ExposedSibling)) != 1 {
		t.Fatalf("it is not exposed twice:\n%s", dump(result))
	}
	if got := findingsOf(result, catalog.QuarantineRefused); len(got) != 1 {
		t.Errorf("refused %q", got)
	}
}
