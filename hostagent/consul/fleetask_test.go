// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var fleetFiles = map[string]string{
	"/v1/catalog/nodes":            "fleet-nodes.json",
	"/v1/health/service/hostagent": "fleet-agents.json",
	"/v1/health/state/any":         "fleet-checks.json",
	"/v1/catalog/service/web":      "fleet-instances.json",
}

// fleetServer answers as was recorded, but for the paths in other.
func fleetServer(t testing.TB, other map[string]http.HandlerFunc, asked func(*http.Request)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, known := fleetFiles[r.URL.Path]
		switch {
		case !r.URL.Query().Has("stale"), !known:
			t.Errorf("asked for %s", r.URL)
		case other[r.URL.Path] != nil:
			other[r.URL.Path](w, r)
			return
		}
		if asked != nil {
			asked(r)
		}
		reply(200, string(recorded(t, file)), deny)(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// The recorded datacenter: a server, a client with two services, of which web took the id of Consul's own check of the node and
// that of a result of a service which is not there, a client that was killed, and a node without an agent.
func TestFleet(t *testing.T) {
	meta := map[string]string{"enforce": "report", "mode": "guard", "range-cells": "##?", "sidecar-range": "21000-21255", "version": "1.0.0"}
	alive := FleetCheck{ID: "hostagent:alive", Name: "hostagent alive", Status: Passing, Output: "hostagent runs.", Notes: "life"}
	silent := alive
	silent.Output = "" // its output had not come to the servers
	const notes = "What the network can reach."
	want := Fleet{
		Datacenter: "dc1",
		Nodes: []FleetNode{
			{Name: "cli-1", ID: "e3f7ab0f-9d95-8639-93ed-e377180f4e60", Address: netip.MustParseAddr("10.98.7.4"), Member: true, TakenBy: "web-1", Sidecars: 2},
			{Name: "ext-1"},
			{Name: "gone-1", Address: netip.MustParseAddr("10.98.7.5"), Member: true},
			{Name: "srv", Address: netip.MustParseAddr("10.98.7.3"), Member: true, Alive: true},
		},
		Agents: []FleetAgent{
			{Node: "cli-1", ID: "hostagent", Meta: meta, Checks: []FleetCheck{
				alive,
				{ID: "hostagent:firewall", Name: "hostagent firewall", Status: Warning, Notes: "n"},
				{ID: "hostagent:service:db-1", Name: "hostagent: db", Status: Passing, Output: "sidecar db-1-sidecar-proxy: port 21001, open", Notes: notes, Application: "db-1"},
				{ID: "hostagent:service:web-1", Name: "hostagent: web", Status: Warning, Output: "HIGH exposed-listener  0.0.0.0:8080\n  Anybody can reach it.", Notes: notes},
			}, Taken: []FleetCheck{
				{ID: "hostagent:service:other", Name: "hostagent: other", Status: Passing, Output: "all is well", Notes: notes, Application: "web-1"},
			}},
			{Node: "gone-1", ID: "hostagent", Meta: meta, Checks: []FleetCheck{silent}},
			{Node: "srv", ID: "hostagent", Checks: []FleetCheck{{ID: "hostagent:alive", Name: "hostagent alive", Status: Warning, Notes: "life"}}},
		},
		Instances: []FleetInstance{{Node: "cli-1", ID: "web-1", Port: 8080}, {Node: "ext-1", ID: "web-x", Port: 80}},
	}
	c := newClient(t, Config{Token: secret, Address: fleetServer(t, nil, func(r *http.Request) {
		filter := ""
		if r.URL.Path == "/v1/health/state/any" {
			filter = `CheckID == "serfHealth" or Name == "Connect Sidecar Listening" or ServiceName != "hostagent" and "hostagent:" in CheckID`
		}
		if q := r.URL.Query(); q.Get("filter") != filter || q.Get("dc") != "dc1" {
			t.Errorf("asked %s", r.URL)
		}
	})})
	got, err := c.Fleet(t.Context(), FleetQuery{Service: "hostagent", Application: "web", Datacenter: "dc1"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Nodes {
		if want.Nodes[i].ID == "" {
			want.Nodes[i].ID = got.Nodes[i].ID
		}
	}
	if diff := cmp.Diff(want, got, sameAddr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// An election takes a moment, in which what a server knows is good enough.
func TestFleetDuringAnElection(t *testing.T) {
	c := newClient(t, Config{Token: secret, Address: fleetServer(t, map[string]http.HandlerFunc{
		"/v1/catalog/nodes": reply(200, string(recorded(t, "fleet-nodes.json")), deny, "X-Consul-LastContact: 14074"),
	}, nil)})
	if _, err := c.Fleet(t.Context(), FleetQuery{Service: "hostagent"}); err != nil {
		t.Error(err)
	}
}

// Without an application none is asked for, and the datacenter is the one that the nodes name.
func TestFleetOfOwnDatacenter(t *testing.T) {
	c := newClient(t, Config{Token: secret, Address: fleetServer(t, nil, func(r *http.Request) {
		if r.URL.Query().Has("dc") || r.URL.Path == "/v1/catalog/service/web" {
			t.Errorf("asked for %s", r.URL)
		}
	})})
	got, err := c.Fleet(t.Context(), FleetQuery{Service: "hostagent"})
	if err != nil || got.Datacenter != "dc1" || got.Instances != nil {
		t.Errorf("datacenter %q with instances %v, %v", got.Datacenter, got.Instances, err)
	}
}

// A host that was left out would read as one that does not run hostagent: no part of an answer counts.
func TestFleetErrors(t *testing.T) {
	const (
		nodes, agents = "/v1/catalog/nodes", "/v1/health/service/hostagent"
		checks        = "/v1/health/state/any"
		both          = `give it node_prefix "" { policy = "read" } and service_prefix "" { policy = "read" } ("hostagent acl-policy --fleet"`
	)
	for _, tt := range []struct {
		name, path, token string
		answer            http.HandlerFunc
		kind              Kind
		text              string
	}{
		{"nodes left out", nodes, secret, reply(200, `[]`, deny, filtered), KindFiltered, both},
		{"agents left out", agents, secret, reply(200, `[]`, deny, filtered), KindFiltered, both},
		{"checks left out", checks, secret, reply(200, string(recorded(t, "fleet-checks.json")), deny, filtered), KindFiltered, both},
		{"instances left out", "/v1/catalog/service/web", secret, reply(200, `[]`, deny, filtered), KindFiltered, both},
		{"nobody under deny", nodes, "", reply(200, `[]`, deny), KindFiltered, `no token was sent; set CONSUL_HTTP_TOKEN_FILE or consul { token_file }; "hostagent acl-policy --fleet"`},
		{"an old agent", agents, secret, reply(200, `[]`), KindTooOld, "upgrade Consul"},
		{"forbidden", agents, secret, reply(403, "rpc error making call: ACL not found"), KindDenied, "Consul does not know this token"},
		{"forbidden without a name", agents, secret, reply(403, "rpc error making call: Permission denied"), KindDenied, `this takes node_prefix "" { policy = "read" } and service_prefix`},
		{"no such datacenter", nodes, secret, reply(500, "rpc error making call: No path to datacenter"), KindStatus,
			`cannot ask datacenter "dc9\x1b": the servers of the Consul agent`},
		{"no leader", nodes, secret, reply(500, "No cluster leader"), KindStatus, "status 500: No cluster leader"},
		{"a server that lost its leader", checks, secret, reply(200, string(recorded(t, "fleet-checks.json")), deny, "X-Consul-LastContact: 61000"),
			KindStatus, "has not heard of a leader for 1m1s"},
		{"throttled", checks, secret, reply(429, "rate limit exceeded"), KindThrottled, "hostagent tries again"},
		{"no nodes", nodes, secret, reply(200, `[]`, deny), KindMalformed, "it is empty"},
		{"null nodes", nodes, secret, reply(200, `null`, deny), KindMalformed, "it is empty"},
		{"object", agents, secret, reply(200, `{}`, deny), KindMalformed, "no JSON list"},
		{"half", agents, secret, reply(200, string(recorded(t, "fleet-agents.json"))[:900], deny), KindMalformed, "cannot read the list of instances of hostagent"},
		{"not UTF-8", nodes, secret, reply(200, "[{\"Node\":\"\xff\"}]", deny), KindMalformed, "UTF-8"},
		{"too many nodes", nodes, secret, reply(200, "["+strings.Repeat(`{},`, MaxMembers)+"{}]", deny), KindMalformed, "more than 50000 nodes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newClient(t, Config{Token: tt.token, Address: fleetServer(t, map[string]http.HandlerFunc{tt.path: tt.answer}, nil)})
			got, err := c.Fleet(t.Context(), FleetQuery{Service: "hostagent", Application: "web", Datacenter: "dc9\x1b"})
			checkError(t, err, tt.kind, tt.text)
			if diff := cmp.Diff(Fleet{}, got, sameAddr); diff != "" {
				t.Errorf("a part of an answer beside the error:\n%s", diff)
			}
		})
	}
}

// What stands in a catalog may be written without any agent, which would have refused it.
func TestFleetBounds(t *testing.T) {
	long := strings.Repeat("x", 600)
	entry := agentEntry{Checks: []checkEntry{
		{CheckID: "b" + long, Name: long, Notes: long, Output: strings.Repeat("y", 5000), Status: "splendid", ServiceID: "hostagent"},
		{CheckID: "a", Status: "warning", ServiceID: "hostagent"},
		{CheckID: "serfHealth", Status: "passing"},
	}}
	entry.Node.Node, entry.Service.ID = "n", "hostagent"
	entry.Service.Meta = map[string]string{"mode": "guard", long: "a", "b": long}
	others := []checkEntry{
		{Node: "n", CheckID: "hostagent:service:web", ServiceID: "web"},
		{Node: "n", CheckID: "hostagent:service:web", ServiceID: "db"},
		{Node: "elsewhere", CheckID: "hostagent:service:web", ServiceID: "web"},
	}
	second := agentEntry{}
	second.Node.Node, second.Service.ID, second.Service.Meta = "n", "another", map[string]string{}
	for i := range maxMetaPairs + 1 {
		second.Service.Meta[strconv.Itoa(i)] = ""
	}
	agents := fleetAgents([]agentEntry{entry, second}, others, "hostagent")
	if len(agents) != 2 || agents[0].ID != "another" || len(agents[0].Meta)+len(agents[0].Checks) != 0 {
		t.Fatalf("got %+v", agents)
	}
	own := agents[1]
	if got := fmt.Sprint(own.Meta); got != "map[mode:guard]" {
		t.Errorf("metadata %s", got)
	}
	if len(own.Checks) != 3 || own.Checks[0].ID != "a" || own.Checks[2].Application != "web" {
		t.Fatalf("checks %+v", own.Checks)
	}
	if c := own.Checks[1]; c.Status != Critical || len(c.Output) != MaxOutput || max(len(c.ID), len(c.Name), len(c.Notes)) > maxFleetText+len("…") {
		t.Errorf("check %+v", c)
	}
}

func FuzzFleet(f *testing.F) {
	for _, file := range fleetFiles {
		f.Add(recorded(f, file))
	}
	f.Add([]byte(`[{"Node":null,"Service":{"Meta":null},"Checks":[{}]}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		nodes, _ := decodeList[nodeEntry](body, MaxMembers, "")
		agents, _ := decodeList[agentEntry](body, MaxMembers, "")
		checks, _ := decodeList[checkEntry](body, maxFleetChecks, "")
		instances, _ := decodeList[instanceEntry](body, maxFleetChecks, "")
		if got := fleetNodes(nodes, checks); len(got) != len(nodes) {
			t.Errorf("%d nodes of %d", len(got), len(nodes))
		}
		if got := fleetAgents(agents, checks, "hostagent"); len(got) != len(agents) {
			t.Errorf("%d agents of %d", len(got), len(agents))
		}
		if got := fleetInstances(instances); len(got) != len(instances) {
			t.Errorf("%d instances of %d", len(got), len(instances))
		}
	})
}

// BenchmarkFleet asks for hosts with ten results of 300 bytes and five sidecars each, all made from the recorded ones.
func BenchmarkFleet(b *testing.B) {
	for _, hosts := range []int{1000, 10_000} {
		b.Run(strconv.Itoa(hosts), func(b *testing.B) {
			bodies := fleetBodies(b, hosts)
			other := map[string]http.HandlerFunc{}
			for path, body := range bodies {
				other[path] = reply(200, body, deny)
			}
			c := newClient(b, Config{Token: secret, Address: fleetServer(b, other, nil)})
			b.ReportAllocs()
			b.ReportMetric(float64(len(bodies["/v1/health/service/hostagent"]))/1e6, "MB-of-agents")
			for b.Loop() {
				if f, err := c.Fleet(b.Context(), FleetQuery{Service: "hostagent"}); err != nil || len(f.Agents) != hosts {
					b.Fatal(err)
				}
			}
		})
	}
}

func fleetBodies(b *testing.B, hosts int) map[string]string {
	b.Helper()
	first := func(file string) map[string]any {
		var list []map[string]any
		if err := json.Unmarshal(recorded(b, file), &list); err != nil {
			b.Fatal(err)
		}
		return list[0]
	}
	node, agent, check := first("fleet-nodes.json"), first("fleet-agents.json"), first("fleet-checks.json")
	var nodes, agents, checks []any
	for i := range hosts {
		name := fmt.Sprintf("host-%05d", i)
		own := maps.Clone(node)
		own["Node"] = name
		nodes = append(nodes, own)
		some := make([]any, 10)
		for j := range some {
			result := maps.Clone(check)
			result["Node"], result["CheckID"], result["ServiceID"] = name, fmt.Sprintf("hostagent:%d", j), "hostagent"
			result["Output"] = strings.Repeat("sidecar web-1: port 21000, open\n", 9)
			some[j] = result
		}
		is := maps.Clone(agent)
		is["Node"], is["Checks"] = own, some
		agents = append(agents, is)
		for j := range 6 {
			other := maps.Clone(check)
			other["Node"], other["CheckID"], other["ServiceID"], other["Name"] = name, fmt.Sprint(j), fmt.Sprint(j), sidecarCheck
			if j == 0 {
				other["CheckID"] = serfHealth
			}
			checks = append(checks, other)
		}
	}
	bodies := map[string]string{}
	for path, list := range map[string][]any{"/v1/catalog/nodes": nodes, "/v1/health/service/hostagent": agents, "/v1/health/state/any": checks} {
		body, err := json.Marshal(list)
		if err != nil {
			b.Fatal(err)
		}
		bodies[path] = string(body)
	}
	return bodies
}
