// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"strings"
	"testing"
)

func TestTooOld(t *testing.T) {
	for _, tt := range []struct {
		version    string
		known, old bool
	}{
		{"1.21.0", true, false},
		{"1.21.0+ent", true, false},
		{"1.22.0-rc1", true, false},
		{"2.0.0", true, false},
		{"1.11.0", true, false},
		{"1.11", true, false},
		{"v1.11.0", true, false},
		{"1.11.0+ent.fips1402", true, false},
		{"1.11.0-beta2", true, true}, // the header came with the release
		{"1.11.1-dev", true, false},
		{"1.10.12", true, true},
		{"1.10.12+ent", true, true},
		{"1.10.0dev", true, true},
		{"1.9.17", true, true},
		{"1.8.19", true, true},
		{"0.9.3", true, true},
		{"", false, false},
		{"1", false, false},
		{"1.", false, false},
		{".11.0", false, false},
		{"1.11.0.0", false, false},
		{"1.99999999999999999999.0", false, false},
		{"1.-5.0", false, false},
		{"dev", false, false},
		{"\x1b[2J", false, false},
	} {
		agent := &Agent{Version: tt.version}
		err := agent.TooOld()
		if known := agent.VersionKnown(); known != tt.known || (err != nil) != tt.old {
			t.Errorf("version %q: known %t, %v; want known %t, too old %t", tt.version, known, err, tt.known, tt.old)
		}
		if err != nil && (KindOf(err) != KindTooOld || !strings.Contains(err.Error(), "Consul "+tt.version+",") || !strings.Contains(err.Error(), "upgrade Consul to 1.11.0")) {
			t.Errorf("version %q: error %v", tt.version, err)
		}
	}
	hostile := (&Agent{Version: "1.10.0-\x1b[2J" + strings.Repeat("x", 1000)}).TooOld()
	if text := hostile.Error(); strings.Contains(text, "\x1b") || len(text) > 400 {
		t.Errorf("error %q", text)
	}
}
