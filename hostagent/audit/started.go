// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc/PID/stat: USER_HZ is 100 on every architecture that Go has Linux for.
const clockTick = time.Second / 100

// startedAt tells by the texts of /proc/PID/stat and /proc/stat when a process was started, to about a second (the boot time
// in the second is cut to seconds); zero where they do not tell.
func startedAt(process, kernel string) time.Time {
	// The name in the second field is the process's to choose, with blanks and brackets.
	fields := strings.Fields(process[strings.LastIndexByte(process, ')')+1:])
	const starttime = 22 - 3 // proc(5) counts from 1, and two fields are cut off
	if len(fields) <= starttime {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[starttime], 10, 64)
	if err != nil || ticks < 0 || ticks > int64(1<<62/clockTick) {
		return time.Time{}
	}
	for line := range strings.Lines(kernel) {
		text, ok := strings.CutPrefix(line, "btime ")
		if !ok {
			continue
		}
		boot, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || boot <= 0 {
			return time.Time{}
		}
		return time.Unix(boot, 0).Add(time.Duration(ticks) * clockTick)
	}
	return time.Time{}
}
