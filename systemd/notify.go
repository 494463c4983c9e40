// SPDX-License-Identifier: MPL-2.0

package systemd

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

const (
	// feedsPerInterval is how often in WatchdogSec= systemd is told that the loop goes round. sd_watchdog_enabled(3) advises
	// two; each message wakes systemd, so there are no more of them than help.
	feedsPerInterval = 4
	// sendTimeout bounds the wait for a systemd that does not read, which the loop then tries again after sendAgain.
	sendTimeout = 100 * time.Millisecond
	sendAgain   = time.Second
	// maxStatus is how many bytes of a status line "systemctl status" is given.
	maxStatus = 300
)

// Notifier tells the systemd that started this process how the process is, in the words of sd_notify(3). Where systemd does
// not ask for that, and outside of it, every method does nothing. Methods may be called from any goroutine; they wait a tenth of
// a second at most for a systemd that does not read.
type Notifier struct {
	socket string        // of systemd; "" where nobody is to be told
	every  time.Duration // between two signs of life; 0 where nobody waits for them
	failed func(error)

	mu      sync.Mutex
	ready   bool
	ending  bool
	fed     time.Time
	line    string    // what Alive said last
	trouble string    // why the configuration was not reloaded
	told    string    // the status line that systemd has
	broken  time.Time // when the last message did not get there; zero where it did
}

// NewNotifier returns a Notifier for whoever started this process, and takes what it was told of that out of the environment:
// a program that this one starts would pass for it. So it comes before any program is started, and once. Messages that do
// not get there are lost; failed is told of the first in a row.
func NewNotifier(failed func(error)) *Notifier {
	// daemon.SdNotify is of no use: it reads the environment at each message, so that the address would have to stay there.
	n := &Notifier{socket: os.Getenv("NOTIFY_SOCKET"), failed: failed}
	_ = os.Unsetenv("NOTIFY_SOCKET") // it fails for names that are none
	interval, err := daemon.SdWatchdogEnabled(true)
	if n.socket == "" {
		return n
	}
	if err != nil {
		failed(fmt.Errorf("cannot tell how often systemd wants a sign of life: %w", err))
	}
	n.every = interval / feedsPerInterval
	return n
}

// Alive is the loop's sign of life. The first one says that the service is ready. Line is what the loop does, for "systemctl
// status"; "" means as before. It may be called at any rate: systemd hears of it four times in WatchdogSec= and when the line
// changes.
func (n *Notifier) Alive(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ending {
		return // how a stop goes on is bounded by TimeoutStopSec=
	}
	if line != "" {
		n.line = line
	}
	now := time.Now()
	if now.Sub(n.broken) < sendAgain {
		return
	}
	var message []string
	if !n.ready {
		message = append(message, daemon.SdNotifyReady)
	}
	hungry := n.every > 0 && now.Sub(n.fed) >= n.every
	if hungry {
		message = append(message, daemon.SdNotifyWatchdog)
	}
	if !n.send(message...) {
		return
	}
	n.ready = true
	if hungry {
		n.fed = now
	}
}

// Reloading says that the configuration is being read again. Reloaded must follow.
func (n *Notifier) Reloading() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ending {
		return
	}
	message := []string{daemon.SdNotifyReloading}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil { // systemd 253 and newer can order messages by it
		message = append(message, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)))
	}
	n.send(message...)
}

// Reloaded says that the new configuration stands, or, with an error, that the old one does: the status line begins with the
// error until a later reload succeeds. The service is ready either way.
func (n *Notifier) Reloaded(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ending {
		return
	}
	n.trouble = ""
	if err != nil {
		n.trouble = "configuration not reloaded: " + err.Error()
	}
	if n.ready { // else the loop has not begun, and Alive says so when it does; where this is not sent, too
		n.ready = n.send(daemon.SdNotifyReady)
	}
}

// Stopping says that the process is about to end.
func (n *Notifier) Stopping() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ending, n.line, n.trouble = true, "stopping", ""
	n.send(daemon.SdNotifyStopping)
}

// send sends a message of these assignments and of the status line where that is another than systemd has; nothing where
// nothing is left to say. It tells whether systemd knows all of it now.
func (n *Notifier) send(message ...string) bool {
	status := statusLine(n.line, n.trouble)
	if status != n.told {
		message = append(message, "STATUS="+status)
	}
	if n.socket == "" || len(message) == 0 {
		return true
	}
	if err := sendTo(n.socket, strings.Join(message, "\n")); err != nil {
		if n.broken.IsZero() {
			n.failed(fmt.Errorf("cannot tell systemd how this service is: %w; without that it may end or restart it", err))
		}
		n.broken = time.Now()
		return false
	}
	n.told, n.broken = status, time.Time{}
	return true
}

// statusLine is what "systemctl status" shows: one line, whatever it is made of. A line end would begin another assignment,
// and who can name a service could then speak for this one.
func statusLine(line, trouble string) string {
	text := line
	if trouble != "" {
		text = bounded(trouble, maxStatus/2)
		if line != "" {
			text += "; " + line
		}
	}
	return bounded(text, maxStatus)
}

// bounded returns the words of text, without control characters, in at most so many bytes.
func bounded(text string, bytes int) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, " "), func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar
	}), " ")
	const more = "…"
	if len(text) <= bytes {
		return text
	}
	return strings.ToValidUTF8(text[:bytes-len(more)], "") + more
}

// sendTo sends one message to the socket at a path, or with "@" in front to one without a path.
func sendTo(socket, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	_, err = conn.Write([]byte(message))
	return err
}
