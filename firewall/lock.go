// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lockHolder names the process that holds a lock on a file, "docker, pid 708"; empty where nobody does, or the kernel tells
// nobody that this process can see. Proc is where /proc is.
func lockHolder(proc, path string) string {
	var file unix.Stat_t
	locks, err := os.ReadFile(filepath.Join(proc, "locks"))
	if err != nil || unix.Stat(path, &file) != nil {
		return ""
	}
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(file.Dev), unix.Minor(file.Dev), file.Ino)
	for line := range bytes.Lines(locks) {
		// "1: FLOCK ADVISORY WRITE 708 00:1a:1234 0 EOF"; who waits has "->" in the second place.
		fields := strings.Fields(string(line))
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != place {
			continue
		}
		pid, err := strconv.Atoi(fields[4])
		if err != nil || pid <= 0 {
			return "" // it is of another PID namespace
		}
		name, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
		if err != nil {
			return fmt.Sprintf("pid %d", pid)
		}
		return fmt.Sprintf("%s, pid %d", oneLine(strings.TrimSpace(string(name))), pid)
	}
	return ""
}
