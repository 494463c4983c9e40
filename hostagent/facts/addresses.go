// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// readAddresses asks the kernel for the addresses of all interfaces of the thread's network namespace: sorted, each once,
// because the same link-local address may stand on several interfaces.
func readAddresses(ctx context.Context) ([]netip.Addr, error) {
	var all []netip.Addr
	query := dump{request: unix.RTM_GETADDR, body: make([]byte, unix.SizeofIfAddrmsg), begin: func() { all = nil }}
	err := query.run(ctx, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWADDR || len(body) < unix.SizeofIfAddrmsg {
			return
		}
		// Of a tunnel IFA_ADDRESS is the other end and IFA_LOCAL this one; IPv6 has IFA_LOCAL there only.
		var own, addr netip.Addr
		for kind, value := range attributes(body[unix.SizeofIfAddrmsg:]) {
			switch kind {
			case unix.IFA_LOCAL:
				own, _ = netip.AddrFromSlice(value)
			case unix.IFA_ADDRESS:
				addr, _ = netip.AddrFromSlice(value)
			}
		}
		if own.IsValid() {
			addr = own
		}
		if addr.IsValid() && !addr.IsUnspecified() {
			all = append(all, addr.Unmap())
		}
	})
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all), err
}
