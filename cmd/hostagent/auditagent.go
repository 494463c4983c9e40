// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// agentFinder finds the process of this host that listens at the agent's address. It is for one goroutine.
type agentFinder struct {
	list    func(context.Context) ([]sockets.Listener, error)
	isLocal func(local, remote netip.Addr) (bool, error)
	owners  *sharedOwners
	users   func() []uint32 // that the agent may run as, beside root and who asks; nil: none
}

// sharedOwners are the owners of sockets for several goroutines: an audit may still go on when a reload begins the next. They
// last as long as the process, for they hold a program in the kernel. The zero value is ready.
type sharedOwners struct {
	mu     sync.Mutex
	owners *sockets.Owners // nil before the first use
}

// lookup returns the owners that are known.
func (o *sharedOwners) lookup(ctx context.Context, listeners []sockets.Listener) map[uint64]sockets.Owner {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.owners == nil {
		o.owners = sockets.NewOwners()
	}
	result, _ := o.owners.Lookup(ctx, listeners) // what is missing is not known
	return result.ByCookie
}

// newAgentFinder returns one that believes the processes of those who are trusted to answer as the agent: what a process
// says of its configuration decides which files are read.
func newAgentFinder(owners *sharedOwners, trust *consul.Trust) *agentFinder {
	f := &agentFinder{list: sockets.List, isLocal: sockets.IsLocal, owners: owners}
	if trust != nil {
		f.users = trust.Users
	}
	return f
}

// trusted tells whether uid may be the agent's.
func (f *agentFinder) trusted(uid uint32) bool {
	return uid == 0 || int(uid) == os.Geteuid() || f.users != nil && slices.Contains(f.users(), uid)
}

// find returns the process that listens at address, written as for CONSUL_HTTP_ADDR, and its systemd unit: 0 and "" where
// they cannot be seen, or are not those of an agent.
func (f *agentFinder) find(ctx context.Context, address string) (pid int, unit string) {
	listeners, err := f.list(ctx)
	if err != nil {
		return 0, ""
	}
	if path, isUnix := strings.CutPrefix(address, "unix://"); isUnix {
		pid = f.behindPath(ctx, path)
		return pid, f.unitOf(ctx, pid, listeners)
	}
	listeners = f.candidates(ctx, address, listeners)
	owners := f.owners.lookup(ctx, listeners)
	for _, l := range listeners {
		owner := owners[l.Cookie]
		if pid = agentOf(&owner); pid != 0 {
			return pid, owner.Unit
		}
	}
	return 0, ""
}

// agentOf returns which process of a socket's owner is the agent, 0 for none: neither systemd, which holds sockets for others,
// nor a proxy in front of a container. What one in a container was told to read are files of the container.
func agentOf(owner *sockets.Owner) int {
	if owner.Container != "" {
		return 0
	}
	for _, p := range owner.Processes {
		if p.PID > 1 && p.Forwards == "" {
			return int(p.PID)
		}
	}
	return 0
}

// candidates returns those of listeners that a connection to address may reach and that may be the agent's.
func (f *agentFinder) candidates(ctx context.Context, address string, listeners []sockets.Listener) []sockets.Listener {
	at := f.resolve(ctx, address)
	return slices.DeleteFunc(slices.Clone(listeners), func(l sockets.Listener) bool {
		return l.Protocol != sockets.TCP || !f.trusted(l.UID) ||
			!slices.ContainsFunc(at, func(a netip.AddrPort) bool { return l.Addr.Port() == a.Port() && l.Covers(a.Addr()) })
	})
}

// resolve returns the addresses of this host that address stands for.
func (f *agentFinder) resolve(ctx context.Context, address string) (at []netip.AddrPort) {
	u, err := url.Parse(address)
	if err != nil {
		return nil
	}
	number, err := strconv.ParseUint(cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]), 10, 16)
	if err != nil {
		return nil
	}
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", u.Hostname())
	if err != nil {
		return nil
	}
	for _, addr := range found {
		addr = addr.Unmap()
		if here, err := f.isLocal(netip.Addr{}, addr); err == nil && here || addr.IsUnspecified() {
			at = append(at, netip.AddrPortFrom(addr, uint16(number)))
		}
	}
	return at
}

// behindPath returns who listens on a unix socket: the kernel noted him when he called listen(2).
func (f *agentFinder) behindPath(ctx context.Context, path string) (pid int) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		who, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && who.Pid > 1 && f.trusted(who.Uid) {
			pid = int(who.Pid)
		}
	})
	return pid
}

// unitOf returns the unit of a process that has TCP listeners too, which an agent has.
func (f *agentFinder) unitOf(ctx context.Context, pid int, listeners []sockets.Listener) string {
	if pid == 0 {
		return ""
	}
	owners := f.owners.lookup(ctx, listeners)
	for _, l := range listeners {
		owner := owners[l.Cookie]
		if slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool { return int(p.PID) == pid }) {
			return owner.Unit
		}
	}
	return ""
}
