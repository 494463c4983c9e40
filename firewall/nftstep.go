// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// nativeStep is the way of the native table from what was seen to what is wanted, one transaction. Where only members of
// sets differ, only these change; anything else makes the table anew.
type nativeStep struct {
	generation   uint32
	seen, wanted *nativeView
	anew         bool
	claim        bool   // the table is to become ours as it is
	flags        uint32 // that the table is to have, where it is claimed or made anew
}

// migrate returns the way from seen to wanted.
func (n *nativeTable) migrate(seen, wanted *nativeView, anew bool) *nativeStep {
	step := &nativeStep{generation: seen.generation, seen: seen, wanted: wanted, anew: anew || !seen.holds(wanted)}
	switch {
	case n.socket == nil || n.flags == 0:
		step.anew = step.anew || seen.flags&^(nftPersist|nftOwner) != 0
	default:
		step.flags = n.flags
		owned := seen.flags == n.flags && seen.owner == n.socket.port
		step.claim = !owned && seen.flags == nftPersist
		step.anew = step.anew || !owned && !step.claim
	}
	return step
}

// holds tells whether v is the table other but for members of sets.
func (v *nativeView) holds(other *nativeView) bool {
	if !v.exists || v.uses != other.uses || len(v.sets) != len(other.sets) || len(v.chains) != len(other.chains) {
		return false
	}
	for i := range other.sets {
		if s := v.set(other.sets[i].name); s == nil || !s.holds(&other.sets[i]) {
			return false
		}
	}
	for i := range other.chains {
		if c := v.chain(other.chains[i].name); c == nil || !c.same(&other.chains[i]) {
			return false
		}
	}
	return true
}

func (c *nativeChain) same(other *nativeChain) bool {
	return c.kind == other.kind && c.based == other.based && c.hook == other.hook && c.policy == other.policy &&
		c.priority == other.priority &&
		slices.EqualFunc(c.rules, other.rules, func(a, b nativeRule) bool { return a.code == b.code })
}

// batch is the step as a transaction, empty where nothing is to change.
func (s *nativeStep) batch() (*nftBatch, error) {
	b := newNFTBatch(s.generation)
	if s.anew {
		return b, s.makeAnew(b)
	}
	if s.claim {
		b.newTable(s.flags)
	}
	for i := range s.wanted.sets {
		to := &s.wanted.sets[i]
		from := s.seen.set(to.name)
		added, removed := to.ports.Minus(from.ports), from.ports.Minus(to.ports)
		b.elements(unix.NFT_MSG_DELSETELEM, to.name, &removed, minusRuns(from.runs, to.runs))
		b.elements(unix.NFT_MSG_NEWSETELEM, to.name, &added, minusRuns(to.runs, from.runs))
	}
	return b, nil
}

func (s *nativeStep) makeAnew(b *nftBatch) error {
	if s.seen.exists {
		b.deleteTable()
	}
	if !s.wanted.exists {
		return nil
	}
	b.newTable(s.flags)
	for i := range s.wanted.sets {
		set := &s.wanted.sets[i]
		b.newSet(set, uint32(i+1))
		b.elements(unix.NFT_MSG_NEWSETELEM, set.name, &set.ports, set.runs)
	}
	for i := range s.wanted.chains {
		c := &s.wanted.chains[i]
		b.newChain(c)
		for _, r := range c.rules {
			if err := b.newRule(c.name, r.expressions); err != nil {
				return err
			}
		}
	}
	return nil
}

// note says in changes what the step does.
func (s *nativeStep) note(changes *Changes) {
	for i := range s.wanted.sets {
		to := &s.wanted.sets[i]
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
		if name := s.seen.sets[i].name; s.wanted.set(name) == nil {
			changes.set(nativePrefix + name).Destroyed = true
		}
	}
	if !s.anew {
		return
	}
	rule := func(chain, done string) {
		changes.Rules = append(changes.Rules, RuleChange{Family: FamilyInet, Table: nativeName, Chain: chain, Done: done})
	}
	for i := range s.wanted.chains {
		rule(s.wanted.chains[i].name, "written")
	}
	for i := range s.seen.chains {
		if name := s.seen.chains[i].name; s.wanted.chain(name) == nil {
			rule(name, "removed")
		}
	}
	if !s.wanted.exists {
		rule("", "removed")
	}
}

// sameKind tells whether s has keys of the type that other has.
func (s *nativeSet) sameKind(other *nativeSet) bool {
	return s.keyType == other.keyType && (s.flags^other.flags)&^unix.NFT_SET_EVAL == 0
}

// drift says how the kernel's table differs from what was applied before.
func (m *nativeMemory) drift(seen *nativeView) []string {
	if !seen.exists {
		return []string{"table " + nativeTitle + " was gone"}
	}
	var drift []string
	was := m.view
	if changed := (seen.flags ^ was.flags) &^ (nftOwner | nftPersist); changed != 0 {
		drift = append(drift, "table "+nativeTitle+" had other flags")
	}
	applied := Ruleset{Guard: m.applied.Guard, Open: m.applied.Open, Cut: m.applied.Cut}
	now := &holding{have: &Ruleset{}}
	for i, name := range nativeSets() {
		to, from := was.set(name), seen.set(name)
		if to != nil {
			applied.AllowFrom = append(applied.AllowFrom, networksOf(to.runs)...)
		}
		switch {
		case from == nil:
			now.missing = append(now.missing, ourSets()[i])
			continue
		case to != nil && !from.holds(to):
			drift = append(drift, "set "+nativePrefix+name+" was of another kind, or had members that are none of ours")
		}
		switch name {
		case "guard":
			now.have.Guard = from.ports
		case "open":
			now.have.Open = from.ports
		case "cut":
			now.have.Cut = from.ports
		default:
			now.have.AllowFrom = append(now.have.AllowFrom, networksOf(from.runs)...)
		}
	}
	slices.SortFunc(now.have.AllowFrom, netip.Prefix.Compare)
	for _, text := range setDrift(&applied, now) {
		drift = append(drift, strings.Replace(text, "set hostagent-", "set "+nativePrefix, 1))
	}
	return append(drift, was.structureDrift(seen)...)
}

// structureDrift says which chains, and which things of others, differ in seen.
func (v *nativeView) structureDrift(seen *nativeView) []string {
	var drift []string
	for i := range v.chains {
		c := seen.chain(v.chains[i].name)
		switch {
		case c == nil:
			drift = append(drift, fmt.Sprintf("%s: chain %s was gone", nativeTitle, v.chains[i].name))
		case !c.same(&v.chains[i]):
			drift = append(drift, fmt.Sprintf("%s: chain %s had changed", nativeTitle, c.name))
		}
	}
	for i := range seen.chains {
		if v.chain(seen.chains[i].name) == nil {
			drift = append(drift, fmt.Sprintf("%s: chain %s had appeared", nativeTitle, seen.chains[i].name))
		}
	}
	for i := range seen.sets {
		if name := seen.sets[i].name; !slices.Contains(nativeSets(), name) {
			drift = append(drift, fmt.Sprintf("%s: set %s had appeared", nativeTitle, name))
		}
	}
	if others := int(seen.uses) - len(seen.chains) - len(seen.sets); others != 0 {
		drift = append(drift, fmt.Sprintf("%s: %d other objects had appeared", nativeTitle, others))
	}
	return drift
}
