// SPDX-License-Identifier: MPL-2.0

package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is one thing that is wrong with the configuration. File and Line are empty where the value came from a flag,
// the environment or the caller; Text then names it. Text is one line, fit for a terminal, and holds no secret.
type Error struct {
	File string
	Line int // from 1; 0 where the whole file is meant
	Text string

	cause error
}

// Error returns "FILE:LINE: text", as compilers do.
func (e *Error) Error() string {
	switch {
	case e.File == "":
		return e.Text
	case e.Line == 0:
		return displayPath(e.File) + ": " + e.Text
	}
	return fmt.Sprintf("%s:%d: %s", displayPath(e.File), e.Line, e.Text)
}

// Unwrap returns the operating system's error, such as fs.ErrNotExist, where there is one.
func (e *Error) Unwrap() error { return e.cause }

// Errors is everything that is wrong with the configuration, sorted by file and line; what came from no file is last.
type Errors []*Error

// Error returns one problem a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, problem := range e {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the single problems.
func (e Errors) Unwrap() []error {
	all := make([]error, len(e))
	for i, problem := range e {
		all[i] = problem
	}
	return all
}

// sorted sorts e in place and returns it as an error, nil where there is nothing wrong.
func (e Errors) sorted() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		switch {
		case a.File == "" && b.File != "":
			return 1
		case a.File != "" && b.File == "":
			return -1
		}
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return e
}

// maxQuoted bounds how much of an offending text an error repeats, in bytes.
const maxQuoted = 80

// quote writes offending text as a Go string, which shows control characters and reordering marks instead of sending
// them to the terminal, and cuts what is too long to read.
func quote(text string) string {
	if len(text) <= maxQuoted {
		return strconv.Quote(text)
	}
	end := maxQuoted
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return strconv.Quote(text[:end]) + "..."
}

// displayPath returns path as it is, or quoted where it would garble the terminal.
func displayPath(path string) string {
	if isPrintable(path) {
		return path
	}
	return strconv.Quote(path)
}

func isPrintable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}
