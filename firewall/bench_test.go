// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// The benchmarks run in the network namespace of the whole test binary, not in one of their own: netlink from a locked
// thread is much slower. They leave nothing behind.

// benched are the ways to hold rules that are measured. Legacy is where it differs from nft.
var benched = []Variant{VariantNFT, onNFTables}

// benchFirewall returns a Firewall in which want stands.
func benchFirewall(b *testing.B, variant Variant, want Ruleset) *Firewall {
	b.Helper()
	f := open(b, variant)
	release := mustHold(b, f, want) // as a process that runs on does
	b.Cleanup(func() {
		mustRemove(b, f)
		release()
	})
	return f
}

// inTurn measures two opposite changes. What it reports is one of them.
func inTurn(b *testing.B, there, back func()) {
	b.Helper()
	for b.Loop() {
		there()
		back()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/op")
}

// oneWay measures a change, and not the one that leads back.
func oneWay(b *testing.B, there, back func()) {
	b.Helper()
	for b.Loop() {
		there()
		b.StopTimer()
		back()
		b.StartTimer()
	}
}

// toggle applies two rulesets in turn.
func toggle(b *testing.B, f *Firewall, even, odd Ruleset) {
	b.Helper()
	mustApply(b, f, even)
	inTurn(b, func() { mustApply(b, f, odd) }, func() { mustApply(b, f, even) })
}

// known applies what is there already.
func known(b *testing.B, f *Firewall, want Ruleset) {
	b.Helper()
	mustApply(b, f, want)
	for b.Loop() {
		mustApply(b, f, want)
	}
}

// verified applies what is there already, with a look at the kernel each time.
func verified(b *testing.B, f *Firewall, want Ruleset) {
	b.Helper()
	f.xtables.verifyEvery = 0
	if f.native != nil {
		f.native.verifyEvery = 0
	}
	known(b, f, want)
}

// first applies what is there already, as a process does that has just begun.
func first(b *testing.B, f *Firewall, want Ruleset) {
	b.Helper()
	mustApply(b, f, want)
	for b.Loop() {
		f.xtables.memory = nil
		if f.native != nil {
			f.native.memory = nil
		}
		mustApply(b, f, want)
	}
}

func pipe(b *testing.B, input, program string, args ...string) {
	b.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdin = strings.NewReader(input)
	if output, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", program, err, output)
	}
}

// closed is a guarded range of which nothing is open.
func closed() Ruleset { return Ruleset{Guard: portRange(21000, 21255)} }

// benchPorts are n ports from 21000 on.
func benchPorts(n int) PortSet { return portRange(21000, uint16(21000+n-1)) }

// BenchmarkApply opens a number of ports at once and closes them again, in turn, and does the same with what there is
// besides. Legacy does with sets what nft does.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{1, 256, 2000} {
		ports, texts := benchPorts(n), []string(nil)
		for port := range ports.All() {
			texts = append(texts, strconv.Itoa(int(port)))
		}
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for _, variant := range benched {
				b.Run("hostagent-"+string(variant), func(b *testing.B) {
					opened := closed()
					opened.Open = ports
					toggle(b, benchFirewall(b, variant, closed()), closed(), opened)
				})
			}
			b.Run("ipset-restore", func(b *testing.B) { ipsetRestore(b, "bitmap:port range 0-65535", texts, inTurn) })
			b.Run("nft", func(b *testing.B) { nftElements(b, "type inet_service;", texts, "delete"+elements(texts), inTurn) })
			for _, variant := range []Variant{VariantNFT, VariantLegacy} {
				b.Run("iptables-restore-"+string(variant), func(b *testing.B) { iptablesRestore(b, variant, ports) })
				b.Run("go-iptables-"+string(variant), func(b *testing.B) { goIptables(b, variant, n) })
			}
		})
	}
	for _, variant := range benched { // no two neighbours
		b.Run("256-scattered/hostagent-"+string(variant), func(b *testing.B) {
			opened := closed()
			for p := uint16(20000); p < 20512; p += 2 {
				opened.Open.Add(p)
			}
			toggle(b, benchFirewall(b, variant, closed()), closed(), opened)
		})
	}
}

// ipsetRestore puts a set of members in an empty one's place, and an empty one in that one's.
func ipsetRestore(b *testing.B, kind string, members []string, measure func(b *testing.B, there, back func())) {
	b.Helper()
	script := func(members []string) string {
		var s strings.Builder
		s.WriteString("create bench " + kind + " -exist\ncreate bench-new " + kind + "\n")
		for _, member := range members {
			s.WriteString("add bench-new " + member + "\n")
		}
		return s.String() + "swap bench bench-new\ndestroy bench-new\n"
	}
	full, empty := script(members), script(nil)
	b.Cleanup(func() { pipe(b, "", "ipset", "destroy", "bench") })
	measure(b, func() { pipe(b, full, "ipset", "restore") }, func() { pipe(b, empty, "ipset", "restore") })
}

// nftElements adds members to a set with nft -f, and takes them away with another such script.
func nftElements(b *testing.B, kind string, members []string, away string, measure func(b *testing.B, there, back func())) {
	b.Helper()
	pipe(b, "table inet bench { set bench { "+kind+" }; }\n", "nft", "-f", "-")
	b.Cleanup(func() { pipe(b, "delete table inet bench\n", "nft", "-f", "-") })
	list := "add" + elements(members)
	measure(b, func() { pipe(b, list, "nft", "-f", "-") }, func() { pipe(b, away, "nft", "-f", "-") })
}

func elements(members []string) string {
	return " element inet bench bench { " + strings.Join(members, ", ") + " }\n"
}

// benchChain is a chain with a rule for each port, for iptables-restore.
func benchChain(ports PortSet) string {
	var s strings.Builder
	s.WriteString("*filter\n:BENCH - [0:0]\n")
	for port := range ports.All() {
		fmt.Fprintf(&s, "-A BENCH -p tcp --dport %d -j ACCEPT\n", port)
	}
	return s.String() + "COMMIT\n"
}

// iptablesRestore writes a chain with a rule for each port, and without any, in turn.
func iptablesRestore(b *testing.B, variant Variant, ports PortSet) {
	b.Helper()
	restore := func(script string) { pipe(b, script, "iptables-"+string(variant)+"-restore", "--noflush") }
	full, empty := benchChain(ports), benchChain(PortSet{})
	b.Cleanup(func() { restore("*filter\n-X BENCH\nCOMMIT\n") })
	inTurn(b, func() { restore(full) }, func() { restore(empty) })
}

// goIptables appends n rules one by one and deletes them again. Of more than 256, which takes minutes, it does so with 16
// to a chain that has half as many as asked for, and reports n times what one of these takes.
func goIptables(b *testing.B, variant Variant, n int) {
	b.Helper()
	few, standing := n, 0
	if n > 256 {
		few, standing = 16, n/2
	}
	ipt, err := iptables.New(iptables.Path("iptables-"+string(variant)), iptables.Timeout(5))
	if err != nil {
		b.Fatal(err)
	}
	pipe(b, benchChain(benchPorts(standing)), "iptables-"+string(variant)+"-restore", "--noflush")
	b.Cleanup(func() {
		if err := ipt.ClearAndDeleteChain("filter", "BENCH"); err != nil {
			b.Error(err)
		}
	})
	each := func(do func(table, chain string, rule ...string) error) {
		for i := range few {
			if err := do("filter", "BENCH", "-p", "tcp", "--dport", strconv.Itoa(30000+i), "-j", "ACCEPT"); err != nil {
				b.Fatal(err)
			}
		}
	}
	inTurn(b, func() { each(ipt.Append) }, func() { each(ipt.Delete) })
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N)*float64(n)/float64(few), "ns/op")
}

// BenchmarkApplyUnchanged applies what is there already: from memory, with a look at the kernel, and as a new process does.
func BenchmarkApplyUnchanged(b *testing.B) {
	for _, kind := range []struct {
		name  string
		apply func(*testing.B, *Firewall, Ruleset)
	}{{"known", known}, {"verified", verified}, {"first", first}} {
		for _, variant := range []Variant{VariantNFT, VariantLegacy, onNFTables} {
			b.Run(kind.name+"/"+string(variant), func(b *testing.B) {
				kind.apply(b, benchFirewall(b, variant, sample()), sample())
			})
		}
	}
}

// BenchmarkApplySources is with 10,000 networks to which the open ports are limited: they come where there was one, others come
// in their place, one of them comes and goes, a port does, and nothing new.
func BenchmarkApplySources(b *testing.B) {
	all, one := sample(), sample()
	all.AllowFrom = many(10_000)
	one.AllowFrom = prefixes("192.0.2.7/32")
	less, others, port := all, all, all
	less.AllowFrom = all.AllowFrom[1:]
	others.AllowFrom = nil
	var texts []string
	for _, network := range all.AllowFrom {
		address := network.Addr().As4()
		address[0]++
		others.AllowFrom = append(others.AllowFrom, netip.PrefixFrom(netip.AddrFrom4(address), network.Bits()))
		texts = append(texts, network.String())
	}
	port.Open.Add(21100)
	for _, variant := range benched {
		run := func(name string, apply func(*testing.B, *Firewall)) {
			b.Run(name+"/hostagent-"+string(variant), func(b *testing.B) { apply(b, benchFirewall(b, variant, one)) })
		}
		run("come", func(b *testing.B, f *Firewall) {
			oneWay(b, func() { mustApply(b, f, all) }, func() { mustApply(b, f, one) })
		})
		run("others", func(b *testing.B, f *Firewall) { toggle(b, f, all, others) })
		run("one", func(b *testing.B, f *Firewall) { toggle(b, f, all, less) })
		run("port", func(b *testing.B, f *Firewall) { toggle(b, f, all, port) })
		run("known", func(b *testing.B, f *Firewall) { known(b, f, all) })
		run("verified", func(b *testing.B, f *Firewall) { verified(b, f, all) })
		run("first", func(b *testing.B, f *Firewall) { first(b, f, all) })
	}
	b.Run("come/ipset-restore", func(b *testing.B) { ipsetRestore(b, "hash:net", texts, oneWay) })
	b.Run("come/nft", func(b *testing.B) { // to delete them one by one takes nft 1.0.6 minutes
		nftElements(b, "type ipv4_addr; flags interval;", texts, "flush set inet bench bench\n", oneWay)
	})
}

// BenchmarkRepair measures how long harm lasts: from before the program starts that does it, until Watch says that the
// kernel is repaired, which is after it has listed the rules once more.
func BenchmarkRepair(b *testing.B) {
	for _, bench := range []struct {
		name    string
		variant Variant
		harm    []string
	}{
		{"nft/flush-mangle", VariantNFT, []string{"iptables-nft", "-t", "mangle", "-F"}},
		{"nft/flush-ruleset", VariantNFT, []string{"nft", "flush", "ruleset"}},
		{"legacy/flush-mangle", VariantLegacy, []string{"iptables-legacy", "-t", "mangle", "-F"}},
		{"legacy/flush-filter6", VariantLegacy, []string{"ip6tables-legacy", "-F"}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			f := open(b, bench.variant)
			mustApply(b, f, sample())
			ctx, cancel := context.WithCancel(context.Background())
			reports, ended := make(chan report, 1000), make(chan error)
			go func() {
				ended <- f.Watch(ctx, func(changes Changes, err error) { reports <- report{changes, err, time.Now()} })
			}()
			settle(b, f)
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				pipe(b, "", bench.harm[0], bench.harm[1:]...)
				repair := nextRepair(b, reports)
				if repair.err != nil {
					b.Fatal(repair.err)
				}
				took = append(took, repair.at.Sub(began))
				b.StopTimer()
				settle(b, f)
				peace(f)
				b.StartTimer()
			}
			slices.Sort(took)
			for _, percent := range []int{50, 99} {
				b.ReportMetric(float64(took[(len(took)*percent+99)/100-1].Microseconds())/1000, fmt.Sprintf("p%d-ms", percent))
			}
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
			if _, err := f.Remove(context.Background()); err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkDropped reads the counters of the drop rules.
func BenchmarkDropped(b *testing.B) {
	for _, variant := range benched {
		b.Run(string(variant), func(b *testing.B) {
			f := benchFirewall(b, variant, sample())
			for b.Loop() {
				if _, err := f.Dropped(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkPublished reads the ports of 500 containers out of table nat.
func BenchmarkPublished(b *testing.B) {
	f := benchFirewall(b, VariantNFT, sample())
	var script strings.Builder
	script.WriteString("*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n")
	for port := range 500 {
		script.WriteString("-A DOCKER ! -i docker0 -p tcp --dport " + strconv.Itoa(20000+port) + " -j DNAT --to-destination 172.17.0.2:80\n")
	}
	pipe(b, script.String()+"COMMIT\n", "iptables-nft-restore", "--noflush")
	b.Cleanup(func() {
		pipe(b, "*nat\n-F PREROUTING\n-F DOCKER\n-X DOCKER\nCOMMIT\n", "iptables-nft-restore", "--noflush")
	})
	for b.Loop() {
		if all, err := f.Published(b.Context()); err != nil || len(all) != 500 {
			b.Fatal(len(all), err)
		}
	}
}
