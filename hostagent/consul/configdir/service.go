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
	}
	if proxy := o.object("proxy"); proxy != nil {
		s.Proxy = proxyOf(proxy)
	}
	if connect := o.object("connect"); connect != nil {
		s.Native = connect.flag("native")
		if sidecar := connect.object("sidecar_service"); sidecar != nil {
			inner := serviceOf(path, sidecar)
			s.Sidecar = &inner
		}
	}
	return s
}

func proxyOf(o *object) *consul.Proxy {
	p := &consul.Proxy{
		DestinationName: o.text("destination_service_name"), DestinationID: o.text("destination_service_id"),
		LocalServiceAddress: o.text("local_service_address"), LocalServicePort: int(o.number("local_service_port")),
		LocalServiceSocket: o.text("local_service_socket_path"),
		BindPort:           consul.PortOf(held[any](o.object("config"), "bind_port")),
		BindAddress:        held[string](o.object("config"), "bind_address"),
		Mode:               o.text("mode"),
		OutboundPort:       int(o.object("transparent_proxy").number("outbound_listener_port")),
		ExposesChecks:      o.object("expose").flag("checks"),
		MetricsPorts:       consul.MetricsPorts(func(key string) any { return held[any](o.object("config"), key) }),
	}
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
