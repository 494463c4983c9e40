// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const natTable = "nat"

// Published is a run of TCP ports that a rule sends elsewhere, as container runtimes publish the ports of containers.
type Published struct {
	Variant Variant
	Family  Family
	// First to Last are the ports that the network sees.
	First, Last uint16
	// Destination is what the rule asks of the address that the network connects to; the zero Prefix is any address.
	Destination netip.Prefix
	// To is where the rule sends what comes, in its own words: "172.17.0.2:80", "[fd00::2]:80", "172.17.0.2" for the same
	// port there, ":8080" for that port of the host itself (REDIRECT), "" for the host itself. Control characters are
	// replaced.
	To string
	// Chain is where the rule stands, of table nat.
	Chain string
}

// Published returns the ports that DNAT and REDIRECT rules of table nat send elsewhere, of both variants and families as
// far as their programs are there, whatever the backend; each once, sorted. It changes nothing, loads no kernel module and takes no lock; it starts one iptables-save for each
// variant and family that has a table nat. Beside an error it returns what could be read.
//
// It follows the rules that packets may reach from PREROUTING, with the ports that rules on the way ask for, and takes a
// rule above that lets packets go (RETURN, ACCEPT) for one that does not. Left out are rules that no TCP from the network
// to the host meets (another protocol, -i lo, -d 127.0.0.0/8, destinations that are not local), and those without a port
// on their way, which send all there is and so publish nothing (a transparent proxy's).
//
// Rules that are native to nf_tables, in a table of another name or of a program that writes no iptables, are not seen;
// nor are those of iptables-legacy where Degradations says so.
//
// Where nothing has changed in nf_tables since the last call, and iptables-legacy has no table nat, it answers what it did
// then, without starting a program.
func (f *Firewall) Published(ctx context.Context) ([]Published, error) {
	nat, err := f.readNAT(ctx)
	return slices.Clone(nat.ports), err
}

// natView is what the rules of table nat do to TCP from the network.
type natView struct {
	ports     []Published
	redirects []Redirect
}

// natMemo is the last natView, good while the generation is the same.
type natMemo struct {
	mu         sync.Mutex
	known      bool
	generation uint32
	natView
}

// readNAT answers from memory where it can. The answer is read only.
func (f *Firewall) readNAT(ctx context.Context) (natView, error) {
	f.nat.mu.Lock()
	defer f.nat.mu.Unlock()
	generation, known := f.natGeneration()
	if known && f.nat.known && generation == f.nat.generation {
		return f.nat.natView, nil
	}
	view, err := f.listNAT(ctx)
	f.nat.known, f.nat.generation, f.nat.natView = known && err == nil, generation, view
	return view, err
}

// natGeneration returns a number that every change of tables nat changes, and false where there is none: legacy tables have
// only a size.
func (f *Firewall) natGeneration() (uint32, bool) {
	for _, t := range f.xtables.all() {
		if t.variant == VariantLegacy && t.exists(natTable) {
			return 0, false
		}
	}
	generation, err := nftGeneration()
	return generation, err == nil
}

func (f *Firewall) listNAT(ctx context.Context) (natView, error) {
	var all []Published
	var errs []error
	tables, unread := map[Family][]*table{}, []Family{}
	tools := f.xtables.all()
	waits := make([]func() (*table, error), len(tools))
	for i, t := range tools { // their programs run side by side
		waits[i] = t.startTable(ctx, natTable)
	}
	for i, t := range tools {
		nat, err := waits[i]()
		if err != nil {
			errs, unread = append(errs, err), append(unread, t.family)
			continue
		}
		found, err := nat.published()
		if err != nil {
			errs = append(errs, fmt.Errorf("table nat of %s: %w", t.family, err))
		}
		for i := range found {
			found[i].Variant, found[i].Family = t.variant, t.family
		}
		all = append(all, found...)
		tables[t.family] = append(tables[t.family], nat)
	}
	for _, family := range unread {
		delete(tables, family) // half a view
	}
	slices.SortFunc(all, Published.compare)
	view := natView{slices.Compact(all), redirectsOf(tables)}
	if err := errors.Join(errs...); err != nil {
		return view, fmt.Errorf("cannot read the published ports: %w", err)
	}
	return view, nil
}

func (p Published) compare(other Published) int {
	return cmp.Or(
		cmp.Compare(p.Variant, other.Variant), cmp.Compare(p.Family, other.Family),
		cmp.Compare(p.First, other.First), cmp.Compare(p.Last, other.Last),
		p.Destination.Compare(other.Destination), cmp.Compare(p.To, other.To), cmp.Compare(p.Chain, other.Chain))
}

// span is a run of ports.
type span struct{ first, last uint16 }

// way is what the rules that lead to a place in table nat ask of a packet.
type way struct {
	ports       []span // nil: no port was asked for
	destination netip.Prefix
}

// pathfinder follows the rules of table nat. A table that leads on for ever, which the kernel would not take, ends it.
type pathfinder struct {
	rules map[string][]listedRule
	found []Published
	steps int // rules looked at
}

const (
	mostSteps = 200_000
	mostDepth = 64
)

// published returns what the rules of table nat publish, without variant and family.
func (t *table) published() ([]Published, error) {
	p := &pathfinder{rules: t.rules}
	p.follow("PREROUTING", way{}, 0)
	if p.steps > mostSteps {
		return p.found, fmt.Errorf("its rules branch out too much: gave up after %d", mostSteps)
	}
	return p.found, nil
}

// follow looks at the rules of a chain that is reached by a way.
func (p *pathfinder) follow(chain string, reached way, depth int) {
	if depth > mostDepth {
		return
	}
	for _, rule := range p.rules[chain] {
		if p.steps++; p.steps > mostSteps {
			return
		}
		on, target, to, ok := reached.through(rule.words)
		switch {
		case !ok:
		case target != "DNAT" && target != "REDIRECT":
			p.follow(target, on, depth+1)
		default:
			for _, s := range on.ports {
				p.found = append(p.found, Published{
					First: s.first, Last: s.last, Destination: on.destination, To: oneLine(to), Chain: oneLine(chain),
				})
			}
		}
	}
}

// through returns the way behind a rule, the rule's target and where that sends packets. It tells whether TCP from the
// network to an address of the host gets there at all.
func (w way) through(rule []string) (on way, target, to string, ok bool) {
	for i := 2; i+1 < len(rule); i++ {
		value, not := rule[i+1], rule[i-1] == "!"
		passes := true
		switch rule[i] {
		case "-p":
			passes = (value == "tcp") != not || value == "all"
		case "-i":
			passes = not || value != "lo"
		case "-d":
			if destination, err := netip.ParsePrefix(value); err == nil && !not {
				passes = !destination.Addr().IsLoopback() && w.narrow(destination)
			}
		case "--dst-type":
			passes = slices.Contains(strings.Split(value, ","), "LOCAL") != not
		case "--dport", "--dports":
			if !not {
				w.ports = meet(w.ports, parseSpans(value))
				passes = len(w.ports) > 0
			}
		case "-j", "-g":
			target = value
		case "--to-destination":
			to = value
		case "--to-ports":
			to = ":" + value
		case "--comment": // free text
		default:
			continue
		}
		if !passes {
			return w, "", "", false
		}
		i++ // a value is no option, whatever it reads like
	}
	return w, target, to, target != ""
}

// narrow limits w to a destination besides what it is limited to already, and tells whether anything is left.
func (w *way) narrow(destination netip.Prefix) bool {
	before := w.destination
	if !before.IsValid() || destination.Bits() > before.Bits() {
		w.destination = destination
	}
	return !before.IsValid() || before.Overlaps(destination)
}

// parseSpans reads ports as iptables lists them, "80", "100:200" or "80,100:200". What is none is left out.
func parseSpans(text string) []span {
	spans := []span{}
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(part, ":")
		if !ranged {
			to = from
		}
		first, err := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err == nil && err2 == nil && first <= last {
			spans = append(spans, span{uint16(first), uint16(last)})
		}
	}
	return spans
}

// meet returns the ports that are in a and in b; a nil a holds all.
func meet(a, b []span) []span {
	if a == nil {
		return b
	}
	both := []span{}
	for _, x := range a {
		for _, y := range b {
			if s := (span{max(x.first, y.first), min(x.last, y.last)}); s.first <= s.last {
				both = append(both, s)
			}
		}
	}
	return both
}
