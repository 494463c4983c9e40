// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// errWaiting stands for a try that is put off after failures.
var errWaiting = errors.New("waiting before the next try")

// askConsul brings registrations and the agent's facts up to date. After failures it waits, longer each time, with
// jitter so that a thousand hosts do not come back in step.
func (a *Agent) askConsul(ctx context.Context, now time.Time) error {
	if now.Before(a.nextTry) {
		return errWaiting
	}
	var answer consul.Answer
	var err error
	a.meanwhile(ctx, func(ctx context.Context) { answer, err = a.parts.Registry.Services(ctx) })
	if err == nil {
		if !answer.Unchanged && a.factsErr == nil {
			a.factsNext = a.factsAfter(now, answer.Registrations)
		}
		err = a.askFacts(ctx, now)
	}
	a.untrusted.Store(silent(err))
	if err != nil {
		a.consulFailed(ctx, err)
		a.memory.miss()
		wait := min(a.parts.PollInterval<<min(a.failures, 6), maxBackoff)
		a.nextTry = now.Add(wait/2 + rand.N(wait/2+1))
		a.failures++
		a.factsNext = time.Time{} // it may come back as another agent with another range
		return err
	}
	a.failures = 0
	if err := a.facts.TooOld(); err != nil { // nothing of it counts, but it may be upgraded
		a.consulFailed(ctx, err)
		a.memory.miss()
		if soon := now.Add(maxBackoff); a.factsNext.After(soon) {
			a.factsNext = soon
		}
		return err
	}
	if a.factsErr != nil && !a.facts.RangeKnown {
		a.memory.miss()
		return a.factsErr
	}
	a.regs, a.answerAt = answer.Registrations, now
	a.memory.answer(now, a.parts.Policy.claims(a.regs), a.parts.CloseDelay, a.parts.PollInterval)
	return a.factsErr
}

// factsAfter is when the agent is asked about itself after it told other registrations than before: it may have been started
// anew with another sidecar range, and one that restarts fast is never seen to be away. A new port outside the range waits
// for that. Others do not: the question takes Consul 1.21 40 ms where 250 services stand in its files.
func (a *Agent) factsAfter(now time.Time, regs []consul.Registration) time.Time {
	for claim := range a.parts.Policy.claims(regs) {
		if !claim.Path && !a.memory.claims[claim] && !a.result.Range.Contains(claim.Port) && !a.parts.Policy.ExtraPorts.Has(claim.Port) {
			return now
		}
	}
	if soon := now.Add(factsSoon); soon.Before(a.factsNext) {
		return soon
	}
	return a.factsNext
}

// consulFailed tells the watcher of a request that brought no whole answer, unless hostagent itself is ending.
func (a *Agent) consulFailed(ctx context.Context, err error) {
	if kind := consul.KindOf(err); a.parts.Watch != nil && kind != "" && ctx.Err() == nil {
		a.parts.Watch.ConsulFailed(kind)
	}
}

// askFacts asks the agent about itself now and then. What it told before stands when it does not answer; where the
// operator names the range, it need not. It returns an error where the agent is another host's: nothing of it counts.
func (a *Agent) askFacts(ctx context.Context, now time.Time) error {
	if now.Before(a.factsNext) {
		return nil
	}
	var facts consul.Agent
	var err error
	known := a.memory.answers > 0 // what ports hang on, or nothing would have been decided
	a.meanwhile(ctx, func(ctx context.Context) {
		if known {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, factsPatience)
			defer cancel()
		}
		facts, err = a.parts.Registry.Agent(ctx)
	})
	if err == nil {
		if err := a.accept(ctx, now, &facts); err != nil {
			return err
		}
		a.facts, a.factsErr, a.factsNext = facts, nil, now.Add(factsEvery)
		return nil
	}
	if silent(err) {
		return err
	}
	a.consulFailed(ctx, err)
	switch {
	case a.parts.Policy.SidecarRange != nil:
		a.factsErr = nil
	default:
		a.factsErr = fmt.Errorf("cannot learn the sidecar range: %w; or set sidecar_range", err)
	}
	a.factsNext = time.Now().Add(maxBackoff) // an agent that hangs took time of its own
	return nil
}

// look lists the listeners; a failure keeps the last list.
func (a *Agent) look(ctx context.Context) error {
	listeners, err := a.parts.Listen(ctx)
	if err != nil {
		return err
	}
	a.listeners, a.looked = listeners, true
	return nil
}

// lookAtHost brings what else bears on the range up to date, now and then. What is as before keeps its place in memory, so
// that nothing is evaluated anew for it.
func (a *Agent) lookAtHost(ctx context.Context, now time.Time) {
	if a.parts.Host == nil || now.Before(a.hostNext) {
		return
	}
	var host *Host
	a.meanwhile(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, hostDeadline)
		defer cancel()
		host = a.parts.Host(ctx)
	})
	host.keep(a.host)
	if !reflect.DeepEqual(host, a.host) {
		a.news.tellNotes(a.parts.Log, host.Notes)
		a.host = host
	}
	a.hostNext = now.Add(hostEvery)
	if len(host.Redirects) > 0 {
		a.hostNext = now.Add(afreshEvery) // others' rules keep listeners safe: they may go
	}
}
