// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sample is a ruleset as a host with three sidecars has it.
func sample() Ruleset {
	return Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000, 21001, 21010)}
}

const goldenSets = `create hostagent-guard bitmap:port range 0-65535
add hostagent-guard 21000-21255
create hostagent-open bitmap:port range 0-65535
add hostagent-open 21000-21001
add hostagent-open 21010
create hostagent-cut bitmap:port range 0-65535
`

const goldenRules = `# FAMILY VARIANT
*filter
:HOSTAGENT-ACCEPT - [0:0]
-I INPUT 1 -j HOSTAGENT-ACCEPT
-A HOSTAGENT-ACCEPT -p tcp -m set --match-set hostagent-open dst -j ACCEPT
COMMIT
# FAMILY VARIANT
*mangle
:HOSTAGENT-PREROUTING - [0:0]
:HOSTAGENT-GUARD - [0:0]
-I PREROUTING 1 -j HOSTAGENT-PREROUTING
-I INPUT 1 -j HOSTAGENT-GUARD
-A HOSTAGENT-PREROUTING ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
-A HOSTAGENT-GUARD ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
COMMIT
`

func TestApplyGolden(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		want := goldenSets
		for _, family := range []Family{IPv4, IPv6} {
			want += strings.NewReplacer("FAMILY", string(family), "VARIANT", string(variant)).Replace(goldenRules)
		}
		if diff := cmp.Diff(want, show(t, f)); diff != "" {
			t.Errorf("Show after Apply (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, expected(sample(), variant)); diff != "" {
			t.Errorf("Ruleset.String (-want +got):\n%s", diff)
		}
		// Other programs must see the same.
		for name, wantText := range map[string]string{
			"ipset save hostagent-open":                          "add hostagent-open 21010",
			"iptables-" + string(variant) + "-save -t mangle":    "\n-A HOSTAGENT-GUARD ! -i lo ",
			"ip6tables-" + string(variant) + " -S INPUT":         "-A INPUT -j HOSTAGENT-ACCEPT",
			"ip6tables-" + string(variant) + " -t mangle -S":     "-A PREROUTING -j HOSTAGENT-PREROUTING",
			"ipset list -t hostagent-guard | grep -c 0-65535":    "1",
			"ipset test hostagent-guard 21255 2>&1 | grep -c is": "1",
		} {
			if got := shell(t, name); !strings.Contains(got, wantText) {
				t.Errorf("%s does not say %q:\n%s", name, wantText, got)
			}
		}
	})
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		if changes := mustApply(t, f, sample()); changes.Empty() || changes.Repaired != nil {
			t.Errorf("the first Apply says: %v", changes)
		}
		before := f.xtables.runs.Load()
		if changes := mustApply(t, f, sample()); !changes.Empty() {
			t.Errorf("the second Apply says: %v", changes)
		}
		verifyNow(f)
		if variant != onNFTables {
			f.xtables.memory.listed = time.Now()
		}
		if changes := mustApply(t, f, sample()); !changes.Empty() {
			t.Errorf("an Apply that looks again says: %v", changes)
		}
		changed := sample()
		changed.Open.Add(21099)
		changed.Guard = portRange(21000, 21511)
		mustApply(t, f, changed)
		if ran := f.xtables.runs.Load() - before; ran != 0 {
			t.Errorf("three Applies without other rules started %d programs", ran)
		}
		if diff := cmp.Diff(expected(changed, variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
		// A process that starts anew takes everything over as it is.
		if changes := mustApply(t, open(t, variant), changed); !changes.Empty() {
			t.Errorf("Apply of a new process says: %v", changes)
		}
	})
}

func TestPlanChangesNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		shell(t, "ipset create hostagent-tmp hash:ip")
		before := saved(t)
		plan, err := f.Plan(context.Background(), sample())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, saved(t)); diff != "" {
			t.Errorf("Plan changed the kernel (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(plan.String(), mustApply(t, f, sample()).String()); diff != "" {
			t.Errorf("Apply did not do what Plan said (-plan +done):\n%s", diff)
		}
		if plan, err = f.Plan(context.Background(), sample()); err != nil || !plan.Empty() {
			t.Errorf("Plan after Apply: %v, %v", plan, err)
		}
	})
}

func TestApplyTakesOverSets(t *testing.T) {
	f := start(t, VariantNFT)
	shell(t, `ipset create hostagent-guard bitmap:port range 0-65535
		ipset add hostagent-guard 21000-21255
		ipset create hostagent-open bitmap:port range 0-65535
		ipset add hostagent-open 21000; ipset add hostagent-open 21077
		ipset create hostagent-tmp bitmap:port range 0-65535`)
	changes := mustApply(t, f, sample())
	want := "hostagent-tmp destroyed; hostagent-cut created; hostagent-open +21001 +21010 -21077; "
	if !strings.HasPrefix(changes.String(), want) {
		t.Errorf("Apply says: %v\nwant the prefix: %s", changes, want)
	}
	if diff := cmp.Diff(expected(sample(), VariantNFT), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

func TestApplyRefusesForeignSet(t *testing.T) {
	tests := []struct{ name, create, kind string }{
		{"other type", "hash:ip", "hash:ip"},
		{"narrow range", "bitmap:port range 0-1023", "bitmap:port range 0-1023"},
		{"members expire", "bitmap:port range 0-65535 timeout 60", "bitmap:port range 0-65535 timeout"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, VariantNFT)
			shell(t, "ipset create hostagent-cut "+tt.create)
			before := saved(t)
			changes, err := f.Apply(context.Background(), sample())
			if !errors.Is(err, ErrForeignSet) || !changes.Empty() {
				t.Fatalf("Apply: %v, %v", changes, err)
			}
			for _, part := range []string{`"hostagent-cut"`, "it is a " + tt.kind + " where", "ipset destroy hostagent-cut"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error does not say %q: %v", part, err)
				}
			}
			if diff := cmp.Diff(before, saved(t)); diff != "" {
				t.Errorf("a refused Apply changed the kernel (-before +after):\n%s", diff)
			}
			if _, err := f.Remove(context.Background()); err != nil {
				t.Fatal(err)
			}
			mustApply(t, f, sample())
		})
	}
}

const foreignRules = `
nft 'table inet others { set hostagent { type inet_service; }; chain prerouting { type filter hook prerouting priority -150; }; }'
nft 'table ip hostagent { set guard { type inet_service; }; chain prerouting { type filter hook prerouting priority -150; }; }'
for t in iptables-nft ip6tables-nft iptables-legacy ip6tables-legacy; do
	$t -P FORWARD DROP
	$t -N OWN
	$t -A OWN -p tcp --dport 22 -m comment --comment "not a -j HOSTAGENT-GUARD jump" -j ACCEPT
	$t -A INPUT -j OWN
	$t -A INPUT -m comment --comment "no target -j HOSTAGENT-ACCEPT at all"
	$t -A INPUT -j LOG --log-prefix "x -g HOSTAGENT-ACCEPT y"
	$t -t mangle -A PREROUTING -p udp -j MARK --set-mark 7
	$t -t mangle -N HOSTAGENT-LIKE
	$t -t mangle -A INPUT -j HOSTAGENT-LIKE
done
ipset create hostagent-like hash:ip
ipset create others bitmap:port range 0-65535
ipset add others 21000
`

func TestRemoveLeavesOthersAlone(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		shell(t, foreignRules)
		before := saved(t)
		want := sample()
		want.CutRules, want.Accept.Chain = true, "OWN"
		if variant == onNFTables {
			mustApply(t, open(t, VariantNFT), want) // and what that leaves
		}
		mustApply(t, f, want)
		// Somebody jumps to our chains from a chain of their own: that ends with our chains.
		if variant != onNFTables {
			shell(t, "iptables-"+string(variant)+` -t mangle -A HOSTAGENT-LIKE -p tcp -m comment --comment "a b" -j HOSTAGENT-GUARD`)
		}
		changes, err := f.Remove(context.Background())
		if err != nil || changes.Empty() {
			t.Fatalf("Remove: %v, %v", changes, err)
		}
		if diff := cmp.Diff(before, saved(t)); diff != "" {
			t.Errorf("Remove did not restore what was there (-before +after):\n%s", diff)
		}
		if changes, err = f.Remove(context.Background()); err != nil || !changes.Empty() {
			t.Errorf("the second Remove: %v, %v", changes, err)
		}
		state, err := f.Show(context.Background())
		if err != nil || state.Exists() {
			t.Errorf("Show after Remove: %v, %v", state, err)
		}
		mustApply(t, f, want) // and back
	})
}

func TestRemoveSaysWhoHoldsASet(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	shell(t, "iptables-nft -A FORWARD -m set --match-set hostagent-open src -j DROP")
	_, err := f.Remove(context.Background())
	if err == nil || !strings.Contains(err.Error(), "delete that rule first") {
		t.Fatalf("Remove: %v", err)
	}
	shell(t, "iptables-nft -F FORWARD")
	if _, err := f.Remove(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func TestAccept(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		shell(t, strings.ReplaceAll("iptables-X -N OWN; ip6tables-X -N OWN; iptables-X -A INPUT -j OWN", "X", string(variant)))
		want := sample()
		for _, accept := range []Accept{{}, {Chain: "OWN"}, {None: true}, {Chain: "INPUT"}, {None: true, Chain: "OWN"}, {Chain: "OWN"}, {}} {
			want.Accept = accept
			changes := mustApply(t, f, want)
			if changes.Repaired != nil {
				t.Errorf("Accept %+v is taken for a repair: %v", accept, changes)
			}
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Errorf("Show with Accept %+v (-want +got):\n%s", accept, diff)
			}
			if changes := mustApply(t, open(t, variant), want); !changes.Empty() {
				t.Errorf("a new process with Accept %+v says: %v", accept, changes)
			}
		}
	})
}

func TestAcceptInMissingChain(t *testing.T) {
	f := start(t, VariantNFT)
	shell(t, "iptables-nft -N OWN")
	want := sample()
	want.Accept.Chain = "OWN"
	changes, err := f.Apply(context.Background(), want)
	if !errors.Is(err, ErrNoChain) || !strings.Contains(err.Error(), `ipv6: cannot put the accept rule into chain "OWN"`) {
		t.Fatalf("Apply: %v", err)
	}
	// The guard stands all the same, and IPv4 is complete.
	for _, part := range []string{
		"ipv4 nft HOSTAGENT-ACCEPT, HOSTAGENT-PREROUTING, HOSTAGENT-GUARD written",
		"ipv6 nft HOSTAGENT-PREROUTING, HOSTAGENT-GUARD written",
	} {
		if !strings.Contains(changes.String(), part) {
			t.Errorf("changes do not have %q: %v", part, changes)
		}
	}
	shell(t, "ip6tables-nft -N OWN")
	mustApply(t, f, want)
	if diff := cmp.Diff(expected(want, VariantNFT), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

func TestCutRules(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		want := sample()
		for _, on := range []bool{true, false, true} {
			want.CutRules = on
			want.Cut = PortSet{}
			if on {
				want.Cut = Ports(8080)
			}
			mustApply(t, f, want)
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Errorf("Show with CutRules %v (-want +got):\n%s", on, diff)
			}
			text, rules := "--ctdir ORIGINAL", 4
			if variant == onNFTables {
				text, rules = "ct direction original", 2 // both families in one
			}
			if got := strings.Count(show(t, f), text); on && got != rules || !on && got != 0 {
				t.Errorf("CutRules %v: %d rules look at connections", on, got)
			}
		}
	})
}

func TestVariantSwitch(t *testing.T) {
	freshNamespace(t)
	for _, variant := range []Variant{VariantLegacy, VariantNFT, VariantLegacy} {
		mustApply(t, open(t, variant), sample())
		if diff := cmp.Diff(expected(sample(), variant), show(t, open(t, variant))); diff != "" {
			t.Errorf("Show after the switch to %s (-want +got):\n%s", variant, diff)
		}
	}
}

func TestVariantAuto(t *testing.T) {
	tests := []struct {
		name, rules string
		want        Variant
	}{
		{"no rules", "", VariantNFT},
		{"in nft", "ip6tables-nft -A INPUT -p udp", VariantNFT},
		{"in legacy", "iptables-legacy -A INPUT -p udp", VariantLegacy},
		{"a policy only", "iptables-legacy -P INPUT DROP", VariantLegacy},
		{"in another table", "ip6tables-legacy -t nat -A OUTPUT -p udp -j ACCEPT", VariantLegacy},
		{"more in nft", "iptables-nft -A INPUT -p udp; iptables-nft -A INPUT -p udp; iptables-legacy -A INPUT -p udp", VariantNFT},
		{"more in legacy", "iptables-legacy -A INPUT -p udp; iptables-legacy -A INPUT -p udp; iptables-nft -A INPUT -p udp", VariantLegacy},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			freshNamespace(t)
			if plain, err := plainVariant(context.Background(), lookPath("iptables")); err != nil {
				t.Fatal(err)
			} else if tt.rules == "" {
				tt.want = plain
			} else {
				shell(t, tt.rules)
			}
			// What we wrote ourselves in the other variant has no say.
			mustApply(t, open(t, tt.want.other()), sample())
			f := open(t, VariantAuto)
			if got := f.xtables.tools[0].variant; got != tt.want {
				t.Errorf("chose %s, want %s", got, tt.want)
			}
			mustApply(t, f, sample())
			if diff := cmp.Diff(expected(sample(), tt.want), show(t, f)); diff != "" {
				t.Errorf("Show (-want +got):\n%s", diff)
			}
		})
	}
	freshNamespace(t)
	if _, err := New(Options{Variant: "iptables"}); err == nil {
		t.Error("a variant that is none was accepted")
	}
	open(t, VariantAuto)
	if names := legacyTables(IPv4); len(names) > 0 {
		t.Errorf("looking for a variant made legacy tables: %v", names)
	}
}

// TestOtherWords: a rule that iptables lists in other words than ours is found by iptables itself.
func TestOtherWords(t *testing.T) {
	freshNamespace(t)
	f := open(t, VariantNFT)
	mustApply(t, f, sample())
	c := sample()
	accept := c.chains(IPv4)[0]
	accept.rules = []string{"-m set --match-set hostagent-open dst --protocol tcp --jump ACCEPT"}
	tables, err := f.xtables.tools[0].list(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	find := func(chain, rule string) (bool, error) { return f.xtables.tools[0].find(filterTable, chain, rule) }
	if right, err := tables[filterTable].holds(&accept, find); err != nil || !right {
		t.Errorf("other words of the same rule: %v, %v", right, err)
	}
	accept.rules = []string{"-p tcp -m set --match-set hostagent-cut dst -j ACCEPT"}
	if right, err := tables[filterTable].holds(&accept, find); err != nil || right {
		t.Errorf("another rule: %v, %v", right, err)
	}
	accept.rules = []string{"-p tcp -m set --match-set no-such-set dst -j ACCEPT"}
	if right, err := tables[filterTable].holds(&accept, find); err != nil || right {
		t.Errorf("a rule with a set that is not there: %v, %v", right, err)
	}
}

func TestLockFileMissing(t *testing.T) {
	f := start(t, VariantLegacy)
	t.Setenv("XTABLES_LOCKFILE", "/run/no/such/directory/lock")
	_, err := f.Apply(context.Background(), sample())
	if err == nil || errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "XTABLES_LOCKFILE") {
		t.Errorf("Apply: %v", err)
	}
}

func TestMissingTools(t *testing.T) {
	freshNamespace(t)
	if err := newXtables(context.Background(), Options{Variant: VariantNFT}, &others{}).unusable; err != nil {
		t.Fatal(err)
	}
	found := []*tool{{family: IPv4}}
	err := missingTools(VariantNFT, []Family{IPv4, IPv6}, found)
	if !errors.Is(err, ErrMissingTool) || !strings.Contains(err.Error(), "cannot find ip6tables") ||
		!strings.Contains(err.Error(), "install the iptables package") {
		t.Errorf("error: %v", err)
	}
	if tool := findTool(context.Background(), "no-such-variant", IPv4, time.Second, new(programs)); tool != nil {
		t.Errorf("found %+v", tool)
	}
}

// TestManyRanges: members that need several netlink messages, and listings that come in several.
func TestManyRanges(t *testing.T) {
	f := start(t, VariantNFT)
	var want Ruleset
	for p := uint16(1); p < 65000; p += 2 {
		want.Guard.Add(p)
	}
	mustApply(t, f, want)
	set, err := readSet(guardSet)
	if err != nil || set.ports != want.Guard {
		t.Errorf("the set has %d ports, want %d (%v)", set.ports.Len(), want.Guard.Len(), err)
	}
	want = Ruleset{Guard: portRange(0, 65535)}
	mustApply(t, f, want)
	set, err = readSet(guardSet)
	if err != nil || set.ports != portRange(1, 65535) {
		t.Errorf("the set has %s (%v)", fmt.Sprint(set.ports), err)
	}
	if changes := mustApply(t, f, want); !changes.Empty() {
		t.Errorf("the second Apply with port 0 says: %v", changes)
	}
}
