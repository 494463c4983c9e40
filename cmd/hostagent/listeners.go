// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/sockets"
)

// row is one line of the table of listeners.
type row [4]string

// listeners lists every listener where the scan has all of them, and otherwise who can be reached where services are not
// known; those of each network namespace under a heading of their own.
func (s *screen) listeners(scan *hostagent.Scan) {
	all := scan.Listeners
	if all == nil {
		all = scan.Network
	}
	for len(all) > 0 {
		namespace := all[0].Listener.Namespace
		n := slices.IndexFunc(all, func(r hostagent.Reachable) bool { return r.Listener.Namespace != namespace })
		if n < 0 {
			n = len(all)
		}
		s.gap()
		switch {
		case namespace != 0:
			s.wrapped("", "network namespace "+namespaceText(namespace, scan.Namespaces)+": "+plural(n, "listener"))
		case scan.Listeners != nil:
			s.wrapped("", "this host: "+plural(n, "listener"))
		}
		rows := make([]row, n)
		for i := range rows {
			rows[i] = listenerRow(scan, &all[i])
		}
		s.rows(rows)
		all = all[n:]
	}
	if (scan.Listeners != nil || scan.Network != nil) && len(scan.Published) > 0 {
		s.published(scan.Published)
	}
}

// published lists the ports of the host that are passed on, and to whom.
func (s *screen) published(ports []hostagent.PublishedPort) {
	s.gap()
	s.wrapped("", "passed on by nat rules or a container runtime's proxy: "+plural(len(ports), "port"))
	for _, p := range ports {
		text := fmt.Sprintf("tcp %d to %s", p.Port, catalog.Clean(p.To))
		switch {
		case p.Container != "":
			text += " in " + containerText(p.Container, p.Runtime)
		case p.Unit != "":
			text += " of " + catalog.Clean(p.Unit)
		}
		s.wrapped("", text)
	}
}

// namespaceText says whose a network namespace is, by what people know it as.
func namespaceText(id uint64, known []sockets.Namespace) string {
	i := slices.IndexFunc(known, func(n sockets.Namespace) bool { return n.ID == id })
	if i < 0 {
		return fmt.Sprint(id)
	}
	switch n := &known[i]; {
	case n.Container != "":
		return "of " + containerText(n.Container, n.Runtime)
	case n.Name != "":
		return "named " + catalog.Clean(n.Name)
	case n.Unit != "":
		return "of " + catalog.Clean(n.Unit)
	case n.PID != 0:
		return fmt.Sprintf("%d of pid %d", id, n.PID)
	}
	return fmt.Sprint(id)
}

func listenerRow(scan *hostagent.Scan, r *hostagent.Reachable) row {
	l := &r.Listener
	reach := "network"
	switch {
	case !l.Exposed():
		reach = "loopback"
	case r.Guarded:
		reach = "guarded"
	}
	if scan.Range.Contains(l.Addr.Port()) && l.Namespace == 0 {
		reach += ", sidecar range"
	}
	place := strings.TrimPrefix(placeText(r.Owner), ", ")
	if place == "" && r.Owner != nil && r.Owner.User != "" {
		place = "user " + catalog.Clean(r.Owner.User)
	}
	if place == "" {
		place = none
	}
	process := processText(l, r.Owner)
	if r.Owner != nil && len(r.Owner.Processes) == 0 && r.Owner.User != "" {
		process = "out of sight"
	}
	return row{socketText(l) + deviceText(scan, l), process, place, reach}
}

// deviceText names the interface that a socket is bound to, " on eth0", or its number where it is in another namespace: a
// link-local address says little without.
func deviceText(scan *hostagent.Scan, l *sockets.Listener) string {
	name := scan.Devices[l.Device]
	switch {
	case l.Device == 0:
		return ""
	case l.Namespace != 0 || name == "":
		return fmt.Sprintf(" on interface %d", l.Device)
	}
	return " on " + catalog.CleanTo(name, 15)
}

const between = 2 // spaces between columns

// rows writes the table. A screen that is too narrow for columns gets the cells one after the other.
func (s *screen) rows(rows []row) {
	headings := row{"LISTENER", "PROCESS", "BELONGS TO", "REACHED FROM"}
	widths, fit := s.columns(append([]row{headings}, rows...))
	if fit {
		s.row(headings, widths)
	}
	for _, r := range rows {
		if fit {
			s.row(r, widths)
			continue
		}
		s.wrapped("", r[0])
		known := slices.DeleteFunc(slices.Clone(r[1:]), func(cell string) bool { return cell == none })
		s.wrapped("  ", strings.Join(known, ", "))
	}
}

// columns says how wide each column is: as wide as it needs, within reason. On a narrower screen they give way in the
// order in which they are missed least, as far as they still read well; false means that this is not enough.
func (s *screen) columns(rows []row) (widths [4]int, fit bool) {
	const most = 60
	for _, r := range rows {
		for i, cell := range r {
			widths[i] = min(max(widths[i], catalog.Columns(cell)), most)
		}
	}
	excess := 3*between - s.width
	for _, width := range widths {
		excess += width
	}
	if s.width == 0 || excess <= 0 {
		return widths, true
	}
	least := [4]int{len("tcp 0.0.0.0:8080"), 12, 16, most}
	for _, i := range []int{2, 1, 0} {
		cut := max(min(excess, widths[i]-least[i]), 0)
		widths[i] -= cut
		excess -= cut
	}
	return widths, excess == 0
}

func (s *screen) row(r row, widths [4]int) {
	for i, cell := range r[:3] {
		if catalog.Columns(cell) > widths[i] {
			cell, _, _ = strings.Cut(cell, " (pid ")
			cell = catalog.Shorten(cell, widths[i])
		}
		s.text.WriteString(cell + strings.Repeat(" ", widths[i]-catalog.Columns(cell)+between))
	}
	s.text.WriteString(catalog.Shorten(r[3], widths[3]) + "\n")
}
