// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// distribution is the ruleset of a host that drops by default, with a place for more rules.
const distribution = `
table inet filter {
	%s
	chain input {
		type filter hook input priority filter; policy drop;
		ct state vmap { established : accept, related : accept, invalid : drop }
		iif "lo" accept
		meta l4proto { icmp, ipv6-icmp } accept
		tcp dport 22 counter accept
		%s
	}
	chain forward { type filter hook forward priority filter; policy drop; }
}`

// zones is a ruleset in the shape of firewalld's, with a place for more rules.
const zones = `
table inet firewalld {
	chain filter_PREROUTING {
		type filter hook prerouting priority filter + 10; policy accept;
		icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
		meta nfproto ipv6 fib saddr . mark . iif oif missing drop
	}
	chain nat_PREROUTING { type nat hook prerouting priority dstnat + 10; policy accept; jump nat_PREROUTING_ZONES; }
	chain nat_PREROUTING_ZONES { tcp dport 8443 redirect to :443; }
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES {
		iifname "near1" goto filter_IN_public
		goto filter_IN_public
	}
	chain filter_IN_public {
		jump filter_IN_public_deny
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
		reject with icmpx admin-prohibited
	}
	chain filter_IN_public_deny { }
	chain filter_IN_public_allow {
		tcp dport 22 accept
		ip6 daddr fe80::/64 udp dport 546 accept
		%s
	}
}`

// uncomplicated is a script that makes chains in the shape of ufw's, with a place for more rules; T is the program.
const uncomplicated = `
for T in iptables-nft ip6tables-nft; do
	$T -N ufw-before-input; $T -N ufw-not-local; $T -N ufw-user-input; $T -N ufw-after-input; $T -N ufw-skip; $T -N ufw-log
	$T -A ufw-before-input -i lo -j ACCEPT
	$T -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
	$T -A ufw-before-input -m conntrack --ctstate INVALID -j ufw-log
	$T -A ufw-before-input -m conntrack --ctstate INVALID -j DROP
	case $T in
	ip6*) $T -A ufw-before-input -p ipv6-icmp -j ACCEPT;;
	*) $T -A ufw-before-input -p udp --sport 67 --dport 68 -j ACCEPT
	   $T -A ufw-before-input -d 224.0.0.251 -p udp --dport 5353 -j ACCEPT;;
	esac
	$T -A ufw-before-input -j ufw-not-local
	$T -A ufw-before-input -j ufw-user-input
	$T -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
	$T -A ufw-not-local -m addrtype --dst-type MULTICAST -j RETURN
	$T -A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-log
	$T -A ufw-not-local -j DROP
	$T -A ufw-log -m limit --limit 3/min -j LOG --log-prefix "blocked "
	$T -A ufw-after-input -p udp -m udp --dport 137 -j ufw-skip
	$T -A ufw-skip -j DROP
	$T -A ufw-user-input -p tcp --dport 22 -j ACCEPT
	$T -A INPUT -j ufw-before-input; $T -A INPUT -j ufw-after-input; $T -P INPUT DROP
	%s
done`

// blockedCase is a ruleset and what it makes of probes. What is reported must not be reachable; what is not must be,
// unless somebody is kept out who is not known to be asking.
type blockedCase struct {
	name, nft, shell string
	probes           []Probe
	want             []string
	doubtful         bool // what is not reported need not be reachable
}

func tcpProbes(ports ...uint16) (probes []Probe) {
	for _, p := range ports {
		probes = append(probes, Probe{Protocol: TCP, Port: p})
	}
	return probes
}

func opened(accept Accept, ports ...uint16) []Probe {
	probes := tcpProbes(ports...)
	for i := range probes {
		probes[i].Open, probes[i].Accept = true, accept
	}
	return probes
}

// input is a table with one base chain.
func input(policy, rules string) string {
	return fmt.Sprintf("table inet t {\n chain input { type filter hook input priority 0; policy %s;\n %s\n }\n}", policy, rules)
}

func blockedCases() []blockedCase {
	const neighbours = "ct state established,related accept; meta l4proto ipv6-icmp accept;\n"
	return []blockedCase{
		{name: "nothing", probes: tcpProbes(21000, 22)},
		{name: "default drop", nft: fmt.Sprintf(distribution, "", ""), probes: append(tcpProbes(21000, 22), Probe{Protocol: UDP, Port: 8301}),
			want: []string{"tcp 21000 both inet filter input: policy drop (nft)", "udp 8301 both inet filter input: policy drop (nft)"}},
		{name: "default drop with a range", nft: fmt.Sprintf(distribution, "", "tcp dport 21000-21255 accept"), probes: tcpProbes(21000, 21255, 21256),
			want: []string{"tcp 21256 both inet filter input: policy drop (nft)"}},
		{name: "a set of intervals", probes: tcpProbes(21000, 21010, 21011, 65535, 8080, 8081),
			nft:  fmt.Sprintf(distribution, "set mesh { type inet_service; flags interval; elements = { 8080, 21000-21010, 65000-65535 }; }", "tcp dport @mesh accept"),
			want: []string{"tcp 21011 both inet filter input: policy drop (nft)", "tcp 8081 both inet filter input: policy drop (nft)"}},
		{name: "a plain set, not in it", nft: input("accept", neighbours+"tcp dport != { 22, 21000 } counter drop"), probes: tcpProbes(22, 21000, 21001),
			want: []string{"tcp 21001 both inet t input: tcp dport != {...} drop (nft)"}},
		{name: "a verdict map", probes: tcpProbes(21000, 21001, 21002, 21003),
			nft: `table inet t {
				chain mesh { ip protocol tcp accept; meta nfproto ipv6 accept; }
				chain input { type filter hook input priority 0; policy drop; ` + neighbours + `
					iifname vmap { "lo" : accept, "near1" : continue }
					tcp dport vmap { 21000 : jump mesh, 21001 : goto mesh, 21002 : drop }
				}
			}`,
			want: []string{"tcp 21002 both inet t input: tcp dport vmap {...} (nft)", "tcp 21003 both inet t input: policy drop (nft)"}},
		{name: "a verdict map with intervals and a rest", probes: tcpProbes(21000, 21002, 21003, 22),
			nft:  input("accept", neighbours+"tcp dport vmap { 21000-21002 : accept, 22 : accept, * : drop }"),
			want: []string{"tcp 21003 both inet t input: tcp dport vmap {...} (nft)"}},
		{name: "firewalld", nft: fmt.Sprintf(zones, ""), probes: tcpProbes(21000, 22),
			want: []string{"tcp 21000 both inet firewalld filter_INPUT: reject (firewalld)"}},
		{name: "firewalld with the ports", nft: fmt.Sprintf(zones, "tcp dport 21000-21255 accept"), probes: tcpProbes(21000, 21256),
			want: []string{"tcp 21256 both inet firewalld filter_INPUT: reject (firewalld)"}},
		{name: "firewalld, redirected", nft: fmt.Sprintf(zones, ""), probes: tcpProbes(8443), doubtful: true},
		{name: "ufw", shell: fmt.Sprintf(uncomplicated, ""), probes: append(tcpProbes(21000, 22), Probe{Protocol: UDP, Port: 68}),
			want: []string{"tcp 21000 ipv4 ip filter INPUT: policy drop (ufw)", "tcp 21000 ipv6 ip6 filter INPUT: policy drop (ufw)",
				"udp 68 ipv6 ip6 filter INPUT: policy drop (ufw)"}},
		{name: "ufw with many ports", shell: fmt.Sprintf(uncomplicated, "$T -A ufw-user-input -p tcp -m multiport --dports 80,21000:21002 -j ACCEPT"),
			probes: tcpProbes(21000, 21002, 80, 21003),
			want:   []string{"tcp 21003 ipv4 ip filter INPUT: policy drop (ufw)", "tcp 21003 ipv6 ip6 filter INPUT: policy drop (ufw)"}},
		{name: "ufw with our accept to come", shell: fmt.Sprintf(uncomplicated, ""), doubtful: true,
			probes: slices.Concat(opened(Accept{}, 21000), opened(Accept{Chain: "ufw-user-input"}, 21001), opened(Accept{None: true}, 21002)),
			want:   []string{"tcp 21002 ipv4 ip filter INPUT: policy drop (ufw)", "tcp 21002 ipv6 ip6 filter INPUT: policy drop (ufw)"}},
		{name: "old matches of iptables", probes: tcpProbes(21000, 21001, 21002, 21003),
			shell: `for T in iptables-nft ip6tables-nft; do
				$T -A INPUT -i lo -j ACCEPT; $T -A INPUT -m state --state ESTABLISHED,RELATED -j ACCEPT
				$T -A INPUT -p tcp -m tcp --dport 21000 --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -m comment --comment "-j DROP" -j ACCEPT
				$T -A INPUT -p tcp --syn -m conntrack ! --ctstate NEW -j ACCEPT
				$T -A INPUT -p tcp ! --syn --dport 21001 -j ACCEPT
				$T -A INPUT -p tcp -m multiport ! --dports 21001,21002 -j ACCEPT
				$T -A INPUT -p tcp --dport 21002 -m addrtype ! --dst-type LOCAL -j ACCEPT
				$T -A INPUT -p tcp --dport 21000:21255 -j REJECT --reject-with tcp-reset
				done`,
			want: []string{"tcp 21001 ipv4 ip filter INPUT: tcp dport 21000-21255 reject (iptables)", "tcp 21001 ipv6 ip6 filter INPUT: tcp dport 21000-21255 reject (iptables)",
				"tcp 21002 ipv4 ip filter INPUT: tcp dport 21000-21255 reject (iptables)", "tcp 21002 ipv6 ip6 filter INPUT: tcp dport 21000-21255 reject (iptables)"}},
		{name: "members of an ipset go both ways", doubtful: true, probes: tcpProbes(21000),
			shell: "ipset create friends hash:ip; iptables-nft -A INPUT -m set --match-set friends src -j ACCEPT; iptables-nft -A INPUT -p tcp -j DROP"},
		{name: "an accept does not stand against a later chain", probes: tcpProbes(21000, 22),
			nft: `table inet early { chain input { type filter hook input priority -10; policy drop; tcp dport { 22, 21000 } accept; ` + neighbours + `}
				}
				table ip late { chain in { type filter hook input priority 10; tcp dport 22 accept; ct state established accept; tcp dport 21000-21255 counter log drop; } }`,
			want: []string{"tcp 21000 ipv4 ip late in: tcp dport 21000-21255 drop (nft)"}},
		{name: "two chains drop", probes: tcpProbes(21000),
			nft: "table inet a { chain i { type filter hook input priority 1; tcp dport 21000 drop; } }\n" +
				"table inet b { chain i { type filter hook prerouting priority raw; fib daddr type local tcp dport 21000 drop; } }",
			want: []string{"tcp 21000 both inet b i: fib daddr type local tcp dport 21000 drop (nft)", "tcp 21000 both inet a i: tcp dport 21000 drop (nft)"}},
		{name: "open to some sources", nft: input("drop", neighbours+"ip saddr 192.0.2.0/24 tcp dport 21000 accept"), probes: tcpProbes(21000), doubtful: true,
			want: []string{"tcp 21000 ipv6 inet t input: policy drop (nft)"}},
		{name: "addresses that no packet of the network has", probes: tcpProbes(21000),
			nft: input("drop", neighbours+"ip saddr 127.0.0.0/8 accept; ip daddr 224.0.0.0/4 accept; ip daddr { 224.0.0.251, 255.255.255.255 } accept; "+
				"ip6 daddr ff00::/8 accept; ip saddr { 127.0.0.0/8 } accept; pkttype { multicast, broadcast } accept; iiftype loopback accept; iifname lo accept; iif lo accept"),
			want: []string{"tcp 21000 both inet t input: policy drop (nft)"}},
		{name: "a bridge of containers", probes: tcpProbes(21000), shell: "ip link add br7 type bridge; ip link set br7 up; ip link add v7 master br7 type veth peer v8",
			nft:  input("drop", neighbours+`iifname "br7" accept; iifname { "br7", "lo" } accept; iifname vmap { "br7" : accept }`),
			want: []string{"tcp 21000 both inet t input: policy drop (nft)"}},
		{name: "a bridge to other hosts", probes: tcpProbes(21000), doubtful: true,
			shell: "ip link add br7 type bridge; ip link set br7 up; ip link add v7 type vxlan id 7 dstport 4789 dev near1; ip link set v7 master br7",
			nft:   input("drop", neighbours+`iifname "br7" accept`)},
		{name: "addresses that one may have", nft: input("drop", neighbours+"ip saddr & 0.0.0.255 == 1 accept; ip6 saddr fd00::/8 accept"), probes: tcpProbes(21000), doubtful: true},
		{name: "concatenations", probes: tcpProbes(21000, 21001, 21002, 21003),
			nft:  input("drop", neighbours+`iifname . tcp dport { "near1" . 21000, "lo" . 21003 } accept; meta l4proto . th dport { tcp . 21002-21002, udp . 21000-21255 } accept`),
			want: []string{"tcp 21001 both inet t input: policy drop (nft)", "tcp 21003 both inet t input: policy drop (nft)"}},
		{name: "a rate", nft: input("accept", "tcp dport 21000 limit rate over 1000/second drop"), probes: tcpProbes(21000)},
		{name: "a mark", nft: input("drop", "meta mark 0x1 accept"), probes: tcpProbes(21000), doubtful: true},
		{name: "members that come and go", doubtful: true, probes: tcpProbes(21000),
			nft: "table inet t {\n set knocked { type inet_service; flags timeout; }\n chain i { type filter hook input priority 0; policy drop; tcp dport @knocked accept; } }"},
		{name: "chains that return", probes: tcpProbes(21000, 21001, 21002),
			nft: `table inet t {
				chain deep { tcp dport 21000 return; tcp dport 21001 drop; }
				chain gone { tcp dport 21002 return; }
				chain i { type filter hook input priority 0; policy drop; ` + neighbours + `jump deep; goto gone; accept; }
				chain j { type filter hook input priority 1; policy accept; jump deep; }
			}`,
			want: []string{"tcp 21000 both inet t i: policy drop (nft)", "tcp 21001 both inet t i: tcp dport 21001 drop (nft)",
				"tcp 21001 both inet t j: tcp dport 21001 drop (nft)", "tcp 21002 both inet t i: policy drop (nft)"}},
		{name: "flags of a SYN", probes: tcpProbes(21000, 21001, 21002),
			nft: input("accept", "tcp dport 21000 tcp flags & (fin|syn|rst|ack) == syn drop; tcp dport 21001 tcp flags & (fin|syn|rst|ack) != syn drop; tcp flags & rst != 0 drop; "+
				"ct state new tcp dport 21002 reject with tcp reset"),
			want: []string{"tcp 21000 both inet t input: tcp dport 21000 tcp flags masked 0x02 drop (nft)", "tcp 21002 both inet t input: ct state new tcp dport 21002 reject (nft)"}},
		{name: "comparisons", probes: tcpProbes(1023, 1024, 21000, 40000),
			nft:  input("accept", "tcp dport < 1024 drop; tcp dport > 32768 drop; tcp dport 20000-30000 ct state != new drop; tcp dport >= 65000 accept"),
			want: []string{"tcp 1023 both inet t input: tcp dport < 1024 drop (nft)", "tcp 40000 both inet t input: tcp dport > 32768 drop (nft)"}},
		{name: "connections that are not tracked", doubtful: true, probes: tcpProbes(21000),
			nft: input("drop", "ct state untracked accept") + "\ntable inet r { chain p { type filter hook prerouting priority raw; tcp dport 21000 notrack; } }"},
		{name: "ports that are written anew", probes: tcpProbes(21000), doubtful: true,
			nft: input("drop", "tcp dport 22 accept") + "\ntable inet m { chain p { type filter hook prerouting priority raw; tcp dport 21000 tcp dport set 22; } }"},
		{name: "a table that sleeps", nft: "table inet t { flags dormant; chain i { type filter hook input priority 0; policy drop; } }", probes: tcpProbes(21000)},
		{name: "our own table", nft: "table inet hostagent { chain i { type filter hook input priority 0; tcp dport 21000 drop; } }", probes: tcpProbes(21000), doubtful: true},
		{name: "what forwards and what leaves", probes: tcpProbes(21000),
			nft: "table inet t { chain f { type filter hook forward priority 0; policy drop; } }\ntable bridge t { chain i { type filter hook input priority 0; policy drop; } }"},
	}
}

// blockText writes a block as the tests do.
func blockText(b Block) string {
	families := "both"
	if len(b.Families) == 1 {
		families = string(b.Families[0])
	}
	return fmt.Sprintf("%s %d %s %s %s %s: %s (%s)", b.Protocol, b.Port, families, b.Family, b.Table, b.Chain, b.Rule, b.Tool)
}

func mustBlocked(t *testing.T, f *Firewall, probes []Probe) []Block {
	t.Helper()
	blocks, err := f.Blocked(context.Background(), probes)
	if err != nil {
		t.Fatalf("Blocked: %v", err)
	}
	return blocks
}

// TestBlocked: what is reported cannot be reached, proven with traffic, and what can be is not.
func TestBlocked(t *testing.T) {
	for _, tt := range blockedCases() {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, VariantNFT)
			client := newPeer(t, 1)
			for _, p := range tt.probes {
				if p.Protocol == TCP {
					listen(t, int(p.Port))
				}
			}
			client.do(func() {
				for _, host := range hosts() { // the neighbour is known then, so that no answer is late for that
					if !reach(host, int(tt.probes[0].Port), nil) {
						t.Fatalf("%s cannot be reached before any rule", host)
					}
				}
			})
			load(t, tt.nft, tt.shell)
			blocks := mustBlocked(t, f, tt.probes)
			var got []string
			for _, b := range blocks {
				got = append(got, blockText(b))
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("Blocked (-want +got):\n%s", diff)
			}
			client.do(func() { tt.crossCheck(t, blocks) })
		})
	}
}

func hosts() map[Family]string { return map[Family]string{IPv4: "10.9.1.1", IPv6: "fd09:1::1"} }

// load replaces the whole ruleset.
func load(t *testing.T, nft, script string) {
	t.Helper()
	shell(t, "nft flush ruleset; nft -f - <<'END'\n"+strings.ReplaceAll(nft, " } }", " }\n}")+"\nEND\n"+script)
}

// crossCheck tries every TCP port of a case from the calling thread's namespace.
func (tt *blockedCase) crossCheck(t *testing.T, blocks []Block) {
	t.Helper()
	for _, p := range tt.probes {
		if p.Protocol != TCP {
			continue
		}
		for family, host := range hosts() {
			reported := slices.ContainsFunc(blocks, func(b Block) bool { return b.Probe == p && slices.Contains(b.Families, family) })
			within := 2 * time.Second
			if reported {
				within = 120 * time.Millisecond
			} else if tt.doubtful {
				continue
			}
			c, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(p.Port)), within)
			if err == nil {
				c.Close()
			}
			if (err == nil) == reported {
				t.Errorf("%s port %d: reported as blocked: %v, but connecting says: %v", family, p.Port, reported, err)
			}
		}
	}
}

// TestBlockedIsNotOurs: what Apply writes is never reported, and its accept lets its chain pass for open ports only.
func TestBlockedIsNotOurs(t *testing.T) {
	f := start(t, VariantNFT)
	want := sample()
	mustApply(t, f, want)
	shell(t, "iptables-nft -P INPUT DROP; ip6tables-nft -P INPUT DROP")
	blocks := mustBlocked(t, f, append(opened(Accept{}, 21000, 21200), tcpProbes(8300)...))
	var got []string
	for _, b := range blocks {
		got = append(got, blockText(b))
	}
	expected := []string{"tcp 8300 ipv4 ip filter INPUT: policy drop (iptables)", "tcp 8300 ipv6 ip6 filter INPUT: policy drop (iptables)"}
	if diff := cmp.Diff(expected, got); diff != "" {
		t.Errorf("Blocked (-want +got):\n%s", diff)
	}
}

// TestBlockedRemembers: nothing is read again while nothing changes, and every change is seen.
func TestBlockedRemembers(t *testing.T) {
	f := start(t, VariantNFT)
	load(t, fmt.Sprintf(distribution, "set mesh { type inet_service; }", "tcp dport @mesh accept"), "")
	probes := tcpProbes(21000)
	if n := len(mustBlocked(t, f, probes)); n != 1 {
		t.Fatalf("%d blocks, want 1", n)
	}
	walks := f.blocked.walks
	mustBlocked(t, f, probes)[0].Families[0] = "spoiled"
	if b := mustBlocked(t, f, probes); b[0].Families[0] != IPv4 || f.blocked.walks != walks {
		t.Errorf("the same question again: %v after %d walks more", b, f.blocked.walks-walks)
	}
	shell(t, "nft add element inet filter mesh '{ 21000 }'")
	if b := mustBlocked(t, f, probes); len(b) != 0 {
		t.Errorf("after the port was let in: %v", b)
	}
	if b := mustBlocked(t, f, tcpProbes(21001)); len(b) != 1 {
		t.Errorf("another port: %v", b)
	}
}

// TestBlockedWithoutTheSet: a set to be published that is missing is told apart from one that no rule reads.
func TestBlockedWithoutTheSet(t *testing.T) {
	f := start(t, VariantNFT)
	load(t, fmt.Sprintf(distribution, "set mesh { type inet_service; }", "tcp dport 22 accept"), "")
	for name, missing := range map[string]bool{"mesh": false, "mash": true} {
		probe := Probe{Protocol: TCP, Port: 21000, Open: true, Set: SetName{"inet", "filter", name}}
		if b := mustBlocked(t, f, []Probe{probe}); len(b) != 1 || b[0].NoSet != missing {
			t.Errorf("with set %s: %+v, want one with NoSet %v", name, b, missing)
		}
	}
	if b := mustBlocked(t, f, tcpProbes(21000)); len(b) != 1 || b[0].NoSet {
		t.Errorf("without a set: %+v", b)
	}
}

// TestBlockedText: names of others are fit to be shown, and long rules are cut.
func TestBlockedText(t *testing.T) {
	rule := nfRule{ops: []op{{kind: opMatch, name: "\x1b[31m"}, {kind: opVerdict, verdict: &verdict{code: -3, chain: strings.Repeat("é\n", 100)}}}}
	if text := rule.text(); strings.ContainsAny(text, "\x1b\n") || len([]rune(text)) > 103 {
		t.Errorf("text is %q", text)
	}
}

// TestBlockedWithoutPermission names what is missing.
func TestBlockedWithoutPermission(t *testing.T) {
	f := start(t, VariantNFT)
	if err := dropNetAdmin(t); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Blocked(context.Background(), tcpProbes(21000)); err == nil || !strings.Contains(err.Error(), ErrPermission.Error()) {
		t.Errorf("Blocked without CAP_NET_ADMIN: %v", err)
	}
}
