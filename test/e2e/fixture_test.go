// SPDX-License-Identifier: MPL-2.0

// Package e2e proves hostagent on whole hosts: network namespaces, a real Consul agent, real sidecars, the built binary,
// and traffic from another namespace.
package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

func TestMain(m *testing.M) {
	if err := fetchDebian(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err) // the test that needs it fails
	}
	host.Main(m)
}

// world is a host with a Consul agent under test.
type world struct {
	*host.Host
	t      *testing.T
	ctx    context.Context //nolint:containedctx // it lives for one test
	consul *host.Consul
}

// newWorld makes a host with a running Consul agent, beside those of other tests. Everything in it must end within two
// minutes.
func newWorld(t *testing.T, options host.ConsulOptions) *world {
	t.Helper()
	t.Parallel()
	return newLoneWorld(t, options)
}

// newLoneWorld is newWorld for a test that runs alone: hosts share /run, and in it there is one status socket.
func newLoneWorld(t *testing.T, options host.ConsulOptions) *world {
	t.Helper()
	ctx, h, consul := host.ForTest(t, options)
	return &world{Host: h, t: t, ctx: ctx, consul: consul}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// register registers a service on port with a sidecar, on sidecarPort or, if that is 0, where Consul puts it. It returns
// the sidecar's port.
func (w *world) register(name string, port, sidecarPort int) uint16 {
	w.t.Helper()
	w.must(w.consul.API().Agent().ServiceRegister(withSidecar(name, port, sidecarPort)))
	proxy, _, err := w.consul.API().Agent().Service(name+"-sidecar-proxy", nil)
	w.must(err)
	return uint16(proxy.Port)
}

// withSidecar is a service on port with a sidecar, on sidecarPort or, if that is 0, where Consul puts it.
func withSidecar(name string, port, sidecarPort int) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		Name: name, Port: port,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: sidecarPort}},
	}
}

// listenOn starts an application on ports of every address.
func (w *world) listenOn(name string, ports ...uint16) {
	w.t.Helper()
	var addresses []string
	for _, port := range ports {
		addresses = append(addresses, at("::", port))
	}
	_, err := w.StartApp(w.ctx, host.App{Name: name, Listen: addresses})
	w.must(err)
}

// serve answers HTTP at an address of the host.
func (w *world) serve(address string, handler http.Handler) {
	w.t.Helper()
	var listener net.Listener
	w.must(w.InHost(func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	}))
	server := &http.Server{Handler: handler}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	w.t.Cleanup(func() { server.Close() })
}

// passOn passes HTTP on to an address that the host reaches.
func (w *world) passOn(to string) *httputil.ReverseProxy {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: to})
	proxy.Transport = w.HTTPClient().Transport
	return proxy
}

// service registers a service with a sidecar and starts both; the application listens on the given addresses.
func (w *world) service(name string, port int, listen ...string) (app *host.RunningApp, sidecarPort uint16) {
	w.t.Helper()
	sidecarPort = w.register(name, port, 0)
	app, err := w.StartApp(w.ctx, host.App{Name: name, Listen: listen})
	w.must(err)
	_, err = w.StartSidecar(w.ctx, name)
	w.must(err)
	return app, sidecarPort
}

// quick is a configuration that does not keep tests waiting.
const quick = `
close_delay = "4s"
poll_interval = "200ms"
check_interval = "1s"
`

// start starts hostagent; its log is shown if the test fails.
func (w *world) start(config string, args ...string) *host.Process {
	w.t.Helper()
	agent, err := w.StartHostagent(w.ctx, config, args...)
	w.must(err)
	host.ShowLog(w.t, agent)
	return agent
}

// guard starts hostagent in guard mode with the quick configuration and more, and waits until the range is closed.
func (w *world) guard(more string) *host.Process {
	w.t.Helper()
	agent := w.start(quick+more, "--mode", "guard")
	w.guarded()
	return agent
}

// guarded waits until the range is closed.
func (w *world) guarded() {
	w.t.Helper()
	w.until("the range is guarded", func() error {
		show := w.hostagent(0, "firewall", "show")
		if !strings.Contains(show, "add hostagent-guard 21000-21255\n") && !guardedByNFTables(show) {
			return fmt.Errorf("firewall show says\n%s", show)
		}
		return nil
	})
}

// guardedByNFTables tells whether the native table holds the whole range.
func guardedByNFTables(show string) bool {
	_, guard, found := strings.Cut(show, "set guard {")
	guard, _, _ = strings.Cut(guard, "}")
	return found && strings.Contains(guard, "21000,") && strings.Contains(guard, "21255") && strings.Count(guard, ",") == 255
}

// hostagent runs the built program in the host and wants the given exit status.
func (w *world) hostagent(status int, args ...string) string {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	out, code, err := w.Run(w.ctx, binary, args...)
	w.must(err)
	if code != status {
		w.t.Errorf("hostagent %s ended with %d, want %d:\n%s", strings.Join(args, " "), code, status, out)
	}
	return out
}

// until waits for a condition, with a deadline.
func (w *world) until(what string, condition func() error) {
	w.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// at joins an address of the host and a port.
func at(address string, port uint16) string {
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

// both are the host's addresses.
func both() []string { return []string{host.IPv4, host.IPv6} }

// reaches wants the network to see port as given, over IPv4 and IPv6.
func (w *world) reaches(port uint16, want host.Reach) {
	w.t.Helper()
	for _, address := range both() {
		got, err := w.Reachable(w.ctx, at(address, port))
		w.must(err)
		if got != want {
			w.t.Errorf("from the network %s is %s, want %s", at(address, port), got, want)
		}
	}
}

// eventually waits until the network sees port as given, over IPv4 and IPv6.
func (w *world) eventually(port uint16, want host.Reach, within time.Duration) {
	w.t.Helper()
	for _, address := range both() {
		_, err := w.EventuallyReach(w.ctx, at(address, port), want, within)
		w.must(err)
	}
}

// check returns one of hostagent's checks as the agent has it.
func (w *world) check(key string) *api.AgentCheck {
	w.t.Helper()
	checks, err := w.consul.API().Agent().ChecksWithFilter(`ServiceID == "hostagent"`)
	w.must(err)
	return checks["hostagent:"+key]
}

// checkTurns waits until a check has the status and its output holds text.
func (w *world) checkTurns(key, status, text string) {
	w.t.Helper()
	w.until(fmt.Sprintf("check %s is %s", key, status), func() error {
		c := w.check(key)
		if c == nil {
			return fmt.Errorf("there is no such check")
		}
		if c.Status != status || !strings.Contains(c.Output, text) {
			return fmt.Errorf("it is %s:\n%s", c.Status, c.Output)
		}
		return nil
	})
}
