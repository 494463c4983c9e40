// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestDecodeServices(t *testing.T) {
	got, err := decodeServices(recorded(t, "services.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Registration{
		{ID: "db", Name: "db", Address: "10.0.0.9", Port: 5432},
		{
			ID: "db-sidecar-proxy", Name: "db-sidecar-proxy", Kind: "connect-proxy", Address: "10.0.0.9", Port: 21000,
			Proxy: &Proxy{DestinationName: "db", DestinationID: "db", LocalServiceAddress: "127.0.0.1", LocalServicePort: 5432},
		},
		{ID: "ingress", Name: "ingress", Kind: "ingress-gateway", Port: 8445, Proxy: &Proxy{}},
		{ID: "mesh-gw", Name: "mesh-gw", Kind: "mesh-gateway", Port: 8443, Proxy: &Proxy{}},
		{ID: "pay", Name: "pay", Port: 8443, Native: true},
		{
			ID: "socket-sidecar", Name: "socket-sidecar", Kind: "connect-proxy", Socket: "/run/sock",
			Proxy: &Proxy{DestinationName: "sock", DestinationID: "sock-1", LocalServiceSocket: "/run/app.sock", BindPort: 21502},
		},
		{ID: "term-gw", Name: "term-gw", Kind: "terminating-gateway", Port: 8444, Proxy: &Proxy{}},
		{ID: "web-1", Name: "web", Port: 8080},
		{
			ID: "web-1-sidecar-proxy", Name: "web-sidecar-proxy", Kind: "connect-proxy", Port: 21500,
			Proxy: &Proxy{
				DestinationName: "web", DestinationID: "web-1", LocalServiceAddress: "127.0.0.1", LocalServicePort: 8080, BindPort: 21501,
				Upstreams: []Upstream{{Name: "db", Port: 9191}, {Name: "cache", Address: "0.0.0.0", Port: 9192}},
			},
		},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var gateways []string
	for i := range got {
		if got[i].IsGateway() {
			gateways = append(gateways, got[i].ID)
		}
	}
	if diff := gocmp.Diff([]string{"ingress", "mesh-gw", "term-gw"}, gateways); diff != "" {
		t.Errorf("gateways (-want +got):\n%s", diff)
	}
}

// A registration may hold any number; it is passed on as it is.
func TestDecodeOddServices(t *testing.T) {
	got, err := decodeServices([]byte(`{
		"": {"ID": "", "Port": -1},
		"a\u001bb": {"ID": "a\u001bb", "Port": 99999, "Kind": "other", "Connect": {}, "Namespace": "n", "Partition": "p"},
		"up": {"ID": "up", "Proxy": {"LocalServicePort": -7, "Upstreams": [{"LocalBindPort": 70000}]}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []Registration{
		{Port: -1},
		{ID: "a\x1bb", Port: 99999, Kind: "other", Namespace: "n", Partition: "p"},
		{ID: "up", Proxy: &Proxy{LocalServicePort: -7, Upstreams: []Upstream{{Port: 70000}}}},
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestDecodeProxy decodes what an agent of Consul 1.21 reports of a transparent proxy, central configuration merged.
func TestDecodeProxy(t *testing.T) {
	got, err := decodeServices([]byte(`{"web-sidecar-proxy": {"ID": "web-sidecar-proxy", "Kind": "connect-proxy", "Port": 21000, "Proxy": {
		"DestinationServiceName": "web", "DestinationServiceID": "web", "LocalServiceAddress": "127.0.0.1", "LocalServicePort": 8080,
		"Mode": "transparent", "TransparentProxy": {"OutboundListenerPort": 15002, "DialedDirectly": true},
		"Config": {"bind_address": "0.0.0.0", "envoy_prometheus_bind_addr": "0.0.0.0:20200", "envoy_stats_bind_addr": "[::]:20201"},
		"Upstreams": [
			{"DestinationType": "service", "DestinationName": "db", "LocalBindAddress": "0.0.0.0", "LocalBindPort": 9191, "MeshGateway": {}},
			{"DestinationType": "service", "DestinationName": "s", "LocalBindSocketPath": "/run/x.sock", "MeshGateway": {}},
			{"DestinationPartition": "default", "DestinationName": "central", "Config": {"protocol": "http"}, "MeshGateway": {}}],
		"Expose": {"Checks": true, "Paths": [{"ListenerPort": 21501, "Path": "/metrics", "LocalPathPort": 8080, "Protocol": "http2"}]}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &Proxy{
		DestinationName: "web", DestinationID: "web", LocalServiceAddress: "127.0.0.1", LocalServicePort: 8080,
		BindAddress: "0.0.0.0", Mode: ModeTransparent, OutboundPort: 15002, ExposedPorts: []int{21501}, ExposesChecks: true, MetricsPorts: []int{20200, 20201},
		Upstreams: []Upstream{{Name: "db", Address: "0.0.0.0", Port: 9191}, {Name: "s"}, {Name: "central"}},
	}
	if diff := gocmp.Diff(want, got[0].Proxy); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMetricsPorts(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  []int
	}{
		{"0.0.0.0:20200", []int{20200}}, {"[::]:1", []int{1}}, {":65535", []int{65535}}, {"localhost:20200", []int{20200}},
		{":65536", nil}, {":0", nil}, {":-1", nil}, {":http", nil}, {"20200", nil}, {"::1:20200", nil}, {"", nil},
		{nil, nil}, {20200.0, nil}, {map[string]any{}, nil}, {":20200\x1b", nil},
	} {
		got := MetricsPorts(func(key string) any {
			if key == "envoy_stats_bind_addr" {
				return tt.value
			}
			return nil
		})
		if !slices.Equal(got, tt.want) {
			t.Errorf("MetricsPorts of %#v = %v, want %v", tt.value, got, tt.want)
		}
	}
}

func TestPortOf(t *testing.T) {
	for _, tt := range []struct {
		value any
		want  int
	}{
		{21000.0, 21000}, {21000.9, 21000}, {-1.0, -1}, {1e30, 0}, {-1e30, 0},
		{"21000", 21000}, {"0x5208", 21000}, {"99999999999", 0}, {"", 0}, {" 1", 0}, {"web", 0},
		{int64(80), 80}, {int64(math.MaxInt64), 0}, {int64(math.MinInt64), 0},
		{nil, 0}, {true, 1}, {false, 0}, {[]any{21000.0}, 21000}, {[]any{1.0, 2.0}, 0}, {[]any{}, 0}, {[]any{[]any{1.0}}, 0}, {map[string]any{}, 0},
	} {
		if got := PortOf(tt.value); got != tt.want {
			t.Errorf("PortOf(%#v) = %d, want %d", tt.value, got, tt.want)
		}
	}
}

func TestDecodeAgent(t *testing.T) {
	want := Agent{
		Node: "host-1", NodeID: "11111111-2222-3333-4444-555555555555", Datacenter: "dc1", Version: "1.21.0", DataDir: "/opt/consul",
		Address: netip.MustParseAddr("127.0.0.1"), SidecarMin: 21000, SidecarMax: 21255, RangeKnown: true,
		ExposeMin: 21500, ExposeMax: 21755, Server: true,
		Ports: map[string]uint16{
			"http": 8500, "grpc": 8502, "grpc_tls": 8503, "dns": 8600, "serf_lan": 8301, "serf_wan": 8302, "server": 8300,
		},
		Plain: map[string][]netip.AddrPort{
			"http": {netip.MustParseAddrPort("127.0.0.1:8500")}, "grpc": {netip.MustParseAddrPort("127.0.0.1:8502")},
		},
	}
	for _, tt := range []struct {
		name, body string
		want       Agent
	}{
		{"recorded", string(recorded(t, "self.json")), want},
		{"terse", `{"Config":{"NodeName":"a"}}`, Agent{Node: "a", Ports: map[string]uint16{}}},
		{"no range", `{"Config":{"NodeName":"a"},"DebugConfig":{"ConnectSidecarMinPort":-1,"ConnectSidecarMaxPort":-1}}`,
			Agent{Node: "a", SidecarMin: -1, SidecarMax: -1, RangeKnown: true, Ports: map[string]uint16{}}},
		{"half a range", `{"Config":{"NodeName":"a"},"DebugConfig":{"ConnectSidecarMinPort":21000,"ConnectSidecarMaxPort":"21255"}}`,
			Agent{Node: "a", SidecarMin: 21000, Ports: map[string]uint16{}}},
		{"null range", `{"Config":{"NodeName":"a"},"DebugConfig":{"ConnectSidecarMinPort":null,"ConnectSidecarMaxPort":null}}`,
			Agent{Node: "a", Ports: map[string]uint16{}}},
		{"odd", `{"Config":{"NodeName":"a"},"DebugConfig":{"HTTPPort":70000,"DNSPort":1e30,"GRPCPort":null,"ServerPort":[]},"Member":{"Addr":"::ffff:10.0.0.1"}}`,
			Agent{Node: "a", Address: netip.MustParseAddr("10.0.0.1"), Ports: map[string]uint16{}}},
		{"plain APIs off, on all addresses, on a unix socket, and odd", `{"Config":{"NodeName":"a"},"DebugConfig":{"GRPCTLSPort":-1,"GRPCAddrs":[],
			"HTTPAddrs":["tcp://0.0.0.0:8500","tcp://[::]:8500","unix:///run/consul.sock","tcp://[fe80::1%eth0]:8500","tcp://localhost:8500","127.0.0.1:8500"]}}`,
			Agent{Node: "a", Ports: map[string]uint16{}, Plain: map[string][]netip.AddrPort{"grpc": {}, "http": {
				netip.MustParseAddrPort("0.0.0.0:8500"), netip.MustParseAddrPort("[::]:8500"), netip.MustParseAddrPort("[fe80::1]:8500"),
			}}}},
		{"gRPC that may have TLS, and no list", `{"Config":{"NodeName":"a"},"DebugConfig":{"GRPCAddrs":["tcp://0.0.0.0:8502"],"HTTPAddrs":"tcp://0.0.0.0:8500"}}`,
			Agent{Node: "a", Ports: map[string]uint16{}}},
		{"no address", `{"Config":{"NodeName":"a"},"Member":{"Addr":"localhost"}}`, Agent{Node: "a", Ports: map[string]uint16{}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeAgent([]byte(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tt.want, got, gocmp.Comparer(func(a, b netip.Addr) bool { return a == b }), gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// How many members the gossip pool has is a text among others, of whoever answers.
func TestDecodeAgentMembers(t *testing.T) {
	stats := func(text string) string { return `{"Config":{"NodeName":"a"},"Stats":` + text + `}` }
	for _, tt := range []struct {
		name, body string
		want       int
	}{
		{"recorded, a client", string(recorded(t, "self-1.21.0-client.json")), 2},
		{"recorded, a server", string(recorded(t, "self-1.21.0-server.json")), 1},
		{"recorded, 1.14", string(recorded(t, "self-1.14.11-server.json")), 1},
		{"most", stats(`{"serf_lan":{"members":"1000000"}}`), 1_000_000},
		{"more", stats(`{"serf_lan":{"members":"1000001"}}`), 0},
		{"huge", stats(`{"serf_lan":{"members":"18446744073709551617"}}`), 0},
		{"negative", stats(`{"serf_lan":{"members":"-1"}}`), 0},
		{"no number", stats(`{"serf_lan":{"members":"many"}}`), 0},
		{"no text", stats(`{"serf_lan":{"members":7}}`), 0},
		{"of the WAN", stats(`{"serf_wan":{"members":"7"}}`), 0},
		{"odd", stats(`[]`), 0},
		{"null", stats(`null`), 0},
		{"none", `{"Config":{"NodeName":"a"}}`, 0},
	} {
		if a, err := decodeAgent([]byte(tt.body)); err != nil || a.Members != tt.want {
			t.Errorf("%s: %d, %v; want %d", tt.name, a.Members, err, tt.want)
		}
	}
}

func FuzzDecodeServices(f *testing.F) {
	f.Add(recorded(f, "services.json"))
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"a":null}`, `{"a":{"ID":"a","Port":-1}}`, `{"a":{"ID":"a","Port":1e400}}`, "{\"\xff\":{\"ID\":\"\xff\"}}",
		`{"a":{"ID":"a","Proxy":{"Config":{"bind_port":1e30},"Upstreams":[{"LocalBindPort":9}]}}}`, `{"a":{"ID":"a"},"a":{"ID":"a"}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		regs, err := decodeServices(body)
		if err != nil {
			if regs != nil {
				t.Errorf("a part of an answer beside error %v", err)
			}
			return
		}
		if regs == nil {
			t.Error("no services must be an empty list, not nil")
		}
		if !slices.IsSortedFunc(regs, func(a, b Registration) int { return cmp.Compare(a.ID, b.ID) }) {
			t.Errorf("not sorted: %v", regs)
		}
		if len(slices.CompactFunc(slices.Clone(regs), func(a, b Registration) bool { return a.ID == b.ID })) != len(regs) {
			t.Errorf("an id appears twice: %v", regs)
		}
	})
}

func FuzzDecodeAgent(f *testing.F) {
	f.Add(recorded(f, "self.json"))
	for _, seed := range []string{
		`{}`, `null`, `{"Config":null}`, `{"Config":{"NodeName":"a"},"DebugConfig":[]}`, `{"Config":{"NodeName":"a"},"Member":{"Addr":"fe80::1%eth0"}}`,
		`{"Config":{"NodeName":"a"},"DebugConfig":{"HTTPPort":-1,"ConnectSidecarMinPort":1e3,"ConnectSidecarMaxPort":65536}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		a, err := decodeAgent(body)
		if err != nil {
			return
		}
		if a.Node == "" || a.Ports == nil || a.Members < 0 || a.Members > 1_000_000 {
			t.Errorf("got %+v", a)
		}
		for name, port := range a.Ports {
			if port == 0 {
				t.Errorf("port 0 of %s", name)
			}
		}
	})
}
