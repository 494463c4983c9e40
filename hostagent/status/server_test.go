// SPDX-License-Identifier: MPL-2.0

package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
)

func TestStatusDocument(t *testing.T) {
	server, _ := startStatus(t, sample(2), defaultLimits())
	response, err := client(t, server.Addr()).Get("http://localhost/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := response.Header.Get("Content-Type"), "application/json"; got != want {
		t.Errorf("Content-Type %q, want %q", got, want)
	}
	if response.ContentLength != int64(len(body)) || !response.Close {
		t.Errorf("Content-Length %d of %d bytes, Connection: close %t", response.ContentLength, len(body), response.Close)
	}
	var got hostagent.Status
	got.Findings = nil
	if err := json.Unmarshal(body, &struct {
		*hostagent.Status
		Findings []json.RawMessage `json:"findings"`
	}{Status: &got}); err != nil {
		t.Fatal(err)
	}
	want := sample(2)
	want.Findings = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the status differs (-want +got):\n%s", diff)
	}
	for _, text := range []string{`{"schema_version":1,`, `"severity":"warning"`, "cannot <do> it & more"} {
		if !strings.Contains(string(body), text) {
			t.Errorf("the document lacks %q", text)
		}
	}
}

// TestStatusIsOfNow asks twice: nothing is kept between requests.
func TestStatusIsOfNow(t *testing.T) {
	var passes atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := Serve(l, func() hostagent.Status {
		return hostagent.Status{Pass: hostagent.StatusPass{Count: int(passes.Add(1))}}
	}, quiet())
	defer server.Close()
	c := client(t, server.Addr())
	for i := 1; i <= 2; i++ {
		body, err := fetch(c, "/v1/status")
		if want := fmt.Sprintf(`"count":%d`, i); err != nil || !strings.Contains(body, want) {
			t.Errorf("%v, want %s in %s", err, want, body)
		}
	}
}

func TestOtherRequests(t *testing.T) {
	server, _ := startStatus(t, sample(0), defaultLimits())
	const nothing, unchanged = "hostagent answers GET /v1/status here, and nothing else\n", "hostagent answers GET /v1/status only: nothing can be changed here\n"
	for _, test := range []struct {
		request string
		code    int
		body    string
	}{
		{"HEAD /v1/status", 200, ""},
		{"GET /", 404, nothing},
		{"GET /v1/status/", 404, nothing},
		{"GET /v1//status", 404, nothing},
		{"GET /v1/../v1/status", 404, nothing},
		{"GET /metrics", 404, nothing},
		{"GET /\x1b", 400, "400 Bad Request"},
		{"POST /", 404, nothing},
		{"POST /v1/status", 405, unchanged},
		{"DELETE /v1/status", 405, unchanged},
		{"OPTIONS *", 404, nothing},
		{"CONNECT example.com:80", 404, nothing},
		{"nonsense", 400, "400 Bad Request"},
		{"GET /" + strings.Repeat("x", 20<<10), 431, "431 Request Header Fields Too Large"},
	} {
		name := test.request[:min(len(test.request), 30)]
		c := dial(t, server.Addr())
		if _, err := io.WriteString(c, test.request+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		answer, err := io.ReadAll(c)                                              // the connection ends by itself
		if err != nil && (test.code != 431 || !errors.Is(err, unix.ECONNRESET)) { // what it did not read of a flood
			t.Errorf("%q: %v", name, err)
		}
		head, body, _ := strings.Cut(string(answer), "\r\n\r\n")
		if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", test.code)) || !strings.HasPrefix(body, test.body) {
			t.Errorf("%q: %q, %q, want %d, %q", name, head, body, test.code, test.body)
		}
		if test.code < 430 && !strings.Contains(head, "\r\nConnection: close") {
			t.Errorf("%q: the connection is kept: %q", name, head)
		}
		if test.code == 405 && !strings.Contains(head, "\r\nAllow: GET, HEAD") {
			t.Errorf("%q: no Allow in %q", name, head)
		}
		if test.code == 200 && (body != "" || !strings.Contains(head, "Content-Length: ")) {
			t.Errorf("%q: %q, %q, want a length and no body", name, head, body)
		}
	}
}

// patient gives readers more time than any test takes.
func patient(connections int) limits {
	return limits{connections: connections, header: time.Minute, write: time.Minute, headerBytes: 8 << 10}
}

// hurried gives readers little time, so that tests take little.
func hurried(connections int) limits {
	return limits{connections: connections, header: 100 * time.Millisecond, write: 100 * time.Millisecond, headerBytes: 8 << 10}
}

// ended reads until the other side ends the connection, for 10 s at most, and returns how many bytes there were.
func ended(t *testing.T, c net.Conn) int64 {
	t.Helper()
	n, err := io.Copy(io.Discard, c)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Fatal(err)
	}
	return n
}

func TestSilentReadersAreThrownOut(t *testing.T) {
	server, _ := startStatus(t, sample(1), hurried(2))
	for _, c := range []net.Conn{dial(t, server.Addr()), dial(t, server.Addr())} {
		ended(t, c)
	}
	c := client(t, server.Addr())
	eventually(t, "an honest reader gets in", func() bool { _, err := fetch(c, "/v1/status"); return err == nil })
}

func TestTricklingReadersAreThrownOut(t *testing.T) {
	server, _ := startStatus(t, sample(1), hurried(1))
	for _, request := range []string{"GET /v1/status HTTP/1.1\r\nX-Slow: ", "POST /v1/status HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"} {
		c := dial(t, server.Addr())
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for {
			if _, err := io.WriteString(c, "x"); err != nil {
				break
			}
			if time.Since(start) > 8*time.Second {
				t.Fatalf("%q and then a byte now and then was endured for 8 s", request)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// TestStuckReadersAreThrownOut has readers that ask and then do not read, of a document that fits into no buffer.
func TestStuckReadersAreThrownOut(t *testing.T) {
	const document = 1 << 20 // at least
	server, _ := startStatus(t, sample(2000), limits{connections: 2, header: time.Minute, write: time.Second, headerBytes: 8 << 10})
	stuck := []net.Conn{dial(t, server.Addr()), dial(t, server.Addr())}
	for _, c := range stuck {
		if _, err := io.WriteString(c, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil { // the answer is on its way
			t.Fatal(err)
		}
	}
	eventually(t, "both places free", func() bool { return connections(server) == 0 })
	for _, c := range stuck {
		if n := ended(t, c); n >= document {
			t.Errorf("all %d bytes went into buffers: the test shows nothing", n)
		}
	}
	c := client(t, server.Addr())
	eventually(t, "an honest reader gets all of it", func() bool {
		body, err := fetch(c, "/v1/status")
		return err == nil && len(body) >= document
	})
}

func TestTooManyAreRefusedAtOnce(t *testing.T) {
	limits := patient(defaultLimits().connections)
	server, _ := startStatus(t, sample(1), limits)
	var silent []net.Conn
	for range limits.connections {
		silent = append(silent, dial(t, server.Addr()))
	}
	eventually(t, "all places taken", func() bool { return connections(server) == limits.connections })
	ended(t, dial(t, server.Addr()))
	silent[3].Close()
	c := client(t, server.Addr())
	eventually(t, "its place is another's", func() bool { _, err := fetch(c, "/v1/status"); return err == nil })
}

// TestFlood lets many come at once: never more than the limit are in, and honest readers get in afterwards.
func TestFlood(t *testing.T) {
	server, _ := startStatus(t, sample(50), hurried(4))
	var all sync.WaitGroup
	var most atomic.Int64
	for i := range 20 {
		all.Go(func() {
			for range 10 {
				c, err := net.Dial("unix", server.Addr().String())
				if err != nil {
					continue
				}
				if i%2 == 0 {
					_, _ = io.WriteString(c, "GET /v1/status HTTP/1.1\r\n")
				}
				if n := int64(connections(server)); n > most.Load() {
					most.Store(n)
				}
				c.Close()
			}
		})
	}
	all.Wait()
	if n := most.Load(); n > 4 {
		t.Errorf("%d connections at once, want 4 at most", n)
	}
	c := client(t, server.Addr())
	eventually(t, "an honest reader gets in", func() bool { _, err := fetch(c, "/v1/status"); return err == nil })
}

func TestCloseCutsReadersOff(t *testing.T) {
	if stacks := serving(); stacks != "" {
		t.Fatalf("before anything: %s", stacks)
	}
	server, path := startStatus(t, sample(2000), patient(16))
	silent, stuck := dial(t, server.Addr()), dial(t, server.Addr())
	if _, err := io.WriteString(stuck, "GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are in", func() bool { return connections(server) == 2 })
	first := make([]byte, 1)
	if _, err := stuck.Read(first); err != nil { // the answer is on its way
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 3 { // once is enough, and more does no harm
		all.Go(func() {
			if err := server.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	ended(t, silent)
	ended(t, stuck)
	if _, err := net.Dial("unix", path); !errors.Is(err, unix.ENOENT) {
		t.Errorf("after Close: %v, want no socket", err)
	}
	eventually(t, "no goroutine is left: "+serving(), func() bool { return serving() == "" })
}

// TestCloseRaces closes servers while connections come in.
func TestCloseRaces(t *testing.T) {
	for range 30 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := serve(l, http.NotFoundHandler(), quiet(), patient(16))
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					c, err := net.Dial("tcp", l.Addr().String())
					if err != nil {
						return
					}
					defer c.Close() // silent until the end
				}
			})
		}
		time.Sleep(time.Millisecond)
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		all.Wait()
	}
	eventually(t, "no goroutine is left: "+serving(), func() bool { return serving() == "" })
}

// TestLimitedCloses looks at the moments that http.Server does not see: a connection that it does not know yet, and one that
// comes in while the listener is being closed.
func TestLimitedCloses(t *testing.T) {
	inner := &handing{conns: make(chan net.Conn, 2), err: errors.New("cannot close")}
	l := &limited{Listener: inner, max: 5, log: quiet(), open: map[*conn]struct{}{}}
	hand := func() net.Conn {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		inner.conns <- near
		return far
	}
	early := hand()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := l.Close(); err == nil || err.Error() != "cannot close" {
			t.Errorf("Close = %v", err)
		}
	}
	late := hand()
	if c, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, %v after Close", c, err)
	}
	for name, c := range map[string]net.Conn{"early": early, "late": late} {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the %s connection is still open: %v", name, err)
		}
	}
}

// handing is a listener that hands out what it is given, even when it is closed.
type handing struct {
	net.Listener
	conns chan net.Conn
	err   error
}

func (h *handing) Accept() (net.Conn, error) { return <-h.conns, nil }
func (h *handing) Close() error              { return h.err }

func TestCloseSaysThatARequestIsStuck(t *testing.T) {
	t.Parallel() // it waits
	release, entered := make(chan struct{}), make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := Serve(l, func() hostagent.Status { close(entered); <-release; return hostagent.Status{} }, quiet())
	go fetch(client(t, server.Addr()), "/v1/status")
	<-entered
	if err := server.Close(); err == nil || !strings.Contains(err.Error(), "still being answered") {
		t.Errorf("Close = %v, want an error", err)
	}
	close(release)
	<-server.done
}

func TestPanicIsLoggedAndEndsOneConnection(t *testing.T) {
	var log lines
	var calls atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := Serve(l, func() hostagent.Status {
		if calls.Add(1) == 1 {
			panic("broken")
		}
		return sample(0)
	}, slog.New(slog.NewTextHandler(&log, nil)))
	defer server.Close()
	c := client(t, server.Addr())
	if _, err := fetch(c, "/v1/status"); err == nil {
		t.Error("an answer in spite of a panic")
	}
	if _, err := fetch(c, "/v1/status"); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), "broken") {
		t.Errorf("the log lacks the panic: %s", log.String())
	}
}

// short is a listener on a host that has run out of descriptors for a while.
type short struct {
	net.Listener
	fails atomic.Int64
}

func (s *short) Accept() (net.Conn, error) {
	if s.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: unix.ENOBUFS}
	}
	return s.Listener.Accept()
}

func TestFailedAcceptsAreNotForEver(t *testing.T) {
	var log lines
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &short{Listener: inner}
	l.fails.Store(3)
	server := Serve(l, func() hostagent.Status { return sample(0) }, slog.New(slog.NewTextHandler(&log, nil)))
	if _, err := fetch(client(t, server.Addr()), "/v1/status"); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "cannot accept connections"); n != 1 {
		t.Errorf("logged %d times, want once a minute: %s", n, log.String())
	}
	l.fails.Store(1 << 40) // and now for ever: Close ends it all the same
	client(t, server.Addr()).Get("http://localhost/")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "server ended") {
		t.Errorf("Close is logged as a failure: %s", log.String())
	}
}

func BenchmarkStatus(b *testing.B) {
	for _, services := range []int{10, 250, 4000} {
		b.Run(fmt.Sprintf("%d-services-exposed", services), func(b *testing.B) {
			_, path := startStatus(b, sample(services), defaultLimits())
			c := client(b, &net.UnixAddr{Name: path, Net: "unix"})
			b.ReportAllocs()
			for b.Loop() {
				body, err := fetch(c, "/v1/status")
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
			}
		})
	}
}
