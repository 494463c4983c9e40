// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/fleet"
)

// meta is what the metadata of hostagent's own service tells programs of this host, once something is known of it. keep are
// keys of which nothing new is known yet.
func (a *Agent) meta() (meta map[string]string, keep []string) {
	p := &a.parts.Policy
	self := fleet.Self{Mode: string(p.Mode), Enforce: "report"}
	if p.Quarantine != nil {
		self.Enforce = "quarantine"
	}
	if p.CountsOnly {
		return self.Meta(), nil
	}
	self.Version, self.First, self.Last, self.Cells = a.parts.Version, a.result.Range.First, a.result.Range.Last, a.told.cells
	switch {
	case a.parts.Audit == nil:
	case a.audits.report != nil:
		self.Score = a.audits.report.Score()
	default: // what an earlier run found stands
		score := fleet.Self{Score: audit.Score{audit.Pass: 1}}
		for key := range score.Meta() {
			keep = append(keep, key)
		}
	}
	return self.Meta(), keep
}

// cells is the map of the sidecar range that others see: a sign for each port that is not free, those between them, and no
// more. Each change of it is a write to the servers, so it tells less than a scan does. What listens on loopback only is left
// out: upstreams and short-lived programs come and go. A port that is held for a sidecar counts as the sidecar's until it
// closes: an agent that reloads forgets its services for a moment.
func (a *Agent) cells() string {
	var cells []byte
	for _, u := range rangeUse(&a.result, nil, nil) {
		if u.Use == UseHeld {
			u.Use = UseSidecar
		}
		for at := int(u.Port - a.result.Range.First); len(cells) < at; {
			cells = append(cells, fleet.CellFree)
		}
		cells = append(cells, u.Use.Cell())
	}
	return string(cells)
}
