// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/sys/unix"
)

// native is the order of bytes of netlink.
var native = binary.NativeEndian

// dump is one question to the kernel's routing subsystem that has many messages for an answer. The socket is new for each
// attempt: a kept one would pin its network namespace.
type dump struct {
	request uint16 // RTM_GET...
	body    []byte
	begin   func() // called before each attempt: what came of one before that is void
	// strict has the kernel take body for a filter, where it can; others answer with more than was asked for.
	strict bool
}

const (
	// dumpAttempts is how often an interrupted dump is tried in all.
	dumpAttempts = 4
	// dumpPatience bounds the wait for the kernel where the context has no earlier deadline.
	dumpPatience = 2 * time.Second
	// dumpBuffer takes what the kernel puts into one message of a dump (netlink_dump in net/netlink/af_netlink.c).
	dumpBuffer = 32 << 10
)

// run asks and calls each with the type and the body of every message, which it must not keep.
func (d *dump) run(ctx context.Context, each func(kind uint16, body []byte)) error {
	buffer := make([]byte, dumpBuffer)
	return retry(ctx, func() error {
		d.begin()
		return d.try(ctx, buffer, each)
	})
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

func (d *dump) try(ctx context.Context, buffer []byte, each func(kind uint16, body []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("cannot open a netlink socket: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was changed through it
	wait := dumpPatience
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(min(wait, time.Until(deadline)), time.Millisecond) // zero would wait for ever
	}
	timeout := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return fmt.Errorf("cannot bound the wait for an answer: %w", err)
	}
	if d.strict {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	}
	if err := unix.Sendto(fd, d.message(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for done := false; !done; {
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
		if done, err = eachMessage(buffer[:n], each); err != nil {
			return err
		}
	}
	return nil
}

// message is the request with its header.
func (d *dump) message() []byte {
	b := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(d.body)))
	b = native.AppendUint16(b, d.request)
	b = native.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // a sequence number that nobody compares, and the kernel's port
	return append(b, d.body...)
}

// eachMessage calls each with the messages of a datagram and tells whether the dump is over. A dump that the kernel calls
// inconsistent is an EINTR.
func eachMessage(datagram []byte, each func(kind uint16, body []byte)) (done bool, err error) {
	for len(datagram) >= unix.SizeofNlMsghdr {
		length := int(native.Uint32(datagram))
		if length < unix.SizeofNlMsghdr || length > len(datagram) {
			return false, fmt.Errorf("cannot parse a kernel message of %d bytes: %d are left", length, len(datagram))
		}
		body := datagram[unix.SizeofNlMsghdr:length]
		if native.Uint16(datagram[6:])&unix.NLM_F_DUMP_INTR != 0 {
			return false, fmt.Errorf("the dump was interrupted: %w", unix.EINTR)
		}
		switch kind := native.Uint16(datagram[4:]); kind {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both carry a negative errno, or 0
			if len(body) >= 4 && native.Uint32(body) != 0 {
				return true, unix.Errno(-int32(native.Uint32(body)))
			}
			return true, nil
		default:
			each(kind, body)
		}
		datagram = datagram[min(align(length), len(datagram)):]
	}
	return false, nil
}

// attributes yields the attributes in data, without the flags of their types; it ends at the first that does not fit.
func attributes(data []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(data) >= unix.SizeofNlAttr {
			size := int(native.Uint16(data))
			if size < unix.SizeofNlAttr || size > len(data) {
				return
			}
			kind := native.Uint16(data[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)
			if !yield(kind, data[unix.SizeofNlAttr:size]) {
				return
			}
			data = data[min(align(size), len(data)):]
		}
	}
}

// appendAttribute appends an attribute with its padding.
func appendAttribute(b []byte, kind uint16, value []byte) []byte {
	size := unix.SizeofNlAttr + len(value)
	b = native.AppendUint16(b, uint16(size))
	b = native.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, align(size)-size)...)
}

// align rounds up to the four bytes on which netlink's parts begin.
func align(size int) int { return (size + 3) &^ 3 }
