// SPDX-License-Identifier: MPL-2.0

// Package settings keeps a host at what Consul's KV says for its fleet: it follows the keys, and decides what becomes of an
// answer. What documents mean is package config's business, and what is made of a configuration its caller's.
package settings

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	// An answer that came before calm had passed is followed by a pause, the next by twice as long a one: who writes without
	// end keeps no host busy. The first key of a prefix is waited for longer, because until then each change of any key of the
	// datacenter is an answer (Consul 1.21).
	calm          = 10 * time.Second
	minPause      = 50 * time.Millisecond
	maxPause      = 5 * time.Second
	maxPauseEmpty = 30 * time.Second

	// After failures the question is put ever more rarely; an agent of this host that is not there costs nobody anything.
	minRetry      = time.Second
	maxRetry      = 30 * time.Second
	maxRetryLocal = 5 * time.Second
)

// Answer is what became of a question to Consul's KV: all entries, or an error.
type Answer struct {
	Entries []consul.KVEntry
	Err     error
}

// Follow asks for the entries until ctx ends, as Client.KV answers: at once for index 0, else when something has changed. It
// calls tell with the first answer, with each that is another than before, with the first after failures, and with each
// failure. It asks no faster than an answer is made use of.
func Follow(ctx context.Context, ask func(ctx context.Context, index uint64) (consul.KV, error), tell func(Answer)) {
	var index uint64
	var last []consul.KVEntry
	var pause time.Duration
	told, failures := false, 0
	for ctx.Err() == nil {
		asked := time.Now()
		kv, err := ask(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			tell(Answer{Err: err})
			told, index = false, 0
			most := maxRetry
			if consul.KindOf(err) == consul.KindUnreachable {
				most = maxRetryLocal
			}
			sleep(ctx, jittered(min(minRetry<<min(failures, 6), most)))
			failures++
			continue
		}
		failures = 0
		if !told || !same(last, kv.Entries) {
			tell(Answer{Entries: kv.Entries})
			told, last = true, kv.Entries
		}
		if time.Since(asked) >= calm {
			pause = 0
		}
		pause = min(max(2*pause, minPause), maxPauseEmpty)
		if len(kv.Entries) > 0 {
			pause = min(pause, maxPause)
		}
		sleep(ctx, jittered(pause))
		index = kv.Index
	}
}

// same tells whether two answers hold the same.
func same(a, b []consul.KVEntry) bool {
	return slices.EqualFunc(a, b, func(a, b consul.KVEntry) bool { return a.Key == b.Key && bytes.Equal(a.Value, b.Value) })
}

// jittered returns between half of d and d: hosts that were told together do not come back together.
func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
