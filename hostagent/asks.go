// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// confirms tells whether the operator's list names r. A name stands for that of the namespace which hostagent asks for: the
// service of the same name in another one may be registered by others, and is named there as "namespace/name". Partitions
// make no difference, for all that an agent holds is in its own.
func (p *Policy) confirms(names []string, r *consul.Registration) bool {
	return slices.ContainsFunc(names, func(entry string) bool {
		namespace, name, split := strings.Cut(entry, "/")
		if !split {
			namespace, name = p.Namespace, entry
		}
		const none = "default"
		return name == r.Name && cmp.Or(namespace, none) == cmp.Or(r.Namespace, none)
	})
}

// listensBeside returns where a registration says that it listens for the mesh beside its own port, as Envoy does (Consul
// 1.21, agent/xds/listeners.go): a sidecar on its bind_port, a mesh or terminating gateway at the addresses that its
// configuration names. Ingress and API gateways listen on the ports of their config entries, of which the agent of this host
// knows nothing; what is registered of theirs are addresses alone.
func listensBeside(r *consul.Registration) []consul.Bind {
	switch {
	case r.Proxy == nil:
		return nil
	case r.Kind == consul.KindConnectProxy && r.Proxy.BindPort != 0:
		return []consul.Bind{{Address: r.Proxy.BindAddress, Port: r.Proxy.BindPort}}
	case r.Kind != consul.KindMeshGateway && r.Kind != consul.KindTerminatingGateway:
		return nil
	case r.Proxy.BindsTagged:
		return slices.Concat(r.Proxy.Binds, r.Tagged)
	}
	return r.Proxy.Binds
}

// asksBeside returns the ports beside its own that a registration asks to be open, as they were registered, each once:
//
// What the network dials of a sidecar is its registered port. Where rules of the host send that to its bind_port, packets
// arrive in INPUT with the latter as their port, so that both have to be open.
//
// A gateway takes the network's connections wherever it listens. Other datacenters dial the port that is tagged "wan", which
// most often is that of a load balancer in front: it is this host's where it stands with the gateway's own address.
func asksBeside(r *consul.Registration) []int {
	all := listensBeside(r)
	if r.IsGateway() && r.Address != "" {
		for _, tagged := range r.Tagged {
			if tagged.Name == "wan" && tagged.Address == r.Address {
				all = append(slices.Clip(all), tagged)
			}
		}
	}
	var ports []int
	for _, b := range all {
		addr, err := netip.ParseAddr(b.Address)
		if local := err == nil && addr.Unmap().IsLoopback(); !local && b.Port != 0 && b.Port != r.Port && !slices.Contains(ports, b.Port) {
			ports = append(ports, b.Port)
		}
	}
	return ports
}

// listenPorts are those on which a sidecar or gateway may listen for the mesh.
func listenPorts(r *consul.Registration) []uint16 {
	var ports []uint16
	add := func(port int) {
		if port > 0 && port <= 65535 && !slices.Contains(ports, uint16(port)) {
			ports = append(ports, uint16(port))
		}
	}
	add(r.Port)
	for _, b := range listensBeside(r) {
		add(b.Port)
	}
	return ports
}

// collect notes the ports that r asks for and may have, and finds those that it may not.
func (e *evaluation) collect(r *consul.Registration) {
	// What has no port of its own listens on a unix socket, or is a gateway that listens elsewhere.
	if r.Port != 0 || r.Socket == "" && r.Kind == consul.KindConnectProxy {
		if reason, fix := e.refusal(r.Port); reason != "" {
			e.refuse(r, r.Port, reason, fix)
		} else {
			e.claim(r, uint16(r.Port), false)
		}
	}
	for _, port := range asksBeside(r) {
		reason, _ := e.refusal(port)
		switch {
		case reason == "":
			e.claim(r, uint16(port), true)
		case r.IsGateway():
			e.refuse(r, port, reason, fmt.Sprintf("add %d to extra_ports, or take it out of the addresses at which %s listens", port, catalog.CleanTo(r.ID, 60)))
		case e.redirectedTo(r, port): // else it is a port of another network namespace, most likely
			e.refuse(r, port, reason, fmt.Sprintf("let %s have a bind_port of the sidecar range, or add %d to extra_ports", catalog.CleanTo(r.ID, 60), port))
		}
	}
}

// redirectedTo tells whether the kernel sends what the network wants of a sidecar's port to another one of this host.
func (e *evaluation) redirectedTo(r *consul.Registration, port int) bool {
	return e.in.Host != nil && r.Port > 0 && r.Port <= 65535 && slices.ContainsFunc(e.in.Host.Redirects, func(d firewall.Redirect) bool {
		return int(d.To) == port && d.Ports.Has(uint16(r.Port))
	})
}

// refusal tells why a port stays closed whoever asks for it, and what would mend that; no reason for one that may open.
func (e *evaluation) refusal(port int) (reason, fix string) {
	switch {
	case port < 1 || port > 65535:
		return "it is no TCP port", "register it with a port from 1 to 65535, or leave the port out so that Consul assigns one"
	case e.protected.Has(uint16(port)):
		return "it is a protected port", "register it on a port of the sidecar range"
	case !e.res.Range.Contains(uint16(port)) && !e.in.Policy.ExtraPorts.Has(uint16(port)) && !e.in.Leaving.Has(uint16(port)):
		return "it lies outside the sidecar range " + e.res.Range.String() + " and is not in extra_ports",
			fmt.Sprintf("register it on a port of the range, or add %d to extra_ports", port)
	}
	return "", ""
}

func (e *evaluation) claim(r *consul.Registration, port uint16, beside bool) {
	e.claims[port] = append(e.claims[port], claim{reg: r, port: port, beside: beside})
	e.claimed.Add(port)
	if !beside {
		e.asks[r] = true
	}
}

func (e *evaluation) refuse(r *consul.Registration, port int, reason, fix string) {
	f := Finding{ID: catalog.PortNotOpened, Service: destination(r), ServiceID: r.ID}
	if port > 0 && port <= 65535 {
		f.Port = uint16(port)
	}
	e.find(f, "port", strconv.Itoa(port), "service", r.ID, "reason", reason, "fix", fix)
}

// misspelt returns the kind that a registration was most likely meant to have, "" where it has one or none. Consul takes any
// text, forgets the proxy that came with it, and tells nobody of the mesh.
func misspelt(r *consul.Registration) string {
	folded := strings.ReplaceAll(strings.ToLower(strings.TrimSpace(r.Kind)), "_", "-")
	meant := consul.Registration{Kind: folded}
	if folded == r.Kind || folded != consul.KindConnectProxy && !meant.IsGateway() {
		return ""
	}
	return folded
}

// isOwnBind tells whether a nat rule sends a port to that on which the sidecar which has it says that it listens on this
// host.
func (e *evaluation) isOwnBind(port uint16, to string) bool {
	at := destinationOf(to, port)
	bound := int(at.Port())
	if text, redirect := strings.CutPrefix(to, ":"); redirect {
		bound, _ = strconv.Atoi(text) // 0 of what is none
	} else if own, _ := e.isOwnAddr(at.Addr()); !own {
		return false
	}
	return bound != 0 && slices.ContainsFunc(e.claims[port], func(c claim) bool {
		return !c.beside && c.reg.Kind == consul.KindConnectProxy && c.reg.Proxy.BindPort == bound
	})
}
