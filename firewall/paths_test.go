// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// withPaths is the sample with an exposed path for a few networks only.
func withPaths(sources ...string) Ruleset {
	r := sample()
	r.Paths, r.PathsFrom = Ports(21100), prefixes(sources...)
	return r
}

const goldenPathsSets = `create hostagent-guard bitmap:port range 0-65535
add hostagent-guard 21000-21255
create hostagent-open bitmap:port range 0-65535
add hostagent-open 21000-21001
add hostagent-open 21010
create hostagent-cut bitmap:port range 0-65535
create hostagent-paths bitmap:port range 0-65535
add hostagent-paths 21100
create hostagent-paths4 hash:net family inet
add hostagent-paths4 10.0.0.0/8
create hostagent-paths6 hash:net family inet6
add hostagent-paths6 fd00::/8
`

const goldenPathsRules = `# FAMILY VARIANT
*filter
:HOSTAGENT-ACCEPT - [0:0]
-I INPUT 1 -j HOSTAGENT-ACCEPT
-A HOSTAGENT-ACCEPT -p tcp -m set --match-set hostagent-open dst -j ACCEPT
-A HOSTAGENT-ACCEPT -i lo -p tcp -m set --match-set hostagent-paths dst -j ACCEPT
-A HOSTAGENT-ACCEPT -p tcp -m set --match-set hostagent-paths dst -m set --match-set hostagent-pathsN src -j ACCEPT
COMMIT
# FAMILY VARIANT
*mangle
:HOSTAGENT-PREROUTING - [0:0]
:HOSTAGENT-GUARD - [0:0]
-I PREROUTING 1 -j HOSTAGENT-PREROUTING
-I INPUT 1 -j HOSTAGENT-GUARD
-A HOSTAGENT-PREROUTING -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m set --match-set hostagent-paths dst -m set --match-set hostagent-pathsN src -j RETURN
-A HOSTAGENT-PREROUTING ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
-A HOSTAGENT-GUARD -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m set --match-set hostagent-paths dst -m set --match-set hostagent-pathsN src -j RETURN
-A HOSTAGENT-GUARD ! -i lo -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -m addrtype --dst-type LOCAL -m set --match-set hostagent-guard dst -m set ! --match-set hostagent-open dst -j DROP
COMMIT
`

func TestPathsGolden(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		appliesAs(t, start(t, variant), withPaths("fd00::/8", "10.0.0.0/8"), variant, goldenPathsSets, goldenPathsRules)
	})
}

// TestPathsNative: what the rules are called is what nft takes them for.
func TestPathsNative(t *testing.T) {
	f := start(t, onNFTables)
	want := withPaths("fd00::/8", "10.0.0.0/8")
	want.AllowFrom, want.CutRules = prefixes("192.0.2.0/24"), true
	changes := mustApply(t, f, want)
	if part := "inet hostagent paths created +21100; inet hostagent paths4 created +10.0.0.0/8; inet hostagent paths6 created +fd00::/8"; !strings.Contains(changes.String(), part) {
		t.Errorf("Apply says: %v\nwant in it: %s", changes, part)
	}
	text := show(t, f)
	if diff := cmp.Diff(listed(t), words80(rangesComment.ReplaceAllString(text, ""))); diff != "" {
		t.Errorf("Show (-nft +Show):\n%s", diff)
	}
	const rules = `		tcp flags & (fin | syn | rst | ack) == syn tcp dport @paths ip saddr @paths4 return
		tcp flags & (fin | syn | rst | ack) == syn tcp dport @paths ip6 saddr @paths6 return
		meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @guard`
	if strings.Count(text, rules) != 2 {
		t.Errorf("Show lacks twice\n%s:\n%s", rules, text)
	}
	pipeNft(t, "delete table inet hostagent\n"+text)
	if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() {
		t.Errorf("made by nft from what Show says, Apply changes: %v", changes)
	}
}

// TestPathsComeAndGo by the same process and by new ones; State says what stands, and Remove takes everything away.
func TestPathsComeAndGo(t *testing.T) {
	none, some := sample(), withPaths("10.0.0.0/8", "fd00::/8")
	nobody := some
	nobody.PathsFrom = nil
	another := withPaths("192.0.2.0/24")
	another.AllowFrom = prefixes("10.0.0.0/8")
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		for i, want := range []Ruleset{none, some, another, nobody, some, none, another, withPaths("::/0"), limited("10.0.0.0/8"), some} {
			changes := mustApply(t, f, want)
			if changes.Repaired != nil {
				t.Errorf("step %d is taken for a repair: %v", i, changes)
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
			state, err := f.Show(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			ports, sources, ok := state.Paths()
			canonical, _ := canonicalSources(want.PathsFrom)
			slices.SortFunc(sources, netip.Prefix.Compare)
			if variant == onNFTables { // where ::/0 is one network
				canonical = networksOf(slices.Concat(familyRuns(canonical)[0], familyRuns(canonical)[1]))
			}
			want.tidy()
			if ports != want.Paths || ok != (len(want.PathsFrom) > 0) || !slices.Equal(sources, canonical) || !state.Guards() {
				t.Errorf("step %d: Paths says %v from %v, %v; guards %v", i, ports, sources, ok, state.Guards())
			}
		}
		mustRemove(t, f)
		if text := shell(t, "ipset list -n"); show(t, f) != "" || text != "" {
			t.Errorf("Remove left %s and sets %q", show(t, f), text)
		}
	})
}

func TestPathsDriftIsRepaired(t *testing.T) {
	tests := []struct{ name, harm, want string }{
		{"ports flushed", "ipset flush hostagent-paths", "set hostagent-paths had lost ports 21100 and gained none"},
		{"port added", "ipset add hostagent-paths 21101", "set hostagent-paths had lost ports none and gained 21101"},
		{"source added", "ipset add hostagent-paths4 0.0.0.0/1", "set hostagent-paths4 had lost sources none and gained 0.0.0.0/1"},
		{"set destroyed", "iptables-X -t mangle -F; iptables-X -F; sleep 0.1; ipset destroy hostagent-paths4", "set hostagent-paths4 was gone"},
		{"rule deleted", "iptables-X -t mangle -D HOSTAGENT-GUARD 1", "ipv4 X mangle: chain HOSTAGENT-GUARD had changed"},
		{"rule for everybody", "ip6tables-X -t mangle -R HOSTAGENT-PREROUTING 1 -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN " +
			"-m set --match-set hostagent-paths dst -j RETURN", "ipv6 X mangle: chain HOSTAGENT-PREROUTING had changed"},
	}
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		want := withPaths("10.0.0.0/8", "fd00::/8")
		for _, tt := range tests {
			mustApply(t, f, want)
			shell(t, strings.ReplaceAll(tt.harm, "tables-X", "tables-"+string(variant)))
			verifyNow(f)
			changes := mustApply(t, f, want)
			if text := strings.ReplaceAll(tt.want, " X ", " "+string(variant)+" "); !slices.Contains(changes.Repaired, text) {
				t.Errorf("%s: repaired: %q\nwant among them: %q", tt.name, changes.Repaired, text)
			}
			if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
				t.Errorf("%s: Show after the repair (-want +got):\n%s", tt.name, diff)
			}
		}
		mustApply(t, f, sample())
		shell(t, "ipset create hostagent-paths bitmap:port range 0-65535; ipset add hostagent-paths 21200")
		verifyNow(f)
		if changes := mustApply(t, f, sample()); !slices.Contains(changes.Repaired, "set hostagent-paths had appeared") {
			t.Errorf("changes: %v", changes)
		}
		if diff := cmp.Diff(expected(sample(), variant), show(t, f)); diff != "" {
			t.Errorf("Show after the repair (-want +got):\n%s", diff)
		}
	})
	t.Run(string(onNFTables), func(t *testing.T) {
		f := start(t, onNFTables)
		want := withPaths("10.0.0.0/8", "fd00::/8")
		mustApply(t, f, want)
		pipeNft(t, "flush set inet hostagent paths4\nadd element inet hostagent paths { 21101 }")
		verifyNow(f)
		changes := mustApply(t, f, want)
		for _, text := range []string{"set inet hostagent paths had lost ports none and gained 21101",
			"set inet hostagent paths4 had lost sources 10.0.0.0/8 and gained none"} {
			if !slices.Contains(changes.Repaired, text) {
				t.Errorf("repaired: %q\nwant among them: %q", changes.Repaired, text)
			}
		}
		if diff := cmp.Diff(expected(want, onNFTables), show(t, f)); diff != "" {
			t.Errorf("Show after the repair (-want +got):\n%s", diff)
		}
	})
}

// TestPathsTraffic: only the sources of exposed paths reach these, plain and redirected, whatever the host's own rules say;
// the host with itself is never limited. Beside the guard they are let in, and for others the host's own rules count.
func TestPathsTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client := newSources(t)
		listen(t, 21000, 21001, 21100, 21101, 8080, 9443)
		want := withPaths("10.9.1.2/32", "fd09:1::2/128")
		want.Paths = Ports(21100, 21101, 9443)
		want.Open.Remove(21001)
		mustApply(t, f, want)
		for _, fam := range client.families(t, variant) {
			shell(t, "T="+fam.tables+" HOST="+fam.host+`
				$T -I INPUT -p tcp -j ACCEPT
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 9999 -j REDIRECT --to-ports 21100
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 21101 -j REDIRECT --to-ports 8080`)
			for _, port := range []int{21100, 9999, 21101} {
				fam.expect("policy ACCEPT", fam.listed, port, "open")
				fam.expect("policy ACCEPT", fam.other, port, "dropped")
			}
			fam.expect("policy ACCEPT, a sidecar's", fam.other, 21000, "open")
			fam.expect("policy ACCEPT, closed port", fam.listed, 21001, "dropped")
			fam.expect("policy ACCEPT, beside the guard", fam.other, 9443, "open")
			fam.own("policy ACCEPT", 21100)

			// The host's own rules now let in established connections over lo and IPv6's neighbour discovery only.
			shell(t, "T="+fam.tables+`
				$T -D INPUT -p tcp -j ACCEPT
				case $T in ip6*) $T -A INPUT -p ipv6-icmp -j ACCEPT;; esac
				$T -A INPUT -i lo -m conntrack --ctstate ESTABLISHED -j ACCEPT
				$T -P INPUT DROP`)
			if variant == onNFTables { // it has no accept, and drops nothing that is let in
				shell(t, fam.tables+" -A INPUT -p tcp -m multiport --dports 21100,9443 -j ACCEPT; "+fam.tables+" -I INPUT -i lo -j ACCEPT")
			}
			fam.expect("policy DROP", fam.listed, 21100, "open")
			fam.expect("policy DROP", fam.other, 21100, "dropped")
			fam.expect("policy DROP, beside the guard", fam.listed, 9443, "open")
			if variant != onNFTables {
				fam.expect("policy DROP, beside the guard", fam.other, 9443, "dropped")
			}
			fam.own("policy DROP", 21100)
			shell(t, fam.tables+" -P INPUT ACCEPT")
		}
		// A family without a network is for nobody.
		want.PathsFrom = prefixes("10.9.1.0/24")
		mustApply(t, f, want)
		client.onlyIPv4(t, 21100)
	})
}

// TestPathsChangeUnderTraffic: while a port goes from one group to the other and back, with and without other sources, who is
// always let in loses no connection, and who never is gets none.
func TestPathsChangeUnderTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client, other := newPeer(t, 1), newPeer(t, 2)
		listen(t, 21100, 21101)
		path := withPaths("10.9.1.0/24")
		mustApply(t, f, path)
		narrow := withPaths("10.9.1.2/32", "fd00::/8")
		narrow.AllowFrom = prefixes("10.9.0.0/23")
		sidecar := path
		sidecar.Paths, sidecar.AllowFrom = Ports(21101), prefixes("10.9.1.2/32")
		sidecar.Open.Add(21100)
		gone := sidecar
		gone.Paths, gone.PathsFrom = PortSet{}, nil
		moved := sidecar
		moved.Paths, moved.PathsFrom = Ports(21120), prefixes("10.9.1.2/32", "172.16.0.0/12")
		states := []Ruleset{path, narrow, sidecar, path, gone, narrow, moved, narrow, sidecar, gone}
		c := connecting(client, other, 21100, 21100, 21101)
		for deadline := time.Now().Add(time.Second); c.tries.Load() < 200 && time.Now().Before(deadline) || c.tries.Load() == 0; {
			for _, want := range states {
				mustApply(t, f, want)
			}
		}
		c.end(t, 50)
	})
}

// TestPathsLoseNothing: no SYN of a source of an exposed path is dropped while other paths come and go, and their sources.
func TestPathsLoseNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		p, sender := benchPeer(t, 79)
		path := Ruleset{Guard: portRange(21000, 21255), Paths: Ports(benchPort), PathsFrom: prefixes("10.9.79.0/24")}
		more := path
		more.Paths, more.PathsFrom = portRange(21200, 21255), prefixes("10.9.79.0/24", "172.16.0.0/12")
		sidecar := path
		sidecar.Paths, sidecar.Open, sidecar.PathsFrom = Ports(21100), Ports(benchPort), nil
		mustApply(t, f, path)
		metered(t)
		came, passed := flooded(t, p, sender, func() {
			for range 10 {
				for _, want := range []Ruleset{more, path, more, sidecar, path} {
					mustApply(t, f, want)
				}
			}
		})
		if came < 100 || came != passed {
			t.Errorf("of %d packets %d were dropped", came, came-passed)
		}
		t.Logf("%d packets", came)
	})
}

// TestPathsWithoutRules: where rules cannot be written, a path opens to nobody.
func TestPathsWithoutRules(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	want := withPaths("10.0.0.0/8")
	want.Accept.Chain = "OWN"
	if _, err := f.Apply(context.Background(), want); err == nil {
		t.Fatal("no error")
	}
	state, err := f.Show(context.Background())
	if ports, _, _ := state.Paths(); err != nil || ports.Len() > 0 || !state.Guards() {
		t.Errorf("paths: %v, %v", ports, err)
	}
	shell(t, "iptables-nft -N OWN; ip6tables-nft -N OWN")
	mustApply(t, f, want)
	if diff := cmp.Diff(expected(want, VariantNFT), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}
