// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
)

// Changes is what an Apply or Remove really did, or what Plan says that an Apply would do. After an error it holds what
// was done before it. The zero value is nothing.
type Changes struct {
	// Sets has one entry for each set that changed, in the order in which they first did.
	Sets []SetChange
	// Rules has one entry for each chain that was written or removed, and for each jump that was placed.
	Rules []RuleChange
	// Repaired says, a phrase each, where the kernel was not as the last Apply had left it: another hand changed it.
	// It is never set on the first Apply, nor on the first one after an error.
	Repaired []string
	// By names the processes that the kernel named for what made a repair necessary, as far as a Watch heard of it; legacy
	// rules have no names. Names are what processes call themselves, without control characters.
	By []string
	// Fight tells that another program undid more than 5 repairs within a minute, and has not been quiet for a minute
	// since: until then, repairs wait for each other, for up to 15 s.
	Fight bool
}

// SetChange is what happened to one set. Added and Removed are what a set of ports gained and lost, AddedFrom and
// RemovedFrom what a set of sources did, sorted.
type SetChange struct {
	Set                    string
	Created, Destroyed     bool
	Added, Removed         PortSet
	AddedFrom, RemovedFrom []netip.Prefix
}

// RuleChange is what happened to one chain of ours: Done is "written", "removed" or "jump placed". For the nftables backend
// Variant is empty, Family is FamilyInet and Table is "hostagent"; without a Chain it is the whole table.
type RuleChange struct {
	Variant      Variant
	Family       Family
	Table, Chain string
	Done         string
}

// Empty tells whether nothing happened.
func (c Changes) Empty() bool { return len(c.Sets) == 0 && len(c.Rules) == 0 && len(c.Repaired) == 0 }

// String writes c on one line, "hostagent-open +21000-21002 -21010; ipv4 nft HOSTAGENT-GUARD written", or "nothing".
func (c Changes) String() string {
	parts := c.Lines()
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

// Lines writes c as String does, one part a line: each set, each family's rules, each repair.
func (c Changes) Lines() []string {
	var parts []string
	for i := range c.Sets {
		parts = append(parts, c.Sets[i].String())
	}
	parts = append(parts, c.rulesText()...)
	for _, r := range c.Repaired {
		parts = append(parts, "repaired: "+r)
	}
	if len(c.By) > 0 {
		parts = append(parts, "changed by "+strings.Join(c.By, ", "))
	}
	return parts
}

// rulesText names the chains of a family to which the same happened together.
func (c Changes) rulesText() []string {
	var order []string
	chains := map[string][]string{}
	for _, r := range c.Rules {
		key := fmt.Sprintf("%s %s %%s %s", r.Family, r.Variant, r.Done)
		switch {
		case r.Family == FamilyInet && r.Chain == "":
			order = append(order, fmt.Sprintf("nftables %s %s %s", r.Family, r.Table, r.Done))
			continue
		case r.Family == FamilyInet:
			key = fmt.Sprintf("nftables %s %s: %%s %s", r.Family, r.Table, r.Done)
		}
		if chains[key] == nil {
			order = append(order, key)
		}
		chains[key] = append(chains[key], r.Chain)
	}
	for i, key := range order {
		if chains[key] != nil {
			order[i] = strings.Replace(key, "%s", strings.Join(chains[key], ", "), 1)
		}
	}
	return order
}

// LogValue makes c's text only when a log line is really written.
func (c Changes) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String writes s as "hostagent-open created +21000-21002 -21010", or "hostagent-from4 +10.0.0.0/8 -192.0.2.7"; of many
// sources it names the first few.
func (s *SetChange) String() string {
	text := s.Set
	if s.Created {
		text += " created"
	}
	if s.Destroyed {
		text += " destroyed"
	}
	return text + s.ports() + signed(" +", s.AddedFrom) + signed(" -", s.RemovedFrom)
}

// signed writes sources with a sign before each.
func signed(sign string, sources []netip.Prefix) string {
	text := ""
	for _, source := range sources[:min(len(sources), mostSources)] {
		text += sign + sourceText(source)
	}
	if more := len(sources) - mostSources; more > 0 {
		text += fmt.Sprintf("%s(%d more)", sign, more)
	}
	return text
}

func (s *SetChange) ports() string {
	text := ""
	for first, last := range s.Added.ranges() {
		text += " +" + rangeText(first, last)
	}
	for first, last := range s.Removed.ranges() {
		text += " -" + rangeText(first, last)
	}
	return text
}

// set returns the entry of a set, a new one if there is none yet.
func (c *Changes) set(name string) *SetChange {
	i := slices.IndexFunc(c.Sets, func(s SetChange) bool { return s.Set == name })
	if i < 0 {
		i = len(c.Sets)
		c.Sets = append(c.Sets, SetChange{Set: name})
	}
	return &c.Sets[i]
}

// add notes what more describes after what c does.
func (c *Changes) add(more Changes) {
	c.Sets = append(c.Sets, more.Sets...)
	c.Rules = append(c.Rules, more.Rules...)
	c.Repaired = append(c.Repaired, more.Repaired...)
}

// addPorts notes that ports were added to a set and removed from it.
func (c *Changes) addPorts(name string, added, removed *PortSet) {
	if *added == (PortSet{}) && *removed == (PortSet{}) {
		return
	}
	s := c.set(name)
	s.Added, s.Removed = s.Added.Union(*added), s.Removed.Union(*removed)
}

// addSources notes that sources were added to a set and removed from it.
func (c *Changes) addSources(name string, added, removed []netip.Prefix) {
	if len(added) == 0 && len(removed) == 0 {
		return
	}
	s := c.set(name)
	s.AddedFrom, s.RemovedFrom = append(s.AddedFrom, added...), append(s.RemovedFrom, removed...)
}

// addRules notes that fixes were made to a family's rules.
func (c *Changes) addRules(t *tool, fixes []fix) {
	for _, f := range fixes {
		c.Rules = append(c.Rules, RuleChange{t.variant, t.family, f.table, f.chain, f.done})
	}
}

// addDrift notes that a family's rules were not as applied, by the fixes that they needed.
func (c *Changes) addDrift(t *tool, fixes []fix) {
	for _, f := range fixes {
		if f.was != "" {
			c.Repaired = append(c.Repaired, fmt.Sprintf("%s %s %s: %s", t.family, t.variant, f.table, f.was))
		}
	}
}
