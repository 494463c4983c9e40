// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestMetadata: what a host tells programs of itself.
func TestMetadata(t *testing.T) {
	type meta = map[string]string
	plain := meta{"version": "1.2.3", "mode": "guard", "enforce": "report", "sidecar-range": "21000-21255", "range-cells": "#"}
	with := func(key, value string) meta {
		changed := meta{}
		for k, v := range plain {
			changed[k] = v
		}
		changed[key] = value
		if value == "" {
			delete(changed, key)
		}
		return changed
	}
	for _, test := range []struct {
		name string
		set  func(*fakeHost, *Parts)
		want meta
		keep []string
	}{
		{"plain", func(*fakeHost, *Parts) {}, plain, nil},
		{"observe", func(_ *fakeHost, p *Parts) { p.Policy.Mode = ModeObserve }, with("mode", "observe"), nil},
		{"quarantine", func(_ *fakeHost, p *Parts) { p.Policy.Quarantine = &Quarantine{} }, with("enforce", "quarantine"), nil},
		{"counts", func(_ *fakeHost, p *Parts) {
			p.Policy.CountsOnly = true
			p.Audit = func(context.Context, audit.Seen[audit.Host]) audit.Report { return audit.Report{} }
		}, meta{"mode": "guard", "enforce": "report"}, nil},
		{"no range", func(h *fakeHost, _ *Parts) { h.facts.SidecarMin, h.facts.SidecarMax = -1, -1 },
			meta{"version": "1.2.3", "mode": "guard", "enforce": "report", "sidecar-range": "none"}, nil},
		{"nobody listens", func(h *fakeHost, _ *Parts) { h.listeners = nil }, with("range-cells", "?"), nil},
		{"a squatter, and a gap before", func(h *fakeHost, _ *Parts) {
			h.listeners = append(h.listeners, listener("tcp 0.0.0.0:21003 uid=5"))
		}, with("range-cells", "#..!"), nil},
		{"registered twice", func(h *fakeHost, _ *Parts) { h.regs = append(h.regs, app("api", 9090), sidecar("api", 21000)) }, with("range-cells", "%"), nil},
		{"not audited yet", func(_ *fakeHost, p *Parts) {
			p.Audit = func(context.Context, audit.Seen[audit.Host]) audit.Report { return audit.Report{} }
		}, plain, []string{"checklist"}},
		{"nothing is known", func(h *fakeHost, _ *Parts) {
			h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no")}
		}, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := newFakeHost()
			parts := h.parts(ModeGuard)
			test.set(h, &parts)
			h.runParts(t, parts, func(chan<- Parts) {
				pass(5 * time.Second)
				if diff := cmp.Diff(test.want, h.report.Meta); diff != "" {
					t.Errorf("the metadata (-want +got)\n%s", diff)
				}
				if diff := cmp.Diff(test.keep, h.report.KeepMeta); diff != "" {
					t.Errorf("what stands (-want +got)\n%s", diff)
				}
			})
		})
	}
}

// TestMetadataTellsTheScore of the last audit, and then keeps none.
func TestMetadataTellsTheScore(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.Audit = func(context.Context, audit.Seen[audit.Host]) audit.Report {
		return audit.Report{Rows: []audit.Row{{ID: catalog.Items()[0].ID, Status: audit.Pass}, {ID: catalog.Items()[1].ID, Status: audit.Fail}}}
	}
	h.runParts(t, parts, func(chan<- Parts) {
		pass(2 * time.Minute)
		want(t, "the checklist", "pass=1 fail=1", h.report.Meta["checklist"])
		if len(h.report.KeepMeta) > 0 {
			t.Errorf("kept all the same: %v", h.report.KeepMeta)
		}
	})
}

// TestMetadataOutlastsTheMoment: what comes and goes on a host where nothing is wrong changes no metadata.
func TestMetadataOutlastsTheMoment(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		before, regs, seen := h.report.Meta, h.regs, h.listeners
		same := func(when string) {
			t.Helper()
			pass(6 * time.Second)
			if diff := cmp.Diff(before, h.report.Meta); diff != "" {
				t.Errorf("%s (-before +after)\n%s", when, diff)
			}
		}
		h.regs = append(h.regs[:len(h.regs):len(h.regs)], app("api", 9090))
		h.regs[len(h.regs)-2].Proxy.Upstreams = []consul.Upstream{{Name: "db", Port: 21100}}
		h.listeners = append(seen[:len(seen):len(seen)], listener("tcp 127.0.0.1:21100"))
		same("an upstream on loopback")
		h.listeners, h.regs = seen, nil
		same("an agent that forgets its services")
		if !h.rules.Open.Has(21000) || h.rules.Open != firewall.Ports(21000) {
			t.Errorf("open is %s", h.rules.Open)
		}
		h.regs = regs
		same("and knows them again")
	})
}

// TestRestartTellsNothingNew: a fleet that is restarted with nothing changed writes no check, in guard mode nor in observe mode.
func TestRestartTellsNothingNew(t *testing.T) {
	for _, mode := range []Mode{ModeGuard, ModeObserve} {
		for _, counts := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s counts %t", mode, counts), func(t *testing.T) {
				h, parts := newPaper(0)
				parts.Policy.Mode, parts.Policy.CountsOnly = mode, counts
				h.runParts(t, parts, func(chan<- Parts) { pass(10 * time.Second) })
				before := h.report
				h.said = nil
				h.runParts(t, parts, func(chan<- Parts) {
					pass(10 * time.Second)
					if len(h.said) == 0 || len(h.report.Checks) != len(before.Checks) {
						t.Fatalf("said %d times, at last %+v", len(h.said), h.report)
					}
					for _, s := range h.said {
						for _, c := range s.report.Checks {
							if diff := cmp.Diff(checkOf(before, c.Key), c); diff != "" {
								t.Errorf("%s (-before +after)\n%s", c.Key, diff)
							}
						}
						if diff := cmp.Diff(before.Meta, s.report.Meta); diff != "" {
							t.Errorf("the metadata (-before +after)\n%s", diff)
						}
						if len(s.report.Checks)+len(s.report.Keep) != len(before.Checks) {
							t.Errorf("checks are taken away: %+v", s.report)
						}
					}
				})
			})
		}
	}
}

// TestCellsAreTheMapOfAScan: a use has one sign, in whichever map.
func TestCellsAreTheMapOfAScan(t *testing.T) {
	signs := ""
	for _, use := range []Use{UseSidecar, UsePath, UseUnserved, UseHeld, UseSquatted, UseShared, UseLocal, ""} {
		signs += string(use.Cell())
	}
	want(t, "the signs", "#=?~!%+.", signs)
}
