// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// withoutAddresses is f for a test of everything else.
func withoutAddresses(f Facts) Facts {
	f.Addresses = nil
	return f
}

// TestAddresses asks a real kernel, in the namespace of the calling thread.
func TestAddresses(t *testing.T) {
	h := newHost(t)
	got := read(t, h).Addresses
	if !slices.IsSortedFunc(got, netip.Addr.Compare) {
		t.Errorf("not sorted: %v", got)
	}
	for _, text := range []string{"127.0.0.1", "::1", host.IPv4, host.IPv6} {
		if !slices.Contains(got, netip.MustParseAddr(text)) {
			t.Errorf("%s is missing in %v", text, got)
		}
	}
	if slices.Contains(got, netip.MustParseAddr(host.NetIPv4)) {
		t.Errorf("the network's address is in %v", got)
	}
}

type text string

func (text) Network() string  { return "ip+net" }
func (t text) String() string { return string(t) }

func TestPlainAddresses(t *testing.T) {
	got := plainAddresses([]net.Addr{
		text("fe80::1/64"), text("::ffff:10.0.0.1/120"), text("rubbish"), text("10.0.0.1/24"), text("fe80::1/64"), text("127.0.0.1/8"),
	})
	want := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("fe80::1")}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
