// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// maxRange is the largest sidecar range that is taken from an agent: 16 times Consul's own.
const maxRange = 4096

// chooseRange takes the operator's range, or else the agent's. One that is reloaded and not restarted (1.21) tells of its new
// range and assigns ports of the old one: those sidecars are port-not-opened.
func (e *evaluation) chooseRange() {
	standing := e.in.PreviousRange
	switch {
	case e.in.Policy.SidecarRange != nil:
		e.res.Range, e.res.RangeTaken = *e.in.Policy.SidecarRange, true
		return
	case !e.in.Agent.RangeKnown:
		e.res.Range = standing
		return
	}
	low, high := e.in.Agent.SidecarMin, e.in.Agent.SidecarMax
	if low <= 0 && high <= 0 {
		e.res.RangeTaken = true
		return // disabled: only explicit ports
	}
	reason := ""
	var reported PortRange
	switch {
	case low < 1 || high > 65535 || low > high:
		reason = "it is no range of ports"
	case high-low+1 > maxRange:
		reason = fmt.Sprintf("it holds %d ports, more than %d", high-low+1, maxRange)
	default:
		reported = PortRange{First: uint16(low), Last: uint16(high)}
		if hit := reported.Ports().Intersect(e.protected); hit.Len() > 0 {
			reason = "it holds protected ports: " + e.protectedBy(hit)
		}
	}
	if reason == "" {
		e.res.Range, e.res.RangeTaken = reported, true
		return
	}
	e.res.Range = standing
	stays := standing.String()
	if reported == standing && reported.First != 0 {
		stays += " without them" // as ruleset makes sure of with any range
	}
	e.find(Finding{ID: catalog.RangeRefused}, "reported", fmt.Sprintf("%d-%d", low, high), "reason", reason, "range", stays)
}

// protectedBy tells why ports are protected, "8500 (Consul's http), 22 (protected_ports)".
func (e *evaluation) protectedBy(ports firewall.PortSet) string {
	const most = 4
	var texts []string
	for port := range ports.All() {
		if len(texts) == most {
			texts = append(texts, "…")
			break
		}
		why := "protected_ports"
		switch name := e.consulName(port); {
		case e.in.Policy.Protected.Has(port):
		case name != "":
			why = "Consul's " + name
		case e.res.SSH.Has(port):
			why = "sshd"
		}
		texts = append(texts, fmt.Sprintf("%d (%s)", port, why))
	}
	return strings.Join(texts, ", ")
}

// consulName is Consul's word for what it listens on at port, "" for nothing that is known.
func (e *evaluation) consulName(port uint16) string {
	return e.consulNames[port]
}

// nameConsulPorts notes what consulName says.
func (e *evaluation) nameConsulPorts() {
	e.consulNames = map[uint16]string{}
	for name, port := range e.in.Agent.Ports {
		if before, known := e.consulNames[port]; !known || name < before {
			e.consulNames[port] = name
		}
	}
	if ports := consulPorts(); len(e.in.Agent.Ports) == 0 {
		for port := range ports.All() {
			e.consulNames[port] = "own"
		}
	}
}

// judgeRange finds who else sits in the sidecar range.
func (e *evaluation) judgeRange() {
	network, local := e.openPorts()
	type holder struct {
		protocol sockets.Protocol
		port     uint16
		uid      uint32
	}
	told := map[holder]bool{} // one finding for each, however many addresses: anybody can bind thousands of 127.x.y.z
	for _, exposed := range []bool{true, false} {
		for i := range e.in.Listeners {
			l := &e.in.Listeners[i]
			port := l.Addr.Port()
			who := holder{l.Protocol, port, l.UID}
			if l.Exposed() != exposed || !e.res.Range.Contains(port) || told[who] || e.isSidecars(l) {
				continue
			}
			reason := ""
			switch {
			case l.Protocol != sockets.TCP:
				reason = "sidecars do not speak " + strings.ToUpper(l.Protocol.String())
			case local[port] && !exposed:
			case network[port] && !e.claimed.Has(port):
				reason = e.sharedBy(port)
			case l.UID == 0 && e.published.Has(port): // the container runtime's own; the nat rule is what is judged
			case !e.claimed.Has(port) && e.in.Source == SourceFiles:
				reason = "no sidecar would be registered on it"
			case !e.claimed.Has(port):
				reason = "no registered sidecar explains it"
			default:
				reason = e.sharedBy(port)
			}
			if reason == "" {
				continue
			}
			told[who] = true
			owner := e.owner(l)
			f := Finding{ID: catalog.SquattedPort, Port: port, Listener: l, Owner: owner}
			if l.Protocol == sockets.TCP && e.in.Enforced.Has(port) {
				f.State = Mitigated // the network does not reach it, but a sidecar cannot have the port either
			}
			e.find(f,
				"listener", address(l), "reason", reason, "process", cmp.Or(processNames(owner), "its process"), "range", e.res.Range.String())
		}
	}
}

// sharedBy tells when several users listen on one registered port: at most one of them is the sidecar.
func (e *evaluation) sharedBy(port uint16) string {
	all := e.byPort[port]
	if len(all) < 2 {
		return ""
	}
	if text, known := e.shared[port]; known {
		return text
	}
	uids := map[uint32]bool{}
	for _, l := range all {
		if l.Protocol == sockets.TCP {
			uids[l.UID] = true
		}
	}
	text := ""
	if len(uids) > 1 {
		text = fmt.Sprintf("several users listen on it (uids %s)", strings.Trim(fmt.Sprint(slices.Sorted(maps.Keys(uids))), "[]"))
	}
	e.shared[port] = text
	return text
}

func publishedPorts(published []firewall.Published) firewall.PortSet {
	var ports firewall.PortSet
	for _, p := range published {
		ports.AddRange(p.First, p.Last)
	}
	return ports
}

// judgeHost finds what else on this host hands out ports of the range, and what else undoes what the range is for.
func (e *evaluation) judgeHost() {
	e.judgeFill()
	h := e.in.Host
	if h == nil {
		return
	}
	sidecars := e.res.Range.Ports()
	reserved := spans(h.Reserved)
	if clash := portsOf(h.EphemeralFirst, h.EphemeralLast).Intersect(sidecars).Minus(reserved); clash.Len() > 0 {
		e.find(Finding{ID: catalog.RangeEphemeralOverlap}, "ports", clash.String(),
			"ephemeral", fmt.Sprintf("%d %d", h.EphemeralFirst, h.EphemeralLast), "reserved", commas(reserved.Union(sidecars)))
	}
	if len(h.RouteLocalnet) > 0 {
		e.find(Finding{ID: catalog.RouteLocalnet}, "interfaces", list(h.RouteLocalnet), "sysctl", localnetKeys(h.RouteLocalnet))
	}
	e.judgeSharing(h, sidecars)
	e.judgeSavedRules(h)
}

// nearlyFull is the share of the range, in percent, from which it is worth a warning.
const nearlyFull = 80

// judgeFill counts as Consul does: every registration on a port of the range takes it, whatever it is.
func (e *evaluation) judgeFill() {
	var used firewall.PortSet
	for i := range e.in.Registrations {
		if port := e.in.Registrations[i].Port; port > 0 && port <= 65535 && e.res.Range.Contains(uint16(port)) {
			used.Add(uint16(port))
		}
	}
	all := e.res.Range.Ports()
	size := all.Len()
	if size > 0 && used.Len()*100 >= size*nearlyFull {
		e.find(Finding{ID: catalog.RangeNearlyFull},
			"used", strconv.Itoa(used.Len()), "size", strconv.Itoa(size), "range", e.res.Range.String())
	}
}

// judgeSharing finds other allocators of the range's ports.
func (e *evaluation) judgeSharing(h *Host, sidecars firewall.PortSet) {
	if n := h.Nomad; n != nil {
		if shared := portsOf(n.First, n.Last).Intersect(sidecars).Minus(spans(n.Reserved)); shared.Len() > 0 {
			e.find(Finding{ID: catalog.RangeShared}, "who", "Nomad ("+n.Source+")", "ports", shared.String(),
				"fix", fmt.Sprintf("in Nomad's client block set reserved { reserved_ports = %q }, or move min_dynamic_port and max_dynamic_port away",
					commas(spans(n.Reserved).Union(sidecars))))
		}
	}
	var told firewall.PortSet
	for i := range h.Published {
		p := &h.Published[i]
		if p.Last < e.res.Range.First || p.First > e.res.Range.Last || !e.concerns(p) {
			continue
		}
		ports := publishedPorts([]firewall.Published{*p}).Intersect(sidecars).Minus(told)
		for port := range ports.All() {
			told.Add(port)
			if len(e.claims[port]) > 0 && (e.leads(port) || e.isOwnBind(port, p.To)) {
				continue // to the sidecar that is registered on it, as Nomad lays them out
			}
			f := Finding{ID: catalog.RangeShared, Port: port}
			if e.in.Enforced.Has(port) {
				f.State = Mitigated
			}
			e.find(f, "who", "a published container port or another nat rule", "ports", fmt.Sprintf("%d goes to %s", port, p.To),
				"fix", "publish the container on a port outside "+e.res.Range.String())
		}
	}
}

func spans(list []facts.PortSpan) firewall.PortSet {
	var ports firewall.PortSet
	for _, s := range list {
		ports = ports.Union(portsOf(s.First, s.Last))
	}
	return ports
}

// commas writes ports as sysctl and Nomad read them, "8080,21000-21255".
func commas(ports firewall.PortSet) string { return strings.ReplaceAll(ports.String(), ", ", ",") }

func portsOf(first, last uint16) firewall.PortSet { return PortRange{First: first, Last: last}.Ports() }

// localnetKeys writes the sysctl keys of route_localnet for a few interfaces, and that of all of them, because either is
// enough for the kernel. sysctl takes a slash for the dot in an interface's name.
func localnetKeys(interfaces []string) string {
	keys := []string{"net.ipv4.conf.all.route_localnet"}
	for _, name := range interfaces[:min(len(interfaces), 5)] {
		keys = append(keys, shellWord("net.ipv4.conf."+strings.ReplaceAll(name, ".", "/")+".route_localnet"))
	}
	return strings.Join(keys, "=0 ")
}
