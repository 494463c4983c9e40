// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Drops is how many packets our rules have dropped, all of them bare SYNs. A client that gets no answer repeats its SYN,
// so one attempt to connect counts several times.
type Drops struct{ IPv4, IPv6 DropCount }

// DropCount is what was dropped in one family: Guard because its port is guarded and not open, or is an exposed path and not
// for where it came from (Ruleset.PathsFrom), Source because its port
// is open, but not to where it came from (Ruleset.AllowFrom).
type DropCount struct{ Guard, Source uint64 }

// Dropped reads the counters of our drop rules in the backend and variant in use; where there are none it returns zeros. A packet is
// counted once, in PREROUTING or in INPUT. What the cut rules drop is not in it: those are no SYNs.
//
// The kernel counts from the moment a rule is written. So the numbers begin again at 0 when Apply writes the chains anew:
// when sources begin or cease to be limited or exposed paths to be let in, when Ruleset.CutRules changes, after a repair, and with Remove; a restart,
// ports that open and close, and sources that change leave them alone. iptables -Z sets them to 0 as well.
//
// With iptables it runs one iptables-save a family. It takes no lock, neither Apply's nor that of the xtables, and so neither waits for
// them nor holds them up. Beside an error it returns what could be read.
func (f *Firewall) Dropped(ctx context.Context) (Drops, error) {
	drops, err := f.backend.dropped(ctx)
	if err != nil {
		return drops, fmt.Errorf("cannot read what was dropped: %w", err)
	}
	return drops, nil
}

// dropped reads the counters of both families.
func (x *xtables) dropped(ctx context.Context) (Drops, error) {
	var drops Drops
	var errs []error
	for _, t := range x.tools {
		mangle, err := t.listTable(ctx, mangleTable, "-c")
		switch {
		case err != nil:
			errs = append(errs, err)
		case t.family == IPv6:
			drops.IPv6 = mangle.drops(t.family)
		default:
			drops.IPv4 = mangle.drops(t.family)
		}
	}
	return drops, errors.Join(errs...)
}

// drops adds up the counters of our drop rules, which are told apart by the sets that they read: iptables versions list
// the rest of a rule in different words.
func (t *table) drops(family Family) DropCount {
	var count DropCount
	for _, chain := range []string{preroutingChain, guardChain} {
		for _, rule := range t.rules[chain] {
			switch {
			case !slices.Contains(rule.words, "DROP"):
			case slices.Contains(rule.words, family.fromSet()):
				count.Source += rule.packets
			case slices.Contains(rule.words, guardSet):
				count.Guard += rule.packets
			}
		}
	}
	return count
}
