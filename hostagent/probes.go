// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/probe"
	"github.com/hostagent/hostagent/sockets"
)

// ProbeTarget is a listener and the address of this host at which it alone answers.
type ProbeTarget struct {
	Cookie uint64 // of the youngest socket of its SO_REUSEPORT group
	At     netip.AddrPort
}

func (t ProbeTarget) compare(other ProbeTarget) int {
	return cmp.Or(cmp.Compare(t.Cookie, other.Cookie), t.At.Compare(other.At))
}

// Probed is what a target has shown of itself.
type Probed struct {
	ProbeTarget
	probe.Result
	Lasting bool // it did the like each of the last mostShy times
}

// maxTargets is how many listeners of one port are asked: a sidecar has one, or two, and anybody can make thousands.
const maxTargets = 4

// maxUnprobed is how many listeners are named that were asked in vain.
const maxUnprobed = 5

// judgeProbes names the listeners on ports of sidecars that are worth a probe, and judges what those have shown that were
// asked. Ports of gateways are left out: most have a certificate for each name that they are called by, and none without.
func (e *evaluation) judgeProbes() {
	if !e.in.Policy.Probe || e.in.Source == SourceFiles {
		return
	}
	shown := make(map[ProbeTarget]*Probed, len(e.in.Probes))
	for i := range e.in.Probes {
		shown[e.in.Probes[i].ProbeTarget] = &e.in.Probes[i]
	}
	_, local := e.openPorts()
	for _, port := range slices.Sorted(maps.Keys(e.claims)) {
		claims := e.claims[port]
		if slices.ContainsFunc(claims, func(c claim) bool { return c.reg.Predicted || c.reg.IsGateway() }) {
			continue
		}
		for _, t := range e.targets(port, local[port]) {
			e.res.Probes = append(e.res.Probes, t.ProbeTarget)
			if p := shown[t.ProbeTarget]; p != nil {
				e.judgeProbe(claims, t.listener, p)
			}
		}
	}
	slices.SortFunc(e.res.Probes, ProbeTarget.compare)
	slices.SortFunc(e.res.Accused, ProbeTarget.compare)
	if more := len(e.res.Unprobed) - maxUnprobed; more > 0 {
		e.res.Unprobed = append(e.res.Unprobed[:maxUnprobed], fmt.Sprintf("%d more listeners on sidecars' ports were asked in vain", more))
	}
}

type target struct {
	ProbeTarget
	listener *sockets.Listener // the first of its group
}

// targets finds the listeners on port that can be asked, those that the network reaches first. With upstream the port is
// also one at which a sidecar listens on loopback for another service, in the clear.
func (e *evaluation) targets(port uint16, upstream bool) []target {
	youngest := map[socketKey]uint64{}
	var groups []*sockets.Listener
	for _, l := range e.byPort[port] {
		if l.Protocol != sockets.TCP || l.Namespace != 0 || l.Partial || upstream && !l.Exposed() {
			continue
		}
		key := socketKey{l.Protocol, l.Addr, l.UID}
		if youngest[key] = max(youngest[key], l.Cookie); !e.repeats(l) {
			groups = append(groups, l)
		}
	}
	slices.SortStableFunc(groups, func(a, b *sockets.Listener) int {
		if a.Exposed() == b.Exposed() {
			return 0
		} else if a.Exposed() {
			return -1
		}
		return 1
	})
	var found []target
	for _, l := range groups {
		if len(found) == maxTargets {
			break
		}
		if at, ok := e.alone(l); ok {
			cookie := youngest[socketKey{l.Protocol, l.Addr, l.UID}]
			found = append(found, target{ProbeTarget{cookie, netip.AddrPortFrom(at, port)}, l})
		}
	}
	return found
}

// alone finds an address of this host at which l answers and no other socket of its port, loopback where possible. Anybody
// may bind an address that is not this host's (IP_FREEBIND), so what a socket is bound to proves nothing. Which addresses a
// network card has is not known here: of a socket that is bound to one, any address is good at which nobody else listens.
func (e *evaluation) alone(l *sockets.Listener) (netip.Addr, bool) {
	candidates := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	if own := l.Addr.Addr().Unmap(); own.IsLoopback() {
		candidates = []netip.Addr{own}
	} else if e.in.Host != nil {
		candidates = append(candidates, e.in.Host.Addresses...)
	}
	card := l.Device > 1 && l.Addr.Addr().Unmap().IsUnspecified()
	for _, at := range candidates {
		if l.Covers(at) && !at.IsLinkLocalUnicast() && !slices.ContainsFunc(e.byPort[l.Addr.Port()], func(o *sockets.Listener) bool {
			twin := o.Addr == l.Addr && o.Device == l.Device
			return o.Protocol == sockets.TCP && !twin && o.Covers(at) && (card || precedence(o) >= precedence(l))
		}) {
			return at, true
		}
	}
	return netip.Addr{}, false
}

// precedence orders sockets of one port that cover one address as the kernel does, who gives a connection to the highest:
// compute_score and __inet_lookup_listener in net/ipv4/inet_hashtables.c. Where two are equal, either may get it.
func precedence(l *sockets.Listener) (score int) {
	if !l.Addr.Addr().Unmap().IsUnspecified() {
		score += 4
	}
	if l.Device != 0 {
		score++
	}
	if l.Addr.Addr().Is4() {
		score++
	}
	return score
}

// judgeProbe compares what l has shown with who claims its port. Of several that claim it, only one can be there.
func (e *evaluation) judgeProbe(claims []claim, l *sockets.Listener, p *Probed) {
	reason := e.accuse(claims, p)
	services := make([]string, len(claims))
	for i, c := range claims {
		services[i] = catalog.Clean(c.service())
	}
	slices.Sort(services)
	names := list(slices.Compact(services))
	if reason == "" {
		if p.Outcome != probe.Named {
			e.res.Unprobed = append(e.res.Unprobed, fmt.Sprintf("nobody knows if what listens on %s is the sidecar of %s: %s%s",
				address(l), names, catalog.Clean(p.Detail), e.excuse(claims, p)))
		}
		return
	}
	e.res.Accused = append(e.res.Accused, p.ProbeTarget)
	c := claims[0]
	owner := e.owner(l)
	e.find(Finding{ID: catalog.NotASidecar, Service: c.service(), ServiceID: c.reg.ID, Port: c.port, Listener: l, Owner: owner},
		"listener", address(l), "service", names, "reason", reason, "process", cmp.Or(processNames(owner), "what listens on port "+strconv.Itoa(int(c.port))),
		"fix", c.start())
}

// accuse tells why p is nobody of those who claim its port, "" where it is one of them or nobody knows.
func (e *evaluation) accuse(claims []claim, p *Probed) string {
	switch p.Outcome {
	case probe.Named:
		if slices.ContainsFunc(claims, func(c claim) bool { return e.isName(c, p.Name) }) {
			return ""
		}
		return "its certificate is that of " + e.nameText(claims, p.Name)
	case probe.Unnamed:
		return "its certificate is of the mesh's CA, but names no service of the mesh"
	case probe.Expired:
		return "its certificate is of the mesh's CA, but not valid now"
	case probe.Foreign:
		return "it has no certificate of the mesh's CA"
	case probe.Plain:
		return "it does not speak TLS"
	case probe.Refused:
		if p.Lasting {
			return "it speaks TLS, but shows no certificate to whoever gives no name"
		}
	case probe.Closed:
		if p.Lasting && slices.ContainsFunc(claims, e.applicationListens) && !e.diverted(p) {
			return "it closes connections before it has shown a certificate, although the application listens"
		}
	default: // nobody knows
	}
	return ""
}

// excuse says what may keep a sidecar from showing what it is.
func (e *evaluation) excuse(claims []claim, p *Probed) string {
	if p.Outcome == probe.Closed && !slices.ContainsFunc(claims, e.applicationListens) {
		return ", as Consul's own proxy does while its application does not listen"
	}
	if p.Outcome == probe.Closed && e.diverted(p) {
		return ", and a transparent proxy may be asked in its place"
	}
	return ""
}

// diverted tells whether a transparent proxy may have taken a probe that was not meant for it: its rules for what this host
// sends, which are not read here, leave out loopback. A proxy that lets nobody out of the mesh hangs up then.
func (e *evaluation) diverted(p *Probed) bool {
	return e.in.Host != nil && len(e.in.Host.Redirects) > 0 && !p.At.Addr().IsLoopback()
}

// defaultName is what Consul calls the namespace and partition of who names none.
const defaultName = "default"

// isName tells whether a certificate is that of who claims a port. Consul's names have no case.
func (e *evaluation) isName(c claim, name probe.Name) bool {
	same := func(a, b string) bool { return strings.EqualFold(cmp.Or(a, defaultName), cmp.Or(b, defaultName)) }
	return strings.EqualFold(name.Service, c.service()) && same(name.Namespace, c.reg.Namespace) && same(name.Partition, c.reg.Partition) &&
		(e.in.Agent.Datacenter == "" || strings.EqualFold(name.Datacenter, e.in.Agent.Datacenter))
}

// nameText is the service of a certificate in words, with its surroundings where the service alone is the one that is expected.
func (e *evaluation) nameText(claims []claim, name probe.Name) string {
	text := name.Service
	if slices.ContainsFunc(claims, func(c claim) bool { return strings.EqualFold(name.Service, c.service()) }) {
		text += " in namespace " + name.Namespace + " of datacenter " + name.Datacenter
		if name.Partition != "" {
			text += ", partition " + name.Partition
		}
	}
	return text
}

// applicationListens tells whether something listens where the sidecar of c calls its application. Consul's own proxy shows
// a certificate only to those whom it could connect with it.
func (e *evaluation) applicationListens(c claim) bool {
	p := c.reg.Proxy
	if c.reg.Kind != consul.KindConnectProxy || p == nil {
		return true // it is the application itself
	}
	if p.LocalServiceSocket != "" || p.LocalServicePort < 1 || p.LocalServicePort > 65535 {
		return false
	}
	return slices.ContainsFunc(e.byPort[uint16(p.LocalServicePort)], func(l *sockets.Listener) bool {
		return l.Protocol == sockets.TCP && l.Covers(localService(p))
	})
}
