// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
	"github.com/hostagent/hostagent/hostagent/page"
)

// fleetPage is the page about the hosts of a datacenter. notes say what could not be seen.
func fleetPage(report *fleet.Report, notes []string, at time.Time) *page.Page {
	p := &page.Page{Title: "datacenter " + report.Datacenter, Datacenter: report.Datacenter, Version: version(), At: at, Fleet: true, Notes: fleetNotes(report, notes)}
	if report.Service != "" {
		p.Title = fmt.Sprintf("hosts of service %s in datacenter %s", report.Service, report.Datacenter)
	}
	for i := range report.Hosts {
		h := &report.Hosts[i]
		if h.State == fleet.Missing {
			p.Missing = append(p.Missing, page.Missing{Name: h.Node, Address: hostAddress(h), Sidecars: h.Sidecars, Alive: h.Alive})
		} else {
			p.Hosts = append(p.Hosts, pageHostOf(h))
		}
	}
	return p
}

func hostAddress(h *fleet.Host) string {
	if !h.Address.IsValid() {
		return ""
	}
	return h.Address.String()
}

func pageHostOf(h *fleet.Host) page.Host {
	out := page.Host{
		Name: h.Node, Address: hostAddress(h), Version: h.Self.Version, Mode: h.Self.Mode, Enforce: h.Self.Enforce, Says: h.Says, More: h.More,
		Score: pageScore(h.Self.Score),
	}
	switch h.State {
	case fleet.Silent:
		out.Life = page.Silent
	case fleet.Stopped:
		out.Life = page.Stopped
	case fleet.Runs, fleet.Missing:
	}
	names := map[uint16]string{}
	for i := range h.Services {
		s := &h.Services[i]
		out.Services = append(out.Services, pageServiceOf(s))
		for _, p := range s.Sidecars {
			if p.Port > 0 && p.Port <= 65535 {
				names[uint16(p.Port)] = s.Name
			}
		}
	}
	for i := range h.Findings {
		out.Findings = append(out.Findings, pageFindingOf(&h.Findings[i]))
	}
	for _, c := range h.Checks {
		switch {
		case c.Status == consul.Passing || c.Key == lifeKey: // Says has what that tells
		case c.Key == checklistKey && len(out.Score) > 0:
			out.Checklist = c.Output
		default:
			out.Checks = append(out.Checks, page.Check{Name: c.Name, Status: string(c.Status), Output: c.Output})
		}
	}
	markTrouble(&out)
	out.Range = page.Range{
		First: h.Self.First, Last: h.Self.Last, Runs: pageRuns(cellUses(h.Self.First, h.Self.Cells, names)), Partly: h.Self.Cells == "" && len(names) > 0,
	}
	return out
}

// cellUses are the ports that a host tells of as cells, those that are not free. Where it tells of none, names are the ports of
// sidecars that are known all the same.
func cellUses(first uint16, cells string, names map[uint16]string) []hostagent.PortUse {
	var uses []hostagent.PortUse
	for i := range min(len(cells), 1<<16-int(first)) {
		port := first + uint16(i) //nolint:gosec // below 65536
		m, known := markOfSign(cells[i])
		if !known || m.use == "" {
			continue
		}
		uses = append(uses, hostagent.PortUse{Port: port, Use: m.use, For: names[port]})
	}
	if cells == "" && first != 0 {
		for port := int(first); port < 1<<16; port++ {
			if name, ok := names[uint16(port)]; ok { //nolint:gosec // below 65536
				uses = append(uses, hostagent.PortUse{Port: uint16(port), Use: hostagent.UseSidecar, For: name}) //nolint:gosec // the same
			}
		}
	}
	return uses
}

// markOfSign is the mark that is drawn as sign.
func markOfSign(sign byte) (mark, bool) {
	for _, m := range marks() {
		if m.use.Cell() == sign {
			return m, true
		}
	}
	return mark{}, false
}

func pageServiceOf(s *fleet.Service) page.Service {
	out := page.Service{Name: s.Name, ID: s.ID, Told: s.Told}
	for _, at := range s.Loopback {
		out.Listeners = append(out.Listeners, strings.TrimPrefix(at, "tcp "))
	}
	for _, f := range s.Findings {
		if !leadsAround(f.ID) {
			continue
		}
		at := strings.TrimPrefix(f.Where, "tcp ")
		out.Around = append(out.Around, page.WayAround{At: cmp.Or(at, s.Name), Finding: string(f.ID), State: f.State})
		if f.ID == catalog.ExposedListener && at != "" {
			out.Listeners = append(out.Listeners, at) // its sidecar calls it there, too
		}
	}
	for _, p := range s.Sidecars {
		out.In = append(out.In, page.WayIn{Sidecar: p.ID, Port: p.Port, Open: p.Open, Says: p.Says})
		for _, paths := range p.Paths {
			out.Notes = append(out.Notes, "exposed paths of "+p.ID+", without mTLS: "+paths)
		}
	}
	if s.More > 0 {
		out.Notes = append(out.Notes, "and "+plural(s.More, "more sidecar"))
	}
	if s.Says != "" {
		out.Notes = append(out.Notes, s.Says)
	}
	return out
}

func pageFindingOf(f *fleet.Finding) page.Finding {
	entry, _ := catalog.Lookup(f.ID)
	return page.Finding{
		Severity: f.Severity.String(), ID: string(f.ID), State: f.State, Title: entry.Title, Service: f.Service, Where: f.Where, Message: f.Message,
		Who: f.Who, Remedy: f.Remedy, Exemption: f.Exemption,
	}
}
