// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) {
	if role := os.Getenv(roleEnv); role != "" {
		play(role)
	}
	netns.Main(m)
}

// bound is a socket of the test.
type bound struct {
	fd     int
	port   uint16
	cookie uint64
}

// option is set before bind.
type option struct{ level, name, value int }

var (
	v6only    = option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1}
	dual      = option{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0}
	freebind  = option{unix.SOL_IP, unix.IP_FREEBIND, 1}
	reusePort = option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}
)

// open makes a socket, bound to addr (port 0: any free one) and, for a stream, listening.
func open(t testing.TB, kind, protocol int, addr, device string, options ...option) bound {
	t.Helper()
	to := netip.MustParseAddrPort(addr)
	family := unix.AF_INET
	var sockaddr unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[:4])}
	if !to.Addr().Is4() {
		family, sockaddr = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	for _, o := range options {
		check(t, unix.SetsockoptInt(fd, o.level, o.name, o.value))
	}
	if device != "" {
		check(t, unix.BindToDevice(fd, device))
	}
	check(t, unix.Bind(fd, sockaddr))
	if kind == unix.SOCK_STREAM {
		check(t, unix.Listen(fd, 16))
	}
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	check(t, err)
	return bound{fd, localPort(t, fd), cookie}
}

func localPort(t testing.TB, fd int) uint16 {
	t.Helper()
	name, err := unix.Getsockname(fd)
	check(t, err)
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return uint16(a.Port)
	case *unix.SockaddrInet6:
		return uint16(a.Port)
	}
	t.Fatalf("unexpected socket name %T", name)
	return 0
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// list returns the listeners of the namespace on port, 0 for all.
func list(t testing.TB, port uint16) []Listener {
	t.Helper()
	all, err := List(t.Context())
	check(t, err)
	if port == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(l Listener) bool { return l.Addr.Port() != port })
}

// links puts an address on lo and makes a veth pair, both once for all tests.
func links(t testing.TB) (veth uint32) {
	t.Helper()
	if link, err := netlink.LinkByName("test0"); err == nil {
		return uint32(link.Attrs().Index)
	}
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	addr, err := netlink.ParseAddr("10.9.9.9/32")
	check(t, err)
	check(t, netlink.AddrAdd(lo, addr))
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "test0"}, PeerName: "test1"}))
	link, err := netlink.LinkByName("test0")
	check(t, err)
	addr, err = netlink.ParseAddr("10.8.8.8/24")
	check(t, err)
	check(t, netlink.AddrAdd(link, addr))
	check(t, netlink.LinkSetUp(link))
	return uint32(link.Attrs().Index)
}

// TestKinds opens each kind of listener and compares the listing, and what Covers says of it with what connect(2) does.
func TestKinds(t *testing.T) {
	veth := links(t)
	destinations := []string{"127.0.0.1", "127.8.8.8", "10.9.9.9", "10.8.8.8", "::1", "0.0.0.0", "::"}
	for _, test := range []struct {
		name    string
		kind    int
		proto   int
		addr    string
		device  string
		options []option
		want    string // Protocol Addr V6Only Device Exposed
	}{
		{"loopback", unix.SOCK_STREAM, 0, "127.0.0.1:0", "", nil, "tcp 127.0.0.1 false 0 false"},
		{"loopback net", unix.SOCK_STREAM, 0, "127.8.8.8:0", "", nil, "tcp 127.8.8.8 false 0 false"},
		{"IPv6 loopback", unix.SOCK_STREAM, 0, "[::1]:0", "", nil, "tcp ::1 true 0 false"},
		{"dual stack", unix.SOCK_STREAM, 0, "[::]:0", "", []option{dual}, "tcp :: false 0 true"},
		{"IPv6 only", unix.SOCK_STREAM, 0, "[::]:0", "", []option{v6only}, "tcp :: true 0 true"},
		{"IPv4 wildcard", unix.SOCK_STREAM, 0, "0.0.0.0:0", "", nil, "tcp 0.0.0.0 false 0 true"},
		{"mapped loopback", unix.SOCK_STREAM, 0, "[::ffff:127.0.0.1]:0", "", []option{dual}, "tcp ::ffff:127.0.0.1 false 0 false"},
		{"mapped wildcard", unix.SOCK_STREAM, 0, "[::ffff:0.0.0.0]:0", "", []option{dual}, "tcp ::ffff:0.0.0.0 false 0 true"},
		{"address on lo", unix.SOCK_STREAM, 0, "10.9.9.9:0", "", nil, "tcp 10.9.9.9 false 0 true"},
		{"wildcard on device lo", unix.SOCK_STREAM, 0, "0.0.0.0:0", "lo", nil, "tcp 0.0.0.0 false 1 false"},
		{"veth address", unix.SOCK_STREAM, 0, "10.8.8.8:0", "", nil, "tcp 10.8.8.8 false 0 true"},
		{"wildcard on veth", unix.SOCK_STREAM, 0, "[::]:0", "test0", []option{dual}, fmt.Sprintf("tcp :: false %d true", veth)},
		{"loopback on veth", unix.SOCK_STREAM, 0, "127.0.0.1:0", "test0", nil, fmt.Sprintf("tcp 127.0.0.1 false %d false", veth)},
		{"mapped loopback on veth", unix.SOCK_STREAM, 0, "[::ffff:127.0.0.1]:0", "test0", []option{dual}, fmt.Sprintf("tcp ::ffff:127.0.0.1 false %d false", veth)},
		{"address on lo, on device lo", unix.SOCK_STREAM, 0, "10.9.9.9:0", "lo", nil, "tcp 10.9.9.9 false 1 false"},
		{"address that is not here", unix.SOCK_STREAM, 0, "203.0.113.5:0", "", []option{freebind}, "tcp 203.0.113.5 false 0 true"},
		{"MPTCP", unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "[::]:0", "", []option{dual}, "tcp :: false 0 true"},
		{"MPTCP on device lo", unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "0.0.0.0:0", "lo", nil, "tcp 0.0.0.0 false 1 false"},
		{"MPTCP, IPv6 only", unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "[::]:0", "", []option{v6only}, "tcp :: true 0 true"},
		{"UDP", unix.SOCK_DGRAM, 0, "0.0.0.0:0", "", nil, "udp 0.0.0.0 false 0 true"},
		{"UDP, IPv6 only", unix.SOCK_DGRAM, 0, "[::]:0", "", []option{v6only}, "udp :: true 0 true"},
		{"UDP loopback", unix.SOCK_DGRAM, 0, "127.0.0.1:0", "", nil, "udp 127.0.0.1 false 0 false"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := open(t, test.kind, test.proto, test.addr, test.device, test.options...)
			got := list(t, b.port)
			if len(got) != 1 {
				t.Fatalf("want one listener, got %+v", got)
			}
			l := got[0]
			line := fmt.Sprintln(l.Protocol, l.Addr.Addr(), l.V6Only, l.Device, l.Exposed())
			if diff := cmp.Diff(test.want+"\n", line); diff != "" {
				t.Errorf("listener (-want +got):\n%s", diff)
			}
			var stat unix.Stat_t
			check(t, unix.Fstat(b.fd, &stat))
			if l.UID != uint32(os.Geteuid()) || uint64(l.Inode) != stat.Ino {
				t.Errorf("uid %d inode %d, want %d and %d", l.UID, l.Inode, os.Geteuid(), stat.Ino)
			}
			if test.proto != unix.IPPROTO_MPTCP && l.Cookie != b.cookie {
				t.Errorf("cookie %#x, SO_COOKIE says %#x", l.Cookie, b.cookie)
			}
			if test.kind != unix.SOCK_STREAM {
				return
			}
			for _, d := range destinations {
				addr := netip.MustParseAddr(d)
				if test.device == "lo" && d == "10.8.8.8" || test.device == "test0" && d == "10.9.9.9" {
					continue // addresses of another interface than the listener's, of which Covers knows nothing
				}
				if got, want := l.Covers(addr), connects(t, addr, b.port); got != want {
					t.Errorf("Covers(%s) is %v, but a connection succeeds: %v", d, got, want)
				}
			}
		})
	}
}

// connects tells whether connect(2) reaches addr, without what net.Dial does about unspecified addresses.
func connects(t testing.TB, addr netip.Addr, port uint16) bool {
	t.Helper()
	family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: int(port), Addr: addr.As16()})
	if addr.Is4() {
		family, to = unix.AF_INET, &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	err = unix.Connect(fd, to)
	if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("connect to %v: %v", addr, err)
	}
	return err == nil
}

// TestGoListener: Go makes MPTCP listeners by itself, and an owner's inode must be that of the descriptor.
func TestGoListener(t *testing.T) {
	listener, err := net.Listen("tcp", "0.0.0.0:0")
	check(t, err)
	defer listener.Close()
	got := list(t, netip.MustParseAddrPort(listener.Addr().String()).Port())
	if len(got) != 1 || got[0].Addr.Addr() != netip.IPv6Unspecified() || got[0].V6Only || !got[0].Exposed() {
		t.Errorf("want one dual stack listener, got %+v", got)
	}
}

func TestReusePort(t *testing.T) {
	first := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "", reusePort)
	second := open(t, unix.SOCK_STREAM, 0, fmt.Sprintf("127.0.0.1:%d", first.port), "", reusePort)
	var got []uint64
	for _, l := range list(t, first.port) {
		got = append(got, l.Cookie)
	}
	want := []uint64{first.cookie, second.cookie}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("cookies (-want +got):\n%s", diff)
	}
}

// TestOnlyListeners: connections, connected UDP sockets, and sockets that are bound but do not listen, are not listed.
func TestOnlyListeners(t *testing.T) {
	listener := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", listener.port))
	check(t, err)
	defer connection.Close()
	udp := open(t, unix.SOCK_DGRAM, 0, "127.0.0.1:0", "")
	connected, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", udp.port))
	check(t, err)
	defer connected.Close()
	idle, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	check(t, err)
	defer unix.Close(idle)
	check(t, unix.Bind(idle, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))

	var got []string
	for _, l := range list(t, 0) {
		got = append(got, fmt.Sprint(l.Protocol, " ", l.Addr))
	}
	want := []string{fmt.Sprintf("tcp 127.0.0.1:%d", listener.port), fmt.Sprintf("udp 127.0.0.1:%d", udp.port)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

// TestAgreesWithSS compares the listing with that of iproute2's ss.
func TestAgreesWithSS(t *testing.T) {
	links(t)
	for _, addr := range []string{"0.0.0.0:0", "127.0.0.1:0", "10.9.9.9:0", "[::]:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		open(t, unix.SOCK_STREAM, 0, addr, "")
		open(t, unix.SOCK_DGRAM, 0, addr, "")
	}
	for range 300 { // more than one netlink message
		open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	}
	for protocol, flag := range map[Protocol]string{TCP: "-Hltn", UDP: "-Haun"} {
		out, err := exec.Command("ss", flag).Output()
		check(t, err)
		var want, got []string
		for line := range strings.Lines(string(out)) {
			want = append(want, strings.Fields(line)[3])
		}
		for _, l := range list(t, 0) {
			if l.Protocol != protocol {
				continue
			}
			addr := l.Addr.String()
			if l.Addr.Addr() == netip.IPv6Unspecified() && !l.V6Only {
				addr = fmt.Sprintf("*:%d", l.Addr.Port()) // how ss shows both families
			}
			got = append(got, addr)
		}
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" || len(got) < 6 {
			t.Errorf("%v: addresses (-ss +got):\n%s", protocol, diff)
		}
	}
}

func TestListEndsWithItsContext(t *testing.T) {
	ended, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	got, err := List(ended)
	if got != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v; want nothing and %v", got, err, context.DeadlineExceeded)
	}
}

// TestInterruptedDump: the context ends while messages come in.
func TestInterruptedDump(t *testing.T) {
	open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	ctx := &endsAfter{Context: t.Context(), looks: 0}
	q := query{protocol: TCP, family: unix.AF_INET, states: stateListen}
	err := q.dump(ctx, make([]byte, messageBuffer), func([]byte) error { t.Error("got a socket"); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// endsAfter is a context that ends when it was looked at a number of times.
type endsAfter struct {
	context.Context
	looks int
}

func (c *endsAfter) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}
