// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"strings"
	"testing"
)

// benchNative returns a Firewall of the nftables backend in which want stands.
func benchNative(b *testing.B, want Ruleset) *Firewall {
	b.Helper()
	f, err := New(Options{Backend: BackendNFTables})
	if err != nil {
		b.Fatal(err)
	}
	release := mustHold(b, f, want) // as a process that runs on does
	b.Cleanup(func() {
		defer release()
		if _, err := f.Remove(b.Context()); err != nil && b.Context().Err() == nil {
			b.Error(err)
		}
	})
	return f
}

// BenchmarkNative changes ports and networks of the nftables backend, and does the same with the program nft: a port more
// and less in turn, 256 and 2,000 ports, 10,000 networks that come and go, one network more and less among them, nothing
// new, and nothing new with a look at the kernel.
func BenchmarkNative(b *testing.B) {
	none := Ruleset{Guard: portRange(21000, 21255)}
	ports := func(n uint16) Ruleset {
		r := none
		r.Open = portRange(21000, 21000+n-1)
		return r
	}
	for _, n := range []uint16{1, 256, 2000} {
		b.Run(fmt.Sprintf("%d-ports/hostagent", n), func(b *testing.B) {
			toggle(b, benchNative(b, none), none, ports(n))
		})
		b.Run(fmt.Sprintf("%d-ports/nft", n), func(b *testing.B) {
			more := ports(n)
			var list []string
			for port := range more.Open.All() {
				list = append(list, fmt.Sprint(port))
			}
			toggleNft(b, "type inet_service;", list, "delete element inet bench bench { "+strings.Join(list, ", ")+" }\n")
		})
	}
	even := none
	even.AllowFrom = many(10000)
	odd := even
	odd.AllowFrom = even.AllowFrom[1:]
	other := even
	other.AllowFrom = prefixes("192.0.2.7/32")
	b.Run("10000-networks/hostagent", func(b *testing.B) { toggle(b, benchNative(b, other), other, even) })
	b.Run("10000-networks/nft", func(b *testing.B) {
		var list []string
		for _, network := range even.AllowFrom {
			list = append(list, network.String())
		}
		toggleNft(b, "type ipv4_addr; flags interval;", list, "flush set inet bench bench\n") // to delete them takes nft 1.0.6 minutes
	})
	b.Run("1-of-10000-networks/hostagent", func(b *testing.B) { toggle(b, benchNative(b, even), even, odd) })
	b.Run("known", func(b *testing.B) { toggle(b, benchNative(b, even), even, even) })
	b.Run("verified", func(b *testing.B) {
		f := benchNative(b, even)
		f.native.verifyEvery = 0
		toggle(b, f, even, even)
	})
	b.Run("first", func(b *testing.B) {
		f := benchNative(b, none)
		for b.Loop() {
			f.native.memory = nil
			mustApply(b, f, none)
		}
	})
	b.Run("first-10000-networks", func(b *testing.B) {
		f := benchNative(b, even)
		for b.Loop() {
			f.native.memory = nil
			mustApply(b, f, even)
		}
	})
	b.Run("dropped", func(b *testing.B) {
		f := benchNative(b, none)
		for b.Loop() {
			if _, err := f.Dropped(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// toggleNft adds elements to a set with nft -f, and takes them away again, in turn.
func toggleNft(b *testing.B, kind string, elements []string, away string) {
	b.Helper()
	pipe(b, "table inet bench { set bench { "+kind+" }; }\n", "nft", "-f", "-")
	b.Cleanup(func() { pipe(b, "delete table inet bench\n", "nft", "-f", "-") })
	scripts := []string{"add element inet bench bench { " + strings.Join(elements, ", ") + " }\n", away}
	for i := 0; b.Loop(); i++ {
		pipe(b, scripts[i%2], "nft", "-f", "-")
	}
}
