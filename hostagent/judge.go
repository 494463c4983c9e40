// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"reflect"
	"time"

	"github.com/hostagent/hostagent/sockets"
)

// evaluate brings the result up to date and tells whether it looked at anything anew: Evaluate is pure, so on a host
// where nothing happens its result stands for a while, and after it as long as the owners are the same.
func (a *Agent) evaluate(ctx context.Context, now time.Time, consulErr error) bool {
	in := a.collect(now, consulErr)
	same := !a.resultAt.IsZero() && in.equal(&a.input)
	if same && now.Sub(a.resultAt) < afreshEvery {
		return false
	}
	a.news.tellEnded(a.parts.Log, in.Policy.Exemptions, in.Today)
	if !same {
		a.suspects = suspects(in)
	}
	var owners map[uint64]sockets.Owner
	owners, a.incomplete = lookup(ctx, a.parts.Owners, a.suspects)
	a.input, a.resultAt = in, now
	if same && reflect.DeepEqual(owners, a.owners) {
		return true
	}
	a.owners, in.Owners = owners, owners
	a.result = Evaluate(in)
	shown := a.result
	a.shown = &shown
	a.ssh = a.result.SSH
	a.ranged = a.ranged || a.result.RangeTaken
	a.memory.ranged(in.PreviousRange, a.result.Range)
	return true
}

// collect returns what there is to judge, without owners.
func (a *Agent) collect(now time.Time, consulErr error) Input {
	a.drifted = a.drift.standing(now, a.drifted)
	in := Input{
		Registrations: a.regs,
		Held:          a.memory.held(),
		Listeners:     a.listeners,
		Elsewhere:     a.elsewhere.Listeners,
		Namespaces:    a.elsewhere.Namespaces,
		Members:       a.sources.members.all,
		PathMembers:   a.sources.pathMembers.all,
		Networks:      a.sources.networks,
		Agent:         a.facts,
		PreviousRange: a.result.Range,
		Settled:       a.memory.settled,
		AdoptedGuard:  a.memory.adoptedGuard,
		Leaving:       a.memory.leaving(),
		Enforced:      a.enforced,
		WasOpen:       a.memory.wasOpen,
		Quarantined:   a.memory.quarantined(),
		Source:        a.source(),
		Host:          a.host,
		Drift:         a.drifted,
		Blocked:       a.blocks.found,
		SSH:           a.ssh,
		Today:         dayOf(now),
		Probes:        a.prober.shown(),
		Trouble:       agentTrouble(a.news.standing("consul", consulErr)), // stands between tries
		Policy:        a.parts.Policy,
	}
	return in
}

// source tells whether the agent has ever given a whole answer.
func (a *Agent) source() Source {
	if a.memory.answers == 0 {
		return SourceNone
	}
	return SourceAgent
}

// evaluateWithOwners looks up the owners that would help, and evaluates with them. Who cannot be seen is a normal value;
// incomplete says what kept owners out of sight.
func evaluateWithOwners(ctx context.Context, in Input, owners owners) (result Result, incomplete string) {
	if owners != nil {
		in.Owners, incomplete = lookup(ctx, owners, suspects(in))
	}
	return Evaluate(in), incomplete
}

// lookup finds the owners of listeners, by cookie, and tells what kept some out of sight.
func lookup(ctx context.Context, owners owners, listeners []sockets.Listener) (byCookie map[uint64]sockets.Owner, incomplete string) {
	if owners == nil || len(listeners) == 0 {
		return nil, ""
	}
	ctx, cancel := context.WithTimeout(ctx, ownersDeadline)
	defer cancel()
	found, err := owners.Lookup(ctx, listeners)
	if err != nil { // a deadline: what was found until then is used
		return found.ByCookie, err.Error()
	}
	return found.ByCookie, found.Incomplete
}
