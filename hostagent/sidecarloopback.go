// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// judgeLoopbackOnly finds sidecars that Consul sends other hosts to and that only this one can call.
//
// That nothing passes connections on to the sidecar is said only where the nat rules could be read.
func (e *evaluation) judgeLoopbackOnly() {
	if e.in.Source == SourceFiles || e.in.Host == nil || e.in.Host.Partial {
		return // what no agent has registered need not listen
	}
	for _, port := range slices.Sorted(maps.Keys(e.claims)) {
		for _, c := range e.claims[port] {
			if c.beside || c.reg.Kind != consul.KindConnectProxy || !e.isForOthers(c.reg) {
				continue
			}
			if l := e.loopbackOnly(c); l != nil {
				e.find(Finding{ID: catalog.SidecarLoopbackOnly, Service: c.service(), ServiceID: c.reg.ID, Port: port, Listener: l, Owner: e.owner(l)},
					"port", strconv.Itoa(int(port)), "service", c.reg.ID, "listener", address(l), "fix", c.listenForOthers())
			}
		}
	}
}

// isForOthers tells whether other hosts are sent to an address of this host for a registration. The node of a development
// agent is 127.0.0.1, and then nobody is.
func (e *evaluation) isForOthers(r *consul.Registration) bool {
	if r.Address == "" {
		return e.in.Agent.Address.IsValid() && !e.in.Agent.Address.IsLoopback()
	}
	addr, err := netip.ParseAddr(r.Address)
	if err != nil || addr.Unmap().IsLoopback() || addr.IsUnspecified() {
		return false // a name may be that of a load balancer
	}
	own, known := e.isOwn(r.Address)
	return own && known
}

// loopbackOnly returns what listens for a claim where nothing listens for it that the network reaches, nil otherwise. A
// proxy whose bind_port is another one listens there; whichever of both nat rules lead elsewhere is left to them.
func (e *evaluation) loopbackOnly(c claim) *sockets.Listener {
	var first *sockets.Listener
	for _, port := range c.ports() {
		if e.published.Has(port) {
			return nil
		}
		for _, l := range e.byPort[port] {
			switch {
			case l.Protocol != sockets.TCP:
			case l.Exposed():
				return nil
			case first == nil:
				first = l
			}
		}
	}
	return first
}

// listenForOthers says what lets a sidecar be called. Envoy takes bind_address; Consul's own proxy (1.21) takes no notice of
// it and listens where it is registered.
func (c claim) listenForOthers() string {
	id := catalog.CleanTo(c.reg.ID, 60)
	if addr, err := netip.ParseAddr(c.reg.Proxy.BindAddress); err == nil && addr.Unmap().IsLoopback() {
		return fmt.Sprintf(`register %s with proxy { config { bind_address = "0.0.0.0" } }, or without bind_address`, id)
	}
	return fmt.Sprintf(`let %s listen on more than loopback: proxy { config { bind_address = "0.0.0.0" } } in its registration for Envoy, `+
		`-listen :%d for consul connect proxy`, id, c.port)
}
