// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// counter is a watcher.
type counter struct {
	steps  []string
	kinds  []consul.Kind
	repair int
}

func (c *counter) Stepped(step string, _ time.Duration) { c.steps = append(c.steps, step) }
func (c *counter) Repaired()                            { c.repair++ }
func (c *counter) ConsulFailed(kind consul.Kind)        { c.kinds = append(c.kinds, kind) }

// watched runs an agent for a story that may ask it for its status.
func (h *fakeHost) watched(t *testing.T, parts Parts, story func(a *Agent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		agent := NewAgent(parts)
		if text, err := json.Marshal(agent.Status()); err != nil || strings.Count(string(text), "null") != 6 {
			t.Errorf("before the first pass only the six times are null: %s, %v", text, err)
		}
		go func() { done <- agent.Run(ctx, nil) }()
		synctest.Wait()
		story(agent)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// statusText is what matters of a status, times as seconds since the start.
func statusText(s Status) string {
	seconds := func(t *time.Time) string {
		if t == nil {
			return "never"
		}
		return fmt.Sprint(t.Sub(*s.Started))
	}
	var open []string
	for _, o := range s.Openings {
		open = append(open, fmt.Sprintf("%d %s", o.Port, strings.Join(o.Services, ",")))
	}
	return fmt.Sprintf("%s %s, pass %d at %s; answer %s %q; apply %s, change %s, repairs %d, %q; guard %s open %s settled %t (%s); %d findings; %s",
		s.Mode, s.Firewall.Backend, s.Pass.Count, seconds(s.Pass.Last), seconds(s.Consul.LastWholeAnswer), s.Consul.Error,
		seconds(s.Firewall.LastApply), seconds(s.Firewall.LastChange), s.Firewall.Repairs, s.Firewall.Error,
		s.Firewall.Guarded, s.Firewall.Open, s.Firewall.Settled, strings.Join(open, "; "), len(s.Findings), strings.Join(s.Degradations, "; "))
}

func TestStatusFollowsTheLoop(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.Backend, parts.Degradations = "fake", []string{"no IPv6"}
	watch := &counter{}
	parts.Watch = watch
	h.watched(t, parts, func(a *Agent) {
		pass(0)
		want(t, "at the first pass", `guard fake, pass 1 at 0s; answer 0s ""; apply 0s, change never, repairs 0, ""; guard none open 21000 settled false (21000 web); 0 findings; no IPv6`, statusText(a.Status()))
		h.applied = firewall.Changes{Sets: []firewall.SetChange{{Set: "hostagent-guard"}}, Repaired: []string{"a set was flushed"}}
		pass(2500 * time.Millisecond)
		h.applied = firewall.Changes{}
		h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		pass(10 * time.Second)
		got := a.Status()
		if got.Consul.Error != "refused" || got.Pass.Count != 13 {
			t.Errorf("while Consul is down, between two tries: %s", statusText(got))
		}
		got.Pass = StatusPass{Last: got.Started}
		want(t, "while Consul is down", `guard fake, pass 0 at 0s; answer 2s "refused"; apply 12s, change 2s, repairs 2, ""; guard 21000-21255 open 21000 settled true (21000 web); 2 findings; no IPv6`, statusText(got))
	})
	if watch.repair != 2 || !slices.Contains(watch.kinds, consul.KindUnreachable) {
		t.Errorf("counted %d repairs and %v", watch.repair, watch.kinds)
	}
	slices.Sort(watch.steps)
	want(t, "the steps", "apply consul evaluate listeners pass report", strings.Join(slices.Compact(watch.steps), " "))
}

// TestHostIsLookedAtNowAndThen: what it says is judged from the next pass on; a look that hangs holds up nothing for long.
func TestHostIsLookedAtNowAndThen(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	looks, hangs := 0, false
	parts.Host = func(ctx context.Context) *Host {
		if looks++; hangs {
			<-ctx.Done()
		}
		return &Host{Facts: facts.Facts{RouteLocalnet: []string{"br0"}, Notes: []string{"cannot ask Nomad"}}}
	}
	h.watched(t, parts, func(a *Agent) {
		pass(0)
		want(t, "after the first pass", "guard none open 21000", h.state())
		pass(time.Second)
		got := a.Status()
		if len(got.Findings) != 1 || got.Findings[0].ID != "route-localnet" || !slices.Contains(got.Degradations, "cannot ask Nomad") {
			t.Errorf("after the second pass: %s", statusText(got))
		}
		pass(3*time.Minute - time.Second)
		if looks < 3 || looks > 4 {
			t.Errorf("looked %d times in three minutes", looks)
		}
		hangs = true
		before := a.Status().Pass.Count
		pass(time.Minute)
		if passes := a.Status().Pass.Count - before; passes < 55 {
			t.Errorf("%d passes in a minute with a look that hangs", passes)
		}
	})
}

func TestStatusTellsWhatFails(t *testing.T) {
	h := newFakeHost()
	h.applyFail, h.reportFail = errors.New("no lock\x1b[2J"), errors.New("403")
	h.watched(t, h.parts(ModeGuard), func(a *Agent) {
		pass(3 * time.Second)
		h.listenFail = errors.New("interrupted")
		pass(time.Second)
		got := a.Status()
		want(t, "the errors", `no lock\u001b[2J|cannot report to Consul: 403|interrupted|`,
			strings.Join([]string{got.Firewall.Error, got.Report.Error, got.Listeners.Error, got.Consul.Error}, "|"))
		if got.Firewall.LastApply != nil {
			t.Error("a failed apply has a time")
		}
		h.applyFail = errors.Join(errors.New("no lock\x1b[2J"), errors.New("no set\tfor it"), errors.New(strings.Repeat("x", 2*maxNote)), errors.New("y"))
		pass(6 * time.Second)
		text := `no lock\u001b[2J` + "\n" + `no set\u0009for it` + "\n" + strings.Repeat("x", maxNote-len("no lock.[2Jno set.for it"))
		want(t, "joined errors, of which each is a line", text+"…\n…", a.Status().Firewall.Error)
		if check := a.firewallCheck().Output; !strings.Contains(check, "date:\n  no lock\\u001b[2J\n  no set\\u0009for it\n  xxx") {
			t.Errorf("the check shows joined errors as %s", check)
		}
	})
}
