// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// TestGuards: what counts are the drops in both hooks and families; where ports are accepted is another matter.
func TestGuards(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		command := map[Variant]string{VariantNFT: "iptables-nft", VariantLegacy: "iptables-legacy"}[variant]
		for _, test := range []struct {
			change string
			guards bool
		}{
			{"", true},
			{"iptables -I INPUT 1 -s 192.0.2.1 -j DROP", true},
			{"iptables -F HOSTAGENT-ACCEPT", true},
			{"iptables -t mangle -I INPUT 1 -s 192.0.2.1 -j DROP", true},
			{"iptables -t mangle -F HOSTAGENT-GUARD", false},
			{"ip6tables -t mangle -F HOSTAGENT-PREROUTING", false},
			{"iptables -t mangle -D PREROUTING -j HOSTAGENT-PREROUTING", false},
			{"iptables -t mangle -D INPUT 1; iptables -t mangle -A INPUT -s 192.0.2.1 -j HOSTAGENT-GUARD", false},
			{"iptables -t mangle -I HOSTAGENT-GUARD 1 -j RETURN", false},
		} {
			freshNamespace(t)
			f := start(t, variant)
			if state, err := f.Show(t.Context()); err != nil || state.Guards() {
				t.Fatalf("before anything stands it guards: %v", err)
			}
			mustApply(t, f, Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000)})
			shell(t, strings.NewReplacer("ip6tables", "ip6"+strings.TrimPrefix(command, "ip"), "iptables", command).Replace(test.change))
			state, err := f.Show(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := state.Guards(); got != test.guards {
				t.Errorf("after %q: %t, want %t\n%s", test.change, got, test.guards, state)
			}
		}
	})
}

func TestLimited(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		freshNamespace(t)
		f := start(t, variant)
		want := Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000)}
		mustApply(t, f, want)
		if state, err := f.Show(t.Context()); err != nil {
			t.Fatal(err)
		} else if sources, limited := state.Limited(); limited {
			t.Errorf("limited to %v without any limit", sources)
		}
		want.AllowFrom = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
		mustApply(t, f, want)
		state, err := f.Show(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if sources, limited := state.Limited(); !limited || !slices.Equal(sources, want.AllowFrom) {
			t.Errorf("limited %t to %v, want %v", limited, sources, want.AllowFrom)
		}
		if !state.Guards() {
			t.Errorf("does not guard with limited sources\n%s", state)
		}
	})
}
