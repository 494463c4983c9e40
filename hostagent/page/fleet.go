// SPDX-License-Identifier: MPL-2.0

package page

import (
	"cmp"
	"fmt"
	"slices"
)

// mostDetailed is how many hosts a page shows one by one; of more, only those with something wrong. A page that a browser
// takes seconds to open is read by nobody.
const mostDetailed = 1000

// troubled tells whether there is something to be mended about h.
func (h *Host) troubled() bool {
	t := tallyOf(h)
	return t.critical+t.warning+t.info+t.more > 0 || h.Life != Runs || h.Says != "" || h.Unknown != "" || len(h.Checks) > 0 || of(h.Score, "fail") > 0
}

// detailed tells whether p shows h by itself.
func (p *Page) detailed(h *Host) bool { return len(p.Hosts) <= mostDetailed || h.troubled() }

func fleetTiles(p *Page) []tile {
	lives := map[Life]int{}
	var all tally
	for i := range p.Hosts {
		lives[p.Hosts[i].Life]++
		all.add(tallyOf(&p.Hosts[i]))
	}
	hosts := len(p.Hosts) + len(p.Missing)
	tiles := []tile{{fmt.Sprint(hosts), noun(hosts, "host"), "", ""}, {fmt.Sprint(lives[Runs]), "running hostagent", when(lives[Runs], "pass"), ""}}
	if n := lives[Silent]; n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "silent", "critical", ""})
	}
	if n := len(p.Missing); n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "without hostagent", "warning", "missing"})
	}
	if n := lives[Stopped]; n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "stopped", "warning", ""})
	}
	return append(tiles, findingTiles(all)...)
}

// fleet shows an overview of all hosts, then each.
func (m *markup) fleet(p *Page) {
	m.widespread(p)
	if len(p.Hosts) > 0 {
		m.raw(`<section><h2>Hosts</h2><table class="hosts"><thead><tr><th scope="col">host<th scope="col">hostagent<th scope="col">findings` +
			`<th scope="col">services<th scope="col">range<th scope="col">checklist</tr></thead><tbody>` + "\n")
		for i := range p.Hosts {
			m.overview(p, &p.Hosts[i], i)
		}
		m.raw("</tbody></table></section>\n")
	}
	m.missing(p.Missing)
	m.details(p)
}

// spreading is a finding and on how many hosts it stands open.
type spreading struct {
	*Finding

	hosts int
	last  int // of the hosts counted
}

// mostSpread is how many findings of a datacenter are told of before its hosts.
const mostSpread = 20

// spread counts on how many hosts each finding stands open, the worst and then the most frequent first.
func spread(p *Page) []spreading {
	rank := func(f *Finding) int { return slices.Index([]string{"info", "warning", "critical"}, f.Severity) }
	var all []spreading
	places := map[[2]string]int{}
	for i := range p.Hosts {
		for j := range p.Hosts[i].Findings {
			f := &p.Hosts[i].Findings[j]
			if f.State == "mitigated" || f.State == "exempt" {
				continue
			}
			key := [2]string{f.Severity, f.ID}
			at, ok := places[key]
			if !ok {
				at = len(all)
				places[key], all = at, append(all, spreading{f, 0, -1})
			}
			if all[at].last != i {
				all[at].hosts, all[at].last = all[at].hosts+1, i
			}
		}
	}
	slices.SortStableFunc(all, func(a, b spreading) int {
		return cmp.Or(cmp.Compare(rank(b.Finding), rank(a.Finding)), cmp.Compare(b.hosts, a.hosts))
	})
	return all
}

// widespread says what is wrong in the datacenter, before the hosts on which it is.
func (m *markup) widespread(p *Page) {
	all := spread(p)
	if len(all) == 0 {
		return
	}
	m.raw(`<section><h2>What is wrong</h2><ul class="spread">` + "\n")
	for _, f := range all[:min(len(all), mostSpread)] {
		m.raw("<li>")
		switch f.Severity {
		case "critical":
			m.leaf("span", f.Severity, class("b critical"))
		case "warning":
			m.leaf("span", f.Severity, class("b warning"))
		default:
			m.leaf("span", f.Severity, class("b info"))
		}
		m.raw("<span>")
		m.text(cmp.Or(f.Title, f.ID))
		m.raw("</span> ")
		m.leaf("b", plural(f.hosts, "host"))
		m.raw(" ")
		m.leaf("code", f.ID, class("quiet"))
		m.raw("\n")
	}
	m.end("ul")
	if more := len(all) - mostSpread; more > 0 {
		m.leaf("p", fmt.Sprintf("and %d more, below", more), class("quiet"))
	}
	m.end("section")
}

// overview is a host's row of the table.
func (m *markup) overview(p *Page, h *Host, number int) {
	m.raw(`<tr><th scope="row">`)
	if p.detailed(h) {
		m.leaf("a", h.Name, attribute{"href", fmt.Sprintf("#h%d", number)})
	} else {
		m.text(h.Name)
	}
	m.raw("<td>")
	m.life(h)
	m.raw("<td>")
	if t := tallyOf(h); t == (tally{}) {
		m.raw("no findings")
	} else {
		m.badges(t)
	}
	m.raw("<td>")
	m.number(len(h.Services))
	m.raw("<td>")
	if size := h.Range.size(); size > 0 {
		_, free := counts(&h.Range, h.Range.bounded())
		m.text(fmt.Sprintf("%d/%d", size-free, size))
	} else {
		m.raw("–")
	}
	m.raw("<td>")
	if n := asked(h.Score); n > 0 {
		m.text(fmt.Sprintf("%d/%d", of(h.Score, "pass"), n))
	} else {
		m.raw("–")
	}
	m.raw("\n")
}

// life says how hostagent is on a host.
func (m *markup) life(h *Host) {
	switch h.Life {
	case Runs:
		m.text(h.Mode, " ", h.Version)
	case Silent:
		m.leaf("span", string(h.Life), class("b critical"))
	default:
		m.leaf("span", string(h.Life), class("b warning"))
	}
}

// missing lists the hosts without hostagent.
func (m *markup) missing(hosts []Missing) {
	if len(hosts) == 0 {
		return
	}
	m.raw(`<section id="missing"><h2>Hosts without hostagent</h2><ul class="missing">` + "\n")
	for _, h := range hosts {
		m.raw("<li>")
		m.leaf("b", h.Name)
		m.raw(" ")
		m.leaf("code", h.Address)
		if h.Sidecars > 0 {
			m.raw(" ")
			m.leaf("span", plural(h.Sidecars, "sidecar"), class("b warning"))
		}
		if !h.Alive {
			m.raw(" ")
			m.leaf("span", "out of reach", class("b quiet"))
		}
		m.raw("\n")
	}
	m.raw("</ul></section>\n")
}

// details shows hosts one by one.
func (m *markup) details(p *Page) {
	left := 0
	begun := false
	for i := range p.Hosts {
		h := &p.Hosts[i]
		if !p.detailed(h) {
			left++
			continue
		}
		if !begun {
			m.raw("<section><h2>Host by host</h2>\n")
			begun = true
		}
		m.detail(h, i, len(p.Hosts) == 1)
	}
	if left > 0 {
		m.leaf("p", fmt.Sprintf("%s with nothing wrong: of more than %d hosts only the others are shown one by one. hostagent report on a host shows it.",
			plural(left, "host"), mostDetailed), class("quiet"))
	}
	if begun {
		m.raw("</section>\n")
	}
}

// detail is a host that can be unfolded. The anchor lies inside: a browser that goes there unfolds what is around it.
func (m *markup) detail(h *Host, number int, unfolded bool) {
	if unfolded {
		m.raw(`<details class="host" open><summary>`)
	} else {
		m.raw(`<details class="host"><summary>`)
	}
	m.heading(3, h.Name)
	m.badges(tallyOf(h))
	if h.Life != Runs {
		m.life(h)
	}
	m.raw(`</summary>`)
	m.begin("div", attribute{"id", fmt.Sprintf("h%d", number)})
	m.raw(`<p class="quiet">`)
	for _, text := range h.about() {
		m.leaf("span", text)
		m.raw(" ")
	}
	m.raw("</p>")
	m.host(4, h, number)
	m.raw("</div></details>\n")
}
