// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// seldom is a configuration with which no poll comes in time.
const seldom = "poll_interval = \"10s\"\n"

// TestListenerIsReportedAsItAppears: long before the next poll, and after a reload too.
func TestListenerIsReportedAsItAppears(t *testing.T) {
	netns.RequireRoot(t, "needs CAP_BPF of the host")
	w := newWorld(t, host.ConsulOptions{})
	w.register("web", 8080, 0)
	agent := w.start(seldom, "--mode", "observe")
	exposed := func(when string, app func() error) {
		t.Helper()
		w.must(app())
		began := time.Now()
		w.checkTurns("service:web", "warning", "web listens on tcp 0.0.0.0:8080")
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("%s, it took %v", when, took)
		}
	}
	w.checkTurns("service:web", "passing", "does not listen")
	w.must(agent.WaitLog(w.ctx, "listeners are heard of as they appear"))
	var app *host.RunningApp
	exposed("first", func() (err error) {
		app, err = w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"0.0.0.0:8080"}})
		return err
	})
	w.must(app.Rebind(w.ctx, "127.0.0.1:8080"))
	w.checkTurns("service:web", "passing", "on loopback only")
	w.must(agent.Signal(syscall.SIGHUP))
	w.must(agent.WaitLog(w.ctx, "configuration reloaded"))
	exposed("after a reload", func() error { return app.Rebind(w.ctx, "0.0.0.0:8080") })
}

// TestWithoutEventsListenersArePolled: where the kernel does not let hostagent hear, it says so, and polls.
func TestWithoutEventsListenersArePolled(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.register("web", 8080, 0)
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	dir, err := w.Configure(quick)
	w.must(err)
	name, args := binary, []string{"run", "--config", dir, "--mode", "observe"}
	if !netns.Rootless() { // who is not root of the host has no such right anyway
		name, args = "setpriv", append([]string{"--bounding-set", "-bpf,-sys_admin", binary}, args...)
	}
	cmd := w.Command(context.Background(), name, args...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	agent, err := w.Start("hostagent", cmd)
	w.must(err)
	w.must(agent.WaitLog(w.ctx, `msg=degraded reason="listeners are found at poll_interval only`))
	w.must(agent.WaitLog(w.ctx, "it needs CAP_BPF and CAP_NET_ADMIN of the host"))
	_, err = w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"0.0.0.0:8080"}})
	w.must(err)
	w.checkTurns("service:web", "warning", "web listens on tcp 0.0.0.0:8080")
}
