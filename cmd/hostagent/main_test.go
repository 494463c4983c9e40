// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// TestMain runs the tests in namespaces of their own. The binary is also the programs that tests start, each under a link
// of its name: hostagent itself, and any other name for an application that holds the sockets it was given until its
// stdin ends. They run in the namespaces of who started them, so they come before netns.Main.
func TestMain(m *testing.M) {
	switch name := filepath.Base(os.Args[0]); {
	case name == "hostagent":
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	case os.Getenv("HOSTAGENT_TEST_APP") == name:
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	netns.Main(m)
}

// secret stands for every token in the scripts. It must never be shown, so each run of hostagent is searched for it.
const secret = "5ec4e701-hush"

// addNetwork gives the host of the scripts an address that a network reaches.
func addNetwork(t *testing.T) {
	t.Helper()
	const script = "ip link add eth0 type veth peer name peer0; ip link set eth0 addrgenmode none; ip link set eth0 up; ip addr add 10.0.0.5/24 dev eth0"
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestScripts(t *testing.T) {
	bin := programs(t)
	addNetwork(t)
	deadline, _ := t.Deadline()
	testscript.RunT(serial{t}, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Deadline:           deadline,
		UpdateScripts:      *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			env.Setenv("SECRET", secret)
			env.Values["status"], env.Values["started"], env.Values["quit"] = new(int), new(exec.Cmd), new(func())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"hostagent": hostagentCommand,
			"status":    exitStatusCommand,
			"agent":     agentCommand,
			"rude":      rudeCommand,
			"listen":    listenCommand,
			"until":     untilCommand,
			"shown":     shownCommand,
			"start":     startCommand,
			"signal":    signalCommand,
			"ended":     endedCommand,
			"plain":     plainCommand,
			"fits":      fitsCommand,
			"fetch":     fetchCommand,
			"reported":  reportedCommand,
			"quit":      quitCommand,
		},
	})
}

// serial is a testing.T for scripts that share one network namespace: they run one after the other.
type serial struct{ *testing.T }

func (serial) Parallel() {}

func (serial) Verbose() bool { return testing.Verbose() }

func (s serial) Run(name string, f func(testscript.T)) {
	s.T.Run(name, func(t *testing.T) {
		if reason, ok := rootOnly()[name]; ok {
			netns.RequireRoot(t, reason)
		}
		f(serial{t})
	})
}

// rootOnly tells why some scripts do not run as an ordinary user.
func rootOnly() map[string]string {
	return map[string]string{
		"firewall":      "an ordinary user's output has a note about iptables-legacy",
		"status_denied": "a user namespace of an ordinary user has no second user",
	}
}

// programs makes a folder in which this binary stands under the names of the programs that tests start.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"hostagent", "web", "api", "envoy"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func programsOf(ts *testscript.TestScript) string {
	dir, _, _ := strings.Cut(ts.Getenv("PATH"), ":")
	return dir
}

// hostagentCommand is "hostagent ARG...", for a run that must succeed, or "! hostagent ARG...", for one that must not.
func hostagentCommand(ts *testscript.TestScript, neg bool, args []string) {
	err := ts.Exec("hostagent", args...)
	status := ts.Value("status").(*int)
	*status = 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		*status = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		text := ts.ReadFile(stream)
		if strings.Contains(text, secret) {
			ts.Fatalf("the token is shown on %s:\n%s", stream, text)
		}
		if i := strings.IndexFunc(text, unshown); i >= 0 {
			ts.Fatalf("%s holds a character that could drive a terminal: %q", stream, text[i:])
		}
	}
	if neg == (*status == 0) {
		ts.Fatalf("hostagent ended with status %d", *status)
	}
}

func unshown(r rune) bool { return r != '\n' && r != '\t' && !unicode.IsPrint(r) }

// startCommand is "start LOG ARG...": a hostagent in the background, with its stderr in the file LOG.
func startCommand(ts *testscript.TestScript, _ bool, args []string) {
	log, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer log.Close()
	started := ts.Value("started").(*exec.Cmd)
	*started = exec.Cmd{
		Path: filepath.Join(programsOf(ts), "hostagent"), Args: append([]string{"hostagent"}, args[1:]...),
		Dir: ts.MkAbs("."), Stderr: log,
	}
	for _, name := range []string{"PATH", "CONSUL_HTTP_TOKEN"} {
		started.Env = append(started.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(started.Start())
	ts.Defer(func() {
		if started.ProcessState == nil {
			ts.Check(started.Process.Kill())
			_ = started.Wait() // it was killed
		}
	})
}

// signalCommand is "signal NAME", to the hostagent that was started.
func signalCommand(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(ts.Value("started").(*exec.Cmd).Process.Signal(unix.SignalNum(args[0])))
}

// endedCommand is "ended N": it waits for the hostagent that was started to end with that status.
func endedCommand(ts *testscript.TestScript, _ bool, args []string) {
	started := ts.Value("started").(*exec.Cmd)
	timeout := time.AfterFunc(15*time.Second, func() { _ = started.Process.Kill() })
	defer timeout.Stop()
	_ = started.Wait()
	if got := strconv.Itoa(started.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("hostagent: %s, want status %s", started.ProcessState, args[0])
	}
}

// exitStatusCommand is "status N": the status with which the last hostagent ended.
func exitStatusCommand(ts *testscript.TestScript, _ bool, args []string) {
	if got := strconv.Itoa(*ts.Value("status").(*int)); got != args[0] {
		ts.Fatalf("hostagent ended with status %s, want %s", got, args[0])
	}
}

// agentCommand is "agent ADDRESS [FOLDER]": a Consul agent that says what self.json, services.json and the like of the folder
// say, takes every registration and forgets it.
func agentCommand(ts *testscript.TestScript, _ bool, args []string) {
	folder := "testdata/agent"
	if len(args) > 1 {
		if folder = args[1]; !strings.HasPrefix(folder, "testdata/") { // those are not of the script
			folder = ts.MkAbs(folder)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(cancel)
	stopped := new(sync.WaitGroup)
	stop := func(close func()) {
		stopped.Go(func() {
			<-ctx.Done()
			close()
		})
	}
	ts.Check(serve(stop, args[0], consulAgent(folder)))
	*ts.Value("quit").(*func()) = func() {
		cancel()
		stopped.Wait()
	}
}

// quitCommand is "quit": the Consul agent ends.
func quitCommand(ts *testscript.TestScript, _ bool, _ []string) { (*ts.Value("quit").(*func()))() }

// fetchCommand is "fetch URL FILE": what is served there goes into the file.
func fetchCommand(ts *testscript.TestScript, neg bool, args []string) {
	client := &http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(args[0])
	if neg {
		if err == nil {
			response.Body.Close()
			ts.Fatalf("%s answers with status %d", args[0], response.StatusCode)
		}
		return
	}
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

// consulAgent answers as an agent does that allows by default.
func consulAgent(folder string) http.Handler {
	file := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, filepath.Join(folder, name)) }
	}
	mux := http.NewServeMux()
	mux.Handle("GET /v1/agent/self", file("self.json"))
	mux.Handle("GET /v1/agent/members", file("members.json"))
	mux.Handle("GET /v1/agent/services", file("services.json"))
	mux.Handle("GET /v1/agent/service/", http.NotFoundHandler())
	for path, name := range map[string]string{
		"/v1/catalog/nodes": "nodes.json", "/v1/health/state/any": "checks.json",
		"/v1/health/service/hostagent": "agents.json", "/v1/catalog/service/web": "instances.json",
	} {
		mux.Handle("GET "+path, file(name))
	}
	for _, path := range []string{"/v1/health/service/", "/v1/catalog/service/"} { // of what nobody has
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") })
	}
	mux.Handle("GET /v1/kv/hostagent/", &folderKV{folder: filepath.Join(folder, "kv")})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
	mux.HandleFunc("PUT /", func(http.ResponseWriter, *http.Request) {})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
		mux.ServeHTTP(w, r)
	})
}

// rudeCommand is "rude ADDRESS STATUS": something that answers every request with a status and with the request itself,
// headers included, coloured.
func rudeCommand(ts *testscript.TestScript, _ bool, args []string) {
	status, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(serve(ts.Defer, args[0], http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, "\x1b[31m")
		_ = r.Write(w)
	})))
}

func serve(atEnd func(func()), address string, handler http.Handler) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	atEnd(func() { server.Close() })
	return nil
}

// listenCommand is "listen NAME ADDRESS...": a process of that name listens there until the script ends.
func listenCommand(ts *testscript.TestScript, _ bool, args []string) {
	app := exec.Command(filepath.Join(programsOf(ts), args[0]))
	app.Env = append(os.Environ(), "HOSTAGENT_TEST_APP="+args[0])
	for _, address := range args[1:] {
		at, err := netip.ParseAddrPort(address)
		ts.Check(err)
		listener, err := net.ListenTCP(map[bool]string{true: "tcp4", false: "tcp6"}[at.Addr().Is4()], net.TCPAddrFromAddrPort(at))
		ts.Check(err)
		file, err := listener.File()
		ts.Check(errors.Join(err, listener.Close()))
		defer file.Close()
		app.ExtraFiles = append(app.ExtraFiles, file)
	}
	stdin, err := app.StdinPipe()
	ts.Check(err)
	ts.Check(app.Start())
	ts.Defer(func() { ts.Check(errors.Join(stdin.Close(), app.Wait())) })
}

// untilCommand is "until FILE TEXT": it waits for TEXT to stand in FILE.
func untilCommand(ts *testscript.TestScript, _ bool, args []string) {
	var content []byte
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		content, _ = os.ReadFile(ts.MkAbs(args[0]))
		if strings.Contains(string(content), args[1]) {
			return
		}
	}
	ts.Fatalf("waited in vain for %q in %s:\n%s", args[1], args[0], content)
}

// shownCommand is "shown TEXT": it waits for TEXT to stand in what hostagent status prints. What a pass logs, it logs before
// its outcome can be asked for.
func shownCommand(ts *testscript.TestScript, _ bool, args []string) {
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		_ = ts.Exec("hostagent", "status") // its exit status may say that something is wrong
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
	}
	ts.Fatalf("waited in vain for status to show %q:\n%s", args[0], ts.ReadFile("stdout"))
}

// plainCommand writes the last stdout to the file "plain", without what differs between runs and machines: pids, paths of
// programs, since when they run, what else the machine's cgroups and users say of them, and the width of columns, which pids
// change too.
func plainCommand(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stdout")
	text = regexp.MustCompile(`(\(pid |"pid": )\d+`).ReplaceAllString(text, "${1}1")
	text = regexp.MustCompile(`( who: .*\(pid 1\)).*`).ReplaceAllString(text, "$1")
	text = regexp.MustCompile(`(\(pid 1\)  +)(user \S+|container \S+( \(\w+\))?|\S+)`).ReplaceAllString(text, "${1}somewhere")
	text = regexp.MustCompile(`\S+\.test \(pid 1\)`).ReplaceAllString(text, "test (pid 1)") // of the fake agent
	text = regexp.MustCompile(`"(exe|user|unit|container|started)": "[^"]*"`).ReplaceAllString(text, `"$1": "…"`)
	// What listens beside the test is the machine's own affair, in its own namespaces.
	text = regexp.MustCompile(`"notes": \[\n *"(owners of some|the kernel refuses) [^\n]*\n *\]`).ReplaceAllString(text, `"notes": []`)
	text = regexp.MustCompile(`(?ms)^network namespace .*?\n\n|^note: (owners of some|the kernel refuses) .*\n`).ReplaceAllString(text, "")
	text = regexp.MustCompile(`(\S)   +`).ReplaceAllString(text, "$1  ")
	ts.Check(os.WriteFile(ts.MkAbs("plain"), []byte(text), 0o600))
}
