// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// hearing is a host that tells of listeners.
type hearing struct {
	*counted
	tell     func(sockets.Heard)
	watching int
	lists    int
}

// hearingHost returns a host on which web is registered, and its parts. What changes listens, if not nil, may change its
// listeners before each list of them.
func hearingHost(listens func(list int)) (*hearing, Parts) {
	h := &hearing{counted: &counted{fakeHost: newFakeHost()}}
	parts := h.parts(ModeGuard)
	parts.Registry, parts.Owners = h, h
	list := parts.Listen
	parts.Listen = func(ctx context.Context) ([]sockets.Listener, error) {
		handOver() // a pass that a listener woke asks nobody else
		h.lists++
		if listens != nil {
			listens(h.lists)
		}
		return list(ctx)
	}
	parts.Listened = func(ctx context.Context, told func(sockets.Heard)) error {
		h.watching++
		defer func() { h.watching-- }()
		h.tell = told
		told(sockets.Heard{})
		<-ctx.Done()
		return nil
	}
	return h, parts
}

var one = sockets.Heard{Here: 1}

// TestListenerWakesTheLoop: what begins to listen is found and reported at once, closed if it has to be, and Consul is not
// asked for it.
func TestListenerWakesTheLoop(t *testing.T) {
	h, parts := hearingHost(nil)
	quarantining := infected()
	h.regs, h.facts = quarantining.Registrations, quarantining.Agent
	parts.Policy.Quarantine = quarantining.Policy.Quarantine
	parts.Host = func(context.Context) *Host { return quarantining.Host }
	parts.PollInterval = 10 * time.Second
	h.runAgent(t, parts, func(a *Agent, reload chan<- Parts) {
		pass(35 * time.Second)
		want(t, "before", guarded, h.state())
		if s := a.Status(); !s.Listeners.Events || len(s.Degradations) != 0 {
			t.Errorf("it says events %t, degradations %q", s.Listeners.Events, s.Degradations)
		}
		asked := h.asked
		h.listeners = quarantining.Listeners
		h.tell(one)
		pass(0)
		want(t, "when something listens", inQuarantine, h.sets())
		if c := checkOf(h.report, "service:web"); !strings.Contains(c.Output, "exposed-listener") {
			t.Errorf("the check says %q", c.Output)
		}
		if !strings.Contains(h.log.String(), `msg="finding opened" id=exposed-listener`) {
			t.Errorf("log:\n%s", h.log.String())
		}
		want(t, "questions to Consul", "0", fmt.Sprint(h.asked-asked))
		pass(10 * time.Second)
		if h.asked == asked {
			t.Error("Consul is not polled any more")
		}
		reload <- parts
		pass(0)
		want(t, "watches after a reload", "1", fmt.Sprint(h.watching))
		h.listeners = newFakeHost().listeners
		h.tell(one)
		pass(0)
		want(t, "heard after a reload", released, h.sets())
	})
	want(t, "watches after the end", "0", fmt.Sprint(h.watching))
}

// TestListenerElsewhereIsLookedAtOnce: what begins to listen in another network namespace has the loop look there, and then
// no more often than before.
func TestListenerElsewhereIsLookedAtOnce(t *testing.T) {
	h, parts := hearingHost(nil)
	looks := 0
	parts.Elsewhere = func(context.Context) (sockets.Spaces, error) {
		looks++
		return sockets.Spaces{}, nil
	}
	h.runParts(t, parts, func(chan<- Parts) {
		pass(3 * afreshEvery / 2)
		before := looks
		h.tell(sockets.Heard{Here: 1, Elsewhere: 1})
		pass(parts.PollInterval)
		want(t, "looks after listeners here and elsewhere", "1", fmt.Sprint(looks-before))
		pass(elsewhereRest)
		before = looks
		h.tell(sockets.Heard{Elsewhere: 3})
		pass(0)
		want(t, "looks after a listener elsewhere", "1", fmt.Sprint(looks-before))
		pass(4 * afreshEvery)
		if later := looks - before - 1; later > 4 {
			t.Errorf("%d looks in the %v after, want one every %v", later, 4*afreshEvery, afreshEvery)
		}
	})
}

// TestStormIsBounded: a process that listens without pause, on ever other ports of loopback, costs twenty passes a second
// and no question to Consul beside the usual ones; nothing of what it hides in is found much later.
func TestStormIsBounded(t *testing.T) {
	const storm = 10 * time.Second
	var h *hearing
	noise := false
	h, parts := hearingHost(func(list int) {
		if noise {
			h.listeners = append(newFakeHost().listeners, listener(fmt.Sprintf("tcp 127.0.0.1:%d", 30000+list)))
		}
	})
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		noise = true
		lists, asked, reports := h.lists, h.asked, h.reports
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				default:
					h.tell(sockets.Heard{Here: 1000})
				}
			}
		}()
		pass(storm)
		passes, polls := h.lists-lists, int(storm/parts.PollInterval)
		if most := wokenBurst + int(storm/wokenEvery) + polls + 1; passes < most/2 || passes > most {
			t.Errorf("%d passes in %v, want at most %d and not much less", passes, storm, most)
		}
		if asked := h.asked - asked; asked < polls-1 || asked > polls+1 {
			t.Errorf("Consul was asked %d times in %v, want %d", asked, storm, polls)
		}
		if reports := h.reports - reports; reports > polls+1 {
			t.Errorf("%d reports in %v, want at most %d", reports, storm, polls)
		}
		noise = false
		h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
		pass(2 * wokenEvery)
		want(t, "what listens in the storm", "warning", string(checkOf(h.report, "service:web").Status))
		close(stop)
		pass(time.Second)
	})
}

// TestBurstIsServedAtOnce: the bound is for those who listen without pause.
func TestBurstIsServedAtOnce(t *testing.T) {
	h, parts := hearingHost(nil)
	parts.PollInterval = time.Hour
	h.runParts(t, parts, func(chan<- Parts) {
		pass(time.Minute)
		lists, start := h.lists, time.Now()
		for range wokenBurst {
			h.tell(one)
			synctest.Wait()
		}
		want(t, "passes", fmt.Sprint(wokenBurst), fmt.Sprint(h.lists-lists))
		want(t, "delay", "0s", time.Since(start).String())
		h.tell(one)
		want(t, "delay of one more", wokenEvery.String(), time.Since(start).String())
	})
}

// TestReportsOfAWokenPass: one that failed is not tried again at every listener, and stands in the status meanwhile.
func TestReportsOfAWokenPass(t *testing.T) {
	h, parts := hearingHost(nil)
	parts.PollInterval = 10 * time.Second
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		h.reportFail = errors.New("no right")
		pass(time.Minute)
		reports := h.reports
		for range 10 {
			h.tell(one)
			pass(100 * time.Millisecond)
		}
		want(t, "reports while nothing changes", "0", fmt.Sprint(h.reports-reports))
		if s := a.Status(); !strings.Contains(s.Report.Error, "no right") {
			t.Errorf("the status says %q", s.Report.Error)
		}
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("down")}
		pass(10 * time.Second)
		h.tell(one)
		pass(0)
		if s := a.Status(); !strings.Contains(s.Consul.Error, "down") {
			t.Errorf("the status says %q", s.Consul.Error)
		}
	})
}

// TestDeafHostSaysSo: without events it is said once why, in the log and as long as it lasts in the status; and it is tried
// again.
func TestDeafHostSaysSo(t *testing.T) {
	h, parts := hearingHost(nil)
	hears := parts.Listened
	tries, failing := 0, errors.New("no right")
	parts.Listened = func(ctx context.Context, told func(sockets.Heard)) error {
		tries++
		if failing != nil {
			return failing
		}
		return hears(ctx, told)
	}
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		pass(5*watchAgain + time.Second)
		want(t, "tries", "6", fmt.Sprint(tries))
		const text = "listeners are found at poll_interval only: no right"
		s := a.Status()
		want(t, "degradations", text, strings.Join(s.Degradations, "; "))
		want(t, "events", "false", fmt.Sprint(s.Listeners.Events))
		want(t, "lines", "1", fmt.Sprint(strings.Count(h.log.String(), `level=WARN msg=degraded reason="`+text+`"`)))
		failing = nil
		pass(watchAgain)
		s = a.Status()
		want(t, "degradations when it hears", "", strings.Join(s.Degradations, "; "))
		want(t, "events when it hears", "true", fmt.Sprint(s.Listeners.Events))
		if !strings.Contains(h.log.String(), "listeners are heard of as they appear") {
			t.Errorf("log:\n%s", h.log.String())
		}
	})
}
