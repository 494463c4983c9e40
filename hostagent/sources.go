// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// limits tells whether p says who may connect to open ports. Otherwise everybody may.
func (p *Policy) limits() bool { return p.AllowCluster || len(p.AllowFrom) > 0 }

// sourceCluster is the operator's word for the members of the datacenter.
const sourceCluster = "cluster"

// sourceTexts are the words in which the operator says who may connect, not nil.
func sourceTexts(cluster bool, networks []netip.Prefix) []string {
	texts := prefixTexts(networks)
	if cluster {
		texts = slices.Insert(texts, 0, sourceCluster)
	}
	return texts
}

// sourcesOf returns who may connect to open ports, nil for everybody: sorted, without networks that lie in others. Where
// the operator limits it at all, it is never nil, because an empty set of sources would let everybody in: at the least the
// host itself may.
func sourcesOf(in *Input) []netip.Prefix {
	if !in.Policy.limits() {
		return nil
	}
	all := make(sourceList, 0, len(in.Policy.AllowFrom)+len(in.Members)+len(in.Networks.Addresses)+len(in.Networks.Bridged))
	all.networks(in.Policy.AllowFrom)
	if in.Policy.AllowCluster {
		all.hosts(in.Members)
	}
	all.hosts(in.Networks.Addresses)
	if in.Policy.AllowBridges {
		all.networks(in.Networks.Bridged)
	}
	if len(all) == 0 {
		all.hosts([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()})
	}
	return outermost(all)
}

// sourceList collects who may connect.
type sourceList []netip.Prefix

func (l *sourceList) networks(prefixes []netip.Prefix) {
	for _, prefix := range prefixes {
		*l = append(*l, prefix.Masked())
	}
}

func (l *sourceList) hosts(addrs []netip.Addr) {
	for _, addr := range addrs {
		*l = append(*l, netip.PrefixFrom(addr, addr.BitLen()))
	}
}

// outermost sorts networks, in place, and leaves out those that lie in others.
func outermost(all []netip.Prefix) []netip.Prefix {
	slices.SortFunc(all, netip.Prefix.Compare)
	apart := all[:0]
	for _, p := range all { // a network sorts right before all that lies in it
		if n := len(apart); n == 0 || !apart[n-1].Contains(p.Addr()) {
			apart = append(apart, p)
		}
	}
	return apart
}

// admits tells whether all of p lies in one of sources, which are as sourcesOf returns them.
func admits(sources []netip.Prefix, p netip.Prefix) bool {
	at, found := slices.BinarySearchFunc(sources, p, netip.Prefix.Compare)
	return found || at > 0 && sources[at-1].Contains(p.Addr()) // what sorts before p is not narrower where it holds p's first address
}

const (
	// maxHeldSources is how many addresses are remembered in all: more than a list of members may have, and fewer than a
	// set of sources holds, so that no crowd of short-lived members keeps the rules from being written.
	maxHeldSources = consul.MaxMembers + 10_000
	// loneDelay takes the place of a shorter close_delay while the agent knows no other member. It has most likely just
	// started: it tries to join again after half a minute at the earliest, and as long as no server is up.
	loneDelay = 10 * time.Minute
)

// sourceMemory turns lists of members, one at a time, into who is let in as a member: at once, and until close_delay of
// whole answers without that address. Time counts as in memory.
type sourceMemory struct {
	present []netip.Addr                 // of the last whole answer, sorted
	absent  map[netip.Addr]time.Duration // every other one: for how long whole answers have been without it
	last    time.Time                    // of the last whole answer
	missed  bool                         // there was none since
	lone    bool                         // it named one member at most
	answers int                          // whole answers so far

	all []netip.Addr // present and absent, sorted; replaced, never changed
}

func newSourceMemory() *sourceMemory { return &sourceMemory{absent: map[netip.Addr]time.Duration{}} }

// known tells whether there is anybody to go by: without, an empty list would shut out members that nobody has told of.
func (m *sourceMemory) known() bool { return m.answers > 0 || len(m.absent) > 0 }

// adopt takes over the single addresses that an earlier run let in, as if an answer had named them and the next did not.
// Networks are no members.
func (m *sourceMemory) adopt(sources []netip.Prefix) {
	for _, source := range sources {
		if source.IsSingleIP() && !contains(m.present, source.Addr()) {
			m.absent[source.Addr()] = 0
		}
	}
	m.gather()
}

// miss records that there was no whole answer.
func (m *sourceMemory) miss() { m.missed = true }

// answer records a whole answer that came at now: its members, sorted, which the memory keeps. Two answers that are further
// apart than mostBetween, because hostagent was frozen, age nothing by more than that; after failures it is less.
func (m *sourceMemory) answer(now time.Time, members []netip.Addr, delay time.Duration) {
	mostBetween := 2 * membersEvery
	if m.missed {
		mostBetween = membersEvery / 2
	}
	var elapsed time.Duration
	if !m.last.IsZero() {
		elapsed = min(now.Sub(m.last), mostBetween)
	}
	lone := len(members) <= 1
	if lone {
		delay = max(delay, loneDelay)
	}
	if m.lone && !lone { // what passed while the agent knew nobody says nothing about anybody
		elapsed = 0
		for addr := range m.absent {
			m.absent[addr] = 0
		}
	}
	changed := !slices.Equal(m.present, members)
	for addr, absent := range m.absent {
		switch {
		case contains(members, addr):
			delete(m.absent, addr)
		case absent+elapsed >= delay:
			delete(m.absent, addr)
			changed = true
		default:
			m.absent[addr] = absent + elapsed
		}
	}
	if changed {
		for _, addr := range m.present {
			if !contains(members, addr) {
				m.absent[addr] = 0
			}
		}
		m.present = members
		m.gather()
	}
	m.last, m.missed, m.lone = now, false, lone
	m.answers++
}

// gather makes the list of all, and forgets who has been absent longest where they are too many.
func (m *sourceMemory) gather() {
	if excess := len(m.present) + len(m.absent) - maxHeldSources; excess > 0 {
		oldest := slices.SortedFunc(maps.Keys(m.absent), func(a, b netip.Addr) int {
			return cmp.Or(-cmp.Compare(m.absent[a], m.absent[b]), a.Compare(b))
		})
		for _, addr := range oldest[:min(excess, len(oldest))] {
			delete(m.absent, addr)
		}
	}
	m.all = slices.AppendSeq(slices.Clone(m.present), maps.Keys(m.absent))
	slices.SortFunc(m.all, netip.Addr.Compare)
}

func contains(sorted []netip.Addr, addr netip.Addr) bool {
	_, found := slices.BinarySearchFunc(sorted, addr, netip.Addr.Compare)
	return found
}

// sameAddrs is slices.Equal for lists that nobody changes: what begins at one address is the same.
func sameAddrs(a, b []netip.Addr) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}
