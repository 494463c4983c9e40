// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/fleet"
	"github.com/hostagent/hostagent/sockets"
)

// Use says what a port of the sidecar range is used for.
type Use string

// The uses of a port, those first that stand over others.
const (
	UseSquatted Use = "squatted" // something that is no registered sidecar holds it
	UseShared   Use = "shared"   // two registrations ask for it, or another allocator handed it out too
	UseUnserved Use = "unserved" // registered, and nothing listens
	UseSidecar  Use = "sidecar"  // registered
	UsePath     Use = "path"     // a sidecar's exposed path or metrics, open to a few
	UseHeld     Use = "held"     // not registered any more, and open until close_delay has passed
	UseLocal    Use = "local"    // something listens that nobody finds fault with: a sidecar's upstream on loopback, say
)

// Cell is the sign of a port with that use in maps of the range, one of package fleet's.
func (u Use) Cell() byte {
	switch u {
	case UseSquatted:
		return fleet.CellSquatted
	case UseShared:
		return fleet.CellShared
	case UseUnserved:
		return fleet.CellSilent
	case UseSidecar:
		return fleet.CellSidecar
	case UsePath:
		return fleet.CellPath
	case UseHeld:
		return fleet.CellHeld
	case UseLocal:
		return fleet.CellLocal
	default:
		return fleet.CellFree
	}
}

// PortUse is a port of the sidecar range that is not free. For is who uses it: services, or the processes that squat on it;
// raw, "" when unknown.
type PortUse struct {
	Port uint16
	Use  Use
	For  string
}

// RangeUse lists the ports of the sidecar range that are not free, by port; all others are.
func (s *Scan) RangeUse() []PortUse { return rangeUse(&s.Result, s.listeners, s.published) }

// rangeUse lists the ports of the sidecar range that are not free by what was seen, by port. Listeners say which ports are
// used locally, and published ports for whom a shared one is.
func rangeUse(res *Result, listeners []sockets.Listener, published []firewall.Published) []PortUse {
	uses := map[uint16]PortUse{}
	for i := range listeners {
		if port := listeners[i].Addr.Port(); res.Range.Contains(port) {
			uses[port] = PortUse{Port: port, Use: UseLocal}
		}
	}
	for _, o := range res.Openings {
		use := PortUse{Port: o.Port, Use: UseSidecar, For: cmp.Or(strings.Join(o.Services, ", "), strings.Join(o.IDs, ", "))}
		if o.IsPath() {
			use.Use, use.For = UsePath, use.For+o.pathText()
		}
		if o.Held {
			use.Use, use.For = UseHeld, strings.Join(o.IDs, ", ")
		}
		if res.Range.Contains(o.Port) {
			uses[o.Port] = use
		}
	}
	worse := []Use{UseSquatted, UseShared, UseUnserved}
	for i := range res.Findings {
		f := &res.Findings[i]
		use := PortUse{Port: f.Port}
		switch f.ID {
		case catalog.SquattedPort, catalog.NotASidecar:
			use.Use, use.For = UseSquatted, processNames(f.Owner)
		case catalog.RangeShared:
			use.Use, use.For = UseShared, cmp.Or(uses[f.Port].For, goesTo(published, f.Port))
		case catalog.DuplicatePort:
			use.Use, use.For = UseShared, uses[f.Port].For
		case catalog.SidecarNotListening:
			use.Use, use.For = UseUnserved, uses[f.Port].For
		default: // says nothing of who has a port
			continue
		}
		now := slices.Index(worse, uses[f.Port].Use)
		if res.Range.Contains(f.Port) && (now < 0 || slices.Index(worse, use.Use) < now) {
			uses[f.Port] = use
		}
	}
	return slices.SortedFunc(maps.Values(uses), func(a, b PortUse) int { return cmp.Compare(a.Port, b.Port) })
}

// goesTo tells where nat rules send a port, "" where none does.
func goesTo(published []firewall.Published, port uint16) string {
	for _, p := range published {
		if p.First <= port && port <= p.Last {
			return p.To
		}
	}
	return ""
}
