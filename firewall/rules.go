// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Our chains. Nothing outside of them is ours but the jumps to them.
const (
	preroutingChain = "HOSTAGENT-PREROUTING"
	guardChain      = "HOSTAGENT-GUARD"
	acceptChain     = "HOSTAGENT-ACCEPT"
)

const (
	filterTable = "filter"
	mangleTable = "mangle"
)

// ourTables are the tables that we have chains in, in the order in which they are written: what opens comes first.
func ourTables() []string { return []string{filterTable, mangleTable} }

func ourChain(name string) bool {
	return name == preroutingChain || name == guardChain || name == acceptChain
}

// The rules, in the words in which iptables 1.8 lists them.
const (
	// Only a bare SYN is dropped: replies to the host's own connections come to source ports that may lie in the
	// range. lo stays out of it: in PREROUTING the host's traffic with itself passes too.
	guardRule = "! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL " +
		"-m set --match-set " + guardSet + " dst -m set ! --match-set " + openSet + " dst -j DROP"
	// While sources are limited, these come after it, each with the name of the family's set of sources: a drop, because
	// the host's own rules may let in what ours do not, and accepts of fewer packets. Those over lo need one of their
	// own: there the source is any address of the host.
	fromRule = "! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL " +
		"-m set --match-set " + openSet + " dst -m set ! --match-set %s src -j DROP"
	acceptLoRule   = "-i lo -p tcp -m set --match-set " + openSet + " dst -j ACCEPT"
	acceptFromRule = "-p tcp -m set --match-set " + openSet + " dst -m set --match-set %s src -j ACCEPT"
	// Sources of exposed paths leave our chain before the guard drops, so that without these rules a port of theirs is closed,
	// never open. Over lo nothing is dropped, so only the accept needs a rule for it.
	pathsRule = "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN " +
		"-m set --match-set " + pathsSet + " dst -m set --match-set %s src -j RETURN"
	acceptPathsLoRule = "-i lo -p tcp -m set --match-set " + pathsSet + " dst -j ACCEPT"
	acceptPathsRule   = "-p tcp -m set --match-set " + pathsSet + " dst -m set --match-set %s src -j ACCEPT"
	// A running connection through DNAT outlives conntrack -D, because conntrack picks it up again in the middle.
	// Only the packets of whoever began the connection are dropped, so the host's own outgoing ones live on.
	cutRule = "! -i lo -p tcp -m addrtype --dst-type LOCAL -m conntrack --ctdir ORIGINAL " +
		"-m set --match-set " + cutSet + " dst -j DROP"
	// Every packet is accepted and not only the SYN: the host's own rules need not accept established connections.
	acceptRule = "-p tcp -m set --match-set " + openSet + " dst -j ACCEPT"
)

// chain is one chain of ours as it should be: its rules, and a jump to it at the head of parent.
type chain struct {
	table, name, parent string
	rules               []string // without "-A NAME "
}

func (c *chain) jump() string { return "-A " + c.parent + " -j " + c.name }

// chains returns the chains that r asks for in one family, what opens first.
func (r *Ruleset) chains(family Family) []chain {
	var drops []string
	accepts := []string{acceptRule}
	if r.CutRules {
		drops = append(drops, cutRule)
	}
	if len(r.PathsFrom) > 0 {
		drops = append(drops, fmt.Sprintf(pathsRule, family.pathsSet()))
	}
	drops = append(drops, guardRule)
	if len(r.AllowFrom) > 0 {
		drops = append(drops, fmt.Sprintf(fromRule, family.fromSet()))
		accepts = []string{acceptLoRule, fmt.Sprintf(acceptFromRule, family.fromSet())}
	}
	if len(r.PathsFrom) > 0 {
		accepts = append(accepts, acceptPathsLoRule, fmt.Sprintf(acceptPathsRule, family.pathsSet()))
	}
	var all []chain
	if !r.Accept.None {
		all = append(all, chain{filterTable, acceptChain, r.Accept.parent(), accepts})
	}
	return append(all,
		chain{mangleTable, preroutingChain, "PREROUTING", drops},
		chain{mangleTable, guardChain, "INPUT", drops})
}

// sameRules tells whether r and other ask for the same rules, whatever is in their sets.
func (r *Ruleset) sameRules(other *Ruleset) bool {
	return r.CutRules == other.CutRules && (len(r.AllowFrom) > 0) == (len(other.AllowFrom) > 0) &&
		(len(r.PathsFrom) > 0) == (len(other.PathsFrom) > 0) &&
		r.Accept.None == other.Accept.None &&
		(r.Accept.None || r.Accept.parent() == other.Accept.parent())
}

func (a Accept) parent() string {
	if a.Chain == "" {
		return "INPUT"
	}
	return a.Chain
}

// check refuses a chain name that iptables would not take, or would take for something else: it becomes part of a
// script for iptables-restore.
func (a Accept) check() error {
	const longest = 28 // XT_EXTENSION_MAXNAMELEN less the terminating zero
	if a.None || a.Chain == "" {
		return nil
	}
	plain := !strings.ContainsFunc(a.Chain, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\#,", r)
	})
	if !plain || len(a.Chain) > longest || a.Chain[0] == '-' || a.Chain[0] == '!' || a.Chain[0] == ':' {
		return fmt.Errorf("cannot put the accept rule into chain %q: that is no name of a chain "+
			"(1 to %d letters, digits, dots, dashes and underscores)", a.Chain, longest)
	}
	if ourChain(a.Chain) {
		return fmt.Errorf("cannot put the accept rule into chain %q: that chain is hostagent's own", a.Chain)
	}
	return nil
}

// String writes r as the kernel should show it, in the syntax of ipset save and iptables-save; a jump is an insertion,
// because its place matters. Rules that are the same in both families are written once. Sources that cannot be applied
// are left out, all of them.
func (r Ruleset) String() string {
	r.AllowFrom, _ = canonicalSources(r.AllowFrom)
	r.PathsFrom, _ = canonicalSources(r.PathsFrom)
	r.tidy()
	s := State{Sets: r.sets(), Tables: r.tables("")}
	if len(r.AllowFrom) > 0 || len(r.PathsFrom) > 0 {
		s.Tables = append(r.tables(IPv4), r.tables(IPv6)...)
	}
	return s.String()
}

// sets are r's sets as Show should return them; r is tidy and its sources are canonical.
func (r *Ruleset) sets() []SetState {
	var all []SetState
	ports := map[string]PortSet{guardSet: r.Guard, openSet: r.Open, cutSet: r.Cut, pathsSet: r.Paths}
	sources := map[string][]netip.Prefix{}
	for _, set := range r.sourceSets() {
		sources[set.name] = set.sources
	}
	for _, name := range ourSets() {
		if r.needs(name) {
			all = append(all, SetState{Name: name, Type: kindOf(name), Ports: ports[name], Sources: sources[name]})
		}
	}
	return all
}

// tables are r's rules in one family as Show should return them.
func (r *Ruleset) tables(family Family) []TableState {
	var all []TableState
	for _, table := range ourTables() {
		t := TableState{Family: family, Table: table}
		for _, c := range r.chains(family) {
			if c.table != table {
				continue
			}
			t.Chains = append(t.Chains, ChainState{c.name, prefixed("-A "+c.name+" ", c.rules)})
			t.Jumps = append(t.Jumps, JumpState{c.parent, 1, c.jump()})
		}
		all = append(all, t)
	}
	return all
}

func prefixed(prefix string, rules []string) []string {
	all := slices.Clone(rules)
	for i := range all {
		all[i] = prefix + all[i]
	}
	return all
}

// table is one table of one family as iptables-save prints it, cut down to what concerns us.
type table struct {
	chains  map[string]bool         // the names of all chains
	ours    map[string][]string     // the rules of our chains, as listed
	rules   map[string][]listedRule // the rules of every chain
	jumps   []JumpState             // rules that lead to our chains, wherever they stand
	foreign int                     // rules of others, and policies other than ACCEPT
	// incompatible is what the program says where it cannot show the table as iptables rules.
	incompatible string
}

// listedRule is a rule by its words, "-A" and its chain first, and how many packets it matched where that was asked for.
type listedRule struct {
	words   []string
	packets uint64
}

// parseSave reads the output of iptables-save, with counters or without; tables by name.
func parseSave(output string) map[string]*table {
	tables := map[string]*table{}
	var t *table
	var positions map[string]int
	for line := range strings.Lines(output) {
		line, packets := cutCounters(strings.TrimRight(line, "\r\n"))
		switch {
		case strings.HasPrefix(line, "*"):
			t = &table{chains: map[string]bool{}, ours: map[string][]string{}, rules: map[string][]listedRule{}}
			positions = map[string]int{}
			tables[line[1:]] = t
		case strings.HasPrefix(line, "# Table `"):
			name, rest, _ := strings.Cut(strings.TrimPrefix(line, "# Table `"), "'")
			if strings.HasPrefix(rest, " is incompatible") {
				tables[name] = &table{incompatible: oneLine(line)}
			}
		case t == nil:
		case strings.HasPrefix(line, ":"):
			t.parseChain(strings.Fields(line[1:]))
		case strings.HasPrefix(line, "-A "):
			if rule := words(line); len(rule) > 1 {
				positions[rule[1]]++
				t.rules[rule[1]] = append(t.rules[rule[1]], listedRule{rule, packets})
				t.parseRule(rule, line, positions[rule[1]])
			}
		}
	}
	return tables
}

// cutCounters takes "[packets:bytes] " off the head of a listed rule.
func cutCounters(line string) (rest string, packets uint64) {
	counters, rest, found := strings.Cut(line, "] ")
	if !found || !strings.HasPrefix(counters, "[") {
		return line, 0
	}
	text, _, _ := strings.Cut(counters[1:], ":")
	packets, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return line, 0
	}
	return rest, packets
}

func (t *table) parseChain(fields []string) {
	if len(fields) < 2 {
		return
	}
	t.chains[fields[0]] = true
	if ourChain(fields[0]) {
		t.ours[fields[0]] = nil
	}
	if fields[1] != "-" && fields[1] != "ACCEPT" {
		t.foreign++
	}
}

func (t *table) parseRule(rule []string, line string, position int) {
	parent := rule[1]
	_, inOurs := t.ours[parent]
	if inOurs {
		t.ours[parent] = append(t.ours[parent], line)
	}
	if target(rule) != "" {
		t.jumps = append(t.jumps, JumpState{parent, position, line})
	} else if !inOurs {
		t.foreign++
	}
}

// target returns the chain of ours that a rule leads to, or "".
func target(words []string) string {
	for i := 2; i+1 < len(words); i++ {
		if (words[i] == "-j" || words[i] == "-g") && ourChain(words[i+1]) {
			return words[i+1]
		}
	}
	return ""
}

// words splits a listed rule. Quoted text, such as a comment that reads like a jump, stays one word with its quotes.
func words(rule string) []string {
	var all []string
	start, quoted, escaped := -1, false, false
	for i := range len(rule) {
		c := rule[i]
		if c == ' ' && !quoted {
			if start >= 0 {
				all = append(all, rule[start:i])
			}
			start = -1
			continue
		}
		if start < 0 {
			start = i
		}
		switch {
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		}
	}
	if start >= 0 {
		all = append(all, rule[start:])
	}
	return all
}

// fix is a change that brings one chain of ours in order.
type fix struct {
	table, chain string
	done         string // in the words of RuleChange.Done
	was          string // what was wrong, if that does not follow from another fix's
	// empties is the line that makes or empties the chain, if that is to happen. Those lines come before all others.
	empties string
	lines   []string
}

// fixes returns what has to be done to one table so that it holds the wanted chains of ours and no others.
// The function exists tells whether a rule stands in a chain, for rules that are listed in other words than ours.
func (t *table) fixes(name string, wanted []chain, exists func(chain string, rule string) (bool, error)) ([]fix, error) {
	var all []fix
	for _, ours := range []string{acceptChain, preroutingChain, guardChain} {
		i := slices.IndexFunc(wanted, func(c chain) bool { return c.table == name && c.name == ours })
		jumps := t.jumpsTo(ours)
		if i < 0 {
			if t.chains[ours] {
				lines := append(deletions(jumps), "-X "+ours)
				all = append(all, fix{name, ours, "removed", "chain " + ours + " had appeared", "-F " + ours, lines})
			}
			continue
		}
		c := &wanted[i]
		if !t.chains[c.parent] && !builtin(c.parent) {
			return nil, fmt.Errorf("cannot put the accept rule into chain %q of table %s: %w "+
				"(create it, or set accept to \"head\")", c.parent, name, ErrNoChain)
		}
		right, err := t.holds(c, exists)
		if err != nil {
			return nil, err
		}
		if !right {
			lines := prefixed("-A "+ours+" ", c.rules)
			all = append(all, fix{name, ours, "written", t.wrong(c), ":" + ours + " - [0:0]", lines})
		}
		if len(jumps) != 1 || jumps[0] != (JumpState{c.parent, 1, c.jump()}) {
			lines := append(deletions(jumps), "-I "+c.parent+" 1 -j "+ours)
			all = append(all, fix{name, ours, "jump placed", t.misplaced(c, jumps), "", lines})
		}
	}
	return all, nil
}

// holds tells whether the chain has exactly the wanted rules. iptables versions list one rule in different words, so
// words that differ are no proof: as many rules as wanted, each of which iptables itself finds, are.
func (t *table) holds(c *chain, exists func(chain string, rule string) (bool, error)) (bool, error) {
	listed, present := t.ours[c.name]
	if !present || len(listed) != len(c.rules) {
		return false, nil
	}
	if slices.Equal(listed, prefixed("-A "+c.name+" ", c.rules)) {
		return true, nil
	}
	for _, rule := range c.rules {
		if found, err := exists(c.name, rule); err != nil || !found {
			return false, err
		}
	}
	return true, nil
}

// wrong says what is wrong with a chain that does not hold what is wanted.
func (t *table) wrong(c *chain) string {
	switch rules := t.ours[c.name]; {
	case !t.chains[c.name]:
		return "chain " + c.name + " was gone"
	case len(rules) == 0:
		return "chain " + c.name + " was empty"
	}
	return "chain " + c.name + " had changed"
}

// misplaced says what is wrong with the rules that lead to a chain, where they are not one jump at the head of its parent. A
// chain that was gone took the jump along: that need not be said.
func (t *table) misplaced(c *chain, jumps []JumpState) string {
	switch {
	case !t.chains[c.name]:
		return ""
	case len(jumps) == 0:
		return "the jump to " + c.name + " was gone"
	case len(jumps) > 1:
		return fmt.Sprintf("%d rules led to %s instead of one", len(jumps), c.name)
	case jumps[0].Parent == c.parent && jumps[0].Rule != c.jump():
		return "the jump to " + c.name + " had changed"
	}
	return "the jump to " + c.name + " was not where it belongs"
}

// jumpsTo returns the rules that lead to a chain of ours. Those inside our chains are left out: they go when the chain
// that they stand in is emptied.
func (t *table) jumpsTo(chain string) []JumpState {
	var all []JumpState
	for _, j := range t.jumps {
		if !ourChain(j.Parent) && target(words(j.Rule)) == chain {
			all = append(all, j)
		}
	}
	return all
}

// builtin tells whether a chain is there in every table that we use, listed or not: iptables-nft makes it when needed.
func builtin(chain string) bool {
	return chain == "INPUT" || chain == "FORWARD" || chain == "OUTPUT" || chain == "PREROUTING"
}

// deletions turns listed rules into the lines that delete them; iptables-restore reads what iptables-save wrote.
func deletions(jumps []JumpState) []string {
	var lines []string
	for _, j := range jumps {
		lines = append(lines, "-D "+strings.TrimPrefix(j.Rule, "-A "))
	}
	return lines
}

// script turns fixes of one family into the input of iptables-restore --noflush: one transaction a table. There,
// declaring a chain empties it if it exists, and nobody sees it empty before the transaction is whole.
func script(fixes []fix) string {
	var b strings.Builder
	for _, name := range ourTables() {
		var emptied, lines []string
		for _, f := range fixes {
			if f.table != name {
				continue
			}
			if f.empties != "" {
				emptied = append(emptied, f.empties)
			}
			lines = append(lines, f.lines...)
		}
		if len(lines) == 0 && len(emptied) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", name, strings.Join(append(emptied, lines...), "\n"))
	}
	return b.String()
}
