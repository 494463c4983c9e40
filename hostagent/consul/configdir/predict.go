// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// Consul 1.21's defaults of the settings that Agent and Registrations read; 0 and less is off.
const (
	defaultDatacenter = "dc1"
	defaultSidecarMin = 21000
	defaultSidecarMax = 21255
	defaultExposeMin  = 21500
	defaultExposeMax  = 21755

	// A server that is told nothing serves gRPC over TLS; a client does not.
	defaultServerGRPCTLS = 8503

	sidecarSuffix = "-sidecar-proxy" // of a sidecar's id, and of its name where it has none
)

// Registrations predicts what an agent that is started with c, and with an empty data_dir, holds in
// /v1/agent/services: sorted by ID as consul.Client.Services sorts them, without what central configuration
// (proxy-defaults, service-defaults) would add later. They share nothing with c.
//
// A port that the agent would assign has Predicted set. Where an agent has run for a while it can be another: definitions
// that were added by a reload, and services that came through the API, take part then.
//
// Problems are sidecars for which no port is left; the agent would not start over one. They are not among the
// registrations, their services are.
func (c *Config) Registrations() ([]consul.Registration, []Problem) {
	state := localState{held: map[instance]consul.Registration{}, users: map[int]int{}}
	state.min, state.max = c.sidecarRange()
	var problems []Problem
	for _, s := range c.Services {
		parent := state.put(instance{s.Partition, s.Namespace, cmp.Or(s.ID, s.Name)}, asWritten(s))
		if s.Sidecar == nil {
			continue
		}
		sidecar := sidecarOf(parent, *s.Sidecar)
		key := instance{s.Partition, s.Namespace, sidecar.ID}
		if sidecar.Port < 1 { // a unix socket does not spare it the port
			port, err := state.sidecarPort(key)
			if err != nil {
				problems = append(problems, Problem{File: s.File, Line: cmp.Or(s.Sidecar.Line, s.Line),
					Reason: fmt.Sprintf("cannot register the sidecar of service %s: %v", quote(parent.ID), err)})
				continue
			}
			sidecar.Port, sidecar.Predicted = port, true
		}
		state.put(key, sidecar)
	}
	return slices.SortedFunc(maps.Values(state.held), func(a, b consul.Registration) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Namespace, b.Namespace))
	}), problems
}

// instance is what makes a registration another one: the same id counts once a namespace.
type instance struct{ partition, namespace, id string }

// localState is the agent's list of services while it loads its definitions.
type localState struct {
	held     map[instance]consul.Registration
	users    map[int]int // by port: how many of held have it
	min, max int         // of the sidecar range
}

// put registers r in the place of what has its id: of two definitions, the later one counts, wholly.
func (l *localState) put(key instance, r consul.Registration) consul.Registration {
	if old, ok := l.held[key]; ok {
		l.users[old.Port]--
	}
	if r.IsGateway() {
		r.Tagged = withOwn(r)
	}
	l.held[key] = r
	l.users[r.Port]++
	return r
}

// sidecarPort chooses as the agent does: the port that the id has already, though another definition wrote it, or else
// the lowest that no registration so far has. Ports that later definitions write are handed out twice.
func (l *localState) sidecarPort(key instance) (int, error) {
	if l.min < 1 || l.max < l.min {
		return 0, fmt.Errorf("it has no port, and ports.sidecar_min_port or sidecar_max_port turns assignment off; " +
			"give it a port")
	}
	if old, ok := l.held[key]; ok && l.min <= old.Port && old.Port <= l.max {
		return old.Port, nil
	}
	for port := l.min; port <= l.max; port++ {
		if l.users[port] == 0 {
			return port, nil
		}
	}
	return 0, fmt.Errorf("it has no port, and %d-%d has none left; "+
		"give it one, or widen ports { sidecar_min_port, sidecar_max_port }", l.min, l.max)
}

// asWritten is a definition as the agent registers it by itself.
func asWritten(s Service) consul.Registration {
	r := consul.Registration{
		ID: cmp.Or(s.ID, s.Name), Name: s.Name, Kind: s.Kind, Namespace: s.Namespace, Partition: s.Partition,
		Address: s.Address, Port: s.Port, Socket: s.SocketPath, Native: s.Native,
	}
	if r.Kind != consul.KindConnectProxy && !r.IsGateway() {
		r.Kind = "" // Consul takes any other word for none; and shows proxy {} of an application to nobody
		return r
	}
	r.Proxy = cloneProxy(s.Proxy)
	if r.IsGateway() {
		r.Tagged = s.TaggedAddresses
	}
	return r
}

// withOwn are the tagged addresses of a gateway with those that the agent adds: its own address, where that is one, under
// every name of that version of IP that it does not give to another.
func withOwn(r consul.Registration) []consul.Bind {
	all := slices.Clone(r.Tagged)
	if addr, err := netip.ParseAddr(r.Address); err == nil && addr.Zone() == "" {
		version := "ipv6"
		if addr.Unmap().Is4() {
			version = "ipv4"
		}
		for _, name := range []string{"lan_" + version, "wan_" + version} {
			if !slices.ContainsFunc(all, func(b consul.Bind) bool { return b.Name == name }) {
				all = append(all, consul.Bind{Name: name, Address: r.Address, Port: r.Port})
			}
		}
	}
	return consul.SortBinds(all)
}

// sidecarOf fills in what Consul takes from the service that a sidecar_service stands in.
func sidecarOf(parent consul.Registration, written Service) consul.Registration {
	written.Kind = cmp.Or(asWritten(written).Kind, consul.KindConnectProxy)
	r := asWritten(written)
	r.ID = parent.ID + sidecarSuffix
	r.Name = cmp.Or(r.Name, parent.Name+sidecarSuffix)
	r.Namespace, r.Partition = parent.Namespace, parent.Partition
	r.Address = cmp.Or(r.Address, parent.Address)

	p := r.Proxy
	p.DestinationName = cmp.Or(p.DestinationName, parent.Name)
	p.DestinationID = cmp.Or(p.DestinationID, parent.ID)
	switch {
	case p.LocalServiceSocket != "", p.LocalServiceAddress != "" && p.LocalServicePort > 0:
	case parent.Socket != "":
		p.LocalServiceSocket = parent.Socket
	default:
		p.LocalServiceAddress = cmp.Or(p.LocalServiceAddress, "127.0.0.1")
		if p.LocalServicePort < 1 {
			p.LocalServicePort = parent.Port
		}
	}
	return r
}

func cloneProxy(p *consul.Proxy) *consul.Proxy {
	if p == nil {
		return &consul.Proxy{}
	}
	clone := *p
	clone.Upstreams = append([]consul.Upstream(nil), p.Upstreams...)
	clone.ExposedPorts = append([]int(nil), p.ExposedPorts...)
	clone.MetricsPorts = append([]int(nil), p.MetricsPorts...)
	clone.Binds = append([]consul.Bind(nil), p.Binds...)
	return &clone
}

// Agent predicts what an agent that is started with c on this host says of itself. Node is the host's name where no file
// has node_name; NodeID is empty unless a file has node_id, for the agent makes one up and keeps it in data_dir. Address
// is set only where advertise_addr or bind_addr is plainly an address: templates, and 0.0.0.0, depend on the host's
// interfaces. Version is empty.
func (c *Config) Agent() consul.Agent {
	a := consul.Agent{
		Node:       c.text("node_name"),
		NodeID:     strings.ToLower(c.text("node_id")),
		Datacenter: strings.ToLower(cmp.Or(c.text("datacenter"), defaultDatacenter)),
		Address:    c.advertised(),
		RangeKnown: true,
		Ports:      c.Ports(),
	}
	if a.Node == "" {
		a.Node, _ = os.Hostname() // a host without a name is a node without one
	}
	a.Node = strings.TrimSpace(a.Node)
	a.SidecarMin, a.SidecarMax = c.sidecarRange()
	a.ExposeMin, a.ExposeMax = c.port("ports.expose_min_port", defaultExposeMin), c.port("ports.expose_max_port", defaultExposeMax)
	return a
}

// Ports predicts the ports that the agent listens on, by Consul's name for them; those that are off are missing. The map is
// the caller's.
func (c *Config) Ports() map[string]uint16 {
	defaults := map[string]int{
		"http": 8500, "https": 0, "grpc": 0, "grpc_tls": 0, "dns": 8600, "serf_lan": 8301, "serf_wan": 8302, "server": 8300,
	}
	if server, ok := c.Settings.Lookup("server"); ok && server.Value == true {
		defaults["grpc_tls"] = defaultServerGRPCTLS
	}
	ports := map[string]uint16{}
	for name, value := range defaults {
		if port := c.port("ports."+name, value); port > 0 && port <= math.MaxUint16 {
			ports[name] = uint16(port)
		}
	}
	return ports
}

// sidecarRange is the range as the agent reports it: -1 stands for everything below 1.
func (c *Config) sidecarRange() (lo, hi int) {
	return c.port("ports.sidecar_min_port", defaultSidecarMin), c.port("ports.sidecar_max_port", defaultSidecarMax)
}

// port is the number that a setting holds, or else value; -1 stands for everything below 1.
func (c *Config) port(key string, value int) int {
	setting, _ := c.Settings.Lookup(key)
	switch n := setting.Value.(type) {
	case int64:
		value = int(max(math.MinInt32, min(n, math.MaxInt32)))
	case float64: // Consul cuts the fraction off
		value = int(max(math.MinInt32, min(n, math.MaxInt32)))
	}
	if value < 1 {
		return -1
	}
	return value
}

// text is the string that a setting holds, or "".
func (c *Config) text(key string) string {
	setting, _ := c.Settings.Lookup(key)
	text, _ := setting.Value.(string)
	return text
}

func (c *Config) advertised() netip.Addr {
	for _, key := range []string{"advertise_addr", "bind_addr"} {
		text := strings.TrimSpace(c.text(key))
		if text == "" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.IsUnspecified() || addr.Zone() != "" {
			return netip.Addr{}
		}
		return addr.Unmap()
	}
	return netip.Addr{}
}
