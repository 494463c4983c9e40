// SPDX-License-Identifier: MPL-2.0

package system

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/systemd"
	"github.com/hostagent/hostagent/test/machine"
)

// capability is a row of the table in systemd/README.md.
type capability struct {
	name string
	says string // "" where nothing is said
}

func documented(t *testing.T) []capability {
	t.Helper()
	text, err := os.ReadFile("../../systemd/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []capability
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 3 || !strings.HasPrefix(cells[0], "| `CAP_") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(cells[0], "| `"), "`")
		says := strings.Trim(strings.TrimSuffix(cells[2], " |"), "`")
		if says == "nothing" {
			says = ""
		}
		found = append(found, capability{name, says})
	}
	return found
}

// granted returns the capabilities of the unit.
func granted(t *testing.T) []string {
	t.Helper()
	for _, unit := range systemd.Units(program) {
		for line := range strings.Lines(unit.Text) {
			if list, ok := strings.CutPrefix(line, "CapabilityBoundingSet="); ok && unit.Name == systemd.Guard {
				return strings.Fields(list)
			}
		}
	}
	t.Fatal("the unit has no CapabilityBoundingSet=")
	return nil
}

// TestCapabilities: what the table of systemd/README.md says is lost without a capability is lost and said, and nothing
// else; with full.conf nothing is.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	const guard, observe = "mode = \"guard\"\n", "mode = \"observe\"\n"
	g := newUnitHost(t, guard, machine.HostCgroups)
	// Another namespace, with a process of another user in it.
	g.Write("/etc/systemd/system/inner.service", "[Service]\nDynamicUser=yes\nPrivateNetwork=yes\nExecStart=/usr/local/bin/app -listen 0.0.0.0:8090\n", 0o644)
	g.Shell("systemctl daemon-reload; systemctl start inner; umask 077; mkdir -p /etc/iptables; " +
		"echo '-A INPUT -m set --match-set hostagent-open dst -j ACCEPT' >/etc/iptables/rules.v4")
	g.startConsul()

	rows := documented(t)
	without := func(names ...string) *hostagent.Status {
		g.setCapabilities(names)
		g.Run("systemctl", "restart", systemd.Guard)
		pid := g.show("MainPID")
		return g.status(fmt.Sprintf("a host guarded without %q", names), func(st *hostagent.Status) bool {
			return guards(st) && g.show("MainPID") == pid
		})
	}
	usual := without().Degradations
	if len(usual) != 1 {
		t.Fatalf("with all that the unit grants it says %q, want one thing", usual)
	}
	var names []string
	for _, row := range rows {
		if row.name == "CAP_SYS_ADMIN" {
			g.checkFull(usual, row.says)
			continue
		}
		names = append(names, row.name)
		if row.name == "CAP_NET_ADMIN" || row.name == "CAP_NET_RAW" {
			g.setCapabilities([]string{row.name})
			if _, err := g.Try("systemctl", "restart", systemd.Guard); err == nil || !strings.Contains(g.Journal(systemd.Guard), row.says) {
				t.Errorf("without %s guard mode starts (%v), or does not say %q:\n%s", row.name, err, row.says, g.Journal(systemd.Guard))
			}
			g.Write(settings, observe, 0o644)
			g.Run("systemctl", "restart", systemd.Guard)
			g.status("observe mode without "+row.name, func(st *hostagent.Status) bool { return st.Pass.Count > 3 && len(st.Openings) == 1 })
			g.Write(settings, guard, 0o644)
			continue
		}
		st := without(row.name)
		if st.Firewall.Error+st.Consul.Error+st.Listeners.Error+st.Report.Error != "" {
			t.Errorf("without %s steps fail: firewall %q, Consul %q, listeners %q, report %q", row.name,
				st.Firewall.Error, st.Consul.Error, st.Listeners.Error, st.Report.Error)
		}
		more := slices.DeleteFunc(slices.Clone(st.Degradations), func(text string) bool { return slices.Contains(usual, text) })
		said := slices.ContainsFunc(more, func(text string) bool { return row.says != "" && strings.Contains(text, row.says) })
		if said != (row.says != "") || row.says == "" && len(more) > 0 {
			t.Errorf("without %s it says %q, want %q", row.name, more, row.says)
		}
	}
	slices.Sort(names)
	if diff := cmp.Diff(slices.Sorted(slices.Values(granted(t))), names); diff != "" {
		t.Errorf("the unit's capabilities and those of the table (-unit +table)\n%s", diff)
	}
}

// setCapabilities takes capabilities from the unit.
func (g *unitHost) setCapabilities(without []string) {
	text := "[Service]\nRestart=no\n"
	for _, name := range without {
		text += fmt.Sprintf("AmbientCapabilities=~%s\nCapabilityBoundingSet=~%[1]s\n", name)
	}
	g.Write(dropIn, text, 0o644)
	g.Run("systemctl", "daemon-reload")
}

// checkFull looks whether full.conf mends what the unit as it is leaves out.
func (g *unitHost) checkFull(usual []string, says string) {
	g.t.Helper()
	if !strings.Contains(usual[0], says) {
		g.t.Errorf("as packaged it says %q, want %q", usual, says)
	}
	g.Copy("../../systemd/units/full.conf", dropIn, 0o644)
	g.Run("systemctl", "daemon-reload")
	g.Run("systemctl", "restart", systemd.Guard)
	g.status("nothing left out with full.conf", func(st *hostagent.Status) bool {
		return guards(st) && st.Listeners.Events && len(st.Degradations) == 0
	})
	g.checkExposure()
}
