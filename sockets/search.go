// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// managerScope is the leaf cgroup of systemd itself, of the system's and of a user's.
	managerScope = "init.scope"
	// descriptorsAtOnce bounds how many descriptors of a process are read between two looks at the context.
	descriptorsAtOnce = 1024
)

// holder is one process and the descriptor under which it has a socket open.
type holder struct {
	pid int32
	fd  string
}

// holds tells whether the holder still has the socket with the given inode open.
func (h holder) holds(inode uint32) bool {
	target, err := os.Readlink(procPath(h.pid, "fd/"+h.fd))
	return err == nil && target == "socket:["+strconv.FormatUint(uint64(inode), 10)+"]"
}

// search looks for the processes that hold sockets open.
type search struct {
	holders map[uint32][]holder // by inode, ascending by pid
	paths   map[uint64]string   // of cgroups, by id
	hidden  bool                // some process could not be looked into
}

// find searches for the holders of listeners: first among the processes of the cgroup that made the socket, then, for
// those not found so, in all of /proc. On an error it returns what it found before.
func find(ctx context.Context, listeners []Listener) (*search, error) {
	s := &search{holders: make(map[uint32][]holder), paths: make(map[uint64]string)}
	wanted := make(map[uint32]bool)
	for _, l := range listeners {
		if l.Inode != 0 {
			wanted[l.Inode] = true
		}
	}
	if len(wanted) == 0 {
		return s, nil
	}
	if err := s.inCgroups(ctx, listeners, wanted); err != nil {
		return s, err
	}
	if err := s.everywhere(ctx, wanted); err != nil {
		return s, err
	}
	for inode, holders := range s.holders {
		slices.SortFunc(holders, func(a, b holder) int { return cmp.Compare(a.pid, b.pid) })
		// cgroup.procs may show a process twice (Documentation/admin-guide/cgroup-v2.rst).
		s.holders[inode] = slices.CompactFunc(holders, func(a, b holder) bool { return a.pid == b.pid })
	}
	return s, nil
}

// inCgroups looks in the cgroup of each listener and takes what it finds there out of wanted. A cgroup that cannot be
// opened is left to the walk of /proc.
func (s *search) inCgroups(ctx context.Context, listeners []Listener, wanted map[uint32]bool) error {
	tree, err := openCgroups()
	if err != nil {
		return nil
	}
	defer tree.Close()
	byCgroup := make(map[uint64]map[uint32]bool)
	for _, l := range listeners {
		if l.CgroupID == 0 || !wanted[l.Inode] {
			continue
		}
		if byCgroup[l.CgroupID] == nil {
			byCgroup[l.CgroupID] = make(map[uint32]bool)
		}
		byCgroup[l.CgroupID][l.Inode] = true
	}
	for id, inodes := range byCgroup {
		cgroupPath, pids, err := tree.find(id)
		if err != nil {
			continue
		}
		s.paths[id] = cgroupPath
		// The root is as large as /proc, and systemd makes sockets for others: whom it passes them to is elsewhere.
		if cgroupPath == "/" || path.Base(cgroupPath) == managerScope {
			continue
		}
		for _, pid := range pids {
			if err := s.look(ctx, pid, inodes); err != nil {
				return err
			}
		}
		for inode := range inodes {
			if len(s.holders[inode]) > 0 {
				delete(wanted, inode)
			}
		}
	}
	return nil
}

// everywhere looks in all processes.
func (s *search) everywhere(ctx context.Context, wanted map[uint32]bool) error {
	if len(wanted) == 0 {
		return nil
	}
	proc, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			continue
		}
		if err := s.look(ctx, int32(pid), wanted); err != nil {
			return err
		}
	}
	return nil
}

// look notes which of the wanted sockets a process has open. A process that ended is nothing, one that may not be looked
// into is noted; the only error is that of the context.
func (s *search) look(ctx context.Context, pid int32, wanted map[uint32]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if pid <= 0 { // cgroup.procs shows processes of other PID namespaces so
		s.hidden = true
		return nil
	}
	dir, err := os.Open(procPath(pid, "fd"))
	if err != nil {
		s.refused(pid, err)
		return nil
	}
	defer dir.Close()
	for left := len(wanted); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, _ := dir.Readdirnames(descriptorsAtOnce)
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			inode, err := socketInode(int(dir.Fd()), name)
			if errors.Is(err, fs.ErrPermission) {
				s.refused(pid, err)
				return nil // it is the same for all descriptors of a process
			}
			if err != nil || !wanted[inode] {
				continue
			}
			holders := s.holders[inode]
			if len(holders) > 0 && holders[len(holders)-1].pid == pid {
				continue // a duplicate of a descriptor
			}
			s.holders[inode] = append(holders, holder{pid, name})
			left--
		}
	}
	return nil
}

// refused notes a process that may not be looked into. One that has just ended answers EACCES too
// (proc_fd_access_allowed in fs/proc/base.c), and hides nothing.
func (s *search) refused(pid int32, err error) {
	if errors.Is(err, fs.ErrPermission) {
		_, gone := os.Stat(procPath(pid, ""))
		s.hidden = s.hidden || gone == nil
	}
}

// socketInode returns the inode of the socket behind a descriptor, 0 if it is something else.
func socketInode(fdDir int, name string) (uint32, error) {
	var buffer [32]byte // "socket:[4294967295]" has 19 bytes
	n, err := unix.Readlinkat(fdDir, name, buffer[:])
	if err != nil {
		return 0, err
	}
	digits, ok := strings.CutPrefix(string(buffer[:n]), "socket:[")
	if !ok {
		return 0, nil
	}
	inode, err := strconv.ParseUint(strings.TrimSuffix(digits, "]"), 10, 32)
	if err != nil {
		return 0, nil
	}
	return uint32(inode), nil
}

// procPath returns the path of a file of a process.
func procPath(pid int32, file string) string {
	return filepath.Join("/proc", strconv.Itoa(int(pid)), file)
}
