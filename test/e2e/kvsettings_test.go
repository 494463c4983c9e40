// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

const kvSettings = "kv_prefix = \"hostagent/\"\n"

// put writes a document of settings into Consul's KV.
func (w *world) put(name, text string) {
	w.t.Helper()
	_, err := w.consul.API().KV().Put(&api.KVPair{Key: "hostagent/" + name, Value: []byte(text)}, nil)
	w.must(err)
}

// take takes one away.
func (w *world) take(name string) {
	w.t.Helper()
	_, err := w.consul.API().KV().Delete("hostagent/"+name, nil)
	w.must(err)
}

// TestSettingsFromKV: what stands in Consul's KV counts at once, below the files of the host; what is wrong there, or may not
// stand there, is refused whole and told, and the last good settings go on, without Consul and over a restart too.
func TestSettingsFromKV(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("web", 8080, "0.0.0.0:8080")
	w.put("all.hcl", fmt.Sprintf("allow_from = [%q]\n", host.NetIPv4+"/32"))
	agent := w.guard(kvSettings)
	dir, err := w.Configure(quick + kvSettings)
	w.must(err)
	w.checkTurns("firewall", "passing", "From:    "+host.NetIPv4)
	w.checkTurns("service:web", "warning", "exposed-listener")
	stranger, err := w.Neighbour()
	w.must(err)
	w.expect("the network", w.Net, sidecar, host.Open, host.IPv4)
	w.expect("a stranger", stranger.Namespace, sidecar, host.Dropped, host.IPv4)

	w.put("exempt.hcl", "exempt {\n  finding = \"exposed-listener\"\n  service = \"web\"\n  reason  = \"scraped until the move\"\n}\n")
	w.checkTurns("service:web", "passing", "scraped until the move")
	if scan := w.hostagent(0, "scan", "--config", dir); !strings.Contains(scan, "scraped until the move") {
		t.Errorf("scan does not know the exemption:\n%s", scan)
	}

	for _, refused := range []struct{ text, says string }{
		{"protected_ports = [21000]\n", "protected_ports"},
		{"mode = \"observe\"\n", "kv_may_enforce"},
		{"consul { token = \"0123-secret\" }\n", "consul"},
		{"close_delay = 3\n", "close_delay"},
		{"allow_from = [", "kv:hostagent/bad.hcl:1"},
	} {
		w.put("bad.hcl", "close_delay = \"10s\"\n"+refused.text)
		w.lifeSays("warning", "the last good ones stand")
		w.lifeSays("warning", strings.Replace(refused.says, ":1", ":2", 1))
		w.expect("a stranger", stranger.Namespace, sidecar, host.Dropped, host.IPv4)
		w.checkTurns("service:web", "passing", "scraped until the move")
		w.take("bad.hcl")
		w.lifeSays("passing", "guard mode")
	}
	if log := agent.Log(); strings.Contains(log, "0123-secret") {
		t.Errorf("the log shows what may be a token:\n%s", log)
	}

	w.must(agent.Signal(syscall.SIGHUP)) // a reload keeps them
	w.must(agent.WaitLog(w.ctx, "configuration reloaded"))
	w.expect("a stranger", stranger.Namespace, sidecar, host.Dropped, host.IPv4)
	w.must(w.consul.Stop())
	w.must(agent.Stop())
	again := w.start(quick+kvSettings, "--mode", "guard")
	w.must(again.WaitLog(w.ctx, "adopted the rules of an earlier run"))
	w.must(again.WaitLog(w.ctx, "step=consul"))
	time.Sleep(5 * time.Second) // close_delay is 4 s
	w.expect("the network", w.Net, sidecar, host.Open, host.IPv4)
	w.expect("a stranger", stranger.Namespace, sidecar, host.Dropped, host.IPv4)
	w.must(w.consul.Restart(w.ctx))
	w.take("exempt.hcl")
	w.checkTurns("service:web", "warning", "exposed-listener")
	w.take("all.hcl") // nothing there is an answer too
	w.turns("a stranger", stranger.Namespace, sidecar, host.Open, 15*time.Second)
}

// TestSettingsNeedKeyRead: before the settings are known nothing opens and nothing closes, and the reason names the rule; an
// answer that ACLs emptied is not an empty answer.
func TestSettingsNeedKeyRead(t *testing.T) {
	w := newWorld(t, defaultDeny())
	_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
	w.put("all.hcl", fmt.Sprintf("allow_from = [%q]\n", host.NetIPv4+"/32"))
	dir, err := w.Configure(quick + kvSettings)
	w.must(err)
	whole := w.policyOf(dir)
	const rule = `key_prefix "hostagent/" { policy = "list" }`
	given := w.grant("hostagent", without(t, whole, rule))
	agent := w.start(quick+kvSettings+fmt.Sprintf("consul { token_file = %q }\n", given.file()), "--mode", "guard")
	w.until("the log names the rule", func() error {
		if !strings.Contains(strings.ReplaceAll(agent.Log(), `\"`, `"`), `key_prefix "hostagent/"`) {
			return fmt.Errorf("it is\n%s", agent.Log())
		}
		return nil
	})
	time.Sleep(3 * time.Second) // two equal answers would have come
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("before its settings are known it holds\n%s", show)
	}
	given.change(whole)
	w.guarded()
	w.checkTurns("firewall", "passing", "From:    "+host.NetIPv4)
	w.expect("the network", w.Net, sidecar, host.Open, host.IPv4)

	given.change(without(t, whole, rule))
	// The question that waits was allowed when it was asked: one more change may come through.
	n := 0
	w.until("the life check warns", func() error {
		n++
		w.put("all.hcl", fmt.Sprintf("allow_from = [%q]\n", fmt.Sprintf("192.0.2.%d/32", n)))
		if c := w.check("alive"); c == nil || c.Status != "warning" {
			return fmt.Errorf("it is %+v; logged:\n%s", c, agent.Log())
		}
		return nil
	})
	w.lifeSays("warning", "key_prefix")
	before := w.run("ipset", "save", "hostagent-from4")
	w.put("all.hcl", "allow_from = [\"198.51.100.0/24\"]\n")
	time.Sleep(2 * time.Second)
	if after := w.run("ipset", "save", "hostagent-from4"); after != before || strings.Contains(after, "198.51.100.0") {
		t.Errorf("without the right to read, who may connect changes:\n%s\nwas\n%s", after, before)
	}
	if log := agent.Log(); strings.Contains(log, given.token.SecretID) {
		t.Errorf("hostagent's log has the token:\n%s", log)
	}
}

// TestModeFromKV: with kv_may_enforce, and a mode in no file of the host, the mode is the fleet's.
func TestModeFromKV(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "127.0.0.1:8080")
	w.start(quick + kvSettings + "kv_may_enforce = true\n")
	time.Sleep(2 * time.Second)
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("without a mode it holds\n%s", show)
	}
	w.put("mode.hcl", "mode = \"guard\"\n")
	w.guarded()
	w.lifeSays("passing", "guard mode")
	w.take("mode.hcl") // no mode is no configuration: the last one stands
	w.lifeSays("warning", "the last good ones stand")
	w.guarded()
	w.put("mode.hcl", "mode = \"observe\"\n")
	w.lifeSays("passing", "observe mode")
	w.until("its rules are gone", func() error {
		if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
			return fmt.Errorf("it holds\n%s", show)
		}
		return nil
	})
}

// TestExemptionInKVLiftsNoQuarantine: who may write to Consul's KV gets no port opened that this host has closed, whenever
// his exemption comes and through restarts, unless the host lets the KV enforce.
func TestExemptionInKVLiftsNoQuarantine(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("shop", 8080, "0.0.0.0:8080")
	more := kvSettings + closing("8080", `"shop"`)
	agent := w.guard(more)
	dir, err := w.Configure(quick + more)
	w.must(err)
	w.guardsPort(8080)
	closed := func(when string) {
		t.Helper()
		w.until(when+" scan says why the port is closed", func() error {
			scan := oneLine(w.hostagent(0, "scan", "--config", dir))
			if !strings.Contains(scan, "does not lift quarantine (kv_may_enforce is off)") {
				return fmt.Errorf("it says\n%s", scan)
			}
			return nil
		})
		if plan := w.hostagent(0, "firewall", "plan", "--config", dir); strings.Contains(plan, "no longer guarded") || strings.Contains(plan, "kernel:") {
			t.Errorf("%s the plan is\n%s", when, plan)
		}
		w.reaches(8080, host.Dropped)
	}

	w.put("exempt.hcl", "exempt {\n  finding = \"exposed-listener\"\n  service = \"shop\"\n  reason  = \"no reason\"\n}\n")
	w.must(agent.WaitLog(w.ctx, "documents=1"))
	closed("beside the exemption")
	w.must(agent.Stop())
	again := w.start(quick+more, "--mode", "guard")
	w.must(again.WaitLog(w.ctx, "adopted the rules of an earlier run"))
	time.Sleep(6 * time.Second) // longer than close_delay and settling
	closed("after a restart")
	w.must(again.Stop())
	w.start(quick+more+"kv_may_enforce = true\n", "--mode", "guard")
	w.turns("the network", w.Net, 8080, host.Open, 15*time.Second)
}

// TestRestoreWithSettingsFromKV: what a fleet's settings had closed when the host went down is closed again before Consul is up.
func TestRestoreWithSettingsFromKV(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("shop", 8080, "0.0.0.0:8080")
	w.put("all.hcl", fmt.Sprintf("mode = \"guard\"\nenforce = \"quarantine\"\nallow_from = [%q]\n", host.NetIPv4+"/32"))
	config := quick + kvSettings + "kv_may_enforce = true\nquarantine_ports = [8080]\nquarantine_services = [\"shop\"]\n"
	agent := w.start(config)
	w.guarded()
	w.guardsPort(8080)
	w.saved(`"cut":"8080"`)
	w.must(agent.Stop())
	w.must(w.consul.Stop())
	w.reboot()
	w.expect("the network", w.Net, 8080, host.Open, host.IPv4)

	dir, err := w.Configure(config)
	w.must(err)
	restored := fmt.Sprintf("restored: guard 8080, 21000-21255; open %d\n", sidecar)
	if out := w.hostagent(0, "firewall", "restore", "--config", dir); !strings.Contains(out, restored) {
		t.Errorf("restore says\n%s", out)
	}
	stranger, err := w.Neighbour()
	w.must(err)
	w.reaches(8080, host.Dropped)
	w.expect("the network", w.Net, sidecar, host.Open, host.IPv4)
	w.expect("a stranger", stranger.Namespace, sidecar, host.Dropped, host.IPv4)
}
