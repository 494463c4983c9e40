// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// xtables makes rulesets with iptables and ipset. It is not safe for concurrent use. Where unusable says so it only shows
// and removes, with the programs that are there.
type xtables struct {
	unusable error   // what it lacks for making rulesets, or nil
	noSets   bool    // the kernel has no ip_set, so there is no set
	tools    []*tool // the chosen variant's, one for each family
	others   []*tool // the other variant's, as far as they are to be had
	notes    []string
	name     func() string // for people: the variant and its version; asked for once, when somebody wants it
	runs     *programs

	memory *memory // nil: nothing is known about the kernel
	rivals *others
	silent int // how many of the last apply's repairs were of sets, whose changes send no event
	// verifyEvery is how long what was seen in the kernel is taken for granted. listEvery is how long legacy rules go
	// unlisted while their number and size stay the same; nft rules have a generation that misses nothing.
	verifyEvery, listEvery time.Duration
}

// memory is what the kernel is known to hold.
type memory struct {
	applied          Ruleset
	generation       generation
	verified, listed time.Time
}

func (x *xtables) title() string { return x.name() }

// all are the programs of both variants and families, as far as they are there.
func (x *xtables) all() []*tool { return slices.Concat(x.tools, x.others) }

// apply makes the kernel equal want. Any error makes the next call look at everything anew.
func (x *xtables) apply(ctx context.Context, want *Ruleset) (Changes, error) {
	var changes Changes
	x.silent = 0
	var err error
	for _, next := range x.memory.way(want) {
		if err = x.bring(ctx, next, &changes); err != nil {
			break
		}
	}
	if err != nil {
		x.memory = nil
	}
	x.rivals.settle(&changes)
	if len(changes.Repaired) == x.silent {
		changes.By = nil // whoever was heard of did something else
	}
	return changes, err
}

// bring is apply, in only those parts that may differ.
func (x *xtables) bring(ctx context.Context, want *Ruleset, changes *Changes) error {
	now := time.Now()
	known := x.memory
	if known == nil {
		return x.bringAll(ctx, want, changes)
	}
	held := known.applied.held()
	verify := now.Sub(known.verified) >= x.verifyEvery && x.rivals.fight.wait(now) == 0
	if verify {
		seen, err := readSets()
		if err != nil {
			return err
		}
		drift := setDrift(&known.applied, seen)
		changes.Repaired = append(changes.Repaired, drift...)
		x.silent += len(drift)
		held = seen
	}
	write := !want.sameRules(&known.applied) || verify && x.rulesMayDiffer(now)
	way := migrate(held, want, !write)
	if err := way.begin(changes); err != nil {
		return err
	}
	if write {
		generation, err := x.writeRules(ctx, want, &known.applied, changes)
		if err != nil {
			return errors.Join(err, way.undo(changes))
		}
		known.generation, known.listed = generation, now
	}
	if err := way.finish(changes); err != nil {
		return err
	}
	known.applied = *want
	if verify {
		known.verified = now
	}
	return nil
}

// bringAll is bring when nothing is known about the kernel: sets that exist are taken over as they are, and what the
// other variant has of ours goes once the rules stand in this one.
func (x *xtables) bringAll(ctx context.Context, want *Ruleset, changes *Changes) error {
	now := time.Now()
	held, err := readSets()
	if err != nil {
		return err
	}
	existed, err := destroySet(fillSet)
	if err != nil {
		return err
	}
	if existed {
		changes.set(fillSet).Destroyed = true
	}
	way := migrate(held, want, false)
	if err := way.begin(changes); err != nil {
		return err
	}
	generation, err := x.writeRules(ctx, want, nil, changes)
	if err != nil {
		return errors.Join(err, way.undo(changes))
	}
	if err := removeRules(ctx, x.others, changes, true); err != nil {
		return err
	}
	if err := way.finish(changes); err != nil {
		return err
	}
	x.memory = &memory{applied: *want, generation: generation, verified: now, listed: now}
	return nil
}

// rulesMayDiffer tells whether rules could have changed since they were last listed.
func (x *xtables) rulesMayDiffer(now time.Time) bool {
	seen := x.generation()
	legacyIsOld := x.tools[0].variant == VariantLegacy && now.Sub(x.memory.listed) >= x.listEvery
	return !seen.known || seen != x.memory.generation || legacyIsOld || x.mayDiffer()
}

func (x *xtables) generation() generation {
	var families []Family
	for _, t := range x.tools {
		families = append(families, t.family)
	}
	return readGeneration(x.tools[0].variant, families)
}

// writeRules makes the rules equal want's and returns the generation at which they were seen to be so. The generation is
// read before the rules are, so that a change in between is found the next time; and rules are read again after they
// were written, so that our own writing is not taken for somebody else's. applied is what stood there before, or nil.
func (x *xtables) writeRules(ctx context.Context, want, applied *Ruleset, changes *Changes) (generation, error) {
	const rounds = 3
	for round := range rounds {
		x.rivals.events.listing()
		seen := x.generation()
		right := true
		var lists []func() (map[string]*table, error)
		for _, t := range x.tools {
			lists = append(lists, t.startList(ctx, want.chains(t.family)))
		}
		var errs []error
		for i, t := range x.tools {
			tables, err := lists[i]()
			if err != nil {
				errs = append(errs, err)
				continue
			}
			fixes, err := t.fixes(tables, want.chains(t.family), round > 0)
			errs = append(errs, err)
			if round == 0 && applied != nil {
				changes.addDrift(t, t.drift(tables, fixes, want, applied))
			}
			if len(fixes) == 0 {
				continue
			}
			right = false
			if err := t.apply(ctx, script(fixes)); err != nil {
				errs = append(errs, err)
				continue
			}
			changes.addRules(t, fixes)
		}
		if err := errors.Join(errs...); err != nil || right {
			return seen, err
		}
	}
	return generation{}, fmt.Errorf("cannot keep the rules as written: another program changed them %d times meanwhile "+
		"(find out which program also manages them)", rounds)
}

// drift returns what would have to be done to bring back what was applied; fixes is what has to be for want.
func (t *tool) drift(tables map[string]*table, fixes []fix, want, applied *Ruleset) []fix {
	if want.sameRules(applied) {
		return fixes
	}
	drift, _ := t.fixes(tables, applied.chains(t.family), false) // the fixes for want came with the same errors
	return drift
}

// fixes returns what has to be done to the tables of a family. What can be done in one table is returned even where
// another's cannot. written says that the rules were written a moment ago.
//
// ip6tables-legacy -C (1.8.9) compares little more than a rule's first match, and would take one with another set, or with
// a "!" less, for ours. There only the words of the listing count. Where a version has other words, rules just
// written are not taken for wrong.
func (t *tool) fixes(tables map[string]*table, wanted []chain, written bool) ([]fix, error) {
	careless := t.variant == VariantLegacy && t.family == IPv6 && !written
	var all []fix
	var errs []error
	for _, name := range ourTables() {
		fixes, err := tables[name].fixes(name, wanted, func(chain, rule string) (bool, error) {
			place, listed := rulePlace{name, chain, rule}, strings.Join(tables[name].ours[chain], "\n")
			if before, known := t.proven[place]; known && before == listed {
				return true, nil
			}
			if careless {
				return false, nil
			}
			found, err := t.find(name, chain, rule)
			if found {
				t.proven[place] = listed
			}
			return found, err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.family, err))
			continue
		}
		all = append(all, fixes...)
	}
	return all, errors.Join(errs...)
}

// plan says what an apply that knows nothing would do.
func (x *xtables) plan(ctx context.Context, want *Ruleset) (Changes, error) {
	var changes Changes
	held, err := readSets()
	if err != nil {
		return changes, err
	}
	leftover, err := readSet(fillSet)
	if err != nil {
		return changes, err
	}
	if leftover != nil {
		changes.set(fillSet).Destroyed = true
	}
	way := migrate(held, want, false)
	way.note(&changes)
	var errs []error
	look := func(tools []*tool, wanted func(Family) []chain) {
		for _, t := range tools {
			tables, err := t.list(ctx, wanted(t.family))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			fixes, err := t.fixes(tables, wanted(t.family), false)
			errs = append(errs, err)
			changes.addRules(t, fixes)
		}
	}
	look(x.tools, want.chains)
	look(x.others, func(Family) []chain { return nil })
	return changes, errors.Join(errs...)
}

// show reads everything of ours, in both variants.
func (x *xtables) show(ctx context.Context) (State, error) {
	s := State{Notes: x.notes}
	var errs []error
	for _, name := range x.sets() {
		set, err := readSet(name)
		errs = append(errs, err)
		if set != nil {
			slices.SortFunc(set.sources, netip.Prefix.Compare)
			s.Sets = append(s.Sets, SetState{set.name, set.kind(), set.ports, set.sources, int(set.references)})
		}
	}
	for _, t := range x.tools {
		s.Families = append(s.Families, t.family)
	}
	for _, tools := range [][]*tool{x.tools, x.others} {
		for _, t := range tools {
			tables, err := t.list(ctx, nil)
			errs = append(errs, err)
			for _, name := range ourTables() {
				if shown := tables[name].show(); shown != nil {
					shown.Variant, shown.Family, shown.Table = t.variant, t.family, name
					s.Tables = append(s.Tables, *shown)
				}
			}
		}
	}
	return s, errors.Join(errs...)
}

// show returns what is ours in a table, or nil.
func (t *table) show() *TableState {
	if t == nil || len(t.ours) == 0 {
		return nil
	}
	s := &TableState{Jumps: t.jumps}
	for _, name := range []string{acceptChain, preroutingChain, guardChain} {
		if rules, present := t.ours[name]; present {
			s.Chains = append(s.Chains, ChainState{name, rules})
		}
	}
	return s
}

// sets are the names that sets of ours may have, none where the kernel has no sets.
func (x *xtables) sets() []string {
	if x.noSets {
		return nil
	}
	return append(ourSets(), fillSet)
}

// holdSets tells whether the kernel has a set that bears a name of ours, or that cannot be known.
func (x *xtables) holdSets() bool {
	return slices.ContainsFunc(x.sets(), func(name string) bool {
		set, err := readSet(name)
		return set != nil || err != nil
	})
}

// remove takes away everything of ours, or only says what that would be: rules first, because they hold the sets.
func (x *xtables) remove(ctx context.Context, really bool) (Changes, error) {
	x.memory = nil
	var changes Changes
	if err := removeRules(ctx, x.all(), &changes, really); err != nil {
		return changes, err
	}
	if really {
		return changes, destroySets(x.sets(), &changes)
	}
	var errs []error
	for _, name := range x.sets() {
		set, err := readSet(name)
		errs = append(errs, err)
		if set != nil {
			changes.set(name).Destroyed = true
		}
	}
	return changes, errors.Join(errs...)
}

// removeRules removes our jumps and chains from the tables of these tools, or only says what that would be.
func removeRules(ctx context.Context, tools []*tool, changes *Changes, really bool) error {
	var errs []error
	for _, t := range tools {
		tables, err := t.list(ctx, nil)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		fixes, err := t.fixes(tables, nil, false)
		errs = append(errs, err)
		if len(fixes) == 0 {
			continue
		}
		if really {
			if err := t.apply(ctx, script(fixes)); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		changes.addRules(t, fixes)
	}
	return errors.Join(errs...)
}
