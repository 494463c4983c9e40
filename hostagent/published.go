// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// PublishedPort is a TCP port of this host whose connections are passed on to somewhere else, by nat rules or by a container
// runtime's proxy. Who is behind it is told as far as it is known.
type PublishedPort struct {
	Port uint16
	// To is where they go in the words of the rule: "172.17.0.2:80", or "172.17.0.2" for the same port there.
	To string
	// Namespace is the network namespace that has this address, 0 where none is known.
	Namespace uint64
	// Container, Runtime and Unit are those of a process in there, as in sockets.Owner.
	Container, Runtime, Unit string

	at netip.AddrPort // what To says
}

// mostPublished is how many ports of one rule are listed at most.
const mostPublished = 1024

func (p PublishedPort) compare(other PublishedPort) int {
	return cmp.Or(cmp.Compare(p.Port, other.Port), p.at.Compare(other.at))
}

// passedOn lists where nat rules send what comes for a port, other than to this host itself, each place once.
func (e *evaluation) passedOn(port uint16) []PublishedPort {
	var all []PublishedPort
	for _, i := range e.away.rules[port] {
		p := &e.in.Host.Published[i]
		at := destinationOf(p.To, port)
		if own, _ := e.isOwn(at.Addr().String()); !at.IsValid() || own {
			continue
		}
		b := e.resolve(PublishedPort{Port: port, To: p.To, at: at})
		if b.Runtime == "" && b.Namespace != 0 {
			b.Runtime = chainRuntime(p.Chain)
		}
		if !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	return all
}

// destinationOf reads where a DNAT rule sends what comes for a port; the zero AddrPort where it leaves the address alone,
// or chooses among several.
func destinationOf(to string, port uint16) netip.AddrPort {
	if at, err := netip.ParseAddrPort(to); err == nil {
		return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
	}
	if addr, err := netip.ParseAddr(strings.Trim(to, "[]")); err == nil {
		return netip.AddrPortFrom(addr.Unmap().WithZone(""), port)
	}
	return netip.AddrPort{}
}

// chainRuntime tells which container runtime writes its rules into a chain of that name, where the container's own cgroup
// does not tell.
func chainRuntime(chain string) string {
	switch {
	case chain == "DOCKER":
		return "docker"
	case strings.HasPrefix(chain, "NETAVARK-"):
		return "podman"
	}
	return ""
}

// resolve fills in who has the address that a port is passed on to.
func (e *evaluation) resolve(b PublishedPort) PublishedPort {
	if b.Namespace = e.away.at(b.at); b.Namespace != 0 {
		n := e.away.spaces[b.Namespace]
		b.Container, b.Runtime, b.Unit = n.Container, n.Runtime, n.Unit
	}
	return b
}

// behind returns where a listener of the host passes on what comes for its port, nil where it is no container runtime's.
func (e *evaluation) behind(port uint16, l *sockets.Listener) *PublishedPort {
	if publishes, _ := e.publishes(l); !publishes {
		return nil
	}
	for _, p := range e.owner(l).Processes {
		if at, err := netip.ParseAddrPort(p.Forwards); err == nil {
			b := e.resolve(PublishedPort{Port: port, To: p.Forwards, at: at})
			b.Runtime = cmp.Or(b.Runtime, "docker")
			return &b
		}
	}
	if all := e.passedOn(port); len(all) > 0 {
		return &all[0]
	}
	return nil
}

// publishedElsewhere lists what is published, by port, but for rules that pass on ports by the thousand.
func (e *evaluation) publishedElsewhere() []PublishedPort {
	var all []PublishedPort
	if e.in.Host != nil {
		for i := range e.in.Host.Published {
			p := &e.in.Host.Published[i]
			if p.Last-p.First >= mostPublished {
				continue
			}
			for port := int(p.First); port <= int(p.Last); port++ {
				all = append(all, e.passedOn(uint16(port))...)
			}
		}
	}
	for i := range e.in.Listeners {
		l := &e.in.Listeners[i]
		if _, known := e.in.Owners[l.Cookie]; known && l.Protocol == sockets.TCP && l.Exposed() {
			if b := e.behind(l.Addr.Port(), l); b != nil {
				all = append(all, *b)
			}
		}
	}
	slices.SortStableFunc(all, PublishedPort.compare)
	return slices.CompactFunc(all, func(a, b PublishedPort) bool { return a.compare(b) == 0 })
}

// answers tells whether a program of the host itself, or a proxy of a container runtime that is judged as such, takes what
// comes for a port at one of some addresses: then nat rules for the port are not all there is to it.
func (e *evaluation) answers(port uint16, at addresses) bool {
	return slices.ContainsFunc(e.byPort[port], func(l *sockets.Listener) bool { return l.Protocol == sockets.TCP && covers(l, at) })
}

// exposedBehind finds that an application is exposed on a port of the host that nat rules pass on, and tells whether it
// is.
func (e *evaluation) exposedBehind(r *consul.Registration, port uint16) bool {
	all := e.passedOn(port)
	for i := range all {
		b := &all[i]
		f := Finding{ID: catalog.ExposedListener, Service: r.Name, ServiceID: r.ID, Port: port, Behind: b}
		if e.in.Enforced.Has(port) {
			f.State = Mitigated
		}
		e.find(f, "service", r.Name, "listener", "port "+strconv.Itoa(int(port))+" of the host, passed on to "+e.behindText(b),
			"who", "the network", "fix", publishFix(b))
	}
	return len(all) > 0
}

// behindText writes where a port is passed on to: "172.17.0.2:80 in container 0123456789ab (docker)".
func (e *evaluation) behindText(b *PublishedPort) string {
	switch {
	case b.Container != "":
		return b.To + " in " + containerText(b.Container, b.Runtime)
	case b.Namespace != 0:
		return b.To + " in " + e.where(b.Namespace)
	}
	return b.To
}

// publishFix tells how to keep a published port from the network.
func publishFix(b *PublishedPort) string {
	if b.Runtime == "docker" || b.Runtime == "podman" {
		return "publish it on loopback only (" + b.Runtime + " run -p 127.0.0.1:" + strconv.Itoa(int(b.Port)) + ":" + strconv.Itoa(int(b.at.Port())) + ")"
	}
	return "publish port " + strconv.Itoa(int(b.Port)) + " on 127.0.0.1 only, or do not publish it"
}
