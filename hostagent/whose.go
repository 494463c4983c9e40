// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// isOwn tells whether an address in a registration is one of this host's, and whether that is known. None is the node's.
func (e *evaluation) isOwn(text string) (own, known bool) {
	if text == "" || text == "localhost" {
		return true, true
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return false, false // a name
	}
	return e.isOwnAddr(addr.Unmap().WithZone(""))
}

func (e *evaluation) isOwnAddr(addr netip.Addr) (own, known bool) {
	switch {
	case addr.IsLoopback() || addr.IsUnspecified() || addr == e.in.Agent.Address:
		return true, true
	case len(e.addresses) == 0:
		return false, false
	}
	return e.addresses[addr], true
}

// learnAddresses notes the addresses of this host.
func (e *evaluation) learnAddresses() {
	if e.in.Host == nil {
		return
	}
	e.addresses = make(map[netip.Addr]bool, len(e.in.Host.Addresses))
	for _, addr := range e.in.Host.Addresses {
		e.addresses[addr] = true
	}
}

// sameOwner tells whether two sockets of one user belong to one program, and whether that is known. A process tree is not
// to be seen from here: the same executable in the same unit and container stands for it.
func (e *evaluation) sameOwner(a, b *sockets.Listener) (same, known bool) {
	x, y := e.owner(a), e.owner(b)
	if x == nil || y == nil || len(x.Processes) == 0 || len(y.Processes) == 0 {
		return true, a.CgroupID != 0 && a.CgroupID == b.CgroupID
	}
	if x.Container != y.Container || x.Unit != y.Unit {
		return false, true
	}
	return slices.ContainsFunc(x.Processes, func(p sockets.Process) bool {
		return slices.ContainsFunc(y.Processes, func(other sockets.Process) bool {
			return p.PID == other.PID || p.Exe != "" && executable(p) == executable(other)
		})
	}), true
}

// executable is the path of a process's program. One that was replaced on disk while it runs is the same to people.
func executable(p sockets.Process) string { return strings.TrimSuffix(p.Exe, " (deleted)") }

func (e *evaluation) owners(listeners ...*sockets.Listener) []string {
	var names []string
	for _, l := range listeners {
		names = append(names, catalog.CleanTo(cmp.Or(processNames(e.owner(l)), "somebody"), 24)+" on "+l.Addr.Addr().String())
	}
	return names
}

// publishers are the programs that listen on the host for a container, by the kernel's name of them.
func publishers() []string {
	return []string{"docker-proxy", "dockerd", "conmon", "rootlessport", "rootlesskit", "slirp4netns", "pasta", "pasta.avx2"}
}

// publishes tells whether a socket is that of a program which passes connections on to a container, and whether that is
// known. Any process names itself, but a user who lies so only keeps an own port open.
func (e *evaluation) publishes(l *sockets.Listener) (publishes, known bool) {
	owner := e.owner(l)
	if owner == nil || len(owner.Processes) == 0 {
		return false, false
	}
	return slices.ContainsFunc(owner.Processes, func(p sockets.Process) bool { return slices.Contains(publishers(), p.Name) }), true
}
