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
	retryEvery  = 5 * time.Second        // how often it is looked again after a look failed
	freshFor    = 10 * time.Second       // how long a new finding stands out
	errorsShown = 600                    // runes of each
)

// watching looks again and again, and shows what it sees.
type watching[T any] struct {
	look func(context.Context) (*T, error)
	// peek tells whether something changed since the last time it was called, cheaply; nil: it cannot be told.
	peek func(context.Context) bool
	// changes calls wake when something changes, until its context ends; nil: nothing tells.
	changes func(ctx context.Context, wake func()) error
	// every is how often it is looked though nothing seems to have changed.
	every time.Duration
	// Looks are this far apart at least, however much changes, and so many times as long as the last one took.
	apart time.Duration
	rest  int
	// show is given what was seen, or why nothing was.
	show func(*T, error) error
	// redraw tells that what was shown has to be shown again.
	redraw <-chan struct{}
	again  func() error
}

// run shows what it sees until ctx ends, and returns what it saw last.
func (w *watching[T]) run(ctx context.Context) (last *T, err error) {
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
		if w.peek != nil {
			w.peek(ctx) // before the look: what changes while it looks is seen afterwards
		}
		began := time.Now()
		seen, err := w.look(ctx)
		if ctx.Err() != nil {
			return last, nil
		}
		if seen != nil {
			last = seen
		}
		pace := looked{failed: err != nil, soonest: time.Now().Add(max(w.apart, time.Duration(w.rest)*time.Since(began)))}
		if err := w.show(seen, err); err != nil {
			return last, err
		}
		if err := w.wait(ctx, tick.C, wake, pace); err != nil {
			return last, err
		}
		if ctx.Err() != nil {
			return last, nil
		}
	}
}

// looked is what became of a look, and when the next may come for an event.
type looked struct {
	failed  bool
	soonest time.Time
}

// wait returns when it is time to look again, or ctx ended.
func (w *watching[T]) wait(ctx context.Context, tick <-chan time.Time, wake <-chan struct{}, last looked) error {
	began := time.Now()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.redraw:
			if err := w.again(); err != nil {
				return err
			}
		case <-wake:
			if due == nil {
				due = time.After(time.Until(last.soonest))
			}
		case <-due:
			return nil
		case <-tick:
			since := time.Since(began)
			if since >= w.every || last.failed && since >= retryEvery || w.peek != nil && w.peek(ctx) {
				return nil
			}
		}
	}
}

// glimpse looks at what is cheap to look at on a host and bears on nearly everything of a scan.
type glimpse struct {
	parts hostagent.Parts
	seen  glimpsed
}

type glimpsed struct {
	listeners     []sockets.Listener
	registrations []consul.Registration
	err           string
}

// peek tells whether something changed since the last time.
func (g *glimpse) peek(ctx context.Context) bool {
	var now glimpsed
	listeners, listenErr := g.parts.Listen(ctx)
	answer, err := g.parts.Registry.Services(ctx)
	now.listeners, now.registrations = listeners, answer.Registrations
	if err := errors.Join(listenErr, err); err != nil {
		now.err = err.Error()
	}
	if reflect.DeepEqual(now, g.seen) {
		return false
	}
	g.seen = now
	return true
}

// watchScan is scan --watch.
func watchScan(cmd *cobra.Command, parts hostagent.Parts, look func(context.Context) (*hostagent.Scan, error), asJSON bool) (*hostagent.Scan, error) {
	w := &watching[hostagent.Scan]{
		look: look, peek: (&glimpse{parts: parts}).peek, changes: edges().changes, every: lookEvery, apart: looksApart,
	}
	return runWatch(cmd, w, shownScan(), asJSON)
}

// shownScan tells how a scan is shown while it is watched.
func shownScan() showing[hostagent.Scan] {
	return showing[hostagent.Scan]{
		draw: func(s *screen, scan *hostagent.Scan) string {
			for _, err := range scan.Errors {
				s.wrapped("error: ", catalog.CleanTo(err.Error(), errorsShown))
			}
			return drawScan(s, scan)
		},
		document: func(scan *hostagent.Scan) any { return scan.Document(version()) },
		summary:  summary,
		keys: func(scan *hostagent.Scan) []string {
			keys := make([]string, len(scan.Findings))
			for i := range scan.Findings {
				keys[i] = findingKey(&scan.Findings[i])
			}
			return keys
		},
	}
}

// showing tells how what is watched is shown.
type showing[T any] struct {
	draw     func(*screen, *T) string
	document func(*T) any    // for JSON
	summary  func(*T) string // the line that stays when the screen is left
	// keys tell apart over time what is to stand out for a while when it is new.
	keys func(*T) []string
}

// runWatch shows what w sees, on the terminal or as lines of JSON, and returns what it saw last. It ends by a signal.
func runWatch[T any](cmd *cobra.Command, w *watching[T], how showing[T], asJSON bool) (*T, error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if asJSON {
		lines := jsonLines[T]{out: cmd.OutOrStdout(), errors: cmd.ErrOrStderr(), document: how.document}
		w.show = lines.show
		return w.run(ctx)
	}
	t, err := openTerminal(os.Stdin, cmd.OutOrStdout())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &picture[T]{terminal: t, how: how}
	t.pressed = p.scroll
	redraw := make(chan struct{}, 1)
	w.show, w.again, w.redraw = p.show, p.again, redraw
	leave := t.enter(ctx, cancel, redraw)
	last, err := w.run(ctx)
	if err := errors.Join(err, leave()); err != nil {
		return nil, err
	}
	if last != nil {
		err = output(cmd, how.summary(last)+"\n")
	}
	return last, err
}

// jsonLines writes what was seen as a line wherever it differs from the one before.
type jsonLines[T any] struct {
	out, errors io.Writer
	document    func(*T) any
	last        string
}

func (j *jsonLines[T]) show(seen *T, err error) error {
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
	if err := enc.Encode(j.document(seen)); err != nil {
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
type picture[T any] struct {
	terminal *terminal
	how      showing[T]

	seen     *T
	err      error
	since    map[string]time.Time // when each of its keys was first seen; zero for those of the first picture
	shown    string
	changed  time.Time // when what stands there became so
	standing string    // the frame, to the byte

	scrolling
}

// scrolling is how far a text that is longer than the screen was scrolled.
type scrolling struct {
	mu      sync.Mutex
	scrolls []string // keys pressed since the last picture
	top     int      // the first line that is shown
}

// scroll notes keys for the next picture. It may be called while one is drawn.
func (p *scrolling) scroll(keys string) {
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
func (p *scrolling) scrolled(lines, room int) int {
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

func (p *picture[T]) show(seen *T, err error) error {
	p.err = err
	if seen != nil {
		keys := p.how.keys(seen)
		since := make(map[string]time.Time, len(keys))
		for _, key := range keys {
			if first, known := p.since[key]; known || p.since == nil {
				since[key] = first
			} else {
				since[key] = time.Now()
			}
		}
		p.seen, p.since = seen, since
	}
	return p.paint(false)
}

func (p *picture[T]) again() error { return p.paint(true) }

// findingKey tells findings apart over time.
func findingKey(f *hostagent.Finding) string {
	key := fmt.Sprint(f.ID, "\x00", f.State, "\x00", f.ServiceID, "\x00", f.Port)
	if f.Listener != nil {
		key += "\x00" + socketText(f.Listener)
	}
	return key
}

// paint draws the frame, and writes it at once where it is not what stands there.
func (p *picture[T]) paint(anyway bool) error {
	s := newScreen(p.terminal.out)
	now := s.now
	s.fresh = func(key string) bool { return now.Sub(p.since[key]) < freshFor }
	text := ""
	if p.err != nil {
		s.wrapped("error: ", catalog.CleanTo(p.err.Error(), errorsShown))
	}
	if p.seen != nil {
		text = p.how.draw(s, p.seen)
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
