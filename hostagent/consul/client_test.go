// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const secret = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"

var quiet = log.New(io.Discard, "", 0) // for servers whose clients hang up

// recorded is an answer of a real agent: Consul 1.21.0.
func recorded(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// reply answers with status and body; headers are "Name: value".
func reply(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		io.WriteString(w, body) //nolint:errcheck // the client may have gone
	}
}

// raw answers with bytes that no HTTP server would send, and closes.
func raw(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			io.WriteString(conn, text) //nolint:errcheck // the client may have gone
			conn.Close()
		}
	}
}

func newClient(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const allow, deny, filtered = "X-Consul-Default-Acl-Policy: allow", "X-Consul-Default-Acl-Policy: deny", "X-Consul-Results-Filtered-By-Acls: true"

// Whatever a bad answer looks like: it is an error of its kind that names the remedy and not the token, and the last
// whole answer comes back unharmed.
func TestWholeAnswer(t *testing.T) {
	good := string(recorded(t, "services.json"))
	web := func(fields string) string { return `{"web":{"ID":"web","Service":"web",` + fields + `}}` }
	for _, tt := range []struct {
		name   string
		token  string
		answer http.HandlerFunc
		kind   Kind   // empty: whole
		text   string // in the error
	}{
		{"allow without token", "", reply(200, good, allow), "", ""},
		{"allow with token", secret, reply(200, good, allow), "", ""},
		{"deny with token", secret, reply(200, good, deny), "", ""},
		{"no policy with token", secret, reply(200, good), KindTooOld, "upgrade Consul to 1.11.0"},
		{"deny without token", "", reply(200, `{}`, deny), KindFiltered, "CONSUL_HTTP_TOKEN_FILE"},
		{"odd policy without token", "", reply(200, `{}`, "X-Consul-Default-Acl-Policy: allow, deny"), KindFiltered, "no token was sent"},
		{"filtered with token", secret, reply(200, `{}`, deny, filtered), KindFiltered, `service_prefix "" { policy = "read" }`},
		{"filtered under allow", "", reply(200, `{}`, allow, filtered), KindFiltered, "service:read"},
		{"no policy without token", "", reply(200, `{}`), KindTooOld, "upgrade Consul"},

		{"forbidden", secret, reply(403, `Permission denied: token with AccessorID '0f61edca' lacks permission 'agent:read' on "host-1"`), KindDenied,
			`status 403: Permission denied: token with AccessorID '0f61edca' lacks permission 'agent:read' on "host-1"; add this rule to a policy of the token: agent "host-1" { policy = "read" }`},
		{"unauthorized", secret, reply(401, ``), KindDenied, `compare the policy of the token with what "hostagent acl-policy" prints`},
		{"throttled", secret, reply(429, `Your IP is issuing too many concurrent connections`), KindThrottled, "tries again"},
		{"server error", secret, reply(500, "rpc error: No cluster leader"), KindStatus, "status 500: rpc error: No cluster leader"},
		{"bad gateway", secret, reply(502, "<html>\x1b[2Jbad gateway</html>"), KindStatus, `status 502: <html>\x1b[2Jbad gateway</html>`},
		{"long error", secret, reply(500, strings.Repeat("x", 100_000)), KindStatus, "status 500: xxx"},
		{"error that shows the token", secret, reply(400, strings.Repeat("x", 260)+"X-Consul-Token: "+secret), KindStatus, "status 400"},
		{"error that reads like a broken connection", secret, reply(500, `Get "x": malformed HTTP response "\x00\x00"`), KindStatus, "status 500: Get"},
		{"redirect", secret, reply(301, ``, "Location: http://127.0.0.1:1/v1/agent/services"), KindStatus, "does not redirect"},

		{"null", secret, reply(200, `null`, allow), KindMalformed, `begins "null"; is that the address of a Consul agent?`},
		{"list", secret, reply(200, ` []`, allow), KindMalformed, "no JSON object"},
		{"text", secret, reply(200, `""`, allow), KindMalformed, "no JSON object"},
		{"nothing", secret, reply(200, ``, allow), KindMalformed, "no JSON object"},
		{"page", secret, reply(200, "<html>\x1b[2J welcome", allow), KindMalformed, `<html>\x1b[2J welcome`},
		{"half by length", secret, reply(200, good[:500], allow, "Content-Length: 9000"), KindMalformed, "unexpected EOF"},
		{"half by chunk", secret, raw("HTTP/1.1 200 OK\r\n" + allow + "\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), KindMalformed, "unexpected EOF"},
		{"half until close", secret, raw("HTTP/1.0 200 OK\r\n" + allow + "\r\n\r\n" + good[:500]), KindMalformed, "unexpected EOF"},
		{"no HTTP", secret, raw("220 mail.example.org ESMTP\r\n"), KindUnreachable, "malformed HTTP"},
		{"huge header", secret, reply(200, good, allow, "X-Long: "+strings.Repeat("x", 2*maxHeader)), KindUnreachable, "header"},
		{"closed at once", secret, raw(""), KindUnreachable, "EOF"},
		{"trailing garbage", secret, reply(200, good+"{}", allow), KindMalformed, "something follows the object"},
		{"id is not the key", secret, reply(200, `{"web":{"ID":"db"}}`, allow), KindMalformed, `the entry "web"`},
		{"filtered in other words", secret, reply(200, good, deny, "X-Consul-Results-Filtered-By-Acls: True"), KindFiltered, "service:read"},
		{"filtered by one of two", secret, raw("HTTP/1.1 200 OK\r\n" + allow + "\r\nX-Consul-Results-Filtered-By-Acls: false\r\n" + filtered + "\r\n\r\n{}"), KindFiltered, "service:read"},
		{"clearly not filtered", secret, reply(200, good, deny, "X-Consul-Results-Filtered-By-Acls: false"), "", ""},
		{"twice the same entry", secret, reply(200, `{"web":{"ID":"web","Port":1},"web":{"ID":"web","Port":2}}`, allow), KindMalformed, `the entry "web" stands there twice`},
		{"no UTF-8", secret, reply(200, "{\"w\xff\":{\"ID\":\"w\xff\"}}", allow), KindMalformed, "no UTF-8"},
		{"half a rune", secret, reply(200, "{\"w\xe2\x82\":{\"ID\":\"w\xe2\x82\"}}", allow), KindMalformed, "no UTF-8"},
		{"not a colon", secret, reply(200, `{"web","db"}`, allow), KindMalformed, "expected colon"},
		{"no key", secret, reply(200, `{7:{}}`, allow), KindMalformed, "invalid character"},
		{"checks for services", secret, reply(200, `{"serfHealth":{"Node":"host","CheckID":"serfHealth"}}`, allow), KindMalformed, `the entry "serfHealth"`},
		{"agent for services", secret, reply(200, `{"Config":{"NodeName":"host"},"Stats":{}}`, allow), KindMalformed, "the entry \"Config\""},
		{"compressed", secret, reply(200, "\x1f\x8b\x08\x00\x01", allow, "Content-Encoding: gzip"), KindMalformed, "no UTF-8"},
		{"port beyond int", secret, reply(200, web(`"Port":18446744073709551637`), allow), KindMalformed, "Port"},
		{"null entry", secret, reply(200, `{"web":null}`, allow), KindMalformed, `the entry "web"`},
		{"list entry", secret, reply(200, `{"web":[]}`, allow), KindMalformed, "cannot unmarshal"},
		{"text port", secret, reply(200, web(`"Port":"80"`), allow), KindMalformed, "Port"},
		{"huge port", secret, reply(200, web(`"Port":1e30`), allow), KindMalformed, "Port"},
		{"deep", secret, reply(200, web(`"Proxy":{"Config":{"a":`+strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)+`}}`), allow), KindMalformed, "max depth"},
		{"over the bound", secret, reply(200, good+strings.Repeat(" ", 1<<20), allow), KindMalformed, "more than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var now atomic.Value
			now.Store(reply(200, good, allow))
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/agent/services" || r.Header.Get("X-Consul-Token") != tt.token || r.Header.Get("User-Agent") != "hostagent/1" {
					t.Errorf("got request %s %s, headers %v", r.Method, r.URL, r.Header)
				}
				now.Load().(http.HandlerFunc)(w, r)
			}))
			defer srv.Close()
			c := newClient(t, Config{Address: srv.URL, Token: tt.token, UserAgent: "hostagent/1", maxBody: 1 << 20})
			first, err := c.Services(t.Context())
			if err != nil || first.Unchanged || len(first.Registrations) != 9 {
				t.Fatalf("first answer: %v, unchanged %t, %d registrations", err, first.Unchanged, len(first.Registrations))
			}

			now.Store(tt.answer)
			got, err := c.Services(t.Context())
			checkError(t, err, tt.kind, tt.text)
			if err != nil && tt.kind != KindTooOld && got.Registrations != nil || got.Unchanged && err != nil {
				t.Errorf("got a part of an answer beside the error: %v", got)
			}

			now.Store(reply(200, good, allow))
			again, err := c.Services(t.Context())
			if err != nil || !again.Unchanged {
				t.Errorf("good answer afterwards: %v, unchanged %t", err, again.Unchanged)
			}
			if diff := cmp.Diff(first.Registrations, again.Registrations); diff != "" {
				t.Errorf("registrations afterwards (-want +got):\n%s", diff)
			}
		})
	}
}

func checkError(t *testing.T, err error, kind Kind, text string) {
	t.Helper()
	if KindOf(err) != kind || (err == nil) != (kind == "") {
		t.Fatalf("got kind %q, want %q: %v", KindOf(err), kind, err)
	}
	if err == nil {
		return
	}
	switch got := err.Error(); {
	case !strings.Contains(got, text):
		t.Errorf("error lacks %q: %s", text, got)
	case strings.Contains(got, secret[:20]):
		t.Errorf("error shows the token: %s", got)
	case strings.ContainsFunc(got, func(r rune) bool { return r < ' ' }):
		t.Errorf("error holds control characters: %q", got)
	case len(got) > 700:
		t.Errorf("error has %d bytes", len(got))
	}
}

func TestUnchanged(t *testing.T) {
	bodies := []string{`{}`, `{}`, `{"web":{"ID":"web"}}`, `{"web":{"ID":"web"}}`, `{}`}
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply(200, bodies[n], allow)(w, r)
		n++
	}))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL})
	var got []string
	for range bodies {
		a, err := c.Services(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %t", len(a.Registrations), a.Unchanged))
	}
	if diff := cmp.Diff([]string{"0 false", "0 true", "1 false", "1 true", "0 false"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestAgent(t *testing.T) {
	answer := reply(200, string(recorded(t, "self.json")))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/agent/self" {
			t.Errorf("asked for %s", r.URL)
		}
		answer(w, r)
	}))
	defer srv.Close()
	c := newClient(t, Config{Address: srv.URL, Token: secret})
	if a, err := c.Agent(t.Context()); err != nil || a.Node != "host-1" {
		t.Errorf("got %+v, %v", a, err)
	}
	answer = reply(403, `Permission denied: token with AccessorID '0f61edca' lacks permission 'agent:read' on "host-1"`)
	_, err := c.Agent(t.Context())
	checkError(t, err, KindDenied, `lacks permission 'agent:read' on "host-1"; add this rule`)
}

func TestAgentErrors(t *testing.T) {
	for _, tt := range []struct {
		name, body, text string
	}{
		{"null", `null`, "no JSON object"},
		{"empty", `{}`, "names no node"},
		{"nameless", `{"Config":{"NodeName":""}}`, "names no node"},
		{"typed", `{"Config":{"NodeName":7}}`, "cannot unmarshal"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(reply(200, tt.body))
			defer srv.Close()
			_, err := newClient(t, Config{Address: srv.URL, Token: secret}).Agent(t.Context())
			checkError(t, err, KindMalformed, tt.text)
		})
	}
}

// The redirect's target must see nothing at all.
func TestRedirectIsNotFollowed(t *testing.T) {
	var hits atomic.Int32
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer target.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		srv := httptest.NewServer(reply(status, "", "Location: "+target.URL))
		c := newClient(t, Config{Address: srv.URL, Token: secret})
		_, err := c.Services(t.Context())
		checkError(t, err, KindStatus, "does not redirect")
		_, err = c.Report(t.Context(), Report{Service: "hostagent"})
		checkError(t, err, KindStatus, "does not redirect")
		srv.Close()
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests followed a redirect", hits.Load())
	}
}

func TestTimeout(t *testing.T) {
	late := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	stuck := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, "{")                //nolint:errcheck // the client may have gone
		http.NewResponseController(w).Flush() //nolint:errcheck // the client may have gone
		<-r.Context().Done()
	})
	for name, handler := range map[string]http.HandlerFunc{"late": late, "stuck": stuck} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(handler)
			defer srv.Close()
			start := time.Now()
			_, err := newClient(t, Config{Address: srv.URL, Token: secret, Timeout: 50 * time.Millisecond}).Services(t.Context())
			checkError(t, err, KindTimeout, "it did not answer in time; its log may tell why it hangs; consul { timeout } lets it take longer")
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	for _, tt := range []struct{ address, text string }{
		{address, "cannot ask for /v1/agent/services at the Consul agent " + address + ": dial tcp " + address + ": connect: connection refused; is the agent running"},
		{"unix://" + filepath.Join(t.TempDir(), "none.sock"), "none.sock: connect: no such file or directory; is the agent running"},
	} {
		_, err := newClient(t, Config{Address: tt.address, Token: secret}).Services(t.Context())
		checkError(t, err, KindUnreachable, tt.text)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "http.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(reply(200, string(recorded(t, "services.json")), allow))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	c := newClient(t, Config{Address: "unix://" + path})
	if got, err := c.Services(t.Context()); err != nil || len(got.Registrations) != 9 {
		t.Errorf("got %d registrations, %v", len(got.Registrations), err)
	}
	if want := "unix://" + path; c.Address() != want {
		t.Errorf("address %q, want %q", c.Address(), want)
	}
}

// TestClose: connections that are kept go at once, with TLS too, and one under way as soon as its answer is there.
func TestClose(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			var open atomic.Int32
			hold := make(chan struct{})
			srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/roots") {
					<-hold
				}
				reply(200, `{}`, allow).ServeHTTP(w, r)
			}))
			srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
				open.Add(map[http.ConnState]int32{http.StateNew: 1, http.StateClosed: -1}[s])
			}
			become := func(want int32) {
				t.Helper()
				for end := time.Now().Add(5 * time.Second); open.Load() != want; time.Sleep(time.Millisecond) {
					if time.Now().After(end) {
						t.Fatalf("%d connections are open, want %d", open.Load(), want)
					}
				}
			}
			cfg := Config{Token: secret}
			if scheme == "http" {
				srv.Start()
			} else {
				srv.StartTLS()
				cfg.CAFile = newFolder(t).file("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
			}
			defer srv.Close()
			cfg.Address = srv.URL
			c := newClient(t, cfg)
			ask := func() {
				t.Helper()
				_, err := c.Services(t.Context())
				checkError(t, err, "", "")
			}
			ask()
			become(1)
			c.Close()
			become(0)

			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = c.Roots(t.Context())
			}()
			become(1)
			c.Close()
			become(1)
			close(hold)
			<-done
			become(0)
			ask()
			become(1)
		})
	}
}

// TestErrorsRepeat: what fails twice alike reads alike, or each time would be news to the servers: such texts stand in the
// output of the life check.
func TestErrorsRepeat(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset
		}
		_ = conn.Close()
	}))
	defer srv.Close()
	var first string
	for range 4 {
		_, err := newClient(t, Config{Address: srv.URL}).Agent(t.Context())
		if err == nil || KindOf(err) != KindUnreachable {
			t.Fatalf("%q: %v", KindOf(err), err)
		}
		if first == "" {
			first = err.Error()
		}
		if diff := cmp.Diff(first, err.Error()); diff != "" {
			t.Fatalf("the same failure reads otherwise (-first +then)\n%s", diff)
		}
	}
}
