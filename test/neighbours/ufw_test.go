// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/host"
)

// saved is what iptables holds in both families, without counters and the lines that tell the time.
func (b *box) saved() string {
	b.t.Helper()
	var text strings.Builder
	for line := range strings.Lines(b.sh("iptables-save", "ip6tables-save")) {
		if line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), " ["); !strings.HasPrefix(line, "#") {
			text.WriteString(line + "\n")
		}
	}
	return text.String()
}

// TestUFW: ufw denies what comes in. The sidecar's port opens without ufw's help, a closed one stays closed against ufw's
// word, whatever ufw does meanwhile; and what hostagent leaves behind is ufw's rules as they were.
func TestUFW(t *testing.T) {
	b := newBox(t)
	b.mesh()
	b.sh("ufw --force enable", "ufw allow 22/tcp", "ufw allow 21100/tcp")
	b.reaches(sidecar, host.Dropped)
	b.reaches(plain, host.Dropped)
	b.reaches(squatted, host.Open)

	// iptables-nft makes the tables that a rule of ours goes into, and nobody can tell afterwards whose they are: ufw
	// has no rule in mangle, so the empty table is made before the comparison begins.
	for _, program := range []string{"iptables", "ip6tables"} {
		b.sh(program+" -t mangle -A INPUT -j ACCEPT", program+" -t mangle -D INPUT -j ACCEPT")
	}
	before := b.saved()
	b.guard("")
	b.meshWorks()
	b.reaches(squatted, host.Dropped)
	b.reaches(plain, host.Dropped)
	b.sh("hostagent firewall remove --stop")
	if diff := cmp.Diff(before, b.saved()); diff != "" {
		t.Errorf("what hostagent left is not what it found (-before +after):\n%s", diff)
	}
	b.reaches(squatted, host.Open)

	b.guard("")
	b.through("ufw reload", "ufw reload")
	b.through("ufw disable", "ufw disable")
	b.reaches(plain, host.Open)
	b.through("ufw enable", "ufw --force enable")
	b.reaches(plain, host.Dropped)
	b.through("ufw disable and enable", "ufw disable && ufw --force enable")
	b.through("ufw insert 1 allow 21000:21255/tcp", "ufw insert 1 allow 21000:21255/tcp")
	b.through("ufw --force reset and enable", "ufw --force reset", "ufw --force enable")
	// So ufw empties every table, not only chains of its own.
	b.sh("sed -i s/MANAGE_BUILTINS=no/MANAGE_BUILTINS=yes/ /etc/default/ufw")
	b.through("ufw reload with MANAGE_BUILTINS", "ufw reload")
	b.meshWorks()
	b.reaches(plain, host.Dropped)
}
