// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// many opens n listeners in this process.
func many(b *testing.B, n int) {
	b.Helper()
	raiseFiles(b, uint64(n)+100)
	for range n {
		open(b, unix.SOCK_STREAM, 0, "127.0.0.1:0", "")
	}
}

// raiseFiles lets this process have need files.
func raiseFiles(b *testing.B, need uint64) {
	b.Helper()
	var limit unix.Rlimit
	check(b, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Cur < need {
		limit.Cur, limit.Max = need, max(limit.Max, need)
		check(b, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit))
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

// BenchmarkConnections counts 100 connections to a range of ports, alone and beside 5,000 to other ports, each of which
// has both its sockets in the namespace.
func BenchmarkConnections(b *testing.B) {
	h := newHost(b)
	raiseFiles(b, 2*5200)
	listenOn(b, h, "tcp", ":21000")
	for range 100 {
		connect(b, h.Net, 1, "tcp4", host.IPv4+":21000")
	}
	count := func(b *testing.B) {
		check(b, h.InHost(func() error {
			for b.Loop() {
				if got, err := Connections(b.Context(), 21000, 21255); err != nil || len(got) != 100 {
					return fmt.Errorf("got %d, %w", len(got), err)
				}
			}
			return nil
		}))
	}
	b.Run("others=0", count)
	for port := 8001; port <= 8050; port++ { // each has a queue of its own
		address := fmt.Sprintf("127.0.0.1:%d", port)
		listenOn(b, h, "tcp4", address)
		connect(b, h.Local, 100, "tcp4", address)
	}
	b.Run("others=5000", count)
	b.Run("others=5000/peer=ss", func(b *testing.B) {
		for b.Loop() {
			check(b, h.InHost(exec.Command("ss", "-Htn", "state", "established", "sport", ">=", ":21000", "and", "sport", "<=", ":21255").Run))
		}
	})
}

// BenchmarkWatch measures from listen(2) until a Watch tells of it, with pauses in which everybody falls asleep.
func BenchmarkWatch(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	type event struct {
		at    time.Time
		heard Heard
	}
	events, done := make(chan event, 1000), make(chan error)
	go func() { done <- Watch(ctx, func(h Heard) { events <- event{time.Now(), h} }) }()
	select {
	case <-events:
	case err := <-done:
		b.Fatal(err)
	}
	var took []time.Duration
	missed := 0
	for b.Loop() {
		time.Sleep(3 * time.Millisecond)
		began := time.Now()
		listenOnce(b)
		var e event
		for timeout := time.After(time.Second); e.heard.Here == 0; {
			select {
			case e = <-events:
			case <-timeout:
				missed++
				e = event{time.Now(), Heard{Here: 1}}
			}
		}
		took = append(took, e.at.Sub(began))
	}
	slices.Sort(took)
	for _, percent := range []int{50, 99} {
		b.ReportMetric(float64(took[(len(took)*percent+99)/100-1].Microseconds())/1000, fmt.Sprintf("p%d-ms", percent))
	}
	b.ReportMetric(float64(missed), "missed")
	b.ReportMetric(0, "ns/op")
	cancel()
	check(b, <-done)
}

// BenchmarkElsewhere lists the sockets of 500 namespaces with three listeners each: entered, and through tables in /proc, at
// first sight and again. Those of the machine that the benchmark runs on come on top.
func BenchmarkElsewhere(b *testing.B) {
	raiseFiles(b, 6*500)
	want := make(map[uint64]bool, 500)
	for range 500 {
		n := startElsewhere(b)
		want[n.id] = true
		n.do(b, func() error {
			for _, address := range []string{"0.0.0.0:1001", "[::]:1002", "127.0.0.1:1003"} {
				open(b, unix.SOCK_STREAM, 0, address, "")
			}
			return nil
		})
	}
	for _, way := range []string{"entered", "tables/first", "tables/again"} {
		b.Run(way, func(b *testing.B) {
			e := NewElsewhere()
			if e.tables = way != "entered"; e.tables {
				e.look(b)
			}
			b.ReportAllocs()
			for b.Loop() {
				if way == "tables/first" {
					e.known = map[uint64]table{}
				}
				spaces, seen := e.look(b), 0
				for i := range spaces.Listeners {
					if want[spaces.Listeners[i].Namespace] {
						seen++
					}
				}
				if seen != 1500 {
					b.Fatalf("got %d listeners", seen)
				}
			}
		})
	}
}
