// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/test/schema"
)

func portRange(first, last uint16) firewall.PortSet {
	return hostagent.PortRange{First: first, Last: last}.Ports()
}

func plans() map[string]*hostagent.Plan {
	many := &hostagent.Plan{
		Scan: scanOf(nil,
			finding(hostagent.Finding{ID: catalog.RangeEphemeralOverlap}, "ports", "21000-21255", "ephemeral", "15000 61000", "reserved", "8080,21000-21255"),
			exposed("web", "[::]:8080", nil, ""), // an application, and so no business of the plan
		),
		Opens:    []hostagent.Opening{{Port: 21000, Services: []string{"web"}}, {Port: 21001, Services: []string{hostileName, "api"}, Predicted: true}},
		Keeps:    []hostagent.Opening{{Port: 21002, Services: []string{"billing"}}},
		Closes:   portRange(21003, 21255),
		Releases: portRange(7777, 7777),
		Later:    portRange(21060, 21061),
		Cuts: []hostagent.Cut{
			{Port: 21000, Listener: listener("[::]:21000"), Connections: 2, Outside: true},
			{Port: 21050, Listener: listener("0.0.0.0:21050"), Owner: process("nc"), Connections: 3},
			{Port: 21051, Listener: listener("[fd00:1234:5678:9abc::1]:21051"), Owner: process("x\x1b[2J", "y"), Connections: 1},
			{Port: 21052, Listener: listener("0.0.0.0:21052"), GoesTo: "172.17.0.2:80", Connections: -1},
			{Port: 21053, GoesTo: "172.17.0.3\x1b[2J:80", Connections: -1},
			{Port: 8080, Listener: listener("0.0.0.0:8080"), Owner: process("web"), Connections: 4, Ends: true, For: []string{hostileName, "web"}},
		},
		Changes: firewall.Changes{
			Sets:  []firewall.SetChange{{Set: "hostagent-guard", Added: portRange(21003, 21255), Removed: portRange(7777, 7777)}},
			Rules: []firewall.RuleChange{{Variant: firewall.VariantNFT, Family: firewall.IPv4, Table: "mangle", Chain: "HOSTAGENT-GUARD", Done: "written"}},
		},
	}
	many.Cuts[1].Owner.Unit = "squatter.service"
	many.Rules.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	many.AllowFrom = []string{"cluster", "10.0.0.0/8", "fd00::/8"}
	many.Notes = []string{"connections: no"}
	return map[string]*hostagent.Plan{"many": many, "nothing": {Scan: scanOf(nil)}}
}

func TestCutsText(t *testing.T) {
	stays, ends := hostagent.Cut{Port: 21050}, hostagent.Cut{Port: 8080, Ends: true}
	for want, cuts := range map[string][]hostagent.Cut{
		"nobody to be cut off": nil,
		"1 to be cut off: running connections stay, new ones would be dropped":                                  {stays},
		"1 to be cut off: running connections would end, new ones would be dropped":                             {ends},
		"2 to be cut off: running connections stay, new ones would be dropped; running ones of 1 would end too": {stays, ends},
	} {
		if got := cutsText(&hostagent.Plan{Cuts: cuts}); got != want {
			t.Errorf("cuts %v: %q, want %q", cuts, got, want)
		}
	}
	if got := cutText(&ends); strings.Contains(got, "ended") {
		t.Errorf("no connection is said to be ended: %q", got)
	}
}

func TestPlanScreen(t *testing.T) {
	for name, plan := range plans() {
		everyWidth(t, "plan-"+name, func(s *screen) string { return s.plan(plan) })
		text, err := jsonText(plan.Document("1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate("plan", text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

var statusNow = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func before(d time.Duration) *time.Time {
	t := statusNow.Add(-d)
	return &t
}

func statuses() map[string]hostagent.Status {
	plan := plans()["many"]
	document := plan.Document("1")
	notAudited := hostagent.NewAgent(hostagent.Parts{}).Status().Audit
	guarding := hostagent.Status{
		SchemaVersion: 1, Version: "1.2.3", GoVersion: "go1.26", Mode: hostagent.ModeGuard, Started: before(72 * time.Hour),
		Pass: hostagent.StatusPass{Count: 259000, Last: before(0), Duration: 0.00234},
		Consul: hostagent.StatusConsul{
			Address: "http://127.0.0.1:8500", Node: "host\x1b[31m", Datacenter: "dc1", Version: "1.21.0", WholeAnswers: 258000,
			LastWholeAnswer: before(3 * time.Minute), Error: "cannot ask for /v1/agent/services at the Consul agent http://127.0.0.1:8500: connection refused",
			Wakeup: hostagent.StatusWakeup{State: hostagent.WakeupFailing, Reason: "registrations are seen at poll_interval only: status 500: No cluster\x1b[2J leader"},
		},
		Firewall: hostagent.StatusFirewall{
			Backend: "iptables-nft 1.8.9 + ipset", Guarded: "21000-21255", Open: "21000-21002", Cut: "8080, 21200", AllowFrom: document.AllowFrom, Sources: 27,
			ExposedPaths: "21210", ExposedPathsFrom: []string{"10.0.0.0/8", "cluster"},
			Quarantined: []hostagent.DocumentQuarantine{
				{Port: 8080, Services: []string{hostileName, "web"}}, {Port: 8081, Services: []string{}, Held: true},
			},
			Settled: true, LastApply: before(time.Second), LastChange: before(5 * time.Hour), Repairs: 1, Error: "another program holds the lock",
		},
		Configuration: hostagent.StatusStep{Error: "/etc/hostagent.d/own.hcl:1: unknown key \x1b[2J\n/etc/hostagent.d/own.hcl:2: mode: unknown value \"gaurd\"; did you mean \"guard\"?"},
		Report:        hostagent.StatusStep{Error: "429 for web\n429 for \x1b[2Japi"},
		Audit: hostagent.StatusAudit{
			Enabled: true, Last: before(20 * time.Minute), Failing: []catalog.ID{catalog.GossipEncryption, catalog.APIHTTPS, catalog.AgentUser},
			Score: map[audit.Status]int{audit.Pass: 26, audit.Fail: 3, audit.Warn: 2, audit.Info: 1, audit.NotApplicable: 9, audit.Unknown: 2},
		},
		Listeners:    hostagent.StatusListeners{StatusStep: hostagent.StatusStep{Error: "interrupted"}},
		SidecarRange: "21000-21255",
		Openings: append(document.Opens, hostagent.DocumentOpening{
			Port: 21002, Services: []string{}, Registrations: []string{"old-sidecar-proxy"}, Held: true, Kind: hostagent.OpensMesh, From: []string{},
		}, hostagent.DocumentOpening{
			Port: 21210, Services: []string{"web"}, Registrations: []string{}, Kind: hostagent.OpensPath, From: []string{"10.0.0.0/8", "cluster"},
		}),
		Findings: plan.Scan.Document("1").Findings, Degradations: []string{"IPv6 is disabled on this host: only IPv4 is guarded"},
	}
	observing := hostagent.Status{
		SchemaVersion: 1, Version: "1.2.3", Mode: hostagent.ModeObserve, Started: before(90 * time.Second),
		Consul: hostagent.StatusConsul{Wakeup: hostagent.StatusWakeup{State: hostagent.WakeupWaiting}},
		Firewall: hostagent.StatusFirewall{
			Guarded: "none", Open: "none", Cut: "none", AllowFrom: []string{}, ExposedPaths: "none", ExposedPathsFrom: []string{}, Quarantined: []hostagent.DocumentQuarantine{},
		},
		Audit:        notAudited,
		SidecarRange: "none", Openings: []hostagent.DocumentOpening{}, Findings: []hostagent.DocumentFinding{}, Degradations: []string{},
	}
	waiting := observing
	waiting.Mode = hostagent.ModeGuard
	waiting.Audit.Enabled = true
	exempt := observing
	exempt.Findings = scanOf(nil, exemptBy(exposed("web", "0.0.0.0:8080", nil, hostagent.Exempt), "scraped \x1b[2J\u202e by Prometheus until the migration"),
		exemptBy(exposed("api", "0.0.0.0:8081", nil, ""), "it has ended")).Document("1").Findings
	return map[string]hostagent.Status{"guarding": guarding, "observing": observing, "waiting": waiting, "exempt": exempt, "before": hostagent.NewAgent(hostagent.Parts{
		Policy: hostagent.Policy{Mode: hostagent.ModeObserve}, Version: "1.2.3", Address: "http://127.0.0.1:8500",
	}).Status()}
}

func exemptBy(f hostagent.Finding, reason string) hostagent.Finding {
	f.Exemption = &hostagent.Exemption{Reason: reason, Expires: time.Date(2027, 1, 31, 0, 0, 0, 0, time.UTC)}
	return f
}

func TestStatusScreen(t *testing.T) {
	for name, st := range statuses() {
		everyWidth(t, "status-"+name, func(s *screen) string { return s.status(&st, name == "waiting", statusNow) })
		text, err := jsonText(st)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate("status", text); err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
}

// everyWidth draws on screens of several widths and compares with golden files, and with colours.
func everyWidth(t *testing.T, name string, draw func(*screen) string) {
	t.Helper()
	widths(t, name, draw, 0, 60, 80)
}

func widths(t *testing.T, name string, draw func(*screen) string, all ...int) {
	t.Helper()
	for _, width := range all {
		t.Run(fmt.Sprintf("%s-%d", name, width), func(t *testing.T) {
			got := draw(&screen{width: width, now: statusNow})
			golden(t, fmt.Sprintf("testdata/table/%s-%d.txt", name, width), got)
			checkLines(t, got, width)
			colours := draw(&screen{width: width, colour: true, now: statusNow})
			if diff := cmp.Diff(got, regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(colours, "")); diff != "" {
				t.Errorf("colours change more than colours (-without +with):\n%s", diff)
			}
		})
	}
}
