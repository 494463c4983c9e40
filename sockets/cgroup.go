// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// fileIDKernfs is the type of a cgroup's file handle, whose eight bytes are the cgroup's id (FILEID_KERNFS in
// include/linux/exportfs.h).
const fileIDKernfs = 0xfe

// shortID is how many digits of a container id people see (docker ps).
const shortID = 12

var (
	// unitName is a service or scope in systemd's alphabet, "dbus.service". Whoever owns a cgroup subtree may name its
	// cgroups at will, line breaks included, so anything else is no unit.
	unitName = regexp.MustCompile(`^[0-9A-Za-z:_.\\@-]{1,240}\.(service|scope)$`)
	// containerName is a container's cgroup: "<id>" with the cgroupfs drivers of Docker, containerd and Kubernetes,
	// "<runtime>-<id>.scope" with systemd's. A conmon scope holds the container's supervisor, not the container.
	containerName = regexp.MustCompile(`^(?:(?:docker|libpod|crio|cri-containerd|containerd|nerdctl)-)?([0-9a-f]{64})(?:\.scope)?$`)
)

// parseCgroup reads a cgroup's path below the cgroup root: the systemd unit that is its leaf, and the short id of the
// innermost container around it; "" for none. A cgroup below a unit (a supervisor's child) is not the unit.
func parseCgroup(cgroupPath string) (unit, container string) {
	if leaf := path.Base(cgroupPath); unitName.MatchString(leaf) {
		unit = leaf
	}
	for name := range strings.SplitSeq(cgroupPath, "/") {
		if match := containerName.FindStringSubmatch(name); match != nil {
			container = match[1][:shortID]
		}
	}
	return unit, container
}

// parseProcCgroup reads a /proc/PID/cgroup file as parseCgroup reads a path. Only cgroup2 and, in its absence or beside
// it, systemd's own hierarchy of version 1 follow units and containers.
func parseProcCgroup(text string) (unit, container string) {
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "name=systemd" {
			continue
		}
		u, c := parseCgroup(fields[2])
		if unit == "" || fields[1] == "" && u != "" {
			unit = u
		}
		if container == "" || fields[1] == "" && c != "" {
			container = c
		}
	}
	return unit, container
}

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

// find returns the path below the mount point of the cgroup with the given id ("/" for the root) and the processes that
// are in it now; 0 stands for one of another PID namespace. It needs CAP_DAC_READ_SEARCH.
func (t *cgroupTree) find(id uint64) (cgroupPath string, pids []int32, err error) {
	handle := unix.NewFileHandle(fileIDKernfs, binary.NativeEndian.AppendUint64(nil, id))
	fd, err := unix.OpenByHandleAt(int(t.root.Fd()), handle, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("cannot open cgroup %d: %w", id, err)
	}
	defer unix.Close(fd)
	self := "/proc/self/fd/" + strconv.Itoa(fd)
	full, err := os.Readlink(self)
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the path of cgroup %d: %w", id, err)
	}
	below, ok := strings.CutPrefix(full, strings.TrimSuffix(t.mount, "/"))
	if !ok || below != "" && below[0] != '/' {
		return "", nil, fmt.Errorf("cannot use cgroup %d: %q is not below %q", id, full, t.mount)
	}
	text, err := os.ReadFile(self + "/cgroup.procs")
	if err != nil {
		return "", nil, fmt.Errorf("cannot read the processes of cgroup %q: %w", below, err)
	}
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.ParseInt(field, 10, 32); err == nil {
			pids = append(pids, int32(pid))
		}
	}
	return path.Join("/", below), pids, nil
}
