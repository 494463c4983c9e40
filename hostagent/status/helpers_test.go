// SPDX-License-Identifier: MPL-2.0

package status

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// sample is the status of a host with as many services, each with its port open and its application exposed.
func sample(services int) hostagent.Status {
	at := time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)
	s := hostagent.Status{
		SchemaVersion: 1, Version: "1.2.3", GoVersion: "go1.26", Mode: hostagent.ModeGuard, Started: &at,
		Pass: hostagent.StatusPass{Count: 7, Last: &at, Duration: 0.0125},
		Consul: hostagent.StatusConsul{
			Address: "http://127.0.0.1:8500", Node: "n1", Datacenter: "dc1", Version: "1.21.0", WholeAnswers: 6, LastWholeAnswer: &at,
		},
		Firewall: hostagent.StatusFirewall{
			Backend: "iptables (nft)", Guarded: "21000-21255", Open: "none", Cut: "none", AllowFrom: []string{"10.0.0.0/8"},
			Settled: true, LastApply: &at, Repairs: 1, Error: "cannot <do> it & more",
			Quarantined: []hostagent.DocumentQuarantine{{Port: 8080, Services: []string{"web"}}},
		},
		SidecarRange: "21000-21255",
		Openings:     []hostagent.DocumentOpening{}, Findings: []hostagent.DocumentFinding{},
		Degradations: []string{"owners are not looked up"},
	}
	for i := range services {
		name := fmt.Sprintf("service-%04d", i)
		s.Openings = append(s.Openings, hostagent.DocumentOpening{
			Port: uint16(21000 + i), Services: []string{name}, Registrations: []string{name + "-sidecar-proxy"},
		})
		s.Findings = append(s.Findings, hostagent.DocumentFinding{
			ID: catalog.ExposedListener, Severity: catalog.Warning, State: hostagent.Open, Service: name, ServiceID: name, Port: uint16(30000 + i),
			Listener: &hostagent.DocumentListener{Protocol: "tcp", Address: "0.0.0.0", Port: uint16(30000 + i), UID: 1000, Exposed: true},
			User:     "app", Unit: name + ".service",
			Processes: []hostagent.DocumentProcess{{PID: int32(1000 + i), Name: "app", Exe: "/usr/bin/app"}},
			Message:   name + " listens on tcp 0.0.0.0: the network reaches it without mTLS and without intentions",
			Remedy:    "bind app to 127.0.0.1; only its sidecar should be able to call it",
		})
		s.Firewall.Open = fmt.Sprintf("21000-%d", 21000+i)
	}
	return s
}

// lines is a log that a test can read while others write.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// eventually polls until done, for 5 s at most.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// startStatus serves s on a new socket and returns the server with its path.
func startStatus(t testing.TB, s hostagent.Status, limits limits) (*Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostagent.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	server := serve(l, only(statusPath, statusHandler(func() hostagent.Status { return s }, quiet())), quiet(), limits)
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, path
}

func dial(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	c, err := net.DialTimeout(address.Network(), address.String(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// client makes each request on a connection of its own to address.
func client(t testing.TB, address net.Addr) *http.Client {
	t.Helper()
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, address.Network(), address.String())
		},
		DisableKeepAlives: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// fetch returns the body of a GET, or the error.
func fetch(c *http.Client, path string) (string, error) {
	response, err := c.Get("http://localhost" + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, body)
	}
	return string(body), err
}

// connections is how many places of server are taken.
func connections(server *Server) int {
	server.listener.mu.Lock()
	defer server.listener.mu.Unlock()
	return len(server.listener.open)
}

// serving are the stacks of goroutines that serve something.
func serving() string {
	b := make([]byte, 1<<20)
	b = b[:runtime.Stack(b, true)]
	var found []string
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		for _, name := range []string{"net/http.(*conn)", "net/http.(*Server)", "net/http.(*connReader)", "status.(*limited)", "status.serve"} {
			if strings.Contains(stack, name) {
				found = append(found, stack)
				break
			}
		}
	}
	return strings.Join(found, "\n\n")
}
