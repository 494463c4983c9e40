// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// screen is what a table is drawn on: how wide it is, 0 for as wide as it likes, and whether it shows colours.
type screen struct {
	width  int
	colour bool
	text   strings.Builder
}

const narrowest = 40 // columns; on less, lines run over

func newScreen(out io.Writer) *screen {
	s := &screen{}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		s.width = max(width, narrowest)
	}
	s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

// table writes a scan for people. Everything that came from elsewhere is cleaned.
func (s *screen) table(scan *hostagent.Scan) string {
	s.wrapped("", heading(scan))
	s.text.WriteByte('\n')
	if rows := tableRows(scan); len(rows) > 0 {
		s.rows(rows)
		s.text.WriteByte('\n')
	}
	s.wrapped("", summary(scan))
	for _, note := range scan.Notes {
		s.wrapped("note: ", note)
	}
	return s.text.String()
}

// gap writes an empty line, unless one stands there already.
func (s *screen) gap() {
	if !strings.HasSuffix(s.text.String(), "\n\n") {
		s.text.WriteByte('\n')
	}
}

// finding writes a finding that is no row of a table.
func (s *screen) finding(severity catalog.Severity, id, state, message, exemption, remedy string) {
	s.text.WriteString(s.paint(severity, findingText(severity, id, state)) + "\n")
	s.wrapped("  ", message)
	s.ending(state, exemption, remedy)
}

// findingText is "warning squatted-port (mitigated)".
func findingText(severity catalog.Severity, id, state string) string {
	text := severity.String() + " " + id
	if state != string(hostagent.Open) {
		text += " (" + state + ")"
	}
	return text
}

// paint gives text the colour of a severity.
func (s *screen) paint(severity catalog.Severity, text string) string {
	if !s.colour {
		return text
	}
	var code string
	switch severity {
	case catalog.Critical:
		code = "31;1"
	case catalog.Warning:
		code = "33"
	case catalog.Info:
		code = "36"
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// wrapped writes text behind an indent, broken between words to the screen's width.
func (s *screen) wrapped(indent, text string) { s.wrappedAfter(0, indent, text) }

// wrappedAfter is wrapped on a line on which some columns are taken.
func (s *screen) wrappedAfter(taken int, indent, text string) {
	s.text.WriteString(indent)
	taken += len(indent)
	column, first := taken, true
	for word := range strings.FieldsSeq(text) {
		length := utf8.RuneCountInString(word)
		switch {
		case first:
		case s.width > 0 && column+1+length > s.width:
			s.text.WriteString("\n" + strings.Repeat(" ", taken))
			column = taken
		default:
			s.text.WriteByte(' ')
			column++
		}
		s.text.WriteString(word)
		column, first = column+length, false
	}
	s.text.WriteByte('\n')
}

// row is one line of the table; a finding's sentences stand beneath it.
type row struct {
	cells   [4]string
	finding *hostagent.Finding
}

func heading(scan *hostagent.Scan) string {
	where := "this host"
	switch {
	case scan.Source == hostagent.SourceNone:
		return "services are not known: these listeners of this host can be reached from the network, firewalls of others aside"
	case scan.Source == hostagent.SourceFiles:
		where = "service definitions, no agent asked: sidecar ports are those that one would assign"
	case scan.Agent.Node != "":
		where = fmt.Sprintf("node %s, datacenter %s, Consul %s", catalog.Clean(scan.Agent.Node), catalog.Clean(scan.Agent.Datacenter), catalog.Clean(scan.Agent.Version))
	}
	return fmt.Sprintf("%s, sidecar range %s", where, scan.Range)
}

// none fills a cell about which there is nothing to say.
const none = "-"

// tableRows lists the findings first, then the services without any.
func tableRows(scan *hostagent.Scan) []row {
	var rows []row
	troubled := map[string]bool{}
	for i := range scan.Findings {
		f := &scan.Findings[i]
		troubled[f.ServiceID] = true
		listener := none
		switch {
		case f.Listener != nil:
			listener = socketText(f.Listener)
		case f.Port != 0:
			listener = fmt.Sprintf("%s port %d", cmp.Or(f.Protocol, sockets.TCP), f.Port)
		}
		rows = append(rows, row{finding: f, cells: [4]string{
			cmp.Or(serviceText(f.Service, findingInstance(f)), none), listener, processText(f.Listener, f.Owner), findingText(f.Severity, string(f.ID), string(f.State)),
		}})
	}
	for i := range scan.Network {
		r := &scan.Network[i]
		state := "reachable"
		if r.Guarded {
			state = "guarded"
		}
		if scan.Range.Contains(r.Listener.Addr.Port()) {
			state += ", in the sidecar range"
		}
		rows = append(rows, row{cells: [4]string{none, socketText(&r.Listener), processText(&r.Listener, r.Owner) + placeText(r.Owner), state}})
	}
	for _, service := range scan.Services {
		if troubled[service.ID] || slices.ContainsFunc(service.Sidecars, func(p hostagent.Sidecar) bool { return troubled[p.ID] }) {
			continue
		}
		var listeners []string
		for i := range service.Listeners {
			listeners = append(listeners, socketText(&service.Listeners[i]))
		}
		rows = append(rows, row{cells: [4]string{
			serviceText(service.Name, service.ID), cmp.Or(strings.Join(slices.Compact(listeners), ", "), "not listening here"), none, "ok",
		}})
	}
	return rows
}

// serviceText names a service, and its instance where that has a name of its own.
func serviceText(name, id string) string {
	if id == "" || id == name {
		return catalog.Clean(name)
	}
	return catalog.Clean(name) + " (" + catalog.Clean(id) + ")"
}

// findingInstance is the id of the application that a finding is about; those of sidecars stand in its sentence.
func findingInstance(f *hostagent.Finding) string {
	if entry, _ := catalog.Lookup(f.ID); !entry.OfService {
		return ""
	}
	return f.ServiceID
}

func socketText(l *sockets.Listener) string { return l.Protocol.String() + " " + l.Addr.String() }

// processText names who holds a socket, with pids: they help at a terminal.
func processText(l *sockets.Listener, owner *sockets.Owner) string {
	if l == nil {
		return none
	}
	if owner == nil || len(owner.Processes) == 0 {
		return fmt.Sprintf("uid %d", l.UID)
	}
	first := owner.Processes[0]
	text := fmt.Sprintf("%s (pid %d)", catalog.Clean(first.Name), first.PID)
	if more := len(owner.Processes) - 1; more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	return text
}

// placeText says where a process belongs: to a unit, a container, or else a user.
func placeText(owner *sockets.Owner) string {
	switch {
	case owner == nil:
		return ""
	case owner.Container != "":
		return ", container " + catalog.CleanTo(owner.Container, 12)
	case owner.Unit != "":
		return ", " + catalog.Clean(owner.Unit)
	case owner.User != "":
		return ", user " + catalog.Clean(owner.User)
	}
	return ""
}

// rows writes the table proper, with each finding's sentences beneath it. A screen that is too narrow for columns gets
// the cells one after the other, the finding first.
func (s *screen) rows(rows []row) {
	headings := row{cells: [4]string{"SERVICE", "LISTENER", "PROCESS", "FINDING"}}
	widths, fit := s.columns(append([]row{headings}, rows...))
	if fit {
		s.line(headings, widths)
	}
	for _, r := range rows {
		if fit {
			s.line(r, widths)
		} else {
			s.list(r)
		}
		if r.finding != nil {
			s.wrapped("  ", r.finding.Message)
			s.ending(string(r.finding.State), r.finding.Exemption.String(), r.finding.Remedy)
		}
	}
}

const gap = 2 // spaces between columns

// columns says how wide each column is: as wide as it needs, within reason. On a narrower screen they give way in the
// order in which they are missed least, as far as they still read well; false means that this is not enough.
func (s *screen) columns(rows []row) (widths [4]int, fit bool) {
	const most = 60
	for _, r := range rows {
		for i, cell := range r.cells {
			widths[i] = min(max(widths[i], utf8.RuneCountInString(cell)), most)
		}
	}
	excess := 3*gap - s.width
	for _, width := range widths {
		excess += width
	}
	if s.width == 0 || excess <= 0 {
		return widths, true
	}
	least := [4]int{12, len("tcp 0.0.0.0:8080"), 10, most}
	for _, i := range []int{2, 0, 1} {
		cut := max(min(excess, widths[i]-least[i]), 0)
		widths[i] -= cut
		excess -= cut
	}
	return widths, excess == 0
}

func (s *screen) line(r row, widths [4]int) {
	for i, cell := range r.cells[:3] {
		if utf8.RuneCountInString(cell) > widths[i] {
			cell, _, _ = strings.Cut(cell, " (pid ")
			cell = shorten(cell, widths[i])
		}
		s.text.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+gap))
	}
	s.text.WriteString(s.state(r, widths[3]) + "\n")
}

func (s *screen) list(r row) {
	s.text.WriteString(s.state(r, s.width) + "\n")
	known := slices.DeleteFunc(slices.Clone(r.cells[:3]), func(cell string) bool { return cell == none })
	if len(known) > 0 {
		s.wrapped("  ", strings.Join(known, ", "))
	}
}

// state is the last cell of a row, in the colour of its finding.
func (s *screen) state(r row, width int) string {
	text := shorten(r.cells[3], width)
	if r.finding == nil {
		return text
	}
	return s.paint(r.finding.Severity, text)
}

func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

func summary(scan *hostagent.Scan) string {
	var counts [3]int
	for _, f := range scan.Findings {
		counts[f.Severity]++
	}
	var parts []string
	for _, severity := range []catalog.Severity{catalog.Critical, catalog.Warning, catalog.Info} {
		if n := counts[severity]; n > 0 {
			parts = append(parts, countText(n, severity))
		}
	}
	found := cmp.Or(strings.Join(parts, ", "), "no findings")
	if scan.Source == hostagent.SourceFiles && len(scan.Errors) > 0 {
		found += " in what could be read: Consul would not start on these files, and once they are mended other ports may be assigned"
	}
	if scan.Source == hostagent.SourceNone {
		return fmt.Sprintf("%s; %s for the network, services not known", found, plural(len(scan.Network), "listener"))
	}
	return fmt.Sprintf("%s; %s, %s for the network: %s", found,
		plural(len(scan.Services), "mesh service"), plural(len(scan.Openings), "sidecar port"), scan.Rules.Open)
}

func countText(n int, severity catalog.Severity) string {
	if severity == catalog.Warning {
		return plural(n, "warning")
	}
	return fmt.Sprintf("%d %s", n, severity)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
