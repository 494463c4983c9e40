// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// namesDir is where iproute2 mounts the namespaces that have a name.
	namesDir = "/run/netns/"
	// mostSmall bounds what is read of files that are small: a container's mounts may be many.
	mostSmall  = 1 << 20
	mostMounts = 32 << 20
	// initialUserNamespace is the inode of the first user namespace (PROC_USER_INIT_INO in include/linux/proc_ns.h).
	initialUserNamespace = "user:[4026531837]"
	// mostPIDs is how many processes of a namespace are remembered: the first may end before it is asked.
	mostPIDs = 3
)

// space is a network namespace on the way to its contents.
type space struct {
	Namespace
	pids  []int32 // of some processes in it, ascending
	mount string  // where it is mounted, "" if it is not
}

// spacesFound is all that findSpaces found.
type spacesFound struct {
	spaces     []*space // by ID
	incomplete []string
	closed     bool // the kernel refused a look at processes of another user namespace
}

// findSpaces finds the network namespaces other than the calling thread's.
func findSpaces(ctx context.Context) (spacesFound, error) {
	own, err := namespaceLink(unix.AT_FDCWD, "/proc/thread-self/ns/net")
	if err != nil {
		return spacesFound{}, fmt.Errorf("cannot tell the own network namespace: %w", err)
	}
	byID := map[uint64]*space{}
	at := func(id uint64) *space {
		if byID[id] == nil {
			byID[id] = &space{Namespace: Namespace{ID: id}}
		}
		return byID[id]
	}
	hidden, err := eachProcess(ctx, func(pid int32, id uint64) {
		if id == own {
			return
		}
		if s := at(id); len(s.pids) < mostPIDs {
			s.pids = append(s.pids, pid)
			s.PID = s.pids[0]
		}
	})
	if err != nil {
		return spacesFound{}, err
	}
	mounts, err := readSmall("/proc/thread-self/mountinfo", mostMounts)
	if err != nil {
		return spacesFound{}, fmt.Errorf("cannot read mounts: %w", err)
	}
	for id, path := range namespaceMounts(string(mounts)) {
		if id == own {
			continue
		}
		s := at(id)
		s.mount = path
		if name, ok := strings.CutPrefix(path, namesDir); ok {
			s.Name = name
		}
	}
	var found spacesFound
	for _, s := range byID {
		found.spaces = append(found.spaces, s)
	}
	sortSpaces(found.spaces)
	// With the capability only processes of stronger ones are refused, as an init often is inside a virtual machine or
	// container: that they sit in a namespace of their own is nothing to expect. In a user namespace it is one over the
	// processes in there, and all others are refused.
	switch {
	case hidden && !hasCapability(unix.CAP_SYS_PTRACE):
		found.incomplete = append(found.incomplete, hiddenSpaces)
	case hidden:
		found.closed = !isInitial("user", initialUserNamespace)
	}
	return found, nil
}

// eachProcess calls each with every process and its network namespace, by PID, and tells whether some were out of sight. A
// /proc that was mounted with hidepid does not list those, and so not the first.
func eachProcess(ctx context.Context, each func(pid int32, id uint64)) (hidden bool, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return false, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1) // the kernel lists processes in order
	if err != nil {
		return false, err
	}
	hidden = !slices.Contains(names, "1")
	for _, name := range names {
		pid, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return false, err
		}
		id, err := namespaceLink(int(proc.Fd()), name+"/ns/net")
		switch {
		case err == nil:
			each(int32(pid), id)
		case !hidden && errors.Is(err, fs.ErrPermission): // so answers one that has just ended, too
			_, gone := os.Stat(procPath(int32(pid), ""))
			hidden = gone == nil
		}
	}
	return hidden, nil
}

// isInitial tells whether this process is in the first namespace of a kind, whose inode is fixed.
func isInitial(kind, link string) bool {
	own, err := os.Readlink("/proc/self/ns/" + kind)
	return err == nil && own == link
}

// namespaceLink reads which network namespace a link "net:[4026531840]" leads to.
func namespaceLink(dir int, path string) (uint64, error) {
	var buffer [32]byte
	n, err := unix.Readlinkat(dir, path, buffer[:])
	if err != nil {
		return 0, err
	}
	id, ok := parseNamespace(string(buffer[:n]))
	if !ok {
		return 0, unix.ENOENT
	}
	return id, nil
}

func parseNamespace(text string) (uint64, bool) {
	digits, isNet := strings.CutPrefix(text, "net:[")
	digits, whole := strings.CutSuffix(digits, "]")
	id, err := strconv.ParseUint(digits, 10, 64)
	return id, isNet && whole && err == nil
}

// namespaceMounts returns where the network namespaces are mounted that the text of a /proc/PID/mountinfo file shows, by
// ID; of several places the name that iproute2 knows, else the first.
func namespaceMounts(mountinfo string) map[uint64]string {
	mounts := map[uint64]string{}
	for line := range strings.Lines(mountinfo) {
		if !strings.Contains(line, " net:[") {
			continue
		}
		mount, filesystem, found := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !found || len(fields) < 5 || !strings.HasPrefix(filesystem, "nsfs ") {
			continue
		}
		id, ok := parseNamespace(fields[3])
		path := filepath.Clean(unescapeMount(fields[4]))
		if ok && (mounts[id] == "" || strings.HasPrefix(path, namesDir) && !strings.HasPrefix(mounts[id], namesDir)) {
			mounts[id] = path
		}
	}
	return mounts
}

// open opens s for setns, unless it has ended.
func (s *space) open() (int, error) {
	paths := make([]string, 0, mostPIDs+1)
	for _, pid := range s.pids {
		paths = append(paths, procPath(pid, "ns/net"))
	}
	if s.mount != "" {
		paths = append(paths, s.mount)
	}
	err := error(unix.ENOENT)
	for _, path := range paths {
		var file int
		if file, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			continue
		}
		// A PID is used anew, a mount may be of something else by now.
		var fs unix.Statfs_t
		var stat unix.Stat_t
		if err = errors.Join(unix.Fstatfs(file, &fs), unix.Fstat(file, &stat)); err == nil &&
			fs.Type == unix.NSFS_MAGIC && stat.Ino == s.ID {
			return file, nil
		}
		unix.Close(file)
		if err == nil {
			err = unix.ENOENT
		}
	}
	return -1, err
}

// readTables reads what s holds in the files of one of its processes, whose directory is held open meanwhile: it stays
// that of the same process.
func (s *space) readTables(ctx context.Context, use usage) (contents, error) {
	err := error(unix.ENOENT)
	for _, pid := range s.pids {
		var dir int
		if dir, err = unix.Open(procPath(pid, ""), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			continue
		}
		var held contents
		held, err = s.readFrom(ctx, dir, use)
		if id, gone := namespaceLink(dir, "ns/net"); err == nil && (gone != nil || id != s.ID) {
			err = unix.ENOENT // it went elsewhere, or ended
		}
		unix.Close(dir)
		if err == nil || !isGone(err) && !errors.Is(err, fs.ErrPermission) {
			return held, err
		}
	}
	return contents{}, err
}

func (s *space) readFrom(ctx context.Context, process int, use usage) (contents, error) {
	var held contents
	for _, q := range allListeners() {
		if use.of(q.protocol, q.family) == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return contents{}, err
		}
		name := "net/" + q.protocol.String()
		if q.family == unix.AF_INET6 {
			name += "6"
		}
		fd, err := unix.Openat(process, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) && q.family == unix.AF_INET6 {
			continue // a kernel without IPv6, or a process that has ended: the caller looks
		}
		if err != nil {
			return contents{}, err
		}
		file := os.NewFile(uintptr(fd), name)
		err = readTable(q.protocol, file, func(l Listener) error {
			if len(held.listeners) >= mostSockets {
				return errTooMany
			}
			l.Namespace = s.ID
			held.listeners = append(held.listeners, l)
			return nil
		})
		file.Close()
		if errors.Is(err, errTooMany) {
			held.truncated = true
		} else if err != nil {
			return contents{}, err
		}
	}
	held.listeners = tidy(held.listeners)
	if len(held.listeners) > 0 {
		held.addresses = readAddresses("/proc/self/fd/" + strconv.Itoa(process) + "/net/")
	}
	return held, nil
}

// readUsage reads how many sockets there are from the files in a directory such as /proc/PID/net/.
func readUsage(dir string) usage {
	ipv4, err := readSmall(dir+"sockstat", mostSmall)
	if err != nil {
		return usage{}
	}
	ipv6, err := readSmall(dir+"sockstat6", mostSmall)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return usage{}
	}
	return parseUsage(append(ipv4, ipv6...))
}

// readAddresses reads the addresses of a namespace, none where the files are not to be had.
func readAddresses(dir string) []netip.Addr {
	ipv4, _ := readSmall(dir+"fib_trie", mostSmall)
	ipv6, _ := readSmall(dir+"if_inet6", mostSmall)
	return parseAddresses(ipv4, ipv6)
}

// readSmall reads a file up to a size, and no more of a larger one.
func readSmall(path string, most int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

// describe finds out whose s is, by the first of its processes that is still there.
func (s *space) describe() {
	for _, pid := range s.pids {
		text, err := readSmall(procPath(pid, "cgroup"), mostSmall)
		if err != nil {
			continue
		}
		s.PID = pid
		at := parseProcCgroup(string(text))
		s.Unit, s.Container, s.Runtime = at.unit, at.container, at.runtime
		return
	}
}
