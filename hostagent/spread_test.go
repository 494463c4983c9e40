// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// paper is a host that keeps every report with its time.
type paper struct {
	*fakeHost
	said []saying
	lost int // checks that the next report has to write again
}

type saying struct {
	at     time.Time
	report consul.Report
}

func (p *paper) Report(ctx context.Context, r consul.Report) (int, error) {
	p.said = append(p.said, saying{time.Now(), r})
	written := p.lost
	p.lost = 0
	_, err := p.fakeHost.Report(ctx, r)
	return written, err
}

// news returns when something else was said than before, since a moment.
func (p *paper) news(since time.Time) []time.Time {
	var at []time.Time
	for i, s := range p.said {
		if !s.at.Before(since) && (i == 0 || !reflect.DeepEqual(p.said[i-1].report, s.report)) {
			at = append(at, s.at)
		}
	}
	return at
}

// silence is the longest time without a report, since a moment until now.
func (p *paper) silence(since time.Time) time.Duration {
	longest, last := time.Duration(0), since
	for _, s := range p.said {
		if s.at.After(last) {
			longest, last = max(longest, s.at.Sub(last)), s.at
		}
	}
	return max(longest, time.Since(last))
}

func newPaper(spread time.Duration) (*paper, Parts) {
	h := &paper{fakeHost: newFakeHost()}
	parts := h.parts(ModeGuard)
	parts.Registry, parts.Spread = h, &spread
	return h, parts
}

var exposed8080 = []string{"tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000 uid=0"}

// TestNewsOfManyHostsIsSpread: hosts that learn of the same at once tell it one after the other, at the start and later.
func TestNewsOfManyHostsIsSpread(t *testing.T) {
	const hosts, spread = 60, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		all, done := make([]*paper, hosts), make(chan error, hosts)
		for i := range all {
			h, parts := newPaper(0)
			parts.Spread, h.facts.Members = nil, int(spread/time.Second)*250
			all[i] = h
			go func() { done <- NewAgent(parts).Run(ctx, nil) }()
		}
		told := func(what string, since time.Time) {
			t.Helper()
			seconds := make([]int, spread/time.Second+2)
			for i, h := range all {
				news := h.news(since)
				if len(news) == 0 || news[0].Sub(since) > spread+time.Second {
					t.Errorf("%s: host %d has told news at %v, want it within %s", what, i, news, spread)
					continue
				}
				seconds[news[0].Sub(since)/time.Second]++
			}
			for second, n := range seconds {
				if n > hosts/3 {
					t.Errorf("%s: %d of %d hosts told it in second %d: %v", what, n, hosts, second, seconds)
				}
			}
		}
		start := time.Now()
		pass(30 * time.Second) // a first report, and a second one of what has settled
		told("the start", start)
		flip := time.Now()
		for _, h := range all {
			h.listeners = listeners(exposed8080...)
		}
		pass(20 * time.Second)
		told("a change", flip)
		cancel()
		for range all {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestHeldNewsLeavesWhatStands: while news waits, what was said before is kept alive and whole.
func TestHeldNewsLeavesWhatStands(t *testing.T) {
	h, parts := newPaper(0)
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(10 * time.Second)
		spread := 10 * time.Minute
		parts.Spread = &spread
		reload <- parts
		pass(10 * time.Second)
		flip := time.Now()
		h.listeners = listeners(exposed8080...)
		h.fails = &consul.Error{Kind: consul.KindMalformed, Err: errors.New("no JSON")} // the life check's news waits, too
		pass(time.Second)
		if len(h.news(flip)) == 0 { // but for one run in six hundred
			h.lost = 1
			pass(maxBackoff)
			if h.lost != 0 {
				t.Error("a check that was lost is not written again")
			}
		}
		pass(spread + time.Minute)
		news := h.news(flip)
		if len(news) == 0 || news[0].Sub(flip) > spread+time.Second {
			t.Fatalf("the news was told at %v, want once within %s", news, spread)
		}
		if silence := h.silence(flip); silence > 6*time.Second {
			t.Errorf("%s without a report: the life check would have expired", silence)
		}
		want(t, "the check", "warning", string(checkOf(h.report, "service:web").Status))
		want(t, "the life check", "warning", string(h.report.Life.Status))
	})
}

// TestFirstReportWaitsShortly: what an earlier run told of hostagent's life expires.
func TestFirstReportWaitsShortly(t *testing.T) {
	for range 20 {
		h, parts := newPaper(10 * time.Minute)
		h.runParts(t, parts, func(chan<- Parts) {
			start := time.Now()
			pass(firstSpread + time.Second)
			if len(h.said) == 0 || h.said[0].at.Sub(start) > firstSpread {
				t.Errorf("said %d times, want a first report within %s", len(h.said), firstSpread)
			}
		})
	}
}

// TestChangeWithoutPauseIsTold: neither what changes all the time nor what comes and goes puts news off for ever.
func TestChangeWithoutPauseIsTold(t *testing.T) {
	const spread = 20 * time.Second
	t.Run("another each time", func(t *testing.T) {
		h, parts := newPaper(spread)
		h.runParts(t, parts, func(chan<- Parts) {
			pass(20 * time.Second)
			last := time.Now()
			for i := range 120 {
				h.listeners = listeners(fmt.Sprintf("tcp 0.0.0.0:%d uid=0", 21100+i), "tcp [::]:21000 uid=0")
				pass(time.Second)
				if news := h.news(last); len(news) > 0 {
					last = news[len(news)-1].Add(1)
				} else if waited := time.Since(last); waited > spread+2*time.Second {
					t.Fatalf("nothing new was told for %s", waited)
				}
			}
		})
	})
	t.Run("to and fro", func(t *testing.T) {
		h, parts := newPaper(spread)
		h.runParts(t, parts, func(chan<- Parts) {
			pass(20 * time.Second)
			start, quiet := time.Now(), h.listeners
			for range 600 {
				h.listeners = listeners(exposed8080...)
				pass(time.Second)
				h.listeners = quiet
				pass(time.Second)
			}
			if n := len(h.news(start)); n < 5 { // about 27, give or take 5
				t.Errorf("told %d times in twenty minutes, want about once in twice the spread", n)
			}
		})
	})
}

// TestNewsThatWentIsNotTold: nothing is written where what was said is true again.
func TestNewsThatWentIsNotTold(t *testing.T) {
	told := 0
	for range 20 {
		h, parts := newPaper(5 * time.Minute)
		h.runParts(t, parts, func(chan<- Parts) {
			pass(20 * time.Second)
			start, quiet := time.Now(), h.listeners
			h.listeners = listeners(exposed8080...)
			pass(2 * time.Second)
			h.listeners = quiet
			pass(10 * time.Minute)
			told += len(h.news(start))
		})
	}
	if told > 6 { // each of the 20 with a chance of 1 in 150
		t.Errorf("%d times something was told that was over", told)
	}
}

// TestMomentsAreNotReused: the next news gets a moment of its own, though the one before never was written.
func TestMomentsAreNotReused(t *testing.T) {
	h := newHeldNews()
	now := time.Unix(1000, 0)
	for h.due.Sub(now) < 30*time.Second { // no short one, for the sake of what follows
		h = newHeldNews()
		h.holds(now, time.Minute)
	}
	due := h.due
	for after := range 30 {
		if !h.holds(now.Add(time.Duration(after)*time.Second), time.Minute) || h.due != due {
			t.Fatalf("after %d s it waits %t, until %s, want until %s", after, h.waits, h.due, due)
		}
	}
	h.none()
	if !h.holds(now.Add(time.Second), time.Minute) || h.due != due {
		t.Error("news that comes back has another moment")
	}
	h.none()
	held := 0
	for range 100 {
		later := due.Add(time.Hour)
		if h.holds(later, time.Minute) {
			held++
		}
		h.none()
		due = h.due
	}
	if held < 90 {
		t.Errorf("%d of 100 later news were held, want nearly all", held)
	}
}

// TestSpreadOfFewIsNone: small datacenters see each change at once, and a configuration can say so of large ones.
func TestSpreadOfFewIsNone(t *testing.T) {
	none, some := time.Duration(0), time.Minute
	for _, test := range []struct {
		name    string
		members int
		said    bool
		spread  *time.Duration
		want    time.Duration
	}{
		{"not known", 0, true, nil, 0},
		{"one", 1, true, nil, 4 * time.Millisecond},
		{"a hundred", 100, true, nil, 400 * time.Millisecond},
		{"100,000", 100_000, true, nil, 400 * time.Second},
		{"the first of 100,000", 100_000, false, nil, firstSpread},
		{"none", 100_000, true, &none, 0},
		{"another", 100_000, true, &some, time.Minute},
	} {
		a := NewAgent(Parts{Spread: test.spread})
		a.facts.Members = test.members
		if test.said {
			a.said = &consul.Report{}
		}
		if got := a.spread(); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	for range 100 {
		if h := newHeldNews(); h.holds(time.Unix(1000, 0), leastSpread-1) {
			t.Fatal("news waits where that is worth nothing")
		}
	}
}

// TestHeldNewsIsTold at once when hostagent stops, or the configuration says so.
func TestHeldNewsIsTold(t *testing.T) {
	for _, stops := range []bool{true, false} {
		t.Run(fmt.Sprintf("stops %t", stops), func(t *testing.T) {
			h, parts := newPaper(10 * time.Hour)
			var stop time.Time
			h.runParts(t, parts, func(reload chan<- Parts) {
				pass(20 * time.Second)
				h.listeners = listeners(exposed8080...)
				pass(5 * time.Second)
				if news := h.news(stop); len(news) != 1 {
					t.Fatalf("told already: %v", news)
				}
				if stop = time.Now(); !stops {
					none := time.Duration(0)
					parts.Spread = &none
					reload <- parts
					pass(0)
					want(t, "the check", "warning", string(checkOf(h.report, "service:web").Status))
				}
			})
			if !strings.HasPrefix(h.report.Life.Output, "hostagent was stopped") || h.said[len(h.said)-1].at != stop {
				t.Errorf("at the end, %s: %+v", time.Since(stop), h.report.Life)
			}
		})
	}
}

// TestLightPassesHoldNews: what a listener's wake-up finds waits as all news does.
func TestLightPassesHoldNews(t *testing.T) {
	spread := 10 * time.Hour
	h, parts := hearingHost(nil)
	parts.Spread = &spread
	h.runParts(t, parts, func(chan<- Parts) {
		pass(20 * time.Second)
		h.listeners = listeners(exposed8080...)
		h.tell(one)
		pass(0)
		want(t, "the check", "passing", string(checkOf(h.report, "service:web").Status))
	})
}

// TestHeldNewsWakesTheLoop: its moment does not wait for the next poll.
func TestHeldNewsWakesTheLoop(t *testing.T) {
	spread := 30 * time.Second
	h, parts := hearingHost(nil)
	parts.Spread, parts.PollInterval = &spread, 5*time.Minute
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10*time.Minute + time.Second)
		h.listeners = listeners(exposed8080...)
		h.tell(one)
		pass(spread)
		want(t, "the check", "warning", string(checkOf(h.report, "service:web").Status))
	})
}
