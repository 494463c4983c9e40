// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
)

// swapAbove is how many ports of a set may change one by one; more are swapped in together.
const swapAbove = 8

// kernelSets is what was read of our sets; a missing one is nil.
type kernelSets struct{ guard, open, cut *ipset }

// readSets reads our sets and refuses ones that only bear our names.
func readSets() (kernelSets, error) {
	var k kernelSets
	var errs []error
	for _, s := range []struct {
		name string
		into **ipset
	}{{guardSet, &k.guard}, {openSet, &k.open}, {cutSet, &k.cut}} {
		set, err := readSet(s.name)
		*s.into = set
		errs = append(errs, err, checkOurs(set))
	}
	return k, errors.Join(errs...)
}

// contents returns the ports as a Ruleset, and the names of the sets that are missing.
func (k kernelSets) contents() (have Ruleset, missing []string) {
	take := func(name string, set *ipset, ports *PortSet) {
		if set == nil {
			missing = append(missing, name)
			return
		}
		*ports = set.ports
	}
	take(openSet, k.open, &have.Open)
	take(guardSet, k.guard, &have.Guard)
	take(cutSet, k.cut, &have.Cut)
	return have, missing
}

// setStep brings one set from its ports to others.
type setStep struct {
	set      string
	from, to *PortSet
}

// setSteps returns the changes that lead from have to want, in the only order in which no port that is open before and
// after is ever closed, and none that is closed before and after is ever open: open grows, guard grows, guard shrinks,
// open shrinks. Cut follows guard, so that nobody comes back in after their connection was cut.
func setSteps(have, want *Ruleset) []setStep {
	both := have.Open.Union(want.Open)
	var steps []setStep
	for _, s := range []setStep{
		{openSet, &have.Open, &both},
		{guardSet, &have.Guard, &want.Guard},
		{cutSet, &have.Cut, &want.Cut},
		{openSet, &both, &want.Open},
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
		if err := replaceMembers(s.set, s.to); err != nil {
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

// writeSets brings the kernel's sets from have to want. It ends at the first failure: a set that could not grow must
// keep the next step from closing ports.
func writeSets(have, want *Ruleset, missing []string, changes *Changes) error {
	for _, name := range missing {
		if err := createSet(name); err != nil {
			return err
		}
		changes.set(name).Created = true
	}
	for _, step := range setSteps(have, want) {
		if err := step.run(changes); err != nil {
			return err
		}
	}
	return nil
}

// setDrift says how the kernel's sets differ from what was applied before.
func setDrift(applied, have *Ruleset, missing []string) []string {
	var drift []string
	for _, name := range missing {
		drift = append(drift, "set "+name+" was gone")
	}
	for _, s := range []setStep{
		{guardSet, &have.Guard, &applied.Guard},
		{openSet, &have.Open, &applied.Open},
		{cutSet, &have.Cut, &applied.Cut},
	} {
		if *s.from != *s.to && !slices.Contains(missing, s.set) {
			drift = append(drift, fmt.Sprintf("set %s had lost ports %s and gained %s",
				s.set, s.to.Minus(*s.from), s.from.Minus(*s.to)))
		}
	}
	return drift
}

// destroySets removes our sets.
func destroySets(changes *Changes) error {
	var errs []error
	for _, name := range append([]string{fillSet}, ourSets()...) {
		existed, err := destroySet(name)
		if err == nil && existed {
			changes.set(name).Destroyed = true
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
