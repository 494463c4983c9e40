// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// gateway is a registration of a kind on a port, with what its proxy's configuration says.
func gateway(name, kind string, port int, proxy consul.Proxy) consul.Registration {
	return consul.Registration{ID: name, Name: name, Kind: kind, Port: port, Proxy: &proxy}
}

// askedFor writes which ports open for whom and what is said, without the range and the healthy service.
func askedFor(r Result) string {
	text := dump(r)
	text = strings.TrimPrefix(text, fmt.Sprintf("range %s\nguard %s\nopen %s\n", r.Range, r.Rules.Guard, r.Rules.Open))
	text = strings.Replace(text, "21000 for web by web-sidecar-proxy\n", "", 1)
	text = strings.Replace(text, "service web tcp 127.0.0.1:8080\n", "", 1)
	return strings.ReplaceAll(text, "as the host's own firewall has it: it lies outside the sidecar range 21000-21255 and is not in extra_ports", "OUTSIDE")
}

// registered adds registrations, listeners and extra ports to a host.
func registered(in *Input, extra firewall.PortSet, listening []string, regs ...consul.Registration) {
	in.Registrations = append(in.Registrations, regs...)
	in.Listeners = append(in.Listeners, listeners(listening...)...)
	in.Policy.ExtraPorts = extra
	for _, r := range regs {
		in.Policy.Gateways = append(in.Policy.Gateways, r.Name)
	}
}

func TestGateways(t *testing.T) {
	binds := func(ports ...int) (all []consul.Bind) {
		for _, port := range ports {
			all = append(all, consul.Bind{Name: fmt.Sprint(port), Address: "0.0.0.0", Port: port})
		}
		return all
	}
	eachInput(t, base, askedFor, []inputCase{
		{"a mesh gateway with further addresses", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: binds(8445, 8446, 21009, 8443)}))
		}, "8443 for gw by gw\n8445 for gw by gw\n21009 for gw by gw\n" + "warning port-not-opened open \"gw\": port 8446 of gw stays OUTSIDE\n"},
		{"a terminating gateway, too", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindTerminatingGateway, 8443, consul.Proxy{Binds: binds(8445)}))
		}, "8443 for gw by gw\n8445 for gw by gw\n"},
		{"of an ingress gateway they are addresses without ports", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445), nil, gateway("gw", consul.KindIngressGateway, 8443, consul.Proxy{Binds: binds(8445)}))
		}, "8443 for gw by gw\n"},
		{"and of an API gateway", func(in *Input) {
			registered(in, firewall.Ports(8445), nil, gateway("gw", consul.KindAPIGateway, 0, consul.Proxy{Binds: binds(8445), BindsTagged: true}))
		}, ""},
		{"protected, impossible, none and twice", func(in *Input) {
			registered(in, firewall.Ports(22, 8443, 8500, 8445), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: append(binds(22, 8500, -1, 70000, 0), binds(8445, 8445)...)}))
		}, "8443 for gw by gw\n8445 for gw by gw\n" +
			`warning port-not-opened open "gw": port -1 of gw stays as the host's own firewall has it: it is no TCP port
warning port-not-opened open "gw": port 70000 of gw stays as the host's own firewall has it: it is no TCP port
warning port-not-opened open "gw": port 22 of gw stays as the host's own firewall has it: it is a protected port
warning port-not-opened open "gw": port 8500 of gw stays as the host's own firewall has it: it is a protected port
`},
		{"on loopback", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445, 8446), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: []consul.Bind{{Address: "127.0.0.1", Port: 8445}, {Address: "::1", Port: 8446}}}))
		}, "8443 for gw by gw\n"},
		{"not at its own address: what listens is one of the others", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445), []string{"tcp 0.0.0.0:8445"}, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: binds(8445), NoDefaultBind: true}))
		}, "8443 for gw by gw\n8445 for gw by gw\n"},
		{"nothing listens: one finding", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445, 8446), nil, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: binds(8445, 8446)}))
		}, "8443 for gw by gw\n8445 for gw by gw\n8446 for gw by gw\nwarning sidecar-not-listening open \"gw\": nothing listens on port 8443 that gw registered\n"},
		{"an ingress gateway that has no config entry yet", func(in *Input) {
			registered(in, firewall.Ports(8888), nil, gateway("gw", consul.KindIngressGateway, 8888, consul.Proxy{}))
		}, "8888 for gw by gw\n"},
		{"tagged addresses that it binds", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{BindsTagged: true})
			gw.Tagged = []consul.Bind{{Name: "lan", Address: "10.0.0.1", Port: 8444}, {Name: "wan", Address: "192.0.2.1", Port: 8445}}
			registered(in, firewall.Ports(8443, 8444, 8445), []string{"tcp 0.0.0.0:8443"}, gw)
		}, "8443 for gw by gw\n8444 for gw by gw\n8445 for gw by gw\n"},
		{"wan of a load balancer in front", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Address, gw.Tagged = "10.0.0.1", []consul.Bind{{Name: "lan", Address: "10.0.0.1", Port: 8444}, {Name: "wan", Address: "192.0.2.1", Port: 443}}
			registered(in, firewall.Ports(443, 8443, 8444), []string{"tcp 0.0.0.0:8443"}, gw)
		}, "8443 for gw by gw\n"},
		{"wan of the gateway itself", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Address, gw.Tagged = "10.0.0.1", []consul.Bind{{Name: "wan", Address: "10.0.0.1", Port: 443}}
			registered(in, firewall.Ports(443, 8443), []string{"tcp 0.0.0.0:8443"}, gw)
		}, "443 for gw by gw\n8443 for gw by gw\n"},
		{"bind_port means nothing to a gateway", func(in *Input) {
			registered(in, firewall.Ports(8443, 8555), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{BindPort: 8555}))
		}, "8443 for gw by gw\n"},
		{"two gateways on one port of different addresses", func(in *Input) {
			at := func(address string) consul.Proxy {
				return consul.Proxy{Binds: []consul.Bind{{Address: address, Port: 8445}}}
			}
			registered(in, firewall.Ports(8443, 8444, 8445), []string{"tcp 0.0.0.0:8443", "tcp 0.0.0.0:8444"},
				gateway("gw", consul.KindMeshGateway, 8443, at("10.0.0.1")), gateway("tgw", consul.KindTerminatingGateway, 8444, at("10.0.0.2")))
		}, "8443 for gw by gw\n8444 for tgw by tgw\n8445 for gw,tgw by gw,tgw\n"},
		{"nobody confirmed it", func(in *Input) {
			registered(in, firewall.Ports(8443, 8445), nil, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: binds(8445)}))
			in.Policy.Gateways = nil
		}, "warning unconfirmed-claim open \"gw\": gw claims to be a mesh gateway, which the operator has not confirmed\n"},
		{"a confirmed name that is an application now", func(in *Input) {
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, app("gw", 8443))
		}, ""},
		{"a confirmed name that is a sidecar now", func(in *Input) {
			gw := sidecar("web", 8443)
			gw.ID, gw.Name = "gw", "gw"
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:8443"}, gw)
		}, "warning port-not-opened open \"web\": port 8443 of gw stays OUTSIDE\n"},
		{"a confirmed name that is another kind of gateway now", func(in *Input) {
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, gateway("gw", consul.KindTerminatingGateway, 8443, consul.Proxy{}))
		}, "8443 for gw by gw\n"},
		{"a kind in another case", func(in *Input) {
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, consul.Registration{ID: "gw", Name: "gw", Kind: "Mesh_Gateway ", Port: 8443})
		}, `warning port-not-opened open "gw": port 8443 of gw stays as the host's own firewall has it: its kind is "Mesh_Gateway ", which means nothing to Consul` + "\n"},
		{"a gateway without a proxy", func(in *Input) {
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, consul.Registration{ID: "gw", Name: "gw", Kind: consul.KindMeshGateway, Port: 8443})
		}, "8443 for gw by gw\n"},
		{"the name in another namespace", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Namespace = "team"
			registered(in, firewall.Ports(8443), nil, gw)
		}, "warning unconfirmed-claim open \"gw\": gw claims to be a mesh gateway, which the operator has not confirmed\n"},
		{"named with its namespace, in any partition", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Namespace, gw.Partition = "team", "east"
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, gw)
			in.Policy.Gateways = []string{"team/gw"}
		}, "8443 for gw by gw\n"},
		{"hostagent asks for the namespace", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Namespace = "team"
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, gw)
			in.Policy.Namespace = "team"
		}, "8443 for gw by gw\n"},
		{"a name that looks like one in a namespace", func(in *Input) {
			gw := gateway("team/gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			registered(in, firewall.Ports(8443), nil, gw)
		}, "warning unconfirmed-claim open \"team/gw\": team/gw claims to be a mesh gateway, which the operator has not confirmed\n"},
		{"and how to name it", func(in *Input) {
			gw := gateway("team/gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Namespace = "default"
			registered(in, firewall.Ports(8443), []string{"tcp 0.0.0.0:8443"}, gw)
			in.Policy.Gateways = []string{"default/team/gw"}
		}, "8443 for team/gw by team/gw\n"},
		{"native too", func(in *Input) {
			gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{})
			gw.Native = true
			registered(in, firewall.Ports(8443), nil, gw)
			in.Policy.Gateways, in.Policy.Native = nil, []string{"gw"}
		}, "warning unconfirmed-claim open \"gw\": gw claims to be a mesh gateway, which the operator has not confirmed\n"},
	})
}

func TestOddSidecarsAndNativeServices(t *testing.T) {
	native := func(name string, port int) consul.Registration {
		return consul.Registration{ID: name, Name: name, Port: port, Native: true}
	}
	redirect := func(in *Input, from, to uint16) {
		in.Host = &Host{
			Facts: facts.Facts{}, RedirectsKnown: true,
			Redirects: []firewall.Redirect{{Family: firewall.IPv4, To: to, Ports: firewall.Ports(from)}},
			Published: []firewall.Published{{First: from, Last: from, To: fmt.Sprintf(":%d", to)}},
		}
	}
	eachInput(t, base, askedFor, []inputCase{
		{"bind_port in the range, redirected to", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:8090", "tcp 0.0.0.0:21100"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort = 21100
			redirect(in, 21001, 21100)
		}, "21001 for api by api-sidecar-proxy\n21100 for api by api-sidecar-proxy\n"},
		{"bind_port outside, which the range does not close", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:20300"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort = 20300
		}, "21001 for api by api-sidecar-proxy\n"},
		{"redirected to, where the host's own firewall may close it", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:20300"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort = 20300
			redirect(in, 21001, 20300)
		}, "21001 for api by api-sidecar-proxy\nwarning port-not-opened open \"api\": port 20300 of api-sidecar-proxy stays OUTSIDE\n"},
		{"and listed", func(in *Input) {
			registered(in, firewall.Ports(20300), []string{"tcp 0.0.0.0:20300"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort = 20300
			redirect(in, 21001, 20300)
		}, "20300 for api by api-sidecar-proxy\n21001 for api by api-sidecar-proxy\n"},
		{"a redirect that is not the sidecar's shares its port", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, sidecar("api", 21001))
			redirect(in, 21001, 20300)
		}, "21001 for api by api-sidecar-proxy\nwarning range-shared open \"\": a published container port or another nat rule hands out ports of the sidecar range: 21001 goes to :20300\n"},
		{"nor does a rule that leads nowhere", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, sidecar("api", 21001))
			redirect(in, 21001, 20300)
			in.Host.Published[0].To = ":"
		}, "21001 for api by api-sidecar-proxy\nwarning range-shared open \"\": a published container port or another nat rule hands out ports of the sidecar range: 21001 goes to :\n"},
		{"bind_port where others cannot reach it is told once", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 127.0.0.1:21100"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort, in.Host = 21100, &Host{}
		}, "21001 for api by api-sidecar-proxy\n21100 for api by api-sidecar-proxy\n" +
			"warning sidecar-loopback-only open \"api\": port 21001 of api-sidecar-proxy listens on tcp 127.0.0.1:21100 only: no other host of the mesh can call it\n"},
		{"the range has moved: what was open stays for a while", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:20001", "tcp 0.0.0.0:20002"}, sidecar("api", 20001), sidecar("late", 20002))
			in.PreviousRange, in.WasOpen = PortRange{First: 20000, Last: 20255}, firewall.Ports(20001)
		}, "20001 for api by api-sidecar-proxy\nwarning port-not-opened open \"late\": port 20002 of late-sidecar-proxy stays OUTSIDE\n"},
		{"bind_port on loopback is nobody's to dial", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 127.0.0.1:21100", "tcp 0.0.0.0:21001"}, sidecar("api", 21001))
			in.Registrations[2].Proxy.BindPort, in.Registrations[2].Proxy.BindAddress = 21100, "127.0.0.1"
		}, "21001 for api by api-sidecar-proxy\nwarning squatted-port open \"\": tcp 127.0.0.1:21100 is in the sidecar range and no registered sidecar explains it\n"},
		{"protected, impossible and equal bind_ports", func(in *Input) {
			registered(in, firewall.Ports(22), []string{"tcp 0.0.0.0:21001", "tcp 0.0.0.0:21002", "tcp 0.0.0.0:21003"}, sidecar("a", 21001), sidecar("b", 21002), sidecar("c", 21003))
			in.Registrations[2].Proxy.BindPort, in.Registrations[3].Proxy.BindPort, in.Registrations[4].Proxy.BindPort = 22, 70000, 21003
		}, "21001 for a by a-sidecar-proxy\n21002 for b by b-sidecar-proxy\n21003 for c by c-sidecar-proxy\n"},
		{"two containers with one bind_port are no duplicates", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001", "tcp 0.0.0.0:21002"}, sidecar("a", 21001), sidecar("b", 21002))
			in.Registrations[2].Proxy.BindPort, in.Registrations[3].Proxy.BindPort = 21200, 21200
		}, "21001 for a by a-sidecar-proxy\n21002 for b by b-sidecar-proxy\n21200 for a,b by a-sidecar-proxy,b-sidecar-proxy\n"},
		{"two sidecars of one instance", func(in *Input) {
			second := sidecar("web", 21001)
			second.ID = "web-second"
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, second)
		}, "21001 for web by web-second\n"},
		{"two sidecars of one instance on one port", func(in *Input) {
			second := sidecar("web", 21000)
			second.ID = "web-second"
			registered(in, firewall.PortSet{}, nil, second)
			in.Registrations[1].Port = 21000
		}, "21000 for web by web-second,web-sidecar-proxy\nwarning duplicate-port open \"\": port 21000 is registered by web-second and web-sidecar-proxy: at most one of them can be listening there\n"},
		{"two instances of a service", func(in *Input) {
			app, proxy := app("web", 8081), sidecar("web", 21001)
			app.ID, proxy.ID, proxy.Proxy.DestinationID = "web2", "web2-sidecar-proxy", "web2"
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:8081", "tcp 0.0.0.0:21001"}, app, proxy)
		}, `21001 for web by web2-sidecar-proxy
service web2 tcp 0.0.0.0:8081
warning exposed-listener open "web": web listens on tcp 0.0.0.0:8081: the network reaches it without mTLS and without intentions
`},
		{"the instance has gone, its sidecar not yet", func(in *Input) {
			proxy := sidecar("web", 21001)
			proxy.ID, proxy.Proxy.DestinationID = "web2-sidecar-proxy", "web2"
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, proxy)
		}, "21001 for web by web2-sidecar-proxy\n"},
		{"registered apart, by name alone", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001", "tcp 0.0.0.0:8090"}, app("api", 8090),
				consul.Registration{ID: "edge", Name: "edge", Kind: consul.KindConnectProxy, Port: 21001, Proxy: &consul.Proxy{DestinationName: "api"}})
		}, `21001 for api by edge
service api tcp 0.0.0.0:8090
warning exposed-listener open "api": api listens on tcp 0.0.0.0:8090: the network reaches it without mTLS and without intentions
`},
		{"a destination that no service of this agent has", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, sidecar("far", 21001))
		}, "21001 for far by far-sidecar-proxy\n"},
		{"the port of its own application, outside the range", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:8090"}, app("api", 8090), sidecar("api", 8090))
		}, `service api tcp 0.0.0.0:8090
warning exposed-listener open "api": api listens on tcp 0.0.0.0:8090: the network reaches it without mTLS and without intentions
warning port-not-opened open "api": port 8090 of api-sidecar-proxy stays OUTSIDE
`},
		{"a socket and no port", func(in *Input) {
			proxy := sidecar("api", 0)
			proxy.Socket = "/run/api.sock"
			registered(in, firewall.PortSet{}, nil, proxy)
		}, ""},
		{"a socket and a port that cannot be", func(in *Input) {
			proxy := sidecar("api", -1)
			proxy.Socket = "/run/api.sock"
			registered(in, firewall.PortSet{}, nil, proxy)
		}, "warning port-not-opened open \"api\": port -1 of api-sidecar-proxy stays as the host's own firewall has it: it is no TCP port\n"},
		{"an application on a socket, and a port that means nothing", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001", "tcp 0.0.0.0:4444"}, app("api", 0), sidecar("api", 21001))
			in.Registrations[3].Proxy.LocalServiceSocket, in.Registrations[3].Proxy.LocalServicePort = "/run/api.sock", 4444
		}, "21001 for api by api-sidecar-proxy\nservice api\n"},
		{"a kind in another case", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, consul.Registration{ID: "x", Name: "x", Kind: " Connect-Proxy", Port: 21001})
		}, `warning port-not-opened open "x": port 21001 of x stays as the host's own firewall has it: its kind is " Connect-Proxy", which means nothing to Consul
warning squatted-port open "": tcp 0.0.0.0:21001 is in the sidecar range and no registered sidecar explains it
`},
		{"a name with odd letters", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:21001"}, sidecar("naté/x y\x1b[31m", 21001))
		}, "21001 for naté/x y\x1b[31m by naté/x y\x1b[31m-sidecar-proxy\n"},
		{"native outside the range", func(in *Input) {
			registered(in, firewall.PortSet{}, []string{"tcp 0.0.0.0:9443"}, native("n", 9443))
			in.Policy.Native = []string{"n"}
		}, "warning port-not-opened open \"n\": port 9443 of n stays OUTSIDE\n"},
		{"native with a sidecar, confirmed", func(in *Input) {
			registered(in, firewall.Ports(9443), []string{"tcp 0.0.0.0:9443", "tcp 0.0.0.0:21001"}, native("n", 9443), sidecar("n", 21001))
			in.Policy.Native = []string{"n"}
		}, "9443 for n by n\n21001 for n by n-sidecar-proxy\n"},
		{"native with a sidecar, not confirmed", func(in *Input) {
			registered(in, firewall.Ports(9443), []string{"tcp 0.0.0.0:9443", "tcp 0.0.0.0:21001"}, native("n", 9443), sidecar("n", 21001))
		}, `21001 for n by n-sidecar-proxy
service n tcp 0.0.0.0:9443
warning exposed-listener open "n": n listens on tcp 0.0.0.0:9443: the network reaches it without mTLS and without intentions
warning unconfirmed-claim open "n": n claims to be Connect-native, which the operator has not confirmed
`},
		{"native in another namespace", func(in *Input) {
			n := native("n", 9443)
			n.Namespace = "team"
			registered(in, firewall.Ports(9443), nil, n)
			in.Policy.Native = []string{"n"}
		}, "warning unconfirmed-claim open \"n\": n claims to be Connect-native, which the operator has not confirmed\n"},
	})
}

// TestSiblingsOfGateways: a gateway that lives with an application listens on ports that no registration names.
func TestSiblingsOfGateways(t *testing.T) {
	const (
		web     = "tcp 127.0.0.1:8080 | 7 web /usr/bin/web @ab12"
		ingress = "tcp 0.0.0.0:8888 | 9 envoy /usr/bin/envoy @ab12"
		http    = "tcp 0.0.0.0:9999 | 9 envoy /usr/bin/envoy @ab12"
	)
	for _, confirmed := range []bool{true, false} {
		in := settled(web, sidecarAlone, ingress, http)
		in.Registrations = append(in.Registrations, gateway("gw", consul.KindIngressGateway, 8888, consul.Proxy{}))
		if in.Policy.ExtraPorts = firewall.Ports(8888); confirmed {
			in.Policy.Gateways = []string{"gw"}
		}
		said := aroundDump(Evaluate(in))
		if sibling := strings.Contains(said, "also listens on tcp 0.0.0.0:9999"); sibling == confirmed {
			t.Errorf("confirmed %t:\n%s", confirmed, said)
		}
	}
	in := settled(web, sidecarAlone, http)
	in.Registrations = append(in.Registrations, gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{Binds: []consul.Bind{{Port: 9999}}}))
	if said := aroundDump(Evaluate(in)); said != "" {
		t.Errorf("where another registration says that it listens:\n%s", said)
	}
}

// TestClaimsOfKinds: what is remembered of registrations is what Evaluate opens for them.
func TestClaimsOfKinds(t *testing.T) {
	gw := gateway("gw", consul.KindMeshGateway, 8443, consul.Proxy{BindsTagged: true, Binds: []consul.Bind{{Port: 8445}, {Address: "127.0.0.1", Port: 8446}, {Port: 70000}}})
	gw.Tagged = []consul.Bind{{Name: "wan", Address: "10.0.0.9", Port: 443}}
	unconfirmed := gateway("evil", consul.KindMeshGateway, 8447, consul.Proxy{Binds: []consul.Bind{{Port: 8448}}})
	bound := sidecar("api", 21001)
	bound.Proxy.BindPort = 21100
	in := base()
	registered(&in, ports(PortRange{1, 65535}), nil, gw, unconfirmed, bound)
	in.Policy.Gateways = []string{"gw"}
	claims := in.Policy.claims(in.Registrations)
	var got []Held
	for _, o := range Evaluate(in).Openings {
		for _, id := range o.IDs {
			got = append(got, Held{ID: id, Port: o.Port})
		}
	}
	compare := func(a, b Held) int { return int(a.Port) - int(b.Port) }
	if diff := cmp.Diff(slices.SortedFunc(maps.Keys(claims), compare), got); diff != "" {
		t.Errorf("openings (-remembered +got):\n%s", diff)
	}
	want := []Held{{ID: "gw", Port: 443}, {ID: "gw", Port: 8443}, {ID: "gw", Port: 8445}, {ID: "web-sidecar-proxy", Port: 21000}, {ID: "api-sidecar-proxy", Port: 21001}, {ID: "api-sidecar-proxy", Port: 21100}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAddressesOfAGatewayCloseSlowly: each of its ports by itself.
func TestAddressesOfAGatewayCloseSlowly(t *testing.T) {
	h := newFakeHost()
	bind := func(ports ...int) consul.Registration {
		gw := gateway("gw", consul.KindMeshGateway, 21010, consul.Proxy{})
		for _, port := range ports {
			gw.Proxy.Binds = append(gw.Proxy.Binds, consul.Bind{Port: port})
		}
		return gw
	}
	h.regs = append(h.regs, bind(21011, 21012))
	parts := h.parts(ModeGuard)
	parts.Policy.Gateways = []string{"gw"}
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		reload <- parts
		pass(5 * time.Second)
		want(t, "all of them", "guard 21000-21255 open 21000, 21010-21012", h.state())
		h.regs = append(slices.Clone(h.regs[:2]), bind(21012))
		pass(20 * time.Second)
		want(t, "one is taken out", "guard 21000-21255 open 21000, 21010-21012", h.state())
		pass(12 * time.Second)
		want(t, "after close_delay", "guard 21000-21255 open 21000, 21010, 21012", h.state())
		h.regs = slices.Clone(h.regs[:2])
		pass(20 * time.Second)
		want(t, "deregistered", "guard 21000-21255 open 21000, 21010, 21012", h.state())
		pass(12 * time.Second)
		want(t, "after close_delay of that", guarded, h.state())
	})
}

// TestRangeMoves: sidecars of the old range still run, and their ports may be open only because hostagent opened them.
func TestRangeMoves(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		move := func(low, high int) {
			h.facts.SidecarMin, h.facts.SidecarMax = low, high
			h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")} // as of an agent that restarts
			pass(2 * time.Second)
			h.fails = nil
			pass(5 * time.Second)
		}
		move(22000, 22255)
		want(t, "another range", "guard 22000-22255 open 21000", h.state())
		h.regs = append(h.regs, sidecar("late", 21001))
		pass(2 * time.Second)
		want(t, "what was not open does not open any more", "guard 22000-22255 open 21000", h.state())
		pass(30 * time.Second)
		want(t, "after close_delay", "guard 22000-22255 open none", h.state())
		move(21000, 21255)
		want(t, "and back", "guard 21000-21255 open 21000-21001", h.state())
		h.facts.SidecarMin, h.facts.SidecarMax = 21000, 21300
		h.regs = append(h.regs, sidecar("wide", 21300))
		pass(2 * time.Second)
		want(t, "an agent that was never seen to be away", "guard 21000-21300 open 21000-21001, 21300", h.state())
		h.regs = h.regs[:len(h.regs)-1]
		pass(40 * time.Second)
		move(-1, -1)
		want(t, "disabled", "guard none open 21000-21001", h.state())
		pass(30 * time.Second)
		want(t, "after close_delay of that", "guard none open none", h.state())
	})
}
