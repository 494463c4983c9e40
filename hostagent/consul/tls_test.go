// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// rotating is an agent whose certificates change, and a client whose clock the test moves.
type rotating struct {
	*Client
	t      *testing.T
	srv    *httptest.Server
	config *tls.Config // of the next handshakes
	gate   chan struct{}

	mu     sync.Mutex
	open   map[string]bool // connections, by the client's address
	made   int
	serial string // of the client's certificate in the last request
	tokens int
	clock  time.Duration // ahead of the real one
}

func newRotating(t *testing.T, config *tls.Config, cfg Config) *rotating {
	t.Helper()
	r := &rotating{t: t, config: config, open: map[string]bool{}}
	r.srv = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	r.srv.Config.ErrorLog = quiet
	r.srv.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.config, nil
	}, Certificates: config.Certificates}
	r.srv.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch state {
		case http.StateNew:
			r.open[conn.RemoteAddr().String()], r.made = true, r.made+1
		case http.StateClosed:
			delete(r.open, conn.RemoteAddr().String())
		default:
		}
	}
	r.srv.StartTLS()
	t.Cleanup(r.srv.Close)
	cfg.Address, cfg.Token = r.srv.URL, secret
	r.Client = newClient(t, cfg)
	r.secured.now = func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		return time.Now().Add(r.clock)
	}
	return r
}

func (r *rotating) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.serial = ""
	if peers := req.TLS.PeerCertificates; len(peers) > 0 {
		r.serial = peers[0].SerialNumber.String()
	}
	if req.Header.Get("X-Consul-Token") != "" {
		r.tokens++
	}
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		gate <- struct{}{}
		<-gate
	}
	reply(200, `{}`, allow)(w, req)
}

// sees makes a request after the time between two looks and wants it to be answered, from a client with a certificate, over
// the given number of connections that were made until now. The others have to be closed.
func (r *rotating) sees(what string, by *issued, connections int) {
	r.t.Helper()
	r.tick()
	if _, err := r.Services(r.t.Context()); err != nil {
		r.t.Fatalf("%s: %v", what, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for r.opened() != 1 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	want := ""
	if by != nil {
		want = by.leaf.SerialNumber.String()
	}
	if r.serial != want || r.made != connections || len(r.open) != 1 {
		r.t.Fatalf("%s: certificate %q, want %q; %d connections were made, want %d; open are %v", what, r.serial, want, r.made, connections, r.open)
	}
}

func (r *rotating) tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock += lookEvery
}

func (r *rotating) opened() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// serves makes the agent use another configuration from its next handshake on.
func (r *rotating) serves(config *tls.Config) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.config = config
}

func (r *rotating) stands(changes int, broken string) {
	r.t.Helper()
	got, err := r.Certificates()
	if text := fmt.Sprint(err); got != changes || (err != nil) != (broken != "") || !strings.Contains(text, broken) {
		r.t.Fatalf("%d changes and %v, want %d and %q", got, err, changes, broken)
	}
}

func TestClientCertificateRotates(t *testing.T) {
	dir := newFolder(t)
	ca := authority(t, "Agent CA")
	first, second, third := ca.client(t), ca.client(t), ca.client(t)
	write := func(cert, key []byte) { dir.file("cert.pem", cert); dir.file("key.pem", key) }
	write(first.cert, first.key)
	cfg := Config{CAFile: dir.file("ca.pem", ca.cert), CertFile: filepath.Join(dir.path, "cert.pem"), KeyFile: filepath.Join(dir.path, "key.pem")}
	r := newRotating(t, &tls.Config{
		Certificates: []tls.Certificate{ca.server(t).pair()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
	}, cfg)
	r.sees("at first", first, 1)
	r.sees("again", first, 1)
	write(first.cert, first.key)
	r.sees("written as it was", first, 1)
	r.stands(0, "")

	write(second.cert, second.key)
	r.sees("another pair", second, 2)
	r.stands(1, "")

	// One file of two: the pair that was read before stands, for new connections too, and a single look says nothing.
	write(third.cert, second.key)
	r.sees("half a pair", second, 2)
	r.stands(1, "")
	r.srv.CloseClientConnections()
	r.sees("half a pair, new connection", second, 3)
	r.stands(1, "the key is not that of the certificate; the two must be made together; the certificates that were read before stay in use")
	write(third.cert, third.key)
	r.sees("the other half", third, 4)
	r.stands(2, "")

	for i, broken := range []struct {
		text string
		make func()
	}{
		{"it is empty", func() { write(nil, third.key) }},
		{"no whole PEM", func() { write(first.cert[:200], first.key) }},
		{"no whole PEM", func() { write(first.cert, first.key[:100]) }},
		{"no such file", func() { os.Remove(cfg.KeyFile) }},
		{"looks like DER", func() { write(first.leaf.Raw, first.key) }},
		{"swap them", func() { write(first.key, first.cert) }},
	} {
		broken.make()
		r.sees(broken.text, third, 4+2*i)
		r.sees(broken.text, third, 4+2*i)
		r.stands(2+2*i, broken.text)
		write(first.cert, first.key)
		r.sees("mended", first, 5+2*i)
		r.stands(3+2*i, "")
		write(third.cert, third.key)
		r.sees("back", third, 6+2*i)
	}
	if changes, broken := newClient(t, Config{}).Certificates(); changes != 0 || broken != nil {
		t.Errorf("without TLS: %d, %v", changes, broken)
	}
}

// Whoever the CA of now does not vouch for gets no token, though the CA of before did, over a connection that is open.
func TestCARotates(t *testing.T) {
	old, next := authority(t, "Agent CA"), authority(t, "Agent CA")
	serving := func(cert *issued) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{cert.pair()}} }
	for _, name := range []string{"ca_file", "ca_path"} {
		t.Run(name, func(t *testing.T) {
			dir := newFolder(t)
			path := dir.file("ca.pem", old.cert)
			cfg, ticks := Config{CAFile: path}, 1
			if name == "ca_path" {
				cfg, ticks = Config{CAPath: dir.path}, int(lookEveryFolder/lookEvery)
			}
			r := newRotating(t, serving(old.server(t)), cfg)
			fails := func(what string) {
				t.Helper()
				for range ticks {
					r.tick()
				}
				tokens := r.tokens
				_, err := r.Services(t.Context())
				checkError(t, err, KindTLS, `is signed by a CA named "Agent CA", but not by the one of that name`)
				if r.tokens != tokens {
					t.Fatalf("%s: the token was sent", what)
				}
			}
			sees := func(what string, connections int) {
				t.Helper()
				for range ticks - 1 {
					r.tick()
				}
				r.sees(what, nil, connections)
			}
			sees("at first", 1)

			// The agent goes first: what is open stays open, new connections fail, until the CA follows. It does at once,
			// since a failure has the files looked at again.
			r.serves(serving(next.server(t)))
			sees("the agent has another certificate", 1)
			r.srv.CloseClientConnections()
			fails("the agent is of another CA")
			dir.file("ca.pem", next.cert)
			if _, err := r.Services(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.stands(1, "")
			made := r.made

			// The CA goes first: the connection with the agent of before ends, and no other can be made.
			dir.file("ca.pem", old.cert)
			fails("the CA is another")
			if n := r.opened(); n > 1 {
				t.Errorf("%d connections are open", n)
			}
			dir.file("ca.pem", old.cert, next.cert)
			sees("both", made+2)

			dir.file("ca.pem", old.cert, next.cert[:300])
			sees("cut off", made+2)
			sees("cut off", made+2)
			r.stands(3, "part of it is cut off or damaged")
			os.Remove(path)
			sees("removed", made+2)
			dir.file("ca.pem", next.cert)
			sees("there", made+3)
			r.stands(4, "")
		})
	}
}

// A request under way ends over the connection on which it began; the next one has another.
func TestRotationDuringARequest(t *testing.T) {
	dir := newFolder(t)
	ca := authority(t, "Agent CA")
	r := newRotating(t, &tls.Config{Certificates: []tls.Certificate{ca.server(t).pair()}}, Config{CAFile: dir.file("ca.pem", ca.cert)})
	gate := make(chan struct{})
	r.gate = gate
	ended := make(chan error, 1)
	go func() {
		_, err := r.Services(t.Context())
		ended <- err
	}()
	select {
	case <-gate:
	case err := <-ended:
		t.Fatalf("the request did not reach the agent: %v", err)
	}
	r.mu.Lock()
	r.gate = nil
	r.mu.Unlock()
	dir.file("ca.pem", ca.cert, ca.cert)
	r.tick()
	r.secured.transport() // as another request would
	r.stands(1, "")
	gate <- struct{}{}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	r.sees("afterwards", nil, 2)
}

// The files are not read more often than once a second.
func TestLooksAreRare(t *testing.T) {
	dir := newFolder(t)
	ca := authority(t, "Agent CA")
	r := newRotating(t, &tls.Config{Certificates: []tls.Certificate{ca.server(t).pair()}}, Config{CAFile: dir.file("ca.pem", ca.cert)})
	r.sees("at first", nil, 1)
	os.Remove(filepath.Join(dir.path, "ca.pem"))
	var got []bool
	for i := range 4 {
		r.mu.Lock()
		r.clock += lookEvery / 2
		r.mu.Unlock()
		if _, err := r.Services(t.Context()); err != nil {
			t.Fatal(i, err)
		}
		_, broken := r.Certificates()
		got = append(got, broken != nil)
	}
	if diff := cmp.Diff([]bool{false, false, false, true}, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

// A certificate for an address with a zone has the address alone.
func TestServerName(t *testing.T) {
	for _, tt := range []struct{ address, serverName, want string }{
		{"127.0.0.1:8501", "", "127.0.0.1"},
		{"[::1]:8501", "", "::1"},
		{"[fe80::1%eth0]:8501", "", "fe80::1"},
		{"consul.example:443", "", "consul.example"},
		{"127.0.0.1:8501", "server.dc1.consul", "server.dc1.consul"},
		{"127.0.0.1:8501", "server.dc1.consul:8501", "server.dc1.consul"},
		{"127.0.0.1:8501", "::1", "::1"},
	} {
		h := &handshaker{config: &Config{ServerName: tt.serverName}}
		if got := h.serverName(tt.address); got != tt.want {
			t.Errorf("%+v: got %q", tt, got)
		}
	}
}

// The client sends the name, checks it, and resumes nothing.
func TestHandshake(t *testing.T) {
	ca := authority(t, "Agent CA")
	var names []string
	config := &tls.Config{Certificates: []tls.Certificate{ca.server(t).pair()}}
	resumed := 0
	srv := serveTLS(t, config, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		names = append(names, r.TLS.ServerName+" "+r.URL.Path)
		if r.TLS.DidResume {
			resumed++
		}
		w.Header().Set("Connection", "close")
		reply(200, `{}`, allow)(w, r)
	}))
	caFile := newFolder(t).file("ca.pem", ca.cert)
	host := strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)
	for _, cfg := range []Config{
		{Address: srv.URL, CAFile: caFile}, {Address: host + "/behind/proxy/", CAFile: caFile},
		{Address: srv.URL, CAFile: caFile, ServerName: "server.dc1.consul"},
	} {
		c := newClient(t, cfg)
		for range 2 {
			if _, err := c.Services(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	const path = " /v1/agent/services"
	want := []string{path, path, "localhost /behind/proxy" + path[1:], "localhost /behind/proxy" + path[1:], "server.dc1.consul" + path, "server.dc1.consul" + path}
	if diff := cmp.Diff(want, names); diff != "" || resumed != 0 {
		t.Errorf("%d resumed, names (-want +got):\n%s", resumed, diff)
	}
}

func TestIPv6(t *testing.T) {
	ca := authority(t, "Agent CA")
	for _, tt := range []struct {
		ip   net.IP
		text string
	}{
		{net.IPv6loopback, ""},
		{net.IPv4(127, 0, 0, 1), `not for the name "::1" of address but for "server.dc1.consul", "localhost" and 127.0.0.1`},
	} {
		l, err := net.Listen("tcp", "[::1]:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewUnstartedServer(reply(200, `{}`, allow))
		srv.Listener.Close()
		cert := ca.server(t, func(c *x509.Certificate) { c.IPAddresses = []net.IP{tt.ip} })
		srv.Listener, srv.Config.ErrorLog, srv.TLS = l, quiet, &tls.Config{Certificates: []tls.Certificate{cert.pair()}}
		srv.StartTLS()
		_, err = newClient(t, Config{Address: srv.URL, CAFile: newFolder(t).file("ca.pem", ca.cert)}).Services(t.Context())
		kind := Kind("")
		if tt.text != "" {
			kind = KindTLS
		}
		checkError(t, err, kind, tt.text)
		srv.Close()
	}
}

// What a look at the files costs, once a second.
func BenchmarkLook(b *testing.B) {
	dir := newFolder(b)
	ca := authority(b, "Agent CA")
	mine := ca.client(b)
	cfg := Config{Address: "https://127.0.0.1:8501", CAFile: dir.file("ca.pem", ca.cert), CertFile: dir.file("c.pem", mine.cert), KeyFile: dir.file("k.pem", mine.key)}
	many := newFolder(b)
	for i := range 150 {
		many.file(fmt.Sprintf("%d.pem", i), ca.cert)
	}
	for name, cfg := range map[string]Config{"three files": cfg, "folder of 150": {Address: cfg.Address, CAPath: many.path}} {
		b.Run(name, func(b *testing.B) {
			next, err := secure(&cfg, &http.Transport{})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				next.(*secured).look()
			}
		})
	}
}

// deaf is a connection that can be read but, from a moment on, not written.
type deaf struct {
	net.Conn
	broken atomic.Bool
}

func (d *deaf) Write(p []byte) (int, error) {
	if d.broken.Load() {
		return 0, syscall.EPIPE
	}
	return d.Conn.Write(p)
}

// What broke the connection is what the agent says, not that it cannot be written any more.
func TestRefusalStandsOverABrokenPipe(t *testing.T) {
	ca := authority(t, "Agent CA")
	srv := serveTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.server(t).pair()}, ClientAuth: tls.RequireAnyClientCert}, http.NotFoundHandler())
	raw := &deaf{}
	h := &handshaker{
		config: &Config{Timeout: 5 * time.Second}, certificates: &certificates{roots: ca.pool()}, now: time.Now,
		dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			raw.Conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return raw, err
		},
	}
	conn, err := h.dialTLS(t.Context(), "tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw.broken.Store(true)
	read := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		read <- err
	}()
	_, err = conn.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if _, ok := errors.AsType[*tlsError](err); !ok || !errors.Is(<-read, err) {
		t.Errorf("got %v", err)
	}
	if _, err := conn.Write(nil); err == nil {
		t.Error("no error of a broken connection")
	}
}
