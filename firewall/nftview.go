// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftTableOwner is NFTA_TABLE_OWNER; the others are the flags NFT_TABLE_F_DORMANT, which puts all of a table to sleep,
// NFT_TABLE_F_OWNER (Linux 5.12) and NFT_TABLE_F_PERSIST (6.9).
const (
	nftTableOwner = 7
	nftDormant    = 1
	nftOwner      = 2
	nftPersist    = 4
)

// nftRequest asks nf_tables for something, again and again while what is asked for changes under the answer.
func nftRequest(family uint8, command, flags int, attributes []byte) ([][]byte, error) {
	const tries = 20
	var err error
	for range tries {
		r := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|command, flags)
		r.AddRawData(append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attributes...))
		var answer [][]byte
		answer, err = r.Execute(unix.NETLINK_NETFILTER, 0)
		switch {
		case err == nil:
			return slices.DeleteFunc(answer, func(m []byte) bool { return len(m) < nl.SizeofNfgenmsg }), nil
		case errors.Is(err, unix.EPERM):
			return nil, ErrPermission
		case !interrupted(err):
			return nil, err
		}
	}
	return nil, fmt.Errorf("it changed under each of %d looks: %w", tries, err)
}

// interrupted tells whether a listing has to be asked for once more.
func interrupted(err error) bool {
	return errors.Is(err, nl.ErrDumpInterrupted) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENOBUFS)
}

// readNative reads the native table, whole and as it was at one instant, where others leave the time for that; otherwise
// its generation is unknown.
func (rules *nativeRules) readNative() (*nativeView, error) {
	const tries = 4
	for try := 1; ; try++ {
		before, err := nftGeneration()
		if err != nil {
			return nil, err
		}
		v := &nativeView{}
		err = v.read(rules)
		if errors.Is(err, unix.ENOENT) && try < tries { // something of it went away meanwhile
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("cannot list table %s: %w", nativeTitle, err)
		}
		after, err := nftGeneration()
		switch {
		case err != nil:
			return nil, err
		case before == after:
			v.generation = after
			return v, nil
		case try >= tries:
			return v, nil
		}
	}
}

// readTable reads the table alone, without what is in it.
func (v *nativeView) readTable() error {
	answer, err := nftRequest(unix.NFPROTO_INET, unix.NFT_MSG_GETTABLE, 0, appendText(nil, unix.NFTA_TABLE_NAME, nativeName))
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, message := range answer {
		v.exists = true
		for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
			switch {
			case len(value) < 4:
			case kind == unix.NFTA_TABLE_FLAGS:
				v.flags = binary.BigEndian.Uint32(value)
			case kind == unix.NFTA_TABLE_USE:
				v.uses = binary.BigEndian.Uint32(value)
			case kind == nftTableOwner:
				v.owner = binary.BigEndian.Uint32(value)
			}
		}
	}
	return nil
}

func (v *nativeView) read(rules *nativeRules) error {
	if err := v.readTable(); err != nil || !v.exists {
		return err
	}
	if err := v.readChains(); err != nil {
		return err
	}
	if err := v.readRules(rules); err != nil {
		return err
	}
	answer, err := nftRequest(unix.NFPROTO_INET, unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, appendText(nil, unix.NFTA_SET_TABLE, nativeName))
	if err != nil {
		return err
	}
	for _, message := range answer {
		s := parseNativeSet(message)
		if slices.Contains(nativeSets(), s.name) { // what is in others plays no part
			if err := s.readMembers(); err != nil {
				return err
			}
		}
		v.sets = append(v.sets, s)
	}
	rank := func(s nativeSet) int { // ours come first
		if i := slices.Index(nativeSets(), s.name); i >= 0 {
			return i
		}
		return len(nativeSets())
	}
	slices.SortStableFunc(v.sets, func(a, b nativeSet) int { return rank(a) - rank(b) })
	slices.SortStableFunc(v.chains, func(a, b nativeChain) int { return strings.Compare(b.name, a.name) }) // prerouting first
	return nil
}

func (v *nativeView) readChains() error {
	answer, err := nftRequest(unix.NFPROTO_INET, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil)
	if err != nil {
		return err
	}
	for _, message := range answer {
		var c nativeChain
		ours := false
		for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
			switch kind {
			case unix.NFTA_CHAIN_TABLE:
				ours = unix.ByteSliceToString(value) == nativeName
			case unix.NFTA_CHAIN_NAME:
				c.name = oneLine(unix.ByteSliceToString(value))
			case unix.NFTA_CHAIN_TYPE:
				c.kind = oneLine(unix.ByteSliceToString(value))
			case unix.NFTA_CHAIN_POLICY:
				c.policy = nftNumber(value)
			case unix.NFTA_CHAIN_HOOK:
				c.based = true
				for kind, value := range attributes(value) {
					switch kind {
					case unix.NFTA_HOOK_HOOKNUM:
						c.hook = nftNumber(value)
					case unix.NFTA_HOOK_PRIORITY:
						c.priority = int32(nftNumber(value))
					}
				}
			}
		}
		if ours {
			v.chains = append(v.chains, c)
		}
	}
	return nil
}

// anyTable stands for the name of a table.
const anyTable = ""

// nftMayHave tells whether a table of iptables in nf_tables has a chain of one of these names. It is asked before a program
// is started that would list the table, and where that cannot be known the answer is yes.
func nftMayHave(family Family, table string, chain func(name string) bool) bool {
	number := uint8(unix.NFPROTO_IPV4)
	if family == IPv6 {
		number = unix.NFPROTO_IPV6
	}
	answer, err := nftRequest(number, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil)
	for _, message := range answer {
		here, named := false, false
		for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
			switch kind {
			case unix.NFTA_CHAIN_TABLE:
				here = table == anyTable || unix.ByteSliceToString(value) == table
			case unix.NFTA_CHAIN_NAME:
				named = chain(unix.ByteSliceToString(value))
			}
		}
		if here && named {
			return true
		}
	}
	return err != nil
}

// nftNumber reads a number of 32 bits; what is too short for one is 0.
func nftNumber(value []byte) uint32 {
	if len(value) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(value)
}

func (v *nativeView) readRules(rules *nativeRules) error {
	answer, err := nftRequest(unix.NFPROTO_INET, unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, appendText(nil, unix.NFTA_RULE_TABLE, nativeName))
	if err != nil {
		return err
	}
	for _, message := range answer {
		var chain, table string
		var r nativeRule
		for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
			switch kind {
			case unix.NFTA_RULE_TABLE:
				table = unix.ByteSliceToString(value)
			case unix.NFTA_RULE_CHAIN:
				chain = oneLine(unix.ByteSliceToString(value))
			case unix.NFTA_RULE_EXPRESSIONS:
				r.code, r.packets = nftCode(value)
				r.text = rules.text(r.code)
			}
		}
		if c := v.chain(chain); c != nil && table == nativeName {
			c.rules = append(c.rules, r)
		}
	}
	return nil
}

func parseNativeSet(message []byte) nativeSet {
	var s nativeSet
	for kind, value := range attributes(message[nl.SizeofNfgenmsg:]) {
		switch kind {
		case unix.NFTA_SET_NAME:
			s.name = oneLine(unix.ByteSliceToString(value))
		case unix.NFTA_SET_FLAGS:
			s.flags = nftNumber(value)
		case unix.NFTA_SET_KEY_TYPE:
			s.keyType = nftNumber(value)
		case unix.NFTA_SET_KEY_LEN:
			s.keySize = nftNumber(value)
		}
	}
	return s
}

// readMembers reads the members of a set of ours. A listing of a large hash table leaves out members that the kernel moves
// meanwhile, as it does a moment after the table grew (seen with 6.18). None is invented, so such a set is listed until
// a listing has nothing new.
func (s *nativeSet) readMembers() error {
	const most = 20
	for range most {
		before := s.ports
		if err := s.readElements(); err != nil {
			return err
		}
		if s.flags&unix.NFT_SET_EVAL == 0 || s.ports == before {
			return nil
		}
	}
	return nil
}

// readElements reads the members of a set of ours, as far as its type is one of ours.
func (s *nativeSet) readElements() error {
	attributesOf := appendText(appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, nativeName), unix.NFTA_SET_ELEM_LIST_SET, s.name)
	answer, err := nftRequest(unix.NFPROTO_INET, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, attributesOf)
	if err != nil {
		return err
	}
	var bounds []bound
	for _, message := range answer {
		for kind, list := range attributes(message[nl.SizeofNfgenmsg:]) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, element := range attributes(list) {
				bounds = append(bounds, s.parseElement(element)...)
			}
		}
	}
	s.join(bounds)
	return nil
}

// bound is where a run of addresses begins, or where it has ended.
type bound struct {
	at  netip.Addr
	end bool
}

// parseElement takes in a port, or returns the bound that it is. What is neither makes the set odd, such as the element
// that stands for everything.
func (s *nativeSet) parseElement(element []byte) []bound {
	var key []byte
	flags := uint32(0)
	for kind, value := range attributes(element) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			for _, data := range attributes(value) {
				key = data
			}
		case unix.NFTA_SET_ELEM_FLAGS:
			flags = nftNumber(value)
		case unix.NFTA_SET_ELEM_TIMEOUT, unix.NFTA_SET_ELEM_EXPIRATION:
			s.odd = true
		}
	}
	address, isAddress := netip.AddrFromSlice(key)
	switch {
	case s.keyType == nftTypeService && len(key) == 2 && flags == 0:
		s.ports.Add(binary.BigEndian.Uint16(key))
	case (s.keyType == nftTypeIPv4 || s.keyType == nftTypeIPv6) && isAddress && flags&^unix.NFT_SET_ELEM_INTERVAL_END == 0:
		return []bound{{address, flags != 0}}
	default:
		s.odd = true
	}
	return nil
}

// join makes runs of addresses out of their bounds. An end at the lowest address, which nft likes to add, ends nothing; a
// run without an end goes on to the highest one.
func (s *nativeSet) join(bounds []bound) {
	slices.SortFunc(bounds, func(a, b bound) int {
		switch c := a.at.Compare(b.at); {
		case c != 0:
			return c
		case a.end == b.end:
			return 0
		case a.end:
			return -1
		}
		return 1
	})
	var first netip.Addr
	for _, b := range bounds {
		switch {
		case !b.end && first.IsValid():
			s.odd = true
		case !b.end:
			first = b.at
		case first.IsValid():
			s.runs = append(s.runs, addressRun{first, b.at.Prev()})
			first = netip.Addr{}
		case !b.at.IsUnspecified():
			s.odd = true
		}
	}
	if first.IsValid() {
		s.runs = append(s.runs, addressRun{first, lastAddress(netip.PrefixFrom(first, 0).Masked())})
	}
}
