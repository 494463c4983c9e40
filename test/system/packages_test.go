// SPDX-License-Identifier: MPL-2.0

package system

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// packagesEnv names the folder in which test/system.sh has built this version's packages (now) and later ones (next).
const packagesEnv = "HOSTAGENT_PACKAGES"

// Versions of the packages, as folders of packagesEnv.
const (
	now  = "now"
	next = "next"
)

// packageFile returns a built package; format is deb or rpm.
func packageFile(t testing.TB, version, format string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), version, "*."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s=%q holds %q of %s/*.%s, want one file: test/system.sh builds it (%v)", packagesEnv, os.Getenv(packagesEnv), found, version, format, err)
	}
	return found[0]
}

// put copies a package to the host, which may be off, and returns its path there.
func (h *host) put(version, format string) string {
	h.t.Helper()
	path := "/root/hostagent-" + version + "." + format
	h.Copy(packageFile(h.t, version, format), path, 0o644)
	return path
}

// apt runs apt-get without any network, and returns what it said and how long it took.
func (h *host) apt(args ...string) (said string, took time.Duration) {
	h.t.Helper()
	began := time.Now()
	said = h.Run(append([]string{"apt-get", "-q", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null", "-y", "--no-install-recommends"}, args...)...)
	took = time.Since(began)
	h.t.Logf("apt-get %s took %.1f s", strings.Join(args, " "), took.Seconds())
	return strings.ReplaceAll(said, "\r", ""), took // dpkg writes to a terminal of apt's
}

// install installs a version of hostagent, now or next, which runs then, and returns what that said.
func (h *host) install(version string) string {
	h.t.Helper()
	said, _ := h.apt("install", h.put(version, "deb"))
	if state, err := h.Try("systemctl", "is-active", "hostagent"); err != nil {
		h.t.Errorf("installed, hostagent is %s", strings.TrimSpace(state))
	}
	return said
}
