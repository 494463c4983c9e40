// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"cmp"
	"slices"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// Rank is the worst that is to be said of a host. A higher one is worse.
type Rank int

// The ranks, the best first: hosts are shown in the opposite order.
const (
	RankFine        Rank = iota
	RankInfo             // findings to be known, mitigated or exempt ones, or a checklist with failing items
	RankStopped          // hostagent was stopped on purpose
	RankMissing          // hostagent does not run there, and no sidecar is known of
	RankWarning          // an open warning, or a check that does not pass, settings that are refused among them
	RankFailing          // a check of hostagent itself is critical: the firewall is not as it should be
	RankUnprotected      // hostagent does not run there, and sidecars do
	RankSilent           // hostagent should have reported, and did not
	RankCritical         // an open critical finding
)

// Severity is how much a rank matters, and false for nothing to be said.
func (r Rank) Severity() (catalog.Severity, bool) {
	switch r {
	case RankFine:
		return catalog.Info, false
	case RankInfo, RankStopped, RankMissing:
		return catalog.Info, true
	case RankWarning, RankUnprotected:
		return catalog.Warning, true
	default:
		return catalog.Critical, true
	}
}

// IsOpen tells whether a finding is neither exempt nor mitigated.
func (f *Finding) IsOpen() bool { return f.State == stateOpen }

// Worst is the worst that is to be said of h.
func (h *Host) Worst() Rank {
	rank := RankFine
	worse := func(r Rank) { rank = max(rank, r) }
	switch {
	case h.State == Silent:
		worse(RankSilent)
	case h.State == Missing && h.Sidecars > 0:
		worse(RankUnprotected)
	case h.State == Missing:
		worse(RankMissing)
	case h.State == Stopped:
		worse(RankStopped)
	case h.Says != "":
		worse(RankWarning)
	}
	for i := range h.Checks {
		worse(h.Checks[i].rank())
	}
	for i := range h.Services {
		if h.Services[i].Says != "" {
			worse(RankWarning)
		}
	}
	if h.Self.Score[audit.Fail] > 0 || h.More > 0 {
		worse(RankInfo)
	}
	for i := range h.Findings {
		worse(h.Findings[i].rank())
	}
	return rank
}

// rank is what a check says that tells no findings. The life check is in the host's state, and the checklist warns of items
// that fail on most hosts.
func (c *Check) rank() Rank {
	switch {
	case c.Key == keyAlive, c.Status == consul.Passing:
		return RankFine
	case c.Key == keyAudit:
		return RankInfo
	case c.Status == consul.Critical:
		return RankFailing
	}
	return RankWarning
}

func (f *Finding) rank() Rank {
	switch {
	case !f.IsOpen() || f.Severity == catalog.Info:
		return RankInfo
	case f.Severity == catalog.Warning:
		return RankWarning
	}
	return RankCritical
}

// sortHosts puts the worst first: by rank, then by how many open critical findings there are, then warnings, then by name.
// Nodes have one name each.
func sortHosts(hosts []Host) {
	type weighed struct {
		Host
		rank              Rank
		critical, warning int
	}
	all := make([]weighed, len(hosts))
	for i := range hosts {
		w := weighed{Host: hosts[i], rank: hosts[i].Worst()}
		for j := range w.Findings {
			switch f := &w.Findings[j]; {
			case !f.IsOpen():
			case f.Severity == catalog.Critical:
				w.critical++
			case f.Severity == catalog.Warning:
				w.warning++
			}
		}
		all[i] = w
	}
	slices.SortStableFunc(all, func(a, b weighed) int {
		return cmp.Or(
			-cmp.Compare(a.rank, b.rank), -cmp.Compare(a.critical, b.critical), -cmp.Compare(a.warning, b.warning),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.NodeID, b.NodeID),
		)
	})
	for i := range all {
		hosts[i] = all[i].Host
	}
}

func compareServices(a, b Service) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// compareFindings puts open ones first among those of a severity.
func compareFindings(a, b Finding) int {
	return cmp.Or(
		-cmp.Compare(a.rank(), b.rank()), -cmp.Compare(a.Severity, b.Severity), -cmp.Compare(a.State, b.State), cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Service, b.Service), cmp.Compare(a.ServiceID, b.ServiceID), cmp.Compare(a.Where, b.Where), cmp.Compare(a.Message, b.Message),
	)
}

// Summary counts what a report has.
type Summary struct {
	Hosts                          int
	Runs, Silent, Missing, Stopped int // hosts by state
	Unprotected                    int // of the missing ones, those with sidecars
	Others                         int // nodes that are no hosts of an agent
	Critical, Warning, Info        int // open findings
	Mitigated, Exempt              int // findings of all severities
	More                           int // findings that checks only count, without their severity
}

// Summary counts what r has.
func (r *Report) Summary() Summary {
	s := Summary{Hosts: len(r.Hosts), Others: r.Others}
	for i := range r.Hosts {
		h := &r.Hosts[i]
		switch h.State {
		case Runs:
			s.Runs++
		case Silent:
			s.Silent++
		case Stopped:
			s.Stopped++
		case Missing:
			s.Missing++
			if h.Sidecars > 0 {
				s.Unprotected++
			}
		}
		s.More += h.More
		for j := range h.Findings {
			s.count(&h.Findings[j])
		}
	}
	return s
}

func (s *Summary) count(f *Finding) {
	switch {
	case f.State == stateExempt:
		s.Exempt++
	case f.State == stateMitigated:
		s.Mitigated++
	case f.Severity == catalog.Critical:
		s.Critical++
	case f.Severity == catalog.Warning:
		s.Warning++
	default:
		s.Info++
	}
}

// Worst is the worst that is to be said of any host, and false where nothing is. It is what an exit status goes by: a host
// without hostagent and without sidecars, or where it was stopped on purpose, is Info.
func (r *Report) Worst() (worst catalog.Severity, any bool) {
	for i := range r.Hosts {
		if severity, says := r.Hosts[i].Worst().Severity(); says {
			worst, any = max(worst, severity), true
		}
	}
	return worst, any
}
