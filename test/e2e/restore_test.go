// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// saved waits until the state holds text.
func (w *world) saved(text string) {
	w.t.Helper()
	w.until("the state holds "+text, func() error {
		state, err := os.ReadFile(filepath.Join(w.StateDir(), "state.json"))
		if err == nil && !strings.Contains(string(state), text) {
			err = errors.New(string(state))
		}
		return err
	})
}

// reboot takes out of the kernel what a reboot would: every rule and set of ours. The saved state stays.
func (w *world) reboot() {
	w.t.Helper()
	w.hostagent(0, "firewall", "remove") // of a configuration that keeps no state here
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		w.t.Fatalf("after the reboot:\n%s", show)
	}
}

// TestRestoreAtBoot: a host comes up. Before Consul does, sidecars are reached and the rest of the range is not; and while
// Consul and hostagent come up, no caller of the sidecar is refused and nothing else is reached.
func TestRestoreAtBoot(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
			const closed = 21200
			_, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{fmt.Sprintf("[::]:%d", closed)}})
			w.must(err)
			w.defaultDrop(variant)
			config := quick + usingVariant(variant)
			agent := w.guard(usingVariant(variant))
			w.saved(fmt.Sprintf(`"open":"%d"`, sidecar))
			w.must(agent.Stop())
			w.must(w.consul.Stop())
			w.reboot()
			w.reaches(sidecar, host.Dropped)

			dir, err := w.Configure(config)
			w.must(err)
			restore := []string{"firewall", "restore", "--mode", "guard", "--config", dir}
			if out := w.hostagent(0, restore...); !strings.Contains(out, fmt.Sprintf("restored: guard 21000-21255; open %d\n", sidecar)) {
				t.Errorf("restore says\n%s", out)
			}
			w.reaches(sidecar, host.Open)
			w.reaches(closed, host.Dropped)
			before := w.hostagent(0, "firewall", "show")
			if out := w.hostagent(0, restore...); !strings.Contains(out, "rules of an earlier run stand") {
				t.Errorf("restored again it says\n%s", out)
			}
			if after := w.hostagent(0, "firewall", "show"); !sameButEmptySets(before, after) {
				t.Errorf("restoring again changes\n%s\ninto\n%s", before, after)
			}

			stop := w.watch(sidecar, closed)
			agent = w.start(config, "--mode", "guard") // before Consul, as at a boot
			w.must(agent.WaitLog(w.ctx, "adopted the rules of an earlier run"))
			w.must(w.consul.Restart(w.ctx))
			w.must(agent.WaitLog(w.ctx, "sidecar ports"))
			time.Sleep(6 * time.Second) // longer than close_delay and settling
			if tries := stop(); tries < 50 {
				t.Errorf("only %d tries", tries)
			}
			w.guarded()
			w.reaches(sidecar, host.Open)
			w.reaches(closed, host.Dropped)
		})
	}
}

// sameButEmptySets compares what firewall show says without sets of sources: restore makes them, empty, for others.
func sameButEmptySets(a, b string) bool {
	strip := func(text string) string {
		var kept []string
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "create hostagent-from") {
				kept = append(kept, line)
			}
		}
		return strings.Join(kept, "")
	}
	return strip(a) == strip(b)
}

// watch connects to both ports all the time, until stop is called, and wants the one open and the other not. It returns
// how often it tried.
func (w *world) watch(open, closed uint16) (stop func() int) {
	ctx, cancel := context.WithCancel(w.ctx)
	var tries int
	var watchers sync.WaitGroup
	for port, want := range map[uint16]host.Reach{open: host.Open, closed: host.Dropped} {
		watchers.Go(func() {
			for ctx.Err() == nil {
				got, err := w.Reachable(w.ctx, at(host.IPv4, port))
				if err != nil || got != want {
					w.t.Errorf("port %d is %s, %v, want %s", port, got, err, want)
					return
				}
				if port == open {
					tries++
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() int {
		cancel()
		watchers.Wait()
		return tries
	}
}

// TestForeignStateIsRefused: on a host that was cloned, the state is of the machine, or of the Consul node, that it was
// cloned from.
func TestForeignStateIsRefused(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
	agent := w.guard("")
	w.saved(fmt.Sprintf(`"open":"%d"`, sidecar))
	w.must(agent.Stop())
	w.reboot()
	dir, err := w.Configure(quick)
	w.must(err)
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	id := filepath.Join(w.Dir, "other-machine-id")
	w.must(os.WriteFile(id, []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	out, code, err := w.Run(w.ctx, "unshare", "-m", "sh", "-c",
		`mount --bind "$1" /etc/machine-id && exec "$2" firewall restore --mode guard --config "$3"`, "sh", id, binary, dir)
	w.must(err)
	if code != 1 || !strings.Contains(out, "it belongs to another host: its machine id is another one") {
		t.Errorf("on another machine it ends with %d:\n%s", code, out)
	}

	state, err := os.ReadFile(filepath.Join(w.StateDir(), "state.json"))
	w.must(err)
	self, err := w.consul.API().Agent().Self()
	w.must(err)
	nodeFile := filepath.Join(fmt.Sprint(self["DebugConfig"]["DataDir"]), "node-id")
	node, err := os.ReadFile(nodeFile)
	w.must(err)
	if !strings.Contains(string(state), strings.TrimSpace(string(node))) {
		t.Fatalf("the state does not name the node %s:\n%s", node, state)
	}
	w.must(w.consul.Stop())
	w.must(os.WriteFile(nodeFile, []byte("99999999-2222-3333-4444-555555555555"), 0o600))
	if out := w.hostagent(1, "firewall", "restore", "--mode", "guard", "--config", dir); !strings.Contains(out, "is another one") {
		t.Errorf("on another node:\n%s", out)
	}
	if show := w.hostagent(0, "firewall", "show"); strings.Contains(show, "\nadd ") || strings.Contains(show, "DROP") {
		t.Errorf("a foreign state changed the kernel:\n%s", show)
	}
	w.must(os.WriteFile(nodeFile, node, 0o600))
	w.hostagent(0, "firewall", "restore", "--mode", "guard", "--config", dir)
	w.reaches(sidecar, host.Open)
	w.reaches(sidecar+1, host.Dropped)
}
