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
	p.Copy("../../packaging/hostagent.hcl", "/etc/hostagent.d/hostagent.hcl", 0o644)
	p.Write("/usr/lib/sysusers.d/hostagent.conf", systemd.Sysusers(), 0o644)
	names := ""
	for _, unit := range systemd.Units("/usr/bin/hostagent") {
		p.Write("/usr/lib/systemd/system/"+unit.Name, unit.Text, 0o644)
		names += " " + unit.Name
	}
	return p.Shell("systemd-sysusers; systemctl daemon-reload; systemctl enable" + names + "; systemctl start hostagent.service")
}
