// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"

	"github.com/hashicorp/hcl/hcl/scanner"
	"github.com/hashicorp/hcl/hcl/token"
	jsonscanner "github.com/hashicorp/hcl/json/scanner"
	jsontoken "github.com/hashicorp/hcl/json/token"
)

// HCLNestsDeeper tells whether a text in HCL of version 1 nests deeper than most levels. Ask before the library parses what
// others wrote: its parser recurses without a limit, and a Go program cannot recover from a full stack. The scanners are the
// library's, so that strings, comments and heredocs end where the parser thinks they end.
func HCLNestsDeeper(text []byte, most int) bool {
	if bytes.Count(text, []byte("{"))+bytes.Count(text, []byte("[")) <= most {
		return false
	}
	depth, deepest := 0, 0
	step := func(opens, closes bool) {
		if opens {
			depth++
			deepest = max(deepest, depth)
		} else if closes {
			depth--
		}
	}
	if IsHCLJSON(text) {
		s := jsonscanner.New(text)
		s.Error = func(jsontoken.Pos, string) {}
		for t := s.Scan(); t.Type != jsontoken.EOF && deepest <= most; t = s.Scan() {
			step(t.Type == jsontoken.LBRACE || t.Type == jsontoken.LBRACK, t.Type == jsontoken.RBRACE || t.Type == jsontoken.RBRACK)
		}
		return deepest > most
	}
	s := scanner.New(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	s.Error = func(token.Pos, string) {}
	for t := s.Scan(); t.Type != token.EOF && deepest <= most; t = s.Scan() {
		step(t.Type == token.LBRACE || t.Type == token.LBRACK, t.Type == token.RBRACE || t.Type == token.RBRACK)
	}
	return deepest > most
}

// IsHCLJSON tells whether the library takes a text for JSON.
func IsHCLJSON(text []byte) bool { return bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) }
