// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

const (
	peekEvery   = time.Second            // how often it is looked whether anything changed
	lookEvery   = 10 * time.Second       // how often everything is looked at though nothing seems to have changed
	looksApart  = 200 * time.Millisecond // at least, however many listeners come and go
	freshFor    = 10 * time.Second       // how long a new finding stands out
	errorsShown = 600                    // runes of each
)

// watching looks again and again, and shows what it sees.
type watching struct {
	parts hostagent.Parts
	look  func(context.Context) (*hostagent.Scan, error)
	// changes calls wake when the listeners of the host change, until its context ends; nil: they are listed every second.
	changes func(ctx context.Context, wake func()) error
	// show is given each scan, or why there is none.
	show func(*hostagent.Scan, error) error
	// redraw tells that what was shown has to be shown again.
	redraw <-chan struct{}
	again  func() error

	seen glimpse
}

// glimpse is what is cheap to look at and bears on nearly everything.
type glimpse struct {
	listeners     []sockets.Listener
	registrations []consul.Registration
	err           string
}

// peek tells whether something changed since the last time.
func (w *watching) peek(ctx context.Context) bool {
	var now glimpse
	listeners, listenErr := w.parts.Listen(ctx)
	answer, err := w.parts.Registry.Services(ctx)
	now.listeners, now.registrations = listeners, answer.Registrations
	if err := errors.Join(listenErr, err); err != nil {
		now.err = err.Error()
	}
	if reflect.DeepEqual(now, w.seen) {
		return false
	}
	w.seen = now
	return true
}

// run shows scans until ctx ends, and returns the last one.
func (w *watching) run(ctx context.Context) (last *hostagent.Scan, err error) {
	wake := make(chan struct{}, 1)
	if w.changes != nil {
		go func() {
			// Where events are not to be had, the tick is all there is, and all that is needed.
			_ = w.changes(ctx, func() {
				select {
				case wake <- struct{}{}:
				default:
				}
			})
		}()
	}
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	for {
		select {
		case <-wake: // this look is for it, too
		default:
		}
		w.peek(ctx) // before the look: what changes while it looks is seen afterwards
		scan, err := w.look(ctx)
		if ctx.Err() != nil {
			return last, nil
		}
		if scan != nil {
			last = scan
		}
		if err := w.show(scan, err); err != nil {
			return last, err
		}
		if err := w.wait(ctx, tick.C, wake); err != nil {
			return last, err
		}
		if ctx.Err() != nil {
			return last, nil
		}
	}
}

// wait returns when it is time to look again, or ctx ended.
func (w *watching) wait(ctx context.Context, tick <-chan time.Time, wake <-chan struct{}) error {
	looked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.redraw:
			if err := w.again(); err != nil {
				return err
			}
			continue
		case <-wake:
			select {
			case <-ctx.Done():
			case <-time.After(time.Until(looked.Add(looksApart))):
			}
			return nil
		case <-tick:
			if time.Since(looked) >= lookEvery || w.peek(ctx) {
				return nil
			}
		}
	}
}

// watchScan is scan --watch. It ends by a signal, with the status that a scan would have had then.
func watchScan(cmd *cobra.Command, w *watching, asJSON bool, draw func(*screen, *hostagent.Scan) string) (*hostagent.Scan, error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if asJSON {
		lines := jsonLines{out: cmd.OutOrStdout(), errors: cmd.ErrOrStderr()}
		w.show = lines.show
		return w.run(ctx)
	}
	t, err := openTerminal(os.Stdin, cmd.OutOrStdout())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &picture{terminal: t, draw: draw}
	t.pressed = p.scroll
	redraw := make(chan struct{}, 1)
	w.show, w.again, w.redraw = p.show, p.again, redraw
	leave := t.enter(ctx, cancel, redraw)
	last, err := w.run(ctx)
	if err := errors.Join(err, leave()); err != nil {
		return nil, err
	}
	if last != nil {
		err = output(cmd, summary(last)+"\n")
	}
	return last, err
}

// jsonLines writes each scan that differs from the one before as a line.
type jsonLines struct {
	out, errors io.Writer
	last        string
}

func (j *jsonLines) show(scan *hostagent.Scan, err error) error {
	var text string
	if err != nil {
		text = err.Error()
		if text != j.last {
			fmt.Fprintln(j.errors, "hostagent: "+catalog.CleanTo(text, errorsShown))
		}
		j.last = text
		return nil
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(scan.Document(version())); err != nil {
		return err
	}
	if text = escapeUnseen(b.String()); text == j.last {
		return nil
	}
	j.last = text
	if _, err := io.WriteString(j.out, text); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}

// picture is what stands on the terminal.
type picture struct {
	terminal *terminal
	draw     func(*screen, *hostagent.Scan) string

	scan     *hostagent.Scan
	err      error
	since    map[string]time.Time // when each finding of the last scan was first seen; zero for those of the first scan
	shown    string
	changed  time.Time // when what stands there became so
	standing string    // the frame, to the byte

	mu      sync.Mutex
	scrolls []string // keys pressed since the last picture
	top     int      // the first line that is shown
}

// scroll notes keys for the next picture. It may be called while one is drawn.
func (p *picture) scroll(keys string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	const most = 100 // more than anybody presses before the next picture
	for keys != "" && len(p.scrolls) < most {
		key := keys[:1]
		if key == "\x1b" {
			key = keys[:min(len(keys), 2)] // and up to the letter or "~" that ends it
			for len(key) < len(keys) && (len(key) == 2 || strings.Contains("0123456789;", key[len(key)-1:])) {
				key = keys[:len(key)+1]
			}
		}
		p.scrolls = append(p.scrolls, key)
		keys = keys[len(key):]
	}
}

// scrolled is the first line to show after keys were pressed, of a text of which room lines are shown at once.
func (p *picture) scrolled(lines, room int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := max(lines-room, 0)
	for _, keys := range p.scrolls {
		switch keys {
		case "j", "\x1b[B", "\x1bOB":
			p.top++
		case "k", "\x1b[A", "\x1bOA":
			p.top--
		case " ", "\x1b[6~":
			p.top += room
		case "b", "\x1b[5~":
			p.top -= room
		case "g", "\x1b[H", "\x1bOH", "\x1b[1~":
			p.top = 0
		case "G", "\x1b[F", "\x1bOF", "\x1b[4~":
			p.top = last
		}
		p.top = min(max(p.top, 0), last)
	}
	p.scrolls = nil
	p.top = min(p.top, last)
	return p.top
}

func (p *picture) show(scan *hostagent.Scan, err error) error {
	p.err = err
	if scan != nil {
		since := make(map[string]time.Time, len(scan.Findings))
		for i := range scan.Findings {
			key := findingKey(&scan.Findings[i])
			if seen, known := p.since[key]; known || p.since == nil {
				since[key] = seen
			} else {
				since[key] = time.Now()
			}
		}
		p.scan, p.since = scan, since
	}
	return p.paint(false)
}

func (p *picture) again() error { return p.paint(true) }

// findingKey tells findings apart over time.
func findingKey(f *hostagent.Finding) string {
	key := fmt.Sprint(f.ID, "\x00", f.State, "\x00", f.ServiceID, "\x00", f.Port)
	if f.Listener != nil {
		key += "\x00" + socketText(f.Listener)
	}
	return key
}

// paint draws the frame, and writes it at once where it is not what stands there.
func (p *picture) paint(anyway bool) error {
	s := newScreen(p.terminal.out)
	now := s.now
	s.fresh = func(f *hostagent.Finding) bool { return now.Sub(p.since[findingKey(f)]) < freshFor }
	text := ""
	if p.err != nil {
		s.wrapped("error: ", catalog.CleanTo(p.err.Error(), errorsShown))
	}
	if p.scan != nil {
		for _, err := range p.scan.Errors {
			s.wrapped("error: ", catalog.CleanTo(err.Error(), errorsShown))
		}
		text = p.draw(s, p.scan)
	} else {
		text = s.text.String()
	}
	if text != p.shown {
		p.shown, p.changed = text, now
	}
	width, height := p.terminal.size()
	asOf := "as of " + p.changed.Format(time.TimeOnly)
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	feet := []string{asOf + ", kept current; q ends", asOf + "; q ends", "q ends"}
	top := 0
	if room := roomIn(height, len(lines)); room < len(lines) {
		top = p.scrolled(len(lines), room)
		feet = slices.Insert(feet, 0, asOf+", kept current; arrows scroll, q ends", asOf+"; arrows scroll, q ends")
	}
	frame := frameOf(lines, top, feet, width, height, s.colour)
	if frame == p.standing && !anyway {
		return nil
	}
	p.standing = frame
	return p.terminal.write(frame)
}

// overwrite clears a line before it is written anew. Cleared afterwards, one as wide as the screen would lose its last
// character: the cursor stays on it.
const overwrite = "\x1b[2K"

// roomIn is how many of so many lines there is room for on a screen of that height, 0 for unknown, above the foot.
func roomIn(height, lines int) int {
	if height == 0 {
		return lines
	}
	return min(max(height-1, 1), lines)
}

// frameOf cuts lines, from the top one on, to a screen of that size, 0 for unknown, and makes them overwrite what stands
// there, with a line at the foot: the first of feet that there is room for. Lines are cleared one by one: clearing the
// screen first would flicker.
func frameOf(lines []string, top int, feet []string, width, height int, colour bool) string {
	more := ""
	if all, room := len(lines), roomIn(height, len(lines)); all > room {
		lines = lines[top : top+room]
		more = "… and " + plural(all-room, "more line")
		if top > 0 {
			more = fmt.Sprintf("lines %d-%d of %d", top+1, top+room, all)
		}
	}
	foot := footOf(more, feet, width, colour)
	var b strings.Builder
	b.WriteString("\x1b[H")
	for _, line := range lines {
		b.WriteString(overwrite + cutLine(line, width) + "\x1b[0m\r\n")
	}
	b.WriteString("\x1b[J")
	if height > 0 {
		fmt.Fprintf(&b, "\x1b[%d;1H", height)
	}
	b.WriteString(overwrite + foot + "\x1b[0m")
	return b.String()
}

// footOf is the line at the foot of a frame.
func footOf(more string, feet []string, width int, colour bool) string {
	inverse := func(text string) string {
		if colour && text != "" {
			return "\x1b[7m" + text + "\x1b[0m"
		}
		return text
	}
	between := ""
	if more != "" {
		between = "  "
	}
	foot := feet[len(feet)-1]
	for _, f := range slices.Backward(feet) {
		if width == 0 || catalog.Columns(more)+len(between)+catalog.Columns(f) <= width {
			foot = f
		}
	}
	return cutLine(inverse(more)+between+inverse(foot), width)
}

// cutLine cuts a line to that many columns, 0 for any; orders for the terminal take none.
func cutLine(line string, width int) string {
	column, order := 0, false
	for i, r := range line {
		switch {
		case r == '\x1b':
			order = true
		case order:
			order = r == '[' || r < '@' || r > '~'
		default:
			if column += catalog.Columns(string(r)); width > 0 && column > width {
				return line[:i]
			}
		}
	}
	return line
}
