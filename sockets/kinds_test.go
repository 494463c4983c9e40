// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// TestAgreesWithSSOnOwners: for each kind of socket, the processes are those that iproute2's ss finds.
func TestAgreesWithSSOnOwners(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "127.0.0.1:0", "[::]:0", "[::1]:0", "[::ffff:127.0.0.1]:0"} {
		open(t, unix.SOCK_STREAM, 0, addr, "")
		open(t, unix.SOCK_DGRAM, 0, addr, "")
	}
	open(t, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "[::]:0", "") // ss shows the socket inside, and nobody with it
	open(t, unix.SOCK_STREAM, 0, "0.0.0.0:0", "lo")
	first := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "", reusePort)
	for range 3 { // one program, several sockets
		open(t, unix.SOCK_STREAM, 0, fmt.Sprintf("127.0.0.1:%d", first.port), "", reusePort)
	}
	shared := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	duplicate, err := unix.FcntlInt(uintptr(shared.fd), unix.F_DUPFD_CLOEXEC, 3)
	check(t, err)
	file := os.NewFile(uintptr(duplicate), "listener")
	defer file.Close()
	for range 3 { // a prefork server
		child(t, "hold", os.Geteuid(), file)
	}
	child(t, "listen", os.Geteuid())

	pidText := regexp.MustCompile(`pid=([0-9]+)`)
	inodeText := regexp.MustCompile(`ino:([0-9]+)`)
	want := map[uint32][]int32{}
	for _, flags := range []string{"-Hltnpe", "-Haunpe"} {
		out, err := exec.Command("ss", flags).Output()
		check(t, err)
		for line := range strings.Lines(string(out)) {
			inode := inodeText.FindStringSubmatch(line)
			if inode == nil {
				t.Fatalf("no inode in %q", line)
			}
			number, err := strconv.ParseUint(inode[1], 10, 32)
			check(t, err)
			var pids []int32
			for _, match := range pidText.FindAllStringSubmatch(line, -1) {
				pid, err := strconv.ParseInt(match[1], 10, 32)
				check(t, err)
				pids = append(pids, int32(pid))
			}
			slices.Sort(pids)
			want[uint32(number)] = slices.Compact(pids)
		}
	}
	if len(want) < 15 {
		t.Fatalf("ss shows %d sockets", len(want))
	}
	listeners := list(t, 0)
	for name, owners := range map[string]*Owners{"": NewOwners(), "without the program in the kernel: ": {tried: true}} {
		result, err := owners.Lookup(t.Context(), listeners)
		check(t, err)
		got := map[uint32][]int32{}
		for _, l := range listeners {
			got[l.Inode] = pids(result.ByCookie[l.Cookie])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%sprocesses by inode (-ss +got):\n%s", name, diff)
		}
	}
}

// TestReusePortOwners: each socket of a group is its own process's, though all have one address.
func TestReusePortOwners(t *testing.T) {
	first := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "", reusePort)
	pid, port, _ := child(t, fmt.Sprint("reuse ", first.port), os.Geteuid())
	listeners := list(t, first.port)
	if len(listeners) != 2 || port != strconv.Itoa(int(first.port)) {
		t.Fatalf("want two listeners on port %d, got %+v", first.port, listeners)
	}
	result, err := NewOwners().Lookup(t.Context(), listeners)
	check(t, err)
	var got []int32
	for _, l := range listeners {
		got = append(got, pids(result.ByCookie[l.Cookie])...)
	}
	slices.Sort(got)
	want := []int32{int32(os.Getpid()), pid}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("processes (-want +got):\n%s", diff)
	}
}

// TestPrefork: parent and children share one socket and one cgroup, and all are named, found in the cgroup.
func TestPrefork(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	tree, err := openCgroups()
	check(t, err)
	defer tree.Close()
	slice := fmt.Sprintf("hostagent-test-%d.slice", os.Getpid())
	leave := enter(t, tree.mount, slice+"/prefork.service")
	fd := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").fd
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	check(t, err)
	file := os.NewFile(uintptr(duplicate), "listener")
	defer file.Close()
	want := []int32{int32(os.Getpid())}
	var stops []func()
	for range 3 {
		pid, _, stop := child(t, "hold", os.Geteuid(), file)
		want = append(want, pid)
		stops = append(stops, stop)
	}
	slices.Sort(want)
	owner := lookup(t, NewOwners(), one(t, strconv.Itoa(int(localPort(t, fd)))))
	if owner.Unit != "prefork.service" || !slices.Equal(pids(owner), want) {
		t.Errorf("want unit prefork.service and processes %d, got %+v", want, owner)
	}
	for _, stop := range stops { // before their cgroup goes
		stop()
	}
	leave()
}

// TestOtherPIDNamespace: a process in a PID namespace below has one number there and another here, which is the one that
// counts.
func TestOtherPIDNamespace(t *testing.T) {
	netns.RequireRoot(t, "makes a PID namespace")
	pid, port, _ := childIn(t, "listen", syscall.CLONE_NEWPID)
	status, err := os.ReadFile(procPath(pid, "status"))
	check(t, err)
	if !strings.Contains(string(status), fmt.Sprintf("NSpid:\t%d\t1\n", pid)) {
		t.Fatalf("process %d is not the first of a PID namespace:\n%s", pid, status)
	}
	for name, owners := range map[string]*Owners{"in the kernel": NewOwners(), "in /proc": {tried: true}} {
		if owner := lookup(t, owners, one(t, port)); !slices.Equal(pids(owner), []int32{pid}) || owner.Processes[0].Exe != self(t).Exe {
			t.Errorf("%s: want process %d, got %+v", name, pid, owner)
		}
	}
}

// TestInsidePIDNamespace: one that itself runs in a PID namespace, and sees only that one's /proc, knows nobody outside,
// takes nobody inside for them, and says so.
func TestInsidePIDNamespace(t *testing.T) {
	netns.RequireRoot(t, "makes a PID namespace")
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	_, line, _ := childIn(t, fmt.Sprint("inside ", b.port), syscall.CLONE_NEWPID|syscall.CLONE_NEWNS)
	if want := fmt.Sprintf("own [1], other [], iterator false, incomplete %q", hiddenText); line != want {
		t.Errorf("got %q, want %q", line, want)
	}
}

// inside is the role of a process in a PID namespace: it looks for the owner of a socket of its own and of another one.
func inside(port string) error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	own, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Listen(own, 1); err != nil {
		return err
	}
	cookie, err := unix.GetsockoptUint64(own, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		return err
	}
	listeners, err := List(context.Background())
	if err != nil {
		return err
	}
	listeners = slices.DeleteFunc(listeners, func(l Listener) bool {
		return l.Cookie != cookie && strconv.Itoa(int(l.Addr.Port())) != port
	})
	owners := NewOwners()
	result, err := owners.Lookup(context.Background(), listeners)
	if err != nil {
		return err
	}
	ownPIDs, otherPIDs := []int32{}, []int32{}
	for _, l := range listeners {
		if l.Cookie == cookie {
			ownPIDs = append(ownPIDs, pids(result.ByCookie[cookie])...)
		} else {
			otherPIDs = append(otherPIDs, pids(result.ByCookie[l.Cookie])...)
		}
	}
	fmt.Printf("own %v, other %v, iterator %v, incomplete %q\n", ownPIDs, otherPIDs, owners.files != nil, result.Incomplete)
	return nil
}

// TestPartialListener: one that was read from another namespace's /proc has no cgroup and a cookie that was made up.
func TestPartialListener(t *testing.T) {
	l := one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port)))
	partial := l
	partial.Partial, partial.CgroupID, partial.Namespace, partial.Cookie = true, 0, 1, 1<<63|uint64(l.Inode)
	owners := NewOwners()
	for range 2 { // the second time it is known
		result, err := owners.Lookup(t.Context(), []Listener{l, partial})
		check(t, err)
		for _, l := range []Listener{l, partial} {
			if got := pids(result.ByCookie[l.Cookie]); !slices.Equal(got, []int32{int32(os.Getpid())}) {
				t.Errorf("cookie %d: got processes %d, want this one", l.Cookie, got)
			}
		}
	}
}

func TestCommandLine(t *testing.T) {
	secret := []string{"/proc/self/exe", "--password", "a b\n\x1b[31m", ""}
	cmd := exec.Command(secret[0], secret[1:]...)
	cmd.Env = append(os.Environ(), roleEnv+"=listen")
	pid, port, stop := start(t, cmd)
	owner := lookup(t, NewOwners(), one(t, port))
	if len(owner.Processes) != 1 || owner.Processes[0].PID != pid {
		t.Fatalf("want process %d, got %+v", pid, owner)
	}
	process := owner.Processes[0]
	got, ok := CommandLine(process)
	if diff := cmp.Diff(secret, got); diff != "" || !ok {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	for name, other := range map[string]Process{
		"a later process of that number": {PID: pid, Started: process.Started.Add(time.Second)},
		"its start is not known":         {PID: pid},
		"no process":                     {PID: 1 << 30, Started: process.Started},
	} {
		if got, ok := CommandLine(other); ok || got != nil {
			t.Errorf("%s: got %q", name, got)
		}
	}
	stop()
	if got, ok := CommandLine(process); ok || got != nil {
		t.Errorf("it has ended: got %q", got)
	}
}

func TestLongCommandLine(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", strings.Repeat("a", 2*maxCommandLine))
	cmd.Env = append(os.Environ(), roleEnv+"=listen")
	_, port, _ := start(t, cmd)
	got, ok := CommandLine(lookup(t, NewOwners(), one(t, port)).Processes[0])
	if !ok || len(got) != 2 || len(strings.Join(got, "\x00")) != maxCommandLine {
		t.Errorf("got %v and %d arguments of %d bytes", ok, len(got), len(strings.Join(got, "\x00")))
	}
}

// TestNomadTask: a task of Nomad that runs in no container is known by its allocation.
func TestNomadTask(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	tree, err := openCgroups()
	check(t, err)
	defer tree.Close()
	slice := fmt.Sprintf("hostagent-test-%d.slice", os.Getpid())
	t.Cleanup(func() { // from the inside out, when the task is gone
		for _, dir := range []string{slice + "/nomad.slice/share.slice", slice + "/nomad.slice", slice} {
			os.Remove(filepath.Join(tree.mount, dir))
		}
	})
	scope := allocation + ".web.scope"
	pid, port, _ := listenIn(t, tree.mount, slice+"/nomad.slice/share.slice/"+scope)
	owner := lookup(t, NewOwners(), one(t, port))
	if owner.Unit != scope || owner.Container != "8d7cbb5e" || owner.Runtime != "nomad" || !slices.Equal(pids(owner), []int32{pid}) {
		t.Errorf("want allocation 8d7cbb5e of nomad and process %d, got %+v", pid, owner)
	}
}
