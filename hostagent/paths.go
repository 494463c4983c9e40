// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// OpeningKind says what is behind an open port.
type OpeningKind string

// The kinds of openings. All but OpensMesh are for Policy.ExposedPathsFrom only: what is behind them asks for no certificate.
const (
	OpensMesh    OpeningKind = "mesh"         // a sidecar, gateway or native service takes the mesh's connections
	OpensPath    OpeningKind = "exposed path" // a sidecar lets some paths of its application through
	OpensMetrics OpeningKind = "metrics"      // Envoy shows its statistics
)

// exposes tells whether p lets anybody connect to exposed paths.
func (p *Policy) exposes() bool { return p.ExposedPathsCluster || len(p.ExposedPathsFrom) > 0 }

// mostPaths is how many ports of one registration may be exposed paths: whoever registers it could name them all.
const mostPaths = 64

// exposedPorts yields the ports on which r says that a proxy lets paths through or shows statistics, as far as they are ports
// that the network may reach.
func exposedPorts(r *consul.Registration) iter.Seq2[uint16, OpeningKind] {
	return func(yield func(uint16, OpeningKind) bool) {
		if r.Proxy == nil {
			return
		}
		left := mostPaths
		for i, ports := range [][]int{r.Proxy.ExposedPorts, r.Proxy.MetricsPorts} {
			for _, port := range ports[:min(len(ports), left)] {
				if port > 0 && port <= 65535 && !yield(uint16(port), []OpeningKind{OpensPath, OpensMetrics}[i]) {
					return
				}
			}
			left = max(left-len(ports), 0)
		}
	}
}

// claimPaths adds what r asks for as exposed paths, where the operator lets anybody connect to those.
func (p *Policy) claimPaths(claims map[Held]bool, r *consul.Registration) {
	if !p.exposes() {
		return
	}
	for port := range exposedPorts(r) {
		claims[Held{ID: r.ID, Port: port, Path: true}] = true
	}
}

// pathSources returns who may connect to exposed paths; empty for nobody. The host itself always may, and its bridges only
// where the operator lists their networks: what is exposed is for a few.
func pathSources(in *Input) []netip.Prefix {
	all := make(sourceList, 0, len(in.Policy.ExposedPathsFrom)+len(in.PathMembers))
	all.networks(in.Policy.ExposedPathsFrom)
	if in.Policy.ExposedPathsCluster {
		all.hosts(in.PathMembers)
	}
	return outermost(all)
}

// pathGate is the gate between claims of exposed paths and rules that went through ruleset: the same ports may open that may
// for sidecars, but for those that are open already, to others, and those that are in quarantine.
func pathGate(rules firewall.Ruleset, policy *Policy, sidecars PortRange, protected, paths, quarantined firewall.PortSet, sources []netip.Prefix) firewall.Ruleset {
	if !policy.exposes() || len(sources) == 0 {
		return rules
	}
	if q := policy.Quarantine; q != nil {
		paths = paths.Minus(quarantined.Intersect(q.Ports))
	}
	rules.PathsFrom = sources
	rules.Paths = paths.Intersect(sidecars.Ports().Union(policy.ExtraPorts)).Minus(protected).Minus(rules.Open)
	rules.Cut = rules.Cut.Minus(rules.Paths)
	return rules
}

// pathClaim is a registration that asks for a port as an exposed path.
type pathClaim struct {
	reg  *consul.Registration
	port uint16
	kind OpeningKind
}

// collectPaths sorts out which registrations ask for exposed paths, and who gets them.
func (e *evaluation) collectPaths() {
	e.pathClaims = map[uint16][]pathClaim{}
	for i := range e.in.Registrations {
		r := &e.in.Registrations[i]
		if !e.in.Policy.counts(r) {
			continue
		}
		for port, kind := range exposedPorts(r) {
			e.pathClaims[port] = append(e.pathClaims[port], pathClaim{r, port, kind})
			e.paths.Add(port)
		}
	}
	ports, held := e.held(true)
	e.paths = e.paths.Union(ports)
	open := firewall.Ruleset{Open: e.claimed}
	gate := pathGate(open, &e.in.Policy, e.res.Range, e.protected, e.paths, firewall.PortSet{}, pathSources(&e.in))
	from := sourceTexts(e.in.Policy.ExposedPathsCluster, e.in.Policy.ExposedPathsFrom)
	for port := range gate.Paths.All() {
		opening := Opening{Port: port, Kind: OpensPath, From: from}
		for i, c := range e.pathClaims[port] {
			if i == 0 {
				opening.Kind = c.kind
			}
			opening.add(c.reg)
		}
		opening.finish(held[port])
		e.res.Openings = append(e.res.Openings, opening)
	}
	slices.SortFunc(e.res.Openings, func(a, b Opening) int { return cmp.Compare(a.Port, b.Port) })
}

// letPaths puts into the rules what is exposed, and takes out of the openings what is not after all.
func (e *evaluation) letPaths(quarantined firewall.PortSet) {
	rules := &e.res.Rules
	*rules = pathGate(*rules, &e.in.Policy, e.res.Range, e.protected, e.paths, quarantined, pathSources(&e.in))
	e.res.Openings = slices.DeleteFunc(e.res.Openings, func(o Opening) bool {
		return o.IsPath() && !rules.Paths.Has(o.Port)
	})
	for i := range e.res.Services {
		for j := range e.res.Services[i].Sidecars {
			for k := range e.res.Services[i].Sidecars[j].Paths {
				p := &e.res.Services[i].Sidecars[j].Paths[k]
				p.Opened = rules.Paths.Has(p.Port)
			}
		}
	}
}

// sidecarPaths are the exposed paths of a sidecar. Whether they are opened is told by letPaths.
func (e *evaluation) sidecarPaths(p *consul.Registration) []SidecarPath {
	var paths []SidecarPath
	if e.in.Policy.counts(p) {
		for port, kind := range exposedPorts(p) {
			paths = append(paths, SidecarPath{Port: port, Kind: kind})
		}
	}
	slices.SortFunc(paths, func(a, b SidecarPath) int { return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Kind, b.Kind)) })
	return slices.Compact(paths)
}

// judgePaths looks at exposed paths that are on somebody else's port, that cannot be opened, or that more can reach than
// the operator says.
func (e *evaluation) judgePaths() {
	for _, port := range slices.Sorted(maps.Keys(e.pathClaims)) {
		paths := e.pathClaims[port]
		ids := map[string]bool{}
		for _, c := range paths {
			ids[catalog.Clean(c.reg.ID)] = true
		}
		for _, c := range e.claims[port] {
			ids[catalog.Clean(c.reg.ID)] = true
		}
		if len(ids) > 1 && len(e.claims[port]) < 2 { // two sidecars have been told of
			e.find(Finding{ID: catalog.DuplicatePort, Port: port},
				"port", strconv.Itoa(int(port)), "services", list(slices.Sorted(maps.Keys(ids))))
		}
		if len(e.claims[port]) == 0 {
			e.judgePath(paths[0])
		}
	}
}

// judgePath tells why a path is not as the operator would have it. What lies in the sidecar range is closed, as everything
// there, and that is no news.
func (e *evaluation) judgePath(c pathClaim) {
	listens, reached := false, false
	for _, l := range e.byPort[c.port] {
		listens = listens || l.Protocol == sockets.TCP
		reached = reached || l.Protocol == sockets.TCP && l.Exposed()
	}
	policy := &e.in.Policy
	inRange, extra := e.res.Range.Contains(c.port), policy.ExtraPorts.Has(c.port)
	guarded := (inRange || policy.GuardPorts.Has(c.port)) && !e.protected.Has(c.port)
	what, number := "it is an exposed path", strconv.Itoa(int(c.port))
	if c.kind == OpensMetrics {
		what = "it shows a proxy's metrics"
	}
	switch {
	case listens && !reached: // on loopback it is nobody's business
	case policy.exposes() && e.protected.Has(c.port):
		e.refusePath(c, what+" on a protected port", "expose it on a port of the sidecar range")
	case policy.exposes() && !inRange && !extra:
		e.refusePath(c, what+" outside the sidecar range "+e.res.Range.String()+" and not in extra_ports",
			fmt.Sprintf("expose it on a port of the range, or add %s to extra_ports, and to guard_ports to keep others out", number))
	case policy.exposes() && reached && !guarded:
		e.refusePath(c, what+", and exposed_paths_from keeps nobody out, because the port is not guarded",
			fmt.Sprintf("add %s to guard_ports", number))
	case reached && !guarded:
		e.refusePath(c, what+" that the network reaches without mTLS and without intentions, and the port is not guarded",
			fmt.Sprintf("add %s to guard_ports, which closes it; exposed_paths_from and extra_ports then open it to a few", number))
	}
}

func (e *evaluation) refusePath(c pathClaim, reason, fix string) {
	e.find(Finding{ID: catalog.PortNotOpened, Service: destination(c.reg), ServiceID: c.reg.ID, Port: c.port},
		"port", strconv.Itoa(int(c.port)), "service", c.reg.ID, "reason", reason, "fix", fix)
}

// IsPath tells whether o is for Policy.ExposedPathsFrom only.
func (o *Opening) IsPath() bool { return o.Kind == OpensPath || o.Kind == OpensMetrics }

// pathText says behind an opening what it is and to whom, where that is not the mesh: ", exposed path, from 10.0.0.0/8".
func (o *Opening) pathText() string {
	if !o.IsPath() {
		return ""
	}
	const most = 8
	from := strings.Join(o.From[:min(len(o.From), most)], ", ")
	if more := len(o.From) - most; more > 0 {
		from += fmt.Sprintf(" and %d more", more)
	}
	return ", " + string(o.Kind) + ", from " + from
}

// For says for whom a port is open: names, and of what is no mesh port what it is and who may connect: "web, exposed path, from
// 10.0.0.0/8". It is safe to show.
func (o *Opening) For() string {
	names := make([]string, len(o.Services))
	for i, name := range o.Services {
		names[i] = catalog.Clean(name)
	}
	return strings.Join(names, ", ") + o.pathText()
}

// pathsText says below a sidecar on which ports it lets others in, and which of them are opened; nothing where there are none.
// Its lines are of fewer than 80 columns.
func pathsText(paths []SidecarPath, mode Mode) string {
	const maxPathPorts = 34 // columns
	var opened, others firewall.PortSet
	for _, p := range paths {
		if p.Opened {
			opened.Add(p.Port)
		} else {
			others.Add(p.Port)
		}
	}
	state := "open to exposed_paths_from"
	if mode == ModeObserve {
		state = "to be opened by guard mode"
	}
	text := ""
	if opened.Len() > 0 {
		text += "\n  exposed paths " + catalog.CleanTo(opened.String(), maxPathPorts) + ", " + state
	}
	if others.Len() > 0 {
		text += "\n  exposed paths " + catalog.CleanTo(others.String(), maxPathPorts) + ", not opened"
	}
	return text
}
