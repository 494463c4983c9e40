// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// many opens n listeners in this process.
func many(b *testing.B, n int) {
	b.Helper()
	var limit unix.Rlimit
	check(b, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if need := uint64(n) + 100; limit.Cur < need {
		limit.Cur, limit.Max = need, max(limit.Max, need)
		check(b, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
	}
	for range n {
		open(b, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	}
}

// BenchmarkList2000 lists 2,000 listeners, beside what the peer needs for the same in the same run. Its process start is
// part of the peer's price: it has no other form.
func BenchmarkList2000(b *testing.B) {
	many(b, 2000)
	b.Run("List", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			listeners, err := List(b.Context())
			if check(b, err); len(listeners) != 2000 {
				b.Fatalf("got %d listeners", len(listeners))
			}
		}
	})
	for _, flag := range []string{"-Hltun", "-Hltunp"} {
		b.Run("peer=ss "+flag, func(b *testing.B) {
			for b.Loop() {
				check(b, exec.Command("ss", flag).Run())
			}
		})
	}
}

// BenchmarkOwners finds the owners of 10 suspects among 2,000 sockets of this process: first unknown, then known.
func BenchmarkOwners(b *testing.B) {
	many(b, 2000)
	listeners, err := List(b.Context())
	check(b, err)
	suspects := listeners[:10]
	b.Run("unknown", func(b *testing.B) {
		for b.Loop() {
			result, err := NewOwners().Lookup(b.Context(), suspects)
			if check(b, err); len(result.ByCookie[suspects[0].Cookie].Processes) != 1 {
				b.Fatalf("got %+v", result)
			}
		}
	})
	b.Run("known", func(b *testing.B) {
		owners := NewOwners()
		for b.Loop() {
			_, err := owners.Lookup(b.Context(), suspects)
			check(b, err)
		}
	})
}
