// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hostagent/hostagent/sockets"
)

// realTrust looks at the real kernel.
func realTrust() *Trust { return &Trust{IsLocal: sockets.IsLocal, PeerUID: sockets.PeerUID} }

// told is a Trust that is told who answers, and counts how often it asked.
type told struct {
	Trust
	remote         bool
	uid            uint32
	unknown        bool
	fails          error
	places, owners atomic.Int32
}

func (f *told) trust() *Trust {
	f.IsLocal = func(netip.Addr, netip.Addr) (bool, error) {
		f.places.Add(1)
		return !f.remote, f.fails
	}
	f.PeerUID = func(context.Context, netip.AddrPort, netip.AddrPort, func(uint32) bool) (uint32, bool, error) {
		f.owners.Add(1)
		return f.uid, !f.unknown, f.fails
	}
	return &f.Trust
}

const somebody = 54321 // a user that no host has

// recorder takes connections and keeps every byte that comes.
func recorder(t *testing.T, network, address string) (at string, got func(connections int) string) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	bytes := make(chan string, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all, _ := io.ReadAll(conn) // until the client hangs up
			conn.Close()
			bytes <- string(all)
		}
	}()
	return l.Addr().String(), func(connections int) string {
		t.Helper()
		all := ""
		for range connections {
			select {
			case text := <-bytes:
				all += text
			case <-time.After(5 * time.Second):
				t.Fatal("a connection is missing")
			}
		}
		return all
	}
}

func TestNothingIsSentToWhomNobodyTrusts(t *testing.T) {
	for _, test := range []struct {
		name string
		told *told
		kind Kind
		want []string
	}{
		{"somebody else's", &told{uid: somebody}, KindImpostor, []string{
			"cannot trust the Consul agent: uid 54321 listens at http://127.0.0.1:", ", where only root", `set consul { user = "54321" } or --consul-user`, "ss -ltnp sport = :"}},
		{"not the Consul user's", &told{uid: somebody, Trust: Trust{Users: func() []uint32 { return []uint32{54322} }}}, KindImpostor, []string{"or uid 54322 may"}},
		{"nobody's here", &told{unknown: true}, KindImpostor, []string{"no process of this host's network namespace", "use https:// or unix://"}},
		{"another host's", &told{remote: true}, KindNotLocal, []string{"is at 127.0.0.1, which is no address of this host", "allow_remote_agent", "container on a bridge"}},
		{"not to be found out", &told{fails: errors.New("no netlink")}, KindUnreachable, []string{"no netlink"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			at, got := recorder(t, "tcp", "127.0.0.1:0")
			c := newClient(t, Config{Address: "http://" + at, Token: secret, Trust: test.told.trust()})
			_, err := c.Services(t.Context())
			for _, text := range test.want {
				checkError(t, err, test.kind, text)
			}
			if _, err := c.Report(t.Context(), Report{Service: "hostagent", Life: Check{Key: "alive"}}); KindOf(err) != test.kind {
				t.Errorf("report: %v", err)
			}
			if err := c.Withdraw(t.Context(), "hostagent"); KindOf(err) != test.kind {
				t.Errorf("withdraw: %v", err)
			}
			if got := got(3); got != "" {
				t.Errorf("it was sent %q", got)
			}
		})
	}
}

// TestTrustIsAskedOnceAConnection: not once a request.
func TestTrustIsAskedOnceAConnection(t *testing.T) {
	var peers atomic.Int32
	srv := httptest.NewUnstartedServer(reply(200, `{}`, allow))
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			peers.Add(1)
		}
	}
	srv.Start()
	defer srv.Close()
	f := told{uid: somebody, Trust: Trust{Users: func() []uint32 { return []uint32{somebody} }}}
	c := newClient(t, Config{Address: srv.URL, Token: secret, Trust: f.trust()})
	for i := range 20 {
		if _, err := c.Services(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 9 {
			srv.CloseClientConnections()
		}
	}
	if connections := peers.Load(); connections != 2 || f.owners.Load() != connections || f.places.Load() != connections {
		t.Errorf("%d connections, asked %d and %d times", connections, f.places.Load(), f.owners.Load())
	}
}

// TestVerifiedTLSProvesTheAgent: and skipping the verification proves nothing.
func TestVerifiedTLSProvesTheAgent(t *testing.T) {
	srv := httptest.NewUnstartedServer(reply(200, `{}`, allow))
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	defer srv.Close()
	ca := newFolder(t).file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	for _, test := range []struct {
		name string
		cfg  Config
		told *told
		kind Kind
	}{
		{"verified", Config{CAFile: ca}, &told{uid: somebody}, ""},
		{"not verified", Config{InsecureSkipVerify: true}, &told{uid: somebody}, KindImpostor},
		{"not verified, root's", Config{InsecureSkipVerify: true}, &told{}, ""},
		{"verified, another host's", Config{CAFile: ca}, &told{remote: true}, KindNotLocal},
		{"verified, another host's, allowed", Config{CAFile: ca}, &told{remote: true, Trust: Trust{AllowRemote: true}}, ""},
		{"not verified, another host's, allowed", Config{InsecureSkipVerify: true}, &told{remote: true, Trust: Trust{AllowRemote: true}}, ""},
		{"allowed, but here and somebody else's", Config{InsecureSkipVerify: true}, &told{uid: somebody, Trust: Trust{AllowRemote: true}}, KindImpostor},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Address, test.cfg.Token, test.cfg.Trust = srv.URL, secret, test.told.trust()
			_, err := newClient(t, test.cfg).Services(t.Context())
			checkError(t, err, test.kind, "")
		})
	}
}

func TestTrustOnTheRealKernel(t *testing.T) {
	srv := httptest.NewServer(reply(200, `{}`, allow))
	defer srv.Close()
	if _, err := newClient(t, Config{Address: srv.URL, Token: secret, Trust: realTrust()}).Services(t.Context()); err != nil {
		t.Errorf("a server of our own user: %v", err)
	}
	path := filepath.Join(t.TempDir(), "http.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	here := &http.Server{Handler: reply(200, `{}`, allow)}
	go func() { _ = here.Serve(l) }()
	defer here.Close()
	if _, err := newClient(t, Config{Address: "unix://" + path, Token: secret, Trust: realTrust()}).Services(t.Context()); err != nil {
		t.Errorf("a unix socket of our own user: %v", err)
	}
}

// TestNobodyAccepts: an agent that hangs is waited for as long as one request may take, whoever waits for the request.
func TestNobodyAccepts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := newClient(t, Config{Address: l.Addr().String(), Token: secret, Trust: realTrust(), Timeout: 150 * time.Millisecond})
	start := time.Now()
	_, err = c.Services(t.Context())
	checkError(t, err, KindTimeout, "")
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWhoIsTrusted(t *testing.T) {
	with := Trust{Users: func() []uint32 { return []uint32{7} }}
	for uid, want := range map[uint32]bool{0: true, uint32(os.Geteuid()): true, 7: true, somebody: false} {
		if got := with.trusted(uid); got != want {
			t.Errorf("uid %d: %t", uid, got)
		}
	}
	if (&Trust{}).trusted(7) && os.Geteuid() != 7 {
		t.Error("without users somebody is trusted")
	}
}
