// SPDX-License-Identifier: MPL-2.0

package system

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/systemd"
)

// savedFile is what netfilter-persistent loads: a rule of the operator's, and one that an earlier guard run left there.
const savedFile = `*filter
:INPUT ACCEPT [0:0]
:HOSTAGENT-ACCEPT - [0:0]
-A INPUT -j HOSTAGENT-ACCEPT
-A INPUT -p tcp -m tcp --dport 9 -m comment --comment "of the operator" -j DROP
-A HOSTAGENT-ACCEPT -p tcp -m set --match-set hostagent-open dst -j ACCEPT
COMMIT
`

// TestBootNothingToRestore: where there is nothing to restore no unit fails; where the configuration is wrong one does, and
// says why. In each case the boot goes on, and rules of the host that name our sets are loaded.
func TestBootNothingToRestore(t *testing.T) {
	t.Parallel()
	m := newBootHost(t, "mode = \"observe\"\n")
	m.turn("disable", "consul.service", systemd.Guard)
	m.Boot()
	m.bootedWell()
	m.untouched()
	m.Install("iptables-persistent")
	m.Write("/etc/iptables/rules.v4", savedFile, 0o640)
	for _, c := range []struct{ name, config, failed, says string }{
		{"observe", "mode = \"observe\"\n", "", "not in guard mode: nothing to restore"},
		{"no mode", "", "", "not in guard mode: nothing to restore"},
		{"no state", "mode = \"guard\"\n", "", "no saved state in /var/lib/hostagent: nothing to restore"},
		{"wrong", "mode = \"gard\"\n", "hostagent-restore.service hostagent-sets.service", "/etc/hostagent.d/hostagent.hcl:1: "},
	} {
		m.Write(settings, c.config, 0o644)
		m.Reboot()
		if failed := strings.Join(strings.Fields(m.Run("bash", "-c", "systemctl --failed --plain --no-legend | awk '{print $1}' | sort")), " "); failed != c.failed {
			t.Errorf("%s: units failed: %q, want %q", c.name, failed, c.failed)
		}
		if said := m.Journal(systemd.Restore); !strings.Contains(said, c.says) {
			t.Errorf("%s: it says\n%s", c.name, said)
		}
		m.operatorsRules(true)
	}
	m.Run("rm", "-r", "/etc/hostagent.d", "/etc/iptables/rules.v4")
	m.Reboot()
	m.bootedWell()
	m.untouched()
}

// untouched wants nothing of ours in the kernel.
func (m *bootHost) untouched() {
	m.t.Helper()
	if got := m.Run("bash", "-c", "nft list ruleset | grep -i hostagent; ipset list -n; true"); got != "" {
		m.t.Errorf("the kernel holds\n%s", got)
	}
}

// TestBootForeignState: an image of a host boots as another one. What it had open is not its own: nothing is opened or
// closed, one unit fails and says why, and the boot goes on.
func TestBootForeignState(t *testing.T) {
	t.Parallel()
	m := newBootHost(t, "mode = \"guard\"\n")
	m.Boot()
	m.leftOpen()
	m.Run("rm", "/var/lib/dbus/machine-id") // a first boot would take it for the machine's
	for _, id := range []string{"", "0123456789abcdef0123456789abcdef\n"} {
		m.Shutdown()
		m.Write("/etc/machine-id", id, 0o444)
		m.Boot()
		if said := m.Journal(systemd.Restore); !strings.Contains(said, "it belongs to another host: its machine id is another one; nothing was opened or closed") {
			t.Errorf("it says\n%s", said)
		}
		failed := strings.Fields(m.failed())
		if len(failed) == 0 || failed[0] != systemd.Restore || m.Run("systemctl", "is-active", "multi-user.target") != "active\n" {
			t.Errorf("after a refused state: %q", failed)
		}
		if rules := m.Run("iptables", "-t", "mangle", "-S"); strings.Contains(rules, "HOSTAGENT") {
			t.Errorf("rules of another host:\n%s", rules)
		}
	}
}

// TestBootOrder: no cycle, whatever is installed and enabled beside hostagent, and wherever its state lies.
func TestBootOrder(t *testing.T) {
	t.Parallel()
	for name, packages := range map[string][]string{
		"ufw":        {"ufw", "firewalld"},
		"persistent": {"iptables-persistent", "ipset-persistent", "firewalld"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newBootHost(t, "mode = \"guard\"\n")
			m.Boot()
			m.Install(packages...)
			m.turn("enable", "nftables.service", "firewalld.service")
			m.Reboot()
			m.bootedWell()
			m.inOrder(systemd.Sets, systemd.Restore, networkd)
			m.inOrder("firewalld.service", systemd.Restore)
		})
	}
}

// TestBootStateOverNetwork: where the state lies on a mount that comes over the network, there is none yet when the network
// comes up. That is no failure, and above all no ordering cycle: systemd breaks one by leaving out some unit.
func TestBootStateOverNetwork(t *testing.T) {
	t.Parallel()
	m := newBootHost(t, "mode = \"guard\"\n")
	m.Write("/srv/lib/kept", "", 0o644)
	m.Boot()
	m.Shell("cp -a /var/lib/. /srv/lib; echo '/srv/lib /var/lib none bind,_netdev 0 0' >>/etc/fstab")
	m.Reboot()
	m.bootedWell()
	m.Run("test", "-e", "/var/lib/kept")
	m.inOrder(systemd.Restore, networkd, "var-lib.mount")
}

// TestOneshotsStandApart: they stay as they are when the daemon restarts, a stop of theirs changes no rule, and they take
// nothing away from the daemon.
func TestOneshotsStandApart(t *testing.T) {
	t.Parallel()
	m := newBootHost(t, "mode = \"guard\"\n")
	m.Boot()
	m.Wait(settleWithin, "ipset", "test", "hostagent-guard", "21005")
	entered := func() string {
		return m.Run("systemctl", "show", "-p", "ActiveEnterTimestampMonotonic", "-p", "ActiveState", systemd.Sets, systemd.Restore)
	}
	rules := func() string {
		return m.Run("bash", "-c", "iptables -t mangle -S; iptables -S; ipset list hostagent-guard")
	}
	before, held := entered(), rules()
	m.Run("systemctl", "restart", systemd.Guard)
	if after := entered(); after != before {
		t.Errorf("a restart of the daemon changed\n%s\ninto\n%s", before, after)
	}
	m.Wait(settleWithin, "test", "-S", "/run/hostagent/hostagent.sock")
	m.Run("systemctl", "restart", systemd.Sets, systemd.Restore)
	m.Run("systemctl", "stop", systemd.Sets, systemd.Restore)
	m.Run("test", "-S", "/run/hostagent/hostagent.sock")
	if now := rules(); now != held {
		t.Errorf("a stop changed\n%s\ninto\n%s", held, now)
	}
	if active := m.Run("systemctl", "is-active", systemd.Guard); active != "active\n" {
		t.Errorf("the daemon is %s", active)
	}
	// Who flushes everything while the daemon runs has it repaired.
	m.loadsNFT()
	m.Run("systemctl", "restart", "nftables.service")
	m.Wait(settleWithin, "bash", "-c", "iptables -t mangle -S | grep -q 'HOSTAGENT-GUARD .*DROP'")
	// What root does by hand leaves nothing behind that the daemon's user could not open.
	m.Shell("systemctl stop hostagent; rm -f /run/hostagent/netns-*; mkdir -p /run/hostagent; chown hostagent: /run/hostagent; hostagent firewall restore --sets-only")
	m.Run("systemctl", "start", systemd.Restore)
}

// TestOneshotsExposure: what the oneshots may do is as little as that of good services, by systemd's own measure.
func TestOneshotsExposure(t *testing.T) {
	t.Parallel()
	m := newBootHost(t, "")
	m.Boot()
	for _, unit := range []string{systemd.Sets, systemd.Restore} {
		text := m.Run("systemd-analyze", "security", "--no-pager", unit)
		found := regexp.MustCompile(`exposure level for \S+: ([0-9.]+) `).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("no exposure in\n%s", text)
		}
		if level, err := strconv.ParseFloat(found[1], 64); err != nil || level > 2.5 {
			t.Errorf("%s: exposure %s, at most 2.5\n%s", unit, found[1], text)
		} else {
			t.Logf("%s: exposure %s", unit, found[1])
		}
	}
}
