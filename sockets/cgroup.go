// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileIDKernfs is the type of a cgroup's file handle, whose eight bytes are the cgroup's id (FILEID_KERNFS in
// include/linux/exportfs.h).
const fileIDKernfs = 0xfe

// cgroupMount returns the mount point of cgroup2 in the text of a /proc/PID/mountinfo file, "" if it is not mounted.
func cgroupMount(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, found := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		// Not a bind mount of a part of the tree: ids outside of it would have no path.
		if found && len(fields) > 4 && strings.HasPrefix(filesystem, "cgroup2 ") && fields[3] == "/" {
			return unescapeMount(fields[4])
		}
	}
	return ""
}

// unescapeMount undoes the octal escapes of blanks and backslashes in mountinfo.
func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// cgroupTree finds cgroups by id. Close it after use.
type cgroupTree struct {
	mount string
	root  *os.File
}

// openCgroups opens the cgroup2 tree.
func openCgroups() (*cgroupTree, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot read mounts: %w", err)
	}
	mount := cgroupMount(string(text))
	if mount == "" {
		return nil, errors.New("cannot find cgroup2: it is not mounted")
	}
	root, err := os.Open(mount) // not O_PATH: open_by_handle_at(2) refuses it
	if err != nil {
		return nil, fmt.Errorf("cannot open cgroup2: %w", err)
	}
	return &cgroupTree{mount, root}, nil
}

func (t *cgroupTree) Close() error { return t.root.Close() }

// path returns the path below the mount point of the cgroup with the given id, "/" for the root. It needs
// CAP_DAC_READ_SEARCH.
func (t *cgroupTree) path(id uint64) (string, error) {
	if id == 0 {
		return "", errors.New("cannot find a cgroup without an id")
	}
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(t.root.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("cannot open cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	full, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return "", fmt.Errorf("cannot read the path of cgroup %d: %w", id, err)
	}
	below, ok := strings.CutPrefix(full, strings.TrimSuffix(t.mount, "/"))
	if !ok || below != "" && below[0] != '/' {
		return "", fmt.Errorf("cannot use cgroup %d: %q is not below %q", id, full, t.mount)
	}
	return path.Join("/", below), nil
}

// processes returns those that are in a cgroup now; 0 stands for one of another PID namespace.
func (t *cgroupTree) processes(cgroupPath string) ([]int32, error) {
	text, err := readAt(int(t.root.Fd()), "."+cgroupPath+"/cgroup.procs")
	if err != nil {
		return nil, fmt.Errorf("cannot read the processes of cgroup %q: %w", cgroupPath, err)
	}
	var pids []int32
	for field := range bytes.FieldsSeq(text) {
		if pid, err := strconv.ParseInt(string(field), 10, 32); err == nil {
			pids = append(pids, int32(pid))
		}
	}
	return pids, nil
}

// readAt returns what a file of the kernel holds.
func readAt(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	text := make([]byte, 0, 512)
	for {
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return text, nil
		}
		if text = text[:len(text)+n]; len(text) == cap(text) {
			text = slices.Grow(text, len(text))
		}
	}
}
