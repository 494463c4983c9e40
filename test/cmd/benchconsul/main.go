// SPDX-License-Identifier: MPL-2.0

// Command benchconsul measures what hostagent and a real Consul agent cost each other, on hosts of different sizes: a poll
// beside its peers, a host on which nothing happens, what it has the servers write, and how soon the port of a registered
// sidecar is open, seen from the network.
//
//	benchconsul [-services 10,250,2000,4000] [-registrations 200] [-idle 60s] [-raft 300s]
//
// bench-consul.sh runs it.
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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// choices are the flags.
type choices struct {
	services      []int
	registrations int
	idle, raft    time.Duration
}

func main() {
	sizes := flag.String("services", "10,250,2000,4000", "how many services hosts have, each with a sidecar")
	var c choices
	flag.IntVar(&c.registrations, "registrations", 200, "how many sidecars are registered to see how soon their ports open; 0 for none")
	flag.DurationVar(&c.idle, "idle", time.Minute, "how long the CPU time of a host is measured on which nothing happens")
	flag.DurationVar(&c.raft, "raft", 5*time.Minute, "how long it is counted what the servers write on such a host; 0 not at all")
	flag.Parse()
	for text := range strings.SplitSeq(*sizes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > mostServices {
			fmt.Fprintf(os.Stderr, "benchconsul: -services wants numbers from 1 to %d\n", mostServices)
			os.Exit(2)
		}
		c.services = append(c.services, n)
	}
	netns.Enter()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measure(ctx, os.Stdout, c); err != nil {
		fmt.Fprintln(os.Stderr, "benchconsul:", err)
		os.Exit(1)
	}
}

const (
	firstPort    = 30000 // of applications
	firstSidecar = 21000
	lastSidecar  = firstSidecar + 4095 // hostagent takes no larger range over
	mostServices = 4000
	polls        = 100
	startLimit   = 10 * time.Minute // until a host of the largest size has settled
)

func measure(ctx context.Context, out io.Writer, c choices) (err error) {
	h, err := host.New(ctx, host.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	alone, err := h.StartConsul(ctx, host.ConsulOptions{Config: "disable_coordinates = true\n"})
	if err != nil {
		return err
	}
	for _, n := range c.services {
		if err := measureSize(ctx, out, c, n, alone); err != nil {
			return fmt.Errorf("with %d services: %w", n, err)
		}
	}
	return nil
}

// bench is a host that is measured.
type bench struct {
	*host.Host
	consul *host.Consul
	alone  *host.Consul // on another host, which has nothing else
	out    io.Writer
	size   int
	next   int // sidecars were registered up to this one
}

func measureSize(ctx context.Context, out io.Writer, c choices, n int, alone *host.Consul) (err error) {
	fmt.Fprintf(out, "\n%d services with sidecars\n", n)
	h, err := host.New(ctx, host.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	b := &bench{Host: h, alone: alone, out: out, size: n, next: n}
	if err := b.startConsul(ctx); err != nil {
		return err
	}
	if err := b.pollCosts(ctx); err != nil {
		return err
	}
	if err := b.guarding(ctx, "", func(agent *host.Process) error {
		if err := b.idle(ctx, agent, c); err != nil {
			return err
		}
		return b.openings(ctx, "catalog_wakeup = true", 100*time.Millisecond, c.registrations)
	}); err != nil {
		return err
	}
	if c.registrations == 0 {
		return nil
	}
	return b.guarding(ctx, "consul { catalog_wakeup = false }\n", func(*host.Process) error {
		return b.openings(ctx, "catalog_wakeup = false", 1200*time.Millisecond, c.registrations)
	})
}

// startConsul starts an agent with all services in files. It writes nothing by itself: coordinates of its node are off, and
// sidecars have a check that never changes, where Consul's own would bring its output to the servers minutes later.
func (b *bench) startConsul(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var text strings.Builder
	for i := range b.size {
		fmt.Fprintf(&text, "services {\n  name = \"service-%04d\"\n  port = %d\n  connect {\n    sidecar_service {\n      port = %d\n"+
			"      check {\n        ttl = \"876000h\"\n        status = \"passing\"\n      }\n    }\n  }\n}\n",
			i, firstPort+i, firstSidecar+i)
	}
	dir := filepath.Join(b.Dir, "services")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "all.hcl"), []byte(text.String()), 0o600)); err != nil {
		return err
	}
	b.consul, err = b.StartConsul(ctx, host.ConsulOptions{
		ConfigDir: dir, Config: fmt.Sprintf("disable_coordinates = true\nports {\n  sidecar_min_port = %d\n  sidecar_max_port = %d\n}\n", firstSidecar, lastSidecar),
	})
	if err != nil {
		return err
	}
	return b.quiet(ctx, 5*time.Second)
}

// guarding runs hostagent in guard mode, with reports, while f runs.
func (b *bench) guarding(ctx context.Context, config string, f func(*host.Process) error) error {
	agent, err := b.StartHostagent(ctx, "mode = \"guard\"\n"+config)
	if err != nil {
		return err
	}
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if err := agent.WaitLog(starting, fmt.Sprint(lastSidecar)); err != nil {
		return err
	}
	began := time.Now()
	if err := b.reported(starting); err != nil {
		return err
	}
	fmt.Fprintf(b.out, "  every check of hostagent in the catalog %.0f s after the range is closed\n", time.Since(began).Seconds())
	if err := b.quiet(starting, 12*time.Second); err != nil { // the life check is refreshed every ten
		return err
	}
	return errors.Join(f(agent), agent.Stop())
}

// reported waits until the catalog has all checks of hostagent: those of services, its life, the firewall and the range.
func (b *bench) reported(ctx context.Context) error {
	for {
		checks, _, err := b.consul.API().Health().Checks("hostagent", (&api.QueryOptions{}).WithContext(ctx))
		if err != nil || len(checks) >= b.size+3 {
			return err
		}
		if err := wait(ctx, time.Second); err != nil {
			return fmt.Errorf("the catalog has %d checks of hostagent: %w", len(checks), err)
		}
	}
}

// quiet waits until the agent has written nothing to the servers for a while.
func (b *bench) quiet(ctx context.Context, while time.Duration) error {
	since := time.Now()
	for last := -1; ; {
		if synced := b.consul.Synced(); synced != last {
			last, since = synced, time.Now()
		}
		if time.Since(since) > while {
			return nil
		}
		if err := wait(ctx, 200*time.Millisecond); err != nil {
			return fmt.Errorf("the servers do not stop writing: %w", err)
		}
	}
}

// idle measures a host on which nothing happens.
func (b *bench) idle(ctx context.Context, agent *host.Process, c choices) error {
	writes, began := b.consul.Synced(), time.Now()
	before, err := b.raft()
	if err != nil {
		return err
	}
	ours, theirs, err := b.used(agent, func() error { return wait(ctx, c.idle) })
	if err != nil {
		return err
	}
	share := func(cpu time.Duration) float64 { return 100 * cpu.Seconds() / c.idle.Seconds() }
	b.figure(fmt.Sprintf("idle for %v: CPU of hostagent", c.idle), fmt.Sprintf("%.2f %%", share(ours)), verdict(b.size == 250, share(ours) < 0.3, "under 0.3 %"))
	b.figure("  CPU of the Consul agent", fmt.Sprintf("%.2f %%", share(theirs)), "")
	megabytes, err := agent.ResidentMegabytes()
	if err != nil {
		return err
	}
	b.figure("  memory of hostagent (RSS)", fmt.Sprintf("%.1f MB", megabytes), "")
	if c.raft == 0 {
		return nil
	}
	if err := wait(ctx, c.raft-time.Since(began)); err != nil {
		return err
	}
	after, err := b.raft()
	if err != nil {
		return err
	}
	writes = b.consul.Synced() - writes
	b.figure(fmt.Sprintf("  services and checks written to the servers in %v", time.Since(began).Round(time.Second)), fmt.Sprint(writes), verdict(true, writes == 0, "none"))
	b.figure("  entries of the raft log", fmt.Sprint(after[0]-before[0]), fmt.Sprintf("%d where Consul is alone", after[1]-before[1]))
	return nil
}

// raft returns the last index of this host's server, and of the one that is alone.
func (b *bench) raft() (index [2]int, err error) {
	if index[0], err = b.consul.RaftIndex(); err == nil {
		index[1], err = b.alone.RaftIndex()
	}
	return index, err
}

// used returns the CPU time of hostagent and of the Consul agent while f runs.
func (b *bench) used(agent *host.Process, f func() error) (ours, theirs time.Duration, err error) {
	var at [4]time.Duration
	read := func(i int) (err error) {
		if at[i], err = agent.CPUTime(); err == nil {
			at[i+1], err = b.consul.CPUTime()
		}
		return err
	}
	if err := read(0); err != nil {
		return 0, 0, err
	}
	if err := f(); err != nil {
		return 0, 0, err
	}
	err = read(2)
	return at[2] - at[0], at[3] - at[1], err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (b *bench) figure(text, value, verdict string) {
	fmt.Fprintln(b.out, strings.TrimRight(fmt.Sprintf("  %-60s %12s   %s", text, value, verdict), " "))
}

// verdict compares with a target, where there is one.
func verdict(wanted, met bool, target string) string {
	switch {
	case !wanted:
		return ""
	case met:
		return target + ", met"
	}
	return target + ", MISSED"
}

// percentile returns one of durations, which it sorts.
func percentile(all []time.Duration, n int) time.Duration {
	slices.Sort(all)
	return all[max((len(all)*n+99)/100-1, 0)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
