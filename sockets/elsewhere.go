// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// rereading is how much time a pass may spend on tables in /proc that were read before. The kernel walks its whole table
	// of connections, those of all namespaces, for each file that it shows: 1.5 ms with 262,144 buckets, which is what a
	// machine of 32 GB has, however few sockets the namespace holds.
	rereading = 50 * time.Millisecond
	// believed is how long a table is believed while its namespace has as many sockets as when it was read.
	believed = 30 * time.Second
)

// What may be missing from Spaces, in words without names and numbers.
const (
	hiddenSpaces = "network namespaces of other users' processes are out of sight without CAP_SYS_PTRACE: run as root, or grant it"
	closedSpaces = "the kernel refuses a look into some network namespaces (of another user namespace, or a security module)"
	tableSpaces  = "of sockets in other network namespaces it is not known whether they are limited to IPv6 or to a device, " +
		"and namespaces without a process are not looked into, without CAP_SYS_ADMIN: run hostagent scan as root to see it"
	fullSpaces = "some network namespaces hold more sockets than are looked at"
)

// Spaces is what there is in the other network namespaces of this host.
type Spaces struct {
	// Listeners are what List returns, of all these namespaces, by namespace and within it as there.
	Listeners []Listener
	// Namespaces are all that were found, those without a listener too, by ID.
	Namespaces []Namespace
	// Incomplete says what could not be seen and what would show it, one sentence each, without names and numbers of this
	// host; nil if nothing was out of sight.
	Incomplete []string
}

// Elsewhere lists the sockets of the network namespaces of this host other than the caller's. It is not safe for
// concurrent use.
//
// With CAP_SYS_ADMIN it enters each namespace on a thread of its own, which ends with the pass, and asks as List does; a
// socket kept from pass to pass would keep a namespace alive. Without, it reads /proc/PID/net, of some process in it, which
// takes CAP_SYS_PTRACE for those of other users and tells less (Listener.Partial). That is dear, so it remembers: a
// namespace is read again when its number of sockets has changed or half a minute is over, those that wait longest
// first, and not all in one pass where there are many.
//
// It finds the namespaces that processes are in, as far as these may be looked into, and those that are mounted
// (/run/netns). One that only a thread, a socket or an open file holds is not found.
type Elsewhere struct {
	known   map[uint64]table // what tables in /proc said, by namespace
	tables  bool             // read tables whatever the capabilities: for tests
	patient time.Duration    // rereading, for tests
}

// table is what the files of a namespace in /proc/PID/net said.
type table struct {
	pid  int32 // an ID is used anew, but hardly by the same process
	use  usage
	read time.Time
	contents
}

// contents is what a namespace holds.
type contents struct {
	listeners []Listener
	addresses []netip.Addr
	truncated bool
}

// NewElsewhere returns an Elsewhere that has looked at nothing yet.
func NewElsewhere() *Elsewhere {
	return &Elsewhere{known: make(map[uint64]table), patient: rereading}
}

// List returns what there is in the other namespaces now. A namespace that ends meanwhile is none, one that the kernel
// keeps closed is told in Incomplete. It returns everything else or an error: that /proc is not to be read, or that ctx
// ended. What it read until then is remembered, so that the next call gets further.
func (e *Elsewhere) List(ctx context.Context) (Spaces, error) {
	result, err := e.list(ctx)
	if err != nil {
		return Spaces{}, fmt.Errorf("cannot list the sockets of other network namespaces: %w", err)
	}
	return result, nil
}

func (e *Elsewhere) list(ctx context.Context) (Spaces, error) {
	found, err := findSpaces(ctx)
	if err != nil {
		return Spaces{}, err
	}
	holding := make(map[uint64]contents, len(found.spaces))
	rest := found.spaces
	if !e.tables && hasCapability(unix.CAP_SYS_ADMIN) {
		if rest, err = enterAll(ctx, found.spaces, holding); err != nil {
			return Spaces{}, err
		}
	}
	closed, err := e.readAll(ctx, rest, holding)
	if err != nil {
		return Spaces{}, err
	}
	result := Spaces{Incomplete: found.incomplete}
	full := false
	for _, s := range found.spaces {
		held, ok := holding[s.ID]
		if !ok {
			continue // it has ended
		}
		s.describe()
		s.Addresses = held.addresses
		full = full || held.truncated
		result.Namespaces = append(result.Namespaces, s.Namespace)
		result.Listeners = append(result.Listeners, held.listeners...)
	}
	for _, note := range []struct {
		holds bool
		text  string
	}{{closed || found.closed, closedSpaces}, {len(rest) > 0, tableSpaces}, {full, fullSpaces}} {
		if note.holds {
			result.Incomplete = append(result.Incomplete, note.text)
		}
	}
	return result, nil
}

// enterAll looks into namespaces from within and returns those that this process may not enter.
func enterAll(ctx context.Context, spaces []*space, holding map[uint64]contents) (refused []*space, err error) {
	done := make(chan error, 1)
	onOwnThread(func() {
		buffer := make([]byte, messageBuffer)
		for _, s := range spaces {
			held, err := s.enter(ctx, buffer)
			switch {
			case err == nil:
				holding[s.ID] = held
			case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
				refused = append(refused, s)
			case !isGone(err):
				done <- err
				return
			}
		}
		done <- nil
	})
	err = <-done
	return refused, err
}

// onOwnThread starts f on a thread that ends with it: one that was in another namespace must never run anything else.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			// The main thread stands for the whole process in /proc/self, and does not end before it. While it is held
			// here, another goroutine cannot land on it.
			other := make(chan struct{})
			onOwnThread(func() { close(other); f() })
			<-other
			runtime.UnlockOSThread()
			return
		}
		f() // not unlocked after it
	}()
}

// enter takes the thread into s and lists what it holds.
func (s *space) enter(ctx context.Context, buffer []byte) (contents, error) {
	if err := ctx.Err(); err != nil {
		return contents{}, err
	}
	file, err := s.open()
	if err != nil {
		return contents{}, err
	}
	err = unix.Setns(file, unix.CLONE_NEWNET)
	unix.Close(file)
	if err != nil {
		return contents{}, err
	}
	var held contents
	use := readUsage("/proc/thread-self/net/")
	for _, q := range allListeners() {
		if use.of(q.protocol, q.family) == 0 {
			continue // the kernel would walk tables of all namespaces to tell
		}
		if q.protocol == TCP && use.known && use.tcp4 > 0 && use.tcp6 > 0 {
			if q.family == unix.AF_INET6 {
				continue
			}
			q.family = unix.AF_UNSPEC // one walk for both
		}
		before := len(held.listeners)
		err := q.run(ctx, buffer, func() { held.listeners = held.listeners[:before] }, func(socket []byte) error {
			if len(held.listeners) >= mostSockets {
				return errTooMany
			}
			l, err := parse(q.protocol, socket)
			l.Namespace = s.ID
			held.listeners = append(held.listeners, l)
			return err
		})
		if errors.Is(err, errTooMany) {
			held.truncated = true
		} else if err != nil {
			return contents{}, err
		}
	}
	held.listeners = tidy(held.listeners)
	if len(held.listeners) > 0 {
		held.addresses = readAddresses("/proc/thread-self/net/")
	}
	return held, nil
}

// readAll reads the tables of namespaces, or believes what they said before. It tells whether the kernel refused some.
func (e *Elsewhere) readAll(ctx context.Context, spaces []*space, holding map[uint64]contents) (closed bool, err error) {
	type visit struct {
		*space
		use    usage
		before table
	}
	var again []visit
	known := make(map[uint64]table, len(spaces))
	read := func(v visit) error {
		now := time.Now()
		held, err := v.readTables(ctx, v.use)
		switch {
		case err == nil:
			known[v.ID] = table{pid: v.pids[0], use: v.use, read: now, contents: held}
		case errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES):
			closed = true
			delete(known, v.ID)
		case isGone(err):
			delete(known, v.ID)
		default:
			return err
		}
		return nil
	}
	for _, s := range spaces {
		if len(s.pids) == 0 {
			continue // it is mounted, and no process is in it
		}
		v := visit{space: s, use: readUsage(procPath(s.pids[0], "net") + "/")}
		if v.before = e.known[s.ID]; v.before.pid == s.pids[0] {
			known[s.ID] = v.before
			if v.use != v.before.use || !v.use.known || time.Since(v.before.read) > believed {
				again = append(again, v)
			}
			continue
		}
		if err := read(v); err != nil {
			for id, t := range e.known { // what was not reached stands
				if _, ok := known[id]; !ok {
					known[id] = t
				}
			}
			e.known = known
			return false, err
		}
	}
	slices.SortStableFunc(again, func(a, b visit) int { return a.before.read.Compare(b.before.read) })
	start := time.Now()
	for _, v := range again {
		if time.Since(start) > e.patient || ctx.Err() != nil {
			break
		}
		if err := read(v); err != nil && ctx.Err() == nil {
			return false, err
		}
	}
	e.known = known
	for id, t := range known {
		holding[id] = t.contents
	}
	return closed, nil
}

// allListeners are the dumps that make a whole list.
func allListeners() []query {
	return []query{
		{protocol: TCP, family: unix.AF_INET, states: stateListen},
		{protocol: TCP, family: unix.AF_INET6, states: stateListen},
		{protocol: UDP, family: unix.AF_INET, states: stateClose},
		{protocol: UDP, family: unix.AF_INET6, states: stateClose},
	}
}

// isGone tells whether an error means that a process or its namespace has ended.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENXIO)
}

// hasCapability tells whether this process has a capability in effect.
func hasCapability(bit int) bool { return capabilities()&(1<<bit) != 0 }

// sortSpaces orders namespaces by ID.
func sortSpaces(spaces []*space) {
	slices.SortFunc(spaces, func(a, b *space) int { return cmp.Compare(a.ID, b.ID) })
}
