// SPDX-License-Identifier: MPL-2.0

package browser

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// world is a host with a Consul agent, and a browser that shows its UI.
type world struct {
	*host.Host
	*tab
	t      *testing.T
	ctx    context.Context //nolint:containedctx // it lives for one test
	consul *host.Consul
}

// node is the host's name in Consul, and instance the page of hostagent's service there.
const (
	node     = "web-1"
	instance = "services/hostagent/instances/" + node + "/hostagent/health-checks"
)

// soon is within what time the UI shows what has happened: hostagent looks every second, its report and Consul's take one each.
const soon = 20 * time.Second

func newWorld(t *testing.T) *world {
	t.Helper()
	t.Parallel()
	ctx, h, consul := host.ForTest(t, host.ConsulOptions{NodeName: node})
	w := &world{Host: h, t: t, ctx: ctx, consul: consul}
	inTab, cancelTab := context.WithTimeout(startChromium(t, h), 2*time.Minute)
	t.Cleanup(cancelTab)
	w.tab = &tab{t: t, ctx: inTab}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// service registers a service with a sidecar and starts both.
func (w *world) service(name, listen string) *host.RunningApp {
	w.t.Helper()
	_, text, err := net.SplitHostPort(listen)
	w.must(err)
	port, err := strconv.Atoi(text)
	w.must(err)
	w.must(w.consul.API().Agent().ServiceRegister(withSidecar(name, port)))
	app, err := w.StartApp(w.ctx, host.App{Name: name, Listen: []string{listen}})
	w.must(err)
	_, err = w.StartSidecar(w.ctx, name)
	w.must(err)
	return app
}

func withSidecar(name string, port int) *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		Name: name, Port: port, Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
	}
}

// guard starts hostagent in guard mode; its log is shown if the test fails.
func (w *world) guard() *host.Process {
	w.t.Helper()
	agent, err := w.StartHostagent(w.ctx, "check_interval = \"1s\"\n", "--mode", "guard")
	w.must(err)
	host.ShowLog(w.t, agent)
	return agent
}

// run runs a program on the host.
func (w *world) run(program string, args ...string) {
	w.t.Helper()
	out, code, err := w.Run(w.ctx, program, args...)
	if w.must(err); code != 0 {
		w.t.Fatalf("%s ended with %d:\n%s", program, code, out)
	}
}

// standing are hostagent's checks as Consul's API tells them, by name.
func (w *world) standing() map[string]*api.HealthCheck {
	w.t.Helper()
	all, _, err := w.consul.API().Health().Checks("hostagent", nil)
	w.must(err)
	checks := map[string]*api.HealthCheck{}
	for _, c := range all {
		checks[c.Name] = c
	}
	return checks
}

// readable wants the page to show all of hostagent's checks, each as Consul has it and as operators can read it.
func (w *world) readable() {
	w.t.Helper()
	want := w.standing()
	var onPage map[string]shown
	w.until("the page shows every check as it stands", soon, func() error {
		want, onPage = w.standing(), w.checks()
		for name, c := range want {
			if got := onPage[name]; got.Status != c.Status || got.Notes != strings.TrimSpace(c.Notes) {
				return fmt.Errorf("%s is %s with notes %q, want %s with %q", name, got.Status, got.Notes, c.Status, c.Notes)
			}
		}
		return nil
	})
	for name, c := range want {
		got := onPage[name]
		if diff := cmp.Diff(lines(c.Output), lines(got.Text)); diff != "" {
			w.t.Errorf("the lines of %s (-as reported +as shown):\n%s", name, diff)
		}
		if len(got.Wrapped) > 0 || got.Scrolls || got.Wide || got.Markup != "" {
			w.t.Errorf("%s is not shown as it is (it scrolls: %t, the page: %t, elements: %q); lines broken by the browser: %q",
				name, got.Scrolls, got.Wide, got.Markup, got.Wrapped)
		}
		for _, line := range lines(got.Text) {
			if len([]rune(line)) >= 80 || strings.TrimRight(line, " ") != line || strings.ContainsAny(line, "\t\x1b&\\") {
				w.t.Errorf("a line of %s does not read well: %q", name, line)
			}
		}
		if got.Notes == "" {
			w.t.Errorf("%s has no notes", name)
		}
	}
}

func lines(text string) []string { return strings.Split(strings.TrimRight(text, "\n"), "\n") }

// TestOperatorsSeeResults is a day of an operator at the UI: the firewall cannot be brought up to date and an application is
// exposed; both are mended while the page is open; at last hostagent dies.
func TestOperatorsSeeResults(t *testing.T) {
	w := newWorld(t)
	web := w.service("web", "0.0.0.0:8080")
	w.service("db", "127.0.0.1:5432")
	w.run("ipset", "create", "hostagent-guard", "hash:ip") // somebody else's, in the place of ours
	agent := w.guard()

	w.open("services")
	w.listed("hostagent", "critical")
	for _, service := range []string{"web", "db", "consul"} {
		w.listed(service, "passing")
	}
	w.open("services/hostagent/instances")
	w.until("the instance is listed with its failing checks", soon, func() error {
		text := w.text()
		if !strings.Contains(text, node) || !strings.Contains(text, "service checks failing") {
			return fmt.Errorf("there is no such instance")
		}
		return nil
	})

	w.open(instance)
	w.checkTurns("Firewall", "critical", "ipset destroy hostagent-guard", soon)
	w.checkTurns("Listeners of web", "warning", "", soon)
	w.readable()
	publish(t, "critical", w.picture(checkElement("Firewall")))
	keep(t, "critical-page", w.picture("document.documentElement"))
	w.staysOpen(func() {
		w.run("ipset", "destroy", "hostagent-guard")
		w.checkTurns("Firewall", "passing", "Guarded: 21000-21255", soon)
	})

	exposed := w.checkTurns("Listeners of web", "warning", "", soon)
	for _, part := range []string{
		"web: application reachable around the mesh\n\nwarning exposed-listener  tcp 0.0.0.0:8080\n", "\n  who:    app, user root",
		"\n  remedy: bind app to 127.0.0.1, port 8080; ", "\nsidecar web-sidecar-proxy: port ",
	} {
		if !strings.Contains(exposed.Text, part) {
			t.Errorf("the warning lacks %q:\n%s", part, exposed.Text)
		}
	}
	if !strings.HasPrefix(exposed.Notes, "Remedy: bind app to 127.0.0.1") {
		t.Errorf("the warning's notes are %q", exposed.Notes)
	}
	w.readable()
	publish(t, "warning", w.picture(checkElement("Listeners of web")))
	keep(t, "warning-page", w.picture("document.documentElement"))
	w.open("nodes/" + node + "/health-checks")
	w.checkTurns("Listeners of web", "warning", "", soon)
	w.readable()
	w.open("services")
	w.listed("hostagent", "warning")
	keep(t, "services", w.picture("document.documentElement"))

	w.open(instance)
	w.checkTurns("Listeners of web", "warning", "", soon)
	w.staysOpen(func() {
		w.must(web.Rebind(w.ctx, "127.0.0.1:8080"))
		w.checkTurns("Listeners of web", "passing", "web listens on loopback only: tcp 127.0.0.1:8080.", soon)
	})
	w.readable()
	for name, c := range w.checks() {
		if c.Status != "passing" {
			t.Errorf("%s is %s:\n%s", name, c.Status, c.Text)
		}
	}
	publish(t, "passing", w.picture(checkElement("Listeners of web")))
	keep(t, "passing-page", w.picture("document.documentElement"))

	w.must(agent.Kill())
	w.staysOpen(func() {
		w.checkTurns("hostagent alive", "critical", "TTL expired", 45*time.Second) // after 30 s
	})
	w.readable()
	keep(t, "dead-page", w.picture("document.documentElement"))
	w.open("services")
	w.listed("hostagent", "critical")
}

// staysOpen wants what happens to be seen without the page being loaded again.
func (w *world) staysOpen(happens func()) {
	w.t.Helper()
	evaluate[bool](w.tab, "window.before = true")
	happens()
	if !evaluate[bool](w.tab, "window.before === true") {
		w.t.Error("the page was loaded again")
	}
}

// TestHostileTextIsText: names that anybody may give to services and processes stay text in the UI, whatever they hold.
func TestHostileTextIsText(t *testing.T) {
	w := newWorld(t)
	const markup, process = `<img src=x onerror="window.ran=true">`, `<img src=x onerror=window.ran=true>`
	reversed := "pay\u202egnp.exe"
	hostile := []string{markup, reversed, strings.Repeat("long", 1024), `"><script>window.ran=true</script>`, "{{window.ran=true}}&amp;\x1b[31m"}
	var listen []string
	for i, name := range hostile {
		service := withSidecar(name, 8081+i)
		service.Meta = map[string]string{"description": markup, "external-source": `"><img src=x onerror="window.ran=true">`}
		service.Tags = []string{markup}
		if err := w.consul.API().Agent().ServiceRegister(service); err != nil {
			t.Logf("the agent itself refuses %.40q: %v", name, err)
			continue
		}
		listen = append(listen, "-listen", fmt.Sprintf("0.0.0.0:%d", 8081+i))
	}
	if len(listen) < 2*len(hostile)-2 {
		t.Error("most names are refused")
	}
	w.startAs(process, append(listen, "-listen", "0.0.0.0:21077")...)
	w.startAs(strings.Repeat("W", 255), "-listen", "0.0.0.0:21078")
	w.guard()

	w.open(instance)
	w.until("the markup is shown as text", soon, func() error {
		c, ok := w.checks()["Listeners of "+markup]
		if !ok || c.Status != "warning" || !strings.Contains(flat(c.Text), "who: "+process+", user root") || !strings.Contains(c.Notes, process) {
			return fmt.Errorf("it is %+v", c)
		}
		return nil
	})
	w.checkTurns("Sidecar range", "warning", "WWWW", soon)
	checks := w.checks()
	if _, ok := checks[`Listeners of pay\u202egnp.exe`]; !ok {
		t.Errorf("no check shows what turns the writing round; there are %d", len(checks))
	}
	for name, c := range checks {
		if len([]rune(name)) > 80 || strings.ContainsAny(name+c.Text+c.Notes, "\u202e\x1b") || c.Markup != "" || c.Scrolls || c.Wide {
			t.Errorf("%s is shown with elements %q (it scrolls: %t, the page: %t):\n%s", name, c.Markup, c.Scrolls, c.Wide, c.Text)
		}
	}
	w.calm()
	keep(t, "hostile-page", w.picture("document.documentElement"))
	for _, path := range []string{"services", "services/hostagent/instances", "nodes/" + node + "/health-checks", "nodes/" + node + "/service-instances"} {
		w.open(path)
		w.until(path+" is shown", soon, func() error {
			if !strings.Contains(w.text(), "hostagent") {
				return fmt.Errorf("it does not say hostagent")
			}
			return nil
		})
		w.calm()
	}
}

// startAs starts the application under a name of one's choice.
func (w *world) startAs(name string, args ...string) {
	w.t.Helper()
	binary, err := host.Binary(w.ctx, host.AppProgram)
	w.must(err)
	text, err := os.ReadFile(binary)
	w.must(err)
	path := filepath.Join(w.Dir, name)
	w.must(os.WriteFile(path, text, 0o755))
	app, err := w.Start("hostile app", w.Command(context.Background(), path, args...))
	w.must(err)
	w.must(app.WaitLog(w.ctx, "ready\n"))
}

// flat undoes the breaking of lines.
func flat(text string) string { return strings.Join(strings.Fields(text), " ") }
