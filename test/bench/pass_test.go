// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/test/host"
)

func TestMain(m *testing.M) { host.Main(m) }

func appPort(i int) int     { return 10000 + i }
func sidecarPort(i int) int { return 21000 + i }

// listen opens real sockets: for each service one on loopback and one for its sidecar, and others on loopback up to total.
func listen(b *testing.B, services, total int) {
	b.Helper()
	addresses := make([]string, total)
	for i := range addresses {
		addresses[i] = "127.0.0.1:0"
	}
	for i := range services {
		addresses[2*i] = fmt.Sprintf("127.0.0.1:%d", appPort(i))
		addresses[2*i+1] = fmt.Sprintf("[::]:%d", sidecarPort(i))
	}
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			b.Fatalf("%v (%d listeners need as many descriptors: see ulimit -n)", err, total)
		}
		b.Cleanup(func() { l.Close() })
	}
}

// gated is a registry that holds each pass back at its beginning until the benchmark lets it go, or is over.
type gated struct {
	*consul.Client
	arrived, let, over chan struct{}
}

func newGated(client *consul.Client) gated {
	return gated{client, make(chan struct{}), make(chan struct{}), make(chan struct{})}
}

func (g gated) Services(ctx context.Context) (consul.Answer, error) {
	select {
	case g.arrived <- struct{}{}:
	case <-g.over:
	}
	select {
	case <-g.let:
	case <-g.over:
	}
	return g.Client.Services(ctx)
}

// BenchmarkPass makes whole passes of a guarding hostagent with 250 services and 2,000 listeners: questions to an agent
// over HTTP, real sockets, a real firewall, the comparison of 252 checks. Only the agent is a stub, whose time counts too.
func BenchmarkPass(b *testing.B) {
	const services, total = 250, 2000
	listen(b, services, total)
	for _, kind := range []struct {
		name     string
		listener bool // one listener more or less than in the pass before
		answer   bool // another answer of the agent than in the pass before
		owners   bool // who holds the sidecars' sockets is looked up: they are root's
	}{
		{name: "steady"},
		{name: "listener", listener: true},
		{name: "answer", answer: true},
		{name: "answer-with-owners", answer: true, owners: true},
	} {
		b.Run(kind.name, func(b *testing.B) {
			fw, err := firewall.New(firewall.Options{Variant: firewall.VariantNFT})
			if err != nil {
				b.Fatal(err)
			}
			registry := newGated(newStubAgent(b, services, kind.answer))
			parts := hostagent.Parts{
				Policy: hostagent.Policy{
					Mode: hostagent.ModeGuard, Protected: firewall.Ports(22), OwnService: "hostagent",
				},
				CloseDelay: 30 * time.Second, PollInterval: time.Nanosecond, Report: true,
				Registry: registry, Firewall: fw, Listen: sockets.List, Log: slog.New(slog.DiscardHandler), Version: "bench",
			}
			if kind.listener {
				parts.Listen = listOneLess()
			}
			if kind.owners {
				parts.Owners = sockets.NewOwners()
			}
			passes(b, parts, registry, services)
		})
	}
}

// listOneLess returns a List that leaves the last listener out every other time.
func listOneLess() func(context.Context) ([]sockets.Listener, error) {
	calls := 0
	return func(ctx context.Context) ([]sockets.Listener, error) {
		listeners, err := sockets.List(ctx)
		calls++
		return listeners[:max(len(listeners)-calls%2, 0)], err
	}
}

// passes runs an agent until it guards, and measures from then on.
func passes(b *testing.B, parts hostagent.Parts, registry gated, services int) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- hostagent.NewAgent(parts).Run(ctx, nil) }()
	b.Cleanup(func() {
		cancel()
		close(registry.over) // a stop waits for the pass under way
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	pass := func() {
		registry.let <- struct{}{}
		<-registry.arrived
	}
	<-registry.arrived
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		pass() // until two equal answers at least two seconds apart were seen
	}
	state, err := parts.Firewall.Show(ctx)
	if err != nil {
		b.Fatal(err)
	}
	if guard, open := state.Guard(), state.Open(); guard.Len() != 256 || open.Len() != services {
		b.Fatalf("it guards %s and opens %s", guard, open)
	}
	b.ReportAllocs()
	for b.Loop() {
		pass()
	}
}

// BenchmarkAnswer asks a stub of an agent for 250 services, each with a sidecar. The difference between the two is what
// decoding takes.
func BenchmarkAnswer(b *testing.B) {
	for _, changing := range []bool{false, true} {
		b.Run(map[bool]string{false: "unchanged", true: "changed"}[changing], func(b *testing.B) {
			client := newStubAgent(b, 250, changing)
			b.ReportAllocs()
			for b.Loop() {
				answer, err := client.Services(b.Context())
				if err != nil || len(answer.Registrations) != 500 {
					b.Fatalf("%d registrations, %v", len(answer.Registrations), err)
				}
			}
		})
	}
}
