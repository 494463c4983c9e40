// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// quiet is an agent that has the same services whenever it is asked.
type quiet struct {
	*consul.Client            // nil: nothing else is asked of it
	mu             sync.Mutex // hands over between the goroutines: the race detector sees no order in a sleep
	fails          error
}

func (q *quiet) Services(context.Context) (consul.Answer, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return consul.Answer{}, q.fails
}

// TestWatchingLooksWhenSomethingChanged counts looks over time.
func TestWatchingLooksWhenSomethingChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var listening []sockets.Listener
		agent := &quiet{}
		looks, again := 0, 0
		redraw, wakes := make(chan struct{}), make(chan func(), 1)
		host := &glimpse{parts: hostagent.Parts{
			Registry: agent,
			Listen: func(context.Context) ([]sockets.Listener, error) {
				agent.mu.Lock()
				defer agent.mu.Unlock()
				return listening, nil
			},
		}}
		w := &watching[hostagent.Scan]{
			peek: host.peek, every: lookEvery, apart: looksApart,
			look: func(context.Context) (*hostagent.Scan, error) {
				agent.mu.Lock()
				defer agent.mu.Unlock()
				looks++
				return &hostagent.Scan{}, nil
			},
			show:    func(*hostagent.Scan, error) error { return nil },
			redraw:  redraw,
			again:   func() error { again++; return nil },
			changes: func(_ context.Context, wake func()) error { wakes <- wake; return nil },
		}
		ctx, cancel := context.WithCancel(t.Context())
		var last *hostagent.Scan
		var err error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			last, err = w.run(ctx)
		}()
		wake := <-wakes
		after := func(what string, d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			agent.mu.Lock()
			defer agent.mu.Unlock()
			if looks != want {
				t.Errorf("%s: %d looks, want %d", what, looks, want)
			}
		}
		change := func(f func()) {
			agent.mu.Lock()
			defer agent.mu.Unlock()
			f()
		}
		after("at first", 0, 1)
		after("nothing happens", 5*time.Second, 1)
		change(func() { listening = []sockets.Listener{*listener("0.0.0.0:80")} })
		after("a listener comes", 1100*time.Millisecond, 2)
		change(func() { agent.fails = errors.New("gone") })
		after("the agent goes", 1100*time.Millisecond, 3)
		after("nothing happens for long", 10*time.Second, 4)
		wake()
		after("an event", time.Millisecond, 5)
		wake()
		wake()
		after("more events at once", time.Millisecond, 5)
		after("a little later", looksApart, 6)
		redraw <- struct{}{}
		after("another size", 0, 6)
		if again != 1 {
			t.Errorf("drawn %d times for another size", again)
		}
		cancel()
		<-ended
		if last == nil || err != nil {
			t.Errorf("it ended with %v, %v", last, err)
		}
	})
}

// viewer reads what is written to a pseudo-terminal.
type viewer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (v *viewer) read(control *os.File) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := control.Read(buffer)
		if err != nil {
			return
		}
		v.mu.Lock()
		v.text.Write(buffer[:n])
		v.mu.Unlock()
	}
}

// until waits for want, and returns all that was written so far.
func (v *viewer) until(t *testing.T, want string) string {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		v.mu.Lock()
		text := v.text.String()
		v.mu.Unlock()
		if strings.Contains(text, want) {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %q in %q", want, text)
		}
	}
}

// TestPicture is a watch on a real terminal, from the first picture to the key that ends it.
func TestPicture(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	screen, control := pseudoTerminal(t, 60, 12)
	seen := &viewer{}
	go seen.read(control)
	term, err := openTerminal(screen, screen)
	if err != nil {
		t.Fatal(err)
	}
	before := termios(t, screen)
	redraw, quit := make(chan struct{}, 1), make(chan struct{})
	leave := term.enter(t.Context(), func() { close(quit) }, redraw)
	if during := termios(t, screen); during.Lflag&(unix.ICANON|unix.ECHO) != 0 || during.Lflag&unix.ISIG == 0 {
		t.Errorf("keys are read with flags %x", during.Lflag)
	}
	p := &picture[hostagent.Scan]{terminal: term, how: shownScan()}
	show := func(findings ...hostagent.Finding) {
		t.Helper()
		if err := p.show(scanOf(nil, findings...), nil); err != nil {
			t.Fatal(err)
		}
	}
	web, api := exposed("web", "0.0.0.0:8080", process("nginx"), ""), exposed("api", "0.0.0.0:9090", nil, "")
	show(web)
	first := seen.until(t, "q ends")
	for _, want := range []string{enterScreen, "\x1b[33mwarning exposed-listener\x1b[0m", "… and ", " more lines"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first picture lacks %q: %q", want, first)
		}
	}
	show(web)
	show(web, api)
	both := seen.until(t, "\x1b[7mwarning exposed-listener")
	if n := strings.Count(both, "\x1b[H"); n != 2 {
		t.Errorf("%d pictures were drawn of 2 that differ", n)
	}
	if err := p.show(nil, errors.New("interrupted\x1b[2J")); err != nil {
		t.Fatal(err)
	}
	seen.until(t, `error: interrupted\u001b[2J`)

	resize(t, screen, 200, 60)
	if err := unix.Kill(os.Getpid(), unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	<-redraw
	if err := p.again(); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "the network reaches it at 10.0.0.5 (eth0) without mTLS and without intentions")
	if _, err := control.WriteString("xq"); err != nil {
		t.Fatal(err)
	}
	<-quit
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	seen.until(t, leaveScreen)
	if diff := cmp.Diff(before, termios(t, screen)); diff != "" {
		t.Errorf("the terminal is another than before (-want +got):\n%s", diff)
	}
}

func termios(t *testing.T, f *os.File) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

func resize(t *testing.T, f *os.File, columns, rows uint16) {
	t.Helper()
	if err := unix.IoctlSetWinsize(int(f.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
}

func TestWatchWantsATerminal(t *testing.T) {
	t.Setenv("TERM", "xterm")
	if _, err := openTerminal(os.Stdin, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "--format json") {
		t.Errorf("on no terminal: %v", err)
	}
	screen, _ := pseudoTerminal(t, 80, 24)
	t.Setenv("TERM", "dumb")
	if _, err := openTerminal(screen, screen); err == nil || !strings.Contains(err.Error(), "set TERM") {
		t.Errorf("on a dumb terminal: %v", err)
	}
}

func TestFrames(t *testing.T) {
	lines := []string{"one", "\x1b[31mtwo is long\x1b[0m", "three"}
	feet := []string{"a long foot", "foot"}
	const line, end = "\x1b[2K", "\x1b[0m\r\n"
	for _, test := range []struct {
		width, height int
		want          string
	}{
		{0, 0, line + "one" + end + line + "\x1b[31mtwo is long\x1b[0m" + end + line + "three" + end + "\x1b[J" + line + "a long foot\x1b[0m"},
		{6, 4, line + "one" + end + line + "\x1b[31mtwo is" + end + line + "three" + end + "\x1b[J\x1b[4;1H" + line + "foot\x1b[0m"},
		{40, 3, line + "one" + end + line + "\x1b[31mtwo is long\x1b[0m" + end + "\x1b[J\x1b[3;1H" + line + "… and 1 more line  a long foot\x1b[0m"},
		{29, 1, line + "one" + end + "\x1b[J\x1b[1;1H" + line + "… and 2 more lines  foot\x1b[0m"},
		{22, 1, line + "one" + end + "\x1b[J\x1b[1;1H" + line + "… and 2 more lines  fo\x1b[0m"},
	} {
		if diff := cmp.Diff("\x1b[H"+test.want, frameOf(lines, 0, feet, test.width, test.height, false)); diff != "" {
			t.Errorf("%d by %d (-want +got):\n%s", test.width, test.height, diff)
		}
	}
}

func TestScrolling(t *testing.T) {
	p := &scrolling{}
	for _, test := range []struct {
		keys        string
		lines, room int
		want        int
	}{
		{"k", 10, 4, 0}, {"j", 10, 4, 1}, {"\x1b[B", 10, 4, 2}, {"\x1bOA", 10, 4, 1}, {" ", 10, 4, 5}, {"\x1b[6~", 10, 4, 6},
		{"b", 10, 4, 2}, {"G", 10, 4, 6}, {"x", 10, 4, 6}, {"", 8, 4, 4}, {"", 3, 4, 0}, {"\x1b[F", 10, 4, 6}, {"g", 10, 4, 0},
		{"\x1b[B\x1bOB\x1b[5~j", 10, 4, 1}, {"jj\x1b", 10, 4, 3}, {"\x1b[", 10, 4, 3}, {"\x1b[4~", 10, 4, 6}, // a key that is held comes in one piece
	} {
		p.scroll(test.keys)
		if got := p.scrolled(test.lines, test.room); got != test.want {
			t.Errorf("after %q the top line of %d is %d, want %d", test.keys, test.lines, got, test.want)
		}
	}
	got := frameOf([]string{"one", "two", "three", "four"}, 1, []string{"foot"}, 40, 3, false)
	if want := "\x1b[H\x1b[2Ktwo\x1b[0m\r\n\x1b[2Kthree\x1b[0m\r\n\x1b[J\x1b[3;1H\x1b[2Klines 2-3 of 4  foot\x1b[0m"; got != want {
		t.Errorf("scrolled, the frame is %q, want %q", got, want)
	}
}

func TestFrameKeepsTheLastColumn(t *testing.T) {
	frame := frameOf([]string{"exactly ten"}, 0, []string{"q ends"}, 11, 3, false)
	if _, after, _ := strings.Cut(frame, "exactly ten"); strings.Contains(strings.SplitN(after, "\n", 2)[0], "\x1b[K") {
		t.Errorf("the line is cleared where the cursor stays, on its last character: %q", frame)
	}
}

func TestJSONLines(t *testing.T) {
	var out, errs bytes.Buffer
	lines := &jsonLines[hostagent.Scan]{out: &out, errors: &errs, document: shownScan().document}
	scan := scanOf(nil, exposed("web", "0.0.0.0:8080", process("nginx"), ""))
	for _, err := range []error{
		lines.show(scan, nil), lines.show(scan, nil), lines.show(nil, errors.New("no\x1b")), lines.show(nil, errors.New("no\x1b")), lines.show(scanOf(nil), nil),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "\n"); n != 2 || strings.Contains(out.String(), "  ") {
		t.Errorf("%d lines of 2 scans that differ:\n%s", n, &out)
	}
	if want := "hostagent: no\\u001b\n"; errs.String() != want {
		t.Errorf("errors %q, want %q", &errs, want)
	}
}

func TestCommandLines(t *testing.T) {
	asked := 0
	read := func(p sockets.Process) ([]string, bool) {
		asked++
		return []string{"/usr/bin/" + p.Name, "--password", "two words", "", "\x1b[2J" + strings.Repeat("x", 100)}, true
	}
	for _, test := range []struct {
		terminal bool
		euid     int
		want     bool
	}{{true, 0, true}, {true, 1000, false}, {false, 0, false}} {
		asked = 0
		s := &screen{width: 66, now: statusNow, terminal: test.terminal}
		s.showCommandLines(test.euid, read)
		text := s.table(scanOf(nil, exposed("web", "0.0.0.0:8080", process("nginx", "nginx"), "")))
		const line = `    runs:   /usr/bin/nginx --password 'two words' '' \u001b[2Jxxx…` + "\n"
		if shown := strings.Contains(text, line); shown != test.want || (asked > 0) != test.want {
			t.Errorf("terminal %t, uid %d: shown %t, asked %d times\n%s", test.terminal, test.euid, shown, asked, text)
		}
		checkLines(t, text, 66)
	}
	for want, args := range map[string][]string{
		"nginx: master process nginx -c x.conf\n": {"nginx: master process nginx -c x.conf"}, // a title, not a word with spaces
		"redis-server 0.0.0.0:6379\n":             {"redis-server 0.0.0.0:6379", "", "", ""},
	} {
		s := &screen{terminal: true}
		s.showCommandLines(0, func(sockets.Process) ([]string, bool) { return args, true })
		if text := s.table(scanOf(nil, exposed("web", "0.0.0.0:8080", process("nginx"), ""))); !strings.Contains(text, "runs:   "+want) {
			t.Errorf("%q is shown as\n%s", args, text)
		}
	}
	s := &screen{terminal: true}
	s.showCommandLines(0, func(sockets.Process) ([]string, bool) { return nil, false })
	if text := s.table(scanOf(nil, exposed("web", "0.0.0.0:8080", process("nginx"), ""))); strings.Contains(text, "runs:") {
		t.Errorf("what cannot be seen is shown:\n%s", text)
	}
}

func TestLasting(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Hour: "just now", 59 * time.Second: "just now", time.Minute: "1 min", 119 * time.Minute: "119 min",
		2 * time.Hour: "2 hours", 49 * time.Hour: "2 days", 24000 * time.Hour: "1000 days",
	} {
		if got := lasting(d); got != want {
			t.Errorf("lasting(%s) = %q, want %q", d, got, want)
		}
	}
}

// TestManyListenersPrintFast: every socket of a busy host, in processes of their own.
func TestManyListenersPrintFast(t *testing.T) {
	scan := scanOf(nil)
	for i := range 20_000 {
		scan.Listeners = append(scan.Listeners, hostagent.Reachable{Listener: *listener(fmt.Sprintf("10.0.0.1:%d", 1+i)), Owner: process("java", "java")})
	}
	start := time.Now()
	text := (&screen{width: 80, colour: true}).table(scan)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("20,000 listeners took %s", took)
	} else {
		t.Logf("20,000 listeners: %d kB in %s", len(text)/1000, took)
	}
}

// TestWatchStopsAndGoesOn stops it as Ctrl-Z does, under a shell that continues it.
func TestWatchStopsAndGoesOn(t *testing.T) {
	bin := programs(t)
	if err := serve(t.Cleanup, "127.0.0.1:8500", consulAgent("testdata/agent")); err != nil {
		t.Fatal(err)
	}
	screen, control := pseudoTerminal(t, 100, 40)
	seen := &viewer{}
	go seen.read(control)
	cmd := exec.Command("bash", "-mc", `"$0" scan --watch --fail-on never; echo "stopped by $?"; fg; echo "ended by $?"`, filepath.Join(bin, "hostagent"))
	cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(15*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	seen.until(t, "q ends")
	if _, err := control.WriteString("\x1a"); err != nil {
		t.Fatal(err)
	}
	stopped := seen.until(t, fmt.Sprintf("stopped by %d", 128+int(unix.SIGTSTP)))
	if !strings.Contains(stopped, leaveScreen) {
		t.Errorf("it stops on its own screen: %q", stopped)
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, since, _ := strings.Cut(seen.until(t, "stopped by"), "stopped by"); strings.Contains(since, "q ends") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it draws nothing after it was continued")
		}
	}
	if _, err := control.WriteString("q"); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "ended by 0")
	_ = cmd.Wait()
}

// TestWatchEndsWithTheTerminalAsItWas runs the program on a terminal of its own: a listener that comes shows by itself, and
// what ends the program leaves the terminal as it was.
func TestWatchEndsWithTheTerminalAsItWas(t *testing.T) {
	bin := programs(t)
	if err := serve(t.Cleanup, "127.0.0.1:8500", consulAgent("testdata/agent")); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(*os.Process, *os.File) error{
		"q":       func(_ *os.Process, control *os.File) error { _, err := control.WriteString("q"); return err },
		"Ctrl-C":  func(_ *os.Process, control *os.File) error { _, err := control.WriteString("\x03"); return err },
		"SIGTERM": func(p *os.Process, _ *os.File) error { return p.Signal(unix.SIGTERM) },
		"SIGHUP":  func(p *os.Process, _ *os.File) error { return p.Signal(unix.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			screen, control := pseudoTerminal(t, 100, 40)
			before := termios(t, screen)
			seen := &viewer{}
			go seen.read(control)
			cmd := exec.Command(filepath.Join(bin, "hostagent"), "scan", "--watch", "--fail-on", "warning")
			cmd.Env = append(os.Environ(), "TERM=xterm", "NO_COLOR=")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(15*time.Second, func() { _ = cmd.Process.Kill() })
			defer kill.Stop()
			seen.until(t, "q ends")
			squatter, err := net.Listen("tcp4", "0.0.0.0:21077")
			if err != nil {
				t.Fatal(err)
			}
			defer squatter.Close()
			seen.until(t, "\x1b[7mwarning squatted-port\x1b[0m  tcp 0.0.0.0:21077")
			if err := end(cmd.Process, control); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitFindings {
				t.Errorf("it ended with %s", cmd.ProcessState)
			}
			// How many findings there are depends on who else is on this machine: what listens in another namespace serves, too.
			const summary = "; 2 mesh services, 2 sidecar ports for the network: 21000-21001\r\n" // a line of a picture ends otherwise
			text := seen.until(t, summary)
			if !regexp.MustCompile(regexp.QuoteMeta(leaveScreen) + `\d+ warnings?` + summary + "$").MatchString(text) {
				t.Errorf("the summary does not stand behind the picture: %q", text)
			}
			if diff := cmp.Diff(before, termios(t, screen)); diff != "" {
				t.Errorf("the terminal is another than before (-want +got):\n%s", diff)
			}
		})
	}
}
