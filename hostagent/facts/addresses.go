// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"net"
	"net/netip"
	"slices"
)

// readAddresses asks the kernel for the addresses of the thread's network namespace.
func (f *Facts) readAddresses() {
	all, err := net.InterfaceAddrs()
	if err != nil {
		f.note("cannot list the host's addresses: %v", err)
		return
	}
	f.Addresses = plainAddresses(all)
}

// plainAddresses sorts addresses and drops what is none, doubles and zones: the same link-local address may stand on
// several interfaces.
func plainAddresses(all []net.Addr) []netip.Addr {
	var addresses []netip.Addr
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addresses = append(addresses, prefix.Addr().Unmap().WithZone(""))
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return slices.Compact(addresses)
}
