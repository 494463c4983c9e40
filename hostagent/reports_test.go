// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestSlowAnswersLeaveHostagentAlive: an agent that does not answer in time for registrations may take reports all the
// same. Its life check would turn critical, and all results vanish with it, though hostagent runs.
func TestSlowAnswersLeaveHostagentAlive(t *testing.T) {
	h := &counted{fakeHost: newFakeHost()}
	parts := h.parts(ModeGuard)
	parts.Registry = h
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		h.fails = &consul.Error{Kind: consul.KindTimeout, Err: errors.New("too slow")}
		pass(10 * time.Second)
		before := h.reports
		pass(time.Minute)
		if n := h.reports - before; n < 6 || n > 30 {
			t.Errorf("%d reports in a minute, want one every few seconds", n)
		}
		want(t, "the life check", "warning: hostagent 1.2.3\nIt runs in guard mode; when it ends, its rules stay in place.\n\nThe last whole answer of Consul stands:\n  too slow\n",
			string(h.report.Life.Status)+": "+h.report.Life.Output)

		// The one that takes no reports either is told once.
		h.reportFail = &consul.Error{Kind: consul.KindTimeout, Err: errors.New("report too slow")}
		pass(time.Minute)
		if strings.Contains(h.log.String(), "report too slow") {
			t.Errorf("one trouble is told twice:\n%s", h.log.String())
		}

		// One that breaks only this connection off takes reports, and one that is away costs a try that is not told.
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("reset")}
		h.reportFail = nil
		pass(10 * time.Second)
		want(t, "the life check", "\nThe last whole answer of Consul stands:\n  reset\n", h.report.Life.Output[len("hostagent 1.2.3\nIt runs in guard mode; when it ends, its rules stay in place.\n"):])
		h.reportFail = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("report refused")}
		pass(time.Minute)
		if strings.Contains(h.log.String(), "report refused") {
			t.Errorf("one trouble is told twice:\n%s", h.log.String())
		}
	})
}

// withdrawing is a host on which a service of hostagent's former name cannot be taken away.
type withdrawing struct {
	*fakeHost
	fails map[string]error
	tries int
}

func (w *withdrawing) Withdraw(ctx context.Context, service string) error {
	w.tries++
	if err := w.fails[service]; err != nil {
		return err
	}
	return w.fakeHost.Withdraw(ctx, service)
}

// TestFormerNameKeepsNothingFromBeingReported: a token that was made for the new name only may not take the old one away.
func TestFormerNameKeepsNothingFromBeingReported(t *testing.T) {
	h := &withdrawing{fakeHost: newFakeHost(), fails: map[string]error{
		"hostagent": &consul.Error{Kind: consul.KindDenied, Err: errors.New("no right to hostagent")},
	}}
	parts := h.parts(ModeGuard)
	parts.Registry = h
	h.runAgent(t, parts, func(a *Agent, reload chan<- Parts) {
		pass(5 * time.Second)
		parts.Policy.OwnService = "guard"
		reload <- parts
		pass(10 * time.Second)
		want(t, "what reports", "guard", h.report.Service)
		if text := a.Status().Report.Error; !strings.Contains(text, "no right to hostagent") {
			t.Errorf("the status says %q", text)
		}
		h.tries = 0
		pass(5 * time.Minute)
		if h.tries < 4 || h.tries > 6 {
			t.Errorf("%d tries in five minutes, want one a minute", h.tries)
		}
		delete(h.fails, "hostagent")
		pass(2 * time.Minute)
		want(t, "taken away", "hostagent", strings.Join(h.withdrawn, " "))
		want(t, "the error", "", a.Status().Report.Error)

		// Back to a name that could not be taken away: it is the present one again.
		h.fails["guard"] = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no right to guard")}
		parts.Policy.OwnService = "hostagent"
		reload <- parts
		pass(5 * time.Second)
		parts.Policy.OwnService = "guard"
		reload <- parts
		pass(3 * time.Minute)
		delete(h.fails, "guard")
		pass(3 * time.Minute)
		want(t, "what reports", "guard", h.report.Service)
		want(t, "taken away", "hostagent hostagent", strings.Join(h.withdrawn, " "))
		want(t, "the error", "", a.Status().Report.Error)
	})
}

// TestStopIsTold where the agent never gave a whole answer, too.
func TestStopIsTold(t *testing.T) {
	h := newFakeHost()
	h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")}
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		want(t, "the life check", "warning", string(h.report.Life.Status))
	})
	if life := h.report.Life; life.Status != consul.Critical || !strings.HasPrefix(life.Output, "hostagent was stopped") || !h.report.LifeOnly {
		t.Errorf("after the stop: %+v", h.report)
	}
}
