// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// newHost makes a host and the network around it, in namespaces of their own.
func newHost(t testing.TB) *host.Host {
	t.Helper()
	h, err := host.New(t.Context(), host.Options{Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, h.Close()) })
	return h
}

// listenOn listens in the host and accepts nothing: connections wait, established, in the queue.
func listenOn(t testing.TB, h *host.Host, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	check(t, h.InHost(func() (err error) {
		l, err = net.Listen(network, address)
		return err
	}))
	t.Cleanup(func() { l.Close() })
	return l
}

// connect makes n connections that live as long as the test.
func connect(t testing.TB, from *host.Namespace, n int, network, address string) (last net.Conn) {
	t.Helper()
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := from.Dial(ctx, network, address)
		cancel()
		check(t, err)
		t.Cleanup(func() { c.Close() })
		last = c
	}
	return last
}

func byPort(connections []Connection) map[uint16]int {
	counts := map[uint16]int{}
	for _, c := range connections {
		counts[c.Local.Port()]++
	}
	return counts
}

// eventually asks for the connections of a host until they are as wanted: a peer knows of a connection a moment earlier.
func eventually(t testing.TB, h *host.Host, first, last uint16, want map[uint16]int) {
	t.Helper()
	var got map[uint16]int
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		check(t, h.InHost(func() (err error) {
			connections, err := Connections(t.Context(), first, last)
			got = byPort(connections)
			return err
		}))
		if diff := cmp.Diff(want, got); diff == "" {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("connections of %d-%d (-want +got):\n%s", first, last, diff)
		}
	}
}

// TestConnections counts connections between two namespaces, of every family and kind of listener, at the edges of the
// range and outside of it, and beside those that did not come over the network.
func TestConnections(t *testing.T) {
	h := newHost(t)
	eventually(t, h, 1, 65535, map[uint16]int{})
	listenOn(t, h, "tcp", ":20999")
	listenOn(t, h, "tcp", ":21000") // one dual-stack MPTCP socket
	listenOn(t, h, "tcp4", host.IPv4+":21001")
	listenOn(t, h, "tcp6", "["+host.IPv6+"]:21002")
	edge := listenOn(t, h, "tcp4", "0.0.0.0:21255")
	listenOn(t, h, "tcp4", "0.0.0.0:21256")
	connect(t, h.Net, 3, "tcp4", host.IPv4+":21000") // the peers are v4-mapped
	connect(t, h.Net, 2, "tcp6", "["+host.IPv6+"]:21000")
	connect(t, h.Net, 4, "tcp4", host.IPv4+":21001")
	connect(t, h.Net, 1, "tcp6", "["+host.IPv6+"]:21002")
	closing := connect(t, h.Net, 2, "tcp4", host.IPv4+":21255")
	connect(t, h.Net, 2, "tcp4", host.IPv4+":20999")
	connect(t, h.Net, 2, "tcp4", host.IPv4+":21256")
	// The host with itself: over loopback, IPv4 as IPv6, and at its own addresses.
	for _, address := range []string{"127.0.0.1:21000", "[::1]:21000", "[::ffff:127.0.0.1]:21000", host.IPv4 + ":21000", "[" + host.IPv6 + "]:21000"} {
		connect(t, h.Local, 1, "tcp", address)
	}
	want := map[uint16]int{21000: 5, 21001: 4, 21002: 1, 21255: 2}
	eventually(t, h, 21000, 21255, want)
	eventually(t, h, 21001, 21001, map[uint16]int{21001: 4})
	eventually(t, h, 21255, 21000, map[uint16]int{})
	eventually(t, h, 20999, 21256, map[uint16]int{20999: 2, 21000: 5, 21001: 4, 21002: 1, 21255: 2, 21256: 2})

	// One that its peer has closed is not established any more; nor is one that this side has closed.
	check(t, closing.(*net.TCPConn).CloseWrite())
	want[21255] = 1
	eventually(t, h, 21000, 21255, want)
	accepted, err := edge.Accept()
	check(t, err)
	check(t, accepted.(*net.TCPConn).CloseWrite())
	delete(want, 21255)
	eventually(t, h, 21000, 21255, want)

	// An outgoing one whose source port lies in the range looks alike.
	var out net.Listener
	check(t, h.InNet(func() (err error) {
		out, err = net.Listen("tcp4", host.NetIPv4+":7000")
		return err
	}))
	defer out.Close()
	c, err := h.Local.DialFrom(t.Context(), "tcp4", 21100, host.NetIPv4+":7000")
	check(t, err)
	defer c.Close()
	want[21100] = 1
	eventually(t, h, 21000, 21255, want)

	// Only half open: the host's answer gets no answer.
	check(t, h.InNet(func() error {
		return exec.Command("iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", "21001", "--tcp-flags", "SYN,ACK", "ACK", "-j", "DROP").Run()
	}))
	connect(t, h.Net, 1, "tcp4", host.IPv4+":21001")
	eventually(t, h, 21000, 21255, want)
}

// TestConnectionsEndWithTheirContext: an answer in part is none.
func TestConnectionsEndWithTheirContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	got, err := Connections(ended, 1, 65535)
	if got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v; want nothing and %v", got, err, context.Canceled)
	}
}

// TestRunBeginsAnew: what an interrupted dump has brought is void.
func TestRunBeginsAnew(t *testing.T) {
	h := newHost(t)
	listenOn(t, h, "tcp4", "127.0.0.1:21000")
	listenOn(t, h, "tcp4", "127.0.0.1:21001")
	q := query{protocol: TCP, family: unix.AF_INET, states: stateListen}
	begun, seen := 0, 0
	check(t, h.InHost(func() error {
		return q.run(t.Context(), make([]byte, messageBuffer), func() { begun++; seen = 0 }, func([]byte) error {
			if seen++; begun == 1 && seen == 2 {
				return unix.EINTR
			}
			return nil
		})
	}))
	if begun != 2 || seen != 2 {
		t.Errorf("began %d times and saw %d sockets in the end, want 2 and 2", begun, seen)
	}
}

func TestParseConnection(t *testing.T) {
	connection := func(family byte, local, peer string) []byte {
		b := message(family, [16]byte{})
		copy(b[8:], netip.MustParseAddr(local).AsSlice())
		copy(b[24:], netip.MustParseAddr(peer).AsSlice())
		return b
	}
	for _, test := range []struct {
		name string
		msg  []byte
		want string
	}{
		{"IPv4", connection(unix.AF_INET, "10.0.0.1", "10.0.0.2"), "10.0.0.1:21000 from 10.0.0.2"},
		{"IPv6", connection(unix.AF_INET6, "fd00::1", "fd00::2"), "[fd00::1]:21000 from fd00::2"},
		{"mapped", connection(unix.AF_INET6, "::ffff:10.0.0.1", "::ffff:10.0.0.2"), "10.0.0.1:21000 from 10.0.0.2"},
		{"attributes", append(connection(unix.AF_INET, "10.0.0.1", "10.0.0.2"), 0, 0, 1), "10.0.0.1:21000 from 10.0.0.2"},
		{"short", message(unix.AF_INET, [16]byte{})[:71], "cannot parse a connection of 71 bytes: want at least 72"},
		{"nothing", nil, "cannot parse a connection of 0 bytes: want at least 72"},
		{"family", message(unix.AF_UNIX, [16]byte{}), "cannot parse a connection of address family 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := parseConnection(test.msg)
			got := fmt.Sprintf("%s from %s", c.Local, c.Peer)
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("connection (-want +got):\n%s", diff)
			}
		})
	}
}

// TestSerialize: the filter is an attribute behind the request, and both its ways out are 4 bytes past its end.
func TestSerialize(t *testing.T) {
	plain := query{protocol: TCP, family: unix.AF_INET6, states: stateEstablished}
	filtered := plain
	filtered.ports = &portRange{21000, 21255}
	n16 := func(n uint16) []byte { return binary.NativeEndian.AppendUint16(nil, n) }
	want := plain.serialize()
	if len(want) != requestLen {
		t.Errorf("a request without a filter has %d bytes", len(want))
	}
	for _, part := range [][]byte{
		n16(20), n16(1), // length, INET_DIAG_REQ_BYTECODE
		{2, 8}, n16(20), {0, 0}, n16(21000), // at least
		{3, 8}, n16(12), {0, 0}, n16(21255), // at most
	} {
		want = append(want, part...)
	}
	if diff := cmp.Diff(want, filtered.serialize()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}
