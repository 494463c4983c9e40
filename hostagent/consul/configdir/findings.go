// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// maxProblems bounds what is said of one file.
const maxProblems = 50

// findings are what is wrong with one file: the first problems, and how many more there are.
type findings struct {
	problems []Problem // without File
	omitted  int
}

// full tells whether the next problem is only counted, so that its text need not be made.
func (f *findings) full() bool { return len(f.problems) >= maxProblems }

func (f *findings) add(line int, scope, format string, args ...any) {
	if f.full() {
		f.omitted++
		return
	}
	f.problems = append(f.problems, Problem{Line: line, Reason: scope + fmt.Sprintf(format, args...)})
}

// found counts problems, to see whether there are more of them later.
func (f *findings) found() int { return len(f.problems) + f.omitted }

// of returns the problems as those of a file. The count of what was left out stands behind them all.
func (f *findings) of(path string) []Problem {
	all, last := make([]Problem, 0, len(f.problems)+1), 0
	for _, p := range f.problems {
		p.File, last = path, max(last, p.Line)
		all = append(all, p)
	}
	if f.omitted > 0 {
		all = append(all, Problem{File: path, Line: last, Reason: fmt.Sprintf("%d more of this kind", f.omitted)})
	}
	return all
}

// A file's text gets into problems through show and quote alone.

const maxShown = 80 // bytes of a name

// show is a name of a file for people: no control characters, not too long, quoted unless it is a plain word.
func show(name string) string {
	if quoted := quote(name); strings.Trim(name, plainLetters) != "" || quoted != `"`+name+`"` || name == "" {
		return quoted
	}
	return name
}

const plainLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"

func quote(name string) string {
	name = mask(name)
	if len(name) > maxShown {
		name = strings.ToValidUTF8(name[:maxShown], "") + "…"
	}
	return strconv.Quote(name)
}

// Tokens are UUIDs; gossip keys are 16, 24 or 32 bytes in base64. One may have come to stand where a name should.
var (
	secretID  = regexp.MustCompile(`(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	secretKey = regexp.MustCompile(`[A-Za-z0-9+/]{22,}={1,2}|[A-Za-z0-9+/]{43,}`)
)

// shortestSecret is the length of a gossip key of 16 bytes.
const shortestSecret = 24

// mask puts something else in the place of what may be a secret. It looks at the front only, far enough to see whole what
// begins within maxShown.
func mask(name string) string {
	if len(name) < shortestSecret {
		return name
	}
	name = name[:min(len(name), 2*maxShown)]
	return secretKey.ReplaceAllLiteralString(secretID.ReplaceAllLiteralString(name, "(a UUID)"), "(a long key)")
}
