// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

// Agent is what the local agent says of itself at /v1/agent/self.
type Agent struct {
	Node       string
	NodeID     string
	Datacenter string
	Version    string
	// Address is the node's advertised address; invalid when the agent did not tell.
	Address netip.Addr
	// SidecarMin and SidecarMax bound the ports that the agent hands out to sidecars, as it reports them: -1 or 0
	// when disabled, and anything up to 65535 otherwise. RangeKnown is false where the agent did not tell.
	SidecarMin, SidecarMax int
	RangeKnown             bool
	// ExposeMin and ExposeMax bound the ports on which sidecars let the agent's checks through (expose { checks = true }), as
	// it reports them; 0 where it did not tell, -1 or 0 where that is disabled.
	ExposeMin, ExposeMax int
	// DataDir is the folder in which the agent keeps its data, "" where it did not tell.
	DataDir string
	// Members is how many hosts the datacenter's gossip pool has, with those that failed or left lately; 0 where the agent did
	// not tell, or no number up to a million.
	Members int
	// Server tells that the agent is one of the datacenter's servers.
	Server bool
	// Ports are the TCP and UDP ports that Consul itself listens on, by its name for them.
	Ports map[string]uint16
	// Plain are the TCP addresses at which the agent serves its APIs "http" and "grpc" without TLS, unspecified ones for all
	// of its host's. An API is missing where the agent did not tell; Plain is nil where it told of neither.
	Plain map[string][]netip.AddrPort
}

// Agent asks the local agent for facts about itself; the token needs agent:read on this node.
func (c *Client) Agent(ctx context.Context) (Agent, error) {
	got, err := c.get(ctx, "/v1/agent/self", "")
	if err != nil {
		return Agent{}, err
	}
	a, err := decodeAgent(got.body)
	if err != nil {
		return Agent{}, c.malformed("description of itself", err)
	}
	return a, nil
}

func decodeAgent(body []byte) (Agent, error) {
	var raw struct {
		Config struct {
			Datacenter, NodeName, NodeID, Version string
			Server                                bool
		}
		// DebugConfig is for humans: its keys come and go with versions, so each is read by itself and may be missing.
		DebugConfig map[string]json.RawMessage
		Member      struct {
			Addr string
			Tags json.RawMessage
		}
		Stats json.RawMessage
	}
	if err := object(body); err != nil {
		return Agent{}, err
	}
	if err := json.Unmarshal(body, &raw); err != nil {
		return Agent{}, err
	}
	if raw.Config.NodeName == "" {
		return Agent{}, errors.New("it names no node")
	}
	a := Agent{
		Node: raw.Config.NodeName, NodeID: raw.Config.NodeID,
		Datacenter: raw.Config.Datacenter, Version: raw.Config.Version, Server: raw.Config.Server,
		Ports: map[string]uint16{},
	}
	// Since Consul 1.14 Config shows after a reload what the files say. What it is among the members is what it was started as.
	var tags struct {
		Role string `json:"role"`
	}
	if err := json.Unmarshal(raw.Member.Tags, &tags); err == nil && tags.Role != "" {
		a.Server = tags.Role == "consul"
	}
	if addr, err := netip.ParseAddr(raw.Member.Addr); err == nil {
		a.Address = addr.Unmap()
	}
	read := func(key string) (int, bool) {
		var n *int // null is no answer
		if err := json.Unmarshal(raw.DebugConfig[key], &n); err != nil || n == nil {
			return 0, false
		}
		return *n, true
	}
	lo, okLo := read("ConnectSidecarMinPort")
	hi, okHi := read("ConnectSidecarMaxPort")
	a.SidecarMin, a.SidecarMax, a.RangeKnown = lo, hi, okLo && okHi
	a.ExposeMin, _ = read("ExposeMinPort")
	a.ExposeMax, _ = read("ExposeMaxPort")
	_ = json.Unmarshal(raw.DebugConfig["DataDir"], &a.DataDir) // "" where it is missing or no text
	for name, key := range map[string]string{
		"http": "HTTPPort", "https": "HTTPSPort", "grpc": "GRPCPort", "grpc_tls": "GRPCTLSPort", "dns": "DNSPort",
		"serf_lan": "SerfPortLAN", "serf_wan": "SerfPortWAN", "server": "ServerPort",
	} {
		if n, ok := read(key); ok && n > 0 && n <= 65535 {
			a.Ports[name] = uint16(n)
		}
	}
	a.Plain, a.Members = plainAPIs(raw.DebugConfig), membersTold(raw.Stats)
	return a, nil
}

// membersTold reads the size of the gossip pool out of the agent's statistics, which are for humans: all numbers are texts.
func membersTold(stats json.RawMessage) int {
	const most = 1_000_000
	var raw struct {
		Pool struct {
			Members string `json:"members"`
		} `json:"serf_lan"`
	}
	if err := json.Unmarshal(stats, &raw); err != nil {
		return 0
	}
	if n, err := strconv.ParseUint(raw.Pool.Members, 10, 31); err == nil && n <= most {
		return int(n)
	}
	return 0
}

// plainAPIs reads where the APIs without TLS are. Before Consul 1.14, which knows no GRPCTLSPort, TLS was a matter of the
// one port of gRPC, and whether it was on is not told.
func plainAPIs(config map[string]json.RawMessage) map[string][]netip.AddrPort {
	const most = 100 // addresses
	var plain map[string][]netip.AddrPort
	for name, key := range map[string]string{"http": "HTTPAddrs", "grpc": "GRPCAddrs"} {
		var texts []string
		if _, told := config["GRPCTLSPort"]; name == "grpc" && !told {
			continue
		}
		if err := json.Unmarshal(config[key], &texts); err != nil || texts == nil {
			continue
		}
		at := []netip.AddrPort{}
		for _, text := range texts[:min(len(texts), most)] {
			rest, isTCP := strings.CutPrefix(text, "tcp://") // the others are unix sockets
			if addr, err := netip.ParseAddrPort(rest); err == nil && isTCP {
				at = append(at, netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port()))
			}
		}
		if plain == nil {
			plain = map[string][]netip.AddrPort{}
		}
		plain[name] = at
	}
	return plain
}
