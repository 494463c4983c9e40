// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

const (
	membersEvery  = 10 * time.Second // how often the agent is asked who the members of the datacenter are
	networksEvery = 5 * time.Second  // how often this host's addresses and bridges are looked at
)

// sources is what the loop knows of who may connect, as far as the operator limits it.
type sources struct {
	members     *sourceMemory // for Policy.AllowCluster
	pathMembers *sourceMemory // for Policy.ExposedPathsCluster: an earlier run may have let in others there
	membersErr  error         // of the last question, nil where it was answered
	membersNext time.Time     // when the agent is asked again
	failures    int           // of the last questions

	networks     facts.Networks
	networksRead bool // networks were read at least once
	networksErr  error
	networksNext time.Time
}

// soon makes the next pass ask and look again.
func (s *sources) soon() { s.membersNext, s.networksNext, s.failures = time.Time{}, time.Time{}, 0 }

// askMembers asks who the members of the datacenter are, now and then and only where the operator lets them in. What was
// answered before stands when there is no answer.
func (a *Agent) askMembers(ctx context.Context, now time.Time) {
	s := &a.sources
	policy := &a.parts.Policy
	if !policy.AllowCluster {
		s.members = newSourceMemory()
	}
	if !policy.ExposedPathsCluster {
		s.pathMembers = newSourceMemory()
	}
	switch {
	case !policy.AllowCluster && !policy.ExposedPathsCluster:
		s.membersErr, s.membersNext, s.failures = nil, time.Time{}, 0
		return
	case a.failures > 0: // the agent does not answer; its trouble is told already
		s.miss()
		return
	case now.Before(s.membersNext):
		return
	}
	var members []netip.Addr
	var err error
	a.meanwhile(ctx, func(ctx context.Context) { members, err = a.parts.members(ctx, a.facts.Datacenter) })
	if s.membersErr = err; err != nil {
		a.consulFailed(ctx, err)
		s.miss()
		wait := min(a.parts.PollInterval<<min(s.failures, 6), membersEvery)
		s.membersNext = now.Add(wait/2 + rand.N(wait/2+1))
		s.failures++
		return
	}
	s.failures, s.membersNext = 0, now.Add(membersEvery)
	if policy.AllowCluster {
		s.members.answer(now, members, a.parts.CloseDelay)
	}
	if policy.ExposedPathsCluster {
		s.pathMembers.answer(now, members, a.parts.CloseDelay)
	}
}

// miss records that nobody told who is a member.
func (s *sources) miss() {
	s.members.miss()
	s.pathMembers.miss()
}

// clusterSetting names the setting for whose sake members are asked for.
func (p *Policy) clusterSetting() string {
	switch {
	case !p.ExposedPathsCluster:
		return "allow_from"
	case !p.AllowCluster:
		return "exposed_paths_from"
	}
	return "allow_from and exposed_paths_from"
}

// members asks for the members of a datacenter, "" for all that the agent knows.
func (p *Parts) members(ctx context.Context, datacenter string) ([]netip.Addr, error) {
	members, err := consul.Members{}, errors.New("no Consul agent is asked")
	if p.Members != nil {
		members, err = p.Members(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot learn who the members of the datacenter are, for %s: %w", p.Policy.clusterSetting(), err)
	}
	of := members.Of(datacenter)
	if len(of) == 0 { // the agent itself should be there
		return nil, fmt.Errorf("cannot use the members of the datacenter for %s: none of them says that it is in %q", p.Policy.clusterSetting(), datacenter)
	}
	return of, nil
}

// lookAtNetworks brings the host's own networks up to date, where it matters whose they are.
func (a *Agent) lookAtNetworks(ctx context.Context, now time.Time) {
	s := &a.sources
	switch {
	case a.parts.Networks == nil:
		return
	case !a.parts.Policy.limits():
		s.networks, s.networksRead, s.networksErr, s.networksNext = facts.Networks{}, false, nil, time.Time{}
		return
	case now.Before(s.networksNext):
		return
	}
	var networks facts.Networks
	var err error
	a.meanwhile(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, hostDeadline)
		defer cancel()
		networks, err = a.parts.Networks(ctx)
	})
	s.networksErr, s.networksNext = err, now.Add(networksEvery)
	if err == nil {
		s.networks, s.networksRead = networks, true
	}
}

// askSources brings up to date who may connect, and tells what could not be asked.
func (a *Agent) askSources(ctx context.Context, now time.Time) {
	a.askMembers(ctx, now)
	a.lookAtNetworks(ctx, now)
}

// wait tells why nobody can be let in yet, nil where somebody can: half of who may connect would shut out the others.
func (s *sources) wait(p *Policy) error {
	const text = "cannot tell who may connect, so what stands stays: "
	if p.limits() && p.AllowBridges && !s.networksRead && s.networksErr != nil {
		return fmt.Errorf(text+"the networks of this host's bridges are not known yet: %w; allow_local_bridges = false does without them", s.networksErr)
	}
	if !p.AllowCluster || s.members.known() {
		return nil
	}
	const members = text + `the members that "cluster" in allow_from stands for are not known yet`
	if s.membersErr == nil {
		return errors.New(members)
	}
	return fmt.Errorf(members+": %w", s.membersErr)
}
