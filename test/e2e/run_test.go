// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

func TestExposedApplicationTurnsItsCheck(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	app, _ := w.service("web", 8080, "0.0.0.0:8080")
	w.start(quick, "--mode", "observe")
	w.checkTurns("service:web", "warning", "web listens on tcp 0.0.0.0:8080")
	w.checkTurns("service:web", "warning", "remedy: bind app to 127.0.0.1, port 8080")
	w.checkTurns("alive", "passing", "observe mode")
	w.checkTurns("firewall", "passing", "Observe mode: nothing is enforced.")
	w.must(app.Rebind(w.ctx, "127.0.0.1:8080"))
	w.checkTurns("service:web", "passing", "web listens on loopback only: tcp 127.0.0.1:8080.")
	// What the UI shows comes from the catalog; the output gets there with the status.
	w.until("the catalog has the output", func() error {
		checks, _, err := w.consul.API().Health().Checks("hostagent", nil)
		w.must(err)
		for _, c := range checks {
			if c.CheckID == "hostagent:service:web" && c.Status == "passing" && strings.Contains(c.Output, "on loopback only") {
				return nil
			}
		}
		return fmt.Errorf("it has %v", checks)
	})
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("observe mode owns rules:\n%s", show)
	}
}

// TestReloadOfTheAgentClosesNothing reloads an agent with 50 services in files while the network connects without pause.
// A reload forgets every service for a moment and hands out the sidecar ports anew.
func TestReloadOfTheAgentClosesNothing(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		definition := fmt.Sprintf("service {\n  name = \"s%d\"\n  port = %d\n  connect { sidecar_service {} }\n}\n", i, 9000+i)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("s%d.hcl", i)), []byte(definition), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, host.ConsulOptions{ConfigDir: dir})
	services, err := w.consul.API().Agent().Services()
	w.must(err)
	var listen []string
	for _, s := range services {
		if s.Kind == api.ServiceKindConnectProxy {
			listen = append(listen, fmt.Sprintf("[::]:%d", s.Port))
		}
	}
	if len(listen) != 50 {
		t.Fatalf("the agent has %d sidecars, want 50", len(listen))
	}
	// One program stands for all 50 sidecars: what counts here is which ports are open.
	_, err = w.StartApp(w.ctx, host.App{Name: "sidecars", Listen: listen})
	w.must(err)
	w.guard("")

	var tries, failures atomic.Int64
	var first atomic.Pointer[string]
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			address := at(host.IPv4, uint16(21000+i%50))
			seen, err := w.Reachable(w.ctx, address)
			tries.Add(1)
			if err != nil || seen != host.Open {
				failures.Add(1)
				text := fmt.Sprintf("%s is %s, %v", address, seen, err)
				first.CompareAndSwap(nil, &text)
			}
		}
	}()
	for range 3 {
		w.must(w.consul.Reload(w.ctx))
		time.Sleep(time.Second)
	}
	time.Sleep(2 * time.Second)
	close(stop)
	<-done
	if failures.Load() > 0 {
		t.Errorf("%d of %d connections failed; first: %s", failures.Load(), tries.Load(), *first.Load())
	}
	if tries.Load() < 500 {
		t.Errorf("only %d connections were tried", tries.Load())
	}
	t.Logf("%d connections during 3 reloads, none failed", tries.Load())
}

func TestStopAndRemove(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			save := func() string {
				var b strings.Builder
				for _, program := range []string{"iptables-" + variant, "ip6tables-" + variant} {
					for line := range strings.Lines(w.run(program + "-save")) {
						// iptables-legacy-restore sets the counters of policies, and of nothing else, to zero.
						if line, _, _ = strings.Cut(line, " ["); !strings.HasPrefix(line, "#") {
							b.WriteString(line + "\n")
						}
					}
				}
				return b.String() + w.run("ipset", "save")
			}
			w.run("ipset", "create", "theirs", "hash:ip")
			for _, program := range []string{"iptables-" + variant, "ip6tables-" + variant} {
				w.run(program, "-w", "5", "-N", "THEIRS")
				w.run(program, "-w", "5", "-A", "INPUT", "-p", "tcp", "--dport", "21001", "-j", "THEIRS")
				w.run(program, "-w", "5", "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "--dport", "21001", "-j", "MARK", "--set-mark", "7")
			}
			before := save()
			_, port := w.service("web", 8080, "127.0.0.1:8080")
			agent := w.guard(usingVariant(variant))

			if out := w.hostagent(2, "run", "--mode", "guard"); !strings.Contains(out, fmt.Sprintf("running on this host already (pid %d)", agent.PID())) {
				t.Errorf("a second hostagent says %q", out)
			}
			if out := w.hostagent(2, "firewall", "remove"); !strings.Contains(out, "--stop") {
				t.Errorf("remove beside a running hostagent says %q", out)
			}
			w.must(agent.Stop())
			w.checkTurns("alive", "critical", "hostagent was stopped")
			w.reaches(port, host.Open)
			w.reaches(21200, host.Dropped)

			again := w.guard(usingVariant(variant))
			w.hostagent(0, "firewall", "remove", "--stop")
			if code, err := again.Wait(w.ctx); err != nil || code != 0 {
				t.Errorf("the stopped hostagent ended with %d, %v", code, err)
			}
			if after := save(); after != before {
				t.Errorf("remove left or took something.\nbefore:\n%s\nafter:\n%s", before, after)
			}
			if out := w.hostagent(0, "firewall", "remove"); out != "nothing to remove\n" {
				t.Errorf("a second remove says %q", out)
			}
			w.reaches(21200, host.Refused)
		})
	}
}

func TestCrashKeepsTheRules(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("squatter", 21200)
	agent := w.guard("")
	for range 3 {
		w.must(agent.Kill())
		w.reaches(21200, host.Dropped)
		w.reaches(port, host.Open)
		agent = w.start(quick, "--mode", "guard")
		w.must(agent.WaitLog(w.ctx, "adopted the rules of an earlier run"))
		w.reaches(21200, host.Dropped)
		w.reaches(port, host.Open)
	}
}

// TestObserveRemovesAnEarlierGuard: observe mode owns nothing, also nothing that guard mode left.
func TestObserveRemovesAnEarlierGuard(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	agent := w.guard("")
	w.must(agent.Stop())
	agent = w.start(quick, "--mode", "observe")
	w.must(agent.WaitLog(w.ctx, "observe mode owns nothing"))
	if show := w.hostagent(0, "firewall", "show"); !strings.Contains(show, "no rules and no sets") {
		t.Errorf("observe mode owns rules:\n%s", show)
	}
}

func TestReloadOfTheConfiguration(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.listenOn("other", 7777)
	dir := t.TempDir()
	file := filepath.Join(dir, "h.hcl")
	write := func(config string) {
		t.Helper()
		w.must(os.WriteFile(file, []byte(quick+config), 0o600))
	}
	write(`mode = "guard"` + "\n")
	agent := w.start("", "--config", dir)
	w.guarded()
	w.reaches(7777, host.Open)

	write(`mode = "guard"` + "\n" + `guard_prots = [7777]` + "\n")
	w.must(agent.Signal(syscall.SIGHUP))
	w.must(agent.WaitLog(w.ctx, `did you mean \"guard_ports\"`))
	w.reaches(7777, host.Open)
	w.reaches(21200, host.Dropped)

	write(`mode = "guard"` + "\n" + `guard_ports = [7777]` + "\n")
	w.must(agent.Signal(syscall.SIGHUP))
	w.eventually(7777, host.Dropped, 5*time.Second)

	write(`mode = "observe"` + "\n")
	w.must(agent.Signal(syscall.SIGHUP))
	w.eventually(7777, host.Open, 5*time.Second)
}

func TestScan(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("clean", 8080, "127.0.0.1:8080")
	if out := w.hostagent(0, "scan"); !strings.Contains(out, "no findings; 1 mesh service, 1 sidecar port for the network: 21000") {
		t.Errorf("a clean host:\n%s", out)
	}
	exposed, _ := w.service("loud", 8081, "0.0.0.0:8081")
	_, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{"0.0.0.0:21050", "udp:0.0.0.0:21051"}})
	w.must(err)
	out := w.hostagent(1, "scan")
	for _, want := range []string{
		"loud: 1 warning\n  warning exposed-listener  tcp 0.0.0.0:8081\n",
		fmt.Sprintf("    who:    app (pid %d)", exposed.PID()),
		"    reach:  " + host.IPv4,
		"    remedy: bind app to 127.0.0.1, port 8081",
		"in order: 1 service\n  clean  tcp 127.0.0.1:8080\n",
		"  # 2 with a sidecar, ! 2 squatted, . 252 free\n  21000-21001  clean, loud\n  21050-21051  squatted by app\n",
		"  warning squatted-port  tcp 0.0.0.0:21050\n",
		"  warning squatted-port  udp 0.0.0.0:21051\n",
		"sidecars do not speak UDP",
		"3 warnings; 2 mesh services, 2 sidecar ports for the network: 21000-21001",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("scan lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Errorf("scan colours what is no terminal:\n%s", out)
	}
	w.hostagent(0, "scan", "--fail-on", "critical")
	w.hostagent(0, "scan", "--fail-on", "never")
	if json := w.hostagent(1, "scan", "--format", "json"); !strings.Contains(json, `"schema_version": 1`) || !strings.Contains(json, `"id": "squatted-port"`) {
		t.Errorf("JSON:\n%s", json)
	}
	for _, want := range []string{"\ntcp 127.0.0.1:8500 ", "\ntcp 127.0.0.1:8080 ", "\nudp 0.0.0.0:21051 ", "network, sidecar range\n"} {
		if all := w.hostagent(1, "scan", "--all"); !strings.Contains(all, want) {
			t.Errorf("scan --all lacks %q:\n%s", want, all)
		}
	}
	w.must(w.consul.Stop())
	if out := w.hostagent(2, "scan"); !strings.Contains(out, "is the agent running") {
		t.Errorf("without Consul scan says %q", out)
	}
}

// forEverybody copies a program to where another user may run it.
func (w *world) forEverybody(program host.Program) string {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, program)
	w.must(err)
	dir, err := os.MkdirTemp("", "hostagent-program-")
	w.must(err)
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	w.must(os.Chmod(dir, 0o755))
	content, err := os.ReadFile(binary)
	w.must(err)
	path := filepath.Join(dir, string(program))
	w.must(os.WriteFile(path, content, 0o755))
	return path
}

func TestScanAsAnotherUser(t *testing.T) {
	netns.RequireRoot(t, "becomes another user, and looks at root's process")
	w := newWorld(t, host.ConsulOptions{})
	w.service("loud", 8081, "0.0.0.0:8081")
	cmd := w.Command(w.ctx, w.forEverybody(host.HostagentProgram), "scan")
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("scan ended with %v", err)
	}
	for _, want := range []string{"exposed-listener", "user root, process out of sight", "note: ", "root"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("scan lacks %q:\n%s", want, out)
		}
	}
}

func TestRunRefusesWithoutMode(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	agent := w.start(quick)
	code, err := agent.Wait(w.ctx)
	w.must(err)
	if log := agent.Log(); code != 78 || !strings.Contains(log, `mode = "observe"`) || !strings.Contains(log, `mode = "guard"`) {
		t.Errorf("run without a mode ended with %d:\n%s", code, log)
	}
}

// TestFlushIsPutBack: whoever flushes the host's rules or our sets opens the range for check_interval at most.
func TestFlushIsPutBack(t *testing.T) {
	t.Parallel()
	for _, variant := range variants() {
		t.Run(variant, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			_, port := w.service("web", 8080, "127.0.0.1:8080")
			w.listenOn("squatter", 21200)
			agent := w.start(usingVariant(variant), "--mode", "guard")
			w.guarded()
			for _, flush := range [][]string{
				{"iptables-" + variant, "-w", "5", "-t", "mangle", "-F"},
				{"ip6tables-" + variant, "-w", "5", "-t", "mangle", "-F"},
				{"ipset", "flush", "hostagent-guard"},
			} {
				before := len(agent.Log())
				w.run(flush[0], flush[1:]...)
				w.eventually(21200, host.Dropped, 8*time.Second) // the shipped check_interval is 5 s
				w.until("the repair is logged", func() error {
					if said := agent.Log()[before:]; !strings.Contains(said, "firewall repaired") {
						return fmt.Errorf("after %v it says %q", flush, said)
					}
					return nil
				})
				w.reaches(21200, host.Dropped)
				w.reaches(port, host.Open)
			}
		})
	}
}

// TestScanWatch follows a host with a program: a line comes when a listener does, and when it goes.
func TestScanWatch(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("clean", 8080, "127.0.0.1:8080")
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	cmd := w.Command(w.ctx, binary, "scan", "--watch", "--format", "json")
	out, err := cmd.StdoutPipe()
	w.must(err)
	w.must(cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	next := func(what string, want string) {
		t.Helper()
		for lines.Scan() {
			var scan struct{ Findings []struct{ ID string } }
			w.must(json.Unmarshal(lines.Bytes(), &scan))
			ids := ""
			for _, f := range scan.Findings {
				ids += f.ID + " "
			}
			if ids == want {
				return
			}
		}
		t.Fatalf("%s: it ended without findings %q: %v", what, want, lines.Err())
	}
	next("at first", "")
	squatter, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{"0.0.0.0:21050"}})
	w.must(err)
	next("a squatter comes", "squatted-port ")
	w.must(squatter.Stop())
	next("it goes", "")
	w.must(cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("without findings it ended with %v", err)
	}
}
