// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// TestProbe puts a plain application, the sidecar of another service and at last the right one on a sidecar's port, and asks
// each who it is. Being asked again and again keeps the sidecar from nothing.
func TestProbe(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	// A port of no world beside this one: what listens on it in another namespace may be the sidecar.
	port := w.register("web", 8080, 21233)
	app, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"127.0.0.1:8080"}})
	w.must(err)
	impostor, err := w.StartApp(w.ctx, host.App{Name: "impostor", Listen: []string{at("::", port)}})
	w.must(err)

	w.start(quick+"probe = true\n", "--mode", "observe")
	accused := func(reason string) {
		t.Helper()
		want := "what listens on tcp [::]:" + fmt.Sprint(port) + " for web is no sidecar of it: " + reason + " who: "
		w.until("it is found out", func() error {
			c := w.check("sidecar-range")
			if c == nil || c.Status != "critical" || !strings.Contains(flat(c.Output), want) {
				return fmt.Errorf("the check is %+v, want %q", c, want)
			}
			return nil
		})
	}
	accused("it does not speak TLS")
	w.must(impostor.Stop())
	w.checkTurns("sidecar-range", "warning", "sidecar-not-listening")

	api := w.proxy("-service", "api", "-service-addr", "127.0.0.1:8080", "-listen", fmt.Sprintf("0.0.0.0:%d", port))
	accused("its certificate is that of api")
	if out := w.hostagent(1, "scan", "--probe"); !strings.Contains(out, "its certificate is that of api") {
		t.Errorf("scan says\n%s", out)
	}
	w.must(api.Stop())

	sidecar, err := w.StartSidecar(w.ctx, "web")
	w.must(err)
	w.checkTurns("sidecar-range", "passing", "every listener is a registered sidecar")
	for range 20 {
		if out := w.hostagent(0, "scan", "--probe"); strings.Contains(out, "not-a-sidecar") || strings.Contains(out, "nobody knows") {
			t.Fatalf("scan says\n%s", out)
		}
	}
	conn, err := w.MeshDial(w.ctx, "client", "web", at(host.IPv4, port))
	w.must(err)
	hello, err := host.Hello(w.ctx, conn)
	w.must(err)
	w.must(conn.Close())
	if hello != "hello from web" {
		t.Errorf("through the mesh it says %q", hello)
	}
	w.checkTurns("sidecar-range", "passing", "every listener is a registered sidecar")

	// Consul's own proxy connects to its application first.
	w.must(app.Stop())
	const vain = "nobody knows if what listens on tcp [::]:%d is the sidecar of web: it closes the connection without a word"
	if out := w.hostagent(0, "scan", "--probe"); !strings.Contains(flat(out), fmt.Sprintf(vain, port)) {
		t.Errorf("scan says\n%s", out)
	}
	t.Logf("the sidecar's log:\n%s", sidecar.Log())
}

// flat undoes the line breaks of a text.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }

// proxy starts Consul's own proxy with flags of its own, and not as anybody's sidecar.
func (w *world) proxy(flags ...string) *host.Process {
	w.t.Helper()
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	cmd := w.Command(context.Background(), binary, append([]string{"connect", "proxy"}, flags...)...)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	process, err := w.Start("proxy", cmd)
	w.must(err)
	return process
}
