// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// GiveToFolder gives a file that root has just made in dir to the user of dir: what a command of root's leaves there must not
// keep the service of that user from starting. What has a second name is given to nobody, because that user could have put
// something else of root's in its place; for a process that is not root's it does nothing. f may be open with O_PATH.
func GiveToFolder(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var folder, st unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &folder), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return fmt.Errorf("cannot tell whose %q is: %w", f.Name(), err)
	}
	if folder.Uid == 0 || st.Uid != 0 || st.Nlink != 1 {
		return nil
	}
	return os.Chown(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), int(folder.Uid), int(folder.Gid)) // fchown refuses O_PATH
}
