// SPDX-License-Identifier: MPL-2.0

package consul

import "net/netip"

// Fleet is what the servers' catalog tells of the hosts of one datacenter and of the hostagents on them. All of it is text of
// others. The value is shared between answers: read only.
type Fleet struct {
	Datacenter string
	// Nodes are all nodes of the catalog, by name.
	Nodes []FleetNode
	// Agents are the instances of hostagent's service, by node and id.
	Agents []FleetAgent
	// Instances are those of the service that was asked for by name, by node and id; nil where none was.
	Instances []FleetInstance
}

// FleetNode is a node of the catalog.
type FleetNode struct {
	Name    string
	ID      string
	Address netip.Addr // invalid where the catalog has none, or a name
	// Member tells that a Consul agent of the datacenter's gossip pool runs there: others were registered by hand or by what
	// synchronizes another platform, and are no hosts on which hostagent could run. Alive tells that gossip reaches it.
	Member, Alive bool
	// TakenBy is the id of a service of the node that stands in the place of gossip's own check of the node, "" for none: what
	// gossip says of the node is not known then, and Alive is false.
	TakenBy string
	// Sidecars counts the sidecars of the node that have Consul's default check of a sidecar's listener; there may be more.
	Sidecars int
}

// FleetAgent is an instance of hostagent's own service.
type FleetAgent struct {
	Node   string
	ID     string // of the service: its name, but for a service that only has that name
	Meta   map[string]string
	Checks []FleetCheck // those on this service and its results on applications' services, by id
	// Taken are checks with ids of hostagent's in places where it puts none, by id. What hostagent says under them is not to be
	// seen.
	Taken []FleetCheck
}

// FleetCheck is a check of hostagent's as it stands in the catalog.
type FleetCheck struct {
	ID     string // see CheckID
	Name   string
	Status Status
	Output string
	Notes  string
	// Application is the id of the service that the check stands on, "" for hostagent's own. Who may write an application's
	// service may put a check of this id there: what it says is to be believed no more than that.
	Application string
}

// FleetInstance is an instance of an application. Sidecars are registered services of their own.
type FleetInstance struct {
	Node string
	ID   string
	Port int
}
