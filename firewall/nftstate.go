// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NativeState is what stands in table "inet hostagent" of nf_tables.
type NativeState struct {
	// Flags are the table's: "dormant", "owner", "persist".
	Flags []string
	// Sets are its sets; their types are nft's, "inet_service" or "ipv4_addr", and flags. Sources are networks: of such
	// that were asked for and lie in one another there is only the outermost.
	Sets   []SetState
	Chains []NativeChainState
}

// NativeChainState is one of its chains. Hook is its first line as nft lists it, empty where nothing leads to it from
// outside; Rules are without the counters' values, and show what is not ours as code.
type NativeChainState struct {
	Name, Hook string
	Rules      []string
}

// state is v for people; nil where there is no table.
func (v *nativeView) state() *NativeState {
	if !v.exists {
		return nil
	}
	s := &NativeState{}
	for i, name := range []string{"dormant", "owner", "persist"} {
		if v.flags&(1<<i) != 0 {
			s.Flags = append(s.Flags, name)
		}
	}
	for i := range v.sets {
		set := &v.sets[i]
		s.Sets = append(s.Sets, SetState{Name: set.name, Type: set.typeText(), Ports: set.ports, Sources: networksOf(set.runs)})
	}
	for _, c := range v.chains {
		chain := NativeChainState{Name: c.name, Hook: c.hookText()}
		for _, r := range c.rules {
			chain.Rules = append(chain.Rules, r.text)
		}
		s.Chains = append(s.Chains, chain)
	}
	return s
}

// typeText is the set's type as nft lists it, on one line.
func (s *nativeSet) typeText() string {
	text := fmt.Sprintf("unknown %d", s.keyType)
	switch s.keyType {
	case nftTypeService:
		text = "inet_service"
	case nftTypeIPv4:
		text = "ipv4_addr"
	case nftTypeIPv6:
		text = "ipv6_addr"
	}
	var flags []string
	for _, f := range []struct {
		bit  uint32
		name string
	}{
		{unix.NFT_SET_CONSTANT, "constant"}, {unix.NFT_SET_INTERVAL, "interval"}, {unix.NFT_SET_MAP, "map"},
		{unix.NFT_SET_TIMEOUT, "timeout"}, {unix.NFT_SET_EVAL, "dynamic"},
	} {
		if s.flags&f.bit != 0 {
			flags = append(flags, f.name)
		}
	}
	if flags != nil {
		text += "; flags " + strings.Join(flags, ",")
	}
	if s.odd {
		text += "; with members that are none of ours"
	}
	return text
}

func (c *nativeChain) hookText() string {
	if !c.based {
		return ""
	}
	hooks := []string{"prerouting", "input", "forward", "output", "postrouting"}
	hook := strconv.Itoa(int(c.hook))
	if int(c.hook) < len(hooks) {
		hook = hooks[c.hook]
	}
	priority := strconv.Itoa(int(c.priority))
	if c.priority == nftMangle {
		priority = "mangle"
	}
	policy := map[bool]string{true: "accept", false: "drop"}[c.policy == nftAccept]
	return fmt.Sprintf("type %s hook %s priority %s; policy %s;", c.kind, hook, priority, policy)
}

// String writes s as nft list table does. Members are sorted, some to a line. Above many ports in a row a comment has them
// as ranges: nft takes ranges in sets with intervals only, which ours are not, and nobody reads 256 ports one by one.
func (s *NativeState) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table %s {\n", nativeTitle)
	if s.Flags != nil {
		fmt.Fprintf(&b, "\tflags %s\n", strings.Join(s.Flags, ","))
	}
	for i := range s.Sets {
		set := &s.Sets[i]
		fmt.Fprintf(&b, "\tset %s {\n", set.Name)
		for part := range strings.SplitSeq(set.Type, "; ") {
			if kind, plain := strings.CutPrefix(part, "flags "); plain {
				fmt.Fprintf(&b, "\t\tflags %s\n", kind)
			} else {
				fmt.Fprintf(&b, "\t\ttype %s\n", part)
			}
		}
		if set.inRanges() {
			fmt.Fprintf(&b, "\t\t# ports %s\n", set.Ports)
		}
		writeElements(&b, set.elements())
		b.WriteString("\t}\n")
	}
	for _, c := range s.Chains {
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			fmt.Fprintf(&b, "\t\t%s\n", c.Hook)
		}
		for _, rule := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// inRanges tells whether the ports are many and their ranges are few.
func (s *SetState) inRanges() bool {
	const few = 16
	ranges := 0
	for range s.Ports.ranges() {
		ranges++
	}
	return s.Ports.Len() > few && ranges <= few
}

// elements yields the members as nft lists them.
func (s *SetState) elements() iter.Seq[string] {
	return func(yield func(string) bool) {
		for port := range s.Ports.All() {
			if !yield(strconv.Itoa(int(port))) {
				return
			}
		}
		for _, source := range s.Sources {
			if !yield(sourceText(source)) {
				return
			}
		}
	}
}

func writeElements(b *strings.Builder, elements iter.Seq[string]) {
	const longest = 100
	line := ""
	for element := range elements {
		switch {
		case line == "":
			line = "\t\telements = { " + element
		case len(line) > longest:
			fmt.Fprintf(b, "%s,\n", line)
			line = "\t\t\t     " + element
		default:
			line += ", " + element
		}
	}
	if line != "" {
		fmt.Fprintf(b, "%s }\n", line)
	}
}

// set returns the set of that name, an empty one where there is none.
func (s *NativeState) set(name string) *SetState {
	if s != nil {
		for i := range s.Sets {
			if s.Sets[i].Name == name {
				return &s.Sets[i]
			}
		}
	}
	return &SetState{}
}

// guards tells whether both chains are hooked in and drop what is guarded, in both families, before any rule that is not
// ours can let it go.
func (s *NativeState) guards() bool {
	return s.reads("tcp dport @guard", 2)
}

// limits tells whether both chains drop what comes to open ports from sources that are not allowed.
func (s *NativeState) limits() bool {
	return s.reads("saddr != @from", 2)
}

// admitsPaths tells whether both chains let sources of exposed paths by before anything is dropped.
func (s *NativeState) admitsPaths() bool {
	return s.reads("saddr @paths", 2)
}

// reads tells whether each of both chains has as many rules with that text, above any rule that is not ours.
func (s *NativeState) reads(text string, rules int) bool {
	if s == nil || slices.Contains(s.Flags, "dormant") {
		return false
	}
	right := 0
	for _, c := range s.Chains {
		if !slices.Contains([]string{"prerouting", "input"}, c.Name) ||
			c.Hook != fmt.Sprintf("type filter hook %s priority mangle; policy accept;", c.Name) {
			continue
		}
		found := 0
		for _, rule := range c.Rules {
			if strings.HasPrefix(rule, "#") {
				break
			}
			if strings.Contains(rule, text) {
				found++
			}
		}
		if found >= rules {
			right++
		}
	}
	return right == 2
}
