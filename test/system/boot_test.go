// SPDX-License-Identifier: MPL-2.0

package system

import (
	"strings"
	"testing"

	"github.com/hostagent/hostagent/systemd"
)

const networkd = "systemd-networkd.service"

// flushing is a ruleset of an operator's that has its word first, as Debian's own does.
const flushing = `#!/usr/sbin/nft -f
flush ruleset
table inet filter {
	chain input { type filter hook input priority filter; policy accept; }
}
`

// TestBootBeforeConsul: from the first moment of the network on, what was closed is closed and what was open is open,
// whatever loads its own rules at boot; hostagent's daemon and Consul never start.
func TestBootBeforeConsul(t *testing.T) {
	t.Parallel()
	native := "firewall {\n  backend = \"nftables\"\n}\n"
	for name, c := range map[string]struct {
		config  string
		prepare func(*bootHost)
		loaders []string
	}{
		"alone": {},
		"nftables that flushes": {
			prepare: func(m *bootHost) { m.loadsNFT() },
			loaders: []string{"nftables.service"},
		},
		"nftables that flushes and our rules in nftables": {
			config:  native,
			prepare: func(m *bootHost) { m.loadsNFT() },
			loaders: []string{"nftables.service"},
		},
		"iptables-legacy": {
			config: "firewall {\n  iptables_variant = \"legacy\"\n}\n",
		},
		"ufw": {
			prepare: func(m *bootHost) {
				m.Install("ufw")
				m.Run("ufw", "allow", "8443/tcp")
				m.Run("ufw", "--force", "enable")
			},
			loaders: []string{"ufw.service"},
		},
		"firewalld": {
			prepare: func(m *bootHost) {
				m.Install("firewalld")
				m.Run("firewall-offline-cmd", "--add-port=21000-21255/tcp") // its own tables let the range in
			},
			loaders: []string{"firewalld.service"},
		},
		"firewalld with iptables": {
			prepare: func(m *bootHost) {
				m.Install("firewalld")
				m.Run("sed", "-i", "s/^FirewallBackend=.*/FirewallBackend=iptables/", "/etc/firewalld/firewalld.conf")
			},
			loaders: []string{"firewalld.service"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newBootHost(t, "mode = \"guard\"\n"+c.config)
			m.Boot()
			m.leftOpen()
			if c.prepare != nil {
				c.prepare(m)
			}
			m.holds(m.restart())
			m.bootedWell()
			m.inOrder(append(c.loaders, systemd.Restore, networkd)...)
			m.inOrder(systemd.Sets, systemd.Restore)
			if name == "alone" {
				m.answersWithout()
			}
		})
	}
}

// loadsNFT has nftables.service load a ruleset that begins with a flush.
func (m *bootHost) loadsNFT() {
	m.t.Helper()
	m.Write("/etc/nftables.conf", flushing, 0o755)
	m.turn("enable", "nftables.service")
}

// answersWithout proves that the network sees a port that is not closed: without the oneshots it does.
func (m *bootHost) answersWithout() {
	m.t.Helper()
	m.turn("mask", systemd.Sets, systemd.Restore)
	if seen := m.restart(); seen.seen() == 0 {
		m.t.Error("without the oneshots the closed port did not answer either, so all of this proves nothing")
	}
}

// TestBootWithSavedRules: somebody saved the host's rules, ours among them, with netfilter-persistent. They are loaded
// whole, and ours are then brought to what was saved last, not to what stood when the file was written.
func TestBootWithSavedRules(t *testing.T) {
	t.Parallel()
	for name, packages := range map[string][]string{
		"rules":          {"iptables-persistent"},
		"rules and sets": {"iptables-persistent", "ipset-persistent"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newBootHost(t, "mode = \"guard\"\n")
			m.Boot()
			m.Wait(settleWithin, "ipset", "test", "hostagent-guard", "21005")
			m.Install(packages...)
			m.Run("iptables", "-A", "INPUT", "-p", "tcp", "--dport", "9", "-j", "DROP", "-m", "comment", "--comment", "of the operator")
			m.Run("netfilter-persistent", "save")
			m.leftOpen() // the port opens after the file was written

			m.holds(m.restart())
			m.bootedWell()
			m.inOrder(systemd.Sets, "netfilter-persistent.service", systemd.Restore, networkd)
			m.operatorsRules(true)

			m.turn("mask", systemd.Sets, systemd.Restore)
			m.restart()
			m.operatorsRules(name != "rules") // without its sets the file does not load, so the test can fail
		})
	}
}

// operatorsRules wants the operator's own rule to stand, or not to.
func (m *bootHost) operatorsRules(loaded bool) {
	m.t.Helper()
	if rules := m.Run("iptables", "-S", "INPUT"); strings.Contains(rules, "of the operator") != loaded {
		m.t.Errorf("the operator's rules were loaded: %v, want %v\n%s\n%s", !loaded, loaded, rules, m.Journal("netfilter-persistent"))
	}
}
