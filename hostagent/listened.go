// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hostagent/hostagent/sockets"
)

const (
	// wokenEvery and wokenBurst bound the passes for new listeners: so many at once, then one in wokenEvery. A process that
	// listens without pause delays them, by as much, and costs no more.
	wokenEvery = 50 * time.Millisecond
	wokenBurst = 20
)

// ears is what the goroutine that hears of listeners leaves for the loop.
type ears struct {
	wake chan struct{} // holds one token while something was heard

	mu    sync.Mutex
	heard sockets.Heard // since the loop looked
	hears bool
	err   error // why it does not
}

func newEars() *ears { return &ears{wake: make(chan struct{}, 1)} }

func (e *ears) put(heard sockets.Heard) {
	e.mu.Lock()
	e.heard.Here += heard.Here
	e.heard.Elsewhere += heard.Elsewhere
	e.mu.Unlock()
	signal(e.wake)
}

// take returns what was heard since the last call.
func (e *ears) take() sockets.Heard {
	e.mu.Lock()
	defer e.mu.Unlock()
	heard := e.heard
	e.heard = sockets.Heard{}
	return heard
}

// set records whether listeners are heard of, and why they are not. It tells whether that is news.
func (e *ears) set(hears bool, err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	news := hears != e.hears || ErrorText(err) != ErrorText(e.err)
	e.hears, e.err = hears, err
	return news
}

func (e *ears) state() (hears bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.hears, e.err
}

// listen wakes the loop when something begins to listen, until the returned function is called, which waits for the end.
// What cannot be heard is said once, and tried again now and then: meanwhile listeners are found at poll_interval.
func (a *Agent) listen(ctx context.Context) (stop func()) {
	listened := a.parts.Listened
	if listened == nil {
		return func() {}
	}
	log := a.parts.Log
	var pace pace
	return aside(ctx, func(ctx context.Context) {
		told := func(heard sockets.Heard) {
			if a.ears.set(true, nil) {
				log.Info("listeners are heard of as they appear")
			}
			sleep(ctx, pace.next(time.Now()))
			a.ears.put(heard)
		}
		for ctx.Err() == nil {
			if err := listened(ctx, told); err != nil && ctx.Err() == nil {
				err = fmt.Errorf("listeners are found at poll_interval only: %w", err)
				if a.ears.set(false, err) {
					log.Warn("degraded", "reason", err)
				}
			}
			sleep(ctx, watchAgain)
		}
	})
}

// pace lets a burst of passes through, and then one in wokenEvery. Its zero value is ready.
type pace struct {
	due time.Time // when the next would come if they came evenly, less the burst
}

// next returns how long the next pass has to wait.
func (p *pace) next(now time.Time) time.Duration {
	if earliest := now.Add(-wokenBurst * wokenEvery); p.due.Before(earliest) {
		p.due = earliest
	}
	p.due = p.due.Add(wokenEvery)
	return p.due.Sub(now)
}
