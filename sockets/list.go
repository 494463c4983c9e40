// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// dumpAttempts is how often a dump is tried that the kernel or a signal keeps interrupting.
	dumpAttempts = 4
	// answerTimeout bounds the wait for the kernel where the context has no earlier deadline.
	answerTimeout = 5 * time.Second

	// States of sockets, bits of inet_diag_req_v2's idiag_states (include/net/tcp_states.h). A bound UDP socket
	// that is not connected is in TCP_CLOSE.
	stateClose  = 1 << 7
	stateListen = 1 << 10

	// The kernel puts at most 32 KiB into one message of a dump (netlink_dump in net/netlink/af_netlink.c).
	messageBuffer = 32 << 10

	requestLen = 56 // struct inet_diag_req_v2
	messageLen = 72 // struct inet_diag_msg, before its attributes

	// Attributes of a socket; both come without being asked for (inet_diag_msg_attrs_fill in net/ipv4/inet_diag.c).
	attrV6Only   = 11 // INET_DIAG_SKV6ONLY
	attrCgroupID = 21 // INET_DIAG_CGROUP_ID
)

// query is one sock_diag dump.
type query struct {
	protocol Protocol
	family   uint8
	states   uint32
}

// List returns the TCP listeners and the bound, unconnected UDP sockets of the calling thread's network namespace, IPv4
// and IPv6, ordered by protocol, port, address and cookie. MPTCP listeners are among the TCP ones. It needs no privilege,
// keeps nothing open, and may be called concurrently. It returns everything or an error: a dump that the kernel
// calls inconsistent is repeated a few times.
func List(ctx context.Context) ([]Listener, error) {
	var all []Listener
	buffer := make([]byte, messageBuffer)
	for _, q := range []query{
		{TCP, unix.AF_INET, stateListen},
		{TCP, unix.AF_INET6, stateListen},
		{UDP, unix.AF_INET, stateClose},
		{UDP, unix.AF_INET6, stateClose},
	} {
		whole := all
		err := retry(ctx, func() (err error) {
			all, err = q.appendTo(ctx, whole, buffer)
			return err
		})
		if err := q.explain(err); err != nil {
			return nil, err
		}
	}
	return tidy(all), nil
}

// explain says what an error of q means. None is the answer of a kernel without IPv6.
func (q query) explain(err error) error {
	switch {
	case err == nil, q.family == unix.AF_INET6 && errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("cannot list %v sockets: %w: load the kernel module %[1]v_diag", q.protocol, err)
	}
	return fmt.Errorf("cannot list %v sockets: %w", q.protocol, err)
}

// tidy sorts listeners and drops doubles: a socket made between two messages of a dump can push another one of its hash
// chain into both.
func tidy(listeners []Listener) []Listener {
	slices.SortFunc(listeners, Listener.compare)
	return slices.CompactFunc(listeners, func(a, b Listener) bool { return a.compare(b) == 0 })
}

// retry calls try until it succeeds, fails for good, or was interrupted too often.
func retry(ctx context.Context, try func() error) error {
	var err error
	for range dumpAttempts {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err = try(); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
	return err
}

// appendTo appends the sockets that q asks for to listeners; buffer is where the kernel's messages are put. The socket is
// new for each dump, because a kept one would pin its namespace and might hold the rest of a failed dump.
func (q query) appendTo(ctx context.Context, listeners []Listener, buffer []byte) ([]Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return listeners, fmt.Errorf("cannot open a sock_diag socket: %w", err)
	}
	defer unix.Close(fd)
	wait := answerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(deadline)), time.Millisecond) // zero would wait for ever
	}
	timeout := unix.NsecToTimeval(int64(wait))
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)); err != nil {
		return listeners, fmt.Errorf("cannot bound the wait for an answer: %w", err)
	}
	request := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	request.AddRawData(q.serialize())
	if err := unix.Sendto(fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return listeners, err
	}
	for done := false; !done; {
		if ctx.Err() != nil {
			return listeners, ctx.Err()
		}
		// With MSG_TRUNC the length is that of the whole message, also of one that did not fit.
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return listeners, fmt.Errorf("no answer from the kernel within %v: %w", wait, context.DeadlineExceeded)
		case err != nil:
			return listeners, err
		case n > len(buffer):
			return listeners, fmt.Errorf("cannot read a kernel message of %d bytes", n)
		}
		if listeners, done, err = appendMessages(listeners, q.protocol, buffer[:n]); err != nil {
			return listeners, err
		}
	}
	return listeners, nil
}

// appendMessages appends the sockets in a datagram of netlink messages to listeners, and tells whether the dump is over.
// A dump that the kernel calls inconsistent is an EINTR.
func appendMessages(listeners []Listener, protocol Protocol, datagram []byte) (all []Listener, done bool, err error) {
	native := binary.NativeEndian
	for len(datagram) >= unix.SizeofNlMsghdr {
		length := int(native.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return listeners, false, fmt.Errorf("cannot parse a kernel message of %d bytes: %d are left", length, len(datagram))
		}
		body := datagram[unix.SizeofNlMsghdr:length]
		if native.Uint16(datagram[6:])&unix.NLM_F_DUMP_INTR != 0 {
			return listeners, false, fmt.Errorf("the dump was interrupted: %w", unix.EINTR)
		}
		switch native.Uint16(datagram[4:]) {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both carry a negative errno, or 0
			if len(body) < 4 {
				return listeners, true, nil
			}
			if code := int32(native.Uint32(body)); code != 0 {
				return listeners, true, unix.Errno(-code)
			}
			return listeners, true, nil
		case nl.SOCK_DIAG_BY_FAMILY:
			l, err := parse(protocol, body)
			if err != nil {
				return listeners, false, err
			}
			listeners = append(listeners, l)
		}
		aligned := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		datagram = datagram[min(aligned, len(datagram)):]
	}
	return listeners, false, nil
}

// serialize returns q as a struct inet_diag_req_v2, without a filter on addresses.
func (q query) serialize() []byte {
	b := make([]byte, requestLen)
	b[0], b[1] = q.family, uint8(q.protocol)
	binary.NativeEndian.PutUint32(b[4:], q.states)
	return b
}

// parse reads one struct inet_diag_msg and its attributes.
func parse(protocol Protocol, msg []byte) (Listener, error) {
	if len(msg) < messageLen {
		return Listener{}, fmt.Errorf("cannot parse a socket of %d bytes: want at least %d", len(msg), messageLen)
	}
	native := binary.NativeEndian
	l := Listener{
		Protocol: protocol,
		Device:   native.Uint32(msg[40:]),
		// Two words, the low one first on every machine (sock_diag_save_cookie in net/core/sock_diag.c).
		Cookie: uint64(native.Uint32(msg[44:])) | uint64(native.Uint32(msg[48:]))<<32,
		UID:    native.Uint32(msg[64:]),
		Inode:  native.Uint32(msg[68:]),
	}
	port := binary.BigEndian.Uint16(msg[4:])
	switch msg[0] {
	case unix.AF_INET:
		l.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(msg[8:12])), port)
	case unix.AF_INET6:
		l.Addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(msg[8:24])), port)
	default:
		return Listener{}, fmt.Errorf("cannot parse a socket of address family %d", msg[0])
	}
	for rest := msg[messageLen:]; len(rest) >= unix.SizeofRtAttr; {
		length := int(native.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			return Listener{}, fmt.Errorf("cannot parse a socket's attribute of %d bytes: %d are left", length, len(rest))
		}
		value := rest[unix.SizeofRtAttr:length]
		switch kind := native.Uint16(rest[2:]); {
		case kind == attrV6Only && len(value) >= 1:
			l.V6Only = value[0] != 0
		case kind == attrCgroupID && len(value) >= 8:
			l.CgroupID = native.Uint64(value)
		}
		aligned := (length + unix.NLA_ALIGNTO - 1) &^ (unix.NLA_ALIGNTO - 1)
		rest = rest[min(aligned, len(rest)):]
	}
	return l, nil
}
