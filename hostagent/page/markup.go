// SPDX-License-Identifier: MPL-2.0

package page

import (
	"bufio"
	"html"
	"io"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// constant is text of this package's own: names of elements, classes, the style sheet. Go makes one of a literal by itself and
// of no other text, so that what came from elsewhere cannot be written as markup by mistake.
type constant string

// attribute is an attribute of an element. Its value is text.
type attribute struct {
	name  constant
	value string
}

func class(names constant) attribute { return attribute{"class", string(names)} }

// markup writes HTML. There are two ways to write: constants as they are, and text, which is made harmless. The first error of
// the writer stays, and is what flush returns.
type markup struct{ w *bufio.Writer }

func newMarkup(w io.Writer) *markup { return &markup{bufio.NewWriterSize(w, 64<<10)} }

// mostText is the length in runes to which a text is cut: long sentences are shorter, and a name of a megabyte is none.
const mostText = 2000

// raw writes a constant as it is.
func (m *markup) raw(markup constant) { _, _ = m.w.WriteString(string(markup)) } // flush tells the error

// text writes text: no markup, no control characters, nothing that turns the writing round.
func (m *markup) text(texts ...string) {
	for _, text := range texts {
		_, _ = m.w.WriteString(html.EscapeString(catalog.CleanTo(text, mostText))) // flush tells the error
	}
}

func (m *markup) number(n int) { m.text(strconv.Itoa(n)) }

// begin opens an element.
func (m *markup) begin(element constant, attributes ...attribute) {
	m.raw("<" + element)
	for _, a := range attributes {
		if a.value == "" {
			continue
		}
		m.raw(" " + a.name + `="`)
		m.text(a.value)
		m.raw(`"`)
	}
	m.raw(">")
}

// end closes an element, and the line, which a reader of the source is grateful for.
func (m *markup) end(element constant) { m.raw("</" + element + ">\n") }

// leaf is an element that holds only text; nothing where that is empty.
func (m *markup) leaf(element constant, text string, attributes ...attribute) {
	if text == "" {
		return
	}
	m.begin(element, attributes...)
	m.text(text)
	m.raw("</" + element + ">")
}

// heading writes a heading; level 1 is the page's own.
func (m *markup) heading(level int, text string) {
	elements := [...]constant{"h1", "h2", "h3", "h4", "h5", "h6"}
	m.leaf(elements[min(max(level, 1), len(elements))-1], text)
	m.raw("\n")
}

// flush writes what is left.
func (m *markup) flush() error { return m.w.Flush() }

// outline is what a <path> of SVG draws: letters that are constants, and numbers.
type outline []byte

func (o *outline) at(x, y int, shape constant) {
	*o = append(*o, 'M')
	*o = strconv.AppendInt(*o, int64(x), 10)
	*o = append(*o, ' ')
	*o = strconv.AppendInt(*o, int64(y), 10)
	*o = append(*o, shape...)
}

func (o *outline) number(n int) { *o = strconv.AppendInt(*o, int64(n), 10) }

// path draws an outline, unless it is empty.
func (m *markup) path(classes constant, o outline) {
	if len(o) == 0 {
		return
	}
	m.raw(`<path class="` + classes + `" d="`)
	_, _ = m.w.Write(o) // flush tells the error
	m.raw(`"/>`)
}

// plural is "1 host", "2 hosts".
func plural(n int, one string) string { return strconv.Itoa(n) + " " + noun(n, one) }
