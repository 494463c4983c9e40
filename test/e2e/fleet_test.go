// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// fleetHost is what hostagent fleet tells of a host, as far as the tests look.
type fleetHost struct {
	Node     string
	State    string
	Mode     string
	Version  string
	Sidecars int
	Findings []struct{ ID, Service, Severity, State string }
}

func (h fleetHost) String() string {
	text := h.Node + " " + h.State
	if h.Mode != "" {
		text += " " + h.Mode
	}
	if h.State == "missing" {
		text += fmt.Sprintf(", %d sidecars", h.Sidecars)
	}
	for _, f := range h.Findings {
		text += fmt.Sprintf(", %s %s of %s", f.Severity, f.ID, f.Service)
	}
	return text
}

// fleetTurns waits until hostagent fleet tells these hosts in this order.
func (w *world) fleetTurns(status int, want []string, args ...string) {
	w.t.Helper()
	w.until(fmt.Sprintf("the fleet is %q", want), func() error {
		binary, err := host.Binary(w.ctx, host.HostagentProgram)
		w.must(err)
		out, code, err := w.Run(w.ctx, binary, append([]string{"fleet", "--format", "json"}, args...)...)
		w.must(err)
		var told struct{ Hosts []fleetHost }
		if err := json.Unmarshal([]byte(out), &told); err != nil {
			return fmt.Errorf("%w in\n%s", err, out)
		}
		var is []string
		for _, h := range told.Hosts {
			is = append(is, h.String())
		}
		if strings.Join(is, "\n") != strings.Join(want, "\n") || code != status {
			return fmt.Errorf("it is %q, exit status %d", is, code)
		}
		return nil
	})
}

// run runs hostagent on a member, beside its own agent.
func (m *member) run(w *world, config string) *host.Process {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	dir, err := w.Configure(config)
	w.must(err)
	run, err := os.MkdirTemp(w.Dir, "run-")
	w.must(err)
	const script = `mkdir -p /run/hostagent && mount --bind "$0" /run/hostagent && exec "$@"`
	process, err := w.Start("hostagent of "+m.Name, m.Command(context.Background(), "unshare", "-m", "sh", "-ec", script, run,
		binary, "run", "--mode", "observe", "--config", dir))
	w.must(err)
	host.ShowLog(w.t, process)
	return process
}

// register registers a service of Consul's own configuration language with the agent of a member.
func (m *member) register(w *world, definition string) {
	w.t.Helper()
	binary, err := host.ConsulBinary(w.ctx, os.Stderr)
	w.must(err)
	file := filepath.Join(w.t.TempDir(), "service.hcl")
	w.must(os.WriteFile(file, []byte(definition), 0o600))
	if out, err := m.Command(w.ctx, binary, "services", "register", file).CombinedOutput(); err != nil {
		w.t.Fatalf("consul services register: %v\n%s", err, out)
	}
}

// TestFleet: one host with an exposed service, one in order, one whose agent has a sidecar and no hostagent, and one without
// either; who stops and who mends is seen, and --watch hears of it.
func TestFleet(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	web, _ := w.service("web", 8080, "0.0.0.0:8080")
	members := w.members("b", "c", "d")
	b, c := members[0], members[1]
	c.register(w, "service {\n name = \"web\"\n port = 8080\n connect { sidecar_service {} }\n}\n")
	w.start(quick, "--mode", "guard")
	ofB := b.run(w, quick)

	exposed := "host runs guard, warning exposed-listener of web"
	all := []string{"c missing, 1 sidecars", exposed, "d missing, 0 sidecars", "b runs observe"}
	w.fleetTurns(1, all)
	w.fleetTurns(1, []string{"c missing, 1 sidecars", exposed}, "--service", "web")
	w.fleetTurns(0, all, "--fail-on", "never")
	table := w.hostagent(1, "fleet")
	for _, text := range []string{"exposed-listener", "host", "c ", "d ", "b "} {
		if !strings.Contains(table, text) {
			t.Errorf("the table lacks %q:\n%s", text, table)
		}
	}
	page := w.hostagent(1, "fleet", "--format", "html")
	if !strings.HasPrefix(page, "<!DOCTYPE html>") || !strings.Contains(page, "exposed-listener") || strings.Contains(page, "<script") {
		t.Errorf("the page is\n%.2000s", page)
	}

	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	cmd := w.Command(context.Background(), binary, "fleet", "--watch", "--format", "json")
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	watch, err := w.Start("hostagent fleet", cmd)
	w.must(err)
	w.must(watch.WaitLog(w.ctx, "exposed-listener"))
	before := len(watch.Log())
	w.must(web.Rebind(w.ctx, "127.0.0.1:8080"))
	w.until("--watch tells that web is in order", func() error {
		if more := watch.Log()[before:]; more == "" || strings.Contains(more[strings.LastIndex(strings.TrimSuffix(more, "\n"), "\n")+1:], "exposed-listener") {
			return errors.New("it does not")
		}
		return nil
	})
	w.must(ofB.Stop())
	w.fleetTurns(1, []string{"c missing, 1 sidecars", "d missing, 0 sidecars", "b stopped observe", "host runs guard"})
	w.must(watch.Stop())

	if out := w.hostagent(2, "fleet", "--service", "wep"); !strings.Contains(out, "wep") {
		t.Errorf("for a service that nobody has it says\n%s", out)
	}
	w.must(w.consul.Stop())
	if out := w.hostagent(2, "fleet"); !strings.Contains(out, "127.0.0.1:8500") {
		t.Errorf("without Consul it says\n%s", out)
	}
}

// TestFleetSilent: a hostagent that died is not taken for one that runs.
func TestFleetSilent(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "127.0.0.1:8080")
	agent := w.start(quick, "--mode", "observe")
	w.fleetTurns(0, []string{"host runs observe"})
	w.must(agent.Kill())
	// The TTL of the life check is 30 s: as if it had passed.
	w.must(w.consul.API().Agent().UpdateTTL("hostagent:alive", "TTL expired (last output before timeout follows): hostagent", api.HealthCritical))
	w.fleetTurns(1, []string{"host silent observe"})
}

// TestFleetNeedsRights: a list that ACLs shortened would call hosts missing, so it is refused, and the policy that acl-policy
// prints is enough.
func TestFleetNeedsRights(t *testing.T) {
	w := newWorld(t, defaultDeny())
	w.service("web", 8080, "0.0.0.0:8080")
	dir, err := w.Configure(quick)
	w.must(err)
	own := w.grant("hostagent", w.policyOf(dir))
	w.start(quick+fmt.Sprintf("consul { token_file = %q }\n", own.file()), "--mode", "observe")
	w.checkTurns("service:web", "warning", "exposed-listener")
	policy := w.hostagent(0, "acl-policy", "--fleet")
	given := w.grant("fleet", policy)
	file := given.file()
	w.fleetTurns(1, []string{"host runs observe, warning exposed-listener of web"}, "--consul-token-file", file)
	for _, rule := range []string{`node_prefix "" { policy = "read" }`, `service_prefix "" { policy = "read" }`} {
		given.change(without(t, policy, rule))
		w.until("the list is refused without "+rule, func() error {
			if out, code := w.says("fleet", "--consul-token-file", file); code != 2 || !strings.Contains(out, rule) {
				return fmt.Errorf("it ends with %d and says %s", code, out)
			}
			return nil
		})
	}
	if out, code := w.says("fleet"); code != 2 || !strings.Contains(out, "acl-policy --fleet") {
		t.Errorf("without a token it ends with %d and says %s", code, out)
	}
}
