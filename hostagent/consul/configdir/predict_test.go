// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// settings makes Settings of keys and values, which take turns.
func settings(pairs ...any) Settings {
	s := Settings{values: map[string]Setting{}}
	for i := 0; i < len(pairs); i += 2 {
		s.values[pairs[i].(string)] = Setting{Value: pairs[i+1]}
	}
	return s
}

// What the files of testdata/parity cannot show: which ports are predicted, where problems are found, and namespaces,
// which Community Edition does not have.
func TestRegistrations(t *testing.T) {
	sidecar := func(id string, port int, predicted bool, parent string, parentPort int) consul.Registration {
		return consul.Registration{
			ID: id, Name: id, Kind: consul.KindConnectProxy, Port: port, Predicted: predicted,
			Proxy: &consul.Proxy{
				DestinationName: parent, DestinationID: parent, LocalServiceAddress: "127.0.0.1", LocalServicePort: parentPort,
			},
		}
	}
	own := settings("ports.sidecar_min_port", int64(25000), "ports.sidecar_max_port", int64(25001))
	for _, tt := range []struct {
		name     string
		config   Config
		want     []consul.Registration
		problems []string
	}{
		{"nothing", Config{}, nil, nil},
		{
			"assigned and written", Config{Services: []Service{
				{Name: "web", Port: 80, Sidecar: &Service{}},
				{Name: "db", Port: 81, Sidecar: &Service{Port: 21001}},
			}},
			[]consul.Registration{
				{ID: "db", Name: "db", Port: 81},
				sidecar("db-sidecar-proxy", 21001, false, "db", 81),
				{ID: "web", Name: "web", Port: 80},
				sidecar("web-sidecar-proxy", 21000, true, "web", 80),
			}, nil,
		},
		{
			"a port that another definition wrote is assigned all the same", Config{Services: []Service{
				{ID: "web-sidecar-proxy", Name: "other", Port: 21040},
				{Name: "web", Port: 80, Sidecar: &Service{}},
			}},
			[]consul.Registration{
				{ID: "web", Name: "web", Port: 80},
				sidecar("web-sidecar-proxy", 21040, true, "web", 80),
			}, nil,
		},
		{
			"exhausted", Config{Settings: own, Services: []Service{
				{Name: "a", Sidecar: &Service{}}, {Name: "b", Sidecar: &Service{}},
				{File: "x.hcl", Line: 3, Name: "c\x1b", Port: 1, Sidecar: &Service{Line: 5}},
				{File: "x.hcl", Line: 9, Name: "d", Port: 2, Sidecar: &Service{}},
				{Name: "e", Sidecar: &Service{Port: 9}},
			}},
			[]consul.Registration{
				{ID: "a", Name: "a"}, sidecar("a-sidecar-proxy", 25000, true, "a", 0),
				{ID: "b", Name: "b"}, sidecar("b-sidecar-proxy", 25001, true, "b", 0),
				{ID: "c\x1b", Name: "c\x1b", Port: 1},
				{ID: "d", Name: "d", Port: 2},
				{ID: "e", Name: "e"}, sidecar("e-sidecar-proxy", 9, false, "e", 0),
			},
			[]string{
				`x.hcl:5: cannot register the sidecar of service "c\x1b": it has no port, and 25000-25001 has none left; give it one, or widen ports { sidecar_min_port, sidecar_max_port }`,
				`x.hcl:9: cannot register the sidecar of service "d": it has no port, and 25000-25001 has none left; give it one, or widen ports { sidecar_min_port, sidecar_max_port }`,
			},
		},
		{
			"off", Config{Settings: settings("ports.sidecar_min_port", int64(0)), Services: []Service{
				{File: "x.hcl", Line: 1, Name: "a", Sidecar: &Service{}},
			}},
			[]consul.Registration{{ID: "a", Name: "a"}},
			[]string{`x.hcl:1: cannot register the sidecar of service "a": it has no port, and ports.sidecar_min_port or sidecar_max_port turns assignment off; give it a port`},
		},
		{
			"ids count once a namespace, and ports once a host", Config{Services: []Service{
				{Name: "a", Namespace: "one", Sidecar: &Service{}},
				{Name: "a", Namespace: "two", Sidecar: &Service{Namespace: "ignored"}},
			}},
			[]consul.Registration{
				{ID: "a", Name: "a", Namespace: "one"}, {ID: "a", Name: "a", Namespace: "two"},
				in("one", sidecar("a-sidecar-proxy", 21000, true, "a", 0)),
				in("two", sidecar("a-sidecar-proxy", 21001, true, "a", 0)),
			}, nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, problems := tt.config.Registrations()
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("registrations (-want +got):\n%s", diff)
			}
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.Error())
			}
			if diff := gocmp.Diff(tt.problems, texts); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func in(namespace string, r consul.Registration) consul.Registration {
	r.Namespace = namespace
	return r
}

// A prediction is the caller's own: it can be asked for again.
func TestRegistrationsShareNothing(t *testing.T) {
	proxy := &consul.Proxy{Upstreams: []consul.Upstream{{Name: "db", Port: 1}}}
	c := Config{Services: []Service{
		{Name: "web", Sidecar: &Service{Proxy: proxy}},
		{Name: "gateway", Kind: consul.KindMeshGateway, Proxy: proxy},
	}}
	want, _ := c.Registrations()
	got, _ := c.Registrations()
	for _, r := range got {
		if r.Proxy != nil {
			r.Proxy.DestinationName, r.Proxy.Upstreams[0].Name = "changed", "changed"
		}
	}
	again, _ := c.Registrations()
	if diff := gocmp.Diff(want, again); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if proxy.DestinationName != "" || proxy.Upstreams[0].Name != "db" {
		t.Errorf("the configuration was changed: %+v", proxy)
	}
}

// Thousands of sidecars must not take seconds.
func BenchmarkRegistrations(b *testing.B) {
	c := Config{Settings: settings("ports.sidecar_min_port", int64(1), "ports.sidecar_max_port", int64(65535))}
	for i := range 4000 {
		c.Services = append(c.Services, Service{Name: strings.Repeat("x", i%50) + string(rune('a'+i/50)), Sidecar: &Service{}})
	}
	for b.Loop() {
		if got, problems := c.Registrations(); len(got) != 8000 || len(problems) != 0 {
			b.Fatal(len(got), problems)
		}
	}
}

func TestAgent(t *testing.T) {
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	client := func(change func(*consul.Agent)) consul.Agent {
		a := consul.Agent{
			Node: hostname, Datacenter: "dc1", SidecarMin: 21000, SidecarMax: 21255, RangeKnown: true, ExposeMin: 21500, ExposeMax: 21755,
			Ports: map[string]uint16{"http": 8500, "dns": 8600, "serf_lan": 8301, "serf_wan": 8302, "server": 8300},
		}
		change(&a)
		return a
	}
	for _, tt := range []struct {
		name     string
		settings Settings
		want     consul.Agent
	}{
		{"nothing", Settings{}, client(func(*consul.Agent) {})},
		{"names", settings("node_name", " web-1 ", "node_id", "AAAA", "datacenter", "EU-1"), client(func(a *consul.Agent) {
			a.Node, a.NodeID, a.Datacenter = "web-1", "aaaa", "eu-1"
		})},
		{"wrong types", settings("node_name", int64(1), "datacenter", true, "ports.http", "x", "bind_addr", nil, "server", "true"),
			client(func(*consul.Agent) {})},
		{"server", settings("server", true), client(func(a *consul.Agent) { a.Ports["grpc_tls"] = 8503 })},
		{"server without TLS", settings("server", true, "ports.grpc_tls", int64(-1)), client(func(*consul.Agent) {})},
		{"ports", settings("ports.http", int64(0), "ports.https", 8501.9, "ports.dns", int64(-1), "ports.grpc", int64(65536)),
			client(func(a *consul.Agent) {
				delete(a.Ports, "http")
				delete(a.Ports, "dns")
				a.Ports["https"] = 8501
			})},
		{"odd numbers", settings("ports.http", math.Inf(1), "ports.dns", int64(math.MinInt64), "ports.serf_wan", int64(math.MaxInt64)),
			client(func(a *consul.Agent) {
				delete(a.Ports, "http")
				delete(a.Ports, "dns")
				delete(a.Ports, "serf_wan")
			})},
		{"range", settings("ports.sidecar_min_port", int64(0), "ports.sidecar_max_port", int64(65535)), client(func(a *consul.Agent) {
			a.SidecarMin, a.SidecarMax = -1, 65535
		})},
		{"bind_addr", settings("bind_addr", " 10.0.0.1 "), client(func(a *consul.Agent) { a.Address = netip.MustParseAddr("10.0.0.1") })},
		{"advertise_addr", settings("bind_addr", "10.0.0.1", "advertise_addr", "::ffff:10.0.0.2"), client(func(a *consul.Agent) {
			a.Address = netip.MustParseAddr("10.0.0.2")
		})},
		{"any", settings("bind_addr", "0.0.0.0"), client(func(*consul.Agent) {})},
		{"any of IPv6", settings("bind_addr", "[::]"), client(func(*consul.Agent) {})},
		{"template", settings("bind_addr", "10.0.0.1", "advertise_addr", `{{ GetPrivateIP }}`), client(func(*consul.Agent) {})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := (&Config{Settings: tt.settings}).Agent()
			if diff := gocmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
