// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// terminal is a screen that is drawn over and over.
type terminal struct {
	in, out *os.File
	mu      sync.Mutex
	before  *unix.Termios     // what in was like; nil: it is no terminal, or not ours
	pressed func(keys string) // is given what is pressed beside q, nil: nobody cares
}

// The orders of a terminal: its other screen, no cursor and no line that runs over while the picture stands.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
	leaveScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

func openTerminal(in *os.File, out io.Writer) (*terminal, error) {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return nil, errors.New("--watch draws on a terminal, and stdout is none: add --format json for a line each time something changes")
	}
	if name := os.Getenv("TERM"); name == "dumb" {
		return nil, fmt.Errorf("--watch cannot draw on a terminal of type %s: set TERM to what it is, or add --format json for a line each time something changes", name)
	}
	return &terminal{in: in, out: f}, nil
}

// size is the number of columns and lines, 0 for unknown.
func (t *terminal) size() (width, height int) {
	width, height, err := term.GetSize(int(t.out.Fd()))
	if err != nil {
		return 0, 0
	}
	return width, height
}

func (t *terminal) write(text string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.out.WriteString(text); err != nil {
		return fmt.Errorf("cannot draw on the terminal: %w", err)
	}
	return nil
}

// enter takes the terminal over until leave is called. quit is called when somebody presses q; redraw is told when the
// screen has another size, or is ours again after a stop.
func (t *terminal) enter(ctx context.Context, quit func(), redraw chan<- struct{}) (leave func() error) {
	t.take()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGWINCH, syscall.SIGTSTP)
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case got := <-signals:
				if got == syscall.SIGTSTP {
					t.stop()
				}
				select {
				case redraw <- struct{}{}:
				default:
				}
			}
		}
	})
	if t.before != nil {
		go t.listen(quit, redraw) // ends with the process: a read of a terminal cannot be called off
	}
	return func() error {
		signal.Stop(signals)
		cancel()
		done.Wait()
		return t.giveBack()
	}
}

// take switches to the other screen, and has keys come one by one and unseen; signals by keys stay.
func (t *terminal) take() {
	t.before = nil
	if state, err := unix.IoctlGetTermios(int(t.in.Fd()), unix.TCGETS); err == nil {
		keys := *state
		keys.Lflag &^= unix.ICANON | unix.ECHO
		keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
		if unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &keys) == nil {
			t.before = state
		}
	}
	_ = t.write(enterScreen) // the first picture tells what is wrong
}

// giveBack makes the terminal what it was.
func (t *terminal) giveBack() error {
	err := t.write(leaveScreen)
	if t.before != nil {
		err = errors.Join(err, unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, t.before))
	}
	return err
}

// stop stops the process as the terminal's stop key does, with the terminal as it was, and goes on when it is continued.
func (t *terminal) stop() {
	// bash gives the terminal the settings that the job had, and does so just after it has continued the job (seen with 5.2).
	const settled = 100 * time.Millisecond
	_ = t.giveBack()
	// Not SIGSTOP: where no shell could continue it, the kernel lets this one pass. signal.Reset would leave Go's handler in
	// place, which swallows the signal (sigdisable in runtime/signal_unix.go, go1.26).
	var byDefault, before signalAction
	if setAction(unix.SIGTSTP, &byDefault, &before) == nil {
		_ = unix.Kill(os.Getpid(), unix.SIGTSTP)
		time.Sleep(settled)
		_ = setAction(unix.SIGTSTP, &before, nil)
	}
	t.take()
}

// signalAction has room for the kernel's struct sigaction of any architecture. Zero is the default action.
type signalAction [128]byte

// setAction changes what the kernel does about a signal, and stores in before what it did.
func setAction(number syscall.Signal, action, before *signalAction) error {
	const setSize = 8 // of sigset_t, in bytes
	if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(number),
		uintptr(unsafe.Pointer(action)), uintptr(unsafe.Pointer(before)), setSize, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// listen calls quit when somebody presses q, and has the screen drawn anew when another key is pressed.
func (t *terminal) listen(quit func(), redraw chan<- struct{}) {
	var key [64]byte
	for {
		n, err := t.in.Read(key[:])
		if err != nil {
			return
		}
		for _, k := range key[:n] {
			if k == 'q' || k == 'Q' {
				quit()
				return
			}
		}
		if t.pressed == nil {
			continue
		}
		t.pressed(string(key[:n]))
		select {
		case redraw <- struct{}{}:
		default:
		}
	}
}
