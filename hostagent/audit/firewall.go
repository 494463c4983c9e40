// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func firewallJudges() []judge {
	return []judge{
		hostJudge(catalog.RangeClosed, rangeClosed),
		hostJudge(catalog.RangeFree, rangeFree),
		hostJudge(catalog.RangeReserved, rangeReserved),
		hostJudge(catalog.SidecarPorts, sidecarPorts),
		hostJudge(catalog.ConsulReachable, consulReachable),
		{catalog.ConsulUnexposed, consulUnexposed},
	}
}

// noRange is the row of an item about the sidecar range where there is none, or it is not known; false where it is.
func (h *Host) noRange() (Row, bool) {
	switch {
	case h.RangeOff:
		return notApplicable("the agent hands out no sidecar ports (sidecar_min_port and sidecar_max_port are off): " +
			"each sidecar has an explicit one"), true
	case h.First == 0:
		return Row{
			Status: Unknown, Found: []string{"the agent does not tell its sidecar range"},
			Needs: `a token with agent_prefix "" { policy = "read" }, or sidecar_range in hostagent's configuration`,
		}, true
	}
	return Row{}, false
}

// rangeClosed looks at what the kernel does, whatever the configuration says.
func rangeClosed(_ *Input, h *Host) Row {
	if r, none := h.noRange(); none {
		return r
	}
	if !h.Ports.Known {
		return h.Ports.unknown("what the kernel lets into the sidecar range")
	}
	var open []uint16
	closed := map[string][]uint16{}
	for _, p := range h.Ports.Value {
		switch {
		case !p.InRange || p.Assigned:
		case p.Closed:
			closed[p.By] = append(closed[p.By], p.Number)
		default:
			open = append(open, p.Number)
		}
	}
	r := Row{Status: Pass}
	if unseen, ok := h.without(false); ok && len(open) > 0 {
		unseen.Found = append(unseen.Found, "nothing closes "+portsText(open)+", and who is registered there is not known")
		return unseen
	}
	if len(open) > 0 {
		r.Status = Fail
		r.Found = append(r.Found, fmt.Sprintf("nothing closes %s to the network, which no sidecar has%s", portsText(open), h.whyOpen()))
		if h.Mode == "guard" {
			r.Remedy = "hostagent status says what keeps the guard from holding; hostagent firewall show prints its rules"
		}
	}
	for _, by := range slices.Sorted(maps.Keys(closed)) {
		are := "is"
		if len(closed[by]) > 1 {
			are = "are"
		}
		r.Found = append(r.Found, fmt.Sprintf("%s %s closed by %s", portsText(closed[by]), are, by))
	}
	if len(r.Found) == 0 {
		r.Found = []string{fmt.Sprintf("each port of %d-%d has a sidecar", h.First, h.Last)}
	}
	return r
}

// whyOpen says what was looked at.
func (h *Host) whyOpen() string {
	text := ": there are no rules of hostagent for it"
	switch h.Mode {
	case "observe":
		text = `: hostagent runs with mode = "observe"`
	case "guard":
		text = `, although hostagent is configured with mode = "guard"`
	}
	if h.Firewalls.Known {
		return text + ", and no rule of nf_tables does; rules of iptables-legacy are not read"
	}
	return text
}

func rangeFree(_ *Input, h *Host) Row {
	if r, none := h.noRange(); none {
		return r
	}
	if r, unseen := h.without(false); unseen {
		return r
	}
	return passed(fmt.Sprintf("nothing but registered sidecars, and what they explain, listens on %d-%d", h.First, h.Last))
}

func rangeReserved(_ *Input, h *Host) Row {
	if r, none := h.noRange(); none {
		return r
	}
	if !h.Ephemeral.Known {
		return h.Ephemeral.unknown("net.ipv4.ip_local_port_range")
	}
	return passed(fmt.Sprintf("the kernel takes source ports from %s without reserved ones, and no other allocator was found for %d-%d",
		h.Ephemeral.Value, h.First, h.Last))
}

// sidecarPorts is about firewalls: that a sidecar listens is told by findings.
func sidecarPorts(_ *Input, h *Host) Row {
	if r, unseen := h.without(false); unseen {
		return r
	}
	if !h.Ports.Known {
		return h.Ports.unknown("what the kernel lets through to sidecars")
	}
	var open []uint16
	closed := map[string][]uint16{}
	for _, p := range h.Ports.Value {
		switch {
		case !p.Assigned:
		case p.Closed:
			closed[p.By] = append(closed[p.By], p.Number)
		default:
			open = append(open, p.Number)
		}
	}
	var blocked []verdict
	for by, ports := range closed {
		text := portsText(ports) + " of registered sidecars are closed by " + by
		if len(ports) == 1 {
			text = portsText(ports) + " of a registered sidecar is closed by " + by
		}
		blocked = append(blocked, verdict{Fail, text, ""})
	}
	if r, found := row(blocked); found {
		return r
	}
	switch {
	case len(open) == 0:
		return Row{Status: NotApplicable, Found: []string{"no sidecar is registered here"}}
	case !h.Firewalls.Known:
		return h.Firewalls.unknown("other firewalls of this host")
	}
	return Row{Status: Pass, Found: []string{"no firewall of this host keeps the network from " + portsText(open)}}
}

func consulReachable(_ *Input, h *Host) Row {
	switch {
	case !h.Peers.Known:
		return h.Peers.unknown("the ports that other agents need")
	case len(h.Peers.Value) == 0:
		return Row{Status: NotApplicable, Found: []string{"no gossip or RPC port listens on the network: this agent has no peers"}}
	case !h.Firewalls.Known:
		return h.Firewalls.unknown("other firewalls of this host")
	}
	return Row{Status: Pass, Found: []string{"no firewall of this host keeps the network from " + consulPorts(h.Peers.Value)}}
}

// consulUnexposed asks more than that the plain APIs are off the network. Where their own rows say that they are not, this
// one does not say it again.
func consulUnexposed(in *Input) Row {
	if !in.Host.Known {
		return in.Host.unknown("this host")
	}
	h := &in.Host.Value
	if !h.Exposed.Known {
		return h.Exposed.unknown("where Consul's ports listen")
	}
	var verdicts []verdict
	for i := range h.Findings {
		f := &h.Findings[i]
		if f.ID != catalog.ExposedConsulAPI {
			continue
		}
		v := judgeFinding(f)
		if other := in.apiRow(f.Message); other != "" && v.status == Fail {
			v = verdict{Pass, f.Message + ": see " + string(other), ""}
		} else if f.HeldBy != "" && v.status == Warn {
			v.status = Pass
		}
		verdicts = append(verdicts, v)
	}
	for _, p := range h.Exposed.Value {
		v := verdict{Fail, fmt.Sprintf("Consul's %s listens on %s", p.Name, p.Listener), ""}
		switch {
		case p.Closed:
			v = verdict{Pass, v.found + ", and a firewall of this host keeps the network from it", ""}
		case p.Name == "https" || p.Name == "grpc_tls": // who reaches it is asked for a token, in private
			v.status = Warn
		}
		verdicts = append(verdicts, v)
	}
	if r, found := row(verdicts); found {
		return r
	}
	return Row{Status: Pass, Found: []string{"no port of Consul that peers do without listens on the network"}}
}

// apiRow tells which row fails for the API that a finding of exposed-consul-api names, "" for none.
func (in *Input) apiRow(message string) catalog.ID {
	id := catalog.APIHTTP
	if strings.Contains(message, "gRPC") {
		id = catalog.APIGRPC
	}
	for _, j := range apiJudges() {
		if j.id == id && j.judge(in).Status == Fail {
			return id
		}
	}
	return ""
}

func consulPorts(ports []ConsulPort) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.Name + " (" + p.Listener + ")"
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ", ")
}
