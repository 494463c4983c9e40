// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// parse decodes a file as Consul's first step does, into maps, lists and scalars whose shape depends on the format: a
// block of HCL is a list of maps. The error is a *syntaxError.
func parse(format string, text []byte) (map[string]any, *place, error) {
	decode := parseJSON
	if format == "hcl" {
		decode = parseHCL
	}
	raw, places, err := decode(text)
	if err != nil && bytes.HasPrefix(text, []byte("\xef\xbb\xbf")) {
		err = &syntaxError{line: 1, reason: "begins with a byte order mark, which Consul refuses; save it as UTF-8 without"}
	}
	return raw, places, err
}

// syntaxError is what Consul's parsers refuse. Its reason holds nothing of the file's text: that could be a token.
type syntaxError struct {
	line   int
	reason string
}

func (e *syntaxError) Error() string { return e.reason }

func parseJSON(text []byte) (map[string]any, *place, error) {
	var raw map[string]any
	if err := json.Unmarshal(text, &raw); err != nil {
		return nil, nil, jsonError(text, err)
	}
	places, ok := jsonPlaces(text)
	if !ok {
		return nil, nil, &syntaxError{reason: fmt.Sprintf("nests deeper than %d levels", maxDepth)}
	}
	return raw, places, nil
}

func jsonError(text []byte, err error) error {
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		// The offset is behind the byte that cannot stand there, or at the end.
		before := text[:max(0, min(int(syntax.Offset)-1, len(text)))]
		if strings.Contains(syntax.Error(), "unexpected end") {
			before = text
		}
		e := &syntaxError{line: 1 + bytes.Count(before, []byte("\n")), reason: "is not valid JSON: " + syntax.Error()}
		switch rest := text[len(before):]; {
		case len(rest) == 0:
		case rest[0] == '/' || rest[0] == '#':
			e.reason += "; JSON has no comments"
		case (rest[0] == '}' || rest[0] == ']') && bytes.HasSuffix(bytes.TrimSpace(before), []byte(",")):
			e.reason += "; JSON has no comma after the last one"
		}
		return e
	}
	if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		line := 1 + bytes.Count(text[:max(0, min(int(mismatch.Offset), len(text)))], []byte("\n"))
		if strings.HasPrefix(mismatch.Value, "number ") {
			return &syntaxError{line: line, reason: "holds a number that is too large"}
		}
		return &syntaxError{line: 1, reason: "must be one JSON object, not " + mismatch.Value}
	}
	return &syntaxError{reason: "is not valid JSON"}
}
