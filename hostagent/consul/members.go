// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"unicode/utf8"
)

// MaxMembers is how many members of a gossip pool are taken in. A set of sources holds 65,536 of one IP version, and other
// sources want a place in it too; Consul itself advises to end far below that.
const MaxMembers = 50_000

// Members are the addresses of the hosts that the local agent's gossip pool counts among its members, by datacenter. A
// member has the one address that it advertises. The value is shared between answers: read only.
type Members struct {
	byDatacenter map[string][]netip.Addr // each sorted, each address once
}

// Of returns the members of one datacenter, sorted, each address once: read only. An empty name means all of them, and a
// member that names no datacenter is of every one. The local pool has members of its own datacenter only, unless somebody
// joined two of them by mistake.
func (m *Members) Of(datacenter string) []netip.Addr {
	if _, anonymous := m.byDatacenter[""]; !anonymous && datacenter != "" {
		return m.byDatacenter[datacenter]
	}
	var all []netip.Addr
	for name, addrs := range m.byDatacenter {
		if datacenter == "" || name == "" || name == datacenter {
			all = append(all, addrs...)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// Members returns the members of the local agent's LAN gossip pool, or an *Error: never a part of them. Whole is meant as
// in Services, and an answer that names not even the agent itself is none. Members that have failed are among them, because
// a host that is cut off for a while is still a member, and so are those that are about to leave; those that have left are
// not. The agent answers from memory, with no server in reach too, but one that has just started knows few members yet.
func (c *Client) Members(ctx context.Context) (Members, error) {
	got, err := c.get(ctx, "/v1/agent/members", "")
	if err != nil {
		return Members{}, err
	}
	if err := wholeMembers(got); err != nil {
		return Members{}, err
	}
	members, _, err := c.members.decode(got.body, decodeMembers)
	if err != nil {
		return Members{}, c.malformed("list of members", err)
	}
	return members, nil
}

// wholeMembers is whole for a list of members, whose remedy is another right.
func wholeMembers(got answer) error {
	if isFiltered(got) {
		return &Error{Kind: KindFiltered, Err: errors.New("it left members out, because the token lacks node:read on them"),
			Fix: `give it node_prefix "" { policy = "read" }`}
	}
	return whole(got)
}

// The statuses of a member, as serf numbers them.
const (
	memberAlive   = 1
	memberLeaving = 2
	memberFailed  = 4
)

// decodeMembers reads one member at a time: an answer is mostly tags that nobody here wants.
func decodeMembers(body []byte) (Members, error) {
	if !utf8.Valid(body) {
		return Members{}, errNoUTF8
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
		return Members{}, fmt.Errorf("the answer is no JSON list but begins %s; is that the address of a Consul agent?",
			strconv.QuoteToASCII(truncate(string(body), 40)))
	}
	count, usable := 0, 0
	all := map[string][]netip.Addr{}
	for ; decoder.More(); count++ {
		if count == MaxMembers {
			return Members{}, fmt.Errorf("it has more than %d members", MaxMembers)
		}
		var member struct {
			Addr   string
			Status int
			Tags   struct {
				Datacenter string `json:"dc"`
			}
		}
		if err := decoder.Decode(&member); err != nil {
			return Members{}, err
		}
		switch member.Status {
		case memberAlive, memberLeaving, memberFailed:
		default:
			continue
		}
		if addr, err := netip.ParseAddr(member.Addr); err == nil && isSource(addr) {
			usable++
			all[member.Tags.Datacenter] = append(all[member.Tags.Datacenter], addr.Unmap())
		}
	}
	if _, err := decoder.Token(); err != nil { // the end of the list
		return Members{}, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Members{}, errors.New("something follows the list")
	}
	if usable == 0 {
		return Members{}, fmt.Errorf("none of its %d members has an address, not even the agent itself", count)
	}
	for datacenter, addrs := range all {
		slices.SortFunc(addrs, netip.Addr.Compare)
		all[datacenter] = slices.Compact(addrs)
	}
	return Members{byDatacenter: all}, nil
}

// isSource tells whether packets of one host can come from addr.
func isSource(addr netip.Addr) bool {
	return addr.Zone() == "" && !addr.Unmap().IsUnspecified() && !addr.Unmap().IsMulticast()
}
