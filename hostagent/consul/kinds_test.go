// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// TestDecodeKinds decodes entries as an agent of Consul 1.21.0 shows them after registrations of every kind through its
// API, and what only Consul Enterprise or a newer one would show.
func TestDecodeKinds(t *testing.T) {
	for _, tt := range []struct {
		name, entry string
		want        Registration
	}{
		{"a mesh gateway with every way to bind", `"Kind": "mesh-gateway", "Port": 8443, "Address": "10.0.0.1",
			"TaggedAddresses": {"wan": {"Address": "198.51.100.1", "Port": 443}, "lan_ipv4": {"Address": "10.0.0.1", "Port": 8444}, "wan_ipv4": {"Address": "10.0.0.1", "Port": 8443}},
			"Proxy": {"Config": {"envoy_gateway_bind_addresses": {"pub": {"address": "0.0.0.0", "port": 8445}, "q": {"Address": "0.0.0.0", "Port": "8446"}},
				"envoy_gateway_bind_tagged_addresses": "true", "envoy_gateway_no_default_bind": 1}, "MeshGateway": {}, "Expose": {}}`,
			Registration{
				Kind: KindMeshGateway, Port: 8443, Address: "10.0.0.1",
				Tagged: []Bind{{"lan_ipv4", "10.0.0.1", 8444}, {"wan", "198.51.100.1", 443}, {"wan_ipv4", "10.0.0.1", 8443}},
				Proxy:  &Proxy{Binds: []Bind{{"pub", "0.0.0.0", 8445}, {"q", "0.0.0.0", 8446}}, BindsTagged: true, NoDefaultBind: true},
			}},
		{"under the names before Consul 1.8", `"Kind": "terminating-gateway", "Proxy": {"Config": {"envoy_mesh_gateway_bind_addresses": {"pub": {"address": "0.0.0.0", "port": 8455}},
			"envoy_mesh_gateway_bind_tagged_addresses": true, "envoy_mesh_gateway_no_default_bind": "0"}}`,
			Registration{Kind: KindTerminatingGateway, Proxy: &Proxy{Binds: []Bind{{"pub", "0.0.0.0", 8455}}, BindsTagged: true}}},
		{"under both, and in another case", `"Kind": "api-gateway", "Proxy": {"Config": {"envoy_mesh_gateway_bind_addresses": {"old": {"port": 1}},
			"ENVOY_Gateway_Bind_Addresses": {"new": {"ADDRESS": "10.1.1.1", "pORT": 2}}}}`,
			Registration{Kind: KindAPIGateway, Proxy: &Proxy{Binds: []Bind{{"new", "10.1.1.1", 2}}}}},
		{"values that are none", `"Kind": "mesh-gateway", "Proxy": {"Config": {"envoy_gateway_bind_addresses": {"a": 7, "b": {"port": true, "address": 9}, "c": null, "d": {"port": "web"}},
			"envoy_gateway_bind_tagged_addresses": "maybe", "envoy_gateway_no_default_bind": {}}}`,
			Registration{Kind: KindMeshGateway, Proxy: &Proxy{Binds: []Bind{{Name: "b", Port: 1}, {Name: "d"}}}}},
		{"lists of maps", `"Kind": "mesh-gateway", "Proxy": {"Config": {"envoy_gateway_bind_addresses": [{"a": {"port": 1}}, {"b": [{"port": [2]}]}, 3]}}`,
			Registration{Kind: KindMeshGateway, Proxy: &Proxy{Binds: []Bind{{Name: "a", Port: 1}, {Name: "b", Port: 2}}}}},
		{"no map at all", `"Kind": "mesh-gateway", "Proxy": {"Config": {"envoy_gateway_bind_addresses": "0.0.0.0:1"}}`,
			Registration{Kind: KindMeshGateway, Proxy: &Proxy{}}},
		{"gateways without a port", `"Kind": "ingress-gateway", "Port": -7, "Proxy": {"MeshGateway": {}, "Expose": {}}`,
			Registration{Kind: KindIngressGateway, Port: -7, Proxy: &Proxy{}}},
		{"tagged addresses of what is no gateway", `"Port": 80, "TaggedAddresses": {"wan": {"Address": "198.51.100.1", "Port": 443}}`, Registration{Port: 80}},
		{"Consul forgets the proxy of a kind that it does not know", `"Kind": "Connect-Proxy", "Port": 21900`, Registration{Kind: "Connect-Proxy", Port: 21900}},
		{"blanks", `"Kind": " connect-proxy ", "Port": 21901`, Registration{Kind: " connect-proxy ", Port: 21901}},
		{"native and a gateway", `"Kind": "mesh-gateway", "Port": 9002, "Proxy": {}, "Connect": {"Native": true}`,
			Registration{Kind: KindMeshGateway, Port: 9002, Native: true, Proxy: &Proxy{}}},
		{"bind_port in another case", `"Kind": "connect-proxy", "Port": 1, "Proxy": {"Config": {"Bind_Port": "9107", "BIND_ADDRESS": "0.0.0.0", "envoy_Stats_bind_addr": ":9104"}}`,
			Registration{Kind: KindConnectProxy, Port: 1, Proxy: &Proxy{BindPort: 9107, BindAddress: "0.0.0.0", MetricsPorts: []int{9104}}}},
		{"the exact key stands over others", `"Proxy": {"Config": {"BIND_PORT": 1, "bind_port": 2, "Bind_Port": 3}}`, Registration{Proxy: &Proxy{BindPort: 2}}},
		{"what Envoy is not told by its registration", `"Proxy": {"Config": {"envoy_ready_bind_address": "0.0.0.0", "envoy_ready_bind_port": 20300,
			"envoy_statsd_url": "udp://127.0.0.1:9125", "envoy_dogstatsd_url": "udp://127.0.0.1:9126", "envoy_prometheus_bind_addr": ["0.0.0.0:9102"]}}`, Registration{Proxy: &Proxy{}}},
		{"an application on a socket, with a port that means nothing", `"Kind": "connect-proxy", "Port": 21000, "Proxy": {"LocalServiceSocketPath": "/run/a.sock", "LocalServicePort": 4444}`,
			Registration{Kind: KindConnectProxy, Port: 21000, Proxy: &Proxy{LocalServiceSocket: "/run/a.sock", LocalServicePort: 4444}}},
		{"keys of no concern", `"Port": 1, "Locality": {"Region": "r"}, "Weights": {"Passing": 3, "Warning": 1}, "Blah": [3], "PeerName": "other", "Meta": {"a": "b"},
			"Proxy": {"EnvoyExtensions": [{"Name": "builtin/lua", "Arguments": {"a": [1]}}], "AccessLogs": {"Enabled": true},
				"Upstreams": [{"DestinationName": "p", "DestinationPeer": "peer1", "LocalBindPort": 9300}]}`,
			Registration{Port: 1, Proxy: &Proxy{Upstreams: []Upstream{{Name: "p", Port: 9300}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeServices(fmt.Appendf(nil, `{"x": {"ID": "x", "Service": "x", %s}}`, tt.entry))
			if err != nil {
				t.Fatal(err)
			}
			tt.want.ID, tt.want.Name = "x", "x"
			if diff := gocmp.Diff([]Registration{tt.want}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeManyBinds(t *testing.T) {
	var binds []string
	for i := range 1000 {
		binds = append(binds, fmt.Sprintf(`"n%04d": {"port": %d}`, i, i+1))
	}
	got, err := decodeServices([]byte(`{"x": {"ID": "x", "Proxy": {"Config": {"envoy_gateway_bind_addresses": {` + strings.Join(binds, ",") + `}}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if b := got[0].Proxy.Binds; len(b) != maxBinds || b[0] != (Bind{Name: "n0000", Port: 1}) {
		t.Errorf("%d addresses, the first %v", len(b), b[0])
	}
}
