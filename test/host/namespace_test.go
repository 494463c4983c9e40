// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bufio"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestDoRunsInsideAndAtTheSameTime(t *testing.T) {
	h := newHost(t)
	outside, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	want := inode(t, h.Local)
	if want == outside || want == inode(t, h.Net) {
		t.Fatalf("host %s, network %s, machine %s: want three", want, inode(t, h.Net), outside)
	}
	// Each closure waits until all are inside: a single thread would never let them through.
	const closures = 8
	var inside, done sync.WaitGroup
	inside.Add(closures)
	for range closures {
		done.Go(func() {
			err := h.InHost(func() error {
				inside.Done()
				inside.Wait()
				got, err := os.Readlink("/proc/thread-self/ns/net")
				if got != want {
					t.Errorf("a closure ran in %s, want %s", got, want)
				}
				if unix.Gettid() == os.Getpid() {
					t.Error("a closure ran on the main thread")
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if got := len(h.Local.idle); got < closures {
		t.Errorf("%d idle threads, want at least %d", got, closures)
	}
	if again, _ := os.Readlink("/proc/self/ns/net"); again != outside {
		t.Errorf("the machine's own namespace is %s now, was %s", again, outside)
	}
}

func TestDoReturnsWhatTheClosureDoes(t *testing.T) {
	h := newHost(t)
	failure := errors.New("failure")
	if err := h.InNet(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("got %v, want %v", err, failure)
	}
	if err := h.InNet(func() error { runtime.Goexit(); return nil }); !errors.Is(err, errGoexit) {
		t.Errorf("a closure that ends its goroutine: %v, want %v", err, errGoexit)
	}
	if err := h.InNet(func() error { return h.InNet(func() error { return nil }) }); err != nil {
		t.Errorf("a closure inside another: %v", err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.InNet(func() error { return nil }); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v, want %v", err, errClosed)
	}
}

// A worker that finds itself on the main thread must leave it: that one could not end, and /proc/self would show its
// namespace.
func TestWorkersLeaveTheMainThread(t *testing.T) {
	h := newHost(t)
	before, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	entered := false
	eventually(t, "a goroutine runs on the main thread", func() bool {
		return onMainThread(func() {
			tasks, result := make(chan task), make(chan error, 1)
			close(tasks) // the worker ends as soon as it is inside
			h.Local.work(tasks, result, func() error {
				entered = true
				if unix.Gettid() == os.Getpid() {
					t.Error("entered on the main thread")
				}
				return netns.Set(h.Local.handle)
			})
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	})
	if !entered {
		t.Error("the worker never entered")
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("the process is in %s, was in %s", after, before)
	}
}

// onMainThread runs f on the main thread and tells whether it could: so many goroutines are locked to threads at the same
// time that the scheduler has to use that one too.
func onMainThread(f func()) (ran bool) {
	const goroutines = 64
	var locked, done sync.WaitGroup
	locked.Add(goroutines)
	for range goroutines {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			locked.Wait()
			if unix.Gettid() == os.Getpid() {
				f()
				ran = true
			}
		})
	}
	done.Wait()
	return ran
}

func TestTableListens(t *testing.T) {
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0
   2: 00000000000000000000000000000000:5208 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1 1 0
garbage
`
	for port, want := range map[uint16]bool{8080: true, 8081: false, 21000: true, 8: false, 0: false} {
		got, err := tableListens(bufio.NewScanner(strings.NewReader(table)), port)
		if err != nil || got != want {
			t.Errorf("port %d: %t, %v; want %t", port, got, err, want)
		}
	}
}
