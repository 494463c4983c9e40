// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// bears tells on which item a finding of the core bears, and how badly one that is open: "" for one that says nothing of
// what the checklist asks, or that an item sees by itself.
func bears(id catalog.ID) (item catalog.ID, open Status) {
	switch id {
	case catalog.ExposedListener, catalog.ExposedSibling:
		return catalog.AppListeners, Fail
	case catalog.RouteLocalnet: // loopback is not what it was, for neighbours alone
		return catalog.AppListeners, Warn
	case catalog.ExposedUpstream:
		return catalog.UpstreamListeners, Fail
	case catalog.ExposedAdmin:
		return catalog.ProxyAdmin, Fail
	case catalog.ExposedConsulAPI:
		return catalog.ConsulUnexposed, Fail
	case catalog.SquattedPort, catalog.NotASidecar, catalog.DuplicatePort:
		return catalog.RangeFree, Fail
	case catalog.RangeEphemeralOverlap, catalog.RangeShared:
		return catalog.RangeReserved, Fail
	case catalog.PortNotOpened, catalog.OpeningBlocked, catalog.RangeRefused:
		return catalog.SidecarPorts, Fail
	case catalog.SidecarNotListening, catalog.SidecarLoopbackOnly, catalog.UnconfirmedClaim, catalog.RangeNearlyFull:
		return catalog.SidecarPorts, Warn // the firewall does what it should
	case catalog.ConsulPortBlocked:
		return catalog.ConsulReachable, Fail
	case catalog.SavedRules: // at the next boot
		return catalog.RangeClosed, Warn
	default:
		return "", ""
	}
}

// verdict is what one finding means for its item.
type verdict struct {
	status Status
	found  string
	remedy string
}

// judgeFinding tells what a finding means. One that is meant to be so fails nothing, and one that a firewall holds is weaker
// than what binds to loopback: a rule goes more easily than an address.
func judgeFinding(f *Finding) verdict {
	item, open := bears(f.ID)
	switch {
	case f.State == "exempt" && f.Firewall:
		return verdict{Warn, f.Message + "; a firewall elsewhere holds it: " + f.Exemption, ""}
	case f.State == "exempt":
		return verdict{Info, f.Message + "; exempt: " + f.Exemption, ""}
	case f.State == "mitigated" && item == catalog.RangeFree: // a closed port is taken all the same
		return verdict{Warn, f.Message + "; the guard keeps the network from it, and the port is still not free for a sidecar", f.Remedy}
	case f.State == "mitigated": // the message names what holds it
		return verdict{Pass, f.Message, ""}
	case f.HeldBy != "" && open == Fail:
		return verdict{Warn, f.Message + "; only a firewall of the host keeps the network from it: " + f.HeldBy, f.Remedy}
	}
	return verdict{open, f.Message, f.Remedy}
}

// row makes one row of what was found, the worst first, and false where nothing was.
func row(verdicts []verdict) (Row, bool) {
	if len(verdicts) == 0 {
		return Row{}, false
	}
	verdicts = slices.Clone(verdicts)
	slices.SortStableFunc(verdicts, func(a, b verdict) int {
		switch {
		case a.status.Worse(b.status):
			return -1
		case b.status.Worse(a.status):
			return 1
		}
		return cmp.Compare(a.found, b.found)
	})
	r := Row{Status: verdicts[0].status}
	var remedies []string
	for _, v := range verdicts {
		if !slices.Contains(r.Found, v.found) {
			r.Found = append(r.Found, v.found)
		}
		if v.status == r.Status && v.remedy != "" && !slices.Contains(remedies, v.remedy) {
			remedies = append(remedies, v.remedy)
		}
	}
	if len(remedies) > 0 {
		r.Remedy = remedies[0]
	}
	if more := len(remedies) - 1; more > 0 {
		r.Remedy += fmt.Sprintf("; hostagent scan has the remedies of %d more", more)
	}
	return r, true
}

// verdictsOn judges the findings that bear on an item.
func (h *Host) verdictsOn(item catalog.ID) []verdict {
	var verdicts []verdict
	for i := range h.Findings {
		if on, _ := bears(h.Findings[i].ID); on == item {
			verdicts = append(verdicts, judgeFinding(&h.Findings[i]))
		}
	}
	return verdicts
}

// hostJudge is a judge of what was found on the host. nothing is its row where no finding bears on the item; one that is worse
// than what findings say is told with them.
func hostJudge(item catalog.ID, nothing func(*Input, *Host) Row) judge {
	return judge{item, func(in *Input) Row {
		if !in.Host.Known {
			return in.Host.unknown("this host")
		}
		h := &in.Host.Value
		r, found := row(h.verdictsOn(item))
		beside := nothing(in, h)
		switch {
		case !found:
			return beside
		case beside.Status == Pass, beside.Status == NotApplicable, r.Status.Worse(Unknown) && !beside.Status.Worse(r.Status):
			return r
		}
		beside.Found = append(beside.Found, r.Found...)
		return beside
	}}
}

// without is the row of an item that hangs on registrations, or on who holds sockets, where these were not seen; false where
// they were.
func (h *Host) without(owners bool) (Row, bool) {
	if h.NoServices != "" {
		return Row{
			Status: Unknown, Found: []string{"registered services are not known: " + h.NoServices},
			Needs: `a token with service_prefix "" { policy = "read" }, as hostagent acl-policy prints, and an agent that answers`,
		}, true
	}
	if owners && h.NoOwners != "" {
		return Row{Status: Unknown, Found: []string{"not every process was seen: " + h.NoOwners}, Needs: asRoot}, true
	}
	return Row{}, false
}

// portsText is "port 21000" or "ports 21000, 21002-21255".
func portsText(ports []uint16) string {
	if len(ports) == 1 {
		return "port " + spans(ports)
	}
	return "ports " + spans(ports)
}

// spans writes ports that ascend as ranges: "21000, 21002-21255".
func spans(ports []uint16) string {
	var texts []string
	for i := 0; i < len(ports); {
		last := i
		for last+1 < len(ports) && int(ports[last+1]) == int(ports[last])+1 {
			last++
		}
		text := fmt.Sprint(ports[i])
		if last > i {
			text += fmt.Sprintf("-%d", ports[last])
		}
		texts = append(texts, text)
		i = last + 1
	}
	return few(texts, 40)
}
