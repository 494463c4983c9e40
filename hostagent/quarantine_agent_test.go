// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// infectedHost is a fake host on which web is exposed, and its parts.
func infectedHost(mode Mode) (*fakeHost, Parts) {
	in := infected()
	h := &fakeHost{regs: in.Registrations, facts: in.Agent, listeners: in.Listeners}
	parts := h.parts(mode)
	parts.Policy.Quarantine = in.Policy.Quarantine
	parts.Host = func(context.Context) *Host { return in.Host }
	return h, parts
}

// sets is the kernel as one line, with what is cut.
func (h *fakeHost) sets() string {
	return fmt.Sprintf("%s cut %s %v", h.state(), h.rules.Cut, h.rules.CutRules)
}

const (
	inQuarantine = "guard 8080, 21000-21255 open 21000 cut 8080 true"
	released     = guarded + " cut none true"
)

func TestQuarantineClosesAndReleases(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	h.runParts(t, parts, func(chan<- Parts) {
		want(t, "after the first answer", "guard none open 21000 cut none true", h.sets())
		pass(3 * time.Second)
		want(t, "when the answers have settled", inQuarantine, h.sets())
		pass(2 * time.Second)
		if c := checkOf(h.report, "service:web"); c.Status != consul.Passing || !strings.Contains(c.Output, "exposed-listener (mitigated)") {
			t.Errorf("the check of web is %+v", c)
		}
		if c := checkOf(h.report, "firewall"); !strings.Contains(c.Output, " 8080  in quarantine for web\n") {
			t.Errorf("the check of the firewall is %+v", c)
		}
		h.listeners = listeners("tcp 127.0.0.1:8080", "tcp [::]:21000", "tcp 10.0.0.1:8301 uid=100")
		pass(time.Second)
		want(t, "on loopback", released, h.sets())
		h.listeners = infected().Listeners
		pass(time.Second)
		want(t, "exposed again", inQuarantine, h.sets())
		h.listeners = h.listeners[1:]
		pass(time.Second)
		want(t, "gone", released, h.sets())
	})
	for _, line := range []string{`msg="port quarantined" port=8080 service=web`, `msg="port released from quarantine" port=8080 service=web`} {
		if n := strings.Count(h.log.String(), line); n != 2 {
			t.Errorf("%d lines %s, want 2:\n%s", n, line, h.log.String())
		}
	}
}

// TestQuarantineOutlivesForgetfulAgents: an agent that reloads or restarts forgets its services, and one that is down has
// no listeners.
func TestQuarantineOutlivesForgetfulAgents(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	h.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		h.regs = nil
		pass(time.Second)
		want(t, "while the agent knows nothing", inQuarantine, h.sets())
		pass(28 * time.Second)
		want(t, "before close_delay", inQuarantine, h.sets())
		h.regs = infected().Registrations
		pass(time.Second)
		h.regs = nil
		pass(29 * time.Second)
		want(t, "the delay begins anew", inQuarantine, h.sets())
		pass(3 * time.Second)
		want(t, "after close_delay", "guard 21000-21255 open none cut none true", h.sets())
		h.regs = infected().Registrations
		pass(5 * time.Second)
		h.fails, h.listeners = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}, h.listeners[:2]
		pass(10 * time.Minute)
		want(t, "while the agent is down", inQuarantine, h.sets())
		h.fails, h.regs = nil, infected().Registrations
		pass(20 * time.Second)
		want(t, "when it is back", inQuarantine, h.sets())
	})
}

// TestQuarantineOutlivesARestart: every pass of a new run leaves the port closed that an earlier one closed.
func TestQuarantineOutlivesARestart(t *testing.T) {
	for name, regs := range map[string][]consul.Registration{"at once": infected().Registrations, "late": nil} {
		t.Run(name, func(t *testing.T) {
			h, parts := infectedHost(ModeGuard)
			h.rules = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000), Cut: firewall.Ports(8080), CutRules: true,
			}
			h.exists = true
			h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
			h.regs = regs
			h.runParts(t, parts, func(chan<- Parts) {
				closed := func(when string) {
					t.Helper()
					want(t, when, inQuarantine, h.sets())
				}
				closed("before any answer")
				h.listeners = h.listeners[1:] // the application restarts, too
				pass(20 * time.Second)
				closed("after 20 s without an answer")
				h.listeners = infected().Listeners
				pass(6 * time.Second)
				h.fails = nil
				pass(6 * time.Second) // the next try may be 5 s away
				for range 60 {
					pass(100 * time.Millisecond)
					closed("answered")
				}
				h.regs = infected().Registrations
				for range 60 {
					pass(time.Second)
					closed("registered")
				}
			})
		})
	}
}

// TestARestartRaisesNoAlarm: what the kernel holds already when a run begins stands between a finding and its harm.
func TestARestartRaisesNoAlarm(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	h.rules = firewall.Ruleset{
		Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000), Cut: firewall.Ports(8080), CutRules: true,
	}
	h.exists = true
	h.runParts(t, parts, func(chan<- Parts) {
		if c := checkOf(h.report, "service:web"); c.Status != consul.Passing || !strings.Contains(c.Output, "exposed-listener (mitigated)") {
			t.Errorf("after the first pass the check of web is %+v", c)
		}
		pass(5 * time.Second)
	})
	if strings.Contains(h.log.String(), "finding changed") {
		t.Errorf("the log says\n%s", h.log.String())
	}
}

// TestQuarantineOutlivesUnknownAddresses: the addresses of the host cannot be read for a while.
func TestQuarantineOutlivesUnknownAddresses(t *testing.T) {
	for name, restart := range map[string]bool{"later": false, "since the start": true} {
		t.Run(name, func(t *testing.T) {
			h, parts := infectedHost(ModeGuard)
			h.regs[1].Address = "10.0.0.2"
			look, known := parts.Host, !restart
			parts.Host = func(ctx context.Context) *Host {
				if known {
					return look(ctx)
				}
				return &Host{Facts: facts.Facts{Notes: []string{"cannot list the host's addresses"}}}
			}
			if restart {
				h.rules = firewall.Ruleset{
					Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000), Cut: firewall.Ports(8080), CutRules: true,
				}
				h.exists = true
			}
			h.runParts(t, parts, func(chan<- Parts) {
				pass(5 * time.Second)
				want(t, "at first", inQuarantine, h.sets())
				known = false
				pass(3 * time.Minute)
				want(t, "in the end", inQuarantine, h.sets())
			})
		})
	}
}

func TestQuarantineIsReloaded(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(5 * time.Second)
		want(t, "quarantine", inQuarantine, h.sets())
		report := parts
		report.Policy.Quarantine = nil
		reload <- report
		pass(time.Second)
		want(t, "report", guarded+" cut none false", h.sets())
		reload <- parts
		pass(time.Second)
		want(t, "quarantine again", inQuarantine, h.sets())
	})
}

// TestQuarantineInObserveMode: it is shown what would be closed, and nothing is.
func TestQuarantineInObserveMode(t *testing.T) {
	h, parts := infectedHost(ModeObserve)
	var status Status
	h.runStatus(t, parts, func(agent *Agent) {
		pass(5 * time.Second)
		status = agent.Status()
	})
	if h.exists || h.applies > 0 {
		t.Errorf("observe mode made rules: %s", h.sets())
	}
	want(t, "status", `8080 | [{"port":8080,"services":["web"],"held":false}]`, statusQuarantine(t, status))
	if !strings.Contains(h.log.String(), `msg="guard mode would quarantine a port" port=8080 service=web`) {
		t.Errorf("the log says\n%s", h.log.String())
	}
	if c := checkOf(h.report, "firewall"); !strings.Contains(c.Output, "8080  in quarantine for web") || !strings.Contains(c.Output, "close: 8080, 21000-21255") {
		t.Errorf("the check of the firewall is %+v", c)
	}
}

func TestStatusTellsOfQuarantine(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	h.runStatus(t, parts, func(agent *Agent) {
		want(t, "before the answers settle", "none | []", statusQuarantine(t, agent.Status()))
		pass(5 * time.Second)
		want(t, "quarantined", `8080 | [{"port":8080,"services":["web"],"held":false}]`, statusQuarantine(t, agent.Status()))
		h.regs = nil
		pass(time.Second)
		want(t, "held", `8080 | [{"port":8080,"services":["web"],"held":true}]`, statusQuarantine(t, agent.Status()))
	})
}

func statusQuarantine(t *testing.T, s Status) string {
	t.Helper()
	text, err := json.Marshal(s.Firewall.Quarantined)
	if err != nil {
		t.Fatal(err)
	}
	return s.Firewall.Cut + " | " + string(text)
}

func TestConnectionsEndWhenASidecarsPortCloses(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	parts.Policy.CutOnClose = true
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(5 * time.Second)
		want(t, "open", guarded+" cut none true", h.sets())
		h.regs = nil
		pass(25 * time.Second)
		want(t, "before close_delay", guarded+" cut none true", h.sets())
		pass(10 * time.Second)
		want(t, "after close_delay", "guard 21000-21255 open none cut 21000 true", h.sets())
		pass(time.Hour)
		want(t, "an hour later", "guard 21000-21255 open none cut 21000 true", h.sets())
		h.regs = newFakeHost().regs
		pass(time.Second)
		want(t, "registered again", guarded+" cut none true", h.sets())

		h.regs = nil
		pass(35 * time.Second)
		moved := parts
		moved.Policy.SidecarRange = &PortRange{First: 22000, Last: 22100}
		reload <- moved
		pass(time.Second)
		want(t, "out of the guard", "guard 22000-22100 open none cut none true", h.sets())
		reload <- parts
		pass(time.Second)
		want(t, "back in the guard it is nobody's", "guard 21000-21255 open none cut none true", h.sets())
	})
}

// TestCutsOfAnEarlierRunStand: closed ports stay cut through a restart, and ports that were open when the earlier run ended
// are cut when they close.
func TestCutsOfAnEarlierRunStand(t *testing.T) {
	h := newFakeHost()
	h.rules = firewall.Ruleset{
		Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21001), Cut: firewall.Ports(21007), CutRules: true,
	}
	h.exists = true
	parts := h.parts(ModeGuard)
	parts.Policy.CutOnClose = true
	h.runParts(t, parts, func(chan<- Parts) {
		for range 20 {
			want(t, "at first", "guard 21000-21255 open 21000-21001 cut 21007 true", h.sets())
			pass(time.Second)
		}
		pass(20 * time.Second)
		want(t, "after close_delay", guarded+" cut 21001, 21007 true", h.sets())
	})
}

// runStatus is runParts with the agent at hand.
func (h *fakeHost) runStatus(t *testing.T, parts Parts, story func(agent *Agent)) {
	t.Helper()
	h.runAgent(t, parts, func(agent *Agent, _ chan<- Parts) { story(agent) })
}

func TestPlanOfQuarantine(t *testing.T) {
	for _, test := range []struct {
		name  string
		setup func(*fakeHost, *Parts)
		want  string
	}{
		{"would be closed", nil, `open 21000 web
close 8080, 21001-21255
release none
cut 8080 tcp 0.0.0.0:8080 "" 2 "" ends for web
`},
		{"in observe mode", func(_ *fakeHost, p *Parts) { p.Policy.Mode = ModeObserve }, `open 21000 web
close 8080, 21001-21255
release none
cut 8080 tcp 0.0.0.0:8080 "" 2 "" ends for web
`},
		{"refused", func(_ *fakeHost, p *Parts) {
			quarantine := *p.Policy.Quarantine
			quarantine.Ports = firewall.Ports(9000)
			p.Policy.Quarantine = &quarantine
		}, `open 21000 web
close 21001-21255
release none
finding quarantine-refused
`},
		{"guarded already, and only running connections are lost", func(h *fakeHost, _ *Parts) {
			h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000)}, true
		}, `keep 21000 web
close none
release none
cut 8080 tcp 0.0.0.0:8080 "" 2 "" ends for web
`},
		{"stands", func(h *fakeHost, _ *Parts) {
			h.rules, h.exists = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000), Cut: firewall.Ports(8080), CutRules: true,
			}, true
		}, `keep 21000 web
close none
release none
`},
		{"would be released", func(h *fakeHost, _ *Parts) {
			h.rules, h.exists = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(8080)), Open: firewall.Ports(21000), Cut: firewall.Ports(8080), CutRules: true,
			}, true
			h.listeners[0] = listener("tcp 127.0.0.1:8080")
		}, `keep 21000 web
close none
release 8080
`},
		{"cut_on_close, and a port that closes later", func(h *fakeHost, p *Parts) {
			h.rules, h.exists = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21009), Cut: firewall.Ports(21007), CutRules: true,
			}, true
			h.listeners = append(h.listeners, listeners("tcp 0.0.0.0:21009", "tcp 0.0.0.0:21007")...)
			p.Policy.Quarantine, p.Policy.CutOnClose = nil, true
		}, `keep 21000 web
close none
release none
later 21009
finding squatted-port
finding squatted-port
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, parts := infectedHost(ModeGuard)
			parts.Connections = func(context.Context, uint16, uint16) ([]sockets.Connection, error) {
				return connections("10.0.0.1:8080 192.0.2.9", "10.0.0.1:8080 192.0.2.8"), nil
			}
			if test.setup != nil {
				test.setup(h, &parts)
			}
			plan, err := LookAhead(t.Context(), parts)
			if err != nil {
				t.Fatal(err)
			}
			text := planText(plan)
			for _, f := range plan.RangeFindings() {
				text += "finding " + string(f.ID) + "\n"
			}
			want(t, "plan", test.want, text)
			if cut := h.rules.Cut.Intersect(h.rules.Guard).Minus(plan.rules.Cut).Minus(plan.Releases); cut.Len() > 0 {
				t.Errorf("ports %s would no longer be cut", cut)
			}
		})
	}
}

// TestRunningConnectionsAreReset: once for each time that a port is closed, only where somebody listens, and again where it
// failed.
func TestRunningConnectionsAreReset(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	var ended []string
	var failure error
	parts.EndConnections = func(_ context.Context, port uint16, own []netip.Addr) (int, error) {
		ended = append(ended, fmt.Sprint(port, own))
		return 2, failure
	}
	parts.Policy.CutOnClose = true
	const once = "8080 [10.0.0.1 10.0.0.2 127.0.0.1]"
	h.runParts(t, parts, func(chan<- Parts) {
		want(t, "before the answers settle", "", strings.Join(ended, ", "))
		failure = errors.New("EPERM")
		pass(5 * time.Second)
		if len(ended) < 2 {
			t.Errorf("what failed is not tried again: %v", ended)
		}
		failure, ended = nil, nil
		pass(20 * time.Second)
		want(t, "in quarantine", once, strings.Join(ended, ", "))
		h.listeners = h.listeners[1:]
		pass(2 * time.Second)
		h.listeners, ended = infected().Listeners, nil
		pass(5 * time.Second)
		want(t, "in quarantine again", once, strings.Join(ended, ", "))
		h.regs, h.listeners, ended = nil, append(h.listeners[:1:1], h.listeners[2]), nil
		pass(35 * time.Second)
		want(t, "of a sidecar's port on which nobody listens any more", "", strings.Join(ended, ", "))
		h.listeners = infected().Listeners
		pass(2 * time.Second)
		want(t, "of a sidecar's closed port", strings.Replace(once, "8080", "21000", 1), strings.Join(ended, ", "))
	})
	if log := h.log.String(); strings.Count(log, `msg="connections of a closed port ended" port=8080 count=2`) < 2 ||
		strings.Count(log, `msg="step failed, the last good state stands" step=connections error=EPERM`) != 1 {
		t.Errorf("the log says\n%s", log)
	}
}

func TestObserveModeEndsNothing(t *testing.T) {
	h, parts := infectedHost(ModeObserve)
	parts.EndConnections = func(context.Context, uint16, []netip.Addr) (int, error) {
		t.Error("a connection was ended")
		return 0, nil
	}
	h.runParts(t, parts, func(chan<- Parts) { pass(10 * time.Second) })
}

// TestNoConnectionEndsBlindly: connections of the host's own must be told from the network's.
func TestNoConnectionEndsBlindly(t *testing.T) {
	h, parts := infectedHost(ModeGuard)
	parts.Host = func(context.Context) *Host { return &Host{Facts: facts.Facts{Notes: []string{"no addresses"}}} }
	parts.EndConnections = func(context.Context, uint16, []netip.Addr) (int, error) {
		t.Error("connections were ended")
		return 0, nil
	}
	h.runParts(t, parts, func(chan<- Parts) {
		pass(5 * time.Second)
		want(t, "in quarantine", inQuarantine, h.sets())
	})
	if !strings.Contains(h.log.String(), "step=connections error=\"cannot end running connections") {
		t.Errorf("the log says\n%s", h.log.String())
	}
}
