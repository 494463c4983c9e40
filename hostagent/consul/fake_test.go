// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"
)

// fakeAgent keeps services and checks as Consul 1.21.0 was seen to keep them.
type fakeAgent struct {
	mu        sync.Mutex
	services  map[string]bool
	meta      map[string]map[string]string // of services, by id
	foreign   map[string]*api.AgentService // what those of services are that are not as plain as ours
	checks    map[string]*api.AgentCheck
	outputMax int                                // check_output_max_size
	discard   bool                               // discard_check_output
	refuse    func(request string) (int, string) // status 0: as usual
	vet       func(service string) (int, string) // may it be written on, nil: all may
	requests  []string                           // since the last call of log
}

// newFakeAgent starts an agent that has the recorded checks of other services.
func newFakeAgent(t testing.TB) (*fakeAgent, *Client) {
	t.Helper()
	a := &fakeAgent{services: map[string]bool{}, meta: map[string]map[string]string{}, foreign: map[string]*api.AgentService{}, outputMax: MaxOutput, refuse: func(string) (int, string) { return 0, "" }}
	if err := json.Unmarshal(recorded(t, "checks.json"), &a.checks); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	return a, newClient(t, Config{Address: srv.URL})
}

// forget drops service with all its checks.
func (a *fakeAgent) forget(service string) {
	delete(a.services, service)
	delete(a.meta, service)
	maps.DeleteFunc(a.checks, func(_ string, check *api.AgentCheck) bool { return check.ServiceID == service })
}

// log returns the requests since it was called last.
func (a *fakeAgent) log() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.requests = nil }()
	return a.requests
}

func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	request := r.Method + " " + strings.TrimPrefix(r.URL.EscapedPath(), "/v1/agent/")
	a.requests = append(a.requests, request)
	status, text := a.refuse(request)
	if status == 0 {
		status, text = a.answer(request, r)
	}
	w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
	if status != http.StatusOK {
		http.Error(w, text, status)
		return
	}
	fmt.Fprint(w, text)
}

func (a *fakeAgent) answer(request string, r *http.Request) (status int, text string) {
	verb, id := request, ""
	if i := strings.LastIndex(request, "/"); strings.Count(request, "/") == 2 || strings.HasPrefix(request, "GET service/") {
		verb, id = request[:i], request[i+1:]
	}
	var service api.AgentServiceRegistration
	var check api.AgentCheckRegistration
	var update struct{ Status, Output string }
	body := map[string]any{"PUT service/register": &service, "PUT check/register": &check, "PUT check/update": &update}[verb]
	if body != nil {
		if err := json.NewDecoder(r.Body).Decode(body); err != nil {
			return http.StatusBadRequest, err.Error()
		}
	}
	switch verb {
	case "GET service":
		return a.describe(id)
	case "GET services":
		services := map[string]*api.AgentService{}
		for id := range a.services {
			services[id] = cmp.Or(a.foreign[id], &api.AgentService{ID: id, Service: id, Meta: a.meta[id]})
		}
		encoded, err := json.Marshal(services)
		if err != nil {
			return http.StatusInternalServerError, err.Error()
		}
		return http.StatusOK, string(encoded)
	case "GET checks":
		return a.list(r.URL.Query().Get("filter"))
	case "PUT service/register":
		a.services[service.ID], a.meta[service.ID] = true, service.Meta
		if service.Check == nil { // checks that stand are left alone
			break
		}
		a.register(service.Check.CheckID, service.ID, service.Check.Name, service.Check)
	case "PUT service/deregister":
		if !a.services[id] {
			return http.StatusNotFound, fmt.Sprintf("Unknown service ID %q. Ensure that the service ID is passed, not the service name.", id)
		}
		a.forget(id)
	case "PUT check/register":
		if status, text := a.vetted(check.ServiceID, check.ID); status != 0 {
			return status, text
		}
		if check.ServiceID != "" && !a.services[check.ServiceID] {
			return http.StatusNotFound, fmt.Sprintf("ServiceID %q does not exist", check.ServiceID)
		}
		check.AgentServiceCheck.Notes = check.Notes
		a.register(check.ID, check.ServiceID, check.Name, &check.AgentServiceCheck)
	case "PUT check/update", "PUT check/deregister":
		if a.checks[id] == nil {
			return http.StatusNotFound, fmt.Sprintf("Unknown check ID %q. Ensure that the check ID is passed, not the check name.", id)
		}
		if status, text := a.vetted("", id); status != 0 {
			return status, text
		}
		if verb == "PUT check/deregister" {
			delete(a.checks, id)
			break
		}
		a.checks[id].Status, a.checks[id].Output = update.Status, a.stored(update.Output)
	default:
		return http.StatusNotFound, "Invalid URL path: not a recognized HTTP API endpoint"
	}
	return http.StatusOK, ""
}

// register keeps status and output of a check that stands already.
func (a *fakeAgent) register(id, service, name string, check *api.AgentServiceCheck) {
	is := a.checks[id]
	if is == nil {
		is = &api.AgentCheck{Status: check.Status}
		a.checks[id] = is
	}
	is.CheckID, is.ServiceID, is.ServiceName, is.Name, is.Notes, is.Type = id, service, service, name, check.Notes, "ttl"
}

func (a *fakeAgent) stored(output string) string {
	switch {
	case a.discard:
		return ""
	case len(output) > a.outputMax:
		return fmt.Sprintf("%s ... (captured %d of %d bytes)", output[:a.outputMax], a.outputMax, len(output))
	}
	return output
}

// vetted tells whether a check may be written on a service, and be taken from where it stands.
func (a *fakeAgent) vetted(service, id string) (status int, text string) {
	if a.vet == nil {
		return 0, ""
	}
	if is := a.checks[id]; is != nil {
		if status, text := a.vet(is.ServiceID); status != 0 {
			return status, text
		}
	}
	return a.vet(service)
}

func (a *fakeAgent) describe(id string) (status int, text string) {
	if !a.services[id] {
		return http.StatusNotFound, "unknown service ID: " + id
	}
	s := a.foreign[id]
	if s == nil {
		s = &api.AgentService{ID: id, Service: id, Meta: a.meta[id]}
	}
	encoded, err := json.Marshal(s)
	if err != nil {
		return http.StatusInternalServerError, err.Error()
	}
	return http.StatusOK, string(encoded)
}

func (a *fakeAgent) list(filter string) (status int, text string) {
	shown := map[string]*api.AgentCheck{}
	for id, check := range a.checks {
		if filter == "" || filter == standingFilter(check.ServiceID) || strings.HasPrefix(id, "hostagent:") && filter == standingFilter("hostagent") {
			shown[id] = check
		}
	}
	encoded, err := json.Marshal(shown)
	if err != nil {
		return http.StatusInternalServerError, err.Error()
	}
	return http.StatusOK, string(encoded)
}

// state is every check of service on a line: id, status, name, notes and output.
func (a *fakeAgent) state(service string) map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	state := map[string]string{}
	for id, check := range a.checks {
		if check.ServiceID == service {
			state[id] = strings.Join([]string{check.Status, check.Name, check.Notes, check.Output}, "|")
		}
	}
	return state
}
