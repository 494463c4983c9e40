// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// Subject is whose audit a report is, as its agent or its files say; what they do not tell is "". Its texts are raw and
// untrusted.
type Subject struct {
	Node          string
	Datacenter    string
	ConsulVersion string
}

// Document is a Report as JSON. SchemaVersion grows when a field changes meaning or goes; fields may be added without.
type Document struct {
	SchemaVersion int            `json:"schema_version"`
	Version       string         `json:"hostagent_version"`
	Node          string         `json:"node"`
	Datacenter    string         `json:"datacenter"`
	ConsulVersion string         `json:"consul_version"`
	Score         DocumentScore  `json:"score"`
	Items         []DocumentItem `json:"items"`
	Notes         []string       `json:"notes"`
}

// DocumentScore counts items by status. Asked are all but those that do not apply.
type DocumentScore struct {
	Asked         int `json:"asked"`
	Pass          int `json:"pass"`
	Info          int `json:"info"`
	Unknown       int `json:"unknown"`
	Warn          int `json:"warn"`
	Fail          int `json:"fail"`
	NotApplicable int `json:"not_applicable"`
}

// DocumentItem is a Row with what the catalog knows of its item.
type DocumentItem struct {
	ID     catalog.ID `json:"id"`
	Step   string     `json:"step"`
	Title  string     `json:"title"`
	Asks   string     `json:"asks"`
	Status Status     `json:"status"`
	Found  []string   `json:"found"`
	Needs  string     `json:"needs"`
	Why    string     `json:"why"`
	Remedy string     `json:"remedy"`
}

// Document counts as s does.
func (s Score) Document() DocumentScore {
	d := DocumentScore{
		Pass: s[Pass], Info: s[Info], Unknown: s[Unknown], Warn: s[Warn], Fail: s[Fail], NotApplicable: s[NotApplicable],
	}
	d.Asked = d.Pass + d.Info + d.Unknown + d.Warn + d.Fail
	return d
}

// String is as that of DocumentScore.
func (s Score) String() string { return s.Document().String() }

// String is "23 of 38 pass, 2 fail, 12 unknown; 6 do not apply".
func (d DocumentScore) String() string {
	text := fmt.Sprintf("%d of %d pass", d.Pass, d.Asked)
	for _, count := range []struct {
		n    int
		word string
	}{{d.Fail, "fail"}, {d.Warn, "warn"}, {d.Unknown, "unknown"}, {d.Info, "to be known"}} {
		if count.n > 0 {
			text += fmt.Sprintf(", %d %s", count.n, count.word)
		}
	}
	switch n := d.NotApplicable; n {
	case 0:
	case 1:
		text += "; 1 does not apply"
	default:
		text += fmt.Sprintf("; %d do not apply", n)
	}
	return text
}

// Document writes r for programs. No list in it is null.
func (r *Report) Document(of Subject, version string) Document {
	d := Document{
		SchemaVersion: 1, Version: version, Node: of.Node, Datacenter: of.Datacenter, ConsulVersion: of.ConsulVersion,
		Score: r.Score().Document(),
		Items: []DocumentItem{}, Notes: append([]string{}, r.Notes...),
	}
	for _, row := range r.Rows {
		item, _ := catalog.LookupItem(row.ID)
		d.Items = append(d.Items, DocumentItem{
			ID: row.ID, Step: item.Step.String(), Title: item.Title, Asks: item.Asks, Status: row.Status,
			Found: append([]string{}, row.Found...), Needs: row.Needs, Why: item.Why, Remedy: row.Remedy,
		})
	}
	return d
}

// Keep returns r with those rows alone whose items are to be kept. The rows are shared.
func (r *Report) Keep(wanted func(catalog.Item) bool) Report {
	kept := Report{Notes: r.Notes}
	for _, row := range r.Rows {
		if item, known := catalog.LookupItem(row.ID); known && wanted(item) {
			kept.Rows = append(kept.Rows, row)
		}
	}
	return kept
}
