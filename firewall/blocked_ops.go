// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// opKind is what an expression of a rule does, as far as it matters to whether a packet passes.
type opKind uint8

const (
	opUnknown  opKind = iota // anything: it may match, or take the packet
	opNothing                // counts, logs, marks
	opPerhaps                // matches by what is not known here: a rate, a quota, chance
	opLoadMeta               // into dreg
	opLoadPayload
	opLoadCt
	opLoadFib
	opForget // dreg gets what is not known here
	opBitwise
	opSwap // between the byte order of the host and that of the network
	opCompare
	opRange
	opLookup
	opVerdict
	opTake      // lets the packet go on somewhere else: to user space, to another address
	opTranslate // gives the packet another destination
	opReject
	opUntrack
	opMatch // of xtables
	opTarget
)

// op is one expression of a rule. Registers are offsets into the walker's.
type op struct {
	kind       opKind
	name       string // of an xtables match or target, or of what is not known
	revision   uint32
	sreg, dreg int
	length     int
	base       uint32 // of the payload
	offset     uint32 // in the payload; of opSwap the size of a number
	key        uint32 // of meta data or connection tracking; of a fib lookup what it results in
	flags      uint32
	compare    uint32
	mask       []byte
	data, last []byte // what to compare with, what to exclusive-or
	set        *nfSet
	setName    string
	maps       bool // the lookup yields something
	verdict    *verdict
	info       []byte
}

// registerBytes is the size of all registers together.
const registerBytes = 64

// register turns the number of a register into its place, or -1: 1 to 4 have 16 bytes, from 8 on they have 4.
func register(number uint32) int {
	switch {
	case number >= unix.NFT_REG_1 && number <= unix.NFT_REG_4:
		return int(number-unix.NFT_REG_1) * 16
	case number >= unix.NFT_REG32_00 && number <= unix.NFT_REG32_15:
		return int(number-unix.NFT_REG32_00) * 4
	}
	return -1
}

// decodeOp reads one expression. Whatever does not make sense is opUnknown.
func decodeOp(t *nfTable, expression []byte) op {
	name := ""
	var data []byte
	for kind, value := range attributes(expression) {
		switch kind {
		case unix.NFTA_EXPR_NAME:
			name = text(value)
		case unix.NFTA_EXPR_DATA:
			data = value
		}
	}
	values := map[uint16][]byte{}
	for kind, value := range attributes(data) {
		values[kind] = value
	}
	o := decodeNamed(t, name, values)
	if o.kind.writes() && (o.dreg < 0 || o.dreg+o.length > registerBytes) ||
		o.kind.reads() && (o.sreg < 0 || o.sreg+o.length > registerBytes || o.length == 0) {
		return op{name: name}
	}
	return o
}

// writes tells whether an expression fills length bytes of registers from dreg on.
func (k opKind) writes() bool {
	return k == opLoadMeta || k == opLoadPayload || k == opLoadCt || k == opLoadFib || k == opForget || k == opBitwise || k == opSwap
}

// reads tells whether an expression reads length bytes of registers from sreg on.
func (k opKind) reads() bool { return k == opBitwise || k == opSwap || k == opCompare || k == opRange }

func decodeNamed(t *nfTable, name string, values map[uint16][]byte) op {
	switch name {
	case "counter", "log", "last", "secmark", "dup":
		return op{kind: opNothing, name: name}
	case "limit", "quota", "connlimit", "dynset":
		return op{kind: opPerhaps, name: name}
	case "queue", "tproxy", "synproxy", "fwd", "flow_offload":
		return op{kind: opTake, name: name}
	case "nat", "redir":
		return op{kind: opTranslate, name: name}
	case "masq":
		return op{kind: opTake, name: name}
	case "notrack":
		return op{kind: opUntrack, name: name}
	case "reject":
		return op{kind: opReject, name: name}
	case "objref":
		return decodeObject(values)
	case "meta", "payload", "ct", "fib", "exthdr", "rt", "socket", "osf", "numgen", "hash", "xfrm", "tunnel":
		return decodeLoad(name, values)
	case "cmp":
		data, _ := nfData(values[unix.NFTA_CMP_DATA])
		return op{kind: opCompare, sreg: register(nftNumber(values[unix.NFTA_CMP_SREG])), compare: nftNumber(values[unix.NFTA_CMP_OP]),
			data: data, length: len(data)}
	case "range":
		first, _ := nfData(values[unix.NFTA_RANGE_FROM_DATA])
		last, _ := nfData(values[unix.NFTA_RANGE_TO_DATA])
		o := op{kind: opRange, sreg: register(nftNumber(values[unix.NFTA_RANGE_SREG])), compare: nftNumber(values[unix.NFTA_RANGE_OP]),
			data: first, last: last, length: len(first)}
		if len(first) != len(last) {
			o.kind = opUnknown
		}
		return o
	case "bitwise":
		return decodeBitwise(values)
	case "byteorder":
		const sreg, dreg, length, size = 1, 2, 4, 5 // NFTA_BYTEORDER_*
		return op{kind: opSwap, sreg: register(nftNumber(values[sreg])), dreg: register(nftNumber(values[dreg])),
			length: int(min(nftNumber(values[length]), registerBytes)), offset: min(nftNumber(values[size]), 8)}
	case "lookup":
		return decodeLookup(t, values)
	case "immediate":
		if _, v := nfData(values[unix.NFTA_IMMEDIATE_DATA]); v != nil {
			return op{kind: opVerdict, verdict: v}
		}
		data, _ := nfData(values[unix.NFTA_IMMEDIATE_DATA])
		return op{kind: opForget, dreg: register(nftNumber(values[unix.NFTA_IMMEDIATE_DREG])), length: len(data)}
	case "match":
		return op{kind: opMatch, name: text(values[unix.NFTA_MATCH_NAME]), revision: nftNumber(values[unix.NFTA_MATCH_REV]),
			info: values[unix.NFTA_MATCH_INFO]}
	case "target":
		o := op{kind: opTarget, name: text(values[unix.NFTA_TARGET_NAME]), revision: nftNumber(values[unix.NFTA_TARGET_REV]),
			info: values[unix.NFTA_TARGET_INFO]}
		if untracks(&o) {
			o.kind = opUntrack
		}
		return o
	}
	return op{name: name}
}

func decodeObject(values map[uint16][]byte) op {
	const counter, helper, limit, quota, connlimit, timeout, secmark, expect = 1, 3, 4, 2, 5, 7, 8, 9
	switch nftNumber(values[unix.NFTA_OBJREF_IMM_TYPE]) {
	case counter, helper, timeout, secmark, expect:
		return op{kind: opNothing}
	case limit, quota, connlimit:
		return op{kind: opPerhaps}
	}
	return op{name: "objref"}
}

// decodeLoad reads an expression that loads something into a register, or that writes what a register holds somewhere.
func decodeLoad(name string, values map[uint16][]byte) op {
	o := op{name: name, dreg: -1}
	const destination = 1 // NFTA_*_DREG of all that is read here in detail
	value, loads := values[destination]
	if loads {
		o.dreg = register(nftNumber(value))
	}
	switch name {
	case "meta":
		o.kind, o.key, o.length = opLoadMeta, nftNumber(values[unix.NFTA_META_KEY]), metaLength(nftNumber(values[unix.NFTA_META_KEY]))
	case "payload":
		o.kind, o.base, o.offset = opLoadPayload, nftNumber(values[unix.NFTA_PAYLOAD_BASE]), nftNumber(values[unix.NFTA_PAYLOAD_OFFSET])
		o.length = int(min(nftNumber(values[unix.NFTA_PAYLOAD_LEN]), registerBytes))
	case "ct":
		o.kind, o.key, o.length = opLoadCt, nftNumber(values[unix.NFTA_CT_KEY]), 16
		switch o.key {
		case unix.NFT_CT_STATE, unix.NFT_CT_STATUS, unix.NFT_CT_MARK:
			o.length = 4
		case unix.NFT_CT_DIRECTION:
			o.length = 1
		}
		o.length = min(o.length, registerBytes-max(o.dreg, 0))
	case "fib":
		o.kind, o.key, o.flags, o.length = opLoadFib, nftNumber(values[unix.NFTA_FIB_RESULT]), nftNumber(values[unix.NFTA_FIB_FLAGS]), 4
		if o.key == unix.NFT_FIB_RESULT_OIFNAME {
			o.length = 16
		}
		if o.flags&unix.NFTA_FIB_F_PRESENT != 0 {
			o.length = 1
		}
	default: // wherever it loads what: nothing is known any more
		return op{kind: opForget, name: name, length: registerBytes}
	}
	switch {
	case loads:
	case name == "payload":
		o.kind = opTranslate // it writes into the packet: its destination, perhaps
	default:
		o.kind = opNothing // it sets a mark or the like
	}
	return o
}

// metaLength is how much of a register meta data fills.
func metaLength(key uint32) int {
	switch key {
	case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME, unix.NFT_META_BRI_IIFNAME, unix.NFT_META_BRI_OIFNAME:
		return unix.IFNAMSIZ
	case unix.NFT_META_NFPROTO, unix.NFT_META_L4PROTO, unix.NFT_META_PKTTYPE, unix.NFT_META_NFTRACE:
		return 1
	case unix.NFT_META_PROTOCOL, unix.NFT_META_IIFTYPE, unix.NFT_META_OIFTYPE:
		return 2
	}
	return 4
}

func decodeBitwise(values map[uint16][]byte) op {
	mask, _ := nfData(values[unix.NFTA_BITWISE_MASK])
	xor, _ := nfData(values[unix.NFTA_BITWISE_XOR])
	o := op{kind: opBitwise, sreg: register(nftNumber(values[unix.NFTA_BITWISE_SREG])), dreg: register(nftNumber(values[unix.NFTA_BITWISE_DREG])),
		mask: mask, data: xor, length: int(min(nftNumber(values[unix.NFTA_BITWISE_LEN]), registerBytes))}
	const operation, byMask = 6, 0 // NFTA_BITWISE_OP, NFT_BITWISE_BOOL
	if nftNumber(values[operation]) != byMask || len(mask) != o.length || len(xor) != o.length {
		o.kind = opForget // a shift, or two registers
	}
	return o
}

func decodeLookup(t *nfTable, values map[uint16][]byte) op {
	name := text(values[unix.NFTA_LOOKUP_SET])
	_, maps := values[unix.NFTA_LOOKUP_DREG]
	o := op{kind: opLookup, sreg: register(nftNumber(values[unix.NFTA_LOOKUP_SREG])), flags: nftNumber(values[unix.NFTA_LOOKUP_FLAGS]),
		set: t.sets[name], setName: name, maps: maps, dreg: -1}
	if maps {
		o.dreg = register(nftNumber(values[unix.NFTA_LOOKUP_DREG])) // -1 for the verdict
	}
	if o.set == nil || o.sreg < 0 || int(o.set.keyLength) > registerBytes-o.sreg {
		o.kind = opUnknown
	}
	return o
}

// native16 and native32 read numbers in the byte order of the host, 0 where there are none.
func native16(data []byte, offset int) uint16 {
	if offset+2 > len(data) {
		return 0
	}
	return binary.NativeEndian.Uint16(data[offset:])
}

func native32(data []byte, offset int) uint32 {
	if offset+4 > len(data) {
		return 0
	}
	return binary.NativeEndian.Uint32(data[offset:])
}
