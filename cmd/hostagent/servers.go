// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"net/netip"
	"sync/atomic"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/status"
)

// servers show how a running agent is: the status socket, and metrics where the configuration asks for them. Guarding
// goes on without either, so what keeps one from serving is logged and no more. Its methods are called one at a time.
type servers struct {
	metrics  *status.Metrics
	agent    atomic.Pointer[hostagent.Agent]
	firewall atomic.Pointer[firewall.Firewall]

	socket  *status.Server // nil: not served
	scrapes *status.Server // nil: not served
	address netip.AddrPort // where scrapes are served, or should be
}

// sources are what metrics read; nobody does before start.
func (v *servers) sources() status.Sources {
	return status.Sources{
		Version: version(),
		Status:  func() hostagent.Status { return v.agent.Load().Status() },
		Dropped: v.dropped,
	}
}

func (v *servers) dropped(ctx context.Context) (map[string]uint64, error) {
	fw := v.firewall.Load()
	if fw == nil {
		return map[string]uint64{}, nil
	}
	drops, err := fw.Dropped(ctx)
	return map[string]uint64{
		string(firewall.IPv4): drops.IPv4.Guard + drops.IPv4.Source,
		string(firewall.IPv6): drops.IPv6.Guard + drops.IPv6.Source,
	}, err
}

// start serves the agent's status, and metrics where b says so.
func (v *servers) start(agent *hostagent.Agent, b *built) {
	v.agent.Store(agent)
	if socket, err := status.Listen(hostagent.StatusSocket); err != nil {
		b.parts.Log.Warn("degraded", "reason", "hostagent status will not work", "error", err)
	} else {
		v.socket = status.Serve(socket, agent.Status, b.parts.Log)
	}
	v.change(b)
}

// change follows a new configuration. Metrics that could not be served are tried again.
func (v *servers) change(b *built) {
	v.firewall.Store(b.firewall)
	if v.scrapes != nil && v.address != b.metrics {
		v.scrapes.Close()
		v.scrapes = nil
	}
	v.address = b.metrics
	if v.scrapes != nil || !b.metrics.IsValid() {
		return
	}
	var err error
	if v.scrapes, err = status.ServeMetrics(b.metrics.String(), v.metrics, b.parts.Log); err != nil {
		v.scrapes = nil
		b.parts.Log.Error("metrics are not served", "error", err)
		return
	}
	b.parts.Log.Info("metrics are served", "address", v.scrapes.Addr().String())
}

func (v *servers) close() {
	for _, server := range []*status.Server{v.socket, v.scrapes} {
		if server != nil {
			server.Close()
		}
	}
}
