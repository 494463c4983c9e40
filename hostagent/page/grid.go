// SPDX-License-Identifier: MPL-2.0

package page

import (
	"fmt"
	"slices"
	"strings"
)

// kind is how a use of a port is shown. Its shape is part of it: colours alone say nothing to many.
type kind struct {
	use   Use
	class constant
	shape constant // of a cell of 10 units, from its upper left corner
	words string   // behind the number of such ports
}

// kinds are the uses in the order of the legend.
func kinds() []kind {
	return []kind{
		{UseSidecar, "ks", "h10v10h-10z", "with a sidecar"},
		{UsePath, "kp", "h10v4h-10zm0 6h10v4h-10z", "of exposed paths"},
		{UseUnserved, "ku", "h10v10h-10zm3 3v4h4v-4z", "without its sidecar"},
		{UseHeld, "kh", "m5 0l5 5l-5 5l-5-5z", "closing"},
		{UseSquatted, "kq", "l2 0l3 3l3-3l2 0l0 2l-3 3l3 3l0 2l-2 0l-3-3l-3 3l-2 0l0-2l3-3l-3-3z", "squatted"},
		{UseShared, "kd", "h10l-10 10h10z", "shared"},
		{UseLocal, "kl", "m3 3h4v4h-4z", "in use locally"},
	}
}

const (
	pitch   = 12 // units from cell to cell, of which cells take 10
	margin  = 34 // units left of the cells, for the first port of each row
	mostRow = 64 // ports of a row
	aRow    = 32 // ports of a row of Consul's usual range
)

// bounded is r with the part of its runs that lies in it, at most one use a port.
func (r *Range) bounded() []Run {
	var runs []Run
	next := int(r.First)
	for _, run := range r.Runs {
		first, last := max(int(run.First), next), min(int(run.Last), int(r.Last))
		if r.First == 0 || first > last {
			continue
		}
		next = last + 1
		run.First, run.Last = uint16(first), uint16(last) //nolint:gosec // between two ports
		runs = append(runs, run)
	}
	return runs
}

// size is how many ports r has.
func (r *Range) size() int {
	if r.First == 0 || r.Last < r.First {
		return 0
	}
	return int(r.Last) - int(r.First) + 1
}

// sidecarRange draws the range, says what its signs mean, and lists who has which port. number makes ids of the page.
func (m *markup) sidecarRange(level int, r *Range, number int) {
	size := r.size()
	if size == 0 {
		return
	}
	runs := r.bounded()
	m.begin("section", class("range"))
	m.heading(level, fmt.Sprintf("Sidecar range %d–%d", r.First, r.Last))
	m.raw(`<div class="map"><div>`)
	m.grid(r, runs, number)
	m.legend(r, runs)
	m.raw("</div>")
	if len(runs) > 0 {
		m.begin("ul", class("runs"))
		for _, run := range runs {
			m.raw("<li><code>")
			m.text(ports(run.First, run.Last))
			m.raw("</code> ")
			m.leaf("span", run.Text)
			m.raw("\n")
		}
		m.end("ul")
	}
	m.raw("</div>")
	m.end("section")
}

func ports(first, last uint16) string {
	if first == last {
		return fmt.Sprint(first)
	}
	return fmt.Sprintf("%d–%d", first, last)
}

// grid draws a cell for each port, with one path for all cells of a kind: a page of a thousand hosts has a quarter of a million
// cells. What lies behind the cells, and is seen where a port is free, is a dashed line for each row.
func (m *markup) grid(r *Range, runs []Run, number int) {
	size := r.size()
	row := aRow
	if size > 16*aRow {
		row = mostRow
	}
	width, height := margin+row*pitch, (size+row-1)/row*pitch
	m.raw("<svg")
	for _, a := range []attribute{
		{"class", "grid"}, {"viewBox", fmt.Sprintf("0 0 %d %d", width, height)}, {"role", "img"},
		{"aria-labelledby", fmt.Sprintf("g%d", number)}, {"aria-describedby", fmt.Sprintf("d%d", number)},
	} {
		m.raw(" " + a.name + `="`)
		m.text(a.value)
		m.raw(`"`)
	}
	m.raw(">")
	m.leaf("title", fmt.Sprintf("Ports %d to %d", r.First, r.Last), attribute{"id", fmt.Sprintf("g%d", number)})
	m.leaf("desc", strings.Join(counted(r, runs), ", "), attribute{"id", fmt.Sprintf("d%d", number)})
	m.raw("<g>")
	var behind outline
	for start := 0; start < size; start += row {
		y := start / row * pitch
		m.begin("text", attribute{"y", fmt.Sprint(y + 9)})
		m.number(int(r.First) + start)
		m.raw("</text>")
		behind.at(margin, y+5, "h")
		behind.number((min(row, size-start)-1)*pitch + 10)
	}
	m.raw("</g>")
	m.path("kf", behind)
	for _, k := range kinds() {
		var cells outline
		for _, run := range runs {
			if run.Use != k.use {
				continue
			}
			for port := int(run.First); port <= int(run.Last); port++ {
				place := port - int(r.First)
				cells.at(margin+place%row*pitch, place/row*pitch, k.shape)
			}
		}
		m.path(k.class, cells)
	}
	m.raw("</svg>\n")
}

// counts are how many ports each of kinds() has, and how many are free.
func counts(r *Range, runs []Run) (used []int, free int) {
	all := kinds()
	used, free = make([]int, len(all)), r.size()
	for _, run := range runs {
		n := int(run.Last) - int(run.First) + 1
		free -= n
		if i := slices.IndexFunc(all, func(k kind) bool { return k.use == run.Use }); i >= 0 {
			used[i] += n
		}
	}
	return used, free
}

// free says what cells are that nobody is known to use.
func (r *Range) free() string {
	if r.Partly {
		return "free or not told"
	}
	return "free"
}

// counted says the same as the legend, in words.
func counted(r *Range, runs []Run) (words []string) {
	used, free := counts(r, runs)
	for i, k := range kinds() {
		if used[i] > 0 {
			words = append(words, fmt.Sprintf("%d %s", used[i], k.words))
		}
	}
	return append(words, fmt.Sprintf("%d %s", free, r.free()))
}

func (m *markup) legend(r *Range, runs []Run) {
	used, free := counts(r, runs)
	m.begin("ul", class("legend"))
	for i, k := range kinds() {
		if used[i] > 0 {
			m.raw(`<li><svg aria-hidden="true"><use href="#` + k.class + `"/></svg>`)
			m.text(fmt.Sprintf("%d %s", used[i], k.words))
		}
	}
	m.raw(`<li><svg aria-hidden="true"><use href="#kf"/></svg>`)
	m.text(fmt.Sprintf("%d %s", free, r.free()))
	m.end("ul")
}

// symbols are the shapes that legends show, once for the page.
func (m *markup) symbols() {
	m.raw(`<svg class="symbols" aria-hidden="true">`)
	for _, k := range append(kinds(), kind{class: "kf", shape: "m0 5h10"}) {
		m.raw(`<symbol id="` + k.class + `" viewBox="0 0 10 10"><path class="` + k.class + `" d="M0 0` + k.shape + `"/></symbol>`)
	}
	m.raw("</svg>\n")
}
