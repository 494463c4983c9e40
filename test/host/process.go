// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	stopTimeout  = 5 * time.Second // between SIGTERM and SIGKILL
	pollInterval = 20 * time.Millisecond
	tailLines    = 20
)

// Process is a program that runs until it is stopped, with its output in a file. Children that it leaves are killed when
// it ends. Its methods may be called concurrently.
type Process struct {
	// Name is what the host calls it: "consul", "sidecar web".
	Name string
	// LogPath is the file with its standard output and error.
	LogPath string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and been reaped
}

// Start starts cmd, which was made by a Namespace of this host, with its output in a new log. Close ends it. The context
// of cmd, not one of Start, ends it earlier; context.Background is what a daemon wants.
func (h *Host) Start(name string, cmd *Cmd) (*Process, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("cannot start %s: %w", name, errClosed)
	}
	h.logs++
	path := filepath.Join(h.Dir, "logs", fmt.Sprintf("%02d-%s.log", h.logs, fileName(name)))
	log, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	defer log.Close() // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	p := &Process{Name: name, LogPath: path, cmd: cmd.Cmd, done: make(chan struct{})}
	h.processes = append(h.processes, p)
	go p.reap()
	return p, nil
}

// reap waits for the end of the process, and ends what it leaves behind in its group, as systemd does with a service's.
// The group is killed before the process is reaped: until then no other group can have its number.
func (p *Process) reap() {
	for {
		err := unix.Waitid(unix.P_PID, p.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	_ = unix.Kill(-p.PID(), unix.SIGKILL)
	_ = p.cmd.Wait() // how it ended stands in ProcessState
	close(p.done)
}

// fileName makes a part of a path of a name: what is neither letter nor digit becomes a hyphen.
func fileName(name string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '-'
	}, name)
}

// PID returns the process id. It may belong to somebody else once the process has ended: use Signal.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal; to a process that has ended it is os.ErrProcessDone.
func (p *Process) Signal(signal syscall.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("cannot send %v to %s: %w", signal, p.Name, err)
	}
	return nil
}

// Wait waits for the end of the process and returns its exit code: -1 where a signal ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("cannot wait for the end of %s: %w", p.Name, ctx.Err())
	}
}

// Stop ends the process with SIGTERM, or with SIGKILL where it still runs 5 s later, and returns when it has ended. Only
// the second is an error. A process that has ended already is none.
func (p *Process) Stop() error {
	// A stopped process would not see SIGTERM; SIGCONT does nothing to the others.
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		if err := p.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("%s did not end within %v of SIGTERM and was killed; the end of its log:\n%s", p.Name, stopTimeout, p.tail())
}

// Kill ends the process with SIGKILL and returns when it has ended.
func (p *Process) Kill() error {
	if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-p.done
	return nil
}

// Log returns what the process has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.LogPath)
	if err != nil {
		return fmt.Sprintf("%s(cannot read the log: %v)\n", text, err)
	}
	return string(text)
}

// WaitLog waits until the log contains text. A process that ends before is an error with the end of its log.
func (p *Process) WaitLog(ctx context.Context, text string) error {
	return p.wait(ctx, fmt.Sprintf("its log has %q", text), func(context.Context) error {
		if strings.Contains(p.Log(), text) {
			return nil
		}
		return errors.New("not there yet")
	})
}

// wait polls check until it returns nil. It gives up, with check's last error and the end of the log, when ctx ends or
// the process does.
func (p *Process) wait(ctx context.Context, until string, check func(context.Context) error) error {
	for ticker := time.Tick(pollInterval); ; {
		ended := false
		select {
		case <-p.done:
			ended = true // looked at before check: what was written last still counts
		default:
		}
		err := check(ctx)
		switch {
		case err == nil:
			return nil
		case ended:
			return fmt.Errorf("%s ended (%v) before %s: %w; the end of its log:\n%s", p.Name, p.cmd.ProcessState, until, err, p.tail())
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait until %s of %s: %w: %w; the end of its log:\n%s", until, p.Name, ctx.Err(), err, p.tail())
		case <-p.done:
		case <-ticker:
		}
	}
}

// tail returns the last lines of the log, without control characters, for an error.
func (p *Process) tail() string {
	lines := strings.Split(strings.TrimRight(p.Log(), "\n"), "\n")
	text := strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}
