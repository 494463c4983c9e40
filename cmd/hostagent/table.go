// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// screen is what a table is drawn on: how wide it is, 0 for as wide as it likes, and whether it shows colours.
type screen struct {
	width    int
	colour   bool
	terminal bool
	now      time.Time
	// commandLine returns the arguments of a process, false where they cannot be seen; nil: they are not to be shown.
	commandLine func(sockets.Process) ([]string, bool)
	fresh       func(key string) bool // tells what stands out as new; nil: nothing does

	dim  bool // what is written now matters less
	text strings.Builder
}

const narrowest = 40 // columns; on less, lines run over

func newScreen(out io.Writer) *screen {
	s := &screen{now: time.Now()}
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return s
	}
	s.terminal = true
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		s.width = max(width, narrowest)
	}
	s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	return s
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
	s.ending("  ", state, exemption, remedy)
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
	taken += catalog.Columns(indent)
	columns := s.width
	if columns > 0 {
		columns = max(columns-taken, 1)
	}
	for _, line := range catalog.Wrap(text, columns, 0) {
		s.begin(indent)
		s.text.WriteString(line)
		s.end()
		indent = strings.Repeat(" ", taken)
	}
}

// begin and end stand around each line.
func (s *screen) begin(indent string) {
	s.text.WriteString(indent)
	if s.dim && s.colour {
		s.text.WriteString("\x1b[2m")
	}
}

func (s *screen) end() {
	if s.dim && s.colour {
		s.text.WriteString("\x1b[0m")
	}
	s.text.WriteByte('\n')
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
	text := fmt.Sprintf("%s (pid %d)", catalog.Clean(first.FullName()), first.PID)
	if more := len(owner.Processes) - 1; more > 0 {
		text += fmt.Sprintf(" +%d", more)
	}
	return text
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
