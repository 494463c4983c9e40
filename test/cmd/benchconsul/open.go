// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

const (
	// synTimeout is how long one SYN may go unanswered before the next is sent.
	synTimeout = 5 * time.Millisecond
	openLimit  = 10 * time.Second
	// Registrations come as they like, and apart: what comes in a row shares a pass.
	apartLeast, apartMore = 250 * time.Millisecond, 500 * time.Millisecond
)

// openings registers sidecars and measures until the network reaches their ports, from before the registration: nobody
// listens there, so the host refuses what its firewall lets in.
func (b *bench) openings(ctx context.Context, name string, target time.Duration, registrations int) error {
	if free := lastSidecar - firstSidecar + 1 - b.next; registrations > free {
		fmt.Fprintf(b.out, "  (the range has %d free ports: no registrations are measured)\n", free)
		return nil
	}
	var took, registering []time.Duration
	for range registrations {
		if err := wait(ctx, apartLeast+rand.N(apartMore)); err != nil {
			return err
		}
		port := firstSidecar + b.next
		b.next++
		began := time.Now()
		err := b.consul.API().Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
			Name: fmt.Sprintf("new-%d", port), Port: firstPort + port - firstSidecar,
			Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: port}},
		}, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return err
		}
		registering = append(registering, time.Since(began))
		if err := b.untilOpen(ctx, port); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	if len(took) == 0 {
		return nil
	}
	p99 := percentile(took, 99)
	b.figure(fmt.Sprintf("%s: %d registrations, port open, p50", name, registrations), ms(percentile(took, 50)), "")
	b.figure("    p99", ms(p99), verdict(true, p99 < target, "under "+ms(target)))
	b.figure("    of which Consul took for the registration, p50", ms(percentile(registering, 50)), "")
	return nil
}

// untilOpen sends SYNs from the network until one is answered.
func (b *bench) untilOpen(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	address := net.JoinHostPort(host.IPv4, strconv.Itoa(port))
	for ctx.Err() == nil {
		trying, cancel := context.WithTimeout(ctx, synTimeout)
		conn, err := b.Net.Dial(trying, "tcp", address)
		cancel()
		switch {
		case err == nil:
			return conn.Close()
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil
		}
	}
	return fmt.Errorf("port %d was not open after %v", port, openLimit)
}
