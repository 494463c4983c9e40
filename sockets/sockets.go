// SPDX-License-Identifier: MPL-2.0

// Package sockets lists the listening sockets of the calling thread's network namespace and tells who owns them.
//
// List asks the kernel for listeners only, so its cost does not grow with the number of connections. Owners finds the
// processes, user, systemd unit and container behind the listeners that a caller picked out; it is the dear part, so
// pick first. Whether a listener should exist is not decided here.
package sockets

import (
	"cmp"
	"net/netip"

	"golang.org/x/sys/unix"
)

// loopbackIfindex is the index of lo in every network namespace: the kernel fixes it as LOOPBACK_IFINDEX in
// include/net/flow.h, and drivers/net/loopback.c refuses to run with any other.
const loopbackIfindex = 1

// Protocol is a transport protocol by its IP protocol number.
type Protocol uint8

// The protocols that List knows.
const (
	TCP Protocol = unix.IPPROTO_TCP
	UDP Protocol = unix.IPPROTO_UDP
)

// String returns "tcp", "udp" or "unknown".
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return "unknown"
}

// Listener is a listening TCP socket or a bound, unconnected UDP socket. It is a value: == compares it.
type Listener struct {
	Protocol Protocol
	// Addr is the bound address as the kernel has it: 0.0.0.0, ::, or v4-mapped (::ffff:127.0.0.1) where an IPv6
	// socket was bound so. It has no zone; Device holds the interface of a link-local address.
	Addr netip.AddrPort
	// V6Only tells that an IPv6 socket takes no IPv4. The kernel sets it by itself on an IPv6 socket that is bound
	// to one IPv6 address, so it says something new only about ::.
	V6Only bool
	// Device is the index of the interface that the socket is bound to (SO_BINDTODEVICE), 0 for none.
	Device uint32
	// UID is the user that made the socket, as seen from the calling process's user namespace.
	UID uint32
	// Inode is the number in /proc/PID/fd's "socket:[N]"; 0 where no process holds the socket any more.
	Inode uint32
	// Cookie names the socket until the next boot; no two sockets of the host share one. For an MPTCP listener it
	// is the cookie of the TCP socket inside, not what SO_COOKIE tells the application.
	Cookie uint64
	// CgroupID is the cgroup2 in which the socket was made, which under socket activation is not where it is
	// used; 0 where the kernel does not say (before Linux 5.7, or without cgroup2).
	CgroupID uint64
	// Namespace is the inode of the network namespace that the socket is in; 0 for the caller's own.
	Namespace uint64
	// Partial tells that V6Only, Device and CgroupID are not known: the socket was read from /proc/PID/net.
	Partial bool
}

// Namespace is a network namespace other than the caller's, and whose it is.
type Namespace struct {
	// ID is its inode, the number in /proc/PID/ns/net's "net:[N]". It is used anew when the namespace is gone.
	ID uint64
	// PID is the lowest of its processes, 0 where none is seen.
	PID int32
	// Name is the file's below /run/netns, raw; "" for none.
	Name string
	// Unit, Container and Runtime are those of that process, as in Owner.
	Unit, Container, Runtime string
	// Addresses are its own, sorted, without loopback and link-local ones; none where nothing listens in it. Do not
	// change the slice.
	Addresses []netip.Addr
}

// Exposed tells whether packets of other hosts can reach the listener, firewalls aside: its address is not in
// 127.0.0.0/8, ::1 or ::ffff:127.0.0.0/104, and it is not bound to the loopback device. An address outside these that
// merely sits on lo (an anycast address, say) is exposed: the kernel answers for it on every interface.
func (l Listener) Exposed() bool {
	return l.Device != loopbackIfindex && !l.Addr.Addr().Unmap().IsLoopback()
}

// Covers tells whether a connection to addr, IPv4 or IPv6, would reach the listener: wildcards cover their family, ::
// without V6Only both, and a v4-mapped address is the IPv4 one. Zones are ignored, and an unspecified addr means
// loopback, as connect(2) takes it. A listener on a device other than lo covers no loopback address; beyond that Device
// plays no part, because which interface an address sits on is not known here.
func (l Listener) Covers(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	switch addr {
	case netip.IPv4Unspecified():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		addr = netip.IPv6Loopback()
	}
	own := l.Addr.Addr()
	switch {
	case !addr.IsValid():
		return false
	case addr.IsLoopback() && l.Device != 0 && l.Device != loopbackIfindex:
		return false
	case own == netip.IPv6Unspecified():
		return addr.Is6() || !l.V6Only
	case own.Unmap() == netip.IPv4Unspecified(): // also ::ffff:0.0.0.0, which takes no IPv6
		return addr.Is4()
	}
	return own.Unmap() == addr
}

// compare orders listeners by protocol, port, address and cookie.
func (l Listener) compare(other Listener) int {
	return cmp.Or(
		cmp.Compare(l.Protocol, other.Protocol),
		cmp.Compare(l.Addr.Port(), other.Addr.Port()),
		l.Addr.Addr().Compare(other.Addr.Addr()),
		cmp.Compare(l.Cookie, other.Cookie),
	)
}
