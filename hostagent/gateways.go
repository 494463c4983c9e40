// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"slices"

	"github.com/hostagent/hostagent/sockets"
)

// askGateways finds where the operator's gateways listen, and asks whose those sockets are where anything is asked at all. An
// ingress or API gateway listens on the ports of its config entries, of which this host knows nothing: one that lives in the
// same unit or container as an application would pass for a part of it. Its process tells.
//
// Whoever holds a gateway's port is taken for it. The operator has confirmed the gateway, and the port is one that may open
// for it: nobody else has a claim.
func (a *around) askGateways() {
	if len(a.suspects) == 0 {
		return // nobody's owner would be judged
	}
	for i := range a.in.Registrations {
		r := &a.in.Registrations[i]
		if !r.IsGateway() {
			continue
		}
		for _, port := range listenPorts(r) {
			if !slices.ContainsFunc(a.claims[port], func(c claim) bool { return c.reg == r }) {
				continue
			}
			for _, l := range a.byPort[port] {
				if l.Protocol == sockets.TCP && len(a.gateways) < mostAnchors {
					a.gateways = append(a.gateways, l)
				}
			}
		}
	}
	a.suspect(a.gateways...)
}

// isGateway tells whether an owner is one of the operator's gateways.
func (a *around) isGateway(owner *sockets.Owner) bool {
	return slices.ContainsFunc(a.gateways, func(l *sockets.Listener) bool {
		of := a.owner(l)
		return of != nil && slices.ContainsFunc(of.Processes, func(p sockets.Process) bool {
			return !serves(p) && slices.ContainsFunc(owner.Processes, func(q sockets.Process) bool { return q.PID == p.PID })
		})
	})
}
