// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func tlsJudges() []judge {
	return []judge{
		{catalog.TLSOutgoing, outgoingVerified},
		{catalog.TLSIncoming, incomingVerified},
		{catalog.TLSServerHostname, hostnameVerified},
		{catalog.TLSCertificate, agentCertificate},
		{catalog.TLSAuthority, agentAuthority},
		{catalog.TLSKeyFiles, keyFiles},
		{catalog.TLSServers, serverCertificates},
	}
}

// rpcTLS is how the agent does RPC.
type rpcTLS struct {
	outgoing, incoming, hostname setting[bool]
	tlsPaths
	// autoEncrypt and autoConfig tell that the agent, a client, has its certificate from the servers.
	autoEncrypt, autoConfig bool
	server                  bool
	running                 bool // the agent tells, not only its files
}

func rpcOf(in *Input) rpcTLS {
	running := in.Running.Value.RPC
	flag := func(running *bool, name string) setting[bool] {
		return settingOf(in, running, false, "tls.internal_rpc."+name, "tls.defaults."+name)
	}
	on := func(running *bool, key string) bool {
		s := settingOf(in, running, false, key)
		return s.known && s.value
	}
	r := rpcTLS{
		outgoing: flag(running.VerifyOutgoing, "verify_outgoing"),
		incoming: flag(running.VerifyIncoming, "verify_incoming"),
		hostname: flag(running.VerifyServerHostname, "verify_server_hostname"),
		tlsPaths: pathsOf(in, "internal_rpc"),
		server:   isServer(in),
		running:  in.Running.Known && running.VerifyOutgoing != nil,
	}
	r.autoEncrypt = !r.server && on(in.Running.Value.AutoEncrypt, "auto_encrypt.tls")
	r.autoConfig = !r.server && on(in.Running.Value.AutoConfig, "auto_config.enabled")
	if r.outgoing.known && !r.outgoing.value && r.hostname.value {
		// In all versions since the fix of CVE-2018-19653. What an agent tells has it in already, its files have not.
		r.outgoing.value, r.outgoing.found = true, r.hostname.found+", which implies verify_outgoing"
	}
	return r
}

// isSet tells whether a file or folder is known to be named.
func isSet(s setting[string]) bool { return s.known && s.value != "" }

func (r *rpcTLS) hasCA() bool { return isSet(r.caFile) || isSet(r.caPath) }

// off tells that RPC does without TLS, and that nothing was prepared for it.
func (r *rpcTLS) off() bool {
	return r.unverified() && !r.incoming.value && !r.hasCA() && !isSet(r.certFile)
}

// unverified tells that the agent is known not to verify servers.
func (r *rpcTLS) unverified() bool {
	return r.outgoing.known && !r.outgoing.value && !r.autoEncrypt && !r.autoConfig
}

// whereOff is the row of an item that hangs on TLS where there is none; false where there is.
func (r *rpcTLS) whereOff() (Row, bool) {
	return notApplicable("TLS is not configured for RPC: see " + string(catalog.TLSOutgoing)), r.off()
}

func notApplicable(found ...string) Row { return Row{Status: NotApplicable, Found: found} }

func passed(found ...string) Row { return Row{Status: Pass, Found: found} }

func warned(found ...string) Row { return Row{Status: Warn, Found: found} }

func failed(found ...string) Row { return Row{Status: Fail, Found: found} }

// notSeen is the row of an item that cannot be judged, and what would help.
func notSeen(needs string, found ...string) Row {
	return Row{Status: Unknown, Found: found, Needs: needs}
}

// The steps in which TLS is switched on while a datacenter runs, as part of a sentence about where this host is.
const (
	stepPrepared = "step 1 of 3 of switching TLS on: a CA or certificate is in place and nothing is verified; next is " +
		"verify_outgoing = true, and verify_server_hostname = true, on every agent"
	stepReversed = "the steps of switching TLS on were taken out of order: verify_incoming is on and verify_outgoing is not; " +
		"next is verify_outgoing = true, and verify_server_hostname = true, on every agent"
	stepOutgoing = "step 2 of 3 of switching TLS on: outgoing connections are verified, incoming ones are not; next is " +
		"verify_incoming = true on the servers, once every agent has a certificate and is at step 2"
	stepNames = "step 2 of 3 of switching TLS on is half done: servers are verified, but not by name; next is " +
		"verify_server_hostname = true on every agent"
	stepAllButNames = "all steps of switching TLS on are done but one: next is verify_server_hostname = true on every agent"
)

func outgoingVerified(in *Input) Row {
	r := rpcOf(in)
	switch {
	case r.outgoing.known && r.outgoing.value:
		return passed(r.outgoing.found)
	case r.autoEncrypt && r.hasCA():
		return passed(r.outgoing.found, "auto_encrypt is on and a CA is set: servers are verified all the same")
	case r.autoEncrypt && !r.caFile.known:
		return r.caFile.unknown()
	case r.autoEncrypt && !r.caPath.known:
		return r.caPath.unknown()
	case r.autoEncrypt:
		return Row{
			Status: Warn, Found: []string{"auto_encrypt is on, and no ca_file or ca_path is set: whoever answers first in a server's " +
				"place is believed, and the CA that it sends is trusted from then on"},
			Remedy: "give this agent the CA of the servers' certificates: set tls { defaults { ca_file } } and run consul reload",
		}
	case r.autoConfig:
		return notSeen("the address of the local agent", "auto_config is on: what the servers hand out counts, and it is not known")
	case !r.outgoing.known:
		return r.outgoing.unknown()
	case r.off():
		found := []string{"TLS is not configured for RPC: there is neither a CA nor a certificate, and nothing is verified",
			r.outgoing.found}
		if !r.caFile.known || !r.certFile.known {
			found[0] = "TLS is not configured for RPC, as far as it is known: nothing is verified"
		}
		return Row{Status: Fail, Found: found}
	case r.incoming.known && r.incoming.value:
		return failed(r.outgoing.found, stepReversed)
	}
	return failed(r.outgoing.found, stepPrepared)
}

func incomingVerified(in *Input) Row {
	r := rpcOf(in)
	if row, ok := r.whereOff(); ok {
		return row
	}
	switch {
	case r.incoming.known && r.incoming.value:
		return passed(r.incoming.found)
	case !r.incoming.known && !in.Running.Known:
		return r.incoming.unknown()
	case !r.server:
		return notApplicable("this agent is a client, which takes no RPC from the network: verify_incoming counts on servers")
	case !r.incoming.known:
		return r.incoming.unknown()
	case r.unverified():
		return notApplicable("verify_incoming comes after verify_outgoing: see "+string(catalog.TLSOutgoing), r.incoming.found)
	}
	return failed(r.incoming.found, stepOutgoing)
}

func hostnameVerified(in *Input) Row {
	r := rpcOf(in)
	if row, ok := r.whereOff(); ok {
		return row
	}
	switch {
	case r.hostname.known && r.hostname.value:
		return passed(r.hostname.found)
	case r.autoEncrypt, r.autoConfig && !r.running:
		// A client of auto_encrypt does as the servers tell it beside its own setting, and shows that nowhere.
		return notSeen("verify_server_hostname = true among this agent's own settings, or hostagent audit on a server",
			"the servers decide beside this agent's own settings, and it does not tell what they said", r.hostname.found)
	case !r.hostname.known:
		return r.hostname.unknown()
	case r.unverified():
		return notApplicable("nothing of servers is verified: see " + string(catalog.TLSOutgoing))
	case r.incoming.known && r.incoming.value:
		return failed(r.hostname.found, stepAllButNames)
	}
	return failed(r.hostname.found, stepNames)
}

// serverCertificates holds what servers show against each other.
func serverCertificates(in *Input) Row {
	r := rpcOf(in)
	if row, ok := r.whereOff(); ok {
		return row
	}
	if !in.ServerCertificates.Known {
		return in.ServerCertificates.unknown("the servers' certificates").needing("run hostagent audit: the service asks no server")
	}
	servers := in.ServerCertificates.Value
	if shared := sharedCertificates(servers); len(shared) > 0 {
		return Row{Status: Fail, Found: shared}
	}
	var plain, unknown []string
	for _, server := range servers {
		switch {
		case server.Plain:
			plain = append(plain, fmt.Sprintf("server %s does no TLS on its RPC port: %s", server.Server, server.Problem))
		case server.Key == "":
			unknown = append(unknown, fmt.Sprintf("server %s: %s", server.Server, server.Problem))
		}
	}
	switch {
	case len(plain) > 0:
		return Row{
			Status: Warn, Found: append(plain, unknown...), Remedy: "configure TLS on every server, with a certificate for each",
		}
	case len(unknown) > 0 || len(servers) == 0:
		if len(servers) == 0 {
			unknown = []string{"no server is seen"}
		}
		return Row{Status: Unknown, Found: unknown, Needs: "the servers' RPC port, usually 8300, reachable from this host, and " +
			"node:read on the servers"}
	case len(servers) == 1:
		return notApplicable("one server is seen, there is nothing to compare")
	}
	return passed(plural(len(servers), "server") + ", each with a key of its own")
}

// sharedCertificates tells of servers with the same key, in the servers' order.
func sharedCertificates(servers []ServerCertificate) []string {
	var found, keys []string
	byKey := map[string][]ServerCertificate{}
	for _, server := range servers {
		if server.Key == "" {
			continue
		}
		if byKey[server.Key] == nil {
			keys = append(keys, server.Key)
		}
		byKey[server.Key] = append(byKey[server.Key], server)
	}
	for _, key := range keys {
		holders := byKey[key]
		if len(holders) == 1 {
			continue
		}
		names, what := make([]string, len(holders)), "the same certificate"
		for i, holder := range holders {
			names[i] = holder.Server
			if holder.Fingerprint != holders[0].Fingerprint {
				what = "different certificates of the same key"
			}
		}
		found = append(found, "servers with "+what+": "+strings.Join(names, ", "))
	}
	return found
}
