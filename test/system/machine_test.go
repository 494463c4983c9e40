// SPDX-License-Identifier: MPL-2.0

package system

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/test/machine"
)

// What the other tests lean on: a machine is reached over its network card, keeps what it wrote over a reboot, and has BPF.
func TestMachine(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	m.Run("ping", "-c1", "-W5", m.Outside.String())
	if out, err := exec.Command("ping", "-c1", "-W5", m.Address.String()).CombinedOutput(); err != nil {
		t.Errorf("the machine is not reached: %v\n%s", err, out)
	}
	m.Shell("echo kept >/etc/kept; cat /proc/sys/kernel/random/boot_id >/run/gone; ip link set host0 down")
	id := m.Run("cat", "/etc/machine-id")
	m.Reboot()
	if got := m.Run("cat", "/etc/kept", "/etc/machine-id"); got != "kept\n"+id {
		t.Errorf("after a reboot: %q, want what was there before it", got)
	}
	if out, err := m.Try("cat", "/run/gone"); err == nil {
		t.Errorf("/run has outlived a reboot: %q", out)
	}
	if failed := m.Run("systemctl", "--failed", "--plain", "--no-legend"); strings.TrimSpace(failed) != "" {
		t.Errorf("units failed: %s", failed)
	}
}
