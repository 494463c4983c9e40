// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/fleet"
)

// How much of a fleet a terminal shows; --all, and what is no terminal, get everything.
const (
	mostHosts     = 50  // that somebody has to look at
	mostFineHosts = 20  // in order: of more, only the number is told
	mostOnHosts   = 8   // hosts of one finding
	fleetText     = 600 // runes of a message
	mostColumns   = 40  // of a cell
	leastWords    = 26  // columns for what is wrong; where there are fewer, it stands on lines of its own
)

// troubled tells whether somebody has to look at a host. What is only to be known is no such thing.
func troubled(h *fleet.Host) bool { return h.Worst() >= fleet.RankStopped }

// fleet writes a fleet for people: how it is altogether, a line for each host that somebody has to look at, and what was found
// there. What is in order is counted, unless all is asked for or the output is no terminal.
func (s *screen) fleet(r *fleet.Report, all bool, notes []string) string {
	all = all || s.width == 0
	s.wrapped("", fleetSummary(r))
	if text := versionsText(r); text != "" {
		s.wrapped("", text)
	}
	var bad, fine []*fleet.Host
	for i := range r.Hosts {
		if h := &r.Hosts[i]; troubled(h) {
			bad = append(bad, h)
		} else {
			fine = append(fine, h)
		}
	}
	left, counted := 0, len(fine)
	rows := bad
	if !all {
		rows = bad[:min(len(bad), mostHosts)]
		left = len(bad) - len(rows)
	}
	if all || left == 0 && len(fine) <= mostFineHosts {
		rows, counted = slices.Concat(rows, fine), 0
	}
	s.hosts(r, rows, all)
	if left > 0 {
		s.wrapped("", fmt.Sprintf("… and %s to look at: --all lists every host", plural(left, "more host")))
	}
	if counted > 0 {
		s.gap()
		s.wrapped("", "in order: "+plural(counted, "host")+"; --all lists them too")
	}
	if r.Service == "" {
		s.fleetFindings(bad, fine, all)
	} else {
		s.serviceFindings(r, all)
	}
	s.fleetNotes(fleetNotes(r, notes))
	return s.text.String()
}

// fleetNotes adds to notes what a list of hosts leaves open.
func fleetNotes(r *fleet.Report, notes []string) []string {
	notes = slices.Clip(notes)
	if r.Others > 0 {
		notes = append(notes, plural(r.Others, "node")+" of the catalog not listed: no Consul agent of the datacenter runs there")
	}
	if len(r.Hosts) > 0 && r.Summary().Missing == len(r.Hosts) {
		notes = append(notes, "no host reports here: is report.service_name another there, or report.enabled false?")
	}
	return notes
}

// fleetNotes writes them below the hosts.
func (s *screen) fleetNotes(notes []string) {
	if len(notes) > 0 {
		s.gap()
	}
	for _, note := range notes {
		s.wrapped("note: ", note)
	}
}

// fleetSummary is "datacenter dc1, 1000 hosts: 2 silent, 3 without hostagent, 5 with something wrong, 990 in order".
func fleetSummary(r *fleet.Report) string {
	wrong, fine := 0, 0
	for i := range r.Hosts {
		switch h := &r.Hosts[i]; {
		case h.State != fleet.Runs:
		case troubled(h):
			wrong++
		default:
			fine++
		}
	}
	var parts []string
	counts := r.Summary()
	for _, count := range []struct {
		n    int
		text string
	}{
		{counts.Silent, "silent"}, {counts.Missing, "without hostagent"}, {counts.Stopped, "stopped"}, {wrong, "with something wrong"}, {fine, "in order"},
	} {
		if count.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count.n, count.text))
		}
	}
	text := "datacenter " + catalog.Clean(r.Datacenter)
	if r.Service != "" {
		text = "service " + catalog.Clean(r.Service) + ", " + text
	}
	text += ", " + plural(len(r.Hosts), "host")
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

// versionsText tells which versions run and in which modes, "" where none is told.
func versionsText(r *fleet.Report) string {
	versions, modes := map[string]int{}, map[string]int{}
	for i := range r.Hosts {
		if h := &r.Hosts[i]; h.State != fleet.Missing {
			versions[cmp.Or(catalog.Clean(h.Self.Version), "an untold version")]++
			modes[cmp.Or(catalog.Clean(h.Self.Mode), "an untold mode")]++
		}
	}
	if len(versions) == 0 {
		return ""
	}
	text := "hostagent " + countedText(versions)
	if len(versions) > 1 {
		text = "several versions of hostagent: " + countedText(versions)
	}
	return text + "; " + countedText(modes)
}

// countedText is "guard on 12 hosts, observe on 3", the most frequent first, and the word alone where there is one.
func countedText(counts map[string]int) string {
	const most = 6
	words := make([]string, 0, len(counts))
	for word := range counts {
		words = append(words, word)
	}
	slices.SortFunc(words, func(a, b string) int { return cmp.Or(-cmp.Compare(counts[a], counts[b]), cmp.Compare(a, b)) })
	if len(words) == 1 {
		return words[0]
	}
	var parts []string
	for i, word := range words[:min(len(words), most)] {
		text := fmt.Sprintf("%s on %d", word, counts[word])
		if i == 0 {
			text = word + " on " + plural(counts[word], "host")
		}
		parts = append(parts, text)
	}
	if more := len(words) - most; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, ", ")
}

// hostRow is the line of a host.
type hostRow struct {
	cells    [4]string // host, state, version, counts
	words    string
	severity catalog.Severity
	troubled bool
	fresh    bool
}

// stateText says in one word how hostagent is on a host: its mode where it runs.
func stateText(h *fleet.Host) string {
	switch h.State {
	case fleet.Runs:
		return cmp.Or(catalog.CleanTo(h.Self.Mode, 8), string(h.State))
	case fleet.Silent, fleet.Missing, fleet.Stopped:
	}
	return string(h.State)
}

// fleetCounts is countsText of what a host's checks tell.
func fleetCounts(h *fleet.Host) string {
	findings := make([]*hostagent.Finding, len(h.Findings))
	for i := range h.Findings {
		findings[i] = &hostagent.Finding{Severity: h.Findings[i].Severity, State: hostagent.State(h.Findings[i].State)}
	}
	text := countsText(findings)
	switch {
	case h.More > 0 && text != "":
		text += fmt.Sprintf(", %d more", h.More)
	case h.More > 0:
		text = plural(h.More, "finding")
	}
	return text
}

// hosts writes a table of hosts, or where there is no room for one each host on lines of its own.
func (s *screen) hosts(r *fleet.Report, hosts []*fleet.Host, all bool) {
	if len(hosts) == 0 {
		return
	}
	const between = "  "
	heads := [...]string{"HOST", "STATE", "VERSION", "FINDINGS"}
	var wide [len(heads)]int
	for i, head := range heads {
		wide[i] = len(head)
	}
	rows := s.hostRows(r, hosts, all)
	for n := range rows {
		for i, cell := range rows[n].cells {
			wide[i] = max(wide[i], min(catalog.Columns(cell), mostColumns))
		}
	}
	taken := 0
	for _, w := range wide {
		taken += w + len(between)
	}
	s.gap()
	if s.width > 0 && taken+leastWords > s.width {
		s.stacked(rows)
		return
	}
	var line strings.Builder
	for i, head := range heads {
		line.WriteString(head + strings.Repeat(" ", wide[i]-len(head)) + between)
	}
	s.text.WriteString(line.String() + "WHAT IS WRONG\n")
	for i := range rows {
		row := &rows[i]
		for i, cell := range row.cells {
			s.text.WriteString(s.rowCell(row, i, cell) + strings.Repeat(" ", max(wide[i]-catalog.Columns(cell), 0)) + between)
		}
		s.wordsAfter(taken, row.words)
	}
}

// hostRows makes the lines of hosts.
func (s *screen) hostRows(r *fleet.Report, hosts []*fleet.Host, all bool) []hostRow {
	rows := make([]hostRow, len(hosts))
	for n, h := range hosts {
		row := &rows[n]
		row.words, row.troubled = strings.Join(hostWords(r, h, all), "; "), troubled(h)
		row.fresh = s.fresh != nil && s.fresh(hostKey(h))
		row.severity, _ = h.Worst().Severity()
		row.cells = [...]string{
			catalog.Clean(h.Node), stateText(h), cmp.Or(catalog.Shorten(catalog.Clean(h.Self.Version), 20), none), cmp.Or(fleetCounts(h), none),
		}
		if s.width > 0 {
			row.cells[0] = catalog.Shorten(row.cells[0], min(max(s.width/3, 12), mostColumns))
		}
	}
	return rows
}

// rowCell paints a cell: the state and the counts show how bad it is.
func (s *screen) rowCell(row *hostRow, i int, cell string) string {
	switch {
	case row.fresh && s.colour && i == 0:
		return "\x1b[7m" + cell + "\x1b[0m"
	case row.troubled && (i == 1 || i == 3) && cell != none:
		return s.paint(row.severity, cell)
	}
	return cell
}

// wordsAfter writes text on a line on which some columns are taken.
func (s *screen) wordsAfter(taken int, text string) {
	columns := 0
	if s.width > 0 {
		columns = s.width - taken
	}
	for i, line := range catalog.Wrap(text, columns, columns) {
		if i > 0 {
			line = strings.Repeat(" ", taken) + line
		}
		s.text.WriteString(line + "\n")
	}
}

// stacked writes each host on lines of its own.
func (s *screen) stacked(rows []hostRow) {
	for i := range rows {
		row := &rows[i]
		taken := 0
		for i, cell := range row.cells {
			if cell == none {
				continue
			}
			switch n := catalog.Columns(cell); {
			case taken == 0:
			case taken+2+n > s.width:
				s.text.WriteString("\n    ")
				taken = 4
			default:
				s.text.WriteString("  ")
				taken += 2
			}
			s.text.WriteString(s.rowCell(row, i, cell))
			taken += catalog.Columns(cell)
		}
		s.text.WriteByte('\n')
		s.wrapped("    ", row.words)
	}
}
