// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// catalogHost is a host whose servers tell of changes.
type catalogHost struct {
	*fakeHost
	index   uint64
	changes chan struct{} // a token ends the wait
	asked   []string      // node and index of every question
	waiting int
	fail    error
}

func newCatalogHost() (*catalogHost, Parts) {
	h := &catalogHost{fakeHost: newFakeHost(), index: 7}
	parts := h.parts(ModeGuard)
	parts.PollInterval = 10 * time.Second
	parts.Changed = h.changed
	return h, parts
}

func (h *catalogHost) changed(ctx context.Context, node string, index uint64) (uint64, error) {
	handOver()
	if h.changes == nil {
		h.changes = make(chan struct{}) // of the bubble
	}
	h.asked = append(h.asked, fmt.Sprintf("%s %d", node, index))
	if h.fail != nil || index != h.index {
		return h.index, h.fail
	}
	h.waiting++
	defer func() { h.waiting-- }()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-h.changes:
	case <-time.After(5 * time.Minute):
	}
	return h.index, h.fail
}

// change lets the catalog see a change.
func (h *catalogHost) change() {
	h.index++
	h.changes <- struct{}{}
}

func wakeupOf(a *Agent) string {
	w := a.Status().Consul.Wakeup
	return strings.TrimSpace(string(w.State) + " " + w.Reason)
}

// TestWakeupBeforeTheFirstPass: what is not off is not said to be.
func TestWakeupBeforeTheFirstPass(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeObserve)
	parts.Changed = new(catalogHost).changed
	want(t, "wake-up", "starting", wakeupOf(NewAgent(parts)))
	parts.Changed = nil
	want(t, "wake-up switched off", "off catalog_wakeup is false", wakeupOf(NewAgent(parts)))
}

// TestCatalogWakesTheLoop: what is registered opens as soon as the catalog has it, long before the next poll, and a wait in
// which nothing changed wakes nobody.
func TestCatalogWakesTheLoop(t *testing.T) {
	h, parts := newCatalogHost()
	h.runAgent(t, parts, func(a *Agent, reload chan<- Parts) {
		pass(25 * time.Second)
		want(t, "before", guarded, h.state())
		want(t, "wake-up", "waiting", wakeupOf(a))
		h.regs = append(h.regs, sidecar("api", 21001))
		h.change()
		pass(0)
		want(t, "as soon as the catalog tells", "guard 21000-21255 open 21000-21001", h.state())

		pass(3 * time.Second)
		asked := h.fakeHost.asked
		h.changes <- struct{}{} // its time is up
		pass(time.Second)
		want(t, "passes for no change", "0", fmt.Sprint(h.fakeHost.asked-asked))

		parts.Changed = nil
		reload <- parts
		pass(0)
		want(t, "wake-up switched off", "off catalog_wakeup is false", wakeupOf(a))
		want(t, "questions that wait then", "0", fmt.Sprint(h.waiting))
		parts.Changed = h.changed
		reload <- parts
		pass(time.Second)
		want(t, "wake-up switched on", "waiting", wakeupOf(a))
		h.facts.Node = "n2"
		pass(factsEvery + 10*time.Second)
		want(t, "questions for a node of another name", "n2 8", h.asked[len(h.asked)-1])
		want(t, "questions that wait", "1", fmt.Sprint(h.waiting))
		h.facts.Node = ""
		pass(factsEvery + 10*time.Second)
		want(t, "without a name", "off "+errNodeHidden.Error(), wakeupOf(a))
	})
	want(t, "questions that wait after the end", "0", fmt.Sprint(h.waiting))
}

// TestCatalogThatChangesWithoutPause costs a quarter of the time of a processor, after a burst.
func TestCatalogThatChangesWithoutPause(t *testing.T) {
	for took, want := range map[time.Duration][2]int{ // a pass takes so long: passes of the first second, and of ten seconds later
		0: {30, 125}, 100 * time.Millisecond: {8, 25},
	} {
		h, parts := newCatalogHost()
		parts.Changed = func(context.Context, string, uint64) (uint64, error) {
			h.index++
			return h.index, nil
		}
		list := parts.Listen
		parts.Listen = func(ctx context.Context) ([]sockets.Listener, error) {
			time.Sleep(took)
			return list(ctx)
		}
		h.runParts(t, parts, func(chan<- Parts) {
			pass(time.Second)
			if h.fakeHost.asked < want[0] {
				t.Errorf("%d passes of %v in the first second, want %d at least", h.fakeHost.asked, took, want[0])
			}
			pass(10 * time.Second)
			asked := h.fakeHost.asked
			pass(10 * time.Second)
			if passes := h.fakeHost.asked - asked; passes < want[1]*3/4 || passes > want[1]*5/4 {
				t.Errorf("%d passes of %v in ten seconds, want about %d", passes, took, want[1])
			}
		})
	}
}

// TestFailingCatalogIsNoTrouble: polling goes on, the servers are asked ever more rarely, and it is said once; when they
// are back a change wakes the loop again.
func TestFailingCatalogIsNoTrouble(t *testing.T) {
	h, parts := newCatalogHost()
	h.fail = errors.New("status 500: No cluster leader")
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		pass(10 * time.Minute)
		if n := len(h.asked); n < 12 || n > 35 {
			t.Errorf("%d questions in ten minutes, want 1, 2, 4, ... 60 s between them, or half of it", n)
		}
		s := a.Status()
		want(t, "wake-up", "failing registrations are seen at poll_interval only: status 500: No cluster leader", wakeupOf(a))
		if s.Consul.Error != "" || len(s.Degradations) != 0 || s.Report.Error != "" || h.report.Life.Status != consul.Passing {
			t.Errorf("it is taken for a trouble: %+v, life check %+v", s, h.report.Life)
		}
		want(t, "lines of the log", "1", fmt.Sprint(strings.Count(h.log.String(), "No cluster leader")))
		h.fail = nil
		pass(maxWakeupRetry)
		want(t, "wake-up", "waiting", wakeupOf(a))
		h.regs = append(h.regs, sidecar("api", 21001))
		h.change()
		pass(0)
		want(t, "when it is back", "guard 21000-21255 open 21000-21001", h.state())
	})
}

// TestCatalogThatNeverWaits is asked as rarely as one that fails.
func TestCatalogThatNeverWaits(t *testing.T) {
	h, parts := newCatalogHost()
	questions := 0
	parts.Changed = func(context.Context, string, uint64) (uint64, error) {
		questions++
		return 7, nil
	}
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		pass(10 * time.Minute)
		if questions > 70 {
			t.Errorf("%d questions in ten minutes", questions)
		}
		if state, err := a.wakeup.shown(); state != WakeupFailing || !strings.Contains(err.Error(), "answers before anything changes") {
			t.Errorf("wake-up is %s, %v", state, err)
		}
		if lines := strings.Count(h.log.String(), "the loop"); lines > 25 {
			t.Errorf("%d lines of the log in ten minutes", lines)
		}
	})
}

// TestAgentThatIsTooOld: what it says counts for nothing, the state stands, the own check says so, and an upgrade counts soon.
func TestAgentThatIsTooOld(t *testing.T) {
	h, parts := newCatalogHost()
	parts.PollInterval = time.Second
	parts.CloseDelay = 5 * time.Second
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		pass(10 * time.Second)
		h.fails = errors.New("connection refused") // a downgrade restarts it
		pass(3 * time.Second)
		h.facts.Version, h.regs, h.fails = "1.10.12", nil, nil
		pass(maxBackoff)
		asked := len(h.asked)
		pass(time.Minute)
		want(t, "beside an old agent", guarded, h.state())
		if c := h.report.Life; c.Status != consul.Warning || !strings.Contains(c.Output, "upgrade Consul to 1.11.0") {
			t.Errorf("life check %+v", c)
		}
		if s := a.Status(); !strings.Contains(s.Consul.Error, "1.11.0 or later") {
			t.Errorf("status says %q", s.Consul.Error)
		}
		want(t, "questions to its catalog, and such that wait", "0 0", fmt.Sprint(len(h.asked)-asked, h.waiting))
		h.facts.Version, h.regs = "1.21.0", newFakeHost().regs
		pass(maxBackoff + time.Second)
		want(t, "after an upgrade", "", a.Status().Consul.Error)
		want(t, "wake-up after an upgrade", "waiting", wakeupOf(a))
		h.facts.Version = ""
		pass(factsEvery + time.Second)
		if s := a.Status(); s.Consul.Error != "" || !strings.Contains(strings.Join(s.Degradations, "\n"), "one older than 1.11.0") {
			t.Errorf("of an agent that does not tell its version it says %q, %q", s.Consul.Error, s.Degradations)
		}
	})
}

func TestRefuseOld(t *testing.T) {
	tooOld := &consul.Error{Kind: consul.KindTooOld, Err: errors.New("it sends no header")}
	for _, tt := range []struct {
		name                    string
		version                 string
		factsFail, servicesFail error
		want                    string // in the error; "" for none
	}{
		{"new enough", "1.11.0", nil, nil, ""},
		{"too old", "1.10.12", nil, nil, "upgrade Consul to 1.11.0"},
		{"version unknown", "dev", nil, nil, ""},
		{"no answer", "", errors.New("connection refused"), errors.New("connection refused"), ""},
		{"no right to ask", "", errors.New("403"), nil, ""},
		{"no right to ask one that is very old", "", errors.New("403"), tooOld, "it sends no header"},
	} {
		h := newFakeHost()
		h.facts.Version, h.factsFail, h.fails = tt.version, tt.factsFail, tt.servicesFail
		parts := h.parts(ModeGuard)
		err := parts.RefuseOld(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestCatalogEndsTheWaitAfterFailures: an agent that tells of a change answers again, so that it is asked at once.
func TestCatalogEndsTheWaitAfterFailures(t *testing.T) {
	h, parts := newCatalogHost()
	h.runAgent(t, parts, func(*Agent, chan<- Parts) {
		pass(time.Minute)
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		h.change()
		pass(time.Second)
		h.fails = nil
		before := h.asked
		asked := h.fakeHost.asked
		h.change()
		pass(100 * time.Millisecond)
		if h.fakeHost.asked == asked || len(h.asked) == len(before) {
			t.Error("the agent is not asked for its registrations though the catalog told of a change")
		}
	})
}
