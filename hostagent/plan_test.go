// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// fakeOwners knows who holds some sockets.
type fakeOwners map[uint64]sockets.Owner

func (f fakeOwners) Lookup(context.Context, []sockets.Listener) (sockets.Result, error) {
	return sockets.Result{ByCookie: f}, nil
}

// crowded is a host on which guard mode would open one port, keep another and cut off two listeners.
func crowded() (*fakeHost, Parts) {
	h := newFakeHost()
	h.regs = append(h.regs, app("api", 8081), sidecar("api", 21001))
	squatter := "tcp 0.0.0.0:21050"
	h.listeners = listeners("tcp 127.0.0.1:8080", "tcp 127.0.0.1:8081", "tcp [::]:21000", "tcp [::]:21001", squatter,
		"tcp 127.0.0.1:21051", "tcp [::]:21200", "udp 0.0.0.0:21052", "tcp 0.0.0.0:9000")
	parts := h.parts(ModeObserve)
	parts.Owners = fakeOwners(owned("nc", squatter))
	parts.Connections = func(_ context.Context, first, last uint16) ([]sockets.Connection, error) {
		if first > 21050 || last < 21001 {
			return nil, fmt.Errorf("asked for %d-%d", first, last)
		}
		return connections("10.0.0.1:21050 192.0.2.9", "10.0.0.1:21050 192.0.2.9", "10.0.0.2:21050 10.7.7.7",
			"10.0.0.1:21100 192.0.2.9", "10.0.0.1:21000 192.0.2.9", "10.0.0.1:21000 10.7.7.7"), nil
	}
	return h, parts
}

// connections reads "LOCAL:PORT PEER".
func connections(texts ...string) []sockets.Connection {
	var all []sockets.Connection
	for _, text := range texts {
		local, peer, _ := strings.Cut(text, " ")
		all = append(all, sockets.Connection{Local: netip.MustParseAddrPort(local), Peer: netip.MustParseAddr(peer)})
	}
	return all
}

func planText(p *Plan) string {
	var b strings.Builder
	for _, o := range p.Opens {
		fmt.Fprintf(&b, "open %d %s\n", o.Port, openingText(o))
	}
	for _, o := range p.Keeps {
		fmt.Fprintf(&b, "keep %d %s\n", o.Port, openingText(o))
	}
	fmt.Fprintf(&b, "close %s\nrelease %s\n", p.Closes, p.Releases)
	if p.Later.Len() > 0 {
		fmt.Fprintf(&b, "later %s\n", p.Later)
	}
	for i := range p.Cuts {
		c := &p.Cuts[i]
		listener := "no listener"
		if c.Listener != nil {
			listener = address(c.Listener)
		}
		fmt.Fprintf(&b, "cut %d %s %q %d %q", c.Port, listener, processNames(c.Owner), c.Connections, c.GoesTo)
		if c.Outside {
			b.WriteString(" outside")
		}
		if c.Ends {
			b.WriteString(" ends")
		}
		b.WriteString(quarantineText(Quarantined{Services: c.For}))
		b.WriteString("\n")
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		name  string
		setup func(*fakeHost, *Parts)
		want  string
	}{
		{"a host without rules", nil, `open 21000 web
open 21001 api
close 21002-21255
release none
cut 21050 tcp 0.0.0.0:21050 "nc" 3 ""
cut 21200 tcp [::]:21200 "" 0 ""
`},
		{"rules that stand", func(h *fakeHost, _ *Parts) {
			h.rules = firewall.Ruleset{Guard: DefaultSidecarRange().Ports().Union(firewall.Ports(7777)), Open: firewall.Ports(21000, 21002)}
			h.exists = true
		}, `open 21001 api
keep 21000 web
close none
release 7777
later 21002
`},
		{"sets that no rule reads", func(h *fakeHost, p *Parts) {
			h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000)}, true
			h.noRules = true
			p.Connections = nil
		}, `open 21001 api
keep 21000 web
close 21002-21255
release none
cut 21050 tcp 0.0.0.0:21050 "nc" -1 ""
cut 21200 tcp [::]:21200 "" -1 ""
`},
		{"ports that nat rules send to containers", func(_ *fakeHost, p *Parts) {
			p.Host = func(context.Context) *Host {
				return &Host{Published: []firewall.Published{
					{First: 21050, Last: 21050, To: "172.17.0.2:80"}, {First: 21001, Last: 21001, To: "172.17.0.3:80"},
					{First: 21255, Last: 30000}, {First: 21255, Last: 21255, To: "172.17.0.4:80"},
				}}
			}
		}, `open 21000 web
open 21001 api
close 21002-21255
release none
cut 21050 tcp 0.0.0.0:21050 "nc" -1 "172.17.0.2:80"
cut 21200 tcp [::]:21200 "" 0 ""
cut 21255 no listener "" -1 "this host"
`},
		{"sources that are new: who is connected from elsewhere loses it", func(_ *fakeHost, p *Parts) {
			p.Policy.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}, `open 21000 web
open 21001 api
close 21002-21255
release none
cut 21000 tcp [::]:21000 "" 1 "" outside
cut 21050 tcp 0.0.0.0:21050 "nc" 3 ""
cut 21200 tcp [::]:21200 "" 0 ""
`},
		{"sources that stand already, and more", func(h *fakeHost, p *Parts) {
			h.rules = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21001), AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
			}
			h.exists = true
			p.Policy.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/7")}
		}, `keep 21000 web
keep 21001 api
close none
release none
`},
		{"sources that are narrowed", func(h *fakeHost, p *Parts) {
			h.rules = firewall.Ruleset{
				Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21001), AllowFrom: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			}
			h.exists = true
			p.Policy.AllowFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}, `keep 21000 web
keep 21001 api
close none
release none
cut 21000 tcp [::]:21000 "" 1 "" outside
`},
		{"several sockets of one port", func(h *fakeHost, _ *Parts) {
			h.listeners = listeners("tcp [::]:21000", "tcp [::]:21001", "tcp 0.0.0.0:21050", "tcp 10.0.0.2:21050", "tcp [fd00::1]:21050", "tcp 0.0.0.0:21200")
			h.listeners = append(h.listeners, h.listeners[2])
			h.listeners[len(h.listeners)-1].Cookie = 4711
		}, `open 21000 web
open 21001 api
close 21002-21255
release none
cut 21050 tcp 0.0.0.0:21050 "nc" 2 ""
cut 21050 tcp 10.0.0.2:21050 "" 1 ""
cut 21050 tcp [fd00::1]:21050 "" 0 ""
cut 21200 tcp 0.0.0.0:21200 "" 0 ""
`},
		{"guard_ports too", func(_ *fakeHost, p *Parts) {
			p.Policy.GuardPorts = firewall.Ports(9000)
			p.Connections = func(context.Context, uint16, uint16) ([]sockets.Connection, error) {
				return nil, errors.New("no sock_diag")
			}
		}, `open 21000 web
open 21001 api
close 9000, 21002-21255
release none
cut 9000 tcp 0.0.0.0:9000 "" -1 ""
cut 21050 tcp 0.0.0.0:21050 "nc" -1 ""
cut 21200 tcp [::]:21200 "" -1 ""
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			h, parts := crowded()
			if test.setup != nil {
				test.setup(h, &parts)
			}
			plan, err := LookAhead(t.Context(), parts)
			if err != nil {
				t.Fatal(err)
			}
			want(t, "the plan", test.want, planText(plan))
			if h.applies+h.removes > 0 {
				t.Error("a plan changed the firewall")
			}
			if strings.Contains(test.name, "guard_ports") && !slices.Contains(plan.Notes, "no sock_diag") {
				t.Errorf("the notes do not tell why nothing was counted: %q", plan.Notes)
			}
		})
	}
}

func TestNoPlanFromHalfAView(t *testing.T) {
	for _, fails := range []error{
		&consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")},
		&consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")},
	} {
		h, parts := crowded()
		h.fails = fails
		if plan, err := LookAhead(t.Context(), parts); err == nil || !strings.Contains(err.Error(), fails.Error()) {
			t.Errorf("with %v: plan %+v, error %v", fails, plan, err)
		}
	}
}

// TestNoPlanWithoutARange: where guard mode would change nothing, no plan says that it would.
func TestNoPlanWithoutARange(t *testing.T) {
	h, parts := crowded()
	h.factsFail, h.facts = errors.New("no agent:read"), consul.Agent{}
	if _, err := LookAhead(t.Context(), parts); err == nil || !strings.Contains(err.Error(), "no agent:read; or set sidecar_range") {
		t.Errorf("without a range: %v", err)
	}
	parts.Policy.SidecarRange = &PortRange{First: 21000, Last: 21255}
	plan, err := LookAhead(t.Context(), parts)
	if err != nil || len(plan.Notes) > 0 {
		t.Errorf("with a range of the operator's: %v, notes %q", err, plan.Notes)
	}
	h, parts = crowded()
	h.facts.SidecarMin = 20
	if _, err := LookAhead(t.Context(), parts); err != nil {
		t.Errorf("a refused range on a fresh host: %v", err)
	}
	h.rules, h.exists = firewall.Ruleset{Guard: firewall.Ports(20000)}, true
	if _, err := LookAhead(t.Context(), parts); err == nil || !strings.Contains(err.Error(), "earlier run stand") {
		t.Errorf("a refused range where rules stand: %v", err)
	}
}

func TestPlanDocumentHasNoNulls(t *testing.T) {
	text, err := json.Marshal((&Plan{Scan: &Scan{}}).Document("1"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "null") {
		t.Errorf("null in %s", text)
	}
}

// TestGuardTellsAhead: before guard mode changes anything, and once, the log says what it is about to change.
func TestGuardTellsAhead(t *testing.T) {
	const opens, cuts, closes, changes = "guard mode opens a port", "guard mode cuts off a port", "guard mode closes ports", "firewall changed"
	h, parts := crowded()
	guard := parts
	guard.Policy.Mode = ModeGuard
	h.runParts(t, parts, func(reload chan<- Parts) {
		pass(5 * time.Second)
		if strings.Contains(h.log.String(), opens) {
			t.Errorf("observe mode tells:\n%s", h.log.String())
		}
		h.log.Reset()
		h.applied = firewall.Changes{Sets: []firewall.SetChange{{Set: "hostagent-guard"}}}
		reload <- guard
		pass(10 * time.Second)
	})
	log := h.log.String()
	for text, times := range map[string]int{
		opens: 2, cuts: 2, closes: 1, `port=21050 listener="tcp 0.0.0.0:21050" process=nc user="" unit="" connections=3`: 1,
		"closes=21002-21255 releases=none opens=2 cuts_off=2": 1,
	} {
		if n := strings.Count(log, text); n != times {
			t.Errorf("%q was logged %d times, want %d:\n%s", text, n, times, log)
		}
	}
	if strings.Index(log, closes) > strings.Index(log, changes) {
		t.Errorf("told after the change:\n%s", log)
	}
}

// TestRestartedGuardTellsNothingNew: what an earlier run left needs no announcement.
func TestRestartedGuardTellsNothingNew(t *testing.T) {
	h, parts := crowded()
	parts.Policy.Mode = ModeGuard
	h.rules, h.exists = firewall.Ruleset{Guard: DefaultSidecarRange().Ports(), Open: firewall.Ports(21000, 21001)}, true
	h.runParts(t, parts, func(chan<- Parts) { pass(5 * time.Second) })
	if strings.Contains(h.log.String(), "guard mode ") {
		t.Errorf("told:\n%s", h.log.String())
	}
}
