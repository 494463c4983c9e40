// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// application is a service that is judged, with what listens for it.
type application struct {
	reg     *consul.Registration
	proxies []*consul.Registration
	own     []*sockets.Listener // where it is called, the first of them
	at      int                 // its place in Result.Services
}

// around looks for ways around the mesh beside an application's own port: further listeners of the application
// (exposed-sibling) and of its sidecar (exposed-upstream, exposed-admin).
//
// Only its owner tells whose a listener is, and owners are dear. So Evaluate asks for few: for listeners that the network
// reaches, that no registration names and that are near an application or its sidecar, and for the owners of those two.
// What is near depends on no owner, so that one look-up answers everything.
type around struct {
	*evaluation
	apps       []application
	appOf      map[*consul.Registration]*application // of sidecars, the first
	names      map[uint16]namer
	sidecar    map[*sockets.Listener]bool                   // on a sidecar's port
	behind     map[*consul.Registration][]*sockets.Listener // what listens on a sidecar's port
	candidates []*sockets.Listener                          // that the network reaches and that may be anybody's
	neighbours map[nearness][]*sockets.Listener             // of the candidates
	asked      map[nearness]bool
	kin        kin
	gateways   []*sockets.Listener // of the gateways that the operator confirmed, the first few
}

// namer is a registration that names a port, and whether there are others.
type namer struct {
	id      string
	several bool
}

// nearness is what two sockets have in common where one program made them: their cgroup, or, where that tells nothing,
// their user.
type nearness struct {
	cgroup uint64
	uid    uint32
	all    bool // see fewCandidates
}

const (
	// mostAnchors is how many listeners of an application or of a sidecar are looked at. Workers of one program may have one
	// each, and what the first do not tell the others will not.
	mostAnchors = 64
	// fewCandidates is up to how many candidates all of them are near a socket of root's. It tells nothing about who uses it:
	// systemd makes sockets for units, and programs theirs before they give root up.
	fewCandidates = 32
	// rootCgroup is the id of cgroup2's root, where everything is on a host that does not use it.
	rootCgroup = 1
)

// judgeAround finds ways around the mesh beside the applications' own ports.
func (e *evaluation) judgeAround(apps []application) {
	a := &around{
		evaluation: e, apps: apps, appOf: map[*consul.Registration]*application{}, names: map[uint16]namer{},
		behind: map[*consul.Registration][]*sockets.Listener{}, sidecar: map[*sockets.Listener]bool{},
		neighbours: map[nearness][]*sockets.Listener{}, asked: map[nearness]bool{},
	}
	for i := range apps {
		for _, p := range apps[i].proxies {
			if a.appOf[p] == nil {
				a.appOf[p] = &apps[i]
				a.behind[p] = a.sidecarListeners(p)
				for _, l := range a.behind[p] {
					a.sidecar[l] = true
				}
			}
		}
	}
	a.namePorts()
	a.collectCandidates()
	for i := range apps {
		a.ask(&apps[i])
	}
	a.askGateways()
	a.kin = a.learn()
	for i := range apps {
		a.judgeUpstreams(&apps[i])
	}
	for _, l := range a.candidates {
		if !e.isSidecars(l) && !e.repeats(l) {
			a.judgeCandidate(l)
		}
	}
}

// judgeCandidate decides whose a listener is.
func (a *around) judgeCandidate(l *sockets.Listener) {
	owner := a.owner(l)
	if owner == nil {
		return
	}
	if regs := a.kin.sidecars(owner); len(regs) > 0 {
		a.judgeAdmin(l, owner, regs)
		return
	}
	if a.told[l] == "" && !a.isGateway(owner) {
		a.judgeSibling(l, owner)
	}
}

// sidecarListeners are the sockets on which a sidecar takes the mesh's connections. Nothing is known where several users
// listen on its port: at most one of them is the sidecar.
func (e *evaluation) sidecarListeners(p *consul.Registration) []*sockets.Listener {
	port := cmp.Or(p.Proxy.BindPort, p.Port)
	if port < 1 || port > 65535 || e.protected.Has(uint16(port)) {
		return nil
	}
	var found []*sockets.Listener
	for _, l := range e.byPort[uint16(port)] {
		switch {
		case l.Protocol != sockets.TCP:
		case len(found) > 0 && l.UID != found[0].UID:
			return nil
		case len(found) < mostAnchors:
			found = append(found, l)
		}
	}
	return found
}

// namePorts notes on which ports registrations say that they, or what they stand for, listen.
func (a *around) namePorts() {
	name := func(port int, id string) {
		if port < 1 || port > 65535 {
			return
		}
		n, known := a.names[uint16(port)]
		a.names[uint16(port)] = namer{cmp.Or(n.id, id), n.several || known && n.id != id}
	}
	for i := range a.in.Registrations {
		r := &a.in.Registrations[i]
		for _, port := range listenPorts(r) {
			name(int(port), r.ID)
		}
		if r.Proxy == nil {
			continue
		}
		if app := a.appOf[r]; app != nil {
			name(r.Proxy.LocalServicePort, app.reg.ID)
		}
	}
}

// collectCandidates finds the listeners that may turn out to be an application's or a sidecar's. Where sidecars are called
// is no secret; where applications are is found already, but what a registration calls an application may be a sidecar's.
// Consul's own ports, sshd's, and those that root's container runtime publishes are somebody else's.
func (a *around) collectCandidates() {
	for i := range a.in.Listeners {
		l := &a.in.Listeners[i]
		port := l.Addr.Port()
		if l.Protocol != sockets.TCP || !l.Exposed() || a.sidecar[l] || a.consulName(port) != "" ||
			a.res.SSH.Has(port) || l.UID == 0 && a.published.Has(port) {
			continue
		}
		a.candidates = append(a.candidates, l)
		if inCgroup(l) {
			a.neighbours[nearness{cgroup: l.CgroupID}] = append(a.neighbours[nearness{cgroup: l.CgroupID}], l)
			a.neighbours[nearness{cgroup: rootCgroup, uid: l.UID}] = append(a.neighbours[nearness{cgroup: rootCgroup, uid: l.UID}], l)
		} else {
			a.neighbours[nearness{uid: l.UID}] = append(a.neighbours[nearness{uid: l.UID}], l)
		}
	}
	if len(a.candidates) <= fewCandidates {
		a.neighbours[nearness{all: true}] = a.candidates
	}
}

// inCgroup tells whether a socket's cgroup tells it from sockets of others.
func inCgroup(l *sockets.Listener) bool { return l.CgroupID != 0 && l.CgroupID != rootCgroup }

// near lists by what candidates are found that may be of the same program as l.
func near(l *sockets.Listener) []nearness {
	var by []nearness
	if inCgroup(l) {
		by = []nearness{{cgroup: l.CgroupID}, {uid: l.UID}}
	} else {
		by = []nearness{{uid: l.UID}, {cgroup: rootCgroup, uid: l.UID}}
	}
	if l.UID == 0 {
		by = append(by, nearness{all: true})
	}
	return by
}

// ask makes suspects of the candidates near an application or its sidecars, and of the listeners that these are known by
// where there are such candidates.
func (a *around) ask(app *application) {
	anchors := slices.Clone(app.own)
	for _, p := range app.proxies {
		anchors = append(anchors, a.behind[p]...)
	}
	found := false
	for _, anchor := range anchors {
		for _, by := range near(anchor) {
			found = found || len(a.neighbours[by]) > 0
			if !a.asked[by] {
				a.asked[by] = true
				a.suspect(a.neighbours[by]...)
			}
		}
	}
	if found {
		a.suspect(anchors...)
	}
}

func (e *evaluation) suspect(listeners ...*sockets.Listener) {
	for _, l := range listeners {
		e.suspects[l.Cookie] = *l
	}
}

// tell adds a finding about a listener of an application, or of its sidecar.
func (a *around) tell(id catalog.ID, app *application, l *sockets.Listener, pairs ...string) {
	a.told[l] = id
	f := Finding{
		ID: id, Service: app.reg.Name, ServiceID: app.reg.ID, Port: l.Addr.Port(), Listener: l, Owner: a.owner(l),
	}
	state, guard := a.mitigation(app.proxies, l)
	f.State = state
	a.find(f, append(pairs, "service", app.reg.Name, "listener", address(l), "guard", guard, "loopback", loopback(l).String())...)
}

// loopback is the address to which a listener is to be bound instead of its own.
func loopback(l *sockets.Listener) netip.Addr {
	if l.V6Only {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}
