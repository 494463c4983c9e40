// SPDX-License-Identifier: MPL-2.0

package firewall

// stations are the states through which the kernel has to go from have to want, the last of them want. Mostly that is all
// there is to it. Only where ports move between Open and Paths while who may connect to one of these changes, too, there are
// more: then each pair of a port and a source is treated as before, and from one instant on as wanted.
//
// A port leaves Open for Paths once Paths admits whom it is to, and before Open admits others; back it goes the other way
// round. Where both lists of sources change and ports move both ways at once, that cannot be: then those that go from Paths to
// Open are closed for the moment in between, rather than open to somebody that neither state lets in.
func stations(have, want *Ruleset) []*Ruleset {
	toPaths, toOpen := have.Open.Intersect(want.Paths), have.Paths.Intersect(want.Open)
	from, paths := !sameSources(have.AllowFrom, want.AllowFrom), !sameSources(have.PathsFrom, want.PathsFrom)
	if toPaths.Len()+toOpen.Len() == 0 || !from && !paths {
		return []*Ruleset{want}
	}
	now := *meeting(have, want)
	now.Open, now.Paths = now.Open.Union(toPaths), now.Paths.Union(toOpen)
	now.AllowFrom, now.PathsFrom = have.AllowFrom, have.PathsFrom
	now.CutRules, now.Accept = want.CutRules, want.Accept
	var all []*Ruleset
	then := func(change func()) {
		change()
		station := now
		all = append(all, &station)
	}
	guardAsWanted := func(ports PortSet) { now.Guard = now.Guard.Minus(ports).Union(want.Guard.Intersect(ports)) }
	move := func() {
		now.Open, now.Paths = now.Open.Minus(toPaths), now.Paths.Union(toPaths)
		guardAsWanted(toPaths)
	}
	moveBack := func() {
		now.Open, now.Paths = now.Open.Union(toOpen), now.Paths.Minus(toOpen)
		guardAsWanted(toOpen)
	}
	changeFrom := func() { now.AllowFrom = want.AllowFrom }
	changePaths := func() { now.PathsFrom = want.PathsFrom }
	switch {
	case !from:
		then(moveBack)
		then(changePaths)
	case !paths:
		then(move)
		then(changeFrom)
	case toPaths.Len() == 0:
		then(changeFrom)
		then(moveBack)
	default:
		now.Paths = now.Paths.Minus(toOpen)
		then(changePaths)
		then(move)
	}
	return append(all, want)
}

// way is stations from what is known to be in the kernel, or want alone where nothing is.
func (m *memory) way(want *Ruleset) []*Ruleset {
	if m == nil {
		return []*Ruleset{want}
	}
	return stations(&m.applied, want)
}

// way is the same for the native table.
func (m *nativeMemory) way(want *Ruleset) []*Ruleset {
	if m == nil {
		return []*Ruleset{want}
	}
	return stations(&m.applied, want)
}
