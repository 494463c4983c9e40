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

	"github.com/hostagent/hostagent/packaging"
	"github.com/hostagent/hostagent/test/machine"
)

// ownProgram is where an operator puts hostagent without a package.
const ownProgram = "/usr/local/bin/hostagent"

// bare is a booted machine with the program and nothing else of it.
func bare(t *testing.T, options ...string) *machine.Machine {
	t.Helper()
	m := machine.New(t, options...)
	m.Copy(filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), "hostagent"), ownProgram, 0o755)
	m.Boot()
	return m
}

// withConsul is the option that puts Consul into a machine.
func withConsul() string { return "--bind-ro=" + os.Getenv("CONSUL_BIN") + ":/usr/bin/consul" }

// startConsul starts an agent that is its own server, as a unit.
func startConsul(m *machine.Machine) {
	m.Run("systemd-run", "--unit=consul", "--quiet", "consul", "agent", "-dev", "-log-level=warn")
	m.Wait(30*time.Second, "bash", "-c", "curl -sf http://127.0.0.1:8500/v1/status/leader | grep -q :")
}

// traces is what an installation changes on a machine, as text: files, rules, sets, units, users.
func traces(m *machine.Machine) string {
	return m.Shell(`
find / -xdev \( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log -o -path /var/cache \
  -o -path /var/lib/systemd -o -path /root \) -prune -o -print | grep -vE '^/etc/((passwd|group|shadow|gshadow)-|\.pwd\.lock)$' | LC_ALL=C sort
find /run/hostagent 2>/dev/null || true
nft list ruleset
ipset list
systemctl list-unit-files --plain --no-legend | sort
systemctl list-units --all --plain --no-legend 'hostagent*'
cat /etc/passwd /etc/group`)
}

// tried is the status and all the output of a command that may fail.
func tried(t *testing.T, m *machine.Machine, args ...string) (status int, text string) {
	t.Helper()
	text, err := m.Try(args...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), err.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0, text
}

// refused expects a command to fail with a status and with text.
func refused(t *testing.T, m *machine.Machine, status int, text string, args ...string) {
	t.Helper()
	if got, said := tried(t, m, args...); got != status || !strings.Contains(said, text) {
		t.Errorf("%q: status %d, want %d with %q:\n%s", args, got, status, text, said)
	}
}

// says expects all of the texts.
func says(t *testing.T, said string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(said, text) {
			t.Errorf("it does not say %q:\n%s", text, said)
		}
	}
}

func mainPID(m *machine.Machine) string {
	return strings.TrimSpace(m.Run("systemctl", "show", "--property=MainPID", "--value", "hostagent"))
}

// TestService is the life of a service on a host without Consul, from the first installation to the last trace.
func TestService(t *testing.T) {
	t.Parallel()
	m := bare(t)
	before := traces(m)
	refused(t, m, 4, "hostagent is not installed as a service", ownProgram, "service", "status")
	refused(t, m, 4, "hostagent is not installed as a service", ownProgram, "service", "start")

	began := time.Now()
	said := m.Run("sh", "-c", "umask 077; "+ownProgram+" service install")
	t.Logf("installed in %s:\n%s", time.Since(began).Round(time.Millisecond), said)
	says(t, said, "made: user hostagent\n", "written: /etc/hostagent.d/hostagent.hcl, which observes\n",
		"written, enabled: /etc/systemd/system/hostagent-sets.service\n", "written, enabled: /etc/systemd/system/hostagent-restore.service\n",
		"written, enabled: /etc/systemd/system/hostagent.service\n", "hostagent.service: active (running)", packaging.Guard)
	for _, unit := range []string{"hostagent", "hostagent-sets", "hostagent-restore"} {
		if got := m.Run("systemctl", "is-enabled", unit); got != "enabled\n" {
			t.Errorf("%s is %s", unit, got)
		}
		m.Run("systemctl", "is-active", unit)
	}
	modes := "755 /etc/hostagent.d\n644 /etc/hostagent.d/hostagent.hcl\n644 /etc/systemd/system/hostagent.service\n700 /var/lib/hostagent\n"
	if diff := cmp.Diff(modes, m.Run("stat", "-c", "%a %n", "/etc/hostagent.d", "/etc/hostagent.d/hostagent.hcl", "/etc/systemd/system/hostagent.service", "/var/lib/hostagent")); diff != "" {
		t.Error(diff)
	}
	for _, as := range [][]string{{}, {"runuser", "-u", "nobody", "--"}} {
		said := m.Run(append(as, ownProgram, "service", "status")...)
		says(t, said, "hostagent.service: active (running) since ", ", enabled\n", "installed by hostagent service install: /etc/systemd/system/hostagent.service\n",
			"hostagent-sets.service: active (exited)", "hostagent-restore.service: active (exited)", "hostagent status; its log: journalctl -u hostagent\n")
	}
	t.Run("is brought up to date", func(t *testing.T) { upgrade(t, m) })
	t.Run("stops and starts", func(t *testing.T) { stopAndStart(t, m) })
	t.Run("survives a reboot", func(*testing.T) {
		m.Reboot()
		m.Run(ownProgram, "service", "status")
	})

	t.Run("is uninstalled", func(t *testing.T) {
		said := m.Run(ownProgram, "service", "uninstall")
		says(t, said, "stopped: hostagent.service\n", "removed: /etc/systemd/system/hostagent-sets.service\n", "removed: /etc/systemd/system/hostagent.service\n",
			"left: /etc/hostagent.d, /var/lib/hostagent, user hostagent; hostagent service uninstall --purge removes them too\n", "hostagent: warning: cannot remove all reports: ")
		var more []string
		for line := range strings.Lines(traces(m)) {
			if !strings.Contains(before, line) {
				more = append(more, line)
			}
		}
		if diff := cmp.Diff([]string{"/etc/hostagent.d\n", "/etc/hostagent.d/hostagent.hcl\n", "/etc/sysusers.d\n", "/etc/sysusers.d/hostagent.conf\n", "/var/lib/hostagent\n"}, more[:min(5, len(more))]); diff != "" {
			t.Error(diff)
		}
		if len(more) != 7 || !strings.HasPrefix(more[5], "hostagent:x:") || !strings.HasPrefix(more[6], "hostagent:x:") {
			t.Errorf("more is left: %q", more)
		}
		m.Shell("mkdir -p /run/hostagent; touch /run/hostagent/hostagent.sock /run/hostagent/hostagent.sock.lock") // as kill -9 leaves it
		if said := m.Run(ownProgram, "service", "uninstall"); !strings.Contains(said, "nothing to uninstall\n") {
			t.Errorf("a second time: %s", said)
		}
		m.Run("test", "!", "-e", "/run/hostagent")
	})
	t.Run("leaves nothing", func(t *testing.T) {
		says(t, m.Run(ownProgram, "service", "install"), "hostagent.service: active (running)")
		m.Shell("echo secret >/etc/hostagent.d/token; ln -s /etc/hostname /etc/hostagent.d/zz.hcl.link")
		said := m.Run(ownProgram, "service", "uninstall", "--purge")
		says(t, said, "removed: /etc/hostagent.d/hostagent.hcl\nleft: /etc/hostagent.d/token, because", "left: /etc/hostagent.d/zz.hcl.link, because",
			"removed: /var/lib/hostagent\n", "removed: user hostagent\n")
		m.Shell("rm /etc/hostagent.d/token /etc/hostagent.d/zz.hcl.link")
		says(t, m.Run(ownProgram, "service", "uninstall", "--purge"), "removed: /etc/hostagent.d\n")
		if diff := cmp.Diff(before, traces(m)); diff != "" {
			t.Errorf("what is left, or lost (-before +after):\n%s", diff)
		}
	})
}

// upgrade installs again: the same, a newer ownProgram, and over units of an older one.
func upgrade(t *testing.T, m *machine.Machine) {
	first := mainPID(m)
	m.Shell("echo '# mine' >>/etc/hostagent.d/hostagent.hcl")
	says(t, m.Run(ownProgram, "service", "install"), "as it was: /etc/systemd/system/hostagent-sets.service\n", "as it was: /etc/systemd/system/hostagent.service\n", "active (running)")
	if again := mainPID(m); again == first {
		t.Error("the service was not restarted")
	}
	says(t, m.Run("cat", "/etc/hostagent.d/hostagent.hcl"), "# mine\n")

	m.Shell(`cp -a ` + ownProgram + ` /usr/local/bin/new; echo newer >>/usr/local/bin/new; mv /usr/local/bin/new ` + ownProgram + `
sed -i 's/^Description=.*/Description=older/' /etc/systemd/system/hostagent.service; systemctl disable hostagent`)
	said := m.Run(ownProgram, "service", "install")
	says(t, said, "rewritten, enabled: /etc/systemd/system/hostagent.service\n", "as it was: /etc/systemd/system/hostagent-restore.service\n")
	m.Shell("cmp /proc/$(systemctl show -p MainPID --value hostagent)/exe " + ownProgram + "; systemctl is-enabled hostagent")
	if got := m.Run("systemctl", "show", "-p", "Description", "--value", "hostagent"); strings.Contains(got, "older") {
		t.Errorf("systemd still knows the older unit: %s", got)
	}
}

func stopAndStart(t *testing.T, m *machine.Machine) {
	before := mainPID(m)
	says(t, m.Run(ownProgram, "service", "restart"), "hostagent.service: active (running)")
	if mainPID(m) == before {
		t.Error("restart did not restart it")
	}
	said := m.Run(ownProgram, "service", "stop")
	says(t, said, "hostagent.service: inactive (dead)", "its rules stay in place; hostagent firewall remove takes them away\n")
	m.Run(ownProgram, "service", "stop")
	refused(t, m, 3, "to start it: hostagent service start", ownProgram, "service", "status")

	m.Shell("cp /etc/hostagent.d/hostagent.hcl /root/good.hcl; echo 'moed = 1' >>/etc/hostagent.d/hostagent.hcl")
	if status, said := tried(t, m, ownProgram, "service", "start"); status == 0 {
		// Where the unit is ready as soon as it was started, its end comes later.
		m.Wait(10*time.Second, "systemctl", "is-failed", "hostagent")
	} else {
		says(t, said, "cannot start hostagent.service: ", `unknown key "moed"; did you mean "mode"?`, "see journalctl -u hostagent.service")
	}
	refused(t, m, 3, "hostagent.service: failed (failed), exit status 78", ownProgram, "service", "status")
	refused(t, m, 3, "its configuration is wrong: hostagent config validate", ownProgram, "service", "status")
	m.Run("cp", "/root/good.hcl", "/etc/hostagent.d/hostagent.hcl")
	says(t, m.Run(ownProgram, "service", "start"), "hostagent.service: active (running)")
}

// TestServiceRefusals: whatever is refused leaves no trace.
func TestServiceRefusals(t *testing.T) {
	t.Parallel()
	m := bare(t)
	before := traces(m)
	nobody := []string{"runuser", "-u", "nobody", "--", ownProgram, "service"}
	for _, verb := range []string{"install", "uninstall", "start", "stop", "restart"} {
		refused(t, m, 2, "hostagent service "+verb+" needs root; run as root: sudo hostagent service "+verb, append(nobody, verb)...)
	}
	elsewhere := "mount -t tmpfs tmpfs /run/systemd && " + ownProgram + " service "
	refused(t, m, 2, "this host is not run by systemd", "unshare", "--mount", "sh", "-c", elsewhere+"install")
	refused(t, m, 2, "this host is not run by systemd", "unshare", "--mount", "sh", "-c", elsewhere+"status")

	for _, c := range []struct{ name, prepare, want, call, undo string }{
		{"a package's unit", "mkdir -p /usr/lib/systemd/system; touch /usr/lib/systemd/system/hostagent.service",
			"installed by a package already (/usr/lib/systemd/system/hostagent.service): use systemctl for the service, and apt for another version",
			ownProgram, "true"},
		{"a world-writable folder", "mkdir -m 777 /opt/open; cp " + ownProgram + " /opt/open/hostagent",
			"because /opt/open can be written by others than root (mode 0777): install -m 0755 \"/opt/open/hostagent\" /usr/local/bin/hostagent, and call that",
			"/opt/open/hostagent", "rm -r /opt/open"},
		{"a link into one", "mkdir -m 777 /opt/open; cp " + ownProgram + " /opt/open/hostagent; ln -s /opt/open/hostagent /usr/local/bin/linked",
			"/opt/open can be written", "/usr/local/bin/linked", "rm -r /opt/open /usr/local/bin/linked"},
		{"a home", "cp " + ownProgram + " /root/hostagent", "is below /root", "/root/hostagent", "rm /root/hostagent"},
		{"a wrong configuration", "mkdir /etc/hostagent.d; echo 'moed = 1' >/etc/hostagent.d/x.hcl",
			`/etc/hostagent.d/x.hcl:1: unknown key "moed"; did you mean "mode"?`, ownProgram, "rm -r /etc/hostagent.d"},
		{"no mode", "mkdir /etc/hostagent.d; echo >/etc/hostagent.d/x.hcl", "choose a mode", ownProgram, "rm -r /etc/hostagent.d"},
		{"somebody's unit", "echo '[Unit]' >/etc/systemd/system/hostagent-sets.service",
			"/etc/systemd/system/hostagent-sets.service was not written by hostagent", ownProgram, "rm /etc/systemd/system/hostagent-sets.service"},
		{"a masked unit", "systemctl mask hostagent.service 2>&1", "hostagent.service is masked: systemctl unmask hostagent.service",
			ownProgram, "systemctl unmask hostagent.service 2>&1"},
		{"root by another name", "echo hostagent:x:0:0::/:/bin/sh >>/etc/passwd", "user hostagent is root under another name", ownProgram, "sed -i /^hostagent:/d /etc/passwd"},
	} {
		m.Shell(c.prepare)
		status := 2
		if strings.Contains(c.prepare, "/etc/hostagent.d") {
			status = 78
		}
		prepared := traces(m)
		refused(t, m, status, c.want, c.call, "service", "install")
		if diff := cmp.Diff(prepared, traces(m)); diff != "" {
			t.Errorf("%s: it was refused, and yet (-before +after):\n%s", c.name, diff)
		}
		if c.name == "a package's unit" {
			refused(t, m, 2, "to remove it: apt remove hostagent", ownProgram, "service", "uninstall")
			packaged(t, m)
		}
		m.Shell(c.undo)
	}
	if diff := cmp.Diff(before, traces(m)); diff != "" {
		t.Errorf("what is left (-before +after):\n%s", diff)
	}
}

// packaged looks at a service that a package has installed, and takes it away again.
func packaged(t *testing.T, m *machine.Machine) {
	m.Shell(`printf '[Service]\nExecStart=/bin/sleep infinity\n' >/usr/lib/systemd/system/hostagent.service; systemctl daemon-reload`)
	says(t, m.Run(ownProgram, "service", "start"), "hostagent.service: active (running)")
	says(t, m.Run(ownProgram, "service", "status"), "installed by a package: ")
	m.Run(ownProgram, "service", "restart")
	m.Run(ownProgram, "service", "stop")
	m.Shell("rm /usr/lib/systemd/system/hostagent.service; systemctl daemon-reload")
}

// TestServiceHalfway: an installation that fails says what stands, and what stands can be taken away. The host is one
// without systemd-sysusers.
func TestServiceHalfway(t *testing.T) {
	t.Parallel()
	m := bare(t)
	m.Run("mv", "/usr/bin/systemd-sysusers", "/usr/bin/away")
	before := traces(m)
	const dropIn = "/etc/systemd/system/hostagent.service.d"
	m.Shell(`mkdir ` + dropIn + `; printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "echo cannot go on; exit 7"\nType=oneshot\nRestart=no\n' >` + dropIn + `/break.conf`)
	status, said := tried(t, m, ownProgram, "service", "install")
	if status != 2 {
		t.Errorf("status %d", status)
	}
	says(t, said, "made: user hostagent\n", "written, enabled: /etc/systemd/system/hostagent.service\n", "cannot restart hostagent.service: ",
		"failed (failed), exit status 7", "cannot go on", "mend this and call it again, or undo it: sudo "+ownProgram+" service uninstall --purge")
	refused(t, m, 3, "exit status 7", ownProgram, "service", "status")

	// A crash of the machine may leave the file of a unit empty.
	m.Shell("rm -r " + dropIn + "; : >/etc/systemd/system/hostagent-sets.service")
	says(t, m.Run(ownProgram, "service", "install"), "rewritten, enabled: /etc/systemd/system/hostagent-sets.service\n", "hostagent.service: active (running)")

	// A wrong configuration keeps nobody from leaving; and a drop-in is its writer's.
	m.Shell(`mkdir ` + dropIn + `; printf '[Service]\nNice=1\n' >` + dropIn + `/nice.conf; echo 'moed = 1' >>/etc/hostagent.d/hostagent.hcl`)
	said = m.Run(ownProgram, "service", "uninstall", "--purge")
	says(t, said, "warning: the configuration is wrong, so the defaults count: ", "left: "+dropIn+", because it is not hostagent's own\n")
	m.Shell("rm -r " + dropIn + "; systemctl daemon-reload")
	if diff := cmp.Diff(before, traces(m)); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}
}

// TestServiceWithConsul: what a guard has put into the kernel and into Consul goes with it, and where Consul is gone the rest
// goes all the same. A user that stood there before stays.
func TestServiceWithConsul(t *testing.T) {
	t.Parallel()
	m := bare(t, withConsul())
	startConsul(m)
	m.Run("useradd", "--system", "--user-group", "hostagent")
	// Chains of the kernel's own come with the first rule of anybody, and stay.
	m.Shell(`for i in iptables ip6tables; do for c in "filter INPUT" "mangle PREROUTING" "mangle INPUT"; do set -- $c
  $i -t $1 -A $2 -j ACCEPT; $i -t $1 -D $2 -j ACCEPT; done; done`)
	before := traces(m)
	guard := func() {
		said := m.Run(ownProgram, "service", "install")
		if strings.Contains(said, "made: user") {
			t.Errorf("a user was made: %s", said)
		}
		m.Shell(packaging.Guard)
		m.Wait(30*time.Second, "bash", "-c", "ipset save hostagent-guard | grep -q 21255")
		m.Wait(30*time.Second, "bash", "-c", "curl -sf http://127.0.0.1:8500/v1/agent/checks | jq -e '.[\"hostagent:alive\"].Status == \"passing\"'")
	}
	guard()
	said := m.Run(ownProgram, "service", "uninstall", "--purge")
	t.Log(said)
	says(t, said, "removed: service hostagent with ", "HOSTAGENT", "removed: /etc/hostagent.d\n", "removed: /var/lib/hostagent\n")
	if got := m.Run("curl", "-sf", "http://127.0.0.1:8500/v1/agent/services"); strings.TrimSpace(got) != "{}" {
		t.Errorf("services are left: %s", got)
	}
	if diff := cmp.Diff(before, traces(m)); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}

	guard()
	m.Run("systemctl", "kill", "--signal=KILL", "consul")
	m.Wait(10*time.Second, "bash", "-c", "! curl -s http://127.0.0.1:8500/v1/status/leader")
	began := time.Now()
	said = m.Run(ownProgram, "service", "uninstall", "--purge")
	t.Logf("without Consul, in %s:\n%s", time.Since(began).Round(time.Millisecond), said)
	says(t, said, "hostagent: warning: cannot remove all reports: ", "removed: /etc/systemd/system/hostagent.service\n")
	if diff := cmp.Diff(before, traces(m)); diff != "" {
		t.Errorf("what is left without Consul, or lost (-before +after):\n%s", diff)
	}
}

// TestServiceTwiceAtOnce: of several installations at once one goes on, and none undoes what another does. An uninstallation
// needs no PATH of root's own.
func TestServiceTwiceAtOnce(t *testing.T) {
	t.Parallel()
	m := bare(t)
	before := traces(m)
	for range 5 {
		said := m.Shell(`for i in 1 2 3 4; do (` + ownProgram + ` service install; echo "status $?") >/tmp/said-$i 2>&1 & done; wait; cat /tmp/said-*; rm /tmp/said-*
systemctl is-active hostagent; systemctl is-enabled hostagent hostagent-sets hostagent-restore`)
		if done, refused := strings.Count(said, "status 0\n"), strings.Count(said, "another hostagent service install or uninstall is at work"); done == 0 || done+refused != 4 {
			t.Errorf("%d were done and %d refused, want 4 together:\n%s", done, refused, said)
		}
		m.Run("env", "PATH=/usr/local/bin:/usr/bin:/bin", ownProgram, "service", "uninstall", "--purge")
	}
	if diff := cmp.Diff(before, traces(m)); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}
}
