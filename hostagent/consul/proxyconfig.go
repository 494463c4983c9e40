// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// maxBinds is how many addresses of one kind are read out of one registration, the first by name.
const maxBinds = 100

// ReadBinds reads out of a gateway's opaque configuration, as JSON has it or a file's HCL, where it listens: as weakly as
// Consul does when it makes Envoy's of it. That is not the agent's business, so anything may stand there, and what Consul
// could not use is as if it were absent.
//
// Mesh and terminating gateways listen at these addresses with their ports. Ingress and API gateways listen on the ports of
// their config entries, at these addresses: the servers alone know those entries, and the local agent tells none of it.
func (p *Proxy) ReadBinds(config map[string]any) {
	p.BindsTagged = flagOf(one(gatewaySetting(config, "bind_tagged_addresses")))
	p.NoDefaultBind = flagOf(one(gatewaySetting(config, "no_default_bind")))
	p.Binds = bindsOf(gatewaySetting(config, "bind_addresses"))
}

// Setting returns the value of a key of opaque proxy configuration. Its case does not matter, but the exact key stands over
// others; config may be nil.
func Setting(config map[string]any, key string) any {
	if v, ok := config[key]; ok {
		return v
	}
	found := ""
	for name := range config {
		if strings.EqualFold(name, key) && (found == "" || name < found) {
			found = name
		}
	}
	return config[found]
}

// gatewaySetting returns the value of a key of gateways, under its name since Consul 1.8 or the one before.
func gatewaySetting(config map[string]any, key string) any {
	if v := Setting(config, "envoy_gateway_"+key); v != nil {
		return v
	}
	return Setting(config, "envoy_mesh_gateway_"+key)
}

// one takes a value out of a list of one, which HCL makes of any block.
func one(v any) any {
	switch list := v.(type) {
	case []any:
		if len(list) == 1 {
			return list[0]
		}
	case []map[string]any:
		if len(list) == 1 {
			return list[0]
		}
	}
	return v
}

// flagOf reads true or false; what Consul could not use is false.
func flagOf(v any) bool {
	switch v := v.(type) {
	case bool:
		return v
	case int:
		return v != 0
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		flag, err := strconv.ParseBool(v)
		return err == nil && flag
	}
	return false
}

// bindsOf reads a map of addresses by name, or a list of such maps.
func bindsOf(v any) []Bind {
	var binds []Bind
	read := func(fields map[string]any) {
		for name, v := range fields {
			place, ok := one(v).(map[string]any)
			if !ok {
				continue
			}
			b := Bind{Name: name, Port: PortOf(Setting(place, "port"))}
			b.Address, _ = one(Setting(place, "address")).(string)
			binds = append(binds, b)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		read(v)
	case []map[string]any:
		for _, fields := range v {
			read(fields)
		}
	case []any:
		for _, item := range v {
			fields, _ := item.(map[string]any)
			read(fields)
		}
	}
	return SortBinds(binds)
}

// SortBinds sorts addresses by name and cuts the list where it is longer than anybody needs; none is nil.
func SortBinds(binds []Bind) []Bind {
	slices.SortFunc(binds, func(a, b Bind) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Port, b.Port))
	})
	return binds[:min(len(binds), maxBinds)]
}
