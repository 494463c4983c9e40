// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// whereabouts is what tells whether an agent is this host's. Behind an address of this host may be a tunnel to another one.
type whereabouts struct {
	networks  facts.Networks // none where they are not known
	listeners []sockets.Listener
	elsewhere []sockets.Listener // in other network namespaces
	whole     bool               // listeners and elsewhere are all of the host
}

// foreign returns an error of consul.KindNotLocal where an agent is another host's by what it says of itself: it advertises
// an address that this host does not have, and nothing here listens where it says that it gossips. An address alone is no
// proof: hosts behind NAT advertise one that no interface has, and a container one of its bridge. Where that is not known,
// or the agent does not tell, it is taken for this host's.
func (w *whereabouts) foreign(agent *consul.Agent) error {
	if !locates(agent) || w.has(agent.Address) || !w.whole {
		return nil
	}
	gossip := agent.Ports["serf_lan"]
	listens := func(l sockets.Listener) bool { return l.Addr.Port() == gossip }
	if slices.ContainsFunc(w.listeners, listens) || slices.ContainsFunc(w.elsewhere, listens) {
		return nil
	}
	return &consul.Error{
		Kind: consul.KindNotLocal,
		Err: fmt.Errorf("it says that it is node %s at %v, which is no address of this host, and nothing here listens on its gossip port %d",
			catalog.CleanTo(agent.Node, 80), agent.Address, gossip),
		Fix: "end the tunnel or proxy that leads to it and start this host's own agent, or name that one in consul { address }; " +
			"if an agent of another host is meant, set consul { allow_remote_agent = true }",
	}
}

// locates tells whether an agent says enough of itself to find out whose it is.
func locates(agent *consul.Agent) bool {
	addr := agent.Address
	return agent.Ports["serf_lan"] != 0 && addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() && !addr.IsLinkLocalUnicast()
}

// has tells whether an address is one of this host or of its containers, or whether that is not known.
func (w *whereabouts) has(addr netip.Addr) bool {
	return len(w.networks.Addresses) == 0 || slices.Contains(w.networks.Addresses, addr) ||
		slices.ContainsFunc(w.networks.Bridged, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// accept tells why an agent's answers do not count because it is another host's, nil where they do. It looks at no more of
// this host than it has to: a host whose agent advertises the host's own address is not searched.
func (a *Agent) accept(ctx context.Context, now time.Time, agent *consul.Agent) error {
	if a.parts.Policy.AllowRemoteAgent || a.parts.Networks == nil || !locates(agent) {
		return nil
	}
	var w whereabouts
	var err error
	a.meanwhile(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, hostDeadline)
		defer cancel()
		w.networks, err = a.parts.Networks(ctx)
	})
	if err != nil || w.has(agent.Address) {
		return nil
	}
	if !a.looked { // the first pass asks Consul before it looks at anything
		if err := a.look(ctx); err != nil {
			return nil // nothing is decided without
		}
	}
	a.lookElsewhere(ctx, now)
	w.listeners, w.elsewhere = a.listeners, a.elsewhere.Listeners
	w.whole = a.parts.Elsewhere != nil && len(a.elsewhere.degradations()) == 0
	return w.foreign(agent)
}

// accept takes an agent's answers away from a scan where it is another host's.
func (s *Scan) accept(ctx context.Context, parts Parts, in *Input) {
	if in.Source != SourceAgent || in.Policy.AllowRemoteAgent || parts.Networks == nil || !locates(&in.Agent) {
		return
	}
	w := whereabouts{listeners: in.Listeners, elsewhere: in.Elsewhere, whole: parts.Elsewhere != nil && s.wholeElsewhere}
	var err error
	if w.networks, err = parts.Networks(ctx); err != nil {
		return
	}
	if err := w.foreign(&in.Agent); err != nil {
		s.Errors = append(s.Errors, err)
		in.Trouble, in.Source, in.Registrations, in.Agent = agentTrouble(err), SourceNone, nil, consul.Agent{}
		s.Source, s.Agent = in.Source, in.Agent
	}
}
