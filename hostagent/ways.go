// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// mostWays bounds Finding.Ways: a host of containers may have thousands of addresses.
const mostWays = 100

// wayKey is all of a listener that decides at which addresses it is reached.
type wayKey struct {
	protocol sockets.Protocol
	addr     netip.Addr
	v6only   bool
	device   uint32
}

// ways lists the addresses of this host at which the network reaches a listener, firewalls aside; nil where they are not
// known. Listeners that differ in their ports only share a list: it is not to be changed.
func (e *evaluation) ways(l *sockets.Listener) []Way {
	switch {
	case e.in.Host == nil || len(e.in.Host.Interfaces) == 0 || l.Partial || l.Namespace != 0:
		return nil // of another namespace the interfaces are not known
	case !l.Exposed():
		return []Way{}
	}
	key := wayKey{l.Protocol, l.Addr.Addr(), l.V6Only, l.Device}
	ways, known := e.reached[key]
	if !known {
		if e.reached == nil {
			e.reached = map[wayKey][]Way{}
		}
		across := e.in.Host.TCPAcrossVRFs
		if l.Protocol == sockets.UDP {
			across = e.in.Host.UDPAcrossVRFs
		}
		ways = reachedAt(l, e.in.Host.Interfaces, across)
		e.reached[key] = ways
	}
	return ways
}

// reachedAt lists the addresses at which packets that come in on any of the interfaces reach a listener. across tells that
// one that is bound to no interface is reached through those of VRFs, too.
//
// The kernel takes a packet for any address of the host, whichever interface it comes in on and whichever has the address
// (the weak host model), lo included. What narrows it down is this:
//   - a VRF is a host of its own: its interfaces take packets for its addresses, all others for the rest;
//   - IPv6's link-local addresses count on their own link alone, and others only while their interface is up;
//   - a socket that is bound to an interface takes what comes in there (SO_BINDTODEVICE), and one that is bound to a VRF
//     what comes in on its interfaces; one that is bound to neither takes what comes in outside of VRFs, as a rule;
//   - what comes in on a port of a bridge or a member of a bond comes in on the bridge or bond.
//
// Addresses that packets take no way to because of other settings (rp_filter, arp_ignore, routes) are listed all the same.
func reachedAt(l *sockets.Listener, interfaces []facts.Interface, across bool) []Way {
	doors := newDoors(interfaces, l.Device, across)
	ways := []Way{}
	for i := range interfaces {
		has := &interfaces[i]
		add := func(addr netip.Addr) {
			if !addr.IsLoopback() && l.Covers(addr) && doors.leadTo(addr, has) {
				ways = append(ways, Way{Addr: addr, Interface: has.Name})
			}
		}
		for _, p := range has.Addresses {
			add(p.Addr())
		}
		for _, p := range has.Routed {
			if own := l.Addr.Addr().Unmap(); p.IsSingleIP() {
				add(p.Addr())
			} else if p.Contains(own) {
				add(own)
			} // and to a wildcard all of a network leads: more than can be listed
		}
	}
	slices.SortFunc(ways, compareWays)
	ways = slices.Compact(ways)
	return slices.Clip(ways[:min(len(ways), mostWays)])
}

// doors are the interfaces of a host through which a socket that is bound to some device is reached.
type doors struct {
	device uint32
	across bool
	kinds  map[uint32]string // of interfaces, by index
	open   map[door]bool
}

// door is a VRF, 0 for outside of all, and a family.
type door struct {
	vrf uint32
	ip6 bool
}

func newDoors(interfaces []facts.Interface, device uint32, across bool) doors {
	d := doors{device: device, across: across, kinds: make(map[uint32]string, len(interfaces)), open: map[door]bool{}}
	for i := range interfaces {
		d.kinds[interfaces[i].Index] = interfaces[i].Kind
	}
	for i := range interfaces {
		for _, ip6 := range []bool{false, true} {
			if in := &interfaces[i]; d.admits(in, ip6) {
				d.open[door{d.vrf(in), ip6}] = true
			}
		}
	}
	return d
}

const kindVRF = "vrf"

// vrf is the index of the VRF that an interface is, or is a part of, 0 for none.
func (d doors) vrf(i *facts.Interface) uint32 {
	switch {
	case i.Kind == kindVRF:
		return i.Index
	case d.kinds[i.Master] == kindVRF:
		return i.Master
	}
	return 0
}

// admits tells whether packets of other hosts come in on an interface and go to the socket. A dummy has no other end.
func (d doors) admits(in *facts.Interface, ip6 bool) bool {
	part := in.Master != 0 && d.kinds[in.Master] != kindVRF
	if !in.Up || in.Loopback || part || in.Kind == kindVRF || in.Kind == "dummy" || ip6 && !in.IPv6 {
		return false
	}
	vrf := d.vrf(in)
	if d.device == 0 {
		return vrf == 0 || d.across
	}
	return d.device == in.Index || d.device == vrf
}

// leadTo tells whether packets of other hosts for an address on some interface can reach the socket.
func (d doors) leadTo(addr netip.Addr, has *facts.Interface) bool {
	switch {
	case addr.Is4(): // counts on an interface that is down, too
	case !has.Up:
		return false
	case addr.IsLinkLocalUnicast():
		return d.admits(has, true)
	}
	return d.open[door{d.vrf(has), !addr.Is4()}]
}

func compareWays(a, b Way) int {
	return cmp.Or(
		compareBools(a.Addr.IsLinkLocalUnicast(), b.Addr.IsLinkLocalUnicast()),
		a.Addr.Compare(b.Addr), // IPv4 first
		cmp.Compare(a.Interface, b.Interface),
	)
}

// compareBools puts false first.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// waysText writes ways for a sentence: "it at 10.0.0.5 (eth0) and fd00::5 (eth0)", "it" where they are not known. Link-local
// ones are told only where there is no other: they come and go with each container.
func waysText(ways []Way) string {
	const most = 150 // Render cuts at 160
	switch {
	case ways == nil:
		return "it"
	case len(ways) == 0:
		return "it (at no address of this host now)"
	}
	var words []string
	for _, w := range ways {
		if w.Addr.IsLinkLocalUnicast() && len(words) > 0 && !ways[0].Addr.IsLinkLocalUnicast() {
			break
		}
		word := w.Addr.String()
		if w.Interface != "" {
			word += " (" + catalog.CleanTo(w.Interface, 15) + ")"
		}
		words = append(words, word)
	}
	return "it at " + listTo(words, most)
}
