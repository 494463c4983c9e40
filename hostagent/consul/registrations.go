// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/hashicorp/consul/api"
)

// The kinds of registration that hostagent tells apart; an application's is empty. Consul takes any text here.
const (
	KindConnectProxy       = "connect-proxy"
	KindMeshGateway        = "mesh-gateway"
	KindTerminatingGateway = "terminating-gateway"
	KindIngressGateway     = "ingress-gateway"
	KindAPIGateway         = "api-gateway"
)

// Registration is one service instance as it was registered with the local agent. Every field is a claim of whoever
// registered it: ports may be negative or over 65535, names may hold anything.
type Registration struct {
	ID        string
	Name      string
	Kind      string
	Namespace string
	Partition string
	Address   string // empty: the node's
	Port      int
	Socket    string // SocketPath: a sidecar that listens on a unix socket
	Native    bool   // connect { native = true }
	Tagged    []Bind // of a gateway: its tagged_addresses, by name; the agent adds some to those that were registered
	Proxy     *Proxy // of a connect-proxy or gateway
	Predicted bool   // the port is what an agent would assign
}

// Proxy is the mesh half of a registration.
type Proxy struct {
	DestinationName     string
	DestinationID       string
	LocalServiceAddress string // empty: 127.0.0.1
	LocalServicePort    int
	LocalServiceSocket  string
	BindPort            int    // Config["bind_port"], 0 when not overridden; gateways take no notice of it
	BindAddress         string // Config["bind_address"], "" when not overridden
	Binds               []Bind // of a gateway, by Config, by name: where it listens beside its own address
	BindsTagged         bool   // and at its tagged addresses
	NoDefaultBind       bool   // but not at its own address
	Upstreams           []Upstream
	Mode                string // ModeTransparent, "direct" or ""
	OutboundPort        int    // of a transparent proxy's listener for its application, 0 when not overridden
	ExposedPorts        []int  // on which it lets paths of the application through (expose { paths })
	ExposesChecks       bool   // and paths of its checks, on ports of the agent's range for that
	MetricsPorts        []int  // on which Envoy shows its statistics, by Config
}

// Bind is an address of a gateway, under the name that its registration has for it.
type Bind struct {
	Name    string
	Address string
	Port    int
}

// ModeTransparent is the mode of a proxy to which the kernel redirects its application's connections.
const ModeTransparent = "transparent"

// Upstream is a local listener of a proxy towards another service.
type Upstream struct {
	Name    string
	Address string // empty: 127.0.0.1
	Port    int
}

// IsGateway tells whether r claims to be a gateway.
func (r *Registration) IsGateway() bool {
	switch r.Kind {
	case KindMeshGateway, KindTerminatingGateway, KindIngressGateway, KindAPIGateway:
		return true
	}
	return false
}

// Answer is one whole answer of the agent.
type Answer struct {
	// Registrations are sorted by ID. The slice is shared between answers: read only.
	Registrations []Registration
	// Unchanged is true where the agent sent the same bytes as in the last whole answer, whatever failed in between.
	Unchanged bool
}

// Services returns every registration of the local agent, or an *Error: never a part of them. Only with an error of
// KindTooOld there is an answer too, for who may show what cannot be told to be whole.
//
// An answer is whole when its status is 200, ACLs took nothing out (X-Consul-Results-Filtered-By-ACLs), and either a
// token was sent or the default policy is to allow: an agent under default-deny answers an anonymous caller with
// "200 {}". Both headers are hidden by api.Client, so they are read beneath it.
func (c *Client) Services(ctx context.Context) (Answer, error) {
	got, err := c.get(ctx, "/v1/agent/services", "")
	if err != nil {
		return Answer{}, err
	}
	switch doubt := whole(got); {
	case KindOf(doubt) == KindTooOld:
		regs, err := decodeServices(got.body) // no whole answer: it is not kept
		if err != nil {
			return Answer{}, c.malformed("registrations", err)
		}
		return Answer{Registrations: regs}, doubt
	case doubt != nil:
		return Answer{}, doubt
	}
	regs, unchanged, err := c.services.decode(got.body, decodeServices)
	if err != nil {
		return Answer{}, c.malformed("registrations", err)
	}
	return Answer{Registrations: regs, Unchanged: unchanged}, nil
}

const (
	headerFiltered = "X-Consul-Results-Filtered-By-Acls"
	headerPolicy   = "X-Consul-Default-Acl-Policy"
)

func whole(got answer) error {
	policy := got.header.Get(headerPolicy)
	switch {
	case isFiltered(got):
		return &Error{Kind: KindFiltered, Err: errors.New(
			"it left services out, because the token lacks service:read on some, or because the agent was started while the servers are away and does not know the token"),
			Fix: `give it service_prefix "" { policy = "read" }`}
	case policy == "":
		return &Error{Kind: KindTooOld, Err: fmt.Errorf(
			"%w: it sends no X-Consul-Default-ACL-Policy header, as Consul does since 1.9; upgrade Consul to %s or later", errTooOld, MinVersion)}
	case policy != "allow" && !got.token:
		return &Error{Kind: KindFiltered, Err: errors.New("it denies by default, and no token was sent"),
			Fix: `set CONSUL_HTTP_TOKEN_FILE or consul { token_file }; "hostagent acl-policy" prints what the token needs`}
	}
	return nil
}

// isFiltered takes any word but a clear no for a yes: Consul itself sends "true" or nothing.
func isFiltered(got answer) bool {
	return slices.ContainsFunc(got.header.Values(headerFiltered), func(said string) bool { return said != "false" })
}

func decodeServices(body []byte) ([]Registration, error) {
	raw, err := decodeEntries[api.AgentService](body)
	if err != nil {
		return nil, err
	}
	regs := make([]Registration, 0, len(raw))
	for _, id := range slices.Sorted(maps.Keys(raw)) { // in order, errors too
		s := raw[id]
		if s == nil || s.ID != id {
			return nil, otherEntry("service", id)
		}
		regs = append(regs, registration(s))
	}
	return regs, nil
}

func registration(s *api.AgentService) Registration {
	r := Registration{
		ID: s.ID, Name: s.Service, Kind: string(s.Kind), Namespace: s.Namespace, Partition: s.Partition,
		Address: s.Address, Port: s.Port, Socket: s.SocketPath, Native: s.Connect != nil && s.Connect.Native,
	}
	if r.IsGateway() {
		for name, tagged := range s.TaggedAddresses {
			r.Tagged = append(r.Tagged, Bind{name, tagged.Address, tagged.Port})
		}
		r.Tagged = SortBinds(r.Tagged)
	}
	p := s.Proxy
	if p == nil {
		return r
	}
	r.Proxy = &Proxy{
		DestinationName: p.DestinationServiceName, DestinationID: p.DestinationServiceID,
		LocalServiceAddress: p.LocalServiceAddress, LocalServicePort: p.LocalServicePort,
		LocalServiceSocket: p.LocalServiceSocketPath,
		BindPort:           PortOf(Setting(p.Config, "bind_port")),
		Mode:               string(p.Mode),
		ExposesChecks:      p.Expose.Checks,
		MetricsPorts:       MetricsPorts(func(key string) any { return Setting(p.Config, key) }),
	}
	r.Proxy.ReadBinds(p.Config)
	if p.TransparentProxy != nil {
		r.Proxy.OutboundPort = p.TransparentProxy.OutboundListenerPort
	}
	for _, path := range p.Expose.Paths {
		r.Proxy.ExposedPorts = append(r.Proxy.ExposedPorts, path.ListenerPort)
	}
	r.Proxy.BindAddress, _ = Setting(p.Config, "bind_address").(string)
	for _, u := range p.Upstreams {
		r.Proxy.Upstreams = append(r.Proxy.Upstreams, Upstream{Name: u.DestinationName, Address: u.LocalBindAddress, Port: u.LocalBindPort})
	}
	return r
}

// PortOf reads a port from a value of opaque proxy configuration, as weakly as Consul does when it makes Envoy's; what it
// could not use is 0.
func PortOf(v any) int {
	switch v := one(v).(type) {
	case bool:
		if v {
			return 1
		}
	case int64: // of HCL; JSON has float64 only
		if v >= math.MinInt32 && v <= math.MaxInt32 {
			return int(v)
		}
	case float64:
		if math.Abs(v) <= math.MaxInt32 {
			return int(v)
		}
	case string:
		if n, err := strconv.ParseInt(v, 0, 32); err == nil {
			return int(n)
		}
	}
	return 0
}

// MetricsPorts reads out of opaque proxy configuration, which held returns by its keys, on which ports Envoy listens to
// show its statistics. An address on loopback is for this host alone, and not among them. Where else it listens beside the
// mesh is not there at all: -admin-bind and -envoy-ready-bind-address of consul connect envoy (1.21) are flags and no keys,
// and those that name a statsd are where Envoy sends.
func MetricsPorts(held func(key string) any) []int {
	var ports []int
	for _, key := range []string{"envoy_prometheus_bind_addr", "envoy_stats_bind_addr"} {
		text, _ := held(key).(string)
		host, port, _ := net.SplitHostPort(text) // "" of what Consul would refuse, too
		if addr, err := netip.ParseAddr(host); err == nil && addr.Unmap().IsLoopback() {
			continue
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n > 0 {
			ports = append(ports, int(n))
		}
	}
	return ports
}
