// SPDX-License-Identifier: MPL-2.0

package system

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/machine"
)

// The rpm is installed, upgraded and removed by a real rpm. The machine is a Debian, so that its dependencies are known to
// dpkg and not to rpm (--nodeps), and they are looked at by themselves.
func TestRPM(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t, "--bind-ro="+os.Getenv("CONSUL_BIN")+":/usr/bin/consul")
	older, newer := putPackage(t, m, now, "rpm"), putPackage(t, m, next, "rpm")
	before := m.Run("bash", "-c", everyFile)
	if got, want := m.Run("rpm", "-qp", "--requires", "--recommends", "--configfiles", older), "(iptables or nftables)\nconsul\n/etc/hostagent.d/hostagent.hcl\n"; got != want {
		t.Errorf("requires, recommends and configuration: %q, want %q", got, want)
	}
	m.Run("rpm", "-K", "--nosignature", older)
	consulAgent(m)
	sidecar(m)

	said := m.Run("rpm", "-i", "--nodeps", older)
	if strings.Contains(said, "using root") {
		t.Errorf("rpm does not know the owner of the state's folder:\n%s", said)
	}
	if !strings.Contains(said, "observes this host and changes nothing") || !strings.Contains(said, `mode = "guard"`) {
		t.Errorf("rpm -i does not say what hostagent does:\n%s", said)
	}
	if got, want := m.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore"), "enabled\nenabled\nenabled\n"; got != want {
		t.Errorf("enabled: %q, want %q", got, want)
	}
	m.Wait(10*time.Second, "bash", "-c", "hostagent status | grep -q 'observe mode'")
	// One that has failed gets a new chance from an upgrade; where that changes nothing, it says so.
	m.Shell("echo 'bad = 1' >/etc/hostagent.d/own.hcl; systemctl restart hostagent 2>/dev/null || true; systemctl is-failed hostagent")
	if said := m.Run("rpm", "-U", "--nodeps", "--replacepkgs", older); !strings.Contains(said, `unknown key "bad"`) || !strings.Contains(said, "does not run") {
		t.Errorf("rpm -U does not say that hostagent does not run:\n%s", said)
	}
	m.Shell("rm /etc/hostagent.d/own.hcl; systemctl is-failed hostagent")
	m.Run("rpm", "-U", "--nodeps", "--replacepkgs", older)
	m.Run("systemctl", "is-active", "hostagent")
	m.Shell(`sed -i 's/^mode = .*/mode = "guard"/' /etc/hostagent.d/hostagent.hcl; systemctl reload hostagent`)
	rules := waitGuarded(m)
	edited := m.Run("cat", "/etc/hostagent.d/hostagent.hcl")

	m.Run("rpm", "-U", "--nodeps", newer)
	m.Wait(30*time.Second, "bash", "-c", "hostagent status | grep -q '^hostagent v0.2.0, guard mode'")
	if diff := cmp.Diff(rules, waitGuarded(m)); diff != "" {
		t.Errorf("rules and sets did not stay as they were (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(edited, m.Run("cat", "/etc/hostagent.d/hostagent.hcl")); diff != "" {
		t.Errorf("the configuration did not stay as it was (-before +after):\n%s", diff)
	}
	m.Wait(30*time.Second, "bash", "-c", "hostagent reports | grep -q hostagent:alive")

	m.Run("rpm", "-e", "hostagent")
	if got := m.Shell("nft list ruleset | grep -i hostagent || true; ipset list; curl -s http://127.0.0.1:8500/v1/agent/checks | jq -r 'keys[]' | grep hostagent || true; ls -d /run/hostagent 2>/dev/null || true"); got != "" {
		t.Errorf("left after rpm -e: %s", got)
	}
	// rpm keeps a configuration that somebody has edited, and Debian has no folders for completions where other systems do.
	want := append(strings.Split(before, "\n"), "/etc/hostagent.d", "/etc/hostagent.d/hostagent.hcl.rpmsave",
		"/usr/share/fish", "/usr/share/fish/vendor_completions.d", "/usr/share/licenses", "/usr/share/zsh/site-functions")
	slices.Sort(want)
	got := strings.Split(m.Run("bash", "-c", everyFile), "\n")
	slices.Sort(got)
	ofRPM := func(path string) bool { return strings.HasPrefix(path, "/var/lib/rpm") }
	if diff := cmp.Diff(slices.DeleteFunc(want, ofRPM), slices.DeleteFunc(got, ofRPM)); diff != "" {
		t.Errorf("files after rpm -e (-want +got):\n%s", diff)
	}
}
