// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is asked, and which index comes of it. A question that has no answer here waits until it is given up.
func TestFleetChanged(t *testing.T) {
	const agents, nodes = "/v1/health/service/hostagent", "/v1/catalog/nodes"
	at := func(index string) http.HandlerFunc { return reply(200, `[]`, "X-Consul-Index: "+index) }
	for _, tt := range []struct {
		name    string
		index   FleetIndex
		answers map[string]http.HandlerFunc
		asked   []string
		want    FleetIndex
		kind    Kind
		text    string
	}{
		{"first", FleetIndex{}, map[string]http.HandlerFunc{agents: at("7"), nodes: at("5")}, []string{nodes, agents}, FleetIndex{7, 5}, "", ""},
		{"first, again for the nodes", FleetIndex{7, 0}, map[string]http.HandlerFunc{nodes: at("5")}, []string{nodes}, FleetIndex{7, 5}, "", ""},
		{"a check", FleetIndex{7, 5}, map[string]http.HandlerFunc{agents: at("9")}, []string{nodes, agents}, FleetIndex{9, 5}, "", ""},
		{"a node", FleetIndex{7, 5}, map[string]http.HandlerFunc{nodes: at("9")}, []string{nodes, agents}, FleetIndex{7, 9}, "", ""},
		{"no change", FleetIndex{7, 5}, map[string]http.HandlerFunc{agents: at("7")}, []string{nodes, agents}, FleetIndex{7, 5}, "", ""},
		{"backwards", FleetIndex{7, 5}, map[string]http.HandlerFunc{agents: at("6")}, []string{nodes, agents}, FleetIndex{0, 5}, "", ""},
		{"filtered by ACLs", FleetIndex{7, 5}, map[string]http.HandlerFunc{nodes: reply(200, `[]`, "X-Consul-Index: 9", filtered)}, []string{nodes, agents}, FleetIndex{7, 9}, "", ""},
		{"index 0", FleetIndex{7, 5}, map[string]http.HandlerFunc{agents: at("0")}, []string{nodes, agents}, FleetIndex{}, KindMalformed, "missing or 0"},
		{"no index", FleetIndex{}, map[string]http.HandlerFunc{agents: reply(200, `[]`), nodes: at("5")}, []string{nodes, agents}, FleetIndex{}, KindMalformed, "missing or 0"},
		{"denied", FleetIndex{7, 5}, map[string]http.HandlerFunc{agents: reply(403, "ACL not found")}, []string{nodes, agents}, FleetIndex{}, KindDenied, "agent"},
		{"throttled", FleetIndex{7, 5}, map[string]http.HandlerFunc{nodes: reply(429, "later")}, []string{nodes, agents}, FleetIndex{}, KindThrottled, "429"},
		{"too long", FleetIndex{7, 5}, map[string]http.HandlerFunc{nodes: reply(200, strings.Repeat(" ", maxChangeBody+1), "X-Consul-Index: 9")},
			[]string{nodes, agents}, FleetIndex{}, KindMalformed, "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var asked []string
			all := make(chan struct{}) // closed once every question of the case is there
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				wait, err := time.ParseDuration(q.Get("wait"))
				filter := map[string]string{agents: `Node.Node == ""`, nodes: `Node == ""`}[r.URL.Path]
				if !q.Has("stale") || filter == "" || q.Get("filter") != filter || q.Get("dc") != "dc2" || err != nil || wait < changeWait*9/10 || wait > changeWait {
					t.Errorf("got request %s", r.URL)
				}
				mu.Lock()
				asked = append(asked, r.URL.Path)
				if len(asked) == len(tt.asked) {
					close(all)
				}
				mu.Unlock()
				<-all
				if answer := tt.answers[r.URL.Path]; answer != nil {
					answer(w, r)
					return
				}
				<-r.Context().Done()
			}))
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL, Token: secret}).
				FleetChanged(t.Context(), FleetQuery{Service: "hostagent", Datacenter: "dc2"}, tt.index)
			if checkError(t, err, tt.kind, tt.text); err == nil && got != tt.want {
				t.Errorf("index %+v, want %+v", got, tt.want)
			}
			mu.Lock()
			defer mu.Unlock()
			if slices.Sort(asked); !slices.Equal(asked, tt.asked) {
				t.Errorf("asked %q, want %q", asked, tt.asked)
			}
		})
	}
}

// It ends with its context, whatever it waits for.
func TestFleetChangedEnds(t *testing.T) {
	asked := make(chan struct{}, 2)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		<-asked
		cancel()
	}()
	if _, err := newClient(t, Config{Address: srv.URL}).FleetChanged(ctx, FleetQuery{Service: "hostagent"}, FleetIndex{7, 5}); KindOf(err) != KindTimeout {
		t.Errorf("it ended with %v", err)
	}
}
