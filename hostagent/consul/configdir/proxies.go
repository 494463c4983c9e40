// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"net"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// connectProxy checks a definition of kind connect-proxy. A sidecar_service is one too once the agent has filled it in,
// but the agent does not look at it again, so its upstreams may be anything.
func (v *validator) connectProxy(o *object) {
	if unreachable(o) {
		v.problem(o.line, "a proxy must listen somewhere: give it a port or a socket_path")
	}
	proxy := o.object("proxy")
	if proxy == nil {
		proxy = &object{line: o.line}
	}
	switch destination := proxy.text("destination_service_name"); {
	case strings.TrimSpace(destination) == "" && !o.bad:
		v.problem(proxy.lineOf("destination_service_name"), "the service that it stands for is not named: proxy.destination_service_name")
	case destination == "*":
		v.problem(proxy.lineOf("destination_service_name"), "proxy.destination_service_name must be one service, not *")
	}
	if connect := o.object("connect"); connect.flag("native") {
		v.problem(connect.lineOf("native"), "connect.native is for applications, and this is a proxy")
	}
	const longestSocketFolder = 70
	if config := proxy.object("config"); len(config.text("envoy_hcp_metrics_bind_socket_dir")) > longestSocketFolder {
		v.problem(config.lineOf("envoy_hcp_metrics_bind_socket_dir"),
			"proxy.config.envoy_hcp_metrics_bind_socket_dir is longer than %d characters", longestSocketFolder)
	}
	v.upstreams(proxy.list("upstreams"))
	v.exposedPaths(proxy.object("expose").list("paths"))
}

func (v *validator) upstreams(list []value) {
	destinations, listeners := map[upstreamKey]bool{}, map[string]bool{}
	for i, item := range list {
		u, ok := item.held.(*object)
		if !ok {
			continue
		}
		u.line = item.line
		path := "proxy.upstreams[" + strconv.Itoa(i) + "]"
		if line, wrong := upstreamFault(u); wrong != "" {
			v.problem(line, "%s: %s", path, wrong)
			continue
		}
		if u.bad {
			continue // what was refused may be what makes it another one
		}
		destination := destinationOf(u)
		if destinations[destination] {
			v.problem(u.line, "%s: %s is the destination of another upstream too", path, quote(destination.name))
			continue
		}
		destinations[destination] = true
		listener := listenerOf(u)
		if listeners[listener] {
			v.problem(u.line, "%s: another upstream listens on %s too", path, show(listener))
			continue
		}
		listeners[listener] = true
	}
}

// upstreamFault says what is wrong with one upstream by itself, and where.
func upstreamFault(u *object) (line int, wrong string) {
	partition, peer, datacenter := u.text("destination_partition"), u.text("destination_peer"), u.text("datacenter")
	name, port, socket := u.text("destination_name"), u.number("local_bind_port"), u.text("local_bind_socket_path")
	kind := u.text("destination_type")
	switch {
	case peer == "" && datacenter != "" && partition != "":
		return u.lineOf("datacenter"), "names both a datacenter and a destination_partition; only one of them can be"
	case peer != "" && partition != "" && partition != "default":
		return u.lineOf("destination_peer"), "must target a peer in the partition of the service"
	case kind != "" && kind != "service" && kind != "prepared_query":
		return u.lineOf("destination_type"), `destination_type must be "service" or "prepared_query"`
	case name == "" && !u.bad:
		return u.lineOf("destination_name"), "the service that it leads to is not named: destination_name"
	case name == "*":
		return u.lineOf("destination_name"), "destination_name must be one service, not *"
	case peer != "" && datacenter != "":
		return u.lineOf("datacenter"), "names both a destination_peer and a datacenter; only one of them can be"
	case port == 0 && socket == "" && !u.bad:
		return u.lineOf("local_bind_port"), "listens nowhere: give it a local_bind_port or a local_bind_socket_path"
	case port != 0 && socket != "":
		return u.lineOf("local_bind_port"), "listens on a local_bind_port and a local_bind_socket_path; only one of them can be"
	}
	return 0, ""
}

// upstreamKey is what makes two upstreams the same destination.
type upstreamKey struct{ kind, name, partition, namespace, peer, datacenter string }

func destinationOf(u *object) upstreamKey {
	kind := u.text("destination_type")
	if kind == "" {
		kind = "service"
	}
	return upstreamKey{kind, u.text("destination_name"), u.text("destination_partition"), u.text("destination_namespace"),
		u.text("destination_peer"), u.text("datacenter")}
}

func listenerOf(u *object) string {
	address, port, socket := u.text("local_bind_address"), u.number("local_bind_port"), u.text("local_bind_socket_path")
	if port == 0 && address == "" && socket != "" {
		return socket
	}
	if address == "" {
		address = "127.0.0.1"
	}
	return net.JoinHostPort(address, strconv.FormatInt(port, 10))
}

func (v *validator) exposedPaths(list []value) {
	listeners := map[int64]bool{}
	for i, item := range list {
		o, ok := item.held.(*object)
		if !ok {
			continue
		}
		o.line = item.line
		path := "proxy.expose.paths[" + strconv.Itoa(i) + "]"
		if o.text("path") == "" && !o.bad {
			v.problem(o.lineOf("path"), "%s: has no path", path)
		}
		if port := o.number("listener_port"); o.has("listener_port") || !o.bad {
			if listeners[port] {
				v.problem(o.lineOf("listener_port"), "%s: another path has listener_port %d too", path, port)
			}
			listeners[port] = true
			if port <= 0 || port > 65535 {
				v.problem(o.lineOf("listener_port"), "%s: listener_port must be in 1-65535", path)
			}
		}
		if protocol := strings.ToLower(o.text("protocol")); protocol != "" && protocol != "http" && protocol != "http2" {
			v.problem(o.lineOf("protocol"), `%s: protocol must be "http" or "http2"`, path)
		}
	}
}

// gateway checks what a gateway's definition may not hold.
func (v *validator) gateway(o *object) {
	kind := o.text("kind")
	registration := consul.Registration{Kind: kind}
	if !registration.IsGateway() {
		return
	}
	if o.number("port") == 0 && !o.bad && kind != consul.KindIngressGateway && kind != consul.KindAPIGateway {
		v.problem(o.line, "a %s must listen somewhere: give it a port", kind)
	}
	if connect := o.object("connect"); connect.object("sidecar_service") != nil {
		v.problem(connect.lineOf("sidecar_service"), "a %s cannot have a sidecar_service", kind)
	}
	proxy := o.object("proxy")
	if proxy == nil {
		return
	}
	for _, key := range []string{
		"destination_service_name", "destination_service_id", "local_service_address", "local_service_port",
		"local_service_socket_path", "upstreams",
	} {
		if proxy.text(key) != "" || proxy.number(key) != 0 || len(proxy.list(key)) > 0 {
			v.problem(proxy.lineOf(key), "proxy.%s cannot be set for a %s", key, kind)
		}
	}
}
