// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const namesDir = "/run/netns" // where iproute2 looks for names

var (
	errClosed = errors.New("the host is closed")
	errGoexit = errors.New("the closure ended its goroutine (t.Fatal inside it?): return an error instead")
)

// Namespace is one named network namespace. A person enters it with `ip netns exec NAME`.
//
// A namespace is a property of a thread, not of a goroutine, and a program started with Pdeathsig dies with the
// *thread* that forked it. So the namespace keeps threads of its own: each belongs to one goroutine locked to it, runs
// one closure at a time, is used again, and ends only when the host is closed. All methods may be called concurrently.
type Namespace struct {
	// Name is the name under /run/netns.
	Name string

	handle netns.NsHandle

	mu     sync.Mutex
	idle   []chan task
	closed bool
}

type task struct {
	run    func() error
	result chan<- error
}

// newNamespace makes the namespace and sets its loopback up.
func newNamespace(name string) (*Namespace, error) {
	n := &Namespace{Name: name, handle: netns.None()}
	worker, err := n.startWorker(func() (err error) {
		n.handle, err = netns.NewNamed(name)
		return err
	})
	if err != nil {
		err = fmt.Errorf("cannot make network namespace %q: %w (needs root, or user and mount namespaces of one's own "+
			"with a tmpfs on /run)", name, err)
		return nil, errors.Join(err, removeName(name))
	}
	n.idle = append(n.idle, worker)
	err = n.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot set lo of namespace %q up: %w", name, err), n.close())
	}
	return n, nil
}

// Do runs f on a thread inside the namespace and returns its error. Sockets that f opens and programs that it starts
// belong to the namespace for good. Goroutines that f starts do not run inside it. f must not call t.Fatal or t.Skip.
func (n *Namespace) Do(f func() error) error {
	worker, err := n.worker()
	if err != nil {
		return fmt.Errorf("cannot enter namespace %q: %w", n.Name, err)
	}
	result := make(chan error, 1)
	worker <- task{f, result}
	return <-result
}

// worker returns an idle worker, or a new one: a closure that waits (a connection that nobody answers) holds up no other.
func (n *Namespace) worker() (chan task, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errClosed
	}
	if last := len(n.idle) - 1; last >= 0 {
		worker := n.idle[last]
		n.idle = n.idle[:last]
		return worker, nil
	}
	return n.startWorker(func() error { return netns.Set(n.handle) })
}

// startWorker starts a goroutine with a thread of its own; enter takes the thread into the namespace.
func (n *Namespace) startWorker(enter func() error) (chan task, error) {
	tasks, entered := make(chan task), make(chan error, 1)
	go n.work(tasks, entered, enter)
	return tasks, <-entered
}

func (n *Namespace) work(tasks chan task, entered chan<- error, enter func() error) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		// The main thread stands for the whole process in /proc/self and cannot end before it. While it is held
		// here, another goroutine cannot land on it.
		other := make(chan error, 1)
		go n.work(tasks, other, enter)
		entered <- <-other
		runtime.UnlockOSThread()
		return
	}
	// Not unlocked from here on: the thread ends with the goroutine, and what is left running from it dies with it.
	if err := enter(); err != nil {
		entered <- err
		return
	}
	entered <- nil
	for t := range tasks {
		err := t.call()
		n.park(tasks)
		t.result <- err
	}
}

func (t task) call() error {
	returned := false
	defer func() {
		if !returned {
			t.result <- errGoexit
		}
	}()
	err := t.run()
	returned = true
	return err
}

// park makes a worker idle, or ends it where the namespace was closed meanwhile.
func (n *Namespace) park(worker chan task) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		close(worker)
		return
	}
	n.idle = append(n.idle, worker)
}

// close ends the idle workers (a busy one ends with its closure) and takes the name away. The kernel deletes the
// namespace itself when the last thread and socket in it have gone. A second call does nothing.
func (n *Namespace) close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	for _, worker := range n.idle {
		close(worker)
	}
	n.idle = nil
	return errors.Join(n.handle.Close(), removeName(n.Name))
}

// removeName deletes a named namespace, also one whose making stopped half-way. A missing one is no error.
func removeName(name string) error {
	path := filepath.Join(namesDir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot unmount namespace %q: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot delete namespace %q: %w", path, err)
	}
	return nil
}

// Dial connects from inside the namespace. network is tcp or udp, with or without 4 or 6; address is IP:PORT without a
// name, because a resolver would ask on other threads, outside the namespace.
func (n *Namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.DialFrom(ctx, network, 0, address)
}

// DialFrom is Dial from a source port of one's choice; 0 lets the kernel choose.
func (n *Namespace) DialFrom(ctx context.Context, network string, sourcePort uint16, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("cannot dial %q: %w (want IP:PORT)", address, err)
	}
	dialer := net.Dialer{Control: reuseAddress}
	if sourcePort != 0 {
		dialer.LocalAddr = &net.TCPAddr{Port: int(sourcePort)}
		if strings.HasPrefix(network, "udp") {
			dialer.LocalAddr = &net.UDPAddr{Port: int(sourcePort)}
		}
	}
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// reuseAddress lets a source port be used again while an earlier connection from it is in TIME_WAIT.
func reuseAddress(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, set)
}

// Listening tells whether a TCP socket listens on port in the namespace, whatever its address. It connects to nothing.
func (n *Namespace) Listening(port uint16) (bool, error) {
	found := false
	err := n.Do(func() error {
		for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			file, err := os.Open(table)
			if err != nil {
				return err
			}
			listening, err := tableListens(bufio.NewScanner(file), port)
			if err = errors.Join(err, file.Close()); err != nil {
				return fmt.Errorf("cannot read %q: %w", table, err)
			}
			found = found || listening
		}
		return nil
	})
	return found, err
}

// tableListens looks for a listener in the text of /proc/net/tcp, proc_pid_net(5): "sl local_address rem_address st ...",
// the port in hexadecimal behind the local address' colon, and state 0A for LISTEN.
func tableListens(lines *bufio.Scanner, port uint16) (bool, error) {
	suffix := fmt.Sprintf(":%04X", port)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 3 && fields[3] == "0A" && strings.HasSuffix(fields[1], suffix) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Command is exec.CommandContext for a program inside the namespace. Only the network is another: files, users and
// processes are the caller's.
func (n *Namespace) Command(ctx context.Context, name string, args ...string) *Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second // a child of the program may hold its output open: Run must not wait for that one
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return &Cmd{Cmd: cmd, namespace: n}
}

// Cmd is an exec.Cmd that starts inside a namespace. It is in a process group of its own, so that Ctrl-C at a terminal
// reaches the program that made the host and leaves the orderly end to it. It is killed when that program dies, and
// when the host is closed.
type Cmd struct {
	*exec.Cmd
	namespace *Namespace
}

// Start is exec.Cmd's, inside the namespace.
func (c *Cmd) Start() error { return c.namespace.Do(c.Cmd.Start) }

// Run is exec.Cmd's, inside the namespace.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd's, inside the namespace; standard error is not kept.
func (c *Cmd) Output() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout = &out
	err := c.Run()
	return out.Bytes(), err
}

// CombinedOutput is exec.Cmd's, inside the namespace.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}
