// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"slices"

	"github.com/hostagent/hostagent/sockets"
)

// evaluate fills in the result, and with Parts.All the listeners, and returns what kept owners out of sight.
func (s *Scan) evaluate(ctx context.Context, parts Parts, in *Input) (incomplete string) {
	if !parts.All {
		s.Result, incomplete = evaluateWithOwners(ctx, *in, parts.Owners)
		return incomplete
	}
	all := slices.Concat(in.Listeners, in.Elsewhere) // by namespace already
	in.Owners, incomplete = lookup(ctx, parts.Owners, all)
	s.Result = Evaluate(*in)
	s.Namespaces = in.Namespaces
	s.Listeners = s.withOwners(all, in.Owners)
	return incomplete
}

// withOwners puts listeners and owners together.
func (s *Scan) withOwners(listeners []sockets.Listener, owners map[uint64]sockets.Owner) []Reachable {
	out := make([]Reachable, len(listeners))
	for i, l := range listeners {
		out[i] = Reachable{Listener: l, Guarded: s.guards(&l)}
		if owner, ok := owners[l.Cookie]; ok {
			out[i].Owner = &owner
		}
	}
	return out
}

// guards tells whether the guard keeps the network from a listener that it could reach otherwise.
func (s *Scan) guards(l *sockets.Listener) bool {
	return l.Namespace == 0 && l.Protocol == sockets.TCP && l.Exposed() && s.standing.enforced.Has(l.Addr.Port())
}
