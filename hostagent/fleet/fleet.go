// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"net/netip"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// Query is what Evaluate is asked for.
type Query struct {
	Service     string // the name of hostagent's own service
	Application string // the name of an application, "" for all hosts
}

// Report is what the catalog tells of the hosts of a datacenter. All texts are safe to show.
type Report struct {
	Datacenter string
	// Service is the name of the application that was asked for; only hosts with an instance of it are told of then, and only
	// what is about it. "" for all.
	Service string
	Hosts   []Host // the worst first, see Host.Worst
	// Others counts nodes of the catalog that are no hosts of an agent.
	Others int
}

// State says whether a host runs hostagent.
type State string

// The states, the worst first.
const (
	Silent  State = "silent"  // it should have reported, and did not; or the host is out of reach
	Missing State = "missing" // it does not run hostagent
	Stopped State = "stopped" // it was stopped on purpose
	Runs    State = "runs"
)

// Host is one host of the datacenter.
type Host struct {
	Node    string
	NodeID  string
	Address netip.Addr
	Alive   bool // gossip reaches it
	State   State
	// Says is what its life check says where that does not pass, or why the host is Silent or Missing though something seems
	// to run: why settings or registrations are not up to date. One line.
	Says string
	Self Self
	// Sidecars counts the sidecars that the catalog is known to have of it.
	Sidecars int
	Checks   []Check   // of hostagent, without those that it tells as findings below
	Services []Service // by name
	Findings []Finding // of all checks, the worst first
	More     int       // findings that its checks only count
}

// Check is a check of hostagent's that is about no application: "firewall", "sidecar-range", "production-checklist", "alive".
type Check struct {
	Key    string
	Name   string
	Status consul.Status
	Output string // lines, without an end of the last
}

// Service is a mesh service of a host, as its check tells of it.
type Service struct {
	ID     string // "" where the check's id does not tell
	Name   string
	Status consul.Status
	Told   bool // false where the check only counts
	// Says is what the check says where it does not pass and no finding in it tells why; "" otherwise.
	Says     string
	Sidecars []Sidecar
	More     int // sidecars that its check only counts
	// Loopback are the listeners that only the host reaches, such as "tcp 127.0.0.1:8080"; the last may be "3 more".
	Loopback []string
	Findings []Finding // the worst first
}

// Sidecar is a registered proxy of a service.
type Sidecar struct {
	ID   string
	Port int    // as registered, even where it is no port
	Says string // "open", "left closed", "guard mode would open it", …
	Open bool   // or would be in guard mode
	// Paths are its exposed paths' ports: "20200, open to exposed_paths_from".
	Paths []string
}

// Finding is a finding as a check tells it. One that a check only counts has a severity, an id and a state, and no text.
type Finding struct {
	Severity  catalog.Severity
	ID        catalog.ID
	State     string // "open", "mitigated", "exempt"
	Service   string // of the application, "" for none
	ServiceID string // of the application, "" for none and where it is not known
	Where     string // the listener, such as "tcp 0.0.0.0:8080"; "" for none
	Message   string
	Who       string
	Remedy    string
	Exemption string
}

// The states of a finding.
const (
	stateOpen      = "open"
	stateMitigated = "mitigated"
	stateExempt    = "exempt"
)
