// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Columns is how many columns of a terminal a text takes: East Asian characters and emoji have two, combining marks none.
func Columns(text string) (n int) {
	for _, r := range text {
		n += columnsOf(r)
	}
	return n
}

func columnsOf(r rune) int {
	switch {
	case r < 0x300: // before the first combining mark
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	if kind := width.LookupRune(r).Kind(); kind == width.EastAsianWide || kind == width.EastAsianFullwidth {
		return 2
	}
	return 1
}

// Shorten cuts text to that many columns, with "…" for what is not there.
func Shorten(text string, columns int) string {
	if Columns(text) <= columns {
		return text
	}
	return text[:fitting(text, columns-Columns("…"))] + "…"
}

// fitting is how many bytes of text fit into that many columns.
func fitting(text string, columns int) int {
	for i, r := range text {
		if columns -= columnsOf(r); columns < 0 {
			return i
		}
	}
	return len(text)
}

// Wrap breaks text between words into lines of at most that many columns, 0 for one line. A word that is wider has a line of
// its own, and is broken itself only where it is wider than longest; 0 breaks none. Text without words is one empty line.
func Wrap(text string, columns, longest int) []string {
	var lines []string
	taken := 0
	add := func(word string) {
		n := Columns(word)
		if len(lines) == 0 || columns > 0 && taken+1+n > columns {
			lines, taken = append(lines, word), n
			return
		}
		lines[len(lines)-1] += " " + word
		taken += 1 + n
	}
	for word := range strings.FieldsSeq(text) {
		if longest > 0 && Columns(word) > longest {
			for Columns(word) > columns {
				_, one := utf8.DecodeRuneInString(word)
				n := max(fitting(word, columns), one)
				add(word[:n])
				word = word[n:]
			}
		}
		if word != "" {
			add(word)
		}
	}
	if lines == nil {
		return []string{""}
	}
	return lines
}
