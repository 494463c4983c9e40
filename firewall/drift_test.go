// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// driftSample is what stands when others do harm: every rule there is.
func driftSample() Ruleset {
	want := sample()
	want.CutRules, want.AllowFrom = true, prefixes("10.0.0.0/8", "fd00::/8")
	return want
}

// drift is harm that somebody does, and a phrase by which it is reported. X is the variant.
type drift struct {
	name, harm, want string
	only             Variant // where the harm can be done in one variant only
	silent           bool    // no event tells of it
}

// saveEdited restores what iptables shows, edited by sed: files of others that hold our rules of another day.
func saveEdited(edit string) string {
	return "iptables-X-save >/run/saved; sed -i '" + edit + "' /run/saved; iptables-X-restore /run/saved; rm /run/saved"
}

func drifts() []drift {
	guardGone := "ipv4 X mangle: chain HOSTAGENT-GUARD had changed"
	return []drift{
		{name: "filter flushed", harm: "iptables-X -F", want: "ipv4 X filter: chain HOSTAGENT-ACCEPT was empty"},
		{name: "filter flushed, jump", harm: "ip6tables-X -F", want: "ipv6 X filter: the jump to HOSTAGENT-ACCEPT was gone"},
		{name: "mangle flushed", harm: "iptables-X -t mangle -F", want: "ipv4 X mangle: chain HOSTAGENT-PREROUTING was empty"},
		{name: "mangle flushed, jump", harm: "ip6tables-X -t mangle -F", want: "ipv6 X mangle: the jump to HOSTAGENT-GUARD was gone"},
		{name: "accept flushed", harm: "iptables-X -F HOSTAGENT-ACCEPT", want: "ipv4 X filter: chain HOSTAGENT-ACCEPT was empty"},
		{name: "prerouting flushed", harm: "iptables-X -t mangle -F HOSTAGENT-PREROUTING", want: "ipv4 X mangle: chain HOSTAGENT-PREROUTING was empty"},
		{name: "guard flushed", harm: "ip6tables-X -t mangle -F HOSTAGENT-GUARD", want: "ipv6 X mangle: chain HOSTAGENT-GUARD was empty"},
		{name: "all of mangle removed", harm: "printf '*mangle\\nCOMMIT\\n' | iptables-X-restore", want: "ipv4 X mangle: chain HOSTAGENT-GUARD was gone"},
		{name: "our chain removed", harm: "printf '*filter\\n-F INPUT\\n-F HOSTAGENT-ACCEPT\\n-X HOSTAGENT-ACCEPT\\nCOMMIT\\n' | iptables-X-restore -n",
			want: "ipv4 X filter: chain HOSTAGENT-ACCEPT was gone"},
		{name: "jump deleted", harm: "iptables-X -D INPUT -j HOSTAGENT-ACCEPT", want: "ipv4 X filter: the jump to HOSTAGENT-ACCEPT was gone"},
		{name: "jump no longer first", harm: "iptables-X -t mangle -I PREROUTING -p tcp -j ACCEPT",
			want: "ipv4 X mangle: the jump to HOSTAGENT-PREROUTING was not where it belongs"},
		{name: "jump moved to another chain", harm: "printf '*mangle\\n-D INPUT -j HOSTAGENT-GUARD\\n-A FORWARD -j HOSTAGENT-GUARD\\nCOMMIT\\n' | ip6tables-X-restore -n",
			want: "ipv6 X mangle: the jump to HOSTAGENT-GUARD was not where it belongs"},
		{name: "jump twice", harm: "iptables-X -t mangle -A INPUT -j HOSTAGENT-GUARD", want: "ipv4 X mangle: 2 rules led to HOSTAGENT-GUARD instead of one"},
		{name: "jump narrowed", harm: "iptables-X -t mangle -R INPUT 1 -i eth9 -j HOSTAGENT-GUARD", want: "ipv4 X mangle: the jump to HOSTAGENT-GUARD had changed"},
		{name: "rule inserted", harm: "iptables-X -t mangle -I HOSTAGENT-GUARD -p tcp -j ACCEPT", want: guardGone},
		{name: "rule replaced", harm: "iptables-X -t mangle -R HOSTAGENT-GUARD 1 -p tcp -j ACCEPT", want: guardGone},
		{name: "rule deleted", harm: "iptables-X -t mangle -D HOSTAGENT-GUARD 1", want: guardGone},
		{name: "one set exchanged in a rule", harm: "ip6tables-X -t mangle -R HOSTAGENT-GUARD 2 " + strings.Replace(guardRule, "! --match-set", "--match-set", 1),
			want: "ipv6 X mangle: chain HOSTAGENT-GUARD had changed"},
		{name: "our chain jumps to our chain", harm: "iptables-X -t mangle -A HOSTAGENT-GUARD -j HOSTAGENT-PREROUTING", want: guardGone},
		{name: "ruleset flushed", harm: "nft flush ruleset", want: "ipv6 X mangle: chain HOSTAGENT-GUARD was gone", only: VariantNFT},
		{name: "restore with older words", harm: saveEdited("/^-A HOSTAGENT-ACCEPT/s/-p tcp//"),
			want: "ipv4 X filter: chain HOSTAGENT-ACCEPT had changed"},
		{name: "restore with another set", harm: saveEdited("s/hostagent-guard/hostagent-cut/"), want: guardGone},
		{name: "restore with fewer rules", harm: saveEdited("/hostagent-cut/d"), want: guardGone},
		{name: "restore without a chain", harm: saveEdited("/HOSTAGENT-PREROUTING/d"),
			want: "ipv4 X mangle: chain HOSTAGENT-PREROUTING was gone"},
		{name: "set flushed", silent: true, harm: "ipset flush hostagent-open", want: "set hostagent-open had lost ports 21000-21001, 21010 and gained none"},
		{name: "port deleted from a set", silent: true, harm: "ipset del hostagent-guard 21007", want: "set hostagent-guard had lost ports 21007 and gained none"},
		{name: "port added to a set", silent: true, harm: "ipset add hostagent-open 21200", want: "set hostagent-open had lost ports none and gained 21200"},
		{name: "source added to a set", silent: true, harm: "ipset add hostagent-from4 192.0.2.0/24", want: "set hostagent-from4 had lost sources none and gained 192.0.2.0/24"},
		{name: "set destroyed", silent: true, harm: "iptables-X -t mangle -F; ip6tables-X -t mangle -F; sleep 0.1; ipset destroy hostagent-guard", want: "set hostagent-guard was gone"},
	}
}

// TestDriftIsRepaired: the next look finds every drift, says what it was and leaves all as it was.
func TestDriftIsRepaired(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, driftSample())
		whole := show(t, f)
		if diff := cmp.Diff(expected(driftSample(), variant), whole); diff != "" {
			t.Fatalf("Show (-want +got):\n%s", diff)
		}
		for _, tt := range drifts() {
			if tt.only != "" && tt.only != variant {
				continue
			}
			peace(f)
			shell(t, forVariant(tt.harm, variant))
			verifyNow(f)
			changes := mustApply(t, f, driftSample())
			if want := forVariant(tt.want, variant); !slices.Contains(changes.Repaired, want) {
				t.Errorf("%s: repaired: %q\nwant among them: %q", tt.name, changes.Repaired, want)
			}
			if diff := cmp.Diff(whole, show(t, f)); diff != "" {
				t.Fatalf("%s: Show after the repair (-want +got):\n%s", tt.name, diff)
			}
			verifyNow(f)
			if changes := mustApply(t, f, driftSample()); !changes.Empty() {
				t.Errorf("%s: the next Apply says: %v", tt.name, changes)
			}
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
			f.xtables.memory.verified = time.Time{}
			before := f.xtables.runs.Load()
			if changes := mustApply(t, f, sample()); !changes.Empty() {
				t.Errorf("Apply says: %v", changes)
			}
			if ran := f.xtables.runs.Load() > before; ran != wantRuns {
				t.Errorf("look %d listed rules: %v", i, ran)
			}
		}
	})
}

// TestNoFalseDrift: however often the kernel is looked at, and whatever others change elsewhere or read, nothing of ours is
// taken for changed.
func TestNoFalseDrift(t *testing.T) {
	const looks = 1000
	others := []string{
		"iptables-X -N OTHER$i; iptables-X -A INPUT -j OTHER$i", "ip6tables-X -t mangle -A FORWARD -p udp -j ACCEPT",
		"iptables-X -L -n >/dev/null; ip6tables-X -t mangle -S >/dev/null", "nft add table inet other$i", "nft flush table inet other$i; nft delete table inet other$i",
		"iptables-X -t mangle -A INPUT -p udp -j HOSTAGENT-LIKE || iptables-X -t mangle -N HOSTAGENT-LIKE",
		"iptables-X -C INPUT -j HOSTAGENT-ACCEPT", "ipset create other$i hash:ip; ipset add other$i 192.0.2.1", "iptables-X -t nat -A OUTPUT -p udp -j ACCEPT",
	}
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, driftSample())
		reports := watching(t, f)
		for i := range looks {
			if i%20 == 0 {
				script := strings.ReplaceAll(forVariant(others[i/20%len(others)], variant), "$i", strconv.Itoa(i/20/len(others)))
				shell(t, "("+script+") 2>/dev/null || true")
			}
			if f.mu.Lock(); f.xtables.memory != nil {
				f.xtables.memory.verified = time.Time{}
			}
			f.mu.Unlock()
			if changes := mustApply(t, f, driftSample()); !changes.Empty() || changes.Fight {
				t.Fatalf("look %d says: %v", i, changes)
			}
		}
		settle(t, f)
		for len(reports) > 0 {
			if r := <-reports; r.err != nil || !r.changes.Empty() {
				t.Errorf("Watch told: %v, %v", r.changes, r.err)
			}
		}
	})
}

// TestApplyFromAnyState: whatever was there before, Apply leads to one and the same state.
func TestApplyFromAnyState(t *testing.T) {
	const rounds = 100
	harms := []string{
		"iptables-X -t mangle -F", "ip6tables-X -F", "iptables-X -t mangle -I INPUT -p tcp -j ACCEPT",
		"ipset flush hostagent-open", "ipset add hostagent-guard 1-1000", "ipset create hostagent-tmp hash:ip",
		"iptables-X -t mangle -A INPUT -j HOSTAGENT-GUARD", "ip6tables-X -t mangle -F HOSTAGENT-GUARD",
		"ipset flush hostagent-from4", "ipset add hostagent-from6 fd00::/64", "iptables-X -t mangle -D HOSTAGENT-GUARD 2",
		"iptables-X -I HOSTAGENT-ACCEPT -j RETURN", "iptables-X -A FORWARD -g HOSTAGENT-ACCEPT", "nft flush ruleset",
		"printf '*mangle\\nCOMMIT\\n' | ip6tables-X-restore", "iptables-X -D INPUT -j HOSTAGENT-ACCEPT", "ipset del hostagent-open 1-20000",
		"ipset add hostagent-from4 10.1.0.0/16 nomatch", "iptables-X -F; iptables-X -t mangle -F; iptables-X -X; iptables-X -t mangle -X",
		"ip6tables-X -t mangle -N HOSTAGENT-ACCEPT", "iptables-X -N OTHER; iptables-X -I INPUT -j OTHER; iptables-X -A OTHER -j HOSTAGENT-ACCEPT",
		"ipset swap hostagent-guard hostagent-open", "ipset create hostagent-from4 hash:net", "iptables-O -t mangle -N HOSTAGENT-GUARD",
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
		for round := range rounds {
			var harm strings.Builder
			anew := random.IntN(2) == 0
			for range random.IntN(4) {
				text := forVariant(harms[random.IntN(len(harms))], variant)
				if anew { // the other variant is looked at by a new process only
					text = strings.ReplaceAll(text, "tables-O", "tables-"+string(variant.other()))
				}
				harm.WriteString("(" + text + ") 2>/dev/null || true\n")
			}
			if harm.Len() > 0 {
				shell(t, harm.String())
			}
			if anew {
				f = open(t, variant)
			}
			peace(f)
			verifyNow(f)
			want := draw()
			mustApply(t, f, want)
			if _, err := destroySet(fillSet); err != nil { // a leftover is looked for by a new process only
				t.Fatal(err)
			}
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Fatalf("round %d: after\n%sShow (-want +got):\n%s", round, harm.String(), diff)
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
