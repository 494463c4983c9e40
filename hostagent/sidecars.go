// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// judgeUpstreams finds listeners of an application's sidecars towards other services that the network reaches, whatever
// the registration says of their address: who listens counts, and only where that is not known the address.
func (a *around) judgeUpstreams(app *application) {
	for _, p := range app.proxies {
		for i := range p.Proxy.Upstreams {
			u := &p.Proxy.Upstreams[i]
			if u.Port < 1 || u.Port > 65535 || u.Port == cmp.Or(p.Proxy.BindPort, p.Port) {
				continue
			}
			for _, l := range a.byPort[uint16(u.Port)] {
				if l.Protocol == sockets.TCP && l.Exposed() && !a.isSidecars(l) && !a.repeats(l) {
					a.judgeUpstream(app, p, u, l)
				}
			}
		}
	}
}

func (a *around) judgeUpstream(app *application, p *consul.Registration, u *consul.Upstream, l *sockets.Listener) {
	a.suspect(l)
	a.suspect(a.behind[p]...)
	as := isBoundTo(l, u.Address)
	sidecars, known := a.kin.is(a.owner(l), p)
	if known && !sidecars || !known && !as {
		return
	}
	name := cmp.Or(u.Name, fmt.Sprintf("on port %d", u.Port))
	text := catalog.CleanTo(name, 60)
	fix := fmt.Sprintf("register upstream %s with local_bind_address = %q, or without it", text, loopback(l).String())
	if !as {
		fix = fmt.Sprintf("restart the sidecar: upstream %s is registered to listen on %s", text, catalog.CleanTo(cmp.Or(u.Address, "127.0.0.1"), 40))
	}
	a.tell(catalog.ExposedUpstream, app, l, "upstream", name, "fix", fix)
	a.exposeSidecar(catalog.ExposedUpstream, app, p, l, known)
}

// isBoundTo tells whether a listener is what a program makes that was told to bind to an address. Go makes a socket for
// both versions of IP of 0.0.0.0.
func isBoundTo(l *sockets.Listener, text string) bool {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return false // loopback where it is empty; a name may be any
	}
	own := l.Addr.Addr().Unmap()
	return own == addr.Unmap().WithZone("") || own.IsUnspecified() && addr.IsUnspecified()
}

// judgeAdmin finds a listener of a sidecar that nothing in its registrations explains.
func (a *around) judgeAdmin(l *sockets.Listener, owner *sockets.Owner, sidecars []*consul.Registration) {
	port := l.Addr.Port()
	if slices.ContainsFunc(sidecars, func(p *consul.Registration) bool { return a.explains(p, port) }) {
		return
	}
	app := a.appOf[sidecars[0]]
	at := netip.AddrPortFrom(loopback(l), port).String()
	does, unexplained, fix := "also listens on", ", which no registration explains", ""
	switch {
	case isNamed(owner, "envoy"):
		fix = " (consul connect envoy -admin-bind " + at + ")"
	case isNamed(owner, "consul"):
		fix = " (consul connect proxy -pprof-addr " + at + ")"
	}
	if port == envoyAdmin || isNamed(owner, "envoy") && port > envoyAdmin && port < envoyAdmin+100 {
		does, unexplained = "can be administered at", ""
	}
	a.tell(catalog.ExposedAdmin, app, l, "does", does, "unexplained", unexplained, "fix", "bind it to "+loopback(l).String()+fix)
	a.exposeSidecar(catalog.ExposedAdmin, app, sidecars[0], l, true)
}

// envoyAdmin is where Envoy lets itself be administered unless it is told otherwise. The next sidecar of a host has to be,
// and then mostly gets the next port.
const envoyAdmin = 19000

// isNamed tells whether a process has a name, behind which its version may stand: "consul-1.21.0".
func isNamed(owner *sockets.Owner, name string) bool {
	return slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool {
		version, found := strings.CutPrefix(p.Name, name)
		return found && (version == "" || len(version) > 1 && version[0] == '-' && version[1] >= '0' && version[1] <= '9')
	})
}

// explains tells whether a sidecar's registration says that it listens on a port for the network, or for its application.
// That an upstream's listener is where the network reaches it is another finding.
func (e *evaluation) explains(p *consul.Registration, port uint16) bool {
	n := int(port)
	return n == p.Port || n == p.Proxy.BindPort || slices.Contains(p.Proxy.ExposedPorts, n) || slices.Contains(p.Proxy.MetricsPorts, n) ||
		p.Proxy.ExposesChecks && e.in.Agent.ExposeMin <= n && n <= e.in.Agent.ExposeMax ||
		slices.ContainsFunc(p.Proxy.Upstreams, func(u consul.Upstream) bool { return u.Port == n })
}

// exposeSidecar lets a listener of a sidecar be quarantined: where it was seen to be the sidecar's, of a sidecar that has
// the port it asks for, and outside the sidecar range, which the guard holds anyway.
func (a *around) exposeSidecar(id catalog.ID, app *application, p *consul.Registration, l *sockets.Listener, seen bool) {
	if !seen || a.res.Range.Contains(l.Addr.Port()) || !a.asks[p] {
		return
	}
	a.expose(id, app.reg, app.proxies, l)
}

// openPorts are the ports of the sidecar range on which registered proxies listen beside the one they are registered on:
// those where the network may reach them (exposed paths, statistics), and those that are for this host alone.
func (e *evaluation) openPorts() (network, local map[uint16]bool) {
	network, local = map[uint16]bool{}, map[uint16]bool{}
	note := func(set map[uint16]bool, port int) {
		if port > 0 && port <= 65535 {
			set[uint16(port)] = true
		}
	}
	for i := range e.in.Registrations {
		p := e.in.Registrations[i].Proxy
		if p == nil {
			continue
		}
		for _, port := range slices.Concat(p.ExposedPorts, p.MetricsPorts) {
			note(network, port)
		}
		if p.ExposesChecks {
			for port := max(e.in.Agent.ExposeMin, int(e.res.Range.First), 1); port <= min(e.in.Agent.ExposeMax, int(e.res.Range.Last)); port++ {
				note(network, port)
			}
		}
		for _, u := range p.Upstreams {
			note(local, u.Port)
		}
		if p.Mode == consul.ModeTransparent {
			note(local, cmp.Or(p.OutboundPort, defaultOutbound))
		}
	}
	return network, local
}

// defaultOutbound is where a transparent proxy takes its application's connections.
const defaultOutbound = 15001

// isSidecars tells whether a listener was found to be where the network reaches a sidecar's upstream or administration: one
// such finding for one listener, and no other for its place in the sidecar range.
func (e *evaluation) isSidecars(l *sockets.Listener) bool {
	return e.told[l] == catalog.ExposedUpstream || e.told[l] == catalog.ExposedAdmin
}
