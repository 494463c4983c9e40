// SPDX-License-Identifier: MPL-2.0

package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// merge puts the values of one file over those of c and returns what is wrong with the file. Good values are kept beside
// bad ones. parsed is false where the file is not HCL, and nothing of it was read.
func (c *Config) merge(file string, source []byte) (problems Errors, parsed bool) {
	d := decoder{config: c, layer: layerFile, file: file, source: source}
	return d.read()
}

// read is merge, or mergeUnder.
func (d *decoder) read() (problems Errors, parsed bool) {
	file, source := d.file, d.source
	if problem := checkTokens(file, source); problem != nil {
		return Errors{problem}, false
	}
	tree, diagnostics := hclsyntax.ParseConfig(source, file, hcl.InitialPos)
	body, isBody := tree.Body.(*hclsyntax.Body)
	for _, diagnostic := range diagnostics {
		if isBody && diagnostic.Summary == "Attribute redefined" && diagnostic.Subject != nil {
			d.redefined(body, *diagnostic.Subject)
			continue
		}
		d.syntax(diagnostic)
		isBody = false
	}
	if !isBody {
		return d.problems, false
	}
	d.top(body)
	return d.problems, true
}

// maxMarks bounds the tokens of a file that plain values need few of. The parser calls itself once for each "[", "(" or
// "!", so that a hostile megabyte of them overflows its stack, which no recover can catch; and its time grows with the
// square of the pieces of one string.
const maxMarks = 1000

func checkTokens(file string, source []byte) *Error {
	// What is wrong with single tokens is reported by the parser, which sees them again.
	tokens, _ := hclsyntax.LexConfig(source, file, hcl.InitialPos)
	marks, previous := 0, hclsyntax.TokenNil
	for _, token := range tokens {
		switch token.Type {
		case hclsyntax.TokenIdent, hclsyntax.TokenEqual, hclsyntax.TokenComma, hclsyntax.TokenNewline,
			hclsyntax.TokenComment, hclsyntax.TokenNumberLit, hclsyntax.TokenOQuote, hclsyntax.TokenCQuote,
			hclsyntax.TokenEOF:
		case hclsyntax.TokenQuotedLit:
			if previous == hclsyntax.TokenQuotedLit {
				marks++
			}
		default:
			marks++
		}
		if marks > maxMarks {
			return &Error{File: file, Line: token.Range.Start.Line,
				Text: fmt.Sprintf("more than %d brackets, operators and heredoc lines; only plain values are accepted", maxMarks)}
		}
		previous = token.Type
	}
	return nil
}

// decoder reads one file into config.
type decoder struct {
	config   *Config
	layer    layer               // layerFile, or layerKV
	inFiles  map[string][]origin // of layerKV: keys that files have set
	aside    *Config             // of layerKV: takes values of those, only to be checked
	file     string
	source   []byte
	problems Errors
}

func (d *decoder) problem(line int, text string) {
	d.problems = append(d.problems, &Error{File: d.file, Line: line, Text: text})
}

// syntax reports what the parser says. Its details may repeat pieces of the file, so a line that could hold a token
// goes without.
func (d *decoder) syntax(diagnostic *hcl.Diagnostic) {
	if diagnostic.Subject == nil {
		d.problem(0, oneLine(diagnostic.Summary))
		return
	}
	message := diagnostic.Summary
	if !bytes.Contains(bytes.ToLower(d.lineAt(diagnostic.Subject.Start.Byte)), []byte("token")) {
		message += ": " + diagnostic.Detail
	}
	d.problem(diagnostic.Subject.Start.Line, oneLine(message))
}

// lineAt returns the line of the source that holds offset.
func (d *decoder) lineAt(offset int) []byte {
	offset = min(max(offset, 0), len(d.source))
	start := bytes.LastIndexByte(d.source[:offset], '\n') + 1
	line, _, _ := bytes.Cut(d.source[start:], []byte("\n"))
	return line
}

// redefined reports an attribute that its body sets twice; the parser keeps the first.
func (d *decoder) redefined(body *hclsyntax.Body, second hcl.Range) {
	name := string(second.SliceBytes(d.source))
	for _, block := range body.Blocks {
		if block.Body.SrcRange.Overlaps(second) {
			body = block.Body
			name = block.Type + "." + name
			break
		}
	}
	first := body.Attributes[name[strings.LastIndexByte(name, '.')+1:]]
	if first == nil {
		d.problem(second.Start.Line, fmt.Sprintf("key %s is set twice", quote(name)))
		return
	}
	d.problem(second.Start.Line, fmt.Sprintf("key %s is set twice; first on line %d", quote(name), first.NameRange.Start.Line))
}

func (d *decoder) top(body *hclsyntax.Body) {
	known := make(map[string]setting)
	for _, s := range settings() {
		known[s.name] = s
	}
	for _, s := range exemptSettings() {
		known[s.key()] = setting{name: s.key(), kind: s.kind}
	}
	d.attributes("", body, known)
	first := make(map[string]int)
	for _, block := range body.Blocks {
		line := block.TypeRange.Start.Line
		if block.Type == blockExempt {
			d.plainBlock(block)
			d.exempt(block, known)
			continue
		}
		if !slices.Contains(blocks(), block.Type) {
			d.unknownBlock(block, known)
			continue
		}
		if d.layer == layerKV && !kvTakesBlock(block.Type) {
			d.problem(line, fmt.Sprintf("block %q %s", block.Type, neverInKV))
			continue
		}
		if earlier, twice := first[block.Type]; twice {
			d.problem(line, fmt.Sprintf("block %q stands twice in this file; first on line %d", block.Type, earlier))
		} else {
			first[block.Type] = line
		}
		d.plainBlock(block)
		d.attributes(block.Type+".", block.Body, known)
	}
}

// plainBlock reports what no block has: labels and blocks of its own.
func (d *decoder) plainBlock(block *hclsyntax.Block) {
	if len(block.Labels) > 0 {
		d.problem(block.TypeRange.Start.Line, fmt.Sprintf("block %q takes no label; write \"%s {\"", block.Type, block.Type))
	}
	for _, inner := range block.Body.Blocks {
		d.problem(inner.TypeRange.Start.Line, fmt.Sprintf("unknown block %s in block %q", quote(inner.Type), block.Type))
	}
}

func (d *decoder) unknownBlock(block *hclsyntax.Block, known map[string]setting) {
	message := "unknown block " + quote(block.Type)
	if _, isKey := known[block.Type]; isKey {
		message = fmt.Sprintf("%q is no block; write \"%s = ...\"", block.Type, block.Type)
	} else if guess := Closest(block.Type, append(blocks(), blockExempt)); guess != "" {
		message += fmt.Sprintf("; did you mean %q?", guess)
	}
	d.problem(block.TypeRange.Start.Line, message)
}

// attributes reads the keys of one body; prefix is "" or the block's name with a dot.
func (d *decoder) attributes(prefix string, body *hclsyntax.Body, known map[string]setting) {
	for _, attribute := range inOrder(body) {
		if s, ok := known[prefix+attribute.Name]; ok {
			if why := d.mayNotSet(s); why != "" {
				d.problem(attribute.NameRange.Start.Line, fmt.Sprintf("key %q %s", s.name, why))
				continue
			}
			d.value(s, attribute.Expr)
			continue
		}
		d.problem(attribute.NameRange.Start.Line, unknownKey(prefix, attribute.Name, known))
	}
}

func unknownKey(prefix, name string, known map[string]setting) string {
	if prefix == "" && slices.Contains(append(blocks(), blockExempt), name) {
		return fmt.Sprintf("%q is a block; write \"%s {\" without \"=\"", name, name)
	}
	message := "unknown key " + quote(prefix+name)
	var here, elsewhere []string
	for key := range known {
		block, leaf := "", key
		if dot := strings.IndexByte(key, '.'); dot >= 0 {
			block, leaf = key[:dot+1], key[dot+1:]
		}
		switch {
		case prefix == "" && block+leaf == strings.Replace(name, "_", ".", 1):
			return message + fmt.Sprintf("; write %s { %s = … }", strings.TrimSuffix(block, "."), leaf)
		case block == prefix:
			here = append(here, leaf)
		case leaf == name:
			elsewhere = append(elsewhere, block)
		}
	}
	slices.Sort(here) // so that of two words equally near always the same one is named
	slices.Sort(elsewhere)
	switch {
	case len(elsewhere) == 0:
	case elsewhere[0] == "":
		return message + "; it stands outside the blocks"
	default:
		for i, block := range elsewhere {
			elsewhere[i] = strconv.Quote(strings.TrimSuffix(block, "."))
		}
		return message + "; it belongs into the block " + strings.Join(elsewhere, " or ")
	}
	if guess := cmp.Or(Closest(name, here), onlyPart(name, here)); guess != "" {
		message += fmt.Sprintf("; did you mean %q?", guess)
	}
	return message
}

// value reads the expression of one key.
func (d *decoder) value(s setting, expression hclsyntax.Expression) {
	config := d.holder(s.name)
	expressions := []hclsyntax.Expression{expression}
	list, isList := expression.(*hclsyntax.TupleConsExpr)
	switch {
	case s.isList() && isList:
		expressions = list.Exprs
	case s.isList():
		config.setBroken(s.name)
		if _, err := d.literal(s, expression); err != nil {
			d.problem(expression.Range().Start.Line, s.name+": "+err.Error())
			return
		}
		offending := oneLine(string(expression.Range().SliceBytes(d.source)))
		d.problem(expression.Range().Start.Line, fmt.Sprintf("%s: %s is not a list; write [%s]", s.name,
			quoteSource(offending), cut(offending)))
		return
	}
	var texts []text
	for _, element := range expressions {
		from := origin{layer: d.layer, file: d.file, line: element.Range().Start.Line}
		value, err := d.literal(s, element)
		if err != nil {
			config.setBroken(s.name)
			d.problem(from.line, s.name+": "+err.Error())
			continue
		}
		texts = append(texts, text{value, from})
	}
	if len(texts) == 0 && !s.isList() {
		return
	}
	// The default list gives way to the first file's; later files append.
	_, extend := config.origins[s.name]
	for _, wrong := range s.store(config, texts, extend) {
		config.setBroken(s.name)
		d.problems = append(d.problems, texts[wrong.index].from.problem(s.name, wrong.err.Error()))
	}
}
