// SPDX-License-Identifier: MPL-2.0

package system

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/machine"
)

// packagesEnv names the folder in which test/system.sh has built this version's packages (now) and later ones (next).
const packagesEnv = "HOSTAGENT_PACKAGES"

// Versions of the packages, as folders of packagesEnv.
const (
	now  = "now"
	next = "next"
)

const installWithin = 5 * time.Second

// packageFile returns a built package; format is deb or rpm.
func packageFile(t testing.TB, version, format string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(os.Getenv(packagesEnv), version, "*."+format))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s=%q holds %q of %s/*.%s, want one file: test/system.sh builds it (%v)", packagesEnv, os.Getenv(packagesEnv), found, version, format, err)
	}
	return found[0]
}

// putPackage copies a package into a machine, which may be off, and returns its path there.
func putPackage(t testing.TB, m *machine.Machine, version, format string) string {
	t.Helper()
	path := "/root/hostagent-" + version + "." + format
	m.Copy(packageFile(t, version, format), path, 0o644)
	return path
}

// apt runs apt-get without any network and returns what it says.
func apt(m *machine.Machine, args ...string) string {
	return m.Run(append([]string{"apt-get", "-q", "-o", "Dir::Etc::SourceList=/dev/null", "-o", "Dir::Etc::SourceParts=/dev/null", "-y", "--no-install-recommends"}, args...)...)
}

// everyFile lists what is on a machine's disk, but for logs, what others cache, and what the tests put there.
const everyFile = `find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /root -o -path /var/tmp -o -path /var/log -o -path /var/cache \) -prune -o -print | sort`

// consulAgent starts a Consul agent as a unit, and waits until it answers for itself.
func consulAgent(m *machine.Machine) {
	m.Run("systemd-run", "--unit=consul", "--setenv=HOME=/root", "consul", "agent", "-dev", "-log-level=warn")
	m.Wait(time.Minute, "curl", "-sf", "http://127.0.0.1:8500/v1/catalog/services")
}

// sidecar registers service web with a sidecar at the machine's agent, which gives that port 21000.
func sidecar(m *machine.Machine) {
	m.Write("/root/web.json", `{"Name": "web", "Port": 8080, "Connect": {"SidecarService": {}}}`, 0o644)
	m.Run("curl", "-sf", "-X", "PUT", "--data", "@/root/web.json", "http://127.0.0.1:8500/v1/agent/service/register")
}

// waitGuarded waits until the machine's kernel guards the sidecar range, and returns every rule and set with what they are
// known by in the kernel: what was taken away and made again has other handles.
func waitGuarded(m *machine.Machine) string {
	m.Wait(time.Minute, "bash", "-c", `hostagent firewall show | grep -q "^add hostagent-open 21000" && hostagent firewall show | grep -q "^add hostagent-guard 21000-21255"`)
	return m.Shell(`nft -a list ruleset | sed 's/counter packets.*//'; ipset save`)
}

// Without Consul: installed at once, observing, nothing touched; and nothing left. It is measured, so that no other test
// runs beside it.
func TestPackageInstallAndPurge(t *testing.T) {
	m := machine.Boot(t)
	deb := putPackage(t, m, now, "deb")
	before := m.Run("bash", "-c", everyFile)
	users := m.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow")

	started := time.Now()
	said := apt(m, "install", deb)
	if took := time.Since(started); took > installWithin {
		t.Errorf("apt-get install took %s without Consul, want at most %s", took, installWithin)
	} else {
		t.Logf("apt-get install took %s without Consul", took)
	}
	for _, want := range []string{"observes this host and changes nothing", `mode = "guard"`, "/etc/hostagent.d/hostagent.hcl", "systemctl reload hostagent", "hostagent status"} {
		if !strings.Contains(said, want) {
			t.Errorf("apt-get install does not say %q:\n%s", want, said)
		}
	}
	if got, want := m.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore"), "enabled\nenabled\nenabled\n"; got != want {
		t.Errorf("enabled: %q, want %q", got, want)
	}
	m.Run("systemctl", "is-active", "hostagent")
	m.Wait(10*time.Second, "bash", "-c", "hostagent status | grep -q 'observe mode'")
	if got, want := m.Run("hostagent", "version"), "hostagent version v0.1.0\n"; got != want {
		t.Errorf("the program says %q, want the package's version: %q", got, want)
	}
	if got := m.Run("nft", "list", "ruleset"); got != "" {
		t.Errorf("rules after an installation: %s", got)
	}
	if got := m.Run("dpkg", "--verify", "hostagent"); got != "" {
		t.Errorf("dpkg --verify: %s", got)
	}

	m.Shell("echo 'close_delay = \"20s\"' >/etc/hostagent.d/own.hcl; echo secret >/etc/hostagent.d/token; touch /var/lib/hostagent/left")
	apt(m, "purge", "hostagent")
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(m.Run("bash", "-c", everyFile), "\n")); diff != "" {
		t.Errorf("files after a purge (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(users, m.Run("cat", "/etc/passwd", "/etc/group", "/etc/shadow")); diff != "" {
		t.Errorf("users after a purge (-before +after):\n%s", diff)
	}
	if out, err := m.Try("test", "-e", "/run/hostagent"); err == nil {
		t.Errorf("/run/hostagent is left: %s", out)
	}
	if got := m.Run("systemctl", "list-units", "--all", "--plain", "--no-legend", "hostagent*"); got != "" {
		t.Errorf("units are left: %s", got)
	}
}

// An upgrade and a downgrade restart the daemon and touch neither rule nor configuration; a removal takes rules, sets and
// checks away and keeps the configuration; the installation after it goes on with that.
func TestPackageUpgradeAndRemove(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t, "--bind-ro="+os.Getenv("CONSUL_BIN")+":/usr/bin/consul")
	older, newer := putPackage(t, m, now, "deb"), putPackage(t, m, next, "deb")
	consulAgent(m)
	sidecar(m)
	apt(m, "install", older)
	m.Shell(`sed -i 's/^mode = .*/mode = "guard"/' /etc/hostagent.d/hostagent.hcl; systemctl reload hostagent`)
	rules := waitGuarded(m)
	edited := m.Run("cat", "/etc/hostagent.d/hostagent.hcl")
	oneshots := m.Shell("systemctl start hostagent-sets hostagent-restore; systemctl show -p InvocationID hostagent-sets hostagent-restore")

	for _, step := range []struct{ deb, version string }{{newer, "v0.2.0"}, {older, "v0.1.0"}} {
		pid := m.Run("systemctl", "show", "-p", "MainPID", "hostagent")
		said := apt(m, "install", "--allow-downgrades", step.deb)
		if strings.Contains(said, "changes nothing") {
			t.Errorf("an upgrade says that hostagent observes, which it does not:\n%s", said)
		}
		if m.Run("systemctl", "show", "-p", "MainPID", "hostagent") == pid {
			t.Errorf("%s: the daemon was not restarted", step.version)
		}
		m.Wait(30*time.Second, "bash", "-c", "hostagent status | grep -q '^hostagent "+step.version+", guard mode'")
		if diff := cmp.Diff(rules, waitGuarded(m)); diff != "" {
			t.Errorf("%s: rules and sets did not stay as they were (-before +after):\n%s", step.version, diff)
		}
		if diff := cmp.Diff(edited, m.Run("cat", "/etc/hostagent.d/hostagent.hcl")); diff != "" {
			t.Errorf("%s: the configuration did not stay as it was (-before +after):\n%s", step.version, diff)
		}
	}
	if diff := cmp.Diff(oneshots, m.Run("systemctl", "show", "-p", "InvocationID", "hostagent-sets", "hostagent-restore")); diff != "" {
		t.Errorf("an upgrade has started what runs once at boot (-before +after):\n%s", diff)
	}

	m.Run("systemctl", "stop", "hostagent")
	apt(m, "install", newer)
	if state, err := m.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("an upgrade has started what somebody had stopped: %s", state)
	}
	m.Run("systemctl", "start", "hostagent")
	m.Wait(30*time.Second, "bash", "-c", "hostagent reports | grep -q hostagent:alive")

	apt(m, "remove", "hostagent")
	if got := m.Shell("nft list ruleset | grep -i hostagent || true; ipset list; curl -s http://127.0.0.1:8500/v1/agent/checks | jq -r 'keys[]' | grep hostagent || true; curl -s http://127.0.0.1:8500/v1/agent/services | jq -r 'keys[]' | grep hostagent || true; find /etc/systemd /run/hostagent -name '*hostagent*' 2>/dev/null || true"); got != "" {
		t.Errorf("left after a removal: %s", got)
	}
	if diff := cmp.Diff(edited, m.Run("cat", "/etc/hostagent.d/hostagent.hcl")); diff != "" {
		t.Errorf("the configuration after a removal (-before +after):\n%s", diff)
	}
	apt(m, "install", newer)
	waitGuarded(m)
	m.Run("systemctl", "is-enabled", "hostagent", "hostagent-sets", "hostagent-restore")
}

// A configuration that is wrong fails the service, visibly, and neither an installation nor an upgrade nor a removal.
func TestPackageWrongConfig(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	older, newer := putPackage(t, m, now, "deb"), putPackage(t, m, next, "deb")
	m.Write("/etc/hostagent.d/own.hcl", "bad = 1\n", 0o644)
	for _, deb := range []string{older, newer} {
		said := apt(m, "install", deb)
		for _, want := range []string{`/etc/hostagent.d/own.hcl:1: unknown key "bad"`, "does not run"} {
			if !strings.Contains(said, want) {
				t.Errorf("apt-get install does not say %q:\n%s", want, said)
			}
		}
		if got := m.Run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}", "hostagent"); got != "ii " {
			t.Errorf("dpkg says %q, want it installed", got)
		}
		m.Wait(10*time.Second, "systemctl", "is-failed", "hostagent")
	}
	m.Shell(ruleOfOurs)
	said := apt(m, "remove", "hostagent")
	if !strings.Contains(said, "its checks in Consul could not be removed") {
		t.Errorf("a removal without Consul does not say that checks may be left:\n%s", said)
	}
	if got := m.Shell("nft list ruleset | grep -i hostagent || true; ipset list; systemctl --failed --plain --no-legend"); got != "" {
		t.Errorf("left after a removal: %s", got)
	}
	// Mended, it runs at once.
	m.Run("rm", "/etc/hostagent.d/own.hcl")
	apt(m, "install", newer)
	m.Run("systemctl", "is-active", "hostagent")
}

// What hostagent.service comes after may take for ever to start: no installation waits for that, and hostagent starts when
// it is there.
func TestPackageWaitsForNobody(t *testing.T) {
	t.Parallel()
	m := machine.New(t)
	m.Write("/etc/systemd/system/slow.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'until test -e /run/go; do sleep 0.1; done'\n", 0o644)
	m.Write("/etc/systemd/system/hostagent.service.d/slow.conf", "[Unit]\nWants=slow.service\nAfter=slow.service\n", 0o644)
	packages := map[string]string{"deb": putPackage(t, m, now, "deb"), "rpm": putPackage(t, m, now, "rpm")}
	m.Boot()
	install := map[string]func() string{
		"deb": func() string { return apt(m, "install", packages["deb"]) },
		"rpm": func() string { return m.Run("rpm", "-i", "--nodeps", packages["rpm"]) },
	}
	remove := map[string]func() string{
		"deb": func() string { return apt(m, "purge", "hostagent") },
		"rpm": func() string { return m.Run("rpm", "-e", "hostagent") },
	}
	for _, format := range []string{"deb", "rpm"} {
		m.Run("rm", "-f", "/run/go")
		if said := install[format](); !strings.Contains(said, "starts when what it waits for is up") {
			t.Errorf("%s: an installation does not say that hostagent still waits:\n%s", format, said)
		}
		m.Run("touch", "/run/go")
		m.Wait(10*time.Second, "systemctl", "is-active", "hostagent")
		remove[format]()
	}
}

// ruleOfOurs makes what an earlier run in guard mode may have left.
const ruleOfOurs = `ipset create hostagent-guard bitmap:port range 0-65535; iptables -t mangle -N HOSTAGENT-GUARD; iptables -t mangle -I INPUT -j HOSTAGENT-GUARD`

// An administrator who has disabled hostagent, or forbids that packages start services, is heard.
func TestPackageHeedsPolicy(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	older, newer := putPackage(t, m, now, "deb"), putPackage(t, m, next, "deb")
	m.Write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
	apt(m, "install", older)
	if state, err := m.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("policy-rc.d forbids it, and hostagent was started: %s", state)
	}
	m.Run("rm", "/usr/sbin/policy-rc.d")
	m.Run("systemctl", "disable", "--now", "hostagent")
	apt(m, "install", newer)
	apt(m, "remove", "hostagent")
	apt(m, "install", newer)
	if state, err := m.Try("systemctl", "is-enabled", "hostagent"); err == nil {
		t.Errorf("somebody has disabled hostagent, and a package enabled it: %s", state)
	}
	if state, err := m.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("somebody has disabled hostagent, and a package started it: %s", state)
	}
}

// What is unusual about a host is heard too, and neither breaks a step nor makes it say what is not so.
func TestPackageOnUnusualHosts(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
	older, newer := putPackage(t, m, now, "deb"), putPackage(t, m, next, "deb")
	m.Shell("systemctl mask hostagent 2>&1")
	for _, deb := range []string{older, newer} {
		if said := apt(m, "install", deb); strings.Contains(said, "observes this host") || strings.Contains(said, "preset") {
			t.Errorf("hostagent is masked, and an installation says\n%s", said)
		}
	}
	m.Shell("systemctl unmask hostagent 2>&1; systemctl enable --now hostagent 2>&1; systemctl stop hostagent")

	// An upgrade that is called off starts nothing.
	m.Shell("dpkg-deb -R " + newer + ` /root/broken; printf '#!/bin/sh\nexit 1\n' >/root/broken/DEBIAN/preinst; chmod 755 /root/broken/DEBIAN/preinst; dpkg-deb -Znone -b /root/broken /root/broken.deb`)
	if said, err := m.Try("dpkg", "-i", "/root/broken.deb"); err == nil {
		t.Errorf("a package whose preinst fails was installed: %s", said)
	}
	if state, err := m.Try("systemctl", "is-active", "hostagent"); err == nil {
		t.Errorf("an upgrade that was called off has started what somebody had stopped: %s", state)
	}
	// A prerm that fails is replaced by the new version's.
	m.Shell("sed -i '2iexit 1' /var/lib/dpkg/info/hostagent.prerm; dpkg -i " + newer)

	// State that cannot be removed is no rule that stands, and a folder that cannot go keeps no purge from its end.
	m.Shell("mount -t tmpfs tmpfs /var/lib/hostagent; touch /var/lib/hostagent/state.json; mount --bind /dev/null /var/lib/hostagent/state.json")
	said := apt(m, "remove", "hostagent")
	if !strings.Contains(said, "cannot remove the saved state") || strings.Contains(said, "rules may still stand") {
		t.Errorf("a removal that leaves the state says\n%s", said)
	}
	m.Run("umount", "/var/lib/hostagent/state.json")
	m.Shell("rm -rf /etc/hostagent.d; mkdir /root/real; touch /root/real/mine; ln -s /root/real /etc/hostagent.d")
	apt(m, "purge", "hostagent")
	if got := m.Shell("ls /var/lib/hostagent; ls -d /etc/hostagent.d 2>/dev/null || true; getent passwd hostagent || true; dpkg -l hostagent 2>/dev/null || true; ls /root/real"); got != "mine\n" {
		t.Errorf("left after a purge: %s", got)
	}
}

// A package that is installed over a "service install" says that it is hidden and how to change over, and that works.
func TestPackageOverServiceInstall(t *testing.T) {
	t.Parallel()
	m := bare(t)
	packages := map[string]string{"deb": putPackage(t, m, now, "deb"), "rpm": putPackage(t, m, now, "rpm")}
	before := m.Run("bash", "-c", everyFile+" | grep -v /rpm")
	for format, steps := range map[string][]func() string{
		"deb": {func() string { return apt(m, "install", packages["deb"]) }, func() string { return apt(m, "purge", "hostagent") }},
		"rpm": {func() string { return m.Run("rpm", "-i", "--nodeps", packages["rpm"]) }, func() string { return m.Run("rpm", "-e", "hostagent") }},
	} {
		m.Copy(filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), "hostagent"), ownProgram, 0o755)
		m.Run(ownProgram, "service", "install")
		_, said, _ := strings.Cut(strings.ReplaceAll(steps[0](), "\r", ""), "To change over to the package:\n")
		commands, rest, _ := strings.Cut(said, "restart hostagent\n")
		if !strings.Contains(commands, "rm -f "+ownProgram+" ") || rest == "" {
			t.Fatalf("%s: an installation does not say how to change over:\n%s", format, said)
		}
		refused(t, m, 2, "units of an older service install hide those of the package", ownProgram, "service", "uninstall")
		m.Shell(commands + "restart hostagent")
		if got := m.Shell("readlink /proc/$(systemctl show -p MainPID --value hostagent)/exe; systemctl is-enabled hostagent hostagent-sets hostagent-restore"); got != "/usr/bin/hostagent\nenabled\nenabled\nenabled\n" {
			t.Errorf("%s: changed over, it is %s", format, got)
		}
		steps[1]()
		m.Shell("rm -rf /etc/hostagent.d; if getent passwd hostagent; then userdel hostagent; fi; rmdir /etc/sysusers.d")
	}
	m.Copy(filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), "hostagent"), ownProgram, 0o755)
	after := m.Run("bash", "-c", everyFile+" | grep -v -e /rpm -e /fish -e /licenses -e zsh/site-functions")
	if diff := cmp.Diff(strings.Split(before, "\n"), strings.Split(after, "\n")); diff != "" {
		t.Errorf("files in the end (-before +after):\n%s", diff)
	}
}

// An image is built by installing into a chroot, where no systemd runs: the system that boots from it has hostagent running.
// A removal in a chroot leaves the kernel of the host around it alone.
func TestPackageInChroot(t *testing.T) {
	t.Parallel()
	m := machine.New(t)
	deb := putPackage(t, m, now, "deb")
	in := func(args ...string) {
		t.Helper()
		out, err := exec.Command("chroot", append([]string{m.Path("/"), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("in the chroot: %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	m.Command("mount", "-t", "proc", "proc", m.Path("/proc"))
	in("dpkg", "-i", deb)
	m.Command("ipset", "create", "hostagent-guard", "bitmap:port", "range", "0-65535")
	t.Cleanup(func() { m.Command("ipset", "destroy", "hostagent-guard") })
	in("dpkg", "--remove", "hostagent")
	m.Command("ipset", "list", "-n", "hostagent-guard")
	if _, err := os.Stat(m.Path("/etc/systemd/system/multi-user.target.wants/hostagent.service")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removal in a chroot leaves the unit enabled: %v", err)
	}
	in("dpkg", "-i", deb)
	m.Command("umount", m.Path("/proc"))
	m.Boot()
	m.Run("systemctl", "is-active", "hostagent")
	m.Wait(10*time.Second, "bash", "-c", "hostagent status | grep -q 'observe mode'")
	if failed := m.Run("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		t.Errorf("units failed: %s", failed)
	}
}

// Versions sort as the commits that they were built from.
func TestPackageVersions(t *testing.T) {
	t.Parallel()
	m := machine.Boot(t)
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
		m.Run("dpkg", "--validate-version", newer+"-1")
		if _, err := m.Try("dpkg", "--compare-versions", older+"-1", "lt", newer+"-1"); err != nil {
			t.Errorf("dpkg does not take %s for older than %s: %v", older, newer, err)
		}
		if got := m.Run("rpm", "--eval", `%{lua: print(rpm.vercmp("`+older+`", "`+newer+`"))}`); strings.TrimSpace(got) != "-1" {
			t.Errorf("rpm does not take %s for older than %s: %s", older, newer, got)
		}
	}
}
