// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/probe"
)

const (
	probesAtOnce   = 4                // connections that are open for a running agent
	probesARound   = 8                // targets that are asked before results are told
	probeAgain     = 30 * time.Second // before the second try of a target that has not shown what it should
	probeRarely    = 5 * time.Minute  // between tries in the end: the time doubles
	rootsEvery     = 5 * time.Minute  // how often the agent is asked for the CA
	rootsFresh     = 5 * time.Second  // how old an answer may be that somebody is accused by
	rootsAgain     = 30 * time.Second // before the next try where it did not answer
	mostShy        = 3                // tries in a row without a certificate that make it Lasting
	scanProbes     = 16               // connections at once in a scan
	scanProbesTime = 8 * time.Second  // for all probes of a scan: looking up owners wants its time too
)

// prober asks the listeners that Evaluate wants to know more of, on a goroutine of its own. It never waits for the loop
// and the loop never for it. Each listener is asked once, and again where it did not show the certificate of a service, or
// where the CA has changed.
type prober struct {
	wake    chan struct{} // to the loop: holds one token while there are new results
	changed chan struct{} // to the goroutine: holds one token while there are new targets

	mu      sync.Mutex
	targets []ProbeTarget // sorted; replaced, never changed
	accused []ProbeTarget // of them, sorted; the same
	results []Probed      // by target; replaced, never changed
	err     error         // why nobody can be asked
}

func newProber() *prober {
	return &prober{wake: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// want tells whom to ask from now on, and of whom to ask again, whatever they have shown.
func (p *prober) want(targets, accused []ProbeTarget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(targets, p.targets) || !slices.Equal(accused, p.accused) {
		p.targets, p.accused = targets, accused
		signal(p.changed)
	}
}

func (p *prober) wanted() (targets, accused []ProbeTarget) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.targets, p.accused
}

// shown returns what is known: read only.
func (p *prober) shown() []Probed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.results
}

// trouble returns why nobody can be asked, nil where somebody can or nobody should.
func (p *prober) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// tell leaves results for the loop.
func (p *prober) tell(results []Probed, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := slices.Equal(results, p.results)
	if !same {
		p.results = results
	}
	if !same || (err == nil) != (p.err == nil) {
		signal(p.wake)
	}
	p.err = err
}

// startProbes begins to ask, until the returned function is called, which waits for the end.
func (a *Agent) startProbes(ctx context.Context) (stop func()) {
	if !a.parts.Policy.Probe || a.parts.Roots == nil || a.parts.Ask == nil {
		a.prober.tell(nil, nil)
		return func() {}
	}
	work := &probing{prober: a.prober, roots: a.trustedRoots(a.parts.Roots), ask: a.parts.Ask, asked: map[ProbeTarget]*inquiry{}}
	for _, known := range a.prober.shown() { // before a reload; it stands until they are asked anew
		work.asked[known.ProbeTarget] = &inquiry{shown: known}
	}
	return aside(ctx, work.run)
}

// trustedRoots keeps the CA of an agent that is not this host's from accusing sidecars here.
func (a *Agent) trustedRoots(roots func(context.Context) (consul.Roots, error)) func(context.Context) (consul.Roots, error) {
	return func(ctx context.Context) (consul.Roots, error) {
		if a.untrusted.Load() {
			return consul.Roots{}, errors.New("the Consul agent is not to be trusted at present")
		}
		return roots(ctx)
	}
}

// probing is the work of the goroutine.
type probing struct {
	prober *prober
	roots  func(context.Context) (consul.Roots, error)
	ask    func(context.Context, *probe.CA, netip.AddrPort) probe.Result

	ca        *probe.CA // nil before the first answer
	of        consul.Roots
	rootsErr  error
	rootsAt   time.Time // of the last answer
	rootsNext time.Time
	asked     map[ProbeTarget]*inquiry
}

// inquiry is what is known of one target.
type inquiry struct {
	shown   Probed // its Outcome is "" before the first try
	shy     int    // tries in a row that were Closed or Refused
	settled bool   // it is not asked again while the CA stays the same
	next    time.Time
	wait    time.Duration
}

func (w *probing) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := w.round(ctx, time.Now())
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.prober.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// round asks some of those who are due, and tells how long there is nothing more to do.
func (w *probing) round(ctx context.Context, now time.Time) time.Duration {
	targets, accused := w.prober.wanted()
	w.follow(targets)
	if len(targets) == 0 {
		w.prober.tell(nil, nil)
		return probeRarely
	}
	if !now.Before(w.rootsNext) {
		w.askRoots(ctx, now)
	}
	if w.ca == nil {
		if ctx.Err() == nil {
			w.prober.tell(w.results(targets), w.rootsErr)
		}
		return max(w.rootsNext.Sub(now), time.Second)
	}
	var due []ProbeTarget
	wait := w.rootsNext.Sub(now)
	for _, t := range targets {
		_, doubted := slices.BinarySearchFunc(accused, t, ProbeTarget.compare)
		switch i := w.asked[t]; {
		case i.settled && !doubted:
		case i.next.After(now):
			wait = min(wait, i.next.Sub(now))
		case len(due) == probesARound:
			wait = 0
		default:
			due = append(due, t)
		}
	}
	results := askAll(ctx, w.ca, w.ask, due, probesAtOnce)
	if ctx.Err() != nil {
		return 0
	}
	results, again := w.doubt(ctx, now, results)
	if again {
		return 0
	}
	for _, result := range results {
		wait = min(wait, w.asked[result.ProbeTarget].add(result, now))
	}
	w.prober.tell(w.results(targets), nil)
	return wait
}

// follow forgets who is no longer wanted.
func (w *probing) follow(targets []ProbeTarget) {
	for t := range w.asked {
		if _, wanted := slices.BinarySearchFunc(targets, t, ProbeTarget.compare); !wanted {
			delete(w.asked, t)
		}
	}
	for _, t := range targets {
		if w.asked[t] == nil {
			w.asked[t] = &inquiry{}
		}
	}
}

// askRoots brings the CA up to date. Where it has changed, everybody is asked anew.
func (w *probing) askRoots(ctx context.Context, now time.Time) {
	roots, err := w.roots(ctx)
	if err == nil && w.ca != nil && roots.TrustDomain == w.of.TrustDomain && slices.Equal(roots.PEM, w.of.PEM) {
		w.rootsErr, w.rootsAt, w.rootsNext = nil, now, now.Add(rootsEvery)
		return
	}
	var ca *probe.CA
	if err == nil {
		ca, err = probe.NewCA(roots.TrustDomain, roots.PEM)
	}
	if err != nil {
		w.rootsErr, w.rootsNext = notProbed(err), now.Add(rootsAgain)
		return
	}
	w.ca, w.of, w.rootsErr, w.rootsAt, w.rootsNext = ca, roots, nil, now, now.Add(rootsEvery)
	for _, i := range w.asked {
		i.settled, i.next = false, time.Time{}
	}
}

func notProbed(err error) error {
	return fmt.Errorf("what listens on sidecars' ports is not probed: %w", err)
}

// doubt makes sure that nobody is accused by a CA that is no longer the mesh's: it asks for the CA where it has not just been
// asked for. Again tells that there is another one.
func (w *probing) doubt(ctx context.Context, now time.Time, results []Probed) (certain []Probed, again bool) {
	foreign := func(p Probed) bool { return p.Outcome == probe.Foreign || p.Outcome == probe.Unnamed }
	if now.Sub(w.rootsAt) < rootsFresh || !slices.ContainsFunc(results, foreign) {
		return results, false
	}
	before := w.ca
	w.askRoots(ctx, now)
	if w.ca != before {
		return nil, true
	}
	if w.rootsErr != nil {
		for i := range results {
			if foreign(results[i]) {
				results[i].Result = probe.Result{Outcome: probe.Unknown, Detail: "the agent does not tell if the mesh's CA is still the same"}
			}
		}
	}
	return results, false
}

// results is what is known of targets.
func (w *probing) results(targets []ProbeTarget) []Probed {
	var all []Probed
	for _, t := range targets {
		if i := w.asked[t]; i.shown.Outcome != "" {
			all = append(all, i.shown)
		}
	}
	return all
}

// add takes in the result of a try at now, and tells how long to wait for the next one. A try that tells nothing takes
// nothing back: whoever has been found out could answer no more.
func (i *inquiry) add(result Probed, now time.Time) time.Duration {
	switch result.Outcome {
	case probe.Closed, probe.Refused:
		i.shy++
	case probe.Silent, probe.Unknown:
	default:
		i.shy = 0
	}
	result.Lasting = i.shy >= mostShy
	if i.shown.Outcome == "" || tells(result) || !tells(i.shown) {
		i.shown = result
	}
	i.settled = result.Outcome == probe.Named
	i.wait = min(max(2*i.wait, probeAgain), probeRarely)
	i.next = now.Add(i.wait)
	if i.settled {
		return probeRarely
	}
	return i.wait
}

// tells tells whether a result says anything of who has shown it.
func tells(p Probed) bool {
	switch p.Outcome {
	case probe.Silent, probe.Unknown:
		return false
	case probe.Closed, probe.Refused:
		return p.Lasting
	default:
		return true
	}
}

// askAll asks targets, a few at once, and returns their results in the same order. When ctx ends, the others are unknown.
func askAll(ctx context.Context, ca *probe.CA, ask func(context.Context, *probe.CA, netip.AddrPort) probe.Result, targets []ProbeTarget, atOnce int) []Probed {
	results := make([]Probed, len(targets))
	places := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for i, t := range targets {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			result := probe.Result{Outcome: probe.Unknown, Detail: "there was no time left"}
			if ctx.Err() == nil {
				result = ask(ctx, ca, t.At)
			}
			results[i] = Probed{ProbeTarget: t, Result: result}
		})
	}
	group.Wait()
	return results
}

// probe asks what listens on sidecars' ports who it is.
func (s *Scan) probe(ctx context.Context, parts Parts, in *Input) {
	if !in.Policy.Probe || in.Source == SourceNone {
		return
	}
	if in.Source == SourceFiles || parts.Roots == nil || parts.Ask == nil {
		s.note("%v", notProbed(errors.New("no Consul agent is asked")))
		return
	}
	targets := Evaluate(*in).Probes
	if len(targets) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, scanProbesTime)
	defer cancel()
	roots, err := parts.Roots(ctx)
	var ca *probe.CA
	if err == nil {
		ca, err = probe.NewCA(roots.TrustDomain, roots.PEM)
	}
	if err != nil {
		s.note("%v", notProbed(err))
		return
	}
	in.Probes = askAll(ctx, ca, parts.Ask, targets, scanProbes)
}
