// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// away is what is known of other network namespaces, and of what leads there.
type away struct {
	spaces    map[uint64]*sockets.Namespace
	byPort    map[uint16][]*sockets.Listener
	at        map[place][]*sockets.Listener
	byAddress map[netip.Addr][]uint64
}

// place is a port of a namespace.
type place struct {
	namespace uint64
	port      uint16
}

func newAway(in *Input) away {
	a := away{
		spaces: map[uint64]*sockets.Namespace{}, byPort: map[uint16][]*sockets.Listener{}, at: map[place][]*sockets.Listener{},
		byAddress: map[netip.Addr][]uint64{},
	}
	for i := range in.Elsewhere {
		if l := &in.Elsewhere[i]; l.Protocol == sockets.TCP {
			at := place{l.Namespace, l.Addr.Port()}
			a.byPort[at.port] = append(a.byPort[at.port], l)
			a.at[at] = append(a.at[at], l)
		}
	}
	for i := range in.Namespaces {
		n := &in.Namespaces[i]
		a.spaces[n.ID] = n
		for _, addr := range n.Addresses {
			a.byAddress[addr] = append(a.byAddress[addr], n.ID)
		}
	}
	return a
}

// reached tells whether something listens on a port of a namespace for others than itself.
func (a *away) reached(id uint64, port uint16) bool {
	return slices.ContainsFunc(a.at[place{id, port}], func(l *sockets.Listener) bool { return l.Exposed() })
}

// answers tells whether something listens where a port is passed on to.
func (a *away) answers(b *PublishedPort) bool {
	return b.Namespace != 0 && a.listens(b.Namespace, b.at)
}

// listens tells whether something listens at an address of a namespace.
func (a *away) listens(id uint64, at netip.AddrPort) bool {
	return slices.ContainsFunc(a.at[place{id, at.Port()}], func(l *sockets.Listener) bool { return l.Covers(at.Addr()) })
}

// leads tells whether nat rules send a port to where something listens in another namespace.
func (e *evaluation) leads(port uint16) bool {
	return slices.ContainsFunc(e.passedOn(port), func(b PublishedPort) bool { return e.away.answers(&b) })
}

// space returns the namespace that has an address; of several the one in which something listens on the port there, and 0
// where that does not tell either.
func (a *away) space(to netip.AddrPort) uint64 {
	ids := a.byAddress[to.Addr().Unmap()]
	if len(ids) == 1 {
		return ids[0]
	}
	return only(slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return !a.listens(id, to) }))
}

// only returns what is alone in a list, 0 where there are more or none.
func only(ids []uint64) uint64 {
	if len(ids) != 1 {
		return 0
	}
	return ids[0]
}

// namespaceOf returns the other network namespace in which an application and its sidecars live, 0 for the host's own and where it
// is not plain.
//
// Any user can make a namespace and listen in it on whatever port. So a listener there is not enough to take the host's own
// out of sight: nat rules or a container runtime's proxy have to lead to it, which are root's, or the registration names
// its address. A namespace to which neither leads is taken only where nothing in the host's own could be meant, and the
// application's own port is published from there, or from nowhere and rules may lead there that are not known.
//
// Any address can be given to a namespace, too: that of a load balancer in front of the host, say. So it is not sure where
// nothing leads there, or the address alone while the host itself has a listener that may be the sidecar. What the host has
// on the application's ports is to be judged then, too.
func (e *evaluation) namespaceOf(r *consul.Registration, proxies []*consul.Registration, calls map[uint16]addresses) (id uint64, sure bool) {
	if len(e.in.Elsewhere) == 0 {
		return 0, false
	}
	for _, p := range proxies {
		if id, sure := e.namespaceBy(r, p, calls); id != 0 {
			return id, sure
		}
	}
	return 0, false
}

func (e *evaluation) namespaceBy(r, p *consul.Registration, calls map[uint16]addresses) (id uint64, sure bool) {
	ports := listenPorts(p)
	var led []uint64
	for _, port := range ports {
		for _, b := range e.passedOn(port) {
			if e.away.answers(&b) {
				led = append(led, b.Namespace)
			}
		}
	}
	sure = len(led) > 0
	listens := func(id uint64) bool {
		return slices.ContainsFunc(ports, func(port uint16) bool { return e.away.reached(id, port) })
	}
	for _, text := range []string{p.Address, r.Address} {
		addr, _ := netip.ParseAddr(text)
		for _, id := range e.away.byAddress[addr.Unmap()] {
			if own, _ := e.isOwn(text); !own && listens(id) {
				led = append(led, id)
			}
		}
	}
	sure = sure || len(led) > 0 && !e.hostListens(ports)
	switch {
	case len(led) > 0:
		id = e.narrow(led, p, calls)
	case !e.hostListens(ports) && !e.hostListens(sortedPorts(calls)):
		behind, published := e.behindAny(calls)
		for _, port := range ports {
			for _, l := range e.away.byPort[port] {
				if l.Exposed() && (slices.Contains(behind, l.Namespace) || !published && e.unseenRules()) {
					led = append(led, l.Namespace)
				}
			}
		}
		id = e.narrow(led, p, calls)
	}
	if id == 0 {
		return 0, false
	}
	// A sidecar that calls its application at another address than its own lives apart from it.
	if local := localService(p.Proxy); !local.Unmap().IsLoopback() && !local.IsUnspecified() && !slices.Contains(e.away.spaces[id].Addresses, local.Unmap()) {
		return 0, false
	}
	return id, sure
}

// narrow returns the one namespace among candidates that the registration's address or, where that does not tell, the
// application's port speaks for; 0 where several are left.
func (e *evaluation) narrow(ids []uint64, p *consul.Registration, calls map[uint16]addresses) uint64 {
	slices.Sort(ids)
	ids = slices.DeleteFunc(slices.Compact(ids), func(id uint64) bool { return e.away.spaces[id] == nil })
	if len(ids) < 2 {
		return only(ids)
	}
	addr, _ := netip.ParseAddr(p.Address)
	for _, speaks := range []func(uint64) bool{
		func(id uint64) bool { return slices.Contains(e.away.byAddress[addr.Unmap()], id) },
		func(id uint64) bool { return e.holdsOne(id, calls) },
	} {
		left := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return !speaks(id) })
		if id := only(left); id != 0 {
			return id
		}
	}
	return 0
}

// holdsOne tells whether something in a namespace listens on a port on which the application is called.
func (e *evaluation) holdsOne(id uint64, calls map[uint16]addresses) bool {
	for port := range calls {
		if len(e.away.at[place{id, port}]) > 0 {
			return true
		}
	}
	return false
}

// hostListens tells whether some program in the host's own namespace listens on one of the ports itself.
func (e *evaluation) hostListens(ports []uint16) bool {
	return slices.ContainsFunc(ports, func(port uint16) bool {
		return slices.ContainsFunc(e.byPort[port], func(l *sockets.Listener) bool {
			publishes, _ := e.publishes(l)
			return l.Protocol == sockets.TCP && !publishes
		})
	})
}

// behindAny lists the namespaces, 0 for unknown ones, to which nat rules or a container runtime's proxy pass on the ports on
// which an application is called, and tells whether any are passed on.
func (e *evaluation) behindAny(calls map[uint16]addresses) (spaces []uint64, published bool) {
	for port := range calls {
		for _, b := range e.passedOn(port) {
			spaces, published = append(spaces, b.Namespace), true
		}
		for _, l := range e.byPort[port] {
			if publishes, _ := e.publishes(l); !publishes || l.Protocol != sockets.TCP {
				continue
			}
			published = true
			if b := e.behind(port, l); b != nil {
				spaces = append(spaces, b.Namespace)
			}
		}
	}
	return spaces, published
}

// servedElsewhere tells whether a sidecar's port is served in another namespace: because something listens where nat rules
// send it to, or in the namespace that has its registration's address. Where the rules lead to is not always to be seen: then
// it is taken for served.
func (e *evaluation) servedElsewhere(c claim) bool {
	for _, b := range e.passedOn(c.port) {
		if b.Namespace == 0 || e.away.answers(&b) {
			return true
		}
	}
	addr, _ := netip.ParseAddr(c.reg.Address)
	there := e.away.byAddress[addr.Unmap()]
	return slices.ContainsFunc(c.ports(), func(port uint16) bool {
		return slices.ContainsFunc(e.away.byPort[port], func(l *sockets.Listener) bool {
			return l.Exposed() && (e.unseenRules() || slices.Contains(there, l.Namespace))
		})
	})
}

// unseenRules tells whether nat rules may lead to other namespaces that are not known. Where all are, whatever listens in a
// namespace to which none leads is no matter of the host's ports: any user can make one.
func (e *evaluation) unseenRules() bool {
	return e.in.Host == nil || e.in.Host.Partial || e.in.Host.ForeignNAT
}

// judgeElsewhere looks at an application that lives in another network namespace, and returns its listeners there. What
// listens on the same ports in the host's own is somebody else.
func (e *evaluation) judgeElsewhere(r *consul.Registration, calls map[uint16]addresses, home uint64) []sockets.Listener {
	var mine []sockets.Listener
	for _, port := range sortedPorts(calls) {
		told := map[socketKey]bool{}
		for _, l := range e.away.at[place{home, port}] {
			key := socketKey{l.Protocol, l.Addr, l.UID}
			if told[key] {
				continue
			}
			told[key] = true
			mine = append(mine, *l)
			if l.Exposed() {
				e.exposedElsewhere(r, l)
			}
		}
	}
	return mine
}

// exposedFor finds where the network reaches a port of an application that lives in another network namespace: on the ports
// of the host that are passed on to it, whatever their numbers, and on the same port where it is not known whom that is
// passed on to.
func (e *evaluation) exposedFor(r *consul.Registration, proxies []*consul.Registration, port uint16, home uint64) {
	ports := map[uint16][]PublishedPort{}
	for _, b := range e.rules.to[place{home, port}] {
		ports[b.Port] = append(ports[b.Port], b)
	}
	for _, b := range e.passedOn(port) {
		if b.Namespace == 0 {
			ports[port] = append(ports[port], b)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(ports)) {
		e.exposedAt(r, host, ports[host])
	}
	if len(ports[port]) > 0 {
		return
	}
	for _, l := range e.byPort[port] {
		if publishes, _ := e.publishes(l); publishes && l.Protocol == sockets.TCP && l.Exposed() && e.behind(port, l) == nil && !e.repeats(l) {
			e.exposed(r, proxies, l)
		}
	}
}

// exposedElsewhere finds that an application is exposed in another network namespace. hostagent's guard does not stand
// there.
func (e *evaluation) exposedElsewhere(r *consul.Registration, l *sockets.Listener) {
	port := l.Addr.Port()
	f := Finding{ID: catalog.ExposedListener, Service: r.Name, ServiceID: r.ID, Port: port, Listener: l, Owner: e.owner(l)}
	where := e.where(l.Namespace)
	e.find(f, "service", r.Name, "listener", address(l)+" in "+where, "who", "whatever shares a network with it", "fix", bindRemedy(l, f.Owner))
	if x := (exposure{id: catalog.ExposedListener, reg: r, port: port, where: where}); len(e.exposures) == 0 || !e.exposures[len(e.exposures)-1].same(x) {
		e.exposures = append(e.exposures, x)
	}
}

// where names a network namespace to people.
func (e *evaluation) where(id uint64) string {
	n := e.away.spaces[id]
	switch {
	case n != nil && n.Container != "":
		return containerText(n.Container, n.Runtime)
	case n != nil && n.Name != "":
		return "network namespace " + catalog.CleanTo(n.Name, 40)
	case n != nil && n.Unit != "":
		return "the network namespace of " + n.Unit
	}
	return "another network namespace"
}

func containerText(container, runtime string) string {
	if runtime == "" {
		return "container " + container
	}
	return "container " + container + " (" + runtime + ")"
}
