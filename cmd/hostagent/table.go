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

// screen is where a table goes: how wide it is, 0 for as wide as it likes, and whether it shows colours.
type screen struct {
	out    io.Writer
	width  int
	colour bool
	err    error
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil {
		s.width = max(width, 40)
	}
	s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
}

func (s *screen) print(text string) {
	if s.err == nil {
		_, s.err = io.WriteString(s.out, text)
	}
}

// paint gives text the colour of a severity.
func (s *screen) paint(severity catalog.Severity, text string) string {
	if !s.colour {
		return text
	}
	code := map[catalog.Severity]string{catalog.Info: "36", catalog.Warning: "33", catalog.Critical: "31;1"}[severity]
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// wrapped prints text behind an indent, broken between words to the screen's width.
func (s *screen) wrapped(indent, text string) {
	line := indent
	empty := true
	for word := range strings.FieldsSeq(text) {
		if !empty && s.width > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > s.width {
			s.print(line + "\n")
			line, empty = strings.Repeat(" ", len(indent)), true
		}
		if !empty {
			line += " "
		}
		line += word
		empty = false
	}
	s.print(line + "\n")
}

// row is one line of the table; a finding's sentences stand beneath it.
type row struct {
	cells   [4]string
	finding *hostagent.Finding
}

func writeTable(out io.Writer, scan *hostagent.Scan) error {
	s := newScreen(out)
	rows := tableRows(scan)
	s.print(heading(scan))
	if len(rows) > 0 {
		s.table(rows)
	}
	s.print(summary(scan))
	for _, note := range scan.Notes {
		s.wrapped("note: ", note)
	}
	return s.err
}

func heading(scan *hostagent.Scan) string {
	where := "this host"
	if scan.Agent.Node != "" {
		where = fmt.Sprintf("node %s, datacenter %s, Consul %s", catalog.Clean(scan.Agent.Node), catalog.Clean(scan.Agent.Datacenter), catalog.Clean(scan.Agent.Version))
	}
	return fmt.Sprintf("%s, sidecar range %s\n\n", where, scan.Range)
}

// tableRows lists the findings first, then the services without any.
func tableRows(scan *hostagent.Scan) []row {
	var rows []row
	troubled := map[string]bool{}
	for i := range scan.Findings {
		f := &scan.Findings[i]
		troubled[f.ServiceID] = true
		listener := "-"
		switch {
		case f.Listener != nil:
			listener = socketText(f.Listener)
		case f.Port != 0:
			listener = fmt.Sprintf("tcp port %d", f.Port)
		}
		state := ""
		if f.State != hostagent.Open {
			state = " (" + string(f.State) + ")"
		}
		rows = append(rows, row{finding: f, cells: [4]string{
			cmp.Or(catalog.Clean(f.Service), "-"), listener, processText(f), f.Severity.String() + " " + string(f.ID) + state,
		}})
	}
	for _, service := range scan.Services {
		if troubled[service.ID] {
			continue
		}
		var listeners []string
		for i := range service.Listeners {
			listeners = append(listeners, socketText(&service.Listeners[i]))
		}
		rows = append(rows, row{cells: [4]string{
			catalog.Clean(service.Name), cmp.Or(strings.Join(slices.Compact(listeners), ", "), "not listening here"), "", "ok",
		}})
	}
	return rows
}

func socketText(l *sockets.Listener) string { return l.Protocol.String() + " " + l.Addr.String() }

// processText names who holds a finding's socket, with pids: they help at a terminal.
func processText(f *hostagent.Finding) string {
	if f.Listener == nil {
		return "-"
	}
	if f.Owner == nil || len(f.Owner.Processes) == 0 {
		return fmt.Sprintf("uid %d", f.Listener.UID)
	}
	first := f.Owner.Processes[0]
	text := fmt.Sprintf("%s (pid %d)", catalog.Clean(first.Name), first.PID)
	if more := len(f.Owner.Processes) - 1; more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	return text
}

// table prints rows under headings; the columns are as wide as they need, within the screen.
func (s *screen) table(rows []row) {
	headings := [4]string{"SERVICE", "LISTENER", "PROCESS", "FINDING"}
	limits := [4]int{60, 60, 60, 60}
	if s.width > 0 {
		// The last column may run to the edge; the others share what is left beside it.
		each := max((s.width-30)/3, 10)
		limits = [4]int{min(each, 24), max(each, 20), min(each, 24), s.width}
	}
	var widths [4]int
	for i, h := range headings {
		widths[i] = len(h)
		for _, r := range rows {
			widths[i] = min(max(widths[i], utf8.RuneCountInString(r.cells[i])), limits[i])
		}
	}
	s.line(headings, widths, nil)
	for _, r := range rows {
		s.line(r.cells, widths, r.finding)
		if r.finding != nil {
			s.wrapped("  ", r.finding.Message)
			s.wrapped("  remedy: ", r.finding.Remedy)
		}
	}
	s.print("\n")
}

func (s *screen) line(cells [4]string, widths [4]int, f *hostagent.Finding) {
	var b strings.Builder
	for i, cell := range cells[:3] {
		cell = shorten(cell, widths[i])
		b.WriteString(cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+2))
	}
	last := cells[3]
	if f != nil {
		last = s.paint(f.Severity, last)
	}
	s.print(strings.TrimRight(b.String()+last, " ") + "\n")
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
			parts = append(parts, fmt.Sprintf("%d %s", n, severity))
		}
	}
	found := cmp.Or(strings.Join(parts, ", "), "no findings")
	return fmt.Sprintf("%s; %s, %s for the network: %s\n", found,
		plural(len(scan.Services), "mesh service"), plural(len(scan.Openings), "sidecar port"), scan.Rules.Open)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
