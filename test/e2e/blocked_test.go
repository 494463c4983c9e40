// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// TestOpeningBlocked: the host's own nftables ruleset drops by default, which no accept of ours stands against. hostagent
// says so and how to mend it, and its remedy, word for word, opens the port.
func TestOpeningBlocked(t *testing.T) {
	w := newLoneWorld(t, host.ConsulOptions{})
	_, sidecar := w.service("api", 8080, "127.0.0.1:8080")
	ruleset := filepath.Join(w.Dir, "nftables.conf")
	w.must(os.WriteFile(ruleset, []byte(`flush ruleset
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
	}
}
`), 0o600))
	w.run("nft", "-f", ruleset)

	var scan string
	w.until("scan sees the chain", func() error {
		scan = w.hostagent(1, "scan")
		if !strings.Contains(oneLine(scan), fmt.Sprintf(`port %d cannot be reached from the network: chain "input" of table inet "filter" drops what comes there (policy drop)`, sidecar)) {
			return fmt.Errorf("it says\n%s", scan)
		}
		return nil
	})
	agent := w.guard("")
	w.checkTurns("sidecar-range", "warning", "opening-blocked")
	w.checkTurns("sidecar-range", "warning", "consul-port-blocked")
	w.reaches(sidecar, host.Dropped)
	w.must(agent.Stop())

	remedy := "nft add set inet filter mesh_ports '{ type inet_service; }' && nft insert rule inet filter input tcp dport @mesh_ports accept"
	if !strings.Contains(oneLine(scan), remedy) {
		t.Fatalf("scan does not say how to mend it:\n%s", scan)
	}
	w.run("sh", "-ec", remedy)
	const publishing = "firewall {\n  publish_set = \"inet filter mesh_ports\"\n}\n"
	agent = w.guard(publishing)
	w.eventually(sidecar, host.Open, 10*time.Second)
	w.meshWorks("api", sidecar)
	w.until("the finding is gone", func() error {
		if out := w.check("sidecar-range").Output; strings.Contains(out, "opening-blocked") {
			return fmt.Errorf("the check says\n%s", out)
		}
		return nil
	})
	if status := w.hostagent(0, "status"); strings.Contains(status, "opening-blocked") {
		t.Errorf("status says\n%s", status)
	}
	w.run("nft", "flush", "set", "inet", "filter", "mesh_ports")
	w.eventually(sidecar, host.Open, 10*time.Second)
	w.must(agent.Stop())

	config := filepath.Join(w.Dir, "remove.hcl")
	w.must(os.WriteFile(config, []byte(publishing), 0o600))
	if out := w.hostagent(0, "firewall", "remove", "--config", config); !strings.Contains(out, "emptied: set inet filter mesh_ports") {
		t.Errorf("firewall remove says %q", out)
	}
	if set := w.run("nft", "list", "set", "inet", "filter", "mesh_ports"); strings.Contains(set, "elements") {
		t.Errorf("after firewall remove:\n%s", set)
	}
	w.reaches(sidecar, host.Dropped)
}

// oneLine undoes what was wrapped for the screen.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
