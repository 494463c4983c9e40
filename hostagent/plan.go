// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/sockets"
)

// Plan is what guard mode would change on this host now.
type Plan struct {
	*Scan
	// Opens and Keeps are the ports that it would open, and those that it has open already.
	Opens, Keeps []Opening
	// Closes are the ports that the network could no longer reach, Releases those that it could again; a port that
	// would open is in neither.
	Closes, Releases firewall.PortSet
	// Cuts are the listeners behind Closes that the network can reach now, firewalls of others aside.
	Cuts []Cut
	// Changes are what would change in the kernel. Where the firewall cannot be looked at it is empty, and everything
	// above is told as if nothing of hostagent stood there.
	Changes firewall.Changes
}

// Cut is a listener that the network would lose. Its running connections stay; new ones would be dropped.
type Cut struct {
	Listener    sockets.Listener
	Owner       *sockets.Owner // nil when unknown
	Connections int            // from the network, now; -1 when they cannot be counted
}

// LookAhead makes one pass that changes nothing, as Look does, and tells what guard mode would change. It fails where
// Look does, and where registrations are not known: a plan from half a view would be a wrong one.
func LookAhead(ctx context.Context, parts Parts) (*Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	scan, err := Look(ctx, parts)
	if err != nil {
		return nil, err
	}
	if scan.Source == SourceNone {
		if len(scan.Errors) > 0 {
			return nil, fmt.Errorf("cannot plan without the registrations: %w", scan.Errors[0])
		}
		return nil, fmt.Errorf("cannot plan without the registrations: %s", scan.Findings[0].Message)
	}
	plan := planOf(&scan.Result, scan.listeners, scan.standing.Open(), scan.enforced)
	plan.Scan = scan
	if incomplete := plan.explain(ctx, parts); incomplete != "" && !slices.Contains(scan.Notes, incomplete) {
		scan.note("%s", incomplete)
	}
	if parts.Firewall == nil {
		return plan, nil
	}
	if plan.Changes, err = parts.Firewall.Plan(ctx, scan.Rules); err != nil {
		scan.note("the rules were not planned: %v", err)
	}
	return plan, nil
}

// planOf compares a result, made as if everything were settled, with what stands: the open ports, and those that the
// kernel keeps the network from.
func planOf(res *Result, listeners []sockets.Listener, open, enforced firewall.PortSet) *Plan {
	plan := &Plan{}
	for _, o := range res.Openings {
		if open.Has(o.Port) {
			plan.Keeps = append(plan.Keeps, o)
		} else {
			plan.Opens = append(plan.Opens, o)
		}
	}
	will := res.Rules.Guard.Minus(res.Rules.Open)
	plan.Closes = will.Minus(enforced)
	plan.Releases = enforced.Minus(will).Minus(res.Rules.Open)
	for _, l := range listeners {
		if l.Protocol == sockets.TCP && l.Exposed() && plan.Closes.Has(l.Addr.Port()) {
			plan.Cuts = append(plan.Cuts, Cut{Listener: l, Connections: -1})
		}
	}
	return plan
}

// explain finds the owners and counts the connections of what would be cut off, and returns what kept some out of sight.
func (p *Plan) explain(ctx context.Context, parts Parts) (incomplete string) {
	if len(p.Cuts) == 0 {
		return ""
	}
	listeners := make([]sockets.Listener, len(p.Cuts))
	for i := range p.Cuts {
		listeners[i] = p.Cuts[i].Listener
	}
	owners, incomplete := lookup(ctx, parts.Owners, listeners)
	var counts map[uint16]int
	if parts.Connections != nil {
		byPort := func(a, b sockets.Listener) int { return cmp.Compare(a.Addr.Port(), b.Addr.Port()) }
		first, last := slices.MinFunc(listeners, byPort).Addr.Port(), slices.MaxFunc(listeners, byPort).Addr.Port()
		var err error
		if counts, err = parts.Connections(ctx, first, last); err != nil {
			incomplete = cmp.Or(incomplete, err.Error())
		}
	}
	for i := range p.Cuts {
		c := &p.Cuts[i]
		if owner, ok := owners[c.Listener.Cookie]; ok {
			c.Owner = &owner
		}
		if counts != nil {
			c.Connections = counts[c.Listener.Addr.Port()]
		}
	}
	return incomplete
}

// RangeFindings returns the findings that concern the sidecar range and its registrations: an application that listens
// on the network is no business of the plan.
func (p *Plan) RangeFindings() []Finding {
	ofRange, _ := divide(p.Findings)
	return ofRange
}

// standing is what the sets of an earlier run hold.
type standing struct{ guard, open firewall.PortSet }

// tellAhead logs once, when guard mode has begun and the first whole answer is there, what it is about to change.
func (a *Agent) tellAhead(ctx context.Context) {
	if a.toldAhead || a.parts.Policy.Mode != ModeGuard || a.memory.answers == 0 {
		return
	}
	a.toldAhead = true
	in := a.input
	in.Settled, in.SSH = true, a.ssh
	result := Evaluate(in)
	plan := planOf(&result, a.listeners, a.found.open, a.found.guard.Minus(a.found.open))
	if incomplete := plan.explain(ctx, a.parts); incomplete != "" {
		a.incomplete = cmp.Or(a.incomplete, incomplete)
	}
	a.news.tellPlan(a.parts.Log, plan)
}
