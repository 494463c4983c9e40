// SPDX-License-Identifier: MPL-2.0

// Package fleet is about all hosts of a datacenter: what one hostagent tells the others of itself, as metadata and checks of
// its own service in Consul, and what is to be seen in the catalog of all of them together. It is pure: the catalog comes in
// as a value (consul.Fleet), and there is no server of ours.
package fleet

import (
	"github.com/hostagent/hostagent/hostagent/audit"
)

// Self is what a hostagent tells of itself in the metadata of its service: what the text of its checks does not tell
// programs. It changes rarely: each change is a write to the servers. The zero value of a field is not told.
type Self struct {
	Version string
	Mode    string // "observe" or "guard"
	Enforce string // "report" or "quarantine"
	// First and Last bound the sidecar range, 0 where it is disabled.
	First, Last uint16
	// Cells is the sidecar range, a sign for each port from First on; what is missing at its end is free.
	Cells string
	// Score is what the production checklist found last, nil for no audit.
	Score audit.Score
}

// The signs of Cells, which are those of the range's map in hostagent scan.
const (
	CellSidecar  = '#' // registered, and its sidecar listens
	CellPath     = '=' // a sidecar's exposed path
	CellSilent   = '?' // registered, and nobody listens
	CellHeld     = '~' // not registered any more, and open until close_delay has passed
	CellSquatted = '!' // something that is no registered sidecar holds it
	CellShared   = '%' // two registrations ask for it, or another allocator handed it out too
	CellLocal    = '+' // something listens that nobody finds fault with
	CellFree     = '.'
)
