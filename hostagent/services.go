// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// judgeServices looks at the applications: which listeners are theirs, and whether the network reaches them.
func (e *evaluation) judgeServices() {
	proxies := e.proxies()
	apps := make([]application, 0, len(proxies))
	for i := range e.in.Registrations {
		r := &e.in.Registrations[i]
		if !e.in.Policy.isApplication(r) || e.in.Policy.isOwn(r) {
			continue
		}
		mine := proxies[r.ID]
		if len(mine) == 0 && !e.in.Policy.AllServices {
			continue // outside the mesh: may listen on the network
		}
		if r.Native && e.in.Policy.confirms(e.in.Policy.Native, r) {
			continue // speaks mTLS itself
		}
		service, own := e.judgeService(r, mine)
		apps = append(apps, application{reg: r, proxies: mine, own: own, at: len(e.res.Services)})
		e.res.Services = append(e.res.Services, service)
	}
	e.judgeAround(apps)
}

// mostShared is how many sidecars of a service that name none of its instances are taken for those of each.
const mostShared = 16

// proxies finds the sidecars of each application, by the application's id. A sidecar that names only a service is one
// for each instance of it, where it is one of the first mostShared: else thousands of each, which anybody may register, would
// be millions. One that names a service and the id of another one's instance is nobody's: Consul asks who
// registers it for rights on the service only, and any text will do for the id.
func (e *evaluation) proxies() map[string][]*consul.Registration {
	byName, nameOf := map[string][]string{}, map[string]string{}
	for i := range e.in.Registrations {
		if r := &e.in.Registrations[i]; e.in.Policy.isApplication(r) {
			byName[r.Name] = append(byName[r.Name], r.ID)
			nameOf[r.ID] = r.Name
		}
	}
	found, shared := map[string][]*consul.Registration{}, map[string]int{}
	for i := range e.in.Registrations {
		r := &e.in.Registrations[i]
		if r.Kind != consul.KindConnectProxy || r.Proxy == nil {
			continue
		}
		ids := byName[r.Proxy.DestinationName]
		if id := r.Proxy.DestinationID; id != "" {
			if nameOf[id] != r.Proxy.DestinationName {
				continue
			}
			ids = []string{id}
		} else if shared[r.Proxy.DestinationName]++; len(ids) > 1 && shared[r.Proxy.DestinationName] > mostShared {
			continue
		}
		for _, id := range ids {
			found[id] = append(found[id], r)
		}
	}
	return found
}

// judgeService looks at where an application is called. Of the sockets there it returns the first few, too.
func (e *evaluation) judgeService(r *consul.Registration, proxies []*consul.Registration) (Service, []*sockets.Listener) {
	var own []*sockets.Listener
	s := Service{ID: r.ID, Name: r.Name}
	for _, p := range proxies {
		s.Sidecars = append(s.Sidecars, Sidecar{ID: p.ID, Port: p.Port, Opened: e.asks[p], Predicted: p.Predicted, Paths: e.sidecarPaths(p)})
	}
	calls := e.calls(r, proxies)
	home, sure := e.namespaceOf(r, proxies, calls)
	if home != 0 {
		s.Listeners = e.judgeElsewhere(r, calls, home)
	}
	if sure {
		for _, port := range sortedPorts(calls) {
			e.exposedFor(r, proxies, port, home)
		}
		return s, nil
	}
	for _, port := range sortedPorts(calls) {
		for _, l := range e.byPort[port] {
			if l.Protocol != sockets.TCP || !covers(l, calls[port]) {
				continue
			}
			if len(own) < mostAnchors {
				own = append(own, l)
			}
			if e.repeats(l) {
				continue
			}
			s.Listeners = append(s.Listeners, *l)
			if l.Exposed() {
				e.exposed(r, proxies, l)
				e.expose(catalog.ExposedListener, r, proxies, l)
			}
		}
		if own, known := e.isOwn(r.Address); (own || !known) && !e.answers(port, calls[port]) && e.exposedBehind(r, port) {
			e.exposePort(catalog.ExposedListener, r, proxies, port)
		}
	}
	return s, own
}

// calls collects where r is called, by port: its own port at its own address and at its sidecars' LocalServiceAddress,
// and each sidecar's LocalServicePort.
func (e *evaluation) calls(r *consul.Registration, proxies []*consul.Registration) map[uint16]addresses {
	calls := map[uint16]addresses{}
	add := func(port int, more addresses) {
		if port > 0 && port <= 65535 {
			calls[uint16(port)] = append(calls[uint16(port)], more...)
		}
	}
	var own addresses
	own.add(r.Address, e.in.Agent.Address)
	for _, p := range proxies {
		if p.Proxy.LocalServiceSocket != "" {
			continue // the application is called over a unix socket
		}
		local := addresses{localService(p.Proxy)}
		add(cmp.Or(p.Proxy.LocalServicePort, r.Port), local)
		own = append(own, local...)
	}
	add(r.Port, own)
	return calls
}

func sortedPorts(calls map[uint16]addresses) []uint16 {
	ports := make([]uint16, 0, len(calls))
	for port := range calls {
		ports = append(ports, port)
	}
	slices.Sort(ports)
	return ports
}

func covers(l *sockets.Listener, at addresses) bool {
	return slices.ContainsFunc(at, l.Covers)
}

func (e *evaluation) exposed(r *consul.Registration, proxies []*consul.Registration, l *sockets.Listener) {
	e.told[l] = catalog.ExposedListener
	port := l.Addr.Port()
	f := Finding{ID: catalog.ExposedListener, Service: r.Name, ServiceID: r.ID, Port: port, Listener: l, Owner: e.owner(l)}
	state, guard := e.mitigation(proxies, l)
	f.State = state
	where, fix := address(l), bindRemedy(l, f.Owner)
	if f.Behind = e.behind(port, l); f.Behind != nil {
		where += ", passed on to " + e.behindText(f.Behind)
		fix = publishFix(f.Behind)
	}
	e.find(f, "service", r.Name, "listener", where, "who", "the network", "fix", fix, "guard", guard)
	if state == Open {
		e.res.Findings[len(e.res.Findings)-1].Remedy += e.redirectText(proxies, l)
	}
}
