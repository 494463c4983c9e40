// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"encoding/json"
	"strings"
)

// Running is what the local agent tells of the settings that it runs with. What it does not tell, because its version does
// not or because it is none of its business, is nil. DebugConfig, where most of it stands, is for humans: keys come and go
// with versions, and Consul 1.8 to 1.21 are read.
type Running struct {
	Agent
	PrimaryDatacenter string
	Domain            string // of names, without the dot at its end: "consul"; "" where it is not told
	DevMode           *bool

	ACLsEnabled         *bool
	ACLDefaultPolicy    *string
	ACLTokenPersistence *bool
	// ACLsEnabledLive and ACLDefaultPolicyLive tell that these two are what runs, even where a reload made DebugConfig show
	// what stands in files since.
	ACLsEnabledLive, ACLDefaultPolicyLive bool

	DefaultIntentionPolicy  *string // "" where none is set: the ACLs' default policy counts
	AutoEncrypt, AutoConfig *bool   // the agent gets its TLS settings and certificate from the servers

	// GossipEncrypted is what gossip in the datacenter really does, and GossipEncryptedWAN that between datacenters, which is
	// nil on clients.
	GossipEncrypted, GossipEncryptedWAN        *bool
	GossipVerifyIncoming, GossipVerifyOutgoing *bool

	RPC, HTTPS, GRPC TLS

	// HTTPAddrs and the others are where the APIs are served, as in "tcp://127.0.0.1:8500" and "unix:///run/consul.sock": nil
	// where the agent does not tell, empty where the API is off.
	HTTPAddrs, HTTPSAddrs, GRPCAddrs, GRPCTLSAddrs []string

	ConnectEnabled *bool
}

// TLS is how one of an agent's protocols uses TLS. Before Consul 1.12 one set of settings stood for all of them.
type TLS struct {
	VerifyIncoming, VerifyOutgoing, VerifyServerHostname *bool
	CAFile, CAPath, CertFile                             *string // "" where none is set
}

// maxAddrs is how many addresses of one API are taken in.
const maxAddrs = 100

// Running asks the local agent what it runs with; the token needs agent:read on this node.
func (c *Client) Running(ctx context.Context) (Running, error) {
	got, err := c.get(ctx, "/v1/agent/self", "")
	if err != nil {
		return Running{}, err
	}
	running, err := decodeRunning(got.body)
	if err != nil {
		return Running{}, c.malformed("description of itself", err)
	}
	running.headerSays(got.header.Get(headerPolicy))
	return running, nil
}

// headerSays takes the default policy from a header that each answer of Consul since 1.9 has. It is what runs, but in the
// versions from 1.14 to 1.17 of which some put a reloaded configuration in the place of the agent's own.
func (r *Running) headerSays(policy string) {
	if policy != "allow" && policy != "deny" {
		return
	}
	r.ACLDefaultPolicy = &policy
	r.ACLDefaultPolicyLive = !r.ReloadMisleads()
}

// ReloadMisleads tells that a reload may change even how the agent answers that ACLs are disabled, and what headers say of
// the default policy, although neither changes before it is started anew.
func (r *Running) ReloadMisleads() bool { return r.Since("1.14.0") && !r.Since("1.18.0") }

func decodeRunning(body []byte) (Running, error) {
	agent, err := decodeAgent(body)
	if err != nil {
		return Running{}, err
	}
	var raw struct{ Config, DebugConfig, Stats, Member settings }
	if err := json.Unmarshal(body, &raw); err != nil {
		return Running{}, err
	}
	config := raw.DebugConfig
	r := Running{
		Agent:                  agent,
		DevMode:                valueAt[bool](config, "DevMode"),
		ACLsEnabled:            valueAt[bool](config, "ACLsEnabled"),
		ACLDefaultPolicy:       toldDefaultPolicy(config),
		ACLTokenPersistence:    toldPersistence(config),
		DefaultIntentionPolicy: valueAt[string](config, "DefaultIntentionPolicy"),
		AutoEncrypt:            valueAt[bool](config, "AutoEncryptTLS"),
		AutoConfig:             valueAt[bool](config, "AutoConfig", "Enabled"),
		GossipEncrypted:        encrypted(raw.Stats, "serf_lan"),
		GossipEncryptedWAN:     encrypted(raw.Stats, "serf_wan"),
		GossipVerifyIncoming:   eitherPlace(config, "EncryptVerifyIncoming"),
		GossipVerifyOutgoing:   eitherPlace(config, "EncryptVerifyOutgoing"),
		HTTPAddrs:              toldAddrs(config, "HTTPAddrs"),
		HTTPSAddrs:             toldAddrs(config, "HTTPSAddrs"),
		ConnectEnabled:         valueAt[bool](config, "ConnectEnabled"),
	}
	if enabled := taggedACLs(raw.Member); enabled != nil {
		r.ACLsEnabled, r.ACLsEnabledLive = enabled, true
	}
	// Config has it since 1.10.
	if primary := cmp.Or(valueAt[string](raw.Config, "PrimaryDatacenter"), valueAt[string](config, "PrimaryDatacenter")); primary != nil {
		r.PrimaryDatacenter = *primary
	}
	if domain := valueAt[string](config, "DNSDomain"); domain != nil {
		r.Domain = strings.ToLower(strings.TrimSuffix(*domain, "."))
	}
	r.RPC, r.HTTPS, r.GRPC = toldTLS(config)
	r.GRPCAddrs, r.GRPCTLSAddrs = toldGRPC(config)
	return r, nil
}

// settings are a part of what an agent tells for humans: its keys come and go with versions, so each is read by itself.
type settings map[string]json.RawMessage

// valueAt reads the setting at the end of path, nil where it is missing, null or of another type.
func valueAt[T any](from settings, path ...string) *T {
	for ; len(path) > 1; path = path[1:] {
		var inner settings
		if json.Unmarshal(from[path[0]], &inner) != nil {
			return nil
		}
		from = inner
	}
	var value *T
	if json.Unmarshal(from[path[0]], &value) != nil {
		return nil
	}
	return value
}

// toldDefaultPolicy reads a setting that moved with Consul 1.11.
func toldDefaultPolicy(config settings) *string {
	return cmp.Or(valueAt[string](config, "ACLResolverSettings", "ACLDefaultPolicy"), valueAt[string](config, "ACLDefaultPolicy"))
}

// taggedACLs reads the gossip tag by which an agent says whether its ACLs are enabled: servers, and before Consul 1.11 clients
// too, which said 2 while the others of the datacenter were too old. It is set at the start.
func taggedACLs(member settings) *bool {
	tag := valueAt[string](member, "Tags", "acls")
	switch {
	case tag == nil:
		return nil
	case *tag == "0":
		return new(false)
	case *tag == "1", *tag == "2":
		return new(true)
	}
	return nil
}

// toldPersistence reads a setting that moved with Consul 1.9.
func toldPersistence(config settings) *bool {
	return cmp.Or(valueAt[bool](config, "ACLTokens", "EnablePersistence"), valueAt[bool](config, "ACLEnableTokenPersistence"))
}

// eitherPlace reads a setting that stands apart since Consul 1.12, with those that a reload does not change.
func eitherPlace(config settings, key string) *bool {
	return cmp.Or(valueAt[bool](config, "StaticRuntimeConfig", key), valueAt[bool](config, key))
}

// encrypted tells whether gossip of a pool is encrypted: statistics are texts.
func encrypted(stats settings, pool string) *bool {
	text := valueAt[string](stats, pool, "encrypted")
	if text == nil || *text != "true" && *text != "false" {
		return nil
	}
	return new(*text == "true")
}

// toldAddrs is nil where the agent does not tell, and empty where the API is off.
func toldAddrs(config settings, key string) []string {
	addrs := valueAt[[]string](config, key)
	if addrs == nil || *addrs == nil || len(*addrs) > maxAddrs {
		return nil
	}
	return *addrs
}

// toldGRPC tells where gRPC is served without TLS and with it. Before Consul 1.14, which knows no GRPCTLSPort, there was one
// listener, which used TLS where the HTTPS API was on (agent/agent.go of 1.8 to 1.13).
func toldGRPC(config settings) (plain, overTLS []string) {
	plain, overTLS = toldAddrs(config, "GRPCAddrs"), toldAddrs(config, "GRPCTLSAddrs")
	if _, apart := config["GRPCTLSPort"]; apart || plain == nil {
		return plain, overTLS
	}
	port := valueAt[int](config, "HTTPSPort")
	switch {
	case port == nil:
		return nil, nil
	case *port > 0:
		return []string{}, plain
	}
	return plain, []string{}
}

// toldTLS reads the settings of the three protocols. Before Consul 1.12 one set stood for all: verify_incoming for both RPC
// and HTTPS, with a setting of its own for each, and none for gRPC, which asked for no certificates (tlsutil/config.go).
func toldTLS(config settings) (rpc, https, grpc TLS) {
	if _, apart := config["TLS"]; apart {
		of := func(protocol string) TLS {
			return TLS{
				VerifyIncoming:       valueAt[bool](config, "TLS", protocol, "VerifyIncoming"),
				VerifyOutgoing:       valueAt[bool](config, "TLS", protocol, "VerifyOutgoing"),
				VerifyServerHostname: valueAt[bool](config, "TLS", protocol, "VerifyServerHostname"),
				CAFile:               valueAt[string](config, "TLS", protocol, "CAFile"),
				CAPath:               valueAt[string](config, "TLS", protocol, "CAPath"),
				CertFile:             valueAt[string](config, "TLS", protocol, "CertFile"),
			}
		}
		return of("InternalRPC"), of("HTTPS"), of("GRPC")
	}
	files := TLS{
		CAFile: valueAt[string](config, "CAFile"), CAPath: valueAt[string](config, "CAPath"),
		CertFile: valueAt[string](config, "CertFile"),
	}
	both := valueAt[bool](config, "VerifyIncoming")
	rpc, https, grpc = files, files, files
	rpc.VerifyIncoming = anyOf(both, valueAt[bool](config, "VerifyIncomingRPC"))
	https.VerifyIncoming = anyOf(both, valueAt[bool](config, "VerifyIncomingHTTPS"))
	if both != nil {
		grpc.VerifyIncoming = new(false)
	}
	rpc.VerifyServerHostname = valueAt[bool](config, "VerifyServerHostname")
	outgoing := valueAt[bool](config, "VerifyOutgoing")
	rpc.VerifyOutgoing, https.VerifyOutgoing = outgoing, outgoing
	return rpc, https, grpc
}

// anyOf is true where one is, and not known where one that could be is not.
func anyOf(a, b *bool) *bool {
	switch {
	case a != nil && *a, b != nil && *b:
		return new(true)
	case a == nil || b == nil:
		return nil
	}
	return new(false)
}
