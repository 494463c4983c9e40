// SPDX-License-Identifier: MPL-2.0

package firewall

import "golang.org/x/sys/unix"

// match tells whether the packet meets a match of xtables. The layouts are those of linux/netfilter/xt_*.h; numbers in
// them are in the byte order of the host. What is not known, or is shorter than it should be, may match.
func (p *packet) match(o *op) truth {
	switch {
	case o.name == "comment":
		return yes
	case o.name == "tcp" && p.protocol == TCP && len(o.info) >= 12:
		return p.matchTCP(o.info)
	case o.name == "udp" && p.protocol == UDP && len(o.info) >= 9:
		return p.matchPorts(o.info, o.info[8])
	case (o.name == "tcp" || o.name == "udp") && o.name != p.protocol.String():
		return no
	case o.name == "multiport" && o.revision == 1 && len(o.info) >= 48:
		return p.matchMultiport(o.info)
	case o.name == "conntrack" && o.revision >= 1 && o.revision <= 3 && len(o.info) >= 154:
		return p.matchConntrack(o.revision, o.info)
	case o.name == "state" && len(o.info) >= 4 && !p.untracked:
		return when(native32(o.info, 0)&stateNew != 0)
	case o.name == "addrtype" && len(o.info) >= 8:
		return p.matchAddrtype(o)
	case o.name == "pkttype" && len(o.info) >= 8:
		host := when(native32(o.info, 0) == unix.PACKET_HOST)
		return negated(host, native32(o.info, 4) != 0)
	}
	return perhaps
}

func negated(t truth, negate bool) truth {
	if negate {
		return t.not()
	}
	return t
}

// matchPorts reads struct xt_udp, which struct xt_tcp begins as: source ports, destination ports. Of the source port
// nothing is known.
func (p *packet) matchPorts(info []byte, inverted byte) truth {
	const source, destination = 1, 2
	to := negated(when(native16(info, 4) <= p.port && p.port <= native16(info, 6)), inverted&destination != 0)
	from := perhaps
	if native16(info, 0) == 0 && native16(info, 2) == 0xffff {
		from = negated(yes, inverted&source != 0)
	}
	return min(from, to)
}

func (p *packet) matchTCP(info []byte) truth {
	const flags, option = 4, 8
	const syn = 0x02
	inverted := info[11]
	matches := p.matchPorts(info, inverted)
	const congestion = 0xc0 // ECE and CWR, which a SYN may bear
	if mask, wanted := info[9], info[10]; mask != 0 {
		same := when(syn&mask == wanted)
		if mask&congestion != 0 {
			same = min(same, perhaps)
		}
		matches = min(matches, negated(same, inverted&flags != 0))
	}
	if info[8] != 0 || inverted&option != 0 {
		matches = min(matches, perhaps)
	}
	return matches
}

// matchMultiport reads struct xt_multiport_v1.
func (p *packet) matchMultiport(info []byte) truth {
	const destination = 1
	count, ports, ranges, invert := int(info[1]), info[2:32], info[32:47], info[47] != 0
	if info[0] != destination || count > 15 {
		return perhaps
	}
	for i := 0; i < count; i++ {
		first := native16(ports, 2*i)
		last := first
		if ranges[i] != 0 && i+1 < count {
			i++
			last = native16(ports, 2*i)
		}
		if first <= p.port && p.port <= last {
			return negated(yes, invert)
		}
	}
	return negated(no, invert)
}

// matchConntrack reads struct xt_conntrack_mtinfo1 to 3 as far as the state of the connection is asked for.
func (p *packet) matchConntrack(revision uint32, info []byte) truth {
	const state, sourceNAT, destinationNAT = 1, 1 << 6, 1 << 7
	wanted, inverted, mask := native16(info, 146), native16(info, 148), uint16(info[150])
	if revision > 1 {
		mask = native16(info, 150)
	}
	matches := yes
	if wanted&^state != 0 {
		matches = perhaps
	}
	if wanted&state == 0 || p.untracked {
		return min(matches, perhaps)
	}
	in := when(mask&stateNew != 0)
	if in == no && mask&(sourceNAT|destinationNAT) != 0 && p.legacyNAT {
		in = perhaps
	}
	return min(matches, negated(in, inverted&state != 0))
}

// matchAddrtype reads struct xt_addrtype_info and struct xt_addrtype_info_v1: the kinds of source and destination.
func (p *packet) matchAddrtype(o *op) truth {
	const invertSource, invertDestination, limited = 1, 2, 4 | 8
	source, destination := native16(o.info, 0), native16(o.info, 2)
	flags := native32(o.info, 4)
	if o.revision == 0 {
		if len(o.info) < 12 {
			return perhaps
		}
		flags = 0
		if native32(o.info, 4) != 0 {
			flags |= invertSource
		}
		if native32(o.info, 8) != 0 {
			flags |= invertDestination
		}
	}
	matches := yes
	if destination != 0 {
		matches = negated(when(destination&(1<<unix.RTN_LOCAL) != 0), flags&invertDestination != 0)
	}
	if source != 0 || flags&limited != 0 {
		matches = min(matches, perhaps)
	}
	return matches
}

// targetKind is what a target of xtables does with a packet.
type targetKind uint8

const (
	targetUnknown targetKind = iota // it may let the packet go, or not
	targetContinues
	targetDrops
	targetTranslates
)

func targetOf(o *op) targetKind {
	switch o.name {
	case "REJECT", "DROP", "TARPIT", "DELUDE":
		return targetDrops
	case "DNAT", "REDIRECT", "NETMAP", "TPROXY", "DNPT":
		return targetTranslates
	case "LOG", "NFLOG", "ULOG", "AUDIT", "TRACE", "MARK", "CONNMARK", "CT", "TCPMSS", "CHECKSUM", "SET", "CLASSIFY",
		"DSCP", "TOS", "TTL", "HL", "SECMARK", "CONNSECMARK", "RATEEST", "IDLETIMER", "TEE", "LED":
		return targetContinues
	}
	return targetUnknown
}

// untracks tells whether a target exempts packets from connection tracking: NOTRACK, and CT with the first of its flags.
func untracks(o *op) bool {
	return o.name == "NOTRACK" || o.name == "CT" && (len(o.info) < 2 || native16(o.info, 0)&1 != 0)
}
