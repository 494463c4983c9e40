// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hostagent/hostagent/firewall"
)

// adopt looks once, before anything is changed, at what an earlier run left in the kernel.
func (a *Agent) adopt(ctx context.Context) error {
	if a.adopted || a.parts.Policy.Mode != ModeGuard {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, applyDeadline)
	defer cancel()
	state, err := a.parts.Firewall.Show(ctx)
	if err != nil {
		return fmt.Errorf("cannot see the rules of an earlier run: %w", err)
	}
	found := standingOf(state)
	if guard, open := found.guard, found.open; guard.Len() > 0 || open.Len() > 0 || found.paths.Len() > 0 {
		a.memory.adopt(guard, open, found.paths)
		a.memory.adoptCut(guard, open.Union(found.paths), state.Cut())
		a.parts.Log.Info("adopted the rules of an earlier run", "guard", guard.String(), "open", open.String(), "exposed_paths", found.paths.String())
	}
	a.recallState()
	if limited, ok := state.Limited(); ok && a.parts.Policy.AllowCluster {
		a.sources.members.adopt(limited)
	}
	if a.parts.Policy.ExposedPathsCluster {
		a.sources.pathMembers.adopt(found.pathSources)
	}
	a.adopted, a.found, a.enforced = true, found, found.enforced
	a.holds = &standing{
		guard: found.guard, open: found.open, cut: found.cut, sources: found.sources, paths: found.paths, pathSources: found.pathSources,
	}
	return nil
}

// apply makes the kernel equal the result, or, in observe mode, free of us.
func (a *Agent) apply(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, applyDeadline)
	defer cancel()
	if a.parts.Policy.Mode == ModeObserve {
		return a.disown(ctx)
	}
	if a.memory.answers == 0 {
		return nil // opening needs one whole answer; what an earlier run left stands
	}
	if err := a.applyWaits(); err != nil {
		a.enforced = firewall.PortSet{} // nobody looks whether it still stands
		return err
	}
	changes, err := a.parts.Firewall.Apply(ctx, a.result.Rules)
	a.tellChanges(time.Now(), changes)
	if err != nil {
		a.enforced = firewall.PortSet{} // nobody knows now what the kernel holds
		return err
	}
	a.enforced = a.result.Rules.Guard.Minus(a.result.Rules.Open).Minus(a.result.Rules.Paths)
	a.applyAt = time.Now()
	a.news.trouble(a.parts.Log, a.applyAt, "repair", nil) // what the watch could not put right is right now
	rules := &a.result.Rules
	a.memory.opened(rules.Open.Union(rules.Paths), rules.Guard)
	if !a.holds.same(rules) {
		a.holds = standingAs(rules)
	}
	return nil
}

// applyWaits tells why what an earlier run left stands, nil where it need not.
func (a *Agent) applyWaits() error {
	if !a.ranged && a.memory.adoptedGuard.Len() > 0 {
		return errors.New("cannot tell the sidecar range: the agent's is refused or unknown, so the rules of an earlier run stand; set sidecar_range")
	}
	return a.sources.wait(&a.parts.Policy)
}

// tellChanges logs and counts what an Apply or a repair did.
func (a *Agent) tellChanges(now time.Time, changes firewall.Changes) {
	if changes.Empty() {
		return
	}
	a.changeAt = now
	a.drift.add(now, changes)
	message := "firewall changed"
	if len(changes.Repaired) > 0 {
		a.lookAgain() // somebody is at work on the rules
		message = "firewall repaired: somebody else had changed it"
		a.repairs++
		if a.parts.Watch != nil {
			a.parts.Watch.Repaired()
		}
	}
	a.parts.Log.Info(message, "changes", changes)
}

// disown removes what an earlier guard run left.
func (a *Agent) disown(ctx context.Context) error {
	if a.removed || a.parts.Firewall == nil {
		return nil
	}
	changes, err := a.parts.Firewall.Remove(ctx)
	if !changes.Empty() {
		a.parts.Log.Info("removed the rules of an earlier guard run: observe mode owns nothing", "changes", changes)
	}
	a.removed = err == nil
	return err
}
