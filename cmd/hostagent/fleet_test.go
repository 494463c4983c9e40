// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
	"github.com/hostagent/hostagent/test/schema"
)

// hostOf is a host on which hostagent runs.
func hostOf(node string, findings ...fleet.Finding) fleet.Host {
	h := fleet.Host{Node: node, Alive: true, State: fleet.Runs, Self: fleet.Self{Version: "1.2.0", Mode: "guard"}, Findings: findings}
	h.Checks = []fleet.Check{{Key: lifeKey, Status: consul.Passing}}
	web := fleet.Service{ID: "web", Name: "web", Status: consul.Passing, Told: true}
	web.Sidecars = []fleet.Sidecar{{ID: "web-sidecar-proxy", Port: 21000, Says: "open", Open: true}}
	for i := range findings {
		if findings[i].Service == "web" {
			web.Findings = append(web.Findings, findings[i])
		}
	}
	h.Services = []fleet.Service{web}
	return h
}

// fleetFindingOf is a finding as the host's scan words it.
func fleetFindingOf(service, address, state string) fleet.Finding {
	f := exposed(service, address, process("nginx"), "")
	told := fleet.Finding{
		Severity: f.Severity, ID: f.ID, State: state, Service: service, Where: "tcp " + address, Message: f.Message, Who: "nginx, user www-data, unit nginx.service",
	}
	if state == "exempt" {
		told.Exemption = "scraped by Prometheus, until 2030-01-01"
	} else {
		told.Remedy = f.Remedy
	}
	if state != "open" {
		told.Severity = catalog.Info
	}
	return told
}

func inState(h fleet.Host, state fleet.State, says string) fleet.Host {
	h.State, h.Says, h.Checks[0].Status = state, says, consul.Critical
	return h
}

func fleets() map[string]*fleet.Report {
	squatted := fleet.Finding{
		Severity: catalog.Critical, ID: catalog.SquattedPort, State: "open", Where: "tcp 0.0.0.0:21005",
		Message: "tcp 0.0.0.0:21005 is inside the sidecar range, and no registered sidecar explains it", Remedy: "stop nc",
	}
	other := fleetFindingOf("web", "0.0.0.0:8080", "open")
	other.Remedy = "bind java to 127.0.0.1, port 8080"
	lost := hostOf("app-07")
	lost.Alive = false
	missing := fleet.Host{Node: "app-12", Alive: true, State: fleet.Missing, Sidecars: 2}
	counts := hostOf("app-09")
	counts.Self = fleet.Self{Mode: "guard"}
	counts.Services[0].Status, counts.Services[0].Told, counts.Services[0].Says = consul.Warning, false, "3 findings"
	late := hostOf("app-10")
	late.Says, late.Checks[0].Status = "The last whole answer of Consul stands: cannot ask for /v1/agent/services: connection refused", consul.Warning
	late.Checks = append(late.Checks, fleet.Check{Key: "firewall", Name: "Firewall", Status: consul.Critical, Output: "rules are missing\nand more"})
	old := hostOf("db-01", fleetFindingOf("db", "[fd00:1234:5678:9abc::1]:5432", "open"), fleetFindingOf("metrics", "0.0.0.0:9100", "exempt"))
	old.Self.Version, old.Self.Mode = "1.1.0-rc1", "observe"
	few := &fleet.Report{Datacenter: "dc1", Others: 2, Hosts: []fleet.Host{
		hostOf("app-01", squatted, fleetFindingOf("web", "0.0.0.0:8080", "open")), late, inState(lost, fleet.Silent, "gossip does not reach the host"),
		inState(hostOf("app-08"), fleet.Silent, "TTL expired, the last it said: hostagent 1.2.0"), missing, inState(hostOf("app-11"), fleet.Stopped, "hostagent was stopped: its rules stay in place: no port opens or closes until it runs again."),
		hostOf("app-02", fleetFindingOf("web", "0.0.0.0:8080", "open"), fleetFindingOf("api", "0.0.0.0:9090", "mitigated")),
		hostOf("app-03", other), counts, old, hostOf("app-04", fleetFindingOf("metrics", "0.0.0.0:9100", "exempt")), hostOf("app-05"),
	}}
	service := &fleet.Report{Datacenter: "dc1", Service: "web", Hosts: []fleet.Host{few.Hosts[0], few.Hosts[2], few.Hosts[6], hostOf("app-05")}}
	many := &fleet.Report{Datacenter: "dc1"}
	for i := range 70 {
		many.Hosts = append(many.Hosts, hostOf(fmt.Sprintf("bad-%04d", i), fleetFindingOf("web", fmt.Sprintf("0.0.0.0:%d", 8000+i/5), "open")))
	}
	for i := range 930 {
		many.Hosts = append(many.Hosts, hostOf(fmt.Sprintf("fine-%04d", i)))
	}
	hostile := &fleet.Report{Datacenter: hostileName, Hosts: []fleet.Host{hostOf(hostileName+strings.Repeat("long-", 60), fleet.Finding{
		Severity: catalog.Warning, ID: catalog.SquattedPort, State: "open", Service: hostileName, Where: hostileName, Message: hostileName, Who: hostileName, Remedy: hostileName,
	})}}
	h := &hostile.Hosts[0]
	h.Self, h.Says = fleet.Self{Version: hostileName, Mode: "guard"}, hostileName
	h.Checks = append(h.Checks, fleet.Check{Key: hostileName, Name: hostileName, Status: consul.Warning, Output: hostileName})
	h.Services[0].Name, h.Services[0].Sidecars[0].ID = hostileName, hostileName
	return map[string]*fleet.Report{
		"few": few, "service": service, "many": many, "hostile": hostile,
		"fine": {Datacenter: "dc1", Hosts: []fleet.Host{hostOf("app-01"), hostOf("app-02")}},
		"none": {Datacenter: "dc1", Hosts: []fleet.Host{missing, {Node: "db-01", State: fleet.Missing}}},
	}
}

func TestFleetTable(t *testing.T) {
	for name, r := range fleets() {
		all := []int{0, 40, 80, 120}
		if name == "many" {
			all = all[1:] // everything takes a thousand lines
		}
		widths(t, "fleet-"+name, func(s *screen) string { return s.fleet(r, false, []string{"a note"}) }, all...)
		checkLines(t, (&screen{width: 200}).fleet(r, true, nil), 200)
		text, err := jsonText(r.Document("1"))
		if err == nil {
			err = schema.Validate("fleet", text)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	widths(t, "fleet-all", func(s *screen) string { return s.fleet(fleets()["few"], true, nil) }, 80)
	hostile := *fleets()["hostile"]
	hostile.Service = hostileName
	checkLines(t, (&screen{width: 60}).fleet(&hostile, true, nil), 60)
}

// TestFleetListsAllWhereAsked: every host has a line on what is no terminal, and with --all.
func TestFleetListsAllWhereAsked(t *testing.T) {
	r := fleets()["many"]
	for name, test := range map[string]struct {
		screen screen
		all    bool
		want   int
	}{"piped": {screen{}, false, 1000}, "all": {screen{width: 120}, true, 1000}, "terminal": {screen{width: 120}, false, mostHosts}} {
		lines := 0
		for line := range strings.Lines(test.screen.fleet(r, test.all, nil)) {
			if strings.HasPrefix(line, "bad-") || strings.HasPrefix(line, "fine-") {
				lines++
			}
		}
		if lines != test.want {
			t.Errorf("%s: %d lines of hosts, want %d", name, lines, test.want)
		}
	}
}

// TestManyHostsPrintFast: a whole datacenter with findings everywhere.
func TestManyHostsPrintFast(t *testing.T) {
	r := &fleet.Report{}
	for i := range 10_000 {
		r.Hosts = append(r.Hosts, hostOf(fmt.Sprintf("host-%05d", i), fleetFindingOf("web", fmt.Sprintf("10.0.%d.%d:8080", i/250, i%250), "open")))
	}
	start := time.Now()
	text := (&screen{width: 80, colour: true}).fleet(r, true, nil)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("10,000 hosts took %s", took)
	} else {
		t.Logf("10,000 hosts: %d kB in %s", len(text)/1000, took)
	}
}

// TestFleetSchemaCanFail: a document that is a little wrong does not fit.
func TestFleetSchemaCanFail(t *testing.T) {
	good, err := json.Marshal(fleets()["few"].Document("1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{`"schema_version":1`, `"schema_version":2`}, {`"state":"silent"`, `"state":"quiet"`}, {`"node":`, `"extra":1,"node":`},
		{`"severity":"critical"`, `"severity":2`}, {`"alive":true`, `"alive":"yes"`}, {`"status":"warning"`, `"status":"maintenance"`},
	} {
		bad := strings.Replace(string(good), change[0], change[1], 1)
		if bad == string(good) {
			t.Errorf("the document holds no %s", change[0])
		} else if schema.Validate("fleet", bad) == nil {
			t.Errorf("with %s it still fits", change[1])
		}
	}
}

// TestUntold: what nobody tells of is no "all is well".
func TestUntold(t *testing.T) {
	silent, bare := inState(hostOf("a"), fleet.Silent, "x"), hostOf("a")
	bare.Services = nil
	of := func(others int, hosts ...fleet.Host) *fleet.Report {
		return &fleet.Report{Datacenter: "dc1", Hosts: hosts, Others: others}
	}
	for name, test := range map[string]struct {
		service string
		report  *fleet.Report
		want    string // "" for nothing
	}{
		"all":     {"", of(0), ""},
		"told":    {"web", of(0, hostOf("a"), bare), ""},
		"nobody":  {"web", of(0), `no host of datacenter "dc1" has an instance of service "web" in the catalog` + "\nconsul catalog services lists what there is"},
		"others":  {"web", of(2), `service "web" stands on 2 nodes of datacenter "dc1" only`},
		"no mesh": {"web", of(0, bare), `no host tells anything of service "web"`},
		"sidecar": {"web-sidecar-proxy", of(0, bare), `did you mean "web"?`},
		"away":    {"web", of(0, silent, fleet.Host{State: fleet.Missing}), ""},
	} {
		err := untold(test.report, test.service)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// What mends a finding is shown as a host tells it whole, wherever that stands among those that count or were cut.
func TestSpreadRemedy(t *testing.T) {
	const whole, cut = "bind it to loopback", "bind it …"
	for _, remedies := range [][]string{{"", whole}, {whole, ""}, {cut, whole}, {whole, cut}, {"", cut, whole, whole}} {
		g := new(spread)
		for i, remedy := range remedies {
			g.mend(fmt.Sprint("app-", i), remedy)
		}
		if g.remedy != whole || g.differs {
			t.Errorf("%q give %q, differs: %t", remedies, g.remedy, g.differs)
		}
	}
	g := new(spread)
	g.mend("app-1", whole)
	g.mend("app-2", "stop it")
	if g.remedy != whole || g.first != "app-1" || !g.differs {
		t.Errorf("two remedies give %+v", g)
	}
}
