// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The rules are read and decoded here and not by package nftables, because that leaves expressions out that it does not
// know: a rule without one of its conditions reads as one that matches more.

// nfRuleset is what nf_tables holds of chains that see packets for the host, with everything that they lead to.
type nfRuleset struct {
	tables map[nfKey]*nfTable
	base   []*nfChain // of hooks prerouting and input, in the order of hook, priority and name
	// untracked tells that some rule exempts packets from connection tracking.
	untracked bool
}

// nfKey names a table.
type nfKey struct {
	family uint8
	name   string
}

// has tells whether there is a set of that name.
func (s *nfRuleset) has(name SetName) bool {
	table := s.tables[nfKey{name.family(), name.Table}]
	return table != nil && table.sets[name.Set] != nil
}

type nfTable struct {
	key     nfKey
	dormant bool
	owner   uint32 // netlink port of the process that owns the table, 0 for none
	chains  map[string]*nfChain
	sets    map[string]*nfSet
}

type nfChain struct {
	table    *nfTable
	name     string
	base     bool
	nat      bool
	hook     uint32
	priority int32
	drops    bool // the policy, of a base chain
	rules    []*nfRule

	// Of the walk that looked at the chain last.
	walk    uint64
	walking bool
	fate    fate
}

type nfRule struct{ ops []op }

// nfSet is a set or map. Its elements are read when a rule needs them.
type nfSet struct {
	table     nfKey
	name      string
	flags     uint32
	keyType   uint32
	keyLength uint32
	dataType  uint32
	fields    []int // lengths of a concatenation's parts

	read     bool
	elements []element
}

// element is one element, or an interval of them from key to last.
type element struct {
	key, last []byte
	everybody bool // stands for what no other element does
	doubtful  bool // a limit or the like decides whether it matches
	verdict   *verdict
}

// verdict is what a rule does with a packet.
type verdict struct {
	code  int32
	chain string
}

// maxElements is how many elements of one set are looked at; a larger one is not understood, so it may match.
const maxElements = 1 << 17

// nfMessages calls take with the family and the attributes of each message of a dump.
func nfMessages(ctx context.Context, command int, take func(family uint8, attributes []byte)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	messages, err := nftRequest(unix.AF_UNSPEC, command, unix.NLM_F_DUMP, nil)
	if err != nil {
		return err
	}
	for _, m := range messages {
		take(m[0], m[nl.SizeofNfgenmsg:])
	}
	return nil
}

// readRuleset reads all but the elements of sets.
func readRuleset(ctx context.Context) (*nfRuleset, error) {
	s := &nfRuleset{tables: map[nfKey]*nfTable{}}
	for _, step := range []struct {
		command int
		what    string
		take    func(uint8, []byte)
	}{
		{unix.NFT_MSG_GETTABLE, "tables", s.addTable},
		{unix.NFT_MSG_GETCHAIN, "chains", s.addChain},
		{unix.NFT_MSG_GETSET, "sets", s.addSet},
		{unix.NFT_MSG_GETRULE, "rules", s.addRule},
	} {
		if err := nfMessages(ctx, step.command, step.take); err != nil {
			return nil, fmt.Errorf("cannot list the %s of nf_tables: %w", step.what, err)
		}
	}
	for _, t := range s.tables {
		for _, c := range t.chains {
			if c.base && !t.dormant {
				s.base = append(s.base, c)
			}
		}
	}
	slices.SortFunc(s.base, (*nfChain).compare)
	return s, nil
}

func (s *nfRuleset) addTable(family uint8, message []byte) {
	t := &nfTable{key: nfKey{family: family}, chains: map[string]*nfChain{}, sets: map[string]*nfSet{}}
	for kind, value := range attributes(message) {
		switch kind {
		case unix.NFTA_TABLE_NAME:
			t.key.name = text(value)
		case unix.NFTA_TABLE_FLAGS:
			t.dormant = nftNumber(value)&unix.NFT_TABLE_F_DORMANT != 0
		case nftaTableOwner:
			t.owner = nftNumber(value)
		}
	}
	s.tables[t.key] = t
}

func (s *nfRuleset) addChain(family uint8, message []byte) {
	c := &nfChain{}
	table, kindOfChain := "", ""
	hooked := false
	for kind, value := range attributes(message) {
		switch kind {
		case unix.NFTA_CHAIN_TABLE:
			table = text(value)
		case unix.NFTA_CHAIN_NAME:
			c.name = text(value)
		case unix.NFTA_CHAIN_POLICY:
			c.drops = nftNumber(value) == nfDrop
		case unix.NFTA_CHAIN_TYPE:
			kindOfChain = text(value)
		case unix.NFTA_CHAIN_HOOK:
			hooked = true
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
	c.table = s.tables[nfKey{family, table}]
	if c.table == nil {
		return
	}
	ip := family == unix.NFPROTO_INET || family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6
	c.base = hooked && ip && (c.hook == unix.NF_INET_PRE_ROUTING || c.hook == unix.NF_INET_LOCAL_IN)
	c.nat = kindOfChain == "nat"
	c.table.chains[c.name] = c
}

func (s *nfRuleset) addSet(family uint8, message []byte) {
	set := &nfSet{table: nfKey{family: family}}
	for kind, value := range attributes(message) {
		switch kind {
		case unix.NFTA_SET_TABLE:
			set.table.name = text(value)
		case unix.NFTA_SET_NAME:
			set.name = text(value)
		case unix.NFTA_SET_FLAGS:
			set.flags = nftNumber(value)
		case unix.NFTA_SET_KEY_TYPE:
			set.keyType = nftNumber(value)
		case unix.NFTA_SET_KEY_LEN:
			set.keyLength = nftNumber(value)
		case unix.NFTA_SET_DATA_TYPE:
			set.dataType = nftNumber(value)
		case unix.NFTA_SET_DESC:
			set.fields = concatenated(value)
		}
	}
	if t := s.tables[set.table]; t != nil {
		t.sets[set.name] = set
	}
}

// concatenated reads the lengths of a key's parts out of a set's description.
func concatenated(description []byte) (lengths []int) {
	for kind, value := range attributes(description) {
		if kind != nftaSetDescConcat {
			continue
		}
		for _, field := range attributes(value) {
			for kind, value := range attributes(field) {
				if kind == nftaSetFieldLen {
					lengths = append(lengths, int(nftNumber(value)))
				}
			}
		}
	}
	return lengths
}

func (s *nfRuleset) addRule(family uint8, message []byte) {
	var table, chain string
	var expressions []byte
	for kind, value := range attributes(message) {
		switch kind {
		case unix.NFTA_RULE_TABLE:
			table = text(value)
		case unix.NFTA_RULE_CHAIN:
			chain = text(value)
		case unix.NFTA_RULE_EXPRESSIONS:
			expressions = value
		}
	}
	t := s.tables[nfKey{family, table}]
	if t == nil || t.chains[chain] == nil {
		return
	}
	rule := &nfRule{}
	for _, expression := range attributes(expressions) {
		o := decodeOp(t, expression)
		s.untracked = s.untracked || o.kind == opUntrack
		rule.ops = append(rule.ops, o)
	}
	t.chains[chain].rules = append(t.chains[chain].rules, rule)
}

func (c *nfChain) compare(other *nfChain) int {
	for _, d := range []int64{
		int64(c.hook) - int64(other.hook), int64(c.priority) - int64(other.priority),
		int64(c.table.key.family) - int64(other.table.key.family),
		int64(strings.Compare(c.table.key.name, other.table.key.name)), int64(strings.Compare(c.name, other.name)),
	} {
		if d != 0 {
			return int(max(-1, min(1, d)))
		}
	}
	return 0
}

// load reads the elements of a set, once.
func (s *nfSet) load() error {
	if s.read {
		return nil
	}
	of := appendText(nil, unix.NFTA_SET_ELEM_LIST_TABLE, s.table.name)
	of = appendText(of, unix.NFTA_SET_ELEM_LIST_SET, s.name)
	messages, err := nftRequest(s.table.family, unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, of)
	if err != nil {
		return fmt.Errorf("cannot list the elements of set %q: %w", oneLine(s.name), err)
	}
	var all []rawElement
	for _, m := range messages {
		for kind, value := range attributes(m[nl.SizeofNfgenmsg:]) {
			if kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			for _, item := range attributes(value) {
				if len(all) < maxElements {
					all = append(all, s.parse(item))
				}
			}
		}
	}
	if len(all) == maxElements {
		all = []rawElement{{element: element{everybody: true, doubtful: true}}}
	}
	s.elements, s.read = s.spans(all), true
	return nil
}

// rawElement is an element as the kernel lists it: of intervals, each end is one.
type rawElement struct {
	element
	end bool
}

func (s *nfSet) parse(item []byte) rawElement {
	var e rawElement
	for kind, value := range attributes(item) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			e.key, _ = nfData(value)
		case nftaSetElemKeyEnd:
			e.last, _ = nfData(value)
		case unix.NFTA_SET_ELEM_DATA:
			_, e.verdict = nfData(value)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.end = nftNumber(value)&unix.NFT_SET_ELEM_INTERVAL_END != 0
			e.everybody = nftNumber(value)&nftSetElemCatchall != 0
		case unix.NFTA_SET_ELEM_EXPR, nftaSetElemExpressions:
			e.doubtful = true
		}
	}
	return e
}

// spans puts the ends of intervals together.
func (s *nfSet) spans(all []rawElement) []element {
	var elements []element
	if s.flags&unix.NFT_SET_INTERVAL == 0 || len(s.fields) > 1 {
		for _, e := range all {
			if e.last == nil {
				e.last = e.key
			}
			elements = append(elements, e.element)
		}
		return elements
	}
	slices.SortStableFunc(all, func(a, b rawElement) int {
		if d := bytes.Compare(a.key, b.key); d != 0 || a.end == b.end {
			return d
		}
		if a.end { // what ends where another begins is over first
			return -1
		}
		return 1
	})
	begun := -1 // in elements
	for _, e := range all {
		if e.everybody {
			elements = append(elements, e.element)
			continue
		}
		if begun >= 0 {
			elements[begun].last = before(e.key)
			begun = -1
		}
		if !e.end {
			e.last = bytes.Repeat([]byte{0xff}, len(e.key))
			elements = append(elements, e.element)
			begun = len(elements) - 1
		}
	}
	return elements
}

// before returns the number below key.
func before(key []byte) []byte {
	below := bytes.Clone(key)
	for i := len(below) - 1; i >= 0; i-- {
		below[i]--
		if below[i] != 0xff {
			break
		}
	}
	return below
}

// nfData reads NFTA_DATA_*: a value or a verdict.
func nfData(data []byte) ([]byte, *verdict) {
	for kind, value := range attributes(data) {
		switch kind {
		case unix.NFTA_DATA_VALUE:
			return value, nil
		case unix.NFTA_DATA_VERDICT:
			v := &verdict{code: nfDrop}
			for kind, value := range attributes(value) {
				switch kind {
				case unix.NFTA_VERDICT_CODE:
					v.code = int32(nftNumber(value))
				case unix.NFTA_VERDICT_CHAIN:
					v.chain = text(value)
				}
			}
			return nil, v
		}
	}
	return nil, nil
}

// Numbers of linux/netfilter/nf_tables.h that package unix does not have.
const (
	nfDrop, nfAccept       = 0, 1
	nftaTableOwner         = 7
	nftaSetDescConcat      = 2
	nftaSetFieldLen        = 1
	nftaSetElemKeyEnd      = 10
	nftaSetElemExpressions = 11
	nftSetElemCatchall     = 2
)

// text reads a string attribute.
func text(value []byte) string { return string(bytes.TrimRight(value, "\x00")) }
