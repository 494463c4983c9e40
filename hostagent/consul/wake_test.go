// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestChanged(t *testing.T) {
	for _, tt := range []struct {
		name   string
		index  uint64
		answer http.HandlerFunc
		next   uint64
		kind   Kind // empty: no error
		text   string
	}{
		{"first", 0, reply(200, `{}`, "X-Consul-Index: 7"), 7, "", ""},
		{"a change", 7, reply(200, `{}`, "X-Consul-Index: 9"), 9, "", ""},
		{"no change", 7, reply(200, `{}`, "X-Consul-Index: 7"), 7, "", ""},
		{"backwards", 7, reply(200, `{}`, "X-Consul-Index: 6"), 0, "", ""},
		{"what nobody decodes", 7, reply(200, "\x00{[", "X-Consul-Index: 9"), 9, "", ""},
		{"filtered by ACLs", 7, reply(200, `{}`, "X-Consul-Index: 9", filtered), 9, "", ""},
		{"index 0", 7, reply(200, `{}`, "X-Consul-Index: 0"), 0, KindMalformed, "missing or 0"},
		{"no index", 7, reply(200, `{}`), 0, KindMalformed, "missing or 0"},
		{"negative", 7, reply(200, `{}`, "X-Consul-Index: -1"), 0, KindMalformed, "missing or 0"},
		{"no number", 7, reply(200, `{}`, "X-Consul-Index: seven"), 0, KindMalformed, "missing or 0"},
		{"too long", 7, reply(200, strings.Repeat(" ", maxChangeBody+1), "X-Consul-Index: 9"), 0, KindMalformed, "more than"},
		{"no servers", 7, reply(500, "No cluster leader"), 0, KindStatus, "status 500: No cluster leader"},
		{"throttled", 7, reply(429, "rate limit exceeded"), 0, KindThrottled, "429"},
		{"denied", 7, reply(403, "ACL not found"), 0, KindDenied, "agent"},
		{"shows the token", 7, reply(500, "X-Consul-Token: "+secret), 0, KindStatus, "(token)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				q := r.URL.Query()
				wait, err := time.ParseDuration(q.Get("wait"))
				if r.URL.Path != "/v1/catalog/node-services/a host?" || !q.Has("stale") || q.Get("filter") != noServices || r.Header.Get("X-Consul-Token") != secret ||
					(tt.index == 0) == q.Has("index") || err != nil || wait < changeWait*9/10 || wait > changeWait {
					t.Errorf("got request %s", r.URL)
				}
				tt.answer(w, r)
			}))
			defer srv.Close()
			next, err := newClient(t, Config{Address: srv.URL, Token: secret}).Changed(t.Context(), "a host?", tt.index)
			checkError(t, err, tt.kind, tt.text)
			if next != tt.next {
				t.Errorf("next index is %d, want %d", next, tt.next)
			}
		})
	}
}

// TestChangedWaits: longer than any other request may take, on one connection, and no longer than its context.
func TestChangedWaits(t *testing.T) {
	const timeout = 20 * time.Millisecond
	connections, asked := map[string]bool{}, make(chan struct{}, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections[r.RemoteAddr] = true
		asked <- struct{}{}
		select {
		case <-r.Context().Done():
		case <-time.After(5 * timeout):
		}
		reply(200, `{}`, "X-Consul-Index: 7")(w, r)
	}))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL, Timeout: timeout})
	for range 3 {
		if next, err := c.Changed(t.Context(), "host", 7); next != 7 || err != nil {
			t.Errorf("got %d, %v", next, err)
		}
		<-asked
	}
	if len(connections) != 1 {
		t.Errorf("it made %d connections", len(connections))
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	began := time.Now()
	_, err := c.Changed(ctx, "host", 7)
	if took := time.Since(began); err == nil || took > 3*timeout {
		t.Errorf("it ended after %v with %v", took, err)
	}
}
