// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
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
	elsewhere := slices.Clone(in.Elsewhere)
	slices.SortStableFunc(elsewhere, func(a, b sockets.Listener) int { return cmp.Compare(a.Namespace, b.Namespace) })
	all := slices.Concat(in.Listeners, elsewhere)
	// A socket without a cookie was read from a file of /proc: nothing tells whose it is but its namespace.
	asked := slices.DeleteFunc(slices.Clone(all), func(l sockets.Listener) bool { return l.Cookie == 0 })
	in.Owners, incomplete = lookup(ctx, parts.Owners, asked)
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
		if owner, ok := owners[l.Cookie]; ok && l.Cookie != 0 {
			out[i].Owner = &owner
		}
	}
	return out
}

// guards tells whether the guard keeps the network from a listener that it could reach otherwise.
func (s *Scan) guards(l *sockets.Listener) bool {
	return l.Namespace == 0 && l.Protocol == sockets.TCP && l.Exposed() && s.standing.enforced.Has(l.Addr.Port())
}
