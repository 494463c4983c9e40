// SPDX-License-Identifier: MPL-2.0

package main

import "testing"

func TestCells(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "web": 3, "größe": 5, "gro\u0308ße": 5, "日本語": 6, "ｗｅｂ": 6, "한글": 4, "🚀": 2, "…": 1, "Привет": 6,
	} {
		if got := cells(text); got != want {
			t.Errorf("%q takes %d columns, not %d", text, want, got)
		}
	}
}

func TestShorten(t *testing.T) {
	for _, test := range []struct {
		text    string
		columns int
		want    string
	}{
		{"service", 7, "service"},
		{"service", 6, "servi…"},
		{"日本語", 6, "日本語"},
		{"日本語", 5, "日本…"},
		{"日本語", 4, "日…"}, // half a character is none
		{"gro\u0308ße", 5, "gro\u0308ße"},
	} {
		if got := shorten(test.text, test.columns); got != test.want {
			t.Errorf("%q in %d columns is %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}
