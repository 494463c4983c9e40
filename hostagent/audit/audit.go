// SPDX-License-Identifier: MPL-2.0

// Package audit holds the production checklist of Consul's service mesh against one host: what the mesh's guarantees rest on
// and nobody enforces. Evaluate decides, as a pure function of an Input; Look gathers what an Input needs of the agent and of
// files. What the core has found on the host comes in as a value, and nothing that Evaluate of the core decides is decided
// here again.
//
// A row passes only where what it asks was seen. What could not be seen is Unknown, and says what would show it.
package audit

import (
	"fmt"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// Status is what an audit says of one item.
type Status string

// The statuses.
const (
	Pass          Status = "pass"
	NotApplicable Status = "n/a"     // there is nothing to ask here, or another row says why
	Info          Status = "info"    // to be known, and not to be mended
	Unknown       Status = "unknown" // it could not be seen
	Warn          Status = "warn"    // a guarantee is weaker than it could be
	Fail          Status = "fail"    // a guarantee is not there
)

// Statuses returns all statuses, the best first.
func Statuses() []Status { return []Status{Pass, NotApplicable, Info, Unknown, Warn, Fail} }

// Worse tells whether s is worse than other, in the order of Statuses.
func (s Status) Worse(other Status) bool {
	return slices.Index(Statuses(), s) > slices.Index(Statuses(), other)
}

// Row is what an audit says of one item. All texts are one line, and safe to show; they hold no times, pids or counters that
// change while nothing else does, so that a steady host says the same at every audit, and never a secret.
type Row struct {
	ID     catalog.ID
	Status Status
	// Found is the evidence: a sentence each, naming the setting and where it stands, the file, the mode, the listener.
	Found []string
	// Needs says what would show what was not seen: a permission, a file, an option. "" where all was seen.
	Needs string
	// Remedy is what mends it on this host; "" where nothing is to mend.
	Remedy string
}

// Report is an audit of one host.
type Report struct {
	Rows  []Row    // one for each item of the catalog, in its order
	Notes []string // what could not be looked at, one sentence each
}

// Score counts rows by status.
type Score map[Status]int

// Score counts the rows of r.
func (r *Report) Score() Score {
	score := Score{}
	for _, row := range r.Rows {
		score[row.Status]++
	}
	return score
}

// Worst returns the worst status of all rows, Pass where there is none.
func (r *Report) Worst() Status {
	worst := Pass
	for _, row := range r.Rows {
		if row.Status.Worse(worst) {
			worst = row.Status
		}
	}
	return worst
}

// judge decides one item. A file of this package holds the judges of some items, and lists them in a function of its own.
type judge struct {
	id    catalog.ID
	judge func(*Input) Row // without ID; an empty Remedy of one that is to be mended becomes the catalog's
}

// judges are those of all items, one each.
func judges() []judge {
	return slices.Concat(
		aclJudges(), gossipJudges(), apiJudges(), tlsJudges(), caJudges(), firewallJudges(), instanceJudges(), fileJudges())
}

// Evaluate holds the checklist against what is known. It looks at nothing but in, and does not change it.
func Evaluate(in Input) Report {
	byID := map[catalog.ID]func(*Input) Row{}
	for _, j := range judges() {
		byID[j.id] = j.judge
	}
	report := Report{Notes: slices.Clone(in.Notes)}
	for _, item := range catalog.Items() {
		row := byID[item.ID](&in) // a test holds judges to the catalog
		row.ID = item.ID
		report.Rows = append(report.Rows, row.finished(item))
	}
	return report
}

const (
	maxFound  = 400 // runes of a sentence
	mostFound = 12  // sentences of a row
)

// finished makes a row's texts safe and its remedy whole.
func (r Row) finished(item catalog.Item) Row {
	if more := len(r.Found) - mostFound; more > 0 {
		r.Found = append(slices.Clone(r.Found[:mostFound]), fmt.Sprintf("and %d more of this kind", more))
	}
	found := make([]string, len(r.Found))
	for i, text := range r.Found {
		found[i] = catalog.CleanTo(text, maxFound)
	}
	r.Found, r.Needs, r.Remedy = found, catalog.CleanTo(r.Needs, maxFound), catalog.CleanTo(r.Remedy, 2*maxFound)
	switch r.Status {
	case Warn, Fail:
		if r.Remedy == "" {
			r.Remedy = item.Remedy
		}
	default:
		r.Remedy = ""
	}
	return r
}
