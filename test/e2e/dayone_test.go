// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/schema"
)

// planned is what of a plan the test looks at.
type planned struct {
	Opens  []struct{ Port int }
	Closes string
	Cuts   []struct {
		Port        int
		GoesTo      string `json:"goes_to"`
		Processes   []struct{ Name string }
		Connections int
		Outside     bool `json:"outside_allow_from"`
	}
	Findings []struct{ ID, Remedy string }
}

// read runs a command that prints JSON, holds what it prints to the schema of that name, and reads it into d.
func (w *world) read(name string, d any, status int, args ...string) {
	w.t.Helper()
	text := w.hostagent(status, append(args, "--format", "json")...)
	if err := schema.Validate(name, text); err != nil {
		w.t.Fatalf("%v\n%s", err, text)
	}
	w.must(json.Unmarshal([]byte(text), d))
}

// plan asks for a plan that cuts something off.
func (w *world) plan() (p planned) {
	w.t.Helper()
	w.read("plan", &p, 1, "firewall", "plan")
	return p
}

// status is what hostagent status tells of a hostagent that works.
func (w *world) status() (s hostagent.Status) {
	w.t.Helper()
	w.read("status", &s, 0, "status")
	return s
}

func (p *planned) cuts() string {
	var texts []string
	for _, c := range p.Cuts {
		text := fmt.Sprint(c.Port)
		switch {
		case c.Outside:
			text += fmt.Sprintf(" outside %d", c.Connections)
		case c.GoesTo != "":
			text += " to " + c.GoesTo
		default:
			text += fmt.Sprintf(" %s %d", c.Processes[0].Name, c.Connections)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ", ")
}

func (p *planned) ids() string {
	var ids []string
	for _, f := range p.Findings {
		ids = append(ids, f.ID)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

// TestDayOne is what an operator does on the first day: scan, plan, switch to guard, look at status and metrics.
func TestDayOne(t *testing.T) {
	w := newLoneWorld(t, host.ConsulOptions{})
	_, web := w.service("web", 8080, "127.0.0.1:8080")
	w.listenOn("squatter", 21050)
	conn, err := w.Net.Dial(w.ctx, "tcp", at(host.IPv4, 21050))
	w.must(err)
	defer conn.Close()
	_, err = w.Iptables(w.ctx, host.FamilyIPv4, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "21060", "-j", "DNAT", "--to-destination", "192.0.2.9:80")
	w.must(err)
	for key, value := range map[string]string{"ip_local_port_range": "15000 61000", "ip_local_reserved_ports": "8300,21200-21255", "conf/all/route_localnet": "1"} {
		w.must(w.InHost(func() error { return writeSysctl("/proc/sys/net/ipv4/"+key, value) }))
	}

	plan := w.plan()
	if len(plan.Opens) != 1 || plan.Opens[0].Port != int(web) || plan.Closes != "21001-21255" {
		t.Errorf("the plan opens %v and closes %s", plan.Opens, plan.Closes)
	}
	if diff := cmp.Diff("21050 app 1, 21060 to 192.0.2.9:80", plan.cuts()); diff != "" {
		t.Errorf("who would be cut off (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff("range-ephemeral-overlap range-shared route-localnet squatted-port", plan.ids()); diff != "" {
		t.Errorf("findings of the plan (-want +got)\n%s", diff)
	}
	for _, f := range plan.Findings {
		if f.ID == string(catalog.RangeEphemeralOverlap) {
			w.mends(f.Remedy)
		}
	}

	agent := w.start(quick + "mode = \"observe\"\nmetrics {\n  address = \"127.0.0.1:9521\"\n}\n")
	w.until("it observes", func() error { return w.logged(agent, `msg="finding opened" id=squatted-port`) })
	w.reaches(21050, host.Open)
	w.must(agent.Stop())
	agent = w.guard("metrics {\n  address = \"127.0.0.1:9521\"\n}\n")
	w.must(w.logged(agent, fmt.Sprintf(`msg="guard mode opens a port" port=%d services=web`, web)))
	w.must(w.logged(agent, `listener="tcp [::]:21050" process=app user=`))
	w.must(w.logged(agent, `connections=1`))
	w.stillTalks(conn)

	// Somebody is connected to the sidecar: to limit its sources would cut him off, unless he is among them.
	caller, err := w.Net.Dial(w.ctx, "tcp", at(host.IPv4, web))
	w.must(err)
	defer caller.Close()
	limited := filepath.Join(t.TempDir(), "limited.hcl")
	w.must(os.WriteFile(limited, []byte("allow_from = [\"203.0.113.0/24\"]\n"), 0o600))
	var narrower planned
	w.read("plan", &narrower, 1, "firewall", "plan", "--config", limited)
	if got := narrower.cuts(); got != fmt.Sprintf("%d outside 1", web) {
		t.Errorf("with other sources the plan cuts off %q", got)
	}
	w.must(os.WriteFile(limited, []byte("allow_from = [\"10.99.0.0/24\"]\n"), 0o600))
	var wide planned
	if w.read("plan", &wide, 0, "firewall", "plan", "--config", limited); len(wide.Cuts) > 0 {
		t.Errorf("with his source among them the plan cuts off %q", wide.cuts())
	}

	// What the guard drops is counted, and nothing else is.
	before := w.metric("hostagent_guard_dropped_syns_total", `family="ipv4"`)
	if seen, err := w.Reachable(w.ctx, at(host.IPv4, 21050)); err != nil || seen != host.Dropped {
		t.Errorf("the squatter is %s, %v", seen, err)
	}
	w.until("the drop is counted", func() error {
		if now := w.metric("hostagent_guard_dropped_syns_total", `family="ipv4"`); now <= before {
			return fmt.Errorf("%v after %v", now, before)
		}
		return nil
	})
	if got := w.metric("hostagent_guarded_ports", ""); got != 256 {
		t.Errorf("%v guarded ports in the metrics", got)
	}

	// Those who connect for the status and then are silent hold up neither passes nor others for long.
	stuck := w.stuckReaders(20)
	defer func() {
		for _, c := range stuck {
			c.Close()
		}
	}()
	_, err = w.Iptables(w.ctx, host.FamilyIPv4, "-t", "mangle", "-F")
	w.must(err)
	w.eventually(21050, host.Dropped, 3*time.Second)
	var count int
	w.until("the silent ones are thrown out", func() error {
		binary, err := host.Binary(w.ctx, host.HostagentProgram)
		w.must(err)
		if out, code, err := w.Run(w.ctx, binary, "status"); err != nil || code != 0 {
			return fmt.Errorf("%d, %w: %s", code, err, out)
		}
		return nil
	})
	count = w.status().Pass.Count
	w.until("passes go on", func() error {
		if now := w.status(); now.Firewall.Repairs != 1 || now.Pass.Count < count+5 {
			return fmt.Errorf("%d repairs, pass %d after %d", now.Firewall.Repairs, now.Pass.Count, count)
		}
		return nil
	})
	if got := w.metric("hostagent_firewall_repairs_total", ""); got != 1 {
		t.Errorf("%v repairs in the metrics", got)
	}
}

// mends runs a remedy as an operator would, and wants the finding gone.
func (w *world) mends(remedy string) {
	w.t.Helper()
	command := regexp.MustCompile(`^sysctl -w (\S+)=(\S+) ; and `).FindStringSubmatch(remedy)
	if command == nil {
		w.t.Fatalf("the remedy is no command: %q", remedy)
	}
	key, value := "/proc/sys/"+strings.ReplaceAll(command[1], ".", "/"), command[2]
	if value != "8300,21000-21255" {
		w.t.Errorf("the remedy forgets what was reserved: %q", value)
	}
	w.must(w.InHost(func() error { return writeSysctl(key, value) }))
	if again := w.plan(); strings.Contains(again.ids(), string(catalog.RangeEphemeralOverlap)) {
		w.t.Errorf("after its remedy the finding stands: %s", again.ids())
	}
}

func (w *world) logged(agent *host.Process, text string) error {
	if !strings.Contains(agent.Log(), text) {
		return fmt.Errorf("%q is not in the log:\n%s", text, agent.Log())
	}
	return nil
}

// stillTalks wants a running connection to carry data in spite of the guard.
func (w *world) stillTalks(conn net.Conn) {
	w.t.Helper()
	w.must(conn.SetDeadline(time.Now().Add(5 * time.Second)))
	if greeting, err := host.Hello(w.ctx, conn); err != nil {
		w.t.Errorf("the running connection greeted %q, %v", greeting, err)
	}
	const text = "still there?"
	_, err := io.WriteString(conn, text)
	echo := make([]byte, len(text))
	if err == nil {
		_, err = io.ReadFull(conn, echo)
	}
	if err != nil || string(echo) != text {
		w.t.Errorf("the running connection answers %q, %v", echo, err)
	}
}

func writeSysctl(path, value string) error {
	// A sysctl that exists is opened as it is: it cannot be created.
	return os.WriteFile(path, []byte(value), 0)
}

// metric reads one value from the metrics.
func (w *world) metric(name, labels string) float64 {
	w.t.Helper()
	response, err := w.HTTPClient().Get("http://127.0.0.1:9521/metrics")
	w.must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	w.must(err)
	if labels != "" {
		name += "{" + labels + "}"
	}
	for line := range strings.Lines(string(body)) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			number, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			w.must(err)
			return number
		}
	}
	w.t.Fatalf("no %s in the metrics:\n%s", name, body)
	return 0
}

// stuckReaders connect to the status socket and then are silent.
func (w *world) stuckReaders(count int) []net.Conn {
	w.t.Helper()
	var conns []net.Conn
	for range count {
		c, err := net.Dial("unix", hostagent.StatusSocket)
		w.must(err)
		conns = append(conns, c)
	}
	return conns
}
