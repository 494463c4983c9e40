// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// sight is what a pass has seen, for an audit. What it points to is only read.
type sight struct {
	policy        Policy
	agent         consul.Agent
	result        *Result
	registrations []consul.Registration
	listeners     []sockets.Listener
	host          *Host            // nil: not looked at
	enforced      firewall.PortSet // what hostagent's guard keeps the network from
	open          firewall.PortSet // what its accept rule lets in
	firewallErr   error            // why that is not known
	// blocked asks other firewalls of the host; nil: nobody can.
	blocked      func(context.Context, []firewall.Probe) ([]firewall.Block, error)
	hidden       string // what kept processes out of sight
	unregistered error  // why registrations are not known
	unlisted     error  // why listeners are not known now
}

// Why something was not seen, where nobody could be asked.
var (
	errNoFirewall = errors.New("the firewall was not looked at")
	errNoAgent    = errors.New("no agent was asked")
)

const (
	notLookedUp   = "nobody looked who holds sockets"
	needsRoot     = "run as root"
	needsAgent    = `a token with agent_prefix "" { policy = "read" }, as hostagent acl-policy prints`
	byGuard       = "hostagent's guard"
	blockDeadline = 10 * time.Second
)

// AuditHost tells an audit what the scan has found. It asks other firewalls of the host about ports that a scan leaves out,
// and looks at nothing else again.
func (s *Scan) AuditHost(ctx context.Context) audit.Seen[audit.Host] {
	return s.seen.forAudit(ctx)
}

// forAudit is what was seen as an audit takes it.
func (v *sight) forAudit(ctx context.Context) audit.Seen[audit.Host] {
	switch {
	case v.result == nil:
		return audit.Unseen[audit.Host]("this host was not looked at", needsRoot)
	case v.unlisted != nil:
		return audit.Unseen[audit.Host]("its listeners cannot be listed: "+ErrorText(v.unlisted), needsRoot)
	}
	return audit.Known(v.auditHost(ctx))
}

// auditHost makes values of what was seen.
func (v *sight) auditHost(ctx context.Context) audit.Host {
	known := v.policy.SidecarRange != nil || v.agent.RangeKnown
	h := audit.Host{
		Mode: string(v.policy.Mode), RangeOff: known && v.result.Range.First == 0,
		NoServices: ErrorText(v.unregistered), NoOwners: v.hidden, Services: v.services(),
	}
	if known {
		h.First, h.Last = v.result.Range.First, v.result.Range.Last
	}
	if v.host != nil && v.host.EphemeralFirst != 0 {
		h.Ephemeral = audit.Known(fmt.Sprintf("%d-%d", v.host.EphemeralFirst, v.host.EphemeralLast))
	} else {
		h.Ephemeral = audit.Unseen[string]("it was not read", needsRoot)
	}
	others := v.askOthers(ctx)
	h.Firewalls = audit.Known(true)
	if others.err != nil {
		h.Firewalls = audit.Unseen[bool](ErrorText(others.err), needsRoot)
	}
	h.Ports = v.ports(&others)
	h.Exposed, h.Peers = v.consulPorts(&others)
	for i := range v.result.Findings {
		h.Findings = append(h.Findings, auditFinding(&v.result.Findings[i], &others))
	}
	return h
}

func auditFinding(f *Finding, others *otherFirewalls) audit.Finding {
	found := audit.Finding{ID: f.ID, State: string(f.State), Message: f.Message, Remedy: f.Remedy}
	switch {
	case f.State == Exempt && f.Exemption != nil:
		text := documentExemption(f.Exemption, false)
		text.Because = "" // which Firewall tells
		found.Firewall, found.Exemption = f.Exemption.Firewall, text.String()
	case f.State == Open && isHeldable(f):
		found.HeldBy = others.holds(firewall.TCP, f.Port)
	}
	return found
}

// isHeldable tells whether a firewall in front of this host's own sockets keeps the network from what f is about.
func isHeldable(f *Finding) bool {
	return f.Port != 0 && f.Behind == nil && f.Listener != nil && f.Listener.Namespace == 0 && f.Listener.Protocol == sockets.TCP &&
		(isAroundTheMesh(f.ID) || f.ID == catalog.ExposedConsulAPI)
}

// otherFirewalls is what the host's firewalls beside hostagent's keep from the network, of what was asked.
type otherFirewalls struct {
	err      error // why nothing is known
	families []firewall.Family
	blocks   map[blockedPort][]firewall.Block
}

type blockedPort struct {
	protocol firewall.Protocol
	port     uint16
}

// holds names what keeps the network from a port in every version of IP that this host has, "" for nothing.
func (o *otherFirewalls) holds(protocol firewall.Protocol, port uint16) string {
	blocks := o.blocks[blockedPort{protocol, port}]
	for _, family := range o.families {
		if !slices.ContainsFunc(blocks, func(b firewall.Block) bool { return slices.Contains(b.Families, family) }) {
			return ""
		}
	}
	if len(blocks) == 0 {
		return ""
	}
	return chainText(blocks[0]) + " (" + blocks[0].Rule + ")"
}

// askOthers asks what other firewalls do with the ports that an audit looks at. Those that the guard holds need no other.
func (v *sight) askOthers(ctx context.Context) otherFirewalls {
	others := otherFirewalls{families: v.families(), blocks: map[blockedPort][]firewall.Block{}}
	if v.blocked == nil {
		others.err = errors.New("other firewalls of this host were not looked at")
		return others
	}
	assigned := v.assigned()
	var probes []firewall.Probe
	asked := map[blockedPort]bool{}
	add := func(p firewall.Probe) {
		if at := (blockedPort{p.Protocol, p.Port}); !asked[at] {
			asked[at] = true
			probes = append(probes, p)
		}
	}
	doubtful := v.result.Range.Ports().Union(assigned).Minus(v.enforced)
	for port := range doubtful.All() {
		p := firewall.Probe{Protocol: firewall.TCP, Port: port}
		if v.open.Has(port) {
			p.Open, p.Accept, p.Set = true, v.policy.Accept, v.policy.PublishSet
		}
		add(p)
	}
	for i := range v.result.Findings {
		if f := &v.result.Findings[i]; f.State == Open && isHeldable(f) {
			add(firewall.Probe{Protocol: firewall.TCP, Port: f.Port})
		}
	}
	for _, p := range v.needless() {
		add(firewall.Probe{Protocol: p.protocol, Port: p.port})
	}
	ctx, cancel := context.WithTimeout(ctx, blockDeadline)
	defer cancel()
	blocks, err := v.blocked(ctx, probes)
	others.err = err
	for _, b := range blocks {
		at := blockedPort{b.Protocol, b.Port}
		others.blocks[at] = append(others.blocks[at], b)
	}
	return others
}

// families are the versions of IP in which the network can reach this host, both where that is not known.
func (v *sight) families() []firewall.Family {
	both := []firewall.Family{firewall.IPv4, firewall.IPv6}
	if v.host == nil || len(v.host.Addresses) == 0 || slices.ContainsFunc(v.host.Addresses, func(a netip.Addr) bool {
		return a.Is6() && !a.IsLoopback()
	}) {
		return both
	}
	return both[:1]
}

// assigned are the ports on which the mesh calls sidecars of this host, opened or not.
func (v *sight) assigned() firewall.PortSet {
	var ports firewall.PortSet
	for i := range v.result.Openings {
		if o := &v.result.Openings[i]; !o.IsPath() {
			ports.Add(o.Port)
		}
	}
	for _, s := range v.result.Services {
		for _, p := range s.Sidecars {
			if p.Port > 0 && p.Port <= 65535 {
				ports.Add(uint16(p.Port))
			}
		}
	}
	return ports
}

// ports tells what the kernel does with each port of the range and of sidecars beside it. Ports of exposed paths are left
// out: they are neither a sidecar's nor closed to all.
func (v *sight) ports(others *otherFirewalls) audit.Seen[[]audit.Port] {
	if v.firewallErr != nil {
		return audit.Unseen[[]audit.Port](ErrorText(v.firewallErr), needsRoot)
	}
	assigned, inRange := v.assigned(), v.result.Range.Ports()
	var paths firewall.PortSet
	for i := range v.result.Openings {
		if o := &v.result.Openings[i]; o.IsPath() && !assigned.Has(o.Port) {
			paths.Add(o.Port)
		}
	}
	ports := []audit.Port{}
	all := inRange.Union(assigned).Minus(paths)
	for port := range all.All() {
		p := audit.Port{Number: port, InRange: inRange.Has(port), Assigned: assigned.Has(port)}
		if v.enforced.Has(port) {
			p.Closed, p.By = true, byGuard
		} else if by := others.holds(firewall.TCP, port); by != "" {
			p.Closed, p.By = true, by
		} else if others.err != nil && !p.Assigned {
			return audit.Unseen[[]audit.Port](ErrorText(others.err), needsRoot)
		}
		ports = append(ports, p)
	}
	return audit.Known(ports)
}

// needlessPort is a socket of Consul on the network that no other host needs.
type needlessPort struct {
	consulService
	listener *sockets.Listener
}

// needless are the ports of Consul that listen on the network and that peers do without. The plain APIs are findings; those
// with TLS are for other hosts on servers: gRPC for dataplanes and peerings, HTTPS for people and tools.
func (v *sight) needless() (found []needlessPort) {
	candidates := []consulService{{"dns", firewall.TCP, 0}, {"dns", firewall.UDP, 0}}
	if !v.agent.Server {
		candidates = append(candidates, consulService{"https", firewall.TCP, 0}, consulService{"grpc_tls", firewall.TCP, 0})
	}
	for _, c := range candidates {
		if c.port = v.agent.Ports[c.name]; c.port == 0 {
			continue
		}
		seen := map[netip.AddrPort]bool{}
		for i := range v.listeners {
			l := &v.listeners[i]
			if uint8(l.Protocol) == uint8(c.protocol) && l.Addr.Port() == c.port && l.Exposed() && !seen[l.Addr] {
				seen[l.Addr] = true
				found = append(found, needlessPort{c, l})
			}
		}
	}
	return found
}

// consulPorts tells which ports of Consul listen on the network without need, and which because peers need them.
func (v *sight) consulPorts(others *otherFirewalls) (exposed, peers audit.Seen[[]audit.ConsulPort]) {
	if len(v.agent.Ports) == 0 {
		const reason = "the agent does not tell its ports"
		return audit.Unseen[[]audit.ConsulPort](reason, needsAgent), audit.Unseen[[]audit.ConsulPort](reason, needsAgent)
	}
	needless, needed := []audit.ConsulPort{}, []audit.ConsulPort{}
	for _, p := range v.needless() {
		needless = append(needless, audit.ConsulPort{
			Name: p.name, Listener: address(p.listener), Closed: others.holds(p.protocol, p.port) != "",
		})
	}
	for _, p := range consulServices(&v.agent, v.listeners) {
		needed = append(needed, audit.ConsulPort{Name: p.name, Listener: p.protocol.String() + " port " + strconv.Itoa(int(p.port))})
	}
	return audit.Known(needless), audit.Known(needed)
}

// services are the mesh's services of this host, by id.
func (v *sight) services() []audit.Service {
	byID := map[string]*consul.Registration{}
	for i := range v.registrations {
		byID[v.registrations[i].ID] = &v.registrations[i]
	}
	var all []audit.Service
	for i := range v.result.Services {
		s := &v.result.Services[i]
		service := audit.Service{Name: s.Name}
		for j := range s.Listeners {
			service.Listeners = append(service.Listeners, s.Listeners[j].Addr.String())
			service.Namespace = s.Listeners[j].Namespace
		}
		for _, sidecar := range s.Sidecars {
			r := byID[sidecar.ID]
			if r == nil || r.Proxy == nil {
				continue
			}
			service.UnixOnly = service.UnixOnly || r.Proxy.LocalServiceSocket != "" && len(s.Listeners) == 0
			for _, u := range r.Proxy.Upstreams {
				if u.Port > 0 {
					service.Upstreams = append(service.Upstreams, fmt.Sprintf("%s on %s:%d", u.Name, cmp.Or(u.Address, "127.0.0.1"), u.Port))
				}
			}
		}
		slices.Sort(service.Upstreams)
		service.Upstreams = slices.Compact(service.Upstreams)
		all = append(all, service)
	}
	return all
}
