// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// elsewhere is a namespace with a process in it.
type elsewhere struct {
	id  uint64
	pid int32
	cmd *exec.Cmd
}

// startElsewhere starts a process in a network namespace of its own, which ends with the test.
func startElsewhere(t testing.TB) *elsewhere {
	t.Helper()
	cmd := exec.Command("cat") // it ends with its input: that is, with us
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	_, err := cmd.StdinPipe()
	check(t, errors.Join(err, cmd.Start()))
	n := &elsewhere{pid: int32(cmd.Process.Pid), cmd: cmd}
	t.Cleanup(n.stop)
	id, err := namespaceLink(unix.AT_FDCWD, procPath(n.pid, "ns/net"))
	check(t, err)
	n.id = id
	n.do(t, func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() })
	return n
}

func (n *elsewhere) stop() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// do runs f on a thread in the namespace, which ends with it.
func (n *elsewhere) do(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	onOwnThread(func() {
		err := errors.New("it has failed")
		defer func() { done <- err }() // t.Fatal, too
		var file *os.File
		if file, err = os.Open(procPath(n.pid, "ns/net")); err != nil {
			return
		}
		err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
		file.Close()
		if err == nil {
			err = f()
		}
	})
	check(t, <-done)
}

// ofNamespace picks what belongs to a namespace.
func (s Spaces) ofNamespace(id uint64) []Listener {
	var all []Listener
	for _, l := range s.Listeners {
		if l.Namespace == id {
			all = append(all, l)
		}
	}
	return all
}

func (s Spaces) namespace(id uint64) (Namespace, bool) {
	for _, n := range s.Namespaces {
		if n.ID == id {
			return n, true
		}
	}
	return Namespace{}, false
}

// bothWays runs a test with each way to look into namespaces.
func bothWays(t *testing.T, test func(t *testing.T, e *Elsewhere)) {
	for _, way := range []string{"entered", "tables"} {
		t.Run(way, func(t *testing.T) {
			e := NewElsewhere()
			e.tables = way == "tables"
			test(t, e)
		})
	}
}

// look lists everything, and fails the test where that fails.
func (e *Elsewhere) look(t testing.TB) Spaces {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	spaces, err := e.List(ctx)
	check(t, err)
	return spaces
}

// TestElsewhere: another namespace holds what List tells inside of it, whatever is connected there, and Owners finds who
// holds the sockets.
func TestElsewhere(t *testing.T) {
	n := startElsewhere(t)
	var want []Listener
	n.do(t, func() error {
		for _, args := range []string{"link add eth9 type veth peer name eth8", "addr add 192.0.2.7/24 dev eth9", "addr add 2001:db8::7/64 dev eth9 nodad", "link set eth9 up"} {
			if err := exec.Command("ip", strings.Fields(args)...).Run(); err != nil {
				return fmt.Errorf("ip %s: %w", args, err)
			}
		}
		for _, tt := range []struct {
			kind    int
			where   string
			options []option
		}{
			{unix.SOCK_STREAM, "0.0.0.0:1001", nil}, {unix.SOCK_STREAM, "127.0.0.1:1002", nil}, {unix.SOCK_STREAM, "192.0.2.7:1003", nil},
			{unix.SOCK_STREAM, "[::]:1004", []option{dual}}, {unix.SOCK_STREAM, "[::]:1005", []option{v6only}}, {unix.SOCK_STREAM, "[::1]:1006", nil},
			{unix.SOCK_STREAM, "[::ffff:127.0.0.1]:1007", nil}, {unix.SOCK_STREAM, "[2001:db8::7]:1008", nil},
			{unix.SOCK_DGRAM, "0.0.0.0:1009", nil}, {unix.SOCK_DGRAM, "[::1]:1010", nil},
		} {
			open(t, tt.kind, 0, tt.where, "", tt.options...)
		}
		busy, err := net.Listen("tcp4", "127.0.0.1:1011")
		if err != nil {
			return err
		}
		t.Cleanup(func() { busy.Close() })
		for range 40 { // more than a page of a table
			conn, err := net.DialTimeout("tcp", "127.0.0.1:1011", time.Second)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
		}
		for _, address := range []string{"127.0.0.1:1009", "[::1]:1010"} {
			conn, err := net.Dial("udp", address) // connected: no listener
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
		}
		want, err = List(t.Context())
		return err
	})
	if len(want) != 11 {
		t.Fatalf("inside there are %d listeners, want 11: %+v", len(want), want)
	}
	bothWays(t, func(t *testing.T, e *Elsewhere) {
		spaces := e.look(t)
		got := spaces.ofNamespace(n.id)
		expect := slices.Clone(want)
		for i := range expect {
			expect[i].Namespace = n.id
			if e.tables {
				expect[i].Partial, expect[i].V6Only, expect[i].Device, expect[i].CgroupID = true, false, 0, 0
				expect[i].Cookie = 1<<63 | uint64(expect[i].Inode)
			}
		}
		if diff := cmp.Diff(expect, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
			t.Errorf("listeners (-want +got):\n%s", diff)
		}
		space, ok := spaces.namespace(n.id)
		addresses := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
		if !ok || space.PID != n.pid || space.Name != "" || !slices.Equal(space.Addresses, addresses) {
			t.Errorf("namespace: %+v, %t; want process %d and addresses %v", space, ok, n.pid, addresses)
		}
		if has := slices.Contains(spaces.Incomplete, tableSpaces); has != e.tables && !netns.Rootless() {
			t.Errorf("incomplete: %q", spaces.Incomplete)
		}
		owners, err := NewOwners().Lookup(t.Context(), got[:1])
		check(t, err)
		owner := owners.ByCookie[got[0].Cookie]
		if len(owner.Processes) != 1 || owner.Processes[0].PID != int32(os.Getpid()) {
			t.Errorf("owner: %+v", owner)
		}
	})
}

// TestElsewhereSeesChanges: a table that was read is read again when sockets come, and believed otherwise.
func TestElsewhereSeesChanges(t *testing.T) {
	n := startElsewhere(t)
	bothWays(t, func(t *testing.T, e *Elsewhere) {
		e.patient = time.Minute
		before := len(e.look(t).ofNamespace(n.id))
		n.do(t, func() error {
			open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
			return nil
		})
		if got := len(e.look(t).ofNamespace(n.id)); got != before+1 {
			t.Errorf("after a listen() there are %d listeners, want %d", got, before+1)
		}
	})
	n.do(t, func() error {
		open(t, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
		return nil
	})
	e := NewElsewhere()
	e.tables = true
	got := e.look(t).ofNamespace(n.id)
	if len(got) == 0 {
		t.Fatal("nothing listens, so the test proves nothing")
	}
	known := e.known[n.id]
	known.listeners = nil // whoever reads it again sees what is there
	e.known[n.id] = known
	if again := e.look(t).ofNamespace(n.id); len(again) != 0 {
		t.Errorf("a table was read though nothing changed: %+v", again)
	}
	known.read = time.Now().Add(-time.Hour)
	e.known[n.id] = known
	e.patient = time.Minute
	if diff := cmp.Diff(len(got), len(e.look(t).ofNamespace(n.id))); diff != "" {
		t.Errorf("an old table is believed (-want +got):\n%s", diff)
	}
	known.pid, known.read = known.pid+1, time.Now()
	e.known[n.id] = known
	if diff := cmp.Diff(len(got), len(e.look(t).ofNamespace(n.id))); diff != "" {
		t.Errorf("a table of another process is believed (-want +got):\n%s", diff)
	}
}

// TestElsewhereNamed: a namespace that nothing but its name holds is looked into where it can be entered.
func TestElsewhereNamed(t *testing.T) {
	h := newHost(t)
	id := namespaceOf(t, h.Net)
	listenOn(t, h, "tcp4", "0.0.0.0:1001")
	local := namespaceOf(t, h.Local)
	e := NewElsewhere()
	spaces := e.look(t)
	for want, name := range map[uint64]string{id: h.Net.Name, local: h.Local.Name} {
		if space, ok := spaces.namespace(want); !ok || space.Name != name || space.PID != 0 {
			t.Errorf("namespace %d: %+v, %t; want name %q and no process", want, space, ok, name)
		}
	}
	if got := spaces.ofNamespace(local); len(got) != 1 || got[0].Addr.Port() != 1001 || got[0].Partial {
		t.Errorf("listeners: %+v", got)
	}
	e.tables = true
	spaces = e.look(t)
	if _, ok := spaces.namespace(local); ok || !slices.Contains(spaces.Incomplete, tableSpaces) {
		t.Errorf("a namespace without a process is seen through tables: %t, %q", ok, spaces.Incomplete)
	}
	check(t, h.InHost(func() error { // seen from inside it is not another one, but ours is
		inside, err := e.List(t.Context())
		if _, ok := inside.namespace(local); ok {
			err = errors.Join(err, errors.New("the caller's own namespace is among the others"))
		}
		return err
	}))
}

func namespaceOf(t *testing.T, n *host.Namespace) (id uint64) {
	t.Helper()
	check(t, n.Do(func() (err error) {
		id, err = namespaceLink(unix.AT_FDCWD, "/proc/thread-self/ns/net")
		return err
	}))
	return id
}

// TestElsewhereHoldsNothing: after a pass no thread of ours is elsewhere and no file keeps a namespace.
func TestElsewhereHoldsNothing(t *testing.T) {
	n := startElsewhere(t)
	bothWays(t, func(t *testing.T, e *Elsewhere) {
		for range 3 {
			if _, ok := e.look(t).namespace(n.id); !ok {
				t.Fatal("the namespace is not seen")
			}
		}
		deadline := time.Now().Add(5 * time.Second)
		for held := ""; ; time.Sleep(10 * time.Millisecond) { // a thread ends a moment after its goroutine
			if held = heldNamespace(t, n.id); held == "" {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s still holds the namespace", held)
			}
		}
	})
}

// heldNamespace names a thread or file of this process that holds a namespace.
func heldNamespace(t *testing.T, id uint64) string {
	t.Helper()
	want := fmt.Sprintf("net:[%d]", id)
	for _, pattern := range []string{"/proc/self/task/*/ns/net", "/proc/self/fd/*"} {
		paths, err := filepath.Glob(pattern)
		check(t, err)
		for _, path := range paths {
			if target, _ := os.Readlink(path); target == want {
				return path
			}
		}
	}
	return ""
}

// TestElsewhereEnds: a process that ends meanwhile is nothing, and the next one of its namespace is asked.
func TestElsewhereEnds(t *testing.T) {
	gone, n := startElsewhere(t), startElsewhere(t)
	gone.stop()
	buffer := make([]byte, messageBuffer)
	ended := &space{Namespace: Namespace{ID: gone.id}, pids: []int32{gone.pid}}
	reused := &space{Namespace: Namespace{ID: gone.id}, pids: []int32{n.pid}}
	second := &space{Namespace: Namespace{ID: n.id}, pids: []int32{gone.pid, n.pid}}
	for _, tt := range []struct {
		name  string
		space *space
		gone  bool
	}{{"ended", ended, true}, {"another process has the PID", reused, true}, {"the first has ended", second, false}} {
		_, entering := func() (held contents, err error) {
			done := make(chan struct{})
			onOwnThread(func() {
				held, err = tt.space.enter(t.Context(), buffer)
				close(done)
			})
			<-done
			return held, err
		}()
		_, reading := tt.space.readTables(t.Context(), usage{})
		for way, err := range map[string]error{"entering": entering, "reading": reading} {
			if isGone(err) != tt.gone || err != nil && !tt.gone {
				t.Errorf("%s, %s: %v", tt.name, way, err)
			}
		}
	}
	e := NewElsewhere()
	e.tables = true
	closed, err := e.readAll(t.Context(), []*space{ended, reused}, map[uint64]contents{})
	if closed || err != nil {
		t.Errorf("reading what has ended: %t, %v", closed, err)
	}
}

// fill opens UDP sockets in a namespace, on ports from first on, that live as long as the test. They are in a table of files of
// its own: there are more than a process may have.
func (n *elsewhere) fill(t *testing.T, first, count int) {
	t.Helper()
	ready, stop, ended := make(chan error, 1), make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-ended })
	onOwnThread(func() {
		defer close(ended)
		file, err := unix.Open(procPath(n.pid, "ns/net"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(unix.Setns(file, unix.CLONE_NEWNET), unix.Close(file), unix.Unshare(unix.CLONE_FILES))
		}
		for port := first; err == nil && port < first+count; port++ {
			var fd int
			if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
				err = unix.Bind(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
			}
		}
		ready <- err
		<-stop
	})
	check(t, <-ready)
}

// TestElsewhereFull: of a namespace that holds too much, what is kept is bounded, and that is said, whatever else it holds.
func TestElsewhereFull(t *testing.T) {
	n := startElsewhere(t)
	n.do(t, func() error { // a socket that is in none of the lists
		conn, err := net.Dial("udp6", "[::1]:9")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	n.fill(t, 1, mostSockets/2)
	n.fill(t, 1+mostSockets/2, mostSockets/2+1)
	bothWays(t, func(t *testing.T, e *Elsewhere) {
		spaces := e.look(t)
		if kept := len(spaces.ofNamespace(n.id)); kept != mostSockets || !slices.Contains(spaces.Incomplete, fullSpaces) {
			t.Errorf("%d sockets are kept; it says %q", kept, spaces.Incomplete)
		}
	})
}

// TestElsewhereHidden: what /proc does not show at all is missed too.
func TestElsewhereHidden(t *testing.T) {
	netns.RequireRoot(t, "becomes another user")
	startElsewhere(t)
	_, line, _ := childIn(t, "spaces", syscall.CLONE_NEWNS)
	if !strings.Contains(line, hiddenSpaces) {
		t.Errorf("it says %s, want %q", line, hiddenSpaces)
	}
}

// hiddenInProc is the role of a process of an ordinary user whose /proc lists no processes of others.
func hiddenInProc() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, "hidepid=invisible"); err != nil {
		return err
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(nobody), syscall.Setuid(nobody)); err != nil {
		return err
	}
	spaces, err := NewElsewhere().List(context.Background())
	fmt.Printf("%q\n", spaces.Incomplete)
	return err
}

func TestElsewhereStops(t *testing.T) {
	startElsewhere(t)
	bothWays(t, func(t *testing.T, e *Elsewhere) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.List(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("List: %v", err)
		}
	})
}

// TestListenersComeFirst: the kernel shows what listens before it shows connections, with as many as fill several pages
// of each, and whatever state they are in.
func TestListenersComeFirst(t *testing.T) {
	n := startElsewhere(t)
	n.do(t, func() error {
		for i := range 100 {
			address := fmt.Sprintf("127.0.0.1:%d", 2000+i)
			if i%2 == 1 {
				address = fmt.Sprintf("[::]:%d", 2000+i)
			}
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { listener.Close() })
			for j := range 3 {
				conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", 2000+i), time.Second)
				if err != nil {
					return err
				}
				if j == 0 {
					conn.Close() // half-closed on the other side
					continue
				}
				t.Cleanup(func() { conn.Close() })
			}
		}
		return nil
	})
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(procPath(n.pid, "net/"+name))
		check(t, err)
		lines, listening, after := bufio.NewScanner(strings.NewReader(string(text))), 0, 0
		lines.Scan()
		for lines.Scan() {
			if strings.Fields(lines.Text())[3] == "0A" {
				listening++
				if after > 0 {
					t.Errorf("%s: a listener stands behind %d connections", name, after)
				}
			} else {
				after++
			}
		}
		if listening != 50 || after < 100 {
			t.Errorf("%s shows %d listeners and %d others: the test proves nothing", name, listening, after)
		}
		var got int
		check(t, readTable(TCP, strings.NewReader(string(text)), func(Listener) error { got++; return nil }))
		if got != listening {
			t.Errorf("%s: %d listeners were read of %d", name, got, listening)
		}
	}
}
