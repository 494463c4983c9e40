// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// Server is one of the datacenter's servers, as the members of the local agent's gossip tell.
type Server struct {
	Name    string
	Address string // host:port of its RPC
}

// Servers lists the datacenter's servers that are alive, sorted by name; the token needs node:read on each, and agent:read on
// this node. A member that says that it is a server is one: whether it has a server's certificate is for who asks to find out.
func (c *Client) Servers(ctx context.Context) ([]Server, error) {
	agent, err := c.Agent(ctx)
	if err != nil {
		return nil, err
	}
	got, err := c.get(ctx, "/v1/agent/members", "")
	if err != nil {
		return nil, err
	}
	if err := wholeMembers(got); err != nil {
		return nil, err
	}
	servers, err := decodeServers(got.body, agent.Datacenter)
	if err != nil {
		return nil, c.malformed("list of members", err)
	}
	return servers, nil
}

func decodeServers(body []byte, datacenter string) ([]Server, error) {
	type member struct {
		Name, Addr string
		Status     int
		Tags       struct {
			Role       string `json:"role"`
			Datacenter string `json:"dc"`
			Port       string `json:"port"`
		}
	}
	members, err := decodeList[member](body, MaxMembers, "members")
	if err != nil {
		return nil, err
	}
	if len(members) == 0 {
		return nil, errors.New("it names not even the agent itself")
	}
	servers := []Server{}
	for _, m := range members {
		if m.Status != memberAlive || m.Tags.Role != "consul" || m.Tags.Datacenter != datacenter {
			continue
		}
		addr, err := netip.ParseAddr(m.Addr)
		port, portErr := strconv.ParseUint(m.Tags.Port, 10, 16)
		if err != nil || portErr != nil || port == 0 || !isSource(addr) {
			return nil, errors.New("one of its servers has no address")
		}
		servers = append(servers, Server{Name: m.Name, Address: net.JoinHostPort(addr.Unmap().String(), m.Tags.Port)})
	}
	slices.SortFunc(servers, func(a, b Server) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Address, b.Address))
	})
	return servers, nil
}
