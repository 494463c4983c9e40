// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// TestAllowFrom: reloads of the configuration say who in the network reaches a sidecar, each IP version by itself. A
// source that is allowed throughout never notices, and neither does the host itself.
func TestAllowFrom(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		for _, policy := range []string{"ACCEPT", "DROP"} {
			t.Run(variant+"/"+policy, func(t *testing.T) {
				w := newWorld(t, host.ConsulOptions{})
				_, sidecar := w.service("web", 8080, "127.0.0.1:8080")
				w.listenOn("other", 7777, 21200)
				others := host.Open // the port that is none of ours
				if policy == "DROP" {
					w.defaultDrop(variant)
					others = host.Dropped
				}
				file := filepath.Join(t.TempDir(), "h.hcl")
				write := func(allowFrom string) {
					t.Helper()
					config := quick + usingVariant(variant) + "mode = \"guard\"\nallow_from = [" + allowFrom + "]\n"
					w.must(os.WriteFile(file, []byte(config), 0o600))
				}
				// expect waits for what the network sees of the sidecar, then looks whether the rest is as always.
				expect := func(ipv4, ipv6 host.Reach) {
					t.Helper()
					for address, want := range map[string]host.Reach{host.IPv4: ipv4, host.IPv6: ipv6} {
						_, err := w.EventuallyReach(w.ctx, at(address, sidecar), want, 10*time.Second)
						w.must(err)
						conn, err := w.Local.Dial(w.ctx, "tcp", at(address, sidecar))
						if err != nil {
							t.Errorf("the host does not reach its own sidecar: %v", err)
							continue
						}
						conn.Close()
					}
					w.reaches(7777, others)
					w.reaches(21200, host.Dropped)
				}

				write(`"192.0.2.0/24"`)
				agent := w.start("", "--config", file)
				w.guarded()
				expect(host.Dropped, host.Dropped)
				w.checkTurns("firewall", "passing", "\nFrom:    192.0.2.0/24\n")

				reload := func(allowFrom string) {
					t.Helper()
					write(allowFrom)
					w.must(agent.Signal(syscall.SIGHUP))
				}
				reload(fmt.Sprintf(`"192.0.2.0/24", %q`, host.NetIPv4))
				expect(host.Open, host.Dropped)
				reload(`"10.99.0.0/24", "fd00:99::/64"`)
				expect(host.Open, host.Open)
				w.meshWorks("web", sidecar)
				w.checkTurns("firewall", "passing", "\nFrom:    10.99.0.0/24, fd00:99::/64\n")
				show := w.hostagent(0, "firewall", "show")
				if want := "create hostagent-from4 hash:net family inet\nadd hostagent-from4 10.99.0.0/24\n"; !strings.Contains(show, want) {
					t.Errorf("firewall show lacks %q:\n%s", want, show)
				}

				// What another hand empties is filled again, in the interval that the configuration sets.
				w.run("ipset", "flush", "hostagent-from4")
				expect(host.Open, host.Open)
				w.must(agent.WaitLog(w.ctx, "set hostagent-from4 had lost sources 10.99.0.0/24 and gained none"))

				reload(fmt.Sprintf("%q", host.NetIPv6))
				expect(host.Dropped, host.Open)
				reload("")
				expect(host.Open, host.Open)
				w.until("nothing is left of the sources", func() error {
					if show := w.hostagent(0, "firewall", "show"); strings.Contains(show, "hostagent-from") {
						return fmt.Errorf("firewall show says\n%s", show)
					}
					return nil
				})
				w.hostagent(0, "firewall", "remove", "--stop")
			})
		}
	}
}
