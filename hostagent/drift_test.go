// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

func repair(what string, by ...string) firewall.Changes {
	return firewall.Changes{Repaired: []string{what}, By: by}
}

func TestDriftFinding(t *testing.T) {
	tests := []struct {
		name        string
		drift       *Drift
		message     string
		remedyHolds string
	}{
		{"nobody named", &Drift{What: []string{"set hostagent-open was gone"}},
			"somebody changed what hostagent keeps in the kernel: set hostagent-open was gone; it was put back", "make whatever does it leave chains"},
		{"named", &Drift{What: []string{"a", "b"}, By: []string{"iptables", "nft"}},
			`"iptables" and "nft" changed what hostagent keeps in the kernel: a and b; it was put back`, `make "iptables" and "nft" leave chains`},
		{"more than fits", &Drift{What: []string{"ipv4 nft filter: chain HOSTAGENT-ACCEPT was gone", "ipv4 nft mangle: chain HOSTAGENT-GUARD was gone",
			"ipv4 nft mangle: chain HOSTAGENT-PREROUTING was gone", "set hostagent-open was gone"}},
			"somebody changed what hostagent keeps in the kernel: ipv4 nft filter: chain HOSTAGENT-ACCEPT was gone, " +
				"ipv4 nft mangle: chain HOSTAGENT-GUARD was gone and 2 more; it was put back", "make whatever does it leave chains"},
		{"one that is too long", &Drift{What: []string{strings.Repeat("x", 170), "b"}},
			"somebody changed what hostagent keeps in the kernel: " + strings.Repeat("x", 160) + "…; it was put back", "make whatever"},
		{"a fight", &Drift{What: []string{"a"}, By: []string{"nft\x1b[2J"}, Fight: true},
			`"nft\u001b[2J" changed what hostagent keeps in the kernel: a; it comes back again and again, so hostagent waits up to 15 s before it puts it back`,
			`stop "nft\u001b[2J" from changing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			in.Drift = tt.drift
			result := Evaluate(in)
			var found *Finding
			for i := range result.Findings {
				if result.Findings[i].ID == catalog.FirewallDrift {
					found = &result.Findings[i]
				}
			}
			if found == nil {
				t.Fatal("no finding")
			}
			if diff := cmp.Diff(tt.message, found.Message); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			if !strings.Contains(found.Remedy, tt.remedyHolds) {
				t.Errorf("remedy %q lacks %q", found.Remedy, tt.remedyHolds)
			}
		})
	}
}

// TestDriftMemory: each thing that was found stands for driftShown from the last time, and nothing is news while nothing
// changes.
func TestDriftMemory(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	var m driftMemory
	if d := m.standing(start, nil); d != nil {
		t.Errorf("before any repair: %+v", d)
	}
	m.add(start, repair("a flush", "nft"))
	m.add(start.Add(time.Minute), repair("another flush"))
	m.add(start, firewall.Changes{By: []string{"docker"}}) // who changed something else is no culprit
	first := m.standing(start.Add(2*time.Minute), nil)
	if diff := cmp.Diff(&Drift{What: []string{"a flush", "another flush"}, By: []string{"nft"}}, first); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := m.standing(start.Add(3*time.Minute), first); again != first {
		t.Error("the same drift is new in memory")
	}
	if diff := cmp.Diff(&Drift{What: []string{"another flush"}}, m.standing(start.Add(driftShown), first)); diff != "" {
		t.Errorf("after %v (-want +got):\n%s", driftShown, diff)
	}
	if d := m.standing(start.Add(driftShown+time.Minute), first); d != nil {
		t.Errorf("after all is old: %+v", d)
	}
	m.add(start, firewall.Changes{Repaired: []string{"x"}, Fight: true})
	if d := m.standing(start.Add(59*time.Second), nil); !d.Fight {
		t.Error("no fight during a fight")
	}
	if d := m.standing(start.Add(time.Minute), nil); d.Fight {
		t.Error("a fight a minute after the last blow")
	}
	for i := range 100 {
		m.add(start, repair(fmt.Sprint(i)))
	}
	if n := len(m.standing(start, nil).What); n != mostDrift {
		t.Errorf("%d phrases stand, want %d", n, mostDrift)
	}
}

// TestForeignChanges: a repair by event is told, counted and shown without waiting for the next poll; one that failed is a
// trouble, and until the next Apply nothing is taken for guarded.
func TestForeignChanges(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.PollInterval = time.Hour
	var tell func(firewall.Changes, error)
	var watching int
	parts.Foreign = func(ctx context.Context, told func(firewall.Changes, error)) error {
		tell = told
		watching++
		<-ctx.Done()
		watching--
		return nil
	}
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(0)
		before := h.asked
		for range mostRepairs * 2 { // nobody waits for the loop
			tell(repair("a set was flushed", "nft"), nil)
		}
		pass(0)
		if h.asked <= before {
			t.Error("the event did not wake the loop")
		}
		if log := h.log.String(); !strings.Contains(log, "firewall repaired") || !strings.Contains(log, "id=firewall-drift") {
			t.Errorf("log:\n%s", log)
		}
		tell(firewall.Changes{}, errors.New("no right"))
		pass(0)
		if log := h.log.String(); !strings.Contains(log, "step=repair") || !strings.Contains(log, "no right") {
			t.Errorf("log after a failed repair:\n%s", log)
		}
		if log := h.log.String(); !strings.Contains(log, "recovered") { // the watch has nothing to tell of it
			t.Errorf("log after the Apply that followed:\n%s", log)
		}
		reload <- parts
		pass(0)
		want(t, "watches after a reload", "1", fmt.Sprint(watching))
	})
	want(t, "watches after the end", "0", fmt.Sprint(watching))
}

// TestWatchBeginsAgain: a watch that cannot work is told, and tried again later.
func TestWatchBeginsAgain(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	tries := 0
	parts.Foreign = func(context.Context, func(firewall.Changes, error)) error {
		tries++
		return errors.New("no socket")
	}
	h.runParts(t, parts, func(chan<- Parts) {
		pass(watchAgain + time.Second)
		want(t, "tries", "2", fmt.Sprint(tries))
		if log := h.log.String(); !strings.Contains(log, "seen at check_interval only") {
			t.Errorf("log:\n%s", log)
		}
	})
}
