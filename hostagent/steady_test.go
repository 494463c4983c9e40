// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// counted is a host that counts what is dear.
type counted struct {
	*fakeHost
	reports, lookups int
	lost             int // checks that the next report has to write again
}

func (c *counted) Report(ctx context.Context, r consul.Report) (int, error) {
	c.reports++
	written := c.lost
	c.lost = 0
	_, err := c.fakeHost.Report(ctx, r)
	return written, err
}

func (c *counted) Lookup(context.Context, []sockets.Listener) (sockets.Result, error) {
	c.lookups++
	return sockets.Result{}, nil
}

// TestSteadyHostIsLeftAlone: where nothing changes owners and checks are looked at now and then, and a change counts at
// the next pass.
func TestSteadyHostIsLeftAlone(t *testing.T) {
	h := &counted{fakeHost: newFakeHost()}
	h.listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000 uid=0")
	during := func(d time.Duration) (reports, lookups int) {
		reports, lookups = h.reports, h.lookups
		pass(d)
		return h.reports - reports, h.lookups - lookups
	}
	parts := h.parts(ModeGuard)
	parts.Registry, parts.Owners = h, h
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		if reports, lookups := during(time.Minute); reports != 12 || lookups != 12 {
			t.Errorf("%d reports and %d look-ups of owners in a steady minute, want 12 of each", reports, lookups)
		}
		h.listeners = listeners("tcp 127.0.0.1:8080 uid=0", "tcp [::]:21000 uid=0")
		if reports, lookups := during(time.Second); reports != 1 || lookups != 1 {
			t.Errorf("%d reports and %d look-ups of owners one pass after a change, want 1 of each", reports, lookups)
		}
		want(t, "one pass after a change", "passing", string(checkOf(h.report, "service:web").Status))
		pass(4 * time.Second)
		h.lost = 1
		if reports, _ := during(5 * time.Second); reports != 2 {
			t.Errorf("%d reports after a check was lost, want one that writes it and one that sees it stand", reports)
		}
		pass(2 * time.Second) // not together with a look that is due anyway
		h.fails = &consul.Error{Kind: consul.KindMalformed, Err: errors.New("no JSON")}
		pass(time.Second)
		want(t, "one pass after trouble began", "warning", string(h.report.Life.Status))
	})
}

// TestOwnersAreWhatIsNew: a look at owners that finds the same ones leaves the result, and one that finds others does not.
func TestOwnersAreWhatIsNew(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000 uid=0")
	parts := h.parts(ModeGuard)
	user := "alice"
	parts.Owners = ownersFunc(func([]sockets.Listener) sockets.Result {
		return sockets.Result{ByCookie: map[uint64]sockets.Owner{h.listeners[0].Cookie: {User: user, Processes: []sockets.Process{{PID: 9, Name: "web"}}}}}
	})
	h.runAgent(t, parts, func(a *Agent, _ chan<- Parts) {
		pass(10 * time.Second)
		handOver()
		before := a.view.Load().result
		pass(time.Minute)
		if after := a.view.Load().result; after != before {
			t.Error("a steady host is judged anew")
		}
		user = "bob"
		pass(afreshEvery + time.Second)
		for _, f := range a.view.Load().result.Findings {
			if f.Owner != nil && f.Owner.User == "bob" {
				return
			}
		}
		t.Error("another owner is not seen")
	})
}

type ownersFunc func([]sockets.Listener) sockets.Result

func (f ownersFunc) Lookup(_ context.Context, ls []sockets.Listener) (sockets.Result, error) {
	return f(ls), nil
}

func TestReloadCountsAtOnce(t *testing.T) {
	h := newFakeHost()
	h.run(t, ModeGuard, func(reload chan<- Parts) {
		pass(10 * time.Second)
		parts := h.parts(ModeGuard)
		parts.Policy.GuardPorts = firewall.Ports(7777)
		reload <- parts
		pass(0)
		want(t, "after a reload on a steady host", "guard 7777, 21000-21255 open 21000", h.state())
	})
}

// TestEveryPartOfTheInputCounts: two inputs are equal only if nothing that Evaluate reads differs, owners and policy
// aside, which the agent looks after itself.
func TestEveryPartOfTheInputCounts(t *testing.T) {
	var plain Input
	if other := base(); !other.equal(&other) || !plain.equal(&Input{}) {
		t.Error("an input does not equal itself")
	}
	different := map[string]any{
		"Registrations": []consul.Registration{{}},
		"Held":          []Held{{}},
		"Listeners":     []sockets.Listener{{}},
		"Elsewhere":     []sockets.Listener{{}},
		"Namespaces":    []sockets.Namespace{{}},
		"Today":         time.Unix(86400, 0).UTC(),
		"Members":       []netip.Addr{netip.IPv6Loopback()},
		"PathMembers":   []netip.Addr{netip.IPv6Loopback()},
		"Networks":      facts.Networks{Bridged: []netip.Prefix{{}}},
		"Agent":         consul.Agent{Ports: map[string]uint16{"http": 8500}},
		"PreviousRange": DefaultSidecarRange(),
		"Settled":       true,
		"AdoptedGuard":  firewall.Ports(21000),
		"Leaving":       firewall.Ports(21000),
		"Enforced":      firewall.Ports(21000),
		"WasOpen":       firewall.Ports(21000),
		"Quarantined":   []Quarantined{{Port: 8080}},
		"SSH":           firewall.Ports(22),
		"Trouble":       AgentTrouble{ID: catalog.AgentImpostor},
		"Source":        SourceNone,
		"Host":          &Host{},
		"Drift":         &Drift{},
		"Blocked":       []firewall.Block{{}},
		"Probes":        []Probed{{}},
	}
	for field := range reflect.TypeFor[Input]().Fields() {
		if slices.Contains([]string{"Owners", "Policy"}, field.Name) {
			continue
		}
		value, ok := different[field.Name]
		if !ok {
			t.Fatalf("Input has a new field %s: compare it in equal, and give it a value here", field.Name)
		}
		var in Input
		reflect.ValueOf(&in).Elem().FieldByIndex(field.Index).Set(reflect.ValueOf(value))
		if in.equal(&plain) || plain.equal(&in) {
			t.Errorf("inputs that differ in %s are equal", field.Name)
		}
	}
	one, two := base(), base()
	if one.equal(&two) {
		t.Error("registrations that were decoded anew are taken for the same")
	}
}
