// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

const (
	// attachedEvery is how often a Watch looks whether its program is still attached.
	attachedEvery = 10 * time.Second
	// restBetween is the least time between two calls of told: a process that listens without pause costs some per cent
	// of a CPU, and not all of it.
	restBetween = time.Millisecond
	// rootCgroup is the id of the root of cgroup2, of which every cgroup of the host is a part. A cgroup namespace shows
	// another cgroup in its place, with that one's id.
	rootCgroup = 1
)

// Heard is how many TCP sockets began to listen, successful calls of listen(2), since a Watch told before. They may have
// stopped since: List tells what there is.
type Heard struct {
	Here      uint64 // in the network namespace of Watch's caller
	Elsewhere uint64 // in others; before Linux 5.15, which does not tell them apart, each counts here and elsewhere
}

// Watch tells of TCP sockets of the whole host as they begin to listen, MPTCP's too, until ctx ends; then it returns nil.
// UDP sockets that are bound are not heard of. It calls told first of all with an empty Heard, when it has begun to hear,
// and then whenever something was heard, within some ten microseconds but at most once a millisecond. A told that takes
// its time delays the next call, and loses nothing: what comes meanwhile is counted.
//
// A sock_ops program on the root of cgroup2 does the counting, beside the programs of others. It changes nothing, and
// vanishes with the process, however that ends. Watch needs Linux 5.8, and CAP_BPF and CAP_NET_ADMIN of the host. The error
// says why nothing can be heard, or that somebody detached the program, and what would help; to call List now and then
// needs none of it. Any number may run at a time. told is called on Watch's goroutine.
func Watch(ctx context.Context, told func(Heard)) error {
	w, err := openWatch()
	if err == nil {
		defer w.close()
		err = w.run(ctx, attachedEvery, told)
	}
	if err != nil {
		return fmt.Errorf("cannot hear of listeners as they appear: %w", err)
	}
	return nil
}

// watch is an attached program and what it leaves. The kernel counts in counts, then rings the bell: a ring buffer whose
// records say nothing. So a full ring loses nothing either: who still has records to read will look at the counts.
type watch struct {
	counts  *ebpf.Map
	ring    *ebpf.Map
	bell    *ringbuf.Reader
	pollee  *os.File // the ring again, for Go's poller: a goroutine that waits there holds no thread
	program *ebpf.Program
	link    link.Link
	before  Heard // what was counted when told was called last
}

// openWatch attaches a program that counts.
func openWatch() (*watch, error) {
	raiseMemlock()
	w := &watch{}
	if err := w.open(); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watch) open() error {
	cgroups, err := openCgroups()
	if err != nil {
		return err
	}
	defer cgroups.Close()
	if err := w.makeMaps(); err != nil {
		return explain(err)
	}
	if w.program, err = loadCounter(w.counts, w.ring); err != nil {
		return explain(err)
	}
	if w.link, err = attach(w.program, cgroups.root); errors.Is(err, unix.EPERM) { // this process was allowed to load it
		return fmt.Errorf("cannot attach to cgroup2: %w; a program that suffers no other beside it may be attached: "+
			"see bpftool cgroup show %s", err, cgroups.mount)
	}
	if err != nil {
		return fmt.Errorf("cannot attach to cgroup2: %w", err)
	}
	return w.attached()
}

// attach links program to a cgroup. It is not link.AttachCgroup, which, where the kernel has no links, attaches in ways that
// outlive the process or replace others' programs; a kernel with ring buffers has links.
func attach(program *ebpf.Program, cgroup *os.File) (link.Link, error) {
	raw, err := link.AttachRawLink(link.RawLinkOptions{Target: int(cgroup.Fd()), Program: program, Attach: ebpf.AttachCGroupSockOps})
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	fd, err := unix.FcntlInt(uintptr(raw.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return link.NewFromFD(fd) // a raw one does not tell what it is attached to
}

// makeMaps makes what the program writes to.
func (w *watch) makeMaps() (err error) {
	w.counts, err = ebpf.NewMap(&ebpf.MapSpec{Name: "hostagent_count", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: counters})
	if err != nil {
		return fmt.Errorf("cannot make an array map: %w", err)
	}
	w.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "hostagent_bell", Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())})
	if err != nil {
		return fmt.Errorf("cannot make a ring buffer: %w", err)
	}
	if w.bell, err = ringbuf.NewReader(w.ring); err != nil {
		return fmt.Errorf("cannot read a ring buffer: %w", err)
	}
	w.bell.SetDeadline(time.Unix(1, 0)) // a read never waits
	fd, err := unix.FcntlInt(uintptr(w.ring.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot duplicate a ring buffer: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("cannot poll a ring buffer: %w", err)
	}
	w.pollee = os.NewFile(uintptr(fd), "ring buffer")
	return nil
}

// explain says what keeps hostagent from using BPF.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return errors.New("cannot use BPF: operation not permitted; it needs CAP_BPF and CAP_NET_ADMIN of the host, a bpf(2) that no " +
			"filter forbids (systemd: SystemCallFilter=bpf), and before Linux 5.11 a LimitMEMLOCK of 1 MB")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS), errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("cannot use BPF: %w; it needs Linux 5.8 or newer", err)
	}
	return err
}

// raiseMemlock lets this process lock the memory of two small maps and a program, which kernels before 5.11 count as
// locked. Where it may not, there may be enough already.
func raiseMemlock() {
	const need = 1 << 20
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) != nil || limit.Cur >= need {
		return
	}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: need, Max: max(limit.Max, need)}) != nil {
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit)
	}
}

// close ends w; nothing of it stays in the kernel.
func (w *watch) close() {
	if w.link != nil {
		w.link.Close()
	}
	if w.program != nil {
		w.program.Close()
	}
	if w.pollee != nil {
		w.pollee.Close()
	}
	if w.bell != nil {
		w.bell.Close()
	}
	if w.ring != nil {
		w.ring.Close()
	}
	if w.counts != nil {
		w.counts.Close()
	}
}

// attached returns an error where not the whole host is heard, or nothing any more.
func (w *watch) attached() error {
	info, err := w.link.Info()
	if err != nil {
		return fmt.Errorf("cannot look at the program's link: %w", err)
	}
	cgroup := info.Cgroup()
	switch {
	case cgroup == nil || cgroup.CgroupId == 0:
		return errors.New("somebody detached the program from cgroup2")
	case cgroup.CgroupId != rootCgroup:
		return errors.New("the cgroup2 that is mounted here is a part of the host's: run in the host's cgroup namespace (docker run --cgroupns=host)")
	}
	return nil
}

// run tells of what is counted until ctx ends.
func (w *watch) run(ctx context.Context, every time.Duration, told func(Heard)) error {
	defer context.AfterFunc(ctx, func() { _ = w.pollee.SetReadDeadline(time.Unix(1, 0)) })()
	told(Heard{})
	for next := time.Now().Add(every); ; {
		if err := w.wait(ctx, next); err != nil || ctx.Err() != nil {
			return err
		}
		w.quieten()
		heard, err := w.news()
		if err != nil {
			return err
		}
		if heard != (Heard{}) {
			told(heard)
			time.Sleep(restBetween)
		}
		if time.Now().Before(next) {
			continue
		}
		if err := w.attached(); err != nil {
			return err
		}
		next = time.Now().Add(every)
	}
}

// wait returns when the bell has rung, at the given time, or when ctx ends.
func (w *watch) wait(ctx context.Context, until time.Time) error {
	if err := w.pollee.SetReadDeadline(until); err != nil {
		return fmt.Errorf("cannot poll a ring buffer: %w", err)
	}
	if ctx.Err() != nil { // it may have ended before the deadline was set
		return nil
	}
	raw, err := w.pollee.SyscallConn()
	if err == nil {
		err = raw.Read(func(uintptr) bool { return w.bell.AvailableBytes() > 0 })
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("cannot poll a ring buffer: %w", err)
	}
	return nil
}

// quieten empties the ring, but for what comes meanwhile: the bell rings anew only for a record that finds it empty.
func (w *watch) quieten() {
	var record ringbuf.Record
	for range w.bell.BufferSize() / recordSize {
		if w.bell.AvailableBytes() == 0 {
			return
		}
		if err := w.bell.ReadInto(&record); err != nil {
			return // the next wait returns at once
		}
	}
}

// news returns what was counted since the last call.
func (w *watch) news() (Heard, error) {
	now := w.before
	for index, count := range map[uint32]*uint64{hereCounter: &now.Here, elsewhereCounter: &now.Elsewhere} {
		if err := w.counts.Lookup(index, count); err != nil {
			return Heard{}, fmt.Errorf("cannot read what was counted: %w", err)
		}
	}
	heard := Heard{now.Here - w.before.Here, now.Elsewhere - w.before.Elsewhere}
	w.before = now
	return heard, nil
}
