// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestEntriesAreComplete(t *testing.T) {
	seen := map[ID]bool{}
	for _, e := range Entries() {
		if seen[e.ID] {
			t.Errorf("%s stands twice", e.ID)
		}
		seen[e.ID] = true
		for name, text := range map[string]string{"title": e.Title, "message": e.Message, "remedy": e.Remedy, "why": e.Why} {
			if text == "" {
				t.Errorf("%s has no %s", e.ID, name)
			}
		}
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(string(e.ID)) {
			t.Errorf("id %q is not lower-case words joined by dashes", e.ID)
		}
		if strings.HasSuffix(e.Message, ".") || unicode.IsUpper(rune(e.Title[0])) {
			t.Errorf("%s: messages end without a full stop and titles begin in lower case", e.ID)
		}
		if got, ok := Lookup(e.ID); !ok || got != e {
			t.Errorf("Lookup(%q) = %+v, %t", e.ID, got, ok)
		}
	}
	if _, ok := Lookup("no-such-finding"); ok {
		t.Error("Lookup found a finding that does not exist")
	}
}

func TestSeverityText(t *testing.T) {
	for _, s := range []Severity{Info, Warning, Critical} {
		got, err := ParseSeverity(s.String())
		if err != nil || got != s {
			t.Errorf("ParseSeverity(%q) = %v, %v", s, got, err)
		}
		var read Severity = 7
		if text, err := s.MarshalText(); err != nil || read.UnmarshalText(text) != nil || read != s {
			t.Errorf("%v reads back as %v", s, read)
		}
	}
	if _, err := ParseSeverity("Warning"); err == nil {
		t.Error("ParseSeverity accepts capitals")
	}
}

func TestClean(t *testing.T) {
	for _, test := range []struct{ name, in, want string }{
		{"plain", "web-1.api_v2", "web-1.api_v2"},
		{"letters of any script", "größe 東京", "größe 東京"},
		{"terminal escape", "a\x1b[31mb", `a\u001b[31mb`},
		{"newline", "a\nb\r\tc", `a\u000ab\u000d\u0009c`},
		{"right to left override", "a\u202eb", `a\u202eb`},
		{"zero width", "a\u200bb", `a\u200bb`},
		{"line separator", "a\u2028b", `a\u2028b`},
		{"C1 control", "a\u009bb", `a\u009bb`},
		{"invalid UTF-8", "a\xffb", "a\uFFFDb"},
		{"too long", strings.Repeat("x", 300), strings.Repeat("x", 160) + "…"},
	} {
		if got := Clean(test.in); got != test.want {
			t.Errorf("%s: Clean(%q) = %q, want %q", test.name, test.in, got, test.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	f.Add("web\x1b]0;title\x07")
	f.Fuzz(func(t *testing.T, in string) {
		got := Clean(in)
		if !utf8.ValidString(got) {
			t.Fatalf("Clean(%q) = %q is not UTF-8", in, got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
				t.Fatalf("Clean(%q) = %q holds %U", in, got, r)
			}
		}
	})
}

func TestRender(t *testing.T) {
	got := Render("{service} on {port}, {missing}", "service", "w\x1beb", "port", "{service}")
	if want := `w\u001beb on {service}, {missing}`; got != want {
		t.Errorf("Render = %q, want %q: values are cleaned and not filled again", got, want)
	}
}

func TestRenderTemplates(t *testing.T) {
	for template, want := range map[string]string{
		"":              "",
		"plain":         "plain",
		"{a}{b}":        "12",
		"x {a} y":       "x 1 y",
		"{a":            "{a",
		"a}":            "a}",
		"{{a}}":         "{1}",
		"{x{a}":         "{x1",
		"{x} {a} {":     "{x} 1 {",
		"{} {A} {b}":    "{} {A} 2",
		"proxy { }{b}}": "proxy { }2}",
	} {
		if got := Render(template, "a", "1", "b", "2", "a", "the first counts", "odd"); got != want {
			t.Errorf("Render(%q) = %q, want %q", template, got, want)
		}
	}
}

func TestRenderCutsNoCommand(t *testing.T) {
	command := strings.Repeat("iptables -I INPUT -p tcp --dport 8443 -j ACCEPT && ", 8)
	if got := Render("{fix}", "fix", command); got != command {
		t.Errorf("Render = %q", got)
	}
	if got := Render("{fix}{what}", "fix", strings.Repeat("x", 5000), "what", strings.Repeat("y", 5000)); len([]rune(got)) != 1162 {
		t.Errorf("Render of too much has %d runes", len([]rune(got)))
	}
}

func TestRenderAsWritten(t *testing.T) {
	for _, test := range []struct{ template, want string }{
		{"{a} and {b}", "1 and {a}"},
		{"ports { {a} } {unknown} {", "ports { 1 } {unknown} {"},
		{"{{a}}", "{1}"},
	} {
		if got := Render(test.template, "a", "1", "b", "{a}", "a", "2"); got != test.want {
			t.Errorf("%q is %q, want %q", test.template, got, test.want)
		}
	}
}
