// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestExposed(t *testing.T) {
	for _, test := range []struct {
		addr   string
		device uint32
		want   bool
	}{
		{"127.0.0.1", 0, false},
		{"127.255.255.254", 0, false},
		{"128.0.0.1", 0, true},
		{"126.255.255.255", 0, true},
		{"0.0.0.0", 0, true},
		{"0.0.0.0", 1, false},
		{"0.0.0.0", 2, true},
		{"10.9.9.9", 0, true},
		{"10.9.9.9", 1, false},
		{"::", 0, true},
		{"::", 1, false},
		{"::1", 0, false},
		{"::1", 2, false},
		{"::2", 0, true},
		{"fe80::1", 3, true},
		{"::ffff:0.0.0.0", 0, true},
		{"::ffff:127.0.0.1", 0, false},
		{"::ffff:127.9.9.9", 0, false},
		{"::ffff:128.0.0.1", 0, true},
		{"::127.0.0.1", 0, true}, // v4-compatible, not v4-mapped
	} {
		l := Listener{Addr: netip.AddrPortFrom(netip.MustParseAddr(test.addr), 80), Device: test.device}
		if got := l.Exposed(); got != test.want {
			t.Errorf("%s on device %d: exposed %v, want %v", test.addr, test.device, got, test.want)
		}
	}
	if !(Listener{}).Exposed() {
		t.Error("a listener without an address counts as not exposed")
	}
}

func TestCovers(t *testing.T) {
	destinations := []string{"127.0.0.1", "127.9.9.9", "10.0.0.1", "::ffff:10.0.0.1", "::1", "2001:db8::1", "fe80::1%eth0", "0.0.0.0", "::"}
	for _, test := range []struct {
		name     string
		listener Listener
		want     []string
	}{
		{"IPv4 wildcard", at("0.0.0.0"), []string{"127.0.0.1", "127.9.9.9", "10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0"}},
		{"both", at("::"), destinations},
		{"IPv6 only", Listener{Addr: at("::").Addr, V6Only: true}, []string{"::1", "2001:db8::1", "fe80::1%eth0", "::"}},
		{"mapped wildcard", at("::ffff:0.0.0.0"), []string{"127.0.0.1", "127.9.9.9", "10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0"}},
		{"mapped", at("::ffff:10.0.0.1"), []string{"10.0.0.1", "::ffff:10.0.0.1"}},
		{"IPv4", at("10.0.0.1"), []string{"10.0.0.1", "::ffff:10.0.0.1"}},
		{"IPv4 loopback", at("127.0.0.1"), []string{"127.0.0.1", "0.0.0.0"}},
		{"IPv6 loopback", at("::1"), []string{"::1", "::"}},
		{"link-local", at("fe80::1"), []string{"fe80::1%eth0"}},
		{"on lo", Listener{Addr: at("0.0.0.0").Addr, Device: 1}, []string{"127.0.0.1", "127.9.9.9", "10.0.0.1", "::ffff:10.0.0.1", "0.0.0.0"}},
		{"on another device", Listener{Addr: at("::").Addr, Device: 2}, []string{"10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "fe80::1%eth0"}},
		{"none", Listener{}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, d := range destinations {
				if test.listener.Covers(netip.MustParseAddr(d)) {
					got = append(got, d)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("covered destinations (-want +got):\n%s", diff)
			}
			if test.listener.Covers(netip.Addr{}) {
				t.Error("covers no address at all")
			}
		})
	}
}

func TestProtocolString(t *testing.T) {
	got := []string{TCP.String(), UDP.String(), Protocol(0).String()}
	if diff := cmp.Diff([]string{"tcp", "udp", "unknown"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func at(addr string) Listener {
	return Listener{Protocol: TCP, Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 80)}
}
