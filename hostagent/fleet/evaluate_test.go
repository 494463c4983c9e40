// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/test/schema"
)

const own = "hostagent"

// node is "name" or "name 3", a member with that many sidecars; "-name" is out of reach and "~name" no member.
func node(text string) consul.FleetNode {
	n := consul.FleetNode{ID: "id", Address: netip.MustParseAddr("10.0.0.1"), Member: true, Alive: true}
	fmt.Sscan(text, &n.Name, &n.Sidecars)
	switch n.Name[0] {
	case '-':
		n.Name, n.Alive = n.Name[1:], false
	case '~':
		n.Name, n.Alive, n.Member = n.Name[1:], false, false
	}
	return n
}

// check is a check of hostagent's.
func check(key, status, output string) consul.FleetCheck {
	return consul.FleetCheck{ID: consul.CheckID(own, key), Name: key, Status: consul.Status(status), Output: output}
}

const (
	aliveText = "hostagent 1.2.3\nIt runs in guard mode; when it ends, its rules stay in place."
	stopText  = "hostagent was stopped: its rules stay in place."
)

// runs is the hostagent of a node, which lives and has further checks.
func runs(node string, checks ...consul.FleetCheck) consul.FleetAgent {
	if !slices.ContainsFunc(checks, func(c consul.FleetCheck) bool { return c.Name == keyFirewall }) {
		checks = append(checks, check(keyFirewall, "passing", "Guarded: 21000-21255"))
	}
	return consul.FleetAgent{Node: node, ID: own, Meta: map[string]string{"version": "1.2.3", "mode": "guard"}, Checks: append([]consul.FleetCheck{check("alive", "passing", aliveText)}, checks...)}
}

func life(node, status, output string) consul.FleetAgent {
	a := runs(node)
	a.Checks[0] = check("alive", status, output)
	return a
}

func found(findings ...string) string {
	text := fmt.Sprintf("range: %d warnings\n", len(findings))
	for _, f := range findings {
		text += "\n" + f + "\n  what\n  remedy: mend\n"
	}
	return text
}

// ranks are the names of ranks, the best first.
func ranks() []string {
	return []string{"fine", "info", "stopped", "missing", "warning", "failing", "unprotected", "silent", "critical"}
}

// dump writes a report, a line for each host, check, service and finding.
func dump(r Report) string {
	var b strings.Builder
	for _, h := range r.Hosts {
		fmt.Fprintf(&b, "%s %s %s", h.Node, h.State, ranks()[h.Worst()])
		if h.Says != "" {
			fmt.Fprintf(&b, " %q", h.Says)
		}
		b.WriteString("\n")
		for _, c := range h.Checks {
			if c.Key != keyAlive && c.Key != keyFirewall || c.Status != consul.Passing {
				fmt.Fprintf(&b, "  check %s %s\n", c.Key, c.Status)
			}
		}
		for _, s := range h.Services {
			fmt.Fprintf(&b, "  service %s %s %s told=%t sidecars=%d", s.ID, s.Name, s.Status, s.Told, len(s.Sidecars))
			if s.Says != "" {
				fmt.Fprintf(&b, " %q", s.Says)
			}
			b.WriteString("\n")
		}
		for _, f := range h.Findings {
			fmt.Fprintf(&b, "  %s %s %s [%s]\n", f.Severity, f.ID, f.State, f.Service)
		}
		if h.More > 0 {
			fmt.Fprintf(&b, "  and %d more\n", h.More)
		}
	}
	if r.Others > 0 {
		fmt.Fprintf(&b, "%d others\n", r.Others)
	}
	return b.String()
}

func nodes(texts ...string) (all []consul.FleetNode) {
	for _, text := range texts {
		all = append(all, node(text))
	}
	return all
}

func TestEvaluate(t *testing.T) {
	other := runs("a")
	other.ID = "hostagent-2"
	bare := runs("a")
	bare.Checks = bare.Checks[:1]
	withoutLife := runs("a")
	withoutLife.Checks = nil
	foreign := runs("a", consul.FleetCheck{ID: "ping", Status: "critical", Output: "no"}, consul.FleetCheck{ID: own + ":", Status: "critical"})
	for _, tt := range []struct {
		name  string
		fleet consul.Fleet
		app   string
		want  string
	}{
		{"nothing", consul.Fleet{}, "", ""},
		{"well", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a", check("firewall", "passing", "Guarded: 1"))}}, "", "a runs fine\n"},
		{"its results are gone", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{bare}}, "",
			"a runs warning \"its results are not there: it has begun a moment ago and knows nothing yet, or somebody took them away\"\n"},
		{"without hostagent, and nodes of other platforms", consul.Fleet{Nodes: nodes("a", "b 2", "~c", "-d")}, "",
			"b missing unprotected\na missing missing\nd missing missing\n1 others\n"},
		{"a former hostagent's service has another id", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a"), other}}, "", "a runs fine\n"},
		{"only something of its name", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{other}}, "",
			"a missing missing \"a service of hostagent's name stands there, under another id\"\n"},
		{"on a node that gossip does not know", consul.Fleet{Nodes: nodes("~a"), Agents: []consul.FleetAgent{runs("a")}}, "",
			"a silent silent \"gossip does not reach the host\"\n"},
		{"on a node that is not among the nodes", consul.Fleet{Agents: []consul.FleetAgent{runs("a")}}, "", "a runs fine\n"},
		{"one node twice", consul.Fleet{Nodes: nodes("a", "a")}, "", "a missing missing\n"},
		{"out of reach", consul.Fleet{Nodes: nodes("-a"), Agents: []consul.FleetAgent{runs("a")}}, "", "a silent silent \"gossip does not reach the host\"\n"},
		{"stopped, and then out of reach", consul.Fleet{Nodes: nodes("-a"), Agents: []consul.FleetAgent{life("a", "critical", stopText)}}, "",
			"a silent silent \"gossip does not reach the host; hostagent was stopped: its rules stay in place.\"\n  check alive critical\n"},
		{"stopped", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{life("a", "critical", stopText)}}, "",
			"a stopped stopped \"hostagent was stopped: its rules stay in place.\"\n  check alive critical\n"},
		{"stopped, says one that passes", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{life("a", "passing", stopText)}}, "", "a runs fine\n"},
		{"dead without a word", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{life("a", "critical", "")}}, "", "a silent silent \"its life check is critical\"\n  check alive critical\n"},
		{"no life check", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{withoutLife}}, "", "a silent silent \"its service has no life check\"\n"},
		{"in trouble", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{life("a", "warning", aliveText+"\n\nOne:\n  x\n  y\n\nTwo.\n")}}, "",
			"a runs warning \"One: x y; Two.\"\n  check alive warning\n"},
		{"others' checks", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{foreign}}, "", "a runs fine\n"},
		{"a check that says nothing one can read", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a", check("sidecar-range", "warning", "?"), check("service:web", "critical", "!"))}}, "",
			"a runs warning\n  check sidecar-range warning\n  service web web critical told=true sidecars=0 \"!\"\n"},
		{"findings, the worst and open first", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a",
			check("sidecar-range", "critical", found("info squatted-port (exempt)", "info b-x", "warning squatted-port", "critical not-a-sidecar")+"\nand 3 more: see hostagent scan\n"),
			check("service:web", "warning", "web: 1 warning\n\nwarning exposed-listener\n  m\n\nsidecar p: port 21000, open"))}}, "",
			`a runs critical
  service web web warning told=true sidecars=1
  critical not-a-sidecar open []
  warning exposed-listener open [web]
  warning squatted-port open []
  info b-x open []
  info squatted-port exempt []
  and 3 more
`},
		{"more findings than there is room for the first of", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a",
			check("sidecar-range", "critical", "range: 2 critical\n\nand 2 more: see hostagent scan"))}}, "", "a runs failing\n  check sidecar-range critical\n  and 2 more\n"},
		{"an id that is a digest", consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{runs("a", check("service:web v2", "passing", "No findings."))}}, "",
			"a runs fine\n  service  service:web v2 passing told=false sidecars=0\n"},
		{"an application", consul.Fleet{
			Nodes: nodes("a", "b", "c 2", "~d"),
			Agents: []consul.FleetAgent{runs("b"), runs("a",
				check("service:web v2", "warning", "x: 1 warning\n\nwarning exposed-listener\n  m"), check("service:db", "warning", "db: 1 warning\n\nwarning exposed-listener\n  m"),
				check("sidecar-range", "warning", found("warning squatted-port")), check("firewall", "critical", "no"), check("production-checklist", "warning", "?"))},
			Instances: []consul.FleetInstance{{Node: "a", ID: "web v2"}, {Node: "c", ID: "web"}, {Node: "d", ID: "web"}},
		}, "web", `c missing unprotected
a runs failing
  check firewall critical
  service web v2 web warning told=true sidecars=0
  warning exposed-listener open [web]
1 others
`},
		{"an application that nobody has", consul.Fleet{Nodes: nodes("a", "~b"), Agents: []consul.FleetAgent{runs("a")}}, "web", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := Evaluate(tt.fleet, Query{Service: own, Application: tt.app})
			if diff := cmp.Diff(tt.want, dump(r)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// ranked is a host of each rank, and some more.
func ranked() consul.Fleet {
	failing := runs("checklist", check("production-checklist", "warning", "production checklist: 1 of 2 pass, 1 fail"))
	return consul.Fleet{
		Datacenter: "dc1",
		Nodes: nodes("fine", "info", "mitigated", "checklist", "stopped", "missing", "warning", "warnings", "settings", "unseen", "failing", "bare 2", "-silent", "critical",
			"criticals", "stopped-critical", "~external"),
		Agents: []consul.FleetAgent{
			runs("fine"), runs("info", check("sidecar-range", "passing", found("info squatted-port"))), failing,
			runs("mitigated", check("sidecar-range", "passing", found("critical exposed-admin (mitigated)", "warning squatted-port (exempt)"))), life("stopped", "critical", stopText),
			runs("warning", check("sidecar-range", "warning", found("warning squatted-port"))), runs("warnings", check("sidecar-range", "warning", "warning   3 squatted-port")),
			life("settings", "warning", aliveText+"\n\nSettings are refused:\n  x"), runs("unseen", check("firewall", "warning", "cannot be looked at")),
			runs("failing", check("firewall", "critical", "The rules could not be brought up to date.")), runs("silent"),
			runs("critical", check("sidecar-range", "critical", found("critical not-a-sidecar", "warning squatted-port"))),
			runs("criticals", check("sidecar-range", "critical", found("critical not-a-sidecar", "critical not-a-sidecar"))),
			{Node: "stopped-critical", ID: own, Checks: []consul.FleetCheck{check("alive", "critical", stopText), check("sidecar-range", "critical", found("critical not-a-sidecar"))}},
		},
	}
}

// TestWorstFirst, whatever the order in which the catalog has them.
func TestWorstFirst(t *testing.T) {
	want := []string{
		"criticals", "critical", "stopped-critical", "silent", "bare", "failing", "warnings", "warning", "settings", "unseen", "missing", "stopped", "checklist", "info",
		"mitigated", "fine",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		fleet := ranked()
		random.Shuffle(len(fleet.Nodes), func(i, j int) { fleet.Nodes[i], fleet.Nodes[j] = fleet.Nodes[j], fleet.Nodes[i] })
		random.Shuffle(len(fleet.Agents), func(i, j int) { fleet.Agents[i], fleet.Agents[j] = fleet.Agents[j], fleet.Agents[i] })
		var got []string
		for _, h := range Evaluate(fleet, Query{Service: own}).Hosts {
			got = append(got, h.Node)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestRanks: each has hosts, and its severity is what an exit status goes by.
func TestRanks(t *testing.T) {
	severities := map[Rank]string{
		RankFine: "", RankInfo: "info", RankStopped: "info", RankMissing: "info", RankWarning: "warning", RankUnprotected: "warning", RankFailing: "critical",
		RankSilent: "critical", RankCritical: "critical",
	}
	r := Evaluate(ranked(), Query{Service: own})
	seen := map[Rank]bool{}
	for i := range r.Hosts {
		seen[r.Hosts[i].Worst()] = true
	}
	for rank, want := range severities {
		got := ""
		if severity, says := rank.Severity(); says {
			got = severity.String()
		}
		if got != want || !seen[rank] {
			t.Errorf("%s: %q, seen %t", ranks()[rank], got, seen[rank])
		}
	}
	if worst, says := r.Worst(); !says || worst != catalog.Critical {
		t.Errorf("%s %t", worst, says)
	}
	if _, says := (&Report{Hosts: []Host{{State: Runs}}}).Worst(); says {
		t.Error("a host that is well says something")
	}
}

func TestSummary(t *testing.T) {
	r := Evaluate(ranked(), Query{Service: own})
	want := Summary{
		Hosts: 16, Runs: 11, Silent: 1, Missing: 2, Stopped: 2, Unprotected: 1, Others: 1, Critical: 4, Warning: 5, Info: 1, Mitigated: 1, Exempt: 1,
	}
	if diff := cmp.Diff(want, r.Summary()); diff != "" {
		t.Error(diff)
	}
}

// TestDocumentFitsItsSchema, and a wrong one does not.
func TestDocumentFitsItsSchema(t *testing.T) {
	fleet := ranked()
	fleet.Agents[0].Meta = map[string]string{
		"version": "1.2.3", "mode": "guard", "enforce": "report", "sidecar-range": "21000-21255", "range-cells": "#=?~!%+.#", "checklist": "pass=1",
	}
	fleet.Agents[0].Checks = append(fleet.Agents[0].Checks, check("service:web", "passing",
		"web listens on loopback only: tcp 127.0.0.1:80.\nsidecar p: port 21000, open\n  exposed paths 20200, not opened\nand 3 more sidecars"))
	text := func(fleet consul.Fleet) string {
		r := Evaluate(fleet, Query{Service: own})
		b, err := json.Marshal(r.Document("1"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	good := text(fleet)
	for _, document := range []string{good, text(consul.Fleet{}), text(consul.Fleet{Nodes: []consul.FleetNode{{Name: "a", Member: true}}})} {
		if err := schema.Validate("fleet", document); err != nil {
			t.Error(err)
		}
		if strings.Contains(strings.ReplaceAll(document, `"checklist":null`, ""), "null") {
			t.Errorf("something is null: %s", document)
		}
	}
	for _, change := range [][2]string{
		{`"schema_version":1`, `"schema_version":2`}, {`"state":"runs"`, `"state":"walks"`}, {`"worst":"critical"`, `"worst":"bad"`}, {`"mode":"guard"`, `"mode":"off"`},
		{`"range_cells":"#`, `"range_cells":"<`}, {`"checklist":null`, `"checklist":1`}, {`"says":"open"`, `"says":"ajar"`},
		{`"severity":"warning"`, `"severity":1`}, {`"hosts":[`, `"nodes":[`}, {`"status":"passing"`, `"status":"fine"`}, {`"more":0`, `"more":-1`},
		{`"exposed_paths":["20200, not opened"]`, `"exposed_paths":null`}, {`"node":`, `"extra":1,"node":`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Errorf("the document holds no %s", change[0])
		} else if schema.Validate("fleet", bad) == nil {
			t.Errorf("with %s it still fits", change[1])
		}
	}
}

// TestEvaluateChangesNothing of the catalog, which others read at the same time.
func TestEvaluateChangesNothing(t *testing.T) {
	fleet := ranked()
	Evaluate(fleet, Query{Service: own})
	if diff := cmp.Diff(ranked(), fleet, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

// many is a fleet of n hosts with ten checks each.
func many(n int) consul.Fleet {
	var fleet consul.Fleet
	text := "web: 2 warnings\n" + strings.Repeat("\nwarning exposed-listener  tcp 0.0.0.0:8080\n  web listens on tcp 0.0.0.0:8080: any host reaches it without mTLS\n"+
		"  who:    java, user app, unit web.service\n  remedy: bind it to 127.0.0.1\n", 2) + "\nsidecar web-sidecar-proxy: port 21000, open"
	for i := range n {
		name := fmt.Sprintf("host-%05d", i)
		fleet.Nodes = append(fleet.Nodes, node(name+" 8"))
		checks := []consul.FleetCheck{check("firewall", "passing", strings.Repeat("21000  web\n", 50))}
		for j := range 8 {
			output := "web does not listen on this host's network.\nsidecar web-sidecar-proxy: port 21000, open"
			if (i+j)%10 == 0 {
				output = text
			}
			checks = append(checks, check(fmt.Sprintf("service:web-%d", j), "passing", output))
		}
		fleet.Agents = append(fleet.Agents, runs(name, checks...))
	}
	return fleet
}

func BenchmarkEvaluate(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		fleet := many(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := Evaluate(fleet, Query{Service: own}); len(r.Hosts) != n || !slices.ContainsFunc(r.Hosts, func(h Host) bool { return len(h.Findings) > 0 }) {
					b.Fatal("too few")
				}
			}
		})
	}
}

// TestWhatOthersMayWrite is bounded, cleaned, and read as little as possible.
func TestWhatOthersMayWrite(t *testing.T) {
	score := runs("a", check("production-checklist", "passing", "production checklist: 9 of 9 pass"), check("service:web", "maintenance",
		"web does not listen on this host's network."+strings.Repeat("\nsidecar p: port 1, open\n  exposed paths 1\x1b", 100)))
	score.Meta["checklist"] = "pass=7"
	stranger := runs("b")
	stranger.ID = "else"
	r := Evaluate(consul.Fleet{Nodes: nodes("a"), Agents: []consul.FleetAgent{score, stranger}}, Query{Service: own})
	if len(r.Hosts) != 1 {
		t.Fatalf("%d hosts", len(r.Hosts))
	}
	s := r.Hosts[0].Services[0]
	if r.Hosts[0].Self.Score["pass"] != 7 || s.Status != consul.Critical || len(s.Sidecars) != maxSidecars || s.Sidecars[0].Paths[0] != `1\u001b` {
		t.Errorf("%v %s %d %q", r.Hosts[0].Self.Score, s.Status, len(s.Sidecars), s.Sidecars[0].Paths)
	}
	if lines := linesOf(strings.Repeat("x", 2*maxOutput)); len(lines[0]) != maxOutput {
		t.Errorf("%d bytes are read", len(lines[0]))
	}
	if p := parse(""); p.counted {
		t.Error("nothing counts")
	}
}

// TestTaken: a check of another service in the place of one of hostagent's hides what that says, and one in the place of
// gossip's hides whether the host is there: neither host is in order.
func TestTaken(t *testing.T) {
	hidden, lost := runs("a"), node("b")
	hidden.Taken = []consul.FleetCheck{{ID: "hostagent:service:db", Status: consul.Passing, Application: "web"}}
	lost.Alive, lost.TakenBy = false, "web"
	got := dump(Evaluate(consul.Fleet{Nodes: append(nodes("a"), lost), Agents: []consul.FleetAgent{hidden, runs("b")}}, Query{Service: own}))
	want := `b silent silent "whether gossip reaches the host is not known: service \"web\" has taken the id of gossip's check"
a runs failing
  check taken critical
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
