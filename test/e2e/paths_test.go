// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// TestExposedPaths: a port on which a sidecar exposes a path opens to those whom the operator names, and to nobody else in
// the network; it closes close_delay after it was deregistered, and at once where the operator takes the word back.
func TestExposedPaths(t *testing.T) {
	t.Parallel()
	for name, backend := range backends() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, host.ConsulOptions{})
			set := "add hostagent-paths 21200\nadd hostagent-paths 21500\ncreate hostagent-paths4 hash:net family inet\nadd hostagent-paths4 "
			guarded := ""
			if name == "nftables" { // whose accepts do not overrule others' drops, so that the guard has to keep others out
				set, guarded = "set paths4 {\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = { ", "guard_ports = [21500]\n"
			} else {
				w.defaultDrop(name)
			}
			w.listenOn("exposed", 21200, 21500)
			var sidecar uint16
			register := func(ports ...int) {
				t.Helper()
				registration := withSidecar("web", 8080, 0)
				proxy := &api.AgentServiceConnectProxyConfig{Expose: api.ExposeConfig{Checks: true}}
				registration.Connect.SidecarService.Proxy = proxy
				for _, port := range ports {
					proxy.Expose.Paths = append(proxy.Expose.Paths, api.ExposePath{
						Path: "/metrics", ListenerPort: port, LocalPathPort: 8080, Protocol: "http",
					})
				}
				w.must(w.consul.API().Agent().ServiceRegister(registration))
				registered, _, err := w.consul.API().Agent().Service("web-sidecar-proxy", nil)
				w.must(err)
				sidecar = uint16(registered.Port)
			}
			register(21200, 21500)
			_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"127.0.0.1:8080"}})
			w.must(err)
			_, err = w.StartSidecar(w.ctx, "web")
			w.must(err)
			prometheus, err := w.Neighbour()
			w.must(err)
			other, err := w.Neighbour()
			w.must(err)

			file := filepath.Join(t.TempDir(), "h.hcl")
			write := func(from string) {
				t.Helper()
				config := quick + backend + guarded + "mode = \"guard\"\nextra_ports = [21500]\nexposed_paths_from = [" + from + "]\n"
				w.must(os.WriteFile(file, []byte(config), 0o600))
			}
			write("")
			agent := w.start("", "--config", file)
			w.turns("prometheus", prometheus.Namespace, 21200, host.Dropped, 10*time.Second)
			w.turns("prometheus", prometheus.Namespace, sidecar, host.Open, 10*time.Second)
			w.expect("prometheus", prometheus.Namespace, 21200, host.Dropped, both()...)
			w.checkTurns("service:web", "passing", "exposed paths 21200, 21500, not opened")

			// Now the operator names one of the two, by SIGHUP.
			write(fmt.Sprintf("%q, %q", prometheus.IPv4, prometheus.IPv6))
			w.must(agent.Signal(syscall.SIGHUP))
			w.turns("prometheus", prometheus.Namespace, 21200, host.Open, 10*time.Second)
			for _, port := range []uint16{21200, 21500} {
				w.expect("prometheus", prometheus.Namespace, port, host.Open, both()...)
				w.expect("another", other.Namespace, port, host.Dropped, both()...)
			}
			w.expect("another", other.Namespace, sidecar, host.Open, both()...)
			for _, address := range append(both(), "127.0.0.1") {
				conn, err := w.Local.Dial(w.ctx, "tcp", at(address, 21200))
				if err != nil {
					t.Fatalf("the host does not reach its own path: %v", err)
				}
				conn.Close()
			}
			w.checkTurns("firewall", "passing", "\n21200  web, exposed path, from "+prometheus.IPv4)
			show := w.hostagent(0, "firewall", "show")
			if want := set + prometheus.IPv4; !strings.Contains(show, want) {
				t.Errorf("firewall show lacks %q:\n%s", want, show)
			}
			plan := w.hostagent(0, "firewall", "plan", "--config", file)
			if want := "21200 web, exposed path, from " + prometheus.IPv4; !strings.Contains(plan, want) {
				t.Errorf("firewall plan lacks %q:\n%s", want, plan)
			}

			// A port that is exposed no more closes after close_delay, not before.
			register(21500)
			began := time.Now()
			w.turns("prometheus", prometheus.Namespace, 21200, host.Dropped, 12*time.Second)
			if took := time.Since(began); took < 3*time.Second {
				t.Errorf("the path closed after %v, close_delay is 4s", took)
			}
			w.expect("prometheus", prometheus.Namespace, 21500, host.Open, both()...)

			write("")
			w.must(agent.Signal(syscall.SIGHUP))
			w.turns("prometheus", prometheus.Namespace, 21500, host.Dropped, 10*time.Second)
			w.until("nothing is left of the group", func() error {
				if show := w.hostagent(0, "firewall", "show"); strings.Contains(show, "paths") {
					return fmt.Errorf("firewall show says\n%s", show)
				}
				return nil
			})
			w.hostagent(0, "firewall", "remove", "--stop")
		})
	}
}
