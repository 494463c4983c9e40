// SPDX-License-Identifier: MPL-2.0

package system

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Without Consul: installed at once, observing, nothing touched; and nothing left. It is measured, so that no other test
// runs beside it.
func TestPackageInstallAndPurge(t *testing.T) {
	h := bootedHost(t)
	deb := h.put(now, "deb")
	before := h.everything()

	var said string
	h.soon(5*time.Second, "apt-get install without Consul", func() (took time.Duration) {
		said, took = h.apt("install", deb)
		return took
	}, func() { h.apt("purge", "hostagent") })
	h.tells(said, "observes this host and changes nothing", `mode = "guard"`, "/etc/hostagent.d/hostagent.hcl", "systemctl reload hostagent", "hostagent status")
	if got, want := h.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore"), "enabled\nenabled\nenabled\n"; got != want {
		t.Errorf("enabled: %q, want %q", got, want)
	}
	h.Run("systemctl", "is-active", "hostagent")
	h.says("observe mode")
	if got, want := h.Run("hostagent", "version"), "hostagent version v0.1.0\n"; got != want {
		t.Errorf("the program says %q, want the package's version: %q", got, want)
	}
	if got := h.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("rules after an installation: %s", got)
	}
	if got := h.Run("dpkg", "--verify", "hostagent"); got != "" {
		t.Errorf("dpkg --verify: %s", got)
	}

	h.Shell("echo 'close_delay = \"20s\"' >/etc/hostagent.d/own.hcl; echo secret >/etc/hostagent.d/token; touch /var/lib/hostagent/left")
	h.apt("purge", "hostagent")
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("after a purge (-before +after):\n%s", diff)
	}
}

// An upgrade and a downgrade restart the daemon and touch neither rule nor configuration; a removal takes rules, sets and
// checks away and keeps the configuration; the installation after it goes on with that.
func TestPackageUpgradeAndRemove(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	older, newer := h.put(now, "deb"), h.put(next, "deb")
	h.startConsul()
	h.register("web", 8080, 0)
	h.apt("install", older)
	h.guard()
	rules := h.guarded()
	edited := h.Run("cat", settings)
	oneshots := h.Shell("systemctl start hostagent-sets hostagent-restore; systemctl show -p InvocationID hostagent-sets hostagent-restore")

	for _, step := range []struct{ deb, version string }{{newer, "v0.2.0"}, {older, "v0.1.0"}} {
		pid := h.Run("systemctl", "show", "-p", "MainPID", "hostagent")
		said, _ := h.apt("install", "--allow-downgrades", step.deb)
		if strings.Contains(said, "changes nothing") {
			t.Errorf("an upgrade says that hostagent observes, which it does not:\n%s", said)
		}
		if h.Run("systemctl", "show", "-p", "MainPID", "hostagent") == pid {
			t.Errorf("%s: the daemon was not restarted", step.version)
		}
		h.says("hostagent " + step.version + ", guard mode")
		if diff := cmp.Diff(rules, h.guarded()); diff != "" {
			t.Errorf("%s: rules and sets did not stay as they were (-before +after):\n%s", step.version, diff)
		}
		if diff := cmp.Diff(edited, h.Run("cat", settings)); diff != "" {
			t.Errorf("%s: the configuration did not stay as it was (-before +after):\n%s", step.version, diff)
		}
	}
	if diff := cmp.Diff(oneshots, h.Run("systemctl", "show", "-p", "InvocationID", "hostagent-sets", "hostagent-restore")); diff != "" {
		t.Errorf("an upgrade has started what runs once at boot (-before +after):\n%s", diff)
	}

	h.Run("systemctl", "stop", "hostagent")
	h.apt("install", newer)
	if state, err := h.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("an upgrade has started what somebody had stopped: %s", state)
	}
	h.Run("systemctl", "start", "hostagent")
	h.Wait(settleWithin, "bash", "-c", "hostagent reports | grep -q hostagent:alive")

	h.apt("remove", "hostagent")
	if got := h.ours(); got != "" {
		t.Errorf("left after a removal: %s", got)
	}
	if diff := cmp.Diff(edited, h.Run("cat", settings)); diff != "" {
		t.Errorf("the configuration after a removal (-before +after):\n%s", diff)
	}
	h.apt("install", newer)
	h.guarded()
	h.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore")
}

// A configuration that is wrong fails the service, visibly, and neither an installation nor an upgrade nor a removal.
func TestPackageWrongConfig(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	older, newer := h.put(now, "deb"), h.put(next, "deb")
	h.Write(own, "bad = 1\n", 0o644)
	for _, deb := range []string{older, newer} {
		said, _ := h.apt("install", deb)
		h.tells(said, `/etc/hostagent.d/own.hcl:1: unknown key "bad"`, "does not run")
		if got := h.Run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "hostagent"); got != "ii " {
			t.Errorf("dpkg says %q, want it installed", got)
		}
		h.Wait(settleWithin, "systemctl", "is-failed", "hostagent")
	}
	h.Shell(ruleOfOurs)
	said, _ := h.apt("remove", "hostagent")
	h.tells(said, "its checks in Consul could not be removed")
	if got := h.ours() + h.failed(); got != "" {
		t.Errorf("left after a removal: %s", got)
	}
	// Mended, it runs at once.
	h.Run("rm", own)
	h.apt("install", newer)
	h.Run("systemctl", "is-active", "hostagent")
}

// What hostagent.service comes after may take for ever to start: no installation waits for that, and hostagent starts when
// it is there.
func TestPackageWaitsForNobody(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	h.Write("/etc/systemd/system/slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n", 0o644)
	h.Write("/etc/systemd/system/hostagent.service.d/slow.conf", "[Unit]\nWants=slow.service\nAfter=slow.service\n", 0o644)
	packages := map[string]string{"deb": h.put(now, "deb"), "rpm": h.put(now, "rpm")}
	h.Boot()
	install := map[string]func() string{
		"deb": func() string { said, _ := h.apt("install", packages["deb"]); return said },
		"rpm": func() string { return h.Run("rpm", "-i", "--nodeps", packages["rpm"]) },
	}
	remove := map[string]func() string{
		"deb": func() string { said, _ := h.apt("purge", "hostagent"); return said },
		"rpm": func() string { return h.Run("rpm", "-e", "hostagent") },
	}
	for _, format := range []string{"deb", "rpm"} {
		h.Run("rm", "-f", "/run/go")
		if said := install[format](); !strings.Contains(said, "starts when what it waits for is up") {
			t.Errorf("%s: an installation does not say that hostagent still waits:\n%s", format, said)
		}
		h.Run("touch", "/run/go")
		h.Wait(settleWithin, "systemctl", "is-active", "hostagent")
		remove[format]()
	}
}

// ruleOfOurs makes what an earlier run in guard mode may have left.
const ruleOfOurs = `ipset create hostagent-guard bitmap:port range 0-65535; iptables -t mangle -N HOSTAGENT-GUARD; iptables -t mangle -I INPUT -j HOSTAGENT-GUARD`

// An administrator who has disabled hostagent, or forbids that packages start services, is heard.
func TestPackageHeedsPolicy(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	older, newer := h.put(now, "deb"), h.put(next, "deb")
	h.Write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
	h.apt("install", older)
	if state, err := h.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("policy-rc.d forbids it, and hostagent was started: %s", state)
	}
	h.Run("rm", "/usr/sbin/policy-rc.d")
	h.Run("systemctl", "disable", "--now", "hostagent")
	h.apt("install", newer)
	h.apt("remove", "hostagent")
	h.apt("install", newer)
	if state, err := h.Try("systemctl", "is-enabled", "hostagent"); err == nil {
		t.Errorf("somebody has disabled hostagent, and a package enabled it: %s", state)
	}
	if state, err := h.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("somebody has disabled hostagent, and a package started it: %s", state)
	}
}

// What is unusual about a host is heard too, and neither breaks a step nor makes it say what is not so.
func TestPackageOnUnusualHosts(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	older, newer := h.put(now, "deb"), h.put(next, "deb")
	h.Shell("systemctl mask hostagent 2>&1")
	for _, deb := range []string{older, newer} {
		if said, _ := h.apt("install", deb); strings.Contains(said, "observes this host") || strings.Contains(said, "preset") {
			t.Errorf("hostagent is masked, and an installation says\n%s", said)
		}
	}
	h.Shell("systemctl unmask hostagent 2>&1; systemctl enable --now hostagent 2>&1; systemctl stop hostagent")

	// An upgrade that is called off starts nothing.
	h.Shell("dpkg-deb -R " + newer + ` /root/broken; printf '#!/bin/sh\nexit 1\n' >/root/broken/DEBIAN/preinst; chmod 755 /root/broken/DEBIAN/preinst; dpkg-deb -Znone -b /root/broken /root/broken.deb`)
	if said, err := h.Try("dpkg", "-i", "/root/broken.deb"); err == nil {
		t.Errorf("a package whose preinst fails was installed: %s", said)
	}
	if state, err := h.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("an upgrade that was called off has started what somebody had stopped: %s", state)
	}
	// A prerm that fails is replaced by the new version's.
	h.Shell("sed -i '2iexit 1' /var/lib/dpkg/info/hostagent.prerm; dpkg -i " + newer)

	// State that cannot be removed is no rule that stands, and a folder that cannot go keeps no purge from its end.
	h.Shell("mount -t tmpfs tmpfs /var/lib/hostagent; touch /var/lib/hostagent/state.json; mount --bind /dev/null /var/lib/hostagent/state.json")
	said, _ := h.apt("remove", "hostagent")
	if !strings.Contains(said, "cannot remove the saved state") || strings.Contains(said, "rules may still stand") {
		t.Errorf("a removal that leaves the state says\n%s", said)
	}
	h.Run("umount", "/var/lib/hostagent/state.json")
	h.Shell("rm -rf /etc/hostagent.d; mkdir /root/real; touch /root/real/mine; ln -s /root/real /etc/hostagent.d")
	h.apt("purge", "hostagent")
	if got := h.Shell("ls /var/lib/hostagent; ls -d /etc/hostagent.d 2>/dev/null || true; getent passwd hostagent || true; dpkg -l hostagent 2>/dev/null || true; ls /root/real"); got != "mine\n" {
		t.Errorf("left after a purge: %s", got)
	}
}

// A package that is installed over a "service install" says that it is hidden and how to change over, and that works.
func TestPackageOverServiceInstall(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	packages := map[string]string{"deb": h.put(now, "deb"), "rpm": h.put(now, "rpm")}
	// What rpm keeps for itself, and folders for completions that Debian does not have.
	ofRPM := regexp.MustCompile("/rpm|/fish|/licenses|zsh/site-functions").MatchString
	before := slices.DeleteFunc(h.files(), ofRPM)
	said := func(said string, _ time.Duration) string { return said }
	for format, steps := range map[string][]func() string{
		"deb": {func() string { return said(h.apt("install", packages["deb"])) }, func() string { return said(h.apt("purge", "hostagent")) }},
		"rpm": {func() string { return h.Run("rpm", "-i", "--nodeps", packages["rpm"]) }, func() string { return h.Run("rpm", "-e", "hostagent") }},
	} {
		h.Copy(built("hostagent"), ownProgram, 0o755)
		h.Run(ownProgram, "service", "install")
		_, said, _ := strings.Cut(strings.ReplaceAll(steps[0](), "\r", ""), "To change over to the package:\n")
		commands, rest, _ := strings.Cut(said, "restart hostagent\n")
		if !strings.Contains(commands, "rm -f "+ownProgram+" ") || rest == "" {
			t.Fatalf("%s: an installation does not say how to change over:\n%s", format, said)
		}
		h.refused(2, "units of an older service install hide those of the package", ownProgram, "service", "uninstall")
		h.Shell(commands + "restart hostagent")
		if got := h.Shell("readlink /proc/$(systemctl show -p MainPID --value hostagent)/exe; systemctl is-enabled hostagent hostagent-sets hostagent-restore"); got != "/usr/bin/hostagent\nenabled\nenabled\nenabled\n" {
			t.Errorf("%s: changed over, it is %s", format, got)
		}
		steps[1]()
		h.Shell("rm -rf /etc/hostagent.d; if getent passwd hostagent; then userdel hostagent; fi; rmdir /etc/sysusers.d")
	}
	if diff := cmp.Diff(before, slices.DeleteFunc(h.files(), ofRPM)); diff != "" {
		t.Errorf("files in the end (-before +after):\n%s", diff)
	}
}

// An image is built by installing into a chroot, where no systemd runs: the system that boots from it has hostagent running.
// A removal in a chroot leaves the kernel of the host around it alone.
func TestPackageInChroot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	deb := h.put(now, "deb")
	in := func(args ...string) {
		t.Helper()
		out, err := exec.Command("chroot", append([]string{h.Path("/"), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("in the chroot: %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	h.Command("mount", "-t", "proc", "proc", h.Path("/proc"))
	in("dpkg", "-i", deb)
	h.Command("ipset", "create", "hostagent-guard", "bitmap:port", "range", "0-65535")
	t.Cleanup(func() { h.Command("ipset", "destroy", "hostagent-guard") })
	in("dpkg", "--remove", "hostagent")
	h.Command("ipset", "list", "-n", "hostagent-guard")
	if _, err := os.Stat(h.Path("/etc/systemd/system/multi-user.target.wants/hostagent.service")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removal in a chroot leaves the unit enabled: %v", err)
	}
	in("dpkg", "-i", deb)
	h.Command("umount", h.Path("/proc"))
	h.Boot()
	h.Run("systemctl", "is-active", "hostagent")
	h.says("observe mode")
	if failed := h.failed(); failed != "" {
		t.Errorf("units failed: %s", failed)
	}
}

// Versions sort as the commits that they were built from.
func TestPackageVersions(t *testing.T) {
	t.Parallel()
	h := bootedHost(t)
	var versions []string
	for _, version := range []string{ // of Go, oldest first
		"(devel)", "v0.0.0-20261122161811-a9e56fc643d9", "v0.0.0-20261122161811-a9e56fc643d9+dirty", "v0.0.0-20261123000000-000000000000", "v0.1.0",
		"v0.1.1-0.20261122161811-a9e56fc643d9", "v0.1.1-rc.1", "v0.1.1-rc.1.0.20261122161811-a9e56fc643d9", "v0.1.1-rc.2", "v0.1.1", "v0.1.1+dirty",
		"v0.1.2-0.20261122161811-a9e56fc643d9", "v0.1.10", "v1.0.0",
	} {
		out, err := exec.Command("../../packaging/version.sh", version).Output()
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, strings.TrimSpace(string(out)))
	}
	for i, newer := range versions[1:] {
		older := versions[i]
		h.Run("dpkg", "--validate-version", newer+"-1")
		if _, err := h.Try("dpkg", "--compare-versions", older+"-1", "lt", newer+"-1"); err != nil {
			t.Errorf("dpkg does not take %s for older than %s: %v", older, newer, err)
		}
		if got := h.Run("rpm", "--eval", `%{lua: print(rpm.vercmp("`+older+`", "`+newer+`"))}`); strings.TrimSpace(got) != "-1" {
			t.Errorf("rpm does not take %s for older than %s: %s", older, newer, got)
		}
	}
}
