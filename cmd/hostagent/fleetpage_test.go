// SPDX-License-Identifier: MPL-2.0

package main

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
	"github.com/hostagent/hostagent/hostagent/page"
)

func TestPageOfFleet(t *testing.T) {
	report := &fleet.Report{Datacenter: "dc1", Service: "web", Others: 2, Hosts: []fleet.Host{
		{Node: "db-3", State: fleet.Silent, Says: "TTL expired", More: 3},
		{Node: "old-1", Address: netip.MustParseAddr("10.0.0.9"), State: fleet.Missing, Alive: true, Sidecars: 2},
		{
			Node: "web-1", Address: netip.MustParseAddr("10.0.0.5"), Alive: true, State: fleet.Runs,
			Self: fleet.Self{Version: "v0.9.0", Mode: "guard", Enforce: "report", First: 21000, Last: 21255, Cells: "#?.!x", Score: audit.Score{audit.Pass: 3, audit.Fail: 1}},
			Checks: []fleet.Check{
				{Name: "Firewall", Status: consul.Critical, Output: "it\ncould not"}, {Key: lifeKey, Status: consul.Warning}, {Name: "Production checklist", Status: consul.Passing, Output: "fine"},
			},
			Services: []fleet.Service{{
				ID: "web", Name: "web", Told: true, Sidecars: []fleet.Sidecar{{ID: "web-sidecar-proxy", Port: 21000, Says: "open", Open: true, Paths: []string{"20200, open to exposed_paths_from"}}}, More: 2, Says: "stale", Loopback: []string{"tcp 127.0.0.1:9090"},
				Findings: []fleet.Finding{
					{ID: catalog.ExposedListener, State: "open", Where: "tcp 0.0.0.0:8080"}, {ID: catalog.ExposedSibling, State: "exempt"}, {ID: catalog.QuarantineRefused, State: "open"},
				},
			}, {Name: "quiet"}},
			Findings: []fleet.Finding{{Severity: catalog.Critical, ID: catalog.ExposedAdmin, State: "open", Service: "web", Where: "tcp 0.0.0.0:19000", Message: "m", Who: "w", Remedy: "r"}},
		},
		{Node: "gone-4", State: fleet.Stopped, Self: fleet.Self{First: 65530, Last: 65535, Cells: strings.Repeat("#", 512)}},
	}}
	got := fleetPage(report, []string{"a note"}, pageTime())
	admin, _ := catalog.Lookup(catalog.ExposedAdmin)
	want := &page.Page{
		Title: "hosts of service web in datacenter dc1", Datacenter: "dc1", Version: version(), At: pageTime(), Fleet: true,
		Hosts: []page.Host{
			{Name: "db-3", Life: page.Silent, Says: "TTL expired", More: 3},
			{
				Name: "web-1", Address: "10.0.0.5", Version: "v0.9.0", Mode: "guard", Enforce: "report", Score: []page.Count{{Status: "pass", N: 3}, {Status: "fail", N: 1}},
				Range: page.Range{First: 21000, Last: 21255, Runs: []page.Run{
					{First: 21000, Last: 21000, Use: page.UseSidecar, Text: "web"}, {First: 21001, Last: 21001, Use: page.UseUnserved, Text: "nobody listens for somebody"},
					{First: 21003, Last: 21003, Use: page.UseSquatted, Text: "squatted by somebody"},
				}},
				Checks: []page.Check{{Name: "Firewall", Status: "critical", Output: "it\ncould not"}},
				Services: []page.Service{{
					Name: "web", ID: "web", Told: true, Listeners: []string{"127.0.0.1:9090", "0.0.0.0:8080"},
					In:     []page.WayIn{{Sidecar: "web-sidecar-proxy", Port: 21000, Open: true, Says: "open"}},
					Notes:  []string{"exposed paths of web-sidecar-proxy, without mTLS: 20200, open to exposed_paths_from", "and 2 more sidecars", "stale"},
					Around: []page.WayAround{{At: "0.0.0.0:8080", Finding: "exposed-listener", State: "open"}, {At: "web", Finding: "exposed-sibling", State: "exempt"}},
				}, {Name: "quiet"}},
				Findings: []page.Finding{{Severity: "critical", ID: "exposed-admin", State: "open", Title: admin.Title, Service: "web", Where: "tcp 0.0.0.0:19000", Message: "m", Who: "w", Remedy: "r"}},
			},
			{Name: "gone-4", Life: page.Stopped, Range: page.Range{First: 65530, Last: 65535, Runs: []page.Run{{First: 65530, Last: 65535, Use: page.UseSidecar, Text: "somebody"}}}},
		},
		Missing: []page.Missing{{Name: "old-1", Address: "10.0.0.9", Sidecars: 2, Alive: true}},
		Notes:   []string{"a note", "2 nodes of the catalog not listed: no Consul agent of the datacenter runs there"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the page (-want +got):\n%s", diff)
	}
	if text := pageText(t, got); !strings.Contains(text, "<h1>hosts of service web in datacenter dc1</h1>") {
		t.Error("the page has no heading")
	}
}

// TestPageOfHostWithoutCells: a host whose range is too large to be told of as cells has the sidecars that its checks name.
func TestPageOfHostWithoutCells(t *testing.T) {
	h := pageHostOf(&fleet.Host{Self: fleet.Self{First: 20000, Last: 24000}, Services: []fleet.Service{
		{Name: "web", Told: true, Sidecars: []fleet.Sidecar{{Port: 20001}, {Port: -1}, {Port: 1 << 20}}}, {Name: "api", Told: true, Sidecars: []fleet.Sidecar{{Port: 20002}}},
	}})
	want := page.Range{First: 20000, Last: 24000, Partly: true, Runs: []page.Run{{First: 20001, Last: 20002, Use: page.UseSidecar, Text: "web, api"}}}
	if diff := cmp.Diff(want, h.Range); diff != "" {
		t.Errorf("the range (-want +got):\n%s", diff)
	}
}

// TestPagesOfAllFleets writes every fleet that tables are tested with.
func TestPagesOfAllFleets(t *testing.T) {
	for name, report := range fleets() {
		if text := pageText(t, fleetPage(report, nil, pageTime())); strings.ContainsAny(text, "\x1b\u202e\u009b\x07") || !strings.HasSuffix(text, "</html>\n") {
			t.Errorf("%s is not written as it should be", name)
		}
	}
}
