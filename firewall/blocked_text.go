// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// text writes a rule in words like those of nft, shortened: what is not worth a word is left out, and what has none reads
// "...".
func (r *nfRule) text() string {
	const most = 100
	var words []string
	subject := subjectOf{}
	for i := range r.ops {
		o := &r.ops[i]
		word := ""
		switch o.kind {
		case opLoadMeta, opLoadPayload, opLoadCt, opLoadFib, opForget, opBitwise, opSwap:
			subject.load(o)
		case opCompare, opRange, opLookup:
			word = subject.condition(o)
		case opVerdict:
			word = o.verdict.text()
		case opReject:
			word = "reject"
		case opMatch:
			word = "-m " + o.name
			if o.name == "comment" {
				word = ""
			}
		case opTarget:
			word = o.name
			if targetOf(o) == targetDrops {
				word = strings.ToLower(o.name)
			}
		case opPerhaps, opTake, opTranslate, opUntrack, opUnknown:
			word = o.name
		case opNothing:
		}
		if transport := "l4proto " + subject.transport; subject.transport != "" && strings.HasPrefix(word, subject.transport+" ") {
			words = slices.DeleteFunc(words, func(w string) bool { return w == transport }) // said with the port
		}
		if n := len(words); n > 0 { // a range may be two comparisons
			subject, first, lower := strings.Cut(words[n-1], " >= ")
			if last, both := strings.CutPrefix(word, subject+" <= "); lower && both {
				words[n-1], word = subject+" "+first+"-"+last, ""
			}
		}
		if word != "" {
			words = append(words, word)
		}
	}
	line := []rune(oneLine(strings.Join(words, " ")))
	if len(line) > most {
		line = append(line[:most], []rune("...")...)
	}
	return string(line)
}

// subjectOf remembers what the condition that comes next is about.
type subjectOf struct {
	name      string
	transport string // "tcp" or "udp" once the rule asked for it
	show      func([]byte) string
	states    uint32 // of connection tracking, that were masked out
}

func (s *subjectOf) load(o *op) {
	name, show := "...", hexText
	switch {
	case o.kind == opSwap:
		return
	case o.kind == opBitwise:
		if s.name == "ct state" {
			s.states = native32(o.mask, 0)
			return
		}
		s.name += " masked"
		return
	case o.kind == opLoadMeta:
		name, show = metaName(o.key)
	case o.kind == opLoadCt && o.key == unix.NFT_CT_STATE:
		name, s.states = "ct state", 0
	case o.kind == opLoadCt && o.key == unix.NFT_CT_STATUS:
		name = "ct status"
	case o.kind == opLoadFib && o.key == unix.NFT_FIB_RESULT_ADDRTYPE:
		name, show = "fib saddr type", addressTypeText
		if o.flags&unix.NFTA_FIB_F_DADDR != 0 {
			name = "fib daddr type"
		}
	case o.kind == opLoadFib:
		name = "fib"
	case o.kind == opLoadPayload && o.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && o.length == 2 && o.offset <= 2:
		name, show = s.transport+" sport", numberText
		if s.transport == "" {
			name = "th sport"
		}
		if o.offset == 2 {
			name = strings.Replace(name, "sport", "dport", 1)
		}
	case o.kind == opLoadPayload && o.base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && o.length == 1 && o.offset == 13:
		name = "tcp flags"
	case o.kind == opLoadPayload && o.base == unix.NFT_PAYLOAD_NETWORK_HEADER:
		name, show = addressName(o)
	}
	s.name, s.show = name, show
}

func metaName(key uint32) (string, func([]byte) string) {
	switch key {
	case unix.NFT_META_IIFNAME:
		return "iifname", func(b []byte) string { return strconv.Quote(text(b)) }
	case unix.NFT_META_IIF:
		return "iif", func(b []byte) string { return strconv.Itoa(int(native32(b, 0))) }
	case unix.NFT_META_L4PROTO:
		return "l4proto", protocolText
	case unix.NFT_META_NFPROTO:
		return "nfproto", func(b []byte) string {
			if len(b) == 1 && b[0] == unix.NFPROTO_IPV6 {
				return "ipv6"
			}
			return "ipv4"
		}
	case unix.NFT_META_MARK:
		return "mark", hexText
	case unix.NFT_META_PKTTYPE:
		return "pkttype", hexText
	}
	return "meta", hexText
}

func addressName(o *op) (string, func([]byte) string) {
	address := func(b []byte) string {
		if addr, ok := netip.AddrFromSlice(b); ok {
			return addr.String()
		}
		return hexText(b)
	}
	switch {
	case o.offset == 12 && o.length <= 4:
		return "ip saddr", address
	case o.offset == 16 && o.length <= 4:
		return "ip daddr", address
	case o.offset == 8:
		return "ip6 saddr", address
	case o.offset == 24:
		return "ip6 daddr", address
	}
	return "ip", hexText
}

// condition writes what is compared with the subject.
func (s *subjectOf) condition(o *op) string {
	name, show := s.name, s.show
	if name == "" {
		name, show = "...", hexText
	}
	switch o.kind {
	case opLookup:
		not := ""
		if o.flags&unix.NFT_LOOKUP_F_INV != 0 {
			not = "!= "
		}
		set := "@" + o.setName
		if strings.HasPrefix(o.setName, "__") {
			set = "{...}"
		}
		if o.maps {
			set = "vmap " + set
		}
		return name + " " + not + set
	case opRange:
		not := ""
		if o.compare == unix.NFT_RANGE_NEQ {
			not = "!= "
		}
		return name + " " + not + show(o.data) + "-" + show(o.last)
	default:
	}
	if name == "l4proto" && o.compare == unix.NFT_CMP_EQ {
		if p := show(o.data); p == "tcp" || p == "udp" {
			s.transport = p
		}
	}
	if name == "ct state" && s.states != 0 { // it is compared with zero
		if o.compare == unix.NFT_CMP_EQ {
			name += " !="
		}
		return name + " " + stateText(s.states)
	}
	sign := map[uint32]string{unix.NFT_CMP_NEQ: "!= ", unix.NFT_CMP_LT: "< ", unix.NFT_CMP_LTE: "<= ", unix.NFT_CMP_GT: "> ",
		unix.NFT_CMP_GTE: ">= "}[o.compare]
	return name + " " + sign + show(o.data)
}

func (v *verdict) text() string {
	switch v.code {
	case nfDrop:
		return "drop"
	case nfAccept:
		return "accept"
	case unix.NFT_RETURN:
		return "return"
	case unix.NFT_JUMP:
		return "jump " + v.chain
	case unix.NFT_GOTO:
		return "goto " + v.chain
	}
	return "..."
}

func protocolText(b []byte) string {
	if len(b) == 1 && (Protocol(b[0]) == TCP || Protocol(b[0]) == UDP) {
		return Protocol(b[0]).String()
	}
	return numberText(b)
}

func addressTypeText(b []byte) string {
	switch native32(b, 0) {
	case unix.RTN_UNICAST:
		return "unicast"
	case unix.RTN_LOCAL:
		return "local"
	case unix.RTN_BROADCAST:
		return "broadcast"
	case unix.RTN_MULTICAST:
		return "multicast"
	}
	return "..."
}

func numberText(b []byte) string {
	switch len(b) {
	case 1:
		return strconv.Itoa(int(b[0]))
	case 2:
		return strconv.Itoa(int(binary.BigEndian.Uint16(b)))
	}
	return hexText(b)
}

func hexText(b []byte) string { return fmt.Sprintf("0x%x", b) }

// stateText writes states of connection tracking.
func stateText(states uint32) string {
	var names []string
	for i, name := range []string{"invalid", "established", "related", "new"} {
		if states&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	if states&(1<<6) != 0 {
		names = append(names, "untracked")
	}
	return strings.Join(names, ",")
}
