// SPDX-License-Identifier: MPL-2.0

package manual

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// roff is text in the language of man(7), fit to stand within a line: whatever must be escaped is.
type roff string

// plain returns text as it is to be read. "-" and quotes become what can be pasted into a shell, whatever the terminal's
// character set makes of typographic ones.
func plain(text string) roff {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\(rs`)
		case r == '-':
			b.WriteString(`\-`)
		case r == '\'':
			b.WriteString(`\(aq`)
		case r == '`':
			b.WriteString(`\(ga`)
		case r == '^':
			b.WriteString(`\(ha`)
		case r == '~':
			b.WriteString(`\(ti`)
		case r == '\n' || r == '\t':
			b.WriteByte(' ')
		case r < ' ' || r == 0x7f: // nothing of ours holds one
		case r > 0x7f:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return roff(b.String())
}

func bold(text string) roff { return `\fB` + plain(text) + `\fR` }

func italic(text string) roff { return `\fI` + plain(text) + `\fR` }

// standsOut matches what running text shows in bold: flags, and pages of the manual.
var standsOut = regexp.MustCompile(`--[a-z][a-z-]*|[a-z][a-z.-]*\([1-8]\)`)

// prose is plain, with flags and names of manual pages in bold.
func prose(text string) roff { return marked(text, standsOut, bold) }

// marked is plain, but for what pattern matches.
func marked(text string, pattern *regexp.Regexp, mark func(string) roff) roff {
	var all roff
	at := 0
	for _, found := range pattern.FindAllStringIndex(text, -1) {
		all += plain(text[at:found[0]]) + mark(text[found[0]:found[1]])
		at = found[1]
	}
	return all + plain(text[at:])
}

// page is a page of the manual in the making.
type page struct {
	text  strings.Builder
	begun bool // something stands below the last heading
}

// newPage begins a page; its date is the only thing that depends on when it is made.
func newPage(name string, section int, date time.Time, title, summary string) *page {
	p := &page{}
	p.line(`.\" SPDX-License-Identifier: MPL-2.0`)
	p.line(`.\" Made by "make manual": change what it is made of, and not this.`)
	p.line(fmt.Sprintf(`.TH %s %d %s hostagent "%s"`, strings.ToUpper(name), section, date.UTC().Format(time.DateOnly), title))
	p.line(".nh") // a command that is broken is none
	p.line(".ad l")
	p.section("Name")
	p.line(string(plain(name) + ` \- ` + plain(summary)))
	return p
}

func (p *page) line(text string) { p.text.WriteString(text + "\n") }

func (p *page) section(title string) { p.heading(".SH", plain(strings.ToUpper(title))) }

func (p *page) subsection(title string) { p.heading(".SS", plain(title)) }

func (p *page) heading(macro string, title roff) {
	p.line(macro + " " + string(title))
	p.begun = false
}

// apart begins a paragraph. Directly below a heading there is nothing to keep apart.
func (p *page) apart() {
	if p.begun {
		p.line(".PP")
	}
	p.begun = true
}

// paragraph writes text that is filled to the reader's width.
func (p *page) paragraph(text roff) {
	p.apart()
	p.fill(text)
}

// item writes text behind a tag, and what more is to be said of it as paragraphs of its own.
func (p *page) item(tag, text roff, more ...roff) {
	p.begun = true
	p.line(".TP")
	p.control(string(tag))
	p.fill(text)
	for _, paragraph := range more {
		p.line(".IP")
		p.fill(paragraph)
	}
}

// literal writes lines that stay as they are.
func (p *page) literal(lines ...roff) {
	p.apart()
	p.line(".nf")
	for _, line := range lines {
		p.control(string(line))
	}
	p.line(".fi")
}

// nested writes what stands further to the right.
func (p *page) nested(write func()) {
	p.line(".RS")
	write()
	p.line(".RE")
}

const sourceWidth = 78 // columns of the page's source

// fill writes words into lines. How they are broken does not show.
func (p *page) fill(text roff) {
	line := ""
	for word := range strings.FieldsSeq(string(text)) {
		if line != "" && len(line)+1+len(word) > sourceWidth {
			if strings.ContainsAny(line[len(line)-1:], ".!?") {
				line += `\&` // at the end of a line, and nowhere else, they would be followed by two blanks
			}
			p.control(line)
			line = ""
		} else if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		p.control(line)
	}
}

// control writes a line of text, which must not be taken for a macro.
func (p *page) control(line string) {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	p.line(line)
}
