// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"slices"

	"golang.org/x/sys/unix"
)

// nativeStep is one transaction on the way of the native table from what was seen to what is wanted. Most ways have only
// one; see next.
type nativeStep struct {
	seen, after *nativeView
	anew        bool // the table is deleted and made again
	claim       bool // the table is to become ours as it is
	last        bool // it leads to what is wanted
}

// next returns the first step of the way from seen to wanted, which changes nothing where they are alike. anew makes the
// table anew whatever was seen.
//
// Rules and members of sets of ports change at one instant, which is when the generation does. What a set of sources holds
// does not: where the kernel looks members up in a copy (seen with 6.18), the new one takes the old one's place only when
// all else of the transaction is done. A rule that begins to read a set in the transaction that fills it thus drops
// everybody for some microseconds. So such a set is filled in a transaction before, while no rule reads it, and goes in one
// after the last rule that read it: in between there are sets too many, which harm nobody, and from which the next apply
// goes on where this one ends early. All that packets can tell apart changes in the transaction between these, but for
// members of sets of sources that are read before and after it: those come last in it, so for some microseconds a source
// that goes may still reach a port that opens.
//
// One packet may look into one set before that instant and into the next after it (one SYN in some hundred thousand, with
// 6.18). So a port that is let in before and after, but for another reason, keeps the old reason for one transaction more.
//
// It is the same with a table that is made anew: where nothing in the old one drops anything, its sets come first and its
// chains after. Otherwise the guarded ports would be open meanwhile, so all is made at once, and where sources are limited
// a SYN of one that is allowed may be dropped. That takes somebody who tampered with our sets or added objects, or a table
// without the flag persist that is to be held.
func (n *nativeTable) next(seen, wanted *nativeView, anew bool) *nativeStep {
	s := &nativeStep{seen: seen, anew: anew || !seen.leadsTo(wanted)}
	limited := wanted.set("from4") != nil || wanted.set("paths4") != nil
	owned := n.socket != nil && n.flags != 0
	if owned {
		ours := seen.flags == n.flags && seen.owner == n.socket.port
		s.claim = !ours && seen.flags == nftPersist
		s.anew = s.anew || !ours && !s.claim
	}
	first, together := n.rules.unread(seen, wanted), false
	switch {
	case s.anew:
		s.after = seen.toward(wanted, false)
		if limited && seen.inert() {
			s.after.chains = nil
		}
	case first != nil:
		s.after = seen.withSets(first)
	default:
		s.after = seen.toward(wanted, !seen.sameChains(wanted))
		together = s.after.keep(seen, wanted)
	}
	s.last = !together && len(s.after.sets) == len(wanted.sets) && s.after.sameChains(wanted)
	s.after.uses = uint32(-s.after.others()) // it was 0
	s.after.generation = nextGeneration(seen.generation)
	s.after.flags = seen.flags
	switch {
	case owned:
		s.after.flags, s.after.owner = n.flags, n.socket.port
	case s.anew:
		s.after.flags = n.flags &^ nftOwner
	}
	return s
}

// keep leaves ports in open and paths that are to go from there and are let in all the same: as the other of the two, or
// because nothing guards them any more. It tells whether there are any; there are none once that reason stands in seen.
func (v *nativeView) keep(seen, wanted *nativeView) bool {
	unguarded := seen.ports("guard").Minus(wanted.ports("guard"))
	kept := false
	for name, other := range map[string]string{"open": "paths", "paths": "open"} {
		stay := seen.ports(name).Minus(wanted.ports(name)).Intersect(wanted.ports(other).Minus(seen.ports(other)).Union(unguarded))
		if to := v.set(name); to != nil && stay.Len() > 0 {
			to.ports, kept = to.ports.Union(stay), true
		}
	}
	return kept
}

// ports are the members of a set of ports, none where there is no such set.
func (v *nativeView) ports(name string) PortSet {
	if s := v.set(name); s != nil {
		return s.ports
	}
	return PortSet{}
}

// leadsTo tells whether the table v can become wanted without being made anew.
func (v *nativeView) leadsTo(wanted *nativeView) bool {
	if !v.exists || v.flags&^(nftPersist|nftOwner) != 0 || v.others() != 0 {
		return false
	}
	for _, name := range nativeSources() {
		from, to := v.set(name), wanted.set(name)
		if from != nil && to != nil && !from.holds(to) && v.reads(name) {
			return false
		}
	}
	return true
}

// unread returns the sets of sources that are wanted and not as they should be in seen, as far as no rule of ours reads
// them there.
func (rules *nativeRules) unread(seen, wanted *nativeView) []nativeSet {
	var sets []nativeSet
	for i, name := range nativeSources() {
		to, from := wanted.set(name), seen.set(name)
		if to == nil || from != nil && from.holds(to) && slices.Equal(from.runs, to.runs) {
			continue
		}
		code := []string{rules.from4.code, rules.from6.code, rules.paths4.code, rules.paths6.code}[i]
		read := slices.ContainsFunc(seen.chains, func(c nativeChain) bool {
			should := wanted.chain(c.name)
			return should != nil && c.sameHead(should) &&
				slices.ContainsFunc(c.rules, func(r nativeRule) bool { return r.code == code })
		})
		if !read {
			sets = append(sets, *to)
		}
	}
	return sets
}

// inert tells whether nothing in v can drop a packet.
func (v *nativeView) inert() bool {
	return v.flags&nftDormant != 0 || !slices.ContainsFunc(v.chains, func(c nativeChain) bool { return c.based })
}

// reads tells whether any rule looks into the set of that name.
func (v *nativeView) reads(name string) bool {
	return slices.ContainsFunc(v.chains, func(c nativeChain) bool {
		return slices.ContainsFunc(c.rules, func(r nativeRule) bool { return nftCodeReads(r.code, name) })
	})
}

// withSets is v with other sets in it.
func (v *nativeView) withSets(sets []nativeSet) *nativeView {
	after := &nativeView{exists: true, chains: v.chains}
	after.sets = slices.DeleteFunc(slices.Clone(v.sets), func(s nativeSet) bool {
		return slices.ContainsFunc(sets, func(other nativeSet) bool { return other.name == s.name })
	})
	after.sets = append(after.sets, sets...)
	return after
}

// toward is wanted, in sets of the kinds that v has, where these will do. If later, it still has the sets of sources that
// are not wanted.
func (v *nativeView) toward(wanted *nativeView, later bool) *nativeView {
	after := &nativeView{exists: wanted.exists, chains: wanted.chains, sets: slices.Clone(wanted.sets)}
	for i := range after.sets {
		to := &after.sets[i]
		if from := v.set(to.name); from != nil && from.holds(to) {
			to.flags = from.flags
		}
	}
	for _, name := range nativeSources() {
		if from := v.set(name); later && from != nil && wanted.set(name) == nil {
			after.sets = append(after.sets, *from)
		}
	}
	return after
}

func (v *nativeView) sameChains(other *nativeView) bool {
	return len(v.chains) == len(other.chains) && !slices.ContainsFunc(other.chains, func(c nativeChain) bool {
		have := v.chain(c.name)
		return have == nil || !have.same(&c)
	})
}

// sameHead tells whether c is a chain like other, but for its rules.
func (c *nativeChain) sameHead(other *nativeChain) bool {
	return c.kind == other.kind && c.based == other.based && c.hook == other.hook && c.policy == other.policy &&
		c.priority == other.priority
}

func (c *nativeChain) same(other *nativeChain) bool {
	return c.sameHead(other) &&
		slices.EqualFunc(c.rules, other.rules, func(a, b nativeRule) bool { return a.code == b.code })
}

// replaces tells whether the step makes a set anew under a name that is taken, and rules read it.
func (s *nativeStep) replaces() bool {
	for i := range s.after.sets {
		to := &s.after.sets[i]
		if from := s.seen.set(to.name); from != nil && !from.sameObject(to) && s.seen.reads(to.name) {
			return true
		}
	}
	return false
}

// sameObject tells whether other is s with other members.
func (s *nativeSet) sameObject(other *nativeSet) bool {
	return s.odd == other.odd && s.flags == other.flags && s.keyType == other.keyType && s.keySize == other.keySize
}

// rewrites tells whether the step writes the rules of a chain, given as it is before and as it is to be; either may be nil.
// A set that is made anew must lose its readers first.
func (s *nativeStep) rewrites(from, to *nativeChain) bool {
	return s.anew || from == nil || to == nil || !from.same(to) || s.replaces()
}

// batch is the step as a transaction, empty where nothing is to change. It names the generation on which it was worked out,
// unless blind.
func (s *nativeStep) batch(blind bool) (*nftBatch, error) {
	generation := s.seen.generation
	if blind {
		generation = 0
	}
	b := newNFTBatch(generation)
	from := s.seen
	if s.anew {
		if from.exists {
			b.deleteTable()
		}
		from = &nativeView{}
	}
	if s.after.exists && (s.anew || s.claim) {
		b.newTable(s.after.flags)
	}
	s.clear(b, from)
	return b, s.fill(b, from)
}

// clear takes away what is no longer wanted: rules before the sets that they read, and maps before the chains to which they
// lead.
func (s *nativeStep) clear(b *nftBatch, from *nativeView) {
	for i := range from.chains {
		if c := &from.chains[i]; s.rewrites(c, s.after.chain(c.name)) {
			b.flushChain(c.name)
		}
	}
	for i := range from.sets {
		set := &from.sets[i]
		if to := s.after.set(set.name); (to == nil || !set.sameObject(to)) && set.flags&unix.NFT_SET_ANONYMOUS == 0 {
			b.deleteSet(set.name) // one without a name goes with its rule
		}
	}
	for i := range from.chains {
		c := &from.chains[i]
		if to := s.after.chain(c.name); to == nil || !c.sameHead(to) {
			b.deleteChain(c.name)
		}
	}
}

// fill brings what is new.
func (s *nativeStep) fill(b *nftBatch, from *nativeView) error {
	for i := range s.after.sets {
		to := &s.after.sets[i]
		have := from.set(to.name)
		if have == nil || !have.sameObject(to) {
			b.newSet(to, uint32(i+1))
			have = &nativeSet{}
		}
		added, removed := to.ports.Minus(have.ports), have.ports.Minus(to.ports)
		b.elements(unix.NFT_MSG_DELSETELEM, to.name, &removed, minusRuns(have.runs, to.runs))
		b.elements(unix.NFT_MSG_NEWSETELEM, to.name, &added, minusRuns(to.runs, have.runs))
	}
	for i := range s.after.chains {
		to := &s.after.chains[i]
		have := from.chain(to.name)
		if !s.rewrites(have, to) {
			continue
		}
		if have == nil || !have.sameHead(to) {
			b.newChain(to)
		}
		for _, r := range to.rules {
			if err := b.newRule(to.name, r.expressions); err != nil {
				return err
			}
		}
	}
	return nil
}

// note says in changes what the step does.
func (s *nativeStep) note(changes *Changes) {
	for i := range s.after.sets {
		to := &s.after.sets[i]
		from := s.seen.set(to.name)
		if from == nil || !from.sameKind(to) {
			changes.set(nativePrefix + to.name).Created = true
			from = &nativeSet{}
		}
		added, removed := to.ports.Minus(from.ports), from.ports.Minus(to.ports)
		changes.addPorts(nativePrefix+to.name, &added, &removed)
		changes.addSources(nativePrefix+to.name,
			networksOf(minusRuns(to.runs, from.runs)), networksOf(minusRuns(from.runs, to.runs)))
	}
	for i := range s.seen.sets {
		if name := s.seen.sets[i].name; s.after.set(name) == nil {
			changes.set(nativePrefix + name).Destroyed = true
		}
	}
	rule := func(chain, done string) {
		changes.Rules = append(changes.Rules, RuleChange{Family: FamilyInet, Table: nativeName, Chain: chain, Done: done})
	}
	for i := range s.after.chains {
		if to := &s.after.chains[i]; s.rewrites(s.seen.chain(to.name), to) {
			rule(to.name, "written")
		}
	}
	for i := range s.seen.chains {
		if name := s.seen.chains[i].name; s.after.chain(name) == nil {
			rule(name, "removed")
		}
	}
	if !s.after.exists {
		rule("", "removed")
	}
}

// sameKind tells whether s has keys of the type that other has.
func (s *nativeSet) sameKind(other *nativeSet) bool {
	return s.keyType == other.keyType && (s.flags^other.flags)&^unix.NFT_SET_EVAL == 0
}
