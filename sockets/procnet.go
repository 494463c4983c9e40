// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// mostSockets bounds what is kept of one namespace that is not ours: any user can make one and fill it.
	mostSockets = 20_000
	// mostTable bounds what is read of one file in /proc/PID/net: mostSockets lines, and as many of connected UDP sockets.
	mostTable = 2 * mostSockets * 180
	// mostAddresses bounds the addresses that are kept of one namespace.
	mostAddresses = 256

	// inodeCookie marks a cookie that is made of an inode. The kernel counts real ones up from 1, in steps, for each CPU
	// (gen_cookie_next in include/linux/cookie.h), and does not get that far.
	inodeCookie = 1 << 63

	// States of sockets as the tables write them (include/net/tcp_states.h).
	tableClose  = 0x07
	tableListen = 0x0A
)

// errTooMany says that a namespace holds more than is kept of one.
var errTooMany = errors.New("too many sockets")

// readTable reads a file /proc/PID/net/tcp, tcp6, udp or udp6 and calls each with its listeners, in the
// kernel's order. It stops at the first TCP socket that does not listen: the kernel shows all that listen before it starts
// with the others (tcp_seek_last_pos in net/ipv4/tcp_ipv4.c). A table without end is errTooMany.
func readTable(protocol Protocol, table io.Reader, each func(Listener) error) error {
	left := &io.LimitedReader{R: table, N: mostTable}
	lines := bufio.NewScanner(left)
	lines.Buffer(make([]byte, 4096), 4096) // the kernel hands out a page at a time
	for head := true; lines.Scan(); head = false {
		if head {
			continue
		}
		l, listens, err := parseTableLine(protocol, lines.Bytes())
		switch {
		case err != nil && left.N == 0: // cut off in the middle
			return errTooMany
		case err != nil:
			return err
		case !listens && protocol == TCP:
			return nil
		case !listens:
			continue
		}
		if err := each(l); err != nil {
			return err
		}
	}
	if left.N == 0 {
		return errTooMany
	}
	return lines.Err()
}

// parseTableLine reads a line of such a file, as get_tcp4_sock, udp4_format_sock and their siblings for IPv6 write it:
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ...
//	 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 12345 1 ...
//
// It tells whether it is a listener. Addresses are words of 32 bits in the machine's order, ports are plain numbers.
func parseTableLine(protocol Protocol, line []byte) (l Listener, listens bool, err error) {
	var fields [10][]byte
	rest := line
	for i := range fields {
		rest = bytes.TrimLeft(rest, " ")
		end := bytes.IndexByte(rest, ' ')
		if end < 0 {
			end = len(rest)
		}
		fields[i], rest = rest[:end], rest[end:]
	}
	local, state := fields[1], fields[3]
	uid, err1 := strconv.ParseUint(string(fields[7]), 10, 32)
	inode, err2 := strconv.ParseUint(string(fields[9]), 10, 32)
	st, err3 := strconv.ParseUint(string(state), 16, 8)
	addr, err4 := parseTableAddress(local)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return Listener{}, false, fmt.Errorf("cannot parse a socket of /proc/PID/net/%v: %w", protocol, err)
	}
	wanted := uint64(tableListen)
	if protocol == UDP {
		wanted = tableClose
	}
	return Listener{
		Protocol: protocol, Addr: addr, UID: uint32(uid), Inode: uint32(inode), Cookie: inodeCookie | inode, Partial: true,
	}, st == wanted, nil
}

// parseTableAddress reads "0100007F:1F90", or the same with 32 digits.
func parseTableAddress(text []byte) (netip.AddrPort, error) {
	words, port, found := bytes.Cut(text, []byte(":"))
	number, err := strconv.ParseUint(string(port), 16, 16)
	if !found || err != nil || len(port) != 4 || len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text[:min(len(text), 50)])
	}
	var raw [16]byte
	if _, err := hex.Decode(raw[:], words); err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is no address", text)
	}
	for at := 0; at < len(words)/2; at += 4 {
		binary.NativeEndian.PutUint32(raw[at:], binary.BigEndian.Uint32(raw[at:]))
	}
	if len(words) == 8 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw[:4])), uint16(number)), nil
	}
	return netip.AddrPortFrom(netip.AddrFrom16(raw), uint16(number)), nil
}

// usage is how many sockets of each kind a namespace has, listening or not, as /proc/PID/net/sockstat and sockstat6 tell.
type usage struct {
	tcp4, tcp6, udp4, udp6 int
	known                  bool
}

// of tells how many sockets there are that a dump or a table could show; 1 where that is not known.
func (u usage) of(protocol Protocol, family uint8) int {
	switch {
	case !u.known:
		return 1
	case protocol == TCP && family == unix.AF_INET:
		return u.tcp4
	case protocol == TCP:
		return u.tcp6
	case family == unix.AF_INET:
		return u.udp4
	}
	return u.udp6
}

// parseUsage reads the text of both files, one behind the other: lines as "TCP: inuse 3 orphan 0 tw 0 alloc 4 mem 1". It
// takes nothing for granted: without both lines for IPv4 it knows nothing. A kernel without IPv6 has no such sockets.
func parseUsage(text []byte) usage {
	var u usage
	seen := 0
	for line := range bytes.Lines(text) {
		name, rest, _ := bytes.Cut(line, []byte(": inuse "))
		digits, _, _ := bytes.Cut(bytes.TrimSpace(rest), []byte(" "))
		n, err := strconv.Atoi(string(digits))
		if err != nil {
			continue
		}
		n = max(n, 0) // sums of counters of each CPU, read while they move
		switch string(name) {
		case "TCP":
			u.tcp4 = n
			seen |= 1
		case "UDP":
			u.udp4 = n
			seen |= 2
		case "TCP6":
			u.tcp6 = n
		case "UDP6":
			u.udp6 = n
		}
	}
	u.known = seen == 3
	return u
}

// parseAddresses reads the addresses of a namespace from the texts of its fib_trie (IPv4) and if_inet6, sorted, without
// loopback and link-local ones: those say nothing of which namespace it is.
func parseAddresses(fibTrie, ifInet6 []byte) []netip.Addr {
	var all []netip.Addr
	add := func(addr netip.Addr) {
		if addr.IsValid() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast() && !addr.IsUnspecified() && len(all) < 2*mostAddresses {
			all = append(all, addr)
		}
	}
	var leaf netip.Addr // "|-- 172.17.0.2", and on a line of its own below it "/32 host LOCAL"
	for line := range bytes.Lines(fibTrie) {
		line = bytes.TrimSpace(line)
		if text, ok := bytes.CutPrefix(line, []byte("|-- ")); ok {
			leaf, _ = netip.ParseAddr(string(text))
		} else if bytes.Equal(line, []byte("/32 host LOCAL")) {
			add(leaf)
		}
	}
	for line := range bytes.Lines(ifInet6) {
		var raw [16]byte
		if len(line) < 32 {
			continue
		}
		if _, err := hex.Decode(raw[:], line[:32]); err == nil {
			add(netip.AddrFrom16(raw))
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	return all[:min(len(all), mostAddresses)]
}
