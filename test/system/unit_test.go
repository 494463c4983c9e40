// SPDX-License-Identifier: MPL-2.0

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/systemd"
	"github.com/hostagent/hostagent/test/machine"
)

const (
	unitFile = "/usr/lib/systemd/system/" + systemd.Guard
	dropIn   = "/etc/systemd/system/" + systemd.Guard + ".d/test.conf"
)

// unitHost is a booted host with hostagent's unit and a Consul, neither of which runs yet, and an application, web, that
// listens on the network with a sidecar on 21000 and something that only has a port of the range.
type unitHost struct{ *host }

func newUnitHost(t *testing.T, config string, options ...string) *unitHost {
	t.Helper()
	g := &unitHost{newHost(t, options...)}
	g.Copy(built("hostagent"), program, 0o755)
	for _, unit := range systemd.Units(program) {
		if unit.Name == systemd.Guard {
			g.Write(unitFile, unit.Text, 0o644)
		}
	}
	g.Write("/usr/lib/sysusers.d/hostagent.conf", systemd.Sysusers()+"u consul -\n", 0o644)
	g.Write("/etc/systemd/system/consul.service.d/user.conf", "[Service]\nUser=consul\n", 0o644)
	g.Write(settings, config, 0o644)
	g.Boot()
	g.Run("systemd-sysusers")
	for name, port := range map[string]int{"web": 8080, "sidecar": 21000, "squatter": 21001} {
		g.app(name, fmt.Sprintf("0.0.0.0:%d", port))
	}
	return g
}

// startConsul starts Consul and registers web.
func (g *unitHost) startConsul() {
	g.host.startConsul()
	g.register("web", 8080, 21000)
}

// waitFor waits until a property of the unit is as wanted.
func (g *unitHost) waitFor(property string, wanted func(string) bool) string {
	g.t.Helper()
	var got string
	g.until(property+" is as wanted", func() error {
		if got = g.show(property); !wanted(got) {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
	return got
}

func is(want string) func(string) bool { return func(got string) bool { return got == want } }

// status asks for the status until it is as wanted.
func (g *unitHost) status(what string, wanted func(*hostagent.Status) bool) *hostagent.Status {
	g.t.Helper()
	var st hostagent.Status
	g.until(what, func() error {
		out, err := g.Try("bash", "-c", program+" status --format json; [ $? -lt 2 ]")
		st = hostagent.Status{}
		if err == nil {
			err = json.Unmarshal([]byte(out), &st)
		}
		if err == nil && !wanted(&st) {
			err = fmt.Errorf("the status is\n%s", out)
		}
		return err
	})
	return &st
}

// guards tells whether the range is guarded with the sidecar's port open, and listeners have been looked at in peace.
func guards(st *hostagent.Status) bool {
	return strings.Contains(st.Firewall.Guarded, "21000-21255") && st.Firewall.Open == "21000" && st.Pass.Count > 3 && len(st.Findings) > 0
}

// TestUnitInItsSandbox: with the unit as it is, each backend guards the range, closes what is exposed, ends its connections,
// names owners, hears of listeners, reads what only root may read, and has nothing to say of what it could not do.
func TestUnitInItsSandbox(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ firewall, title, flush string }{
		"iptables-nft":    {`iptables_variant = "nft"`, "iptables-nft", "iptables-nft -t mangle -F PREROUTING"},
		"iptables-legacy": {`iptables_variant = "legacy"`, "iptables-legacy", "iptables-legacy -t mangle -F PREROUTING"},
		"nftables":        {`backend = "nftables"`, "nftables", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newUnitHost(t, `mode = "guard"
enforce = "quarantine"
quarantine_ports = ["8080"]
metrics {
  address = "127.0.0.1:9521"
}
consul {
  token_file = "/etc/hostagent.d/token"
}
firewall {
  `+c.firewall+`
}
`, machine.HostCgroups)
			g.Shell("umask 077; echo 11111111-2222-3333-4444-555555555555 >/etc/hostagent.d/token; mkdir -p /etc/iptables" +
				"; echo '-A INPUT -m set --match-set hostagent-open dst -j ACCEPT' >/etc/iptables/rules.v4")
			g.startConsul()
			running, err := net.Dial("tcp", net.JoinHostPort(g.Address.String(), "8080"))
			if err != nil {
				t.Fatal(err)
			}
			defer running.Close()
			g.Run("systemctl", "start", systemd.Guard)
			st := g.status("the range", func(st *hostagent.Status) bool {
				mitigated := 0
				for _, f := range st.Findings {
					if f.State == hostagent.Mitigated {
						mitigated++
					}
				}
				return guards(st) && st.Listeners.Events && mitigated == 2
			})
			if diff := cmp.Diff([]string{}, st.Degradations); diff != "" {
				t.Errorf("degradations (-want +got)\n%s", diff)
			}
			if !strings.HasPrefix(st.Firewall.Backend, c.title) || st.Firewall.Error+st.Consul.Error+st.Listeners.Error+st.Report.Error != "" {
				t.Errorf("backend %q; steps fail: firewall %q, Consul %q, listeners %q, report %q", st.Firewall.Backend,
					st.Firewall.Error, st.Consul.Error, st.Listeners.Error, st.Report.Error)
			}
			g.checkFindings(st)
			g.checkTraffic(running)
			g.checkReaders()
			if c.flush != "" {
				g.Shell(c.flush)
				g.status("a repair", func(st *hostagent.Status) bool { return st.Firewall.Repairs > 0 && st.Firewall.Error == "" })
			}
			if journal := g.Journal(systemd.Guard); strings.Contains(journal, "step failed") {
				t.Errorf("the journal tells of failures:\n%s", journal)
			}
			g.checkExposure()
		})
	}
}

// checkFindings looks whether owners and files of others are seen.
func (g *unitHost) checkFindings(st *hostagent.Status) {
	g.t.Helper()
	var got []string
	for _, f := range st.Findings {
		name := ""
		if len(f.Processes) > 0 {
			name = f.Processes[0].Name + " " + f.Processes[0].Exe
		}
		got = append(got, fmt.Sprintf("%s %s %d %s %s", f.ID, f.State, f.Port, f.Unit, name))
	}
	slices.Sort(got)
	want := []string{
		"exposed-listener mitigated 8080 web.service app /usr/local/bin/app",
		"saved-rules open 0  ",
		"squatted-port mitigated 21001 squatter.service app /usr/local/bin/app",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Errorf("findings (-want +got)\n%s", diff)
	}
}

// checkTraffic looks what the network reaches, and that a connection to a port in quarantine has ended.
func (g *unitHost) checkTraffic(running net.Conn) {
	g.t.Helper()
	got := fmt.Sprintf("%q %q %q", g.greeting(21000), g.greeting(21001), g.greeting(8080))
	if want := `"hello from sidecar" "" ""`; got != want {
		g.t.Errorf("ports 21000, 21001 and 8080 say %s, want %s", got, want)
	}
	_ = running.SetDeadline(time.Now().Add(10 * time.Second))
	var err error
	for err == nil {
		_, err = running.Read(make([]byte, 100))
	}
	if failed, ok := errors.AsType[net.Error](err); ok && failed.Timeout() {
		g.t.Error("a connection to a port in quarantine lives on")
	}
}

// checkReaders asks for status and metrics as those who may.
func (g *unitHost) checkReaders() {
	g.t.Helper()
	as := []string{"setpriv", "--reuid=nobody", "--clear-groups", "--regid"}
	g.Run(append(as, systemd.User, program, "status")...)
	if out, err := g.Try(append(as, "nogroup", program, "status")...); err == nil {
		g.t.Errorf("everybody may ask for the status: %s", out)
	}
	g.Shell("curl -sf http://127.0.0.1:9521/metrics | grep -c ^hostagent_ >/dev/null")
	if owner := g.Run("stat", "-c", "%U %a", "/var/lib/hostagent/state.json", "/run/xtables.lock"); owner != "hostagent 600\nroot 600\n" {
		g.t.Errorf("saved state and lock belong to %s", owner)
	}
}

// checkExposure holds the unit to the figure that it is promised to have.
func (g *unitHost) checkExposure() {
	g.t.Helper()
	if out, err := g.Try("systemd-analyze", "security", "--no-pager", "--threshold=25", systemd.Guard); err != nil {
		g.t.Errorf("more exposed than 2.5: %v\n%s", err, out)
	}
}

// TestUnitWithSystemd: what systemd is told, and what it does when hostagent dies, hangs, or is configured wrongly.
func TestUnitWithSystemd(t *testing.T) {
	t.Parallel()
	const config = "mode = \"guard\"\n"
	g := newUnitHost(t, config)
	g.Write("/etc/systemd/system/act.socket", "[Socket]\nListenStream=0.0.0.0:8082\n", 0o644)
	g.Write("/etc/systemd/system/act.service", "[Service]\nExecStart=/bin/true\n", 0o644)
	g.Run("systemctl", "daemon-reload")
	g.Run("systemctl", "start", "act.socket")

	g.soon(5*time.Second, "a start without Consul", func() time.Duration {
		begun := time.Now()
		g.Run("systemctl", "start", systemd.Guard)
		return time.Since(begun)
	}, func() { g.Run("systemctl", "stop", systemd.Guard) })
	g.waitFor("StatusText", is("waiting for the Consul agent at http://127.0.0.1:8500: connection refused"))
	g.startConsul()
	const guarding = "guarding 21000-21255: 1 sidecar port open, 1 warning"
	g.waitFor("StatusText", is(guarding))
	g.register("act", 8082, 21000) // D-Bus tells a user without any right which socket unit it is
	g.status("the socket unit", func(st *hostagent.Status) bool {
		return slices.ContainsFunc(st.Findings, func(f hostagent.DocumentFinding) bool { return f.Port == 8082 && f.Unit == "act.socket" })
	})
	g.Run("curl", "-sf", "-X", "PUT", "http://127.0.0.1:8500/v1/agent/service/deregister/act")
	g.waitFor("StatusText", is(guarding))

	g.Run("systemctl", "reload", systemd.Guard)
	if journal := g.Journal(systemd.Guard); strings.Contains(journal, "is valid") || !strings.Contains(journal, "configuration reloaded") {
		t.Errorf("of a reload the journal says\n%s", journal)
	}
	for wrong, says := range map[string]string{"": "choose a mode", config + "nonsense = 1\n": settings + ":2"} {
		g.Write(settings, wrong, 0o644)
		if _, err := g.Try("systemctl", "reload", systemd.Guard); err == nil {
			t.Errorf("a reload of the wrong configuration %q succeeds", wrong)
		}
		text := g.waitFor("StatusText", func(text string) bool { return strings.HasPrefix(text, "configuration not reloaded: "+says) })
		if !strings.HasSuffix(text, "; "+guarding) || g.show("ActiveState") != "active" {
			t.Errorf("after it: %s, %s", text, g.show("ActiveState"))
		}
		g.status("why it was not reloaded", func(st *hostagent.Status) bool { return strings.Contains(st.Configuration.Error, says) })
	}
	g.Write(settings, config, 0o644)
	g.Run("systemctl", "reload", systemd.Guard)
	g.waitFor("StatusText", is(guarding))
	g.status("a reload that mends it", func(st *hostagent.Status) bool { return st.Configuration.Error == "" })

	g.Run("systemctl", "kill", "-s", "KILL", systemd.Guard)
	if g.greeting(21000) == "" || g.greeting(21001) != "" {
		t.Error("without hostagent its rules do not stand")
	}
	g.waitFor("NRestarts", is("1"))
	g.waitFor("StatusText", is(guarding))
	g.checkWatchdog(guarding)

	g.Run("systemctl", "stop", systemd.Guard)
	if g.show("Result") != "success" || g.greeting(21000) == "" || g.greeting(21001) != "" {
		t.Errorf("after a stop, which ended with %s, the rules do not stand", g.show("Result"))
	}
	g.Write(settings, config+"nonsense = 1\n", 0o644)
	if _, err := g.Try("systemctl", "start", systemd.Guard); err == nil {
		t.Error("it starts with a wrong configuration")
	}
	// One that is to be restarted is "activating".
	if got := g.show("ActiveState") + " " + g.show("ExecMainStatus"); got != "failed 78" {
		t.Errorf("with a wrong configuration it is %s, want failed 78", got)
	}
}

// TestUnitAfterRoot: what root ran by hand, and how it ended, keeps the service from nothing.
func TestUnitAfterRoot(t *testing.T) {
	t.Parallel()
	g := newUnitHost(t, "mode = \"guard\"\n")
	g.startConsul()
	byRoot := func() { // until it has saved its state, or could not
		_, _ = g.Try("timeout", "--signal=KILL", "5", program, "run")
		g.Run("test", "-S", hostagent.StatusSocket)
	}
	serves := func(when string) {
		g.Run("systemctl", "restart", systemd.Guard)
		pid := g.show("MainPID")
		st := g.status("an answer "+when, func(st *hostagent.Status) bool { return guards(st) && g.show("MainPID") == pid })
		if st.Firewall.Error+st.Report.Error != "" || strings.Contains(g.Journal(systemd.Guard), "step failed") {
			t.Errorf("%s: %q %q\n%s", when, st.Firewall.Error, st.Report.Error, g.Journal(systemd.Guard))
		}
		g.Wait(settleWithin, "test", "-e", stateFile)
		if owners := g.Shell("stat -c %U /run/hostagent/* " + stateFile + " | sort -u"); owners != "hostagent\n" {
			t.Errorf("%s: not all is the service's: %s", when, owners)
		}
		g.Run("systemctl", "stop", systemd.Guard)
	}
	byRoot()
	serves("after a first run of root's")
	byRoot()
	serves("after a run of root's in the folders of the service")
	byRoot()
	g.Run("chown", "root:", hostagent.StatusSocket)
	serves("beside a socket of root's")
	g.Shell("rm /run/hostagent/*")
	byRoot()
	serves("without what it had in /run")

	g.Shell("iptables -t mangle -F; ipset flush")
	out, err := g.Try(program, "firewall", "restore")
	if err == nil || !strings.Contains(err.Error()+out, "run it as that user, as hostagent's units do") {
		t.Errorf("root restores what the service saved: %v\n%s", err, out)
	}
}

// checkWatchdog has systemd watch hostagent closely: it stands that, and is started again when it hangs.
func (g *unitHost) checkWatchdog(guarding string) {
	g.t.Helper()
	g.Write(dropIn, "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\n", 0o644)
	g.Run("systemctl", "daemon-reload")
	g.Run("systemctl", "restart", systemd.Guard)
	before := g.show("MainPID")
	time.Sleep(9 * time.Second) // more than two intervals, in which it must not be killed
	if now := g.show("MainPID"); now != before {
		g.t.Fatalf("the watchdog ends a hostagent that does not hang:\n%s", g.Journal(systemd.Guard))
	}
	g.Run("kill", "-STOP", before)
	g.waitFor("MainPID", func(pid string) bool { return pid != before && pid != "0" })
	if journal := g.Journal(systemd.Guard); !strings.Contains(journal, "Watchdog timeout") {
		g.t.Errorf("it was started again, but not for its watchdog:\n%s", journal)
	}
	g.waitFor("StatusText", is(guarding))
}
