// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"math/rand/v2"
	"time"
)

const (
	// spreadPerHost is the share of the time for news that each member of the datacenter adds: when all hosts have news at
	// once, the servers see 250 of them a second, of two writes each. Consul advises 7,500 IOPS for the disks of large servers, and
	// five to ten of them for a write: that is 750 to 1,500 writes a second.
	spreadPerHost = time.Second / 250
	// leastSpread is the shortest time that is worth a wait.
	leastSpread = 50 * time.Millisecond
	// firstSpread bounds the wait of a run's first report: until then nobody tells that hostagent lives, and what an earlier
	// run told of that expires after 30 s.
	firstSpread = 10 * time.Second
)

// heldNews is news that waits for a moment of its own to be written: a thousand hosts may learn of the same at once.
type heldNews struct {
	wake  chan struct{} // to the loop: holds one token when the moment has come
	since time.Time     // when the news was first seen
	due   time.Time     // when it is written; zero: no moment was chosen
	waits bool          // the last report was not what was said, and was not written
}

func newHeldNews() heldNews { return heldNews{wake: make(chan struct{}, 1)} }

// holds tells whether news has to wait at now. The moment at which it may be written is chosen once, at random within spread
// from when it was first seen: further changes do not move it, nor does news that goes back to what was said, so that what
// changes without pause is told, too. A spread that becomes shorter brings it nearer.
func (h *heldNews) holds(now time.Time, spread time.Duration) bool {
	if spread < leastSpread {
		spread = 0
	}
	chosen := h.waits || now.Before(h.due)
	if !chosen {
		h.since, h.due = now, now
		if spread > 0 {
			h.due = now.Add(rand.N(spread))
		}
	}
	if latest := h.since.Add(spread); h.due.After(latest) {
		h.due, chosen = latest, false
	}
	h.waits = now.Before(h.due)
	if h.waits && !chosen {
		wake := h.wake
		time.AfterFunc(h.due.Sub(now), func() { signal(wake) })
	}
	return h.waits
}

// none takes note that there is no news, or none any more.
func (h *heldNews) none() { h.waits = false }

// spread is the longest time for which news waits before it is written.
func (a *Agent) spread() time.Duration {
	spread := time.Duration(a.facts.Members) * spreadPerHost
	if a.parts.Spread != nil {
		spread = *a.parts.Spread
	}
	if a.said == nil {
		spread = min(spread, firstSpread)
	}
	return spread
}
