// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// placed puts the check of an application where the operator wants it: on hostagent's own service, as it is, or on the
// application's. There it has the status that the operator chose while something is wrong, and passes otherwise: what is
// merely unknown, because the listeners cannot be listed, must not take the application out of its traffic.
func (p *Policy) placed(s Service, fs []Finding, c consul.Check) consul.Check {
	if p.ReportOnService == nil {
		return c
	}
	c.Application, c.Status = s.ID, consul.Passing
	if slices.ContainsFunc(fs, isWrong) {
		c.Status = p.ReportOnService[""]
		if status, ok := p.ReportOnService[s.Name]; ok && s.Name != "" {
			c.Status = status
		}
	}
	return c
}

// isWrong tells whether f is something that the operator has neither accepted nor closed.
func isWrong(f Finding) bool { return f.State == Open && f.Severity >= catalog.Warning }

// isOwn tells whether r is what hostagent registers for itself. Whoever merely takes its name is judged as any other.
func (p *Policy) isOwn(r *consul.Registration) bool { return r.IsOwn(p.OwnService) }

// lifeNotes says what is to be done when the life check fails, though at that time nobody is there to say it.
func (p *Policy) lifeNotes() string {
	notes := "Turns critical when hostagent stops: start it again; its log says why it ended. Its other results stand until it runs " +
		"again, or vanish with it after three days."
	if p.ReportOnService != nil {
		notes += " Those on applications' own services never vanish by themselves: hostagent reports remove takes them away."
	}
	return notes
}

// maxNotes is how many bytes of remedies the notes of a check hold. The output has all of them.
const maxNotes = 500

// The notes of checks that have another reason for them than findings.
const (
	notesObserve    = "What guard mode would do to the firewall: open the ports of registered sidecars, and close the rest of the range."
	notesFirewall   = "The rules of the last pass stand. Mend what the output tells: hostagent tries again by itself."
	notesUntold     = "The rules of the last pass stand, and hostagent tries again. Its status on that host names what to mend."
	notesNoFirewall = "Run hostagent where it may see the firewall: hostagent status on that host names what it lacks."
	notesCounts     = "hostagent status and hostagent scan on that host name what is wrong and what mends it."
)

// notesOf returns the notes of a check: what mends the worst of what is wrong, or else what the check is for.
func notesOf(purpose string, fs []Finding, counts bool) string {
	worst := catalog.Info
	for i := range fs {
		worst = max(worst, fs[i].Severity)
	}
	switch {
	case worst == catalog.Info:
		return purpose
	case counts:
		return notesCounts
	}
	var remedies []string
	seen := map[string]bool{}
	for i := range fs {
		if f := &fs[i]; f.Severity == worst && !seen[f.Remedy] {
			seen[f.Remedy] = true
			remedies = append(remedies, strings.TrimSuffix(f.Remedy, "."))
		}
	}
	for i, remedy := range remedies {
		words := strings.Fields(remedy)
		for j, word := range words {
			words[j] = middleOut(word) // the output has it whole
		}
		remedies[i] = strings.Join(words, " ")
	}
	text := "Remedy: " + catalog.CleanTo(remedies[0], maxNotes/2)
	for i, remedy := range remedies[1:] {
		if len(text)+len(remedy) > maxNotes {
			return fmt.Sprintf("%s. And %d more: see the output.", text, len(remedies)-1-i)
		}
		text += ". Also: " + remedy
	}
	return text + "."
}

const noFindings = "No findings."

// countsText tells how many findings there are of each severity, kind and state, worst first.
func countsText(fs []Finding) string {
	type kind struct {
		severity catalog.Severity
		id       catalog.ID
		state    State
	}
	counts := map[kind]int{}
	for i := range fs {
		counts[kind{fs[i].Severity, fs[i].ID, fs[i].State}]++
	}
	kinds := slices.SortedFunc(maps.Keys(counts), func(a, b kind) int {
		return cmp.Or(-cmp.Compare(a.severity, b.severity), cmp.Compare(a.id, b.id), cmp.Compare(a.state, b.state))
	})
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%-8s  %d %s", k.severity, counts[k], k.id)
		if k.state != Open {
			fmt.Fprintf(&b, " (%s)", k.state)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// firewallCounts completes the firewall's check with numbers in the place of ports, services and networks.
func (a *Agent) firewallCounts(c consul.Check) consul.Check {
	res := &a.result
	said := "Guarded"
	switch {
	case a.applyErr != nil:
		c.Status, c.Notes, c.Output = consul.Critical, notesUntold, "The rules could not be brought up to date.\n"
	case a.parts.Policy.Mode == ModeObserve && a.parts.Firewall == nil:
		c.Status, c.Notes, c.Output = consul.Warning, notesNoFirewall, "Observe mode: nothing is enforced, but the firewall cannot be looked at.\n"
		return c
	case a.parts.Policy.Mode == ModeObserve:
		c.Notes, c.Output, said = notesObserve, "Observe mode: nothing is enforced.\n", "Guard mode would guard"
	case !a.memory.settled:
		c.Status, c.Output = consul.Warning, "Waiting for a second whole answer of Consul before anything is closed.\n"
	}
	c.Output += fmt.Sprintf("%s ports: %d, open: %d, in quarantine: %d.", said, res.Rules.Guard.Len(), res.Rules.Open.Len(), len(res.Quarantined))
	if a.parts.Policy.limits() {
		c.Output += "\nWho may connect is limited."
	}
	return c
}
