// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Conditions that random rules are made of: known ones can be decided for every probe, doubtful ones cannot.
func knownConditions() []string {
	return []string{
		"", "", "tcp dport 21000", "tcp dport != 21000", "tcp dport { 21000, 21002 }", "tcp dport != { 21001 }", "tcp dport 21001-21002",
		"tcp dport != 21000-21001", "tcp dport < 21001", "tcp dport >= 21001", "meta l4proto udp", "meta l4proto { tcp, udp }", "ct state new",
		"ct state established", "ct state != new", "ct state { established, related }", "fib daddr type local", "fib daddr type != local",
		"fib daddr type multicast", "iifname lo", "iifname != lo", "iif lo", "tcp flags & (syn | ack) == syn", "tcp flags & ack == ack", "ip protocol tcp",
		"ip daddr 224.0.0.0/4", "ip saddr 127.0.0.1", "ip saddr != 127.0.0.0/8", "ct status dnat", "ct direction original", "pkttype host", "meta nfproto ipv4",
		"meta nfproto ipv6", "meta protocol ip", "th dport . meta l4proto { 21000 . tcp, 21001 . udp }", "tcp dport @ports", "tcp dport != @spans", "counter",
		"udp dport 21000", "ip6 nexthdr tcp", "ip version 4", "tcp dport & 1 == 1", "tcp dport & 0xfffe == 21002",
	}
}

func doubtfulConditions() []string {
	return []string{
		"ip saddr 10.9.1.2", "ip saddr != 10.9.1.2", "ip saddr { 10.9.1.0/24, 192.0.2.1 }", "ip daddr 10.9.1.1", `iifname "near1"`, `iifname != "near1"`,
		`iifname { "near1", "lo" }`, `iifname . tcp dport { "near1" . 21000 }`, "ip saddr . tcp dport != { 10.9.1.2 . 21001 }", "tcp sport > 1024",
		"limit rate 1000/second", "limit rate over 1000/second", "meta mark 0", "meta mark != 0", "ip ttl 64", "ct mark 0", "meta length > 40", "tcp option maxseg exists",
		"fib saddr type unicast", "numgen random mod 2 < 2", "ip saddr & 255.255.255.0 == 10.9.1.0", "ip daddr & 0.0.0.255 != 1",
	}
}

// randomRuleset makes chains that jump to one another, and one or two base chains.
func randomRuleset(random *rand.Rand, conditions []string) string {
	const chains = 4
	var b strings.Builder
	b.WriteString("table inet t {\nset ports { type inet_service; elements = { 21001, 21003 }; }\n" +
		"set spans { type inet_service; flags interval; elements = { 21000-21001 }; }\n")
	rules := func(from int) {
		for range 1 + random.IntN(5) {
			verdicts := []string{"accept", "drop", "return", "continue", "reject", "counter", "accept", "drop",
				"vmap tcp"}
			if from < chains {
				to := from + random.IntN(chains-from)
				verdicts = append(verdicts, fmt.Sprintf("jump c%d", to), fmt.Sprintf("goto c%d", to), fmt.Sprintf("jump c%d", to))
			}
			condition := conditions[random.IntN(len(conditions))]
			if random.IntN(3) == 0 {
				condition += " " + conditions[random.IntN(len(conditions))]
			}
			verdict := verdicts[random.IntN(len(verdicts))]
			if verdict == "vmap tcp" {
				verdict = "tcp dport vmap { 21000 : accept, 21001-21002 : drop }"
			}
			fmt.Fprintf(&b, "\t%s %s\n", condition, verdict)
		}
	}
	for i := chains - 1; i >= 0; i-- { // what is jumped to comes first
		fmt.Fprintf(&b, "chain c%d {\n", i)
		rules(i + 1)
		b.WriteString("}\n")
	}
	for i, hook := range []string{"input", "prerouting"}[:1+random.IntN(2)] {
		policy := []string{"accept", "drop"}[random.IntN(2)]
		fmt.Fprintf(&b, "chain base%d { type filter hook %s priority %d; policy %s;\n\tct state established accept\n", i, hook, random.IntN(3), policy)
		rules(0)
		b.WriteString("}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// TestBlockedAgreesWithTheKernel: whatever the rules, what is reported cannot be reached; and where all that they ask for
// is known, what is not reported can.
func TestBlockedAgreesWithTheKernel(t *testing.T) {
	const rounds = 40
	f := start(t, VariantNFT)
	client := newPeer(t, 1)
	listen(t, 21000, 21001, 21002, 21003)
	client.do(func() {
		if !reach("10.9.1.1", 21000, nil) {
			t.Fatal("the host cannot be reached before any rule")
		}
	})
	random := rand.New(rand.NewPCG(3, 5))
	loaded, reported := 0, 0
	for loaded < rounds {
		conditions, doubtful := knownConditions(), loaded%2 == 1
		if doubtful {
			conditions = append(conditions[:8:8], doubtfulConditions()...)
		}
		ruleset := randomRuleset(random, conditions)
		if !loads(t, ruleset) { // two conditions may contradict each other
			continue
		}
		loaded++
		port := uint16(21000 + random.IntN(4))
		probes := []Probe{{Protocol: TCP, Port: port}}
		blocks := mustBlocked(t, f, probes)
		is := len(blocks) > 0 && blocks[0].Families[0] == IPv4
		within := 2 * time.Second
		if is {
			reported++
			within = 120 * time.Millisecond
		} else if doubtful {
			continue
		}
		client.do(func() {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("10.9.1.1:%d", port), within)
			if err == nil {
				c.Close()
			}
			if (err == nil) == is {
				t.Fatalf("port %d is reported: %v, but connecting says %v:\n%s", port, blocks, err, ruleset)
			}
		})
	}
	if reported < rounds/5 || reported > rounds*4/5 {
		t.Errorf("%d of %d rulesets block: no mix that proves something", reported, rounds)
	}
}

func loads(t *testing.T, ruleset string) bool {
	t.Helper()
	return !strings.Contains(shell(t, "nft flush ruleset; nft -f - 2>&1 <<'END' || echo FAILED\n"+ruleset+"\nEND\n"), "FAILED")
}

// FuzzMatch: whatever a match of xtables holds, there is an answer.
func FuzzMatch(f *testing.F) {
	for _, name := range []string{"tcp", "udp", "multiport", "conntrack", "state", "addrtype", "pkttype", "comment", "set"} {
		f.Add(name, uint32(1), make([]byte, 48))
		f.Add(name, uint32(3), make([]byte, 168))
	}
	f.Fuzz(func(t *testing.T, name string, revision uint32, info []byte) {
		for _, p := range []packet{{family: IPv4, protocol: TCP, port: 21000}, {family: IPv6, protocol: UDP, port: 1}} {
			if got := p.match(&op{kind: opMatch, name: name, revision: revision, info: info}); got < no || got > yes {
				t.Errorf("match says %d", got)
			}
		}
	})
}

// FuzzBlocked: whatever the kernel says of a rule and a set's elements, it can be walked and written.
func FuzzBlocked(f *testing.F) {
	attribute := func(kind uint16, parts ...[]byte) []byte {
		var data []byte
		for _, p := range parts {
			data = append(data, p...)
		}
		b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(data)))
		b = append(binary.NativeEndian.AppendUint16(b, kind), data...)
		return append(b, make([]byte, -len(b)&3)...)
	}
	number := func(kind uint16, n uint32) []byte { return attribute(kind, binary.BigEndian.AppendUint32(nil, n)) }
	expression := func(name string, attributes ...[]byte) []byte {
		return attribute(1, attribute(1, []byte(name+"\x00")), attribute(2, attributes...))
	}
	f.Add(append(expression("payload", number(1, 1), number(2, 2), number(3, 2), number(4, 2)),
		expression("cmp", number(1, 1), number(2, 0), attribute(3, attribute(1, []byte{0x52, 8})))...), []byte{})
	f.Add(append(expression("meta", number(1, 8), number(2, 6)), expression("lookup", attribute(1, []byte("s\x00")), number(2, 8), number(3, 0))...),
		attribute(1, attribute(1, attribute(1, []byte("lo\x00"))), attribute(2, attribute(2, number(1, 0)))))
	f.Add(expression("bitwise", number(1, 23), number(2, 23), number(3, 64)), []byte{1})
	f.Add(expression("byteorder", number(1, 1), number(2, 1), number(3, 4), number(4, 8), number(5, 4)), []byte{})
	f.Fuzz(func(t *testing.T, expressions, elements []byte) {
		for _, flags := range []uint32{0, unix.NFT_SET_INTERVAL} {
			s := &nfRuleset{tables: map[nfKey]*nfTable{}}
			key := nfKey{unix.NFPROTO_INET, "t"}
			s.tables[key] = &nfTable{key: key, chains: map[string]*nfChain{}, sets: map[string]*nfSet{}}
			chain := &nfChain{table: s.tables[key], name: "c", base: true, hook: 1}
			set := &nfSet{table: key, name: "s", keyLength: 20, flags: flags, fields: []int{1, 2}, read: true}
			var raw []rawElement
			for _, item := range attributes(elements) {
				raw = append(raw, set.parse(item))
			}
			set.elements = set.spans(raw)
			s.tables[key].chains["c"], s.tables[key].sets["s"], s.base = chain, set, []*nfChain{chain}
			s.addRule(unix.NFPROTO_INET, append(append(attribute(unix.NFTA_RULE_TABLE, []byte("t\x00")), attribute(unix.NFTA_RULE_CHAIN, []byte("c\x00"))...),
				attribute(unix.NFTA_RULE_EXPRESSIONS, expressions)...))
			m := blockedMemo{ruleset: s, around: surroundings{families: []Family{IPv4, IPv6}}}
			for _, protocol := range []Protocol{TCP, UDP} {
				if err := m.judge(Probe{Protocol: protocol, Port: 21000}); err != nil {
					t.Fatal(err)
				}
			}
			for _, rule := range chain.rules {
				_ = rule.text()
			}
		}
	})
}

// BenchmarkBlocked is a sidecar range behind rules in the shape of firewalld's, read anew each time.
func BenchmarkBlocked(b *testing.B) { benchmarkBlocked(b, true) }

// BenchmarkBlockedRemembered is the same while nothing changes.
func BenchmarkBlockedRemembered(b *testing.B) { benchmarkBlocked(b, false) }

func benchmarkBlocked(b *testing.B, anew bool) {
	f := start(b, VariantNFT)
	shell(b, "nft -f - <<'END'\n"+fmt.Sprintf(zones, "")+"\nEND\n")
	var probes []Probe
	sidecars := portRange(21000, 21255)
	for port := range sidecars.All() {
		probes = append(probes, Probe{Protocol: TCP, Port: port})
	}
	for b.Loop() {
		if anew {
			f.blocked.ruleset = nil
		}
		if blocks, err := f.Blocked(b.Context(), probes); err != nil || len(blocks) != 256 {
			b.Fatal(len(blocks), err)
		}
	}
}
