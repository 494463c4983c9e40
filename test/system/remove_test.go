// SPDX-License-Identifier: MPL-2.0

package system

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stands wants the rules and sets of hostagent to be in the kernel, or not.
func (p *product) stands(want bool) {
	p.t.Helper()
	kernel := p.Shell("nft list ruleset; iptables-save; ip6tables-save; iptables-legacy-save; ip6tables-legacy-save; ipset list")
	if stands := strings.Contains(strings.ToLower(kernel), "hostagent"); stands != want {
		p.t.Errorf("rules and sets of hostagent: %v, want %v:\n%s", stands, want, kernel)
	}
}

// What is removed is gone: the rules and the checks at once, whether Consul answers or not, configuration and state with the
// purge.
func TestRemove(t *testing.T) {
	t.Parallel()
	p := newProduct(t, false)
	p.app("others", others...)
	p.sidecar("web", p.register("web", 8080, 0))
	p.app("web", "0.0.0.0:8080")
	// iptables makes the built-in chains that it needs and leaves them.
	p.Shell(`for chain in "filter INPUT" "mangle PREROUTING" "mangle INPUT"; do
		set -- $chain
		for command in iptables ip6tables; do $command -t $1 -A $2; $command -t $1 -D $2; done
	done`)
	before := p.everything()
	p.install(now)
	p.guard()
	p.reaches(seenGuarded)
	p.checkTurns("Listeners of web", "warning", "0.0.0.0:8080")
	p.stands(true)

	said, usual := p.apt("remove", "hostagent")
	if strings.Contains(said, "\nhostagent: ") {
		t.Errorf("a removal complains:\n%s", said)
	}
	p.stands(false)
	p.reaches(seenUnguarded)
	if left := p.checks(); len(left) != 0 {
		t.Errorf("checks in Consul: %v", left)
	}
	var services map[string]any
	p.consul("GET", "/v1/agent/services", "", &services)
	if len(services) != 2 {
		t.Errorf("services in Consul: %v, want web and its sidecar", services)
	}

	p.install(now) // with the configuration that was kept
	p.reaches(seenGuarded)
	p.Run("systemctl", "stop", "consul")
	// Twice the usual allows for a machine that is busy with other tests; waiting for Consul would take longer.
	if said, took := p.apt("remove", "hostagent"); took > max(10*time.Second, 2*usual) || !strings.Contains(said, "they go by themselves") {
		t.Errorf("removing took %s without Consul, and said\n%s", took, said)
	}
	p.reaches(seenUnguarded)
	p.stands(false)
	p.apt("purge", "hostagent")
	p.Run("systemctl", "start", "consul")
	if diff := cmp.Diff(before, p.everything()); diff != "" {
		t.Errorf("left behind (-before +after):\n%s", diff)
	}
}
