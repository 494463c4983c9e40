// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxAge is how long an owner is believed without a new search. A search sees what a check of the known holders cannot:
// a process that came to share the socket, and an owner that was out of sight before.
const maxAge = 30 * time.Second

// hiddenText is for a socket without an owner where all capabilities are there and the kernel still does not show everybody.
const hiddenText = "owners of some sockets may be out of sight: the kernel refuses a look into some processes " +
	"(another user or PID namespace, or a security module)"

// Owner tells who is behind a listener. User, Unit and Container are safe to show only as far as the text of
// /etc/passwd is; names inside Processes are raw.
type Owner struct {
	// Processes hold the socket open, ascending by PID; empty when they are unknown. Do not change the slice.
	Processes []Process
	// User is the name of the user that made the socket, or the number where it has no name.
	User string
	// Unit is the systemd unit of the socket's cgroup where that is a leaf *.service or *.scope, or the unit of the
	// machine around it (systemd-nspawn, libvirt). Where the socket's cgroup is unknown, or names nothing, or is
	// systemd's own (socket activation), it is that of the first process of which more is known: the service that was
	// started. While PID 1 alone holds the socket it is the *.socket unit. It is init.scope where systemd does not tell
	// which, and where a user's systemd holds it. "" if unknown. It holds no character outside systemd's alphabet.
	Unit string
	// Container is the first 12 hex digits of the id of the container around the same cgroup, "" for none. For a task of
	// Nomad that runs in no container (exec, raw_exec, java) it is the first 8 of its allocation, as Nomad shows them;
	// the task is in Unit, "<allocation>.<task>.scope".
	Container string
	// Runtime is who runs the container, as the cgroup's path tells: "docker", "podman", "containerd", "cri-o",
	// "kubernetes" (whatever runs its pods), "nomad" (whatever runs its containers, where that gives them no name of its
	// own); "" for none, and where the path does not tell.
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
	// Forwards is where Docker's proxy for a port says that it passes on what comes, "172.17.0.2:80"; "" for any other
	// program. Any process can say so of itself.
	Forwards string
}

// commLen is the longest name that the kernel keeps of a process (TASK_COMM_LEN in include/linux/sched.h, less its zero).
const commLen = 15

// FullName is Name, made whole from Exe where the kernel has cut it: as untrusted and raw as they are.
func (p Process) FullName() string {
	program := path.Base(strings.TrimSuffix(p.Exe, " (deleted)"))
	if len(p.Name) == commLen && strings.HasPrefix(program, p.Name) {
		return program
	}
	return p.Name
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
	files *fileIterator    // nil before its first use, and where the kernel does not let us
	tried bool             // to load files
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
	s, err := o.find(ctx, unknown)
	now := time.Now()
	describe := newDescriber(ctx, s)
	for _, l := range unknown {
		e := entry{searched: now}
		e.owner, e.holders = describe.owner(l)
		if len(e.holders) == 0 && l.Inode != 0 {
			e.incomplete = s.outOfSight()
		}
		known[l.Cookie] = e
	}
	describe.nameSocketUnits(ctx, unknown, known)
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

// iterator returns the program in the kernel, which is loaded once and stays loaded; nil where it is not to be had.
func (o *Owners) iterator() *fileIterator {
	if !o.tried {
		o.tried = true
		o.files, _ = newFileIterator() // no reason to tell: it is only a shorter way
	}
	return o.files
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

// capabilities returns the effective capabilities of this process, a bit each; none where the kernel does not tell.
func capabilities() uint64 {
	var sets [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return 0
	}
	return uint64(sets[0].Effective) | uint64(sets[1].Effective)<<32
}

// missingCapabilities returns the names of the capabilities that this process lacks to see everybody's open files.
func missingCapabilities() []string {
	var missing []string
	has := capabilities()
	for _, c := range []struct {
		bit  int
		name string
	}{{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"}, {unix.CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"}} {
		if has&(1<<c.bit) == 0 {
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
	case s.hidden, !isInitial("pid", initPIDNamespace): // whose /proc shows nobody outside
		return hiddenText
	}
	return ""
}
