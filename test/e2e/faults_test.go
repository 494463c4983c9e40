// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// fault is what a faulty agent does to one request.
type fault func(w http.ResponseWriter, r *http.Request, healthy http.Handler)

// faults are agents that answer, but not as an agent should.
func faults() map[string]fault {
	text := func(status int, contentType, body string) fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		}
	}
	return map[string]fault{
		"garbage":                         text(200, "application/json", "\x00\xff not JSON \x1b[2J"),
		"HTML":                            text(200, "text/html", "<html><body>It works!</body></html>"),
		"null":                            text(200, "application/json", "null"),
		"a list":                          text(200, "application/json", "[]"),
		"status 500":                      text(500, "text/plain", "boom \x1b[31m"),
		"status 429":                      text(429, "text/plain", "rate limited"),
		"status 403":                      text(403, "text/plain", "Permission denied"),
		"a port as text":                  text(200, "application/json", `{"web":{"ID":"web","Service":"web","Port":"8080"}}`),
		"another entry than its key says": text(200, "application/json", `{"web":{"ID":"api","Service":"api","Port":1}}`),
		"filtered": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
			w.Header().Set("X-Consul-Results-Filtered-By-Acls", "true")
			fmt.Fprint(w, "{}")
		},
		"default deny without a token": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("X-Consul-Default-Acl-Policy", "deny")
			fmt.Fprint(w, "{}")
		},
		"half a body": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
			w.Header().Set("Content-Length", "5000")
			fmt.Fprint(w, `{"web":{"ID":"web",`)
		},
		"after 30 seconds": func(w http.ResponseWriter, r *http.Request, healthy http.Handler) {
			select {
			case <-r.Context().Done():
			case <-time.After(30 * time.Second):
				healthy.ServeHTTP(w, r)
			}
		},
		"redirect": func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Redirect(w, r, "http://127.0.0.1:1/elsewhere", http.StatusFound)
		},
	}
}

// faultyAgent serves the host's agent at 127.0.0.1:8501, with the current fault put before the registrations.
func (w *world) faultyAgent() *atomic.Pointer[fault] {
	w.t.Helper()
	var listener net.Listener
	w.must(w.InHost(func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:8501")
		return err
	}))
	healthy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host.ConsulAddress})
	healthy.Transport = w.HTTPClient().Transport
	current := new(atomic.Pointer[fault])
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := current.Load(); f != nil && r.URL.Path == "/v1/agent/services" {
			(*f)(rw, r, healthy)
			return
		}
		healthy.ServeHTTP(rw, r)
	})}
	go server.Serve(listener)
	w.t.Cleanup(func() { server.Close() })
	return current
}

// TestFaultyAgent: whatever the agent answers, the last good state stands for longer than close_delay, and what comes
// after the fault counts again.
func TestFaultyAgent(t *testing.T) {
	t.Parallel()
	all := faults()
	names := slices.Sorted(maps.Keys(all))
	for part := range slices.Chunk(names, 5) {
		t.Run(strings.Join(part, ", "), func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			current := w.faultyAgent()
			_, port := w.service("web", 8080, "127.0.0.1:8080")
			_, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{"[::]:21200"}})
			w.must(err)
			agent := w.start("close_delay = \"1s\"\npoll_interval = \"200ms\"\nconsul { timeout = \"500ms\" }\n",
				"--mode", "guard", "--consul-address", "127.0.0.1:8501")
			w.guarded()
			for _, name := range part {
				w.survives(agent, port, current, name, all[name])
			}
		})
	}
}

func (w *world) survives(agent *host.Process, port uint16, current *atomic.Pointer[fault], name string, f fault) {
	w.t.Helper()
	before := len(agent.Log())
	current.Store(&f)
	for start := time.Now(); time.Since(start) < 2*time.Second; {
		w.reaches(port, host.Open)
		time.Sleep(100 * time.Millisecond)
	}
	w.reaches(21200, host.Dropped)
	said := agent.Log()[before:]
	if !strings.Contains(said, "step failed, the last good state stands") {
		w.t.Errorf("%s: nothing in the log:\n%s", name, said)
	}
	if strings.ContainsAny(said, "\x1b\x00") {
		w.t.Errorf("%s: the log holds raw control characters: %q", name, said)
	}
	current.Store(nil)
	w.until("hostagent has recovered from "+name, func() error {
		if !strings.Contains(agent.Log()[before:], "recovered") {
			return errors.New("it has not")
		}
		return nil
	})
	w.reaches(port, host.Open)
}

// TestOutage: an agent that is gone altogether, and back, closes nothing by that alone.
func TestOutage(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	_, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{"[::]:21200"}})
	w.must(err)
	w.guard("")
	w.must(w.consul.Stop())
	for start := time.Now(); time.Since(start) < 6*time.Second; { // close_delay is 4 s
		w.reaches(port, host.Open)
		time.Sleep(100 * time.Millisecond)
	}
	w.reaches(21200, host.Dropped)
	w.must(w.consul.Restart(w.ctx))
	w.checkTurns("alive", "passing", "guard mode")
	w.reaches(port, host.Open)
	w.must(w.consul.API().Agent().ServiceDeregister("web"))
	w.eventually(port, host.Dropped, 10*time.Second)
}

// TestHostileRegistrations: what a token with service:write on one service can write, and more.
func TestHostileRegistrations(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	_, err := w.StartApp(w.ctx, host.App{Name: "other", Listen: []string{"[::]:22", "[::]:443", "[::]:21256"}})
	w.must(err)
	w.defaultDrop("nft")
	w.guard("")
	long := strings.Repeat("n", 300)
	hostile := []*api.AgentServiceRegistration{
		proxy("ssh", 22, "x"), proxy("https", 443, "x"), proxy("past", 21256, "x"), proxy("far", 70000, "x"),
		proxy("wrap", 65536+21007, "x"), proxy("negative", -1, "x"),
		proxy("one", 21030, "x"), proxy("two", 21030, "x"),
		proxy("esc\x1b[2J\nnewline", 443, "x\x1b]0;title\x07\r\n"), proxy(long, 443, long), proxy("-rf", 443, "-rf"),
		proxy("../../etc", 443, "%2e%2e"),
		{Name: "gw", Kind: api.ServiceKindMeshGateway, Port: 443},
		{Name: "native", Port: 443, Connect: &api.AgentServiceConnect{Native: true}},
		{Name: "plain", Port: 21031},
	}
	for _, registration := range hostile {
		if err := w.consul.API().Agent().ServiceRegister(registration); err != nil {
			t.Logf("the agent itself refuses %q: %v", registration.Name, err)
		}
	}
	w.checkTurns("sidecar-range", "warning", "duplicate-port\n  port 21030 is registered by one and two")
	for _, closed := range []uint16{22, 443, 21256, 21007, 21031} {
		w.reaches(closed, host.Dropped)
	}
	w.meshWorks("web", port)
	show := w.hostagent(0, "firewall", "show")
	for _, line := range strings.Split(show, "\n") {
		if strings.HasPrefix(line, "add hostagent-open") && line != "add hostagent-open 21000" && line != "add hostagent-open 21030" {
			t.Errorf("a port is open that should not be: %s", line)
		}
	}
	for _, args := range [][]string{{"scan"}, {"scan", "--format", "json"}} {
		if out := w.hostagent(1, args...); strings.ContainsAny(out, "\x1b\x07\r") {
			t.Errorf("%v lets control characters through:\n%q", args, out)
		}
	}
	checks, err := w.consul.API().Agent().ChecksWithFilter(`ServiceID == "hostagent"`)
	w.must(err)
	for id, c := range checks {
		if len(c.Output) > 4096 || strings.ContainsAny(c.Output+c.Name, "\x1b\x07\r") {
			t.Errorf("check %q: %d bytes, %q", id, len(c.Output), c.Output)
		}
	}
}

func proxy(name string, port int, destination string) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		Name: name, Kind: api.ServiceKindConnectProxy, Port: port,
		Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: destination},
	}
}

// TestManyFindingsFitTheCheck: Consul keeps 4,096 bytes of a check's output.
func TestManyFindingsFitTheCheck(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	_, listen := neighbours(21000)
	_, err := w.StartApp(w.ctx, host.App{Name: "everywhere", Listen: listen})
	w.must(err)
	w.start(quick, "--mode", "observe")
	w.checkTurns("sidecar-range", "warning", "more: see hostagent scan")
	if c := w.check("sidecar-range"); len(c.Output) > 4096 {
		t.Errorf("the output has %d bytes", len(c.Output))
	}
}

func TestRangeOfAllPortsIsRefused(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{Config: "ports {\n  sidecar_min_port = 20\n  sidecar_max_port = 65535\n}\n"})
	_, err := w.StartApp(w.ctx, host.App{Name: "other", Listen: []string{"[::]:22", "[::]:443", "[::]:21256"}})
	w.must(err)
	w.guard("")
	for _, open := range []uint16{22, 443, 21256} {
		w.reaches(open, host.Open)
	}
	w.checkTurns("sidecar-range", "critical", "range-refused")
	if out := w.hostagent(1, "scan", "--fail-on", "critical"); !strings.Contains(out, "it holds 65516 ports, more than 4096; 21000-21255 stays in force") {
		t.Errorf("scan says\n%s", out)
	}
}
