// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	// After a change the catalog is not asked again for wakeupPause: a service and its sidecar come one after the other.
	wakeupPause = 20 * time.Millisecond
	// The passes that changes cause may take wakeupBurst together, each at least wakeupLeast, and then one wakeupShare of the
	// time: many registrations in a row are served at once, and who registers without pause cannot keep a host busy.
	wakeupBurst    = time.Second
	wakeupLeast    = 20 * time.Millisecond
	wakeupShare    = 4 // one in so many
	maxWakeupPause = time.Second

	// After failures the servers are asked ever more rarely.
	minWakeupRetry = time.Second
	maxWakeupRetry = time.Minute
	// wakeupAtOnce is less than any wait that ends without a change takes.
	wakeupAtOnce = time.Second
)

// WakeupState says whether changes of the catalog wake the loop.
type WakeupState string

// The states of StatusWakeup.
const (
	WakeupOff      WakeupState = "off"      // not asked for, or the agent's node is not known
	WakeupStarting WakeupState = "starting" // the first answer is not there yet
	WakeupWaiting  WakeupState = "waiting"  // a change wakes the loop
	WakeupFailing  WakeupState = "failing"  // the catalog does not answer; it is asked again and again
)

// wakeup hears from the catalog of the servers that the services of this node have changed, on a goroutine of its own, and
// wakes the loop, which then asks the agent: what the catalog holds is never looked at. That it fails is no error of the
// loop, which polls anyway.
type wakeup struct {
	wake chan struct{} // to the loop: holds one token after a change
	node string        // whose changes are heard; only the loop's goroutine looks at it
	stop func()        // the same; nil while nothing is heard

	mu    sync.Mutex
	state WakeupState
	err   error         // why it is off or fails
	spent time.Duration // by passes that changes caused, less what time has made up for
	as    time.Time     // when spent was so
}

var (
	errWakeupOff  = errors.New("catalog_wakeup is false")
	errNodeHidden = errors.New("the agent has not told the name of its node; it must answer, and the token needs agent:read")
)

func newWakeup() *wakeup {
	return &wakeup{wake: make(chan struct{}, 1), state: WakeupOff, err: errWakeupOff}
}

// followCatalog begins to hear of changes, where the agent's node is another than before. An agent that may not be trusted
// is not asked. ctx is Run's.
func (a *Agent) followCatalog(ctx context.Context) {
	w, changed, node := a.wakeup, a.parts.Changed, a.facts.Node
	switch kind := consul.KindOf(a.consulErr); {
	case kind == consul.KindImpostor, kind == consul.KindNotLocal, kind == consul.KindTooOld:
		w.end()
		w.set(WakeupOff, a.consulErr)
	case errors.Is(a.consulErr, errWaiting): // it stays as it is
	case changed == nil:
		w.end()
		w.set(WakeupOff, errWakeupOff)
	case node == "":
		w.end()
		w.set(WakeupOff, errNodeHidden)
	case w.stop == nil || node != w.node:
		w.end()
		w.set(WakeupStarting, nil)
		w.node = node
		log := a.parts.Log
		w.stop = aside(ctx, func(ctx context.Context) { w.run(ctx, node, changed, log) })
	}
}

// end stops to hear of changes. What was heard stays.
func (w *wakeup) end() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// spend tells what a pass took that a change caused.
func (w *wakeup) spend(pass time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.spent = max(w.spent-now.Sub(w.as)/wakeupShare, 0) + max(pass, wakeupLeast)
	w.as = now
}

// pause returns how long the catalog is not asked after a change.
func (w *wakeup) pause() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := max(w.spent-time.Since(w.as)/wakeupShare-wakeupBurst, 0)
	return min(max(over*wakeupShare, wakeupPause), maxWakeupPause)
}

// set records the state and tells whether it is another than before.
func (w *wakeup) set(state WakeupState, err error) (another bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	another = state != w.state
	w.state, w.err = state, err
	return another
}

// shown returns the state and why it is so.
func (w *wakeup) shown() (WakeupState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.err
}

// run asks for changes of a node until ctx ends. The first answer, and the first after failures, count as changes: what
// happened before is not known.
func (w *wakeup) run(ctx context.Context, node string, changed func(context.Context, string, uint64) (uint64, error), log *slog.Logger) {
	var index uint64
	var logged time.Time
	tell := func(message string, about ...any) {
		level := slog.LevelDebug
		if time.Since(logged) >= troubleEvery { // it may come and go without end
			level, logged = slog.LevelInfo, time.Now()
		}
		log.Log(ctx, level, message, about...)
	}
	for failures := 0; ctx.Err() == nil; {
		asked := time.Now()
		next, err := changed(ctx, node, index)
		if ctx.Err() != nil {
			return
		}
		if err == nil && next == index && time.Since(asked) < wakeupAtOnce {
			err = errors.New("the agent answers before anything changes")
		}
		if err != nil {
			err = fmt.Errorf("registrations are seen at poll_interval only: %w", err)
			if w.set(WakeupFailing, err) {
				tell("the catalog does not wake the loop", "reason", err)
			}
			index = 0
			wait := min(minWakeupRetry<<min(failures, 6), maxWakeupRetry)
			failures++
			sleep(ctx, wait/2+rand.N(wait/2+1))
			continue
		}
		if w.set(WakeupWaiting, nil) {
			tell("changes of the catalog wake the loop", "node", catalog.Clean(node))
		}
		if index != 0 {
			failures = 0 // it has waited as it should
		}
		if next != index {
			signal(w.wake)
			sleep(ctx, w.pause())
		}
		index = next
	}
}
