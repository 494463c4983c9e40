// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"fmt"
	"os"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// TestReloadsLeaveNothingBehind: neither descriptors nor goroutines grow with the number of reloads.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	w := newWorld(t, host.ConsulOptions{})
	w.service("web", 8080, "0.0.0.0:8080") // exposed, so that its owner is looked up
	agent := w.start(quick+"metrics { address = \"127.0.0.1:9521\" }\nprobe = true\n", "--mode", "guard")
	w.guarded()
	w.must(agent.WaitLog(w.ctx, "id=exposed-listener"))
	reloads := 0
	reload := func(times int) {
		t.Helper()
		for range times {
			reloads++
			w.must(agent.Signal(syscall.SIGHUP))
			w.until("the configuration is reloaded", func() error {
				if got := strings.Count(agent.Log(), "configuration reloaded"); got < reloads {
					return fmt.Errorf("reloaded %d times of %d", got, reloads)
				}
				return nil
			})
		}
	}
	reload(3)
	before, files := w.goroutines(), w.openFiles(agent.PID())
	reload(25)
	const slack = 8 // connections come and go
	start := time.Now()
	w.until("as many files are open as before", func() error {
		if now := w.openFiles(agent.PID()); total(now) > total(files)+slack || now["anon_inode:bpf_link"] > files["anon_inode:bpf_link"] {
			return fmt.Errorf("%s; before %d reloads: %s", show(now), reloads, show(files))
		}
		return nil
	})
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("connections of earlier configurations stayed for %v", took)
	}
	w.until("as many goroutines run as before", func() error {
		if now := w.goroutines(); now > before+slack {
			return fmt.Errorf("%d goroutines, before %d", now, before)
		}
		return nil
	})
}

// openFiles counts the descriptors of a process by what they are.
func (w *world) openFiles(pid int) map[string]int {
	w.t.Helper()
	folder := fmt.Sprintf("/proc/%d/fd/", pid)
	entries, err := os.ReadDir(folder)
	w.must(err)
	counts := map[string]int{}
	for _, entry := range entries {
		if target, err := os.Readlink(folder + entry.Name()); err == nil {
			kind, _, _ := strings.Cut(target, ":[")
			counts[kind]++
		}
	}
	return counts
}

func total(counts map[string]int) int {
	sum := 0
	for _, n := range counts {
		sum += n
	}
	return sum
}

func show(counts map[string]int) string {
	var lines []string
	for kind, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, kind))
	}
	sort.Strings(lines)
	return strings.Join(lines, ", ")
}

// goroutines reads from the metrics how many run.
func (w *world) goroutines() int {
	w.t.Helper()
	answer, err := w.HTTPClient().Get("http://127.0.0.1:9521/metrics")
	w.must(err)
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		var n int
		if _, err := fmt.Sscanf(lines.Text(), "go_goroutines %d", &n); err == nil {
			return n
		}
	}
	w.t.Fatal("the metrics do not tell how many goroutines run")
	return 0
}
