// SPDX-License-Identifier: MPL-2.0

package page

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"strings"
)

//go:embed style.css
var style string

// policy has the browser itself enforce what the page promises: it loads nothing and runs nothing, whatever a text has become.
const policy constant = `default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'`

// Write writes p as one HTML document. The same Page gives the same bytes. It fails only where w does.
func Write(w io.Writer, p *Page) error {
	m := newMarkup(w)
	m.head(p)
	m.raw("<body>\n")
	m.symbols()
	m.top(p)
	m.raw("<main>\n")
	if p.Fleet {
		m.fleet(p)
	} else {
		for i := range p.Hosts {
			m.host(2, &p.Hosts[i], i)
		}
	}
	m.notes(2, p.Notes)
	m.raw("</main>\n<footer>")
	m.text("Written by hostagent ", p.Version, ". This page is a picture of one moment; it loads nothing and runs nothing.")
	m.raw("</footer>\n</body></html>\n")
	return m.flush()
}

func (m *markup) head(p *Page) {
	m.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n")
	m.raw(`<meta http-equiv="Content-Security-Policy" content="` + policy + `">` + "\n")
	m.raw(`<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">` + "\n")
	m.raw(`<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">` + "\n")
	m.leaf("title", p.Title+" · hostagent")
	m.raw("\n<style>\n")
	m.raw(constant(style)) // ours: embedded
	m.raw("</style></head>\n")
}

// top says what the page is about and how it stands there.
func (m *markup) top(p *Page) {
	m.raw("<header class=\"top\">")
	m.heading(1, p.Title)
	var about []string
	if p.Datacenter != "" && !strings.Contains(p.Title, p.Datacenter) {
		about = append(about, "datacenter "+p.Datacenter)
	}
	if !p.Fleet && len(p.Hosts) == 1 {
		about = append(about, p.Hosts[0].about()...)
	}
	m.raw("<p>")
	for _, text := range about {
		m.leaf("span", text)
		m.raw(" ")
	}
	m.raw(`<time datetime="`)
	m.text(p.At.UTC().Format("2006-01-02T15:04:05Z"))
	m.raw(`">`)
	m.text(p.At.UTC().Format("2006-01-02 15:04:05 UTC"))
	m.raw("</time></p>\n")
	m.tiles(p)
	m.raw("</header>\n")
}

// about is what is told of a host's agent.
func (h *Host) about() (about []string) {
	if h.Address != "" {
		about = append(about, h.Address)
	}
	if h.Mode != "" {
		about = append(about, "mode "+h.Mode)
	}
	if h.Enforce != "" {
		about = append(about, "enforce "+h.Enforce)
	}
	if h.Version != "" {
		about = append(about, "hostagent "+h.Version)
	}
	return about
}

// tile is a number that the page begins with. An empty class is a number that is neither good nor bad, an empty place one that
// leads nowhere.
type tile struct {
	number string
	words  string
	class  constant
	place  string
}

func (m *markup) tiles(p *Page) {
	all := hostTiles(p)
	if p.Fleet {
		all = fleetTiles(p)
	}
	m.begin("ul", class("tiles"))
	for _, t := range all {
		m.raw("<li")
		if t.class != "" {
			m.raw(` class="` + t.class + `"`)
		}
		m.raw(">")
		m.leaf("b", t.number)
		m.raw(" ")
		if t.place == "" {
			m.text(t.words)
		} else {
			m.leaf("a", t.words, attribute{"href", "#" + t.place})
		}
	}
	m.end("ul")
}

// when is c where there is something to count.
func when(n int, c constant) constant {
	if n == 0 {
		return ""
	}
	return c
}

func findingTiles(t tally) []tile {
	tiles := []tile{
		{fmt.Sprint(t.critical), "critical", when(t.critical, "critical"), ""},
		{fmt.Sprint(t.warning + t.more), noun(t.warning+t.more, "warning"), when(t.warning+t.more, "warning"), ""},
	}
	if t.critical+t.warning+t.more+t.info == 0 {
		tiles = []tile{{"0", "open findings", "pass", ""}}
	}
	if n := t.held + t.exempt; n > 0 {
		tiles = append(tiles, tile{fmt.Sprint(n), "mitigated or exempt", "", ""})
	}
	return tiles
}

// noun is the word for n things of which one is called so; the number stands elsewhere.
func noun(n int, one string) string {
	if n == 1 {
		return one
	}
	return one + "s"
}

func hostTiles(p *Page) []tile {
	if len(p.Hosts) != 1 {
		return nil
	}
	h := &p.Hosts[0]
	tiles := findingTiles(tallyOf(h))
	if h.Unknown == "" {
		tiles = append(tiles, tile{fmt.Sprint(len(h.Services)), noun(len(h.Services), "mesh service"), "", ""})
	}
	if size := h.Range.size(); size > 0 {
		_, free := counts(&h.Range, h.Range.bounded())
		tiles = append(tiles, tile{fmt.Sprintf("%d/%d", size-free, size), "ports of the range in use", "", ""})
	}
	if n := asked(h.Score); n > 0 {
		failed := of(h.Score, "fail")
		tiles = append(tiles, tile{fmt.Sprintf("%d/%d", of(h.Score, "pass"), n), "of the checklist pass", when(failed, "warning"), ""})
	}
	return tiles
}

// host shows one host; its sections have headings of that level.
func (m *markup) host(level int, h *Host, number int) {
	if h.Says != "" {
		m.leaf("p", h.Says, class("bad"))
	}
	m.findings(level, h)
	m.checks(level, h)
	m.services(level, h)
	m.sidecarRange(level, &h.Range, number)
	m.checklist(level, h)
	m.notes(level, h.Notes)
}

// notes says what could not be seen.
func (m *markup) notes(level int, notes []string) {
	if len(notes) == 0 {
		return
	}
	m.begin("section", class("notes"))
	m.heading(level, "Notes, and what could not be seen")
	m.raw("<ul>")
	for _, note := range notes {
		m.leaf("li", cmp.Or(note, "-"))
		m.raw("\n")
	}
	m.end("ul")
	m.end("section")
}
