// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"
)

// maxAge is how long an owner is believed without a new search. A search sees what a check of the known holders cannot:
// a process that came to share the socket, and an owner that was out of sight before.
const maxAge = 30 * time.Second

// commLen is the longest name that the kernel keeps of a process (TASK_COMM_LEN in include/linux/sched.h, less its zero).
const commLen = 15

// hiddenText is for a socket without an owner where all capabilities are there and the kernel still refused a look.
const hiddenText = "owners of some sockets may be out of sight: the kernel refuses a look into some processes " +
	"(another user or PID namespace, or a security module)"

// cacheBootTime has gopsutil read the boot time once: it reckons it from the uptime, and so the start of one process
// would move by a second between two calls.
var cacheBootTime = sync.OnceFunc(func() { process.EnableBootTimeCache(true) })

// Owner tells who is behind a listener. User, Unit and Container are safe to show only as far as the text of
// /etc/passwd is; names inside Processes are raw.
type Owner struct {
	// Processes hold the socket open, ascending by PID; empty when they are unknown. Do not change the slice.
	Processes []Process
	// User is the name of the user that made the socket, or the number where it has no name.
	User string
	// Unit is the systemd unit of the socket's cgroup where that is a leaf *.service or *.scope. Where the socket's
	// cgroup is unknown, or names nothing, or is systemd's own (socket activation), it is that of the first process
	// of which more is known. "" if unknown. It holds no character outside systemd's alphabet.
	Unit string
	// Container is the first 12 hex digits of the id of the container around the same cgroup, "" for none.
	Container string
	// Runtime is who runs the container, as the cgroup's path tells: "docker", "podman", "containerd", "cri-o",
	// "kubernetes", "nomad"; "" for none, and where the path does not tell.
	Runtime string
}

// Process is a process that holds a socket open.
type Process struct {
	PID int32
	// Name is the kernel's name of the process, at most 15 bytes. Any process names itself, so it is untrusted and
	// raw, control characters included: quote it before it is shown.
	Name string
	// Exe is the path of the executable as the process sees it, raw and untrusted, with " (deleted)" at its end where
	// the file is gone; "" if it cannot be seen.
	Exe string
	// Started is when the process started, to the second; zero if unknown.
	Started time.Time
}

// Result is what Lookup found.
type Result struct {
	// ByCookie holds an owner for each listener that was asked for. One of whom nothing is known is a normal value.
	ByCookie map[uint64]Owner
	// Incomplete says why some listener's processes could not be seen, and what would help; "" if nothing was out of
	// sight. The text holds no names or numbers of this host.
	Incomplete string
}

// Owners finds the owners of listeners and remembers them between lookups. It is not safe for concurrent use.
type Owners struct {
	known map[uint64]entry // by cookie: the listeners of the last lookup
}

// entry is a remembered owner.
type entry struct {
	owner      Owner
	holders    []holder // of owner.Processes, in their order
	incomplete string
	searched   time.Time
}

// NewOwners returns an Owners that knows nobody yet.
func NewOwners() *Owners {
	cacheBootTime()
	return &Owners{}
}

// Lookup returns the owners of listeners. An owner that was found before is kept while its processes still have the
// socket open under the same executable, for at most half a minute. Listeners that are not asked for are forgotten.
//
// Owners of other users' sockets take CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, both; what is missed without them is told
// in Result.Incomplete and is no error. An error means that /proc is not to be read or that ctx ended; the result then
// holds what was found until that.
func (o *Owners) Lookup(ctx context.Context, listeners []Listener) (Result, error) {
	result := Result{ByCookie: make(map[uint64]Owner, len(listeners))}
	known := make(map[uint64]entry, len(listeners))
	var unknown []Listener
	for _, l := range listeners {
		if e, ok := o.known[l.Cookie]; ok && e.holds(l) {
			known[l.Cookie] = e
		} else {
			unknown = append(unknown, l)
		}
	}
	s, err := find(ctx, unknown)
	now := time.Now()
	describe := newDescriber(ctx)
	for _, l := range unknown {
		e := entry{searched: now}
		e.owner, e.holders = describe.owner(l, s)
		if len(e.holders) == 0 && l.Inode != 0 {
			e.incomplete = s.outOfSight()
		}
		known[l.Cookie] = e
	}
	for cookie, e := range known {
		result.ByCookie[cookie] = e.owner
		result.Incomplete = max(result.Incomplete, e.incomplete) // of several reasons always the same one
		if err != nil && len(e.holders) == 0 {
			delete(known, cookie) // the search did not get to it
		}
	}
	o.known = known
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return result, fmt.Errorf("cannot find all owners of sockets: %w", err)
	}
	return result, nil
}

// holds tells whether e is still the owner of l.
func (e entry) holds(l Listener) bool {
	if time.Since(e.searched) > maxAge {
		return false
	}
	for i, h := range e.holders {
		if !h.holds(l.Inode) {
			return false
		}
		// An exec keeps the process and may keep the socket. An executable that cannot be read stays unread.
		if exe, _ := os.Readlink(procPath(h.pid, "exe")); exe != e.owner.Processes[i].Exe {
			return false
		}
	}
	return true
}

// describer turns process and user ids into names, each once a lookup.
type describer struct {
	ctx       context.Context // for gopsutil, with /proc as its root
	processes map[int32]Process
	users     map[uint32]string
}

func newDescriber(ctx context.Context) *describer {
	return &describer{
		// The environment's HOST_PROC must not show gopsutil another /proc than ours.
		ctx:       context.WithValue(ctx, common.EnvKey, common.EnvMap{common.HostProcEnvKey: "/proc"}),
		processes: make(map[int32]Process),
		users:     make(map[uint32]string),
	}
}

// owner assembles the owner of l from what s found, and returns the holders that are still there.
func (d *describer) owner(l Listener, s *search) (Owner, []holder) {
	owner := Owner{User: d.user(l.UID)}
	var holders []holder
	for _, h := range s.holders[l.Inode] {
		if p, ok := d.process(h.pid); ok {
			owner.Processes = append(owner.Processes, p)
			holders = append(holders, h)
		}
	}
	owner.Unit, owner.Container = parseCgroup(s.paths[l.CgroupID])
	for _, h := range holders {
		if owner.Container != "" || owner.Unit != "" && owner.Unit != managerScope {
			break
		}
		text, err := os.ReadFile(procPath(h.pid, "cgroup"))
		if err != nil {
			continue
		}
		if unit, container := parseProcCgroup(string(text)); unit != "" || container != "" {
			owner.Unit, owner.Container = unit, container
		}
	}
	return owner, holders
}

// process returns the details of a process, false if it has ended. When the context has ended it returns the bare PID.
func (d *describer) process(pid int32) (Process, bool) {
	if p, ok := d.processes[pid]; ok {
		return p, true
	}
	p := Process{PID: pid}
	if d.ctx.Err() != nil {
		return p, true
	}
	// Not NewProcess: it looks a second time whether the process is there.
	details := &process.Process{Pid: pid}
	name, err := details.NameWithContext(d.ctx)
	if err != nil {
		return Process{}, false
	}
	// gopsutil completes a long name from the command line, which may hold secrets (a title set at run time); the
	// kernel's own is at its head.
	p.Name = name[:min(len(name), commLen)]
	p.Exe, _ = details.ExeWithContext(d.ctx) // another user's is out of sight
	if created, err := details.CreateTimeWithContext(d.ctx); err == nil {
		p.Started = time.UnixMilli(created)
	}
	d.processes[pid] = p
	return p, true
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

// missingCapabilities returns the names of the capabilities that this process lacks to see everybody's open files.
func missingCapabilities() []string {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return nil
	}
	var missing []string
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"}, {unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}} {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// outOfSight says why processes of a socket may have been missed, "" if all there are were seen.
func (s *search) outOfSight() string {
	switch missing := missingCapabilities(); {
	case len(missing) > 0:
		return "owners of some sockets are out of sight without " + strings.Join(missing, " and ") +
			": run as root, or grant what is missing"
	case s.hidden:
		return hiddenText
	}
	return ""
}
