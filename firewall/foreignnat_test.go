// SPDX-License-Identifier: MPL-2.0

package firewall

import "testing"

func TestForeignNAT(t *testing.T) {
	freshNamespace(t)
	f := open(t, VariantNFT)
	for _, test := range []struct {
		name, rules string
		want        bool
	}{
		{"nothing", "", false},
		{"iptables' own", "table ip nat {\nchain PREROUTING { type nat hook prerouting priority dstnat;\n}\n}", false},
		{"a native one", "table inet netavark {\nchain PREROUTING { type nat hook prerouting priority dstnat;\n}\n}", true},
		{"under iptables' name, of both families", "table inet nat {\nchain PREROUTING { type nat hook prerouting priority dstnat;\n}\n}", true},
		{"what leaves the host", "table inet other {\nchain POSTROUTING { type nat hook postrouting priority srcnat;\n}\n}", false},
		{"a filter", "table inet other {\nchain PREROUTING { type filter hook prerouting priority dstnat;\n}\n}", false},
		{"a chain that nothing calls", "table inet other {\nchain nat {\n}\n}", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			shell(t, "nft -f - <<'END'\nflush ruleset\n"+test.rules+"\nEND\n")
			if got := f.ForeignNAT(); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
