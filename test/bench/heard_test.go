// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/test/host"
)

// heardApart is how far apart listens are: hostagent serves a burst at once, and who listens without pause every 50 ms.
const heardApart = 55 * time.Millisecond

// heardDeadline is when what was not found is missed.
const heardDeadline = 8 * time.Second

// mover is an application whose listener moves between the network and loopback: what either changes is measured.
type mover struct {
	port     int
	listener net.Listener
	exposed  bool
}

// move listens on the other one and returns when it began to, and the status that the application's check gets.
func (m *mover) move() (at time.Time, status consul.Status, err error) {
	if m.listener != nil {
		m.listener.Close()
	}
	m.exposed = !m.exposed
	address, status := "127.0.0.1", consul.Passing
	if m.exposed {
		address, status = "0.0.0.0", consul.Warning
	}
	at = time.Now()
	m.listener, err = net.Listen("tcp4", net.JoinHostPort(address, fmt.Sprint(m.port)))
	return at, status, err
}

// delays are what listens took to be found.
type delays struct {
	took   []time.Duration
	missed int
}

// report reports them. One that is missed counts as slow as can be.
func (d *delays) report(b *testing.B) {
	slices.Sort(d.took)
	for _, percent := range []int{50, 99} {
		b.ReportMetric(float64(d.took[(len(d.took)*percent+99)/100-1].Microseconds())/1000, fmt.Sprintf("p%d-ms", percent))
	}
	b.ReportMetric(float64(d.missed), missed)
	b.ReportMetric(0, "ns/op")
}

// reports is a registry that tells of each report before it is written.
type reports struct {
	*consul.Client
	seen chan seen
}

type seen struct {
	at     time.Time
	report consul.Report
}

func (r reports) Report(ctx context.Context, report consul.Report) (int, error) {
	r.seen <- seen{time.Now(), report}
	return r.Client.Report(ctx, report)
}

// until waits for a report that is as wanted and returns its time.
func (r reports) until(wanted func(consul.Report) bool) (at time.Time, found bool) {
	for timeout := time.After(heardDeadline); ; {
		select {
		case s := <-r.seen:
			if wanted(s.report) {
				return s.at, true
			}
		case <-timeout:
			return time.Now(), false
		}
	}
}

// watching runs an agent that guards services of a stub, and returns what it reports.
func watching(b *testing.B, services int, change func(*hostagent.Parts)) reports {
	b.Helper()
	fw, err := firewall.New(firewall.Options{Variant: firewall.VariantNFT})
	if err != nil {
		b.Fatal(err)
	}
	registry := reports{newStubAgent(b, services, false), make(chan seen, 10_000)}
	parts := hostagent.Parts{
		Policy:     hostagent.Policy{Mode: hostagent.ModeGuard, Protected: firewall.Ports(22), OwnService: "hostagent"},
		CloseDelay: 30 * time.Second, PollInterval: time.Second, Report: true, Version: "bench",
		Registry: registry, Firewall: fw, Listen: sockets.List, Owners: sockets.NewOwners(), Log: slog.New(slog.DiscardHandler),
	}
	change(&parts)
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error)
	go func() { done <- hostagent.NewAgent(parts).Run(ctx, nil) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	if _, found := registry.until(func(r consul.Report) bool { return len(r.Checks) == services+2 }); !found {
		b.Fatal("the agent reports nothing")
	}
	time.Sleep(3 * time.Second) // until it guards
	return registry
}

// countOf counts the services whose check has a status.
func countOf(r consul.Report, status consul.Status) (count int) {
	for _, c := range r.Checks[min(len(r.Checks), 2):] { // behind those of the firewall and the range
		if c.Status == status {
			count++
		}
	}
	return count
}

// finding measures from listen(2) until the finding stands, or is gone, in the process: just before it is reported.
func finding(b *testing.B, services, listeners int, change func(*hostagent.Parts), apart func() time.Duration) {
	asUnit(b)
	neighbour(b, listeners)
	registry := watching(b, services, change)
	m := &mover{port: appPort(0)}
	var d delays
	for b.Loop() {
		time.Sleep(apart())
		for len(registry.seen) > 0 {
			<-registry.seen
		}
		began, _, err := m.move()
		if err != nil {
			b.Fatal(err)
		}
		exposed := 0
		if m.exposed {
			exposed = 1
		}
		at, found := registry.until(func(r consul.Report) bool { return countOf(r, consul.Warning) == exposed })
		if !found {
			d.missed++
		}
		d.took = append(d.took, at.Sub(began))
	}
	m.listener.Close()
	d.report(b)
}

// asUnit moves this process into a cgroup of its own until the benchmark ends, as applications that systemd starts are in
// one: who listens there is found without a look at every process of the machine.
func asUnit(b *testing.B) {
	b.Helper()
	mount := "/sys/fs/cgroup"
	if _, err := os.Stat(mount + "/unified/cgroup.procs"); err == nil {
		mount += "/unified"
	}
	pid := strconv.Itoa(os.Getpid())
	unit := filepath.Join(mount, "hostagent-bench-"+pid+".service")
	enter := func(cgroup string) error { return os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(pid), 0) }
	own, err := os.ReadFile("/proc/self/cgroup")
	if err == nil {
		err = os.Mkdir(unit, 0o755)
	}
	if err == nil {
		err = enter(unit)
	}
	if err != nil {
		b.Fatal(err)
	}
	before := mount
	for line := range strings.Lines(string(own)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			before = filepath.Join(mount, strings.TrimSpace(path))
		}
	}
	b.Cleanup(func() {
		if err := errors.Join(enter(before), os.Remove(unit)); err != nil {
			b.Error(err)
		}
	})
}

// neighbour starts another process with many listeners on loopback.
func neighbour(b *testing.B, listeners int) {
	b.Helper()
	binary, err := host.Binary(b.Context(), host.AppProgram)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), binary)
	for i := range listeners {
		cmd.Args = append(cmd.Args, "-listen", fmt.Sprintf("127.0.0.2:%d", 1024+i))
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatalf("the neighbour says %q, %v", line, err)
	}
}

func hears(parts *hostagent.Parts) {
	parts.Listened, parts.PollInterval = sockets.Watch, time.Minute // no poll finds it
}

// BenchmarkHeard measures how soon an application that listens on the network is found, with polls so seldom that only the
// event can have done it: in the process of hostagent, beside 50 services and 500 listeners or more of both; as a warning in
// a real Consul agent; and a thousand applications that listen in a row.
func BenchmarkHeard(b *testing.B) {
	apart := func() time.Duration { return heardApart }
	b.Run("finding", func(b *testing.B) { finding(b, 50, 500, hears, apart) })
	b.Run("finding-large", func(b *testing.B) { finding(b, 250, 2000, hears, apart) })
	b.Run("warning", warning)
	b.Run("burst", burst)
}

// BenchmarkStorm measures the CPU time of hostagent while a process listens without pause, on a host with 50 services.
func BenchmarkStorm(b *testing.B) {
	const window = 10 * time.Second
	h := &idleHost{variant: "nft"}
	if err := h.start(b); err != nil {
		b.Fatal(err)
	}
	if err := h.mark(); err != nil {
		b.Fatal(err)
	}
	listens, began := 0, time.Now()
	for time.Since(began) < window {
		err := h.host.InHost(func() error {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err == nil {
				err = l.Close()
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		listens++
	}
	_, agent, _, err := h.used(time.Since(began))
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() { // it is measured already
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(agent, percent)
	b.ReportMetric(float64(listens)/window.Seconds(), "listens/s")
}

// BenchmarkPolled is the first of these without events, with the usual polls.
func BenchmarkPolled(b *testing.B) {
	tries := 0
	finding(b, 50, 500, func(*hostagent.Parts) {}, func() time.Duration {
		tries++
		return heardApart + time.Duration(tries*137%1000)*time.Millisecond // anywhere between two polls
	})
}

// burst measures from the first of a thousand listens in a row until all are found.
func burst(b *testing.B) {
	const services = 1000
	registry := watching(b, services, hears)
	var d delays
	for range min(b.N, 3) {
		began := time.Now()
		var all []net.Listener
		for i := range services {
			l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", appPort(i)))
			if err != nil {
				b.Fatal(err)
			}
			all = append(all, l)
		}
		most := 0
		at, found := registry.until(func(r consul.Report) bool {
			most = max(most, countOf(r, consul.Warning))
			return most == services
		})
		if !found {
			d.missed += services - most
		}
		d.took = append(d.took, at.Sub(began))
		for _, l := range all {
			l.Close()
		}
		l, err := net.Listen("tcp4", "127.0.0.1:0") // an event, by which hostagent sees that they have gone
		if err != nil {
			b.Fatal(err)
		}
		registry.until(func(r consul.Report) bool { return countOf(r, consul.Warning) == 0 })
		l.Close()
	}
	d.report(b)
}

// warning measures from listen(2) until the check in a real Consul agent has turned, with the built program.
func warning(b *testing.B) {
	asUnit(b)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	h, err := host.New(ctx, host.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	c, err := h.StartConsul(ctx, host.ConsulOptions{})
	if err != nil {
		b.Fatal(err)
	}
	m := &mover{port: appPort(0)}
	err = c.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: m.port, Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
	})
	if err != nil {
		b.Fatal(err)
	}
	agent, err := h.StartHostagent(ctx, "mode = \"observe\"\npoll_interval = \"10s\"\n")
	if err != nil {
		b.Fatal(err)
	}
	if err := agent.WaitLog(ctx, "heard of as they appear"); err != nil {
		b.Fatal(err)
	}
	turned := func(status consul.Status) bool {
		for end := time.Now().Add(heardDeadline); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
			checks, err := c.API().Agent().ChecksWithFilter(`CheckID == "hostagent:service:web"`)
			if err != nil {
				b.Fatal(err)
			}
			if check := checks["hostagent:service:web"]; check != nil && check.Status == string(status) {
				return true
			}
		}
		return false
	}
	if !turned(consul.Passing) {
		b.Fatalf("there is no check:\n%s", agent.Log())
	}
	var d delays
	for b.Loop() {
		time.Sleep(heardApart)
		var began time.Time
		var status consul.Status
		err := h.InHost(func() (err error) {
			began, status, err = m.move()
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		if !turned(status) {
			d.missed++
		}
		d.took = append(d.took, time.Since(began))
	}
	m.listener.Close()
	d.report(b)
}
