// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// own is an address of this host and the index of the interface that has it.
type own struct {
	prefix netip.Prefix
	on     uint32
}

// readOwn asks the kernel for the addresses of all interfaces of the thread's network namespace.
func readOwn(ctx context.Context) ([]own, error) {
	var all []own
	query := dump{request: unix.RTM_GETADDR, body: make([]byte, unix.SizeofIfAddrmsg), begin: func() { all = nil }}
	err := query.run(ctx, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWADDR || len(all) > mostAddresses {
			return
		}
		if a, ok := parseOwn(body); ok {
			all = append(all, a)
		}
	})
	if err == nil && len(all) > mostAddresses {
		err = fmt.Errorf("there are more than %d addresses", mostAddresses)
	}
	return all, err
}

func parseOwn(body []byte) (own, bool) {
	if len(body) < unix.SizeofIfAddrmsg || body[2]&unix.IFA_F_DADFAILED != 0 {
		return own{}, false
	}
	// Of a tunnel IFA_ADDRESS is the other end and IFA_LOCAL this one; IPv6 has IFA_LOCAL there only.
	var local, addr netip.Addr
	for kind, value := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case unix.IFA_ADDRESS:
			addr, _ = netip.AddrFromSlice(value)
		}
	}
	if local.IsValid() {
		addr = local
	}
	if !addr.IsValid() || addr.IsUnspecified() {
		return own{}, false
	}
	prefix := netip.PrefixFrom(addr.Unmap(), int(body[1]))
	return own{prefix: prefix, on: native.Uint32(body[4:])}, prefix.IsValid()
}

// readAddresses returns the addresses of all interfaces: sorted, each once.
func readAddresses(ctx context.Context) ([]netip.Addr, error) {
	owns, err := readOwn(ctx)
	var all []netip.Addr
	for _, o := range owns {
		all = append(all, o.prefix.Addr())
	}
	return distinct(all), err
}

// distinct sorts addresses and keeps one of each.
func distinct(all []netip.Addr) []netip.Addr {
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}
