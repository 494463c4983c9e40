// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// withoutAddresses is f for a test of everything else.
func withoutAddresses(f Facts) Facts {
	f.Addresses, f.Interfaces = nil, nil
	return f
}

// TestAddresses asks a real kernel, in the namespace of the calling thread.
func TestAddresses(t *testing.T) {
	h := newHost(t)
	shell(t, h, "ip link add d0 type veth peer name d1; for d in d0 d1; do ip link set $d up; ip addr add fe80::7/64 dev $d nodad; done; "+
		"ip addr add 10.5.0.1 peer 10.5.0.2 dev d0")
	got := read(t, h).Addresses
	if !slices.IsSortedFunc(got, netip.Addr.Compare) || len(slices.Compact(slices.Clone(got))) < len(got) {
		t.Errorf("not sorted, or not each once: %v", got)
	}
	for _, text := range []string{"127.0.0.1", "::1", host.IPv4, host.IPv6, "fe80::7", "10.5.0.1"} {
		if !slices.Contains(got, netip.MustParseAddr(text)) {
			t.Errorf("%s is missing in %v", text, got)
		}
	}
	for _, text := range []string{host.NetIPv4, "10.5.0.2"} {
		if slices.Contains(got, netip.MustParseAddr(text)) {
			t.Errorf("the network's address %s is in %v", text, got)
		}
	}
}
