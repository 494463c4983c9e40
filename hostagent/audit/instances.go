// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func instanceJudges() []judge {
	return []judge{
		hostJudge(catalog.AppListeners, appListeners),
		hostJudge(catalog.UpstreamListeners, upstreamListeners),
		hostJudge(catalog.ProxyAdmin, proxyAdmin),
		hostJudge(catalog.LoopbackTenancy, loopbackTenancy),
		{catalog.IntentionDefault, intentionDefault},
		{catalog.IntentionWildcards, intentionWildcards},
	}
}

// noServices is the row of an item about services where there is none, or they were not seen; false where they were.
func (h *Host) noServices(owners bool) (Row, bool) {
	if h.NoServices == "" && len(h.Services) == 0 {
		return Row{Status: NotApplicable, Found: []string{"no service with a sidecar is registered here"}}, true
	}
	return h.without(owners)
}

func appListeners(_ *Input, h *Host) Row {
	if r, none := h.noServices(true); none {
		return r
	}
	r := Row{Status: Pass}
	for i := range h.Services {
		r.Found = append(r.Found, h.Services[i].where())
	}
	slices.Sort(r.Found)
	r.Found = slices.Compact(r.Found)
	return r
}

// where says where a service listens that no finding is about.
func (s *Service) where() string {
	switch at := strings.Join(s.Listeners, ", "); {
	case s.UnixOnly:
		return s.Name + " is called through a unix socket"
	case at == "":
		return s.Name + " does not listen"
	case s.Namespace != 0:
		return s.Name + " listens on " + at + " in a network namespace of its own"
	default:
		return s.Name + " listens on " + at
	}
}

func upstreamListeners(_ *Input, h *Host) Row {
	if r, none := h.noServices(true); none {
		return r
	}
	r := Row{Status: Pass}
	for i := range h.Services {
		for _, upstream := range h.Services[i].Upstreams {
			r.Found = append(r.Found, h.Services[i].Name+" calls "+upstream)
		}
	}
	slices.Sort(r.Found)
	if r.Found = slices.Compact(r.Found); len(r.Found) == 0 {
		return Row{Status: NotApplicable, Found: []string{"no sidecar of this host has upstreams"}}
	}
	return r
}

func proxyAdmin(_ *Input, h *Host) Row {
	if r, none := h.noServices(true); none {
		return r
	}
	return Row{Status: Pass, Found: []string{"no sidecar listens on the network for anything but the mesh"}}
}

// loopbackTenancy tells who could call whom without an intention. Services of one name are the same identity.
func loopbackTenancy(_ *Input, h *Host) Row {
	if r, none := h.noServices(false); none {
		return r
	}
	spaces := map[uint64]map[string][]*Service{}
	for i := range h.Services {
		s := &h.Services[i]
		if spaces[s.Namespace] == nil {
			spaces[s.Namespace] = map[string][]*Service{}
		}
		spaces[s.Namespace][s.Name] = append(spaces[s.Namespace][s.Name], s)
	}
	var found []string
	for _, space := range slices.Sorted(maps.Keys(spaces)) {
		if byName := spaces[space]; len(byName) > 1 {
			found = append(found, sharing(byName)...)
		}
	}
	if len(found) == 0 {
		return Row{Status: Pass, Found: []string{"no two mesh services share a loopback"}}
	}
	slices.Sort(found)
	return Row{Status: Info, Found: slices.Compact(found)}
}

// sharing says what each process of a network namespace can call.
func sharing(byName map[string][]*Service) (found []string) {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		var at []string
		for _, s := range byName[name] {
			at = append(at, s.Listeners...)
			for _, upstream := range s.Upstreams {
				found = append(found, "each process of the host calls upstream "+upstream+" as "+name)
			}
		}
		slices.Sort(at)
		at = slices.Compact(at)
		text := name
		if len(at) > 0 {
			text += " (" + strings.Join(at[:min(len(at), 3)], ", ") + ")"
		}
		names = append(names, text)
	}
	// A blank sorts before letters, so that who shares stands before what follows from it.
	return append(found, "a process of any of these can call the others over loopback: "+few(names, 8))
}

const (
	anything     = "*"
	intentionKey = "default_intention_policy"
)

// intentionDefault is what happens without an intention. An intention of * to * decides that before any default.
func intentionDefault(in *Input) Row {
	if in.Intentions.Known && slices.ContainsFunc(in.Intentions.Value, func(i consul.Intention) bool {
		return i.Source == anything && i.Destination == anything && !i.Allow && !i.ByRequest
	}) {
		return Row{Status: Pass, Found: []string{"the intention from * to * denies"}}
	}
	policy := settingOf(in, in.Running.Value.DefaultIntentionPolicy, "", intentionKey)
	switch {
	case policy.known && policy.value == "deny":
		return Row{Status: Pass, Found: []string{policy.found}}.doubted(in, intentionKey)
	case policy.known && policy.value != "":
		return Row{Status: Fail, Found: []string{policy.found}}
	}
	if !policy.known && !in.Running.Known {
		return policy.unknown()
	} // an agent that does not tell the setting does not know it: it came with Consul 1.17
	enabled, acls := aclsEnabled(in), defaultPolicy(in)
	switch {
	case !enabled.known:
		return enabled.unknown()
	case !enabled.value:
		return Row{Status: NotApplicable, Found: []string{"ACLs are disabled, and services may talk: see " + string(catalog.ACLEnabled)}}
	case !acls.known:
		return acls.unknown()
	case acls.value == "deny":
		return Row{Status: Pass, Found: []string{acls.found + ", which is the default of intentions, too"}}.
			doubtedPolicy(in).doubtedACLs(in).doubted(in, intentionKey)
	}
	return Row{Status: NotApplicable, Found: []string{"intentions have the default of ACLs: see " + string(catalog.ACLDefaultDeny)}}
}

func intentionWildcards(in *Input) Row {
	if in.Authority.Reason == reasonMeshOff || in.Intentions.Reason == reasonMeshOff {
		return Row{Status: NotApplicable, Found: []string{reasonMeshOff + ", and with it intentions: see ca-enabled"}}
	}
	if !in.Intentions.Known {
		return in.Intentions.unknown("intentions")
	}
	var verdicts []verdict
	for _, i := range in.Intentions.Value {
		wide := i.Source == anything || i.Destination == anything
		text := fmt.Sprintf("an intention from %s to %s", cmp.Or(i.Source, `""`), cmp.Or(i.Destination, `""`))
		switch {
		case !wide || !i.Allow && !i.ByRequest:
		case i.ByRequest:
			verdicts = append(verdicts, verdict{Info, text + " decides by request", ""})
		case i.Source == i.Destination:
			verdicts = append(verdicts, verdict{Fail, text + " allows", ""})
		default:
			verdicts = append(verdicts, verdict{Warn, text + " allows", ""})
		}
	}
	if r, found := row(verdicts); found {
		return r
	}
	return Row{Status: Pass, Found: []string{"no intention with * allows"}}
}
