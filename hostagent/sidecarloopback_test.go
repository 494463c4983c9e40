// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

func TestSidecarLoopbackOnly(t *testing.T) {
	on := func(address string) []string {
		return []string{"open port 21000 of web-sidecar-proxy listens on tcp " + address + " only: no other host of the mesh can call it"}
	}
	for _, tt := range []struct {
		name      string
		listeners []string
		change    func(*Input, *consul.Registration)
		want      []string
	}{
		{"on loopback", []string{"tcp 127.0.0.1:21000"}, nil, on("127.0.0.1:21000")},
		{"on IPv6 loopback", []string{"tcp [::1]:21000 v6only"}, nil, on("[::1]:21000")},
		{"mapped", []string{"tcp [::ffff:127.0.0.1]:21000"}, nil, on("[::ffff:127.0.0.1]:21000")},
		{"bound to lo", []string{"tcp 0.0.0.0:21000 dev=1"}, nil, on("0.0.0.0:21000")},
		{"on both loopbacks", []string{"tcp 127.0.0.1:21000", "tcp [::1]:21000 v6only"}, nil, on("127.0.0.1:21000")},
		{"everywhere", []string{"tcp [::]:21000"}, nil, nil},
		{"on an address of the host", []string{"tcp 10.0.0.1:21000"}, nil, nil},
		{"on an address beside loopback", []string{"tcp 127.0.0.1:21000", "tcp 10.0.0.1:21000"}, nil, nil},
		{"not at all", nil, nil, nil},
		{"UDP beside it", []string{"tcp 127.0.0.1:21000", "udp 0.0.0.0:21000"}, nil, on("127.0.0.1:21000")},
		{"a development agent", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) { in.Agent.Address = netip.MustParseAddr("127.0.0.1") }, nil},
		{"an agent that tells no address", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) { in.Agent.Address = netip.Addr{} }, nil},
		{"registered on loopback", []string{"tcp 127.0.0.1:21000"}, func(_ *Input, r *consul.Registration) { r.Address = "127.0.0.1" }, nil},
		{"registered on an address of the host", []string{"tcp 127.0.0.1:21000"}, func(_ *Input, r *consul.Registration) { r.Address = "10.9.9.9" }, on("127.0.0.1:21000")},
		{"registered elsewhere", []string{"tcp 127.0.0.1:21000"}, func(_ *Input, r *consul.Registration) { r.Address = "172.17.0.5" }, nil},
		{"registered by name", []string{"tcp 127.0.0.1:21000"}, func(_ *Input, r *consul.Registration) { r.Address = "lb.example.org" }, nil},
		{"bind_port on the network", []string{"tcp 127.0.0.1:21000", "tcp 0.0.0.0:31000"}, func(_ *Input, r *consul.Registration) { r.Proxy.BindPort = 31000 }, nil},
		{"bind_port on loopback", []string{"tcp 127.0.0.1:31000"}, func(_ *Input, r *consul.Registration) { r.Proxy.BindPort = 31000 }, on("127.0.0.1:31000")},
		{"published", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) {
			in.Host.Published = []firewall.Published{{First: 21000, Last: 21000, To: "127.0.0.1:21000"}}
		}, nil},
		{"nat rules unknown", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) { in.Host.Partial = true }, nil},
		{"host unknown", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) { in.Host = nil }, nil},
		{"from files", []string{"tcp 127.0.0.1:21000"}, func(in *Input, _ *consul.Registration) { in.Source = SourceFiles }, nil},
		{"a gateway", []string{"tcp 127.0.0.1:21000"}, func(in *Input, r *consul.Registration) {
			r.Kind, in.Policy.Gateways = consul.KindIngressGateway, []string{r.Name}
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			in.Listeners = listeners(append(tt.listeners, "tcp 127.0.0.1:8080")...)
			in.Host = &Host{Facts: facts.Facts{
				Interfaces: ifaces("1 lo 127.0.0.1/8 10.9.9.9/32", "2 eth0 10.0.0.1/24"),
				Addresses:  []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.9.9.9")},
			}}
			if tt.change != nil {
				tt.change(&in, &in.Registrations[1])
			}
			if diff := cmp.Diff(tt.want, findingsOf(Evaluate(in), catalog.SidecarLoopbackOnly)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestListenForOthers(t *testing.T) {
	reg := sidecar("web", 21000)
	c := claim{reg: &reg, port: 21000}
	got := []string{c.listenForOthers()}
	reg.Proxy.BindAddress = "127.0.0.1"
	got = append(got, c.listenForOthers())
	want := []string{
		`let web-sidecar-proxy listen on more than loopback: proxy { config { bind_address = "0.0.0.0" } } in its registration for Envoy, -listen :21000 for consul connect proxy`,
		`register web-sidecar-proxy with proxy { config { bind_address = "0.0.0.0" } }, or without bind_address`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
