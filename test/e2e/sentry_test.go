// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// sentry is another host of the network that connects to ports of the host without pause, over both IP versions, and
// notes each connection that does not meet what is expected of its port. Its methods may be called concurrently.
type sentry struct {
	from    *host.Namespace
	ctx     context.Context //nolint:containedctx // it ends the sentry
	cancel  context.CancelFunc
	clients sync.WaitGroup

	mu       sync.Mutex
	expected map[uint16]host.Reach // "" for ports that nothing is expected of just now
	wrong    []string

	connected, dropped atomic.Int64
}

// sentry adds a host to the network and starts there what watches.
func (w *world) sentry() *sentry {
	w.t.Helper()
	neighbour, err := w.Neighbour()
	w.must(err)
	ctx, cancel := context.WithCancel(w.ctx)
	s := &sentry{from: neighbour.Namespace, ctx: ctx, cancel: cancel, expected: map[uint16]host.Reach{}}
	w.t.Cleanup(func() { cancel(); s.clients.Wait() })
	return s
}

// expect is what each connection to a port has to meet from now on; "" is anything.
func (s *sentry) expect(want host.Reach, ports ...uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, port := range ports {
		_, watched := s.expected[port]
		s.expected[port] = want
		if watched {
			continue
		}
		for _, address := range both() {
			s.clients.Go(func() { s.watch(port, at(address, port)) })
		}
	}
}

func (s *sentry) want(port uint16) host.Reach {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expected[port]
}

func (s *sentry) watch(port uint16, address string) {
	for ticker := time.Tick(20 * time.Millisecond); s.ctx.Err() == nil; <-ticker {
		want := s.want(port)
		var trouble string
		switch want {
		case host.Open:
			trouble = s.connect(address)
		case host.Dropped:
			trouble = s.knock(address)
		default:
			continue
		}
		if trouble != "" && s.ctx.Err() == nil && s.want(port) == want {
			s.mu.Lock()
			s.wrong = append(s.wrong, fmt.Sprintf("%s %s %s", time.Now().Format("15:04:05.000"), address, trouble))
			s.mu.Unlock()
		}
	}
}

// connect makes a connection that must come about with its first packet. It ends with a reset, so that no port stays in
// TIME_WAIT.
func (s *sentry) connect(address string) (trouble string) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(s.ctx, 5*time.Second)
	defer cancel()
	conn, err := s.from.Dial(ctx, "tcp", address)
	took := time.Since(start)
	if err != nil {
		return fmt.Sprintf("is not open after %v: %v", took, err)
	}
	again := 0
	if tcp, ok := conn.(*net.TCPConn); ok {
		again, err = retransmitted(tcp)
		err = errors.Join(err, tcp.SetLinger(0))
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return err.Error()
	}
	s.connected.Add(1)
	if again > 0 { // not judged by time: a machine under load keeps everybody waiting
		return fmt.Sprintf("has dropped %d packets and is open after %v only", again, took)
	}
	return ""
}

// retransmitted tells how many packets of a connection the kernel had to send again, its first ones too.
func retransmitted(conn *net.TCPConn) (times int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	control := raw.Control(func(fd uintptr) {
		var info *unix.TCPInfo
		if info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			times = int(info.Total_retrans)
		}
	})
	return times, errors.Join(control, err)
}

// knock sends a packet that must find no answer.
func (s *sentry) knock(address string) (trouble string) {
	ctx, cancel := context.WithTimeout(s.ctx, 20*time.Millisecond)
	defer cancel()
	conn, err := s.from.Dial(ctx, "tcp", address)
	s.dropped.Add(1)
	switch {
	case err == nil:
		_ = conn.Close() // what matters is that there was one
		return "answers"
	case errors.Is(err, unix.ECONNREFUSED):
		return "refuses"
	}
	return ""
}

// calm fails the test for what went wrong so far.
func (s *sentry) calm(t *testing.T, when string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, wrong := range s.wrong[:min(len(s.wrong), 5)] {
		t.Errorf("%s: %s", when, wrong)
	}
	if len(s.wrong) > 5 {
		t.Errorf("%s: and %d more", when, len(s.wrong)-5)
	}
	s.wrong = nil
}

// stop ends the sentry, fails the test for what went wrong, and sums up.
func (s *sentry) stop(t *testing.T) string {
	t.Helper()
	s.cancel()
	s.clients.Wait()
	s.calm(t, "seen from the network")
	connected, dropped := s.connected.Load(), s.dropped.Load()
	if connected < 200 || dropped < 200 {
		t.Errorf("%d connections and %d tries of closed ports are too little to prove anything", connected, dropped)
	}
	return fmt.Sprintf("%d connections, %d tries of closed ports", connected, dropped)
}
