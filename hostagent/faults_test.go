// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// flaky is an agent of which only every so many-th answer is whole.
type flaky struct {
	*fakeHost
	every int
	kind  func(n int) consul.Kind
	calls int
}

func (f *flaky) Services(ctx context.Context) (consul.Answer, error) {
	answer, err := f.fakeHost.Services(ctx)
	if f.calls++; f.calls%f.every != 0 {
		return consul.Answer{}, &consul.Error{Kind: f.kind(f.calls), Err: fmt.Errorf("failure %d", f.calls)}
	}
	return answer, err
}

func (f *flaky) run(t *testing.T, story func()) {
	t.Helper()
	parts := f.parts(ModeGuard)
	parts.Registry = f
	f.runParts(t, parts, func(chan<- Parts) { story() })
}

func always(kind consul.Kind) func(int) consul.Kind { return func(int) consul.Kind { return kind } }

// TestFlakyAgentStillCounts: an agent of which most answers are none delays what opens and closes, but for good it keeps
// nothing as it was.
func TestFlakyAgentStillCounts(t *testing.T) {
	for _, every := range []int{2, 3, 5} {
		t.Run(fmt.Sprint("one of ", every), func(t *testing.T) {
			f := &flaky{fakeHost: newFakeHost(), every: every, kind: always(consul.KindThrottled)}
			f.run(t, func() {
				pass(time.Minute)
				want(t, "the range is guarded in the end", guarded, f.state())
				f.regs = nil
				pass(30 * time.Second)
				want(t, "before close_delay", guarded, f.state())
				pass(10 * time.Minute)
				want(t, "long after close_delay", "guard 21000-21255 open none", f.state())
			})
		})
	}
}

// TestOutagesCloseNothing: an agent that forgets its services whenever it comes back, and goes again at once, has said so
// once each time. No time that it was away counts.
func TestOutagesCloseNothing(t *testing.T) {
	m := newMemory()
	at := time.Now()
	claims := map[Held]bool{{ID: "web-sidecar-proxy", Port: 21000}: true}
	m.answer(at, claims, 30*time.Second, time.Second)
	for range 30 {
		m.miss()
		m.miss()
		at = at.Add(10 * time.Minute)
		if m.answer(at, nil, 30*time.Second, time.Second); len(m.held()) != 1 {
			t.Fatal("closed before as many answers as close_delay has intervals")
		}
	}
	m.miss()
	if m.answer(at.Add(time.Second), nil, 30*time.Second, time.Second); len(m.held()) != 0 {
		t.Error("open after as many answers as close_delay has intervals")
	}
}

// TestFlakyAgentStillCountsMembers is the same for a datacenter's members.
func TestFlakyAgentStillCountsMembers(t *testing.T) {
	m := newSourceMemory()
	two := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	three := append(two[:2:2], netip.MustParseAddr("10.0.0.3"))
	at := time.Now()
	m.answer(at, three, 30*time.Second)
	for i := range 7 {
		at = at.Add(time.Hour)
		m.miss()
		if m.answer(at, two, 30*time.Second); len(m.all) != 3 && i < 6 {
			t.Fatalf("who left is shut out by answer %d", i+1)
		}
	}
	if len(m.all) != 2 {
		t.Error("who left is let in for ever")
	}
}

// TestFlakyAgentIsLoggedOnceAMinute: a trouble that comes and goes is one line a minute, and one that it is over; another
// kind of trouble is news.
func TestFlakyAgentIsLoggedOnceAMinute(t *testing.T) {
	f := &flaky{fakeHost: newFakeHost(), every: 2, kind: always(consul.KindTimeout)}
	f.run(t, func() { pass(10 * time.Minute) })
	if failed, over := f.count("step failed"), f.count("recovered"); failed < 9 || failed > 11 || over > failed {
		t.Errorf("%d lines of trouble and %d of its end in ten minutes, want one a minute", failed, over)
	}
	kinds := []consul.Kind{consul.KindTimeout, consul.KindStatus, consul.KindDenied}
	f = &flaky{fakeHost: newFakeHost(), every: 2, kind: func(n int) consul.Kind { return kinds[n/2%len(kinds)] }}
	f.run(t, func() { pass(30 * time.Second) })
	if failed, over := f.count("step failed"), f.count("recovered"); failed != 3 || over != 3 {
		t.Errorf("%d lines of trouble and %d of its end, want one for each kind:\n%s", failed, over, f.log.String())
	}
}

func (f *flaky) count(text string) int { return strings.Count(f.log.String(), text) }

// TestAgentThatIsSilentAboutItself: while services are told, reports go on, or the life check would expire and hostagent
// pass for dead.
func TestAgentThatIsSilentAboutItself(t *testing.T) {
	h := &counted{fakeHost: newFakeHost()}
	parts := h.parts(ModeGuard)
	parts.Registry = h
	h.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		h.factsFail = &consul.Error{Kind: consul.KindTimeout, Err: errors.New("no answer in time")}
		pass(40 * time.Second)
		before := h.reports
		pass(time.Minute)
		if n := h.reports - before; n < 6 {
			t.Errorf("%d reports in a minute", n)
		}
		if life := h.report.Life; life.Status != consul.Warning || !strings.Contains(life.Output, "Registrations are up to date, but not what Consul tells of itself:") {
			t.Errorf("life check is %+v", life)
		}
	})
}
