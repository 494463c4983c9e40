// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"maps"
	"math"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// entriesAtOnce bounds how many bytes of a process's descriptors are read between two looks at the context: a thousand.
	// Of entriesFirst it reads that many at first: what a server listens on it opens before it has connections, so it is
	// among the first thirty, and each entry that the kernel shows costs.
	entriesAtOnce, entriesFirst = 24 << 10, 768
	// shareFrom is how many processes or cgroups are worth a thread of their own, and maxThreads how many there are.
	shareFrom, maxThreads = 32, 4
)

// holder is one process and the descriptor under which it has a socket open.
type holder struct{ pid, descriptor int32 }

// holds tells whether the holder still has the socket with the given inode open.
func (h holder) holds(inode uint32) bool {
	found, err := socketInode(unix.AT_FDCWD, procPath(h.pid, "fd/"+strconv.Itoa(int(h.descriptor))))
	return err == nil && found == inode && inode != 0
}

// search looks for the processes that hold sockets open.
type search struct {
	holders map[uint32][]holder // by inode, ascending by pid
	paths   map[uint64]string   // of cgroups, by id
	hidden  bool                // some process could not be looked into
	whole   bool                // the kernel's program went through all processes: nobody else holds a socket
	entries []byte              // where directories are read to
}

func newSearch() *search {
	return &search{holders: make(map[uint32][]holder), paths: make(map[uint64]string), entries: make([]byte, entriesAtOnce)}
}

// find searches for the holders of listeners: among the processes of the cgroup that made the socket, where every one of
// these tells where to look; for what is not found so, by a program in the kernel, which sees all there is; and in all of
// /proc where it cannot run. Where some listener has to be searched everywhere, all are at once: one more costs nothing then. On an
// error it returns what it found before.
func (o *Owners) find(ctx context.Context, listeners []Listener) (*search, error) {
	s := newSearch()
	wanted := make(map[uint32]bool)
	for _, l := range listeners {
		if l.Inode != 0 {
			wanted[l.Inode] = true
		}
	}
	if len(wanted) == 0 {
		return s, nil
	}
	for _, step := range []func(context.Context) error{
		func(ctx context.Context) error { return s.inCgroups(ctx, listeners) },
		func(ctx context.Context) error { return s.inKernel(ctx, o.iterator(), wanted) },
		func(ctx context.Context) error { return s.everywhere(ctx, wanted) },
	} {
		if err := step(ctx); err != nil {
			return s, err
		}
		maps.DeleteFunc(wanted, func(inode uint32, _ bool) bool { return len(s.holders[inode]) > 0 })
		if len(wanted) == 0 {
			break
		}
	}
	for inode, holders := range s.holders {
		slices.SortFunc(holders, func(a, b holder) int { return cmp.Compare(a.pid, b.pid) })
		// cgroup.procs may show a process twice (Documentation/admin-guide/cgroup-v2.rst).
		s.holders[inode] = slices.CompactFunc(holders, func(a, b holder) bool { return a.pid == b.pid })
	}
	return s, nil
}

// inCgroups finds the cgroups of listeners and looks in them, unless there is one that does not lead to its listener.
func (s *search) inCgroups(ctx context.Context, listeners []Listener) error {
	tree, err := openCgroups()
	if err != nil {
		return nil
	}
	defer tree.Close()
	byCgroup := make(map[uint64]map[uint32]bool)
	for _, l := range listeners {
		if l.Inode == 0 {
			continue
		}
		if byCgroup[l.CgroupID] == nil {
			byCgroup[l.CgroupID] = make(map[uint32]bool)
		}
		byCgroup[l.CgroupID][l.Inode] = true
	}
	s.findPaths(tree, slices.Collect(maps.Keys(byCgroup)))
	for id := range byCgroup {
		// The root is as large as /proc, and systemd makes sockets for others: whom it passes them to is elsewhere.
		if found := s.paths[id]; found == "" || found == "/" || path.Base(found) == managerScope {
			return nil
		}
	}
	var mu sync.Mutex
	share(slices.Collect(maps.Keys(byCgroup)), func(ids []uint64) {
		part := newSearch()
		for _, id := range ids {
			if part.inCgroup(ctx, tree, s.paths[id], byCgroup[id]) != nil {
				break // the context has ended
			}
		}
		mu.Lock()
		defer mu.Unlock()
		s.take(part)
	})
	return ctx.Err()
}

// findPaths finds the paths of cgroups.
func (s *search) findPaths(tree *cgroupTree, ids []uint64) {
	var mu sync.Mutex
	share(ids, func(ids []uint64) {
		for _, id := range ids {
			if found, err := tree.path(id); err == nil {
				mu.Lock()
				s.paths[id] = found
				mu.Unlock()
			}
		}
	})
}

// inCgroup looks among the processes of one cgroup.
func (s *search) inCgroup(ctx context.Context, tree *cgroupTree, cgroupPath string, wanted map[uint32]bool) error {
	pids, err := tree.processes(cgroupPath)
	if err != nil {
		return nil
	}
	for _, pid := range pids {
		if err := s.look(ctx, pid, wanted); err != nil {
			return err
		}
	}
	return nil
}

// inKernel has a program in the kernel look through all processes. Where that fails, the walk of /proc is left.
func (s *search) inKernel(ctx context.Context, files *fileIterator, wanted map[uint32]bool) error {
	if files == nil {
		return nil
	}
	err := files.each(ctx, func(inode uint64, h holder) {
		if inode <= math.MaxUint32 && wanted[uint32(inode)] {
			s.add(uint32(inode), h)
		}
	})
	s.whole = err == nil
	return ctx.Err()
}

// everywhere looks in all processes, unless that was done.
func (s *search) everywhere(ctx context.Context, wanted map[uint32]bool) error {
	if s.whole {
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
	// Not os.Open, which asks for events of the file too.
	dir, err := unix.Open(procPath(pid, "fd"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		s.refused(pid, err)
		return nil
	}
	defer unix.Close(dir)
	var names []string
	left := len(wanted)
	for most := entriesFirst; left > 0; most = entriesAtOnce {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.ReadDirent(dir, s.entries[:most])
		if err != nil || n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(s.entries[:n], -1, names[:0])
		for _, name := range names {
			if left == 0 {
				return nil
			}
			inode, err := socketInode(dir, name)
			if errors.Is(err, fs.ErrPermission) {
				s.refused(pid, err)
				return nil // it is the same for all descriptors of a process
			}
			if err != nil || !wanted[inode] {
				continue
			}
			descriptor, err := strconv.ParseInt(name, 10, 32)
			if err == nil && s.add(inode, holder{pid, int32(descriptor)}) {
				left--
			}
		}
	}
	return nil
}

// add notes a holder, unless it is a duplicate of the descriptor before it.
func (s *search) add(inode uint32, h holder) bool {
	holders := s.holders[inode]
	if len(holders) > 0 && holders[len(holders)-1].pid == h.pid {
		return false
	}
	s.holders[inode] = append(holders, h)
	return true
}

// take adds what another search found.
func (s *search) take(other *search) {
	for inode, holders := range other.holders {
		s.holders[inode] = append(s.holders[inode], holders...)
	}
	s.hidden = s.hidden || other.hidden
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
	return "/proc/" + strconv.Itoa(int(pid)) + "/" + file
}

// share calls do with parts of items, at the same time where there are many, and returns when all are done.
func share[T any](items []T, do func(part []T)) {
	threads := min(runtime.GOMAXPROCS(0), maxThreads, len(items)/shareFrom)
	if threads < 2 {
		do(items)
		return
	}
	var group sync.WaitGroup
	for part := range slices.Chunk(items, (len(items)+threads-1)/threads) {
		group.Go(func() { do(part) })
	}
	group.Wait()
}
