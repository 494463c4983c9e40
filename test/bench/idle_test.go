// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

const (
	idleServices = 50
	idleSettle   = 10 * time.Second // after everything has started
	idleWindow   = 60 * time.Second
)

// idleHost is a host that does nothing but run Consul and, with a variant, hostagent.
type idleHost struct {
	variant string // "" for none: what Consul does by itself
	host    *host.Host
	consul  *host.Process
	agent   *host.Process // nil without a variant

	consulStart, agentStart time.Duration // CPU time at the start of the window
}

// BenchmarkIdle measures a host with 50 services, each with a registered sidecar, on which nothing happens for a minute:
// the CPU time of hostagent with its default settings and of all its children, its memory, and the CPU time of the Consul
// agent beside that of an agent without a hostagent. All hosts run in the same minute. The sidecars' sockets are root's,
// so that their owners are looked at in every pass: the dearer case.
func BenchmarkIdle(b *testing.B) {
	hosts := []*idleHost{{variant: ""}, {variant: "nft"}, {variant: "legacy"}}
	for _, h := range hosts {
		if err := h.start(b); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(idleSettle)
	begin := time.Now()
	for _, h := range hosts {
		if err := h.mark(); err != nil {
			b.Fatal(err)
		}
	}
	time.Sleep(idleWindow)
	elapsed := time.Since(begin)
	var alone float64
	for _, h := range hosts {
		consul, agent, megabytes, err := h.used(elapsed)
		if err != nil {
			b.Fatal(err)
		}
		if h.agent == nil {
			alone = consul
			continue
		}
		b.Run(h.variant, func(b *testing.B) {
			for b.Loop() { // it is measured already
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(agent, "cpu-%")
			b.ReportMetric(megabytes, "rss-MB")
			b.ReportMetric(consul, "consul-%")
			b.ReportMetric(alone, "consul-alone-%")
		})
	}
}

// start brings the host to where nothing more happens.
func (h *idleHost) start(b *testing.B) (err error) {
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	if h.host, err = host.New(ctx, host.Options{}); err != nil {
		return err
	}
	b.Cleanup(func() {
		if err := h.host.Close(); err != nil {
			b.Error(err)
		}
	})
	consul, err := h.host.StartConsul(ctx, host.ConsulOptions{})
	if err != nil {
		return err
	}
	h.consul = consul.Process
	app := host.App{Name: "all"}
	for i := range idleServices {
		app.Listen = append(app.Listen, fmt.Sprintf("127.0.0.1:%d", appPort(i)), fmt.Sprintf("[::]:%d", sidecarPort(i)))
		err := consul.API().Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
			Name: fmt.Sprintf("service-%02d", i), Port: appPort(i),
			Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: sidecarPort(i)}},
		}, api.ServiceRegisterOpts{}.WithContext(ctx))
		if err != nil {
			return err
		}
	}
	if _, err := h.host.StartApp(ctx, app); err != nil || h.variant == "" {
		return err
	}
	config := fmt.Sprintf("mode = \"guard\"\nfirewall { iptables_variant = %q }\n", h.variant)
	if h.agent, err = h.host.StartHostagent(ctx, config); err != nil {
		return err
	}
	return h.agent.WaitLog(ctx, "+21000-21255")
}

// mark notes the CPU time at the start of the window.
func (h *idleHost) mark() (err error) {
	if h.consulStart, err = h.consul.CPUTime(); err == nil && h.agent != nil {
		h.agentStart, err = h.agent.CPUTime()
	}
	return err
}

// used returns how much of one core, in per cent, Consul and hostagent have taken since mark, and hostagent's memory.
func (h *idleHost) used(elapsed time.Duration) (consul, agent, megabytes float64, err error) {
	end, err := h.consul.CPUTime()
	consul = 100 * (end - h.consulStart).Seconds() / elapsed.Seconds()
	if h.agent == nil || err != nil {
		return consul, 0, 0, err
	}
	if trouble := h.trouble(); trouble != "" {
		return 0, 0, 0, fmt.Errorf("the host was not idle: hostagent says %q", trouble)
	}
	if end, err = h.agent.CPUTime(); err == nil {
		agent = 100 * (end - h.agentStart).Seconds() / elapsed.Seconds()
		megabytes, err = h.agent.ResidentMegabytes()
	}
	return consul, agent, megabytes, err
}

// trouble returns the first line of hostagent's log that says that something is wrong, "" for none.
func (h *idleHost) trouble() string {
	for line := range strings.Lines(h.agent.Log()) {
		if strings.Contains(line, "hostagent status does not work") {
			continue // the hosts of this benchmark share /run, and in it one status socket
		}
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			return line
		}
	}
	return ""
}
