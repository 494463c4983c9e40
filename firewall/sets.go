// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
)

// swapAbove is how many ports of a set may change one by one; more are swapped in together.
const swapAbove = 8

// holding is what our sets hold, as read from the kernel or as known from before.
type holding struct {
	have     *Ruleset // only what is in sets counts
	missing  []string // the sets that are not there
	excepted []string // the sets that have members which they do not match
}

// readSets reads our sets and refuses ones that only bear our names.
func readSets() (*holding, error) {
	h := &holding{have: &Ruleset{}}
	var errs []error
	for _, name := range ourSets() {
		set, err := readSet(name)
		errs = append(errs, err, checkOurs(set))
		if set == nil {
			h.missing = append(h.missing, name)
			continue
		}
		switch name {
		case guardSet:
			h.have.Guard = set.ports
		case openSet:
			h.have.Open = set.ports
		case cutSet:
			h.have.Cut = set.ports
		case pathsSet:
			h.have.Paths = set.ports
		case paths4Set, paths6Set:
			h.have.PathsFrom = append(h.have.PathsFrom, set.sources...)
		default:
			h.have.AllowFrom = append(h.have.AllowFrom, set.sources...)
		}
		if set.excepted {
			h.excepted = append(h.excepted, name)
		}
	}
	slices.SortFunc(h.have.AllowFrom, netip.Prefix.Compare)
	slices.SortFunc(h.have.PathsFrom, netip.Prefix.Compare)
	return h, errors.Join(errs...)
}

// held is the holding of a kernel in which r stands.
func (r *Ruleset) held() *holding {
	h := &holding{have: r}
	for _, name := range ourSets() {
		if !r.needs(name) {
			h.missing = append(h.missing, name)
		}
	}
	return h
}

// needs tells whether the set of that name is to be there: those of sources, and of ports that are for some only, while
// there are any sources.
func (r *Ruleset) needs(set string) bool {
	switch set {
	case from4Set, from6Set:
		return len(r.AllowFrom) > 0
	case pathsSet, paths4Set, paths6Set:
		return len(r.PathsFrom) > 0
	}
	return true
}

// setStep brings one set from its ports to others.
type setStep struct {
	set      string
	from, to *PortSet
}

// setSteps returns the changes that lead from have to want, in the only order in which no port that is open before and
// after is ever closed, and none that is closed before and after is ever open: open and paths grow, guard grows, guard
// shrinks, open and paths shrink. Cut follows guard, so that nobody comes back in after their connection was cut.
func setSteps(have, want *Ruleset) []setStep {
	open, paths := have.Open.Union(want.Open), have.Paths.Union(want.Paths)
	var steps []setStep
	for _, s := range []setStep{
		{openSet, &have.Open, &open},
		{pathsSet, &have.Paths, &paths},
		{guardSet, &have.Guard, &want.Guard},
		{cutSet, &have.Cut, &want.Cut},
		{openSet, &open, &want.Open},
		{pathsSet, &paths, &want.Paths},
	} {
		if *s.from != *s.to {
			steps = append(steps, s)
		}
	}
	return steps
}

// run makes the change in the kernel and notes what was done.
func (s setStep) run(changes *Changes) error {
	added, removed := s.to.Minus(*s.from), s.from.Minus(*s.to)
	if added.Len()+removed.Len() > swapAbove {
		err := replaceMembers(s.set, s.to.Len(), func() error { return changeMembers(nl.IPSET_CMD_ADD, fillSet, s.to) })
		if err != nil {
			return err
		}
		changes.addPorts(s.set, &added, &removed)
		return nil
	}
	if err := changeMembers(nl.IPSET_CMD_ADD, s.set, &added); err != nil {
		return err
	}
	changes.addPorts(s.set, &added, &PortSet{})
	if err := changeMembers(nl.IPSET_CMD_DEL, s.set, &removed); err != nil {
		return err
	}
	changes.addPorts(s.set, &PortSet{}, &removed)
	return nil
}

// note says in changes what run would do.
func (s setStep) note(changes *Changes) {
	added, removed := s.to.Minus(*s.from), s.from.Minus(*s.to)
	changes.addPorts(s.set, &added, &removed)
}

// migration is the way of our sets to what is wanted: what happens before the rules are written, because they name sets,
// and what happens after, because rules no longer name them.
//
// While sources stay as they are, all ports change before the rules. Where sources change, be it in their sets or with
// the rules that read these, an opening port must not meet the old sources, nor a closing one the new. So before the
// rules only those ports stay open that are open in the end, and the others open after. Each pair of a port and a source
// is then treated as before, and from one instant on as wanted.
type migration struct {
	create  []string
	before  []setStep
	sources []sourceStep // before the rules too
	after   []setStep
	destroy []string
}

// migrate returns the way from h to want. Where rulesKnown is false, rules may stand that belong to other sources.
func migrate(h *holding, want *Ruleset, rulesKnown bool) migration {
	var m migration
	for _, name := range ourSets() {
		switch missing := slices.Contains(h.missing, name); {
		case missing && want.needs(name):
			m.create = append(m.create, name)
		case !missing && !want.needs(name):
			m.destroy = append(m.destroy, name)
		}
	}
	wanted := want.sourceSets()
	for i, had := range h.have.sourceSets() {
		to := wanted[i].sources
		if want.needs(had.name) && (slices.Contains(h.excepted, had.name) || !sameSources(had.sources, to)) {
			m.sources = append(m.sources, sourceStep{had.name, had.sources, to})
		}
	}
	first := want
	if m.sources != nil || m.destroy != nil || !rulesKnown && len(want.AllowFrom)+len(want.PathsFrom) > 0 {
		first = meeting(h.have, want)
	}
	m.before = setSteps(h.have, first)
	if first != want {
		m.after = setSteps(first, want)
	}
	return m
}

// meeting is the state between have and want in which sources may change: open is what is open in both. The guard is
// already the wanted one, but for ports that are still to open: those stay as they are until they do. Of ports that some
// sources reach before and after only those are guarded that are so before and after. Cut comes last.
func meeting(have, want *Ruleset) *Ruleset {
	opens, stay := want.Open.Union(want.Paths), have.Paths.Intersect(want.Paths)
	guard := want.Guard.Minus(opens).Union(have.Guard.Intersect(opens))
	return &Ruleset{
		Open:  have.Open.Intersect(want.Open),
		Paths: stay,
		Guard: guard.Minus(stay.Minus(want.Guard)),
		Cut:   have.Cut,
	}
}

// begin makes the changes that come before the rules. It ends at the first failure: a set that could not grow must keep
// the next step from closing ports.
func (m *migration) begin(changes *Changes) error {
	for _, name := range m.create {
		if err := createSet(name, name, 0); err != nil {
			return err
		}
		changes.set(name).Created = true
	}
	for _, step := range m.before {
		if err := step.run(changes); err != nil {
			return err
		}
	}
	for _, step := range m.sources {
		if err := step.run(changes); err != nil {
			return err
		}
	}
	return nil
}

// undo takes away the sets that begin made, where no rule at all could be written after it: they were not there before, and
// without rules they do nothing.
func (m *migration) undo(changes *Changes) error {
	if len(changes.Rules) > 0 {
		return nil
	}
	var errs []error
	for _, name := range m.create {
		_, err := destroySet(name)
		errs = append(errs, err)
		if err == nil {
			changes.Sets = slices.DeleteFunc(changes.Sets, func(s SetChange) bool { return s.Set == name })
		}
	}
	return errors.Join(errs...)
}

// finish makes the changes that come after the rules. Where those could not be written, it must not be called.
func (m *migration) finish(changes *Changes) error {
	for _, step := range m.after {
		if err := step.run(changes); err != nil {
			return err
		}
	}
	return destroySets(m.destroy, changes)
}

// note says in changes what begin and finish would do.
func (m *migration) note(changes *Changes) {
	for _, name := range m.create {
		changes.set(name).Created = true
	}
	for _, step := range m.before {
		step.note(changes)
	}
	for _, step := range m.sources {
		step.note(changes)
	}
	for _, step := range m.after {
		step.note(changes)
	}
	for _, name := range m.destroy {
		changes.set(name).Destroyed = true
	}
}

// setDrift says how the kernel's sets differ from what was applied before.
func setDrift(applied *Ruleset, seen *holding) []string {
	var drift []string
	for _, name := range seen.missing {
		if applied.needs(name) {
			drift = append(drift, "set "+name+" was gone")
		}
	}
	have := seen.have
	for _, s := range []setStep{
		{guardSet, &have.Guard, &applied.Guard},
		{openSet, &have.Open, &applied.Open},
		{cutSet, &have.Cut, &applied.Cut},
		{pathsSet, &have.Paths, &applied.Paths},
	} {
		if *s.from != *s.to && applied.needs(s.set) && !slices.Contains(seen.missing, s.set) {
			drift = append(drift, fmt.Sprintf("set %s had lost ports %s and gained %s",
				s.set, s.to.Minus(*s.from), s.from.Minus(*s.to)))
		}
	}
	for _, name := range ourSets() {
		if !applied.needs(name) && !slices.Contains(seen.missing, name) {
			drift = append(drift, "set "+name+" had appeared")
		}
	}
	wanted := applied.sourceSets()
	for i, had := range have.sourceSets() {
		name, from, to := had.name, had.sources, wanted[i].sources
		switch {
		case !applied.needs(name) || slices.Contains(seen.missing, name):
		case slices.Contains(seen.excepted, name):
			drift = append(drift, "set "+name+" had gained exceptions (nomatch)")
		case !sameSources(from, to):
			drift = append(drift, fmt.Sprintf("set %s had lost sources %s and gained %s", name,
				sourcesText(minusSources(to, from)), sourcesText(minusSources(from, to))))
		}
	}
	return drift
}

// destroySets removes sets.
func destroySets(names []string, changes *Changes) error {
	var errs []error
	for _, name := range names {
		existed, err := destroySet(name)
		if err == nil && existed {
			changes.set(name).Destroyed = true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
