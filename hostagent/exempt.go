// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// maxReason is the length in runes to which the reason of an exemption is cut.
const maxReason = 200

// dayOf is the day in UTC that t falls on, as Input.Today wants it.
func dayOf(t time.Time) time.Time { return t.UTC().Truncate(24 * time.Hour) }

// Ended tells whether the day in UTC that now falls on is later than the last day of x. Nothing ends at an unknown time.
func (x *Exemption) Ended(now time.Time) bool {
	return !x.Expires.IsZero() && dayOf(now).After(x.Expires)
}

// What names what x exempts, safe to show: `exposed-listener, service "web", port 8080`.
func (x *Exemption) What() string {
	words := []string{string(x.Finding)}
	if x.Service != "" {
		words = append(words, "service "+strconv.Quote(catalog.Clean(x.Service)))
	}
	if x.Port != 0 {
		words = append(words, fmt.Sprintf("port %d", x.Port))
	}
	if x.Executable != "" {
		words = append(words, "executable "+strconv.Quote(catalog.Clean(x.Executable)))
	}
	return strings.Join(words, ", ")
}

// String tells why something is exempt, and until when, safe to show; "" for no exemption.
func (x *Exemption) String() string { return documentExemption(x, false).String() }

// fit tells how far a finding meets an exemption.
type fit int

const (
	fitsNot  fit = iota
	fitsSeen     // as far as it is seen: who listens is out of sight
	fits
)

// fit compares f with x, whatever the day. An executable is what every process says that holds the socket. That proves
// little: any user can start any program, and in a mount namespace of his own under any path. A program that was replaced on
// disk while it runs, which the kernel calls deleted, is the same to people, and a lie of that kind is no easier than others.
func (x *Exemption) fit(f *Finding) fit {
	switch {
	case x.Finding != f.ID, x.Service != "" && x.Service != f.Service,
		x.Port != 0 && x.Port != f.Port && (f.Listener == nil || x.Port != f.Listener.Addr.Port()):
		return fitsNot
	case x.Executable == "":
		return fits
	case f.Listener == nil:
		return fitsNot
	case f.Owner == nil || len(f.Owner.Processes) == 0:
		return fitsSeen
	}
	worst := fits
	for _, p := range f.Owner.Processes {
		switch {
		case p.Exe == "":
			worst = fitsSeen
		case executable(p) != x.Executable:
			return fitsNot
		}
	}
	return worst
}

// exemptions is what Evaluate found to be exempt so far.
type exemptions struct {
	done     int                         // findings that were looked at
	byID     map[catalog.ID][]*Exemption // of the policy
	judged   map[exposureKey]verdict
	spared   map[uint16]bool    // ports of the host that a listener is exempt on
	doubtful map[uint16]bool    // ports that one may be exempt on: its owner is out of sight
	borrowed map[int]*Exemption // that count for findings, by their place, unless quarantine is to close the port
}

// exposureKey is a port of one application.
type exposureKey struct {
	serviceID string
	port      uint16
}

// verdict tells what became of the findings about an exposure: by the operator's word, by a borrowed exemption, or neither.
type verdict struct{ exempt, borrowed, other bool }

// exempt applies the operator's exemptions to the findings that were made since it was last called. The first that holds
// counts; where none does, the one that ended last is named.
func (e *evaluation) exempt() {
	x := &e.exempted
	if len(e.in.Policy.Exemptions) == 0 {
		return
	}
	if x.byID == nil {
		x.byID, x.judged = map[catalog.ID][]*Exemption{}, map[exposureKey]verdict{}
		x.spared, x.doubtful, x.borrowed = map[uint16]bool{}, map[uint16]bool{}, map[int]*Exemption{}
		for i := range e.in.Policy.Exemptions {
			one := &e.in.Policy.Exemptions[i]
			x.byID[one.Finding] = append(x.byID[one.Finding], one)
		}
	}
	for ; x.done < len(e.res.Findings); x.done++ {
		f := &e.res.Findings[x.done]
		borrowed, doubtful := e.exemptOne(f, x.byID[f.ID])
		if q := e.in.Policy.Quarantine; q == nil || !slices.Contains(q.Findings, f.ID) {
			f.exempt(borrowed)
			continue
		}
		key := exposureKey{f.ServiceID, f.Port}
		so := x.judged[key]
		here := f.Listener == nil || f.Listener.Namespace == 0 // the ports of another namespace are none of the host's
		if f.State == Exempt {
			so.exempt = true
			x.spared[f.Port] = x.spared[f.Port] || here
		} else {
			so.borrowed, so.other = so.borrowed || borrowed != nil, so.other || borrowed == nil
			x.doubtful[f.Port] = x.doubtful[f.Port] || doubtful && here
		}
		if borrowed != nil {
			x.borrowed[x.done] = borrowed
		}
		x.judged[key] = so
	}
}

// exemptBorrowed applies the exemptions that waited for what is to be in quarantine: there they count for nothing.
func (e *evaluation) exemptBorrowed(quarantined firewall.PortSet) {
	for i, x := range e.exempted.borrowed {
		f := &e.res.Findings[i]
		if here := f.Listener == nil || f.Listener.Namespace == 0; here && quarantined.Has(f.Port) {
			f.Message += "; the exemption of it in Consul's KV does not lift quarantine (kv_may_enforce is off)"
			continue
		}
		f.exempt(x)
	}
}

// exempt makes f one that is meant to be so, where x is any.
func (f *Finding) exempt(x *Exemption) {
	if x != nil {
		f.State, f.Severity, f.Exemption = Exempt, catalog.Info, x
	}
}

// exemptOne applies the operator's exemptions to one finding, or else returns the borrowed one that would count. It tells
// whether one of the operator's might hold if the owner of its socket were seen.
func (e *evaluation) exemptOne(f *Finding, exemptions []*Exemption) (borrowed *Exemption, doubtful bool) {
	var ended *Exemption
	for _, x := range exemptions {
		switch fit := x.fit(f); {
		case fit == fitsNot:
		case x.Ended(e.in.Today):
			if fit == fits && (ended == nil || x.Expires.After(ended.Expires)) {
				ended = x
			}
		case x.Borrowed:
			if fit == fits && borrowed == nil {
				borrowed = x
			}
		case fit == fitsSeen:
			doubtful = true
		default:
			f.exempt(x)
			return nil, false
		}
	}
	if ended != nil && borrowed == nil {
		f.Exemption = ended
		f.Message += fmt.Sprintf("; its exemption ended on %s (%s)", ended.Expires.Format(time.DateOnly), catalog.CleanTo(ended.Reason, maxReason))
	}
	return borrowed, doubtful
}

// exempts tells whether the operator means all of an exposure to be as it is; borrowed, whether he or others do.
func (e *evaluation) exempts(x exposure) (own, borrowed bool) {
	so := e.exempted.judged[exposureKey{x.reg.ID, x.port}]
	return so.exempt && !so.borrowed && !so.other, (so.exempt || so.borrowed) && !so.other
}

// refuseExempt keeps a port out of quarantine that would close what is exempt too. Where that cannot be told for want of an
// owner, the port stays as it was.
func (q *quarantine) refuseExempt(port uint16) *refusal {
	switch {
	case q.exempted.spared[port]:
		return &refusal{"another listener on it is exempt", "exempt this one too, or take the exemption of the other out of the configuration"}
	case q.exempted.doubtful[port] && !q.before[port]:
		return &refusal{"an exemption may be meant for it, and who listens there is not seen",
			"run hostagent as root, or with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"}
	}
	return nil
}

// unmatched returns the exemptions that no finding meets, as far as it is seen.
func unmatched(exemptions []Exemption, findings []Finding) []Exemption {
	return slices.DeleteFunc(slices.Clone(exemptions), func(x Exemption) bool {
		return slices.ContainsFunc(findings, func(f Finding) bool { return x.fit(&f) != fitsNot })
	})
}

// NoteUnmatched adds notes about exemptions that no finding meets, so that they can be cleaned up. It adds none where
// services are not known.
func (s *Scan) NoteUnmatched() {
	const most = 10
	if s.Source == SourceNone {
		return
	}
	for i := range s.unmatched[:min(len(s.unmatched), most)] {
		s.note("no finding meets the exemption of %s; if it never does, delete it", s.unmatched[i].What())
	}
	if more := len(s.unmatched) - most; more > 0 {
		s.note("no finding meets %d more exemptions", more)
	}
}

// tellEnded logs each exemption that has ended, once.
func (n *news) tellEnded(log *slog.Logger, exemptions []Exemption, today time.Time) {
	ended := map[Exemption]bool{}
	for _, x := range exemptions {
		if !x.Ended(today) {
			continue
		}
		ended[x] = true
		if !n.ended[x] && len(ended) <= maxLines {
			log.Warn("exemption has ended", "exemption", x.What(), "ended", x.Expires.Format(time.DateOnly),
				"reason", catalog.CleanTo(x.Reason, maxReason), "remedy", "mend what it was for, or set another day; then delete it")
		}
	}
	n.ended = ended
}

// DocumentExemption is the operator's word on a finding, as JSON. Expires is its last day in UTC as in "2027-01-31", "" where
// it holds for good; Expired tells that it is over, and the finding not exempt any more.
type DocumentExemption struct {
	Reason  string `json:"reason"`
	Because string `json:"because"` // "firewall" where one elsewhere keeps the network from the listener, otherwise ""
	Expires string `json:"expires"`
	Expired bool   `json:"expired"`
}

// becauseFirewall is what the configuration calls Exemption.Firewall.
const becauseFirewall = "firewall"

// documentExemption returns nil where there is none.
func documentExemption(x *Exemption, expired bool) *DocumentExemption {
	if x == nil {
		return nil
	}
	d := &DocumentExemption{Reason: x.Reason, Expired: expired}
	if x.Firewall {
		d.Because = becauseFirewall
	}
	if !x.Expires.IsZero() {
		d.Expires = x.Expires.Format(time.DateOnly)
	}
	return d
}

// String tells why something is exempt, and until when, safe to show; "" for no exemption.
func (d *DocumentExemption) String() string {
	if d == nil {
		return ""
	}
	text := catalog.CleanTo(d.Reason, maxReason)
	if d.Because == becauseFirewall {
		text += " (held by a firewall elsewhere)"
	}
	switch {
	case d.Expires != "" && d.Expired:
		text += " (ended on " + catalog.Clean(d.Expires) + ")"
	case d.Expires != "":
		text += " (until " + catalog.Clean(d.Expires) + ")"
	}
	return text
}
