// SPDX-License-Identifier: MPL-2.0

package system

import (
	"strings"
	"testing"
)

// newGuardedProduct is a host without ACLs on which hostagent guards: web's sidecar is an application that greets, so that whoever
// reaches it knows, and others are those who are kept out and those who are none of its business.
func newGuardedProduct(t *testing.T) *product {
	t.Helper()
	p := newProduct(t, false)
	p.app("web-sidecar", "0.0.0.0:21000")
	p.app("web", "127.0.0.1:8080")
	p.app("others", others...)
	if port := p.register("web", 8080, 0); port != 21000 {
		t.Fatalf("web's sidecar has port %d", port)
	}
	p.install(now)
	p.guard()
	p.reaches(seenMended)
	return p
}

// seenMended is seenGuarded, where web listens on loopback only.
const seenMended = "20999 open 21000 open 21001 dropped 21050 dropped 21255 dropped 21256 open 22222 open 8080 refused"

// An upgrade restarts hostagent; the network notices nothing of it.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	p := newGuardedProduct(t)
	// The host's own rules drop what they do not know: only hostagent's rule lets anybody reach the sidecar.
	p.Shell(`iptables -A INPUT -i lo -j ACCEPT
		iptables -A INPUT -p tcp -m multiport --dports 8080,20999,21001:21256,22222 -j ACCEPT
		iptables -P INPUT DROP`)
	p.reaches(seenMended)
	before := p.show("MainPID")
	long := p.talkTo(21000)
	open, closed, last := p.knock(21000), p.knock(21050), p.knock(21255)
	p.install(next)
	p.says("hostagent v0.2.0, ")
	p.says("guard mode, started")
	p.checkTurns("hostagent alive", "passing", "guard mode")
	p.reaches(seenMended)
	p.wasOpen(open)
	p.wasClosed(closed)
	p.wasClosed(last)
	if err := long.echo(); err != nil {
		t.Errorf("a connection has not outlived the upgrade: %v", err)
	}
	if p.show("MainPID") == before {
		t.Error("the upgrade has not restarted hostagent")
	}
}

// A host whose Consul does not start comes up as it went down: the sidecar's port open, the rest of the range closed from the
// first moment at which the network is there.
func TestReboot(t *testing.T) {
	t.Parallel()
	p := newGuardedProduct(t)
	// They listen before there is a network.
	early := []string{"DefaultDependencies=no", "Before=network-pre.target"}
	p.unit("others", "/usr/local/bin/app -name others -listen "+strings.Join(others, " -listen "), early, nil)
	p.unit("web-sidecar", "/usr/local/bin/app -name sidecar -listen 0.0.0.0:21000", early, nil)
	p.reaches(seenMended)
	p.Run("systemctl", "disable", "consul")
	p.Shutdown()
	foreign, closed, last := p.knock(22222), p.knock(21050), p.knock(21255)
	p.Boot()
	p.reaches(seenMended)
	p.says("FAILS")
	if state, _ := p.Try("systemctl", "is-active", "consul"); strings.TrimSpace(state) != "inactive" {
		t.Errorf("Consul is %s", state)
	}
	foreign.rest()
	if foreign.answered.Load() == 0 {
		t.Error("nobody was reached while the host came up")
	}
	p.wasClosed(closed)
	p.wasClosed(last)
}
