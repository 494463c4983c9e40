// SPDX-License-Identifier: MPL-2.0

package system

import (
	"os"
	"path/filepath"

	"github.com/hostagent/hostagent/systemd"
)

// install installs hostagent and returns what that said.
func (p *product) install() string {
	p.t.Helper()
	p.Copy(filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), "hostagent"), "/usr/bin/hostagent", 0o755)
	p.Write("/etc/hostagent.d/hostagent.hcl", "mode = \"observe\"\n", 0o644)
	p.Write("/usr/lib/sysusers.d/hostagent.conf", systemd.Sysusers(), 0o644)
	names := ""
	for _, unit := range systemd.Units("/usr/bin/hostagent") {
		p.Write("/usr/lib/systemd/system/"+unit.Name, unit.Text, 0o644)
		names += " " + unit.Name
	}
	return p.Shell("systemd-sysusers; systemctl daemon-reload; systemctl enable" + names + "; systemctl start hostagent.service")
}

// upgrade installs the next version of hostagent.
func (p *product) upgrade() {
	p.t.Helper()
	p.Shell("cp /usr/bin/hostagent /usr/bin/new; mv /usr/bin/new /usr/bin/hostagent; systemctl try-restart hostagent")
}

// remove removes hostagent, and keeps its configuration.
func (p *product) remove() {
	p.Shell("systemctl disable --now hostagent hostagent-sets hostagent-restore; hostagent firewall remove --stop; hostagent reports remove || true; rm /usr/bin/hostagent /usr/lib/systemd/system/hostagent*; systemctl daemon-reload")
}

// purge removes what remove leaves.
func (p *product) purge() {
	p.Shell("rm -rf /etc/hostagent.d /var/lib/hostagent /run/hostagent; userdel hostagent; rm /usr/lib/sysusers.d/hostagent.conf")
}
