// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// PublishedPort is a TCP port of this host whose connections are passed on to somewhere else, by nat rules or by a container
// runtime's proxy. Who is behind it is told as far as it is known.
type PublishedPort struct {
	Port uint16
	// To is where they go in the words of the rule: "172.17.0.2:80", or "172.17.0.2" for the same port there.
	To string
	// Namespace is the network namespace that has this address, 0 where none is known.
	Namespace uint64
	// Container, Runtime and Unit are those of a process in there, as in sockets.Owner.
	Container, Runtime, Unit string

	at netip.AddrPort // what To says
}

// mostPublished is how many ports of one rule are listed at most.
const mostPublished = 1024

func (p PublishedPort) compare(other PublishedPort) int {
	return cmp.Or(cmp.Compare(p.Port, other.Port), p.at.Compare(other.at))
}

// natRules are those of Host.Published that pass on what comes for addresses of this host.
type natRules struct {
	byPort map[uint16][]int // of those that pass on few ports
	wide   []int            // the others
	said   map[uint16][]PublishedPort
	to     map[place][]PublishedPort // what is published, by where it goes
}

// learnRules sorts the nat rules by port.
func (e *evaluation) learnRules() {
	e.rules = natRules{byPort: map[uint16][]int{}, said: map[uint16][]PublishedPort{}, to: map[place][]PublishedPort{}}
	if e.in.Host == nil {
		return
	}
	for i := range e.in.Host.Published {
		p := &e.in.Host.Published[i]
		if !e.concerns(p) {
			continue
		}
		e.published.AddRange(p.First, p.Last)
		if isWide(p) {
			e.rules.wide = append(e.rules.wide, i)
			continue
		}
		for port := int(p.First); port <= int(p.Last); port++ {
			e.rules.byPort[uint16(port)] = append(e.rules.byPort[uint16(port)], i)
		}
	}
}

// isWide tells whether a rule passes on ports by the thousand.
func isWide(p *firewall.Published) bool { return p.Last-p.First >= mostPublished }

// concerns tells whether a nat rule passes on what comes for an address of this host, as far as that is known. Kubernetes
// has rules for each service's address, which is no host's.
func (e *evaluation) concerns(p *firewall.Published) bool {
	to := p.Destination
	switch {
	case !to.IsValid() || len(e.addresses) == 0 || to.Contains(e.in.Agent.Address):
		return true
	case to.IsSingleIP():
		return e.addresses[to.Addr()]
	}
	return slices.ContainsFunc(e.in.Host.Addresses, to.Contains)
}

// passedOn lists where nat rules send what comes for a port, other than to this host itself, each place once. The list is
// not to be changed.
func (e *evaluation) passedOn(port uint16) []PublishedPort {
	if all, known := e.rules.said[port]; known || !e.published.Has(port) {
		return all
	}
	rules := e.rules.byPort[port]
	if len(e.rules.wide) > 0 {
		rules = slices.Sorted(slices.Values(slices.Concat(rules, e.rules.wide)))
	}
	var all []PublishedPort
	seen := map[PublishedPort]bool{}
	for _, i := range rules {
		p := &e.in.Host.Published[i]
		at := destinationOf(p.To, port)
		if own, _ := e.isOwnAddr(at.Addr()); !at.IsValid() || own || port < p.First || port > p.Last {
			continue
		}
		b := e.resolve(PublishedPort{Port: port, To: p.To, at: at})
		if b.Runtime == "" && b.Namespace != 0 {
			b.Runtime = chainRuntime(p.Chain)
		}
		if !seen[b] {
			seen[b] = true
			all = append(all, b)
		}
	}
	e.rules.said[port] = all
	return all
}

// destinationOf reads where a DNAT rule sends what comes for a port; the zero AddrPort where it leaves the address alone,
// or chooses among several.
func destinationOf(to string, port uint16) netip.AddrPort {
	if at, err := netip.ParseAddrPort(to); err == nil {
		return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	}
	if addr, err := netip.ParseAddr(strings.Trim(to, "[]")); err == nil {
		return netip.AddrPortFrom(addr.Unmap().WithZone(""), port)
	}
	return netip.AddrPort{}
}

// chainRuntime tells which container runtime writes its rules into a chain of that name, where the container's own cgroup
// does not tell.
func chainRuntime(chain string) string {
	switch {
	case chain == "DOCKER":
		return "docker"
	case strings.HasPrefix(chain, "NETAVARK-"):
		return "podman"
	}
	return ""
}

// resolve fills in who has the address that a port is passed on to.
func (e *evaluation) resolve(b PublishedPort) PublishedPort {
	if b.Namespace = e.away.space(b.at); b.Namespace != 0 {
		n := e.away.spaces[b.Namespace]
		b.Container, b.Runtime, b.Unit = n.Container, n.Runtime, n.Unit
	}
	return b
}

// behind returns where a listener of the host passes on what comes for its port, nil where it is no container runtime's.
func (e *evaluation) behind(port uint16, l *sockets.Listener) *PublishedPort {
	if publishes, _ := e.publishes(l); !publishes {
		return nil
	}
	for _, p := range e.owner(l).Processes {
		if at, err := netip.ParseAddrPort(p.Forwards); err == nil {
			b := e.resolve(PublishedPort{Port: port, To: p.Forwards, at: at})
			b.Runtime = cmp.Or(b.Runtime, "docker")
			return &b
		}
	}
	if all := e.passedOn(port); len(all) > 0 {
		return &all[0]
	}
	return nil
}

// publishedElsewhere lists what is published, by port, but for rules that pass on ports by the thousand.
func (e *evaluation) publishedElsewhere() []PublishedPort {
	var all []PublishedPort
	for port := range e.rules.byPort {
		all = append(all, e.passedOn(port)...)
	}
	for i := range e.in.Listeners {
		l := &e.in.Listeners[i]
		if _, known := e.in.Owners[l.Cookie]; known && l.Protocol == sockets.TCP && l.Exposed() {
			if b := e.behind(l.Addr.Port(), l); b != nil {
				all = append(all, *b)
			}
		}
	}
	slices.SortStableFunc(all, PublishedPort.compare)
	all = slices.CompactFunc(all, func(a, b PublishedPort) bool { return a.compare(b) == 0 })
	for _, b := range all {
		if b.Namespace != 0 {
			at := place{b.Namespace, b.at.Port()}
			e.rules.to[at] = append(e.rules.to[at], b)
		}
	}
	return all
}

// answers tells whether a program of the host itself, or a proxy of a container runtime that is judged as such, takes what
// comes for a port at one of some addresses: then nat rules for the port are not all there is to it.
func (e *evaluation) answers(port uint16, at addresses) bool {
	return slices.ContainsFunc(e.byPort[port], func(l *sockets.Listener) bool { return l.Protocol == sockets.TCP && covers(l, at) })
}

// exposedBehind finds that an application is exposed on a port of the host that nat rules pass on, and tells whether it
// is.
func (e *evaluation) exposedBehind(r *consul.Registration, port uint16) bool {
	all := e.passedOn(port)
	if len(all) > 0 {
		e.exposedAt(r, port, all)
	}
	return len(all) > 0
}

// exposedAt finds that an application is exposed on a port of the host that is passed on, to one place or, with a rule for
// each version of IP or a choice among several, to more.
func (e *evaluation) exposedAt(r *consul.Registration, port uint16, all []PublishedPort) {
	f := Finding{ID: catalog.ExposedListener, Service: r.Name, ServiceID: r.ID, Port: port, Behind: &all[0]}
	if e.in.Enforced.Has(port) {
		f.State = Mitigated
	}
	texts := make([]string, len(all))
	for i := range all {
		texts[i] = e.behindText(&all[i])
	}
	const most = 115 // Render cuts at 160
	e.find(f, "service", r.Name, "listener", "port "+strconv.Itoa(int(port))+" of the host, passed on to "+listTo(texts, most),
		"who", "the network", "fix", publishFix(&all[0]))
}

// behindText writes where a port is passed on to: "172.17.0.2:80 in container 0123456789ab (docker)".
func (e *evaluation) behindText(b *PublishedPort) string {
	switch {
	case b.Container != "":
		return b.To + " in " + containerText(b.Container, b.Runtime)
	case b.Namespace != 0:
		return b.To + " in " + e.where(b.Namespace)
	}
	return b.To
}

// publishFix tells how to keep a published port from the network.
func publishFix(b *PublishedPort) string {
	if b.Runtime == "docker" || b.Runtime == "podman" {
		return "publish it on loopback only (" + b.Runtime + " run -p 127.0.0.1:" + strconv.Itoa(int(b.Port)) + ":" + strconv.Itoa(int(b.at.Port())) + ")"
	}
	return "publish port " + strconv.Itoa(int(b.Port)) + " on 127.0.0.1 only, or do not publish it"
}
