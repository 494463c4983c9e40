// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestDriftIsRepaired(t *testing.T) {
	tests := []struct{ name, harm, want string }{
		{"rules flushed", "iptables-X -t mangle -F", "ipv4 X mangle: chain HOSTAGENT-PREROUTING had changed"},
		{"our chain flushed", "ip6tables-X -t mangle -F HOSTAGENT-GUARD", "ipv6 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"our chain removed", "iptables-X -F INPUT; iptables-X -F HOSTAGENT-ACCEPT; iptables-X -X HOSTAGENT-ACCEPT",
			"ipv4 X filter: the jump to HOSTAGENT-ACCEPT was not where it belongs"},
		{"rule added to our chain", "iptables-X -t mangle -I HOSTAGENT-GUARD -p tcp -j ACCEPT", "ipv4 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"rule replaced in our chain", "iptables-X -t mangle -R HOSTAGENT-GUARD 1 -p tcp -j ACCEPT", "ipv4 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"one set exchanged in a rule", "ip6tables-X -t mangle -R HOSTAGENT-GUARD 1 " + strings.Replace(guardRule, "! --match-set", "--match-set", 1),
			"ipv6 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"jump no longer first", "iptables-X -t mangle -I PREROUTING -p tcp -j ACCEPT",
			"ipv4 X mangle: the jump to HOSTAGENT-PREROUTING was not where it belongs"},
		{"jump twice", "iptables-X -t mangle -A INPUT -j HOSTAGENT-GUARD", "ipv4 X mangle: the jump to HOSTAGENT-GUARD was not where it belongs"},
		{"jump narrowed", "iptables-X -t mangle -R INPUT 1 -i eth9 -j HOSTAGENT-GUARD",
			"ipv4 X mangle: the jump to HOSTAGENT-GUARD was not where it belongs"},
		{"our chain jumps to our chain", "iptables-X -t mangle -A HOSTAGENT-GUARD -j HOSTAGENT-PREROUTING",
			"ipv4 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"set flushed", "ipset flush hostagent-open", "set hostagent-open had lost ports 21000-21001, 21010 and gained none"},
		{"port added to a set", "ipset add hostagent-open 21200", "set hostagent-open had lost ports none and gained 21200"},
		{"set destroyed", "iptables-X -t mangle -F; ip6tables-X -t mangle -F; sleep 0.1; ipset destroy hostagent-guard", "set hostagent-guard was gone"},
	}
	eachVariant(t, func(t *testing.T, variant Variant) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				f := start(t, variant)
				mustApply(t, f, sample())
				shell(t, strings.ReplaceAll(tt.harm, "tables-X", "tables-"+string(variant)))
				verifyNow(f)
				changes := mustApply(t, f, sample())
				want := strings.ReplaceAll(tt.want, " X ", " "+string(variant)+" ")
				if !strings.Contains(strings.Join(changes.Repaired, "\n"), want) {
					t.Errorf("repaired: %q\nwant among them: %q", changes.Repaired, want)
				}
				if diff := cmp.Diff(expected(sample(), variant), show(t, f)); diff != "" {
					t.Errorf("Show after the repair (-want +got):\n%s", diff)
				}
				verifyNow(f)
				if changes := mustApply(t, f, sample()); !changes.Empty() {
					t.Errorf("the next Apply says: %v", changes)
				}
			})
		}
	})
}

// TestForeignChangeIsNoDrift: a change elsewhere moves the generation, costs one listing and is then known.
func TestForeignChangeIsNoDrift(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		shell(t, "iptables-"+string(variant)+" -A INPUT -p udp -j ACCEPT")
		for i, wantRuns := range []bool{true, false} {
			f.backend.memory.verified = time.Time{}
			before := f.backend.runs.Load()
			if changes := mustApply(t, f, sample()); !changes.Empty() {
				t.Errorf("Apply says: %v", changes)
			}
			if ran := f.backend.runs.Load() > before; ran != wantRuns {
				t.Errorf("look %d listed rules: %v", i, ran)
			}
		}
	})
}

// TestApplyFromAnyState: whatever was there before, Apply leads to one and the same state.
func TestApplyFromAnyState(t *testing.T) {
	const rounds = 12
	harms := []string{
		"iptables-V -t mangle -F", "ip6tables-V -F", "iptables-V -t mangle -I INPUT -p tcp -j ACCEPT",
		"ipset flush hostagent-open", "ipset add hostagent-guard 1-1000", "ipset create hostagent-tmp hash:ip",
		"iptables-V -t mangle -A INPUT -j HOSTAGENT-GUARD", "ip6tables-V -t mangle -F HOSTAGENT-GUARD",
		"ipset flush hostagent-from4", "ipset add hostagent-from6 fd00::/64", "iptables-V -t mangle -D HOSTAGENT-GUARD 2",
		"iptables-V -I HOSTAGENT-ACCEPT -j RETURN", "iptables-V -A FORWARD -g HOSTAGENT-ACCEPT",
	}
	eachVariant(t, func(t *testing.T, variant Variant) {
		freshNamespace(t)
		random := rand.New(rand.NewPCG(7, 11))
		draw := func() (r Ruleset) {
			for _, set := range []*PortSet{&r.Guard, &r.Open, &r.Cut} {
				for range random.IntN(4) {
					first := uint16(random.IntN(65536))
					set.AddRange(first, first+uint16(random.IntN(40)))
				}
			}
			r.CutRules, r.Accept.None = random.IntN(2) == 0, random.IntN(3) == 0
			if pool := prefixes("10.0.0.0/8", "192.0.2.7/32", "fd00::/8", "::/0"); random.IntN(2) == 0 {
				r.AllowFrom = pool[random.IntN(2) : 2+random.IntN(3)]
			}
			return r
		}
		f := open(t, variant)
		for range rounds {
			mustApply(t, f, draw())
			for range random.IntN(3) {
				harm := strings.ReplaceAll(harms[random.IntN(len(harms))], "V", string(variant))
				shell(t, "("+harm+") 2>/dev/null || true")
			}
			if random.IntN(2) == 0 {
				f = open(t, variant)
			}
			verifyNow(f)
			want := draw()
			mustApply(t, f, want)
			if _, err := destroySet(fillSet); err != nil { // a leftover is looked for by a new process only
				t.Fatal(err)
			}
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Fatalf("Show (-want +got):\n%s", diff)
			}
		}
	})
}

// TestErrorForgets: what failed makes the next Apply look at everything, however soon it comes.
func TestErrorForgets(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		shell(t, strings.ReplaceAll("iptables-V -t mangle -F; ip6tables-V -t mangle -F; iptables-V -F; ip6tables-V -F", "V", string(variant)))
		if _, err := destroySet(openSet); err != nil {
			t.Fatal(err)
		}
		want := sample()
		want.Open.Add(21200)
		if _, err := f.Apply(context.Background(), want); err == nil {
			t.Fatal("Apply changed a set that is not there")
		}
		mustApply(t, f, want)
		if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
	})
}

// TestLeftoverInTheWay: a half-filled set that appears after the first look does not stop a swap.
func TestLeftoverInTheWay(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	shell(t, "ipset create hostagent-tmp bitmap:port range 0-65535; ipset add hostagent-tmp 1-1000")
	want := sample()
	want.Guard = portRange(22000, 22255)
	mustApply(t, f, want)
	if diff := cmp.Diff(expected(want, VariantNFT), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}
