// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	tcpEstablished = 1 // states of include/net/tcp_states.h, as one socket has them
	tcpSynRecv     = 3
	tcpListen      = 10
	tcpNewSynRecv  = 12

	// Where fields stand in struct inet_diag_req_v2, whose struct inet_diag_sockid begins at 8.
	requestSourcePort = 8
	requestSource     = 12
	requestDest       = 28
	requestDevice     = 44
	requestCookie     = 48
)

// IsLocal tells whether the other end of a TCP connection is at an address of this host: a loopback address, the very
// address that the connection comes from, or one that the kernel routes to itself.
func IsLocal(local, remote netip.Addr) (bool, error) {
	local, remote = local.Unmap(), remote.Unmap()
	if remote.IsLoopback() || remote == local {
		return true, nil
	}
	options := &netlink.RouteGetOptions{}
	if zone := remote.Zone(); zone != "" {
		options.Oif = zone
	}
	routes, err := netlink.RouteGetWithOptions(remote.AsSlice(), options)
	if err != nil {
		return false, fmt.Errorf("cannot find out whether %v is an address of this host: %w", remote, err)
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL }), nil
}

// PeerUID tells who is at the other end of an established TCP connection of this process: whose process accepted it, and
// whose listens there. It returns the first of the two that is not trusted, and otherwise the user who accepted. It waits
// until somebody has accepted or ctx ends, unless who listens there is not trusted. Known is false where no socket of the
// thread's network namespace is the other end: the connection stands, but leads elsewhere. One that has ended is an error
// that is unix.ECONNRESET. It needs no privilege and may be called concurrently.
//
// A socket that waits to be accepted is nobody's, and calls itself root's or the listener's, as the kernel has it: before
// an inode shows that somebody accepted, its user counts for nothing. It is asked for twice, because kernels before 6.17
// read user and inode one after the other, with the call of accept in between perhaps.
func PeerUID(ctx context.Context, local, remote netip.AddrPort, trusted func(uid uint32) bool) (uid uint32, known bool, err error) {
	f, err := newFinder(ctx)
	if err == nil {
		defer unix.Close(f.fd)
		if f.device, err = deviceOf(remote.Addr()); err == nil {
			uid, known, err = f.peer(ctx, plain(local), plain(remote), trusted)
		}
	}
	if err != nil {
		return 0, false, fmt.Errorf("cannot find out who is at the other end of the connection to %v: %w", remote, err)
	}
	return uid, known, nil
}

// plain is an address as sock_diag has it.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// deviceOf returns the index of the device that a socket at an address of this host may be bound to: lo, which everything
// comes through that has both ends here, but the own one of a link-local address (tcp_v6_init_req in net/ipv6/tcp_ipv6.c).
func deviceOf(addr netip.Addr) (uint32, error) {
	if addr.Zone() == "" {
		return loopbackIfindex, nil
	}
	device, err := net.InterfaceByName(addr.Zone())
	if err != nil {
		return 0, fmt.Errorf("cannot find device %q: %w", addr.Zone(), err)
	}
	return uint32(device.Index), nil
}

// finder asks the kernel for single sockets.
type finder struct {
	fd     int
	device uint32 // that sockets may be bound to, so that those are found too
	buffer []byte
}

func newFinder(ctx context.Context) (*finder, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("cannot open a sock_diag socket: %w; a sandbox around hostagent must allow AF_NETLINK", err)
	}
	wait := answerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(deadline)), time.Millisecond) // zero would wait for ever
	}
	timeout := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot bound the wait for an answer: %w", err)
	}
	return &finder{fd: fd, buffer: make([]byte, 8<<10)}, nil
}

// found is one socket as the kernel tells it.
type found struct {
	state  uint8
	uid    uint32
	inode  uint32
	cookie uint64
	local  netip.AddrPort
	peer   netip.AddrPort
}

// at asks for the socket at local that is connected to peer. Where there is none, the kernel answers with the one that
// listens at local (inet_lookup in include/net/inet_hashtables.h). ok is false where there is neither.
func (f *finder) at(local, peer netip.AddrPort) (s found, ok bool, err error) {
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0) // without NLM_F_DUMP: one socket
	request.AddRawData(f.body(local, peer))
	if err := unix.Sendto(f.fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return found{}, false, err
	}
	answer, err := f.answer(request.Seq)
	if err != nil {
		return found{}, false, err
	}
	_, err = eachSocket(answer, func(socket []byte) (err error) {
		s, err = parseFound(socket)
		ok = err == nil
		return err
	})
	if errors.Is(err, unix.ENOENT) {
		return found{}, false, nil
	}
	return s, ok, err
}

// answer reads the kernel's answer to the request of that number. What anybody else sends, or what answers an earlier
// request, decides nothing.
func (f *finder) answer(number uint32) ([]byte, error) {
	for {
		n, from, err := unix.Recvfrom(f.fd, f.buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, fmt.Errorf("no answer from the kernel: %w", context.DeadlineExceeded)
		case err != nil:
			return nil, err
		case n > len(f.buffer):
			return nil, fmt.Errorf("cannot read a kernel message of %d bytes", n)
		}
		kernel, ok := from.(*unix.SockaddrNetlink)
		if ok && kernel.Pid == 0 && n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint32(f.buffer[8:]) == number {
			return f.buffer[:n], nil
		}
	}
}

// body is the struct inet_diag_req_v2 that asks for one TCP socket.
func (f *finder) body(local, peer netip.AddrPort) []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = unix.AF_INET6, uint8(TCP)
	if local.Addr().Is4() { // finds what a dual-stack socket has accepted as well
		b[0] = unix.AF_INET
	}
	native := binary.NativeEndian
	native.PutUint32(b[4:], ^uint32(0)) // all states
	binary.BigEndian.PutUint16(b[requestSourcePort:], local.Port())
	binary.BigEndian.PutUint16(b[requestSourcePort+2:], peer.Port())
	copy(b[requestSource:], local.Addr().AsSlice())
	copy(b[requestDest:], peer.Addr().AsSlice())
	native.PutUint32(b[requestDevice:], f.device)
	native.PutUint64(b[requestCookie:], ^uint64(0)) // INET_DIAG_NOCOOKIE: any
	return b
}

func parseFound(msg []byte) (found, error) {
	listener, err := parse(TCP, msg)
	if err != nil {
		return found{}, err
	}
	connection, err := parseConnection(msg)
	if err != nil {
		return found{}, err
	}
	return found{
		state: msg[1], uid: listener.UID, inode: listener.Inode, cookie: listener.Cookie, local: connection.Local,
		peer: netip.AddrPortFrom(connection.Peer, binary.BigEndian.Uint16(msg[6:])),
	}, nil
}

const (
	firstNap = 50 * time.Microsecond // between two looks at a connection that nobody has accepted; it doubles
	lastNap  = 10 * time.Millisecond
	// missingPatience is how long the other end may be missing: a kernel that answers a crowd with SYN cookies has none until
	// it has the third packet of the handshake.
	missingPatience = 250 * time.Millisecond
)

// peer does what PeerUID says.
func (f *finder) peer(ctx context.Context, local, remote netip.AddrPort, trusted func(uint32) bool) (uid uint32, known bool, err error) {
	start := time.Now()
	for nap := firstNap; ; nap = min(2*nap, lastNap) {
		uid, stage, err := f.accepted(local, remote)
		if err != nil {
			return 0, false, err
		}
		listener, listens, err := f.at(remote, netip.AddrPortFrom(local.Addr(), 0)) // nobody is connected to port 0
		switch {
		case err != nil:
			return 0, false, err
		case stage == missing && time.Since(start) < missingPatience:
		case listens && listener.state == tcpListen && !trusted(listener.uid):
			return listener.uid, true, nil
		case stage == missing:
			return 0, false, nil
		case stage == accepted:
			return uid, true, nil
		}
		select {
		case <-ctx.Done():
			return 0, false, fmt.Errorf("it has not been accepted: %w", ctx.Err())
		case <-time.After(nap):
		}
	}
}

// stage is how far the other end of a connection is.
type stage int

const (
	missing  stage = iota // it is not in this network namespace, or not yet
	waiting               // nobody has accepted it
	accepted              // it is somebody's
)

// accepted returns the user of the process that accepted a connection, where the stage is accepted.
func (f *finder) accepted(local, remote netip.AddrPort) (uint32, stage, error) {
	var first found
	for range 2 {
		s, ok, err := f.at(remote, local)
		switch {
		case err != nil:
			return 0, missing, err
		case !ok || s.local != remote || s.peer != local:
			return 0, missing, f.stands(local, remote)
		case s.state == tcpSynRecv || s.state == tcpNewSynRecv || s.state == tcpEstablished && s.inode == 0:
			return 0, waiting, f.stands(local, remote)
		case s.state != tcpEstablished:
			return 0, missing, unix.ECONNRESET // closed by the other end
		case first.inode != 0 && first.cookie == s.cookie:
			return s.uid, accepted, nil
		}
		first = s
	}
	return 0, waiting, nil // closed and made anew in between: look again
}

// stands returns an error where our end of a connection has gone.
func (f *finder) stands(local, remote netip.AddrPort) error {
	own, ok, err := f.at(local, remote)
	if err == nil && (!ok || own.state != tcpEstablished || own.peer != remote) {
		return unix.ECONNRESET
	}
	return err
}
