// SPDX-License-Identifier: MPL-2.0

package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// tally counts the findings of a host: what is open by severity, and what is not.
type tally struct{ critical, warning, info, held, exempt, more int }

func tallyOf(h *Host) (t tally) {
	for i := range h.Findings {
		switch f := &h.Findings[i]; {
		case f.State == "exempt":
			t.exempt++
		case f.State == "mitigated":
			t.held++
		case f.Severity == "critical":
			t.critical++
		case f.Severity == "warning":
			t.warning++
		default:
			t.info++
		}
	}
	t.more = h.More
	return t
}

func (t *tally) add(other tally) {
	t.critical += other.critical
	t.warning += other.warning
	t.info += other.info
	t.held += other.held
	t.exempt += other.exempt
	t.more += other.more
}

// badges writes what t counts, each in its colour; nothing where there is nothing.
func (m *markup) badges(t tally) {
	for _, badge := range []struct {
		n     int
		class constant
		word  string
	}{
		{t.critical, "b critical", "critical"}, {t.warning, "b warning", "warning"}, {t.info, "b info", "info"},
		{t.held, "b quiet", "mitigated"}, {t.exempt, "b quiet", "exempt"}, {t.more, "b warning", "only counted"},
	} {
		if badge.n == 0 {
			continue
		}
		text := fmt.Sprintf("%d %s", badge.n, badge.word)
		if badge.word == "warning" {
			text = plural(badge.n, badge.word)
		}
		m.leaf("span", text, class(badge.class))
		m.raw(" ")
	}
}

// findings writes what is wrong: what stands open first.
func (m *markup) findings(level int, h *Host) {
	if len(h.Findings)+h.More == 0 {
		return
	}
	rank := func(f *Finding) int { return slices.Index([]string{"mitigated", "exempt"}, f.State) }
	sorted := make([]*Finding, len(h.Findings))
	for i := range h.Findings {
		sorted[i] = &h.Findings[i]
	}
	slices.SortStableFunc(sorted, func(a, b *Finding) int { return cmp.Compare(rank(a), rank(b)) })
	m.begin("section", class("findings"))
	m.heading(level, "Findings")
	open := len(sorted)
	if i := slices.IndexFunc(sorted, func(f *Finding) bool { return rank(f) >= 0 }); i >= 0 {
		open = i
	}
	for _, f := range sorted[:open] {
		m.finding(level+1, f)
	}
	if h.More > 0 {
		m.leaf("p", plural(h.More, "more finding")+" that the host only counts: hostagent scan there shows all", class("quiet"))
	}
	if settled := sorted[open:]; len(settled) > 0 {
		m.raw("<details><summary>")
		m.text(settledText(tallyOf(h)))
		m.raw("</summary><div>\n")
		for _, f := range settled {
			m.finding(level+1, f)
		}
		m.raw("</div></details>\n")
	}
	m.end("section")
}

// settledText counts what is listed and needs nobody at once.
func settledText(t tally) string {
	var parts []string
	if t.held > 0 {
		parts = append(parts, fmt.Sprintf("%d mitigated", t.held))
	}
	if t.exempt > 0 {
		parts = append(parts, fmt.Sprintf("%d exempt", t.exempt))
	}
	return strings.Join(parts, ", ")
}

func (m *markup) finding(level int, f *Finding) {
	word := f.Severity
	switch {
	case f.State == "mitigated" || f.State == "exempt":
		m.begin("article", class("f quiet"))
		word += " · " + f.State
	case f.Severity == "critical":
		m.begin("article", class("f critical"))
	case f.Severity == "warning":
		m.begin("article", class("f warning"))
	default:
		m.begin("article", class("f info"))
	}
	m.raw("<header>")
	m.leaf("span", word, class("b"))
	m.raw(" ")
	m.heading(level, cmp.Or(f.Title, f.ID))
	m.leaf("code", f.ID, class("id"))
	m.raw("</header>")
	m.leaf("p", f.Message)
	m.raw("<dl>")
	for _, field := range []struct{ name, value string }{
		{"service", f.Service}, {"where", f.Where}, {"who", f.Who}, {"reach", f.Reach}, {"exempt", f.Exemption}, {"remedy", f.Remedy},
	} {
		if field.value == "" || field.name == "remedy" && f.State == "exempt" {
			continue
		}
		m.leaf("dt", field.name)
		if field.name == "where" {
			m.raw("<dd>")
			m.leaf("code", field.value)
			m.raw("</dd>")
		} else {
			m.leaf("dd", field.value)
		}
	}
	m.raw("</dl>")
	m.end("article")
}

// checks shows checks of hostagent's own that do not pass.
func (m *markup) checks(level int, h *Host) {
	if len(h.Checks) == 0 {
		return
	}
	m.begin("section", class("findings"))
	m.heading(level, "Checks of hostagent")
	for _, c := range h.Checks {
		if c.Status == "critical" {
			m.begin("article", class("f critical"))
		} else {
			m.begin("article", class("f warning"))
		}
		m.raw("<header>")
		m.leaf("span", c.Status, class("b"))
		m.raw(" ")
		m.heading(level+1, c.Name)
		m.raw("</header>")
		m.lines(c.Output)
		m.end("article")
	}
	m.end("section")
}

// lines writes an output as it is laid out.
func (m *markup) lines(output string) {
	m.raw("<pre>")
	for line := range strings.Lines(output) {
		m.text(strings.TrimRight(line, "\r\n"))
		m.raw("\n")
	}
	m.raw("</pre>")
}

// standing is how a status of the checklist is shown.
type standing struct {
	status string
	class  constant
	word   string // behind the number of such rows
}

// standings are those of all statuses in the order of the bar, the worst first.
func standings() []standing {
	return []standing{
		{"fail", "critical", "fail"}, {"warn", "warning", "warn"}, {"unknown", "info", "unknown"}, {"info", "known", "to be known"},
		{"pass", "pass", "pass"}, {"n/a", "na", "do not apply"},
	}
}

// of returns how many rows have a status.
func of(score []Count, status string) (n int) {
	for _, c := range score {
		if c.Status == status {
			n += max(c.N, 0)
		}
	}
	return n
}

// asked is how many rows there were to be asked.
func asked(score []Count) (n int) {
	for _, c := range score {
		if c.Status != "n/a" {
			n += max(c.N, 0)
		}
	}
	return n
}

// checklist shows the score of the production checklist as a bar and in numbers, and what is to be mended.
func (m *markup) checklist(level int, h *Host) {
	if len(h.Score) == 0 {
		return
	}
	m.begin("section", class("checklist"))
	m.heading(level, "Production checklist")
	m.leaf("p", fmt.Sprintf("%d of %d pass", of(h.Score, "pass"), asked(h.Score)), class("score"))
	m.bar(h.Score)
	for i := range h.Rows {
		m.row(level+1, &h.Rows[i])
	}
	if h.Checklist != "" {
		m.begin("article", class("f warning"))
		m.lines(h.Checklist)
		m.end("article")
	}
	m.end("section")
}

func (m *markup) bar(score []Count) {
	total := 0
	for _, s := range standings() {
		total += of(score, s.status)
	}
	if total == 0 {
		return
	}
	m.raw(`<svg class="bar" aria-hidden="true" preserveAspectRatio="none" viewBox="0 0 1000 1">`)
	x := 0
	for _, s := range standings() {
		width := of(score, s.status) * 1000 / total
		if width > 0 {
			var o outline
			o.at(x, 0, "h")
			o.number(max(width-3, 1))
			o = append(o, "v1h-"...)
			o.number(max(width-3, 1))
			m.path(s.class, append(o, 'z'))
		}
		x += width
	}
	m.raw("</svg>")
	m.begin("ul", class("legend"))
	for _, s := range standings() {
		if n := of(score, s.status); n > 0 {
			m.raw(`<li><i class="` + s.class + `"></i>`)
			m.text(fmt.Sprintf("%d %s", n, s.word))
		}
	}
	m.end("ul")
}

func (m *markup) row(level int, row *Row) {
	switch row.Status {
	case "fail":
		m.begin("article", class("f critical"))
	case "warn":
		m.begin("article", class("f warning"))
	default:
		m.begin("article", class("f info"))
	}
	m.raw("<header>")
	m.leaf("span", row.Status, class("b"))
	m.raw(" ")
	m.heading(level, cmp.Or(row.Title, row.ID))
	m.leaf("code", row.ID, class("id"))
	m.raw("</header><dl>")
	for i, found := range row.Found {
		if i == 0 {
			m.raw("<dt>found</dt>")
		}
		m.leaf("dd", found)
	}
	for _, field := range []struct{ name, value string }{{"to see it", row.Needs}, {"remedy", row.Remedy}} {
		if field.value != "" {
			m.leaf("dt", field.name)
			m.leaf("dd", field.value)
		}
	}
	m.raw("</dl>")
	m.end("article")
}
