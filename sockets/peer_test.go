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
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

const stranger = 54321 // a user of these tests

// asStranger does f on a thread that acts as another user.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: the thread ends with the goroutine
		err := error(nil)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), stranger, ^uintptr(0)); errno != 0 {
			err = errno
		} else {
			f()
		}
		done <- err
	}()
	check(t, <-done)
}

func connectTo(t *testing.T, address string, port uint16) (local, remote netip.AddrPort, conn *net.TCPConn) {
	t.Helper()
	dialer := net.Dialer{Timeout: 2 * time.Second}
	c, err := dialer.Dial("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	check(t, err)
	t.Cleanup(func() { c.Close() })
	conn = c.(*net.TCPConn)
	return conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort(), conn
}

func accept(t *testing.T, b bound) int {
	t.Helper()
	fd, _, err := unix.Accept4(b.fd, unix.SOCK_CLOEXEC)
	check(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func only(users ...uint32) func(uint32) bool {
	return func(uid uint32) bool { return slices.Contains(users, uid) }
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// peer is what PeerUID says, on one line.
func peer(ctx context.Context, local, remote netip.AddrPort, trusted func(uint32) bool) string {
	uid, known, err := PeerUID(ctx, local, remote, trusted)
	switch {
	case errors.Is(err, unix.ECONNRESET):
		return "ended"
	case errors.Is(err, context.DeadlineExceeded):
		return "late"
	case err != nil:
		return err.Error()
	case !known:
		return "elsewhere"
	}
	return fmt.Sprint("uid ", uid)
}

func TestPeerIsFoundWhateverItListensOn(t *testing.T) {
	me := uint32(os.Geteuid())
	want := fmt.Sprint("uid ", me)
	for _, test := range []struct {
		name, listen, dial, device string
		protocol                   int
		options                    []option
	}{
		{name: "IPv4", listen: "127.0.0.1:0", dial: "127.0.0.1"},
		{name: "any IPv4", listen: "0.0.0.0:0", dial: "127.0.0.1"},
		{name: "another loopback address", listen: "0.0.0.0:0", dial: "127.9.9.9"},
		{name: "dual stack by IPv4", listen: "[::]:0", dial: "127.0.0.1", options: []option{dual}},
		{name: "dual stack by IPv6", listen: "[::]:0", dial: "::1", options: []option{dual}},
		{name: "v4-mapped", listen: "[::ffff:127.0.0.1]:0", dial: "127.0.0.1", options: []option{dual}},
		{name: "IPv6", listen: "[::1]:0", dial: "::1"},
		{name: "bound to lo", listen: "127.0.0.1:0", dial: "127.0.0.1", device: "lo"},
		{name: "multipath TCP", listen: "[::]:0", dial: "127.0.0.1", protocol: unix.IPPROTO_MPTCP, options: []option{dual}},
		{name: "a group", listen: "127.0.0.1:0", dial: "127.0.0.1", options: []option{reusePort}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := open(t, unix.SOCK_STREAM, test.protocol, test.listen, test.device, test.options...)
			local, remote, conn := connectTo(t, test.dial, b.port)
			if got := peer(within(t, 30*time.Millisecond), local, remote, only(me)); got != "late" {
				t.Errorf("before anybody accepts: %s, want late", got)
			}
			fd := accept(t, b)
			for range 2 {
				if got := peer(within(t, time.Second), local, remote, only(me)); got != want {
					t.Errorf("accepted: %s, want %s", got, want)
				}
			}
			if got := peer(within(t, time.Second), local, remote, only(me+1)); got != want {
				t.Errorf("not trusted: %s, want %s", got, want)
			}
			unix.Close(b.fd)
			if got := peer(within(t, time.Second), local, remote, only(me)); got != want {
				t.Errorf("the listener has gone: %s, want %s", got, want)
			}
			check(t, unix.Shutdown(fd, unix.SHUT_WR))
			if got := peer(within(t, time.Second), local, remote, only(me)); got != "ended" {
				t.Errorf("the other end has closed: %s, want ended", got)
			}
			conn.Close()
			if got := peer(within(t, time.Second), local, remote, only(me)); got != "ended" {
				t.Errorf("closed: %s, want ended", got)
			}
		})
	}
}

// TestPeerWaitsForWhoAccepts: the answer comes as soon as somebody accepts.
func TestPeerWaitsForWhoAccepts(t *testing.T) {
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	local, remote, _ := connectTo(t, "127.0.0.1", b.port)
	got := make(chan string)
	go func() { got <- peer(within(t, 5*time.Second), local, remote, func(uint32) bool { return true }) }()
	select {
	case early := <-got:
		t.Fatalf("an answer before anybody accepted: %s", early)
	case <-time.After(50 * time.Millisecond):
	}
	accept(t, b)
	if late := <-got; late != fmt.Sprint("uid ", os.Geteuid()) {
		t.Errorf("got %s", late)
	}
}

// TestStrangers: who accepts counts, and who listens.
func TestStrangers(t *testing.T) {
	netns.RequireRoot(t, "it listens as another user")
	for _, listen := range []string{"127.0.0.1:0", "[::]:0"} {
		t.Run(listen, func(t *testing.T) {
			var b bound
			asStranger(t, func() { b = open(t, unix.SOCK_STREAM, 0, listen, "") })
			local, remote, _ := connectTo(t, "127.0.0.1", b.port)
			// Nobody accepts: on some kernels such a socket calls itself root's.
			start := time.Now()
			if got := peer(within(t, 2*time.Second), local, remote, only(0)); got != "uid 54321" || time.Since(start) > time.Second {
				t.Errorf("a stranger listens: %s after %v", got, time.Since(start))
			}
			if got := peer(within(t, 30*time.Millisecond), local, remote, only(0, stranger)); got != "late" {
				t.Errorf("a trusted user listens and does not accept: %s", got)
			}
			// A listener closes, and what waits with it ends, whoever listens there next.
			unix.Close(b.fd)
			next := open(t, unix.SOCK_STREAM, 0, remote.String(), "", option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
			if got := peer(within(t, time.Second), local, remote, only(0)); got != "ended" {
				t.Errorf("the stranger has gone, and root listens: %s, want ended", got)
			}
			// Root's listener, and a stranger who accepts from it.
			local, remote, _ = connectTo(t, "127.0.0.1", next.port)
			asStranger(t, func() { accept(t, next) })
			if got := peer(within(t, time.Second), local, remote, only(0)); got != "uid 54321" {
				t.Errorf("a stranger accepted: %s", got)
			}
			// A stranger's listener, and root that accepts from it.
			asStranger(t, func() { b = open(t, unix.SOCK_STREAM, 0, listen, "") })
			local, remote, _ = connectTo(t, "127.0.0.1", b.port)
			accept(t, b)
			if got := peer(within(t, time.Second), local, remote, only(0)); got != "uid 54321" {
				t.Errorf("root accepted what a stranger listens for: %s", got)
			}
		})
	}
}

// TestFullQueueIsNobodys: the last packet of the handshake was dropped, so that there is no socket at the other end.
func TestFullQueueIsNobodys(t *testing.T) {
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	check(t, unix.Listen(b.fd, 1))
	for i := range 4 {
		dialer := net.Dialer{Timeout: 200 * time.Millisecond}
		conn, err := dialer.Dial("tcp", remoteOf(b))
		if err != nil {
			return // no more come through
		}
		defer conn.Close()
		local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
		got := peer(within(t, 400*time.Millisecond), local, remote, func(uint32) bool { return true })
		if got != "late" && got != "elsewhere" {
			t.Errorf("connection %d is %s", i, got)
		}
	}
}

func remoteOf(b bound) string { return net.JoinHostPort("127.0.0.1", fmt.Sprint(b.port)) }

// TestPeerThatWasNeverThere: the other end of a connection that this host does not have is nobody's, though something listens
// there.
func TestPeerThatWasNeverThere(t *testing.T) {
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	local, remote, _ := connectTo(t, "127.0.0.1", b.port)
	other := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	if got := peer(within(t, 2*time.Second), local, netip.AddrPortFrom(remote.Addr(), other.port), only(uint32(os.Geteuid()))); got != "ended" {
		t.Errorf("a connection that is not there: %s, want ended", got)
	}
}

// TestPeerElsewhere: nat rules lead a connection to an address of this host into another network namespace, or to another
// port. Whoever listens at the address itself has nothing to do with it.
func TestPeerElsewhere(t *testing.T) {
	const behind, port, moved = "10.8.0.2", 8500, 8600
	space := startElsewhere(t)
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nat0"}, PeerName: "nat1"}
	check(t, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	there, err := netlink.LinkByName("nat1")
	check(t, errors.Join(err, netlink.LinkSetNsPid(there, int(space.pid))))
	addresses := func(name string, prefixes ...string) error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, prefix := range prefixes {
			addr, err := netlink.ParseAddr(prefix)
			check(t, err)
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(link)
	}
	check(t, addresses("nat0", "10.8.0.1/24", "fd08::1/64"))
	space.do(t, func() error {
		if err := addresses("nat1", behind+"/24", "fd08::2/64"); err != nil {
			return err
		}
		open(t, unix.SOCK_STREAM, 0, "[::]:8500", "", dual) // it ends with the test
		return nil
	})
	open(t, unix.SOCK_STREAM, 0, fmt.Sprintf("[::]:%d", moved), "", dual)
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(fmt.Sprintf(`table inet hostagent-test { chain output { type nat hook output priority -100;
		ip daddr 10.8.0.1 tcp dport %[1]d dnat ip to %[2]s
		ip6 daddr fd08::1 tcp dport %[1]d dnat ip6 to fd08::2
		ip daddr 127.0.0.1 tcp dport %[1]d redirect to :%[3]d
		ip6 daddr ::1 tcp dport %[1]d redirect to :%[3]d
	}
	}`, port, behind, moved))
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
	t.Cleanup(func() { check(t, exec.Command("nft", "delete table inet hostagent-test").Run()) })

	me := uint32(os.Geteuid())
	wants := func(to, what, want string) {
		t.Helper()
		local, remote, _ := connectTo(t, to, port)
		if here, err := IsLocal(local.Addr(), remote.Addr()); err != nil || !here {
			t.Fatalf("%s is no address of this host: %v", to, err)
		}
		if got := peer(within(t, 2*time.Second), local, remote, only(me)); got != want {
			t.Errorf("%s, %s: %s, want %s", to, what, got, want)
		}
	}
	for _, to := range []string{"10.8.0.1", "fd08::1", "127.0.0.1", "::1"} {
		t.Run(to, func(t *testing.T) {
			wants(to, "nobody listens there", "elsewhere")
			b := open(t, unix.SOCK_STREAM, 0, net.JoinHostPort(to, fmt.Sprint(port)), "")
			wants(to, "we listen there", "elsewhere")
			unix.Close(b.fd)
			if netns.Rootless() {
				return // there is nobody else
			}
			asStranger(t, func() { b = open(t, unix.SOCK_STREAM, 0, net.JoinHostPort(to, fmt.Sprint(port)), "") })
			wants(to, "a stranger listens there", fmt.Sprint("uid ", stranger))
			unix.Close(b.fd)
		})
	}
}

// TestPeerAtALinkLocalAddress: sockets there are bound to the address's device, and not to lo.
func TestPeerAtALinkLocalAddress(t *testing.T) {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "zone0"}, PeerName: "zone1"}
	check(t, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	other, err := netlink.LinkByName("zone1")
	check(t, err)
	check(t, errors.Join(netlink.LinkSetUp(other), netlink.LinkSetUp(link)))
	addr, err := netlink.ParseAddr("fe80::77/64")
	check(t, err)
	addr.Flags = unix.IFA_F_NODAD
	check(t, netlink.AddrAdd(link, addr))
	first := open(t, unix.SOCK_STREAM, 0, "[::]:0", "")
	for end := time.Now().Add(10 * time.Second); ; { // a new device takes its time
		dialer := net.Dialer{Timeout: 100 * time.Millisecond}
		conn, err := dialer.Dial("tcp", fmt.Sprintf("[fe80::77%%zone0]:%d", first.port))
		if err == nil {
			conn.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	me := uint32(os.Geteuid())
	for _, device := range []string{"", "zone0"} {
		b := open(t, unix.SOCK_STREAM, 0, "[::]:0", device)
		local, remote, _ := connectTo(t, "fe80::77%zone0", b.port)
		if here, err := IsLocal(local.Addr(), remote.Addr()); err != nil || !here {
			t.Errorf("%v is no address of this host: %v", remote, err)
		}
		if got := peer(within(t, 30*time.Millisecond), local, remote, only(me)); got != "late" {
			t.Errorf("before anybody accepts: %s, want late", got)
		}
		accept(t, b)
		for trusted, want := range map[uint32]string{me: fmt.Sprint("uid ", me), me + 1: fmt.Sprint("uid ", me)} {
			if got := peer(within(t, time.Second), local, remote, only(trusted)); got != want {
				t.Errorf("accepted, uid %d is trusted: %s, want %s", trusted, got, want)
			}
		}
	}
}

func TestIsLocal(t *testing.T) {
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "peer0"}, PeerName: "peer1"}
	check(t, netlink.LinkAdd(link))
	t.Cleanup(func() { _ = netlink.LinkDel(link) })
	other, err := netlink.LinkByName("peer1")
	check(t, err)
	check(t, errors.Join(netlink.LinkSetUp(other), netlink.LinkSetUp(link)))
	for _, prefix := range []string{"10.7.0.1/24", "10.7.0.2/24", "fd07::1/64"} {
		addr, err := netlink.ParseAddr(prefix)
		check(t, err)
		addr.Flags = unix.IFA_F_NODAD
		if addr.IP.To4() != nil {
			addr.Flags = 0
		}
		check(t, netlink.AddrAdd(link, addr))
	}
	for _, test := range []struct {
		local, remote string
		want          bool
	}{
		{"127.0.0.1", "127.0.0.1", true},
		{"10.7.0.1", "127.3.4.5", true},
		{"::1", "::1", true},
		{"127.0.0.1", "::ffff:127.0.0.1", true},
		{"10.9.9.9", "10.9.9.9", true},
		{"10.7.0.1", "10.7.0.2", true}, // the kernel connects to a second address from the first
		{"10.7.0.1", "::ffff:10.7.0.2", true},
		{"::1", "fd07::1", true},
		{"10.7.0.1", "10.7.0.3", false},
		{"fd07::1", "fd07::3", false},
	} {
		got, err := IsLocal(netip.MustParseAddr(test.local), netip.MustParseAddr(test.remote))
		for end := time.Now().Add(3 * time.Second); test.want && !got && time.Now().Before(end); { // IPv6 takes its time
			time.Sleep(10 * time.Millisecond)
			got, err = IsLocal(netip.MustParseAddr(test.local), netip.MustParseAddr(test.remote))
		}
		if err != nil || got != test.want {
			t.Errorf("from %s to %s: %t, %v; want %t", test.local, test.remote, got, err, test.want)
		}
	}
	if local, err := IsLocal(netip.MustParseAddr("10.7.0.1"), netip.MustParseAddr("192.0.2.1")); err == nil && local {
		t.Error("an address without a route is local")
	}
}

func BenchmarkPeerUID(b *testing.B) {
	listening := open(b, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	conn, err := net.Dial("tcp", remoteOf(listening))
	check(b, err)
	defer conn.Close()
	fd, _, err := unix.Accept(listening.fd)
	check(b, err)
	defer unix.Close(fd)
	local, remote := conn.LocalAddr().(*net.TCPAddr).AddrPort(), conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	for b.Loop() {
		if _, known, err := PeerUID(b.Context(), local, remote, func(uint32) bool { return true }); err != nil || !known {
			b.Fatal(known, err)
		}
	}
}
