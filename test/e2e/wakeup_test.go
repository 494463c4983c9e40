// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// TestRegistrationOpensAtOnce: long before the next poll, with a token that may not read the node, after a reload, and after
// Consul was restarted; and what hostagent itself writes wakes it no more than once.
func TestRegistrationOpensAtOnce(t *testing.T) {
	netns.Once(t)
	w := newWorld(t, defaultDeny())
	w.register("web", 8080, 0)
	config := fmt.Sprintf("poll_interval = \"5s\"\nclose_delay = \"4s\"\nconsul { token_file = %q }\n", w.grant("hostagent", frugal).file())
	agent := w.startPrivately(config)
	w.must(agent.WaitLog(w.ctx, "changes of the catalog wake the loop"))
	w.checkTurns("alive", "passing", "guard mode")
	waits := func() error {
		if is := agent.tells().Consul.Wakeup; is.State != hostagent.WakeupWaiting {
			return fmt.Errorf("status says %+v", is)
		}
		return nil
	}
	opens := func(when string) {
		t.Helper()
		name := fmt.Sprintf("s%d", time.Now().UnixNano())
		began := time.Now()
		port := w.register(name, 9000, 0)
		w.eventually(port, host.Refused, 5*time.Second)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s, a port opened after %v", when, took)
		}
	}
	w.guarded()
	for range 5 {
		opens("at first")
	}
	if err := waits(); err != nil {
		t.Error(err)
	}
	w.must(agent.Signal(syscall.SIGHUP))
	w.must(agent.WaitLog(w.ctx, "configuration reloaded"))
	w.until("it waits again", waits)
	opens("after a reload")
	w.must(w.consul.Restart(w.ctx))
	w.until("it waits again", waits)
	opens("after a restart of Consul")
	before := agent.tells().Consul.WholeAnswers
	time.Sleep(4 * time.Second)
	if polls := agent.tells().Consul.WholeAnswers - before; polls > 2 { // once by the poll, once for what was registered last
		t.Errorf("the agent was asked %d times in 4 s of a steady host, want twice at most", polls)
	}
}

// TestSteadyHostWritesNothing to Consul's servers, while it guards and reports: not even when it refreshes its life check.
func TestSteadyHostWritesNothing(t *testing.T) {
	netns.Once(t)
	w := newWorld(t, host.ConsulOptions{Config: "disable_coordinates = true\n"}) // the agent's own, four times a minute
	w.register("web", 8080, 0)
	_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"0.0.0.0:8080"}})
	w.must(err)
	w.guard("")
	w.checkTurns("service:web", "warning", "exposed-listener")
	w.checkTurns("firewall", "passing", "Guarded")
	var synced int
	w.until("nothing more is written", func() error {
		synced = w.consul.Synced()
		time.Sleep(3 * time.Second)
		if after := w.consul.Synced(); after != synced || synced == 0 {
			return fmt.Errorf("from %d writes to %d", synced, after)
		}
		return nil
	})
	before, err := w.consul.RaftIndex()
	w.must(err)
	time.Sleep(17 * time.Second) // in which the life check is refreshed once at least
	after, err := w.consul.RaftIndex()
	w.must(err)
	// A leader adds two entries in a minute by itself; whatever the agent writes adds one each.
	if synced := w.consul.Synced() - synced; synced > 0 || after > before+2 {
		t.Errorf("a steady host had the agent write %d times; the raft log went from %d to %d", synced, before, after)
	}
}
