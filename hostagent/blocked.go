// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// blocks is what the agent knows of other firewalls of its host.
type blocks struct {
	of     *Result          // that the probes were made of
	probes []firewall.Probe // that were looked at
	found  []firewall.Block // of them
	next   time.Time        // when they are looked at again
	err    error            // of the last time
}

// blockedEvery is how often other firewalls are looked at while the ports stay the same.
const blockedEvery = time.Minute

// lookAgain makes the pass look at other firewalls, and at redirects that something depends on: they may have changed. It is
// for the goroutine of the loop.
func (a *Agent) lookAgain() {
	a.blocks.next = time.Time{}
	if a.host != nil && len(a.host.Redirects) > 0 {
		a.hostNext = time.Time{}
	}
}

// lookAtBlocked brings up to date which ports other firewalls of the host block: when the ports are others, and now and
// then. What it finds is judged by the next pass. After a failure what was found before stands.
func (a *Agent) lookAtBlocked(ctx context.Context, now time.Time) {
	if a.parts.Blocked == nil {
		a.blocks = blocks{}
		return
	}
	due := !now.Before(a.blocks.next)
	if !due && a.blocks.of == a.shown {
		return
	}
	probes := probesOf(&a.result, &a.facts, a.listeners, &a.parts.Policy)
	a.blocks.of = a.shown
	if !due && slices.Equal(probes, a.blocks.probes) {
		return
	}
	var found []firewall.Block
	var err error
	a.meanwhile(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, hostDeadline)
		defer cancel()
		found, err = a.parts.Blocked(ctx, probes)
	})
	if err == nil {
		a.blocks.found = found
	}
	a.blocks.probes, a.blocks.err, a.blocks.next = probes, err, now.Add(blockedEvery)
	a.news.trouble(a.parts.Log, now, "blocked", err)
}

// lookAtBlocked finds out which ports other firewalls of the host block.
func (s *Scan) lookAtBlocked(ctx context.Context, parts Parts, in *Input) {
	if parts.Blocked == nil {
		return
	}
	result := Evaluate(*in)
	var err error
	if in.Blocked, err = parts.Blocked(ctx, probesOf(&result, &in.Agent, in.Listeners, &in.Policy)); err != nil {
		s.note("other firewalls of this host were not looked at: %v", err)
	}
}

// probesOf lists what the network should reach: the ports that are, or in observe mode would be, open, and Consul's own.
func probesOf(res *Result, agent *consul.Agent, listeners []sockets.Listener, policy *Policy) []firewall.Probe {
	var probes []firewall.Probe
	for port := range res.Rules.Open.All() {
		probes = append(probes, firewall.Probe{Protocol: firewall.TCP, Port: port, Open: true, Accept: policy.Accept, Set: policy.PublishSet})
	}
	for _, p := range consulServices(agent, listeners) {
		probes = append(probes, firewall.Probe{Protocol: p.protocol, Port: p.port})
	}
	return probes
}

// consulService is a port of Consul that other hosts call.
type consulService struct {
	name     string // as Consul's configuration has it
	protocol firewall.Protocol
	port     uint16
}

// consulServices are the ports of Consul that the network must reach, as far as something listens there for the network:
// gossip, and on servers RPC and gossip between datacenters.
func consulServices(agent *consul.Agent, listeners []sockets.Listener) []consulService {
	candidates := []consulService{{"serf_lan", firewall.TCP, 0}, {"serf_lan", firewall.UDP, 0}}
	if agent.Server {
		candidates = append(candidates, consulService{"serf_wan", firewall.TCP, 0}, consulService{"serf_wan", firewall.UDP, 0},
			consulService{"server", firewall.TCP, 0})
	}
	var services []consulService
	for _, c := range candidates {
		c.port = agent.Ports[c.name]
		if c.port != 0 && slices.ContainsFunc(listeners, func(l sockets.Listener) bool {
			return uint8(l.Protocol) == uint8(c.protocol) && l.Addr.Port() == c.port && l.Exposed()
		}) {
			services = append(services, c)
		}
	}
	return services
}

// publisher keeps the operator's set equal to the open ports.
type publisher struct {
	empty bool // observe mode: nothing of ours is in it
	// left are the sets that a reload has named before, and that still hold what we put there.
	left map[firewall.SetName]func(context.Context, firewall.PortSet) (bool, error)
	err  error
}

// replace takes note that other parts come into force.
func (p *publisher) replace(old, next *Parts) {
	p.empty = false
	if old.Publish != nil && old.Policy.PublishSet != next.Policy.PublishSet {
		if p.left == nil {
			p.left = map[firewall.SetName]func(context.Context, firewall.PortSet) (bool, error){}
		}
		p.left[old.Policy.PublishSet] = old.Publish
	}
	if next.Publish != nil {
		delete(p.left, next.Policy.PublishSet)
	}
}

// publishOpen makes the operator's set hold the open ports, after they are open in the firewall; in observe mode it
// empties the set, as it empties those that are no longer named. A failure is told and tried again, and fails nothing.
func (a *Agent) publishOpen(ctx context.Context, now time.Time) {
	if a.parts.Publish == nil && len(a.publisher.left) == 0 && a.publisher.err == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, applyDeadline)
	defer cancel()
	err := a.publisher.leave(ctx)
	if a.parts.Publish != nil {
		err = errors.Join(err, a.publishNow(ctx))
	}
	a.publisher.err = err
	a.news.trouble(a.parts.Log, now, "publish_set", err)
}

func (a *Agent) publishNow(ctx context.Context) error {
	guards := a.parts.Policy.Mode == ModeGuard
	var open firewall.PortSet
	switch {
	case guards && (a.applyErr != nil || a.memory.answers == 0):
		return a.publisher.err // what is published stands, as what is open does
	case guards:
		open = a.result.Rules.Open
	case a.publisher.empty:
		return nil
	}
	changed, err := a.parts.Publish(ctx, open)
	if changed {
		a.parts.Log.Info("published open ports", "set", a.parts.Policy.PublishSet.String(), "open", open.String())
	}
	a.publisher.empty = !guards && (err == nil || errors.Is(err, firewall.ErrNoSet))
	if !guards && errors.Is(err, firewall.ErrNoSet) {
		return nil // nothing of ours is in it
	}
	return err
}

// leave empties the sets that are no longer named. One that is gone is empty enough.
func (p *publisher) leave(ctx context.Context) error {
	var errs []error
	for set, publish := range p.left {
		_, err := publish(ctx, firewall.PortSet{})
		if err == nil || errors.Is(err, firewall.ErrNoSet) || errors.Is(err, firewall.ErrWrongSet) {
			delete(p.left, set)
			continue
		}
		errs = append(errs, fmt.Errorf("a set that publish_set named before is not emptied: %w", err))
	}
	return errors.Join(errs...)
}
