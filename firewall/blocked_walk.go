// SPDX-License-Identifier: MPL-2.0

package firewall

import "golang.org/x/sys/unix"

// fate is what can become of a packet in a chain.
type fate struct {
	passes     bool    // it may be accepted, or taken away to where nothing here is known of
	falls      bool    // it may come to the chain's end, or return from it
	translated bool    // it may get another destination
	by         *nfRule // the last rule that may drop it
}

// walker follows one packet through rules. What is not known of it goes both ways.
type walker struct {
	packet packet
	number uint64 // of the walk: in each, a chain is followed once
	depth  int
	err    error // of reading a set
}

// deepest is more than the jumps that the kernel allows.
const deepest = 32

// chain follows the packet through a chain.
func (w *walker) chain(c *nfChain) fate {
	switch {
	case c == nil || c.walking || w.depth >= deepest:
		return fate{passes: true, falls: true} // the kernel would not have it
	case c.walk == w.number:
		return c.fate
	case c.iptables() && ourChain(c.name):
		return fate{falls: true} // what it drops is what hostagent wants closed
	case w.opens(c):
		return fate{passes: true}
	}
	w.depth++
	c.walking = true
	var out fate
	ended := false
	for _, rule := range c.rules {
		if ended = w.rule(rule, c.table, &out); ended {
			break
		}
	}
	out.falls = out.falls || !ended
	c.walking = false
	w.depth--
	c.walk, c.fate = w.number, out
	return out
}

// opens tells whether our accept rule stands, or would stand, at the head of a chain and lets the packet in.
func (w *walker) opens(c *nfChain) bool {
	opened := w.packet.opened
	return opened != nil && !opened.None && w.packet.protocol == TCP &&
		c.iptables() && c.table.key.name == filterTable && c.name == opened.parent()
}

// iptables tells whether a chain is one of iptables-nft.
func (c *nfChain) iptables() bool {
	if f := c.table.key.family; f != unix.NFPROTO_IPV4 && f != unix.NFPROTO_IPV6 {
		return false
	}
	switch c.table.key.name {
	case filterTable, mangleTable, natTable, "raw", "security":
		return true
	}
	return false
}

// rule applies one rule and tells whether the packet certainly goes no further in its chain.
func (w *walker) rule(rule *nfRule, t *nfTable, out *fate) (ended bool) {
	r := registers{bridges: w.packet.bridges}
	matches := yes
	for i := range rule.ops {
		o := &rule.ops[i]
		switch o.kind {
		case opLookup:
			matches = min(matches, w.lookup(rule, t, o, &r, matches, out, &ended))
			if ended {
				return true
			}
		case opVerdict:
			return w.verdict(rule, t, o.verdict, matches, out)
		case opReject:
			out.by = rule
			return matches == yes
		case opTake, opTranslate:
			out.passes, out.translated = true, out.translated || o.kind == opTranslate
			return matches == yes
		case opTarget:
			switch targetOf(o) {
			case targetDrops:
				out.by = rule
				return matches == yes
			case targetTranslates:
				out.passes, out.translated = true, true
				return matches == yes
			case targetUnknown:
				out.passes = true
			default:
			}
		case opUnknown:
			out.passes, matches = true, min(matches, perhaps)
		default:
			matches = min(matches, w.packet.condition(o, &r))
		}
		if matches == no {
			return false
		}
	}
	return false
}

// condition loads a register, or tells whether the packet meets a condition.
func (p *packet) condition(o *op, r *registers) truth {
	switch o.kind {
	case opLoadMeta:
		p.meta(r, o)
	case opLoadPayload:
		p.payload(r, o)
	case opLoadCt:
		p.ct(r, o)
	case opLoadFib:
		p.fib(r, o)
	case opForget:
		r.set(o.dreg, o.length, nil, nil, plain)
	case opBitwise:
		r.bitwise(o)
	case opSwap:
		r.swap(o)
	case opCompare:
		return r.compare(o)
	case opRange:
		inside := r.within(o.sreg, o.data, o.last)
		if o.compare == unix.NFT_RANGE_NEQ {
			return inside.not()
		}
		return inside
	case opMatch:
		return p.match(o)
	case opPerhaps:
		return perhaps
	default:
	}
	return yes
}

// verdict does what a rule says with a packet that matches it, and tells whether that ends its way through the chain.
func (w *walker) verdict(rule *nfRule, t *nfTable, v *verdict, matches truth, out *fate) (ended bool) {
	certain := matches == yes
	switch v.code {
	case nfDrop:
		out.by = rule
		return certain
	case unix.NFT_RETURN:
		out.falls = true
		return certain
	case unix.NFT_JUMP, unix.NFT_GOTO:
		there := w.chain(t.chains[v.chain])
		out.passes, out.translated = out.passes || there.passes, out.translated || there.translated
		if there.by != nil {
			out.by = there.by
		}
		if v.code == unix.NFT_GOTO { // what returns from there returns from here
			out.falls = out.falls || there.falls
			return certain
		}
		return certain && !there.falls
	case unix.NFT_CONTINUE, unix.NFT_BREAK:
		return false
	}
	out.passes = true // accepted, or queued for a program
	return certain
}

// lookup tells whether the packet is in a set. Of a map of verdicts it follows each that may be the packet's.
func (w *walker) lookup(rule *nfRule, t *nfTable, o *op, r *registers, matches truth, out *fate, ended *bool) truth {
	if p := &w.packet.published; o.setName == p.Set && t.key.name == p.Table && t.key.family == p.family() && p.Set != "" {
		return negated(perhaps, o.flags&unix.NFT_LOOKUP_F_INV != 0) // what is asked for may be the source port, say
	}
	if !w.readable(o, r) {
		if o.maps && o.dreg < 0 {
			out.passes = true
		} else if o.maps {
			r.set(o.dreg, registerBytes-o.dreg, nil, nil, plain)
		}
		return perhaps
	}
	found, others := no, yes // others: it may be none of those before
	for i := range o.set.elements {
		e := &o.set.elements[i]
		if e.everybody {
			continue
		}
		in := w.within(o, r, e)
		if in == no {
			continue
		}
		found, others = max(found, in), min(others, in.not())
		if e.verdict != nil && o.dreg < 0 && o.maps {
			if w.verdict(rule, t, e.verdict, min(matches, in), out) {
				*ended = true
				return yes
			}
			if in == yes && matches == yes {
				return no // this was its verdict, and it goes on with the next rule
			}
		}
	}
	for i := range o.set.elements {
		if e := &o.set.elements[i]; e.everybody && others != no {
			in := others
			if e.doubtful {
				in = min(in, perhaps)
			}
			found = max(found, in)
			if e.verdict != nil && o.dreg < 0 && o.maps && w.verdict(rule, t, e.verdict, min(matches, in), out) {
				*ended = true
				return yes
			}
		}
	}
	switch {
	case o.maps && o.dreg < 0:
		return no // whatever the verdict was, the rule has no more to say
	case o.maps:
		r.set(o.dreg, registerBytes-o.dreg, nil, nil, plain)
	case o.flags&unix.NFT_LOOKUP_F_INV != 0:
		return found.not()
	}
	return found
}

// readable reads the elements of the set where they can tell anything: members that come and go by themselves, and sets
// of what is not known of the packet (a blocklist has a hundred thousand sources), are left alone.
func (w *walker) readable(o *op, r *registers) bool {
	const changing = unix.NFT_SET_EVAL | unix.NFT_SET_TIMEOUT
	if o.set.flags&changing != 0 {
		return false
	}
	if !o.set.read {
		if !r.tells(o.sreg, int(o.set.keyLength), o.set.flags&unix.NFT_SET_ANONYMOUS != 0) && !o.maps {
			return false
		}
		if err := o.set.load(); err != nil {
			w.err = err
			return false
		}
	}
	return true
}

// tells tells whether anything is known of length bytes at a place. Which addresses a host can have is worth a look into
// the short sets that stand in rules.
func (r *registers) tells(at, length int, short bool) bool {
	for i := range length {
		s := r.sorts[(at+i)/4]
		if r.known[at+i] != 0 || i%4 == 0 && (s == ifaceName || s == ifaceIndex || s == ifaceType || s != plain && short) {
			return true
		}
	}
	return false
}

// within tells whether the packet is in an element.
func (w *walker) within(o *op, r *registers, e *element) truth {
	in := yes
	if len(o.set.fields) > 1 && len(e.last) == len(e.key) {
		at := 0
		for _, length := range o.set.fields {
			if length < 1 || at+length > len(e.key) {
				return perhaps
			}
			in = min(in, r.within(o.sreg+at, e.key[at:at+length], e.last[at:at+length]))
			at += (length + 3) &^ 3
		}
	} else {
		in = r.within(o.sreg, e.key, e.last)
	}
	if e.doubtful {
		in = min(in, perhaps)
	}
	return in
}
