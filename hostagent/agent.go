// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/hostagent/probe"
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

// watcher counts what the loop does. Its methods are called from the loop and must return at once.
type watcher interface {
	Stepped(step string, took time.Duration)
	Repaired()
	ConsulFailed(kind consul.Kind)
}

// Parts is what an Agent is made of: the operator's settings and the edges of the program.
type Parts struct {
	Policy       Policy
	CloseDelay   time.Duration
	PollInterval time.Duration
	Report       bool // write checks to Consul
	// Spread is the longest time for which news may wait before it is reported; nil: as long as the datacenter's size asks for.
	Spread *time.Duration
	// Settings tells why the settings that Consul's KV holds now are not those in use, and must return at once; nil error: they
	// are, nil: there are none. SettingsFrom is the prefix of their keys, "" where there are none.
	Settings     func() error
	SettingsFrom string

	Registry registry
	Source   Source   // what Registry stands for, "" for the agent; only Look and LookAhead mind
	All      bool     // Look lists every listener with its owner
	Notes    []string // of a scan, what is to be said beside what it finds
	Firewall kernel   // nil only in observe mode, where the host has none
	Listen   func(context.Context) ([]sockets.Listener, error)
	Owners   owners
	// Elsewhere lists what listens in the other network namespaces of the host; nil: not looked at.
	Elsewhere func(context.Context) (sockets.Spaces, error)
	Host      func(context.Context) *Host // nil: not looked at
	// Members is asked only where Policy limits who may connect, and Networks there and to tell whether the agent is this
	// host's; nil: not to be had.
	Members  func(context.Context) (consul.Members, error)
	Networks func(context.Context) (facts.Networks, error)
	// Certificates tells how often certificates of the connection to Consul were replaced, and why those that are there now are
	// not used; nil: there are none.
	Certificates func() (changes int, broken error)
	// Close lets go of the connections to Consul when other Parts have taken the place of these; nil: there are none.
	Close func()
	// Foreign repairs what others change in the firewall as it happens, until its context ends, and tells of it and of
	// changes that may bear on us; nil: Apply finds out by itself, later.
	Foreign func(ctx context.Context, told func(firewall.Changes, error)) error
	// Listened tells of sockets as they begin to listen, first of all with nothing when it hears, until its context ends; nil:
	// listeners are found at PollInterval. It is called once, with what the first Parts have: a reload changes nothing of it.
	Listened func(ctx context.Context, told func(sockets.Heard)) error
	// Changed waits until the catalog sees another set of services at a node than at an index, as consul.Client.Changed does;
	// it is called beside the loop. nil: registrations are seen at PollInterval.
	Changed func(ctx context.Context, node string, index uint64) (uint64, error)
	// Blocked tells which ports a firewall of the host keeps from the network whatever ours accepts; nil: not looked at.
	Blocked func(context.Context, []firewall.Probe) ([]firewall.Block, error)
	// Roots tells the certificate authority of the mesh, and Ask what a listener of this host shows of itself. They are called
	// beside the loop, and only where Policy.Probe; nil: not to be had.
	Roots func(context.Context) (consul.Roots, error)
	Ask   func(context.Context, *probe.CA, netip.AddrPort) probe.Result
	// Audit holds the production checklist against this host, of which the core tells what it found. It is called beside the
	// loop, one at a time, about once an hour, and should give up when its context ends. nil: off.
	Audit func(context.Context, audit.Seen[audit.Host]) audit.Report
	// Publish makes the set Policy.PublishSet equal the open ports; nil where there is none.
	Publish func(context.Context, firewall.PortSet) (changed bool, err error)
	// Connections lists the connections from the network to local ports from first to last; nil: not looked at.
	Connections func(ctx context.Context, first, last uint16) ([]sockets.Connection, error)
	// EndConnections resets the connections from the network to a local port, but those of the host's own addresses, and
	// tells how many; nil: they are left to the rules.
	EndConnections func(ctx context.Context, port uint16, own []netip.Addr) (int, error)
	Log            *slog.Logger
	Watch          watcher // nil: nobody counts
	// Alive is called by the loop itself as it goes on, first of all before the first pass and then after each step: while it
	// hangs in one, nothing calls it. line is what it does, in a sentence, "" between passes. It must return at once; nil:
	// nobody wants to know.
	Alive func(line string)

	StateDir string // where the state is kept; "" keeps none
	Machine  string // whose state it is, see MachineFingerprint; "" when unknown: none is saved

	// What the status and the life check say of the program.
	Version      string
	Backend      string   // what holds the rules
	Address      string   // of the Consul agent
	Degradations []string // what this host cannot do, one sentence each
	Namespace    uint64   // inode of the network namespace; 0 when unknown
}

// Every step of a pass has a deadline, so that a hanging one delays the others but never stops them. The Consul
// client has one of its own for each request.
const (
	passDeadline   = 20 * time.Second
	ownersDeadline = 2 * time.Second
	hostDeadline   = 3 * time.Second
	applyDeadline  = 10 * time.Second
	stopDeadline   = 2 * time.Second

	factsEvery   = 30 * time.Second // how often the agent is asked about itself
	factsSoon    = 2 * time.Second  // how soon after a change of the registrations
	hostEvery    = time.Minute      // how often the kernel's settings and other allocators are looked at
	afreshEvery  = 5 * time.Second  // how often owners and standing checks are looked at while nothing else changes
	troubleEvery = time.Minute      // how often a lasting trouble is logged
	maxBackoff   = 5 * time.Second  // between tries of an agent that does not answer

	// factsPatience is how long ports wait for what the agent tells of itself, while what it told before can stand. Consul
	// 1.21 takes under a millisecond.
	factsPatience = time.Second
)

// Agent runs the pass in a loop: collect, Evaluate, Apply, Report. Make one with NewAgent; Run may be called once, and
// Status from any goroutine.
type Agent struct {
	parts Parts

	// What Consul's agent says.
	regs      []consul.Registration
	facts     consul.Agent
	factsNext time.Time // when the agent is asked about itself again
	factsErr  error     // of the last time
	nextTry   time.Time // of the agent, after failures
	failures  int
	consulErr error       // of the last question to the agent
	untrusted atomic.Bool // it was that the agent is somebody else's or another host's; read beside the loop
	settings  error       // why those of Consul's KV are not in use
	renewed   int         // how often Parts.Certificates were replaced, as told
	ranged    bool        // this run has taken a sidecar range over
	memory    *memory
	sources   sources // who may connect

	// What is seen of the host.
	listeners []sockets.Listener
	listenErr error
	looked    bool // the listeners were listed at least once
	elsewhere elsewhere
	host      *Host
	hostNext  time.Time        // when the host is looked at again
	ssh       firewall.PortSet // where root's sshd was seen: never closed again by this process

	// What follows from it.
	input    Input // that result was made of, without owners
	suspects []sockets.Listener
	owners   map[uint64]sockets.Owner // of suspects
	result   Result
	resultAt time.Time
	shown    *Result // a copy of result for readers, made when it changes

	// What the kernel has of it.
	adopted   bool      // the state of an earlier run was looked at
	found     standing  // what it was
	holds     *standing // what the kernel was last seen or made to hold; replaced, never changed
	enforced  firewall.PortSet
	ended     firewall.PortSet // cut ports whose connections were reset
	toldAhead bool             // what guard mode is about to change was logged
	removed   bool             // observe mode: nothing of ours is left
	applyErr  error
	drift     driftMemory
	drifted   *Drift // what drift says
	blocks    blocks
	publisher publisher

	// What is told and kept of it.
	news      news
	reported  string         // the service that holds our checks, "" while there is none
	former    former         // those that held them before
	said      *consul.Report // the last report, nil where this run has sent none under that name
	saidErr   error          // why it could not be written, or not all of it
	held      heldNews       // what is to be said next
	told      toldChecks
	steady    bool // the last pass met no trouble and found Consul's checks as they should be
	keeper    keeper
	stateErr  error  // why the state is not saved
	savedNode string // the Consul node that an earlier run's state belongs to, until that was looked at

	// What wakes the loop or goes on beside it.
	inbox  *inbox
	ears   *ears
	wakeup *wakeup
	prober *prober
	beside beside
	audits audits

	// For Status.
	view       atomic.Pointer[view]
	started    time.Time
	passes     int
	answerAt   time.Time // of the last whole answer
	applyAt    time.Time // the kernel was last seen or made to be as wanted
	changeAt   time.Time // it was last changed
	repairs    int
	incomplete string // what kept owners out of sight
}

// NewAgent returns an Agent that has done nothing yet.
func NewAgent(parts Parts) *Agent {
	a := &Agent{
		parts: parts, memory: newMemory(), sources: sources{members: newSourceMemory(), pathMembers: newSourceMemory()},
		news: newNews(), held: newHeldNews(), inbox: newInbox(), ears: newEars(), wakeup: newWakeup(), prober: newProber(), audits: newAudits(),
		result: Result{Range: DefaultSidecarRange()}, shown: &Result{Range: DefaultSidecarRange()}, holds: &standing{},
	}
	if !parts.Report {
		a.reported = parts.Policy.OwnService // what an earlier run left goes
	}
	if parts.Changed != nil {
		a.wakeup.set(WakeupStarting, nil) // until the first pass knows better
	}
	a.view.Store(a.viewOf(time.Time{}, 0, nil, nil))
	return a
}

// Run passes until ctx ends, then says so in Consul and returns nil; the rules stay in place. Parts that arrive on
// reload take effect at the next pass, which they start.
func (a *Agent) Run(ctx context.Context, reload <-chan Parts) error {
	a.started = time.Now()
	a.parts.Log.Info("started", "mode", a.parts.Policy.Mode, "version", a.parts.Version)
	stopWatch := a.watch(ctx)
	defer func() { stopWatch() }()
	defer a.listen(ctx)()
	stopProbes := a.startProbes(ctx)
	defer func() { stopProbes() }()
	defer a.wakeup.end()
	defer a.audits.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	a.alive(a.view.Load().summary())
	for {
		a.alive("")
		select {
		case <-ctx.Done():
			a.stop(context.WithoutCancel(ctx))
			return nil
		case parts := <-reload:
			another := parts.Firewall != a.parts.Firewall
			if another {
				stopWatch() // one at a time may hold rules and sets
			}
			stopProbes()
			a.replace(parts)
			stopProbes = a.startProbes(ctx)
			if another {
				stopWatch = a.watch(ctx)
			}
		case <-a.inbox.wake:
		case <-a.ears.wake:
			if ctx.Err() == nil {
				a.pass(ctx, a.passes > 0)
			}
			continue // whoever listens without pause must not put off what the timer is for
		case <-a.prober.wake:
		case <-a.audits.wake:
		case <-a.held.wake:
		case <-a.wakeup.wake:
			start := time.Now()
			a.nextTry = time.Time{} // whoever tells of the catalog answers again
			if ctx.Err() == nil {
				a.pass(ctx, false)
			}
			a.wakeup.spend(time.Since(start))
			timer.Reset(a.parts.PollInterval)
			continue
		case <-timer.C:
		}
		if ctx.Err() == nil {
			a.pass(ctx, false)
		}
		timer.Reset(a.parts.PollInterval)
	}
}

// replace takes over new parts; what was learnt of registrations stays.
func (a *Agent) replace(parts Parts) {
	if parts.Policy.Mode != a.parts.Policy.Mode {
		a.parts.Log.Info("mode changed", "from", a.parts.Policy.Mode, "to", parts.Policy.Mode)
		a.enforced, a.removed, a.adopted, a.toldAhead = firewall.PortSet{}, false, false, false
		a.found, a.holds = standing{}, &standing{}
	}
	a.publisher.replace(&a.parts, &parts)
	a.wakeup.end() // it asks as the old ones say
	a.audits.replace(parts.Audit != nil)
	a.lookAgain()
	if a.parts.Close != nil {
		a.parts.Close()
	}
	a.parts = parts
	a.nextTry, a.factsNext, a.hostNext, a.resultAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	a.sources.soon()
	a.lookElsewhereSoon()
	a.parts.Log.Info("configuration reloaded", "mode", parts.Policy.Mode)
}

// pass is one round. It logs what goes wrong and goes on: the next pass tries again. When ctx ends, questions are given
// up, but a change of the firewall is never cut off half-way. One that a listener woke is as light as it can be: the agent's
// last answer stands, and only what is new is reported.
func (a *Agent) pass(ctx context.Context, woken bool) {
	stopped, all := ctx.Err, ctx
	ctx, cancel := context.WithTimeout(all, passDeadline)
	defer cancel()
	start := time.Now()
	if !a.beside.busy {
		a.alive("")
		a.beside.until = start.Add(passDeadline)
		a.takeForeign(start)
	}
	heard := a.ears.take()
	if !woken {
		a.consulErr = a.askConsul(all, start)
		if !errors.Is(a.consulErr, errWaiting) {
			a.stepped("consul", start)
		}
		a.followCatalog(all)
		a.askSources(all, start)
	}
	consulErr := a.consulErr
	listing := time.Now()
	a.listenErr = a.look(ctx)
	a.stepped("listeners", listing)
	if heard.Elsewhere > 0 {
		a.lookElsewhereSoon()
	}
	if !a.beside.busy && (!woken || heard.Here == 0) { // what listens here is not kept waiting for hundreds of other namespaces
		a.lookElsewhere(all, start)
	}
	if stopped() != nil {
		return
	}
	changed := a.lookAtSettings()
	a.tellTroubles(start)
	if a.host == nil && !a.beside.busy {
		a.lookAtHost(all, start) // the first time before anything is judged: a container runtime's ports look like squatters
	}
	if a.looked { // a host without any listener would be half a view
		changed = a.decide(ctx, start, consulErr) || changed
		a.prober.want(a.result.Probes, a.result.Accused)
	}
	changed = a.takeAudit(start) || changed
	reportErr := a.reportPass(all, start, changed, woken)
	if !woken {
		a.lookAtBlocked(all, start)
		a.lookAtHost(all, start) // later for the next pass: no port waits for it
		a.startAudit(all, start)
	}
	if a.beside.owed && !a.beside.busy {
		signal(a.ears.wake)
	}
	a.remind(time.Now())
	a.stepped("pass", start)
	a.publish(start, consulErr, reportErr)
	a.parts.Log.Debug("pass", "duration", time.Since(start), "heard", heard.Here, "heard_elsewhere", heard.Elsewhere, "services", len(a.result.Services),
		"listeners", len(a.listeners), "open", a.result.Rules.Open.Len(), "findings", len(a.result.Findings))
}

// tellTroubles logs what keeps the pass that began at start from seeing everything.
func (a *Agent) tellTroubles(start time.Time) {
	a.news.trouble(a.parts.Log, start, "consul", a.consulErr)
	a.tellCertificates(start)
	a.news.trouble(a.parts.Log, start, "listeners", a.listenErr)
	a.news.trouble(a.parts.Log, start, "namespaces", a.elsewhere.err)
	a.news.trouble(a.parts.Log, start, "members", a.sources.membersErr)
	a.news.trouble(a.parts.Log, start, "networks", a.sources.networksErr)
	a.news.trouble(a.parts.Log, start, "probes", a.prober.trouble())
	a.news.trouble(a.parts.Log, start, "settings", a.settings)
}

// lookAtSettings asks whether the settings of Consul's KV are in use, and tells whether the answer is another one.
func (a *Agent) lookAtSettings() (changed bool) {
	before := a.settings
	a.settings = nil
	if a.parts.Settings != nil {
		a.settings = a.parts.Settings()
	}
	return ErrorText(a.settings) != ErrorText(before)
}

// reportPass writes the checks where they may not be as they should be: after a change, and in a whole pass unless the last
// one met no trouble and found them so. It returns errWaiting where a listener woke the pass and there was nothing to tell.
func (a *Agent) reportPass(ctx context.Context, start time.Time, changed, woken bool) error {
	var reportErr error
	if woken {
		reportErr = errWaiting
	}
	calm := errors.Join(a.consulErr, a.listenErr, a.applyErr) == nil
	if a.beside.busy {
		a.beside.owed = a.beside.owed || changed
	} else if changed || a.beside.owed || !woken && (!calm || !a.steady) {
		a.beside.owed = false
		reporting := time.Now()
		written, err := a.report(ctx, a.consulErr, woken)
		a.stepped("report", reporting)
		if ctx.Err() == nil {
			a.news.trouble(a.parts.Log, start, "report", err)
		}
		reportErr = err
		a.steady = calm && err == nil && written == 0 && !a.held.waits
	}
	return reportErr
}

// decide evaluates, makes the kernel equal the result and tells what is new. It returns whether anything was looked at
// anew.
func (a *Agent) decide(ctx context.Context, start time.Time, consulErr error) bool {
	a.applyErr = a.adopt(context.WithoutCancel(ctx))
	a.checkNode()
	evaluating := time.Now()
	changed := a.evaluate(ctx, start, consulErr)
	a.stepped("evaluate", evaluating)
	if a.memory.answers > 0 {
		a.memory.keep(a.result.Quarantined)
	}
	if a.applyErr == nil {
		a.tellAhead(ctx)
		applying := time.Now()
		a.applyErr = a.apply(context.WithoutCancel(ctx))
		a.stepped("apply", applying)
	}
	a.news.trouble(a.parts.Log, start, "firewall", a.applyErr)
	a.keepState(start)
	a.publishOpen(context.WithoutCancel(ctx), start)
	if a.applyErr == nil {
		a.news.trouble(a.parts.Log, start, "connections", a.endConnections(ctx))
	}
	if changed {
		a.news.tell(a.parts.Log, a.parts.Policy.Mode, &a.result, a.memory.answers > 0)
	}
	return changed
}

// stepped tells the watcher how long a step took that began at start, and that the loop goes on.
func (a *Agent) stepped(step string, start time.Time) {
	a.alive("")
	if a.parts.Watch != nil {
		a.parts.Watch.Stepped(step, time.Since(start))
	}
}

// alive tells that the loop goes on. A light pass while the loop waits for an answer is no sign of that: the question may hang,
// and listeners appear all the time.
func (a *Agent) alive(line string) {
	if a.parts.Alive != nil && !a.beside.busy {
		a.parts.Alive(line)
	}
}
