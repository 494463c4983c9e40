// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// TestWaysAroundTheMesh has an application with a second port, and the built-in proxy with an upstream and its profiles on
// the network: they are found, and quarantined.
func TestWaysAroundTheMesh(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: 8080,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Proxy: &api.AgentServiceConnectProxyConfig{
			Upstreams: []api.Upstream{
				{DestinationName: "db", LocalBindAddress: "0.0.0.0", LocalBindPort: 9191},
				{DestinationName: "cache", LocalBindPort: 9192},
			},
		}}},
	}))
	_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"127.0.0.1:8080", "0.0.0.0:9102", "127.0.0.1:9103"}})
	w.must(err)
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	proxy := w.Command(context.Background(), binary, "connect", "proxy", "-sidecar-for", "web", "-pprof-addr", "0.0.0.0:6060")
	proxy.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	_, err = w.Start("sidecar", proxy)
	w.must(err)
	for _, port := range []uint16{21000, 9191, 9192, 6060} {
		w.until(fmt.Sprintf("the sidecar listens on port %d", port), func() error {
			listening, err := w.Local.Listening(port)
			if err == nil && !listening {
				err = fmt.Errorf("port %d is free", port)
			}
			return err
		})
	}
	scan := strings.Join(strings.Fields(w.hostagent(1, "scan")), " ")
	for _, want := range []string{
		"process app, which runs web, also listens on tcp 0.0.0.0:9102: the network reaches",
		"the sidecar of web listens for upstream db on tcp [::]:9191: whoever reaches",
		`remedy: register upstream db with local_bind_address = "127.0.0.1", or without it`,
		"the sidecar of web also listens on tcp [::]:6060, which no registration explains: the network reaches",
		"remedy: bind it to 127.0.0.1 (consul connect proxy -pprof-addr 127.0.0.1:6060)",
	} {
		if !strings.Contains(scan, want) {
			t.Errorf("the scan lacks %q:\n%s", want, scan)
		}
	}
	for _, never := range []string{"9192", "9103", "squatted"} {
		if strings.Contains(scan, never) {
			t.Errorf("the scan speaks of %s:\n%s", never, scan)
		}
	}
	w.reaches4(9102, host.Open)
	w.guard(closing("9102, 9191, 6060", `"web"`) + `quarantine_findings = ["exposed-sibling", "exposed-upstream", "exposed-admin"]`)
	for _, port := range []uint16{9102, 9191, 6060} {
		w.guardsPort(port)
		w.reaches4(port, host.Dropped)
	}
	w.checkTurns("service:web", "passing", "exposed-upstream (mitigated)")
}

// reaches4 wants the network to see a port as given, over IPv4.
func (w *world) reaches4(port uint16, want host.Reach) {
	w.t.Helper()
	got, err := w.Reachable(w.ctx, at(host.IPv4, port))
	w.must(err)
	if got != want {
		w.t.Errorf("from the network port %d is %s, want %s", port, got, want)
	}
}

// TestTransparentProxyIsToldApart lets Consul itself write the redirect of a transparent proxy: while it stands, the
// application on the network is no open finding.
func TestTransparentProxyIsToldApart(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: 8080,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{
			Proxy: &api.AgentServiceConnectProxyConfig{Mode: api.ProxyModeTransparent},
		}},
	}))
	_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"0.0.0.0:8080"}})
	w.must(err)
	_, err = w.StartSidecar(w.ctx, "web")
	w.must(err)
	w.start(quick, "--mode", "observe")
	w.checkTurns("service:web", "warning", "transparent mode, but nothing redirects")
	w.reaches4(8080, host.Open)

	consul, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	user := "1234"
	if netns.Rootless() {
		user = "0" // there is no other
	}
	redirect := w.Command(context.Background(), consul, "connect", "redirect-traffic", "-proxy-uid", user, "-proxy-inbound-port", "21000")
	redirect.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	if out, err := redirect.CombinedOutput(); err != nil {
		t.Fatalf("consul connect redirect-traffic: %v\n%s", err, out)
	}
	scan := strings.Join(strings.Fields(w.hostagent(0, "scan")), " ")
	if want := "web listens on tcp 0.0.0.0:8080: only the redirect to its transparent proxy keeps the network from it"; !strings.Contains(scan, want) {
		t.Errorf("the scan lacks %q:\n%s", want, scan)
	}
	conn, err := w.Net.Dial(w.ctx, "tcp", at(host.IPv4, 8080))
	w.must(err)
	defer conn.Close()
	soon, cancel := context.WithTimeout(w.ctx, time.Second) // the application greets at once, a sidecar waits for TLS
	defer cancel()
	if greeting, err := host.Hello(soon, conn); err == nil {
		t.Errorf("the network reaches the application: %q", greeting)
	}
	w.run("iptables", "-w", "5", "-t", "nat", "-F", "PREROUTING")
	scan = strings.Join(strings.Fields(w.hostagent(1, "scan")), " ")
	if want := "nothing redirects the network's connections"; !strings.Contains(scan, want) {
		t.Errorf("the scan lacks %q:\n%s", want, scan)
	}
}
