// SPDX-License-Identifier: MPL-2.0

package system

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/packaging"
)

// bareHost is a booted host with the program and nothing else of hostagent.
func bareHost(t *testing.T) *host {
	t.Helper()
	h := newHost(t)
	h.Copy(built("hostagent"), ownProgram, 0o755)
	h.Boot()
	return h
}

// TestService is the life of a service on a host without Consul, from the first installation to the last trace.
func TestService(t *testing.T) {
	t.Parallel()
	h := bareHost(t)
	before := h.everything()
	h.refused(4, "hostagent is not installed as a service", ownProgram, "service", "status")
	h.refused(4, "hostagent is not installed as a service", ownProgram, "service", "start")

	began := time.Now()
	said := h.Run("sh", "-c", "umask 077; "+ownProgram+" service install")
	t.Logf("installed in %s:\n%s", time.Since(began).Round(time.Millisecond), said)
	h.tells(said, "made: user hostagent\n", "written: /etc/hostagent.d/hostagent.hcl, which observes\n",
		"written, enabled: /etc/systemd/system/hostagent-sets.service\n", "written, enabled: /etc/systemd/system/hostagent-restore.service\n",
		"written, enabled: /etc/systemd/system/hostagent.service\n", "hostagent.service: active (running)", packaging.Guard)
	for _, unit := range []string{"hostagent", "hostagent-sets", "hostagent-restore"} {
		if got := h.Run("systemctl", "is-enabled", unit); got != "enabled\n" {
			t.Errorf("%s is %s", unit, got)
		}
		h.Run("systemctl", "is-active", unit)
	}
	modes := "755 /etc/hostagent.d\n644 /etc/hostagent.d/hostagent.hcl\n644 /etc/systemd/system/hostagent.service\n700 /var/lib/hostagent\n"
	if diff := cmp.Diff(modes, h.Run("stat", "-c", "%a %n", "/etc/hostagent.d", "/etc/hostagent.d/hostagent.hcl", "/etc/systemd/system/hostagent.service", "/var/lib/hostagent")); diff != "" {
		t.Error(diff)
	}
	for _, as := range [][]string{{}, {"runuser", "-u", "nobody", "--"}} {
		said := h.Run(append(as, ownProgram, "service", "status")...)
		h.tells(said, "hostagent.service: active (running) since ", ", enabled\n", "installed by hostagent service install: /etc/systemd/system/hostagent.service\n",
			"hostagent-sets.service: active (exited)", "hostagent-restore.service: active (exited)", "hostagent status; its log: journalctl -u hostagent\n")
	}
	h.broughtUpToDate()
	h.stoppedAndStarted()
	h.Reboot()
	h.Run(ownProgram, "service", "status")
	h.uninstalled(before)
	h.purged(before)
}

// uninstalled takes the service away, twice, and keeps what the operator may want to keep.
func (h *host) uninstalled(before []string) {
	h.t.Helper()
	said := h.Run(ownProgram, "service", "uninstall")
	h.tells(said, "stopped: hostagent.service\n", "removed: /etc/systemd/system/hostagent-sets.service\n", "removed: /etc/systemd/system/hostagent.service\n",
		"left: /etc/hostagent.d, /var/lib/hostagent, user hostagent; hostagent service uninstall --purge removes them too\n", "hostagent: warning: cannot remove all reports: ")
	var more []string
	for _, line := range h.everything() {
		if !slices.Contains(before, line) {
			more = append(more, line)
		}
	}
	want := []string{
		"d 700 hostagent:hostagent /var/lib/hostagent", "d 755 root:root /etc/hostagent.d", "d 755 root:root /etc/sysusers.d",
		"f 644 root:root /etc/hostagent.d/hostagent.hcl", "f 644 root:root /etc/sysusers.d/hostagent.conf",
	}
	if diff := cmp.Diff(want, more[:min(len(want), len(more))]); diff != "" {
		h.t.Errorf("files that are left (-want +got):\n%s", diff)
	}
	users := more[min(len(want), len(more)):]
	if len(users) != 3 || slices.ContainsFunc(users, func(line string) bool { return !strings.HasPrefix(line, "hostagent:") }) {
		h.t.Errorf("more is left: %q", users)
	}
	h.Shell("mkdir -p /run/hostagent; touch /run/hostagent/hostagent.sock /run/hostagent/hostagent.sock.lock") // as kill -9 leaves it
	h.tells(h.Run(ownProgram, "service", "uninstall"), "nothing to uninstall\n")
	h.Run("test", "!", "-e", "/run/hostagent")
}

// purged installs the service and leaves nothing of it, but for what somebody else put beside its configuration.
func (h *host) purged(before []string) {
	h.t.Helper()
	h.tells(h.Run(ownProgram, "service", "install"), "hostagent.service: active (running)")
	h.Shell("echo secret >/etc/hostagent.d/token; ln -s /etc/hostname /etc/hostagent.d/zz.hcl.link")
	said := h.Run(ownProgram, "service", "uninstall", "--purge")
	h.tells(said, "removed: /etc/hostagent.d/hostagent.hcl\nleft: /etc/hostagent.d/token, because", "left: /etc/hostagent.d/zz.hcl.link, because",
		"removed: /var/lib/hostagent\n", "removed: user hostagent\n")
	h.Shell("rm /etc/hostagent.d/token /etc/hostagent.d/zz.hcl.link")
	h.tells(h.Run(ownProgram, "service", "uninstall", "--purge"), "removed: /etc/hostagent.d\n")
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		h.t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}
}

// broughtUpToDate installs again: the same, a newer ownProgram, and over units of an older one.
func (h *host) broughtUpToDate() {
	h.t.Helper()
	first := h.show("MainPID")
	h.Shell("echo '# mine' >>/etc/hostagent.d/hostagent.hcl")
	h.tells(h.Run(ownProgram, "service", "install"), "as it was: /etc/systemd/system/hostagent-sets.service\n", "as it was: /etc/systemd/system/hostagent.service\n", "active (running)")
	if again := h.show("MainPID"); again == first {
		h.t.Error("the service was not restarted")
	}
	h.tells(h.Run("cat", "/etc/hostagent.d/hostagent.hcl"), "# mine\n")

	h.Shell(`cp -a ` + ownProgram + ` /usr/local/bin/new; echo newer >>/usr/local/bin/new; mv /usr/local/bin/new ` + ownProgram + `
sed -i 's/^Description=.*/Description=older/' /etc/systemd/system/hostagent.service; systemctl disable hostagent`)
	said := h.Run(ownProgram, "service", "install")
	h.tells(said, "rewritten, enabled: /etc/systemd/system/hostagent.service\n", "as it was: /etc/systemd/system/hostagent-restore.service\n")
	h.Shell("cmp /proc/$(systemctl show -p MainPID --value hostagent)/exe " + ownProgram + "; systemctl is-enabled hostagent")
	if got := h.Run("systemctl", "show", "-p", "Description", "--value", "hostagent"); strings.Contains(got, "older") {
		h.t.Errorf("systemd still knows the older unit: %s", got)
	}
}

func (h *host) stoppedAndStarted() {
	h.t.Helper()
	before := h.show("MainPID")
	h.tells(h.Run(ownProgram, "service", "restart"), "hostagent.service: active (running)")
	if h.show("MainPID") == before {
		h.t.Error("restart did not restart it")
	}
	said := h.Run(ownProgram, "service", "stop")
	h.tells(said, "hostagent.service: inactive (dead)", "its rules stay in place; hostagent firewall remove takes them away\n")
	h.Run(ownProgram, "service", "stop")
	h.refused(3, "to start it: hostagent service start", ownProgram, "service", "status")

	h.Shell("cp /etc/hostagent.d/hostagent.hcl /root/good.hcl; echo 'moed = 1' >>/etc/hostagent.d/hostagent.hcl")
	if status, said := h.tried(ownProgram, "service", "start"); status == 0 {
		// Where the unit is ready as soon as it was started, its end comes later.
		h.Wait(settleWithin, "systemctl", "is-failed", "hostagent")
	} else {
		h.tells(said, "cannot start hostagent.service: ", `unknown key "moed"; did you mean "mode"?`, "see journalctl -u hostagent.service")
	}
	h.refused(3, "hostagent.service: failed (failed), exit status 78", ownProgram, "service", "status")
	h.refused(3, "its configuration is wrong: hostagent config validate", ownProgram, "service", "status")
	h.Run("cp", "/root/good.hcl", "/etc/hostagent.d/hostagent.hcl")
	h.tells(h.Run(ownProgram, "service", "start"), "hostagent.service: active (running)")
}

// TestServiceRefusals: whatever is refused leaves no trace.
func TestServiceRefusals(t *testing.T) {
	t.Parallel()
	h := bareHost(t)
	before := h.everything()
	nobody := []string{"runuser", "-u", "nobody", "--", ownProgram, "service"}
	for _, verb := range []string{"install", "uninstall", "start", "stop", "restart"} {
		h.refused(2, "hostagent service "+verb+" needs root; run as root: sudo hostagent service "+verb, append(nobody, verb)...)
	}
	elsewhere := "mount -t tmpfs tmpfs /run/systemd && " + ownProgram + " service "
	h.refused(2, "this host is not run by systemd", "unshare", "--mount", "sh", "-c", elsewhere+"install")
	h.refused(2, "this host is not run by systemd", "unshare", "--mount", "sh", "-c", elsewhere+"status")

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
		h.Shell(c.prepare)
		status := 2
		if strings.Contains(c.prepare, "/etc/hostagent.d") {
			status = 78
		}
		prepared := h.everything()
		h.refused(status, c.want, c.call, "service", "install")
		if diff := cmp.Diff(prepared, h.everything()); diff != "" {
			t.Errorf("%s: it was refused, and yet (-before +after):\n%s", c.name, diff)
		}
		if c.name == "a package's unit" {
			h.refused(2, "to remove it: apt remove hostagent", ownProgram, "service", "uninstall")
			h.packaged()
		}
		h.Shell(c.undo)
	}
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("what is left (-before +after):\n%s", diff)
	}
}

// packaged looks at a service that a package has installed, and takes it away again.
func (h *host) packaged() {
	h.t.Helper()
	h.Shell(`printf '[Service]\nExecStart=/bin/sleep infinity\n' >/usr/lib/systemd/system/hostagent.service; systemctl daemon-reload`)
	h.tells(h.Run(ownProgram, "service", "start"), "hostagent.service: active (running)")
	h.tells(h.Run(ownProgram, "service", "status"), "installed by a package: ")
	h.Run(ownProgram, "service", "restart")
	h.Run(ownProgram, "service", "stop")
	h.Shell("rm /usr/lib/systemd/system/hostagent.service; systemctl daemon-reload")
}

// TestServiceHalfway: an installation that fails says what stands, and what stands can be taken away. The host is one
// without systemd-sysusers.
func TestServiceHalfway(t *testing.T) {
	t.Parallel()
	h := bareHost(t)
	h.Run("mv", "/usr/bin/systemd-sysusers", "/usr/bin/away")
	before := h.everything()
	const dropIn = "/etc/systemd/system/hostagent.service.d"
	h.Shell(`mkdir ` + dropIn + `; printf '[Service]\nExecStart=\nExecStart=/bin/sh -c "echo cannot go on; exit 7"\nType=oneshot\nRestart=no\n' >` + dropIn + `/break.conf`)
	status, said := h.tried(ownProgram, "service", "install")
	if status != 2 {
		t.Errorf("status %d", status)
	}
	h.tells(said, "made: user hostagent\n", "written, enabled: /etc/systemd/system/hostagent.service\n", "cannot restart hostagent.service: ",
		"failed (failed), exit status 7", "cannot go on", "mend this and call it again, or undo it: sudo "+ownProgram+" service uninstall --purge")
	h.refused(3, "exit status 7", ownProgram, "service", "status")

	// A crash of the machine may leave the file of a unit empty.
	h.Shell("rm -r " + dropIn + "; : >/etc/systemd/system/hostagent-sets.service")
	h.tells(h.Run(ownProgram, "service", "install"), "rewritten, enabled: /etc/systemd/system/hostagent-sets.service\n", "hostagent.service: active (running)")

	// A wrong configuration keeps nobody from leaving; and a drop-in is its writer's.
	h.Shell(`mkdir ` + dropIn + `; printf '[Service]\nNice=1\n' >` + dropIn + `/nice.conf; echo 'moed = 1' >>/etc/hostagent.d/hostagent.hcl`)
	said = h.Run(ownProgram, "service", "uninstall", "--purge")
	h.tells(said, "warning: the configuration is wrong, so the defaults count: ", "left: "+dropIn+", because it is not hostagent's own\n")
	h.Shell("rm -r " + dropIn + "; systemctl daemon-reload")
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}
}

// TestServiceWithConsul: what a guard has put into the kernel and into Consul goes with it, and where Consul is gone the rest
// goes all the same. A user that stood there before stays.
func TestServiceWithConsul(t *testing.T) {
	t.Parallel()
	h := bareHost(t)
	h.startConsul()
	h.Run("useradd", "--system", "--user-group", "hostagent")
	// Chains of the kernel's own come with the first rule of anybody, and stay.
	h.Shell(`for i in iptables ip6tables; do for c in "filter INPUT" "mangle PREROUTING" "mangle INPUT"; do set -- $c
  $i -t $1 -A $2 -j ACCEPT; $i -t $1 -D $2 -j ACCEPT; done; done`)
	before := h.everything()
	guard := func() {
		said := h.Run(ownProgram, "service", "install")
		if strings.Contains(said, "made: user") {
			t.Errorf("a user was made: %s", said)
		}
		h.Shell(packaging.Guard)
		h.Wait(settleWithin, "bash", "-c", "ipset save hostagent-guard | grep -q 21255")
		h.Wait(settleWithin, "bash", "-c", "curl -sf http://127.0.0.1:8500/v1/agent/checks | jq -e '.[\"hostagent:alive\"].Status == \"passing\"'")
	}
	guard()
	said := h.Run(ownProgram, "service", "uninstall", "--purge")
	t.Log(said)
	h.tells(said, "removed: service hostagent with ", "HOSTAGENT", "removed: /etc/hostagent.d\n", "removed: /var/lib/hostagent\n")
	if got := h.Run("curl", "-sf", "http://127.0.0.1:8500/v1/agent/services"); strings.TrimSpace(got) != "{}" {
		t.Errorf("services are left: %s", got)
	}
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}

	guard()
	h.Run("systemctl", "kill", "--signal=KILL", "consul")
	h.Wait(settleWithin, "bash", "-c", "! curl -s http://127.0.0.1:8500/v1/status/leader")
	began := time.Now()
	said = h.Run(ownProgram, "service", "uninstall", "--purge")
	t.Logf("without Consul, in %s:\n%s", time.Since(began).Round(time.Millisecond), said)
	h.tells(said, "hostagent: warning: cannot remove all reports: ", "removed: /etc/systemd/system/hostagent.service\n")
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("what is left without Consul, or lost (-before +after):\n%s", diff)
	}
}

// TestServiceTwiceAtOnce: of several installations at once one goes on, and none undoes what another does. An uninstallation
// needs no PATH of root's own.
func TestServiceTwiceAtOnce(t *testing.T) {
	t.Parallel()
	h := bareHost(t)
	before := h.everything()
	for range 5 {
		said := h.Shell(`for i in 1 2 3 4; do (` + ownProgram + ` service install; echo "status $?") >/tmp/said-$i 2>&1 & done; wait; cat /tmp/said-*; rm /tmp/said-*
systemctl is-active hostagent; systemctl is-enabled hostagent hostagent-sets hostagent-restore`)
		if done, refused := strings.Count(said, "status 0\n"), strings.Count(said, "another hostagent service install or uninstall is at work"); done == 0 || done+refused != 4 {
			t.Errorf("%d were done and %d refused, want 4 together:\n%s", done, refused, said)
		}
		h.Run("env", "PATH=/usr/local/bin:/usr/bin:/bin", ownProgram, "service", "uninstall", "--purge")
	}
	if diff := cmp.Diff(before, h.everything()); diff != "" {
		t.Errorf("what is left, or lost (-before +after):\n%s", diff)
	}
}
