// SPDX-License-Identifier: MPL-2.0

package system

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// unanswered is how long a connection waits for an answer: less than the second after which the kernel asks again, so that one
// attempt is one packet.
const unanswered = 700 * time.Millisecond

// at returns the address of a port, as the network sees it.
func (h *host) at(port int) string {
	return net.JoinHostPort(h.Address.String(), strconv.Itoa(port))
}

// reach tells what the network sees of a port: open, refused, dropped, or another error.
func (h *host) reach(port int) string {
	conn, err := net.DialTimeout("tcp", h.at(port), unanswered)
	switch {
	case err == nil:
		conn.Close()
		return "open"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case os.IsTimeout(err):
		return "dropped"
	}
	return err.Error()
}

// greeting is what an application on a port says to the network, or "" where nobody answers.
func (h *host) greeting(port int) string {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", h.at(port), 2*unanswered)
	if err != nil {
		if !os.IsTimeout(err) {
			h.t.Errorf("port %d: %v, want an answer or silence", port, err)
		}
		return ""
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	line, _ := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line)
}

// reaches waits until the network sees all of these ports so: lines of a port and what is seen of it.
func (h *host) reaches(table string) {
	h.t.Helper()
	want := strings.Fields(table)
	h.until("what the network sees", func() error {
		var wait sync.WaitGroup
		wrong := make([]error, len(want)/2)
		for i := range wrong {
			wait.Go(func() {
				port, err := strconv.Atoi(want[2*i])
				if seen := h.reach(port); err != nil || seen != want[2*i+1] {
					wrong[i] = fmt.Errorf("%s is %s, want %s", want[2*i], seen, want[2*i+1])
				}
			})
		}
		wait.Wait()
		return errors.Join(wrong...)
	})
}

// knocks are connections that the network makes to one port, a new one every 20 ms whatever became of those before it.
type knocks struct {
	port             int
	tried, answered  atomic.Int32 // answered: the connection came about, and the application said hello
	accepted, failed atomic.Int32 // accepted: the connection came about
	refused          atomic.Int32 // of those that failed
	failure          atomic.Pointer[error]
	stop             chan struct{}
	done             sync.WaitGroup
}

// knock knocks at a port until the test ends or rest is called.
func (h *host) knock(port int) *knocks {
	k := &knocks{port: port, stop: make(chan struct{})}
	address := h.at(port)
	k.done.Go(func() {
		for ticker := time.Tick(20 * time.Millisecond); ; {
			k.tried.Add(1)
			k.done.Go(func() { k.once(address) })
			select {
			case <-k.stop:
				return
			case <-ticker:
			}
		}
	})
	h.t.Cleanup(k.rest)
	return k
}

// rest stops knocking and waits for the last answer. It may be called again.
func (k *knocks) rest() {
	select {
	case <-k.stop:
	default:
		close(k.stop)
	}
	k.done.Wait()
}

func (k *knocks) once(address string) {
	conn, err := net.DialTimeout("tcp", address, unanswered)
	if err == nil {
		k.accepted.Add(1)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = bufio.NewReader(conn).ReadString('\n')
		conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		k.refused.Add(1)
	}
	if err != nil {
		k.failed.Add(1)
		k.failure.CompareAndSwap(nil, &err)
		return
	}
	k.answered.Add(1)
}

// wasOpen wants every knock to have been answered.
func (h *host) wasOpen(k *knocks) {
	h.t.Helper()
	k.rest()
	h.t.Logf("port %d: %d connections, %d answered", k.port, k.tried.Load(), k.answered.Load())
	if failed := k.failed.Load(); failed != 0 {
		h.t.Errorf("port %d was not open all the time: %d of %d connections failed, first with: %v", k.port, failed, k.tried.Load(), *k.failure.Load())
	}
}

// wasClosed wants no knock to have been let in.
func (h *host) wasClosed(k *knocks) {
	h.t.Helper()
	k.rest()
	h.t.Logf("port %d: %d attempts, %d let in", k.port, k.tried.Load(), k.accepted.Load())
	if accepted := k.accepted.Load(); accepted != 0 {
		h.t.Errorf("port %d was not closed all the time: %d of %d attempts were let in", k.port, accepted, k.tried.Load())
	}
}

// talk is one connection to an application that lives long.
type talk struct {
	net.Conn
	lines *bufio.Reader
}

// talkTo begins to talk with the application on a port.
func (h *host) talkTo(port int) *talk {
	h.t.Helper()
	conn, err := net.DialTimeout("tcp", h.at(port), unanswered)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	c := &talk{Conn: conn, lines: bufio.NewReader(conn)}
	if _, err := c.lines.ReadString('\n'); err != nil { // its greeting
		h.t.Fatal(err)
	}
	return c
}

// echo sends a line and wants it back.
func (c *talk) echo() error {
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(c, "still there?"); err != nil {
		return err
	}
	_, err := c.lines.ReadString('\n')
	return err
}
