// SPDX-License-Identifier: MPL-2.0

package system

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// packagesEnv names the folder with the packages: in now/ those of this version, in next/ those of a later one.
const packagesEnv = "HOSTAGENT_PACKAGES"

// The versions in it.
const (
	now  = "now"
	next = "next"
)

// deb returns the package of a version, now or next.
func (p *product) deb(version string) string {
	p.t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), version, "*.deb"))
	if err != nil || len(found) != 1 {
		p.t.Fatalf("packages of version %s in %s=%q: %v, %v; want one", version, packagesEnv, os.Getenv(packagesEnv), found, err)
	}
	return found[0]
}

// apt calls apt-get without any network, and returns what it said and how long it took.
func (p *product) apt(args ...string) (said string, took time.Duration) {
	p.t.Helper()
	began := time.Now()
	said = p.Run(append([]string{"apt-get", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null", "-y"}, args...)...)
	return strings.ReplaceAll(said, "\r", ""), time.Since(began) // dpkg writes to a terminal of apt's
}

// install installs a version of hostagent, now or next, and returns what that said.
func (p *product) install(version string) string {
	p.t.Helper()
	p.Copy(p.deb(version), "/root/hostagent.deb", 0o644)
	said, took := p.apt("install", "/root/hostagent.deb")
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
