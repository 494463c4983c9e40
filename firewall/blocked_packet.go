// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// truth is an answer about a packet of which not everything is known.
type truth int8

const (
	no truth = iota
	perhaps
	yes
)

func (t truth) not() truth { return yes - t }

func when(certain bool) truth {
	if certain {
		return yes
	}
	return no
}

// meaning is what a register was loaded with, as far as something is known of it beside its bits.
type meaning uint8

const (
	plain     meaning = iota
	ifaceName         // anything but lo
	ifaceIndex
	ifaceType
	address4 // of a host, neither loopback nor multicast
	address6
)

// registers hold a packet's data: value where a bit of known is set, unknown elsewhere. They are addressed by bytes, in
// fours; sorts tells what begins at each four.
type registers struct {
	value, known [registerBytes]byte
	mask         [registerBytes]byte // bits of what was loaded that are left
	sorts        [registerBytes / 4]meaning
	bridges      []string // as in packet
}

// set puts length bytes at a place, of which those in value are known, or those bits of them that are in known; the kernel
// fills up to 4 with zeros.
func (r *registers) set(at, length int, value, known []byte, s meaning) {
	for i := range (length + 3) &^ 3 {
		if at+i >= registerBytes {
			break
		}
		r.value[at+i], r.known[at+i], r.mask[at+i] = 0, 0xff, 0xff
		if i < length {
			r.known[at+i] = 0
			if i < len(value) {
				r.value[at+i], r.known[at+i] = value[i], 0xff
				if known != nil {
					r.value[at+i], r.known[at+i] = value[i]&known[i], known[i]
				}
			}
		}
		r.sorts[(at+i)/4] = plain
	}
	if at%4 == 0 && at < registerBytes {
		r.sorts[at/4] = s
	}
}

// limits returns the smallest and the largest that length bytes at a place can be.
func (r *registers) limits(at, length int) (least, most [registerBytes]byte) {
	for i := range length {
		least[i] = r.value[at+i]
		most[i] = r.value[at+i] | ^r.known[at+i]
	}
	return least, most
}

// within tells whether the bytes at a place lie from first to last, which are equally long.
func (r *registers) within(at int, first, last []byte) truth {
	if at+len(first) > registerBytes || len(first) != len(last) {
		return perhaps
	}
	if bytes.Equal(first, last) && r.differs(at, first) || r.excludes(at, first, last) {
		return no
	}
	least, most := r.limits(at, len(first))
	low, high := least[:len(first)], most[:len(first)]
	switch {
	case bytes.Compare(high, first) < 0 || bytes.Compare(low, last) > 0:
		return no
	case bytes.Compare(low, first) >= 0 && bytes.Compare(high, last) <= 0:
		return yes
	}
	return perhaps
}

// differs tells whether the bytes at a place are certainly others.
func (r *registers) differs(at int, data []byte) bool {
	for i, b := range data {
		if (r.value[at+i]^b)&r.known[at+i] != 0 {
			return true
		}
	}
	return false
}

// excludes tells whether what begins at a place can be nothing from first to last, by what it is: another interface than
// lo, an address that a host can have. Of a concatenation each part that begins a word counts.
func (r *registers) excludes(at int, first, last []byte) bool {
	for i := 0; i < len(first); i += 4 {
		a, b := first[i:], last[i:]
		switch r.sorts[(at+i)/4] {
		case ifaceName:
			name, _, whole := bytes.Cut(a, []byte{0})
			if whole && bytes.HasPrefix(b, a[:len(name)+1]) && (string(name) == "lo" || slices.Contains(r.bridges, string(name))) {
				return true
			}
		case ifaceIndex:
			if len(a) >= 4 && native32(a, 0) == loopbackIndex && native32(b, 0) == loopbackIndex {
				return true
			}
		case ifaceType:
			if len(a) >= 2 && native16(a, 0) == unix.ARPHRD_LOOPBACK && native16(b, 0) == unix.ARPHRD_LOOPBACK {
				return true
			}
		case address4, address6:
			if bytes.Equal(first[:i], last[:i]) && !r.hostAddress(at+i, a[0], b[0]) {
				return true
			}
		default:
		}
	}
	return false
}

// loopbackIndex is the index of lo in every network namespace.
const loopbackIndex = 1

// hostAddress tells whether a host's address can begin with a byte from first to last.
func (r *registers) hostAddress(at int, first, last byte) bool {
	for b := 0; b <= 0xff; b++ {
		loopback, multicast := b == 127 || b == 0, b >= 224
		if r.sorts[at/4] == address6 {
			loopback, multicast = false, b == 0xff
		}
		if kept := byte(b) & r.mask[at]; !loopback && !multicast && first <= kept && kept <= last {
			return true
		}
	}
	return false
}

// packet is the first of a new connection from the network to an address of the host.
type packet struct {
	family    Family
	protocol  Protocol
	port      uint16
	opened    *Accept  // where our accept rule lets it in; nil: nowhere
	published SetName  // a set that holds its port, whatever is in it now
	untracked bool     // connection tracking may not know it
	legacyNAT bool     // its destination may have been translated out of sight
	bridges   []string // over which it does not come
}

func (p *packet) meta(r *registers, o *op) {
	var value []byte
	kind := plain
	switch o.key {
	case unix.NFT_META_L4PROTO:
		value = []byte{byte(p.protocol)}
	case unix.NFT_META_NFPROTO:
		value = []byte{unix.NFPROTO_IPV4}
		if p.family == IPv6 {
			value[0] = unix.NFPROTO_IPV6
		}
	case unix.NFT_META_PROTOCOL:
		value = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
		if p.family == IPv6 {
			value = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
		}
	case unix.NFT_META_PKTTYPE:
		value = []byte{unix.PACKET_HOST}
	case unix.NFT_META_IIFNAME:
		kind = ifaceName
	case unix.NFT_META_IIF:
		kind = ifaceIndex
	case unix.NFT_META_IIFTYPE:
		kind = ifaceType
	}
	r.set(o.dreg, o.length, value, nil, kind)
}

// payload loads what of the headers is known: protocol, destination port and the flags of a bare SYN.
func (p *packet) payload(r *registers, o *op) {
	var value, known [64]byte
	kind := plain
	put := func(at int, b, bits byte) { value[at], known[at] = b, bits }
	switch {
	case o.base == unix.NFT_PAYLOAD_NETWORK_HEADER && p.family == IPv4:
		put(0, 0x40, 0xf0)
		put(9, byte(p.protocol), 0xff)
		if o.offset == 12 || o.offset == 16 {
			kind = address4
		}
	case o.base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		put(0, 0x60, 0xf0)
		put(6, byte(p.protocol), 0xff)
		if o.offset == 8 || o.offset == 24 {
			kind = address6
		}
	case o.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER:
		put(2, byte(p.port>>8), 0xff)
		put(3, byte(p.port), 0xff)
		if p.protocol == TCP {
			put(13, 0x02, 0x3f)
		}
	}
	if o.offset >= 64 {
		r.set(o.dreg, o.length, nil, nil, plain)
		return
	}
	r.set(o.dreg, o.length, value[o.offset:], known[o.offset:], kind)
}

// stateNew is NF_CT_STATE_BIT(IP_CT_NEW), the same in nf_tables and xtables.
const stateNew = 1 << 3

func (p *packet) ct(r *registers, o *op) {
	if p.untracked || p.legacyNAT && o.key == unix.NFT_CT_STATUS {
		r.set(o.dreg, o.length, nil, nil, plain)
		return
	}
	switch o.key {
	case unix.NFT_CT_STATE:
		r.set(o.dreg, o.length, binary.NativeEndian.AppendUint32(nil, stateNew), nil, plain)
	case unix.NFT_CT_STATUS: // not expected, answered, assured, confirmed or translated; other bits may be set
		r.set(o.dreg, o.length, make([]byte, 4), binary.NativeEndian.AppendUint32(nil, 0x3f), plain)
	case unix.NFT_CT_DIRECTION:
		r.set(o.dreg, o.length, make([]byte, 1), nil, plain)
	default:
		r.set(o.dreg, o.length, nil, nil, plain)
	}
}

func (p *packet) fib(r *registers, o *op) {
	if o.key == unix.NFT_FIB_RESULT_ADDRTYPE && o.flags == unix.NFTA_FIB_F_DADDR {
		r.set(o.dreg, o.length, binary.NativeEndian.AppendUint32(nil, unix.RTN_LOCAL), nil, plain)
		return
	}
	r.set(o.dreg, o.length, nil, nil, plain)
}

// bitwise is (sreg & mask) ^ xor. What is known of an address stays known by its bits that are left.
func (r *registers) bitwise(o *op) {
	before := *r
	for i := range (o.length + 3) &^ 3 {
		from, to := o.sreg+i, o.dreg+i
		if from >= registerBytes || to >= registerBytes {
			break
		}
		if i >= o.length {
			r.value[to], r.known[to], r.mask[to] = 0, 0xff, 0xff
			continue
		}
		r.known[to] = before.known[from] | ^o.mask[i]
		r.value[to] = (before.value[from]&o.mask[i] ^ o.data[i]) & r.known[to]
		r.mask[to] = before.mask[from] & o.mask[i]
		if o.data[i] != 0 {
			r.mask[to] = 0xff
		}
	}
	if o.dreg%4 == 0 && o.sreg%4 == 0 {
		s := before.sorts[o.sreg/4]
		if s != address4 && s != address6 || o.data[0] != 0 {
			s = plain
		}
		r.sorts[o.dreg/4] = s
	}
}

// swap turns the bytes of each number round, where the byte order of the host is not that of the network.
func (r *registers) swap(o *op) {
	before, size := *r, int(o.offset)
	value, known := make([]byte, o.length), make([]byte, o.length)
	for i := range o.length {
		from := i
		if first := i - i%max(size, 1); native16([]byte{1, 0}, 0) == 1 && first+size <= o.length && size > 1 {
			from = first + size - 1 - i%size
		}
		value[i], known[i] = before.value[o.sreg+from], before.known[o.sreg+from]
	}
	r.set(o.dreg, o.length, value, known, plain)
}

func (r *registers) compare(o *op) truth {
	same := r.within(o.sreg, o.data, o.data)
	switch o.compare {
	case unix.NFT_CMP_EQ:
		return same
	case unix.NFT_CMP_NEQ:
		return same.not()
	}
	least, most := r.limits(o.sreg, o.length)
	low, high := bytes.Compare(least[:o.length], o.data), bytes.Compare(most[:o.length], o.data)
	switch o.compare {
	case unix.NFT_CMP_LT:
		return between(high < 0, low >= 0)
	case unix.NFT_CMP_LTE:
		return between(high <= 0, low > 0)
	case unix.NFT_CMP_GT:
		return between(low > 0, high <= 0)
	case unix.NFT_CMP_GTE:
		return between(low >= 0, high < 0)
	}
	return perhaps
}

func between(always, never bool) truth {
	switch {
	case always:
		return yes
	case never:
		return no
	}
	return perhaps
}
