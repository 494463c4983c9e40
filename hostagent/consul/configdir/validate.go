// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// validator checks what types cannot say: the rules by which an agent refuses its configuration, or fails to register a
// definition when it starts.
type validator struct {
	scope string
	*findings
}

func (v *validator) problem(line int, format string, args ...any) {
	v.add(line, v.scope, format, args...)
}

// validateService checks one definition with all that is in it. Where the decoder refused a part of it, nothing is said to
// be missing: it may be what was refused.
func validateService(found *findings, o *object) {
	name := o.text("name")
	v := validator{scope: "service " + quote(name) + ": ", findings: found}
	if name == "" {
		v.scope = "service: "
		if !o.bad {
			v.problem(o.line, "the name is missing")
		}
	}
	v.written(o)
	if o.text("kind") == consul.KindConnectProxy {
		v.connectProxy(o)
	}
	v.gateway(o)
	if locality := o.object("locality"); locality.text("zone") != "" && locality.text("region") == "" && !locality.bad {
		v.problem(locality.lineOf("zone"), "locality.zone is of no use alone: name its region too")
	}
	connect := o.object("connect")
	if connect.flag("native") && unreachable(o) {
		v.problem(connect.lineOf("native"), "with connect.native, others must know where to reach it: give it a port or a socket_path")
	}
	if sidecar := connect.object("sidecar_service"); sidecar != nil {
		v.scope += "sidecar_service: "
		v.sidecar(sidecar)
	}
}

// unreachable is a definition without a port and a socket.
func unreachable(o *object) bool {
	return !o.bad && o.number("port") == 0 && o.text("socket_path") == ""
}

func (v *validator) sidecar(o *object) {
	v.written(o)
	if o.text("id") != "" {
		v.problem(o.lineOf("id"), "id cannot be set; the agent chooses it")
	}
	if connect := o.object("connect"); connect.object("sidecar_service") != nil {
		v.problem(connect.lineOf("sidecar_service"), "cannot have a sidecar_service of its own")
	}
}

// written holds for services and their sidecars alike.
func (v *validator) written(o *object) {
	v.meta(o.object("meta"), o.text("kind"))
	v.weights(o.object("weights"))
	if (o.has("port") || o.has("address")) && o.has("socket_path") {
		v.problem(o.lineOf("socket_path"), "cannot have both socket_path and port or address")
	}
	if proxy := o.object("proxy"); proxy != nil {
		v.proxy(proxy)
	}
	for i, check := range o.list("checks") {
		if inner, ok := check.held.(*object); ok {
			inner.line = check.line
			v.check(inner, "checks["+strconv.Itoa(i)+"]")
		}
	}
	if check := o.object("check"); check != nil {
		v.check(check, "check")
	}
	v.taggedAddresses(o.object("tagged_addresses"))
}

// Consul's limits of metadata, and the prefix that it keeps for itself.
const (
	maxMeta            = 64
	maxMetaKey         = 128
	maxMetaValue       = 512
	reservedMetaPrefix = "consul-"
	wanFederationMeta  = "consul-wan-federation"
)

func (v *validator) meta(o *object, kind string) {
	if o == nil {
		return
	}
	if len(o.keys) > maxMeta {
		v.problem(o.line, "meta cannot have more than %d keys", maxMeta)
		return
	}
	for _, key := range slices.Sorted(maps.Keys(o.keys)) {
		line := o.lineOf(key)
		isPlain := strings.Trim(key, plainLetters) == "" && key != ""
		switch {
		case !isPlain:
			v.problem(line, "meta key %s may hold letters, digits, - and _ only", quote(key))
		case len(key) > maxMetaKey:
			v.problem(line, "meta key %s is longer than %d characters", quote(key), maxMetaKey)
		case strings.HasPrefix(key, reservedMetaPrefix) && (kind != consul.KindMeshGateway || key != wanFederationMeta):
			v.problem(line, "meta key %s: %s is reserved for Consul", quote(key), reservedMetaPrefix)
		case len(o.text(key)) > maxMetaValue:
			v.problem(line, "the value of meta key %s is longer than %d characters", quote(key), maxMetaValue)
		}
	}
}

func (v *validator) weights(o *object) {
	const highest = 65535
	if o.has("passing") && (o.number("passing") < 1 || o.number("passing") > highest) {
		v.problem(o.lineOf("passing"), "weights.passing must be in 1-%d", highest)
	}
	if o.has("warning") && (o.number("warning") < 0 || o.number("warning") > highest) {
		v.problem(o.lineOf("warning"), "weights.warning must be in 0-%d", highest)
	}
}

func (v *validator) proxy(o *object) {
	if mode := o.text("mode"); !slices.Contains([]string{"", "direct", "transparent"}, mode) {
		v.problem(o.lineOf("mode"), `proxy.mode must be "direct" or "transparent"`)
	}
	v.meshGateway(o.object("mesh_gateway"), "proxy")
	for i, item := range o.list("upstreams") {
		u, ok := item.held.(*object)
		if !ok {
			continue
		}
		path := "proxy.upstreams[" + strconv.Itoa(i) + "]"
		v.meshGateway(u.object("mesh_gateway"), path)
		if mode := u.text("local_bind_socket_mode"); u.has("local_bind_socket_mode") {
			if _, err := strconv.ParseUint(mode, 8, 32); err != nil {
				v.problem(u.lineOf("local_bind_socket_mode"), `%s.local_bind_socket_mode must be octal, such as "0600"`, path)
			}
		}
	}
}

func (v *validator) meshGateway(o *object, path string) {
	if mode := o.text("mode"); !slices.Contains([]string{"", "none", "local", "remote"}, mode) {
		v.problem(o.lineOf("mode"), `%s.mesh_gateway.mode must be "local", "remote" or "none"`, path)
	}
}

// taggedAddresses are checked by the agent alone; it forgets to look at wan_ipv6.
func (v *validator) taggedAddresses(o *object) {
	for _, tag := range []struct {
		name string
		is4  bool
	}{{"lan_ipv4", true}, {"wan_ipv4", true}, {"lan_ipv6", false}} {
		tagged := o.object(tag.name)
		if tagged == nil || tagged.bad && !tagged.has("address") {
			continue
		}
		// Consul takes "::ffff:10.0.0.1" for IPv4.
		addr, err := netip.ParseAddr(tagged.text("address"))
		if err != nil || addr.Zone() != "" || addr.Unmap().Is4() != tag.is4 {
			v.problem(cmp.Or(tagged.lineOf("address"), o.line), "tagged_addresses.%s must be an %s address", tag.name, tag.name[4:])
		}
	}
}

// check holds for checks of services, sidecars and the node. Name is how the file refers to it where it has no name.
func (v *validator) check(o *object, name string) {
	if written := o.text("name"); written != "" {
		name = "check " + quote(written)
	}
	durations := map[string]time.Duration{}
	for _, key := range []string{"interval", "timeout", "ttl", "deregister_critical_service_after"} {
		if !o.has(key) {
			continue
		}
		d, err := time.ParseDuration(o.text(key))
		if err != nil {
			v.problem(o.lineOf(key), `%s: %s is no duration such as "10s"`, name, key)
			return // what follows would be about a zero that nobody wrote
		}
		durations[key] = d
	}
	interval, ttl := durations["interval"], durations["ttl"]
	runs := len(o.list("args")) > 0
	for _, key := range []string{"http", "tcp", "udp", "grpc", "h2ping", "os_service"} {
		runs = runs || o.text(key) != ""
	}
	alias := o.text("alias_node") != "" || o.text("alias_service") != ""
	switch {
	case interval > 0 && ttl > 0:
		v.problem(o.lineOf("ttl"), "%s: has both an interval and a ttl; a check either runs or waits to be told", name)
	case runs && interval <= 0 && !o.bad:
		v.problem(o.lineOf("interval"), "%s: interval must be more than 0", name)
	case runs && alias:
		v.problem(o.line, "%s: an alias check cannot check anything else", name)
	case alias && ttl > 0:
		v.problem(o.lineOf("ttl"), "%s: ttl cannot be set for an alias check", name)
	case !runs && !alias && ttl <= 0 && !o.bad:
		v.problem(o.line, "%s: needs a ttl, or http, tcp, udp, grpc, h2ping, os_service or args with an interval", name)
	case o.number("output_max_size") < 0:
		v.problem(o.lineOf("output_max_size"), "%s: output_max_size must not be negative", name)
	case !o.bad && o.has("failures_before_warning") && o.number("failures_before_warning") > o.number("failures_before_critical"):
		v.problem(o.lineOf("failures_before_warning"), "%s: would be critical before it is a warning: failures_before_warning is above failures_before_critical", name)
	}
}

// validateNodeCheck checks a check that stands by itself.
func validateNodeCheck(found *findings, o *object) {
	v := validator{findings: found}
	v.check(o, "check")
	if o.text("id") == "" && o.text("name") == "" && !o.bad {
		v.problem(o.line, "check: the name is missing")
	}
}
