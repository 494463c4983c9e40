// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// FaultyAddress is where a Faulty listens in the host.
const FaultyAddress = "127.0.0.1:8501"

// Route is a kind of request to a Consul agent.
type Route string

// The requests that can fail.
const (
	RouteServices Route = "services"
	RouteSelf     Route = "self"
	RouteChecks   Route = "checks"
	RouteMembers  Route = "members"
	RouteRoots    Route = "roots"
	RouteRegister Route = "register" // of a service or a check
	RouteUpdate   Route = "update"   // of a check
)

// path is what a route is asked for with, "" of one that writes.
func (r Route) path() string {
	switch r {
	case RouteServices, RouteSelf, RouteChecks, RouteMembers:
		return "/v1/agent/" + string(r)
	case RouteRoots:
		return "/v1/agent/connect/ca/roots"
	case RouteRegister, RouteUpdate:
	}
	return ""
}

// routeOf returns "" for what never fails.
func routeOf(r *http.Request) Route {
	if r.Method == http.MethodPut {
		switch {
		case strings.HasSuffix(r.URL.Path, "/register"):
			return RouteRegister
		case strings.HasPrefix(r.URL.Path, "/v1/agent/check/update/"):
			return RouteUpdate
		}
		return ""
	}
	for _, route := range []Route{RouteServices, RouteSelf, RouteChecks, RouteMembers, RouteRoots} {
		if r.URL.Path == route.path() {
			return route
		}
	}
	return ""
}

// Faulty stands between hostagent and the host's Consul agent. It passes everything on until it is told to answer as no
// agent should. Its methods may be called concurrently.
type Faulty struct {
	listener func() (net.Listener, error)
	agent    string // address of the real one
	http     *http.Client
	proxy    *httputil.ReverseProxy

	mu     sync.Mutex
	server *http.Server // nil while connections are refused
	closed bool
	armed  []*Fault
	passed map[Route]int
}

// StartFaulty starts a Faulty before the host's agent, at FaultyAddress. Close ends it.
func (h *Host) StartFaulty() (*Faulty, error) {
	return NewFaulty(func() (listener net.Listener, err error) {
		err = h.InHost(func() (err error) {
			listener, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp4", FaultyAddress)
			return err
		})
		return listener, err
	}, ConsulAddress, h.http)
}

// NewFaulty starts a Faulty before the agent that client reaches at an address. listener opens its door, each time again to
// the same address.
func NewFaulty(listener func() (net.Listener, error), agent string, client *http.Client) (*Faulty, error) {
	f := &Faulty{listener: listener, agent: agent, http: client, passed: map[Route]int{}}
	f.proxy = httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: agent})
	f.proxy.Transport = client.Transport
	f.proxy.ErrorLog = log.New(io.Discard, "", 0) // an agent that is away is a case like others
	f.proxy.FlushInterval = -1
	f.mu.Lock()
	defer f.mu.Unlock()
	return f, f.listen()
}

// listen opens the door. f.mu is held.
func (f *Faulty) listen() error {
	listener, err := f.listener()
	if err != nil {
		return fmt.Errorf("cannot listen before the agent: %w", err)
	}
	f.server = &http.Server{Handler: f, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	go f.server.Serve(listener) //nolint:errcheck // it ends with Close
	return nil
}

// Close ends the proxy and all connections to it.
func (f *Faulty) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed, f.armed = true, nil
	if f.server == nil {
		return nil
	}
	return f.server.Close()
}

// refuse closes the door for a while: connections end, and new ones are refused.
func (f *Faulty) refuse(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.server == nil {
		return
	}
	_ = f.server.Close() // what is under way is cut off: that is the fault
	f.server = nil
	time.AfterFunc(d, f.reopen)
}

// reopen opens the door again, as soon as it can.
func (f *Faulty) reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed && f.server == nil && f.listen() != nil {
		time.AfterFunc(10*time.Millisecond, f.reopen)
	}
}

// Arm makes the next requests of the fault's route meet it, after those of faults that were armed before.
func (f *Faulty) Arm(fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = append(f.armed, fault)
}

// Disarm forgets what was armed.
func (f *Faulty) Disarm() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = nil
}

// Drop forgets one fault of those that were armed. What waits for the last of its requests waits for ever.
func (f *Faulty) Drop(fault *Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = slices.DeleteFunc(slices.Clone(f.armed), func(armed *Fault) bool { return armed == fault })
}

// Passed tells how many requests of a route were passed on, and answered by the agent as a whole.
func (f *Faulty) Passed(route Route) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.passed[route]
}

// take returns the fault that the next request of a route meets, nil for none, and whether it was the last.
func (f *Faulty) take(route Route) (fault *Fault, last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, armed := range f.armed {
		if armed.Route != route {
			continue
		}
		if armed.left--; armed.left <= 0 {
			f.armed = append(f.armed[:i:i], f.armed[i+1:]...)
		}
		return armed, armed.left <= 0
	}
	return nil, false
}

// ServeHTTP passes a request on, or lets a fault answer it.
func (f *Faulty) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	route := routeOf(r)
	fault, last := f.take(route)
	if fault == nil {
		f.proxy.ServeHTTP(rw, r)
		f.mu.Lock()
		f.passed[route]++
		f.mu.Unlock()
		return
	}
	if last {
		defer close(fault.done)
	}
	fault.answer(&exchange{rw: rw, r: r, faulty: f})
}

// exchange is a request that meets a fault.
type exchange struct {
	rw     http.ResponseWriter
	r      *http.Request
	faulty *Faulty
}

// whole is what the agent answers to a request for path.
func (x *exchange) whole(path string) (header http.Header, body []byte) {
	request := x.r.Clone(x.r.Context())
	request.RequestURI, request.URL.Scheme, request.URL.Host, request.Host = "", "http", x.faulty.agent, ""
	if path != "" && path != request.URL.Path {
		request.URL.Path, request.URL.RawQuery = path, ""
	}
	response, err := x.faulty.http.Do(request)
	if err != nil {
		return http.Header{}, []byte("{}")
	}
	defer response.Body.Close()
	if body, err = io.ReadAll(response.Body); err != nil {
		return http.Header{}, []byte("{}")
	}
	header = response.Header
	header.Del("Content-Length")
	return header, body
}

// send answers with a status and a body that arrives whole.
func (x *exchange) send(status int, header http.Header, body []byte) {
	for name, values := range header {
		x.rw.Header()[name] = values
	}
	x.rw.WriteHeader(status)
	_, _ = x.rw.Write(body) // the client may have gone
}

// raw answers with bytes that no HTTP server would send, on a connection that ends with the call.
func (x *exchange) raw(answer func(conn *net.TCPConn)) {
	conn, _, err := http.NewResponseController(x.rw).Hijack()
	if err != nil {
		return // the door was closed meanwhile
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		answer(tcp)
	}
}

// until waits for the client to hang up, for d at most.
func until(conn net.Conn, d time.Duration) {
	if err := conn.SetReadDeadline(time.Now().Add(d)); err == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// errNoFault is a kind that does not exist, or does not happen to a route.
var errNoFault = errors.New("there is no such fault")
