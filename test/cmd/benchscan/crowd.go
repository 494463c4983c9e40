// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// workerMode is how benchscan calls itself for each process of a crowd.
const workerMode = "worker"

// crowd is the processes that listen.
type crowd struct {
	folder  string // their cgroups
	workers []*worker
}

type worker struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	group string
}

// gather starts processes, each in a cgroup of its own as systemd would start services.
func gather(n int) (c *crowd, err error) {
	root, err := cgroupRoot()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c = &crowd{folder: filepath.Join(root, fmt.Sprintf("hostagent-benchscan-%d", os.Getpid()))}
	defer func() {
		if err != nil {
			c.disperse()
		}
	}()
	if err := os.Mkdir(c.folder, 0o755); err != nil {
		return c, err
	}
	for i := range n {
		w, err := c.start(self, i)
		if err != nil {
			return c, err
		}
		c.workers = append(c.workers, w)
	}
	for i, w := range c.workers {
		if err := w.expect(); err != nil {
			return c, fmt.Errorf("process %d: %w", i, err)
		}
	}
	return c, nil
}

func (c *crowd) start(self string, i int) (*worker, error) {
	w := &worker{group: filepath.Join(c.folder, fmt.Sprintf("shop-%03d.service", i))}
	if err := os.Mkdir(w.group, 0o755); err != nil {
		return nil, err
	}
	group, err := os.Open(w.group)
	if err != nil {
		return nil, err
	}
	defer group.Close()
	w.cmd = exec.Command(self, workerMode, strconv.Itoa(i))
	w.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	w.cmd.Stderr = os.Stderr
	w.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd()), Pdeathsig: syscall.SIGKILL}
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = bufio.NewReader(out)
	return w, w.cmd.Start()
}

// expect waits until the worker says that it did what it was asked for.
func (w *worker) expect() error {
	line, err := w.out.ReadString('\n')
	if err == nil && line != "done\n" {
		err = fmt.Errorf("it says %q", line)
	}
	return err
}

// connect brings the host to n connections, spread over all processes.
func (c *crowd) connect(n int) error {
	pairs := n / len(c.workers)
	for i, w := range c.workers {
		if _, err := fmt.Fprintln(w.in, pairs); err != nil {
			return err
		}
		if err := w.expect(); err != nil {
			return fmt.Errorf("process %d: %w", i, err)
		}
	}
	return nil
}

// disperse ends the processes and takes their cgroups away.
func (c *crowd) disperse() {
	for _, w := range c.workers {
		w.in.Close()
	}
	for _, w := range c.workers {
		w.cmd.Wait()       //nolint:errcheck // it was told to end
		os.Remove(w.group) //nolint:errcheck // an empty cgroup left behind harms nobody
	}
	os.Remove(c.folder) //nolint:errcheck // likewise
}

// cgroupRoot is where cgroup2 is mounted.
func cgroupRoot() (string, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("cannot find cgroup2: it is not mounted")
}

// work is the life of one process of a crowd: it listens, and connects to itself as often as it is told.
func work(number string) error {
	i, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	first := firstPort + i*perProcess
	var own net.Listener
	for k := range perProcess {
		address := "127.0.0.1"
		// Beside the services that are exposed there are many who are no service of the mesh and listen for the network.
		if k == 0 && (i < exposed || i >= services && i%5 == 0) {
			address = "0.0.0.0"
		}
		l, err := net.Listen("tcp4", net.JoinHostPort(address, strconv.Itoa(first+k)))
		if err != nil {
			return err
		}
		defer l.Close()
		if k == perProcess-1 {
			own = l
		}
	}
	fmt.Println("done")
	var open []net.Conn
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		pairs, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		for len(open) < 2*pairs {
			here, err := net.Dial("tcp4", own.Addr().String())
			if err != nil {
				return err
			}
			there, err := own.Accept()
			if err != nil {
				return err
			}
			open = append(open, here, there)
		}
		fmt.Println("done")
	}
	return nil
}
