// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// backend is what holds our rules, and the iptables that others use beside it.
type backend struct{ name, variant, config string }

func iptablesBackends() []backend {
	return []backend{{"nft", "nft", nftVariant}, {"legacy", "legacy", legacyVariant}}
}

func backends() []backend {
	return append(iptablesBackends(), backend{"nftables", "nft", nativeBackend})
}

// sysctl sets a kernel setting of the host's network namespace.
func (b *box) sysctl(name, value string) {
	b.t.Helper()
	b.must(b.InHost(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }))
}

// TestTransit: what passes through the host between two other networks is never touched, on whatever port of the range,
// also where the host sends it on to another address.
func TestTransit(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend.name, func(t *testing.T) {
			b := newBox(t)
			b.iptablesVariant(backend.variant)
			b.mesh()
			beyond, err := b.AddBeyond()
			b.must(err)
			b.appIn(beyond, "beyond", "[::]:21000", "[::]:21100", "[::]:7001")
			b.appIn(b.Net, "net", "[::]:21100")
			b.sh("iptables -t nat -A PREROUTING -i eth0 -p tcp -d "+host.BeyondIPv4+" --dport 21200 -j DNAT --to-destination :7001",
				"iptables -t nat -A PREROUTING -i eth0 -p tcp -d "+host.BeyondIPv4+" --dport 7002 -j DNAT --to-destination :21100")
			passes := func() {
				t.Helper()
				for _, address := range []string{host.BeyondIPv4, host.BeyondIPv6} {
					for _, port := range []uint16{21000, 21100, 7001} {
						b.greets(b.Net, at(address, port), "beyond")
					}
				}
				b.greets(b.Net, at(host.BeyondIPv4, 21200), "beyond") // out of the range
				b.greets(b.Net, at(host.BeyondIPv4, 7002), "beyond")  // into it
				b.greets(beyond, at(host.NetIPv4, 21100), "net")
				b.greets(beyond, at(host.NetIPv6, 21100), "net")
			}
			passes()
			if t.Failed() {
				t.Fatal("transit does not work before the guard, so this test proves nothing")
			}
			b.guard(backend.config)
			passes()
			b.reaches(squatted, host.Dropped)
			// The host's other address is the host, from either side.
			for _, address := range []string{host.HostBeyondIPv4, host.HostBeyondIPv6} {
				b.reachesAt(address, squatted, host.Dropped)
				b.reachesAt(address, sidecar, host.Open)
			}
			b.meshWorks()
		})
	}
}

// TestRouteLocalnet: with route_localnet a DNAT may lead from the network to loopback; what it leads to in the range is
// closed like any other, and what it leads to elsewhere is not.
func TestRouteLocalnet(t *testing.T) {
	for _, backend := range backends() {
		t.Run(backend.name, func(t *testing.T) {
			b := newBox(t)
			b.iptablesVariant(backend.variant)
			b.mesh()
			b.sysctl("ipv4/conf/eth0/route_localnet", "1")
			for from, to := range map[int]int{9000: squatted, 9001: sidecar, 9002: plain, 21150: plain} {
				b.sh(fmt.Sprintf("iptables -t nat -A PREROUTING -i eth0 -p tcp --dport %d -j DNAT --to-destination 127.0.0.1:%d", from, to))
			}
			sees := func(squattedPort, rangePort host.Reach) {
				t.Helper()
				b.reachesAt(host.IPv4, 9000, squattedPort)
				b.reachesAt(host.IPv4, 9001, host.Open)
				b.reachesAt(host.IPv4, 9002, host.Open)
				b.reachesAt(host.IPv4, 21150, rangePort)
			}
			sees(host.Open, host.Open)
			b.guard(backend.config)
			sees(host.Dropped, host.Dropped)
			if found := b.scan("route-localnet"); len(found) != 1 {
				t.Errorf("scan finds %+v", found)
			}
			b.meshWorks()
		})
	}
}

// TestRulesOfOthers: marks that others set and trust still work, in rules before ours and behind, and an accept that
// somebody puts above ours does not stay there.
func TestRulesOfOthers(t *testing.T) {
	for _, backend := range iptablesBackends() {
		t.Run(backend.name, func(t *testing.T) {
			b := newBox(t)
			b.iptablesVariant(backend.variant)
			b.mesh()
			b.appIn(b.Net, "net", host.NetIPv4+":7000")
			b.sysctl("ipv4/ip_forward", "1")
			marks := func(port int) []string {
				return strings.Split(fmt.Sprintf(`iptables -t mangle -A PREROUTING -i eth0 -p tcp --dport %[1]d -m connmark --mark 0 -j CONNMARK --set-mark 0x7
iptables -t mangle -A PREROUTING -p tcp --dport %[1]d -j CONNMARK --restore-mark
iptables -t mangle -A PREROUTING -p tcp --dport %[1]d -m mark --mark 0x7 -j ACCEPT`, port), "\n")
			}
			b.sh(marks(plain)...)
			b.sh("iptables -A INPUT -i lo -j ACCEPT", "iptables -A INPUT -m mark --mark 0x7 -j ACCEPT", "iptables -P INPUT DROP")
			b.sh("iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 21079 -j DNAT --to-destination "+host.NetIPv4+":7000",
				"iptables -t nat -A POSTROUTING -p tcp -d "+host.NetIPv4+" --dport 7000 -j MASQUERADE")
			b.greets(b.Net, at(host.IPv4, plain), "other")
			b.reachesAt(host.IPv4, 8000, host.Dropped)
			b.reachesAt(host.IPv4, 21079, host.Open)

			b.guard(backend.config)
			b.greets(b.Net, at(host.IPv4, plain), "other")
			b.reachesAt(host.IPv4, 21079, host.Dropped)
			b.reachesAt(host.IPv4, 8000, host.Dropped)
			b.meshWorks()

			above := "iptables -t mangle -I PREROUTING -p tcp --dport 21000:21255 -j ACCEPT"
			// Above ours in mangle it leads what is published past the guard; in filter a drop keeps the open port closed.
			published := b.watchPort(21079, host.Dropped)
			b.through("rules above ours", above, "iptables -I INPUT -p tcp --dport 21000 -j DROP")
			b.reachesAt(host.IPv4, 21079, host.Dropped)
			t.Log(published.report(heardWithin))
			for _, rule := range []string{strings.Replace(above, "-I", "-C", 1), "iptables -C INPUT -p tcp --dport 21000 -j DROP"} {
				if out, code := b.try(rule); code != 0 {
					t.Errorf("a rule of somebody else is gone: %s: %s", rule, out)
				}
			}
			b.greets(b.Net, at(host.IPv4, plain), "other")

			// Everything at once, as a careless script does it: on a host that drops by default, and on one that does not.
			flush := "for t in filter mangle nat; do iptables -t $t -F; ip6tables -t $t -F; done"
			b.through("iptables -F in every table", flush, "iptables -A INPUT -i lo -j ACCEPT")
			b.through("iptables -F in every table, and policy ACCEPT", "iptables -P INPUT ACCEPT", flush)
			b.repairs("ipset flush", noticedWithin, func() { b.sh("ipset flush") })
			b.meshWorks()
		})
	}
}

// TestNoRuleOfOthersLeadsPastOurTable: in nf_tables an accept of others ends their own chains only, so nothing that they
// write above or below leads past a table of our own, not for a moment.
func TestNoRuleOfOthersLeadsPastOurTable(t *testing.T) {
	b := newBox(t)
	b.mesh()
	b.appIn(b.Net, "net", host.NetIPv4+":7000")
	b.sysctl("ipv4/ip_forward", "1")
	b.sh("iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 21079 -j DNAT --to-destination "+host.NetIPv4+":7000",
		"iptables -t nat -A POSTROUTING -p tcp -d "+host.NetIPv4+" --dport 7000 -j MASQUERADE",
		"iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 9000 -j REDIRECT --to-ports 21100")
	for _, port := range []uint16{21079, 9000, squatted} {
		b.reachesAt(host.IPv4, port, host.Open)
	}
	b.guard(nativeBackend)
	watches := []*watch{b.watchPort(21079, host.Dropped), b.watchPort(9000, host.Dropped), b.watchPort(sidecar, host.Open)}
	b.through("rules above ours", "iptables -t raw -I PREROUTING -p tcp -j ACCEPT", "iptables -t mangle -I PREROUTING -p tcp -j ACCEPT",
		"iptables -t mangle -I INPUT -p tcp -j ACCEPT", "iptables -I INPUT -p tcp -j ACCEPT",
		"nft 'add table inet theirs; add chain inet theirs early { type filter hook prerouting priority -400; }; add rule inet theirs early accept'")
	b.through("iptables -F in every table but nat", "for t in raw filter mangle; do iptables -t $t -F; done")
	for _, w := range watches {
		if text := w.report(heardWithin); w.wrong > 0 {
			t.Error(text)
		}
	}
	b.meshWorks()
}
