// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/test/host"
)

// frugal is the least that a token needs, without node:read.
const frugal = `
agent "host"        { policy = "read" }
service_prefix ""   { policy = "read" }
service "hostagent" { policy = "write" }
`

// denying is an agent that denies by default.
func denying(management string) host.ConsulOptions {
	return host.ConsulOptions{Token: management, Config: fmt.Sprintf(`acl {
  enabled = true
  default_policy = "deny"
  tokens {
    initial_management = %q
    agent = %[1]q
  }
}`, management)}
}

// tokenFile makes a token with the given rights and returns a file that holds it.
func (w *world) tokenFile(rules string) string {
	w.t.Helper()
	acl := w.consul.API().ACL()
	_, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: "frugal", Rules: rules}, nil)
	w.must(err)
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "frugal"}}}, nil)
	w.must(err)
	file := filepath.Join(w.t.TempDir(), "token")
	w.must(os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600))
	return file
}

// TestRegistrationOpensAtOnce: long before the next poll, with a token that may not read the node, after a reload, and after
// Consul was restarted; and what hostagent itself writes wakes it no more than once.
func TestRegistrationOpensAtOnce(t *testing.T) {
	w := newLoneWorld(t, denying("11111111-2222-3333-4444-555555555555"))
	w.register("web", 8080, 0)
	config := fmt.Sprintf("mode = \"guard\"\npoll_interval = \"5s\"\nclose_delay = \"4s\"\nconsul { token_file = %q }\n", w.tokenFile(frugal))
	agent := w.start(config)
	w.must(agent.WaitLog(w.ctx, "changes of the catalog wake the loop"))
	w.checkTurns("alive", "passing", "guard mode")
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
	st := w.tells()
	if st.Consul.Wakeup.State != hostagent.WakeupWaiting {
		t.Errorf("status says %+v", st.Consul.Wakeup)
	}
	w.must(agent.Signal(syscall.SIGHUP))
	w.must(agent.WaitLog(w.ctx, "configuration reloaded"))
	w.until("it waits again", func() error { return w.wakes(hostagent.WakeupWaiting) })
	opens("after a reload")
	w.must(w.consul.Restart(w.ctx))
	w.until("it waits again", func() error { return w.wakes(hostagent.WakeupWaiting) })
	opens("after a restart of Consul")
	before := w.tells().Consul.WholeAnswers
	time.Sleep(4 * time.Second)
	if polls := w.tells().Consul.WholeAnswers - before; polls > 1 {
		t.Errorf("the agent was asked %d times in 4 s of a steady host, want once or never", polls)
	}
}

func (w *world) tells() (st hostagent.Status) {
	w.t.Helper()
	w.must(json.Unmarshal([]byte(w.hostagent(0, "status", "--format", "json")), &st))
	return st
}

func (w *world) wakes(want hostagent.WakeupState) error {
	if is := w.tells().Consul.Wakeup; is.State != want {
		return fmt.Errorf("it is %+v", is)
	}
	return nil
}

// TestSteadyHostWritesNothing to Consul's servers, while it guards and reports: not even when it refreshes its life check.
func TestSteadyHostWritesNothing(t *testing.T) {
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
