// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/status"
)

// servers show how a running agent is: the status socket, and metrics where the configuration asks for them. Guarding
// goes on without either: what keeps one from serving is logged once and a degradation of the status, and is tried again
// now and then, because an address may come up late and a socket be let go of.
type servers struct {
	// What readers use.
	metrics  *status.Metrics
	agent    atomic.Pointer[hostagent.Agent]
	firewall atomic.Pointer[firewall.Firewall]
	trouble  [2]atomic.Pointer[error] // what keeps socket and scrapes from being served
	refused  atomic.Pointer[error]    // why the configuration on disk is refused while an earlier one stands

	mu      sync.Mutex
	built   *built         // of the last good configuration
	socket  *status.Server // nil: not served
	scrapes *status.Server // nil: not served
	address netip.AddrPort // where scrapes are served
	stop    chan struct{}
	done    sync.WaitGroup
}

const tryAgain = 10 * time.Second

// sources are what metrics read; nobody does before start.
func (v *servers) sources() status.Sources {
	return status.Sources{Version: version(), Status: v.status, Dropped: v.dropped}
}

// status is the agent's with the troubles of the servers themselves.
func (v *servers) status() hostagent.Status {
	st := v.agent.Load().Status()
	if err := v.refused.Load(); err != nil {
		st.Configuration.Error = hostagent.ErrorText(*err)
	}
	for i := range v.trouble {
		if err := v.trouble[i].Load(); err != nil {
			st.Degradations = append(st.Degradations, (*err).Error())
		}
	}
	return st
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

// start serves the agent's status, and metrics where b says so, until close.
func (v *servers) start(agent *hostagent.Agent, b *built) {
	v.agent.Store(agent)
	v.change(b)
	v.stop = make(chan struct{})
	v.done.Go(func() {
		tick := time.NewTicker(tryAgain)
		defer tick.Stop()
		for {
			select {
			case <-v.stop:
				return
			case <-tick.C:
				v.mu.Lock()
				v.serve()
				v.mu.Unlock()
			}
		}
	})
}

// reloaded remembers what became of reading the configuration again.
func (v *servers) reloaded(err error) {
	v.metrics.Configured(err == nil)
	if err == nil {
		v.refused.Store(nil)
		return
	}
	v.refused.Store(&err)
}

// change follows a new configuration.
func (v *servers) change(b *built) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.firewall.Store(b.firewall)
	if v.built != nil && v.built.format != b.format { // they write to the log too
		v.shut(&v.socket)
		v.shut(&v.scrapes)
	}
	if v.address != b.metrics {
		v.shut(&v.scrapes)
		v.trouble[1].Store(nil)
	}
	v.built = b
	v.serve()
}

// serve brings up what should be served and is not.
func (v *servers) serve() {
	log := v.built.parts.Log
	if v.socket == nil {
		socket, err := status.Listen(hostagent.StatusSocket)
		if err == nil {
			v.socket = status.Serve(socket, v.status, log)
		}
		v.tell(0, slog.LevelWarn, "hostagent status does not work", err)
	}
	if v.address = v.built.metrics; v.scrapes == nil && v.address.IsValid() {
		server, err := status.ServeMetrics(v.address.String(), v.metrics, log)
		if err == nil {
			v.scrapes = server
			log.Info("metrics are served", "address", server.Addr().String())
		}
		v.tell(1, slog.LevelError, "metrics are not served", err)
	}
}

// tell remembers a trouble, and logs it when it is new.
func (v *servers) tell(which int, level slog.Level, what string, err error) {
	if err == nil {
		v.trouble[which].Store(nil)
		return
	}
	if v.trouble[which].Load() == nil {
		v.built.parts.Log.Log(context.Background(), level, what, "error", err)
	}
	v.trouble[which].Store(&err)
}

func (v *servers) shut(server **status.Server) {
	if *server != nil {
		if err := (*server).Close(); err != nil {
			v.built.parts.Log.Warn("cannot close a server in good order", "error", err)
		}
		*server = nil
	}
}

func (v *servers) close() {
	close(v.stop)
	v.done.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.shut(&v.socket)
	v.shut(&v.scrapes)
}
