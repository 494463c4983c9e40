// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseListen(t *testing.T) {
	at := func(p Protocol, addr string) socketUnit {
		return socketUnit{"web.socket", p, netip.MustParseAddrPort(addr)}
	}
	for _, test := range []struct {
		name  string
		value any
		want  []socketUnit
	}{
		{"several", [][]any{{"Stream", "0.0.0.0:80"}, {"Stream", "[::]:80"}, {"Datagram", "[::1]:53"}},
			[]socketUnit{at(TCP, "0.0.0.0:80"), at(TCP, "[::]:80"), at(UDP, "[::1]:53")}},
		{"on an interface", [][]any{{"Stream", "[fe80::1]:80%eth0"}}, []socketUnit{at(TCP, "[fe80::1]:80")}},
		{"others", [][]any{{"Stream", "/run/a.sock"}, {"Stream", "@a"}, {"Stream", "vsock:2:80"}, {"FIFO", "/run/f"}, {"SequentialPacket", "1.2.3.4:5"}}, nil},
		{"malformed", [][]any{{}, {"Stream"}, {1, 2}, {"Stream", 80}, {"Stream", "1.2.3.4:99999"}}, nil},
		{"another type", "x", nil},
		{"nothing", nil, nil},
	} {
		if diff := cmp.Diff(test.want, parseListen("web.socket", test.value), cmp.AllowUnexported(socketUnit{}), cmp.Comparer(sameAddrPort)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestUnitOf(t *testing.T) {
	addr := netip.MustParseAddrPort("[::]:22")
	units := []socketUnit{
		{"ssh.socket", TCP, addr}, {"ssh.socket", TCP, addr}, {"dns.socket", UDP, addr},
		{"a.socket", TCP, netip.MustParseAddrPort("[::]:80")}, {"b.socket", TCP, netip.MustParseAddrPort("[::]:80")},
	}
	for _, test := range []struct {
		protocol Protocol
		addr     string
		want     string
	}{
		{TCP, "[::]:22", "ssh.socket"},
		{UDP, "[::]:22", "dns.socket"},
		{TCP, "0.0.0.0:22", ""},
		{TCP, "[::]:80", ""}, // of two
	} {
		if got := unitOf(units, Listener{Protocol: test.protocol, Addr: netip.MustParseAddrPort(test.addr)}); got != test.want {
			t.Errorf("%v %s: got %q, want %q", test.protocol, test.addr, got, test.want)
		}
	}
}

// TestOnlyManager: another process that has the socket too is the service.
func TestOnlyManager(t *testing.T) {
	d := &describer{processes: map[int32]details{1: {manager: true}, 7: {}}}
	for _, test := range []struct {
		holders []holder
		want    bool
	}{{nil, false}, {[]holder{{1, 3}}, true}, {[]holder{{1, 3}, {7, 3}}, false}, {[]holder{{7, 3}}, false}} {
		if got := d.onlyManager(test.holders); got != test.want {
			t.Errorf("%v: got %v, want %v", test.holders, got, test.want)
		}
	}
}
