// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/sockets"
)

// endConnections resets, once, the running connections of each port that is cut by now.
//
// The rules alone do not end all of them. They tell by connection tracking who began a connection; one that is older than
// connection tracking itself, which these rules switch on, is taken to be begun by whoever is heard first, and a keepalive
// of the application's is enough to make it one of the host's own. The rules in turn do what a reset cannot: they end what
// nat rules send elsewhere, which has no socket here, and let nobody in again.
//
// Where nobody listens, a socket may be an outgoing connection whose source port this is; what accepted connections has
// gone.
func (a *Agent) endConnections(ctx context.Context) error {
	cut := a.holds.cut.Intersect(a.result.Rules.Cut) // in observe mode the kernel holds nothing
	a.ended = a.ended.Intersect(cut)
	missing := cut.Minus(a.ended)
	if missing.Len() == 0 || a.parts.EndConnections == nil {
		return nil
	}
	var listening firewall.PortSet
	for i := range a.listeners {
		if l := &a.listeners[i]; l.Protocol == sockets.TCP {
			listening.Add(l.Addr.Port())
		}
	}
	var own []netip.Addr
	if a.host != nil {
		own = a.host.Addresses
	}
	if missing = missing.Intersect(listening); missing.Len() > 0 && len(own) == 0 {
		return errors.New("cannot end running connections of closed ports, which are left to the rules: the host's own addresses, whose connections stay, are not known")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), applyDeadline)
	defer cancel()
	var errs []error
	for port := range missing.All() {
		count, err := a.parts.EndConnections(ctx, port, own)
		if count > 0 {
			a.parts.Log.Info("connections of a closed port ended", "port", port, "count", count)
		}
		if errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("this kernel lacks INET_DIAG_DESTROY, so connections that are older than connection tracking may outlive their port: %w", err)
		}
		if err == nil {
			a.ended.Add(port)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
