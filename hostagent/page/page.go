// SPDX-License-Identifier: MPL-2.0

// Package page writes what hostagent knows of one host, or of the hosts of a datacenter, as one HTML page that needs nothing
// beside itself: no network, no script, no font. All text in its values is untrusted and becomes text of the page.
package page

import "time"

// Page is all that a page shows.
type Page struct {
	Title      string // "web-17", "datacenter dc1"
	Datacenter string
	Version    string    // of the hostagent that writes the page
	At         time.Time // when it was looked; the page shows it in UTC
	// Fleet tells that the page is about a datacenter: it begins with an overview of Hosts, which is in the order in which they
	// are shown, and Missing.
	Fleet   bool
	Hosts   []Host
	Missing []Missing // hosts that do not run hostagent
	Notes   []string  // what could not be seen, and what narrows the page down, one sentence each
}

// Life says how hostagent is on a host.
type Life string

// The lives, the best first.
const (
	Runs    Life = "" // or a host that was looked at in person
	Stopped Life = "stopped"
	Silent  Life = "silent" // it should have reported and did not, or the host is out of reach
)

// Host is one host.
type Host struct {
	Name    string
	Address string // "" where it is not known
	Version string // of its hostagent, "" where it is not told
	Mode    string // "observe", "guard", or "" where nothing is told
	Enforce string // "report", "quarantine", or ""
	Life    Life
	Says    string // why what it tells may be out of date, "" for nothing
	Range   Range
	// Unknown says why mesh services are not known, "" where they are.
	Unknown string
	// Services are the mesh services.
	Services []Service
	Findings []Finding // the worst first
	More     int       // findings that are only counted
	Checks   []Check   // of hostagent itself that do not pass
	// Score is the production checklist's; nil where there was no audit. Rows are those to be mended or looked at, worst first.
	// Checklist is what a check tells of them in lines, where they are not known one by one.
	Score     []Count
	Rows      []Row
	Checklist string
	Notes     []string // what could not be seen there
}

// Range is the sidecar range.
type Range struct {
	First, Last uint16 // 0 where it is disabled or not known
	// Runs are the ports that are not free, by port; they do not overlap. What lies outside of the range is not drawn.
	Runs []Run
	// Partly tells that Runs are only those that are known of.
	Partly bool
}

// Use says what a port of the sidecar range is used for.
type Use string

// The uses of a port.
const (
	UseSidecar  Use = "sidecar"  // registered, and its sidecar listens
	UsePath     Use = "path"     // a sidecar's exposed path
	UseUnserved Use = "unserved" // registered, and nobody listens
	UseHeld     Use = "held"     // not registered any more, and open until close_delay has passed
	UseSquatted Use = "squatted" // something that is no registered sidecar holds it
	UseShared   Use = "shared"   // two registrations ask for it, or another allocator handed it out too
	UseLocal    Use = "local"    // something listens that nobody finds fault with
)

// Run is some ports in a row that are used alike.
type Run struct {
	First, Last uint16
	Use         Use
	Text        string // who has them: "web, db", "squatted by nc"; "" where it is not known
}

// Service is a mesh service of a host.
type Service struct {
	Name   string
	ID     string
	In     []WayIn
	Around []WayAround
	// Listeners are where the application listens behind its sidecars, "127.0.0.1:8080"; empty where nobody listens or it is not
	// told.
	Listeners []string
	Notes     []string // what else is told of it
	Told      bool     // false: it is not told how the service is reached (detail = "counts")
}

// WayIn is a way from the network over a sidecar.
type WayIn struct {
	Sidecar string // id of the registration
	Port    int    // of the sidecar, as registered
	Open    bool   // the network reaches it, or would in guard mode
	Says    string // how the port is: "open", "guard mode would open it", "left closed"
	// Path tells that the port is an exposed path: the sidecar asks for no certificate there.
	Path bool
	// Trouble is the id of a finding that says why nobody gets through, or not to that sidecar, although Open; "" for none.
	Trouble string
}

// WayAround is a listener that the network reaches without the sidecar.
type WayAround struct {
	At      string // "0.0.0.0:8080"
	Finding string // id of the finding
	State   string // "open", "mitigated", "exempt"
}

// Finding is something to be mended.
type Finding struct {
	Severity  string // "critical", "warning", "info"
	ID        string
	State     string // "open", "mitigated", "exempt"
	Title     string
	Service   string
	Where     string // "tcp 0.0.0.0:8080", "" for none
	Message   string
	Who       string
	Reach     string // at which addresses the network reaches it, as far as Message does not say
	Remedy    string
	Exemption string
}

// Check is a check of hostagent itself.
type Check struct {
	Name   string
	Status string // "warning", "critical"
	Output string // lines
}

// Count is how many rows of the production checklist have a status.
type Count struct {
	Status string // "pass", "n/a", "info", "unknown", "warn", "fail"
	N      int
}

// Row is an item of the production checklist.
type Row struct {
	Status string
	ID     string
	Title  string
	Found  []string
	Needs  string // what would show what was not seen
	Remedy string
}

// Missing is a host of the datacenter that does not run hostagent.
type Missing struct {
	Name     string
	Address  string
	Sidecars int // that are known of
	Alive    bool
}
