// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"strings"
)

// State is what the kernel holds of ours.
type State struct {
	// Sets are the sets that bear our names, in the order guard, open, cut, and a half-filled one that a crash left.
	Sets []SetState
	// Tables are those in which something of ours stands.
	Tables []TableState
	// Notes say what could not be looked at, one sentence each.
	Notes []string
}

// SetState is one ipset. Type is its type with its range; Ports is empty where that type is not ours.
type SetState struct {
	Name, Type string
	Ports      PortSet
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
func (s State) Exists() bool { return len(s.Sets) > 0 || len(s.Tables) > 0 }

// String writes s in the syntax of ipset save and iptables-save, so that it reads like those programs' output and compares
// as text. Jumps are written as insertions, because their place matters. Control characters are replaced.
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
	}
	for _, t := range s.Tables {
		if len(t.Chains) == 0 && len(t.Jumps) == 0 {
			continue
		}
		if t.Variant != "" {
			fmt.Fprintf(&b, "# %s %s\n", t.Family, t.Variant)
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
	return b.String()
}
