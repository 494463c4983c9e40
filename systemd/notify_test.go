// SPDX-License-Identifier: MPL-2.0

package systemd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// manager is the systemd that a process was started by.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// startedBy sets the environment of a process that systemd started with WatchdogSec=.
func startedBy(t *testing.T, address, watchdog string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	t.Setenv("WATCHDOG_USEC", watchdog)
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	return &manager{t, conn}
}

var moment = regexp.MustCompile(`MONOTONIC_USEC=[1-9][0-9]*`)

// got returns the messages that came since the last call, a line each.
func (m *manager) got() string {
	m.t.Helper()
	var messages []string
	buffer := make([]byte, 4096)
	for {
		_ = m.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // what was sent is there already
		n, err := m.conn.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return strings.Join(messages, "\n")
		}
		if err != nil {
			m.t.Fatal(err)
		}
		text := moment.ReplaceAllString(string(buffer[:n]), "MONOTONIC_USEC=now")
		messages = append(messages, strings.ReplaceAll(text, "\n", " | "))
	}
}

func (m *manager) want(when, want string) {
	m.t.Helper()
	if diff := cmp.Diff(want, m.got()); diff != "" {
		m.t.Errorf("%s (-want +got)\n%s", when, diff)
	}
}

func newNotifier(t *testing.T) *Notifier {
	return NewNotifier(func(err error) { t.Errorf("systemd is not told: %v", err) })
}

// TestNotifierTellsALife: from the start to the end, with a reload that fails and one that does not.
func TestNotifierTellsALife(t *testing.T) {
	m := startedBy(t, filepath.Join(t.TempDir(), "notify"), "60000000")
	n := newNotifier(t)
	m.want("before the loop runs", "")
	n.Alive("starting")
	m.want("at the first sign of life", "READY=1 | WATCHDOG=1 | STATUS=starting")
	n.Alive("")
	n.Alive("starting")
	m.want("when nothing is new", "")
	n.Alive("guarding")
	m.want("when a line is new", "STATUS=guarding")
	n.Reloading()
	m.want("at SIGHUP", "RELOADING=1 | MONOTONIC_USEC=now")
	n.Reloaded(errors.New("hostagent.hcl:1: no such key\nREADY=1"))
	m.want("when the configuration is wrong", "READY=1 | STATUS=configuration not reloaded: hostagent.hcl:1: no such key READY=1; guarding")
	n.Alive("guarding two")
	m.want("after that", "STATUS=configuration not reloaded: hostagent.hcl:1: no such key READY=1; guarding two")
	n.Reloading()
	n.Reloaded(nil)
	m.want("when it is mended", "RELOADING=1 | MONOTONIC_USEC=now\nREADY=1 | STATUS=guarding two")
	n.Stopping()
	n.Alive("guarding")
	m.want("at the end", "STOPPING=1 | STATUS=stopping")
	n.Reloading()
	n.Reloaded(errors.New("too late"))
	m.want("when a reload ends after that", "")
}

// TestNotifierReloadsEarly: what reloads before the loop runs does not make the service ready, and one whose end systemd was
// not told of is ended by the next sign of life.
func TestNotifierReloadsEarly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	m := startedBy(t, path, "")
	n := NewNotifier(func(error) {})
	n.Reloading()
	n.Reloaded(nil)
	m.want("before the loop runs", "RELOADING=1 | MONOTONIC_USEC=now")
	n.Alive("starting")
	m.want("at the first sign of life", "READY=1 | STATUS=starting")
	n.Reloading()
	m.conn.Close()
	_ = os.Remove(path)
	n.Reloaded(nil)
	m = startedBy(t, path, "")
	n.broken = time.Now().Add(-sendAgain)
	n.Alive("")
	m.want("when systemd reads again", "READY=1")
}

// TestNotifierFeedsTheWatchdog: four times in its interval, however often the loop goes round, and not for another process.
func TestNotifierFeedsTheWatchdog(t *testing.T) {
	for name, c := range map[string]struct {
		usec, pid string
		want      int // in an interval of one minute
	}{
		"a minute":        {"60000000", strconv.Itoa(os.Getpid()), 4},
		"two minutes":     {"120000000", strconv.Itoa(os.Getpid()), 2},
		"no pid":          {"60000000", "", 4},
		"another process": {"60000000", "1", 0},
		"none":            {"", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			m := startedBy(t, filepath.Join(t.TempDir(), "notify"), c.usec)
			t.Setenv("WATCHDOG_PID", c.pid)
			n := newNotifier(t)
			synctest.Test(t, func(*testing.T) {
				for range 60 * 4 {
					n.Alive("")
					time.Sleep(time.Minute / 240)
				}
			})
			if got := strings.Count(m.got(), "WATCHDOG=1"); got != c.want {
				t.Errorf("it was fed %d times in a minute, want %d", got, c.want)
			}
		})
	}
}

// TestNotifierHidesTheSocket: what this process starts cannot speak for it.
func TestNotifierHidesTheSocket(t *testing.T) {
	m := startedBy(t, "@hostagent-test-"+strconv.Itoa(os.Getpid()), "60000000")
	n := newNotifier(t)
	for _, variable := range os.Environ() {
		if strings.HasPrefix(variable, "NOTIFY_SOCKET") || strings.HasPrefix(variable, "WATCHDOG") {
			t.Errorf("the environment still has %s", variable)
		}
	}
	n.Alive("")
	m.want("over a socket without a path", "READY=1 | WATCHDOG=1")
}

// TestNotifierWithoutSystemd: nothing happens, and nothing is complained about.
func TestNotifierWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "nonsense")
	n := newNotifier(t)
	n.Alive("starting")
	n.Reloading()
	n.Reloaded(errors.New("no"))
	n.Stopping()
}

// TestNotifierWithoutAReader: a systemd that is gone is complained about once, and told everything when it is back.
func TestNotifierWithoutAReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "nonsense")
	var complaints []string
	n := NewNotifier(func(err error) { complaints = append(complaints, err.Error()) })
	n.Alive("starting")
	n.Alive("guarding")
	if len(complaints) != 2 || !strings.Contains(complaints[0], "WATCHDOG_USEC") || !strings.Contains(complaints[1], path) {
		t.Errorf("complaints: %q", complaints)
	}
	m := startedBy(t, path, "")
	n.Alive("")
	m.want("at once", "")
	n.broken = time.Now().Add(-sendAgain)
	n.Alive("")
	m.want("when it is back", "READY=1 | STATUS=guarding")
}

// TestStatusLineIsOneLine: whoever names a service, or answers for Consul, gives systemd no orders, and no screen full of text.
func TestStatusLineIsOneLine(t *testing.T) {
	for _, c := range []struct{ line, trouble, want string }{
		{"guarding", "", "guarding"},
		{"a\nSTOPPING=1\r\x1b[2J\x00\u0085b", "", "a STOPPING=1 [2J b"},
		{"\xff\xfe", "", ""},
		{"guarding", "choose:\n  one\n  two", "choose: one two; guarding"},
		{strings.Repeat("ü", 200), "", strings.Repeat("ü", 148) + "…"},
		{"guarding", strings.Repeat("x", 400), strings.Repeat("x", 147) + "…; guarding"},
		{"", "broken", "broken"},
	} {
		got := statusLine(c.line, c.trouble)
		if got != c.want || len(got) > maxStatus {
			t.Errorf("statusLine(%q, %q) = %q, want %q", c.line, c.trouble, got, c.want)
		}
	}
}
