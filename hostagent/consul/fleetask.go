// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	// fleetTimeout is how long the servers may take for one list, where Config.Timeout is shorter.
	fleetTimeout = 30 * time.Second
	// maxFleetBody bounds one list. The longest is that of hostagent's checks: a catalog of 1,000 hosts with ten of them each,
	// most with a finding in full, was 12.7 MB (Consul 1.21), so that this is for about 21,000 such hosts.
	maxFleetBody = 256 << 20

	// fleetAge is how old a stale answer may be. Servers elect a leader within seconds, and a host is silent after 30.
	fleetAge = time.Minute

	maxFleetChecks = 1_000_000 // of one list
	maxFleetText   = 512       // bytes of a name, an id or a note

	serfHealth = "serfHealth" // the id of the check that the servers keep on each member of their gossip pool
	// sidecarCheck is how Consul names its default check of a sidecar's listener. It lets who registers choose any other.
	sidecarCheck = "Connect Sidecar Listening"
)

// FleetQuery says whose fleet is asked for.
type FleetQuery struct {
	Service     string // name of hostagent's own service
	Application string // name of a service whose instances are told too, "" for none
	Datacenter  string // "" for the agent's own
}

// Fleet asks the servers for the hosts of a datacenter, or returns an *Error: never a part of them, for a host that was left
// out would count as missing. The token needs node:read and service:read on all of them. Each of the lists is of one time,
// and they are not of the same one; any server answers (stale reads), for a minute also without a leader.
func (c *Client) Fleet(ctx context.Context, q FleetQuery) (Fleet, error) {
	a := fleetAsk{client: c, query: q}
	var nodes []nodeEntry
	var agents []agentEntry
	var checks []checkEntry
	var instances []instanceEntry
	var failed [4]error // by question, so that the same failure reads the same
	var all sync.WaitGroup
	all.Go(func() { nodes, failed[0] = fleetList[nodeEntry](ctx, a, "/v1/catalog/nodes", "", MaxMembers, "nodes") })
	all.Go(func() {
		agents, failed[1] = fleetList[agentEntry](ctx, a, "/v1/health/service/"+q.Service, "", MaxMembers, "instances of hostagent")
	})
	all.Go(func() {
		checks, failed[2] = fleetList[checkEntry](ctx, a, "/v1/health/state/any", fleetFilter(q.Service), maxFleetChecks, "checks")
	})
	if q.Application != "" {
		all.Go(func() {
			instances, failed[3] = fleetList[instanceEntry](ctx, a, "/v1/catalog/service/"+q.Application, "", maxFleetChecks, "instances")
		})
	}
	all.Wait()
	if first := slices.IndexFunc(failed[:], func(err error) bool { return err != nil }); first >= 0 {
		return Fleet{}, failed[first]
	}
	if len(nodes) == 0 {
		return Fleet{}, c.malformed("list of nodes", errors.New("it is empty, where each server is one; was a token sent that the datacenter knows?"))
	}
	f := Fleet{Datacenter: cmp.Or(q.Datacenter, nodes[0].Datacenter), Nodes: fleetNodes(nodes, checks), Agents: fleetAgents(agents, checks, q.Service)}
	if q.Application != "" {
		f.Instances = fleetInstances(instances)
	}
	return f, nil
}

// fleetFilter lets through what is told of nodes, and the checks with ids of hostagent's that do not stand on its service:
// results on services of applications, and what took the place of a check. What others write has any type.
func fleetFilter(service string) string {
	return fmt.Sprintf("CheckID == %q or Name == %q or ServiceName != %q and %q in CheckID", serfHealth, sidecarCheck, service, service+":")
}

// fleetAsk is what the questions of one Fleet have in common. They are under way at the same time.
type fleetAsk struct {
	client *Client
	query  FleetQuery
}

// fleetList fetches one list whole.
func fleetList[T any](ctx context.Context, a fleetAsk, path, filter string, most int, what string) ([]T, error) {
	c := a.client
	ctx, cancel := context.WithTimeout(ctx, max(c.timeout, fleetTimeout))
	defer cancel()
	got := answer{most: maxFleetBody}
	options := &api.QueryOptions{AllowStale: true, Datacenter: a.query.Datacenter, Filter: filter}
	if _, err := c.api.Raw().Query(path, new(any), options.WithContext(context.WithValue(ctx, answerKey{}, &got))); err != nil {
		return nil, a.denied(c.failure("ask for "+path, err))
	}
	if err := wholeFleet(got); err != nil {
		return nil, err
	}
	if err := current(got); err != nil {
		return nil, err
	}
	list, err := decodeList[T](got.body, most, what)
	if err != nil {
		return nil, c.malformed("list of "+what, err)
	}
	return list, nil
}

// current is an error where the server that answered has not heard of its leader for long: a stale read answers all the same,
// by default with what was so years ago (discovery_max_stale), and a host that fell silent since would read as one that runs.
func current(got answer) error {
	ms, err := strconv.ParseUint(got.header.Get("X-Consul-LastContact"), 10, 63)
	if age := time.Duration(min(ms, 1<<40)) * time.Millisecond; err == nil && age > fleetAge { //nolint:gosec // bounded
		return &Error{Kind: KindStatus, Err: fmt.Errorf("cannot use the answer of a Consul server that has not heard of a leader for %v, for what it "+
			"knows of hosts is that old; see consul operator raft list-peers, and ask again when there is a leader", age.Round(time.Second))}
	}
	return nil
}

// denied explains what Consul says of a datacenter that it does not know, and which rules a refusal is about.
func (a fleetAsk) denied(err error) error {
	if a.query.Datacenter != "" && KindOf(err) == KindStatus && strings.Contains(err.Error(), "No path to datacenter") {
		return &Error{Kind: KindStatus, Err: fmt.Errorf(
			"cannot ask datacenter %q: the servers of the Consul agent %s know no way there; \"consul catalog datacenters\" lists those that they know",
			truncate(a.query.Datacenter, 80), a.client.address)}
	}
	return needing(err, fleetNeeds)
}

const fleetNeeds = `node_prefix "" { policy = "read" } and service_prefix "" { policy = "read" }`

// wholeFleet is whole for lists of the catalog, whose remedy is other rights.
func wholeFleet(got answer) error {
	switch err := whole(got); {
	case isFiltered(got):
		return &Error{Kind: KindFiltered, Err: errors.New("it left hosts or services out, because the token lacks node:read or service:read on some"),
			Fix: `give it ` + fleetNeeds + ` ("hostagent acl-policy --fleet" prints them)`}
	case KindOf(err) == KindFiltered:
		return &Error{Kind: KindFiltered, Err: errors.New("it denies by default, and no token was sent"),
			Fix: `set CONSUL_HTTP_TOKEN_FILE or consul { token_file }; "hostagent acl-policy --fleet" prints what the token needs`}
	default:
		return err
	}
}

type nodeEntry struct{ ID, Node, Address, Datacenter string }

type checkEntry struct{ Node, CheckID, Name, Status, Notes, Output, ServiceID string }

type agentEntry struct {
	Node    struct{ Node string }
	Service struct {
		ID   string
		Meta map[string]string
	}
	Checks []checkEntry
}

type instanceEntry struct {
	Node, ServiceID string
	ServicePort     int
}

// fleetNodes joins nodes with what checks tell of them. Whoever may write a service of a node may take Consul's own id for a
// check of his (seen with Consul 1.21: it replaces Consul's). So a node that has one at all is a member, whatever it stands on,
// and none is hidden that way; and only one of the node itself tells that gossip reaches it.
func fleetNodes(nodes []nodeEntry, checks []checkEntry) []FleetNode {
	list := make([]FleetNode, 0, len(nodes))
	at := make(map[string]int, len(nodes))
	for _, n := range nodes {
		node := FleetNode{Name: bounded(n.Node), ID: bounded(n.ID)}
		if addr, err := netip.ParseAddr(n.Address); err == nil {
			node.Address = addr.Unmap().WithZone("")
		}
		at[n.Node] = len(list)
		list = append(list, node)
	}
	sidecars := map[[2]string]bool{} // by node and service
	for _, check := range checks {
		i, known := at[check.Node]
		switch {
		case !known: // it came after the list of nodes
		case check.CheckID == serfHealth:
			list[i].Member, list[i].Alive = true, check.Status == string(Passing) && check.ServiceID == ""
			list[i].TakenBy = bounded(check.ServiceID)
		case check.Name == sidecarCheck && !sidecars[[2]string{check.Node, check.ServiceID}]:
			sidecars[[2]string{check.Node, check.ServiceID}] = true
			list[i].Sidecars++
		}
	}
	slices.SortFunc(list, func(a, b FleetNode) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list
}

// fleetAgents are the instances of hostagent's service with their checks, and with those of others that stand on the services
// of applications (report { on = "service" }), where their id is the very one that a hostagent makes for that service. A check
// elsewhere with an id of hostagent's has taken the place of one of its checks: a node has one check of an id, and the catalog
// lets whoever may write one service of the node move any to it (seen with Consul 1.21; the agent mends it within minutes).
func fleetAgents(entries []agentEntry, others []checkEntry, service string) []FleetAgent {
	agents := make([]FleetAgent, 0, len(entries))
	at := make(map[string]int, len(entries)) // by node: the one that is hostagent's own by its id
	for _, e := range entries {
		agent := FleetAgent{Node: bounded(e.Node.Node), ID: bounded(e.Service.ID), Meta: boundedMeta(e.Service.Meta)}
		for _, check := range e.Checks {
			if check.ServiceID == e.Service.ID {
				agent.Checks = append(agent.Checks, check.bounded())
			}
		}
		if e.Service.ID == service {
			at[e.Node.Node] = len(agents)
		}
		agents = append(agents, agent)
	}
	for _, check := range others {
		i, known := at[check.Node]
		if !known || check.ServiceID == service || !strings.HasPrefix(check.CheckID, service+":") {
			continue
		}
		result := check.bounded()
		result.Application = bounded(check.ServiceID)
		if check.CheckID == CheckID(service, ResultKey(check.ServiceID)) {
			agents[i].Checks = append(agents[i].Checks, result)
		} else {
			agents[i].Taken = append(agents[i].Taken, result)
		}
	}
	for _, agent := range agents {
		for _, checks := range [][]FleetCheck{agent.Checks, agent.Taken} {
			slices.SortFunc(checks, func(a, b FleetCheck) int { return cmp.Compare(a.ID, b.ID) })
		}
	}
	slices.SortFunc(agents, func(a, b FleetAgent) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID)) })
	return agents
}

// bounded returns c with texts of bounded length, and with a status that Consul knows: another one is no better than critical.
func (c *checkEntry) bounded() FleetCheck {
	check := FleetCheck{
		ID: bounded(c.CheckID), Name: bounded(c.Name), Status: Status(c.Status), Output: truncateUTF8(c.Output, MaxOutput), Notes: bounded(c.Notes),
	}
	if check.Status != Passing && check.Status != Warning {
		check.Status = Critical
	}
	return check
}

func bounded(text string) string { return truncate(text, maxFleetText) }

// boundedMeta cuts what no agent would have taken; it came into the catalog in another way.
func boundedMeta(meta map[string]string) map[string]string {
	if len(meta) > maxMetaPairs {
		return nil
	}
	for key, value := range meta {
		if len(key) > maxMetaKey || len(value) > maxMetaValue {
			delete(meta, key)
		}
	}
	return meta
}

func fleetInstances(entries []instanceEntry) []FleetInstance {
	list := make([]FleetInstance, 0, len(entries))
	for _, e := range entries {
		list = append(list, FleetInstance{Node: bounded(e.Node), ID: bounded(e.ServiceID), Port: e.ServicePort})
	}
	slices.SortFunc(list, func(a, b FleetInstance) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Port, b.Port))
	})
	return list
}
