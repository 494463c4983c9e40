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
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/hostagent/probe"
	"github.com/hostagent/hostagent/sockets"
)

// app is an application registered on a port.
func app(name string, port int) consul.Registration {
	return consul.Registration{ID: name, Name: name, Port: port}
}

// sidecar is a proxy for an application of the same id as its name.
func sidecar(destination string, port int) consul.Registration {
	return consul.Registration{
		ID: destination + "-sidecar-proxy", Name: destination + "-sidecar-proxy", Kind: consul.KindConnectProxy, Port: port,
		Proxy: &consul.Proxy{DestinationName: destination, DestinationID: destination, LocalServiceAddress: "127.0.0.1"},
	}
}

var cookies = map[string]uint64{}

// listener reads "tcp 0.0.0.0:8080 uid=1000 v6only dev=1"; its cookie is made from the text.
func listener(text string) sockets.Listener {
	fields := strings.Fields(text)
	l := sockets.Listener{Protocol: sockets.TCP, Addr: netip.MustParseAddrPort(fields[1]), UID: 1000}
	if fields[0] == "udp" {
		l.Protocol = sockets.UDP
	}
	for _, f := range fields[2:] {
		switch {
		case f == "v6only":
			l.V6Only = true
		case strings.HasPrefix(f, "uid="):
			fmt.Sscanf(f, "uid=%d", &l.UID)
		case strings.HasPrefix(f, "dev="):
			fmt.Sscanf(f, "dev=%d", &l.Device)
		}
	}
	if cookies[text] == 0 {
		cookies[text] = uint64(len(cookies) + 1)
	}
	l.Cookie = cookies[text]
	return l
}

func listeners(texts ...string) []sockets.Listener {
	ls := make([]sockets.Listener, len(texts))
	for i, text := range texts {
		ls[i] = listener(text)
	}
	return ls
}

func owned(process string, texts ...string) map[uint64]sockets.Owner {
	owners := map[uint64]sockets.Owner{}
	for _, text := range texts {
		owners[listener(text).Cookie] = sockets.Owner{Processes: []sockets.Process{{PID: 7, Name: process}}}
	}
	return owners
}

func ports(ranges ...PortRange) firewall.PortSet {
	var s firewall.PortSet
	for _, r := range ranges {
		s = s.Union(r.Ports())
	}
	return s
}

// dump writes a result as text: the ranges, the openings, and a line for each finding.
func dump(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "range %s\nguard %s\nopen %s\n", r.Range, r.Rules.Guard, r.Rules.Open)
	for _, o := range r.Openings {
		held := ""
		if o.Held {
			held = " held"
		}
		fmt.Fprintf(&b, "%d%s for %s by %s\n", o.Port, held, strings.Join(o.Services, ","), strings.Join(o.IDs, ","))
	}
	for _, s := range r.Services {
		fmt.Fprintf(&b, "service %s", s.ID)
		for i := range s.Listeners {
			fmt.Fprintf(&b, " %s", address(&s.Listeners[i]))
		}
		b.WriteString("\n")
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s %s %s %q: %s\n", f.Severity, f.ID, f.State, f.Service, f.Message)
	}
	return b.String()
}

// inputCase is a change of an input, and what Evaluate makes of it as text.
type inputCase struct {
	name   string
	change func(in *Input)
	want   string
}

// eachInput evaluates a new input for each case.
func eachInput(t *testing.T, begin func() Input, text func(Result) string, cases []inputCase) {
	t.Helper()
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			in := begin()
			tt.change(&in)
			if diff := cmp.Diff(tt.want, text(Evaluate(in))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// base is a settled host with a range known to the agent and one healthy service.
func base() Input {
	return Input{
		Registrations: []consul.Registration{app("web", 8080), sidecar("web", 21000)},
		Listeners:     listeners("tcp 127.0.0.1:8080", "tcp [::]:21000"),
		Agent: consul.Agent{
			Node: "n1", Version: "1.21.0", Address: netip.MustParseAddr("10.0.0.1"), RangeKnown: true, SidecarMin: 21000, SidecarMax: 21255,
			Ports: map[string]uint16{"http": 8500, "grpc": 8502, "server": 8300},
		},
		PreviousRange: DefaultSidecarRange(),
		Settled:       true,
		Policy:        Policy{Mode: ModeGuard, Protected: firewall.Ports(22), OwnService: "hostagent"},
	}
}

const healthy = `range 21000-21255
guard 21000-21255
open 21000
21000 for web by web-sidecar-proxy
service web tcp 127.0.0.1:8080
`

func TestEvaluate(t *testing.T) {
	eachInput(t, base, dump, []inputCase{
		{"healthy", func(*Input) {}, healthy},
		{"nothing registered", func(in *Input) { in.Registrations, in.Listeners = nil, nil },
			"range 21000-21255\nguard 21000-21255\nopen none\n"},
		{"own service is no mesh service", func(in *Input) {
			in.Registrations = append(in.Registrations, app("hostagent", 0), sidecar("hostagent", 21001))
			in.Listeners = append(in.Listeners, listener("tcp [::]:21001"))
		}, `range 21000-21255
guard 21000-21255
open 21000-21001
21000 for web by web-sidecar-proxy
21001 for hostagent by hostagent-sidecar-proxy
service web tcp 127.0.0.1:8080
`},

		// Exposed listeners.
		{"wildcard v4", func(in *Input) { in.Listeners[0] = listener("tcp 0.0.0.0:8080") },
			exposedBy("tcp 0.0.0.0:8080")},
		{"wildcard v6 dual stack", func(in *Input) { in.Listeners[0] = listener("tcp [::]:8080") },
			exposedBy("tcp [::]:8080")},
		{"wildcard v6 only does not cover the sidecar's 127.0.0.1, but the address it is registered under", func(in *Input) {
			in.Listeners[0] = listener("tcp [::]:8080 v6only")
			in.Registrations[0].Address = "fd00::1"
		}, exposedBy("tcp [::]:8080")},
		{"wildcard v6 only that nobody calls", func(in *Input) { in.Listeners[0] = listener("tcp [::]:8080 v6only") },
			strings.Replace(healthy, " tcp 127.0.0.1:8080", "", 1)},
		{"node address", func(in *Input) { in.Listeners[0] = listener("tcp 10.0.0.1:8080") },
			exposedBy("tcp 10.0.0.1:8080")},
		{"service address", func(in *Input) {
			in.Listeners[0] = listener("tcp 10.0.0.9:8080")
			in.Registrations[0].Address = "10.0.0.9"
		}, exposedBy("tcp 10.0.0.9:8080")},
		{"an address that is not the service's", func(in *Input) { in.Listeners[0] = listener("tcp 10.0.0.77:8080") },
			strings.Replace(healthy, " tcp 127.0.0.1:8080", "", 1)},
		{"all of 127/8 and ::1 are loopback", func(in *Input) {
			in.Listeners[0] = listener("tcp 127.8.8.8:8080")
			in.Registrations[1].Proxy.LocalServiceAddress = "127.8.8.8"
		}, strings.Replace(healthy, "127.0.0.1", "127.8.8.8", 1)},
		{"bound to lo", func(in *Input) { in.Listeners[0] = listener("tcp 0.0.0.0:8080 dev=1") },
			strings.Replace(healthy, "127.0.0.1", "0.0.0.0", 1)},
		{"LocalServicePort differs", func(in *Input) {
			in.Registrations[1].Proxy.LocalServicePort = 9090
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:9090"))
		}, `range 21000-21255
guard 21000-21255
open 21000
21000 for web by web-sidecar-proxy
service web tcp 127.0.0.1:8080 tcp 0.0.0.0:9090
warning exposed-listener open "web": web listens on tcp 0.0.0.0:9090: the network reaches it without mTLS and without intentions
`},
		{"SO_REUSEPORT group is one listener", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080")
			twin := in.Listeners[0]
			twin.Cookie = 99999
			in.Listeners = append(in.Listeners, twin)
		}, exposedBy("tcp 0.0.0.0:8080")},
		{"guarded port is mitigated", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080")
			in.Policy.GuardPorts = firewall.Ports(8080)
			in.Enforced = firewall.Ports(8080)
		}, `range 21000-21255
guard 8080, 21000-21255
open 21000
21000 for web by web-sidecar-proxy
service web tcp 0.0.0.0:8080
info exposed-listener mitigated "web": web listens on tcp 0.0.0.0:8080: only hostagent's guard keeps the network from it
`},
		{"guarded in the policy but not seen in the kernel is open", func(in *Input) {
			in.Listeners[0] = listener("tcp 0.0.0.0:8080")
			in.Policy.GuardPorts = firewall.Ports(8080)
		}, strings.Replace(exposedBy("tcp 0.0.0.0:8080"), "guard 21000", "guard 8080, 21000", 1)},
		{"a service without a sidecar may listen on the network", func(in *Input) {
			in.Registrations = append(in.Registrations, app("plain", 9000))
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:9000"))
		}, healthy},
		{"unless the scope is all", func(in *Input) {
			in.Registrations = append(in.Registrations, app("plain", 9000))
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:9000"))
			in.Policy.AllServices = true
		}, `range 21000-21255
guard 21000-21255
open 21000
21000 for web by web-sidecar-proxy
service web tcp 127.0.0.1:8080
service plain tcp 0.0.0.0:9000
warning exposed-listener open "plain": plain listens on tcp 0.0.0.0:9000: the network reaches it without mTLS and without intentions
`},
		{"application on a unix socket", func(in *Input) {
			in.Registrations[1].Proxy.LocalServiceSocket = "/run/web.sock"
			in.Listeners = in.Listeners[1:]
		}, strings.Replace(healthy, " tcp 127.0.0.1:8080", "", 1)},

		// Ports that do not open.
		{"port 0", func(in *Input) { in.Registrations[1].Port = 0 }, notOpened(0, "it is no TCP port")},
		{"port 22", func(in *Input) { in.Registrations[1].Port = 22 }, notOpened(22, "it is a protected port")},
		{"port 70000", func(in *Input) { in.Registrations[1].Port = 70000 }, notOpened(70000, "it is no TCP port")},
		{"negative port", func(in *Input) { in.Registrations[1].Port = -3 }, notOpened(-3, "it is no TCP port")},
		{"port that wraps into the range", func(in *Input) { in.Registrations[1].Port = 65536 + 21000 },
			notOpened(86536, "it is no TCP port")},
		{"first port past the range", func(in *Input) { in.Registrations[1].Port = 21256 },
			notOpened(21256, "it lies outside the sidecar range 21000-21255 and is not in extra_ports")},
		{"Consul's own port", func(in *Input) {
			in.Registrations[1].Port = 8502
			in.Policy.ExtraPorts = firewall.Ports(8502)
		}, notOpened(8502, "it is a protected port")},
		{"Consul's default ports where the agent tells none", func(in *Input) {
			in.Agent.Ports = nil
			in.Registrations[1].Port = 8500
			in.Policy.ExtraPorts = firewall.Ports(8500)
		}, notOpened(8500, "it is a protected port")},
		{"port of root's sshd", func(in *Input) {
			in.Registrations[1].Port = 2222
			in.Policy.ExtraPorts = firewall.Ports(2222)
			in.Listeners[1] = listener("tcp [::]:2222 uid=0")
			in.Owners = owned("sshd", "tcp [::]:2222 uid=0")
		}, notOpened(2222, "it is a protected port")},
		{"a user's process that calls itself sshd protects nothing", func(in *Input) {
			in.Owners = owned("sshd", "tcp [::]:21000")
		}, healthy},
		{"sidecar without a destination", func(in *Input) {
			in.Registrations[1].Proxy = &consul.Proxy{}
			in.Registrations[1].Name = "web"
		}, strings.Replace(notOpened(21000, "it is a sidecar that names no destination service"), "service web tcp 127.0.0.1:8080\n", "", 1) +
			"warning squatted-port open \"\": tcp [::]:21000 is in the sidecar range and no registered sidecar explains it\n"},
		{"sidecar on a unix socket", func(in *Input) {
			in.Registrations[1].Port, in.Registrations[1].Socket = 0, "/run/sidecar.sock"
			in.Listeners = in.Listeners[:1]
		}, "range 21000-21255\nguard 21000-21255\nopen none\nservice web tcp 127.0.0.1:8080\n"},
		{"extra port", func(in *Input) {
			in.Registrations[1].Port = 9443
			in.Policy.ExtraPorts = firewall.Ports(9443)
			in.Listeners[1] = listener("tcp [::]:9443")
		}, strings.ReplaceAll(strings.Replace(healthy, "open 21000", "open 9443", 1), "21000 for", "9443 for")},

		// Claims of names.
		{"unconfirmed gateway", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Port: 21003})
		}, healthy + `warning unconfirmed-claim open "gw": gw claims to be a mesh gateway, which the operator has not confirmed
`},
		{"confirmed gateway", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Port: 21003})
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21003"))
			in.Policy.Gateways = []string{"gw"}
		}, strings.Replace(strings.Replace(healthy, "open 21000", "open 21000, 21003", 1), "service web", "21003 for gw by gw\nservice web", 1)},
		{"unconfirmed native service", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "n", Name: "n", Native: true, Port: 443})
		}, healthy + `warning unconfirmed-claim open "n": n claims to be Connect-native, which the operator has not confirmed
`},
		{"confirmed native service may listen on the network", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "n", Name: "n", Native: true, Port: 7443})
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:7443"))
			in.Policy.Native, in.Policy.ExtraPorts = []string{"n"}, firewall.Ports(7443)
		}, strings.Replace(strings.Replace(healthy, "open 21000", "open 7443, 21000", 1), "21000 for", "7443 for n by n\n21000 for", 1)},
		{"an application's registration opens nothing", func(in *Input) {
			in.Registrations = append(in.Registrations, app("web2", 21009))
		}, healthy},
		{"a kind nobody knows opens nothing", func(in *Input) {
			in.Registrations = append(in.Registrations, consul.Registration{ID: "x", Name: "x", Kind: "mesh-gatewayx", Port: 21009})
		}, healthy},

		// The range.
		{"squatter", func(in *Input) { in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21007")) },
			healthy + squatted("tcp 0.0.0.0:21007", "no registered sidecar explains it")},
		{"squatter on loopback", func(in *Input) { in.Listeners = append(in.Listeners, listener("tcp 127.0.0.1:21007")) },
			healthy + squatted("tcp 127.0.0.1:21007", "no registered sidecar explains it")},
		{"local upstream in the range", func(in *Input) {
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 21007}}
			in.Listeners = append(in.Listeners, listener("tcp 127.0.0.1:21007"))
		}, healthy},
		{"an upstream on the network is no squatter", func(in *Input) {
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 21007, Address: "0.0.0.0"}}
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21007"))
		}, healthy + `critical exposed-upstream open "web": the sidecar of web listens for upstream db on tcp 0.0.0.0:21007: whoever reaches it calls db as web
`},
		{"another address than an upstream's", func(in *Input) {
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 21007, Address: "10.0.0.1"}}
			in.Listeners = append(in.Listeners, listener("tcp 10.0.0.2:21007"))
		}, healthy + squatted("tcp 10.0.0.2:21007", "no registered sidecar explains it")},
		{"exposed paths and statistics", func(in *Input) {
			in.Registrations[1].Proxy.ExposedPorts, in.Registrations[1].Proxy.MetricsPorts = []int{21007, -1, 70000}, []int{21008}
			in.Listeners = append(in.Listeners, listeners("tcp 0.0.0.0:21007", "tcp 0.0.0.0:21008", "udp 0.0.0.0:21008")...)
		}, healthy + squatted("udp 0.0.0.0:21008", "sidecars do not speak UDP")},
		{"exposed checks", func(in *Input) {
			in.Registrations[1].Proxy.ExposesChecks = true
			in.Agent.ExposeMin, in.Agent.ExposeMax = 21200, 21300
			in.Listeners = append(in.Listeners, listeners("tcp 0.0.0.0:21199", "tcp 0.0.0.0:21200")...)
		}, healthy + squatted("tcp 0.0.0.0:21199", "no registered sidecar explains it")},
		{"an exposed path's port that several users have", func(in *Input) {
			in.Registrations[1].Proxy.ExposedPorts = []int{21007}
			in.Listeners = append(in.Listeners, listeners("tcp 10.0.0.1:21007", "tcp 10.0.0.2:21007 uid=1")...)
		}, healthy + squatted("tcp 10.0.0.1:21007", "several users listen on it (uids 1 1000)") + squatted("tcp 10.0.0.2:21007", "several users listen on it (uids 1 1000)")},
		{"a transparent proxy's outbound port", func(in *Input) {
			in.Registrations[1].Proxy.Mode, in.Registrations[1].Proxy.OutboundPort = consul.ModeTransparent, 21007
			in.Listeners = append(in.Listeners, listeners("tcp 127.0.0.1:21007")...)
		}, healthy},
		{"an outbound port without a transparent proxy", func(in *Input) {
			in.Registrations[1].Proxy.OutboundPort = 21007
			in.Listeners = append(in.Listeners, listeners("tcp 127.0.0.1:21007")...)
		}, healthy + squatted("tcp 127.0.0.1:21007", "no registered sidecar explains it")},
		{"UDP of several users on a registered port", func(in *Input) {
			in.Listeners = append(in.Listeners, listeners("udp 10.0.0.1:21000", "udp 10.0.0.2:21000 uid=1")...)
		}, healthy + squatted("udp 10.0.0.1:21000", "sidecars do not speak UDP") + squatted("udp 10.0.0.2:21000", "sidecars do not speak UDP")},
		{"UDP in the range", func(in *Input) { in.Listeners = append(in.Listeners, listener("udp 0.0.0.0:21000")) },
			healthy + squatted("udp 0.0.0.0:21000", "sidecars do not speak UDP")},
		{"two users on a registered port", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 10.0.0.1:21000 uid=1001"))
		}, healthy + squatted("tcp 10.0.0.1:21000", "several users listen on it (uids 1000 1001)") +
			squatted("tcp [::]:21000", "several users listen on it (uids 1000 1001)")},
		{"one user on both families", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 10.0.0.1:21000"))
		}, healthy},
		{"next port past the range is nobody's business", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21256"), listener("tcp 0.0.0.0:20999"))
		}, healthy},
		{"duplicate port", func(in *Input) {
			in.Registrations = append(in.Registrations, app("api", 8081), sidecar("api", 21000))
			in.Listeners = append(in.Listeners, listener("tcp 127.0.0.1:8081"))
		}, `range 21000-21255
guard 21000-21255
open 21000
21000 for api,web by api-sidecar-proxy,web-sidecar-proxy
service web tcp 127.0.0.1:8080
service api tcp 127.0.0.1:8081
warning duplicate-port open "": port 21000 is registered by api-sidecar-proxy and web-sidecar-proxy: at most one of them can be listening there
`},
		{"sidecar not listening", func(in *Input) { in.Listeners = in.Listeners[:1] },
			healthy + `warning sidecar-not-listening open "web": nothing listens on port 21000 that web-sidecar-proxy registered
`},
		{"UDP does not serve a sidecar's port", func(in *Input) { in.Listeners[1] = listener("udp [::]:21000") },
			healthy + `warning sidecar-not-listening open "web": nothing listens on port 21000 that web-sidecar-proxy registered
` + squatted("udp [::]:21000", "sidecars do not speak UDP")},
		{"bind_port override", func(in *Input) {
			in.Registrations[1].Proxy.BindPort = 30000
			in.Listeners[1] = listener("tcp [::]:30000")
		}, healthy},

		// Where the range comes from.
		{"disabled range, explicit port", func(in *Input) {
			in.Agent.SidecarMin, in.Agent.SidecarMax = -1, -1
			in.Policy.ExtraPorts = firewall.Ports(21000)
		}, "range none\nguard none\nopen 21000\n21000 for web by web-sidecar-proxy\nservice web tcp 127.0.0.1:8080\n"},
		{"moved range", func(in *Input) {
			in.Agent.SidecarMin, in.Agent.SidecarMax = 20000, 21001
		}, strings.ReplaceAll(healthy, "21000-21255", "20000-21001")},
		{"range of all ports", func(in *Input) { in.Agent.SidecarMin, in.Agent.SidecarMax = 20, 65535 },
			healthyWith(`critical range-refused open "": the Consul agent's sidecar range 20-65535 is not taken over: it holds 65516 ports, more than 4096; 21000-21255 stays in force`)},
		{"range over a protected port", func(in *Input) {
			in.Agent.SidecarMin, in.Agent.SidecarMax = 20, 200
			in.PreviousRange = PortRange{First: 21000, Last: 21255}
		}, healthyWith(`critical range-refused open "": the Consul agent's sidecar range 20-200 is not taken over: it holds protected ports: 22 (protected_ports); 21000-21255 stays in force`)},
		{"inverted range", func(in *Input) { in.Agent.SidecarMin, in.Agent.SidecarMax = 21255, 21000 },
			healthyWith(`critical range-refused open "": the Consul agent's sidecar range 21255-21000 is not taken over: it is no range of ports; 21000-21255 stays in force`)},
		{"range past the last port", func(in *Input) { in.Agent.SidecarMin, in.Agent.SidecarMax = 65000, 70000 },
			healthyWith(`critical range-refused open "": the Consul agent's sidecar range 65000-70000 is not taken over: it is no range of ports; 21000-21255 stays in force`)},
		{"operator's range wins", func(in *Input) {
			in.Agent.SidecarMin, in.Agent.SidecarMax = 20, 65535
			in.Policy.SidecarRange = &PortRange{First: 21000, Last: 21001}
		}, strings.ReplaceAll(healthy, "21000-21255", "21000-21001")},
		{"unknown range keeps the previous one", func(in *Input) {
			in.Agent.RangeKnown = false
			in.PreviousRange = PortRange{First: 21000, Last: 21007}
		}, strings.ReplaceAll(healthy, "21000-21255", "21000-21007")},

		{"a disabled range stands when what comes after it is refused", func(in *Input) {
			in.Agent.SidecarMin, in.Agent.SidecarMax = 20, 65535
			in.PreviousRange = PortRange{}
			in.Policy.ExtraPorts = firewall.Ports(21000)
		}, "range none\nguard none\nopen 21000\n21000 for web by web-sidecar-proxy\nservice web tcp 127.0.0.1:8080\n" +
			"critical range-refused open \"\": the Consul agent's sidecar range 20-65535 is not taken over: it holds 65516 ports, more than 4096; none stays in force\n"},

		{"a squatter that the guard holds", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21007"), listener("udp 0.0.0.0:21008"))
			in.Enforced = DefaultSidecarRange().Ports()
		}, healthy + "warning squatted-port mitigated \"\": tcp 0.0.0.0:21007 is in the sidecar range and no registered sidecar explains it\n" +
			squatted("udp 0.0.0.0:21008", "sidecars do not speak UDP")},
		{"one user on many addresses is one squatter, and the exposed one is named", func(in *Input) {
			in.Listeners = append(in.Listeners, listener("tcp 127.0.0.1:21007"), listener("tcp 127.0.0.2:21007"), listener("tcp [::]:21007"))
		}, healthy + squatted("tcp [::]:21007", "no registered sidecar explains it")},
		{"sshd that was seen before", func(in *Input) {
			in.Registrations[1].Port = 2222
			in.Policy.ExtraPorts, in.Policy.GuardPorts = firewall.Ports(2222), firewall.Ports(2222)
			in.SSH = firewall.Ports(2222)
			in.Listeners = in.Listeners[:1]
		}, notOpened(2222, "it is a protected port")},
		{"a kind that Consul does not know is an application", func(in *Input) {
			in.Registrations[0].Kind = "typical"
			in.Listeners[0] = listener("tcp 0.0.0.0:8080")
		}, exposedBy("tcp 0.0.0.0:8080")},
		{"so is a gateway that nobody confirmed", func(in *Input) {
			in.Registrations[0].Kind = consul.KindMeshGateway
			in.Listeners[0] = listener("tcp 0.0.0.0:8080")
		}, exposedBy("tcp 0.0.0.0:8080") + `warning unconfirmed-claim open "web": web claims to be a mesh gateway, which the operator has not confirmed
`},

		// Time's answers.
		{"not settled: open grows, nothing closes", func(in *Input) { in.Settled = false },
			strings.Replace(healthy, "guard 21000-21255", "guard none", 1)},
		{"not settled: what an earlier run closed stays closed", func(in *Input) {
			in.Settled = false
			in.AdoptedGuard = ports(PortRange{First: 21000, Last: 21099}, PortRange{First: 80, Last: 80})
		}, strings.Replace(healthy, "guard 21000-21255", "guard 21000-21099", 1)},
		{"held port", func(in *Input) {
			in.Held = []Held{{ID: "api-sidecar-proxy", Port: 21001}, {Port: 21002}}
			in.Listeners = append(in.Listeners, listener("tcp [::]:21001"))
		}, `range 21000-21255
guard 21000-21255
open 21000-21002
21000 for web by web-sidecar-proxy
21001 held for  by api-sidecar-proxy
21002 held for  by 
service web tcp 127.0.0.1:8080
`},
		{"held port outside the range stays shut", func(in *Input) { in.Held = []Held{{ID: "x", Port: 443}, {ID: "x", Port: 22}} }, healthy},
		{"protected port inside the range", func(in *Input) {
			in.Agent.RangeKnown = false
			in.Policy.Protected = firewall.Ports(22, 21005)
			in.Held = []Held{{ID: "x", Port: 21005}}
		}, strings.Replace(healthy, "guard 21000-21255", "guard 21000-21004, 21006-21255", 1)},
		{"protected port among extra_ports and guard_ports", func(in *Input) {
			in.Policy.ExtraPorts, in.Policy.GuardPorts = firewall.Ports(22), firewall.Ports(22)
			in.Held = []Held{{ID: "x", Port: 22}}
		}, healthy},
		{"filtered answer", func(in *Input) { in.Trouble = AgentTrouble{ID: catalog.RegistrationsFiltered, Reason: "no token"} },
			healthyWith(`critical registrations-filtered open "": the Consul agent's answer is incomplete (no token): what is open and closed stays so`)},

		// Names that want to be more than names.
		{"hostile names", func(in *Input) {
			in.Registrations[1].ID = "-x\x1b[2J\n" + strings.Repeat("y", 300)
			in.Registrations[1].Port = 22
		}, `range 21000-21255
guard 21000-21255
open none
service web tcp 127.0.0.1:8080
warning port-not-opened open "web": port 22 of -x\u001b[2J\u000a` + strings.Repeat("y", 153) + `… stays as the host's own firewall has it: it is a protected port
warning squatted-port open "": tcp [::]:21000 is in the sidecar range and no registered sidecar explains it
`},
	})
}

func exposedBy(listener string) string {
	return strings.Replace(healthy, "tcp 127.0.0.1:8080", listener, 1) +
		`warning exposed-listener open "web": web listens on ` + listener + `: the network reaches it without mTLS and without intentions` + "\n"
}

func healthyWith(line string) string { return healthy + line + "\n" }

func squatted(listener, reason string) string {
	return `warning squatted-port open "": ` + listener + " is in the sidecar range and " + reason + "\n"
}

// notOpened is the healthy host whose sidecar asks for another port; its listener on 21000, if it is still there, is a
// squatter then.
func notOpened(port int, reason string) string {
	text := fmt.Sprintf(`range 21000-21255
guard 21000-21255
open none
service web tcp 127.0.0.1:8080
warning port-not-opened open "web": port %d of web-sidecar-proxy stays as the host's own firewall has it: %s
`, port, reason)
	if port != 21000 && port != 2222 {
		text += squatted("tcp [::]:21000", "no registered sidecar explains it")
	}
	return text
}

// TestAllowFrom: the operator's networks reach the rules as they are, whatever is registered, and the check names them.
func TestAllowFrom(t *testing.T) {
	in := base()
	if got := Evaluate(in).Rules.AllowFrom; got != nil {
		t.Errorf("nobody set networks, the rules have %v", got)
	}
	in.Policy.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::7/128")}
	rules := Evaluate(in).Rules
	if !slices.Equal(rules.AllowFrom, in.Policy.AllowFrom) || rules.Open != firewall.Ports(21000) {
		t.Errorf("the rules open %v to %v", rules.Open, rules.AllowFrom)
	}
	in.Registrations = nil
	if got := Evaluate(in).Rules.AllowFrom; !slices.Equal(got, in.Policy.AllowFrom) {
		t.Errorf("without registrations the rules have %v", got)
	}

	a := NewAgent(Parts{Policy: in.Policy, Firewall: newFakeHost()})
	a.result.Rules, a.memory.settled = rules, true
	for mode, line := range map[Mode]string{ModeGuard: "\nFrom:    10.0.0.0/8, fd00::7", ModeObserve: "\nfrom:  10.0.0.0/8, fd00::7"} {
		a.parts.Policy.Mode = mode
		if got := a.firewallCheck().Output; !strings.HasSuffix(got, line) {
			t.Errorf("the check in %s mode does not end with %q:\n%s", mode, line, got)
		}
	}
	a.parts.Policy.Mode, a.parts.Policy.AllowCluster = ModeObserve, true
	for len(a.parts.Policy.AllowFrom) < 10000 {
		a.parts.Policy.AllowFrom = append(a.parts.Policy.AllowFrom, in.Policy.AllowFrom...)
	}
	if got := a.firewallCheck().Output; len(got) > 300 || !strings.Contains(got, "\nfrom:  cluster, 10.0.0.0/8, ") || !strings.HasSuffix(got, " and 9992 more") {
		t.Errorf("with 10,000 networks the check says:\n%s", got)
	}
	a.parts.Policy.AllowFrom, a.parts.Policy.AllowCluster = nil, false
	if got := a.firewallCheck().Output; strings.Contains(got, "rom:") {
		t.Errorf("where everybody may connect the check says:\n%s", got)
	}
}

func TestEvaluateNamesTheProcess(t *testing.T) {
	in := base()
	in.Listeners[0] = listener("tcp 0.0.0.0:8080")
	in.Owners = owned("nginx\x1b[31m", "tcp 0.0.0.0:8080")
	f := Evaluate(in).Findings[0]
	if want := `bind nginx\u001b[31m to 127.0.0.1, port 8080; only its sidecar should be able to call it`; f.Remedy != want {
		t.Errorf("Remedy = %q, want %q", f.Remedy, want)
	}
	if f.Owner == nil || f.Owner.Processes[0].PID != 7 {
		t.Errorf("Owner = %+v, want the process that was given", f.Owner)
	}
}

func TestEvaluateSuspects(t *testing.T) {
	in := base()
	in.Listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000 uid=0", "tcp 0.0.0.0:21001 uid=1", "tcp 0.0.0.0:80 uid=2")
	in.Listeners[1].CgroupID = 7
	for i := range fewCandidates {
		in.Listeners = append(in.Listeners, listener(fmt.Sprintf("tcp 0.0.0.0:%d uid=2", 5000+i)))
	}
	var got []string
	for _, l := range Evaluate(in).Suspects {
		got = append(got, address(&l))
	}
	slices.Sort(got)
	want := []string{"tcp 0.0.0.0:21001", "tcp [::]:21000"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("suspects are the squatter and root's listener in the range, nothing else (-want +got)\n%s", diff)
	}
}

func TestEvaluateDoesNotChangeItsInput(t *testing.T) {
	in, same := base(), base()
	in.Listeners = append(in.Listeners, listener("tcp 0.0.0.0:21007"))
	same.Listeners = append(same.Listeners, listener("tcp 0.0.0.0:21007"))
	first := Evaluate(in)
	if diff := cmp.Diff(same, in, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("Evaluate changed its input (-before +after)\n%s", diff)
	}
	if diff := cmp.Diff(dump(first), dump(Evaluate(in))); diff != "" {
		t.Errorf("a second Evaluate says something else (-first +second)\n%s", diff)
	}
}

func TestEveryFindingFillsItsSentences(t *testing.T) {
	in := base()
	in.Trouble = AgentTrouble{ID: catalog.RegistrationsFiltered, Reason: "why"}
	in.Agent.SidecarMin = 1
	in.Agent.Ports["serf_lan"] = 8301
	in.Agent.Plain = map[string][]netip.AddrPort{"http": {netip.MustParseAddrPort("0.0.0.0:8500")}}
	in.Listeners = listeners("tcp 0.0.0.0:8080", "tcp 0.0.0.0:21007", "tcp 0.0.0.0:8301", "tcp 0.0.0.0:8500", "tcp 127.0.0.1:21000")
	in.Blocked = []firewall.Block{
		{Probe: firewall.Probe{Protocol: firewall.TCP, Port: 21000, Open: true}, Families: []firewall.Family{firewall.IPv4}},
		{Probe: firewall.Probe{Protocol: firewall.TCP, Port: 8301}, Families: []firewall.Family{firewall.IPv4}},
	}
	in.Policy.Quarantine = &Quarantine{Findings: []catalog.ID{catalog.ExposedListener}}
	in.Registrations = append(in.Registrations, sidecar("api", 21000), sidecar("late", 21002), sidecar("ssh", 22),
		consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindIngressGateway})
	for port := 21000; port < 21255; port++ {
		in.Registrations = append(in.Registrations, app(fmt.Sprint(port), port))
	}
	in.Host = &Host{
		Facts: facts.Facts{
			EphemeralFirst: 20000, EphemeralLast: 60000, RouteLocalnet: []string{"br0"},
			SavedRules: []facts.SavedRules{{File: "/etc/nftables.conf", Lines: []int{7}, NFT: true}},
		},
		Published: []firewall.Published{{First: 21255, Last: 21255, To: "172.17.0.2:80"}},
	}
	in.Drift = &Drift{What: []string{"a set was flushed"}}
	in.Policy.Probe = true
	in.Registrations = append(in.Registrations, sidecar("db", 21001))
	in.Listeners = append(in.Listeners, listener("tcp [::]:21001"))
	answerAll(&in, probe.Result{Outcome: probe.Plain}, false)
	in.Registrations[1].Proxy.Upstreams = []consul.Upstream{{Name: "db", Address: "0.0.0.0", Port: 9191}}
	in.Registrations[1].Proxy.Mode, in.Host.RedirectsKnown = consul.ModeTransparent, true
	in.Listeners = append(in.Listeners, listeners("tcp 0.0.0.0:9191", "tcp 0.0.0.0:9102", "tcp 0.0.0.0:19000", "tcp [::]:20000")...)
	in.Registrations[1].Proxy.BindPort = 20000
	in.Owners = owned("web", "tcp 0.0.0.0:8080", "tcp 0.0.0.0:9102")
	for _, text := range []string{"tcp 0.0.0.0:19000", "tcp [::]:20000"} {
		in.Owners[listener(text).Cookie] = sockets.Owner{Processes: []sockets.Process{{PID: 8, Name: "envoy"}}}
	}
	seen := map[catalog.ID]bool{}
	keys := map[catalog.ID]config.Exempt{}
	found := Evaluate(in).Findings
	for _, id := range []catalog.ID{catalog.AgentImpostor, catalog.AgentNotLocal} {
		in.Trouble = AgentTrouble{ID: id, Reason: "why", Fix: "how"}
		found = append(found, Evaluate(in).Findings...)
	}
	for _, f := range found {
		seen[f.ID] = true
		known := keys[f.ID]
		known.Service, known.Port = known.Service+f.Service, max(known.Port, f.Port)
		if f.Listener != nil {
			known.Executable = "/x"
		}
		keys[f.ID] = known
		if strings.ContainsAny(f.Message+f.Remedy, "{}") && !strings.Contains(f.Remedy, "{ ") {
			t.Errorf("%s has an empty place: %s / %s", f.ID, f.Message, f.Remedy)
		}
	}
	for _, e := range catalog.Entries() {
		if !seen[e.ID] {
			t.Errorf("the input was made to bring out every finding, but %s is missing", e.ID)
		}
	}
	for id, about := range keys {
		for _, test := range []struct {
			x  config.Exempt
			ok bool
		}{
			{config.Exempt{Service: "web"}, about.Service != ""},
			{config.Exempt{Port: 8080}, about.Port != 0},
			{config.Exempt{Executable: "/x"}, about.Executable != ""},
		} {
			c := config.Default()
			test.x.Finding, test.x.Reason = string(id), "why"
			c.Exemptions = []config.Exempt{test.x}
			if err := c.Validate(); (err == nil) != test.ok {
				t.Errorf("%+v: %v, but that such a finding has it is %v", test.x, err, test.ok)
			}
		}
	}
}

// TestManyInstances: thousands of instances and of sidecars that name none of them are not multiplied.
func TestManyInstances(t *testing.T) {
	in := base()
	in.Registrations = nil
	for i := range 300 {
		instance, proxy := app("web", 8080), sidecar("web", 21000)
		instance.ID, proxy.ID, proxy.Proxy.DestinationID = fmt.Sprint("web-", i), fmt.Sprint("proxy-", i), ""
		in.Registrations = append(in.Registrations, instance, proxy)
	}
	pairs := 0
	for _, s := range Evaluate(in).Services {
		pairs += len(s.Sidecars)
	}
	if pairs != 300*mostShared {
		t.Errorf("%d pairs, want %d", pairs, 300*mostShared)
	}
	in.Registrations = append(in.Registrations[:1:1], in.Registrations[1], in.Registrations[3])
	if got := Evaluate(in).Services; len(got) != 1 || len(got[0].Sidecars) != 2 {
		t.Errorf("services %v", got)
	}
}

// TestManyRules: rules that pass on the same ports to many places are looked at once, in one finding for each port.
func TestManyRules(t *testing.T) {
	in := base()
	in.Listeners = nil
	in.Host = &Host{}
	for i := range 2000 {
		in.Host.Published = append(in.Host.Published, firewall.Published{First: 8080, Last: 8099, To: fmt.Sprintf("172.17.%d.%d:80", i/250, i%250)})
	}
	found := findingsOf(Evaluate(in), catalog.ExposedListener)
	if len(found) != 1 || !strings.Contains(found[0], "172.17.0.0:80, 172.17.0.1:80, 172.17.0.2:80, 172.17.0.3:80, 172.17.0.4:80 and 1995 more:") {
		t.Errorf("findings %q", found)
	}
}
