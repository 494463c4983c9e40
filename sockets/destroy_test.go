// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// ended tells whether the other side has reset a connection; a living one has nothing to say.
func ended(t *testing.T, c net.Conn) bool {
	t.Helper()
	check(t, c.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	_, err := c.Read(make([]byte, 1))
	switch {
	case errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.ECONNABORTED):
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false
	}
	t.Fatalf("the connection says %v", err)
	return false
}

func TestEnd(t *testing.T) {
	h := newHost(t)
	// Not Go's own choice of MPTCP alone: a connection that fell back to TCP is one of its subflow.
	listenOn(t, h, "tcp", "[::]:21000")
	listenOn(t, h, "tcp4", "0.0.0.0:21001")
	fromNet := []net.Conn{
		connect(t, h.Net, 3, "tcp", net.JoinHostPort(host.IPv4, "21000")), connect(t, h.Net, 1, "tcp", net.JoinHostPort(host.IPv6, "21000")),
	}
	stay := map[string]net.Conn{
		"another port":                connect(t, h.Net, 1, "tcp", net.JoinHostPort(host.IPv4, "21001")),
		"over loopback":               connect(t, h.Local, 1, "tcp", "127.0.0.1:21000"),
		"the host's with itself":      connect(t, h.Local, 1, "tcp", net.JoinHostPort(host.IPv4, "21000")),
		"the host's with itself, IP6": connect(t, h.Local, 1, "tcp", net.JoinHostPort(host.IPv6, "21000")),
	}
	end := func(own ...netip.Addr) (n int) {
		t.Helper()
		check(t, h.InHost(func() (err error) {
			n, err = End(t.Context(), 21000, own)
			return err
		}))
		return n
	}
	if n := end(netip.MustParseAddr(host.NetIPv4), netip.MustParseAddr(host.NetIPv6)); n != 0 {
		t.Errorf("%d connections of addresses that are the host's own were ended", n)
	}
	if n := end(); n != 4 {
		t.Errorf("%d connections were ended, want 4", n)
	}
	for _, c := range fromNet {
		if !ended(t, c) {
			t.Errorf("the connection to %s lives on", c.RemoteAddr())
		}
	}
	for name, c := range stay {
		if ended(t, c) {
			t.Errorf("the connection %s was ended", name)
		}
	}
	if n := end(); n != 0 {
		t.Errorf("a second time %d connections were ended", n)
	}
}

func TestEndStopsWithItsContext(t *testing.T) {
	h := newHost(t)
	listenOn(t, h, "tcp", "[::]:21000")
	c := connect(t, h.Net, 1, "tcp", net.JoinHostPort(host.IPv4, "21000"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := h.InHost(func() error {
		_, err := End(ctx, 21000, nil)
		return err
	})
	if !errors.Is(err, context.Canceled) || ended(t, c) {
		t.Errorf("End says %v", err)
	}
}
