// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// ears is a Watch under test.
type ears struct {
	t     *testing.T
	heard chan Heard
}

// watchAll runs a Watch until the test ends and returns when it hears. Each told takes at least pause.
func watchAll(t *testing.T, pause time.Duration) *ears {
	t.Helper()
	netns.RequireRoot(t, "needs CAP_BPF of the host")
	ctx, cancel := context.WithCancel(t.Context())
	e := &ears{t, make(chan Heard, 100_000)}
	done := make(chan error)
	go func() {
		done <- Watch(ctx, func(h Heard) {
			e.heard <- h
			time.Sleep(pause)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch ended with %v", err)
		}
	})
	select {
	case first := <-e.heard:
		if first != (Heard{}) {
			t.Errorf("first it told %+v, want nothing", first)
		}
	case err := <-done:
		close(done)
		t.Fatal(err)
	}
	return e
}

// hear waits until as much was heard in all as enough asks for, and returns that and the number of calls.
func (e *ears) hear(what string, enough func(Heard) bool) (all Heard, calls int) {
	e.t.Helper()
	timeout := time.After(10 * time.Second)
	for !enough(all) {
		select {
		case h := <-e.heard:
			all.Here, all.Elsewhere, calls = all.Here+h.Here, all.Elsewhere+h.Elsewhere, calls+1
		case <-timeout:
			e.t.Fatalf("%s: heard %+v", what, all)
		}
	}
	return all, calls
}

// here waits for n listens in this namespace.
func (e *ears) here(what string, n uint64) (calls int) {
	e.t.Helper()
	all, calls := e.hear(what, func(h Heard) bool { return h.Here >= n })
	if all.Here != n {
		e.t.Errorf("%s: heard %d here, want %d", what, all.Here, n)
	}
	return calls
}

func TestWatchHears(t *testing.T) {
	e := watchAll(t, 0)
	for _, test := range []struct {
		name, addr string
		protocol   int
		options    []option
	}{
		{"IPv4", "0.0.0.0:0", 0, nil},
		{"loopback", "127.0.0.1:0", 0, nil},
		{"IPv6", "[::1]:0", 0, nil},
		{"dual stack", "[::]:0", 0, []option{dual}},
		{"MPTCP", "0.0.0.0:0", unix.IPPROTO_MPTCP, nil},
		{"MPTCP, dual stack", "[::]:0", unix.IPPROTO_MPTCP, []option{dual}},
	} {
		l := open(t, unix.SOCK_STREAM, test.protocol, test.addr, "", test.options...)
		e.here(test.name, 1)
		found, err := List(t.Context())
		check(t, err)
		listed := false
		for _, f := range found {
			listed = listed || f.Addr.Port() == l.port
		}
		if !listed {
			t.Errorf("%s: heard of before it is listed", test.name)
		}
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	check(t, err)
	defer l.Close()
	e.here("net.Listen", 1)

	open(t, unix.SOCK_DGRAM, 0, "0.0.0.0:0", "") // no listen(2)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	defer unix.Close(fd)
	check(t, unix.Listen(fd, 1)) // without a bind(2)
	e.here("unbound", 1)
}

// TestWatchHearsOtherNamespaces: other processes of the machine listen in other namespaces too, so the numbers are least
// ones.
func TestWatchHearsOtherNamespaces(t *testing.T) {
	e := watchAll(t, 0)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		for range 50 {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				err = errors.Join(unix.Listen(fd, 1), unix.Close(fd))
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	check(t, <-done)
	all, _ := e.hear("50 elsewhere", func(h Heard) bool { return h.Elsewhere >= 50 })
	if all.Here != 0 {
		t.Errorf("heard %d here, want none", all.Here)
	}
}

// TestWatchLosesNothing listens so often that the ring overflows while the caller is busy: it is called seldom, and every
// listen counts.
func TestWatchLosesNothing(t *testing.T) {
	const listens, pause = 20_000, 50 * time.Millisecond
	e := watchAll(t, pause)
	start := time.Now()
	for range listens {
		listenOnce(t)
	}
	calls := e.here("a storm", listens)
	if records := os.Getpagesize() / recordSize; listens/calls < records {
		t.Errorf("the ring of %d records did not overflow in %d calls", records, calls)
	}
	if most := int(time.Since(start)/pause) + 2; calls > most {
		t.Errorf("called %d times, want at most %d", calls, most)
	}
	listenOnce(t)
	e.here("after the storm", 1)
}

// TestWatchRests: even a caller that returns at once is not called more often than once a millisecond.
func TestWatchRests(t *testing.T) {
	e := watchAll(t, 0)
	start := time.Now()
	for time.Since(start) < 200*time.Millisecond {
		listenOnce(t)
	}
	took := time.Since(start)
	time.Sleep(5 * time.Millisecond)
	if calls, most := len(e.heard), int(took/restBetween)+2; calls > most || calls < 5 {
		t.Errorf("called %d times in %v, want 5 to %d", calls, took, most)
	}
}

// listenOnce listens on a socket that is closed at once.
func listenOnce(t testing.TB) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	err = unix.Listen(fd, 1)
	unix.Close(fd)
	check(t, err)
}

// TestWatchNoticesDetachment: whoever may can detach the program, with bpftool link detach. Before that the watch waits and
// does not look again and again.
func TestWatchNoticesDetachment(t *testing.T) {
	netns.RequireRoot(t, "needs CAP_BPF of the host")
	w, err := openWatch()
	check(t, err)
	defer w.close()
	done, told := make(chan error), make(chan Heard, 1000)
	go func() { done <- w.run(t.Context(), 20*time.Millisecond, func(h Heard) { told <- h }) }()
	<-told // it hears
	listenOnce(t)
	<-told
	deadline := time.Now().Add(5 * time.Second)
	for w.bell.AvailableBytes() > 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if w.bell.AvailableBytes() > 0 {
		t.Error("the ring is never emptied: every wait ends at once")
	}
	select {
	case err := <-done:
		t.Fatalf("ended while attached: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	check(t, w.link.Detach())
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "somebody detached the program") {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it did not notice")
	}
}

// TestWatchWithoutCookies: kernels before 5.15 do not tell namespaces apart.
func TestWatchWithoutCookies(t *testing.T) {
	netns.RequireRoot(t, "needs CAP_BPF of the host")
	w, err := openWatch()
	check(t, err)
	defer w.close()
	program, err := load(counterProgram(w.counts, w.ring, nil))
	check(t, err)
	defer program.Close()
	check(t, w.link.Update(program))
	start, err := w.news()
	check(t, err)
	listenOnce(t)
	heard, err := w.news()
	check(t, err)
	if heard.Here == 0 || heard.Here != heard.Elsewhere {
		t.Errorf("heard %+v after %+v, want each here and elsewhere", heard, start)
	}
	if w.bell.AvailableBytes() == 0 {
		t.Error("the bell did not ring")
	}
}

// playWatch watches and writes "hears" or the error. Its place is "here"; "without", where cgroup2 is not mounted; or
// "nested", a cgroup namespace with a mount of its own.
func playWatch(place string) error {
	switch place {
	case "without":
		for {
			text, err := os.ReadFile("/proc/self/mountinfo")
			mount := cgroupMount(string(text))
			if err == nil && mount == "" {
				break
			}
			if err := errors.Join(err, unix.Unmount(mount, unix.MNT_DETACH)); err != nil {
				return err
			}
		}
	case "nested":
		if err := unix.Mount("cgroup2", "/run", "cgroup2", 0, ""); err != nil {
			return err
		}
	}
	go func() {
		err := Watch(context.Background(), func(h Heard) {
			if h == (Heard{}) {
				fmt.Println("hears")
			}
		})
		fmt.Println(err)
	}()
	return nil
}

// watcher starts the test binary with a Watch and returns what it says of it.
func watcher(t *testing.T, place string, attributes *syscall.SysProcAttr) (line string, process *os.Process) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"=watch "+place)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = attributes
	attributes.Pdeathsig = syscall.SIGKILL
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	line, err = bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	return strings.TrimSpace(line), cmd.Process
}

func TestWatchNeedsCapabilities(t *testing.T) {
	netns.RequireRoot(t, "gives capabilities of the host")
	const missing = "needs CAP_BPF and CAP_NET_ADMIN of the host"
	for _, test := range []struct {
		name         string
		capabilities []uintptr
		want         string
	}{
		{"none", nil, missing},
		{"CAP_BPF", []uintptr{unix.CAP_BPF}, missing},
		{"CAP_NET_ADMIN", []uintptr{unix.CAP_NET_ADMIN}, missing},
		{"both", []uintptr{unix.CAP_BPF, unix.CAP_NET_ADMIN}, "hears"},
	} {
		t.Run(test.name, func(t *testing.T) {
			line, _ := watcher(t, "here", &syscall.SysProcAttr{
				Credential: &syscall.Credential{Uid: nobody, Gid: nobody}, AmbientCaps: test.capabilities,
			})
			if !strings.Contains(line, test.want) || test.want == missing && !strings.HasPrefix(line, "cannot hear of listeners as they appear: ") {
				t.Errorf("it says %q, want %q", line, test.want)
			}
		})
	}
}

// TestWatchAsOrdinaryUser: root of a user namespace has all capabilities there, and none of the host.
func TestWatchAsOrdinaryUser(t *testing.T) {
	attributes := &syscall.SysProcAttr{}
	if !netns.Rootless() {
		attributes.Cloneflags = syscall.CLONE_NEWUSER
		attributes.UidMappings = []syscall.SysProcIDMap{{HostID: nobody, Size: 1}}
	}
	if line, _ := watcher(t, "here", attributes); !strings.Contains(line, "CAP_NET_ADMIN of the host") {
		t.Errorf("it says %q", line)
	}
}

func TestWatchNeedsTheHostsCgroups(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	line, _ := watcher(t, "without", &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS})
	if !strings.Contains(line, "cannot find cgroup2: it is not mounted") {
		t.Errorf("without cgroup2 it says %q", line)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	check(t, err)
	dir := filepath.Join(cgroupMount(string(text)), "hostagent-test-"+strconv.Itoa(os.Getpid()))
	check(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() { os.Remove(dir) })
	file, err := os.Open(dir)
	check(t, err)
	defer file.Close()
	line, process := watcher(t, "nested", &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWCGROUP, UseCgroupFD: true, CgroupFD: int(file.Fd()),
	})
	if !strings.Contains(line, "is a part of the host's") {
		t.Errorf("in a cgroup namespace it says %q", line)
	}
	check(t, process.Kill())
	process.Wait()
}

// TestWatchLeavesNothing: the program goes with the process that attached it.
func TestWatchLeavesNothing(t *testing.T) {
	netns.RequireRoot(t, "needs CAP_BPF of the host")
	line, process := watcher(t, "here", &syscall.SysProcAttr{})
	if line != "hears" {
		t.Fatalf("it says %q", line)
	}
	programs := programsOf(t, process.Pid)
	if len(programs) != 1 {
		t.Fatalf("it holds programs %v, want one", programs)
	}
	check(t, process.Kill())
	deadline := time.Now().Add(5 * time.Second)
	for {
		program, err := ebpf.NewProgramFromID(programs[0])
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		check(t, err)
		program.Close()
		if time.Now().After(deadline) {
			t.Fatal("the program outlives its process")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// programsOf returns the ids of the BPF programs that a process holds.
func programsOf(t *testing.T, pid int) (ids []ebpf.ProgramID) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fdinfo", pid)
	entries, err := os.ReadDir(dir)
	check(t, err)
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		check(t, err)
		if !strings.Contains(string(text), "prog_type:") {
			continue
		}
		for line := range strings.Lines(string(text)) {
			var id uint32
			if _, err := fmt.Sscanf(line, "prog_id:\t%d", &id); err == nil {
				ids = append(ids, ebpf.ProgramID(id))
			}
		}
	}
	return ids
}
