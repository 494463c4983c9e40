// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/hostagent/hostagent/hostagent"
)

// quiet waits until nothing is written to the catalog for as long as two refreshes of a life check take.
func (s *sim) quiet(ctx context.Context) error {
	const while = 12 * time.Second
	var last uint64
	since := time.Now()
	return until(ctx, quietLimit, 500*time.Millisecond, func() (bool, error) {
		now, err := s.server.catalogIndex()
		if now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > while, err
	}, func() string { return "the catalog does not come to rest" })
}

// rest is what the server did while nothing happened.
type rest struct {
	entries int
	ours    string  // what hostagents wrote to the catalog, "" for nothing
	others  string  // what Consul wrote there by itself
	cpu     float64 // percent of one processor
}

// idle looks at a server for a while in which nothing happens.
func (s *sim) idle(ctx context.Context, what string, while time.Duration) (r rest, err error) {
	index, err := s.server.index()
	if err != nil {
		return r, err
	}
	catalog, err := s.server.catalogIndex()
	if err != nil {
		return r, err
	}
	before, err := s.server.usage()
	if err != nil {
		return r, err
	}
	if err := wait(ctx, while); err != nil {
		return r, err
	}
	after, err := s.server.usage()
	if err != nil {
		return r, err
	}
	entries, err := s.server.index()
	if err != nil {
		return r, err
	}
	now, err := s.server.catalogIndex()
	if err != nil {
		return r, err
	}
	if now != catalog {
		if r.ours, r.others, err = s.server.changed(catalog); err != nil {
			return r, err
		}
	}
	r.entries, r.cpu = entries-index, 100*(after.cpu-before.cpu).Seconds()/after.at.Sub(before.at).Seconds()
	s.figure(fmt.Sprintf("CPU of the server, %s, %v", what, while), fmt.Sprintf("%.1f %%", r.cpu), fmt.Sprintf("of one processor; RSS %.0f MB", after.resident))
	s.figure("  entries of the raft log", fmt.Sprint(r.entries), "")
	return r, nil
}

// steady measures a fleet in which nothing happens, and then the same without its blocking queries.
func (s *sim) steady(ctx context.Context) error {
	with, err := s.idle(ctx, "with hostagent", s.window)
	if err != nil {
		return err
	}
	s.must("  of these by hostagents", cmp.Or(with.ours, "0"), with.ours == "", "none")
	if with.others != "" {
		s.figure("  of these by Consul itself", with.others, "")
	}
	if err := s.change(ctx, func(p *hostagent.Parts) { p.Changed = nil }); err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	without, err := s.idle(ctx, "catalog_wakeup = false", s.window/2)
	if err != nil {
		return err
	}
	s.figure("  so the blocking queries take", fmt.Sprintf("%.1f %%", with.cpu-without.cpu), "")
	for _, h := range s.hosts {
		beside, err := h.client()
		if err != nil {
			return err
		}
		h.parts.Changed = beside.Changed
	}
	return s.change(ctx, func(*hostagent.Parts) {})
}
