// SPDX-License-Identifier: MPL-2.0

// Package status lets others see how a running hostagent is: its status as JSON on a unix socket, for `hostagent status`
// and programs, and metrics for Prometheus over TCP. It only reads what the core publishes; readers of any kind, stuck,
// slow or many, never hold up a pass.
//
// Start with Listen and Serve for the socket, Ask for its other end, and NewMetrics and ServeMetrics for Prometheus. Paths,
// fields, and the names and labels of metrics are API.
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hostagent/hostagent/hostagent"
)

const (
	statusPath  = "/v1/status"
	metricsPath = "/metrics"

	closeWait   = 2 * time.Second        // for handlers that are at work
	acceptPause = 100 * time.Millisecond // after a failed accept
	acceptNews  = time.Minute            // between two log lines about it
	bindTimeout = 5 * time.Second
)

// limits is what one server grants its readers. A connection carries one request, so all of it is over after header and
// write at the latest.
type limits struct {
	connections   int // at once; one more is closed unanswered
	header, write time.Duration
	headerBytes   int
}

// The limits are far above what an honest reader needs: a status of 250 services takes about a millisecond.
func defaultLimits() limits {
	return limits{connections: 16, header: 2 * time.Second, write: 5 * time.Second, headerBytes: 8 << 10}
}

// Server answers HTTP on one listener until Close.
type Server struct {
	http     *http.Server
	listener *limited
	cancel   context.CancelFunc // of all requests
	done     chan struct{}      // closed when no goroutine of it is left
}

// Serve answers GET /v1/status on l, usually a Socket, with what status returns at that moment, as one JSON
// document on one line (indenting it would take longer than all the rest). It returns at once and l is the Server's from
// then on. Status is called from several goroutines.
//
// At most 16 connections are served at once; one more is closed unanswered. Each carries one request and is thrown out
// after 2 s without a whole request, or 5 s after it with the answer not taken.
func Serve(l net.Listener, status func() hostagent.Status, log *slog.Logger) *Server {
	return serve(l, only(statusPath, statusHandler(status, log)), log, defaultLimits())
}

// ServeMetrics listens at address, as "127.0.0.1:9521", and answers GET /metrics with m, within the limits of Serve.
func ServeMetrics(address string, m *Metrics, log *slog.Logger) (*Server, error) {
	return serveMetrics(address, m, log, defaultLimits())
}

func serveMetrics(address string, m *Metrics, log *slog.Logger, limits limits) (*Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), bindTimeout)
	defer cancel()
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics: %w; choose an address of this host and a port that is free", err)
	}
	return serve(l, only(metricsPath, m.Handler()), log, limits), nil
}

func serve(l net.Listener, handler http.Handler, log *slog.Logger, limits limits) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	var goroutines sync.WaitGroup
	s := &Server{
		cancel: cancel, done: make(chan struct{}),
		listener: &limited{Listener: l, max: limits.connections, log: log, done: ctx.Done(), open: map[*conn]struct{}{}},
	}
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: limits.header,
		ReadTimeout:       limits.header, // bodies are not asked for
		WriteTimeout:      limits.write,
		MaxHeaderBytes:    limits.headerBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		// Nothing that a reader does is logged here, only a handler's panic.
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError),
		// New is told before a connection's goroutine starts, Closed at its end.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				goroutines.Add(1)
			case http.StateClosed:
				goroutines.Done()
			default:
			}
		},
		DisableGeneralOptionsHandler: true,
	}
	s.http.SetKeepAlivesEnabled(false)
	goroutines.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("server ended", "address", l.Addr().String(), "error", err)
		}
	})
	go func() {
		goroutines.Wait()
		close(s.done)
	}()
	return s
}

// Addr returns where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Close ends the server: its listener is closed, readers are cut off, and no goroutine of it is left, unless what it
// calls is stuck for more than 2 s, which is an error. It may be called again, from any goroutine.
func (s *Server) Close() error {
	s.cancel()
	_ = s.http.Close() // it may not know the listener yet
	err := s.listener.Close()
	select {
	case <-s.done:
		return err
	case <-time.After(closeWait):
		return errors.Join(err, fmt.Errorf("cannot end the server at %s: a request is still being answered", s.Addr()))
	}
}

// limited is a listener that keeps at most max connections open.
type limited struct {
	net.Listener
	max  int
	log  *slog.Logger
	done <-chan struct{}
	told time.Time // when a failed accept was last logged; Accept's own

	mu       sync.Mutex
	open     map[*conn]struct{}
	closed   bool
	closeErr error
}

// conn leaves its place when it is closed.
type conn struct {
	net.Conn
	of *limited
}

// Accept waits for a connection for which there is room. It fails only when l is closed: a host that is short of memory or
// of descriptors is not for ever.
func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		switch {
		case err == nil:
			if admitted, err := l.admit(c); admitted != nil || err != nil {
				return admitted, err
			}
			continue
		case errors.Is(err, net.ErrClosed):
			return nil, err
		}
		if time.Since(l.told) > acceptNews {
			l.told = time.Now()
			l.log.Warn("cannot accept connections, trying again", "address", l.Addr().String(), "error", err)
		}
		select {
		case <-l.done:
			return nil, net.ErrClosed
		case <-time.After(acceptPause):
		}
	}
}

// admit gives c a place, or closes it.
func (l *limited) admit(c net.Conn) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	if len(l.open) >= l.max {
		c.Close()
		return nil, nil
	}
	admitted := &conn{Conn: c, of: l}
	l.open[admitted] = struct{}{}
	return admitted, nil
}

// Close closes the listener and every connection that it let in: http.Server does not know of one yet that was accepted a
// moment ago. Whoever closes it again gets the same answer.
func (l *limited) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.closeErr
	}
	l.closed = true
	for c := range l.open {
		c.Conn.Close()
	}
	l.closeErr = l.Listener.Close()
	return l.closeErr
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// only serves GET and HEAD of one path and tells everybody else of it.
func only(path string, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		switch {
		case r.URL.Path != path:
			http.Error(w, "hostagent answers GET "+path+" here, and nothing else", http.StatusNotFound)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "hostagent answers GET "+path+" only: nothing can be changed here", http.StatusMethodNotAllowed)
		default:
			handler.ServeHTTP(w, r)
		}
	})
}

func statusHandler(status func() hostagent.Status, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(status()); err != nil {
			log.Error("cannot write the status", "error", err)
			http.Error(w, "hostagent cannot write its status; its log says why", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
		_, _ = w.Write(b.Bytes()) // a reader that has gone is no concern of ours
	})
}
