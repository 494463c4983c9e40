// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// limited is the sample for a few networks only.
func limited(sources ...string) Ruleset {
	r := sample()
	r.AllowFrom = prefixes(sources...)
	return r
}

const goldenFromSets = `create hostagent-guard bitmap:port range 0-65535
add hostagent-guard 21000-21255
create hostagent-open bitmap:port range 0-65535
add hostagent-open 21000-21001
add hostagent-open 21010
create hostagent-cut bitmap:port range 0-65535
create hostagent-from4 hash:net family inet
add hostagent-from4 10.0.0.0/8
add hostagent-from4 192.0.2.7
create hostagent-from6 hash:net family inet6
add hostagent-from6 fd00::/8
`

const goldenFromRules = `# FAMILY VARIANT
*filter
:HOSTAGENT-ACCEPT - [0:0]
-I INPUT 1 -j HOSTAGENT-ACCEPT
-A HOSTAGENT-ACCEPT -i lo -p tcp -m set --match-set hostagent-open dst -j ACCEPT
-A HOSTAGENT-ACCEPT -p tcp -m set --match-set hostagent-open dst -m set --match-set hostagent-fromN src -j ACCEPT
COMMIT
# FAMILY VARIANT
*mangle
:HOSTAGENT-PREROUTING - [0:0]
:HOSTAGENT-GUARD - [0:0]
-I PREROUTING 1 -j HOSTAGENT-PREROUTING
-I INPUT 1 -j HOSTAGENT-GUARD
-A HOSTAGENT-PREROUTING ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
-A HOSTAGENT-PREROUTING ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-open dst -m set ! --match-set hostagent-fromN src -j DROP
-A HOSTAGENT-GUARD ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
-A HOSTAGENT-GUARD ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-open dst -m set ! --match-set hostagent-fromN src -j DROP
COMMIT
`

// appliesAs applies want, as Plan says it, and wants Show and Ruleset.String to be sets and, for either family, rules.
func appliesAs(t *testing.T, f *Firewall, want Ruleset, variant Variant, sets, rules string) Changes {
	t.Helper()
	plan, err := f.Plan(context.Background(), want)
	if err != nil {
		t.Fatal(err)
	}
	changes := mustApply(t, f, want)
	if diff := cmp.Diff(plan.String(), changes.String()); diff != "" {
		t.Errorf("Apply did not do what Plan said (-plan +done):\n%s", diff)
	}
	golden := sets
	for _, family := range []Family{IPv4, IPv6} {
		number := strings.TrimPrefix(string(family), "ipv")
		golden += strings.NewReplacer("FAMILY", string(family), "VARIANT", string(variant),
			"hostagent-fromN", "hostagent-from"+number, "hostagent-pathsN", "hostagent-paths"+number).Replace(rules)
	}
	if diff := cmp.Diff(golden, show(t, f)); diff != "" {
		t.Errorf("Show after Apply (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(strings.ReplaceAll(golden, " "+string(variant)+"\n", "\n"), want.String()); diff != "" {
		t.Errorf("Ruleset.String (-want +got):\n%s", diff)
	}
	return changes
}

func TestAllowFromGolden(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		want := limited("fd00::/8", "10.0.0.0/8", "192.0.2.7/32", "10.0.0.0/8")
		changes := appliesAs(t, f, want, variant, goldenFromSets, goldenFromRules)
		if part := "hostagent-from4 created +10.0.0.0/8 +192.0.2.7; hostagent-from6 created +fd00::/8; "; !strings.Contains(changes.String(), part) {
			t.Errorf("Apply says: %v\nwant in it: %s", changes, part)
		}
		if plan, err := f.Plan(context.Background(), want); err != nil || !plan.Empty() {
			t.Errorf("Plan after Apply: %v, %v", plan, err)
		}
		for command, text := range map[string]string{
			"ipset list -t hostagent-from6":                         "Type: hash:net",
			"ipset save hostagent-from4":                            "family inet hashsize",
			"ipset test hostagent-from4 10.200.0.1 2>&1":            "is in set",
			"ipset test hostagent-from6 fd12::1 2>&1":               "is in set",
			"iptables-" + string(variant) + "-save -t mangle":       "-m set ! --match-set hostagent-from4 src -j DROP",
			"ip6tables-" + string(variant) + "-save -t mangle":      "-m set ! --match-set hostagent-from6 src -j DROP",
			"ip6tables-" + string(variant) + " -S HOSTAGENT-ACCEPT": "-A HOSTAGENT-ACCEPT -i lo -p tcp",
		} {
			if got := shell(t, command); !strings.Contains(got, text) {
				t.Errorf("%s does not say %q:\n%s", command, text, got)
			}
		}
	})
}

// TestAllowFromTakenOver: a process that starts anew finds everything right, and starts no program for what only sets hold.
func TestAllowFromTakenOver(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		want := limited("10.0.0.0/8", "fd00::/8")
		mustApply(t, f, want)
		for _, again := range []*Firewall{f, open(t, variant)} {
			if changes := mustApply(t, again, want); !changes.Empty() {
				t.Errorf("the same sources again: %v", changes)
			}
		}
		before := f.xtables.runs.Load()
		want = limited("192.0.2.0/24", "10.0.0.0/8")
		want.Open.Add(21020)
		want.Open.Remove(21000)
		changes := mustApply(t, f, want)
		if diff := cmp.Diff(named(variant, "hostagent-open +21020 -21000; hostagent-from4 +192.0.2.0/24; hostagent-from6 -fd00::/8"), changes.String()); diff != "" {
			t.Errorf("changes (-want +got):\n%s", diff)
		}
		if f.xtables.runs.Load() != before {
			t.Errorf("other sources started %d programs", f.xtables.runs.Load()-before)
		}
		if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
		changes = mustApply(t, open(t, variant), limited("10.0.0.0/8"))
		if changes.Repaired != nil {
			t.Errorf("a new process repairs: %v", changes)
		}
		if diff := cmp.Diff(expected(limited("10.0.0.0/8"), variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
	})
}

// TestAllowFromComesAndGoes by the same process and by new ones, and Remove takes everything away.
func TestAllowFromComesAndGoes(t *testing.T) {
	everybody, some := sample(), limited("10.0.0.0/8")
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		for i, want := range []Ruleset{everybody, some, everybody, limited("::/0"), limited("fd00::/8", "0.0.0.0/0"), everybody, some, everybody, some} {
			changes := mustApply(t, f, want)
			if changes.Repaired != nil {
				t.Errorf("step %d is taken for a repair: %v", i, changes)
			}
			if gone := named(variant, "hostagent-from4 destroyed; hostagent-from6 destroyed"); want.AllowFrom == nil && i > 0 && !strings.Contains(changes.String(), gone) {
				t.Errorf("step %d does not say %q: %v", i, gone, changes)
			}
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Errorf("Show after step %d (-want +got):\n%s", i, diff)
			}
			if i >= 5 {
				f = open(t, variant)
			}
			if changes := mustApply(t, f, want); !changes.Empty() {
				t.Errorf("the second Apply of step %d says: %v", i, changes)
			}
		}
		if _, err := f.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		if text := shell(t, "ipset list -n"); show(t, f) != "" || text != "" {
			t.Errorf("Remove left %s and sets %q", show(t, f), text)
		}
	})
}

// TestAllowFromAfterACrash: sets that no rule reads yet, or no longer, are taken over or taken away.
func TestAllowFromAfterACrash(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		for _, want := range []Ruleset{sample(), limited("10.0.0.0/8", "fd00::/8")} {
			f := start(t, variant)
			mustApply(t, f, sample())
			shell(t, `ipset create hostagent-from4 hash:net family inet; ipset add hostagent-from4 10.0.0.0/8
				ipset create hostagent-from6 hash:net family inet6
				ipset create hostagent-tmp hash:net family inet; ipset add hostagent-tmp 1.2.3.4`)
			mustApply(t, open(t, variant), want)
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Errorf("Show (-want +got):\n%s", diff)
			}
		}
	})
}

func TestAllowFromRefusesForeignSet(t *testing.T) {
	tests := []struct{ name, create, kind string }{
		{"other type", "hostagent-from4 hash:ip", "hash:ip"},
		{"other family", "hostagent-from6 hash:net family inet", "hash:net family inet"},
		{"members expire", "hostagent-from4 hash:net timeout 60", "hash:net family inet timeout"},
		{"no hash", "hostagent-from6 bitmap:port range 0-65535", "bitmap:port range 0-65535"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, VariantNFT)
			shell(t, "ipset create "+tt.create)
			before := saved(t)
			for _, want := range []Ruleset{limited("10.0.0.0/8"), sample()} {
				changes, err := f.Apply(context.Background(), want)
				if !errors.Is(err, ErrForeignSet) || !changes.Empty() || !strings.Contains(err.Error(), "it is a "+tt.kind+" where a hash:net family inet") {
					t.Errorf("Apply: %v, %v", changes, err)
				}
			}
			if diff := cmp.Diff(before, saved(t)); diff != "" {
				t.Errorf("a refused Apply changed the kernel (-before +after):\n%s", diff)
			}
			if _, err := f.Remove(context.Background()); err != nil {
				t.Fatal(err)
			}
			mustApply(t, f, limited("10.0.0.0/8"))
		})
	}
}

func TestAllowFromRefusesWhatIsNoNetwork(t *testing.T) {
	f := start(t, VariantNFT)
	before := saved(t)
	bad := limited("10.0.0.0/8", "x")
	if _, err := f.Plan(context.Background(), bad); err == nil {
		t.Error("Plan took it")
	}
	if changes, err := f.Apply(context.Background(), bad); err == nil || !changes.Empty() {
		t.Errorf("Apply: %v, %v", changes, err)
	}
	if diff := cmp.Diff(before, saved(t)); diff != "" {
		t.Errorf("a refused Apply changed the kernel (-before +after):\n%s", diff)
	}
	if text := bad.String(); strings.Contains(text, "from4") {
		t.Errorf("String has sources that cannot be applied:\n%s", text)
	}
}

func TestAllowFromDriftIsRepaired(t *testing.T) {
	tests := []struct{ name, harm, want string }{
		{"set flushed", "ipset flush hostagent-from4", "set hostagent-from4 had lost sources 10.0.0.0/8, 192.0.2.7 and gained none"},
		{"source added", "ipset add hostagent-from6 2001:db8::/32", "set hostagent-from6 had lost sources none and gained 2001:db8::/32"},
		{"source added to the other family", "ipset add hostagent-from6 ::/1; ipset del hostagent-from4 10.0.0.0/8",
			"set hostagent-from4 had lost sources 10.0.0.0/8 and gained none"},
		{"swapped", "ipset create own hash:net; ipset add own 1.0.0.0/8; ipset swap own hostagent-from4; ipset destroy own",
			"set hostagent-from4 had lost sources 10.0.0.0/8, 192.0.2.7 and gained 1.0.0.0/8"},
		{"exception", "ipset create own hash:net; ipset add own 10.0.0.0/8; ipset add own 192.0.2.7; ipset add own 10.9.0.0/16 nomatch; " +
			"ipset swap own hostagent-from4; ipset destroy own", "set hostagent-from4 had gained exceptions (nomatch)"},
		{"set destroyed", "iptables-X -t mangle -F; iptables-X -F; sleep 0.1; ipset destroy hostagent-from4", "set hostagent-from4 was gone"},
		{"rule deleted", "iptables-X -t mangle -D HOSTAGENT-GUARD 2", "ipv4 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"rule turned round", "ip6tables-X -R HOSTAGENT-ACCEPT 2 -p tcp -m set --match-set hostagent-open dst -m set ! --match-set hostagent-from6 src -j ACCEPT",
			"ipv6 X filter: chain HOSTAGENT-ACCEPT had changed"},
	}
	eachVariant(t, func(t *testing.T, variant Variant) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				f := start(t, variant)
				want := limited("10.0.0.0/8", "192.0.2.7/32", "fd00::/8")
				mustApply(t, f, want)
				shell(t, strings.ReplaceAll(tt.harm, "tables-X", "tables-"+string(variant)))
				verifyNow(f)
				changes := mustApply(t, f, want)
				text := strings.ReplaceAll(tt.want, " X ", " "+string(variant)+" ")
				if !slices.Contains(changes.Repaired, text) {
					t.Errorf("repaired: %q\nwant among them: %q", changes.Repaired, text)
				}
				if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
					t.Errorf("Show after the repair (-want +got):\n%s", diff)
				}
				verifyNow(f)
				if changes := mustApply(t, f, want); !changes.Empty() {
					t.Errorf("the next Apply says: %v", changes)
				}
			})
		}
		t.Run("appeared", func(t *testing.T) {
			f := start(t, variant)
			mustApply(t, f, sample())
			shell(t, "ipset create hostagent-from4 hash:net")
			verifyNow(f)
			if changes := mustApply(t, f, sample()); !slices.Contains(changes.Repaired, "set hostagent-from4 had appeared") {
				t.Errorf("changes: %v", changes)
			}
			if diff := cmp.Diff(expected(sample(), variant), show(t, f)); diff != "" {
				t.Errorf("Show after the repair (-want +got):\n%s", diff)
			}
		})
	})
}

// TestAllowFromWaitsForTheRules: where rules cannot be written, a port does not open to sources that it is not for.
func TestAllowFromWaitsForTheRules(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	want := limited("10.0.0.0/8")
	want.Open = Ports(21001, 21050)
	want.Accept.Chain = "OWN"
	if _, err := f.Apply(context.Background(), want); !errors.Is(err, ErrNoChain) {
		t.Fatalf("Apply: %v", err)
	}
	state, err := f.Show(context.Background())
	if err != nil || state.Open() != Ports(21001) {
		t.Errorf("open: %v, %v", state.Open(), err)
	}
	shell(t, "iptables-nft -N OWN; ip6tables-nft -N OWN")
	mustApply(t, f, want)
	if diff := cmp.Diff(expected(want, VariantNFT), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

func TestManySources(t *testing.T) {
	f := start(t, VariantNFT)
	want := sample()
	want.AllowFrom = many(10000)
	for i := range 3000 {
		a := netip.AddrFrom16([16]byte{0xfd, 2: byte(i >> 8), 3: byte(i)})
		want.AllowFrom = append(want.AllowFrom, netip.PrefixFrom(a, 64+i%65))
	}
	for _, apply := range []string{"first", "again", "one less", "all of them", "none"} {
		switch apply {
		case "one less":
			want.AllowFrom = want.AllowFrom[1:]
		case "all of them":
			want.AllowFrom = many(maxSources)
		case "none":
			want.AllowFrom = nil
		}
		began := time.Now()
		mustApply(t, f, want)
		t.Logf("%s: %v", apply, time.Since(began).Round(10*time.Microsecond))
		if diff := cmp.Diff(expected(want, VariantNFT), show(t, f)); diff != "" {
			t.Fatalf("Show after %s differs", apply)
		}
	}
}

func TestVerifyEvery(t *testing.T) {
	freshNamespace(t)
	for every, repairs := range map[time.Duration]bool{0: false, time.Hour: false, time.Nanosecond: true} {
		f, err := New(Options{Variant: VariantNFT, VerifyEvery: every})
		if err != nil {
			t.Fatal(err)
		}
		mustApply(t, f, sample())
		shell(t, "ipset flush hostagent-open")
		if changes := mustApply(t, f, sample()); (changes.Repaired != nil) != repairs {
			t.Errorf("VerifyEvery %v: %v", every, changes)
		}
	}
}
