// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// checks is what Consul shows of the last pass. Every output is sorted and free of times, pids and counters: a steady
// host says the same at every pass, and so writes nothing to the servers.
func (a *Agent) checks(consulErr error) consul.Report {
	r := consul.Report{Service: a.parts.Policy.OwnService, Life: a.lifeCheck(consulErr)}
	if a.memory.answers == 0 {
		return r // nothing is known yet, and what an earlier run wrote is not ours to take back
	}
	r.Checks = append(r.Checks, a.firewallCheck(), rangeCheck(&a.result))
	for _, s := range a.result.Services {
		r.Checks = append(r.Checks, serviceCheck(&a.result, s))
	}
	return r
}

func (a *Agent) lifeCheck(consulErr error) consul.Check {
	c := consul.Check{
		Key: "alive", Name: "hostagent alive", Status: consul.Passing,
		Notes:  "Turns critical when hostagent stops. Its other results stand until it runs again, or vanish with it after three days.",
		Output: fmt.Sprintf("hostagent %s runs in %s mode.", a.parts.Version, a.parts.Policy.Mode),
	}
	if consulErr != nil {
		c.Status = consul.Warning
		c.Output += "\nThe last whole answer of Consul stands: " + oneLine(consulErr.Error())
	}
	return c
}

func (a *Agent) firewallCheck() consul.Check {
	c := consul.Check{
		Key: "firewall", Name: "Firewall", Status: consul.Passing,
		Notes: "Only registered sidecar ports are open to the network; the rest of the range is closed.",
	}
	var b strings.Builder
	res := &a.result
	switch {
	case a.parts.Policy.Mode == ModeObserve:
		fmt.Fprintf(&b, "Observe mode: nothing is enforced. Guard mode would\nclose: %s\nopen:  %s\n", res.Rules.Guard, res.Rules.Open)
	case a.applyErr != nil:
		c.Status = consul.Critical
		fmt.Fprintf(&b, "The rules could not be brought up to date:\n%s\n", oneLine(a.applyErr.Error()))
	case !a.memory.settled:
		c.Status = consul.Warning
		b.WriteString("Waiting for two equal answers of Consul before anything is closed.\n")
	default:
		fmt.Fprintf(&b, "Guarded: %s\nOpen:    %s\n", res.Rules.Guard, res.Rules.Open)
	}
	for _, o := range res.Openings {
		fmt.Fprintf(&b, "%5d  %s\n", o.Port, openingText(o))
	}
	c.Output = strings.TrimRight(b.String(), "\n")
	return c
}

func openingText(o Opening) string {
	names := make([]string, 0, len(o.Services))
	for _, s := range o.Services {
		names = append(names, catalog.Clean(s))
	}
	if len(names) == 0 {
		for _, id := range o.IDs {
			names = append(names, catalog.Clean(id))
		}
	}
	text := list(names)
	if o.Held {
		text = strings.TrimSpace(text + " (no longer registered, closes after close_delay)")
	}
	return text
}

// ofRange tells the findings that belong to the host's range and registrations rather than to one application.
func ofRange(id catalog.ID) bool {
	return id != catalog.ExposedListener
}

func rangeCheck(res *Result) consul.Check {
	c := consul.Check{
		Key: "sidecar-range", Name: "Sidecar range",
		Notes: "Who holds ports of the sidecar range, and registrations whose port stays closed.",
	}
	fs := slices.DeleteFunc(slices.Clone(res.Findings), func(f Finding) bool { return !ofRange(f.ID) })
	c.Status, c.Output = findingsText(fs)
	if len(fs) == 0 {
		c.Output = fmt.Sprintf("Range %s: every listener is a registered sidecar, every registered sidecar listens.", res.Range)
	}
	return c
}

func serviceCheck(res *Result, s Service) consul.Check {
	c := consul.Check{
		Key: "service:" + s.ID, Name: "Listeners of " + catalog.Clean(cmp.Or(s.ID, s.Name)),
		Notes: "A mesh service must listen on loopback only, where nothing but its sidecar's host can call it.",
	}
	fs := slices.DeleteFunc(slices.Clone(res.Findings), func(f Finding) bool { return f.ServiceID != s.ID || ofRange(f.ID) })
	var text string
	c.Status, text = findingsText(fs)
	var b strings.Builder
	b.WriteString(text)
	if len(fs) == 0 {
		if len(s.Listeners) == 0 {
			fmt.Fprintf(&b, "%s does not listen on this host's network.", catalog.Clean(s.Name))
		} else {
			fmt.Fprintf(&b, "%s listens on loopback only: %s.", catalog.Clean(s.Name), listenersText(s))
		}
	}
	for _, p := range s.Sidecars {
		state := "left closed"
		if p.Opened {
			state = "open"
		}
		fmt.Fprintf(&b, "\nsidecar %s: port %d, %s", catalog.Clean(p.ID), p.Port, state)
	}
	c.Output = b.String()
	return c
}

func listenersText(s Service) string {
	texts := make([]string, len(s.Listeners))
	for i := range s.Listeners {
		texts[i] = address(&s.Listeners[i])
	}
	slices.Sort(texts)
	return list(slices.Compact(texts))
}

// findingsText shows findings one after the other, and the status of the worst. Info alone still passes.
func findingsText(fs []Finding) (consul.Status, string) {
	status := consul.Passing
	var b strings.Builder
	for i, f := range fs {
		switch {
		case f.Severity == catalog.Critical:
			status = consul.Critical
		case f.Severity == catalog.Warning && status == consul.Passing:
			status = consul.Warning
		}
		if b.Len() > consul.MaxOutput-600 {
			fmt.Fprintf(&b, "and %d more: see hostagent scan\n", len(fs)-i)
			break
		}
		state := ""
		if f.State != Open {
			state = " (" + string(f.State) + ")"
		}
		fmt.Fprintf(&b, "%s%s\n  %s\n  remedy: %s\n", f.ID, state, f.Message, f.Remedy)
	}
	return status, b.String()
}

// oneLine makes an error's text fit a check's output.
func oneLine(text string) string {
	return strings.Join(strings.Fields(text), " ")
}
