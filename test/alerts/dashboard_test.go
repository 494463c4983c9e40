// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"os"
	"testing"
)

// TestDashboard holds the dashboard to what Grafana needs of one that it imports.
func TestDashboard(t *testing.T) {
	content, err := os.ReadFile("../../packaging/grafana/hostagent.json")
	if err != nil {
		t.Fatal(err)
	}
	type source struct{ Type, UID string }
	type grid struct{ H, W, X, Y int }
	var d struct {
		ID            *int
		UID, Title    string
		SchemaVersion int
		Templating    struct {
			List []struct{ Name, Type string }
		}
		Panels []struct {
			ID                       int
			Type, Title, Description string
			GridPos                  grid
			Datasource               source
			Targets                  []struct {
				RefID, Expr string
				Datasource  source
			}
		}
	}
	if err := json.Unmarshal(content, &d); err != nil {
		t.Fatal(err)
	}
	if d.ID != nil || d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || len(d.Panels) == 0 {
		t.Errorf("id %v, uid %q, title %q, schema version %d, %d panels", d.ID, d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
	}
	if variables["datasource"] != "datasource" || variables["host"] != "query" || variables["job"] != "query" {
		t.Errorf("variables %v", variables)
	}
	prometheus := source{"prometheus", "${datasource}"}
	ids, taken := map[int]string{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if other, twice := ids[p.ID]; twice || p.ID == 0 {
			t.Errorf("%q and %q have the id %d", other, p.Title, p.ID)
		}
		ids[p.ID] = p.Title
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other, twice := taken[[2]int{x, y}]; twice || x >= 24 {
					t.Fatalf("%q lies on %q, or over the edge, at %d, %d", p.Title, other, x, y)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Title == "" || p.Description == "" || p.Datasource != prometheus || len(p.Targets) == 0 || p.GridPos.W == 0 || p.GridPos.H == 0 {
			t.Errorf("panel %d %q: description %q, datasource %v, %d targets, at %v", p.ID, p.Title, p.Description, p.Datasource, len(p.Targets), p.GridPos)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Expr == "" || target.Datasource != prometheus || target.RefID == "" || refs[target.RefID] {
				t.Errorf("%q: target %+v", p.Title, target)
			}
			refs[target.RefID] = true
		}
	}
}
