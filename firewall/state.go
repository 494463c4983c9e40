// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// State is what the kernel holds of ours.
type State struct {
	// Sets are the sets that bear our names, in the order guard, open, cut, from4, from6, paths, paths4, paths6, and a half-filled
	// one that a crash left.
	Sets []SetState
	// Tables are those in which something of ours stands.
	Tables []TableState
	// Native is the nftables backend's table, nil where there is none.
	Native *NativeState
	// Families are those that this host has, as far as iptables programs are there for them.
	Families []Family
	// Notes say what could not be looked at, one sentence each.
	Notes []string
}

// SetState is one ipset. Type is its type with its range or family. Ports are what a set of ports holds, Sources what a
// set of networks does, sorted; a set of a type that is not ours shows none.
type SetState struct {
	Name, Type string
	Ports      PortSet
	Sources    []netip.Prefix
	// References counts the rules that name the set, in all tables, variants and families.
	References int
}

// TableState is what stands of ours in one table of one family, as one variant of iptables shows it.
type TableState struct {
	Variant Variant
	Family  Family
	Table   string
	Chains  []ChainState
	Jumps   []JumpState
}

// ChainState is one chain with its rules as iptables-save prints them.
type ChainState struct {
	Name  string
	Rules []string
}

// JumpState is a rule that leads to one of our chains: the chain it stands in, its place there from 1, and the rule as
// iptables-save prints it.
type JumpState struct {
	Parent   string
	Position int
	Rule     string
}

// Exists tells whether anything of ours is in the kernel.
func (s State) Exists() bool { return len(s.Sets) > 0 || len(s.Tables) > 0 || s.Native != nil }

// Guards tells whether the rules that keep the network from guarded ports stand, in one backend and variant and every
// family of the host: sets alone hold nothing back. Where the accept rule stands plays no part.
func (s State) Guards() bool { return s.Native.guards() || s.xtablesGuard() }

func (s State) xtablesGuard() bool {
	for _, variant := range []Variant{VariantNFT, VariantLegacy} {
		guards := len(s.Families) > 0
		for _, family := range s.Families {
			mangle := s.table(variant, family, mangleTable)
			guards = guards && mangle.drops("PREROUTING", preroutingChain) && mangle.drops("INPUT", guardChain)
		}
		if guards {
			return true
		}
	}
	return false
}

func (s State) table(variant Variant, family Family, name string) *TableState {
	for i := range s.Tables {
		if t := &s.Tables[i]; t.Variant == variant && t.Family == family && t.Table == name {
			return t
		}
	}
	return &TableState{}
}

// drops tells whether parent jumps to chain, and chain drops what is guarded before anything else can let it go.
func (t *TableState) drops(parent, chain string) bool {
	jumps := slices.ContainsFunc(t.Jumps, func(j JumpState) bool { return j.Rule == "-A "+parent+" -j "+chain })
	for _, c := range t.Chains {
		if c.Name != chain || !jumps {
			continue
		}
		for _, rule := range c.Rules {
			words := strings.Fields(rule)
			switch {
			case slices.Contains(words, pathsSet) && slices.Contains(words, "RETURN"): // lets a few sources by, as it should
			case !slices.Contains(words, "DROP"):
				return false
			case slices.Contains(words, guardSet):
				return true
			}
		}
	}
	return false
}

// Limited returns the sources that open ports are limited to, and false where a rule that limits them is missing
// somewhere. Of sources that lie in one another the nftables backend has only the outermost.
func (s State) Limited() ([]netip.Prefix, bool) {
	if s.Native.limits() {
		return slices.Concat(s.Native.set("from4").Sources, s.Native.set("from6").Sources), true
	}
	return s.readSources(Family.fromSet)
}

// Paths returns the ports that only some sources may reach, and those sources; false where a rule that lets them in is missing
// somewhere, or none is wanted. Sources are as with Limited.
func (s State) Paths() (ports PortSet, sources []netip.Prefix, ok bool) {
	if s.Native.admitsPaths() {
		return s.Native.set("paths").Ports, slices.Concat(s.Native.set("paths4").Sources, s.Native.set("paths6").Sources), true
	}
	if sources, ok = s.readSources(Family.pathsSet); ok {
		ports = s.ports(pathsSet)
	}
	return ports, sources, ok
}

// readSources returns what each family's set of sources holds, false where no rule of table mangle reads one of them.
func (s State) readSources(setOf func(Family) string) ([]netip.Prefix, bool) {
	var sources []netip.Prefix
	for _, family := range s.Families {
		set := setOf(family)
		reads := slices.ContainsFunc(s.Tables, func(t TableState) bool {
			return t.Family == family && t.Table == mangleTable && slices.ContainsFunc(t.Chains, func(c ChainState) bool {
				return slices.ContainsFunc(c.Rules, func(rule string) bool { return slices.Contains(strings.Fields(rule), set) })
			})
		})
		if !reads {
			return nil, false
		}
		for _, state := range s.Sets {
			if state.Name == set {
				sources = append(sources, state.Sources...)
			}
		}
	}
	return sources, len(s.Families) > 0
}

// Guard returns the ports of the guard set, empty where there is no such set; where both backends have one, of both.
func (s State) Guard() PortSet { return s.ports(guardSet).Union(s.Native.set("guard").Ports) }

// Open returns the ports of the open set, empty where there is no such set. Where both backends have one, as in the moment
// between the two, it is the ports that are in one and that neither drops.
func (s State) Open() PortSet {
	open := s.ports(openSet).Union(s.Native.set("open").Ports)
	if s.xtablesGuard() {
		open = open.Minus(s.ports(guardSet).Minus(s.ports(openSet)))
	}
	if s.Native.guards() {
		open = open.Minus(s.Native.set("guard").Ports.Minus(s.Native.set("open").Ports))
	}
	return open
}

// Cut returns the ports of the cut set, empty where there is no such set; where both backends have one, of both.
func (s State) Cut() PortSet { return s.ports(cutSet).Union(s.Native.set("cut").Ports) }

func (s State) ports(name string) PortSet {
	for _, set := range s.Sets {
		if set.Name == name {
			return set.Ports
		}
	}
	return PortSet{}
}

// String writes s in the syntax of ipset save, iptables-save and nft list table, so that it reads like those programs'
// output and compares as text. Jumps are written as insertions, because their place matters. Control characters are replaced.
func (s State) String() string {
	var b strings.Builder
	for _, note := range s.Notes {
		fmt.Fprintf(&b, "# %s\n", oneLine(note))
	}
	for _, set := range s.Sets {
		fmt.Fprintf(&b, "create %s %s\n", oneLine(set.Name), oneLine(set.Type))
		for first, last := range set.Ports.ranges() {
			fmt.Fprintf(&b, "add %s %s\n", oneLine(set.Name), rangeText(first, last))
		}
		for _, source := range set.Sources {
			fmt.Fprintf(&b, "add %s %s\n", oneLine(set.Name), sourceText(source))
		}
	}
	for _, t := range s.Tables {
		if len(t.Chains) == 0 && len(t.Jumps) == 0 {
			continue
		}
		if t.Family != "" {
			fmt.Fprintf(&b, "# %s\n", strings.TrimSpace(string(t.Family)+" "+string(t.Variant)))
		}
		fmt.Fprintf(&b, "*%s\n", t.Table)
		for _, c := range t.Chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", c.Name)
		}
		for _, j := range t.Jumps {
			rest := strings.TrimPrefix(j.Rule, "-A "+j.Parent)
			fmt.Fprintf(&b, "-I %s %d%s\n", oneLine(j.Parent), j.Position, oneLine(rest))
		}
		for _, c := range t.Chains {
			for _, rule := range c.Rules {
				fmt.Fprintln(&b, oneLine(rule))
			}
		}
		b.WriteString("COMMIT\n")
	}
	if s.Native != nil {
		b.WriteString(s.Native.String())
	}
	return b.String()
}
