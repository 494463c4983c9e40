// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"time"
)

// firstPatience is how long the first pass waits for what it has to know before it judges, before it opens ports without.
const firstPatience = 250 * time.Millisecond

// beside is what the loop has to know of a question that runs beside it.
type beside struct {
	busy  bool      // a pass that a listener woke runs while another one waits for an answer
	owed  bool      // such a pass found what is to be reported
	until time.Time // when the pass that waits has to end
}

// meanwhile asks what may take long: a Consul agent that hangs answers after five seconds, and hundreds of namespaces take
// their time. It returns when the answer is there, and until then serves listeners that appear. The loop's state stands
// still for the question, which runs on a goroutine of its own and must touch none of it.
//
// One question is asked at a time: what is to be reported of a listener waits for the answer, a pass later at most. ctx is Run's.
func (a *Agent) meanwhile(ctx context.Context, question func(context.Context)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		ctx, cancel := context.WithDeadline(ctx, a.beside.until)
		defer cancel()
		question(ctx)
	}()
	var heard <-chan struct{}
	var patience <-chan time.Time
	if a.passes > 0 {
		heard = a.ears.wake
	} else {
		timer := time.NewTimer(firstPatience)
		defer timer.Stop()
		patience = timer.C
	}
	for {
		select {
		case <-done:
			return
		case <-heard:
			a.beside.busy = true
			a.pass(ctx, true)
			a.beside.busy = false
		case <-patience:
			a.openFirst(ctx)
		}
	}
}

// openFirst opens the ports of sidecars before the first pass has seen all of the host: they do not depend on it. Nothing
// closes, and nothing is told. What fails here is tried again, and told, when all is seen.
func (a *Agent) openFirst(ctx context.Context) {
	if a.parts.Policy.Mode != ModeGuard || a.memory.answers == 0 || !a.looked || !a.applyAt.IsZero() {
		return
	}
	applying := context.WithoutCancel(ctx)
	if a.adopt(applying) != nil {
		return
	}
	a.checkNode()
	now := time.Now()
	in := a.collect(now, nil)
	in.Source = SourceNone // nothing is judged
	result, _ := evaluateWithOwners(ctx, in, a.parts.Owners)
	a.ssh, a.ranged = result.SSH, a.ranged || result.RangeTaken
	rules := result.Rules
	rules.Guard, rules.Open = a.holds.guard, rules.Open.Union(a.holds.open)
	rules.Cut = a.holds.cut.Minus(rules.Open)
	rules.Paths, rules.PathsFrom = a.holds.paths.Minus(rules.Open), a.holds.pathSources
	if rules.Open == a.holds.open || a.applyWaits() != nil {
		return
	}
	applying, cancel := context.WithTimeout(applying, applyDeadline)
	defer cancel()
	changes, err := a.parts.Firewall.Apply(applying, rules)
	a.tellChanges(now, changes)
	if err == nil {
		a.memory.opened(rules.Open, rules.Guard)
		a.holds = standingAs(&rules)
	}
}
