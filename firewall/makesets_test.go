// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"net/netip"
	"strings"
	"testing"
)

const emptySets = `create hostagent-guard bitmap:port range 0-65535
create hostagent-open bitmap:port range 0-65535
create hostagent-cut bitmap:port range 0-65535
create hostagent-from4 hash:net family inet
create hostagent-from6 hash:net family inet6
create hostagent-paths bitmap:port range 0-65535
create hostagent-paths4 hash:net family inet
create hostagent-paths6 hash:net family inet6
`

func mustMakeSets(t *testing.T, f *Firewall) Changes {
	t.Helper()
	changes, err := f.MakeSets(context.Background())
	if err != nil {
		t.Fatalf("MakeSets: %v", err)
	}
	return changes
}

func TestMakeSets(t *testing.T) {
	f := start(t, VariantNFT)
	if changes := mustMakeSets(t, f); len(changes.Sets) != 8 || !changes.Sets[0].Created {
		t.Errorf("made: %s", changes)
	}
	if got := show(t, f); got != emptySets {
		t.Errorf("the kernel holds\n%s", got)
	}
	if changes := mustMakeSets(t, f); !changes.Empty() {
		t.Errorf("made again: %s", changes)
	}
}

// TestMakeSetsTouchesNothing: sets that exist stay as they are, whatever they are, and so do the rules.
func TestMakeSetsTouchesNothing(t *testing.T) {
	f := start(t, VariantNFT)
	want := Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000), AllowFrom: prefixes("10.0.0.0/8"), PathsFrom: prefixes("10.0.0.0/8")}
	mustApply(t, f, want)
	before := show(t, f)
	if changes := mustMakeSets(t, f); !changes.Empty() {
		t.Errorf("made: %s", changes)
	}
	if after := show(t, f); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	mustApply(t, f, Ruleset{})
	if _, err := f.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
	shell(t, "ipset create hostagent-open hash:ip && ipset add hostagent-open 10.0.0.1")
	if changes := mustMakeSets(t, f); len(changes.Sets) != 7 {
		t.Errorf("made: %s", changes)
	}
	if foreign := shell(t, "ipset list hostagent-open"); !strings.Contains(foreign, "\n10.0.0.1\n") || !strings.Contains(foreign, "hash:ip") {
		t.Errorf("somebody's set:\n%s", foreign)
	}
}

// TestMadeSetsAreTakenOver: what was saved names all sets, so the file loads whole; the next Apply fills the sets that it
// needs and takes the others away, though rules of ours that were loaded name them.
func TestMadeSetsAreTakenOver(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		want := Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000), AllowFrom: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		mustApply(t, f, want)
		dir := t.TempDir()
		save := strings.NewReplacer("DIR", dir, "VARIANT", string(variant))
		shell(t, save.Replace("iptables-VARIANT-save > DIR/v4; ip6tables-VARIANT-save > DIR/v6"))
		if _, err := f.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		load := save.Replace("iptables-VARIANT-restore < DIR/v4; ip6tables-VARIANT-restore < DIR/v6")
		if out := shell(t, "if ("+load+"); then echo loaded; fi 2>&1"); strings.Contains(out, "loaded") {
			t.Fatalf("without the sets it loads, so this proves nothing: %s", out)
		}
		fresh := open(t, variant)
		mustMakeSets(t, fresh)
		shell(t, load)
		everybody := Ruleset{Guard: want.Guard, Open: want.Open}
		if changes := mustApply(t, fresh, everybody); len(changes.Repaired) > 0 {
			t.Errorf("a first Apply repairs: %s", changes)
		}
		if got := show(t, fresh); got != expected(everybody, variant) {
			t.Errorf("the kernel holds\n%s\nwant\n%s", got, expected(everybody, variant))
		}
	})
}

// TestMakeSetsBetweenApplies: a set that was lost and made anew is filled again at once.
func TestMakeSetsBetweenApplies(t *testing.T) {
	f := start(t, VariantNFT)
	want := Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000)}
	mustApply(t, f, want)
	mustMakeSets(t, f)
	mustApply(t, f, want)
	if got := show(t, f); got != expected(want, VariantNFT) {
		t.Errorf("the kernel holds\n%s\nwant\n%s", got, expected(want, VariantNFT))
	}
}

func TestMakeSetsWithoutTheRight(t *testing.T) {
	f := start(t, VariantNFT)
	if err := dropNetAdmin(t); err != nil {
		t.Fatal(err)
	}
	if _, err := f.MakeSets(context.Background()); err == nil || !strings.Contains(err.Error(), "cannot create set \"hostagent-guard\"") {
		t.Errorf("error: %v", err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.MakeSets(ended); err == nil {
		t.Error("a context that has ended is no error")
	}
}
