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
	stateEstablished = 1 << 1
	stateClose       = 1 << 7
	stateListen      = 1 << 10

	// The kernel puts at most 32 KiB into one message of a dump (netlink_dump in net/netlink/af_netlink.c).
	messageBuffer = 32 << 10

	requestLen = 56 // struct inet_diag_req_v2

	// What asks for TCP sockets of both families at once, TCPDIAG_GETSOCK with a struct inet_diag_req: its states stand
	// behind an id of 48 bytes (inet_diag_dump_compat in net/ipv4/inet_diag.c).
	getBoth          = 18
	bothRequestLen   = 60
	bothStatesOffset = 52

	// The filter that may follow a request, INET_DIAG_REQ_BYTECODE, and its operations, INET_DIAG_BC_S_GE and _S_LE.
	attrBytecode    = 1
	opSourceAtLeast = 2
	opSourceAtMost  = 3

	messageLen = 72 // struct inet_diag_msg, before its attributes

	// Attributes of a socket; both come without being asked for (inet_diag_msg_attrs_fill in net/ipv4/inet_diag.c).
	attrV6Only   = 11 // INET_DIAG_SKV6ONLY
	attrCgroupID = 21 // INET_DIAG_CGROUP_ID
)

// query is one sock_diag dump.
type query struct {
	protocol Protocol
	family   uint8 // AF_UNSPEC is both, for TCP and without ports
	states   uint32
	// ports are the local ports that the kernel limits the dump to; nil is all.
	ports *portRange
}

// portRange is the ports from first to last.
type portRange struct{ first, last uint16 }

// List returns the TCP listeners and the bound, unconnected UDP sockets of the calling thread's network namespace, IPv4
// and IPv6, ordered by protocol, port, address and cookie. MPTCP listeners are among the TCP ones. It needs no privilege,
// keeps nothing open, and may be called concurrently. It returns everything or an error: a dump that the kernel
// calls inconsistent is repeated a few times.
func List(ctx context.Context) ([]Listener, error) {
	var all []Listener
	buffer := make([]byte, messageBuffer)
	for _, q := range allListeners() {
		before := len(all)
		err := q.run(ctx, buffer, func() { all = all[:before] }, func(socket []byte) error {
			l, err := parse(q.protocol, socket)
			if err == nil {
				all = append(all, l)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return tidy(all), nil
}

// run dumps the sockets that q asks for and calls each with every struct inet_diag_msg, which it must not keep. Before each
// attempt it calls begin: what each got of an attempt before that is void. A kernel without IPv6 has no such sockets.
func (q query) run(ctx context.Context, buffer []byte, begin func(), each func(socket []byte) error) error {
	return q.explain(retry(ctx, func() error {
		begin()
		return q.dump(ctx, buffer, each)
	}))
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

// dump is one attempt of run; buffer is where the kernel's messages are put. The socket is new for each, because a kept
// one would pin its namespace and might hold the rest of a failed dump.
func (q query) dump(ctx context.Context, buffer []byte, each func(socket []byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return fmt.Errorf("cannot open a sock_diag socket: %w", err)
	}
	defer unix.Close(fd)
	wait := answerTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(deadline)), time.Millisecond) // zero would wait for ever
	}
	timeout := unix.NsecToTimeval(int64(wait))
	if err := errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)); err != nil {
		return fmt.Errorf("cannot bound the wait for an answer: %w", err)
	}
	kind := nl.SOCK_DIAG_BY_FAMILY
	if q.family == unix.AF_UNSPEC {
		kind = getBoth
	}
	request := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
	request.AddRawData(q.serialize())
	if err := unix.Sendto(fd, request.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for done := false; !done; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// With MSG_TRUNC the length is that of the whole message, also of one that did not fit.
		n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("no answer from the kernel within %v: %w", wait, context.DeadlineExceeded)
		case err != nil:
			return err
		case n > len(buffer):
			return fmt.Errorf("cannot read a kernel message of %d bytes", n)
		}
		if done, err = eachSocket(buffer[:n], each); err != nil {
			return err
		}
	}
	return nil
}

// eachSocket calls each with the sockets in a datagram of netlink messages, and tells whether the dump is over. A dump
// that the kernel calls inconsistent is an EINTR.
func eachSocket(datagram []byte, each func(socket []byte) error) (done bool, err error) {
	native := binary.NativeEndian
	for len(datagram) >= unix.SizeofNlMsghdr {
		length := int(native.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return false, fmt.Errorf("cannot parse a kernel message of %d bytes: %d are left", length, len(datagram))
		}
		body := datagram[unix.SizeofNlMsghdr:length]
		if native.Uint16(datagram[6:])&unix.NLM_F_DUMP_INTR != 0 {
			return false, fmt.Errorf("the dump was interrupted: %w", unix.EINTR)
		}
		switch native.Uint16(datagram[4:]) {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both carry a negative errno, or 0
			if len(body) < 4 {
				return true, nil
			}
			if code := int32(native.Uint32(body)); code != 0 {
				return true, unix.Errno(-code)
			}
			return true, nil
		case nl.SOCK_DIAG_BY_FAMILY, getBoth:
			if err := each(body); err != nil {
				return false, err
			}
		}
		aligned := (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1)
		datagram = datagram[min(aligned, len(datagram)):]
	}
	return false, nil
}

// serialize returns q as the struct of its request, followed by a filter on local ports where q has one.
func (q query) serialize() []byte {
	if q.family == unix.AF_UNSPEC {
		b := make([]byte, bothRequestLen)
		binary.NativeEndian.PutUint32(b[bothStatesOffset:], q.states)
		return b
	}
	b := make([]byte, requestLen, requestLen+unix.SizeofRtAttr+16)
	b[0], b[1] = q.family, uint8(q.protocol)
	native := binary.NativeEndian
	native.PutUint32(b[4:], q.states)
	if q.ports == nil {
		return b
	}
	// A struct inet_diag_bc_op is its code, the way to go on where it holds, and where it does not; the port that it
	// compares with is in a second one behind it. A way 4 bytes past the end refuses the socket (inet_diag_bc_run in
	// net/ipv4/inet_diag.c).
	operation := func(code, yes uint8, no, port uint16) {
		b = native.AppendUint16(append(b, code, yes), no)
		b = native.AppendUint16(append(b, 0, 0), port)
	}
	b = native.AppendUint16(b, unix.SizeofRtAttr+16)
	b = native.AppendUint16(b, attrBytecode)
	operation(opSourceAtLeast, 8, 16+4, q.ports.first)
	operation(opSourceAtMost, 8, 8+4, q.ports.last)
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
