// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

func apiJudges() []judge {
	return []judge{{catalog.APIHTTP, apiHTTP}, {catalog.APIHTTPS, apiHTTPS}, {catalog.APIGRPC, apiGRPC}}
}

// api is where one of the agent's APIs is served.
type api struct {
	name   string   // "http", "https", "grpc", "grpc_tls": as in ports and addresses
	at     []string // "tcp://127.0.0.1:8500", "unix:///run/consul.sock"; none: it is off
	known  bool
	found  string
	needs  string
	byFile bool // it is predicted from files
}

// apiTitle is what sentences call an API.
func apiTitle(name string) string {
	switch name {
	case "http":
		return "the plain HTTP API"
	case "https":
		return "the HTTPS API"
	case "grpc":
		return "plain gRPC"
	}
	return "gRPC over TLS"
}

// apiOf finds an API; running is what the agent tells, nil for nothing.
func apiOf(in *Input, name string, running []string) api {
	title := apiTitle(name)
	if in.Running.Known && running != nil {
		found := fmt.Sprintf("the agent serves %s at %s", title, strings.Join(running, ", "))
		if len(running) == 0 {
			found = title + " is off"
		}
		return api{name: name, at: running, known: true, found: found}
	}
	if in.Disk.Known {
		written := writtenAPI(in.Disk.Value, name)
		if flag := in.flagOver(written.keys()...); flag != "" {
			return api{name: name, found: "where the agent serves " + title + ": " + startedWith(flag), needs: byAgent}
		}
		return written
	}
	a := api{name: name, found: "the agent does not tell where it serves " + title, needs: giveConfig}
	if !in.Running.Known {
		row := in.Running.unknown("where the agent serves " + title)
		a.found, a.needs = row.Found[0], row.needing(giveConfig).Needs
	}
	return a
}

// writtenAPI predicts where an agent with these files serves an API: its addresses are those of addresses, or else
// client_addr (makeAddrs).
func writtenAPI(disk *configdir.Config, name string) api {
	a, title := api{name: name, byFile: true}, apiTitle(name)
	port, on := disk.Ports()[name]
	if !on {
		a.known, a.found = true, title+" is off: no file sets ports."+name
		if set, ok := disk.Settings.Lookup("ports." + name); ok {
			a.found = fmt.Sprintf("%s is off: %s:%d: ports.%s = %v", title, set.File, set.Line, name, set.Value)
		}
		return a
	}
	text, where := "127.0.0.1", "no file sets addresses."+name+` or client_addr; Consul's default is "127.0.0.1"`
	for _, key := range []string{"addresses." + name, "client_addr"} {
		set, ok := disk.Settings.Lookup(key)
		value, isText := set.Value.(string)
		if !ok || !isText || (value == "" && key != "client_addr") {
			continue
		}
		text, where = value, fmt.Sprintf("%s:%d: %s = %s", set.File, set.Line, key, literal(value))
		break
	}
	a.found = fmt.Sprintf("%s, port %d: %s", title, port, where)
	if strings.Contains(text, "{{") {
		a.found += ": what the template becomes is not known"
		a.needs = byAgent
		return a
	}
	a.known = true
	for _, addr := range strings.Fields(text) {
		if strings.HasPrefix(addr, "unix://") {
			a.at = append(a.at, addr)
			continue
		}
		ip, err := netip.ParseAddr(strings.Trim(addr, "[]"))
		if err != nil {
			return api{name: name, byFile: true, found: a.found + ": not an address", needs: "addresses that Consul takes"}
		}
		a.at = append(a.at, "tcp://"+netip.AddrPortFrom(ip.Unmap(), port).String())
	}
	return a
}

// reach is who gets at an API.
type reach int

const (
	reachUnknown reach = iota
	reachNobody
	reachHost // loopback and unix sockets
	reachNetwork
)

func (a api) reach() reach {
	if !a.known {
		return reachUnknown
	}
	reached, unread := reachNobody, false
	for _, at := range a.at {
		text, isTCP := strings.CutPrefix(at, "tcp://")
		addr, err := netip.ParseAddrPort(text)
		switch {
		case isTCP && err == nil && !addr.Addr().Unmap().IsLoopback():
			return reachNetwork
		case isTCP && err == nil, strings.HasPrefix(at, "unix://"):
			reached = reachHost
		default:
			unread = true
		}
	}
	if unread {
		return reachUnknown
	}
	return reached
}

func (a api) unknown() Row {
	needs := a.needs
	if needs == "" {
		needs = "addresses that can be read"
	}
	return Row{Status: Unknown, Found: []string{a.found}, Needs: needs}
}

// plain is the row of an API without TLS.
func (a api) plain(in *Input) Row {
	row := Row{Status: Pass, Found: []string{a.found}}
	switch a.reach() {
	case reachUnknown:
		return a.unknown()
	case reachNetwork:
		row.Status = Fail
	case reachNobody, reachHost:
	}
	return row.doubted(in, a.keys()...)
}

// keys are the settings that say where it is.
func (a api) keys() []string {
	return []string{"ports." + a.name, "addresses." + a.name, "client_addr"}
}

func apiHTTP(in *Input) Row { return apiOf(in, "http", in.Running.Value.HTTPAddrs).plain(in) }

// apiHTTPS fails where the API is needed: on servers, and where the plain one is on the network already. Elsewhere who needs
// an API at all is on the host.
func apiHTTPS(in *Input) Row {
	https := apiOf(in, "https", in.Running.Value.HTTPSAddrs)
	if !https.known {
		return https.unknown()
	}
	if len(https.at) > 0 {
		return Row{Status: Pass, Found: []string{https.found}}.doubted(in, https.keys()...)
	}
	plain := apiOf(in, "http", in.Running.Value.HTTPAddrs)
	row := Row{Status: Warn, Found: []string{https.found}}
	switch {
	case isServer(in):
		row.Status, row.Found = Fail, append(row.Found, "the agent is a server")
	case plain.reach() == reachNetwork:
		row.Status, row.Found = Fail, append(row.Found, plain.found)
	default:
		row.Found = append(row.Found, "the agent is a client, and its API is not served to the network in plain")
		if plain.reach() == reachUnknown {
			row.Found[1] = plain.found
		}
	}
	return row
}

func apiGRPC(in *Input) Row {
	r := &in.Running.Value
	if !in.Running.Known || r.Since("1.14.0") {
		return apiOf(in, "grpc", r.GRPCAddrs).plain(in)
	}
	grpc := apiOf(in, "grpc", slices.Concat(r.GRPCAddrs, r.GRPCTLSAddrs)) // one port, wherever it is told
	if r.GRPCAddrs != nil && grpc.at == nil {
		grpc = apiOf(in, "grpc", []string{})
	}
	if grpc.reach() == reachNetwork && !grpc.byFile {
		return mixedGRPC(in, grpc)
	}
	return grpc.plain(in)
}

// mixedGRPC judges gRPC before Consul 1.14, which has one port for it: up to 1.11 it does TLS where the HTTPS API is on, in
// 1.12 where tls.grpc has a certificate, and in 1.13 for either reason.
func mixedGRPC(in *Input, grpc api) Row {
	https, cert := in.Running.Value.HTTPSAddrs, in.Running.Value.GRPC.CertFile
	title := strings.Replace(grpc.found, "plain gRPC", "gRPC", 1)
	switch {
	case https == nil || cert == nil || (len(https) > 0) != (*cert != ""):
		return Row{Status: Unknown, Found: []string{title, "this version does not tell whether it does TLS there"},
			Needs: "Consul 1.14 or later, which has a port for each"}
	case len(https) > 0:
		return Row{Status: Pass, Found: []string{title + ", with TLS: the HTTPS API is on, and gRPC has a certificate"}}
	}
	return Row{Status: Fail, Found: []string{title + ", without TLS: the HTTPS API is off, and gRPC has no certificate"}}
}

// hosts are the addresses alone, sorted.
func (a api) hosts() []string {
	var all []string
	for _, at := range a.at {
		text, isTCP := strings.CutPrefix(at, "tcp://")
		if addr, err := netip.ParseAddrPort(text); err == nil && isTCP {
			text = addr.Addr().Unmap().String()
		}
		all = append(all, text)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
