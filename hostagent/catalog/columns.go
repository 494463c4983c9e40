// SPDX-License-Identifier: MPL-2.0

package main

import (
	"unicode"

	"golang.org/x/text/width"
)

// cells is how many columns of a terminal a text takes: East Asian characters and emoji have two, combining marks none.
func cells(text string) (n int) {
	for _, r := range text {
		n += cellsOf(r)
	}
	return n
}

func cellsOf(r rune) int {
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

// shorten cuts text to that many columns, with "…" for what is not there.
func shorten(text string, columns int) string {
	if cells(text) <= columns {
		return text
	}
	taken := cells("…")
	for i, r := range text {
		if taken += cellsOf(r); taken > columns {
			return text[:i] + "…"
		}
	}
	return text
}
