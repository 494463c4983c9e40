// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"bytes"
	"context"
	"maps"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"
)

// maxCommandLine is how many bytes of a command line are read.
const maxCommandLine = 4 << 10

// cacheBootTime has gopsutil read the boot time once: it reckons it from the uptime, and so the start of one process
// would move by a second between two calls.
var cacheBootTime = sync.OnceFunc(func() { process.EnableBootTimeCache(true) })

// CommandLine returns the arguments of a process that Lookup found, the program's name first; false if it is not the same
// process any more, or they cannot be seen. They are read when asked for and kept nowhere: they may hold passwords, so
// show them to nobody but root, at a terminal. They are raw and untrusted, control characters included, at most 4 kB in
// all (the last one is cut there), and a process may have overwritten them. It may be called concurrently.
func CommandLine(p Process) ([]string, bool) {
	if p.Started.IsZero() {
		return nil, false
	}
	fd, err := unix.Open(procPath(p.PID, "cmdline"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	text := make([]byte, maxCommandLine)
	n, err := unix.Read(fd, text) // the kernel gives all of it at once
	if err != nil || n <= 0 {
		return nil, false // out of sight, or a zombie
	}
	// The descriptor is of one process; that it is this one is known by its start.
	if !started(inProc(context.Background()), &process.Process{Pid: p.PID}).Equal(p.Started) {
		return nil, false
	}
	var arguments []string
	for argument := range bytes.SplitSeq(bytes.TrimSuffix(text[:n], []byte{0}), []byte{0}) {
		arguments = append(arguments, string(argument))
	}
	return arguments, true
}

// describer knows the processes and users of a lookup.
type describer struct {
	search    *search
	processes map[int32]details
	users     map[uint32]string
}

// details are what is known of a process; not there if it has ended.
type details struct {
	Process
	place   place
	manager bool // it is the system's systemd
	there   bool
}

// newDescriber looks at all processes that s found. When the context has ended they are bare PIDs.
func newDescriber(ctx context.Context, s *search) *describer {
	d := &describer{search: s, processes: make(map[int32]details), users: make(map[uint32]string)}
	for _, holders := range s.holders {
		for _, h := range holders {
			d.processes[h.pid] = details{}
		}
	}
	var mu sync.Mutex
	share(slices.Collect(maps.Keys(d.processes)), func(pids []int32) {
		for _, pid := range pids {
			found := look(ctx, pid)
			mu.Lock()
			d.processes[pid] = found
			mu.Unlock()
		}
	})
	return d
}

// look returns the details of a process.
func look(ctx context.Context, pid int32) details {
	p := details{Process: Process{PID: pid}, there: true}
	if ctx.Err() != nil {
		return p
	}
	ctx = inProc(ctx)
	// Not gopsutil's: it completes a name of 15 bytes from the command line, which any process may move to gigabytes of
	// empty memory (PR_SET_MM_MAP in prctl(2)), and reads all of that.
	name, err := readAt(unix.AT_FDCWD, procPath(pid, "comm"))
	if err != nil {
		return details{}
	}
	p.Name = string(bytes.TrimSuffix(name, []byte("\n")))
	// Not NewProcess: it looks a second time whether the process is there.
	handle := &process.Process{Pid: pid}
	p.Exe, _ = handle.ExeWithContext(ctx) // another user's is out of sight
	p.Forwards = forwards(pid, p.Exe)
	p.Started = started(ctx, handle)
	if text, err := readAt(unix.AT_FDCWD, procPath(pid, "cgroup")); err == nil {
		p.place, p.manager = parseProcCgroup(string(text)), isManager(string(text))
	}
	return p
}

// inProc has gopsutil look at our /proc and not at that of the environment's HOST_PROC.
func inProc(ctx context.Context) context.Context {
	return context.WithValue(ctx, common.EnvKey, common.EnvMap{common.HostProcEnvKey: "/proc"})
}

// started returns when a process started, zero if that is not known.
func started(ctx context.Context, p *process.Process) time.Time {
	if created, err := p.CreateTimeWithContext(ctx); err == nil {
		return time.UnixMilli(created)
	}
	return time.Time{}
}

// owner assembles the owner of l, and returns the holders that are still there.
func (d *describer) owner(l Listener) (Owner, []holder) {
	owner := Owner{User: d.user(l.UID)}
	at := parseCgroup(d.search.paths[l.CgroupID])
	var holders []holder
	for _, h := range d.search.holders[l.Inode] {
		p := d.processes[h.pid]
		if !p.there {
			continue
		}
		owner.Processes = append(owner.Processes, p.Process)
		holders = append(holders, h)
		if at.container == "" && (at.unit == "" || at.unit == managerScope) && p.place != (place{}) {
			at = p.place
		}
	}
	owner.Unit, owner.Container, owner.Runtime = at.unit, at.container, at.runtime
	return owner, holders
}

// user returns the name of a user, its number where it has none.
func (d *describer) user(uid uint32) string {
	if name, ok := d.users[uid]; ok {
		return name
	}
	name := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	d.users[uid] = name
	return name
}
