// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"github.com/hostagent/hostagent/hostagent/consul"
)

// serviceOf takes out of a definition what this package hands on.
func serviceOf(path string, o *object) Service {
	s := Service{
		File: path, Line: o.line,
		ID: o.text("id"), Name: o.text("name"), Kind: o.text("kind"),
		Address: o.text("address"), Port: int(o.number("port")), SocketPath: o.text("socket_path"),
		TokenHash: consul.HashSecret(o.text("token")),
	}
	s.TaggedAddresses = taggedOf(o.object("tagged_addresses"))
	if proxy := o.object("proxy"); proxy != nil {
		s.Proxy = proxyOf(proxy)
	}
	if connect := o.object("connect"); connect != nil {
		s.Native = connect.flag("native")
		if sidecar := connect.object("sidecar_service"); sidecar != nil {
			inner := serviceOf(path, sidecar)
			if inner.TokenHash == (consul.TokenHash{}) {
				inner.TokenHash = s.TokenHash
			}
			s.Sidecar = &inner
		}
	}
	return s
}

func proxyOf(o *object) *consul.Proxy {
	config := opaque(o.object("config"))
	p := &consul.Proxy{
		DestinationName: o.text("destination_service_name"), DestinationID: o.text("destination_service_id"),
		LocalServiceAddress: o.text("local_service_address"), LocalServicePort: int(o.number("local_service_port")),
		LocalServiceSocket: o.text("local_service_socket_path"),
		BindPort:           consul.PortOf(consul.Setting(config, "bind_port")),
		Mode:               o.text("mode"),
		OutboundPort:       int(o.object("transparent_proxy").number("outbound_listener_port")),
		ExposesChecks:      o.object("expose").flag("checks"),
		MetricsPorts:       consul.MetricsPorts(func(key string) any { return consul.Setting(config, key) }),
	}
	p.BindAddress, _ = consul.Setting(config, "bind_address").(string)
	p.ReadBinds(config)
	for _, v := range o.object("expose").list("paths") {
		if path, ok := v.held.(*object); ok {
			p.ExposedPorts = append(p.ExposedPorts, int(path.number("listener_port")))
		}
	}
	for _, v := range o.list("upstreams") {
		if u, ok := v.held.(*object); ok {
			p.Upstreams = append(p.Upstreams, consul.Upstream{
				Name: u.text("destination_name"), Address: u.text("local_bind_address"), Port: int(u.number("local_bind_port")),
			})
		}
	}
	return p
}

// opaque is what the agent keeps as it was written.
func opaque(o *object) map[string]any {
	if o == nil {
		return nil
	}
	config := make(map[string]any, len(o.keys))
	for key, v := range o.keys {
		config[key] = v.held
	}
	return config
}

func taggedOf(o *object) []consul.Bind {
	if o == nil {
		return nil
	}
	var tagged []consul.Bind
	for name, v := range o.keys {
		if at, ok := v.held.(*object); ok {
			tagged = append(tagged, consul.Bind{Name: name, Address: at.text("address"), Port: int(at.number("port"))})
		}
	}
	return tagged
}
