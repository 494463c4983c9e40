// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// mostNames is how many names of processes are remembered between two looks.
const mostNames = 8

// events is what tells a Watch that another hand may have been at the firewall. All but wake belongs to whoever holds the
// Firewall's mutex. A nil *events has seen nothing.
type events struct {
	nft  int       // a socket that gets NFT_MSG_NEWGEN, or -1
	lock *lockFile // nil where no legacy rules are in use
	own  *programs

	foreign bool     // another program changed nf_tables since the caller was last told
	by      []string // the names of such programs since the last look
	unseen  bool     // somebody let go of the xtables lock after the last listing began

	mu    sync.Mutex // for poke
	alarm int        // an eventfd that ends wait, or -1
}

// openEvents opens everything in the network namespace of the calling thread.
func openEvents(legacy bool, own *programs) (*events, error) {
	e := &events{nft: -1, alarm: -1, own: own, unseen: legacy}
	err := e.open(legacy)
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *events) open(legacy bool) (err error) {
	if e.alarm, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("cannot open an eventfd: %w", err)
	}
	if _, err := nftGeneration(); err == nil {
		if e.nft, err = subscribeGenerations(); err != nil {
			return err
		}
	}
	if legacy {
		e.lock, err = watchLockFile(lockPath())
	}
	return err
}

func (e *events) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, fd := range []int{e.alarm, e.nft} {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing to lose
		}
	}
	e.alarm, e.nft = -1, -1
	e.lock.close()
}

// poke ends a wait, now or as soon as there is one. It may be called at any time, by anybody.
func (e *events) poke() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.alarm >= 0 {
		_, _ = unix.Write(e.alarm, binary.NativeEndian.AppendUint64(nil, 1)) // full means that it rings already
	}
}

// wait blocks the calling thread until there is an event, for as long as limit at most; a negative limit is none. A false
// alarm does no harm.
func (e *events) wait(limit time.Duration) error {
	milliseconds := -1
	if limit >= 0 {
		milliseconds = int(min(limit, time.Hour)/time.Millisecond) + 1
	}
	lock := -1 // poll leaves negative descriptors out
	if e.lock != nil {
		lock = e.lock.inotify
	}
	ready := []unix.PollFd{
		{Fd: int32(e.alarm), Events: unix.POLLIN}, {Fd: int32(e.nft), Events: unix.POLLIN}, {Fd: int32(lock), Events: unix.POLLIN},
	}
	if _, err := unix.Poll(ready, milliseconds); err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("cannot wait for changes of the firewall: %w", err)
	}
	var rings [8]byte
	_, _ = unix.Read(e.alarm, rings[:]) // that it is silent now is all that counts
	return nil
}

// drain takes in every event that has come.
func (e *events) drain() error {
	if e == nil {
		return nil
	}
	if e.lock.read() {
		e.unseen = true
	}
	if e.nft < 0 {
		return nil
	}
	var buffer [8192]byte
	for {
		n, from, err := unix.Recvfrom(e.nft, buffer[:], unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS): // some were lost: whose they were will never be known
			e.foreign = true
		case err != nil:
			return fmt.Errorf("cannot read the events of nf_tables: %w", err)
		default:
			if sender, ok := from.(*unix.SockaddrNetlink); ok && sender.Pid == nl.PidKernel {
				e.take(buffer[:n])
			}
		}
	}
}

// take notes what one datagram of the kernel says.
func (e *events) take(datagram []byte) {
	messages, err := syscall.ParseNetlinkMessage(datagram)
	if err != nil {
		e.foreign = true
		return
	}
	for _, m := range messages {
		if m.Header.Type != newGeneration || len(m.Data) < nl.SizeofNfgenmsg {
			continue
		}
		// In a PID namespace the kernel's number is not the one that we know our programs by, but the port that a
		// program's first netlink socket gets is.
		pids, name := []uint32{m.Header.Pid}, ""
		for kind, value := range attributes(m.Data[nl.SizeofNfgenmsg:]) {
			switch {
			case kind == unix.NFTA_GEN_PROC_PID && len(value) >= 4:
				pids = append(pids, binary.BigEndian.Uint32(value))
			case kind == unix.NFTA_GEN_PROC_NAME:
				name = oneLine(unix.ByteSliceToString(value))
			}
		}
		if slices.ContainsFunc(pids, e.own.ours) {
			continue
		}
		e.foreign = true
		if name != "" && len(e.by) < mostNames && !slices.Contains(e.by, name) {
			e.by = append(e.by, name)
		}
	}
}

// listing is called when rules are about to be listed: what came before will be seen by that, whoever it was.
func (e *events) listing() {
	if e != nil {
		e.lock.read()
		e.unseen = false
	}
}

// sign names in changes whoever made a repair necessary. Of legacy rules nobody is known to have changed them.
func (e *events) sign(changes *Changes) {
	if e == nil || len(changes.Repaired) == 0 {
		return
	}
	_ = e.drain() // an error comes up again in Watch
	if e.lock == nil {
		changes.By = e.by
	}
	e.by = nil
	if e.foreign || e.unseen {
		e.poke() // Watch has to see to it, and will find nothing to read any more
	}
}

// newGeneration is the message that ends what the kernel tells about one transaction of nf_tables.
const newGeneration = unix.NFT_MSG_NEWGEN | unix.NFNL_SUBSYS_NFTABLES<<8

// subscribeGenerations returns a socket that gets a message for each transaction of nf_tables, and none of the many that
// tell what was in it: with these the socket would be full soon.
func subscribeGenerations() (fd int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot listen for changes of nf_tables: %w", err)
		}
	}()
	fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return -1, err
	}
	// Filters load in network byte order; a message's type is in the machine's.
	kind := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, newGeneration))
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4}, // nlmsghdr.nlmsg_type
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(kind), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// lockFile watches the file that legacy programs lock while they read or write rules. Its directory is watched too,
// because the file may come later, or be replaced. A nil *lockFile sees nothing.
type lockFile struct {
	inotify   int
	directory int // watch descriptor
	path      string
}

// lockPath is where legacy programs have their lock.
func lockPath() string {
	if path := os.Getenv("XTABLES_LOCKFILE"); path != "" {
		return path
	}
	return "/run/xtables.lock"
}

func watchLockFile(path string) (*lockFile, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot watch lock file %q: %w (raise sysctl fs.inotify.max_user_instances)", path, err)
	}
	l := &lockFile{inotify: fd, path: path}
	l.directory, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot watch lock file %q: %w (%w)", path, err, errLockFile)
	}
	l.follow()
	return l, nil
}

func (l *lockFile) close() {
	if l != nil {
		_ = unix.Close(l.inotify)
	}
}

// follow watches the file that is there now, if any. A program changes rules before it closes the file.
func (l *lockFile) follow() {
	_, _ = unix.InotifyAddWatch(l.inotify, l.path, unix.IN_CLOSE)
}

// read takes in what has come and tells whether somebody may have changed rules.
func (l *lockFile) read() bool {
	if l == nil {
		return false
	}
	changed := false
	var buffer [4096]byte
	for {
		n, err := unix.Read(l.inotify, buffer[:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return changed
		}
		for event := range inotifyEvents(buffer[:n]) {
			if l.concerns(event) {
				changed = true
			}
		}
	}
}

// concerns tells whether an event may stand for a change of rules, and follows a file that took the old one's place.
func (l *lockFile) concerns(event inotifyEvent) bool {
	switch {
	case event.mask&unix.IN_Q_OVERFLOW != 0, event.watch == l.directory && event.name == filepath.Base(l.path):
		l.follow()
		return true
	}
	return event.watch != l.directory && event.mask&unix.IN_CLOSE != 0
}

type inotifyEvent struct {
	watch int
	mask  uint32
	name  string
}

// inotifyEvents yields the events in what was read; it ends at the first that does not fit.
func inotifyEvents(data []byte) func(yield func(inotifyEvent) bool) {
	return func(yield func(inotifyEvent) bool) {
		for len(data) >= unix.SizeofInotifyEvent {
			size := binary.NativeEndian.Uint32(data[12:])
			rest := data[unix.SizeofInotifyEvent:]
			if uint64(size) > uint64(len(rest)) {
				return
			}
			event := inotifyEvent{
				watch: int(int32(binary.NativeEndian.Uint32(data))),
				mask:  binary.NativeEndian.Uint32(data[4:]),
				name:  unix.ByteSliceToString(rest[:size]),
			}
			if !yield(event) {
				return
			}
			data = rest[size:]
		}
	}
}
