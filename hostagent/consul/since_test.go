// SPDX-License-Identifier: MPL-2.0

package consul

import "testing"

func TestSince(t *testing.T) {
	for _, c := range []struct {
		version, asked string
		want           bool
	}{
		{"1.14.0", "1.14.0", true},
		{"1.13.9", "1.14.0", false},
		{"1.9.17", "1.14.0", false},
		{"1.21.0+ent", "1.14.0", true},
		{"1.14.0-beta1", "1.14.0", false},
		{"", "1.14.0", true},
		{"unknown", "1.14.0", true},
	} {
		if got := (&Agent{Version: c.version}).Since(c.asked); got != c.want {
			t.Errorf("Consul %q since %s: got %v, want %v", c.version, c.asked, got, c.want)
		}
	}
}
