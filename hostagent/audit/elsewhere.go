// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// isElsewhere tells whether path is another file to the agent than to us, as in a container: then nothing that stands at
// path here may be taken for the agent's. A unit's sandbox has a mount namespace of its own too, with the same files in it,
// so that the file decides and not the namespace. Where the agent's view cannot be seen the answer is no, and so it is where
// path is nowhere.
func (l *looking) isElsewhere(proc, path string) bool {
	if l.from.PID <= 0 {
		return false
	}
	root, err := unix.Open(proc+"/"+strconv.Itoa(l.from.PID)+"/root", unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
	if err != nil {
		return false // needs the right to trace it
	}
	defer unix.Close(root)
	// Resolved in the agent's root: a symbolic link that begins with a slash would lead out of it otherwise.
	theirs, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		_, missing := os.Stat(path)
		return errors.Is(err, unix.ENOENT) && missing == nil
	}
	file := os.NewFile(uintptr(theirs), path)
	defer file.Close()
	there, err := file.Stat()
	if err != nil {
		return false
	}
	here, err := os.Stat(path)
	return err != nil || !os.SameFile(here, there)
}
