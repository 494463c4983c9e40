// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// consulAPI is an API of the agent that can be served without TLS.
type consulAPI struct {
	key  string // in the agent's configuration: client_addr and ports have the same
	name string // for sentences
	// secure is what serves the same API over TLS, and its usual port.
	secure     string
	securePort uint16
}

func consulAPIs() []consulAPI {
	return []consulAPI{{"http", "HTTP", "https", 8501}, {"grpc", "gRPC", "grpc_tls", 8503}}
}

// judgeConsulAPI finds APIs of the agent that are served without TLS where the network reaches them. https, grpc_tls and the
// ports of servers are meant to be reached. There is one finding for each API, however many addresses it has.
//
// The guard never holds a port of Consul, so this is never mitigated.
func (e *evaluation) judgeConsulAPI() {
	for _, api := range consulAPIs() {
		var exposed []*sockets.Listener
		for _, l := range e.consulListeners(api) {
			if l.Exposed() && !e.repeats(l) {
				exposed = append(exposed, l)
			}
		}
		if len(exposed) == 0 {
			continue
		}
		f := Finding{ID: catalog.ExposedConsulAPI, Port: exposed[0].Addr.Port(), Listener: exposed[0], Owner: e.owner(exposed[0])}
		addresses := make([]string, len(exposed))
		for i, l := range exposed {
			addresses[i] = address(l)
			f.Ways = append(f.Ways, e.ways(l)...)
		}
		slices.SortFunc(f.Ways, compareWays)
		f.Ways = slices.Compact(f.Ways)
		f.Ways = f.Ways[:min(len(f.Ways), mostWays)]
		e.find(f, "name", api.name, "listener", listTo(addresses, 150), "fix", e.consulFix(api, exposed[0]))
	}
}

// consulListeners are the sockets on which the agent serves an API without TLS. On the port of the API something else may
// listen at another address of the host, such as a proxy that adds TLS, so they are told by the addresses that the agent has.
// A runtime that publishes the agent's container listens for it wherever the operator said. An agent that tells no
// addresses is known by the name of its process, and only its port for HTTP, which is plain wherever it is not closed.
func (e *evaluation) consulListeners(api consulAPI) []*sockets.Listener {
	if e.in.Agent.Plain == nil {
		return e.guessedAPI(api)
	}
	var found []*sockets.Listener
	told := map[uint16]bool{}
	for _, at := range e.in.Agent.Plain[api.key] {
		if told[at.Port()] {
			continue
		}
		told[at.Port()] = true // all addresses of an API have one port
		for _, l := range e.byPort[at.Port()] {
			if l.Protocol == sockets.TCP && servedAt(l.Addr.Addr(), e.in.Agent.Plain[api.key]) {
				found = append(found, l)
			}
		}
	}
	return found
}

// servedAt tells whether a socket at an address can be one for any of others. Where one of these is unspecified it has all of
// its port on its host.
func servedAt(own netip.Addr, any []netip.AddrPort) bool {
	return slices.ContainsFunc(any, func(at netip.AddrPort) bool {
		return at.Addr().IsUnspecified() || at.Addr() == own.Unmap()
	})
}

func (e *evaluation) guessedAPI(api consulAPI) []*sockets.Listener {
	if api.key != "http" {
		return nil
	}
	port := uint16(8500)
	if len(e.in.Agent.Ports) > 0 {
		port = e.in.Agent.Ports[api.key]
	}
	var found []*sockets.Listener
	for _, l := range e.byPort[port] {
		if l.Protocol != sockets.TCP || !l.Exposed() {
			continue
		}
		e.suspect(l)
		if owner := e.owner(l); owner != nil && isNamed(owner, "consul") {
			found = append(found, l)
		}
	}
	return found
}

// consulFix says how to take an API off the network.
func (e *evaluation) consulFix(api consulAPI, l *sockets.Listener) string {
	port := l.Addr.Port()
	if publishes, _ := e.publishes(l); publishes {
		return fmt.Sprintf("publish the port of Consul's container on loopback only, as in docker run -p 127.0.0.1:%d:%[1]d", port)
	}
	return fmt.Sprintf(`set client_addr = "127.0.0.1" in the Consul agent's configuration, or addresses { %s = "127.0.0.1" } for this API alone; `+
		`where others need it, serve it over TLS: ports { %[1]s = -1, %s = %d }`, api.key, api.secure, api.securePort)
}
