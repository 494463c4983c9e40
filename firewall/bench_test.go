// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/coreos/go-iptables/iptables"
)

// The benchmarks run in the network namespace of the whole test binary, not in one of their own: netlink from a locked
// thread is much slower. They leave nothing behind.

// benchFirewall returns a Firewall in which the sample stands.
func benchFirewall(b *testing.B) (*Firewall, Ruleset) {
	b.Helper()
	f, err := New(Options{Variant: VariantNFT})
	if err != nil {
		b.Fatal(err)
	}
	want := sample()
	mustApply(b, f, want)
	b.Cleanup(func() {
		if _, err := f.Remove(b.Context()); err != nil && b.Context().Err() == nil {
			b.Error(err)
		}
	})
	return f, want
}

// toggle applies two rulesets in turn.
func toggle(b *testing.B, f *Firewall, even, odd Ruleset) {
	b.Helper()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		want := &even
		if i%2 == 0 {
			want = &odd
		}
		if _, err := f.Apply(b.Context(), *want); err != nil {
			b.Fatal(err)
		}
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

// BenchmarkApplyOne adds a port and takes it away again, in turn.
func BenchmarkApplyOne(b *testing.B) {
	b.Run("hostagent", func(b *testing.B) {
		f, want := benchFirewall(b)
		more := want
		more.Open.Add(21100)
		toggle(b, f, want, more)
	})
	b.Run("exec-ipset", func(b *testing.B) {
		pipe(b, "create bench bitmap:port range 0-65535\n", "ipset", "restore")
		b.Cleanup(func() { pipe(b, "", "ipset", "destroy", "bench") })
		for i := 0; b.Loop(); i++ {
			pipe(b, "", "ipset", []string{"add", "del"}[i%2], "bench", "21100")
		}
		pipe(b, "", "ipset", "flush", "bench")
	})
	for _, variant := range []Variant{VariantNFT, VariantLegacy} {
		b.Run("go-iptables-rule-"+string(variant), func(b *testing.B) {
			ipt, err := iptables.New(iptables.Path("iptables-"+string(variant)), iptables.Timeout(5))
			if err != nil {
				b.Fatal(err)
			}
			rule := []string{"-p", "tcp", "--dport", "21100", "-j", "ACCEPT"}
			for i := 0; b.Loop(); i++ {
				if i%2 == 0 {
					err = ipt.Append("filter", "INPUT", rule...)
				} else {
					err = ipt.Delete("filter", "INPUT", rule...)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			_ = ipt.DeleteIfExists("filter", "INPUT", rule...)
		})
	}
}

// BenchmarkAllowFrom is with 10,000 networks to which the open ports are limited: a port more and less in turn, nothing
// new, a look at the kernel, and a network more and less in turn.
func BenchmarkAllowFrom(b *testing.B) {
	f, even := benchFirewall(b)
	even.AllowFrom = many(10000)
	mustApply(b, f, even)
	odd := even
	odd.Open.Add(21100)
	b.Run("one-port", func(b *testing.B) { toggle(b, f, even, odd) })
	b.Run("known", func(b *testing.B) { toggle(b, f, even, even) })
	odd = even
	odd.AllowFrom = even.AllowFrom[1:]
	b.Run("one-network", func(b *testing.B) { toggle(b, f, even, odd) })
	f.backend.verifyEvery = 0
	b.Run("verified", func(b *testing.B) { toggle(b, f, even, even) })
}

// BenchmarkApply256 replaces 256 ports.
func BenchmarkApply256(b *testing.B) {
	b.Run("hostagent", func(b *testing.B) {
		f, want := benchFirewall(b)
		more := want
		more.Open = more.Open.Union(portRange(21000, 21255))
		want.Open = PortSet{}
		toggle(b, f, want, more)
	})
	b.Run("hostagent-scattered", func(b *testing.B) {
		f, want := benchFirewall(b)
		more := want
		for p := uint16(20000); p < 20512; p += 2 {
			more.Open.Add(p)
		}
		toggle(b, f, want, more)
	})
	b.Run("exec-ipset-restore", func(b *testing.B) {
		var script strings.Builder
		script.WriteString("create bench bitmap:port range 0-65535 -exist\ncreate bench-new bitmap:port range 0-65535\n")
		for port := 21000; port < 21256; port++ {
			script.WriteString("add bench-new " + strconv.Itoa(port) + "\n")
		}
		script.WriteString("swap bench bench-new\ndestroy bench-new\n")
		b.Cleanup(func() { pipe(b, "", "ipset", "destroy", "bench") })
		for b.Loop() {
			pipe(b, script.String(), "ipset", "restore")
		}
	})
	for _, variant := range []Variant{VariantNFT, VariantLegacy} {
		b.Run("iptables-restore-"+string(variant), func(b *testing.B) {
			var script strings.Builder
			script.WriteString("*filter\n:BENCH - [0:0]\n")
			for port := 21000; port < 21256; port++ {
				script.WriteString("-A BENCH -p tcp --dport " + strconv.Itoa(port) + " -j ACCEPT\n")
			}
			script.WriteString("COMMIT\n")
			b.Cleanup(func() {
				pipe(b, "*filter\n-F BENCH\n-X BENCH\nCOMMIT\n", "iptables-"+string(variant)+"-restore", "--noflush")
			})
			for b.Loop() {
				pipe(b, script.String(), "iptables-"+string(variant)+"-restore", "--noflush")
			}
		})
	}
}

// BenchmarkApplyUnchanged applies what is there already: from memory, and with a look at the kernel each time.
func BenchmarkApplyUnchanged(b *testing.B) {
	b.Run("known", func(b *testing.B) {
		f, want := benchFirewall(b)
		toggle(b, f, want, want)
	})
	b.Run("verified", func(b *testing.B) {
		f, want := benchFirewall(b)
		f.backend.verifyEvery = 0
		toggle(b, f, want, want)
	})
	b.Run("first", func(b *testing.B) {
		f, want := benchFirewall(b)
		for b.Loop() {
			f.backend.memory = nil
			mustApply(b, f, want)
		}
	})
}

// BenchmarkDropped reads the counters of the drop rules.
func BenchmarkDropped(b *testing.B) {
	f, _ := benchFirewall(b)
	for b.Loop() {
		if _, err := f.Dropped(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPublished reads the ports of 500 containers out of table nat.
func BenchmarkPublished(b *testing.B) {
	f, _ := benchFirewall(b)
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
