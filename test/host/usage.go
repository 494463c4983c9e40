// SPDX-License-Identifier: MPL-2.0

package host

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// CPUTime returns the CPU time of the process and of the children that it has waited for, to a hundredth of a second:
// fields 14 to 17 of proc_pid_stat(5). The name in field 2 may hold blanks and parentheses.
func (p *Process) CPUTime() (time.Duration, error) { return CPUTime(p.PID()) }

// CPUTime is Process.CPUTime of a process that no host has started.
func CPUTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read CPU time: %w", err)
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("cannot read CPU time: /proc/%d/stat is %q", pid, text)
	}
	var sum time.Duration
	for _, field := range fields[11:15] {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("cannot read CPU time: %w", err)
		}
		sum += time.Duration(ticks) * (time.Second / ticksPerSecond)
	}
	return sum, nil
}

// ResidentMegabytes returns VmRSS of the process, in units of 1,000,000 bytes.
func (p *Process) ResidentMegabytes() (float64, error) { return ResidentMegabytes(p.PID()) }

// ResidentMegabytes is Process.ResidentMegabytes of a process that no host has started.
func ResidentMegabytes(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot read memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var kibibytes float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kibibytes); err == nil {
			return kibibytes * 1024 / 1e6, nil
		}
	}
	return 0, errors.New("cannot read memory: the process has no VmRSS")
}
