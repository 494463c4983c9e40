// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"fmt"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/host"
)

// For how long the network may see a port as it should not after a neighbour is done: what sends an event is put right in a
// fraction of heardWithin, on a machine that is not busy; what does not, a change of an ipset, at the shipped check_interval.
const (
	heardWithin   = 2 * time.Second
	noticedWithin = 8 * time.Second
)

// watch tries a port of the host every 20 ms and keeps count of the tries that saw something else than they should.
type watch struct {
	b       *box
	address string
	want    host.Reach
	stop    chan struct{}
	tries   sync.WaitGroup

	mu          sync.Mutex
	all, wrong  int
	first, last time.Time // when wrong tries began
}

// watchPort begins to watch.
func (b *box) watchPort(port uint16, want host.Reach) *watch {
	w := &watch{b: b, address: at(host.IPv4, port), want: want, stop: make(chan struct{})}
	w.tries.Go(func() {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-ticker.C:
				w.tries.Go(w.try) // a try that gets no answer takes 0.7 s, and must not hold up the next one
			}
		}
	})
	b.t.Cleanup(w.end) // also where the test gives up: what it started must not outlive it
	return w
}

func (w *watch) try() {
	start := time.Now()
	seen, err := w.b.see(w.address)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all++
	if err == nil && seen == w.want {
		return
	}
	if w.wrong++; w.first.IsZero() || start.Before(w.first) {
		w.first = start
	}
	if start.After(w.last) {
		w.last = start
	}
}

// end stops the tries. A second call does nothing.
func (w *watch) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.tries.Wait()
}

// report ends the watch, says in words what it saw, and fails the test where that was wrong for longer than limit.
func (w *watch) report(limit time.Duration) string {
	w.b.t.Helper()
	w.end()
	if w.wrong == 0 {
		return fmt.Sprintf("%s was %s in all of %d tries", w.address, w.want, w.all)
	}
	span := w.last.Sub(w.first)
	if span > limit {
		w.b.t.Errorf("%s was not %s for %v, want it repaired within %v", w.address, w.want, span, limit)
	}
	return fmt.Sprintf("%s was not %s in %d of %d tries, over %v", w.address, w.want, w.wrong, w.all, span.Round(10*time.Millisecond))
}

// during calls f, which does something to the firewall, while the network watches an open and a closed port. It waits until
// both and the rules are as they should be, and logs how long that took and what the watchers saw.
func (b *box) during(what string, f func()) {
	b.t.Helper()
	b.repairs(what, heardWithin, f)
}

// repairs is during with the time that may pass after f until all is right.
func (b *box) repairs(what string, within time.Duration, f func()) {
	b.t.Helper()
	open, closed := b.watchPort(sidecar, host.Open), b.watchPort(squatted, host.Dropped)
	time.Sleep(200 * time.Millisecond)
	start := time.Now()
	f()
	done := time.Since(start)
	b.settled()
	stood := time.Since(start)
	b.eventually(sidecar, host.Open)
	b.eventually(squatted, host.Dropped)
	b.t.Logf("%s took %v, the rules stood as they were %v after its beginning; %s; %s", what, done.Round(10*time.Millisecond),
		stood.Round(10*time.Millisecond), open.report(done+within), closed.report(done+within))
}

// through is during for lines of shell.
func (b *box) through(what string, lines ...string) {
	b.t.Helper()
	b.during(what, func() { b.sh(lines...) })
}

// settled waits until the kernel holds what it held when the guard stood first: the same sets, the same rules, in the same
// places.
func (b *box) settled() {
	b.t.Helper()
	b.until("the rules are as they were", func() error {
		if show, _ := b.try("hostagent firewall show"); show != b.standing {
			return fmt.Errorf("(-want +got):\n%s", cmp.Diff(b.standing, show))
		}
		return nil
	})
}
