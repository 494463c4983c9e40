// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// Quarantined is a port that is closed to the network, with its running connections, because an application is exposed
// on it.
type Quarantined struct {
	Port     uint16
	Services []string // names, sorted; none where an earlier run closed the port and no registration has asked since
	Held     bool     // no registration of the last answer asks for it any more
}

func (q Quarantined) equal(other Quarantined) bool {
	return q.Port == other.Port && q.Held == other.Held && slices.Equal(q.Services, other.Services)
}

// portsIn are the ports of a list.
func portsIn(quarantined []Quarantined) firewall.PortSet {
	var ports firewall.PortSet
	for i := range quarantined {
		ports.Add(quarantined[i].Port)
	}
	return ports
}

// exposure is a port on which the network reaches an application, or calls others in its name.
type exposure struct {
	id      catalog.ID
	reg     *consul.Registration
	proxies []*consul.Registration // that call the application on this port
	port    uint16
	where   string // in which other network namespace it listens, "" for the host's own
}

func (x *exposure) same(other exposure) bool {
	return x.id == other.id && x.reg == other.reg && x.port == other.port && x.where == other.where
}

// expose notes that r is exposed on a listener's port. A port that is redirected to its transparent proxy is not: closed, it
// would be closed to the proxy's callers, too.
func (e *evaluation) expose(id catalog.ID, r *consul.Registration, proxies []*consul.Registration, l *sockets.Listener) {
	if e.redirected(proxies, l) {
		e.proxied.Add(l.Addr.Port())
		return
	}
	e.exposePort(id, r, proxies, l.Addr.Port())
}

// exposePort notes that r is exposed on a port, however many sockets it has there.
func (e *evaluation) exposePort(id catalog.ID, r *consul.Registration, proxies []*consul.Registration, port uint16) {
	x := exposure{id: id, reg: r, port: port}
	if n := len(e.exposures); n > 0 && e.exposures[n-1].same(x) {
		return
	}
	for _, p := range proxies {
		if p.Proxy.LocalServiceSocket == "" && cmp.Or(p.Proxy.LocalServicePort, r.Port) == int(port) {
			x.proxies = append(x.proxies, p)
		}
	}
	e.exposures = append(e.exposures, x)
}

// refusal is why a port is not quarantined, and what would change that.
type refusal struct{ reason, fix string }

// quarantine decides which exposed ports are closed to the network.
//
// A registration is nobody's word for who listens on a port: whoever may write one service may name any port of the
// host. So the operator lists the ports, and on a port that is listed it still has to be plain that nobody else loses it.
// What cannot be told from here is whether the process behind a port belongs to the service that names it. Therefore
// quarantine_services counts as confirmation: root's listeners, which are rarely applications of a mesh, and ports that
// several services name are closed only for a service that is listed there by name. A service that is listed there cannot
// be made to stay open by somebody else's registration either.
//
// What Consul's own health checks reach is decided by where the agent lives. The agent does not tell the targets of its
// checks (1.21: Definition is empty in /v1/agent/checks, and all blank in /v1/agent/health), but an agent in this network
// namespace reaches every address of the host over lo, which is never closed.
//
// What once was decided stands while there is no evidence against it: owners that are out of sight for a moment, or an
// agent that is down, release no port.
type quarantine struct {
	*evaluation
	*Quarantine

	before  map[uint16]bool     // ports that were in quarantine before
	names   map[uint16][]string // which services name a port of this host, once each, the first few
	agent   *refusal            // why nothing is quarantined, because of where the agent lives; nil for no reason
	unseen  bool                // that is only for want of a listener of the agent's
	of      map[uint16][]string // quarantined for these services
	refused map[uint16]bool     // some service was refused
	// unwanted are the services whose port it is, by a finding that is not to be acted on (any more).
	unwanted map[uint16][]string

	// What is the same for all services on a port is looked at once: anybody can register thousands, or listen on thousands
	// of loopback addresses.
	owned map[uint16]*refusal
	roots map[uint16]bool
	lives map[uint16]residence
}

// residence is where what answers on a port lives, as far as it is seen.
type residence struct{ elsewhere, here bool }

// isAroundTheMesh tells whether a finding is that the network reaches an application, or its identity, past its sidecar:
// what quarantine can act on.
func isAroundTheMesh(id catalog.ID) bool {
	return id == catalog.ExposedListener || id == catalog.ExposedSibling || id == catalog.ExposedUpstream || id == catalog.ExposedAdmin
}

// judgeQuarantine returns the ports that are to be in quarantine, and finds those that are not though their application
// is exposed.
func (e *evaluation) judgeQuarantine() []Quarantined {
	if e.in.Policy.Quarantine == nil || !slices.ContainsFunc(e.in.Policy.Quarantine.Findings, isAroundTheMesh) {
		return nil
	}
	q := &quarantine{
		evaluation: e, Quarantine: e.in.Policy.Quarantine,
		before: map[uint16]bool{}, of: map[uint16][]string{}, refused: map[uint16]bool{},
		unwanted: map[uint16][]string{}, owned: map[uint16]*refusal{}, roots: map[uint16]bool{}, lives: map[uint16]residence{},
	}
	for _, k := range e.in.Quarantined {
		q.before[k.Port] = true
	}
	if len(e.exposures) > 0 {
		q.nameServices()
		q.findAgent()
	}
	type telling struct {
		reg    *consul.Registration
		port   uint16
		reason string
	}
	told := map[telling]bool{} // once, whatever ways around the mesh a port has
	for _, x := range e.exposures {
		if !slices.Contains(q.Findings, x.id) {
			if x.where == "" {
				q.unwanted[x.port] = append(q.unwanted[x.port], x.reg.Name)
			}
			continue
		}
		own, borrowed := e.exempts(x)
		if len(q.Services) > 0 && !slices.Contains(q.Services, x.reg.Name) || own {
			continue
		}
		if r := q.refuse(x); r != nil {
			q.refused[x.port] = q.refused[x.port] || x.where == "" // the port of another namespace is none of the host's
			if borrowed || told[telling{x.reg, x.port, r.reason}] {
				continue
			}
			told[telling{x.reg, x.port, r.reason}] = true
			port := strconv.Itoa(int(x.port))
			e.find(Finding{ID: catalog.QuarantineRefused, Service: x.reg.Name, ServiceID: x.reg.ID, Port: x.port},
				"port", port, "service", x.reg.Name, "reason", r.reason, "fix", r.fix)
			continue
		}
		q.of[x.port] = append(q.of[x.port], x.reg.Name)
	}
	return q.collect()
}

// collect lists what is quarantined for registrations, and what was and that no registration names for the moment: an
// agent that reloads forgets its services.
func (q *quarantine) collect() []Quarantined {
	var all []Quarantined
	for port, services := range q.of {
		slices.Sort(services)
		all = append(all, Quarantined{Port: port, Services: slices.Compact(services)})
	}
	for _, k := range q.in.Quarantined {
		if q.of[k.Port] == nil && !q.refused[k.Port] && q.keeps(k) {
			all = append(all, Quarantined{Port: k.Port, Services: k.Services, Held: true})
		}
	}
	slices.SortFunc(all, func(a, b Quarantined) int { return cmp.Compare(a.Port, b.Port) })
	return all
}

// keeps tells whether a port that no registration names for the moment stays in quarantine.
func (q *quarantine) keeps(k Quarantined) bool {
	wanted := len(k.Services) == 0 || len(q.Services) == 0 ||
		slices.ContainsFunc(k.Services, func(name string) bool { return slices.Contains(q.Services, name) })
	if slices.ContainsFunc(q.unwanted[k.Port], func(name string) bool { return len(k.Services) == 0 || slices.Contains(k.Services, name) }) {
		return false
	}
	exposed := len(q.passedOn(k.Port)) > 0 || slices.ContainsFunc(q.byPort[k.Port], func(l *sockets.Listener) bool {
		return l.Protocol == sockets.TCP && l.Exposed()
	})
	return wanted && exposed && !q.exempted.spared[k.Port] && !q.proxied.Has(k.Port) && q.refusePort(k.Port) == nil && q.refuseOwners(k.Port) == nil
}

// refuse tells why an exposed port is not quarantined, nil if it is.
func (q *quarantine) refuse(x exposure) *refusal {
	if x.where != "" {
		return &refusal{"it listens in " + x.where + ", where hostagent keeps no rules", "bind it to loopback there"}
	}
	if r := q.refusePort(x.port); r != nil {
		return r
	}
	if r := q.refuseExempt(x.port); r != nil {
		return r
	}
	confirmed := slices.Contains(q.Services, x.reg.Name)
	if !confirmed {
		if r := q.refuseNames(x); r != nil {
			return r
		}
	}
	if r := once(q.owned, x.port, q.refuseOwners); r != nil {
		return r
	}
	if !confirmed && once(q.roots, x.port, q.isRoots) {
		return &refusal{"it is root's, and a registration alone closes no port of root's",
			"if " + catalog.CleanTo(x.reg.Name, 40) + " is what listens there, add its name to " + q.servicesKey() + "; if not, deregister it"}
	}
	for _, p := range x.proxies {
		if r := q.refuseProxy(p, x.port); r != nil {
			return r
		}
	}
	if q.agent != nil && (!q.unseen || !q.before[x.port]) {
		return q.agent
	}
	return nil
}

// refusePort looks at the number alone.
func (q *quarantine) refusePort(port uint16) *refusal {
	switch {
	case q.protected.Has(port):
		return &refusal{"it is a protected port", "register the port on which the application really listens"}
	case !q.Ports.Has(port):
		return &refusal{"it is not in quarantine_ports", fmt.Sprintf("bind it to loopback, or add %d to quarantine_ports", port)}
	case q.res.Range.Contains(port):
		return &refusal{"it lies in the sidecar range", "move the application out of " + q.res.Range.String()}
	case q.claimed.Has(port):
		return &refusal{"it is open for a sidecar or gateway that is registered on it", "give the application a port of its own"}
	}
	return nil
}

// once returns what judge says of a port, from the second time on as it was remembered.
func once[T any](known map[uint16]T, port uint16, judge func(uint16) T) T {
	said, ok := known[port]
	if !ok {
		said = judge(port)
		known[port] = said
	}
	return said
}

// mostNamed is how many services are told that name a port.
const mostNamed = 3

// refuseNames looks at who else says that the port is theirs.
func (q *quarantine) refuseNames(x exposure) *refusal {
	var others []string
	for _, name := range q.names[x.port] {
		switch {
		case name == x.reg.Name:
		case len(others) == mostNamed:
			others[mostNamed-1] = "others"
		default:
			others = append(others, catalog.CleanTo(name, 24))
		}
	}
	if len(others) == 0 {
		return nil
	}
	return &refusal{"another registration names the same port: " + list(others),
		"deregister what does not listen there, or add the name of the service that does to " + q.servicesKey()}
}

// servicesKey names the key that confirms services, and what one name in it does to all others while it is empty.
func (q *quarantine) servicesKey() string {
	if len(q.Services) > 0 {
		return "quarantine_services"
	}
	return "quarantine_services, with the names of all others to be closed, for the empty list stands for all"
}

// nameServices collects which services name which ports of this host: where they listen, and where sidecars call them.
func (q *quarantine) nameServices() {
	q.names = map[uint16][]string{}
	name := func(port int, service string) {
		if port < 1 || port > 65535 || len(q.names[uint16(port)]) > mostNamed+1 {
			return
		}
		if !slices.Contains(q.names[uint16(port)], service) {
			q.names[uint16(port)] = append(q.names[uint16(port)], service)
		}
	}
	for i := range q.in.Registrations {
		r := &q.in.Registrations[i]
		if own, known := q.isOwn(r.Address); own || !known {
			for _, port := range listenPorts(r) {
				name(int(port), r.Name)
			}
		}
		if r.Kind == consul.KindConnectProxy && r.Proxy != nil && r.Proxy.LocalServiceSocket == "" {
			if own, known := q.isOwn(r.Proxy.LocalServiceAddress); own || !known {
				name(r.Proxy.LocalServicePort, r.Proxy.DestinationName)
			}
		}
	}
}

// refuseOwners looks for somebody else who listens on the port, on whatever address: web may listen on 10.0.0.1:8080, and
// another application on 127.0.0.1:8080, which then is what the sidecar calls. Workers of one program with a socket each
// (SO_REUSEPORT) are one owner.
func (q *quarantine) refuseOwners(port uint16) *refusal {
	const fix = "give each application a port of its own"
	var first *sockets.Listener
	for _, l := range q.byPort[port] {
		if l.Protocol != sockets.TCP {
			continue
		}
		q.suspect(l)
		if first == nil {
			first = l
			continue
		}
		if l.UID != first.UID {
			return &refusal{fmt.Sprintf("several users listen on it (uids %d %d)", min(first.UID, l.UID), max(first.UID, l.UID)), fix}
		}
		switch same, known := q.sameOwner(first, l); {
		case known && !same:
			return &refusal{"several programs listen on it: " + list(q.owners(first, l)), fix}
		case !known && !q.before[port]:
			return &refusal{"several sockets listen on it, and it is not known whether one program holds them",
				"run hostagent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; or let one socket listen"}
		}
	}
	return q.refuseNAT(port, first)
}

// refuseNAT looks for nat rules that send what comes for the port to somebody else than who listens on it.
func (q *quarantine) refuseNAT(port uint16, l *sockets.Listener) *refusal {
	if !q.published.Has(port) {
		return nil
	}
	to := map[firewall.Family]string{}
	for _, p := range q.in.Host.Published {
		if port < p.First || port > p.Last {
			continue
		}
		if before, seen := to[p.Family]; seen && before != p.To {
			return &refusal{"nat rules send it to several places", "publish each container on a port of its own"}
		}
		to[p.Family] = p.To
	}
	if l == nil { // nothing but the rules has the port
		return nil
	}
	if publishes, known := q.publishes(l); known && !publishes {
		return &refusal{"nat rules send what comes for it to somebody else than who listens on it", "give each a port of its own"}
	}
	return nil
}

// isRoots tells whether a process of root itself listens on the port, and not for a container. While its owner is out of
// sight a port stays as it was.
func (q *quarantine) isRoots(port uint16) bool {
	return slices.ContainsFunc(q.byPort[port], func(l *sockets.Listener) bool {
		if l.Protocol != sockets.TCP || l.UID != 0 {
			return false
		}
		publishes, known := q.publishes(l)
		if !known {
			return !q.published.Has(port) && !q.before[port]
		}
		return !publishes
	})
}

// refuseProxy looks at how a sidecar calls its application. One that is not running now is as good as one that is: a crash
// of the sidecar must not lift a quarantine, nor must addresses of the host that cannot be read.
func (q *quarantine) refuseProxy(p *consul.Registration, application uint16) *refusal {
	id := catalog.CleanTo(p.ID, 40)
	if text := p.Proxy.LocalServiceAddress; text != "" && text != "localhost" {
		addr, err := netip.ParseAddr(text)
		if err != nil || !addr.Unmap().IsLoopback() && !addr.IsUnspecified() {
			return &refusal{fmt.Sprintf("sidecar %s calls it at %s, not over loopback", id, catalog.CleanTo(text, 40)),
				"set local_service_address of " + id + " to 127.0.0.1"}
		}
	}
	const fix = "run the sidecar in the host's network namespace"
	if own, known := q.isOwn(p.Address); !own && (known || !q.before[application]) {
		return &refusal{fmt.Sprintf("sidecar %s is registered at %s, which is not known as this host's", id, catalog.CleanTo(p.Address, 40)), fix}
	}
	for _, port := range []int{p.Port, p.Proxy.BindPort} {
		if port < 1 || port > 65535 {
			continue
		}
		if once(q.lives, uint16(port), q.residence).elsewhere {
			return &refusal{fmt.Sprintf("sidecar %s, whose port %d is published for a container, does not call it over loopback", id, port), fix}
		}
	}
	return nil
}

// residence tells where what answers on a port lives. A listener that merely stands beside another says nothing: any user can
// bind some loopback address.
func (q *quarantine) residence(port uint16) residence {
	var p residence
	for _, l := range q.byPort[port] {
		if l.Protocol != sockets.TCP {
			continue
		}
		q.suspect(l)
		if publishes, _ := q.publishes(l); publishes {
			p.elsewhere = true
		} else {
			p.here = true
		}
	}
	p.elsewhere = q.published.Has(port) || p.elsewhere && !p.here
	return p
}

// findAgent looks whether the agent lives in this network namespace, by where it gossips: that port it always has.
func (q *quarantine) findAgent() {
	if q.in.Source == SourceFiles {
		return // no agent was asked
	}
	const fix = "run the Consul agent in the host's network namespace"
	ports := q.in.Agent.Ports
	if len(ports) == 0 {
		q.unseen = true
		q.agent = &refusal{"it is not known whether the Consul agent lives in this network namespace", "give hostagent's token agent:read on this node"}
		return
	}
	if gossip, ok := ports["serf_lan"]; ok {
		ports = map[string]uint16{"serf_lan": gossip}
	}
	seen := false
	for _, port := range ports {
		lives := once(q.lives, port, q.residence)
		if lives.elsewhere {
			q.agent, q.unseen = &refusal{"the Consul agent lives in a container: its checks come over a bridge", fix}, false
			return
		}
		seen = seen || lives.here
	}
	if !seen {
		q.unseen = true
		q.agent = &refusal{"the Consul agent does not listen in this network namespace: its checks may come over a bridge", fix}
	}
}
