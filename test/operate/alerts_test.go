// SPDX-License-Identifier: MPL-2.0

package operate

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

const (
	rules     = "../../packaging/alerts/hostagent.yml"
	dashboard = "../../packaging/grafana/hostagent.json"
	address   = "127.0.0.1:9521"
	config    = "mode = \"guard\"\npoll_interval = \"200ms\"\ncheck_interval = \"1s\"\nmetrics { address = \"" + address + "\" }\n"
)

// world is a host with Consul, a service in order with its sidecar, and a hostagent that guards it.
type world struct {
	*host.Host
	t         *testing.T
	ctx       context.Context //nolint:containedctx // it lives for one test
	consul    *host.Consul
	config    string // file of hostagent's configuration
	hostagent *host.Process
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ctx, h, consul := host.ForTest(t, host.ConsulOptions{})
	w := &world{Host: h, t: t, ctx: ctx, consul: consul}
	w.register("web", 8080)
	w.listen("web", "127.0.0.1:8080")
	_, err := w.StartSidecar(ctx, "web")
	w.must(err)

	folder, err := w.Configure(config)
	w.must(err)
	w.config = filepath.Join(folder, "hostagent.hcl")
	binary, err := host.Binary(ctx, host.HostagentProgram)
	w.must(err)
	cmd := w.Command(context.Background(), binary, "run", "--config", folder)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+host.ConsulAddress)
	w.hostagent, err = w.Start("hostagent", cmd)
	w.must(err)
	host.ShowLog(t, w.hostagent)
	w.serves("hostagent_guarded_ports", "256")
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) register(name string, port int, upstreams ...api.Upstream) {
	w.t.Helper()
	w.must(w.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: name, Port: port,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Proxy: &api.AgentServiceConnectProxyConfig{Upstreams: upstreams}}},
	}))
}

func (w *world) listen(name, at string) {
	w.t.Helper()
	_, err := w.StartApp(w.ctx, host.App{Name: name, Listen: []string{at}})
	w.must(err)
}

// scrape returns what hostagent's metrics say; ok tells whether they could be read.
func (w *world) scrape() (text string, ok bool) {
	w.t.Helper()
	answer, err := w.HTTPClient().Get("http://" + address + "/metrics")
	if err != nil {
		return "", false
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return string(body), err == nil && answer.StatusCode == http.StatusOK
}

// serves waits until the metrics have a series with a value.
func (w *world) serves(series, value string) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		text, _ := w.scrape()
		if strings.Contains(text, "\n"+series+" "+value+"\n") {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the metrics never had %s %s:\n%s", series, value, text)
		}
	}
}

// tool runs a program of toolsEnv on files.
func tool(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv(toolsEnv), name), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

var seriesLine = regexp.MustCompile(`(?m)^([a-z_]+)(?:\{(.*)\})? (\S+)$`)

// fires wants exactly these alerts, each "NAME" or "NAME ID", to fire when what the metrics say at present stays so for an
// hour, in the eyes of Prometheus' own rules engine. Before is a scrape from a minute earlier, "" for one like that of now.
func (w *world) fires(before string, want ...string) {
	w.t.Helper()
	first, ok := w.scrape()
	time.Sleep(time.Second) // so that a time that goes on is seen to
	second, _ := w.scrape()
	var series strings.Builder
	add := func(name, labels, values string) {
		fmt.Fprintf(&series, "      - series: '%s{%s}'\n        values: '%s'\n", name, strings.TrimPrefix(labels+`,job="hostagent",instance="web-1"`, ","), values)
	}
	up := 0
	if ok {
		up = 1
	}
	add("up", "", fmt.Sprintf("%dx60", up))
	then := values(first)
	early := values(before)
	for _, line := range seriesLine.FindAllStringSubmatch(second, -1) {
		name, labels, value := line[1], line[2], line[3]
		key := name + "{" + labels + "}"
		switch {
		case strings.HasSuffix(name, "_timestamp_seconds") && value != then[key]:
			add(name, labels, "0+60x60") // it goes on
		case strings.HasSuffix(name, "_timestamp_seconds"):
			add(name, labels, "0x60") // it stands
		case early[key] != "":
			add(name, labels, early[key]+" "+value+"x59")
		default:
			add(name, labels, value+"x60")
		}
	}
	text := fmt.Sprintf("rule_files: [%s]\ntests:\n  - interval: 1m\n    input_series:\n%s    promql_expr_test:\n", w.absolute(rules), series.String())
	// Drift is forgotten a quarter of an hour later; everything else has fired by the end.
	text += "      - expr: count by (alertname, id) (last_over_time(ALERTS{alertstate=\"firing\"}[1h]))\n        eval_time: 59m\n        exp_samples:\n"
	for _, alert := range want {
		name, id, _ := strings.Cut(alert, " ")
		text += fmt.Sprintf("          - {labels: '{alertname=%q, id=%q}', value: 1}\n", name, id)
	}
	path := filepath.Join(w.t.TempDir(), "state.yml")
	w.must(os.WriteFile(path, []byte(strings.ReplaceAll(text, `, id=""`, "")), 0o600))
	tool(w.t, "promtool", "test", "rules", path)
}

// values are the series of a scrape.
func values(scrape string) map[string]string {
	found := map[string]string{}
	for _, line := range seriesLine.FindAllStringSubmatch(scrape, -1) {
		found[line[1]+"{"+line[2]+"}"] = line[3]
	}
	return found
}

func (w *world) absolute(path string) string {
	w.t.Helper()
	path, err := filepath.Abs(path)
	w.must(err)
	return path
}

// TestAlerts takes a host from one state to the next and wants the alerts of each.
func TestAlerts(t *testing.T) {
	w := newWorld(t)
	text, _ := w.scrape()
	scrape := filepath.Join(t.TempDir(), "metrics.txt")
	w.must(os.WriteFile(scrape, []byte(text), 0o600))
	tool(t, "alerts", "-scrape", scrape, rules, dashboard)

	var always []string                                                                         // of the machine that the test runs on, and not of the test
	lacking := map[string]string{"0": "1", "1": "0"}[values(text)["hostagent_listen_events{}"]] // hearing of listeners alone
	if values(text)["hostagent_degradations{}"] != lacking {
		always = append(always, "HostagentDegraded")
	}
	w.fires("", always...)

	w.register("loud", 8081)
	w.listen("loud", "0.0.0.0:8081")
	_, err := w.StartSidecar(w.ctx, "loud")
	w.must(err)
	w.serves(`hostagent_findings{id="exposed-listener",severity="warning",state="open"}`, "1")
	always = append(always, "HostagentWarningFinding exposed-listener")
	w.fires("", always...)

	w.register("caller", 8082, api.Upstream{DestinationName: "web", LocalBindAddress: "0.0.0.0", LocalBindPort: 9191})
	w.listen("caller", "127.0.0.1:8082")
	_, err = w.StartSidecar(w.ctx, "caller")
	w.must(err)
	w.serves(`hostagent_findings{id="exposed-upstream",severity="critical",state="open"}`, "1")
	always = append(always, "HostagentCriticalFinding exposed-upstream")
	w.fires("", always...)

	before, _ := w.scrape()
	_, err = w.Iptables(w.ctx, host.FamilyIPv4, "-t", "mangle", "-F")
	w.must(err)
	w.serves("hostagent_firewall_repairs_total", "1")
	w.fires(before, append(always, "HostagentFirewallDrift")...)

	w.must(os.WriteFile(w.config, []byte(config+"mood = \"good\"\n"), 0o600))
	w.must(w.hostagent.Signal(syscall.SIGHUP))
	w.serves("hostagent_config_last_reload_successful", "0")
	w.fires("", append(always, "HostagentConfigReloadFailed")...)
	w.must(os.WriteFile(w.config, []byte(config), 0o600))
	w.must(w.hostagent.Signal(syscall.SIGHUP))
	w.serves("hostagent_config_last_reload_successful", "1")

	w.must(w.consul.Stop())
	w.serves(`hostagent_step_failing{step="consul"}`, "1")
	w.fires("", append(always, "HostagentNoWholeAnswer")...)

	w.must(w.hostagent.Stop())
	w.fires("", "HostagentDown")
}

// TestRunbooks wants every command of hostagent's that an alert names to be there.
func TestRunbooks(t *testing.T) {
	text, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := host.Binary(t.Context(), host.HostagentProgram)
	if err != nil {
		t.Fatal(err)
	}
	runbooks := regexp.MustCompile(`runbook: (".*")`).FindAllStringSubmatch(string(text), -1)
	if alerts := strings.Count(string(text), "- alert: "); len(runbooks) != alerts {
		t.Errorf("%d alerts have %d runbooks", alerts, len(runbooks))
	}
	seen := map[string]bool{}
	for _, runbook := range runbooks {
		for _, match := range regexp.MustCompile(`\bhostagent ([a-z][a-z -]*[a-z])`).FindAllStringSubmatch(runbook[1], -1) {
			if command := match[1]; !strings.HasPrefix(command, "-") {
				seen[command] = true
			}
		}
	}
	if len(seen) < 5 {
		t.Errorf("runbooks name %d commands only: %v", len(seen), seen)
	}
	for command := range seen {
		out, err := exec.Command(binary, append(strings.Fields(command), "--help")...).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "\n  hostagent "+command) {
			t.Errorf("hostagent %s --help: %v\n%s", command, err, out)
		}
	}
}
