// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// TestLastingFaults: however long the agent answers as no agent should, longer than close_delay too, the last good state
// stands, and what comes after the fault counts again.
func TestLastingFaults(t *testing.T) {
	netns.Once(t)
	t.Parallel()
	kinds := host.FaultKinds(host.RouteServices)
	for part := range slices.Chunk(kinds, (len(kinds)+1)/2) {
		t.Run(part[0]+" to "+part[len(part)-1], func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			faulty, err := w.StartFaulty()
			w.must(err)
			t.Cleanup(func() { faulty.Close() })
			port := w.register("web", 8080, 0)
			w.listenOn("web", port, 21200)
			agent := w.start("close_delay = \"1s\"\npoll_interval = \"200ms\"\nconsul { timeout = \"300ms\" }\n",
				"--mode", "guard", "--consul-address", host.FaultyAddress)
			w.guarded()
			watch := w.sentry()
			watch.expect(host.Open, port)
			watch.expect(host.Dropped, 21200)
			for _, kind := range part {
				w.survives(faulty, kind)
				watch.calm(t, kind)
			}
			if log := agent.Log(); !strings.Contains(log, "step failed, the last good state stands") || strings.ContainsAny(log, "\x1b\x00") {
				t.Errorf("the log has no trouble or raw control characters")
			}
			w.must(w.consul.API().Agent().ServiceDeregister("web"))
			watch.expect("", port)
			w.eventually(port, host.Dropped, 10*time.Second)
			t.Log(watch.stop(t))
		})
	}
}

// survives lets services fail for longer than close_delay.
func (w *world) survives(faulty *host.Faulty, kind string) {
	w.t.Helper()
	fault, err := host.NewFault(rand.New(rand.NewPCG(1, 1)), kind, host.RouteServices, 1000)
	w.must(err)
	faulty.Arm(fault)
	time.Sleep(1400 * time.Millisecond)
	faulty.Disarm()
	passed := faulty.Passed(host.RouteServices)
	w.until("hostagent asks again after "+kind, func() error {
		if faulty.Passed(host.RouteServices) == passed {
			return errors.New("it has not")
		}
		return nil
	})
}

// TestOutage: an agent that is gone altogether, and back, closes nothing by that alone.
func TestOutage(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("squatter", 21200)
	w.guard("")
	w.eventually(port, host.Open, 5*time.Second)
	watch := w.sentry()
	watch.expect(host.Open, port)
	watch.expect(host.Dropped, 21200)
	w.must(w.consul.Stop())
	time.Sleep(6 * time.Second) // close_delay is 4 s
	watch.calm(t, "while the agent is away")
	w.must(w.consul.Restart(w.ctx))
	w.checkTurns("alive", "passing", "guard mode")
	t.Log(watch.stop(t))
	w.must(w.consul.API().Agent().ServiceDeregister("web"))
	w.eventually(port, host.Dropped, 10*time.Second)
}

// TestHostileRegistrations: what a token with service:write on one service can write, and more.
func TestHostileRegistrations(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("other", 22, 443, 21256)
	w.defaultDrop("nft")
	w.guard("")
	long := strings.Repeat("n", 300)
	hostile := []*api.AgentServiceRegistration{
		proxy("ssh", 22, "x"), proxy("https", 443, "x"), proxy("past", 21256, "x"), proxy("far", 70000, "x"),
		proxy("wrap", 65536+21007, "x"), proxy("negative", -1, "x"),
		proxy("one", 21030, "x"), proxy("two", 21030, "x"),
		proxy("esc\x1b[2J\nnewline", 443, "x\x1b]0;title\x07\r\n"), proxy(long, 443, long), proxy("-rf", 443, "-rf"),
		proxy("../../etc", 443, "%2e%2e"),
		{Name: "gw", Kind: api.ServiceKindMeshGateway, Port: 443},
		{Name: "native", Port: 443, Connect: &api.AgentServiceConnect{Native: true}},
		{Name: "plain", Port: 21031},
	}
	for _, registration := range hostile {
		if err := w.consul.API().Agent().ServiceRegister(registration); err != nil {
			t.Logf("the agent itself refuses %q: %v", registration.Name, err)
		}
	}
	w.checkTurns("sidecar-range", "warning", "warning duplicate-port\n  port 21030 is registered by one and two")
	for _, closed := range []uint16{22, 443, 21256, 21007, 21031} {
		w.reaches(closed, host.Dropped)
	}
	w.meshWorks("web", port)
	show := w.hostagent(0, "firewall", "show")
	for _, line := range strings.Split(show, "\n") {
		if strings.HasPrefix(line, "add hostagent-open") && line != "add hostagent-open 21000" && line != "add hostagent-open 21030" {
			t.Errorf("a port is open that should not be: %s", line)
		}
	}
	for _, args := range [][]string{{"scan"}, {"scan", "--format", "json"}} {
		if out := w.hostagent(1, args...); strings.ContainsAny(out, "\x1b\x07\r") {
			t.Errorf("%v lets control characters through:\n%q", args, out)
		}
	}
	checks, err := w.consul.API().Agent().ChecksWithFilter(`ServiceID == "hostagent"`)
	w.must(err)
	for id, c := range checks {
		if len(c.Output) > 4096 || strings.ContainsAny(c.Output+c.Name, "\x1b\x07\r") {
			t.Errorf("check %q: %d bytes, %q", id, len(c.Output), c.Output)
		}
	}
}

func proxy(name string, port int, destination string) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		Name: name, Kind: api.ServiceKindConnectProxy, Port: port,
		Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: destination},
	}
}

// TestManyFindingsFitTheCheck: Consul keeps 4,096 bytes of a check's output.
func TestManyFindingsFitTheCheck(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, listen := neighbours(21000)
	_, err := w.StartApp(w.ctx, host.App{Name: "everywhere", Listen: listen})
	w.must(err)
	w.start(quick, "--mode", "observe")
	w.checkTurns("sidecar-range", "warning", "more: see hostagent scan")
	if c := w.check("sidecar-range"); len(c.Output) > 4096 {
		t.Errorf("the output has %d bytes", len(c.Output))
	}
}

func TestRangeOfAllPortsIsRefused(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{Config: "ports {\n  sidecar_min_port = 20\n  sidecar_max_port = 65535\n}\n"})
	w.listenOn("other", 22, 443, 21256)
	w.guard("")
	for _, open := range []uint16{22, 443, 21256} {
		w.reaches(open, host.Open)
	}
	w.checkTurns("sidecar-range", "critical", "range-refused")
	if out := w.hostagent(1, "scan", "--fail-on", "critical"); !strings.Contains(out, "it holds 65516 ports, more than 4096; 21000-21255 stays in force") {
		t.Errorf("scan says\n%s", out)
	}
}
