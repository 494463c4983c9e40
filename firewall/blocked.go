// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Protocol is a transport protocol by its IP protocol number.
type Protocol uint8

// The protocols that Blocked knows.
const (
	TCP Protocol = unix.IPPROTO_TCP
	UDP Protocol = unix.IPPROTO_UDP
)

// String returns "tcp", "udp" or "unknown".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "unknown"
}

// Probe is a port that the network should reach. It is a value: == compares it.
type Probe struct {
	Protocol Protocol
	Port     uint16
	// Open tells that the port is in Ruleset.Open, or would be: our accept rule lets it in, in the chain that Accept names,
	// and Publish puts it into Set, where that is not zero.
	Open   bool
	Accept Accept
	Set    SetName
}

// Tool is what a firewall's rules are made with, as far as their shape tells.
type Tool string

// The tools.
const (
	ToolNFT       Tool = "nft"
	ToolIptables  Tool = "iptables" // its nft variant
	ToolUFW       Tool = "ufw"
	ToolFirewalld Tool = "firewalld"
)

// Block is a base chain of nf_tables that lets nothing through that comes from the network for a port.
type Block struct {
	Probe
	Families []Family // that are affected
	// Family, Table and Chain are the base chain's, in the words of nft: "inet", "filter", "input". Control characters
	// are replaced.
	Family, Table, Chain string
	// Rule is what drops: "policy drop", or a rule in the words of nft, shortened and on one line.
	Rule string
	Tool Tool
	// NoSet tells that the probe names a set and nf_tables has none of that name.
	NoSet bool
}

// Blocked tells which of the probed ports other hosts cannot reach, because a base chain of nf_tables drops or rejects the
// first packet of every new connection to them. An accept in one base chain does not stand against a drop in another one,
// so our own cannot help there. The answer is in the order of the probes, and for each in that of the chains. It changes
// nothing and starts no program.
//
// It reads the rules and follows, for each port and family, a packet of which the protocol, the port and that it begins a
// connection to an address of the host are known, and nothing else: whom it comes from and over which interface (other
// than lo and bridges of local containers), the rate, marks, and members of ipsets go both ways. A port counts as blocked only where no way leads through
// a chain; one that is open to some sources, or over some interface, does not.
//
// Not looked at: what hostagent itself drops; hooks of single devices (ingress); ports that nat rules may send elsewhere;
// and iptables-legacy, which is no part of nf_tables. There our accept stands at the head of INPUT, so that openings
// open, and of ports that are not ours nothing is known.
//
// While no rule changes the same question gets the same answer without reading any.
func (f *Firewall) Blocked(ctx context.Context, probes []Probe) ([]Block, error) {
	f.blocked.mu.Lock()
	defer f.blocked.mu.Unlock()
	const attempts = 4
	var err error
	for range attempts {
		var blocks []Block
		var settled bool
		if blocks, settled, err = f.blocked.look(ctx, probes, f.surroundings()); settled && err == nil {
			return blocks, nil
		}
		f.blocked.ruleset = nil
		if ctx.Err() != nil || errors.Is(err, ErrPermission) {
			break
		}
	}
	if err == nil {
		err = errors.New("the rules change faster than they can be read")
	}
	return nil, fmt.Errorf("cannot tell which ports the host's firewall blocks: %w", err)
}

// surroundings is what besides nf_tables bears on the answer.
type surroundings struct {
	families  []Family
	legacyNAT bool     // translates addresses out of sight
	accepts   bool     // our accept rule stands in nf_tables
	bridges   []string // that lead to no other host
}

func (f *Firewall) surroundings() surroundings {
	s := surroundings{families: []Family{IPv4}}
	if ipv6Present("/proc") {
		s.families = append(s.families, IPv6)
	}
	s.accepts = f.backend == backend(f.xtables) && !f.legacy()
	for _, t := range f.xtables.all() {
		s.legacyNAT = s.legacyNAT || t.variant == VariantLegacy && t.exists(natTable)
	}
	s.bridges = localBridges()
	return s
}

// localBridges names the bridges whose ports all lead to containers and virtual machines of this host, sorted. A rule that
// accepts what comes over one, as those of container runtimes do, opens nothing to other hosts.
func localBridges() []string {
	links, err := netlink.LinkList()
	if err != nil {
		return nil // then none is known to be one
	}
	uplinks := map[int]bool{} // bridges with a port of another kind
	for _, l := range links {
		switch l.Type() {
		case "veth", "tuntap", "tun", "dummy":
		default:
			uplinks[l.Attrs().MasterIndex] = true
		}
	}
	var names []string
	for _, l := range links {
		if l.Type() == "bridge" && l.Attrs().MasterIndex == 0 && !uplinks[l.Attrs().Index] {
			names = append(names, l.Attrs().Name)
		}
	}
	slices.Sort(names)
	return names
}

// blockedMemo is what the last call of Blocked read and answered, good while the generation is the same.
type blockedMemo struct {
	mu         sync.Mutex
	ruleset    *nfRuleset
	generation uint32
	walks      uint64

	probes []Probe
	around surroundings
	blocks []Block
}

// look answers, and tells whether the rules stayed as they were meanwhile.
func (m *blockedMemo) look(ctx context.Context, probes []Probe, around surroundings) (blocks []Block, settled bool, err error) {
	generation, err := nftGeneration()
	if err != nil {
		if errors.Is(err, ErrPermission) {
			return nil, false, err
		}
		return nil, true, nil // a kernel without nf_tables: nothing can be in it
	}
	same := m.ruleset != nil && m.generation == generation
	if same && slices.Equal(m.probes, probes) && m.around.equal(around) {
		return m.answer(), true, nil
	}
	if !same {
		if m.ruleset, err = readRuleset(ctx); err != nil {
			return nil, false, err
		}
		m.generation = generation
	}
	m.probes, m.around, m.blocks = slices.Clone(probes), around, nil
	for _, p := range probes {
		if err := m.judge(p); err != nil {
			return nil, false, err
		}
	}
	after, err := nftGeneration()
	return m.answer(), after == generation, err
}

func (m *blockedMemo) answer() []Block {
	blocks := slices.Clone(m.blocks)
	for i := range blocks {
		blocks[i].Families = slices.Clone(blocks[i].Families)
	}
	return blocks
}

func (s surroundings) equal(other surroundings) bool {
	return slices.Equal(s.families, other.families) && s.legacyNAT == other.legacyNAT && s.accepts == other.accepts &&
		slices.Equal(s.bridges, other.bridges)
}

// judge adds the chains that block a probe.
func (m *blockedMemo) judge(p Probe) error {
	first := len(m.blocks)
	for _, family := range m.around.families {
		pk := packet{family: family, protocol: p.Protocol, port: p.Port, untracked: m.ruleset.untracked, legacyNAT: m.around.legacyNAT,
			bridges: m.around.bridges}
		if p.Open && m.around.accepts {
			pk.opened = &p.Accept
		}
		if p.Open && p.Set != (SetName{}) {
			pk.published = p.Set
		}
		blocking, err := m.walk(pk)
		if err != nil {
			return err
		}
		for _, b := range blocking {
			b.Probe, b.Families, b.NoSet = p, []Family{family}, p.Set != (SetName{}) && !m.ruleset.has(p.Set)
			i := slices.IndexFunc(m.blocks[first:], func(other Block) bool {
				return other.Family == b.Family && other.Table == b.Table && other.Chain == b.Chain
			})
			if i >= 0 {
				m.blocks[first+i].Families = append(m.blocks[first+i].Families, family)
			} else {
				m.blocks = append(m.blocks, b)
			}
		}
	}
	return nil
}

// walk follows a packet through every base chain and returns those that let nothing through. Where its destination may be
// translated on its way nothing is known of it, so then it returns none.
func (m *blockedMemo) walk(p packet) ([]Block, error) {
	m.walks++
	w := &walker{packet: p, number: m.walks}
	var blocking []Block
	for _, c := range m.ruleset.base {
		if !c.sees(p.family) || c.table.key == (nfKey{unix.NFPROTO_INET, nativeName}) {
			continue
		}
		out := w.chain(c)
		if w.err != nil {
			return nil, w.err
		}
		if out.translated {
			return nil, nil
		}
		if out.passes || out.falls && !c.drops {
			continue
		}
		rule := "policy drop"
		if !out.falls && out.by != nil {
			rule = out.by.text()
		}
		blocking = append(blocking, Block{Family: familyName(c.table.key.family), Table: oneLine(c.table.key.name),
			Chain: oneLine(c.name), Rule: rule, Tool: c.tool()})
	}
	return blocking, nil
}

func (c *nfChain) sees(family Family) bool {
	switch c.table.key.family {
	case unix.NFPROTO_INET:
		return true
	case unix.NFPROTO_IPV4:
		return family == IPv4
	}
	return family == IPv6
}

// tool tells by the shape of its table what made a chain.
func (c *nfChain) tool() Tool {
	switch {
	case c.table.key.name == "firewalld":
		return ToolFirewalld
	case !c.iptables() || strings.ToUpper(c.name) != c.name:
		return ToolNFT
	}
	for name := range c.table.chains {
		if strings.HasPrefix(name, "ufw-") || strings.HasPrefix(name, "ufw6-") {
			return ToolUFW
		}
	}
	return ToolIptables
}

func familyName(family uint8) string {
	switch family {
	case unix.NFPROTO_IPV4:
		return "ip"
	case unix.NFPROTO_IPV6:
		return "ip6"
	}
	return "inet"
}
