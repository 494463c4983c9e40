// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The native table is "inet hostagent". Its name is ours; whatever else is in it goes.
const (
	nativeName   = "hostagent"
	nativeTitle  = "inet " + nativeName
	nativePrefix = nativeTitle + " " // before the name of a set, where sets of all kinds are named
)

// Types of keys, as nft numbers them.
const (
	nftTypeIPv4    = 7
	nftTypeIPv6    = 8
	nftTypeService = 13
)

// A kernel set of ports without flags is a bitmap, the fastest there is to ask, but each change of it takes as long as it
// has members: to fill it with 1,024 ports takes 4 ms, with 4,096 60 ms, with all of them 15 s. Larger ones are hash
// tables, which the flag dynamic brings about.
const maxBitmapPorts = 1024

const (
	nftMangle = -150 // the priority of both chains, that of iptables' table mangle
	nftAccept = 1    // NF_ACCEPT
)

// nativeView is the native table, as the kernel shows it or as a Ruleset asks for it.
type nativeView struct {
	generation uint32 // of nf_tables when it was so; 0 is unknown
	exists     bool
	flags      uint32
	owner      uint32 // the port of the netlink socket that owns it; 0 is nobody
	uses       uint32 // how many chains, sets and other objects it has
	sets       []nativeSet
	chains     []nativeChain
}

// nativeSet is one of its sets, of ports or of runs of addresses; those are sorted.
type nativeSet struct {
	name                    string
	flags, keyType, keySize uint32
	ports                   PortSet
	runs                    []addressRun
	odd                     bool // it has members that are of no kind of ours
}

// addressRun is the addresses first to last of one family.
type addressRun struct{ first, last netip.Addr }

// nativeChain is one of its chains.
type nativeChain struct {
	name, kind   string
	based        bool // it has a hook
	hook, policy uint32
	priority     int32
	rules        []nativeRule
}

// nativeRule is a rule. code is what it does, without its counter, in a form in which equal rules are equal.
type nativeRule struct {
	code, text  string
	expressions []expr.Any // of our own rules only
	packets     uint64
}

func (v *nativeView) set(name string) *nativeSet {
	if i := slices.IndexFunc(v.sets, func(s nativeSet) bool { return s.name == name }); i >= 0 {
		return &v.sets[i]
	}
	return nil
}

// others is how many objects v has that are neither sets nor chains. The kernel does not count sets without a name, which
// come and go with a rule.
func (v *nativeView) others() int {
	others := int(v.uses) - len(v.chains)
	for i := range v.sets {
		if v.sets[i].flags&unix.NFT_SET_ANONYMOUS == 0 {
			others--
		}
	}
	return others
}

func (v *nativeView) chain(name string) *nativeChain {
	if i := slices.IndexFunc(v.chains, func(c nativeChain) bool { return c.name == name }); i >= 0 {
		return &v.chains[i]
	}
	return nil
}

// nativeSets are the names of the native sets, in the order of ourSets.
func nativeSets() []string {
	return []string{"guard", "open", "cut", "from4", "from6", "paths", "paths4", "paths6"}
}

// nativeSources are those of them that hold sources, of IPv4 and of IPv6.
func nativeSources() []string { return []string{"from4", "from6", "paths4", "paths6"} }

// emptyNativeSet is the set that belongs under a name of ours, without its members. It says nothing for other names.
func emptyNativeSet(name string) nativeSet {
	switch name {
	case "from4", "paths4":
		return nativeSet{name: name, flags: unix.NFT_SET_INTERVAL, keyType: nftTypeIPv4, keySize: 4}
	case "from6", "paths6":
		return nativeSet{name: name, flags: unix.NFT_SET_INTERVAL, keyType: nftTypeIPv6, keySize: 16}
	}
	return nativeSet{name: name, keyType: nftTypeService, keySize: 2}
}

// holds tells whether s, as the kernel shows it, can hold what other holds.
func (s *nativeSet) holds(other *nativeSet) bool {
	flags := s.flags
	if s.keyType == nftTypeService { // either kind of set will do, but a bitmap only for few
		if flags == 0 && other.flags != 0 {
			return false
		}
		flags &^= unix.NFT_SET_EVAL
	}
	return flags == other.flags&^unix.NFT_SET_EVAL && s.keyType == other.keyType && s.keySize == other.keySize && !s.odd
}

// wants is the native table that r asks for; r's sources are canonical.
func (rules *nativeRules) wants(r *Ruleset) *nativeView {
	v := &nativeView{exists: true}
	runs, paths := familyRuns(r.AllowFrom), familyRuns(r.PathsFrom)
	for i, name := range ourSets() {
		if !r.needs(name) {
			continue
		}
		set := emptyNativeSet(nativeSets()[i])
		switch name {
		case guardSet:
			set.ports = r.Guard
		case openSet:
			set.ports = r.Open
		case cutSet:
			set.ports = r.Cut
		case from4Set:
			set.runs = runs[0]
		case from6Set:
			set.runs = runs[1]
		case pathsSet:
			set.ports = r.Paths
		case paths4Set:
			set.runs = paths[0]
		case paths6Set:
			set.runs = paths[1]
		}
		if set.ports.Len() > maxBitmapPorts {
			set.flags = unix.NFT_SET_EVAL
		}
		v.sets = append(v.sets, set)
	}
	var drops []nativeRule
	if r.CutRules {
		drops = append(drops, rules.cut)
	}
	if len(r.PathsFrom) > 0 {
		drops = append(drops, rules.paths4, rules.paths6)
	}
	drops = append(drops, rules.guard4, rules.guard6)
	if len(r.AllowFrom) > 0 {
		drops = append(drops, rules.from4, rules.from6)
	}
	v.chains = []nativeChain{
		{"prerouting", "filter", true, unix.NF_INET_PRE_ROUTING, nftAccept, nftMangle, drops},
		{"input", "filter", true, unix.NF_INET_LOCAL_IN, nftAccept, nftMangle, drops},
	}
	v.uses = uint32(len(v.sets) + len(v.chains))
	return v
}

// familyRuns returns canonical sources as the native sets hold them, those of IPv4 and of IPv6: a set of intervals takes
// none that lies in another, so only the outermost networks are left. Neighbours stay apart, so that what is read reads
// like what was asked for.
func familyRuns(sources []netip.Prefix) (all [2][]addressRun) {
	for i, family := range byFamily(sources) {
		var outer netip.Prefix
		for _, source := range family { // an outer network comes before those in it
			if outer.IsValid() && outer.Contains(source.Addr()) {
				continue
			}
			outer = source
			all[i] = append(all[i], addressRun{source.Addr(), lastAddress(source)})
		}
	}
	return all
}

// lastAddress returns the highest address of a network without host bits.
func lastAddress(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := range bytes {
		keep := min(max(p.Bits()-8*i, 0), 8)
		bytes[i] |= byte(0xff >> keep)
	}
	last, _ := netip.AddrFromSlice(bytes)
	return last
}

// networks returns the networks that together are exactly the addresses of r.
func (r addressRun) networks() []netip.Prefix {
	var all []netip.Prefix
	for at := r.first; at.IsValid() && at.Compare(r.last) <= 0; {
		network := netip.PrefixFrom(at, at.BitLen())
		for network.Bits() > 0 {
			larger := netip.PrefixFrom(at, network.Bits()-1)
			if larger.Masked().Addr() != at || lastAddress(larger).Compare(r.last) > 0 {
				break
			}
			network = larger
		}
		all = append(all, network)
		at = lastAddress(network).Next()
	}
	return all
}

func networksOf(runs []addressRun) []netip.Prefix {
	var all []netip.Prefix
	for _, r := range runs {
		all = append(all, r.networks()...)
	}
	return all
}

// minusRuns returns the runs in a that are not in b; both are sorted. Nobody changes them, so what begins at one address
// is the same.
func minusRuns(a, b []addressRun) []addressRun {
	if len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) {
		return nil
	}
	var all []addressRun
	for _, run := range a {
		for len(b) > 0 && b[0] != run && b[0].compare(run) < 0 {
			b = b[1:]
		}
		if len(b) == 0 || b[0] != run {
			all = append(all, run)
		}
	}
	return all
}

func (r addressRun) compare(other addressRun) int {
	if c := r.first.Compare(other.first); c != 0 {
		return c
	}
	return r.last.Compare(other.last)
}

// nativeRules are the rules of both chains, in the order in which they stand there. Those that count what Dropped tells
// apart are of one family each. What rules the most packets out comes first, and the look into the routing table last.
type nativeRules struct{ cut, paths4, paths6, guard4, guard6, from4, from6 nativeRule }

func newNativeRules() (*nativeRules, error) {
	const (
		syn = "tcp flags & (fin | syn | rst | ack) == syn iifname != \"lo\" "
		end = "fib daddr type local counter drop"
	)
	ipv4, ipv6 := nftMeta(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV4), nftMeta(expr.MetaKeyNFPROTO, unix.NFPROTO_IPV6)
	source4 := join(ipv4, nftSource(12, 4, "from4", true))
	source6 := join(ipv6, nftSource(8, 16, "from6", true))
	guarded := join(nftSYN(), nftNotLo(), nftPort("guard", false), nftPort("open", true))
	open := join(nftSYN(), nftNotLo(), nftPort("open", false))
	path, leave := join(nftSYN(), nftPort("paths", false)), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}
	rules := &nativeRules{
		cut: nativeRule{
			text:        "iifname != \"lo\" tcp dport @cut ct direction original " + end,
			expressions: join(nftNotLo(), nftTCP(), nftPort("cut", false), nftOriginal(), nftLocalDrop()),
		},
		paths4: nativeRule{ // no counter: nothing is dropped
			text:        "tcp flags & (fin | syn | rst | ack) == syn tcp dport @paths ip saddr @paths4 return",
			expressions: join(path, ipv4, nftSource(12, 4, "paths4", false), leave),
		},
		paths6: nativeRule{
			text:        "tcp flags & (fin | syn | rst | ack) == syn tcp dport @paths ip6 saddr @paths6 return",
			expressions: join(path, ipv6, nftSource(8, 16, "paths6", false), leave),
		},
		guard4: nativeRule{
			text:        "meta nfproto ipv4 " + syn + "tcp dport @guard tcp dport != @open " + end,
			expressions: join(ipv4, guarded, nftLocalDrop()),
		},
		guard6: nativeRule{
			text:        "meta nfproto ipv6 " + syn + "tcp dport @guard tcp dport != @open " + end,
			expressions: join(ipv6, guarded, nftLocalDrop()),
		},
		from4: nativeRule{
			text:        syn + "tcp dport @open ip saddr != @from4 " + end,
			expressions: join(open, source4, nftLocalDrop()),
		},
		from6: nativeRule{
			text:        syn + "tcp dport @open ip6 saddr != @from6 " + end,
			expressions: join(open, source6, nftLocalDrop()),
		},
	}
	for _, r := range rules.all() {
		list, err := marshalExpressions(r.expressions)
		if err != nil {
			return nil, err
		}
		r.code, _ = nftCode(list)
	}
	return rules, nil
}

func (rules *nativeRules) all() []*nativeRule {
	return []*nativeRule{
		&rules.cut, &rules.paths4, &rules.paths6, &rules.guard4, &rules.guard6, &rules.from4, &rules.from6,
	}
}

// text is the rule that does what code says, in nft's words; of rules that are not ours it shows the code.
func (rules *nativeRules) text(code string) string {
	for _, r := range rules.all() {
		if r.code == code {
			return r.text
		}
	}
	return "# not hostagent's: " + oneLine(code)
}

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

func nftMeta(key expr.MetaKey, value byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{value}}}
}

func nftTCP() []expr.Any { return nftMeta(expr.MetaKeyL4PROTO, unix.IPPROTO_TCP) }

func nftNotLo() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: name},
	}
}

// nftSYN matches TCP with the flag SYN and none of FIN, RST and ACK.
func nftSYN() []expr.Any {
	return append(nftTCP(),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x17}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0x02}})
}

// nftPort matches a destination port that is in a set, or is not. That the packet is TCP has been looked at.
func nftPort(set string, not bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: not},
	}
}

// nftSource matches a source address that is in a set, or is not.
func nftSource(offset, size uint32, set string, not bool) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Lookup{SourceRegister: 1, SetName: set, Invert: not},
	}
}

func nftOriginal() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: expr.CtKeyDIRECTION},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
	}
}

// nftLocalDrop drops what goes to an address of the host.
func nftLocalDrop() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL)},
		&expr.Counter{},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

// nftCode returns what a list of expressions does, and what its counters count. The kernel shows more attributes than it
// was given, and ever more with later versions; those are 0, which is the same as none. Counters are left out of the code
// by their contents, and attributes' order and marks do not count.
func nftCode(list []byte) (code string, packets uint64) {
	var parts []string
	for _, element := range attributes(list) {
		name, data := "", []byte(nil)
		for kind, value := range attributes(element) {
			switch kind {
			case unix.NFTA_EXPR_NAME:
				name = unix.ByteSliceToString(value)
			case unix.NFTA_EXPR_DATA:
				data = value
			}
		}
		if name == "counter" {
			for kind, value := range attributes(data) {
				if kind == unix.NFTA_COUNTER_PACKETS && len(value) >= 8 {
					packets += binary.BigEndian.Uint64(value)
				}
			}
			parts = append(parts, name)
			continue
		}
		parts = append(parts, strings.Join(append([]string{name}, nftCodeOf(name, data)...), " "))
	}
	return strings.Join(parts, "; "), packets
}

// nftCodeReads tells whether a rule looks into the set of that name.
func nftCodeReads(code, set string) bool {
	return strings.Contains(code, fmt.Sprintf("%02d=%q", unix.NFTA_LOOKUP_SET, set))
}

// nftCodeOf returns the attributes of one expression that are not 0, sorted.
func nftCodeOf(name string, data []byte) []string {
	var all []string
	for kind, value := range attributes(data) {
		nested := name == "cmp" && kind == unix.NFTA_CMP_DATA || name == "immediate" && kind == unix.NFTA_IMMEDIATE_DATA ||
			name == "bitwise" && (kind == unix.NFTA_BITWISE_MASK || kind == unix.NFTA_BITWISE_XOR)
		switch {
		case nested:
			all = append(all, fmt.Sprintf("%02d={%s}", kind, nftData(value)))
		case name == "lookup" && kind == unix.NFTA_LOOKUP_SET:
			all = append(all, fmt.Sprintf("%02d=%q", kind, unix.ByteSliceToString(value)))
		case strings.Trim(string(value), "\x00") != "":
			all = append(all, fmt.Sprintf("%02d=%x", kind, value))
		}
	}
	slices.Sort(all)
	return all
}

// nftData returns a nested value, or the attributes of a verdict.
func nftData(data []byte) string {
	var all []string
	for kind, value := range attributes(data) {
		if kind != unix.NFTA_DATA_VERDICT {
			all = append(all, fmt.Sprintf("%x", value))
			continue
		}
		for kind, value := range attributes(value) {
			all = append(all, fmt.Sprintf("verdict %d=%x", kind, value))
		}
	}
	return strings.Join(all, " ")
}
