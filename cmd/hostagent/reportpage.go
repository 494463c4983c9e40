// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/page"
	"github.com/hostagent/hostagent/sockets"
)

// hostPage is the page about this host.
func hostPage(seen *audited, enforce string, at time.Time) *page.Page {
	name := seen.subject.Node
	if name == "" {
		name, _ = os.Hostname() // as good as none
	}
	name = cmp.Or(name, "this host")
	h := pageHost(seen.scan, at)
	h.Name, h.Enforce, h.Version = name, enforce, version()
	h.Score, h.Rows = pageScore(seen.report.Score()), pageRows(&seen.report)
	h.Notes = slices.Clone(seen.report.Notes)
	for _, note := range seen.scan.Notes {
		if !slices.Contains(h.Notes, note) {
			h.Notes = append(h.Notes, note)
		}
	}
	return &page.Page{Title: name, Datacenter: seen.subject.Datacenter, Version: version(), At: at, Hosts: []page.Host{h}}
}

// pageHost is what a page shows of a scan. It has no command lines: they hold passwords, and pages are passed on.
func pageHost(scan *hostagent.Scan, at time.Time) page.Host {
	h := page.Host{Mode: string(scan.Mode), Findings: pageFindings(scan, at)}
	if scan.Agent.Address.IsValid() {
		h.Address = scan.Agent.Address.String()
	}
	if scan.Source == hostagent.SourceNone {
		h.Unknown = "no agent answers"
		if err := errors.Join(scan.Errors...); err != nil {
			h.Unknown = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		return h
	}
	h.Range = page.Range{First: scan.Range.First, Last: scan.Range.Last, Runs: pageRuns(scan.RangeUse())}
	for i := range scan.Services {
		h.Services = append(h.Services, pageService(scan, &scan.Services[i]))
	}
	markTrouble(&h)
	return h
}

// markTrouble notes at each way in which finding says that nobody gets through there.
func markTrouble(h *page.Host) {
	for i := range h.Services {
		for j := range h.Services[i].In {
			way := &h.Services[i].In[j]
			for k := range h.Findings {
				if f := &h.Findings[k]; way.Trouble == "" && way.Open && hinders(f, way.Port) {
					way.Trouble = f.ID
				}
			}
		}
	}
}

// hinders tells whether f says of an open port that its sidecar is not reached there.
func hinders(f *page.Finding, port int) bool {
	if f.State != string(hostagent.Open) {
		return false
	}
	number := strconv.Itoa(port)
	if slices.Contains([]catalog.ID{catalog.SidecarNotListening, catalog.SidecarLoopbackOnly, catalog.NotASidecar}, catalog.ID(f.ID)) {
		return strings.HasSuffix(f.Where, ":"+number) || strings.HasSuffix(f.Where, "port "+number) ||
			strings.HasPrefix(f.Message, "nothing listens on port "+number+" ") // a check has no Where of what does not listen
	}
	ports, _, _ := strings.Cut(f.Message, " cannot be reached")
	return f.ID == string(catalog.OpeningBlocked) && slices.ContainsFunc(strings.FieldsFunc(ports, func(r rune) bool { return r == ',' || r == ' ' }),
		func(word string) bool {
			first, last, ranged := strings.Cut(word, "-")
			if !ranged {
				return first == number
			}
			low, errLow := strconv.Atoi(first)
			high, errHigh := strconv.Atoi(last)
			return errLow == nil && errHigh == nil && low <= port && port <= high
		})
}

// pageRuns puts ports together that are used alike.
func pageRuns(uses []hostagent.PortUse) []page.Run {
	const runes = 60 // of a name
	var runs []page.Run
	for _, r := range stretches(uses, runes) {
		runs = append(runs, page.Run{First: r.first, Last: r.last, Use: page.Use(r.use), Text: strings.Join(r.words(), ", ")})
	}
	return runs
}

func pageService(scan *hostagent.Scan, s *hostagent.Service) page.Service {
	out := page.Service{Name: cmp.Or(s.Name, s.ID), ID: s.ID, Told: true}
	for i := range s.Listeners {
		if at := s.Listeners[i].Addr.String(); !slices.Contains(out.Listeners, at) {
			out.Listeners = append(out.Listeners, at)
		}
	}
	for _, p := range s.Sidecars {
		out.In = append(out.In, page.WayIn{Sidecar: p.ID, Port: p.Port, Open: p.Opened, Says: sidecarSays(scan, &p)})
		for _, path := range p.Paths {
			out.In = append(out.In, page.WayIn{Sidecar: p.ID, Port: int(path.Port), Open: path.Opened, Path: true, Says: pathSays(scan, &path)})
		}
	}
	for i := range scan.Findings {
		f := &scan.Findings[i]
		if f.ServiceID == s.ID && leadsAround(f.ID) {
			out.Around = append(out.Around, page.WayAround{At: cmp.Or(strings.TrimPrefix(whereText(f), "tcp "), s.Name), Finding: string(f.ID), State: string(f.State)})
		}
	}
	return out
}

// leadsAround tells whether a finding is about a listener that leads around a service's sidecar: those about one application
// are, but for the one that says what keeps such a listener from being closed.
func leadsAround(id catalog.ID) bool {
	entry, _ := catalog.Lookup(id)
	return entry.OfService && id != catalog.QuarantineRefused
}

func sidecarSays(scan *hostagent.Scan, p *hostagent.Sidecar) string {
	to := ""
	if len(scan.AllowFrom) > 0 {
		to = " to " + fewNetworks(scan.AllowFrom)
	}
	switch {
	case p.Predicted:
		return "the port that an agent would assign"
	case scan.Mode != hostagent.ModeGuard && p.Opened:
		return "guard mode would open it" + to
	case scan.Mode != hostagent.ModeGuard:
		return "guard mode would not open it"
	case p.Opened:
		return "open" + to
	}
	return "left closed"
}

// fewNetworks names the first of those who may connect.
func fewNetworks(sources []string) string {
	const most = 4
	text := strings.Join(sources[:min(len(sources), most)], ", ")
	if more := len(sources) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func pathSays(scan *hostagent.Scan, path *hostagent.SidecarPath) string {
	from := fewNetworks(scan.ExposedPathsFrom)
	switch {
	case !path.Opened:
		return "not opened"
	case scan.Mode != hostagent.ModeGuard:
		return "guard mode would open it to " + from
	}
	return "open to " + from
}

// whereText names the socket or port that a finding is about, "" for none.
func whereText(f *hostagent.Finding) string {
	switch {
	case f.Listener != nil:
		return socketText(f.Listener)
	case f.Port != 0:
		return fmt.Sprintf("%s port %d", cmp.Or(f.Protocol, sockets.TCP), f.Port)
	}
	return ""
}

func pageFindings(scan *hostagent.Scan, at time.Time) []page.Finding {
	words := &screen{now: at.UTC()} // as wide as it likes, and without command lines
	out := make([]page.Finding, len(scan.Findings))
	for i := range scan.Findings {
		f := &scan.Findings[i]
		entry, _ := catalog.Lookup(f.ID)
		out[i] = page.Finding{
			Severity: f.Severity.String(), ID: string(f.ID), State: string(f.State), Title: entry.Title, Where: whereText(f),
			Message: f.Message, Reach: words.reachText(f), Remedy: f.Remedy, Exemption: f.Exemption.String(),
		}
		if f.Service != "" {
			out[i].Service = serviceText(f.Service, f.ServiceID)
		}
		if f.Listener != nil {
			out[i].Who = words.whoText(f.Listener, f.Owner)
		}
	}
	return out
}

// pageScore counts rows by status, the best first.
func pageScore(score audit.Score) []page.Count {
	var counts []page.Count
	for _, status := range audit.Statuses() {
		if n := score[status]; n > 0 {
			counts = append(counts, page.Count{Status: string(status), N: n})
		}
	}
	return counts
}

// pageRows are the rows that somebody has to look at, the worst first.
func pageRows(report *audit.Report) []page.Row {
	var rows []page.Row
	for _, status := range []audit.Status{audit.Fail, audit.Warn, audit.Unknown} {
		for _, row := range report.Rows {
			if row.Status != status {
				continue
			}
			item, _ := catalog.LookupItem(row.ID)
			rows = append(rows, page.Row{
				Status: string(row.Status), ID: string(row.ID), Title: item.Title, Found: row.Found, Needs: row.Needs, Remedy: row.Remedy,
			})
		}
	}
	return rows
}
