// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) {
	if err := Prepare(context.Background(), os.Stderr, AppProgram); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	netns.Main(m)
}

// newHost makes a host that ends with the test; a process that had to be killed fails it.
func newHost(t *testing.T) *Host {
	t.Helper()
	start := time.Now()
	h, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("host made in %v", time.Since(start).Round(time.Millisecond))
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func startApp(t *testing.T, h *Host, name string, listen ...string) *RunningApp {
	t.Helper()
	app, err := h.StartApp(t.Context(), App{Name: name, Listen: listen})
	if err != nil {
		t.Fatal(err)
	}
	return app
}

// eventually polls until ok, for what the kernel does in its own time.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !ok(); time.Sleep(pollInterval) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// gone tells whether a process has ended, or has only its parent's wait before it.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// inode names the namespace that the calling thread is in.
func inode(t *testing.T, n *Namespace) string {
	t.Helper()
	var link string
	err := n.Do(func() (err error) {
		link, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// users returns the threads that are in a namespace: "PID/TID".
func users(t *testing.T, inode string) []string {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && target == inode {
			found = append(found, link)
		}
	}
	return found
}

func TestNetworkReachesHost(t *testing.T) {
	h := newHost(t)
	startApp(t, h, "everywhere", "[::]:8080", "udp:0.0.0.0:21007")
	startApp(t, h, "local", "127.0.0.1:8081", "[::1]:8081")
	for _, drop := range []struct {
		family Family
		chain  string
	}{{FamilyIPv4, "INPUT"}, {FamilyIPv6, "INPUT"}} {
		if _, err := h.Iptables(t.Context(), drop.family, "-A", drop.chain, "-p", "tcp", "--dport", "8082", "-j", "DROP"); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]Reach{}
	want := map[string]Reach{}
	for port, reach := range map[string]Reach{"8080": Open, "8081": Refused, "8082": Dropped} {
		for _, address := range []string{IPv4, IPv6} {
			address = net.JoinHostPort(address, port)
			want[address] = reach
			seen, err := h.Reachable(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			got[address] = seen
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the network sees (-want +got):\n%s", diff)
	}
}

func TestAppGreetsAndRebinds(t *testing.T) {
	h := newHost(t)
	app := startApp(t, h, "web", "127.0.0.1:8080")
	first := app.PID()
	if err := app.Rebind(t.Context(), "0.0.0.0:8080", "udp:0.0.0.0:21007"); err != nil {
		t.Fatal(err)
	}
	if !gone(first) {
		t.Errorf("process %d lives after Rebind", first)
	}
	for _, network := range []string{"tcp:" + IPv4 + ":8080", "udp:" + IPv4 + ":21007"} {
		network, address, _ := strings.Cut(network, ":")
		conn, err := h.Net.DialFrom(t.Context(), network, 21100, address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, port, _ := net.SplitHostPort(conn.LocalAddr().String()); port != "21100" {
			t.Errorf("%s came from port %s, want 21100", network, port)
		}
		if _, err := conn.Write([]byte("x")); err != nil { // a datagram must ask first
			t.Fatal(err)
		}
		got, err := Hello(t.Context(), conn)
		if err != nil || got != "hello from web" {
			t.Errorf("%s: greeting %q, %v", network, got, err)
		}
	}
}

func TestDialFromOnePortToSeveral(t *testing.T) {
	h := newHost(t)
	startApp(t, h, "web", "0.0.0.0:8080", "mptcp:0.0.0.0:8081")
	for _, port := range []string{"8080", "8081"} {
		conn, err := h.Net.DialFrom(t.Context(), "tcp", 21100, IPv4+":"+port)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Hello(t.Context(), conn); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil { // the side that closes first keeps the port in TIME_WAIT
			t.Error(err)
		}
	}
}

func TestAppRunsAsAnotherUser(t *testing.T) {
	netns.RequireRoot(t, "an ordinary user has one uid in its namespace")
	h := newHost(t)
	app, err := h.StartApp(t.Context(), App{Name: "web", Listen: []string{"127.0.0.1:8080"}, UID: 65534})
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d", app.PID()), &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Uid != 65534 {
		t.Errorf("the application runs as %d, want 65534", stat.Uid)
	}
}

func TestEventuallyReach(t *testing.T) {
	h := newHost(t)
	const address = IPv4 + ":8080"
	took, err := h.EventuallyReach(t.Context(), address, Open, 200*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), `last seen "refused"`) {
		t.Errorf("no listener: %v, want an error that tells what was seen", err)
	}
	if took < 200*time.Millisecond || took > 2*time.Second {
		t.Errorf("gave up after %v, want 200 ms", took)
	}
	started := make(chan error, 1)
	go func() {
		_, err := h.StartApp(context.Background(), App{Name: "late", Listen: []string{"0.0.0.0:8080"}})
		started <- err
	}()
	if _, err := h.EventuallyReach(t.Context(), address, Open, 5*time.Second); err != nil {
		t.Error(err)
	}
	if err := <-started; err != nil {
		t.Error(err)
	}
}

func TestReachableTellsTroubleFromDrops(t *testing.T) {
	h := newHost(t)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	for name, try := range map[string]func() (Reach, error){
		"no route":      func() (Reach, error) { return h.Reachable(t.Context(), "192.0.2.1:80") },
		"no address":    func() (Reach, error) { return h.Reachable(t.Context(), "localhost:80") },
		"canceled":      func() (Reach, error) { return h.Reachable(canceled, IPv4+":80") },
		"past deadline": func() (Reach, error) { return h.Reachable(late, IPv4+":80") },
		"short deadline": func() (Reach, error) {
			if _, err := h.Iptables(t.Context(), FamilyIPv4, "-A", "INPUT", "-p", "tcp", "--dport", "81", "-j", "DROP"); err != nil {
				return "", nil
			}
			short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			return h.Reachable(short, IPv4+":81")
		},
	} {
		if seen, err := try(); err == nil {
			t.Errorf("%s: %q without an error", name, seen)
		}
	}
}

func TestRun(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	type result struct {
		Output string
		Code   int
		Failed bool
	}
	for _, test := range []struct {
		ctx     context.Context
		command []string
		want    result
	}{
		{t.Context(), []string{"sh", "-c", "echo out; echo err >&2"}, result{Output: "out\nerr\n"}},
		{t.Context(), []string{"sh", "-c", "echo no; exit 3"}, result{Output: "no\n", Code: 3}},
		{t.Context(), []string{"/nonexistent"}, result{Code: -1, Failed: true}},
		{t.Context(), []string{"sh", "-c", "kill -9 $$"}, result{Code: -1, Failed: true}},
		{ctx, []string{"sleep", "60"}, result{Code: -1, Failed: true}},
		// The child holds the output open for longer than the test lasts.
		{t.Context(), []string{"sh", "-c", "echo out; sleep 20 &"}, result{Output: "out\n", Code: -1, Failed: true}},
	} {
		begin := time.Now()
		output, code, err := h.Run(test.ctx, test.command[0], test.command[1:]...)
		if diff := cmp.Diff(test.want, result{output, code, err != nil}); diff != "" {
			t.Errorf("%q, %v (-want +got):\n%s", test.command, err, diff)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%q took %v", test.command, took)
		}
	}
	if _, err := h.Iptables(t.Context(), FamilyIPv4, "-S", "NOSUCHCHAIN"); err == nil {
		t.Error("iptables -S NOSUCHCHAIN: no error")
	}
}

func TestHTTPClientIsInsideTheHost(t *testing.T) {
	h := newHost(t)
	var listener net.Listener
	err := h.InHost(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:8500")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.NotFoundHandler()}
	defer server.Close()
	go server.Serve(listener)
	response, err := h.HTTPClient().Get("http://127.0.0.1:8500/")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if conn, err := h.Net.Dial(t.Context(), "tcp", "127.0.0.1:8500"); err == nil {
		conn.Close()
		t.Error("the network's 127.0.0.1 is the host's")
	}
}

func TestHostsAreApart(t *testing.T) {
	a, b := newHost(t), newHost(t)
	startApp(t, a, "a", "0.0.0.0:8080")
	got := map[string]Reach{}
	for name, h := range map[string]*Host{"a": a, "b": b} {
		seen, err := h.Reachable(t.Context(), IPv4+":8080")
		if err != nil {
			t.Fatal(err)
		}
		got[name] = seen
	}
	if diff := cmp.Diff(map[string]Reach{"a": Open, "b": Refused}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if a.Local.Name == b.Local.Name || a.Net.Name == b.Net.Name {
		t.Errorf("two hosts share a name: %q %q", a.Local.Name, b.Local.Name)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	h := newHost(t)
	for _, n := range []*Namespace{h.Local, h.Net} { // as iproute2 finds them
		handle, err := vnetns.GetFromName(n.Name)
		if err != nil || !handle.Equal(n.handle) {
			t.Errorf("name %q: %v, %v; want %v", n.Name, handle, err, n.handle)
		}
		handle.Close()
	}
	names := []string{filepath.Join(namesDir, h.Local.Name), filepath.Join(namesDir, h.Net.Name)}
	inodes := []string{inode(t, h.Local), inode(t, h.Net)}
	app := startApp(t, h, "web", "0.0.0.0:8080")
	if group, err := unix.Getpgid(app.PID()); err != nil || group != app.PID() {
		t.Errorf("the application is in group %d, %v: Ctrl-C would reach it before Close", group, err)
	}
	// A program that nobody waits for, and that Start never saw, dies too.
	stray := h.Net.Command(context.Background(), "sleep", "600")
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if !gone(app.PID()) {
		t.Errorf("application %d lives", app.PID())
	}
	eventually(t, "the stray program dies", func() bool { return gone(stray.Process.Pid) })
	if err := stray.Wait(); err == nil {
		t.Error("the stray program ended by itself")
	}
	for _, name := range names {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, want it gone", name, err)
		}
	}
	for _, inode := range inodes {
		eventually(t, "nobody is in "+inode, func() bool { return len(users(t, inode)) == 0 })
	}
	if _, err := os.Stat(h.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", h.Dir, err)
	}
	if err := h.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := h.StartApp(t.Context(), App{Name: "late", Listen: []string{"127.0.0.1:1"}}); !errors.Is(err, errClosed) {
		t.Errorf("StartApp after Close: %v, want %v", err, errClosed)
	}
}

func TestCloseEndsInOrderTheYoungestFirst(t *testing.T) {
	h := newHost(t)
	ends := filepath.Join(t.TempDir(), "ends")
	for _, name := range []string{"first", "second", "third"} {
		p := start(t, h, fmt.Sprintf(`trap 'echo %s >> %s; exit' TERM; echo up; while :; do sleep 0.02; done`, name, ends))
		if err := p.WaitLog(t.Context(), "up"); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(ends)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("third\nsecond\nfirst\n", string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDirOfTheCallerStays(t *testing.T) {
	dir := t.TempDir()
	h, err := New(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// A program that was killed leaves names behind. The next host takes its number and its names over; one that lives
// keeps them.
func TestNamesOfTheDeadAreTakenOver(t *testing.T) {
	dead, err := New(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dead.Close() }) // complains of its lock, which is gone
	if err := dead.lock.Close(); err != nil {
		t.Fatal(err)
	}
	left := inode(t, dead.Local)
	heir := newHost(t)
	if heir.Local.Name != dead.Local.Name {
		t.Errorf("the heir is %q, want %q", heir.Local.Name, dead.Local.Name)
	}
	if got := inode(t, heir.Local); got == left {
		t.Errorf("the heir lives in the namespace of the dead: %s", got)
	}
}

const childEnv = "HOSTAGENT_TEST_CHILD"

// TestChild is the program that TestEverythingDiesWithTheParent kills.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		return
	}
	h := newHost(t)
	app := startApp(t, h, "web", "127.0.0.1:8080")
	fmt.Printf("\npid %d\n", app.PID())
	time.Sleep(time.Minute)
}

func TestEverythingDiesWithTheParent(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"=1", "TMPDIR="+t.TempDir()) // it cannot clean up after itself
	// Its Main furnishes its namespaces again, /run among them.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	logPath := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	eventually(t, "the child starts an application", func() bool {
		text, _ := os.ReadFile(logPath)
		lines := strings.Split(string(text), "\n")
		at := slices.IndexFunc(lines[:len(lines)-1], func(line string) bool { return strings.HasPrefix(line, "pid ") })
		if at < 0 {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimPrefix(lines[at], "pid "))
		return err == nil
	})
	if gone(pid) {
		t.Fatalf("the application %d is gone already", pid)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	eventually(t, "the application dies with the program that made the host", func() bool { return gone(pid) })
}

// TestNeighboursAndContainers: another host of the network and a container reach the host, and come from addresses of
// their own.
func TestNeighboursAndContainers(t *testing.T) {
	h := newHost(t)
	startApp(t, h, "app", "[::]:8080")
	neighbour, err := h.Neighbour()
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.Neighbour()
	if err != nil {
		t.Fatal(err)
	}
	container, err := h.Container()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []*Namespace{h.Net, neighbour.Namespace, other.Namespace, container.Namespace} {
		for _, address := range []string{IPv4, IPv6} {
			reach, err := n.Reachable(t.Context(), net.JoinHostPort(address, "8080"))
			if err != nil || reach != Open {
				t.Errorf("from %s %s is %s, %v", n.Name, address, reach, err)
			}
		}
	}
	conn, err := neighbour.Dial(t.Context(), "tcp", net.JoinHostPort(IPv4, "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if from, _, _ := net.SplitHostPort(conn.LocalAddr().String()); from != neighbour.IPv4 || neighbour.IPv4 == other.IPv4 || neighbour.IPv4 == NetIPv4 {
		t.Errorf("a neighbour with address %s comes from %s", neighbour.IPv4, from)
	}
}
