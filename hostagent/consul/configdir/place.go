// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"encoding/json"
	"strings"
)

// maxDepth bounds how deep a file may nest. Consul has no such limit (for JSON it is 10,000), and crashes on HCL that
// nests some millions deep; what it knows how to use nests about ten deep.
const maxDepth = 200

// place is where a value of a file stands, with the places of what it holds. What the decoders make of a file is theirs to
// say; places only lend it lines, so a place that lacks is no error: a nil *place has no line and no parts.
type place struct {
	line int
	keys map[string]*place
	list []*place
}

func (p *place) key(name string) *place {
	if p == nil {
		return nil
	}
	if inner, ok := p.keys[name]; ok {
		return inner
	}
	return &place{line: p.line}
}

func (p *place) item(i int) *place {
	if p == nil {
		return nil
	}
	if i < len(p.list) {
		return p.list[i]
	}
	if p.keys != nil {
		return p // of JSON that is read as HCL: the library makes a list of each object
	}
	return &place{line: p.line}
}

func (p *place) at() int {
	if p == nil {
		return 0
	}
	return p.line
}

// jsonPlaces finds the places of a text that encoding/json took, so it looks for no mistakes; false where it nests deeper
// than maxDepth.
func jsonPlaces(text []byte) (*place, bool) {
	s := jsonScanner{text: text, line: 1}
	p := s.value(0)
	return p, !s.tooDeep
}

type jsonScanner struct {
	text    []byte
	pos     int
	line    int
	tooDeep bool
}

// next skips white space and what separates values, and returns the byte that follows, 0 at the end.
func (s *jsonScanner) next() byte {
	for ; s.pos < len(s.text); s.pos++ {
		switch s.text[s.pos] {
		case '\n':
			s.line++
		case ' ', '\t', '\r', ',', ':':
		default:
			return s.text[s.pos]
		}
	}
	return 0
}

func (s *jsonScanner) value(depth int) *place {
	opener := s.next()
	p := &place{line: s.line}
	if depth > maxDepth {
		s.tooDeep, s.pos = true, len(s.text)
		return p
	}
	switch opener {
	case '{':
		p.keys = map[string]*place{}
		for s.pos++; s.next() == '"'; {
			line, start := s.line, s.pos
			key := unquoteJSON(s.text[start:s.skipString()])
			inner := s.value(depth + 1)
			inner.line = line
			p.keys[key] = inner
		}
		s.pos++
	case '[':
		for s.pos++; s.next() != ']' && s.pos < len(s.text); {
			p.list = append(p.list, s.value(depth+1))
		}
		s.pos++
	case '"':
		s.skipString()
	default:
		for s.pos < len(s.text) && !strings.ContainsRune(" \t\r\n,]}", rune(s.text[s.pos])) {
			s.pos++
		}
	}
	return p
}

// skipString moves past a string, and returns where it ends.
func (s *jsonScanner) skipString() int {
	for s.pos++; s.pos < len(s.text) && s.text[s.pos] != '"'; s.pos++ {
		if s.text[s.pos] == '\\' {
			s.pos++
		}
	}
	s.pos = min(s.pos+1, len(s.text))
	return s.pos
}

func unquoteJSON(quoted []byte) string {
	for _, b := range quoted {
		if b == '\\' || b >= 0x80 {
			var key string
			if json.Unmarshal(quoted, &key) == nil {
				return key
			}
			break
		}
	}
	return strings.Trim(string(quoted), `"`)
}
