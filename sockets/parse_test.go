// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// message builds what the kernel sends about a socket.
func message(family byte, addr [16]byte, attributes ...[]byte) []byte {
	b := make([]byte, messageLen)
	native := binary.NativeEndian
	b[0], b[1] = family, 10
	binary.BigEndian.PutUint16(b[4:], 21000)
	copy(b[8:], addr[:])
	native.PutUint32(b[40:], 7)
	native.PutUint32(b[44:], 0x55667788)
	native.PutUint32(b[48:], 0x11223344)
	native.PutUint32(b[64:], 1000)
	native.PutUint32(b[68:], 4242)
	for _, a := range attributes {
		b = append(b, a...)
	}
	return b
}

// attribute builds an attribute, padded as the kernel pads it.
func attribute(kind uint16, value ...byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(value)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func TestParse(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::7").As16()
	want := Listener{
		Protocol: TCP, Device: 7, UID: 1000, Inode: 4242, Cookie: 0x1122334455667788,
		Addr: netip.MustParseAddrPort("[2001:db8::7]:21000"),
	}
	whole := want
	whole.V6Only, whole.CgroupID = true, 99
	v4 := want
	v4.Addr = netip.MustParseAddrPort("10.1.2.3:21000")
	cgroup := attribute(attrCgroupID, binary.NativeEndian.AppendUint64(nil, 99)...)
	for _, test := range []struct {
		name string
		msg  []byte
		want Listener
		err  string
	}{
		{"no attributes", message(unix.AF_INET6, v6), want, ""},
		{"attributes among others", message(unix.AF_INET6, v6, attribute(8, 0), attribute(attrV6Only, 1), attribute(200, 1, 2, 3), cgroup), whole, ""},
		{"IPv4", message(unix.AF_INET, [16]byte{10, 1, 2, 3}), v4, ""},
		{"attributes too short for their kind", message(unix.AF_INET6, v6, attribute(attrV6Only), attribute(attrCgroupID, 1, 2, 3, 4)), want, ""},
		{"last attribute not padded", append(message(unix.AF_INET6, v6, cgroup), attribute(attrV6Only, 1)[:5]...), whole, ""},
		{"stray bytes at the end", append(message(unix.AF_INET6, v6), 1, 2, 3), want, ""},
		{"short", message(unix.AF_INET6, v6)[:71], Listener{}, "cannot parse a socket of 71 bytes: want at least 72"},
		{"nothing", nil, Listener{}, "cannot parse a socket of 0 bytes: want at least 72"},
		{"family", message(unix.AF_UNIX, v6), Listener{}, "cannot parse a socket of address family 1"},
		{"attribute beyond the end", message(unix.AF_INET6, v6, cgroup[:8]), Listener{}, "cannot parse a socket's attribute of 12 bytes: 8 are left"},
		{"attribute of no length", message(unix.AF_INET6, v6, make([]byte, 4)), Listener{}, "cannot parse a socket's attribute of 0 bytes: 4 are left"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parse(TCP, test.msg)
			if diff := cmp.Diff(test.want, got, cmp.Comparer(sameAddrPort)); diff != "" {
				t.Errorf("listener (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.err, text(err)); diff != "" {
				t.Errorf("error (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(unix.AF_INET6, [16]byte{15: 1}, attribute(attrV6Only, 1), attribute(attrCgroupID, 1, 2, 3, 4, 5, 6, 7, 8)))
	f.Add(message(unix.AF_INET, [16]byte{127, 0, 0, 1}))
	f.Add(message(unix.AF_INET, [16]byte{}, []byte{0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, msg []byte) {
		l, err := parse(TCP, msg)
		if err != nil {
			if l != (Listener{}) {
				t.Errorf("an error and a listener: %+v, %v", l, err)
			}
			return
		}
		if !l.Addr.Addr().IsValid() {
			t.Errorf("no address and no error: %+v", l)
		}
		if again, _ := parse(TCP, append([]byte(nil), msg...)); again != l {
			t.Errorf("the same bytes give %+v and %+v", l, again)
		}
	})
}

func TestTidy(t *testing.T) {
	listener := func(p Protocol, addr string, cookie uint64) Listener {
		return Listener{Protocol: p, Addr: netip.MustParseAddrPort(addr), Cookie: cookie}
	}
	want := []Listener{
		listener(TCP, "0.0.0.0:80", 5),
		listener(TCP, "127.0.0.1:80", 4),
		listener(TCP, "[::]:80", 2),
		listener(TCP, "[::]:80", 3),
		listener(TCP, "0.0.0.0:443", 1),
		listener(UDP, "0.0.0.0:53", 6),
	}
	got := tidy([]Listener{want[5], want[2], want[4], want[3], want[1], want[2], want[0], want[4]})
	if diff := cmp.Diff(want, got, cmp.Comparer(sameAddrPort)); diff != "" {
		t.Errorf("listeners (-want +got):\n%s", diff)
	}
}

func TestRetry(t *testing.T) {
	other := errors.New("other")
	for _, test := range []struct {
		name  string
		errs  []error
		want  error
		tries int
	}{
		{"at once", []error{nil}, nil, 1},
		{"interrupted dump", []error{netlink.ErrDumpInterrupted, nil}, nil, 2},
		{"signal, then overflow", []error{unix.EINTR, unix.ENOBUFS, nil}, nil, 3},
		{"for good", []error{other, nil}, other, 1},
		{"too often", []error{unix.EINTR, unix.EINTR, unix.EINTR, netlink.ErrDumpInterrupted, nil}, netlink.ErrDumpInterrupted, dumpAttempts},
	} {
		t.Run(test.name, func(t *testing.T) {
			tries := 0
			err := retry(t.Context(), func() error {
				tries++
				return test.errs[tries-1]
			})
			if !errors.Is(err, test.want) || tries != test.tries {
				t.Errorf("got %v after %d tries, want %v after %d", err, tries, test.want, test.tries)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := retry(ended, func() error { t.Error("tried after the end"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		query query
		err   error
		want  string
	}{
		{query{protocol: TCP, family: unix.AF_INET}, nil, ""},
		{query{protocol: TCP, family: unix.AF_INET6}, unix.ENOENT, ""},
		{query{protocol: UDP, family: unix.AF_INET}, unix.ENOENT, "cannot list udp sockets: no such file or directory: load the kernel module udp_diag"},
		{query{protocol: TCP, family: unix.AF_INET6}, unix.EPERM, "cannot list tcp sockets: operation not permitted"},
	} {
		if diff := cmp.Diff(test.want, text(test.query.explain(test.err))); diff != "" {
			t.Errorf("%+v, %v (-want +got):\n%s", test.query, test.err, diff)
		}
	}
}

func sameAddrPort(a, b netip.AddrPort) bool { return a == b }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// netlinkMessage is one message of a dump.
func netlinkMessage(kind, flags uint16, body []byte) []byte {
	native := binary.NativeEndian
	b := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = native.AppendUint16(b, kind)
	b = native.AppendUint16(b, flags)
	return append(append(b, make([]byte, 8)...), body...)
}

func FuzzEachSocket(f *testing.F) {
	f.Add(netlinkMessage(20, 0, make([]byte, messageLen)))
	f.Add(netlinkMessage(3, 0, []byte{0, 0, 0, 0}))
	f.Add(netlinkMessage(2, 0, binary.NativeEndian.AppendUint32(nil, ^uint32(0))))
	f.Add(netlinkMessage(20, 0x10, nil))
	f.Fuzz(func(t *testing.T, datagram []byte) {
		read := func() (n int, done bool, failed bool) {
			done, err := eachSocket(datagram, func(socket []byte) error {
				n++
				_, err := parseConnection(socket)
				return err
			})
			return n, done, err != nil
		}
		n, done, failed := read()
		if n > len(datagram)/unix.SizeofNlMsghdr {
			t.Errorf("%d sockets out of %d bytes", n, len(datagram))
		}
		if nAgain, doneAgain, failedAgain := read(); n != nAgain || done != doneAgain || failed != failedAgain {
			t.Errorf("the same bytes give %d, %t, %t and %d, %t, %t", n, done, failed, nAgain, doneAgain, failedAgain)
		}
	})
}

func TestEachSocket(t *testing.T) {
	socket := make([]byte, messageLen)
	socket[0] = unix.AF_INET
	errno := func(code int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(code)) }
	for _, test := range []struct {
		name     string
		datagram []byte
		sockets  int
		done     bool
		err      error
	}{
		{"two sockets, more to come", append(netlinkMessage(20, 0, socket), netlinkMessage(20, 0, socket)...), 2, false, nil},
		{"the end", netlinkMessage(unix.NLMSG_DONE, 0, errno(0)), 0, true, nil},
		{"the end, with an error", netlinkMessage(unix.NLMSG_DONE, 0, errno(-int32(unix.ENOBUFS))), 0, true, unix.ENOBUFS},
		{"a refusal", netlinkMessage(unix.NLMSG_ERROR, 0, errno(-int32(unix.ENOENT))), 0, true, unix.ENOENT},
		{"interrupted", netlinkMessage(20, unix.NLM_F_DUMP_INTR, socket), 0, false, unix.EINTR},
		{"something else", netlinkMessage(unix.NLMSG_NOOP, 0, nil), 0, false, nil},
	} {
		sockets := 0
		done, err := eachSocket(test.datagram, func(msg []byte) error {
			sockets++
			_, err := parse(TCP, msg)
			return err
		})
		if sockets != test.sockets || done != test.done || !errors.Is(err, test.err) {
			t.Errorf("%s: %d sockets, %t, %v; want %d, %t, %v", test.name, sockets, done, err, test.sockets, test.done, test.err)
		}
	}
	for _, short := range [][]byte{netlinkMessage(20, 0, socket[:10]), netlinkMessage(20, 0, socket)[:40], {1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}} {
		if _, err := eachSocket(short, func(msg []byte) error { _, err := parse(TCP, msg); return err }); err == nil {
			t.Errorf("a broken message of %d bytes is no error", len(short))
		}
	}
}
