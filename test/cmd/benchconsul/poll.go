// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

const services = "http://" + host.ConsulAddress + "/v1/agent/services"

// pollCosts measures one question for all services: as hostagent asks, on a connection that stands, and by its peers, whole
// processes that are started for each.
func (b *bench) pollCosts(ctx context.Context) error {
	bytes := 0
	ask := func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, services, nil)
		if err != nil {
			return err
		}
		response, err := b.HTTPClient().Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		n, err := io.Copy(io.Discard, response.Body)
		bytes = int(n)
		if err == nil && response.StatusCode != http.StatusOK {
			err = fmt.Errorf("the agent answers with status %d", response.StatusCode)
		}
		return err
	}
	consul, err := host.ConsulBinary(ctx, io.Discard)
	if err != nil {
		return err
	}
	run := func(name string, args ...string) func() error {
		return func() error {
			out, code, err := b.Run(ctx, name, args...)
			if err == nil && code != 0 {
				err = fmt.Errorf("%s ended with %d: %s", name, code, out)
			}
			return err
		}
	}
	var base time.Duration
	for _, asker := range []struct {
		name string
		ask  func() error
		n    int
	}{
		{"one poll, whole", ask, polls},
		{"  peer: curl", run("curl", "-sSf", "-o", "/dev/null", services), polls / 5},
		{"  peer: consul catalog services, which tells names only", run(consul, "catalog", "services"), polls / 20},
	} {
		var took []time.Duration
		before, err := b.consul.CPUTime()
		if err != nil {
			return err
		}
		for range asker.n {
			began := time.Now()
			if err := asker.ask(); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
		after, err := b.consul.CPUTime()
		if err != nil {
			return err
		}
		p50 := percentile(took, 50)
		if base == 0 {
			base = p50
			b.figure("answer to a poll", fmt.Sprintf("%.1f kB", float64(bytes)/1000), "")
		}
		b.figure(asker.name+", p50", ms(p50), fmt.Sprintf("%.1f times", float64(p50)/float64(base)))
		b.figure("    p99", ms(percentile(took, 99)), "")
		b.figure("    CPU of the Consul agent, each", ms((after-before)/time.Duration(asker.n)), "")
	}
	return nil
}
