// SPDX-License-Identifier: MPL-2.0

// Command fleet runs the Consul client agents of many hosts in one process, made of Consul's own packages: gossip pool,
// local state, anti-entropy, connections to the servers and HTTP API are those of "consul agent". Each has an address of its
// own in 127.1.0.0/16, a data directory and a name, so that for the servers and for who asks it is a host of its own. It is
// a module of its own because it needs all that Consul needs; simfleet, in the module above, starts it.
//
//	fleet -hosts 1000 -services 4 -dir DIR -join 127.0.0.1
//
// It writes "started" and "joined" to its standard output as it gets there, and runs until its standard input ends.
//
// What it leaves out, because a thousand hosts share two cores here: after they have joined, the agents gossip and probe each
// other no more (the server does, and they answer), and they tell no network coordinates.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/agent"
	"github.com/hashicorp/consul/agent/config"
	"github.com/hashicorp/go-hclog"
)

// choices are the flags.
type choices struct {
	hosts, services int
	dir, join       string
}

const (
	mostHosts   = 2500
	joinTimeout = 5 * time.Minute
	joiners     = 4 // agents that read the whole pool at a time
)

func main() {
	var c choices
	flag.IntVar(&c.hosts, "hosts", 5, "how many agents run")
	flag.IntVar(&c.services, "services", 4, "how many services with sidecars each of them has")
	flag.StringVar(&c.dir, "dir", "", "folder that holds their data directories")
	flag.StringVar(&c.join, "join", "127.0.0.1", "address of the server")
	flag.Parse()
	if c.hosts < 1 || c.hosts > mostHosts || c.services < 0 || c.services > 100 || c.dir == "" {
		fmt.Fprintf(os.Stderr, "fleet: wants -hosts from 1 to %d, -services up to 100, and -dir\n", mostHosts)
		os.Exit(2)
	}
	if err := run(c); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1)
	}
}

// run ends with standard input. The agents are not told to leave: their hosts end with them.
func run(c choices) error {
	agents := make([]*agent.Agent, c.hosts)
	for i := range agents {
		var err error
		if agents[i], err = start(c, i); err != nil {
			return fmt.Errorf("cannot start agent %d: %w", i, err)
		}
	}
	fmt.Println("started")
	if err := join(agents, c.join); err != nil {
		return err
	}
	fmt.Println("joined")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// start runs the agent of one host, as the command "consul agent" does. The agents are started one after the other: gRPC's
// registries of resolvers and balancers are the process's, and not made for more.
func start(c choices, i int) (*agent.Agent, error) {
	text := settings(c, i)
	load := func(source config.Source) (config.LoadResult, error) {
		return config.Load(config.LoadOpts{DefaultConfig: source, HCL: []string{text}})
	}
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	deps, err := agent.NewBaseDeps(load, io.Discard, log)
	if err != nil {
		return nil, err
	}
	a, err := agent.New(deps)
	if err != nil {
		return nil, err
	}
	if err := a.Start(context.Background()); err != nil {
		return nil, err
	}
	a.StartSync()
	return a, nil
}

// settings is the configuration of a host's agent, with its services. Sidecars have a check that never changes: nothing
// listens on their ports, and Consul's own check would connect to each every ten seconds.
func settings(c choices, i int) string {
	address := fmt.Sprintf("127.1.%d.%d", i/250, i%250+1)
	var text strings.Builder
	fmt.Fprintf(&text, `node_name = "host-%04d"
data_dir = %q
bind_addr = %q
client_addr = %q
retry_join = [%q]
retry_interval = "1s"
log_level = "error"
disable_update_check = true
disable_coordinates = true
disable_host_node_id = true
ports {
  dns = -1
  grpc = -1
}
gossip_lan {
  gossip_interval = "1h"
  probe_interval = "1h"
  retransmit_mult = 1
}
`, i, filepath.Join(c.dir, fmt.Sprint(i)), address, address, c.join)
	for k := range c.services {
		fmt.Fprintf(&text, `services {
  name = "service-%03d"
  port = %d
  connect {
    sidecar_service {
      port = %d
      check {
        ttl = "876000h"
        status = "passing"
      }
    }
  }
}
`, (i*c.services+k)%max(c.services, 200), 30000+k, 21000+k)
	}
	return text.String()
}

// join waits until every agent knows the server, and then has each read the whole pool from it: those that came first do not
// know who came later, because they do not gossip.
func join(agents []*agent.Agent, server string) error {
	deadline := time.Now().Add(joinTimeout)
	for _, a := range agents {
		for len(a.LANMembersInAgentPartition()) < 2 {
			if time.Now().After(deadline) {
				return errors.New("cannot join: an agent does not reach the server")
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	next := make(chan *agent.Agent, len(agents))
	for _, a := range agents {
		next <- a
	}
	close(next)
	errs := make([]error, joiners)
	var all sync.WaitGroup
	for k := range errs {
		all.Go(func() {
			for a := range next {
				if _, err := a.JoinLAN([]string{server}, nil); err != nil {
					errs[k] = fmt.Errorf("cannot read the pool: %w", err)
					return
				}
				if n := len(a.LANMembersInAgentPartition()); n < len(agents)+1 {
					errs[k] = fmt.Errorf("an agent knows %d members of %d after it has read the pool", n, len(agents)+1)
					return
				}
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
