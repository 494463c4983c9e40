// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// How much a terminal shows; what is no terminal gets everything.
const (
	mostFindings = 200 // in all
	mostOfGroup  = 10  // findings of one service
	mostServices = 20  // without findings
	mostWays     = 8   // addresses of one listener
)

// table writes a scan for people. Everything that came from elsewhere is cleaned.
func (s *screen) table(scan *hostagent.Scan) string {
	s.wrapped("", heading(scan))
	s.groups(groupsOf(scan))
	s.fine(scan)
	s.rangeMap(scan)
	s.listeners(scan)
	s.gap()
	s.wrapped("", summary(scan))
	for _, note := range scan.Notes {
		s.wrapped("note: ", note)
	}
	return s.text.String()
}

func heading(scan *hostagent.Scan) string {
	where := "this host"
	switch {
	case scan.Source == hostagent.SourceNone && scan.Listeners != nil:
		return "services are not known: these are the listeners of this host"
	case scan.Source == hostagent.SourceNone:
		return "services are not known: these listeners of this host can be reached from the network, firewalls of others aside"
	case scan.Source == hostagent.SourceFiles:
		where = "service definitions, no agent asked: sidecar ports are those that one would assign"
	case scan.Agent.Node != "":
		where = fmt.Sprintf("node %s, datacenter %s, Consul %s", catalog.Clean(scan.Agent.Node), catalog.Clean(scan.Agent.Datacenter), catalog.Clean(scan.Agent.Version))
	}
	return fmt.Sprintf("%s, sidecar range %s", where, scan.Range)
}

// none fills a cell about which there is nothing to say.
const none = "-"

// group is what was found about one service, or about the host; what stands open first.
type group struct {
	name     string // fit to be shown
	host     bool
	findings []*hostagent.Finding
}

// open are the findings that nothing stands before.
func (g *group) open() []*hostagent.Finding {
	for i, f := range g.findings {
		if f.State != hostagent.Open {
			return g.findings[:i]
		}
	}
	return g.findings
}

// instance names one application: by its id, and where that is not known by its name.
type instance struct{ name, id string }

// groupsOf puts the findings of each service together, the worst group first and the host's before those of services that
// are as badly off. A sidecar's findings stand with the application that it is for.
func groupsOf(scan *hostagent.Scan) []*group {
	of := map[string]string{} // ids of applications, by that of a sidecar
	for i := range scan.Services {
		for _, p := range scan.Services[i].Sidecars {
			of[p.ID] = scan.Services[i].ID
		}
	}
	byName := map[instance]*group{}
	var groups []*group
	for i := range scan.Findings {
		f := &scan.Findings[i]
		key := instance{name: f.Service}
		if entry, _ := catalog.Lookup(f.ID); entry.OfService {
			key.id = f.ServiceID
		} else if id, known := of[f.ServiceID]; known {
			key.id = id
		} else if f.Service != "" && f.ServiceID == "" {
			key.id = f.Service
		}
		g := byName[key]
		if g == nil {
			g = &group{name: serviceText(key.name, key.id)}
			if key.name == "" {
				g.name, g.host = "host and sidecar range", true
			}
			byName[key] = g
			groups = append(groups, g)
		}
		g.findings = append(g.findings, f)
	}
	for _, g := range groups {
		slices.SortStableFunc(g.findings, func(a, b *hostagent.Finding) int { return cmp.Compare(stateRank(a), stateRank(b)) })
	}
	slices.SortStableFunc(groups, func(a, b *group) int {
		return cmp.Or(-cmp.Compare(a.rank(), b.rank()), -cmp.Compare(truth(a.host), truth(b.host)), cmp.Compare(a.name, b.name))
	})
	return groups
}

// rank is higher the worse the worst open finding is, and -1 where none is open.
func (g *group) rank() int {
	if open := g.open(); len(open) > 0 {
		return int(open[0].Severity)
	}
	return -1
}

func truth(b bool) int {
	if b {
		return 1
	}
	return 0
}

func stateRank(f *hostagent.Finding) int {
	return slices.Index([]hostagent.State{hostagent.Open, hostagent.Mitigated, hostagent.Exempt}, f.State)
}

// serviceText names a service, and its instance where that has a name of its own.
func serviceText(name, id string) string {
	if id == "" || id == name {
		return catalog.Clean(name)
	}
	return catalog.Clean(name) + " (" + catalog.Clean(id) + ")"
}

// groups writes the findings, as many as a terminal is good for.
func (s *screen) groups(groups []*group) {
	left := mostFindings
	for i, g := range groups {
		if s.width > 0 && left <= 0 {
			more := 0
			for _, rest := range groups[i:] {
				more += len(rest.findings)
			}
			s.gap()
			s.wrapped("", fmt.Sprintf("… and %s of %s: scan | less shows all",
				plural(more, "more finding"), plural(len(groups)-i, "more service")))
			return
		}
		s.gap()
		s.groupHead(g)
		shown := g.findings
		if s.width > 0 {
			shown = shown[:min(len(shown), mostOfGroup)]
		}
		left -= len(shown)
		for _, f := range shown {
			s.found(f)
		}
		if more := len(g.findings) - len(shown); more > 0 {
			s.wrapped("  ", fmt.Sprintf("… and %s: scan | less shows all", plural(more, "more finding")))
		}
	}
}

// groupHead writes the line that leads a group, on two where one has no room.
func (s *screen) groupHead(g *group) {
	name, counts, between := g.name, countsText(g.findings), " "
	if s.width > 0 && catalog.Columns(name)+len(": ")+len(counts) > s.width {
		name, between = catalog.Shorten(name, s.width-len(":")), "\n  "
	}
	if s.colour {
		name = "\x1b[1m" + name + "\x1b[0m"
	}
	if open := g.open(); len(open) > 0 {
		counts = s.paint(open[0].Severity, counts)
	}
	s.text.WriteString(name + ":" + between + counts + "\n")
}

// countsText is "1 critical, 2 warnings, 1 exempt".
func countsText(findings []*hostagent.Finding) string {
	var counts [catalog.Critical + 1]int
	exempt := 0
	for _, f := range findings {
		if f.State == hostagent.Exempt {
			exempt++
		} else {
			counts[f.Severity]++
		}
	}
	var parts []string
	for _, severity := range []catalog.Severity{catalog.Critical, catalog.Warning, catalog.Info} {
		if n := counts[severity]; n > 0 {
			parts = append(parts, countText(n, severity))
		}
	}
	if exempt > 0 {
		parts = append(parts, fmt.Sprintf("%d exempt", exempt))
	}
	return strings.Join(parts, ", ")
}

// found writes one finding of a group: what is wrong, where, who it is, who can reach it, and what mends it.
func (s *screen) found(f *hostagent.Finding) {
	s.dim = f.State == hostagent.Exempt || f.State == hostagent.Mitigated
	s.foundHead(f)
	const indent = "    "
	s.wrapped(indent, f.Message)
	if f.Listener != nil {
		s.wrapped(indent+"who:    ", s.whoText(f.Listener, f.Owner))
		s.command(indent+"runs:   ", f.Owner)
	}
	if reach := s.reachText(f); reach != "" {
		s.wrapped(indent+"reach:  ", reach)
	}
	s.ending(indent, string(f.State), f.Exemption.String(), f.Remedy)
	s.dim = false
}

// reachText says at which addresses a listener is reached that the finding's sentence does not name.
func (s *screen) reachText(f *hostagent.Finding) string {
	if entry, _ := catalog.Lookup(f.ID); f.State == hostagent.Mitigated && len(f.Ways) > 0 {
		if entry.Mitigated != "" {
			return "" // the sentence says why nobody does
		}
		return "closed to the network by hostagent's guard"
	}
	words := strings.Fields(f.Message)
	for i := range words {
		words[i] = strings.Trim(words[i], ",:;")
	}
	rest := slices.DeleteFunc(slices.Clone(f.Ways), func(w hostagent.Way) bool { return slices.Contains(words, w.Addr.String()) })
	if n := len(rest); n > 0 && n < len(f.Ways) {
		return "also " + s.waysText(rest)
	}
	return s.waysText(rest)
}

// foundHead writes the line that leads a finding, on two where one has no room.
func (s *screen) foundHead(f *hostagent.Finding) {
	const indent = "  "
	text, listener := findingText(f.Severity, string(f.ID), string(f.State)), ""
	switch {
	case f.Listener != nil:
		listener = socketText(f.Listener)
	case f.Port != 0:
		listener = fmt.Sprintf("%s port %d", cmp.Or(f.Protocol, sockets.TCP), f.Port)
	}
	length := len(indent) + len(text) + len(indent) + len(listener)
	switch {
	case !s.colour:
	case s.fresh != nil && s.fresh(findingKey(f)):
		text = "\x1b[7m" + text + "\x1b[0m"
	case s.dim:
		text = "\x1b[2m" + text + "\x1b[0m"
	default:
		text = s.paint(f.Severity, text)
	}
	s.text.WriteString(indent + text)
	switch {
	case listener == "":
	case s.width > 0 && length > s.width:
		s.text.WriteString("\n    " + listener)
	default:
		s.text.WriteString(indent + listener)
	}
	s.text.WriteByte('\n')
}

// whoText tells who holds a socket, where he belongs and since when he runs.
func (s *screen) whoText(l *sockets.Listener, owner *sockets.Owner) string {
	text := processText(l, owner)
	seen := owner != nil && len(owner.Processes) > 0
	if owner != nil && owner.User != "" {
		user := "user " + catalog.Clean(owner.User)
		if !seen {
			text = user
		} else {
			text += ", " + user
		}
	}
	text += placeText(owner)
	if !seen {
		return text + ", process out of sight"
	}
	if since := sinceOf(owner); !since.IsZero() {
		text += fmt.Sprintf(", since %s (%s)", since.In(s.now.Location()).Format("2006-01-02 15:04"), lasting(s.now.Sub(since)))
	}
	return text
}

// placeText says where a process belongs: to a container or else a unit.
func placeText(owner *sockets.Owner) string {
	switch {
	case owner == nil:
		return ""
	case owner.Container != "":
		return ", " + containerText(owner.Container, owner.Runtime)
	case owner.Unit != "":
		return ", " + catalog.Clean(owner.Unit)
	}
	return ""
}

func containerText(id, runtime string) string {
	text := "container " + catalog.CleanTo(id, 12)
	if runtime != "" {
		text += " (" + catalog.CleanTo(runtime, 20) + ")"
	}
	return text
}

// sinceOf is when the oldest of the processes started, which is the one that the others come from; zero if unknown.
func sinceOf(owner *sockets.Owner) (since time.Time) {
	for _, p := range owner.Processes {
		if !p.Started.IsZero() && (since.IsZero() || p.Started.Before(since)) {
			since = p.Started
		}
	}
	return since
}

// lasting writes how long something has lasted, in one unit. It changes no more often than once a minute.
func lasting(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d hours", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// command writes the command line of the first process on one line, where it may be shown.
func (s *screen) command(label string, owner *sockets.Owner) {
	if s.commandLine == nil || owner == nil || len(owner.Processes) == 0 {
		return
	}
	args, ok := s.commandLine(owner.Processes[0])
	for len(args) > 0 && args[len(args)-1] == "" {
		args = args[:len(args)-1] // what a title that the process has set leaves of its arguments
	}
	if !ok || len(args) == 0 {
		return
	}
	const most = 300 // runes, where the terminal does not tell its width
	room := most
	if s.width > 0 {
		room = s.width - len(label)
	}
	words := make([]string, len(args))
	for i, arg := range args {
		words[i] = catalog.CleanTo(arg, most)
		if words[i] == "" || len(args) > 1 && strings.ContainsAny(words[i], " '\"") {
			words[i] = "'" + words[i] + "'"
		}
	}
	s.begin(label)
	s.text.WriteString(catalog.Shorten(strings.Join(words, " "), room))
	s.end()
}

// waysText lists addresses with their interfaces.
func (s *screen) waysText(ways []hostagent.Way) string {
	var words []string
	for i, w := range ways {
		if s.width > 0 && i == mostWays {
			words = append(words, fmt.Sprintf("and %d more", len(ways)-i))
			break
		}
		word := w.Addr.String()
		if w.Interface != "" {
			word += " (" + catalog.CleanTo(w.Interface, 15) + ")"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// fine lists the services about which nothing was found, and where they listen.
func (s *screen) fine(scan *hostagent.Scan) {
	troubled := map[string]bool{}
	for i := range scan.Findings {
		troubled[scan.Findings[i].ServiceID] = true
	}
	var fine []*hostagent.Service
	for i := range scan.Services {
		service := &scan.Services[i]
		if !troubled[service.ID] && !slices.ContainsFunc(service.Sidecars, func(p hostagent.Sidecar) bool { return troubled[p.ID] }) {
			fine = append(fine, service)
		}
	}
	if len(fine) == 0 {
		return
	}
	s.gap()
	s.text.WriteString("in order: " + plural(len(fine), "service") + "\n")
	shown := fine
	if s.width > 0 {
		shown = fine[:min(len(fine), mostServices)]
	}
	widest := 0
	for _, service := range shown {
		widest = max(widest, catalog.Columns(serviceText(service.Name, service.ID)))
	}
	most := 40
	if s.width > 0 {
		most = s.width / 3
	}
	widest = min(widest, most)
	for _, service := range shown {
		name := serviceText(service.Name, service.ID)
		if s.width > 0 {
			name = catalog.Shorten(name, widest)
		}
		var where []string
		for i := range service.Listeners {
			where = append(where, socketText(&service.Listeners[i]))
		}
		pad := strings.Repeat(" ", max(widest-catalog.Columns(name), 0))
		s.wrapped("  "+name+pad+"  ", cmp.Or(strings.Join(slices.Compact(where), ", "), "not listening here"))
	}
	if more := len(fine) - len(shown); more > 0 {
		s.wrapped("  ", fmt.Sprintf("… and %d more", more))
	}
}

func summary(scan *hostagent.Scan) string {
	all := make([]*hostagent.Finding, len(scan.Findings))
	for i := range scan.Findings {
		all[i] = &scan.Findings[i]
	}
	found := cmp.Or(countsText(all), "no findings")
	if scan.Source == hostagent.SourceFiles && len(scan.Errors) > 0 {
		found += " in what could be read: Consul would not start on these files, and once they are mended other ports may be assigned"
	}
	if scan.Source == hostagent.SourceNone {
		return fmt.Sprintf("%s; %s for the network, services not known", found, plural(len(scan.Network), "listener"))
	}
	paths := scan.Rules.Paths
	sidecars := len(scan.Openings) - paths.Len()
	text := fmt.Sprintf("%s; %s, %s for the network", found, plural(len(scan.Services), "mesh service"), plural(sidecars, "sidecar port"))
	const most = 60 // runes of ports: more of them are read better in the map
	if ports := scan.Rules.Open.String(); sidecars > 0 && len(ports) <= most {
		text += ": " + ports
	}
	if paths.Len() > 0 {
		text += ", " + plural(paths.Len(), "exposed path") + " for some of it"
	}
	if n := scan.Looked(); len(scan.Findings) == 0 && n > 0 {
		text += "; " + plural(n, "listener") + " looked at"
	}
	return text
}
