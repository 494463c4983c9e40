// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// iface reads "3 eth0 10.0.0.5/24 fd00::5/64 kind=veth master=2 down no6 route=192.0.2.7/32".
func iface(text string) facts.Interface {
	fields := strings.Fields(text)
	i := facts.Interface{Name: fields[1], Up: true, IPv6: true, Loopback: fields[1] == "lo"}
	fmt.Sscan(fields[0], &i.Index)
	for _, f := range fields[2:] {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "down":
			i.Up = false
		case "no6":
			i.IPv6 = false
		case "kind":
			i.Kind = value
		case "master":
			fmt.Sscan(value, &i.Master)
		case "route":
			i.Routed = append(i.Routed, netip.MustParsePrefix(value))
		default:
			i.Addresses = append(i.Addresses, netip.MustParsePrefix(f))
		}
	}
	return i
}

func ifaces(texts ...string) []facts.Interface {
	all := make([]facts.Interface, len(texts))
	for i, text := range texts {
		all[i] = iface(text)
	}
	return all
}

// TestWays: what reaches a listener, on hosts that cannot all be had for a test with connections; those that can are in
// test/exposure. The rules of VRFs are those of the kernel's Documentation/networking/vrf.rst.
func TestWays(t *testing.T) {
	lo := "1 lo 127.0.0.1/8 ::1/128 10.9.9.9/32 fd00:9::9/128"
	plain := ifaces(lo, "2 eth0 10.0.0.5/24 fd00::5/64 fe80::5/64", "3 eth1 192.168.7.5/24 169.254.7.7/16 fe80::6/64")
	vrf := ifaces(lo, "2 eth0 10.0.0.5/24 fd00::5/64 fe80::5/64", "3 red 10.1.0.9/32 kind=vrf", "4 eth1 10.1.0.5/24 fd01::5/64 fe80::6/64 master=3",
		"5 eth2 10.2.0.5/24 master=6", "6 blue kind=vrf")
	const (
		outside = "10.0.0.5 (eth0), 10.9.9.9 (lo), fd00::5 (eth0), fd00:9::9 (lo), fe80::5 (eth0)"
		red     = "10.1.0.5 (eth1), 10.1.0.9 (red), fd01::5 (eth1), fe80::6 (eth1)"
	)
	for _, tt := range []struct {
		name       string
		interfaces []facts.Interface
		across     bool
		listener   string
		want       string
	}{
		{"global ones first, IPv4 before IPv6", plain, false, "tcp [::]:80",
			"10.0.0.5 (eth0), 10.9.9.9 (lo), 192.168.7.5 (eth1), fd00::5 (eth0), fd00:9::9 (lo), 169.254.7.7 (eth1), fe80::5 (eth0), fe80::6 (eth1)"},
		{"a device", plain, false, "tcp [::]:80 v6only dev=3", "fd00::5 (eth0), fd00:9::9 (lo), fe80::6 (eth1)"},
		{"a device that is gone", plain, false, "tcp [::]:80 dev=9", ""},
		{"the device lo", plain, false, "tcp [::]:80 dev=1", ""},
		{"loopback", plain, false, "tcp 127.0.0.1:80", ""},
		{"loopback on a device", plain, false, "tcp 127.0.0.1:80 dev=2", ""},
		{"an address that is not here", plain, false, "tcp 203.0.113.5:80", ""},
		{"no interface but lo", ifaces(lo), false, "tcp [::]:80", ""},
		{"only a dummy beside lo", ifaces(lo, "2 d0 10.0.0.5/32 kind=dummy"), false, "tcp [::]:80", ""},
		{"a dummy has the address", ifaces(lo, "2 d0 10.7.7.7/32 kind=dummy", "3 eth0"), false, "tcp 10.7.7.7:80", "10.7.7.7 (d0)"},
		{"bound to a dummy", ifaces(lo, "2 d0 10.7.7.7/32 kind=dummy", "3 eth0"), false, "tcp 10.7.7.7:80 dev=2", ""},
		{"all are down", ifaces(lo, "2 eth0 10.0.0.5/24 down"), false, "tcp 0.0.0.0:80", ""},
		{"one is down", ifaces(lo, "2 eth0 10.0.0.5/24 fd00::5/64 down", "3 eth1 no6"), false, "tcp [::]:80", "10.0.0.5 (eth0), 10.9.9.9 (lo)"},
		{"a port of a bridge", ifaces(lo, "2 br0 fe80::1/64 kind=bridge", "3 eth0 10.0.0.5/24 fe80::5/64 master=2"), false, "tcp [::]:80",
			"10.0.0.5 (eth0), 10.9.9.9 (lo), fd00:9::9 (lo), fe80::1 (br0)"},
		{"bound to a port of a bridge", ifaces(lo, "2 br0 kind=bridge", "3 eth0 10.0.0.5/24 master=2"), false, "tcp [::]:80 dev=3", ""},
		{"the same address twice", ifaces("2 v0 fe80::1/64", "3 v1 fe80::1/64"), false, "tcp [::]:80", "fe80::1 (v0), fe80::1 (v1)"},
		{"by a route", ifaces(lo, "2 eth0 10.0.0.5/24 route=192.0.2.7/32 route=198.51.100.0/24"), false, "tcp 0.0.0.0:80",
			"10.0.0.5 (eth0), 10.9.9.9 (lo), 192.0.2.7 (eth0)"},
		{"in a network by a route", ifaces(lo, "2 eth0 10.0.0.5/24 route=198.51.100.0/24"), false, "tcp 198.51.100.9:80", "198.51.100.9 (eth0)"},

		{"outside of VRFs", vrf, false, "tcp [::]:80", outside},
		{"across VRFs", vrf, true, "tcp [::]:80", "10.0.0.5 (eth0), 10.1.0.5 (eth1), 10.1.0.9 (red), 10.2.0.5 (eth2), 10.9.9.9 (lo), " +
			"fd00::5 (eth0), fd00:9::9 (lo), fd01::5 (eth1), fe80::5 (eth0), fe80::6 (eth1)"},
		{"in a VRF", vrf, false, "tcp [::]:80 dev=3", red},
		{"in a VRF, across or not", vrf, true, "tcp [::]:80 dev=3", red},
		{"on an interface of a VRF", vrf, false, "tcp [::]:80 dev=4", red},
		{"on an interface outside", vrf, true, "tcp [::]:80 dev=2", outside},
		{"on lo beside VRFs", vrf, true, "tcp [::]:80 dev=1", ""},
		{"UDP has a setting of its own", vrf, true, "udp [::]:80", outside},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := listener(tt.listener)
			e := evaluation{in: Input{Host: &Host{Facts: facts.Facts{Interfaces: tt.interfaces, TCPAcrossVRFs: tt.across}}}}
			var words []string
			ways := e.ways(&l)
			for _, w := range ways {
				words = append(words, fmt.Sprintf("%v (%s)", w.Addr, w.Interface))
			}
			if diff := cmp.Diff(tt.want, strings.Join(words, ", ")); diff != "" || ways == nil {
				t.Errorf("(-want +got), known %t:\n%s", ways != nil, diff)
			}
		})
	}
}

// TestWaysUnknown: nothing is said of what was not seen.
func TestWaysUnknown(t *testing.T) {
	known := &Host{Facts: facts.Facts{Interfaces: ifaces("2 eth0 10.0.0.5/24")}}
	elsewhere, partial := listener("tcp 0.0.0.0:80"), listener("tcp 0.0.0.0:80")
	elsewhere.Namespace, partial.Partial = 4026531992, true
	here := listener("tcp 0.0.0.0:80")
	for name, e := range map[string]evaluation{
		"no host": {}, "no interfaces": {in: Input{Host: &Host{}}},
	} {
		if ways := e.ways(&here); ways != nil {
			t.Errorf("%s: %v", name, ways)
		}
	}
	e := evaluation{in: Input{Host: known}}
	if ways := e.ways(&elsewhere); ways != nil {
		t.Errorf("another namespace: %v", ways)
	}
	if ways := e.ways(&partial); ways != nil {
		t.Errorf("half a listener: %v", ways)
	}
	if ways := e.ways(&here); len(ways) != 1 {
		t.Errorf("all known: %v", ways)
	}
}

func TestWaysText(t *testing.T) {
	way := func(addr, on string) Way { return Way{Addr: netip.MustParseAddr(addr), Interface: on} }
	var many, long []Way
	for i := range 300 {
		many = append(many, way(fmt.Sprintf("10.0.0.%d", i%250+1), "eth0"))
		long = append(long, way(fmt.Sprintf("2001:db8:1111:2222:3333:4444:5555:%x", 0x1000+i), "enp129s0f1np1v7"))
	}
	for _, tt := range []struct {
		name string
		ways []Way
		want string
	}{
		{"not known", nil, "it"},
		{"none", []Way{}, "it (at no address of this host now)"},
		{"one", []Way{way("10.0.0.5", "eth0")}, "it at 10.0.0.5 (eth0)"},
		{"two", []Way{way("10.0.0.5", "eth0"), way("fd00::5", "eth0")}, "it at 10.0.0.5 (eth0) and fd00::5 (eth0)"},
		{"of an unknown interface", []Way{way("10.0.0.5", "")}, "it at 10.0.0.5"},
		{"link-local ones beside others", []Way{way("10.0.0.5", "eth0"), way("169.254.7.7", "eth0"), way("fe80::5", "eth0")}, "it at 10.0.0.5 (eth0)"},
		{"link-local ones alone", []Way{way("fe80::5", "eth0"), way("fe80::6", "eth1")}, "it at fe80::5 (eth0) and fe80::6 (eth1)"},
		{"many", many, "it at 10.0.0.1 (eth0), 10.0.0.2 (eth0), 10.0.0.3 (eth0), 10.0.0.4 (eth0), 10.0.0.5 (eth0) and 295 more"},
		{"long", long, "it at 2001:db8:1111:2222:3333:4444:5555:1000 (enp129s0f1np1v7), 2001:db8:1111:2222:3333:4444:5555:1001 (enp129s0f1np1v7) and 298 more"},
		{"hostile", []Way{way("10.0.0.5", "\x1b[2J\n")}, `it at 10.0.0.5 (\u001b[2J\u000a)`},
	} {
		got := waysText(tt.ways)
		if diff := cmp.Diff(tt.want, got); diff != "" || utf8.RuneCountInString(got) > 160 || catalog.Clean(got) != got {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestWaysAreBounded: neither a host of containers nor somebody who binds many addresses makes a finding huge.
func TestWaysAreBounded(t *testing.T) {
	e := evaluation{in: Input{Host: &Host{}}}
	for i := range 5000 {
		e.in.Host.Interfaces = append(e.in.Host.Interfaces, iface(fmt.Sprintf("%d v%[1]d fe80::%[1]x/64 10.%d.%d.1/24", i+2, i/250, i%250)))
	}
	l := listener("tcp [::]:80")
	ways := e.ways(&l)
	if len(ways) != mostWays || ways[0].Addr != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("%d ways, the first %v", len(ways), ways[0])
	}
	if again := e.ways(&l); &again[0] != &ways[0] {
		t.Error("listed anew for each listener")
	}
}
