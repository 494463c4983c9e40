// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// signs counts the loop's signs of life.
type signs struct {
	count  int
	latest time.Time
	widest time.Duration // between two of them
	lines  []string      // those that differ from the one before
}

func (s *signs) alive(line string) {
	handOver()
	now := time.Now()
	if s.count > 0 {
		s.widest = max(s.widest, now.Sub(s.latest))
	}
	s.count++
	s.latest = now
	if line != "" && (len(s.lines) == 0 || s.lines[len(s.lines)-1] != line) {
		s.lines = append(s.lines, line)
	}
}

// TestHungLoopGivesNoSignOfLife: neither a step that hangs nor a question beside which listeners appear and are served
// passes for a loop that goes on.
func TestHungLoopGivesNoSignOfLife(t *testing.T) {
	for name, hang := range map[string]func(parts *Parts, wait func()){
		"step": func(parts *Parts, wait func()) {
			list := parts.Listen
			parts.Listen = func(ctx context.Context) ([]sockets.Listener, error) {
				wait()
				return list(ctx)
			}
		},
		"question": func(parts *Parts, wait func()) {
			parts.Elsewhere = func(context.Context) (sockets.Spaces, error) {
				wait() // whatever its context says
				return sockets.Spaces{}, nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, parts := hearingHost(nil)
			var s signs
			parts.Alive = s.alive
			var hangs bool
			var release chan struct{}
			hang(&parts, func() {
				handOver()
				if hangs {
					<-release
				}
			})
			h.runAgent(t, parts, func(*Agent, chan<- Parts) {
				release = make(chan struct{})
				pass(10 * time.Second)
				if s.count < 10 {
					t.Fatalf("%d signs of life in 10 s", s.count)
				}
				hangs = true
				pass(10 * time.Second)
				before := s.count
				for range 30 {
					h.tell(one)
					pass(2 * time.Second)
				}
				want(t, "signs of life in a minute", "0", fmt.Sprint(s.count-before))
				hangs = false
				close(release)
				pass(3 * time.Second)
				if s.count == before {
					t.Error("no sign of life after it hung")
				}
			})
		})
	}
}

// slowKernel takes all the time that it is given to change something.
type slowKernel struct{ kernel }

func (slowKernel) Apply(ctx context.Context, _ firewall.Ruleset) (firewall.Changes, error) {
	<-ctx.Done()
	handOver()
	return firewall.Changes{}, ctx.Err()
}

// TestSlowLoopGivesSignsOfLife: with all that may take its time taking as long as it may, no two signs are as far apart as
// half of the unit's WatchdogSec.
func TestSlowLoopGivesSignsOfLife(t *testing.T) {
	h, parts, _ := slowHost()
	var s signs
	parts.Alive = s.alive
	parts.PollInterval = 10 * time.Second
	for _, d := range []*time.Duration{&h.services, &h.reporting, &h.elsewhere, &h.host, &h.blocked} {
		*d = time.Hour
	}
	h.services = 4 * time.Second // there is something to apply
	parts.Firewall = slowKernel{h}
	h.runAgent(t, parts, func(*Agent, chan<- Parts) { pass(10 * time.Minute) })
	if s.widest > 30*time.Second || s.count == 0 {
		t.Errorf("%s between two signs of life (%d in all)", s.widest, s.count)
	}
}

// TestSummary: what "systemctl status" shows, from the start on.
func TestSummary(t *testing.T) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	for _, c := range []struct {
		name string
		mode Mode
		set  func(h *fakeHost)
		want string
	}{
		{"guard", ModeGuard, func(*fakeHost) {}, `starting in guard mode
guarding nothing before a second whole answer of Consul: 1 sidecar port open, 0 warnings
guarding 21000-21255: 1 sidecar port open, 0 warnings`},
		{"observe", ModeObserve, func(*fakeHost) {}, `starting in observe mode
observing 21000-21255: 1 sidecar port that guard mode would open, 0 warnings`},
		{"no agent", ModeGuard, func(h *fakeHost) {
			h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: fmt.Errorf("cannot ask: %w", refused)}
		}, `starting in guard mode
waiting for the Consul agent at http://127.0.0.1:8500: connection refused`},
		{"an agent that hangs", ModeObserve, func(h *fakeHost) {
			h.fails = &consul.Error{Kind: consul.KindTimeout, Err: errors.New("late")}
		}, `starting in observe mode
waiting for the Consul agent at http://127.0.0.1:8500: no answer in time`},
		{"an agent that lies", ModeGuard, func(h *fakeHost) {
			h.fails = &consul.Error{Kind: consul.KindStatus, Err: errors.New("status 500: \x1b[2J\nREADY=1" + strings.Repeat("x", 500))}
		}, `starting in guard mode
waiting for the Consul agent at http://127.0.0.1:8500: status 500: \x1b[2J\nREADY=1` + strings.Repeat("x", 92) + "…"},
		{"no rules", ModeGuard, func(h *fakeHost) { h.applyFail = errors.New("cannot\napply") }, `starting in guard mode
guarding nothing before a second whole answer of Consul: 0 sidecar ports open, 0 warnings; the firewall fails: cannot apply`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newFakeHost()
			c.set(h)
			var s signs
			parts := h.parts(c.mode)
			parts.Alive, parts.Address = s.alive, "http://127.0.0.1:8500"
			h.runParts(t, parts, func(chan<- Parts) { pass(20 * time.Second) })
			want(t, "lines", c.want, strings.Join(s.lines, "\n"))
		})
	}
}
