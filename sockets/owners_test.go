// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// roleEnv makes the test binary play another process: "hold" keeps what it inherited, "listen" opens a listener and
// writes its port, "reuse PORT" opens one more on a port, "watch PLACE" watches, "lookup PORT" writes the Result for a
// listener, "spaces" what is missing of other namespaces where /proc hides processes, "hostile" is a listener whose name and command line are meant to harm, "inside PORT" what is known in a PID namespace; the rest are of benchmarks. All but the lookups live until their
// input ends.
const roleEnv = "HOSTAGENT_TEST_ROLE"

// nobody is a user without rights, whatever its name.
const nobody = 65534

func play(role string) {
	var err error
	name, argument, _ := strings.Cut(role, " ")
	switch name {
	case "hold":
		fmt.Println("ready")
	case "listen":
		var listener net.Listener
		if listener, err = net.Listen("tcp4", "127.0.0.1:0"); err == nil {
			fmt.Println(listener.Addr().(*net.TCPAddr).Port)
		}
	case "hostile":
		if err = beHostile(); err == nil {
			play("listen")
		}
	case "watch":
		err = playWatch(argument)
	case "reuse":
		var port uint64
		if port, err = strconv.ParseUint(argument, 10, 16); err == nil {
			if err = listenAgain(uint16(port)); err == nil {
				fmt.Println(port)
			}
		}
	case "inside":
		err = inside(argument)
	case "owners":
		err = ownersOfAll(argument)
	case "listen-many", "connect-many":
		var n int
		if n, err = strconv.Atoi(argument); err == nil && name == "listen-many" {
			err = listenMany(n)
		} else if err == nil {
			err = connectMany(n)
		}
	case "spaces":
		err = hiddenInProc()
	case "lookup":
		var listeners []Listener
		listeners, err = List(context.Background())
		listeners = slices.DeleteFunc(listeners, func(l Listener) bool { return strconv.Itoa(int(l.Addr.Port())) != argument })
		var result Result
		if err == nil {
			result, err = NewOwners().Lookup(context.Background(), listeners)
		}
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(result)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// listenAgain opens a listener on a port that has one.
func listenAgain(port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1))
}

// child starts the test binary in a role as user uid and returns it with its first line. End it with its stop.
func child(t testing.TB, role string, uid int, files ...*os.File) (pid int32, line string, stop func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe") // the file itself lies where other users may not look
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.ExtraFiles = files
	if uid != os.Geteuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	}
	return start(t, cmd)
}

// childIn is child in new namespaces.
func childIn(t testing.TB, role string, flags uintptr) (pid int32, line string, stop func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	return start(t, cmd)
}

// start starts a child and returns it with its first line.
func start(t testing.TB, cmd *exec.Cmd) (pid int32, line string, stop func()) {
	t.Helper()
	cmd.Stderr = os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	stop = func() {
		stdin.Close()
		cmd.Wait()
	}
	t.Cleanup(stop)
	line, err = bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	return int32(cmd.Process.Pid), strings.TrimSpace(line), stop
}

// one returns the only listener on a port.
func one(t testing.TB, port string) Listener {
	t.Helper()
	number, err := strconv.ParseUint(port, 10, 16)
	check(t, err)
	listeners := list(t, uint16(number))
	if len(listeners) != 1 {
		t.Fatalf("want one listener on port %s, got %+v", port, listeners)
	}
	return listeners[0]
}

// lookup returns the owner of l.
func lookup(t testing.TB, o *Owners, l Listener) Owner {
	t.Helper()
	result, err := o.Lookup(t.Context(), []Listener{l})
	check(t, err)
	owner, ok := result.ByCookie[l.Cookie]
	if !ok || len(result.ByCookie) != 1 {
		t.Fatalf("want an owner for cookie %d and no other, got %+v", l.Cookie, result)
	}
	return owner
}

func pids(o Owner) []int32 {
	var pids []int32
	for _, p := range o.Processes {
		pids = append(pids, p.PID)
	}
	return pids
}

func self(t testing.TB) Process {
	t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	exe, err := os.Readlink("/proc/self/exe")
	check(t, err)
	return Process{PID: int32(os.Getpid()), Name: strings.TrimSpace(string(comm)), Exe: exe}
}

func TestOwnProcess(t *testing.T) {
	t.Setenv("HOST_PROC", t.TempDir()) // meant for other programs: must not lead gopsutil away
	for name, l := range map[string]Listener{
		"TCP":   one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port))),
		"MPTCP": one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "[::]:0", "").port))),
		"UDP":   one(t, strconv.Itoa(int(open(t, unix.SOCK_DGRAM, 0, "0.0.0.0:0", "").port))),
	} {
		t.Run(name, func(t *testing.T) {
			got := lookup(t, NewOwners(), l)
			if len(got.Processes) != 1 {
				t.Fatalf("want this process, got %+v", got)
			}
			started := got.Processes[0].Started
			got.Processes[0].Started = time.Time{}
			if diff := cmp.Diff([]Process{self(t)}, got.Processes); diff != "" {
				t.Errorf("processes (-want +got):\n%s", diff)
			}
			if age := time.Since(started); age < -3*time.Second || age > time.Hour {
				t.Errorf("this process started at %v", started)
			}
			me, err := user.Current()
			check(t, err)
			if got.User != me.Username {
				t.Errorf("user %q, want %q", got.User, me.Username)
			}
		})
	}
}

func TestLongNameIsTheKernels(t *testing.T) {
	// A process whose title goes on beyond the kernel's 15 bytes, as servers have that show their state in it.
	link := filepath.Join(t.TempDir(), "a-server-with-a-title: password=secret")
	check(t, os.Symlink("/proc/self/exe", link))
	listener := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	fd, err := unix.FcntlInt(uintptr(listener.fd), unix.F_DUPFD_CLOEXEC, 3)
	check(t, err)
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	cmd := exec.Command(link)
	cmd.Env = append(os.Environ(), roleEnv+"=hold")
	cmd.ExtraFiles = []*os.File{file}
	stdin, err := cmd.StdinPipe()
	check(t, err)
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer cmd.Wait()
	defer stdin.Close()
	_, err = bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	owner := lookup(t, NewOwners(), one(t, strconv.Itoa(int(listener.port))))
	i := slices.IndexFunc(owner.Processes, func(p Process) bool { return int(p.PID) == cmd.Process.Pid })
	if i < 0 || owner.Processes[i].Name != "a-server-with-a" {
		t.Errorf("want process %d, named a-server-with-a, got %+v", cmd.Process.Pid, owner.Processes)
	}
}

// hostileName has all 15 bytes of a name, and all that means something in the files of /proc.
const hostileName = "a) R 1\tb\n\\n: c "

// beHostile gives this process a command line of 256 MB that costs it nothing, for which it needs no rights, and a name that
// is hard to read.
func beHostile() error {
	const size = 256 << 20
	memory, err := unix.MmapPtr(-1, 0, nil, size, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(string(stat))
	field := func(n int) uint64 { // as proc_pid_stat(5) counts them
		value, _ := strconv.ParseUint(fields[n-1], 10, 64)
		return value
	}
	brk, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	layout := struct { // struct prctl_mm_map
		startCode, endCode, startData, endData, startBrk, brk, startStack, argStart, argEnd, envStart, envEnd, auxv uint64
		auxvSize                                                                                                    uint32
		exe                                                                                                         int32
	}{
		startCode: field(26), endCode: field(27), startData: field(45), endData: field(46), startBrk: field(47), brk: uint64(brk),
		startStack: field(28), argStart: uint64(uintptr(memory)), argEnd: uint64(uintptr(memory)) + size,
		envStart: field(50), envEnd: field(51), exe: -1,
	}
	if err := unix.Prctl(unix.PR_SET_MM, unix.PR_SET_MM_MAP, uintptr(unsafe.Pointer(&layout)), unsafe.Sizeof(layout), 0); err != nil {
		return err
	}
	return os.WriteFile("/proc/self/comm", []byte(hostileName), 0)
}

// TestHostileProcess: what a process says of itself costs nothing to read, and is shown as it is.
func TestHostileProcess(t *testing.T) {
	pid, port, _ := child(t, "hostile", os.Geteuid())
	listener := one(t, port)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	owner := lookup(t, NewOwners(), listener)
	runtime.ReadMemStats(&after)
	if len(owner.Processes) != 1 || owner.Processes[0].PID != pid || owner.Processes[0].Name != hostileName || owner.Processes[0].Started.IsZero() {
		t.Errorf("want process %d, named %q, got %+v", pid, hostileName, owner)
	}
	if read := after.TotalAlloc - before.TotalAlloc; read > 16<<20 {
		t.Errorf("the look at it took %d MB", read>>20)
	}
	if arguments, ok := CommandLine(owner.Processes[0]); ok && len(strings.Join(arguments, " ")) > maxCommandLine {
		t.Errorf("a command line of %d bytes", len(strings.Join(arguments, " ")))
	}
}

func TestFullName(t *testing.T) {
	for _, test := range []struct{ name, exe, want string }{
		{"nginx", "/usr/sbin/nginx", "nginx"},
		{"prometheus-node", "/usr/bin/prometheus-node-exporter", "prometheus-node-exporter"},
		{"prometheus-node", "/usr/bin/prometheus-node-exporter (deleted)", "prometheus-node-exporter"},
		{"prometheus-node", "", "prometheus-node"},
		{"a-script-with-a", "/usr/bin/python3", "a-script-with-a"},
		{"web", "/srv/web-server", "web"}, // the kernel has cut nothing
		{"", "/srv/web", ""},
	} {
		if got := (Process{Name: test.name, Exe: test.exe}).FullName(); got != test.want {
			t.Errorf("%q of %q is %q, want %q", test.name, test.exe, got, test.want)
		}
	}
}

func TestSharedSocket(t *testing.T) {
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	duplicate, err := unix.Dup(b.fd)
	check(t, err)
	file := os.NewFile(uintptr(duplicate), "listener")
	defer file.Close()
	first, _, stop := child(t, "hold", os.Geteuid(), file)
	second, _, _ := child(t, "hold", os.Geteuid(), file)
	l := one(t, strconv.Itoa(int(b.port)))
	want := []int32{int32(os.Getpid()), first, second}
	slices.Sort(want)
	owners := NewOwners()
	if diff := cmp.Diff(want, pids(lookup(t, owners, l))); diff != "" {
		t.Fatalf("pids (-want +got):\n%s", diff)
	}
	stop() // a cached owner must not outlive a holder
	want = slices.DeleteFunc(want, func(pid int32) bool { return pid == first })
	if diff := cmp.Diff(want, pids(lookup(t, owners, l))); diff != "" {
		t.Errorf("pids after the end of one (-want +got):\n%s", diff)
	}
}

func TestAnotherUsersProcess(t *testing.T) {
	netns.RequireRoot(t, "starts a process of another user")
	pid, port, _ := child(t, "listen", nobody)
	owner := lookup(t, NewOwners(), one(t, port))
	want := strconv.Itoa(nobody)
	if u, err := user.LookupId(want); err == nil {
		want = u.Username
	}
	if owner.User != want || len(owner.Processes) != 1 || owner.Processes[0].PID != pid || owner.Processes[0].Exe != self(t).Exe {
		t.Errorf("want user %s, process %d, %s; got %+v", want, pid, self(t).Exe, owner)
	}
	_, port, _ = child(t, "listen", 54321)
	if got := lookup(t, NewOwners(), one(t, port)).User; got != "54321" {
		t.Errorf("a user without a name is %q, want its number", got)
	}
}

// TestOrdinaryUser: somebody without capabilities is told that root's socket has an owner out of sight, and sees its own.
func TestOrdinaryUser(t *testing.T) {
	netns.RequireRoot(t, "starts a process of another user")
	b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	var got Result
	_, line, _ := child(t, fmt.Sprint("lookup ", b.port), nobody)
	check(t, json.Unmarshal([]byte(line), &got))
	want := Result{
		ByCookie:   map[uint64]Owner{b.cookie: {User: "root"}},
		Incomplete: "owners of some sockets are out of sight without CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH: run as root, or grant what is missing",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("root's socket (-want +got):\n%s", diff)
	}

	holder, port, _ := child(t, "listen", nobody)
	var own Result
	_, line, _ = child(t, "lookup "+port, nobody)
	check(t, json.Unmarshal([]byte(line), &own))
	owner := own.ByCookie[one(t, port).Cookie]
	if own.Incomplete != "" || !slices.Equal(pids(owner), []int32{holder}) || owner.Processes[0].Exe != self(t).Exe {
		t.Errorf("its own socket: want process %d and nothing missing, got %+v", holder, own)
	}
}

func TestClosedBetweenListAndLookup(t *testing.T) {
	_, port, stop := child(t, "listen", os.Geteuid())
	l := one(t, port)
	owners := NewOwners()
	if before := lookup(t, owners, l); len(before.Processes) != 1 {
		t.Fatalf("want one process, got %+v", before)
	}
	stop()
	for name, o := range map[string]*Owners{"known before": owners, "never known": NewOwners()} {
		result, err := o.Lookup(t.Context(), []Listener{l})
		check(t, err)
		if owner := result.ByCookie[l.Cookie]; len(owner.Processes) != 0 || owner.User == "" {
			t.Errorf("%s: a closed socket is owned by %+v", name, owner)
		}
		// Even root may be refused a look into a process, PID 1 of some sandboxes for one.
		if result.Incomplete != "" && result.Incomplete != hiddenText {
			t.Errorf("%s: all capabilities are there, yet: %s", name, result.Incomplete)
		}
	}
}

// TestClosedByItsProcess: the process lives on, and uses the descriptor for something else.
func TestClosedByItsProcess(t *testing.T) {
	null, err := os.Open(os.DevNull)
	check(t, err)
	defer null.Close()
	other := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	for name, fd := range map[string]int{"a file": int(null.Fd()), "another socket": other.fd} {
		b := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
		l := one(t, strconv.Itoa(int(b.port)))
		owners := NewOwners()
		if owner := lookup(t, owners, l); len(owner.Processes) != 1 {
			t.Fatalf("want one process, got %+v", owner)
		}
		check(t, unix.Dup3(fd, b.fd, unix.O_CLOEXEC))
		if owner := lookup(t, owners, l); len(owner.Processes) != 0 {
			t.Errorf("%s: a closed socket is owned by %+v", name, owner.Processes)
		}
	}
}

// TestManyDescriptors: copies of one socket must not end the search for another one.
func TestManyDescriptors(t *testing.T) {
	first := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	for range entriesAtOnce / 24 {
		fd, err := unix.FcntlInt(uintptr(first.fd), unix.F_DUPFD_CLOEXEC, 3)
		check(t, err)
		defer unix.Close(fd)
	}
	second := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	listeners := []Listener{one(t, strconv.Itoa(int(first.port))), one(t, strconv.Itoa(int(second.port)))}
	result, err := NewOwners().Lookup(t.Context(), listeners)
	check(t, err)
	want := []int32{int32(os.Getpid())}
	for _, l := range listeners {
		if diff := cmp.Diff(want, pids(result.ByCookie[l.Cookie])); diff != "" {
			t.Errorf("%v (-want +got):\n%s", l.Addr, diff)
		}
	}
}

// TestCache: a known owner costs no search, is forgotten when not asked for, and is searched again when it gets old.
func TestCache(t *testing.T) {
	l := one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port)))
	synctest.Test(t, func(t *testing.T) { // its clock stands still
		owners := NewOwners()
		mark := func() {
			e := owners.known[l.Cookie]
			e.owner.User = "marked"
			owners.known[l.Cookie] = e
		}
		marked := func(l Listener) bool { return lookup(t, owners, l).User == "marked" }
		if lookup(t, owners, l); len(owners.known) != 1 {
			t.Fatalf("remembered %+v", owners.known)
		}
		mark()
		if !marked(l) {
			t.Error("a known owner was searched again")
		}
		time.Sleep(maxAge)
		if !marked(l) {
			t.Errorf("searched again after %v", maxAge)
		}
		time.Sleep(time.Nanosecond)
		if marked(l) {
			t.Errorf("not searched again after more than %v", maxAge)
		}
		e := owners.known[l.Cookie]
		e.owner.Processes[0].Exe = "/bin/other"
		mark()
		if marked(l) {
			t.Error("a process of another executable was taken for the known one")
		}
		if _, err := owners.Lookup(t.Context(), nil); err != nil || len(owners.known) != 0 {
			t.Errorf("not asked for, still remembered: %+v, %v", owners.known, err)
		}
	})
}

func TestLookupEndsWithItsContext(t *testing.T) {
	l := one(t, strconv.Itoa(int(open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").port)))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	owners := NewOwners()
	result, err := owners.Lookup(ended, []Listener{l})
	if !errors.Is(err, context.Canceled) || len(result.ByCookie[l.Cookie].Processes) != 0 {
		t.Errorf("got %+v, %v; want no process and %v", result, err, context.Canceled)
	}
	if owner := lookup(t, owners, l); len(owner.Processes) != 1 {
		t.Errorf("an unfinished search was remembered: %+v", owner)
	}
	// The context ends in the middle of the walk: at the second process.
	s := newSearch()
	if err := s.everywhere(&endsAfter{Context: t.Context(), looks: 1}, map[uint32]bool{l.Inode: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("the walk went on: %v", err)
	}
}

// TestThroughCgroup has a listener made in a service's cgroup and finds it there, without a walk of /proc.
func TestThroughCgroup(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	tree, err := openCgroups()
	check(t, err)
	defer tree.Close()
	slice := fmt.Sprintf("hostagent-test-%d.slice", os.Getpid())
	id := testID
	for _, test := range []struct {
		name, leaf, unit, container string
		direct                      bool
	}{
		{"service", "web.service", "web.service", "", true},
		{"container", "docker-" + id + ".scope", "docker-" + id + ".scope", id[:shortID], true},
		{"delegated", "payload", "", "", true},
		{"systemd's own", managerScope, managerScope, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pid, port, stop := listenIn(t, tree.mount, slice+"/"+test.leaf)
			l := one(t, port)
			path, err := tree.path(l.CgroupID)
			check(t, err)
			members, err := tree.processes(path)
			check(t, err)
			if path != "/"+slice+"/"+test.leaf || !slices.Equal(members, []int32{pid}) {
				t.Errorf("cgroup %q with %v, want %q with %d", path, members, slice+"/"+test.leaf, pid)
			}
			s := newSearch()
			check(t, s.inCgroups(t.Context(), []Listener{l}))
			if found := len(s.holders[l.Inode]) == 1; found != test.direct {
				t.Errorf("found in its cgroup: %v, want %v", found, test.direct)
			}
			owner := lookup(t, NewOwners(), l)
			if owner.Unit != test.unit || owner.Container != test.container || (owner.Runtime == "docker") != (test.container != "") || !slices.Equal(pids(owner), []int32{pid}) {
				t.Errorf("got %+v; want unit %q, container %q, process %d", owner, test.unit, test.container, pid)
			}
			stop()
			if owner := lookup(t, NewOwners(), l); len(owner.Processes) != 0 {
				t.Errorf("after its end: %+v", owner)
			}
		})
	}
}

// TestSocketActivation: systemd, here this process, makes the socket; the service that it passes it to has a cgroup of
// its own.
func TestSocketActivation(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	tree, err := openCgroups()
	check(t, err)
	defer tree.Close()
	slice := fmt.Sprintf("hostagent-test-%d.slice", os.Getpid())
	enter(t, tree.mount, slice+"/"+managerScope)
	fd := open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "").fd
	duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	check(t, err)
	file := os.NewFile(uintptr(duplicate), "listener")
	defer file.Close()
	l := one(t, strconv.Itoa(int(localPort(t, fd))))
	if owner := lookup(t, NewOwners(), l); owner.Unit != managerScope {
		t.Errorf("before it is passed on: want unit %s, got %+v", managerScope, owner)
	}
	pid, _, stop := child(t, "hold", os.Geteuid(), file)
	defer stop() // before the cgroup that it moves to goes
	moveTo(t, tree.mount, slice+"/activated.service", pid)
	want := []int32{int32(os.Getpid()), pid}
	slices.Sort(want)
	if owner := lookup(t, NewOwners(), l); owner.Unit != "activated.service" || !slices.Equal(pids(owner), want) {
		t.Errorf("want unit activated.service and processes %d, got %+v", want, owner)
	}
}

// TestMovedProcess: the unit is that of the socket, and its process is found wherever it is now.
func TestMovedProcess(t *testing.T) {
	netns.RequireRoot(t, "makes cgroups")
	tree, err := openCgroups()
	check(t, err)
	defer tree.Close()
	slice := fmt.Sprintf("hostagent-test-%d.slice", os.Getpid())
	pid, port, stop := listenIn(t, tree.mount, slice+"/first.service")
	defer stop() // before the cgroup that it moves to goes
	moveTo(t, tree.mount, slice+"/second.service", pid)
	if owner := lookup(t, NewOwners(), one(t, port)); owner.Unit != "first.service" || !slices.Equal(pids(owner), []int32{pid}) {
		t.Errorf("want unit first.service and process %d, got %+v", pid, owner)
	}
}

// moveTo moves a process into a new cgroup.
func moveTo(t testing.TB, mount, cgroup string, pid int32) {
	t.Helper()
	dir := filepath.Join(mount, cgroup)
	check(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() {
		// A cgroup is busy for a moment after its last process ended; the slice goes with the last one in it.
		for deadline := time.Now().Add(5 * time.Second); os.Remove(dir) != nil && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		os.Remove(filepath.Dir(dir))
	})
	check(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(int(pid))), 0))
}

// enter moves this process into a new cgroup and, at the end of the test, back.
func enter(t testing.TB, mount, cgroup string) (leave func()) {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	check(t, err)
	before := "/"
	for line := range strings.Lines(string(own)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			before = strings.TrimSpace(path)
		}
	}
	moveTo(t, mount, cgroup, int32(os.Getpid()))
	leave = func() {
		check(t, os.WriteFile(filepath.Join(mount, before, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0))
	}
	t.Cleanup(leave)
	return leave
}

// listenIn starts a process that opens its listener as a member of a new cgroup.
func listenIn(t testing.TB, mount, cgroup string) (pid int32, port string, stop func()) {
	t.Helper()
	leave := enter(t, mount, cgroup) // the child is born there
	pid, port, stop = child(t, "listen", os.Geteuid())
	leave()
	return pid, port, stop
}
