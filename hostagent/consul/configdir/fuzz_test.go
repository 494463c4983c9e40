// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"
)

// FuzzRead holds Read to what it promises of any bytes: it returns, soon, and problems name the file and a line of it, in
// text that a terminal can show.
func FuzzRead(f *testing.F) {
	for _, tt := range problemCases {
		f.Add(strings.HasSuffix(tt.file, "hcl"), []byte(tt.text))
	}
	for _, text := range hostileTexts {
		f.Add(text.isHCL, []byte(text.make(50)))
	}
	f.Add(true, []byte(fmt.Sprintf(benchHCL, 1, 2)))
	f.Add(false, []byte(fmt.Sprintf(benchJSON, 1, 2)))
	folder := f.TempDir()
	f.Fuzz(func(t *testing.T, isHCL bool, text []byte) {
		name := "a.json"
		if isHCL {
			name = "a.hcl"
		}
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Read(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := 1 + strings.Count(string(text), "\n")
		for _, p := range c.Problems {
			if p.File != path || p.Line < 0 || p.Line > lines {
				t.Errorf("%v: of %d lines", p, lines)
			}
			if p.Reason == "" || strings.ContainsFunc(p.Reason, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q cannot be shown", p.Reason)
			}
		}
		for _, s := range c.Services {
			if s.File != path || s.Line < 1 || s.Line > lines || s.Name == "" {
				t.Errorf("%+v: of %d lines", s, lines)
			}
		}
		c.Registrations()
	})
}

// hostileTexts grow with n in ways that a parser or a decoder can mind more than it should.
var hostileTexts = []struct {
	name  string
	isHCL bool
	make  func(n int) string
}{
	{"lists in lists", true, func(n int) string { return "a = " + strings.Repeat("[", n) }},
	{"blocks in blocks", true, func(n int) string { return strings.Repeat("a {\n", n) }},
	{"blocks in blocks, closed", true, func(n int) string { return strings.Repeat("a {", n) + strings.Repeat("}", n) }},
	{"closers in texts", true, func(n int) string { return strings.Repeat("a { b = \"}}}}\"\n", n) }},
	{"closers in comments", true, func(n int) string { return strings.Repeat("a { # }}}}\n", n) }},
	{"labels", true, func(n int) string { return strings.Repeat("a ", n) + "{}" }},
	{"labelled blocks", true, func(n int) string {
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "k%d a {}\n", i)
		}
		return text.String()
	}},
	{"a long key around many", true, func(n int) string {
		return strings.Repeat("k", 10*n) + " {\n" + strings.Repeat("a = 1\n", n) + "}"
	}},
	{"one key many times", true, func(n int) string { return strings.Repeat("service {}\n", n) }},
	{"many unknown keys", true, manyForeignKeys},
	{"many services", true, func(n int) string { return strings.Repeat("services { name = \"a\" }\n", n) }},
	{"JSON for HCL", true, func(n int) string { return strings.Repeat(`{"a":`, n) }},
	{"JSON for HCL, closed", true, func(n int) string { return strings.Repeat(`{"a":`, n) + "{}" + strings.Repeat("}", n) }},
	{"lists of JSON for HCL", true, func(n int) string { return `{"a":` + strings.Repeat(`[{"b":`, n) }},
	{"wide JSON for HCL", true, func(n int) string { return `{"a":{` + strings.Repeat(`"k":{"x":{}},`, n) + `"z":{}}}` }},
	{"open heredoc", true, func(n int) string { return "a = <<E\n" + strings.Repeat("x\n", n) }},
	{"JSON lists", false, func(n int) string { return `{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}" }},
	{"JSON objects", false, func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }},
	{"JSON of open type", false, func(n int) string {
		return `{"watches":[` + strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) + "]}"
	}},
	{"JSON keys", false, func(n int) string { return `{"a":1` + strings.Repeat(`,"ſ":{"ſ":1}`, n) + "}" }},
}

func manyForeignKeys(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "ſ%d = 1\n", i)
	}
	return text.String()
}

// TestHostile reads texts of about a megabyte: what would take for ever, or the stack, is refused or quick.
func TestHostile(t *testing.T) {
	const tooLong = 15 * time.Second // the longest takes 1 s on a machine that does nothing else
	for _, tt := range hostileTexts {
		t.Run(tt.name, func(t *testing.T) {
			format := "json"
			if tt.isHCL {
				format = "hcl"
			}
			text := tt.make(100_000)
			start := time.Now()
			_, found := decodeFile(format, []byte(text))
			problems := found.problems
			if took := time.Since(start); took > tooLong {
				t.Errorf("%d bytes took %v", len(text), took)
			} else {
				t.Logf("%d bytes: %v, %v", len(text), took.Round(time.Millisecond), firstOf(problems))
			}
			if len(problems) == 0 && tt.name != "many services" {
				t.Error("taken")
			}
		})
	}
}

func firstOf(problems []Problem) string {
	if len(problems) == 0 {
		return "no problems"
	}
	return problems[0].Reason
}

// TestHostileMemory holds the worst files that may be read to what their decoding may allocate in all. JSON comes out
// alike, whatever is in it.
func TestHostileMemory(t *testing.T) {
	const most = 300 << 20
	list := func(item string) string { return "a = [" + strings.Repeat(item, maxFileSize/len(item)-3) + "]" }
	for _, text := range []string{
		"a b c{}\n", "a b{}\n", "a{}\n", "a=1\n", "services{}\n", "a b c d e f g h i j k l m{}\n", "a=[{},{},{},{}]\n",
		"a{" + strings.Repeat("b{", 50) + strings.Repeat("}", 50) + "}\n", list("1,"), list("{},"), list("[],"),
		`{"a":[` + strings.Repeat("{},", maxFileSize/3-4) + "{}]}",
	} {
		whole := []byte(strings.Repeat(text, maxFileSize/len(text)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		decodeFile("hcl", whole)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > most {
			t.Errorf("%.20q: %d MiB", text, took>>20)
		}
	}
}

// TestLargestOrdinary reads a file that is full of definitions.
func TestLargestOrdinary(t *testing.T) {
	text := []byte{}
	body := strings.Replace(benchHCL, "service {", "services {", 1)
	for i := 0; len(text) < maxFileSize-2*len(body); i++ {
		text = fmt.Appendf(text, body, i, 1)
	}
	if _, found := decodeFile("hcl", text); found.found() > 0 {
		t.Error(found.problems)
	}
}
