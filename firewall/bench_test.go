// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
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
	f.xtables.verifyEvery = 0
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
		f.xtables.verifyEvery = 0
		toggle(b, f, want, want)
	})
	b.Run("first", func(b *testing.B) {
		f, want := benchFirewall(b)
		for b.Loop() {
			f.xtables.memory = nil
			mustApply(b, f, want)
		}
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

// BenchmarkSources10000 is who may connect as a cluster changes it: 10,000 single addresses, of which one comes and goes,
// and that many where there were ten.
func BenchmarkSources10000(b *testing.B) {
	hosts := func(n int) []netip.Prefix {
		all := make([]netip.Prefix, n)
		for i := range all {
			all[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)
		}
		return all
	}
	f, even := benchFirewall(b)
	even.AllowFrom = hosts(10_000)
	odd := even
	odd.AllowFrom = hosts(9_999)
	mustApply(b, f, even)
	b.Run("one-member", func(b *testing.B) { toggle(b, f, even, odd) })
	odd.AllowFrom = hosts(10)
	b.Run("most-of-them", func(b *testing.B) { toggle(b, f, even, odd) })
	f.xtables.verifyEvery = 0
	b.Run("verified", func(b *testing.B) { toggle(b, f, even, even) })
}

// BenchmarkPacketBySources sends SYNs to an open port out of one end of a veth pair into the other, from a source that is
// let in and from one that is not: what a packet costs with 10 sources and with 10,000 must be about the same.
func BenchmarkPacketBySources(b *testing.B) {
	pipe(b, `ip link add pbs0 type veth peer name pbs1
ip link set pbs0 up; ip link set pbs1 up; ip addr add 10.77.0.1/24 dev pbs1; ip link set pbs1 address 02:00:00:00:00:01
for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 >$f; done
`, "sh", "-e")
	b.Cleanup(func() { pipe(b, "", "ip", "link", "del", "pbs0") })
	link, err := net.InterfaceByName("pbs0")
	if err != nil {
		b.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { unix.Close(fd) })
	f, want := benchFirewall(b)
	for _, sources := range []int{10, 10_000} {
		want.AllowFrom = nil
		for i := range sources {
			want.AllowFrom = append(want.AllowFrom, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
		}
		mustApply(b, f, want)
		for _, from := range []struct {
			name   string
			source [4]byte
		}{{"let-in", [4]byte{10, 1, 0, 5}}, {"shut-out", [4]byte{10, 2, 0, 5}}} {
			b.Run(strconv.Itoa(sources)+"/"+from.name, func(b *testing.B) {
				frame := synFrame(from.source, [4]byte{10, 77, 0, 1}, 21000)
				for b.Loop() {
					if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil && !errors.Is(err, unix.ENOBUFS) {
						b.Fatal(err)
					}
				}
			})
		}
	}
	dropped, err := f.Dropped(b.Context())
	if err != nil || dropped.IPv4.Source == 0 {
		b.Errorf("no packet met the rule of sources: %+v, %v", dropped, err)
	}
}

// synFrame is an Ethernet frame with a bare SYN.
func synFrame(source, target [4]byte, port uint16) []byte {
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, // to, from, IPv4
		0x45, 0, 0, 40, 0, 0, 0, 0, 64, unix.IPPROTO_TCP, 0, 0)
	frame = append(append(frame, source[:]...), target[:]...)
	sum := func(data []byte, more uint32) uint16 {
		for ; len(data) > 1; data = data[2:] {
			more += uint32(binary.BigEndian.Uint16(data))
		}
		for more > 0xffff {
			more = more>>16 + more&0xffff
		}
		return ^uint16(more)
	}
	binary.BigEndian.PutUint16(frame[24:], sum(frame[14:34], 0))
	tcp := binary.BigEndian.AppendUint16([]byte{0x9c, 0x40}, port)
	tcp = append(tcp, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(tcp[16:], sum(append(append([]byte{}, frame[26:34]...), tcp...), unix.IPPROTO_TCP+20))
	return append(frame, tcp...)
}
