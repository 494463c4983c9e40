// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Redirect is a port of the host that takes what the network sends to others, as a transparent proxy's inbound port does.
type Redirect struct {
	Family Family
	To     uint16
	// Ports are those of which it is sure: whatever TCP the network sends there ends at To.
	Ports PortSet
}

// Redirects returns where REDIRECT rules of table nat send TCP from the network to the host, of both variants together,
// by family and port. It reads what Published reads, under the same terms, and remembers it as Published does.
//
// It is the careful side of Published: a rule whose conditions are more than a protocol, ports, a local destination or
// not to come from lo may match and may not, so that ports stay out for which it would matter. Beside an error it returns
// the families that could be read.
func (f *Firewall) Redirects(ctx context.Context) ([]Redirect, error) {
	nat, err := f.readNAT(ctx)
	return slices.Clone(nat.redirects), err
}

// natOutcome is what may become of the packets that the network sends to the host, by port: several things, where rules have
// conditions that are not judged here.
type natOutcome struct {
	redirected map[uint16]PortSet // by where to
	elsewhere  PortSet            // another rule of table nat has the last word
	untouched  PortSet            // no rule of table nat bears on them
}

// sure returns the ports that surely end at each port, of the outcomes in the variants of one family. Either may meet a packet
// first, and the first to translate it has the last word.
func sure(outcomes []natOutcome) map[uint16]PortSet {
	var elsewhere PortSet
	untouched := allPorts() // by all of them
	to := map[uint16]PortSet{}
	for _, o := range outcomes {
		elsewhere, untouched = elsewhere.Union(o.elsewhere), untouched.Intersect(o.untouched)
		for port, ports := range o.redirected {
			to[port] = to[port].Union(ports)
		}
	}
	found := map[uint16]PortSet{}
	for port, ports := range to {
		ports = ports.Minus(elsewhere).Minus(untouched)
		for other, others := range to {
			if other != port {
				ports = ports.Minus(others)
			}
		}
		if ports != (PortSet{}) {
			found[port] = ports
		}
	}
	return found
}

func allPorts() PortSet {
	var all PortSet
	all.AddRange(1, 65535)
	return all
}

// redirectsOf puts the tables nat of each family together.
func redirectsOf(tables map[Family][]*table) []Redirect {
	var all []Redirect
	for family, variants := range tables {
		if !slices.ContainsFunc(variants, (*table).redirects) {
			continue // there may be thousands of other rules
		}
		var outcomes []natOutcome
		for _, t := range variants {
			outcomes = append(outcomes, t.natOutcome())
		}
		for to, ports := range sure(outcomes) {
			all = append(all, Redirect{Family: family, To: to, Ports: ports})
		}
	}
	slices.SortFunc(all, func(a, b Redirect) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.To, b.To))
	})
	return all
}

func (t *table) redirects() bool {
	for _, rules := range t.rules {
		if slices.ContainsFunc(rules, func(rule listedRule) bool { return slices.Contains(rule.words, "REDIRECT") }) {
			return true
		}
	}
	return false
}

// natOutcome follows the rules of table nat from PREROUTING.
func (t *table) natOutcome() natOutcome {
	r := &redirector{table: t, natOutcome: natOutcome{redirected: map[uint16]PortSet{}}}
	r.untouched = r.walk("PREROUTING", allPorts(), 0)
	return r.natOutcome
}

// redirector follows the rules of a table nat, mostRules of them at most: a rule costs some microseconds here, and a host
// with a transparent proxy has a few dozen.
type redirector struct {
	*table
	natOutcome
	steps int // rules looked at
}

const mostRules = 5_000

// walk sends ports into a chain and returns those that may come out at its end.
func (r *redirector) walk(chain string, at PortSet, depth int) PortSet {
	var out PortSet
	for _, rule := range r.rules[chain] {
		if r.steps++; r.steps > mostRules || depth > mostDepth {
			r.elsewhere = allPorts()
			return allPorts()
		}
		m := matchOf(rule.words)
		met := at
		if m.ports != nil {
			met = at.Intersect(*m.ports)
		}
		if m.never || met == (PortSet{}) {
			continue
		}
		stay := PortSet{} // of met
		switch {
		case m.target == "LOG" || m.target == "NFLOG" || m.target == "":
			continue
		case m.target == "RETURN":
			out = out.Union(met)
		case m.target == "REDIRECT" && m.to != 0:
			r.redirected[m.to] = r.redirected[m.to].Union(met)
		case r.chains[m.target] && m.leaves:
			out = out.Union(r.walk(m.target, met, depth+1))
		case r.chains[m.target]:
			stay = r.walk(m.target, met, depth+1)
		default:
			r.elsewhere = r.elsewhere.Union(met)
		}
		if m.sure {
			at = at.Minus(met).Union(stay)
		}
	}
	return out.Union(at)
}

// match is what a rule asks of TCP from the network to an address of the host, and what it does.
type match struct {
	ports  *PortSet // nil: any
	never  bool     // it meets none of it
	sure   bool     // it meets all of it, of its ports
	target string
	leaves bool   // a goto: what comes back from target does not come back here
	to     uint16 // of a REDIRECT; 0 where it names none
}

// matchOf reads a rule as iptables-save lists it.
func matchOf(rule []string) match {
	m := match{sure: true}
	for i := 2; i < len(rule); i++ {
		if rule[i] == "!" {
			continue
		}
		value, not := "", rule[i-1] == "!"
		if i+1 < len(rule) {
			value = rule[i+1]
		}
		switch rule[i] {
		case "-p":
			m.never = m.never || (value == "tcp" || value == "all") == not
		case "-i":
			m.condition(value == "lo", false, not)
		case "-d":
			destination, err := netip.ParsePrefix(value)
			m.condition(err == nil && destination.Addr().IsLoopback() && destination.Bits() >= 8, false, not)
		case "--dst-type":
			m.condition(true, slices.Contains(strings.Split(value, ","), "LOCAL"), not)
		case "--dport", "--dports":
			m.only(parseSpans(value), not)
		case "-j", "-g":
			m.target, m.leaves = value, rule[i] == "-g"
		case "--to-ports":
			to, _ := strconv.ParseUint(value, 10, 16) // several are none that is sure
			m.to = uint16(to)
		case "-m", "--comment": // a name, and free text
		default:
			m.sure = false
			continue
		}
		i++ // a value is no option, whatever it reads like
	}
	return m
}

// condition takes in a condition that packets from the network meet, or do not, or of which that is not known.
func (m *match) condition(known, met, not bool) {
	switch {
	case !known:
		m.sure = false
	case met == not:
		m.never = true
	}
}

func (m *match) only(spans []span, not bool) {
	var ports PortSet
	for _, s := range spans {
		ports.AddRange(s.first, s.last)
	}
	if not {
		ports = allPorts().Minus(ports)
	}
	if m.ports != nil {
		ports = ports.Intersect(*m.ports)
	}
	m.ports = &ports
}
