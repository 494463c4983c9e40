// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// securityModel is where Consul says what it protects from whom, and under which conditions.
const securityModel = "https://developer.hashicorp.com/consul/docs/secure/security-model/core"

// exhaustion is the guide's own warning, which stands under every audit.
const exhaustion = "No checklist is complete: what this one does not ask about, it says nothing of. Read what Consul promises and what it leaves to you: "

// Runes that are shown of what an audit says: its rows are cut shorter where they are made.
const (
	auditText = 1000
	auditNote = 600
)

// audit writes an audit for people, grouped by the guide's steps. Everything that came from elsewhere is cleaned.
func (s *screen) audit(seen *audited) string {
	s.wrapped("", auditHeading(&seen.subject))
	words := 0 // columns of the longest id
	steps := map[catalog.Step][]auditRow{}
	for _, row := range seen.report.Rows {
		item, _ := catalog.LookupItem(row.ID)
		steps[item.Step] = append(steps[item.Step], auditRow{row, item})
		words = max(words, len(row.ID))
	}
	for _, step := range catalog.Steps() {
		if len(steps[step]) == 0 {
			continue
		}
		s.gap()
		for _, line := range catalog.Wrap(step.Title(), s.width, 0) {
			s.text.WriteString(s.tinted("1", line) + "\n")
		}
		for _, row := range steps[step] {
			s.auditRow(&row, words)
		}
	}
	s.gap()
	s.wrapped("", seen.report.Score().String())
	s.wrapped("", exhaustion+securityModel)
	for _, note := range seen.report.Notes {
		s.wrapped("note: ", catalog.CleanTo(note, auditNote))
	}
	return s.text.String()
}

// auditRow is a row and its item.
type auditRow struct {
	audit.Row
	item catalog.Item
}

// auditRow writes one item: on one line where nothing is to be done about it, otherwise with what was found, why that
// matters, and what mends or shows it.
func (s *screen) auditRow(row *auditRow, words int) {
	const statuses = 7 // columns of the longest status
	id := fmt.Sprintf("%-*s", words, row.ID)
	s.text.WriteString("  " + s.tinted(statusColour(row.Status), fmt.Sprintf("%-*s", statuses, row.Status)) + "  ")
	taken := len("  ") + statuses + len("  ") + words + len("  ")
	if row.Status == audit.Pass || row.Status == audit.NotApplicable {
		s.text.WriteString(strings.TrimRight(id+"  "+s.evidence(row.Found, taken), " ") + "\n")
		return
	}
	const indent = "    "
	if s.width > 0 && taken+catalog.Columns(row.item.Title) > s.width {
		s.text.WriteString(string(row.ID) + "\n")
		s.wrapped(indent, row.item.Title)
	} else {
		s.text.WriteString(id + "  " + row.item.Title + "\n")
	}
	for _, found := range row.Found {
		s.labelled(indent+"found: ", found)
	}
	s.labelled(indent+"why:   ", row.item.Why)
	s.labelled(indent+"mend:  ", row.Remedy)
	s.labelled(indent+"to see it: ", row.Needs)
}

// labelled writes a text behind a label, unless there is none.
func (s *screen) labelled(label, text string) {
	if text != "" {
		s.wrapped(label, catalog.CleanTo(text, auditText))
	}
}

// evidence is what was found, in what is left of a line on which some columns are taken; "" where that is too little to say
// anything.
func (s *screen) evidence(found []string, taken int) string {
	const least = 12 // columns
	text := catalog.CleanTo(strings.Join(found, "; "), auditText)
	if s.width == 0 {
		return text
	}
	if left := s.width - taken; left >= least {
		return catalog.Shorten(text, left)
	}
	return ""
}

// statusColour is the colour of a status, as in an escape sequence.
func statusColour(status audit.Status) string {
	switch status {
	case audit.Pass:
		return "32"
	case audit.Warn:
		return "33"
	case audit.Fail:
		return "31;1"
	case audit.Unknown:
		return "36"
	case audit.Info, audit.NotApplicable:
		return "2"
	}
	return ""
}

func auditHeading(of *audit.Subject) string {
	if of.Node == "" {
		return "production checklist of this host"
	}
	text := "production checklist of node " + catalog.Clean(of.Node)
	if of.Datacenter != "" {
		text += ", datacenter " + catalog.Clean(of.Datacenter)
	}
	if of.ConsulVersion != "" {
		text += ", Consul " + catalog.Clean(of.ConsulVersion)
	}
	return text
}
