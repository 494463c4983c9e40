// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// slow is a host whose edges take their time.
type slow struct {
	*hearing
	services, reporting, elsewhere, host, blocked time.Duration

	blocking bool
}

func (s *slow) Services(ctx context.Context) (consul.Answer, error) {
	if err := wait(ctx, s.services); err != nil {
		return consul.Answer{}, &consul.Error{Kind: consul.KindTimeout, Err: err}
	}
	return s.hearing.Services(ctx)
}

func (s *slow) Report(ctx context.Context, r consul.Report) (int, error) {
	if err := wait(ctx, s.reporting); err != nil {
		return 0, err
	}
	return s.hearing.Report(ctx, r)
}

func wait(ctx context.Context, d time.Duration) error {
	sleep(ctx, d)
	handOver()
	return ctx.Err()
}

// slowHost returns a host on which exposed applications go into quarantine.
func slowHost() (*slow, Parts, Input) {
	h, parts := hearingHost(nil)
	s := &slow{hearing: h}
	quarantining := infected()
	h.regs, h.facts = quarantining.Registrations, quarantining.Agent
	parts.Policy.Quarantine = quarantining.Policy.Quarantine
	parts.Registry = s
	parts.Host = func(ctx context.Context) *Host {
		_ = wait(ctx, s.host)
		return quarantining.Host
	}
	parts.Elsewhere = func(ctx context.Context) (sockets.Spaces, error) { return sockets.Spaces{}, wait(ctx, s.elsewhere) }
	parts.Blocked = func(ctx context.Context, _ []firewall.Probe) ([]firewall.Block, error) {
		handOver()
		s.blocking = true
		defer func() { s.blocking = false }()
		return nil, wait(ctx, s.blocked)
	}
	return s, parts, quarantining
}

// TestListenerDoesNotWait: whatever takes its time, a listener that appears is found and closed at once, and reported when
// the agent has answered.
func TestListenerDoesNotWait(t *testing.T) {
	for name, of := range map[string]func(*slow) *time.Duration{
		"registrations":    func(s *slow) *time.Duration { return &s.services },
		"reports":          func(s *slow) *time.Duration { return &s.reporting },
		"other namespaces": func(s *slow) *time.Duration { return &s.elsewhere },
		"host":             func(s *slow) *time.Duration { return &s.host },
		"other firewalls":  func(s *slow) *time.Duration { return &s.blocked },
	} {
		t.Run(name, func(t *testing.T) {
			h, parts, quarantining := slowHost()
			h.runAgent(t, parts, func(_ *Agent, reload chan<- Parts) {
				pass(35 * time.Second)
				handOver()
				*of(h) = 2500 * time.Millisecond
				reload <- parts
				for i := range 200 { // at any time of a pass
					h.listeners = quarantining.Listeners
					h.tell(one)
					pass(0)
					closed := h.sets()
					h.listeners = newFakeHost().listeners
					h.tell(one)
					pass(0)
					if closed != inQuarantine || h.sets() != released {
						t.Errorf("listener %d: %q, then %q", i, closed, h.sets())
						return
					}
					pass(wokenEvery * 3)
				}
				h.listeners = quarantining.Listeners
				h.tell(one)
				pass(10 * time.Second)
				if c := checkOf(h.report, "service:web"); !strings.Contains(c.Output, "exposed-listener") {
					t.Errorf("the check says %q", c.Output)
				}
			})
		})
	}
}

// TestReportOfAListenerWaitsForTheAgentOnly: the report that could not be written while another question was asked follows
// its answer, however far apart polls are.
func TestReportOfAListenerWaitsForTheAgentOnly(t *testing.T) {
	h, parts, quarantining := slowHost()
	parts.PollInterval = 10 * time.Second
	h.runAgent(t, parts, func(_ *Agent, _ chan<- Parts) {
		pass(35 * time.Second)
		h.blocked = 2 * time.Second
		for !h.blocking {
			pass(100 * time.Millisecond)
		}
		h.listeners = quarantining.Listeners
		h.tell(one)
		pass(3 * time.Second)
		if c := checkOf(h.report, "service:web"); !strings.Contains(c.Output, "exposed-listener") {
			t.Errorf("the check says %q", c.Output)
		}
	})
}

// TestFirstPassOpensFirst: a sidecar's port does not wait for what takes its time at the start, and nobody is told half.
func TestFirstPassOpensFirst(t *testing.T) {
	for name, of := range map[string]func(*slow) *time.Duration{
		"other namespaces": func(s *slow) *time.Duration { return &s.elsewhere },
		"host":             func(s *slow) *time.Duration { return &s.host },
	} {
		t.Run(name, func(t *testing.T) {
			h, parts, _ := slowHost()
			*of(h) = elsewhereDeadline - time.Millisecond
			h.runAgent(t, parts, func(*Agent, chan<- Parts) {
				pass(firstPatience)
				want(t, "meanwhile", "guard none open 21000 cut none true", h.sets())
				want(t, "reports meanwhile", "0", fmt.Sprint(h.reports))
				pass(elsewhereDeadline)
				if h.reports == 0 {
					t.Error("nothing is reported in the end")
				}
			})
		})
	}
}

// TestNamespacesAreLookedAtSoon: what begins to listen in another one right after a look is not left to the next poll.
func TestNamespacesAreLookedAtSoon(t *testing.T) {
	h, parts := hearingHost(nil)
	parts.PollInterval = 10 * time.Second
	looks := 0
	parts.Elsewhere = func(context.Context) (sockets.Spaces, error) {
		looks++
		return sockets.Spaces{}, nil
	}
	h.runAgent(t, parts, func(*Agent, chan<- Parts) {
		pass(time.Minute + time.Second)
		h.tell(sockets.Heard{Elsewhere: 1})
		pass(0)
		before, since := looks, time.Now()
		h.tell(sockets.Heard{Elsewhere: 1})
		pass(elsewhereRest)
		want(t, "looks", fmt.Sprint(before+1), fmt.Sprint(looks))
		for range 100 {
			h.tell(sockets.Heard{Elsewhere: 1})
			pass(20 * time.Millisecond)
		}
		if more, most := looks-before, int(time.Since(since)/elsewhereRest)+1; more > most {
			t.Errorf("%d looks in %v", more, time.Since(since))
		}
	})
}

// TestFirstPassDoesNotCutWhatItOpens: a port that an earlier run closed, and whose connections it cut, opens as any other.
func TestFirstPassDoesNotCutWhatItOpens(t *testing.T) {
	h, parts, _ := slowHost()
	parts.Policy.Quarantine, parts.Policy.CutOnClose = nil, true
	h.host = elsewhereDeadline - time.Millisecond
	h.rules = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Cut: firewall.Ports(21000, 21001), CutRules: true}
	h.exists = true
	h.runAgent(t, parts, func(*Agent, chan<- Parts) {
		pass(firstPatience)
		want(t, "meanwhile", "guard 21000-21255 open 21000 cut 21001 true", h.sets())
	})
}
