// SPDX-License-Identifier: MPL-2.0

package manual

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/config"
)

// The lines of the reference configuration, beside comments and empty ones. Config's own tests hold it to these shapes.
var (
	headingLine = regexp.MustCompile(`^# -+ (.*?) -+$`)
	openLine    = regexp.MustCompile(`^# ([a-z_]+) \{$`)
	keyLine     = regexp.MustCompile(`^(?:# (?: {2})?)?([a-z_]+) += (.*)$`)
	itemLine    = regexp.MustCompile(`^ *("[^"]+") {2,}(.+)$`)
)

// example is a whole configuration.
const example = `mode = "guard"

allow_from = ["10.0.0.0/8", "cluster"]

enforce          = "quarantine"
quarantine_ports = ["8000-8999"]

exempt {
  finding = "exposed-listener"
  service = "metrics"
  port    = 9100
  reason  = "scraped by Prometheus"
}
`

// referencePage is hostagent.hcl(5).
func referencePage(reference []byte, date time.Time) (string, error) {
	sections, err := parseReference(string(reference))
	if err != nil {
		return "", err
	}
	p := newPage("hostagent.hcl", 5, date, "File Formats", "configuration of hostagent")
	p.section("Synopsis")
	p.literal(italic(config.DefaultPath + "/*.hcl"))
	p.section("Description")
	for i, s := range sections {
		if i > 0 {
			p.section(s.title)
		}
		p.passages(s.text, false)
		for _, e := range s.entries {
			p.entry(e)
		}
	}
	p.section("Examples")
	p.paragraph(prose("A host whose sidecars two kinds of callers may reach, and whose exposed listeners on 8000-8999 are closed:"))
	p.nested(func() {
		var lines []roff
		for line := range strings.Lines(example) {
			lines = append(lines, plain(strings.TrimSuffix(line, "\n")))
		}
		p.literal(lines...)
	})
	p.section("Files")
	p.item(italic(config.DefaultPath+"/hostagent.hcl"), "The file that installations begin with. It observes.")
	p.item(italic("/usr/share/doc/hostagent/hostagent.hcl.reference"), "Where packages put all of this page, to copy from.")
	p.section("See also")
	p.paragraph(prose("hostagent(1)") + ", " + bold("hostagent config validate"))
	return p.text.String(), nil
}

// section is what stands below one heading of the reference; the first has none.
type section struct {
	title   string
	text    []passage
	entries []entry
}

// entry explains keys, or opens a block.
type entry struct {
	block string // that it opens; "" for keys
	keys  []key
	text  []passage
}

// key is one key with the value that the reference gives it.
type key struct {
	config.Key
	value string
}

// passage is one paragraph. Those of lists stand deeper, and the first of an item has a tag.
type passage struct {
	depth     int
	tag, text string
}

// parser reads a reference configuration line by line.
type parser struct {
	sections []section
	known    map[string]config.Key // those that were not seen yet
	block    string                // that is open
	comment  []string              // since the last key or empty line
	atKey    bool                  // the line before was a key
}

// parseReference returns what the reference explains: all keys that there are, each once, and nothing else.
func parseReference(text string) ([]section, error) {
	p := parser{sections: make([]section, 1), known: map[string]config.Key{}}
	for _, k := range config.Keys() {
		p.known[k.Name] = k
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if err := p.line(strings.TrimRight(line, "\n")); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	p.prose()
	for _, k := range config.Keys() {
		if _, missing := p.known[k.Name]; missing {
			return nil, fmt.Errorf("key %q is explained nowhere", k.Name)
		}
	}
	return p.sections, nil
}

func (p *parser) line(line string) error {
	now := &p.sections[len(p.sections)-1]
	wasKey := p.atKey
	p.atKey = false
	if found := headingLine.FindStringSubmatch(line); found != nil {
		p.prose()
		p.sections = append(p.sections, section{title: found[1]})
		return nil
	}
	if found := openLine.FindStringSubmatch(line); found != nil {
		now.entries = append(now.entries, entry{block: found[1], text: passages(p.comment)})
		p.block, p.comment = found[1]+".", nil
		return nil
	}
	if found := keyLine.FindStringSubmatch(line); found != nil {
		p.atKey = true
		return p.key(now, p.block+found[1], found[2], wasKey)
	}
	switch {
	case line == "# }":
		p.block = ""
	case line == "":
		p.prose()
	case strings.HasPrefix(line, "#"):
		p.comment = append(p.comment, strings.TrimPrefix(strings.TrimPrefix(line, "#"), " "))
	default:
		return fmt.Errorf("cannot tell what %q is", line)
	}
	return nil
}

// key takes a key: with the comment above it, or as a further one of the entry before.
func (p *parser) key(now *section, name, value string, goesOn bool) error {
	k, known := p.known[name]
	if !known {
		return fmt.Errorf("key %q stands here twice, or hostagent does not know it", name)
	}
	delete(p.known, name)
	switch {
	case len(p.comment) > 0:
		now.entries = append(now.entries, entry{text: passages(p.comment)})
		p.comment = nil
	case !goesOn:
		return fmt.Errorf("key %q has no explanation", name)
	}
	last := &now.entries[len(now.entries)-1]
	last.keys = append(last.keys, key{k, value})
	return nil
}

// prose gives the section what no key followed.
func (p *parser) prose() {
	now := &p.sections[len(p.sections)-1]
	now.text = append(now.text, passages(p.comment)...)
	p.comment = nil
}

// passages makes paragraphs and items of a comment's lines.
func passages(lines []string) (all []passage) {
	var items []int // indents of those that are open, outermost first
	fresh := true
	for _, line := range lines {
		text := strings.TrimLeft(line, " ")
		indent := len(line) - len(text)
		if text == "" {
			fresh = true
			continue
		}
		for len(items) > 0 && indent <= items[len(items)-1] {
			items, fresh = items[:len(items)-1], true
		}
		if found := itemLine.FindStringSubmatch(line); found != nil && indent > 0 {
			items = append(items, indent)
			all = append(all, passage{len(items), found[1], found[2]})
		} else if fresh {
			all = append(all, passage{len(items), "", text})
		} else {
			all[len(all)-1].text += " " + text
		}
		fresh = false
	}
	return all
}

// passages writes text. That of an entry stands below its tag.
func (p *page) passages(all []passage, ofEntry bool) {
	depth := 0
	for i, passage := range all {
		for ; depth < passage.depth; depth++ {
			p.line(".RS")
		}
		for ; depth > passage.depth; depth-- {
			p.line(".RE")
		}
		switch {
		case passage.tag != "":
			p.item(bold(passage.tag), prose(passage.text))
		case depth == 0 && !ofEntry:
			p.paragraph(prose(passage.text))
		case i == 0:
			p.fill(prose(passage.text))
		default:
			p.line(".IP")
			p.fill(prose(passage.text))
		}
	}
	for ; depth > 0; depth-- {
		p.line(".RE")
	}
}

// entry writes one entry. Keys that are explained together share a text.
func (p *page) entry(e entry) {
	if e.block != "" {
		p.subsection("Block " + e.block)
		p.passages(e.text, false)
		return
	}
	p.begun = true
	for i, k := range e.keys {
		_, leaf, inBlock := strings.Cut(k.Name, ".")
		if !inBlock {
			leaf = k.Name
		}
		tag := bold(leaf) + " = " + plain(k.Type)
		if k.Default {
			tag += ", default " + bold(k.value)
		} else {
			tag += ", such as " + bold(k.value)
		}
		p.line(map[bool]string{true: ".TP", false: ".TQ"}[i == 0])
		p.control(string(tag))
	}
	p.passages(e.text, true)
}
