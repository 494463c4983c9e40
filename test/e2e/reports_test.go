// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// upstream starts a built-in proxy that gives the host's clients a way to a service through the mesh, at a local port.
func (w *world) upstream(service string, port int) {
	w.t.Helper()
	binary, err := host.ConsulBinary(w.ctx, io.Discard)
	w.must(err)
	cmd := w.Command(context.Background(), binary, "connect", "proxy", "-service", "client",
		"-upstream", fmt.Sprintf("%s:%d", service, port), "-http-addr", host.ConsulAddress)
	_, err = w.Start("upstream "+service, cmd)
	w.must(err)
}

// meshed calls a service through its upstream's proxy, which asks Consul for an instance at each connection.
func (w *world) meshed(port int) error {
	ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
	defer cancel()
	conn, err := w.Local.Dial(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = host.Hello(ctx, conn)
	return err
}

// resolved asks Consul's DNS for a service.
func (w *world) resolved(service string) bool {
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return w.Local.Dial(ctx, network, "127.0.0.1:8600")
	}}
	addresses, err := resolver.LookupHost(w.ctx, service+".service.consul.")
	return err == nil && len(addresses) > 0
}

// passing asks for the instances that pass, of a service or of its sidecars.
func (w *world) passing(service string) (instances, sidecars int) {
	w.t.Helper()
	health := w.consul.API().Health()
	plain, _, err := health.Service(service, "", true, nil)
	w.must(err)
	connect, _, err := health.Connect(service, "", true, nil)
	w.must(err)
	return len(plain), len(connect)
}

// seen is how a service is found and reached: "dns passing sidecar mesh".
func (w *world) seen(service string, upstream int) string {
	w.t.Helper()
	var seen []string
	if w.resolved(service) {
		seen = append(seen, "dns")
	}
	instances, sidecars := w.passing(service)
	if instances > 0 {
		seen = append(seen, "passing")
	}
	if sidecars > 0 {
		seen = append(seen, "sidecar")
	}
	if w.meshed(upstream) == nil {
		seen = append(seen, "mesh")
	}
	return strings.Join(seen, " ")
}

const everywhere = "dns passing sidecar mesh"

func (w *world) seenAs(service string, upstream int, want string) {
	w.t.Helper()
	w.until(fmt.Sprintf("%s is seen as %q", service, want), func() error {
		if got := w.seen(service, upstream); got != want {
			return fmt.Errorf("it is seen as %q", got)
		}
		return nil
	})
}

// reported tells where the check of a service stands, and how: "web: warning", "" for nowhere.
func (w *world) reported(service string) string {
	w.t.Helper()
	checks, err := w.consul.API().Agent().Checks()
	w.must(err)
	if c := checks["hostagent:service:"+service]; c != nil {
		return c.ServiceID + ": " + c.Status
	}
	return ""
}

func (w *world) reportedAs(service, want string) {
	w.t.Helper()
	w.until(fmt.Sprintf("the check of %s is %q", service, want), func() error {
		if got := w.reported(service); got != want {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// written tells when the servers stored each of hostagent's checks last, as Raft indexes.
func (w *world) written() map[string]uint64 {
	w.t.Helper()
	checks, _, err := w.consul.API().Health().Node("host", nil)
	w.must(err)
	written := map[string]uint64{}
	for _, c := range checks {
		if strings.HasPrefix(c.CheckID, "hostagent:") {
			written[c.CheckID] = c.ModifyIndex
		}
	}
	return written
}

// TestReportOnService: what a result on an application's own service does to it, and that the end of hostagent does
// nothing.
func TestReportOnService(t *testing.T) {
	netns.Once(t)
	w := newWorld(t, host.ConsulOptions{})
	for i, service := range []struct{ name, listen string }{
		{"web", "0.0.0.0:8080"}, {"db", "0.0.0.0:8081"}, {"api", "127.0.0.1:8082"},
	} {
		w.service(service.name, 8080+i, service.listen)
		w.upstream(service.name, 9191+i)
	}
	for i, name := range []string{"web", "db", "api"} {
		w.seenAs(name, 9191+i, everywhere)
	}
	agent := w.start(quick+"report {\n on = \"service\"\n critical_services = [\"db\"]\n}\n", "--mode", "observe")
	w.reportedAs("web", "web: warning")
	w.reportedAs("db", "db: critical")
	w.reportedAs("api", "api: passing")
	w.seenAs("web", 9191, "dns")
	w.seenAs("db", 9192, "")
	w.seenAs("api", 9193, everywhere)

	// An application that is registered anew and replaces its checks has ours back.
	w.must(w.consul.API().Agent().ServiceRegisterOpts(withSidecar("api", 8082, 0), api.ServiceRegisterOpts{ReplaceExistingChecks: true}))
	w.reportedAs("api", "api: passing")

	// A steady host writes nothing to the servers.
	time.Sleep(2 * time.Second)
	before := w.written()
	time.Sleep(3 * time.Second)
	if diff := cmp.Diff(before, w.written()); diff != "" {
		t.Errorf("checks were written (-before +after):\n%s", diff)
	}

	w.must(agent.Kill())
	deadline := time.Now().Add(45 * time.Second)
	for w.check("alive").Status != "critical" {
		if time.Now().After(deadline) {
			t.Fatal("the life check does not turn critical")
		}
		if got := w.seen("api", 9193); got != everywhere {
			t.Fatalf("with hostagent dead api is seen as %q", got)
		}
		time.Sleep(500 * time.Millisecond)
	}
	time.Sleep(2 * time.Second) // so that servers and proxies know, too
	w.seenAs("api", 9193, everywhere)
	w.seenAs("web", 9191, "dns")
	for service, want := range map[string]string{"web": "web: warning", "db": "db: critical", "api": "api: passing"} {
		if got := w.reported(service); got != want {
			t.Errorf("with hostagent dead the check of %s is %q, want %q", service, got, want)
		}
	}
}

// TestReportsComeAndGo: on hostagent's own service a finding does nothing to the application; checks of an earlier run on
// the applications' services go, and so does all when it is asked for.
func TestReportsComeAndGo(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "0.0.0.0:8080")
	w.service("old", 8081, "0.0.0.0:8081")
	w.upstream("web", 9191)
	// Somebody has a service of that id: it stays as it is.
	taken := &api.AgentServiceRegistration{ID: "hostagent", Name: "shop", Port: 99}
	w.must(w.consul.API().Agent().ServiceRegister(taken))
	earlier := w.start(quick+"report { on = \"service\" }\n", "--mode", "observe")
	w.must(earlier.WaitLog(w.ctx, "another service has this id"))
	shop, _, err := w.consul.API().Agent().Service("hostagent", nil)
	w.must(err)
	if shop.Service != "shop" || shop.Port != 99 || w.reported("web") != "" {
		t.Errorf("somebody else's service became %+v, and web's check stands on %q", shop, w.reported("web"))
	}
	w.must(w.consul.API().Agent().ServiceDeregister("hostagent"))
	w.reportedAs("web", "web: warning")
	w.reportedAs("old", "old: warning")
	w.must(earlier.Kill())
	w.must(w.consul.API().Agent().ServiceDeregister("old-sidecar-proxy"))

	agent := w.start(quick, "--mode", "observe")
	w.reportedAs("web", "hostagent: warning")
	w.reportedAs("old", "")
	w.seenAs("web", 9191, everywhere)

	list := w.hostagent(0, "reports")
	for _, text := range []string{"passing   hostagent  hostagent:alive\n", "warning   hostagent  hostagent:service:web\n"} {
		if !strings.Contains(list, text) {
			t.Errorf("reports lacks %q:\n%s", text, list)
		}
	}
	if out := w.hostagent(2, "reports", "remove"); !strings.Contains(out, "stop it first, or use --stop") {
		t.Errorf("remove under a running hostagent says %s", out)
	}
	// Somebody deregisters all of it: it comes back.
	w.must(w.consul.API().Agent().ServiceDeregister("hostagent"))
	w.checkTurns("alive", "passing", "observe mode")
	w.reportedAs("web", "hostagent: warning")

	if out := w.hostagent(0, "reports", "remove", "--stop"); !strings.Contains(out, "removed: service hostagent with 4 checks\n") {
		t.Errorf("remove says %s", out)
	}
	if _, err := agent.Wait(w.ctx); err != nil {
		t.Error(err)
	}
	if out := w.hostagent(0, "reports", "remove"); !strings.Contains(out, "nothing to remove\n") {
		t.Errorf("the second remove says %s", out)
	}
	checks, err := w.consul.API().Agent().Checks()
	w.must(err)
	for id := range checks {
		if strings.HasPrefix(id, "hostagent") {
			t.Errorf("left over: %s", id)
		}
	}

	w.must(w.consul.Signal(syscall.SIGSTOP))
	start := time.Now()
	out := w.hostagent(2, "reports", "remove")
	if took := time.Since(start); took < 4*time.Second || took > 7*time.Second {
		t.Errorf("took %v with an agent that hangs", took)
	}
	if !strings.Contains(out, "cannot remove all reports") || !strings.Contains(out, "for 72 hours with check \"hostagent:alive\" critical") {
		t.Errorf("with an agent that hangs it says %s", out)
	}
	w.must(w.consul.Kill())
	start = time.Now()
	if out := w.hostagent(2, "reports", "remove"); time.Since(start) > time.Second || !strings.Contains(out, "connection refused") {
		t.Errorf("took %v without an agent, and says %s", time.Since(start), out)
	}
}

// TestReportOnRefusedService: an application on whose service the token may not write has its results on hostagent's, and
// keeps no other from its own.
func TestReportOnRefusedService(t *testing.T) {
	netns.Once(t)
	w := newWorld(t, defaultDeny())
	w.service("web", 8080, "0.0.0.0:8080")
	w.service("db", 8081, "0.0.0.0:8081")
	given := w.grant("hostagent", frugal+`service "web" { policy = "write" }`)
	agent := w.start(quick+fmt.Sprintf("consul { token_file = %q }\nreport { on = \"service\" }\n", given.file()), "--mode", "observe")
	w.reportedAs("web", "web: warning")
	w.reportedAs("db", "hostagent: warning")
	w.must(agent.WaitLog(w.ctx, `give hostagent's token service \"db\" { policy = \"write\" }`))
	time.Sleep(3 * time.Second)
	if log := agent.Log(); strings.Count(log, "level=ERROR") != 1 || strings.Contains(log, given.token.SecretID) {
		t.Errorf("not one error, or the token:\n%s", log)
	}

	// The right to web is lost while its result stands there: when the result changes it moves, and nothing is stuck.
	given.change(frugal)
	_, err := w.StartApp(w.ctx, host.App{Name: "web", Listen: []string{"0.0.0.0:9999"}})
	w.must(err)
	w.must(w.consul.API().Agent().ServiceRegister(withSidecar("web", 9999, 21000)))
	w.reportedAs("web", "hostagent: warning")
}
