// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
	"github.com/hashicorp/hcl/hcl/parser"
	"github.com/hashicorp/hcl/hcl/token"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// maxHCLWork bounds what decoding a file may cost, in bytes of the key paths that the library builds, in items that it
// compares (both grow with the square of a hostile file's size) and in what an item and each label of it take. A mebibyte
// of ordinary definitions costs a quarter of it.
const (
	maxHCLWork = 1 << 24
	itemWork   = 48
	labelWork  = 96
)

// parseHCL decodes HCL of version 1, or what the library takes for JSON because it begins with a brace.
func parseHCL(text []byte) (raw map[string]any, places *place, err error) {
	// The library panics on a few texts that its scanner lets through, and Consul with it.
	defer func() {
		if recover() != nil {
			raw, places, err = nil, nil, &syntaxError{reason: "is not valid HCL: Consul's parser crashes on it"}
		}
	}()
	if consul.HCLNestsDeeper(text, maxDepth) {
		return nil, nil, &syntaxError{reason: fmt.Sprintf("nests deeper than %d levels", maxDepth)}
	}
	// Into a target of this type, Decode puts the syntax tree itself. Parse would refuse duplicate keys, which Consul takes.
	var node ast.Node
	if err := hcl.Decode(&node, string(text)); err != nil {
		return nil, nil, hclError(text, err)
	}
	list, ok := node.(*ast.ObjectList)
	if !ok {
		return nil, nil, &syntaxError{reason: "is not valid HCL"}
	}
	work := hclWork{left: maxHCLWork}
	if !work.fits(list, 0, 0) {
		return nil, nil, &syntaxError{reason: "is too large or too deeply labelled to decode"}
	}
	if err := hcl.DecodeObject(&raw, list); err != nil {
		return nil, nil, decodeError(list, err)
	}
	if consul.IsHCLJSON(text) && json.Valid(text) {
		if places, ok := jsonPlaces(text); ok { // the library knows no lines of what stands in lists
			return raw, places, nil
		}
	}
	return raw, objectPlace(list, 0), nil
}

// hclWork adds up what decoding a tree would cost.
type hclWork struct{ left int }

func (w *hclWork) fits(node ast.Node, pathLength, depth int) bool {
	if depth > maxDepth {
		return false
	}
	switch n := node.(type) {
	case *ast.ObjectType:
		return w.fits(n.List, pathLength, depth+1)
	case *ast.ListType:
		for _, item := range n.List {
			if w.left -= itemWork; w.left < 0 || !w.fits(item, pathLength, depth+1) {
				return false
			}
		}
	case *ast.ObjectList:
		labelled := map[string]bool{} // each first key before labels makes the library go through the list again
		for _, item := range n.Items {
			length := pathLength
			for _, key := range item.Keys {
				length += len(key.Token.Text) + 1
			}
			w.left -= length*len(item.Keys) + itemWork + labelWork*max(0, len(item.Keys)-1)
			if len(item.Keys) > 1 && !labelled[item.Keys[0].Token.Text] {
				labelled[item.Keys[0].Token.Text] = true
				w.left -= 8 * len(n.Items)
			}
			if w.left < 0 || !w.fits(item.Val, length, depth+len(item.Keys)) {
				return false
			}
		}
	}
	return true
}

// objectPlace finds the places of an object as the library decodes it: what several items say of one key goes into one
// list, labels are keys of objects in it.
func objectPlace(list *ast.ObjectList, line int) *place {
	p := &place{line: line, keys: make(map[string]*place, len(list.Items))}
	for _, item := range list.Items {
		line := item.Keys[0].Token.Pos.Line
		if line == 0 {
			line = item.Assign.Line // in JSON, keys have no position
		}
		p.add(item.Keys, line, item.Val)
	}
	return p
}

func (p *place) add(keys []*ast.ObjectKey, line int, node ast.Node) {
	name, _ := keys[0].Token.Value().(string)
	inner, ok := p.keys[name]
	if !ok {
		inner = &place{line: line}
		p.keys[name] = inner
	}
	if len(keys) > 1 {
		labelled := &place{line: line, keys: map[string]*place{}}
		labelled.add(keys[1:], line, node)
		inner.list = append(inner.list, labelled)
		return
	}
	switch n := node.(type) {
	case *ast.ObjectType:
		inner.list = append(inner.list, objectPlace(n.List, line))
	case *ast.ListType:
		for _, item := range n.List {
			inner.list = append(inner.list, itemPlace(item, line))
		}
	default:
		inner.line = line // the last of several scalars counts
	}
}

func itemPlace(node ast.Node, line int) *place {
	if own := node.Pos().Line; own > 0 {
		line = own
	}
	switch n := node.(type) {
	case *ast.ObjectType:
		return objectPlace(n.List, line)
	case *ast.ListType:
		p := &place{line: line}
		for _, item := range n.List {
			p.list = append(p.list, itemPlace(item, line))
		}
		return p
	}
	return &place{line: line}
}

// positions are those that the library writes into the text of errors around errors.
var positions = regexp.MustCompile(`At (\d+):\d+: `)

// hclSentences are what the library says of a syntax error, as far as it quotes nothing of the file, and what to say
// instead. The first that is found counts.
var hclSentences = []struct{ theirs, ours string }{
	{"expected start of object", `after a key, "=" or "{" must follow`},
	{"nested object expected", `a key with a label needs "{", not "="`},
	{"no object keys found", `a key must stand before "="`},
	{"Unknown token", `after "=", a value must follow`},
	{"object expected closing RBRACE", `a "}" is missing`},
	{"expected comma or list end", `in a list, "," or "]" must follow`},
	{"unexpected token while parsing list: EOF", `a "]" is missing`},
	{"unexpected token while parsing list", "that cannot stand in a list"},
	{"LBRACE got: EOF", `a value or a "}" is missing`},
	{"expected: IDENT", "a key must stand here"},
	{"literal not terminated", `a text has no closing quote`},
	{"heredoc", "a heredoc (<<NAME) has no end, or no good name"},
	{"comment not terminated", `a comment has no "*/"`},
	{"for comment", `a comment begins with "//", "/*" or "#"`},
	{"illegal UTF-8", "it is not UTF-8"},
	{"null character", "it holds a zero byte"},
	{"illegal char escape", `unknown escape after "\"`},
	{"illegal octal number", "a number that begins with 0 is octal"},
	{"illegal hexadecimal number", "a hexadecimal number has no digits"},
	{"illegal char", "a character that cannot stand here"},
	{"EOF token found", "it ends in the middle"},
}

func hclError(text []byte, err error) error {
	e := &syntaxError{}
	if at, ok := errors.AsType[*parser.PosError](err); ok {
		e.line = at.Pos.Line
	}
	message := err.Error()
	if inner := positions.FindAllStringSubmatch(message, -1); len(inner) > 0 {
		e.line, _ = strconv.Atoi(inner[len(inner)-1][1])
	}
	if consul.IsHCLJSON(text) {
		e.reason = `is not valid JSON, for which Consul takes HCL that begins with "{"`
		return e
	}
	e.reason = "is not valid HCL"
	for _, s := range hclSentences {
		if strings.Contains(message, s.theirs) {
			e.reason += ": " + s.ours
			break
		}
	}
	return e
}

// decodeError is about a text that is HCL by its syntax. The library says neither which number it could not read nor
// which keys do not fit together, and takes some of these for numbers.
func decodeError(list *ast.ObjectList, err error) error {
	var e *syntaxError
	ast.Walk(list, func(n ast.Node) (ast.Node, bool) {
		if e == nil {
			e = nodeError(n)
		}
		return n, e == nil
	})
	if e != nil {
		return e
	}
	if at, ok := errors.AsType[*parser.PosError](err); ok {
		return &syntaxError{line: at.Pos.Line, reason: "is not valid HCL: a key is there twice, with values that do not fit together"}
	}
	return &syntaxError{reason: "is not valid HCL: a value in it cannot be decoded"}
}

// nodeError is what is wrong with one node by itself, nil for nothing.
func nodeError(n ast.Node) *syntaxError {
	switch n := n.(type) {
	case *ast.LiteralType:
		if (n.Token.Type == token.NUMBER || n.Token.Type == token.FLOAT) && !readable(n.Token) {
			e := &syntaxError{line: n.Token.Pos.Line, reason: "is not valid HCL: a number cannot be read"}
			if strings.HasPrefix(strings.TrimPrefix(n.Token.Text, "-"), "0") {
				e.reason += "; one that begins with 0 is octal"
			}
			return e
		}
	case *ast.ObjectList:
		return labelError(n)
	}
	return nil
}

// labelError finds a key that has a label in one place and none in another. The library makes no value of both.
func labelError(list *ast.ObjectList) *syntaxError {
	plain := map[string]bool{}
	for _, item := range list.Items {
		if len(item.Keys) == 1 {
			plain[keyText(item.Keys[0])] = true
		}
	}
	for _, item := range list.Items {
		if len(item.Keys) < 2 || !plain[keyText(item.Keys[0])] {
			continue
		}
		e := &syntaxError{line: item.Keys[0].Token.Pos.Line}
		if key := keyText(item.Keys[0]); slices.Contains(definitionKeys[:], strings.ToLower(key)) {
			e.reason = fmt.Sprintf("is not valid HCL: Consul takes no label after %s; write name = %s inside", key, quote(keyText(item.Keys[1])))
		} else {
			e.reason = "is not valid HCL: a key is there twice, with a label and without one"
		}
		return e
	}
	return nil
}

func keyText(key *ast.ObjectKey) string {
	text, _ := key.Token.Value().(string)
	return text
}

func readable(t token.Token) bool {
	if t.Type == token.FLOAT {
		_, err := strconv.ParseFloat(t.Text, 64)
		return err == nil
	}
	_, err := strconv.ParseInt(t.Text, 0, 0)
	return err == nil
}
