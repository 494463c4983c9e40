// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	sockDestroy = 21 // SOCK_DESTROY of include/uapi/linux/sock_diag.h

	// States in which data may still pass (include/net/tcp_states.h).
	stateFinWait1  = 1 << 4
	stateFinWait2  = 1 << 5
	stateCloseWait = 1 << 8
)

// End resets the TCP connections to a local port that came over the network, and returns how many they were: both sides
// see a reset at once. Left alone are those whose peer is a loopback address, the address that it is connected to, or one
// of own, the other addresses of the host. It needs CAP_NET_ADMIN and acts on the network namespace of the calling thread.
// A kernel without CONFIG_INET_DIAG_DESTROY answers with an error that is errors.ErrUnsupported.
//
// A socket does not tell who called whom: an outgoing connection whose source port this is ends too. Call it for ports that
// somebody listens on, which the kernel does not hand out to those.
func End(ctx context.Context, port uint16, own []netip.Addr) (ended int, err error) {
	var victims [][]byte
	buffer := make([]byte, messageBuffer)
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		q := query{
			protocol: TCP, family: family, ports: &portRange{port, port},
			states: stateEstablished | stateFinWait1 | stateFinWait2 | stateCloseWait,
		}
		whole := victims
		err := q.run(ctx, buffer, func() { victims = whole }, func(socket []byte) error {
			c, err := parseConnection(socket)
			if err == nil && c.Local.Port() == port && !c.Peer.IsLoopback() && c.Peer != c.Local.Addr() && !slices.Contains(own, c.Peer) {
				victims = append(victims, destruction(socket))
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	if len(victims) == 0 {
		return 0, nil
	}
	ended, err = destroy(ctx, victims)
	if err != nil {
		return ended, fmt.Errorf("cannot end connections to port %d: %w", port, err)
	}
	return ended, nil
}

// destruction is the struct inet_diag_req_v2 that asks for the end of the socket of a struct inet_diag_msg. The cookie in
// its id makes sure that it is that very socket.
func destruction(socket []byte) []byte {
	const idOffset, idLen = 4, 48 // struct inet_diag_sockid, in the message
	request := make([]byte, requestLen)
	request[0], request[1] = socket[0], uint8(TCP)
	copy(request[requestLen-idLen:], socket[idOffset:idOffset+idLen])
	return request
}

// destroy asks for the end of sockets one after the other. One that has ended by itself is none.
func destroy(ctx context.Context, requests [][]byte) (ended int, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("cannot open a sock_diag socket: %w", err)
	}
	defer unix.Close(fd)
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)); err != nil {
		return 0, fmt.Errorf("cannot bound the wait for an answer: %w", err)
	}
	buffer := make([]byte, messageBuffer)
	for _, body := range requests {
		if ctx.Err() != nil {
			return ended, ctx.Err()
		}
		request := nl.NewNetlinkRequest(sockDestroy, unix.NLM_F_ACK)
		request.AddRawData(body)
		if err := unix.Sendto(fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return ended, err
		}
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return ended, fmt.Errorf("no answer from the kernel within %v: %w", answerTimeout, context.DeadlineExceeded)
		case err != nil:
			return ended, err
		}
		_, err = eachSocket(buffer[:min(n, len(buffer))], func([]byte) error { return nil })
		switch {
		case err == nil:
			ended++
		case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE):
		case errors.Is(err, unix.EPERM):
			return ended, fmt.Errorf("%w: run as root, or with CAP_NET_ADMIN", err)
		default:
			return ended, err
		}
	}
	return ended, nil
}
