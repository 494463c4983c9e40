// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/hostagent"
)

const (
	flipLimit   = 3 * time.Minute
	sampleEvery = 100 * time.Millisecond
)

// flips measures what all hosts write when all have news, as hostagent spreads it and then without that.
func (s *sim) flips(ctx context.Context) error {
	if err := s.flip(ctx, "spread auto", true); err != nil {
		return err
	}
	none := time.Duration(0)
	if err := s.flip(ctx, "spread auto, back again", false); err != nil {
		return err
	}
	if err := s.change(ctx, func(p *hostagent.Parts) { p.Spread = &none }); err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	if err := s.flip(ctx, "spread 0", true); err != nil {
		return err
	}
	return s.flip(ctx, "spread 0, back again", false)
}

// flip changes a listener of every host and watches the server until all have told.
func (s *sim) flip(ctx context.Context, what string, exposed bool) error {
	if err := s.quiet(ctx); err != nil {
		return err
	}
	before, err := s.server.usage()
	if err != nil {
		return err
	}
	writing, stop := context.WithCancel(ctx)
	defer stop()
	writes := make(chan []time.Duration, 1)
	go func() { writes <- s.write(writing) }()
	first, err := s.server.index()
	if err != nil {
		return err
	}
	began := time.Now()
	for _, h := range s.hosts {
		h.listen(s.services, exposed)
	}
	for _, h := range s.hosts {
		h.wake()
	}
	samples, took, err := s.watchFlip(ctx, began, first, exposed)
	if err != nil {
		return err
	}
	after, err := s.server.usage()
	if err != nil {
		return err
	}
	last, err := s.server.index()
	if err != nil {
		return err
	}
	stop()
	latencies := <-writes
	entries := last - first - len(latencies)
	cpu := (after.cpu - before.cpu).Seconds()
	s.figure(what+": until the last is in the catalog", seconds(took), fmt.Sprintf("%d entries of the raft log, %.2f a host", entries, float64(entries)/float64(len(s.hosts))))
	s.figure("  most in a second", fmt.Sprint(peak(samples)), "")
	s.figure("  CPU of the server meanwhile", fmt.Sprintf("%.2f s", cpu), fmt.Sprintf("%.0f %% of one processor; RSS %.0f MB", 100*cpu/took.Seconds(), after.resident))
	if len(latencies) > 0 {
		s.figure("  one other's write, p50 and p99", ms(percentile(latencies, 50)), fmt.Sprintf("%s, of %d", ms(percentile(latencies, 99)), len(latencies)))
	}
	return nil
}

// sample is the raft log's length at a time.
type sample struct {
	at    time.Duration
	index int
}

// watchFlip returns how the raft log grew, and when the last host had told.
func (s *sim) watchFlip(ctx context.Context, began time.Time, first int, exposed bool) (samples []sample, took time.Duration, err error) {
	wanted, count := 0, 0
	if exposed {
		wanted = len(s.hosts)
	}
	var counted time.Time
	err = until(ctx, flipLimit, sampleEvery, func() (bool, error) {
		index, err := s.server.index()
		if err != nil {
			return false, err
		}
		samples = append(samples, sample{time.Since(began), index})
		// To count is dear for the server, so it waits until it can be so.
		if index-first < len(s.hosts) && time.Since(counted) < 2*time.Second {
			return false, nil
		}
		counted = time.Now()
		at := time.Since(began)
		if count, err = s.standing(ctx, `Status == "warning"`, 0); err != nil || count != wanted {
			return false, err
		}
		took = at
		return true, nil
	}, func() string { return fmt.Sprintf("the catalog has %d checks with a warning of %d", count, wanted) })
	return samples, took, err
}

// peak is how much the log grew at most within a second of samples.
func peak(samples []sample) int {
	most, from := 0, 0
	for i := range samples {
		for samples[i].at-samples[from].at > time.Second {
			from++
		}
		most = max(most, samples[i].index-samples[from].index)
	}
	return most
}

// write writes a key every 100 ms, as somebody else would meanwhile, and returns how long each took.
func (s *sim) write(ctx context.Context) (took []time.Duration) {
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		pair := &api.KVPair{Key: "somebody/else", Value: fmt.Append(nil, i)}
		if _, err := s.server.api.KV().Put(pair, nil); err == nil { // not cut off half-way: each is counted
			took = append(took, time.Since(began))
		}
		if wait(ctx, sampleEvery-time.Since(began)) != nil {
			break
		}
	}
	return took
}

// percentile returns one of durations, which it sorts.
func percentile(all []time.Duration, n int) time.Duration {
	slices.Sort(all)
	return all[max((len(all)*n+99)/100-1, 0)]
}
