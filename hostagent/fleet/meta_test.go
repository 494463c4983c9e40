// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/audit"
)

func TestSelfGoesThroughMetadata(t *testing.T) {
	for _, tt := range []struct {
		name string
		self Self
		meta map[string]string
	}{
		{"nothing", Self{}, map[string]string{}},
		{"counts only", Self{Mode: "guard", Enforce: "report"}, map[string]string{"mode": "guard", "enforce": "report"}},
		{"all", Self{
			Version: "v1.2.3", Mode: "guard", Enforce: "quarantine", First: 21000, Last: 21255, Cells: "#=?~!%+.#",
			Score: audit.Score{audit.Pass: 31, audit.Fail: 2, audit.NotApplicable: 6},
		}, map[string]string{
			"version": "v1.2.3", "mode": "guard", "enforce": "quarantine", "sidecar-range": "21000-21255", "range-cells": "#=?~!%+.#",
			"checklist": "pass=31 n/a=6 fail=2",
		}},
		{"no range", Self{Version: "1"}, map[string]string{"version": "1", "sidecar-range": "none"}},
		{"a range of one port", Self{First: 21000, Last: 21000, Cells: "#"}, map[string]string{"sidecar-range": "21000-21000", "range-cells": "#"}},
		{"a free range", Self{First: 1, Last: 4096}, map[string]string{"sidecar-range": "1-4096"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			meta := tt.self.Meta()
			if diff := cmp.Diff(tt.meta, meta); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.self, ReadSelf(meta)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestMetadataIsShort: free ports at the end are not told, and cells that do not fit are not either.
func TestMetadataIsShort(t *testing.T) {
	for _, tt := range []struct{ cells, want string }{
		{"#...", "#"},
		{"....", ""},
		{strings.Repeat("#", 512) + "...", strings.Repeat("#", 512)},
		{strings.Repeat("#", 513), ""},
	} {
		if got := (&Self{First: 1, Last: 4096, Cells: tt.cells}).Meta()["range-cells"]; got != tt.want {
			t.Errorf("%d cells: %q", len(tt.cells), got)
		}
	}
	long := (&Self{Version: strings.Repeat("\u202e", 1000)}).Meta()["version"]
	if len(long) > 512 || strings.Contains(long, "\u202e") {
		t.Errorf("%q", long)
	}
}

func TestMetadataOfOthers(t *testing.T) {
	for _, tt := range []struct {
		name string
		meta map[string]string
		want Self
	}{
		{"nil", nil, Self{}},
		{"words nobody knows", map[string]string{"mode": "attack", "enforce": "nothing", "extra": "1"}, Self{}},
		{"a version with control characters", map[string]string{"version": "1\x1b[2J"}, Self{Version: `1\u001b[2J`}},
		{"a version that is too long", map[string]string{"version": strings.Repeat("1", 513)}, Self{}},
		{"a range that is none", map[string]string{"sidecar-range": "21255-21000"}, Self{}},
		{"a range of zero", map[string]string{"sidecar-range": "0-10"}, Self{}},
		{"a range that is too wide", map[string]string{"sidecar-range": "1-4097"}, Self{}},
		{"a range beyond ports", map[string]string{"sidecar-range": "65000-65536"}, Self{}},
		{"cells without a range", map[string]string{"range-cells": "#"}, Self{}},
		{"more cells than ports", map[string]string{"sidecar-range": "1-2", "range-cells": "###"}, Self{First: 1, Last: 2}},
		{"cells nobody knows", map[string]string{"sidecar-range": "1-3", "range-cells": "#<#"}, Self{First: 1, Last: 3}},
		{"odd scores", map[string]string{"checklist": "pass=-1 fail=1001 warn=x unknown info=1 =2 other=3"}, Self{Score: audit.Score{audit.Info: 1}}},
		{"no score", map[string]string{"checklist": "none"}, Self{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, ReadSelf(tt.meta)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzReadSelf(f *testing.F) {
	f.Add("v1.2.3", "guard", "report", "21000-21255", "#=?~!%+.#", "pass=31 fail=2")
	f.Add(strings.Repeat("\t", 12), "", "", "0-1", "", "")
	f.Add("", "", "", "none", "....", "n/a=1")
	f.Fuzz(func(t *testing.T, version, mode, enforce, ports, cells, checklist string) {
		self := ReadSelf(map[string]string{
			"version": version, "mode": mode, "enforce": enforce, "sidecar-range": ports, "range-cells": cells, "checklist": checklist,
		})
		if len(self.Cells) > 0 && len(self.Cells) > int(self.Last)-int(self.First)+1 || self.Last < self.First || self.First == 0 && self.Last != 0 {
			t.Fatalf("%+v", self)
		}
		meta := self.Meta()
		for key, value := range meta {
			if len(value) > maxMeta {
				t.Fatalf("%s has %d bytes", key, len(value))
			}
		}
		if diff := cmp.Diff(self, ReadSelf(meta)); diff != "" {
			t.Fatal(diff)
		}
	})
}
