// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Interface is a network interface of this host, with all by which packets for the host reach it or not.
type Interface struct {
	Index uint32
	Name  string // without control characters
	// Kind is the kernel's word for what a virtual one is, "veth", "bridge" or "vrf"; "" for a network card and for lo.
	Kind string
	// Master is the index of the bridge, bond or VRF that it is a part of, 0 for none.
	Master       uint32
	Loopback, Up bool
	// IPv6 tells that it takes in packets of IPv6: net.ipv6.conf.IF.disable_ipv6 is 0.
	IPv6 bool
	// Addresses are the host's own on it with the networks they are in, sorted. An IPv6 address that another host was
	// found to have (duplicate address detection) is left out, for the kernel does not take it for its own.
	Addresses []netip.Prefix
	// Routed is what else the host takes for its own, by a local route through it, sorted: addresses that a cloud's load
	// balancer forwards, or whole networks. Loopback and link-local ones are left out.
	Routed []netip.Prefix
}

const (
	// mostAddresses bounds the addresses of a host, and its local routes.
	mostAddresses = 100_000
	// disableIPv6 is the place of that setting in IFLA_INET6_CONF, DEVCONF_DISABLE_IPV6 of include/uapi/linux/ipv6.h.
	disableIPv6 = 26
)

// readInterfaces asks the kernel for the interfaces of the thread's network namespace, by index.
func readInterfaces(ctx context.Context) ([]Interface, error) {
	var all []Interface
	links := linkDump(nil, func() { all = nil })
	err := links.run(ctx, func(_ uint16, body []byte) {
		if i, ok := parseInterface(body); ok && len(all) <= mostInterfaces {
			all = append(all, i)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(all) > mostInterfaces {
		return nil, fmt.Errorf("there are more than %d interfaces", mostInterfaces)
	}
	slices.SortFunc(all, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	of := make(map[uint32]*Interface, len(all))
	for i := range all {
		of[all[i].Index] = &all[i]
	}
	addresses, err := readOwn(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range addresses {
		if i := of[a.on]; i != nil { // one that came between the two questions is there the next time
			i.Addresses = append(i.Addresses, a.prefix)
		}
	}
	routes, err := readLocalRoutes(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		slices.SortFunc(all[i].Addresses, comparePrefixes)
	}
	for _, r := range routes {
		if i := of[r.through]; i != nil && !isLocalOnly(r.to) && !i.hasAddress(r.to) {
			i.Routed = append(i.Routed, r.to)
		}
	}
	for i := range all {
		slices.SortFunc(all[i].Routed, comparePrefixes)
	}
	return all, nil
}

// hasAddress tells whether a route is that of an address on i, as the kernel makes one for each: there may be thousands.
// The addresses are sorted already.
func (i *Interface) hasAddress(route netip.Prefix) bool {
	_, found := slices.BinarySearchFunc(i.Addresses, route.Addr(), func(p netip.Prefix, addr netip.Addr) int { return p.Addr().Compare(addr) })
	return found && route.IsSingleIP()
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

func parseInterface(body []byte) (Interface, bool) {
	l, ok := parseLink(body)
	if !ok {
		return Interface{}, false
	}
	flags := native.Uint32(body[8:])
	i := Interface{
		Index: l.index, Kind: clean(l.kind), Master: l.master,
		Loopback: flags&unix.IFF_LOOPBACK != 0, Up: flags&unix.IFF_UP != 0,
	}
	for kind, value := range attributes(body[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			i.Name = clean(unix.ByteSliceToString(value))
		case unix.IFLA_AF_SPEC:
			i.IPv6 = takesIPv6(value)
		}
	}
	return i, true
}

// takesIPv6 reads IFLA_AF_SPEC: settings by family. Without IPv6's the interface has none.
func takesIPv6(spec []byte) bool {
	for family, settings := range attributes(spec) {
		if family != unix.AF_INET6 {
			continue
		}
		for kind, value := range attributes(settings) {
			if kind == unix.IFLA_INET6_CONF && len(value) >= 4*(disableIPv6+1) {
				return native.Uint32(value[4*disableIPv6:]) == 0
			}
		}
	}
	return false
}

// readLocalRoutes returns the routes of table local by which the host takes packets for its own. The kernel picks them out
// of all routes where it can, since Linux 4.20.
func readLocalRoutes(ctx context.Context) ([]route, error) {
	var all []route
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		before, seen := len(all), 0
		body := make([]byte, unix.SizeofRtMsg)
		body[0], body[4], body[7] = family, unix.RT_TABLE_LOCAL, unix.RTN_LOCAL
		query := dump{request: unix.RTM_GETROUTE, body: body, strict: true, begin: func() { all, seen = all[:before], 0 }}
		err := query.run(ctx, func(_ uint16, body []byte) {
			if seen++; seen > mostRoutes || len(body) < unix.SizeofRtMsg {
				return
			}
			if body[4] == unix.RT_TABLE_LOCAL && body[7] == unix.RTN_LOCAL {
				all = append(all, parseRoute(body)...)
			}
		})
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOENT): // a kernel without IPv6, or without such a table
		case err != nil:
			return nil, err
		case seen > mostRoutes, len(all) > mostAddresses:
			return nil, fmt.Errorf("there are more than %d local routes", mostAddresses)
		}
	}
	return all, nil
}

// addressesOf lists the addresses of interfaces: sorted, each once, because the same link-local one may stand on several.
func addressesOf(interfaces []Interface) []netip.Addr {
	var all []netip.Addr
	for i := range interfaces {
		for _, p := range interfaces[i].Addresses {
			all = append(all, p.Addr())
		}
	}
	return distinct(all)
}
