// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Connections counts the established TCP connections of the calling thread's network namespace to the local ports from
// first to last that came over the network: those whose peer is neither a loopback address nor the very address that it
// is connected to, as when a host calls itself. Ports without any are not in the map. Like List it needs no privilege,
// keeps nothing open, and may be called concurrently.
//
// Connections that are still being made or already being closed do not count. The kernel filters by port, but walks its
// table of connections, and that goes on while it does so: the number may be off by those that come and go meanwhile, and
// each subflow of an MPTCP connection is one. A socket does not tell who called whom, so an outgoing connection whose
// source port lies between first and last counts too; ask for ports with listeners, which the kernel does not hand out to
// those. A connection that DNAT leads to another host or namespace has no socket here and is not counted; one that
// REDIRECT leads to another port is counted there.
func Connections(ctx context.Context, first, last uint16) (map[uint16]int, error) {
	counts := map[uint16]int{}
	buffer := make([]byte, messageBuffer)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		q := query{protocol: TCP, family: family, states: stateEstablished, ports: &portRange{first, last}}
		var found map[uint16]int
		err := q.run(ctx, buffer, func() { found = map[uint16]int{} }, func(socket []byte) error {
			port, remote, err := parseConnection(socket)
			if remote {
				found[port]++
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for port, n := range found {
			counts[port] += n
		}
	}
	return counts, nil
}

// parseConnection reads the local port from a struct inet_diag_msg, and whether the peer is another host.
func parseConnection(msg []byte) (port uint16, remote bool, err error) {
	if len(msg) < messageLen {
		return 0, false, fmt.Errorf("cannot parse a connection of %d bytes: want at least %d", len(msg), messageLen)
	}
	var local, peer netip.Addr
	switch msg[0] {
	case unix.AF_INET:
		local, peer = netip.AddrFrom4([4]byte(msg[8:12])), netip.AddrFrom4([4]byte(msg[24:28]))
	case unix.AF_INET6: // a dual-stack socket has IPv4 addresses as ::ffff:192.0.2.1
		local, peer = netip.AddrFrom16([16]byte(msg[8:24])).Unmap(), netip.AddrFrom16([16]byte(msg[24:40])).Unmap()
	default:
		return 0, false, fmt.Errorf("cannot parse a connection of address family %d", msg[0])
	}
	return binary.BigEndian.Uint16(msg[4:]), !peer.IsLoopback() && peer != local, nil
}
