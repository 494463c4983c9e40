// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestColumns(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "web": 3, "größe": 5, "gro\u0308ße": 5, "日本語": 6, "ｗｅｂ": 6, "한글": 4, "🚀": 2, "…": 1, "Привет": 6,
	} {
		if got := Columns(text); got != want {
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
		if got := Shorten(test.text, test.columns); got != test.want {
			t.Errorf("%q in %d columns is %q, want %q", test.text, test.columns, got, test.want)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text             string
		columns, longest int
		want             string // lines, apart by |
	}{
		{"", 10, 0, ""},
		{" \n\t", 10, 0, ""},
		{"no words  are\nlost", 0, 0, "no words are lost"},
		{"one two three", 7, 0, "one two|three"},
		{"one two three", 8, 0, "one two|three"},
		{"日本 日本", 8, 0, "日本|日本"},
		{"a wider-than-it b", 5, 0, "a|wider-than-it|b"},
		{"a wider-than-it b", 5, 13, "a|wider-than-it|b"},
		{"a wider-than-it b", 5, 12, "a|wider|-than|-it b"},
		{"日本語", 3, 4, "日|本|語"},
		{"日本", 1, 1, "日|本"},
	} {
		if diff := cmp.Diff(strings.Split(test.want, "|"), Wrap(test.text, test.columns, test.longest)); diff != "" {
			t.Errorf("%q in %d columns, words in %d (-want +got):\n%s", test.text, test.columns, test.longest, diff)
		}
	}
}
