// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// mark is how a use of a port is shown.
type mark struct {
	use    hostagent.Use
	words  string // behind the number of such ports
	label  string // behind a run of such ports, before whom they are for
	colour string
}

// sign stands for one such port.
func (m mark) sign() string { return string(m.use.Cell()) }

// marks are the uses in the order in which the legend explains them, free ports last.
func marks() []mark {
	return []mark{
		{hostagent.UseSidecar, "with a sidecar", "", "32"},
		{hostagent.UsePath, "of exposed paths", "", "36"},
		{hostagent.UseUnserved, "without its sidecar", "nobody listens for ", "33"},
		{hostagent.UseHeld, "closing", "closing: ", "2"},
		{hostagent.UseSquatted, "squatted", "squatted by ", "31;1"},
		{hostagent.UseShared, "shared", "shared: ", "33"},
		{hostagent.UseLocal, "in use locally", "in use locally", ""},
		{"", "free", "", "2"},
	}
}

func markOf(use hostagent.Use) mark {
	all := marks()
	for _, m := range all {
		if m.use == use {
			return m
		}
	}
	return all[len(all)-1]
}

const (
	mostDrawn = 256 // ports; of a larger range only the runs are written
	mostRuns  = 30  // on a terminal
	mostNames = 40  // of one run, on a terminal
)

// rangeMap draws the sidecar range: a sign for each port, what the signs mean, and who has which port.
func (s *screen) rangeMap(scan *hostagent.Scan) {
	sidecars := scan.Range
	if sidecars.First == 0 || scan.Source == hostagent.SourceNone {
		return
	}
	uses := scan.RangeUse()
	size := int(sidecars.Last) - int(sidecars.First) + 1
	s.gap()
	if len(uses) == 0 {
		s.wrapped("", fmt.Sprintf("sidecar range %s: all %d ports are free", sidecars, size))
		return
	}
	fmt.Fprintf(&s.text, "sidecar range %s\n", sidecars)
	if size <= mostDrawn {
		s.drawn(sidecars, uses, size)
	}
	s.legend(uses, size, scan.Source == hostagent.SourceFiles)
	s.runs(uses)
}

// drawn draws a line of 64 ports, of 32 or 16 on a narrow screen, in blocks of 16. Lines of nothing but free ports become
// one.
func (s *screen) drawn(sidecars hostagent.PortRange, uses []hostagent.PortUse, size int) {
	const block = 16
	perLine := 4 * block
	for s.width > 0 && perLine > block && len("  21000  ")+perLine+perLine/block-1 > s.width {
		perLine /= 2
	}
	places := make([]hostagent.Use, size)
	for _, u := range uses {
		places[u.Port-sidecars.First] = u.Use
	}
	for start := 0; start < size; {
		first := int(sidecars.First) + start
		free := 0
		for start+free < size && places[start+free] == "" {
			free++
		}
		if lines := free / perLine; lines > 1 || lines == 1 && start+free == size && free > perLine {
			if start+free < size {
				free = lines * perLine
			}
			fmt.Fprintf(&s.text, "  %-5d  to %d free\n", first, first+free-1)
			start += free
			continue
		}
		end := min(start+perLine, size)
		fmt.Fprintf(&s.text, "  %-5d ", first)
		for ; start < end; start += block {
			s.text.WriteByte(' ')
			s.block(places[start:min(start+block, end)])
		}
		s.text.WriteByte('\n')
		start = end
	}
}

// block writes the signs of some ports in a row, each colour once for as many as have it.
func (s *screen) block(places []hostagent.Use) {
	for len(places) > 0 {
		n := 1
		for n < len(places) && places[n] == places[0] {
			n++
		}
		m := markOf(places[0])
		s.text.WriteString(s.tinted(m.colour, strings.Repeat(m.sign(), n)))
		places = places[n:]
	}
}

// tinted gives text a colour by its code, "" for none.
func (s *screen) tinted(code, text string) string {
	if !s.colour || code == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// legend counts the ports of each use. Sidecars that are predicted need not be there.
func (s *screen) legend(uses []hostagent.PortUse, size int, predicted bool) {
	counts := map[hostagent.Use]int{"": size - len(uses)}
	for _, u := range uses {
		counts[u.Use]++
	}
	var parts []string
	for _, m := range marks() {
		if n := counts[m.use]; n > 0 {
			sign := ""
			if size <= mostDrawn {
				sign = m.sign() + " "
			}
			words := m.words
			if predicted && m.use == hostagent.UseSidecar {
				words = "for a sidecar"
			}
			parts = append(parts, fmt.Sprintf("%s%d %s", sign, n, words))
		}
	}
	s.wrapped("  ", strings.Join(parts, ", "))
}

// stretch is some ports in a row that are used alike.
type stretch struct {
	first, last uint16
	use         hostagent.Use
	names       []string // who has them, by port
}

// stretches puts ports together, names cut to that many runes.
func stretches(uses []hostagent.PortUse, runes int) []stretch {
	var runs []stretch
	for _, u := range uses {
		name := catalog.CleanTo(u.For, runes)
		if n := len(runs) - 1; n >= 0 && runs[n].use == u.Use && runs[n].last+1 == u.Port {
			runs[n].last = u.Port
			if last := len(runs[n].names) - 1; name != "" && (last < 0 || runs[n].names[last] != name) {
				runs[n].names = append(runs[n].names, name)
			}
			continue
		}
		r := stretch{first: u.Port, last: u.Port, use: u.Use}
		if name != "" {
			r.names = []string{name}
		}
		runs = append(runs, r)
	}
	return runs
}

// words says who has the ports of a stretch, one after the other.
func (r *stretch) words() []string {
	switch m := markOf(r.use); {
	case r.use == hostagent.UseLocal:
		return []string{m.label}
	case len(r.names) == 0 && r.use == hostagent.UsePath:
		return []string{"an exposed path"}
	case len(r.names) == 0:
		return []string{m.label + "somebody"}
	default:
		names := slices.Clone(r.names)
		names[0] = m.label + names[0]
		return names
	}
}

// runs writes who has which ports, "21000-21002  web, db, cache".
func (s *screen) runs(uses []hostagent.PortUse) {
	runes := 160
	if s.width > 0 {
		runes = 22
	}
	all := stretches(uses, runes)
	for i, r := range all {
		if s.width > 0 && i == mostRuns {
			s.wrapped("  ", fmt.Sprintf("… and %d more", len(all)-i))
			return
		}
		ports := hostagent.PortRange{First: r.first, Last: r.last}.String()
		if r.first == r.last {
			ports = fmt.Sprint(r.first)
		}
		names := r.words()
		if more := len(names) - mostNames; s.width > 0 && more > 0 {
			names = append(names[:mostNames:mostNames], fmt.Sprintf("and %d more", more))
		}
		s.wrapped(fmt.Sprintf("  %-11s  ", ports), strings.Join(names, ", "))
	}
}
