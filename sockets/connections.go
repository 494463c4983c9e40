// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Connection is one established TCP connection, as this host's end of it has it. IPv4 addresses are plain, also those of
// dual-stack sockets.
type Connection struct {
	Local netip.AddrPort
	Peer  netip.Addr
}

// Connections lists the established TCP connections of the calling thread's network namespace to the local ports from
// first to last that came over the network: those whose peer is neither a loopback address nor the very address that it
// is connected to, as when a host calls itself. They are in no order. Like List it needs no privilege, keeps nothing open, and
// may be called concurrently.
//
// Connections that are still being made or already being closed are left out. The kernel filters by port, but walks its
// table of connections, and that goes on while it does so: some that come and go meanwhile may be missing or stand twice,
// and each subflow of an MPTCP connection is one. A socket does not tell who called whom, so an outgoing connection whose
// source port lies between first and last is there too; ask for ports with listeners, which the kernel does not hand out to
// those. A connection that DNAT leads to another host or namespace has no socket here; one that REDIRECT leads to
// another port is listed there.
func Connections(ctx context.Context, first, last uint16) ([]Connection, error) {
	var all []Connection
	buffer := make([]byte, messageBuffer)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		q := query{protocol: TCP, family: family, states: stateEstablished, ports: &portRange{first, last}}
		whole := all
		err := q.run(ctx, buffer, func() { all = whole }, func(socket []byte) error {
			c, err := parseConnection(socket)
			if err == nil && !c.Peer.IsLoopback() && c.Peer != c.Local.Addr() {
				all = append(all, c)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// parseConnection reads both ends from a struct inet_diag_msg.
func parseConnection(msg []byte) (Connection, error) {
	if len(msg) < messageLen {
		return Connection{}, fmt.Errorf("cannot parse a connection of %d bytes: want at least %d", len(msg), messageLen)
	}
	var local, peer netip.Addr
	switch msg[0] {
	case unix.AF_INET:
		local, peer = netip.AddrFrom4([4]byte(msg[8:12])), netip.AddrFrom4([4]byte(msg[24:28]))
	case unix.AF_INET6: // a dual-stack socket has IPv4 addresses as ::ffff:192.0.2.1
		local, peer = netip.AddrFrom16([16]byte(msg[8:24])).Unmap(), netip.AddrFrom16([16]byte(msg[24:40])).Unmap()
	default:
		return Connection{}, fmt.Errorf("cannot parse a connection of address family %d", msg[0])
	}
	return Connection{Local: netip.AddrPortFrom(local, binary.BigEndian.Uint16(msg[4:])), Peer: peer}, nil
}
