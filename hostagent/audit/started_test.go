// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"os"
	"testing"
	"time"
)

func TestStartedAt(t *testing.T) {
	const kernel = "cpu  1 2 3\nctxt 5\nbtime 1700000000\nprocesses 9\n"
	const process = "42 (a) S 9 (b) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 9 0 12345 1000 20 0"
	for _, c := range []struct {
		name, process, kernel string
		want                  time.Time
	}{
		{"both", process, kernel, time.Unix(1700000123, 450_000_000)},
		{"no boot time", process, "cpu 1 2 3\n", time.Time{}},
		{"a broken boot time", process, "btime soon\n", time.Time{}},
		{"a boot before all time", process, "btime -5\n", time.Time{}},
		{"cut off", "42 (a) S 1 42", kernel, time.Time{}},
		{"nothing", "", "", time.Time{}},
		{"no number", "42 (a) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 9 0 x 1000", kernel, time.Time{}},
		{"beyond all time", "42 (a) S 1 42 42 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 9 0 9223372036854775807 1", kernel, time.Time{}},
	} {
		if got := startedAt(c.process, c.kernel); !got.Equal(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestStartedAtOfThisProcess(t *testing.T) {
	process, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	if got, now := startedAt(string(process), string(kernel)), time.Now(); got.Before(now.Add(-time.Hour)) || got.After(now.Add(startTakes)) {
		t.Errorf("this process was started at %v; it is %v", got, now)
	}
}
