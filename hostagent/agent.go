// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// registry is the local Consul agent.
type registry interface {
	Services(context.Context) (consul.Answer, error)
	Agent(context.Context) (consul.Agent, error)
	Report(context.Context, consul.Report) (int, error)
	Withdraw(ctx context.Context, service string) error
}

// kernel is the firewall.
type kernel interface {
	Apply(context.Context, firewall.Ruleset) (firewall.Changes, error)
	Show(context.Context) (firewall.State, error)
	Plan(context.Context, firewall.Ruleset) (firewall.Changes, error)
	Remove(context.Context) (firewall.Changes, error)
}

// owners finds who holds a socket.
type owners interface {
	Lookup(context.Context, []sockets.Listener) (sockets.Result, error)
}

// Parts is what an Agent is made of: the operator's settings and the edges of the program.
type Parts struct {
	Policy       Policy
	CloseDelay   time.Duration
	PollInterval time.Duration
	Report       bool // write checks to Consul

	Registry registry
	Firewall kernel // nil only in observe mode, where the host has none
	Listen   func(context.Context) ([]sockets.Listener, error)
	Owners   owners
	Log      *slog.Logger
	Version  string // for the life check
}

// Every step of a pass has a deadline, so that a hanging one delays the others but never stops them. The Consul
// client has one of its own for each request.
const (
	passDeadline   = 20 * time.Second
	ownersDeadline = 2 * time.Second
	applyDeadline  = 10 * time.Second
	stopDeadline   = 2 * time.Second

	factsEvery   = 30 * time.Second // how often the agent is asked about itself
	afreshEvery  = 5 * time.Second  // how often owners and standing checks are looked at while nothing else changes
	troubleEvery = time.Minute      // how often a lasting trouble is logged
	maxBackoff   = 5 * time.Second  // between tries of an agent that does not answer
)

// Agent runs the pass in a loop: collect, Evaluate, Apply, Report. Make one with NewAgent; Run may be called once.
type Agent struct {
	parts  Parts
	memory *memory

	regs      []consul.Registration
	facts     consul.Agent
	factsNext time.Time // when the agent is asked about itself again
	factsErr  error     // of the last time
	nextTry   time.Time // of the agent, after failures
	failures  int
	listeners []sockets.Listener
	looked    bool  // the listeners were listed at least once
	input     Input // that result was made of, without owners
	result    Result
	resultAt  time.Time
	steady    bool // the last pass met no trouble and found Consul's checks as they should be
	enforced  firewall.PortSet
	adopted   bool // the state of an earlier run was looked at
	removed   bool // observe mode: nothing of ours is left
	applyErr  error
	listenErr error
	ssh       firewall.PortSet // where root's sshd was seen: never closed again by this process
	ranged    bool             // this run has taken a sidecar range over
	reported  string           // the service that holds our checks, "" while there is none
	news      news
}

// NewAgent returns an Agent that has done nothing yet.
func NewAgent(parts Parts) *Agent {
	return &Agent{parts: parts, memory: newMemory(), news: newNews(), result: Result{Range: DefaultSidecarRange()}}
}

// Run passes until ctx ends, then says so in Consul and returns nil; the rules stay in place. Parts that arrive on
// reload take effect at the next pass, which they start.
func (a *Agent) Run(ctx context.Context, reload <-chan Parts) error {
	a.parts.Log.Info("started", "mode", a.parts.Policy.Mode, "version", a.parts.Version)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			a.stop(context.WithoutCancel(ctx))
			return nil
		case parts := <-reload:
			a.replace(parts)
		case <-timer.C:
		}
		if ctx.Err() == nil {
			a.pass(ctx)
		}
		timer.Reset(a.parts.PollInterval)
	}
}

// replace takes over new parts; what was learnt of registrations stays.
func (a *Agent) replace(parts Parts) {
	if parts.Policy.Mode != a.parts.Policy.Mode {
		a.parts.Log.Info("mode changed", "from", a.parts.Policy.Mode, "to", parts.Policy.Mode)
		a.enforced, a.removed, a.adopted = firewall.PortSet{}, false, false
	}
	a.parts = parts
	a.nextTry, a.factsNext, a.resultAt = time.Time{}, time.Time{}, time.Time{}
	a.parts.Log.Info("configuration reloaded", "mode", parts.Policy.Mode)
}

// pass is one round. It logs what goes wrong and goes on: the next pass tries again. When ctx ends, questions are given
// up, but a change of the firewall is never cut off half-way.
func (a *Agent) pass(ctx context.Context) {
	stopped := ctx.Err
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	start := time.Now()
	consulErr := a.askConsul(ctx, start)
	a.listenErr = a.look(ctx)
	if stopped() != nil {
		return
	}
	a.news.trouble(a.parts.Log, start, "consul", consulErr)
	a.news.trouble(a.parts.Log, start, "listeners", a.listenErr)
	changed := false
	if a.looked { // a host without any listener would be half a view
		a.applyErr = a.adopt(context.WithoutCancel(ctx))
		changed = a.evaluate(ctx, start, consulErr)
		if a.applyErr == nil {
			a.applyErr = a.apply(context.WithoutCancel(ctx))
		}
		a.news.trouble(a.parts.Log, start, "firewall", a.applyErr)
		a.news.tell(a.parts.Log, a.parts.Policy.Mode, &a.result, a.memory.answers > 0)
	}
	if calm := errors.Join(consulErr, a.listenErr, a.applyErr) == nil; changed || !calm || !a.steady {
		written, err := a.report(ctx, consulErr)
		if stopped() == nil {
			a.news.trouble(a.parts.Log, start, "report", err)
		}
		a.steady = calm && err == nil && written == 0
	}
	a.parts.Log.Debug("pass", "duration", time.Since(start), "services", len(a.result.Services),
		"listeners", len(a.listeners), "open", a.result.Rules.Open.Len(), "findings", len(a.result.Findings))
}

// errWaiting stands for a try that is put off after failures.
var errWaiting = errors.New("waiting before the next try")

// askConsul brings registrations and the agent's facts up to date. After failures it waits, longer each time, with
// jitter so that a thousand hosts do not come back in step.
func (a *Agent) askConsul(ctx context.Context, now time.Time) error {
	if now.Before(a.nextTry) {
		return errWaiting
	}
	answer, err := a.parts.Registry.Services(ctx)
	if err != nil {
		a.memory.miss()
		wait := min(a.parts.PollInterval<<min(a.failures, 6), maxBackoff)
		a.nextTry = now.Add(wait/2 + rand.N(wait/2+1))
		a.failures++
		a.factsNext = time.Time{} // it may come back as another agent with another range
		return err
	}
	a.failures = 0
	a.askFacts(ctx, now)
	if a.factsErr != nil && !a.facts.RangeKnown {
		a.memory.miss()
		return a.factsErr
	}
	a.regs = answer.Registrations
	a.memory.answer(now, a.parts.Policy.claims(a.regs), a.parts.CloseDelay, 2*a.parts.PollInterval)
	return a.factsErr
}

// askFacts asks the agent about itself now and then. What it told before stands when it does not answer; where the
// operator names the range, it need not.
func (a *Agent) askFacts(ctx context.Context, now time.Time) {
	if now.Before(a.factsNext) {
		return
	}
	facts, err := a.parts.Registry.Agent(ctx)
	switch {
	case err == nil:
		a.facts, a.factsErr, a.factsNext = facts, nil, now.Add(factsEvery)
		return
	case a.parts.Policy.SidecarRange != nil:
		a.factsErr = nil
	default:
		a.factsErr = fmt.Errorf("cannot learn the sidecar range: %w; the token needs agent:read on this node, or set sidecar_range", err)
	}
	a.factsNext = now.Add(maxBackoff)
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

// evaluate brings the result up to date and tells whether it looked at anything anew: Evaluate is pure, so on a host
// where nothing happens its result stands for a while.
func (a *Agent) evaluate(ctx context.Context, now time.Time, consulErr error) bool {
	in := Input{
		Registrations: a.regs,
		Held:          a.memory.held(),
		Listeners:     a.listeners,
		Agent:         a.facts,
		PreviousRange: a.result.Range,
		Settled:       a.memory.settled,
		AdoptedGuard:  a.memory.adoptedGuard,
		Enforced:      a.enforced,
		SSH:           a.ssh,
		Policy:        a.parts.Policy,
	}
	switch kind := consul.KindOf(consulErr); {
	case kind == consul.KindFiltered:
		in.Filtered = consulErr.Error()
	case errors.Is(consulErr, errWaiting):
		in.Filtered = a.filteredBefore()
	}
	if now.Sub(a.resultAt) < afreshEvery && in.equal(&a.input) {
		return false
	}
	a.result, _ = evaluateWithOwners(ctx, in, a.parts.Owners)
	a.input, a.resultAt = in, now
	a.ssh = a.result.SSH
	a.ranged = a.ranged || a.result.RangeTaken
	return true
}

// filteredBefore keeps a finding alive while the agent is not asked.
func (a *Agent) filteredBefore() string {
	if consul.KindOf(a.news.last("consul")) == consul.KindFiltered {
		return a.news.last("consul").Error()
	}
	return ""
}

// evaluateWithOwners evaluates, looks up the owners that would help, and evaluates again with them. Who cannot be seen
// is a normal value; incomplete says what kept owners out of sight.
func evaluateWithOwners(ctx context.Context, in Input, owners owners) (result Result, incomplete string) {
	result = Evaluate(in)
	if len(result.Suspects) == 0 || owners == nil {
		return result, ""
	}
	ctx, cancel := context.WithTimeout(ctx, ownersDeadline)
	defer cancel()
	found, err := owners.Lookup(ctx, result.Suspects)
	incomplete = found.Incomplete
	if err != nil {
		incomplete = err.Error() // a deadline: what was found until then is used
	}
	in.Owners = found.ByCookie
	return Evaluate(in), incomplete
}

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
	if guard, open := state.Guard(), state.Open(); guard.Len() > 0 || open.Len() > 0 {
		a.memory.adopt(guard, open)
		a.parts.Log.Info("adopted the rules of an earlier run", "guard", guard.String(), "open", open.String())
	}
	a.adopted = true
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
	if !a.ranged && a.memory.adoptedGuard.Len() > 0 {
		return errors.New("cannot tell the sidecar range: the agent's is refused or unknown, so the rules of an earlier run stand; set sidecar_range")
	}
	changes, err := a.parts.Firewall.Apply(ctx, a.result.Rules)
	if !changes.Empty() {
		message := "firewall changed"
		if len(changes.Repaired) > 0 {
			message = "firewall repaired: somebody else had changed it"
		}
		a.parts.Log.Info(message, "changes", changes)
	}
	if err != nil {
		a.enforced = firewall.PortSet{} // nobody knows now what the kernel holds
		return err
	}
	a.enforced = a.result.Rules.Guard.Minus(a.result.Rules.Open)
	return nil
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

// report writes the checks where the agent can take them, and tells how many differed.
func (a *Agent) report(ctx context.Context, consulErr error) (written int, err error) {
	if !a.parts.Report && a.reported == "" {
		return 0, nil
	}
	switch kind := consul.KindOf(consulErr); {
	case errors.Is(consulErr, errWaiting), kind == consul.KindUnreachable, kind == consul.KindTimeout,
		kind == consul.KindTLS, kind == consul.KindToken:
		return 0, errWaiting // not tried: the trouble with Consul is told already
	}
	if a.reported != "" && (!a.parts.Report || a.reported != a.parts.Policy.OwnService) {
		// A reload switched reports off, or gave the service another name: what stands under the old one goes.
		if err := a.parts.Registry.Withdraw(ctx, a.reported); err != nil {
			return 0, fmt.Errorf("cannot take reports away: %w", err)
		}
		a.reported = ""
	}
	if !a.parts.Report {
		return 0, nil
	}
	report := a.checks(consulErr)
	a.reported = report.Service
	written, err = a.parts.Registry.Report(ctx, report)
	if written > 0 {
		a.parts.Log.Debug("checks written", "count", written)
	}
	if err != nil {
		return written, fmt.Errorf("cannot report to Consul: %w", err)
	}
	return written, nil
}

// stop tells Consul that hostagent ends on purpose.
func (a *Agent) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopDeadline)
	defer cancel()
	if a.parts.Report && a.memory.answers > 0 {
		report := a.checks(nil)
		report.Life.Status = consul.Critical
		report.Life.Output = "hostagent was stopped: " + stopMeans(a.parts.Policy.Mode) + "."
		if _, err := a.parts.Registry.Report(ctx, report); err != nil {
			a.parts.Log.Warn("cannot tell Consul of the stop", "error", err)
		}
	}
	a.parts.Log.Info("stopped", "rules", stopMeans(a.parts.Policy.Mode))
}

func stopMeans(mode Mode) string {
	if mode == ModeGuard {
		return "its rules stay in place: no port opens or closes until it runs again"
	}
	return "it had no rules"
}
