// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Networks are the addresses of this host and the networks that lie behind its own bridges.
type Networks struct {
	// Addresses are this host's own, sorted: neither loopback ones nor link-local ones.
	Addresses []netip.Addr
	// Bridged are the networks of containers and virtual machines on this host: what is routed in the main table to a
	// local bridge, sorted. A bridge is local where every port of it is one end of something virtual on this host (veth,
	// tap, dummy): one with a network card, a bond, a VLAN or a tunnel as port is the network itself, and so is one
	// that a default route leads to. Link-local networks are left out, because every interface has them, and whatever is
	// as wide as a default route.
	Bridged []netip.Prefix
}

// Equal tells whether n and other hold the same.
func (n *Networks) Equal(other *Networks) bool {
	return slices.Equal(n.Addresses, other.Addresses) && slices.Equal(n.Bridged, other.Bridged)
}

// ReadNetworks asks the kernel for the networks of the calling thread's network namespace. It needs no privilege, keeps
// nothing open, and may be called concurrently. It returns everything or an error: a dump that was interrupted by a
// change is repeated a few times.
func ReadNetworks(ctx context.Context) (Networks, error) {
	var n Networks
	var err error
	if n.Addresses, err = readAddresses(ctx); err != nil {
		return Networks{}, fmt.Errorf("cannot read this host's addresses: %w", err)
	}
	n.Addresses = slices.DeleteFunc(n.Addresses, func(a netip.Addr) bool { return a.IsLoopback() || a.IsLinkLocalUnicast() })
	if n.Bridged, err = readBridged(ctx); err != nil {
		return Networks{}, fmt.Errorf("cannot read the networks of this host's bridges: %w", err)
	}
	return n, nil
}

func readBridged(ctx context.Context) ([]netip.Prefix, error) {
	bridges, err := readLocalBridges(ctx)
	if err != nil || len(bridges) == 0 {
		return nil, err
	}
	routes, err := readRoutes(ctx, bridges)
	if err != nil {
		return nil, err
	}
	var all []netip.Prefix
	uplinks := map[uint32]bool{}
	for _, r := range routes {
		if isDefault(r.to) {
			uplinks[r.through] = true
		}
	}
	for _, r := range routes {
		if r.main && !uplinks[r.through] && !isLocalOnly(r.to) {
			all = append(all, r.to)
		}
	}
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all), nil
}

// readLocalBridges returns the indices of the bridges that have no port to the network. The kernel picks out bridges and
// the ports of each: a host may have hundreds of other interfaces.
func readLocalBridges(ctx context.Context) (map[uint32]bool, error) {
	local := map[uint32]bool{}
	kind := appendAttribute(nil, unix.IFLA_INFO_KIND, []byte("bridge"))
	bridges := linkDump(appendAttribute(nil, unix.IFLA_LINKINFO|unix.NLA_F_NESTED, kind), func() { clear(local) })
	err := bridges.run(ctx, func(_ uint16, body []byte) {
		if l, ok := parseLink(body); ok && l.kind == "bridge" { // an old kernel may send them all
			local[l.index] = true
		}
	})
	if err != nil {
		return nil, err
	}
	for index := range local {
		network := false
		ports := linkDump(appendAttribute(nil, unix.IFLA_MASTER, native.AppendUint32(nil, index)), func() { network = false })
		err := ports.run(ctx, func(_ uint16, body []byte) {
			if l, ok := parseLink(body); ok && l.master == index && !isVirtual(l.kind) {
				network = true
			}
		})
		if err != nil {
			return nil, err
		}
		if network {
			delete(local, index)
		}
	}
	return local, nil
}

// isVirtual tells whether an interface of that kind, as a bridge's port, has a container or virtual machine of this host
// at its other end. A network card has no kind; a vlan, bond or vxlan leads to other hosts.
func isVirtual(kind string) bool {
	return kind == "veth" || kind == "tun" || kind == "dummy"
}

// link is what counts of an interface.
type link struct {
	index, master uint32
	kind          string
}

func parseLink(body []byte) (link, bool) {
	if len(body) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	l := link{index: native.Uint32(body[4:])}
	for kind, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch {
		case kind == unix.IFLA_MASTER && len(value) >= 4:
			l.master = native.Uint32(value)
		case kind == unix.IFLA_LINKINFO:
			for kind, value := range attributes(value) {
				if kind == unix.IFLA_INFO_KIND {
					l.kind = unix.ByteSliceToString(value)
				}
			}
		}
	}
	return l, true
}

// linkDump lists interfaces that the filter picks, without their counters.
func linkDump(filter []byte, begin func()) dump {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	body := make([]byte, unix.SizeofIfInfomsg)
	body = appendAttribute(body, unix.IFLA_EXT_MASK, native.AppendUint32(nil, skipStats))
	return dump{request: unix.RTM_GETLINK, body: append(body, filter...), begin: begin}
}

// route is a way to a network through one of the interfaces that were asked for.
type route struct {
	to      netip.Prefix
	through uint32
	main    bool // of the main table
}

// mostRoutes bounds what is read: a host that knows more ways than this is a router of the internet.
const mostRoutes = 200_000

// readRoutes returns the unicast routes through any of some interfaces, of all tables.
func readRoutes(ctx context.Context, through map[uint32]bool) ([]route, error) {
	var all []route
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		before, seen := len(all), 0
		body := make([]byte, unix.SizeofRtMsg)
		body[0] = family
		query := dump{request: unix.RTM_GETROUTE, body: body, begin: func() { all, seen = all[:before], 0 }}
		err := query.run(ctx, func(_ uint16, body []byte) {
			seen++
			if seen <= mostRoutes {
				all = appendRoutes(all, body, through)
			}
		})
		switch {
		case errors.Is(err, unix.EOPNOTSUPP): // a kernel without IPv6
		case err != nil:
			return nil, err
		case seen > mostRoutes:
			return nil, fmt.Errorf("there are more than %d routes", mostRoutes)
		}
	}
	return all, nil
}

// appendRoutes appends what one message of the kernel says about interfaces in through: one route for each.
func appendRoutes(all []route, body []byte, through map[uint32]bool) []route {
	if len(body) < unix.SizeofRtMsg || body[7] != unix.RTN_UNICAST {
		return all
	}
	for _, r := range parseRoute(body) {
		if through[r.through] {
			all = append(all, r)
		}
	}
	return all
}

// parseRoute reads a message about a route of whatever type, which has a whole struct rtmsg: one route for each interface.
func parseRoute(body []byte) []route {
	family, bits, table := body[0], int(body[1]), uint32(body[4])
	to := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	var hops []uint32
	for kind, value := range attributes(body[unix.SizeofRtMsg:]) {
		switch {
		case kind == unix.RTA_DST:
			to, _ = netip.AddrFromSlice(value)
		case kind == unix.RTA_OIF && len(value) >= 4:
			hops = append(hops, native.Uint32(value))
		case kind == unix.RTA_TABLE && len(value) >= 4:
			table = native.Uint32(value)
		case kind == unix.RTA_MULTIPATH:
			hops = append(hops, multipath(value)...)
		}
	}
	prefix, err := to.Prefix(bits)
	if err != nil || !prefix.IsValid() {
		return nil
	}
	all := make([]route, 0, len(hops))
	for _, hop := range hops {
		all = append(all, route{to: prefix, through: hop, main: table == unix.RT_TABLE_MAIN})
	}
	return all
}

// multipath returns the interfaces in a list of struct rtnexthop.
func multipath(value []byte) []uint32 {
	var hops []uint32
	for len(value) >= unix.SizeofRtNexthop {
		size := int(native.Uint16(value))
		if size < unix.SizeofRtNexthop || size > len(value) {
			break
		}
		hops = append(hops, native.Uint32(value[4:]))
		value = value[min(align(size), len(value)):]
	}
	return hops
}

// isDefault tells whether a route is a default one, or so wide that it does the work of one, as the two halves of the
// internet do that VPNs lay over it.
func isDefault(to netip.Prefix) bool {
	if to.Addr().Is4() {
		return to.Bits() < 8
	}
	return to.Bits() < 16 && !isLocalOnly(to)
}

// isLocalOnly tells whether addresses of a network mean another host behind each interface, or none.
func isLocalOnly(to netip.Prefix) bool {
	return to.Addr().IsLinkLocalUnicast() || to.Addr().IsMulticast() || to.Addr().IsLoopback()
}
