// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// reportedCommand is "reported ADDRESS CHECKS": a Consul agent that has these checks, as it would list them, and hostagent's
// service if one of them stands on it. They can be taken away.
func reportedCommand(ts *testscript.TestScript, _ bool, args []string) {
	var mu sync.Mutex
	var checks map[string]struct{ CheckID, Name, Status, Type, ServiceID, ServiceName string }
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[1])), &checks))
	own := func() bool {
		for _, check := range checks {
			if check.ServiceID == "hostagent" {
				return true
			}
		}
		return false
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/agent/checks", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Consul-Token") == "narrow" {
			w.Header().Set("X-Consul-Results-Filtered-By-Acls", "true")
		}
		_ = json.NewEncoder(w).Encode(checks)
	})
	mux.HandleFunc("GET /v1/agent/service/hostagent", func(w http.ResponseWriter, _ *http.Request) {
		if !own() {
			http.Error(w, "unknown service ID: hostagent", http.StatusNotFound)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"ID": "hostagent", "Service": "hostagent"})
	})
	mux.HandleFunc("PUT /v1/agent/check/deregister/{id}", func(w http.ResponseWriter, r *http.Request) {
		if id := r.PathValue("id"); checks[id].ServiceName == "denied" {
			http.Error(w, `Permission denied: token with AccessorID '1' lacks permission 'service:write' on "denied"`, http.StatusForbidden)
		} else {
			delete(checks, id)
		}
	})
	mux.HandleFunc("PUT /v1/agent/service/deregister/hostagent", func(http.ResponseWriter, *http.Request) {
		for id, check := range checks {
			if check.ServiceID == "hostagent" {
				delete(checks, id)
			}
		}
	})
	ts.Check(serve(ts.Defer, args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		mux.ServeHTTP(w, r)
	})))
}

// TestRemovedTextIsBounded: an earlier run may have reported on thousands of services.
func TestRemovedTextIsBounded(t *testing.T) {
	gone := consul.Standing{Registered: true, Checks: []consul.StandingCheck{{ID: "hostagent:alive"}}}
	for range 2000 {
		gone.Checks = append(gone.Checks, consul.StandingCheck{ID: "hostagent:service:web", Application: "w\x1b[2Jeb"})
	}
	text := removedText(gone, "hostagent")
	if strings.Count(text, "\n") != 22 || !strings.HasSuffix(text, "removed: 1980 more checks on services\nremoved: service hostagent with 1 check\n") || strings.Contains(text, "\x1b") {
		t.Errorf("got %s", text)
	}
}
