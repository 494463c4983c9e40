// SPDX-License-Identifier: MPL-2.0

package system

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/packaging"
	"github.com/hostagent/hostagent/systemd"
	"github.com/hostagent/hostagent/test/machine"
)

const (
	program    = "/usr/bin/hostagent"             // where packages put hostagent
	ownProgram = "/usr/local/bin/hostagent"       // where an operator puts it without a package
	settings   = "/etc/hostagent.d/hostagent.hcl" // that packages bring along
	own        = "/etc/hostagent.d/own.hcl"       // what the operator writes beside it
)

// settleWithin bounds what hostagent, Consul or a unit may take to come to a state.
const settleWithin = 30 * time.Second

// host is the machine of one test, however hostagent comes to it: tests install a package (product_test.go, package_test.go),
// call hostagent service install (service_test.go), or put units there (unit_test.go, boothost_test.go).
type host struct {
	*machine.Machine
	t     testing.TB
	token string // of Consul's operator; empty where there are no ACLs
}

// newHost makes a machine that is off, with Consul and the tests' application, neither of which runs. Options are those of
// package machine.
func newHost(t testing.TB, options ...string) *host {
	t.Helper()
	h := &host{t: t, Machine: machine.New(t, append(options, "--bind-ro="+os.Getenv("CONSUL_BIN")+":/usr/bin/consul",
		"--bind-ro="+built("app")+":/usr/local/bin/app")...)}
	h.Write("/etc/systemd/system/consul.service", consulUnit, 0o644)
	t.Cleanup(h.showIfFailed)
	return h
}

// bootedHost is newHost of one that is on.
func bootedHost(t testing.TB) *host {
	t.Helper()
	h := newHost(t)
	h.Boot()
	return h
}

// built returns the path of a program that test/system.sh has built.
func built(program string) string {
	return filepath.Join(os.Getenv("HOSTAGENT_TEST_BIN_DIR"), program)
}

// showIfFailed shows what the units of a host logged whose test failed.
func (h *host) showIfFailed() {
	if !h.t.Failed() || h.Init() == 0 {
		return
	}
	for _, unit := range []string{"hostagent*", "consul"} {
		if text, err := h.Try("journalctl", "--no-pager", "-b", "-n", "30", "-u", unit); err == nil {
			h.t.Logf("%s\n%s", unit, text)
		}
	}
}

// until waits until reached returns nil.
func (h *host) until(what string, reached func() error) {
	h.t.Helper()
	for deadline := time.Now().Add(settleWithin); ; time.Sleep(100 * time.Millisecond) {
		err := reached()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatalf("not within %s: %s: %v", settleWithin, what, err)
		}
	}
}

// soon wants something to take no longer than within. It is undone and done once more where it does: a machine that is busy
// is slow once, and what waits for something is slow each time.
func (h *host) soon(within time.Duration, what string, do func() time.Duration, undo func()) {
	h.t.Helper()
	took := do()
	if took > within {
		h.t.Logf("%s took %s, once", what, took)
		undo()
		took = do()
	}
	if took > within {
		h.t.Errorf("%s took %s twice, want at most %s", what, took, within)
	}
}

// tried is the status and all the output of a command that may fail.
func (h *host) tried(args ...string) (status int, text string) {
	h.t.Helper()
	text, err := h.Try(args...)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), err.Error()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return 0, text
}

// refused expects a command to fail with a status and with text.
func (h *host) refused(status int, text string, args ...string) {
	h.t.Helper()
	if got, said := h.tried(args...); got != status || !strings.Contains(said, text) {
		h.t.Errorf("%q: status %d, want %d with %q:\n%s", args, got, status, text, said)
	}
}

// tells expects all of the texts in what was said.
func (h *host) tells(said string, texts ...string) {
	h.t.Helper()
	for _, text := range texts {
		if !strings.Contains(said, text) {
			h.t.Errorf("it does not say %q:\n%s", text, said)
		}
	}
}

// show returns a property of hostagent's unit.
func (h *host) show(property string) string {
	h.t.Helper()
	return strings.TrimSuffix(h.Run("systemctl", "show", "--value", "-p", property, systemd.Guard), "\n")
}

// failed are the units that failed, a line each.
func (h *host) failed() string {
	h.t.Helper()
	return h.Run("systemctl", "--failed", "--plain", "--no-legend")
}

// unit writes a unit, which starts with the host from now on, and starts it anew. Lines come into its sections.
func (h *host) unit(name, command string, unit, service []string) {
	h.t.Helper()
	h.Write("/etc/systemd/system/"+name+".service", fmt.Sprintf("[Unit]\n%s\n[Service]\nType=exec\nExecStart=%s\n%s\n[Install]\nWantedBy=multi-user.target\n",
		strings.Join(unit, "\n"), command, strings.Join(service, "\n")), 0o644)
	h.Shell("systemctl daemon-reload; systemctl enable --quiet " + name + ".service; systemctl restart " + name + ".service")
}

// app runs the tests' application as a unit, on addresses.
func (h *host) app(name string, addresses ...string) {
	h.t.Helper()
	h.unit(name, "/usr/local/bin/app -name "+name+" -listen "+strings.Join(addresses, " -listen "), nil, []string{"User=daemon"})
	for _, address := range addresses {
		h.listens(address[strings.LastIndexByte(address, ':')+1:])
	}
}

// listens waits until something listens on a port.
func (h *host) listens(port string) {
	h.t.Helper()
	h.Wait(settleWithin, "bash", "-c", "ss -Htln 'sport = :"+port+"' | grep -q .")
}

// says waits until hostagent status tells text.
func (h *host) says(text string) {
	h.t.Helper()
	h.until("hostagent status says "+text, func() error {
		said, _ := h.Try("hostagent", "status") // its exit status says that there are findings
		if !strings.Contains(oneLine(said), text) {
			return fmt.Errorf("it says %s", cmp.Or(said, "nothing"))
		}
		return nil
	})
}

// guard turns guarding on with the line that the installation tells.
func (h *host) guard() {
	h.t.Helper()
	h.Shell(packaging.Guard)
}

// guarded waits until the kernel guards the sidecar range with port 21000 open, and returns every rule and set with what they
// are known by in the kernel: what was taken away and made again has other handles.
func (h *host) guarded() string {
	h.t.Helper()
	h.until("the range is guarded", func() error {
		shown, err := h.Try("hostagent", "firewall", "show")
		if err == nil && (!strings.Contains("\n"+shown, "\nadd hostagent-open 21000") || !strings.Contains("\n"+shown, "\nadd hostagent-guard 21000-21255")) {
			err = fmt.Errorf("firewall show says\n%s", shown)
		}
		return err
	})
	return h.Shell(`nft -a list ruleset | sed 's/counter packets.*//'; ipset save`)
}

// ours is what is left of hostagent where it has just been removed: rules, sets, reports in Consul, enabled units.
func (h *host) ours() string {
	h.t.Helper()
	return h.Shell(`nft list ruleset | grep -i hostagent || true
		ipset list
		for what in checks services; do curl -s http://127.0.0.1:8500/v1/agent/$what | jq -r 'keys[]' | grep hostagent || true; done
		find /etc/systemd /run/hostagent -name '*hostagent*' 2>/dev/null || true
		ls -d /run/hostagent 2>/dev/null || true`)
}

// found is find(1) of all on the host's disk but for what changes by itself and what the tests put there.
const found = `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/tmp -o -path /var/log \
	-o -path /var/cache -o -path /opt/consul -o -path '/root/*' -o -path /var/lib/systemd/timers \) -prune -o `

// files lists what is on the host's disk.
func (h *host) files() []string {
	h.t.Helper()
	return strings.Split(h.Shell(found+"-print | sort"), "\n")
}

// everything is what a host is made of, a line each: files, units, users, and what the kernel holds.
func (h *host) everything() []string {
	h.t.Helper()
	return strings.Split(h.Shell(found+`-printf '%y %m %u:%g %p\n' | sort
		find /run -name '*hostagent*' -not -name 'hostagent-[0-9]*'
		systemctl list-unit-files --no-legend --no-pager
		systemctl list-units --all --no-legend --no-pager 'hostagent*'
		getent passwd; getent group; cat /etc/shadow
		nft list ruleset
		for command in iptables-legacy-save ip6tables-legacy-save iptables-nft-save ip6tables-nft-save; do
			echo "$command"; $command | sed '/^#/d; s/\[[0-9:]*\]//'
		done
		ipset list`), "\n")
}

// oneLine is a text without its line breaks and indentations.
func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
