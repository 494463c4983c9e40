// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
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
	// Later are ports that stand open and that nobody has registered any more: they close after close_delay.
	Later firewall.PortSet
	// Cuts are what the network can reach now, firewalls of others aside, and would lose.
	Cuts []Cut
	// Changes are what would change in the kernel. Where the firewall cannot be looked at it is empty, and everything
	// above is told as if nothing of hostagent stood there.
	Changes firewall.Changes

	rules firewall.Ruleset // that would be applied
	ends  firewall.PortSet // whose running connections would end
}

// Cut is what the network would lose: a listener, or a port that nat rules send elsewhere, or both. New connections would be
// dropped; running ones stay where Ends does not say otherwise.
type Cut struct {
	Port        uint16
	Listener    *sockets.Listener // nil where only nat rules are behind the port
	Owner       *sockets.Owner    // nil when unknown
	GoesTo      string            // where nat rules send the port, "" where none does
	Connections int               // from the network, now; -1 when they cannot be counted
	// Outside tells that the port is open and only sources outside of Rules.AllowFrom would lose it; Connections are
	// theirs, and there is at least one. With Path it is an exposed path, and the sources are those of Rules.PathsFrom.
	Outside bool
	Path    bool
	Ends    bool     // running connections end too
	For     []string // names of the services for whose sake the port would be in quarantine; none where it is not for that
}

// standing is what hostagent's rules make of the kernel.
type standing struct {
	guard, open firewall.PortSet
	cut         firewall.PortSet // whose running connections end too
	enforced    firewall.PortSet // what the network is kept from: sets alone keep nobody out
	sources     []netip.Prefix   // to whom open ports are limited, where limited
	limited     bool
	paths       firewall.PortSet // exposed to pathSources only
	pathSources []netip.Prefix
}

func standingOf(state firewall.State) standing {
	s := standing{guard: state.Guard(), open: state.Open()}
	s.paths, s.pathSources, _ = state.Paths()
	s.paths = s.paths.Minus(s.open)
	if state.Guards() {
		s.enforced, s.cut = s.guard.Minus(s.open).Minus(s.paths), state.Cut()
		s.sources, s.limited = state.Limited()
	}
	return s
}

// standingAs is what rules make of the kernel, as far as it is shown.
func standingAs(rules *firewall.Ruleset) *standing {
	return &standing{
		guard: rules.Guard, open: rules.Open, cut: rules.Cut, sources: rules.AllowFrom,
		paths: rules.Paths, pathSources: rules.PathsFrom,
	}
}

// same tells whether s is what rules make of the kernel, as far as it is shown.
func (s *standing) same(rules *firewall.Ruleset) bool {
	return s.guard == rules.Guard && s.open == rules.Open && s.cut == rules.Cut && slices.Equal(s.sources, rules.AllowFrom) &&
		s.paths == rules.Paths && slices.Equal(s.pathSources, rules.PathsFrom)
}

// narrows tells whether limiting open ports to sources, which are as sourcesOf returns them, keeps out somebody who is let
// in now.
func (s *standing) narrows(sources []netip.Prefix) bool {
	if len(sources) == 0 {
		return false
	}
	return !s.limited || slices.ContainsFunc(s.sources, func(now netip.Prefix) bool { return !admits(sources, now) })
}

// narrowsPaths returns the guarded ports of exposed paths that somebody may reach now who may not under rules.
func (s *standing) narrowsPaths(rules *firewall.Ruleset) firewall.PortSet {
	ports := rules.Paths.Intersect(rules.Guard).Minus(s.enforced)
	fewer := slices.ContainsFunc(s.pathSources, func(now netip.Prefix) bool { return !admits(rules.PathsFrom, now) })
	if !fewer {
		ports = ports.Minus(s.paths)
	}
	return ports
}

// LookAhead makes one pass that changes nothing, as Look does, and tells what guard mode would change. It fails where
// Look does, and where guard mode would not change anything itself, because it knows too little: a plan from half a view
// would be a wrong one.
func LookAhead(ctx context.Context, parts Parts) (*Plan, error) {
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	parts.Policy.Probe = false // who holds a port makes no difference to what opens and closes
	scan, err := Look(ctx, parts)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(scan.Errors...); scan.Source == SourceNone {
		return nil, fmt.Errorf("cannot plan without the registrations: %w", err)
	}
	if err := cmp.Or(scan.membersErr, scan.bridgesErr); err != nil {
		return nil, fmt.Errorf("cannot plan without the sources: %w", err)
	}
	switch {
	case scan.RangeTaken:
	case scan.factsErr != nil:
		return nil, fmt.Errorf("cannot plan without the sidecar range: %w; or set sidecar_range", scan.factsErr)
	case !scan.Agent.RangeKnown:
		return nil, errors.New("cannot plan without the sidecar range, which the Consul agent did not tell; set sidecar_range")
	case scan.standing.guard.Len() > 0:
		return nil, errors.New("cannot plan: the agent's sidecar range is refused, so the rules of an earlier run stand; set sidecar_range")
	}
	plan := planOf(&scan.Result, scan.listeners, scan.published, scan.standing)
	plan.Scan = scan
	if incomplete := plan.explain(ctx, parts); incomplete != "" && !slices.Contains(scan.Notes, incomplete) {
		scan.note("%s", incomplete)
	}
	if parts.Firewall == nil {
		return plan, nil
	}
	if plan.Changes, err = parts.Firewall.Plan(ctx, plan.rules); err != nil {
		scan.note("the rules were not planned: %v", err)
	}
	return plan, nil
}

// planOf compares a result, made as if everything were settled, with what stands.
func planOf(res *Result, listeners []sockets.Listener, published []firewall.Published, now standing) *Plan {
	plan := &Plan{rules: res.Rules}
	for _, o := range res.Openings {
		if o.IsPath() && now.paths.Has(o.Port) || !o.IsPath() && now.open.Has(o.Port) {
			plan.Keeps = append(plan.Keeps, o)
		} else {
			plan.Opens = append(plan.Opens, o)
		}
	}
	plan.Later = now.open.Intersect(res.Rules.Guard).Minus(res.Rules.Open)
	plan.rules.Open = res.Rules.Open.Union(plan.Later)
	plan.rules.Paths = res.Rules.Paths.Minus(plan.rules.Open)
	if len(res.Rules.PathsFrom) > 0 {
		later := now.paths.Intersect(res.Rules.Guard).Minus(plan.rules.Open).Minus(plan.rules.Paths)
		plan.rules.Paths, plan.Later = plan.rules.Paths.Union(later), plan.Later.Union(later)
	}
	plan.rules.Cut = res.Rules.Cut.Minus(plan.Later)
	will := plan.rules.Guard.Minus(plan.rules.Open).Minus(plan.rules.Paths)
	plan.Closes = will.Minus(now.enforced)
	plan.Releases = now.enforced.Minus(will).Minus(plan.rules.Open).Minus(plan.rules.Paths)
	plan.ends = plan.rules.Cut.Minus(now.cut)
	plan.cut(listeners, published, now.narrows(res.Rules.AllowFrom), now.narrowsPaths(&plan.rules))
	for i := range plan.Cuts {
		c := &plan.Cuts[i]
		c.Ends = plan.ends.Has(c.Port)
		for _, q := range res.Quarantined {
			if q.Port == c.Port && !c.Outside {
				c.For = q.Services
			}
		}
	}
	return plan
}

// cut collects who would be cut off. Sockets that differ in nothing that people see are one; where sources are narrowed,
// those on open ports are candidates, until explain has seen who is connected.
func (p *Plan) cut(listeners []sockets.Listener, published []firewall.Published, narrows bool, narrowed firewall.PortSet) {
	goesTo, loses := map[uint16]string{}, p.Closes.Union(p.ends)
	for _, nat := range published {
		ports := publishedPorts([]firewall.Published{nat}).Intersect(loses)
		for port := range ports.All() {
			if _, told := goesTo[port]; !told {
				goesTo[port] = cmp.Or(nat.To, "this host")
			}
		}
	}
	seen := map[socketKey]bool{}
	held := map[uint16]bool{}
	for i := range listeners {
		l := &listeners[i]
		port, key := l.Addr.Port(), socketKey{l.Protocol, l.Addr, l.UID}
		path := narrowed.Has(port)
		outside := path || narrows && p.rules.Open.Has(port)
		if l.Protocol != sockets.TCP || !l.Exposed() || seen[key] || !outside && !loses.Has(port) {
			continue
		}
		seen[key], held[port] = true, true
		p.Cuts = append(p.Cuts, Cut{Port: port, Listener: l, GoesTo: goesTo[port], Connections: -1, Outside: outside, Path: path})
	}
	for port, to := range goesTo {
		if !held[port] {
			p.Cuts = append(p.Cuts, Cut{Port: port, GoesTo: to, Connections: -1})
		}
	}
	slices.SortStableFunc(p.Cuts, func(a, b Cut) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), compareListeners(a.Listener, b.Listener))
	})
}

// explain finds the owners and counts the connections of what would be cut off, drops the candidates that nobody from
// outside is connected to, and returns what kept some out of sight.
func (p *Plan) explain(ctx context.Context, parts Parts) (incomplete string) {
	var listeners []sockets.Listener
	for i := range p.Cuts {
		if l := p.Cuts[i].Listener; l != nil {
			listeners = append(listeners, *l)
		}
	}
	if len(listeners) > 0 && parts.Connections != nil {
		connections, err := parts.Connections(ctx, p.Cuts[0].Port, p.Cuts[len(p.Cuts)-1].Port)
		if err != nil {
			incomplete = err.Error()
		} else {
			p.count(connections)
		}
	}
	p.Cuts = slices.DeleteFunc(p.Cuts, func(c Cut) bool { return c.Outside && c.Connections < 1 })
	owners, unseen := lookup(ctx, parts.Owners, listeners)
	for i := range p.Cuts {
		if c := &p.Cuts[i]; c.Listener != nil {
			if owner, ok := owners[c.Listener.Cookie]; ok {
				c.Owner = &owner
			}
		}
	}
	return cmp.Or(incomplete, unseen)
}

// count gives each connection to the listener that took it: the one of its very address before one of all addresses.
// What nat rules send elsewhere has no socket here, so its connections are not known.
func (p *Plan) count(connections []sockets.Connection) {
	byPort := map[uint16][]*Cut{}
	for i := range p.Cuts {
		if c := &p.Cuts[i]; c.Listener != nil && c.GoesTo == "" {
			c.Connections = 0
			byPort[c.Port] = append(byPort[c.Port], c)
		}
	}
	for _, conn := range connections {
		var took *Cut
		for _, c := range byPort[conn.Local.Port()] {
			exact := c.Listener.Addr.Addr().Unmap() == conn.Local.Addr()
			if exact || took == nil && c.Listener.Covers(conn.Local.Addr()) {
				took = c
			}
			if exact {
				break
			}
		}
		if took == nil {
			continue
		}
		sources := p.rules.AllowFrom
		if took.Path {
			sources = p.rules.PathsFrom
		}
		if !took.Outside || !admits(sources, netip.PrefixFrom(conn.Peer, conn.Peer.BitLen())) {
			took.Connections++
		}
	}
}

// RangeFindings returns the findings that concern what guard mode does: all but those of ways around the mesh and of Consul's
// API, which are no business of the plan where their port is not refused quarantine.
func (p *Plan) RangeFindings() []Finding {
	return slices.DeleteFunc(slices.Clone(p.Findings), func(f Finding) bool {
		return isAroundTheMesh(f.ID) || f.ID == catalog.ExposedConsulAPI
	})
}

// tellAhead logs once, when guard mode has begun and will really change something, what that is.
func (a *Agent) tellAhead(ctx context.Context) {
	if a.toldAhead || a.parts.Policy.Mode != ModeGuard || a.memory.answers == 0 || a.applyWaits() != nil {
		return
	}
	a.toldAhead = true
	in := a.input
	in.Settled, in.SSH = true, a.ssh
	result := Evaluate(in)
	var published []firewall.Published
	if a.host != nil {
		published = a.host.Published
	}
	plan := planOf(&result, a.listeners, published, a.found)
	if incomplete := plan.explain(ctx, a.parts); incomplete != "" {
		a.incomplete = cmp.Or(a.incomplete, incomplete)
	}
	a.news.tellPlan(a.parts.Log, plan)
}
