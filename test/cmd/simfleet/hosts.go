// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// What test/fleet gives hosts.
const (
	firstPort    = 30000 // of applications
	firstSidecar = 21000
)

const (
	joinLimit   = 6 * time.Minute // until all agents run and know each other
	reportLimit = 5 * time.Minute // until all hosts have reported
	quietLimit  = 3 * time.Minute // until nobody writes any more
)

// host is a simulated host: what it has of sockets are values.
type host struct {
	node, address string
	parts         hostagent.Parts
	reload        chan hostagent.Parts
	ended         chan struct{} // closed when hostagent has ended
	stop          context.CancelFunc

	mu        sync.Mutex
	listeners []sockets.Listener
	told      func(sockets.Heard)
}

// newHost is a host whose applications listen on loopback.
func (s *sim) newHost(i int) (*host, error) {
	h := &host{
		node: fmt.Sprintf("host-%04d", i), address: fmt.Sprintf("127.1.%d.%d:8500", i/250, i%250+1),
		reload: make(chan hostagent.Parts), ended: make(chan struct{}),
	}
	h.listen(s.services, false)
	client, err := h.client()
	if err != nil {
		return nil, err
	}
	beside, err := h.client() // a client is for one goroutine
	if err != nil {
		return nil, err
	}
	h.parts = hostagent.Parts{
		Policy:     hostagent.Policy{Mode: hostagent.ModeObserve, OwnService: ownService, Protected: firewall.Ports(22)},
		CloseDelay: 30 * time.Second, PollInterval: s.poll, Report: true,
		Firewall: bare{}, Registry: client, Members: client.Members, Changed: beside.Changed, Listen: h.list, Listened: h.hear,
		Log: slog.New(slog.DiscardHandler), Version: "1.0.0", Address: h.address,
	}
	return h, nil
}

func (h *host) client() (*consul.Client, error) {
	// An agent waits for its turn here: a thousand share the processors.
	return consul.New(consul.Config{Address: h.address, Timeout: time.Minute, UserAgent: "hostagent/1.0.0"})
}

// run starts hostagent.
func (h *host) run(ctx context.Context) {
	ctx, h.stop = context.WithCancel(ctx)
	agent := hostagent.NewAgent(h.parts)
	go func() {
		defer close(h.ended)
		_ = agent.Run(ctx, h.reload) // nil, always
	}()
}

// list is Parts.Listen.
func (h *host) list(context.Context) ([]sockets.Listener, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.listeners, nil
}

// hear is Parts.Listened.
func (h *host) hear(ctx context.Context, told func(sockets.Heard)) error {
	told(sockets.Heard{})
	h.mu.Lock()
	h.told = told
	h.mu.Unlock()
	<-ctx.Done()
	return nil
}

// listen makes the host's sockets; where exposed, the first application listens on the network, too.
func (h *host) listen(services int, exposed bool) {
	var all []sockets.Listener
	add := func(addr netip.Addr, port int) {
		all = append(all, sockets.Listener{
			Protocol: sockets.TCP, Addr: netip.AddrPortFrom(addr, uint16(port)), UID: 1000, Cookie: uint64(len(all) + 1),
		})
	}
	for k := range services {
		add(netip.AddrFrom4([4]byte{127, 0, 0, 1}), firstPort+k)
		add(netip.IPv6Unspecified(), firstSidecar+k)
	}
	if exposed {
		add(netip.IPv4Unspecified(), firstPort)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.listeners = all
}

// wake tells hostagent that something listens, as the kernel does.
func (h *host) wake() {
	h.mu.Lock()
	told := h.told
	h.mu.Unlock()
	if told != nil {
		told(sockets.Heard{Here: 1})
	}
}

// startAgents starts every host's Consul agent, and says what the servers have of hosts without hostagent.
func (s *sim) startAgents(ctx context.Context) (err error) {
	before, err := s.server.index()
	if err != nil {
		return err
	}
	began := time.Now()
	s.agents, err = startProgram(filepath.Join(s.dir, "agents.log"), true, s.choices.agents,
		"-hosts", fmt.Sprint(s.choices.hosts), "-services", fmt.Sprint(s.services), "-dir", filepath.Join(s.dir, "agents"), "-join", serverAddress)
	if err != nil {
		return err
	}
	if err := s.agents.said(ctx, "joined", joinLimit); err != nil {
		return err
	}
	count, wanted := 0, 2*s.services*s.choices.hosts
	err = until(ctx, reportLimit, time.Second, func() (bool, error) {
		var list []*api.Node
		list, _, err := s.server.api.Catalog().Nodes((&api.QueryOptions{}).WithContext(ctx))
		if err != nil || len(list) < s.choices.hosts+1 {
			return false, err
		}
		count, err = s.registered(ctx)
		return count >= wanted, err
	}, func() string { return fmt.Sprintf("the catalog has %d services of %d", count, wanted) })
	if err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	after, err := s.server.index()
	if err != nil {
		return err
	}
	s.figure(fmt.Sprintf("%d hosts with %d services and sidecars each", s.choices.hosts, s.services), seconds(time.Since(began)), "until all are in the catalog and nobody writes")
	s.figure("  entries of the raft log for a host", fmt.Sprintf("%.1f", float64(after-before)/float64(s.choices.hosts)), "nodes, services, certificates of sidecars")
	_, err = s.idle(ctx, "without hostagent", s.window/2)
	return err
}

// registered counts services of the catalog by the node of their first: names have about as many instances each.
func (s *sim) registered(ctx context.Context) (n int, err error) {
	names, _, err := s.server.api.Catalog().Services((&api.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return 0, err
	}
	for name := range names {
		if name == "consul" {
			continue
		}
		instances, _, err := s.server.api.Catalog().Service(name, "", (&api.QueryOptions{}).WithContext(ctx))
		if err != nil {
			return 0, err
		}
		n += len(instances)
	}
	return n, nil
}

// startHosts starts hostagent everywhere and waits until all its checks stand in the catalog.
func (s *sim) startHosts(ctx context.Context) error {
	before, err := s.server.index()
	if err != nil {
		return err
	}
	for i := range s.choices.hosts {
		h, err := s.newHost(i)
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, h)
	}
	began := time.Now()
	for _, h := range s.hosts {
		h.run(ctx)
	}
	count, wanted := 0, s.checks()*len(s.hosts)
	err = until(ctx, reportLimit, time.Second, func() (bool, error) {
		count, err = s.standing(ctx, "", wanted)
		return count >= wanted, err
	}, func() string { return fmt.Sprintf("the catalog has %d checks of hostagent of %d", count, wanted) })
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := s.quiet(ctx); err != nil {
		return err
	}
	after, err := s.server.index()
	if err != nil {
		return err
	}
	s.figure("until every check of every host stands in the catalog", seconds(took), fmt.Sprintf("%d checks a host", s.checks()))
	s.figure("  entries of the raft log for a host", fmt.Sprintf("%.1f", float64(after-before)/float64(len(s.hosts))), "")
	checks, _, err := s.server.api.Health().Checks(ownService, (&api.QueryOptions{Filter: `Status != "passing"`}).WithContext(ctx))
	if err != nil {
		return err
	}
	s.must("checks that do not pass", fmt.Sprint(len(checks)), len(checks) == 0, "none")
	if len(checks) > 0 {
		fmt.Fprintf(s.out, "    %s of %s: %s\n", checks[0].Name, checks[0].Node, checks[0].Output)
	}
	return nil
}

// standing counts hostagent's checks in the catalog. It asks for them all only where their service stands on every host.
func (s *sim) standing(ctx context.Context, filter string, wanted int) (int, error) {
	if wanted > 0 {
		nodes, _, err := s.server.api.Catalog().Service(ownService, "", (&api.QueryOptions{}).WithContext(ctx))
		if err != nil || len(nodes) < len(s.hosts) {
			return 0, err
		}
	}
	checks, _, err := s.server.api.Health().Checks(ownService, (&api.QueryOptions{Filter: filter}).WithContext(ctx))
	return len(checks), err
}

// stopHosts ends hostagent everywhere. What that would write is of no interest: the servers end as well.
func (s *sim) stopHosts() {
	for _, h := range s.hosts {
		if h.stop != nil {
			h.stop()
		}
	}
	for _, h := range s.hosts {
		if h.stop != nil {
			<-h.ended
		}
	}
}

// change gives every running hostagent other parts, as a reload does.
func (s *sim) change(ctx context.Context, f func(*hostagent.Parts)) error {
	for _, h := range s.hosts {
		f(&h.parts)
		select {
		case h.reload <- h.parts:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
