// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// stubAgent stands for a Consul agent: registered services that never change but, if changing is set, one byte of their
// description at every call, and the checks that it is given. Its own share of the measured time is writing bytes that
// are there already.
type stubAgent struct {
	changing bool

	mu     sync.Mutex
	bodies [2][]byte
	calls  int
	checks map[string]*api.AgentCheck
	listed []byte // checks as JSON, nil after a change
}

// newStubAgent serves as many applications as given, each with a sidecar, and returns a client of it.
func newStubAgent(b *testing.B, services int, changing bool) *consul.Client {
	b.Helper()
	s := &stubAgent{changing: changing, checks: map[string]*api.AgentCheck{}}
	for version := range s.bodies {
		s.bodies[version] = servicesBody(b, services, version)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/agent/services", s.serveServices)
	mux.HandleFunc("GET /v1/agent/self", s.serveSelf)
	mux.HandleFunc("GET /v1/agent/checks", s.serveChecks)
	mux.HandleFunc("PUT /v1/agent/service/register", s.registerService)
	mux.HandleFunc("PUT /v1/agent/check/register", s.registerCheck)
	mux.HandleFunc("PUT /v1/agent/check/update/{id}", s.updateCheck)
	server := httptest.NewServer(mux)
	b.Cleanup(server.Close)
	client, err := consul.New(consul.Config{Address: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	return client
}

// servicesBody is /v1/agent/services with the fields that a real agent sends.
func servicesBody(b *testing.B, services, version int) []byte {
	b.Helper()
	all := map[string]*api.AgentService{}
	for i := range services {
		name := fmt.Sprintf("service-%04d", i)
		all[name] = &api.AgentService{
			ID: name, Service: name, Tags: []string{}, Meta: map[string]string{"version": fmt.Sprint(version)}, Port: appPort(i),
			Weights: api.AgentWeights{Passing: 1, Warning: 1}, Datacenter: "dc1",
		}
		all[name+"-sidecar-proxy"] = &api.AgentService{
			Kind: api.ServiceKindConnectProxy, ID: name + "-sidecar-proxy", Service: name + "-sidecar-proxy", Tags: []string{},
			Meta: map[string]string{}, Port: sidecarPort(i), Weights: api.AgentWeights{Passing: 1, Warning: 1}, Datacenter: "dc1",
			Proxy: &api.AgentServiceConnectProxyConfig{
				DestinationServiceName: name, DestinationServiceID: name, LocalServiceAddress: "127.0.0.1", LocalServicePort: appPort(i),
			},
		}
	}
	body, err := json.Marshal(all)
	if err != nil {
		b.Fatal(err)
	}
	return body
}

func (s *stubAgent) serveServices(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls++; !s.changing {
		s.calls = 0
	}
	w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
	w.Write(s.bodies[s.calls%2]) //nolint:errcheck // the client sees it
}

func (s *stubAgent) serveSelf(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"Config":{"NodeName":"host","Datacenter":"dc1","Version":"1.21.0"},"DebugConfig":{"ConnectSidecarMinPort":21000,`+
		`"ConnectSidecarMaxPort":21255,"HTTPPort":8500},"Member":{"Addr":"10.99.0.1"}}`)
}

func (s *stubAgent) serveChecks(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listed == nil {
		s.listed, _ = json.Marshal(s.checks)
	}
	w.Write(s.listed) //nolint:errcheck // the client sees it
}

func (s *stubAgent) registerService(_ http.ResponseWriter, r *http.Request) {
	var service api.AgentServiceRegistration
	if json.NewDecoder(r.Body).Decode(&service) == nil && service.Check != nil {
		s.put(service.Check.CheckID, service.Check.Name, service.Check.Notes, service.ID)
	}
}

func (s *stubAgent) registerCheck(_ http.ResponseWriter, r *http.Request) {
	var check api.AgentCheckRegistration
	if json.NewDecoder(r.Body).Decode(&check) == nil {
		s.put(check.ID, check.Name, check.Notes, check.ServiceID)
	}
}

// put registers a check. The output of one that stands already stays, as with a real agent.
func (s *stubAgent) put(id, name, notes, service string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	check := &api.AgentCheck{CheckID: id, Name: name, Notes: notes, ServiceID: service, ServiceName: service, Type: "ttl"}
	if before := s.checks[id]; before != nil {
		check.Status, check.Output = before.Status, before.Output
	}
	s.checks[id], s.listed = check, nil
}

func (s *stubAgent) updateCheck(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	check := s.checks[strings.TrimPrefix(r.URL.Path, "/v1/agent/check/update/")]
	var update struct{ Status, Output string }
	if check == nil || json.NewDecoder(r.Body).Decode(&update) != nil {
		http.Error(w, "unknown check", http.StatusNotFound)
		return
	}
	check.Status, check.Output, s.listed = update.Status, update.Output, nil
}
