// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hostagent/hostagent/hostagent"
)

const queryLimit = 2 * time.Minute

// queries measures what a blocking query of hostagent takes of the server's memory: with none, and with one, two and four
// of each host.
func (s *sim) queries(ctx context.Context) error {
	waiting, end := context.WithCancel(ctx)
	defer end()
	if err := s.change(ctx, func(p *hostagent.Parts) { p.Changed = nil }); err != nil {
		return err
	}
	var none usage
	for _, each := range []int{0, 1, 2, 4} {
		if each > 0 {
			for range max(each/2, 1) {
				if err := s.ask(ctx, waiting); err != nil {
					return err
				}
			}
		}
		now, err := s.settledMemory(ctx)
		if err != nil {
			return err
		}
		n := each * len(s.hosts)
		if n == 0 {
			none = now
			s.figure("memory of the server in use, with none of them", fmt.Sprintf("%.0f MB", now.heap), fmt.Sprintf("RSS %.0f MB, %d goroutines", now.resident, now.goroutines))
			continue
		}
		s.figure(fmt.Sprintf("memory in use for each of %d", n), fmt.Sprintf("%.1f kB", (now.heap-none.heap)*1e3/float64(n)),
			fmt.Sprintf("%.1f goroutines; RSS %.0f MB", float64(now.goroutines-none.goroutines)/float64(n), now.resident))
	}
	return nil
}

// ask begins one more blocking query for every host, by the host's own agent, and returns when all have had a first answer.
func (s *sim) ask(ctx, waiting context.Context) error {
	errs := make(chan error, len(s.hosts))
	var all sync.WaitGroup
	for _, h := range s.hosts {
		client, err := h.client()
		if err != nil {
			return err
		}
		all.Go(func() {
			index, err := client.Changed(ctx, h.node, 0)
			if err != nil {
				errs <- err
				return
			}
			go func() { _, _ = client.Changed(waiting, h.node, index) }() // ends with waiting
		})
	}
	all.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// settledMemory waits until the server's goroutines have come to rest.
func (s *sim) settledMemory(ctx context.Context) (now usage, err error) {
	last, equal := -1, 0
	err = until(ctx, queryLimit, 2*time.Second, func() (bool, error) {
		if now, err = s.server.memory(ctx); err != nil {
			return false, err
		}
		if equal++; abs(now.goroutines-last) > max(20, last/500) {
			last, equal = now.goroutines, 0
		}
		return equal >= 2, nil
	}, func() string { return "the server's goroutines do not come to rest" })
	return now, err
}

func abs(n int) int { return max(n, -n) }
