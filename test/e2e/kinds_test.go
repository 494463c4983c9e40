// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// kindsConfig is what an operator of the host below would write.
const kindsConfig = `
gateways        = ["mesh", "terminating", "ingress", "api"]
native_services = ["native"]
extra_ports     = [19444, 18171, "18443-18444", "18453-18454", 18463, 18473, 18483, "18543-18583"]
`

// gatewayOf registers a gateway whose proxy is configured as given.
func (w *world) gatewayOf(kind api.ServiceKind, name string, port int, config map[string]any, tagged map[string]api.ServiceAddress) {
	w.t.Helper()
	w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Kind: kind, Name: name, Port: port, TaggedAddresses: tagged, Proxy: &api.AgentServiceConnectProxyConfig{Config: config},
	}))
}

// boundTo registers a service with a sidecar that listens on another port than it is called on, where the host's own rules
// send what comes.
func (w *world) boundTo(name string, port, sidecarPort, bindPort int) {
	w.t.Helper()
	registration := withSidecar(name, port, sidecarPort)
	registration.Connect.SidecarService.Proxy = &api.AgentServiceConnectProxyConfig{Config: map[string]any{"bind_port": fmt.Sprint(bindPort)}}
	w.must(w.consul.API().Agent().ServiceRegister(registration))
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		w.run(program, "-w", "5", "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", fmt.Sprint(sidecarPort),
			"-j", "REDIRECT", "--to-ports", fmt.Sprint(bindPort))
	}
}

// dropByDefault is defaultDrop on a host whose operator lets in what Consul's agents say to each other.
func (w *world) dropByDefault() {
	w.t.Helper()
	w.defaultDrop("nft")
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		for protocol, ports := range map[string]string{"tcp": "8300:8302", "udp": "8301:8302"} {
			w.run(program, "-w", "5", "-A", "INPUT", "-p", protocol, "--dport", ports, "-j", "ACCEPT")
		}
	}
}

// findings lists what a scan finds: id, service and port.
func (w *world) findings(config string) (lines []string) {
	w.t.Helper()
	dir, err := w.Configure(config)
	w.must(err)
	var document struct {
		Findings []struct {
			ID, Service string
			Port        uint16
		}
	}
	w.must(json.Unmarshal([]byte(w.hostagent(1, "scan", "--config", dir, "--format", "json")), &document))
	for _, f := range document.Findings {
		if f.ID != "range-ephemeral-overlap" { // of the machine's sysctl, not of this host
			lines = append(lines, strings.Join(strings.Fields(fmt.Sprintf("%s %s %d", f.ID, f.Service, f.Port)), " "))
		}
	}
	slices.Sort(lines)
	return lines
}

// TestKinds: a host with every kind of registration, behind a firewall that lets nothing in of itself. What the network
// reaches is what the operator's lists and the registrations agree on.
func TestKinds(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.dropByDefault()
	agent := w.consul.API().Agent()
	web := w.register("web", 8080, 0)
	w.register("explicit", 8081, 21050)
	w.register("outside", 8082, 19443)
	w.register("extra", 8083, 19444)
	for i, id := range []string{"twin-1", "twin-2"} {
		twin := withSidecar("twin", 8084+i, 21055+i)
		twin.ID = id
		w.must(agent.ServiceRegister(twin))
	}
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "apart", Port: 8086}))
	w.must(agent.ServiceRegister(proxy("edge", 21060, "apart")))
	w.boundTo("bound", 8087, 21070, 21170)
	w.boundTo("bound-extra", 8088, 21071, 18171)
	w.boundTo("bound-outside", 8089, 21072, 18172)
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Name: "socket", SocketPath: "/run/socket.sock", Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Port: 21080, Proxy: &api.AgentServiceConnectProxyConfig{LocalServiceSocketPath: "/run/socket.sock"},
		}},
	}))
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Kind: api.ServiceKindConnectProxy, Name: "on-socket", SocketPath: "/run/proxy.sock", Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: "socket"},
	}))
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Kind: " Connect-Proxy", Name: "misspelt", Port: 21090}))

	binds := func(port int) map[string]any { return map[string]any{"address": "::", "port": port} }
	w.gatewayOf(api.ServiceKindMeshGateway, "mesh", 18443, map[string]any{"envoy_gateway_bind_addresses": map[string]any{
		"public": binds(18444), "unlisted": binds(18445),
	}}, map[string]api.ServiceAddress{"wan": {Address: "192.0.2.1", Port: 443}})
	w.gatewayOf(api.ServiceKindTerminatingGateway, "terminating", 18453, map[string]any{"envoy_mesh_gateway_bind_tagged_addresses": "true"},
		map[string]api.ServiceAddress{"lan": {Address: host.IPv4, Port: 18454}})
	w.gatewayOf(api.ServiceKindIngressGateway, "ingress", 18463, nil, nil)
	w.gatewayOf(api.ServiceKindAPIGateway, "api", 18473, nil, nil) // nobody listens: it has no config entry
	for i, kind := range []api.ServiceKind{api.ServiceKindMeshGateway, api.ServiceKindTerminatingGateway, api.ServiceKindIngressGateway, api.ServiceKindAPIGateway} {
		w.gatewayOf(kind, "claimed-"+strings.TrimSuffix(string(kind), "-gateway"), 18543+i, nil, nil)
	}
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "native", Port: 18483, Connect: &api.AgentServiceConnect{Native: true}}))
	w.must(agent.ServiceRegister(&api.AgentServiceRegistration{Name: "claimed-native", Port: 18583, Connect: &api.AgentServiceConnect{Native: true}}))

	open := map[string][]uint16{
		"sidecars": {web, 21050, 19444, 21055, 21056, 21060, 21170, 18171, 21080},
		"gateways": {18443, 18444, 18453, 18454, 18463},
		"native":   {18483},
	}
	closed := map[string][]uint16{
		"sidecars": {19443, 18172},
		"gateways": {18445, 18464}, // 18464 is of the ingress gateway's config entry, which the servers know
		"claimed":  {18543, 18544, 18545, 18546, 18583, 21090},
	}
	for _, name := range []string{"sidecars", "gateways", "native", "claimed"} {
		w.listenOn(name, slices.Concat(open[name], closed[name])...)
	}
	w.guard(kindsConfig)
	w.eventually(web, host.Open, 10*time.Second)

	all := slices.Concat(open["sidecars"], open["gateways"], open["native"], []uint16{21070, 21071})
	if got := w.count(all); got[host.Open] != 2*len(all) {
		t.Errorf("of %v the network sees %v", all, got)
		for _, port := range all {
			w.reaches(port, host.Open)
		}
	}
	all = slices.Concat(closed["sidecars"], closed["gateways"], closed["claimed"], []uint16{21072, 21091})
	if got := w.count(all); got[host.Dropped] != 2*len(all) {
		t.Errorf("of %v the network sees %v", all, got)
		for _, port := range all {
			w.reaches(port, host.Dropped)
		}
	}
	want := []string{
		"port-not-opened bound-outside 18172",
		"port-not-opened mesh 18445",
		"port-not-opened misspelt 21090",
		"port-not-opened outside 19443",
		"squatted-port 21090",
		"unconfirmed-claim claimed-api 0",
		"unconfirmed-claim claimed-ingress 0",
		"unconfirmed-claim claimed-mesh 0",
		"unconfirmed-claim claimed-native 0",
		"unconfirmed-claim claimed-terminating 0",
	}
	if diff := cmp.Diff(want, w.findings(kindsConfig)); diff != "" {
		t.Errorf("a scan finds (-want +got):\n%s", diff)
	}

	w.must(agent.ServiceDeregister("mesh"))
	w.must(agent.ServiceDeregister("bound"))
	w.must(agent.ServiceDeregister("twin-2"))
	w.eventually(18444, host.Dropped, 10*time.Second)
	for port, want := range map[uint16]host.Reach{18443: host.Dropped, 21170: host.Dropped, 21070: host.Dropped, 21056: host.Dropped, 21055: host.Open} {
		w.eventually(port, want, 10*time.Second)
	}
}

// TestRangeMoves: an agent is given another sidecar range, and then none. Sidecars that were registered through the API keep
// their ports, which hostagent opened: behind a firewall that lets nothing in they stay open for close_delay, and with one
// that lets everything in nobody closes them.
func TestRangeMoves(t *testing.T) {
	netns.Once(t)
	const config = "extra_ports = [19444]\n"
	w := newWorld(t, host.ConsulOptions{})
	w.dropByDefault()
	old := w.register("web", 8080, 0)
	w.register("extra", 8081, 19444)
	w.listenOn("sidecars", old, 19444, 22000)
	w.guard(config)
	w.eventually(old, host.Open, 10*time.Second)
	move := func(low, high int, guard string) {
		t.Helper()
		w.must(os.WriteFile(filepath.Join(w.Dir, "consul", "extra.hcl"),
			fmt.Appendf(nil, "ports {\n  sidecar_min_port = %d\n  sidecar_max_port = %d\n}\n", low, high), 0o600))
		w.must(w.consul.Restart(w.ctx))
		w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{Name: fmt.Sprint("after ", low)})) // which is news
		w.until("the guard is "+guard, func() error {
			if show := w.hostagent(0, "firewall", "show"); strings.Contains(show, "21000-21255") || !strings.Contains(show, guard) {
				return fmt.Errorf("firewall show says\n%s", show)
			}
			return nil
		})
	}
	move(22000, 22255, "add hostagent-guard 22000-22255\n")
	w.reaches(old, host.Open) // close_delay of whole answers has not passed
	w.reaches(19444, host.Open)
	fresh := w.register("fresh", 8082, 0)
	if fresh != 22000 {
		t.Errorf("the agent gives out port %d of the new range", fresh)
	}
	w.eventually(fresh, host.Open, 10*time.Second)
	w.eventually(old, host.Dropped, 15*time.Second)
	want := []string{fmt.Sprintf("port-not-opened web %d", old)}
	if diff := cmp.Diff(want, w.findings(config)); diff != "" {
		t.Errorf("a scan finds (-want +got):\n%s", diff)
	}
	for _, program := range []string{"iptables-nft", "ip6tables-nft"} {
		w.run(program, "-w", "5", "-P", "INPUT", "ACCEPT")
	}
	w.reaches(old, host.Open) // the guard is of the new range alone

	move(-1, -1, "add hostagent-open")
	w.until("nothing is guarded", func() error {
		if show := w.hostagent(0, "firewall", "show"); strings.Contains(show, "add hostagent-guard") {
			return fmt.Errorf("firewall show says\n%s", show)
		}
		return nil
	})
	for _, port := range []uint16{old, fresh, 19444} {
		w.reaches(port, host.Open)
	}
	want = append(want, fmt.Sprintf("port-not-opened fresh %d", fresh))
	slices.Sort(want)
	if diff := cmp.Diff(want, w.findings(config)); diff != "" {
		t.Errorf("a scan finds (-want +got):\n%s", diff)
	}
}
