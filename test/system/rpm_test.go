// SPDX-License-Identifier: MPL-2.0

package system

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The rpm is installed, upgraded and removed by a real rpm. The machine is a Debian, so that its dependencies are known to
// dpkg and not to rpm (--nodeps), and they are looked at by themselves.
func TestRPM(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	older, newer := h.put(now, "rpm"), h.put(next, "rpm")
	before := h.files()
	if got, want := h.Run("rpm", "-qp", "--requires", "--recommends", "--configfiles", older), "(iptables or nftables)\nconsul\n/etc/hostagent.d/hostagent.hcl\n"; got != want {
		t.Errorf("requires, recommends and configuration: %q, want %q", got, want)
	}
	h.Run("rpm", "-K", "--nosignature", older)
	h.startConsul()
	h.register("web", 8080, 0)

	said := h.Run("rpm", "-i", "--nodeps", older)
	if strings.Contains(said, "using root") {
		t.Errorf("rpm does not know the owner of the state's folder:\n%s", said)
	}
	h.tells(said, "observes this host and changes nothing", `mode = "guard"`)
	if got, want := h.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore"), "enabled\nenabled\nenabled\n"; got != want {
		t.Errorf("enabled: %q, want %q", got, want)
	}
	h.says("observe mode")
	// One that has failed gets a new chance from an upgrade; where that changes nothing, it says so.
	h.Shell("echo 'bad = 1' >/etc/hostagent.d/own.hcl; systemctl restart hostagent 2>/dev/null || true; systemctl is-failed hostagent")
	h.tells(h.Run("rpm", "-U", "--nodeps", "--replacepkgs", older), `unknown key "bad"`, "does not run")
	h.Shell("rm /etc/hostagent.d/own.hcl; systemctl is-failed hostagent")
	h.Run("rpm", "-U", "--nodeps", "--replacepkgs", older)
	h.Run("systemctl", "is-active", "hostagent")
	h.guard()
	rules := h.guarded()
	edited := h.Run("cat", settings)

	h.Run("rpm", "-U", "--nodeps", newer)
	h.says("hostagent v0.2.0, guard mode")
	if diff := cmp.Diff(rules, h.guarded()); diff != "" {
		t.Errorf("rules and sets did not stay as they were (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(edited, h.Run("cat", settings)); diff != "" {
		t.Errorf("the configuration did not stay as it was (-before +after):\n%s", diff)
	}
	h.Wait(settleWithin, "bash", "-c", "hostagent reports | grep -q hostagent:alive")

	h.Run("rpm", "-e", "hostagent")
	if got := h.ours(); got != "" {
		t.Errorf("left after rpm -e: %s", got)
	}
	// rpm keeps a configuration that somebody has edited, and Debian has no folders for completions where other systems do.
	want := append(before, "/etc/hostagent.d", "/etc/hostagent.d/hostagent.hcl.rpmsave",
		"/usr/share/fish", "/usr/share/fish/vendor_completions.d", "/usr/share/licenses", "/usr/share/zsh/site-functions")
	slices.Sort(want)
	got := h.files()
	slices.Sort(got)
	ofRPM := func(path string) bool { return strings.HasPrefix(path, "/var/lib/rpm") }
	if diff := cmp.Diff(slices.DeleteFunc(want, ofRPM), slices.DeleteFunc(got, ofRPM)); diff != "" {
		t.Errorf("files after rpm -e (-want +got):\n%s", diff)
	}
}
