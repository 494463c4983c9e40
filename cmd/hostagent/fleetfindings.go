// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
)

// Keys of checks: whether hostagent lives stands in a host's state, and the checklist fails somewhere on most hosts.
const (
	lifeKey      = "alive"
	checklistKey = "production-checklist"
)

// hostWords says what is wrong on a host, in short; "in order", and what its sidecars do where a service was asked for.
func hostWords(r *fleet.Report, h *fleet.Host, all bool) (words []string) {
	switch h.State {
	case fleet.Silent:
		why, _, _ := strings.Cut(h.Says, ", the last it said: ") // JSON has that: mostly it tells the version
		words = append(words, "not heard of: "+catalog.CleanTo(why, fleetText))
	case fleet.Missing:
		words = append(words, "does not run hostagent")
		if h.Sidecars > 0 {
			words = append(words, plural(h.Sidecars, "sidecar")+" known of")
		}
		if !h.Alive {
			words = append(words, "gossip does not reach the host")
		}
		fallthrough
	case fleet.Stopped, fleet.Runs:
		if h.Says != "" {
			words = append(words, catalog.CleanTo(strings.TrimSuffix(h.Says, "."), fleetText))
		}
	}
	for i := range h.Checks {
		if c := &h.Checks[i]; c.Key != lifeKey && c.Key != checklistKey && c.Status != consul.Passing {
			words = append(words, checkWords(c))
		}
	}
	words = append(words, findingWords(h, all)...)
	for i := range h.Services {
		if service := &h.Services[i]; service.Says != "" {
			words = append(words, catalog.Clean(service.Name)+": "+catalog.CleanTo(service.Says, fleetText))
		}
	}
	if all && h.Self.Score[audit.Fail] > 0 {
		words = append(words, "production checklist: "+h.Self.Score.String())
	}
	switch {
	case r.Service == "" || h.State != fleet.Runs:
	case len(h.Services) == 0:
		words = append(words, "tells nothing of this service")
	default:
		words = append(words, sidecarWords(h)...)
	}
	if len(words) == 0 {
		words = append(words, "in order")
	}
	return words
}

// checkWords are the name of a check and the first line of what it says.
func checkWords(c *fleet.Check) string {
	first, _, _ := strings.Cut(strings.TrimSpace(c.Output), "\n")
	text := catalog.Clean(cmp.Or(c.Name, c.Key))
	if first = catalog.Clean(first); first != "" {
		text += ": " + first
	}
	return text
}

// findingWords names the findings of a host, each id once with the services and listeners that it is about. Those that nobody
// has to look at are left out unless all is asked for.
func findingWords(h *fleet.Host, all bool) (words []string) {
	type kind struct {
		id    catalog.ID
		state string
	}
	about := map[kind][]string{}
	var order []kind
	for i := range h.Findings {
		f := &h.Findings[i]
		if f.Severity < catalog.Warning && !all {
			continue
		}
		k := kind{f.ID, f.State}
		if about[k] == nil {
			order = append(order, k)
			about[k] = []string{}
		}
		if what := cmp.Or(f.Service, f.Where); what != "" && !slices.Contains(about[k], catalog.Clean(what)) {
			about[k] = append(about[k], catalog.Clean(what))
		}
	}
	for _, k := range order {
		text := catalog.Clean(string(k.id))
		if k.state != string(hostagent.Open) {
			text += " " + catalog.CleanTo(k.state, 20)
		}
		if names := about[k]; len(names) > 0 {
			text += " (" + namesText(names, 3) + ")"
		}
		words = append(words, text)
	}
	return words
}

// sidecarWords say how the ports of the services' sidecars are.
func sidecarWords(h *fleet.Host) (words []string) {
	for i := range h.Services {
		for _, p := range h.Services[i].Sidecars {
			words = append(words, fmt.Sprintf("port %d %s", p.Port, catalog.Clean(p.Says)))
		}
	}
	return words
}

// namesText lists the first of names, 0 for all.
func namesText(names []string, most int) string {
	if most == 0 || len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// spread is one finding as it stands on many hosts.
type spread struct {
	id       catalog.ID
	severity catalog.Severity
	state    string
	places   []*place
	hosts    int
	remedy   string // on the first of them that tells one whole
	differs  bool   // elsewhere it is another
	first    string // that host
}

// mend takes a host's remedy over. One that only counts its findings tells none, and one with a short check_output_max_size
// a part, which ends in "…".
func (g *spread) mend(node, remedy string) {
	isCut := strings.HasSuffix(remedy, "…")
	switch {
	case remedy == "", isCut && g.remedy != "":
	case g.remedy == "", strings.HasSuffix(g.remedy, "…"):
		g.remedy, g.first = remedy, catalog.Clean(node)
	default:
		g.differs = g.differs || remedy != g.remedy
	}
}

// place is where a finding stands: the service and the listener, and the hosts.
type place struct {
	service, where string
	hosts          []string
}

// spreads puts equal findings of hosts together, the worst first and among those what most hosts have. Findings below least
// are left out.
func spreads(hosts []*fleet.Host, least catalog.Severity) []*spread {
	type kind struct {
		id       catalog.ID
		severity catalog.Severity
		state    string
	}
	type spot struct {
		kind
		service, where string
	}
	byKind, bySpot := map[kind]*spread{}, map[spot]*place{}
	var all []*spread
	for _, h := range hosts {
		counted := map[kind]bool{}
		for i := range h.Findings {
			f := &h.Findings[i]
			if f.Severity < least {
				continue
			}
			k := kind{f.ID, f.Severity, f.State}
			g := byKind[k]
			if g == nil {
				g = &spread{id: f.ID, severity: f.Severity, state: f.State}
				byKind[k] = g
				all = append(all, g)
			}
			g.mend(h.Node, f.Remedy)
			at := spot{k, f.Service, f.Where}
			p := bySpot[at]
			if p == nil {
				p = &place{service: f.Service, where: f.Where}
				bySpot[at] = p
				g.places = append(g.places, p)
			}
			if name := catalog.Clean(h.Node); len(p.hosts) == 0 || p.hosts[len(p.hosts)-1] != name {
				p.hosts = append(p.hosts, name)
			}
			if !counted[k] {
				counted[k] = true
				g.hosts++
			}
		}
	}
	sortSpreads(all)
	return all
}

func sortSpreads(all []*spread) {
	for _, g := range all {
		slices.SortStableFunc(g.places, func(a, b *place) int {
			return cmp.Or(-cmp.Compare(len(a.hosts), len(b.hosts)), cmp.Compare(a.service, b.service), cmp.Compare(a.where, b.where))
		})
	}
	slices.SortStableFunc(all, func(a, b *spread) int {
		return cmp.Or(-cmp.Compare(a.severity, b.severity), -cmp.Compare(a.hosts, b.hosts), cmp.Compare(a.id, b.id), cmp.Compare(a.state, b.state))
	})
}

// fleetFindings writes what was found on hosts, each kind of finding once: it is mended once.
func (s *screen) fleetFindings(bad, fine []*fleet.Host, all bool) {
	hosts, least := bad, catalog.Warning
	if all {
		hosts, least = slices.Concat(bad, fine), catalog.Info
	}
	for _, g := range spreads(hosts, least) {
		s.gap()
		s.dim = g.state != string(hostagent.Open)
		s.spreadHead(g)
		places, names := g.places, 0
		if !all {
			places, names = places[:min(len(places), mostOfGroup)], mostOnHosts
		}
		for _, p := range places {
			text := ""
			if p.service != "" {
				text = catalog.Clean(p.service)
			}
			if p.where != "" {
				text = strings.TrimSpace(text + " " + catalog.Clean(p.where))
			}
			if text != "" {
				text += ": "
			}
			s.wrapped("  ", text+namesText(p.hosts, names))
		}
		if more := len(g.places) - len(places); more > 0 {
			s.wrapped("  ", fmt.Sprintf("… and at %s: --all lists them", plural(more, "more place")))
		}
		if remedy := s.spreadRemedy(g); remedy != "" {
			s.wrapped("  remedy: ", remedy)
		}
		s.dim = false
	}
}

// spreadHead writes the line that leads a kind of finding, on more where one has no room.
func (s *screen) spreadHead(g *spread) {
	head := findingText(g.severity, catalog.Clean(string(g.id)), catalog.CleanTo(g.state, 20))
	rest := " on " + plural(g.hosts, "host")
	if entry, known := catalog.Lookup(g.id); known {
		rest += ": " + entry.Title
	}
	columns := catalog.Columns(head)
	if s.dim {
		head = s.tinted("2", head)
	} else {
		head = s.paint(g.severity, head)
	}
	if s.width > 0 && columns+catalog.Columns(rest) > s.width {
		s.text.WriteString(head + "\n")
		s.wrapped("  ", strings.TrimSpace(rest))
		return
	}
	s.text.WriteString(head + rest + "\n")
}

// spreadRemedy is what mends a finding on all its hosts, or on one of them where they tell it differently.
func (s *screen) spreadRemedy(g *spread) string {
	if g.state == string(hostagent.Exempt) {
		return ""
	}
	text := catalog.CleanTo(g.remedy, fleetText)
	if text != "" && g.differs {
		text = "on " + g.first + ": " + text + " (elsewhere it differs: --service shows each)"
	}
	return text
}

// serviceFindings writes what was found about one service in full, host by host.
func (s *screen) serviceFindings(r *fleet.Report, all bool) {
	left := mostFindings
	for i := range r.Hosts {
		h := &r.Hosts[i]
		if len(h.Findings) == 0 {
			continue
		}
		if !all && left <= 0 {
			s.gap()
			s.wrapped("", "… and findings of more hosts: --all shows all")
			return
		}
		s.gap()
		s.text.WriteString(s.tinted("1", catalog.Clean(h.Node)) + ":\n")
		shown := h.Findings
		if !all {
			shown = shown[:min(len(shown), mostOfGroup)]
		}
		left -= len(shown)
		for i := range shown {
			s.fleetFinding(&shown[i])
		}
		if more := len(h.Findings) - len(shown) + h.More; more > 0 {
			s.wrapped("  ", fmt.Sprintf("… and %s: hostagent scan there shows all", plural(more, "more finding")))
		}
	}
}

// fleetFinding writes a finding as its host tells it.
func (s *screen) fleetFinding(f *fleet.Finding) {
	s.dim = f.State != string(hostagent.Open)
	text, where := findingText(f.Severity, catalog.Clean(string(f.ID)), catalog.CleanTo(f.State, 20)), catalog.Clean(f.Where)
	columns := 2 + catalog.Columns(text) + 2 + catalog.Columns(where)
	if s.dim {
		text = s.tinted("2", text)
	} else {
		text = s.paint(f.Severity, text)
	}
	switch {
	case where == "":
		s.text.WriteString("  " + text + "\n")
	case s.width > 0 && columns > s.width:
		s.text.WriteString("  " + text + "\n    " + where + "\n")
	default:
		s.text.WriteString("  " + text + "  " + where + "\n")
	}
	const indent = "    "
	if f.Message != "" {
		s.wrapped(indent, catalog.CleanTo(f.Message, fleetText))
	} else {
		s.wrapped(indent, "the host tells no more of it: hostagent scan there does")
	}
	if f.Who != "" {
		s.wrapped(indent+"who:    ", catalog.CleanTo(f.Who, fleetText))
	}
	if ending := cmp.Or(f.Exemption, f.Remedy); ending != "" {
		s.ending(indent, f.State, catalog.CleanTo(f.Exemption, fleetText), catalog.CleanTo(f.Remedy, fleetText))
	}
	s.dim = false
}

// hostKey tells apart over time how a host is.
func hostKey(h *fleet.Host) string {
	key := h.Node + "\x00" + string(h.State)
	for i := range h.Findings {
		f := &h.Findings[i]
		key += fmt.Sprint("\x00", f.ID, "\x00", f.State, "\x00", f.Service, "\x00", f.Where)
	}
	for i := range h.Checks {
		key += "\x00" + string(h.Checks[i].Status)
	}
	return key
}
