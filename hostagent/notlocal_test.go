// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

func TestForeign(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	for _, test := range []struct {
		name   string
		change func(*consul.Agent, *whereabouts)
		want   bool
	}{
		{"another host's", func(*consul.Agent, *whereabouts) {}, true},
		{"another host's over IPv6", func(a *consul.Agent, _ *whereabouts) { a.Address = addr("fd00::9") }, true},
		{"an address of this host", func(a *consul.Agent, _ *whereabouts) { a.Address = addr("10.0.0.1") }, false},
		{"NAT, and its gossip here", func(_ *consul.Agent, w *whereabouts) { w.listeners = listeners("tcp 10.0.0.1:8301") }, false},
		{"NAT, and its gossip here over UDP only", func(_ *consul.Agent, w *whereabouts) { w.listeners = listeners("udp 0.0.0.0:8301") }, false},
		{"NAT, and its gossip in another namespace", func(_ *consul.Agent, w *whereabouts) { w.elsewhere = listeners("tcp [::]:8301") }, false},
		{"another gossip port", func(a *consul.Agent, w *whereabouts) {
			a.Ports["serf_lan"], w.listeners = 9301, listeners("tcp 10.0.0.1:8301", "tcp 10.0.0.1:8300")
		}, true},
		{"in a container of this host", func(a *consul.Agent, w *whereabouts) {
			a.Address, w.networks.Bridged = addr("172.17.0.2"), []netip.Prefix{prefix("172.17.0.0/16")}
		}, false},
		{"a development agent", func(a *consul.Agent, _ *whereabouts) { a.Address = addr("127.0.0.1") }, false},
		{"no address told", func(a *consul.Agent, _ *whereabouts) { a.Address = netip.Addr{} }, false},
		{"any address told", func(a *consul.Agent, _ *whereabouts) { a.Address = addr("0.0.0.0") }, false},
		{"no gossip port told", func(a *consul.Agent, _ *whereabouts) { a.Ports = nil }, false},
		{"this host's addresses not known", func(_ *consul.Agent, w *whereabouts) { w.networks = facts.Networks{} }, false},
		{"not all namespaces seen", func(_ *consul.Agent, w *whereabouts) { w.whole = false }, false},
	} {
		agent := consul.Agent{Node: "n9", Address: addr("10.0.0.9"), Ports: map[string]uint16{"serf_lan": 8301}}
		w := whereabouts{
			networks:  facts.Networks{Addresses: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}},
			listeners: listeners("tcp 127.0.0.1:8500"), whole: true,
		}
		test.change(&agent, &w)
		err := w.foreign(&agent)
		if (err != nil) != test.want || err != nil && consul.KindOf(err) != consul.KindNotLocal {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// tunnel makes the agent of h another host's, as far as it can be told.
func (h *fakeHost) tunnel(parts *Parts) {
	h.facts.Address = netip.MustParseAddr("10.0.0.9")
	h.facts.Ports = map[string]uint16{"serf_lan": 8301}
	parts.Networks = func(context.Context) (facts.Networks, error) {
		return facts.Networks{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, nil
	}
	parts.Elsewhere = func(context.Context) (sockets.Spaces, error) { return sockets.Spaces{}, nil }
}

// TestForeignAgentIsNeverApplied: not in the first pass either, when nothing of this host has been looked at yet.
func TestForeignAgentIsNeverApplied(t *testing.T) {
	h := newFakeHost()
	h.facts.SidecarMax = 21009
	parts := h.parts(ModeGuard)
	h.tunnel(&parts)
	h.runAgent(t, parts, func(agent *Agent, reload chan<- Parts) {
		for range 60 {
			if h.rules.Open.Len() != 0 || h.rules.Guard.Len() != 0 || agent.memory.answers != 0 || agent.facts.Node != "" {
				t.Fatalf("something of another host's agent counts: %s", h.state())
			}
			pass(time.Second)
		}
		if got := agent.Status(); len(got.Findings) != 1 || got.Findings[0].ID != catalog.AgentNotLocal || !strings.Contains(got.Consul.Error, "10.0.0.9") {
			t.Errorf("status: %+v, %q", got.Findings, got.Consul.Error)
		}
		if h.report.Service != "" {
			t.Errorf("another host's agent was sent a report: %+v", h.report)
		}
		allowed := parts
		allowed.Policy.AllowRemoteAgent = true
		reload <- allowed
		pass(5 * time.Second)
		want(t, "allow_remote_agent", "guard 21000-21009 open 21000", h.state())
		if got := agent.Status(); len(got.Findings) != 0 || got.Consul.Error != "" {
			t.Errorf("status with allow_remote_agent: %+v, %q", got.Findings, got.Consul.Error)
		}
	})
	if h.report.Service != "hostagent" {
		t.Error("no report with allow_remote_agent")
	}
}

// TestAgentBecomesForeign: after a failure another agent may answer at the same address, and the state of this host's stands.
func TestAgentBecomesForeign(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeGuard)
	asked := 0
	h.runAgent(t, func() Parts {
		h.tunnel(&parts)
		h.facts.Address = netip.MustParseAddr("10.0.0.1")
		return parts
	}(), func(agent *Agent, _ chan<- Parts) {
		pass(5 * time.Second)
		want(t, "this host's agent", guarded, h.state())
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		pass(3 * time.Second)
		h.fails, h.facts.Address, h.facts.SidecarMax, h.regs = nil, netip.MustParseAddr("10.0.0.9"), 21099, []consul.Registration{sidecar("theirs", 21050)}
		said := h.report
		pass(5 * time.Minute)
		want(t, "another host's agent", guarded, h.state())
		if said.Life != h.report.Life {
			t.Errorf("another host's agent was sent a report: %q", h.report.Life.Output)
		}
		if log := h.log.String(); strings.Count(log, "id=agent-not-local") != 1 {
			t.Errorf("the finding is logged once:\n%s", log)
		}
		if _, err := agent.trustedRoots(func(context.Context) (consul.Roots, error) { asked++; return consul.Roots{}, nil })(t.Context()); err == nil || asked != 0 {
			t.Error("the CA of another host's agent is asked for")
		}
		h.facts.Address, h.facts.SidecarMax, h.regs = netip.MustParseAddr("10.0.0.1"), 21255, base().Registrations
		pass(10 * time.Second)
		want(t, "this host's agent is back", guarded, h.state())
		if got := agent.Status(); len(got.Findings) != 0 || got.Consul.Error != "" || h.report.Life.Status != consul.Passing {
			t.Errorf("after its return: %+v, %q, %+v", got.Findings, got.Consul.Error, h.report.Life)
		}
	})
}

// TestImpostorIsSentNothing: neither reports nor the news of hostagent's end, and the finding stands between tries.
func TestImpostorIsSentNothing(t *testing.T) {
	h := newFakeHost()
	h.runAgent(t, h.parts(ModeGuard), func(agent *Agent, _ chan<- Parts) {
		pass(5 * time.Second)
		h.fails = &consul.Error{Kind: consul.KindImpostor, Err: errors.New("user eve listens"), Fix: "end it"}
		h.reportFail = errors.New("it was sent a report")
		h.report = consul.Report{}
		for range 30 {
			pass(time.Second)
			got := agent.Status()
			if len(got.Findings) != 1 || got.Findings[0].ID != catalog.AgentImpostor || got.Findings[0].Remedy != "end it" ||
				!strings.Contains(got.Findings[0].Message, "user eve listens") {
				t.Fatalf("findings %+v", got.Findings)
			}
		}
		want(t, "the state stands", guarded, h.state())
	})
	if h.report.Service != "" {
		t.Errorf("the impostor was sent %+v", h.report)
	}
}

func TestScanOfAForeignAgent(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeObserve)
	h.tunnel(&parts)
	scan, err := Look(t.Context(), parts)
	if err != nil {
		t.Fatal(err)
	}
	if scan.Source != SourceNone || len(scan.Services) != 0 || len(scan.Openings) != 0 || len(scan.Errors) != 1 ||
		len(scan.Findings) != 1 || scan.Findings[0].ID != catalog.AgentNotLocal || scan.Agent.Node != "" {
		t.Errorf("scan: %v, %v, %v, %+v", scan.Source, scan.Services, scan.Errors, scan.Findings)
	}
	parts.Policy.AllowRemoteAgent = true
	if scan, err = Look(t.Context(), parts); err != nil || len(scan.Findings) != 0 || len(scan.Services) != 1 {
		t.Errorf("with allow_remote_agent: %v, %+v", err, scan.Findings)
	}
}

func TestScanOfAnImpostor(t *testing.T) {
	h := newFakeHost()
	h.fails = &consul.Error{Kind: consul.KindImpostor, Err: errors.New("user eve listens"), Fix: "end it"}
	h.factsFail = h.fails
	h.regs = nil
	scan, err := Look(t.Context(), h.parts(ModeObserve))
	if err != nil {
		t.Fatal(err)
	}
	if scan.Source != SourceNone || len(scan.Errors) != 1 || len(scan.Findings) != 1 || scan.Findings[0].ID != catalog.AgentImpostor {
		t.Errorf("scan: %v, %v, %+v", scan.Source, scan.Errors, scan.Findings)
	}
}
