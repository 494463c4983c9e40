// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// healthy answers as an agent with a few services does.
func healthy(rw http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/v1/agent/service/hostagent") {
		http.Error(rw, "unknown service ID: hostagent", http.StatusNotFound) // nobody has taken it
		return
	}
	var text string
	switch routeOf(r) {
	case RouteServices:
		text = `{"web":{"ID":"web","Service":"web","Port":8080},"web-sidecar-proxy":{"ID":"web-sidecar-proxy","Service":"web-sidecar-proxy",
			"Kind":"connect-proxy","Port":21000,"Proxy":{"DestinationServiceName":"web"}}}`
	case RouteSelf:
		text = `{"Config":{"NodeName":"host","NodeID":"7e1d"},"DebugConfig":{"ConnectSidecarMinPort":21000,"ConnectSidecarMaxPort":21255}}`
	case RouteChecks:
		text = `{"serfHealth":{"Node":"host","CheckID":"serfHealth","Status":"passing"}}`
	case RouteMembers:
		text = `[{"Name":"host","Addr":"10.0.0.1","Status":1,"Tags":{"dc":"dc1"}}]`
	case RouteRoots:
		text = `{"TrustDomain":"1.consul","Roots":[{"RootCert":"PEM"}]}`
	case RouteRegister, RouteUpdate:
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set(policyHeader, "allow")
	fmt.Fprint(rw, text)
}

// startFaulty starts a Faulty before an agent on loopback, and a client of it.
func startFaulty(t *testing.T) (*Faulty, *consul.Client) {
	t.Helper()
	agent := httptest.NewServer(http.HandlerFunc(healthy))
	t.Cleanup(agent.Close)
	address := "127.0.0.1:0"
	f, err := NewFaulty(func() (net.Listener, error) {
		listener, err := net.Listen("tcp4", address)
		if err == nil {
			address = listener.Addr().String()
		}
		return listener, err
	}, strings.TrimPrefix(agent.URL, "http://"), agent.Client())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	client, err := consul.New(consul.Config{Address: address, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return f, client
}

// questions are how a client meets each route.
func questions(c *consul.Client) map[Route]func(context.Context) error {
	report := func(status consul.Status) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := c.Report(ctx, consul.Report{Service: "hostagent", Life: consul.Check{Name: "alive", Status: status}})
			return err
		}
	}
	return map[Route]func(context.Context) error{
		RouteServices: func(ctx context.Context) error {
			answer, err := c.Services(ctx)
			if err == nil && len(answer.Registrations) != 2 {
				return fmt.Errorf("%d registrations", len(answer.Registrations))
			}
			return err
		},
		RouteSelf:     func(ctx context.Context) error { _, err := c.Agent(ctx); return err },
		RouteMembers:  func(ctx context.Context) error { _, err := c.Members(ctx); return err },
		RouteRoots:    func(ctx context.Context) error { _, err := c.Roots(ctx); return err },
		RouteChecks:   report(consul.Passing),
		RouteRegister: report(consul.Passing),
		RouteUpdate:   report(consul.Passing),
	}
}

// TestEveryFaultIsOne: what a Faulty passes on is whole, and no fault passes for a whole answer, whatever its parameters.
func TestEveryFaultIsOne(t *testing.T) {
	t.Parallel()
	for _, route := range []Route{RouteServices, RouteSelf, RouteChecks, RouteMembers, RouteRoots, RouteRegister, RouteUpdate} {
		t.Run(string(route), func(t *testing.T) {
			t.Parallel()
			f, client := startFaulty(t)
			ask := questions(client)[route]
			for _, kind := range FaultKinds(route) {
				seeds := uint64(4)
				if strings.HasPrefix(kind, "stall") || kind == "endless" || kind == "refused" {
					seeds = 1 // they take their time
				}
				for seed := range seeds {
					fault, err := NewFault(rand.New(rand.NewPCG(seed, 7)), kind, route, 1)
					if err != nil {
						t.Fatal(err)
					}
					f.Arm(fault)
					err = ask(t.Context())
					lie := kind == "page" && route.path() == ""    // a page with status 200 passes for a write: the next look tells
					again := kind == "reset" && route.path() != "" // net/http asks again on a new connection
					if err == nil && !lie && !again || err != nil && consul.KindOf(err) == "" {
						t.Errorf("%s: %v", fault.Text, err)
					}
					select {
					case <-fault.Done():
					case <-time.After(2 * slow):
						t.Fatalf("%s was not met: %v", fault.Text, err)
					}
					recovers(t, fault.Text, func() error { return ask(t.Context()) })
				}
			}
		})
	}
}

func recovers(t *testing.T, after string, ask func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = ask(); err == nil {
			return
		}
	}
	t.Fatalf("no whole answer after %s: %v", after, err)
}

// TestForgetfulPassesForWhole: that is what close_delay is for.
func TestForgetfulPassesForWhole(t *testing.T) {
	f, client := startFaulty(t)
	if slices.Contains(FaultKinds(RouteServices), Forgetful) {
		t.Error("it is among those that can be told")
	}
	fault, err := NewFault(rand.New(rand.NewPCG(1, 1)), Forgetful, RouteServices, 2)
	if err != nil {
		t.Fatal(err)
	}
	f.Arm(fault)
	for range 2 {
		if answer, err := client.Services(t.Context()); err != nil || len(answer.Registrations) == 2 {
			t.Errorf("%d registrations, %v", len(answer.Registrations), err)
		}
	}
	if answer, err := client.Services(t.Context()); err != nil || len(answer.Registrations) != 2 {
		t.Errorf("afterwards %d registrations, %v", len(answer.Registrations), err)
	}
	if n := f.Passed(RouteServices); n != 1 {
		t.Errorf("%d requests were passed on", n)
	}
	if _, err := NewFault(rand.New(rand.NewPCG(1, 1)), Forgetful, RouteSelf, 1); err == nil {
		t.Error("it happens to a route that has no services")
	}
	if !strings.Contains(fault.Text, Forgetful) {
		t.Errorf("it is called %q", fault.Text)
	}
}
