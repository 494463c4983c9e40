// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// tellEvery is how often a caller is told of foreign changes that needed no repair, at most.
	tellEvery = time.Second
	// repairTimeout bounds one repair, which holds up Apply meanwhile.
	repairTimeout = 20 * time.Second
	// restFactor is how many times as long as a look that found nothing took no further one is made: a neighbour that
	// changes its own rules all the time costs a fifth of the time. It ends after mostRest, because real harm waits for it too.
	restFactor = 4
	mostRest   = 100 * time.Millisecond
)

// Watch repairs what others change as soon as they do, until ctx ends; then it finishes the repair that it has begun, and
// returns nil. It calls told after each repair, or try at one, with what was done; and after a foreign change of nf_tables
// that needed no repair, at most once a second, with Changes that are Empty: the caller may want to look again at what
// else depends on others' rules.
// told is called on Watch's goroutine and may call f's other methods.
//
// What is repaired is what the last successful Apply wanted. Before the first one, and after an Apply or a repair that
// failed, Watch leaves the kernel alone until an Apply succeeds.
//
// A change of nf_tables is heard of from the kernel. Where legacy rules are in use, the xtables lock file tells that
// there may have been one. Changes of sets send no event at all: Apply finds them, after Options.VerifyEvery.
//
// While another program undoes the repairs at once (Changes.Fight), they wait.
//
// Everything happens in the network namespace of the calling thread, and on that thread. One Watch of a Firewall may run
// at a time. The error says why nothing can be heard; Apply works without.
func (f *Firewall) Watch(ctx context.Context, told func(Changes, error)) error {
	e, err := f.listen()
	if err != nil {
		return fmt.Errorf("cannot watch the firewall: %w", err)
	}
	defer f.unlisten(e)
	release, err := f.hold()
	if err != nil {
		return fmt.Errorf("cannot watch the firewall: %w", err)
	}
	defer release()
	defer context.AfterFunc(ctx, e.poke)()
	var w watch
	for ctx.Err() == nil {
		seen, err := f.look(ctx, e, &w)
		if err != nil {
			return fmt.Errorf("cannot watch the firewall: %w", err)
		}
		if seen.tell {
			told(seen.changes, seen.err)
			continue // more may have come meanwhile
		}
		if err := e.wait(seen.again); err != nil {
			return fmt.Errorf("cannot watch the firewall: %w", err)
		}
	}
	return nil
}

func (f *Firewall) listen() (*events, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rivals.events != nil {
		return nil, errors.New("it is watched already")
	}
	e, err := openEvents(f.legacy(), f.xtables.runs)
	f.rivals.events = e
	return e, err
}

// legacy tells whether legacy rules are in use, whose changes send no event.
func (f *Firewall) legacy() bool {
	return f.backend == backend(f.xtables) && f.xtables.tools[0].variant == VariantLegacy
}

func (f *Firewall) unlisten(e *events) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rivals.events = nil
	e.close()
}

// watch is what a Watch remembers.
type watch struct {
	told time.Time // when the caller last was
	rest time.Time // no look before then
}

// sight is what one look brought. A negative again means that only an event asks for another.
type sight struct {
	changes Changes
	err     error
	tell    bool
	again   time.Duration
}

// look takes in the events that have come and repairs what they stand for. The error says that there will be no more.
func (f *Firewall) look(ctx context.Context, e *events, w *watch) (sight, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := e.drain(); err != nil {
		return sight{}, err
	}
	s := sight{again: -1}
	began := time.Now()
	if f.backend.mayDiffer() {
		s.again = max(f.rivals.fight.wait(began), w.rest.Sub(began), 0)
	} else {
		e.by = nil
	}
	if s.again == 0 {
		s.changes, s.err = f.repair(ctx)
		s.tell, s.again = s.err != nil || !s.changes.Empty(), -1
		if !s.tell {
			e.by = nil
			w.rest = time.Now().Add(min(restFactor*time.Since(began), mostRest))
		}
	}
	if e.foreign && !s.tell {
		if left := tellEvery - time.Since(w.told); left <= 0 {
			s.tell = true
		} else if s.again < 0 || left < s.again {
			s.again = left
		}
	}
	if s.tell {
		w.told, e.foreign = time.Now(), false
		s.changes.Fight = f.rivals.fight.fought(began)
	}
	return s, nil
}

// repair makes the kernel what the last successful Apply wanted. f.mu is held. One that has begun is finished even where
// Watch ends: the rules must stand when hostagent stops.
func (f *Firewall) repair(ctx context.Context) (Changes, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), repairTimeout)
	defer cancel()
	changes, err := f.backend.repair(ctx)
	if err != nil {
		return changes, fmt.Errorf("cannot repair the firewall: %w", err)
	}
	return changes, nil
}

// mayDiffer tells whether rules may have been changed since they were last listed. Where nothing is known about the kernel
// there is nothing to compare it with.
func (x *xtables) mayDiffer() bool {
	if x.memory == nil {
		return false
	}
	if x.tools[0].variant == VariantLegacy {
		return x.rivals.events != nil && x.rivals.events.unseen
	}
	seen := x.generation()
	return seen.known && seen != x.memory.generation
}

// repair makes the kernel what was last applied, as an apply of the same does that looks at the kernel.
func (x *xtables) repair(ctx context.Context) (Changes, error) {
	if x.memory == nil {
		return Changes{}, nil
	}
	x.memory.verified = time.Time{}
	want := x.memory.applied
	return x.apply(ctx, &want)
}
