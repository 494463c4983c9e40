// SPDX-License-Identifier: MPL-2.0

package page

import "fmt"

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
	tiles := []tile{{fmt.Sprint(hosts), noun(hosts, "host"), ""}, {fmt.Sprint(lives[Runs]), "running hostagent", when(lives[Runs], "pass")}}
	if n := lives[Silent]; n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "silent", "critical"})
	}
	if n := len(p.Missing); n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "without hostagent", "warning"})
	}
	if n := lives[Stopped]; n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "stopped", "warning"})
	}
	return append(tiles, findingTiles(all)...)
}

// fleet shows an overview of all hosts, then each.
func (m *markup) fleet(p *Page) {
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
		m.raw("none")
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
	m.raw(`<section><h2>Hosts without hostagent</h2><ul class="missing">` + "\n")
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
