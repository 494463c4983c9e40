// SPDX-License-Identifier: MPL-2.0

package system

import (
	"strings"
	"time"
)

// install installs a version of hostagent, now or next, and returns what that said.
func (p *product) install(version string) string {
	p.t.Helper()
	said, took := p.apt("install", putPackage(p.t, p.Machine, version, "deb"))
	p.t.Logf("apt-get install took %.1f s", took.Seconds())
	if state := strings.TrimSpace(p.Run("systemctl", "is-active", "hostagent")); state != "active" {
		p.t.Errorf("installed, hostagent is %s", state)
	}
	return said
}

// remove removes hostagent, and keeps its configuration.
func (p *product) remove() (said string, took time.Duration) {
	p.t.Helper()
	said, took = p.apt("remove", "hostagent")
	p.t.Logf("apt-get remove took %.1f s", took.Seconds())
	return said, took
}

// purge takes what a removal leaves.
func (p *product) purge() {
	p.t.Helper()
	p.apt("purge", "hostagent")
}

// apt calls apt-get, and returns what it said and how long it took.
func (p *product) apt(args ...string) (said string, took time.Duration) {
	p.t.Helper()
	began := time.Now()
	said = apt(p.Machine, args...)
	return strings.ReplaceAll(said, "\r", ""), time.Since(began) // dpkg writes to a terminal of apt's
}
