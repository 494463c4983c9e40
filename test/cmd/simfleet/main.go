// SPDX-License-Identifier: MPL-2.0

// Command simfleet measures what the hostagents of a whole datacenter cost its Consul servers: how much they write when
// nothing happens, when something happens everywhere at once, and what their blocking queries take.
//
//	simfleet -consul PATH -agents PATH [-hostagent PATH] [-hosts 1000] [-services 4] [-check]
//
// Real are: the Consul server (its released program, raft on the disk), the reporting code of hostagent (package hostagent's
// loop with package consul's client, one Agent a host), and each host's Consul client agent, made of Consul's own packages,
// all of them in one process (test/fleet). Simulated are the hosts: their listeners are values, they have no firewall, and
// the network between them is the loopback device. One server is a cluster by itself: what followers cost is not seen.
//
// sim-fleet.sh runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hostagent/hostagent/test/netns"
)

// choices are the flags.
type choices struct {
	consul, agents, hostagent string
	hosts, services           int
	poll                      time.Duration
	window                    time.Duration // in which nothing happens
	check                     bool
}

func main() {
	var c choices
	flag.StringVar(&c.consul, "consul", "", "path of consul")
	flag.StringVar(&c.agents, "agents", "", "path of the program of test/fleet")
	flag.StringVar(&c.hostagent, "hostagent", "", "path of hostagent, for hostagent fleet; empty: that is not measured")
	flag.IntVar(&c.hosts, "hosts", 1000, "how many hosts the datacenter has")
	flag.IntVar(&c.services, "services", 4, "how many services with sidecars each of them has")
	flag.DurationVar(&c.poll, "poll", 5*time.Second, "poll_interval: hosts that are the only one of their machine have 1s")
	flag.DurationVar(&c.window, "window", time.Minute, "how long a fleet is looked at in which nothing happens")
	flag.BoolVar(&c.check, "check", false, "fail where a figure is not what it must be")
	flag.Parse()
	if c.consul == "" || c.agents == "" || c.hosts < 1 || c.services < 1 {
		fmt.Fprintln(os.Stderr, "simfleet: wants -consul, -agents, and at least one host with one service")
		os.Exit(2)
	}
	netns.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	if err := measure(ctx, os.Stdout, c); err != nil {
		fmt.Fprintln(os.Stderr, "simfleet:", err)
		os.Exit(1)
	}
}

// sim is a datacenter under measurement.
type sim struct {
	choices
	out    io.Writer
	dir    string
	server *server
	agents *program
	hosts  []*host
	missed []string // figures that are not what they must be
}

// checks is how many checks hostagent has on a host: one for each service, its life, the firewall and the sidecar range.
func (s *sim) checks() int { return s.services + 3 }

func measure(ctx context.Context, out io.Writer, c choices) (err error) {
	s := &sim{choices: c, out: out}
	if s.dir, err = os.MkdirTemp("", "hostagent-simfleet-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.server, err = startServer(ctx, c.consul, s.dir); err != nil {
		return err
	}
	defer s.server.stop()
	defer s.stopHosts()
	phases := []struct {
		heading string
		run     func(context.Context) error
	}{
		{"Consul alone", s.startAgents},
		{"Start of hostagent on every host at once", s.startHosts},
		{"Nothing happens", s.steady},
		{"On every host a listener gets exposed at the same moment", s.flips},
		{"Blocking queries", s.queries},
		{"hostagent fleet", s.fleet},
	}
	defer func() {
		if s.agents != nil {
			s.agents.stop()
		}
	}()
	for _, p := range phases {
		fmt.Fprintf(out, "\n%s\n", p.heading)
		if err := p.run(ctx); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", strings.ToLower(p.heading[:1])+p.heading[1:], err), s.lastWords())
		}
	}
	if c.check && len(s.missed) > 0 {
		return fmt.Errorf("not as it must be: %s", strings.Join(s.missed, "; "))
	}
	return nil
}

// lastWords are the ends of the programs' logs.
func (s *sim) lastWords() error {
	var errs []error
	for _, name := range []string{"server.log", "agents.log"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		errs = append(errs, fmt.Errorf("%s ends with:\n%s", name, strings.Join(lines[max(len(lines)-5, 0):], "\n")))
	}
	return errors.Join(errs...)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// until asks every interval whether something is so, for limit at most. why says what is missing.
func until(ctx context.Context, limit, interval time.Duration, so func() (bool, error), why func() string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		if is, err := so(); err != nil || is {
			return err
		}
		if err := wait(ctx, interval); err != nil {
			return fmt.Errorf("%s: %w", why(), err)
		}
	}
}

func (s *sim) figure(text, value, remark string) {
	fmt.Fprintln(s.out, strings.TrimRight(fmt.Sprintf("  %-62s %12s   %s", text, value, remark), " "))
}

// must writes a figure that has to be as it is wanted.
func (s *sim) must(text, value string, met bool, wanted string) {
	verdict := ", met"
	if !met {
		verdict = ", MISSED"
		s.missed = append(s.missed, fmt.Sprintf("%s: %s, wanted %s", text, value, wanted))
	}
	s.figure(text, value, wanted+verdict)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
func ms(d time.Duration) string      { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
