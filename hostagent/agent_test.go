// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// fakeHost is a host whose Consul agent, kernel and sockets are plain values. All of it runs in one synctest bubble, so
// nothing needs a lock: the test looks only while the agent waits.
type fakeHost struct {
	regs       []consul.Registration
	facts      consul.Agent
	fails      error // of the registrations
	factsFail  error
	asked      int
	report     consul.Report
	reportFail error
	withdrawn  []string

	rules      firewall.Ruleset
	exists     bool
	noRules    bool // the sets stand alone
	applies    int
	removes    int
	applied    firewall.Changes
	applyFail  error
	plan       firewall.Changes
	removeFail error
	showFail   error

	listeners  []sockets.Listener
	listenFail error

	log bytes.Buffer
}

// baton passes from the test to the agent's next pass: synctest lets only one of them run at a time, but the race
// detector sees no order in a sleep.
var baton sync.Mutex

func handOver() {
	baton.Lock()
	defer baton.Unlock()
}

func (h *fakeHost) Services(context.Context) (consul.Answer, error) {
	handOver()
	h.asked++
	return consul.Answer{Registrations: h.regs}, h.fails
}

func (h *fakeHost) Agent(context.Context) (consul.Agent, error) { return h.facts, h.factsFail }

func (h *fakeHost) Report(_ context.Context, r consul.Report) (int, error) {
	h.report = r
	return 0, h.reportFail
}

func (h *fakeHost) Withdraw(_ context.Context, service string) error {
	h.withdrawn = append(h.withdrawn, service)
	return nil
}

func (h *fakeHost) Apply(_ context.Context, want firewall.Ruleset) (firewall.Changes, error) {
	h.applies++
	if h.applyFail != nil {
		return firewall.Changes{}, h.applyFail
	}
	h.rules, h.exists = want, true
	return h.applied, nil
}

func (h *fakeHost) Plan(context.Context, firewall.Ruleset) (firewall.Changes, error) {
	return h.plan, nil
}

func (h *fakeHost) Show(context.Context) (firewall.State, error) {
	if !h.exists {
		return firewall.State{}, h.showFail
	}
	state := firewall.State{
		Sets: []firewall.SetState{
			{Name: "hostagent-guard", Ports: h.rules.Guard}, {Name: "hostagent-open", Ports: h.rules.Open},
			{Name: "hostagent-cut", Ports: h.rules.Cut},
			{Name: "hostagent-from4", Sources: h.rules.AllowFrom},
			{Name: "hostagent-paths", Ports: h.rules.Paths}, {Name: "hostagent-paths4", Sources: h.rules.PathsFrom},
		},
		Families: []firewall.Family{firewall.IPv4},
	}
	if !h.noRules {
		state.Tables = []firewall.TableState{mangle(len(h.rules.AllowFrom) > 0)}
		for i := range state.Tables[0].Chains {
			if c := &state.Tables[0].Chains[i]; len(h.rules.PathsFrom) > 0 {
				rule := "-A " + c.Name + " -m set --match-set hostagent-paths dst -m set --match-set hostagent-paths4 src -j RETURN"
				c.Rules = slices.Insert(c.Rules, 0, rule)
			}
		}
	}
	return state, nil
}

// mangle is what of the rules tells that they guard.
func mangle(limits bool) firewall.TableState {
	table := firewall.TableState{Variant: firewall.VariantNFT, Family: firewall.IPv4, Table: "mangle"}
	for parent, chain := range map[string]string{"PREROUTING": "HOSTAGENT-PREROUTING", "INPUT": "HOSTAGENT-GUARD"} {
		rules := []string{"-A " + chain + " -m set --match-set hostagent-guard dst -j DROP"}
		if limits {
			rules = append(rules, "-A "+chain+" -m set ! --match-set hostagent-from4 src -j DROP")
		}
		table.Chains = append(table.Chains, firewall.ChainState{Name: chain, Rules: rules})
		table.Jumps = append(table.Jumps, firewall.JumpState{Parent: parent, Position: 1, Rule: "-A " + parent + " -j " + chain})
	}
	return table
}

func (h *fakeHost) Remove(context.Context) (firewall.Changes, error) {
	h.removes++
	if h.removeFail != nil {
		return firewall.Changes{}, h.removeFail
	}
	h.rules, h.exists = firewall.Ruleset{}, false
	return firewall.Changes{}, nil
}

func newFakeHost() *fakeHost {
	in := base()
	return &fakeHost{regs: in.Registrations, facts: in.Agent, listeners: in.Listeners}
}

func (h *fakeHost) parts(mode Mode) Parts {
	policy := base().Policy
	policy.Mode = mode
	return Parts{
		Policy: policy, CloseDelay: 30 * time.Second, PollInterval: time.Second, Report: true,
		Registry: h, Firewall: h, Version: "1.2.3",
		Listen: func(context.Context) ([]sockets.Listener, error) {
			handOver()
			return h.listeners, h.listenFail
		},
		Log: slog.New(slog.NewTextHandler(&h.log, nil)),
	}
}

// state is the kernel as one line.
func (h *fakeHost) state() string {
	return fmt.Sprintf("guard %s open %s", h.rules.Guard, h.rules.Open)
}

// run starts an agent in a bubble and hands the test a reload channel; the agent is stopped when the test returns.
func (h *fakeHost) run(t *testing.T, mode Mode, story func(reload chan<- Parts)) {
	t.Helper()
	h.runParts(t, h.parts(mode), story)
}

// runParts is run with parts that the test has changed.
func (h *fakeHost) runParts(t *testing.T, parts Parts, story func(reload chan<- Parts)) {
	t.Helper()
	h.runAgent(t, parts, func(_ *Agent, reload chan<- Parts) { story(reload) })
}

// runAgent is runParts with the agent at hand.
func (h *fakeHost) runAgent(t *testing.T, parts Parts, story func(agent *Agent, reload chan<- Parts)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		reload, done := make(chan Parts), make(chan error)
		agent := NewAgent(parts)
		go func() { done <- agent.Run(ctx, reload) }()
		synctest.Wait()
		story(agent, reload)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run ended with %v", err)
		}
	})
}

// pass lets d go by and the passes of that time end.
func pass(d time.Duration) {
	handOver()
	time.Sleep(d)
	synctest.Wait()
}

func want(t *testing.T, when, wanted, got string) {
	t.Helper()
	if diff := cmp.Diff(wanted, got); diff != "" {
		t.Errorf("%s (-want +got)\n%s", when, diff)
	}
}

const guarded = "guard 21000-21255 open 21000"

func TestOpenAtOnceCloseAfterTwoEqualAnswers(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		want(t, "after the first answer", "guard none open 21000", h.state())
		pass(1500 * time.Millisecond)
		want(t, "after 1.5 s", "guard none open 21000", h.state())
		pass(time.Second)
		want(t, "after 2.5 s", guarded, h.state())
	})
	if h.report.Life.Status != consul.Critical || !strings.Contains(h.report.Life.Output, "was stopped") {
		t.Errorf("after the stop the life check is %+v", h.report.Life)
	}
	want(t, "a stop leaves the rules", guarded, h.state())
}

func TestUnequalAnswersCloseNothing(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		for i := range 10 {
			h.regs = []consul.Registration{app("web", 8080), sidecar("web", 21000), sidecar(fmt.Sprintf("s%d", i), 21001+i)}
			pass(time.Second)
			want(t, "while every answer has lost a claim", "none", h.rules.Guard.String())
		}
		pass(3 * time.Second)
		want(t, "when they have settled", "guard 21000-21255 open 21000-21010", h.state())
	})
}

// TestNobodyKeepsTheRangeOpen: who registers and deregisters without pause delays the guard by close_delay at most, and
// loses no port by it.
func TestNobodyKeepsTheRangeOpen(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		for i := range 40 {
			h.regs = []consul.Registration{sidecar("web", 21000), sidecar(fmt.Sprintf("s%d", i%2), 21001+i%2)}
			pass(time.Second)
		}
		want(t, "after 40 s of unrest", "guard 21000-21255 open 21000-21002", h.state())
	})
}

func TestNewClaimsAreNoReasonToDoubt(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		for i := range 4 {
			h.regs = append(h.regs, sidecar(fmt.Sprintf("s%d", i), 21001+i))
			pass(time.Second)
		}
		want(t, "while claims come", "guard 21000-21255 open 21000-21004", h.state())
	})
}

// TestFrozenHostClosesNothingAtOnce: hostagent was stopped in its tracks for longer than close_delay, and the first answer
// after it, in the middle of a reload of the agent, is empty.
func TestFrozenHostClosesNothingAtOnce(t *testing.T) {
	m := newMemory()
	at := time.Now()
	claims := map[Held]bool{{ID: "web-sidecar-proxy", Port: 21000}: true}
	answer := func(after time.Duration, claims map[Held]bool) int {
		at = at.Add(after)
		m.answer(at, claims, 30*time.Second, time.Second)
		return len(m.held())
	}
	answer(0, claims)
	if answer(time.Minute, nil) != 1 {
		t.Error("the first answer without a claim closes its port")
	}
	if answer(time.Minute, nil) != 1 {
		t.Error("a second freeze closes the port after one more answer")
	}
	for range 13 {
		answer(2*time.Second, nil)
	}
	if answer(time.Second, nil) != 1 {
		t.Error("closed before close_delay of whole answers")
	}
	if answer(time.Second, nil) != 0 {
		t.Error("open after close_delay of whole answers")
	}
}

func TestNewSidecarOpensAtTheNextPass(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.regs = append(h.regs, sidecar("api", 21001))
		pass(time.Second)
		want(t, "one poll later", "guard 21000-21255 open 21000-21001", h.state())
	})
}

func TestDeregisteredSidecarClosesAfterTheDelay(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.regs = nil
		pass(29 * time.Second)
		want(t, "before close_delay", guarded, h.state())
		pass(3 * time.Second)
		want(t, "after close_delay", "guard 21000-21255 open none", h.state())
	})
}

func TestOnlySidecarsAreRemembered(t *testing.T) {
	h := newFakeHost()
	h.regs = append(h.regs, app("squatter", 21100))
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.regs = h.regs[:2]
		pass(time.Second)
		want(t, "after an application in the range is deregistered", guarded, h.state())
	})
}

func TestReloadOfTheAgentClosesNothing(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		moved := []consul.Registration{app("web", 8080), sidecar("web", 21042)}
		h.regs = nil
		pass(time.Second)
		want(t, "while the agent knows nothing", guarded, h.state())
		h.regs = moved
		pass(time.Second)
		want(t, "with another port, the old one still runs", "guard 21000-21255 open 21000, 21042", h.state())
		pass(31 * time.Second)
		want(t, "in the end", "guard 21000-21255 open 21042", h.state())
	})
}

func TestFailuresLetTheLastWholeStateStand(t *testing.T) {
	for name, failure := range map[string]error{
		"unreachable": &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("connection refused")},
		"filtered":    &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")},
		"malformed":   &consul.Error{Kind: consul.KindMalformed, Err: errors.New("half a body")},
		"throttled":   &consul.Error{Kind: consul.KindThrottled, Err: errors.New("429")},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost()
			h.run(t, ModeGuard, func(chan<- Parts) {
				pass(5 * time.Second)
				h.fails, h.regs = failure, nil
				asked := h.asked
				pass(time.Hour)
				want(t, "an hour later", guarded, h.state())
				if tries := h.asked - asked; tries < 700 || tries > 1600 {
					t.Errorf("asked %d times in an hour; want about every 3 to 5 s", tries)
				}
				if lines := strings.Count(h.log.String(), "step failed"); lines < 55 || lines > 61 {
					t.Errorf("%d lines of trouble in an hour, want one a minute", lines)
				}
				if name != "unreachable" && h.report.Life.Status != consul.Warning {
					t.Errorf("life check is %s, want a warning", h.report.Life.Status)
				}
				h.fails = nil
				pass(20 * time.Second)
				want(t, "right after it is back without services: the outage does not count", guarded, h.state())
				pass(40 * time.Second)
				want(t, "when close_delay of whole answers has passed", "guard 21000-21255 open none", h.state())
			})
		})
	}
}

// TestReturningAgentIsAskedForItsRange: what answers after an outage may be another agent, with another range.
func TestReturningAgentIsAskedForItsRange(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		pass(2 * time.Second)
		h.fails, h.facts.SidecarMax = nil, 21099
		pass(3 * time.Second)
		want(t, "right after the return", "guard 21000-21099 open 21000", h.state())
	})
}

func TestFilteredAnswerIsAFinding(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")}
		for range 30 {
			pass(time.Second)
			if got := checkOf(h.report, "sidecar-range"); got.Status != consul.Critical || !strings.Contains(got.Output, "registrations-filtered") {
				t.Fatalf("sidecar range check is %+v", got)
			}
		}
	})
	if n := strings.Count(h.log.String(), "registrations-filtered"); n != 1 {
		t.Errorf("the finding was logged %d times, want once:\n%s", n, h.log.String())
	}
}

// TestLastingTroubleDoesNotRecoverInBetween: a report that is not tried while the agent is waited for has not recovered.
func TestLastingTroubleDoesNotRecoverInBetween(t *testing.T) {
	h := newFakeHost()
	h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no token")}
	h.reportFail = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no service:write")}
	h.run(t, ModeGuard, func(chan<- Parts) { pass(50 * time.Second) })
	log := h.log.String()
	if strings.Contains(log, "recovered") || strings.Count(log, "step failed") != 2 {
		t.Errorf("want one line for each of two troubles:\n%s", log)
	}
}

func checkOf(r consul.Report, key string) consul.Check {
	for _, c := range r.Checks {
		if c.Key == key {
			return c
		}
	}
	return consul.Check{}
}

func TestNoAnswerTouchesNothing(t *testing.T) {
	h := newFakeHost()
	h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
	h.rules, h.exists = firewall.Ruleset{Guard: ports(PortRange{First: 25000, Last: 25010}), Open: firewall.Ports(25003)}, true
	h.run(t, ModeGuard, func(chan<- Parts) { pass(time.Hour) })
	if h.applies != 0 || h.removes != 0 {
		t.Errorf("%d applies and %d removes without a single answer", h.applies, h.removes)
	}
}

func TestEarlierRunIsAdopted(t *testing.T) {
	h := newFakeHost()
	h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21077)}, true
	h.run(t, ModeGuard, func(chan<- Parts) {
		want(t, "at once: no closed port opened, no open one closed", "guard 21000-21255 open 21000, 21077", h.state())
		pass(28 * time.Second)
		want(t, "within close_delay", "guard 21000-21255 open 21000, 21077", h.state())
		pass(5 * time.Second)
		want(t, "after it", guarded, h.state())
	})
}

// TestUnseenEarlierRunTouchesNothing: before the rules of an earlier run could be read, none are written, and the check
// does not say that the range is guarded.
func TestUnseenEarlierRunTouchesNothing(t *testing.T) {
	h := newFakeHost()
	h.showFail = errors.New("no CAP_NET_ADMIN")
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(10 * time.Second)
		if got := checkOf(h.report, "firewall"); h.applies != 0 || got.Status != consul.Critical || !strings.Contains(got.Output, "no CAP_NET_ADMIN") {
			t.Errorf("%d applies, firewall check is %+v", h.applies, got)
		}
		h.showFail = nil
		pass(5 * time.Second)
		want(t, "when they can be read", guarded, h.state())
	})
}

// TestUnseenListenersDecideNothing: a host of which no listener could be listed yet is not one without listeners.
func TestUnseenListenersDecideNothing(t *testing.T) {
	h := newFakeHost()
	h.listenFail = errors.New("no inet_diag")
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(10 * time.Second)
		if h.applies != 0 || !h.report.LifeOnly || len(h.report.Checks) != 0 || h.report.Life.Status != consul.Warning {
			t.Errorf("%d applies, and reported %+v", h.applies, h.report)
		}
		h.listenFail = nil
		pass(5 * time.Second)
		want(t, "when they can be listed", guarded, h.state())
	})
}

// TestListenFailureIsNeverGreen: what cannot be seen any more must not look fine.
func TestListenFailureIsNeverGreen(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.listenFail = errors.New("EPERM")
		pass(10 * time.Second)
		for _, key := range []string{"service:web", "sidecar-range"} {
			if got := checkOf(h.report, key); got.Status != consul.Warning || !strings.Contains(got.Output, "seen last") {
				t.Errorf("%s: %+v", key, got)
			}
		}
	})
}

func TestNoAnswerLeavesEarlierResults(t *testing.T) {
	h := newFakeHost()
	h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")}
	h.run(t, ModeGuard, func(chan<- Parts) { pass(10 * time.Second) })
	if !h.report.LifeOnly || h.report.Service == "" {
		t.Errorf("reported %+v, want the life check alone", h.report)
	}
}

func TestObserveThatCannotRemoveIsNotGreen(t *testing.T) {
	h := newFakeHost()
	h.removeFail = errors.New("the lock is held")
	h.run(t, ModeObserve, func(chan<- Parts) {
		pass(5 * time.Second)
		if got := checkOf(h.report, "firewall"); got.Status != consul.Critical || !strings.Contains(got.Output, "the lock is held") {
			t.Errorf("firewall check is %+v", got)
		}
	})
}

// TestRefusedRangeAfterARestart: the range of the earlier run is in the kernel, and this run has taken none over.
func TestRefusedRangeAfterARestart(t *testing.T) {
	h := newFakeHost()
	h.rules, h.exists = firewall.Ruleset{Guard: ports(PortRange{First: 22000, Last: 22255}), Open: firewall.Ports(22000)}, true
	h.facts.SidecarMin, h.facts.SidecarMax = 20, 65535
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(40 * time.Second)
		want(t, "while the range is refused", "guard 22000-22255 open 22000", h.state())
		if got := checkOf(h.report, "firewall"); got.Status != consul.Critical || !strings.Contains(got.Output, "sidecar_range") {
			t.Errorf("firewall check is %+v", got)
		}
		h.facts.SidecarMin, h.facts.SidecarMax = 22000, 22255
		pass(time.Minute)
		want(t, "when one is taken over", "guard 22000-22255 open none", h.state())
	})
}

// TestKnownRangeStands: an agent that stops telling about itself is still believed about its services.
func TestKnownRangeStands(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(5 * time.Second)
		h.factsFail = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no agent:read")}
		pass(time.Minute)
		h.regs = append(h.regs, sidecar("api", 21001))
		pass(2 * time.Second)
		want(t, "a new sidecar", "guard 21000-21255 open 21000-21001", h.state())
		if h.report.Life.Status != consul.Warning {
			t.Errorf("life check is %+v", h.report.Life)
		}
	})
}

func TestUnknownRangeTouchesNothing(t *testing.T) {
	h := newFakeHost()
	h.factsFail = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no agent:read")}
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		pass(10 * time.Second)
		if h.applies != 0 {
			t.Errorf("%d applies without knowing the range", h.applies)
		}
		if !strings.Contains(h.log.String(), "sidecar_range") {
			t.Errorf("the log does not name the remedy:\n%s", h.log.String())
		}
		parts := h.parts(ModeGuard)
		parts.Policy.SidecarRange = &PortRange{First: 21000, Last: 21255}
		reload <- parts
		pass(5 * time.Second)
		want(t, "with the operator's range", guarded, h.state())
	})
}

func TestObserveOwnsNothing(t *testing.T) {
	h := newFakeHost()
	h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports()}, true
	h.run(t, ModeObserve, func(reload chan<- Parts) {
		pass(10 * time.Second)
		if h.applies != 0 || h.removes != 1 || h.exists {
			t.Errorf("%d applies, %d removes; want none and one", h.applies, h.removes)
		}
		got := checkOf(h.report, "firewall")
		want(t, "the check says what guard would do",
			"Observe mode: nothing is enforced. Guard mode would\nclose: 21000-21255\nopen:  21000\n\n21000  web", got.Output)
		reload <- h.parts(ModeGuard)
		pass(3 * time.Second)
		want(t, "after the switch to guard", guarded, h.state())
		reload <- h.parts(ModeObserve)
		pass(time.Second)
		want(t, "after the switch back", "guard none open none", h.state())
	})
}

func TestFailingApplyIsTriedAgain(t *testing.T) {
	h := newFakeHost()
	h.applyFail = errors.New("the lock is held")
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(10 * time.Second)
		if got := checkOf(h.report, "firewall"); got.Status != consul.Critical || !strings.Contains(got.Output, "the lock is held") {
			t.Errorf("firewall check is %+v", got)
		}
		h.applyFail = nil
		pass(time.Second)
		want(t, "when the lock is free", guarded, h.state())
		pass(time.Second)
		if got := checkOf(h.report, "firewall"); got.Status != consul.Passing {
			t.Errorf("firewall check is %+v", got)
		}
	})
	if n := strings.Count(h.log.String(), "step failed"); n != 1 {
		t.Errorf("%d lines for one trouble:\n%s", n, h.log.String())
	}
}

func TestMitigatedOnlyWhileTheKernelHolds(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
	parts := h.parts(ModeGuard)
	parts.Policy.GuardPorts = firewall.Ports(8080)
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		reload <- parts
		pass(5 * time.Second)
		if got := checkOf(h.report, "service:web"); got.Status != consul.Passing || !strings.Contains(got.Output, "mitigated") {
			t.Errorf("while guarded: %+v", got)
		}
		h.applyFail = errors.New("no")
		pass(time.Second)
		pass(time.Second)
		if got := checkOf(h.report, "service:web"); got.Status != consul.Warning {
			t.Errorf("while the kernel cannot be seen: %+v", got)
		}
	})
}

func TestListenFailureKeepsTheLastList(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
	h.run(t, ModeGuard, func(chan<- Parts) {
		pass(3 * time.Second)
		h.listenFail, h.listeners = errors.New("interrupted"), nil
		pass(3 * time.Second)
		if got := checkOf(h.report, "service:web"); got.Status != consul.Warning {
			t.Errorf("after a failed dump: %+v", got)
		}
		if h.report.Life.Status != consul.Warning || !strings.Contains(h.report.Life.Output, "interrupted") {
			t.Errorf("after a failed dump: %+v", h.report.Life)
		}
		h.listenFail, h.listeners = nil, base().Listeners
		pass(time.Second)
		got := checkOf(h.report, "service:web")
		want(t, "after the mend", "web listens on loopback only: tcp 127.0.0.1:8080.\nsidecar web-sidecar-proxy: port 21000, open", got.Output)
	})
	for _, line := range []string{"finding opened", "finding resolved"} {
		if n := strings.Count(h.log.String(), line); n != 1 {
			t.Errorf("%q was logged %d times, want once:\n%s", line, n, h.log.String())
		}
	}
}

// TestFindingLines: each finding is one line when it opens, changes and is resolved, always with the same keys.
func TestFindingLines(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000", "tcp 0.0.0.0:21007")
	parts := h.parts(ModeGuard)
	h.runParts(t, parts, func(chan<- Parts) {
		pass(time.Second)
		pass(time.Minute)
		h.listeners = base().Listeners
		pass(time.Second)
	})
	var got []string
	for line := range strings.Lines(h.log.String()) {
		if _, text, found := strings.Cut(line, `msg="finding `); found {
			text, _, _ = strings.Cut(text, " message=")
			got = append(got, strings.TrimSpace(text))
		}
	}
	want(t, "the lines", `opened" id=exposed-listener severity=warning state=open service=web service_id=web port=8080 listener="tcp 0.0.0.0:8080"
opened" id=squatted-port severity=warning state=open service="" service_id="" port=21007 listener="tcp 0.0.0.0:21007"
changed" id=squatted-port severity=warning state=mitigated service="" service_id="" port=21007 listener="tcp 0.0.0.0:21007"
resolved" id=exposed-listener severity=warning state=open service=web service_id=web port=8080 listener="tcp 0.0.0.0:8080"
resolved" id=squatted-port severity=warning state=mitigated service="" service_id="" port=21007 listener="tcp 0.0.0.0:21007"`,
		strings.Join(got, "\n"))
	if !strings.Contains(h.log.String(), "severity_before=warning state_before=open") {
		t.Errorf("a change does not tell what was before:\n%s", h.log.String())
	}
}

func TestReportsSwitchedOffAreTakenAway(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		pass(5 * time.Second)
		renamed := h.parts(ModeGuard)
		renamed.Policy.OwnService = "guard"
		reload <- renamed
		pass(5 * time.Second)
		if h.report.Service != "guard" {
			t.Errorf("reports on %q after a reload that says guard", h.report.Service)
		}
		off := renamed
		off.Report = false
		h.report = consul.Report{}
		reload <- off
		pass(20 * time.Second)
		want(t, "what was taken away, in order", "hostagent guard", strings.Join(h.withdrawn, " "))
		if h.report.Service != "" {
			t.Errorf("reported %+v with reports off", h.report)
		}
	})
}

// TestSteadyHostReportsTheSame in every form of a report, while others fail to answer alike, and after a reload: each
// difference would be a write to the servers.
func TestSteadyHostReportsTheSame(t *testing.T) {
	exemption := Exemption{Finding: catalog.ExposedListener, Service: "web", Reason: "migration"}
	for name, set := range map[string]func(*fakeHost, *Policy){
		"full":       func(*fakeHost, *Policy) {},
		"counts":     func(_ *fakeHost, p *Policy) { p.CountsOnly = true },
		"on service": func(_ *fakeHost, p *Policy) { p.ReportOnService = map[string]consul.Status{"": consul.Critical} },
		"counts on service": func(_ *fakeHost, p *Policy) {
			p.CountsOnly, p.ReportOnService = true, map[string]consul.Status{"": consul.Warning}
		},
		"exempt": func(_ *fakeHost, p *Policy) { p.Exemptions = []Exemption{exemption} },
		"filtered": func(h *fakeHost, _ *Policy) {
			h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no")}
		},
		"no facts": func(h *fakeHost, _ *Policy) {
			h.factsFail = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no")}
		},
		"no listeners":   func(h *fakeHost, _ *Policy) { h.listenFail = errors.New("no") },
		"firewall fails": func(h *fakeHost, _ *Policy) { h.applyFail = errors.New("no") },
	} {
		for _, mode := range []Mode{ModeGuard, ModeObserve} {
			t.Run(fmt.Sprintf("%s, %s mode", name, mode), func(t *testing.T) {
				h := newFakeHost()
				h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000", "tcp 0.0.0.0:21050")
				parts := h.parts(mode)
				h.runParts(t, parts, func(reload chan<- Parts) {
					pass(5 * time.Second)
					set(h, &parts.Policy)
					reload <- parts
					pass(10 * time.Second)
					before := h.report
					for range 60 {
						pass(time.Second)
						if diff := cmp.Diff(before, h.report); diff != "" {
							t.Fatalf("a steady host says something new (-before +after)\n%s", diff)
						}
					}
					reload <- parts
					for range 10 {
						pass(time.Second)
						if diff := cmp.Diff(before, h.report); diff != "" {
							t.Fatalf("a reload says something new (-before +after)\n%s", diff)
						}
					}
				})
			})
		}
	}
}

// TestFindingLinesAreBounded: whoever registers or listens as fast as he can fills no disk.
func TestFindingLinesAreBounded(t *testing.T) {
	h := newFakeHost()
	lines := func() int { return strings.Count(h.log.String(), `msg="finding `) }
	h.run(t, ModeObserve, func(chan<- Parts) {
		for i := range 50 { // 20 others each time
			h.listeners = base().Listeners
			for n := range 20 {
				h.listeners = append(h.listeners, listener(fmt.Sprintf("tcp 0.0.0.0:%d", 21010+(i%5)*20+n)))
			}
			pass(time.Second)
		}
		if n := lines(); n != maxLines {
			t.Errorf("%d lines in a minute, want %d", n, maxLines)
		}
		if n := strings.Count(h.log.String(), "too many findings"); n != 1 {
			t.Errorf("said %d times that there are too many", n)
		}
		pass(time.Minute)
		h.listeners = base().Listeners
		pass(time.Second)
		if n := lines(); n != maxLines+20 {
			t.Errorf("%d lines when the minute is over, want %d", n, maxLines+20)
		}
		if !strings.Contains(h.log.String(), "without a line each") {
			t.Error("nobody is told how many were left out")
		}
	})
}

// TestModeSwitchForgetsWhatTheKernelHeld: after the guard has gone nothing is mitigated any more, and when it comes back
// the plan is told again.
func TestModeSwitchForgetsWhatTheKernelHeld(t *testing.T) {
	h := newFakeHost()
	h.listeners = append(h.listeners, listener("tcp 0.0.0.0:21007"))
	looks := 0
	parts := h.parts(ModeGuard)
	parts.Host = func(context.Context) *Host { looks++; return &Host{} }
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(5 * time.Second)
		observe := parts
		observe.Policy.Mode = ModeObserve
		before := looks
		reload <- observe
		pass(2 * time.Second)
		if looks == before {
			t.Error("a reload does not look at the host anew")
		}
		if got := checkOf(h.report, "sidecar-range").Output; strings.Contains(got, "mitigated") {
			t.Errorf("in observe mode: %s", got)
		}
		reload <- parts
		pass(5 * time.Second)
	})
	if n := strings.Count(h.log.String(), "guard mode closes ports"); n != 2 {
		t.Errorf("the plan was told %d times, want 2:\n%s", n, h.log.String())
	}
}

// TestNothingIsToldAheadOfTheFirstAnswer, nor what sshd's port would undergo.
func TestNothingIsToldAheadOfTheFirstAnswer(t *testing.T) {
	h := newFakeHost()
	ssh := "tcp 0.0.0.0:21022 uid=0"
	h.listeners = append(h.listeners, listener(ssh))
	h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
	parts := h.parts(ModeGuard)
	parts.Owners = fakeOwners(owned("sshd", ssh))
	h.runParts(t, parts, func(chan<- Parts) {
		pass(30 * time.Second)
		if strings.Contains(h.log.String(), "guard mode ") {
			t.Errorf("told before the first answer:\n%s", h.log.String())
		}
		h.fails = nil
		pass(10 * time.Second)
	})
	spared := func() {
		t.Helper()
		if log := h.log.String(); !strings.Contains(log, `closes="21001-21021, 21023-21255"`) || strings.Contains(log, "cuts off") {
			t.Errorf("the log:\n%s", log)
		}
	}
	spared()
	h.log.Reset()
	h.rules, h.exists = firewall.Ruleset{}, false
	h.runParts(t, parts, func(chan<- Parts) { pass(time.Second) }) // sshd is seen in the very pass that tells
	spared()
}

// TestHeldPortsCountBeforeTheFirstAnswer: what was adopted is open, and status says what the kernel holds.
func TestHeldPortsCountBeforeTheFirstAnswer(t *testing.T) {
	h := newFakeHost()
	h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000)}, true
	h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
	h.watched(t, h.parts(ModeGuard), func(a *Agent) {
		pass(5 * time.Second)
		st := a.Status()
		want(t, "the status", "21000-21255 21000 1", fmt.Sprintf("%s %s %d", st.Firewall.Guarded, st.Firewall.Open, len(st.Openings)))
	})
}

// TestRefusedRangeIsNoPlan: where an earlier run's rules stand because the range is refused, nothing else is promised.
func TestRefusedRangeIsNoPlan(t *testing.T) {
	h := newFakeHost()
	h.rules, h.exists = firewall.Ruleset{Guard: ports(PortRange{20000, 20100}), Open: firewall.Ports(20000)}, true
	h.facts.SidecarMin = 20
	h.watched(t, h.parts(ModeGuard), func(a *Agent) {
		pass(5 * time.Second)
		st := a.Status()
		want(t, "the status", "20000-20100 20000", st.Firewall.Guarded+" "+st.Firewall.Open)
	})
	if strings.Contains(h.log.String(), "guard mode ") {
		t.Errorf("told what will not happen:\n%s", h.log.String())
	}
}

// TestFailedLookAtTheHostIsNoAnswer: what was seen stands, and the log says once what is wrong.
func TestFailedLookAtTheHostIsNoAnswer(t *testing.T) {
	h := newFakeHost()
	docker := "tcp 0.0.0.0:21080 uid=0"
	h.listeners = append(h.listeners, listener(docker))
	parts := h.parts(ModeGuard)
	good := Host{
		Facts:     facts.Facts{Nomad: &facts.Nomad{First: 20000, Last: 32000}},
		Published: []firewall.Published{{First: 21080, Last: 21080, To: "172.17.0.2:80"}},
	}
	fails := false
	parts.Host = func(context.Context) *Host {
		if fails {
			return &Host{Partial: true, Facts: facts.Facts{Notes: []string{"cannot ask Nomad", "nat rules out of sight"}}}
		}
		host := good
		return &host
	}
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		fails = true
		pass(5 * time.Minute)
	})
	log := h.log.String()
	if n := strings.Count(log, "finding opened"); n != 2 || strings.Contains(log, "finding resolved") {
		t.Errorf("%d findings opened, want 2 that stay:\n%s", n, log)
	}
	if n := strings.Count(log, "cannot ask Nomad"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestServiceCheckSaysWhoOpens(t *testing.T) {
	s := Service{ID: "web", Name: "web", Sidecars: []Sidecar{{ID: "web-sidecar-proxy", Port: 21000, Opened: true}, {ID: "web-2", Port: 80}}}
	for mode, wants := range map[Mode][2]string{
		ModeGuard: {"open", "left closed"}, ModeObserve: {"guard mode would open it", "guard mode would not open it"},
	} {
		want(t, string(mode), "web does not listen on this host's network.\nsidecar web-sidecar-proxy: port 21000, "+wants[0]+
			"\nsidecar web-2: port 80, "+wants[1], telling{mode: mode}.serviceCheck(s, nil).Output)
	}
}

// TestRangesInARow: ports that were open under a range stay so for close_delay, however many ranges come after it.
func TestRangesInARow(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		pass(5 * time.Second)
		for _, first := range []int{22000, 23000, 24000} {
			h.facts.SidecarMin, h.facts.SidecarMax = first, first+255
			reload <- h.parts(ModeGuard)
			pass(5 * time.Second)
			want(t, fmt.Sprint("range at ", first), fmt.Sprintf("guard %d-%d open 21000", first, first+255), h.state())
		}
		pass(13 * time.Second)
		want(t, "before close_delay", "guard 24000-24255 open 21000", h.state())
		pass(5 * time.Second)
		want(t, "after close_delay", "guard 24000-24255 open none", h.state())
	})
}
