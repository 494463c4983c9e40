// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [ID]...",
		Short: "Explain a finding, or an item of the production checklist",
		Long: `Explains findings and items of the production checklist: what each says, why it matters, how it is seen and what
cannot be seen, what mends it with the settings and commands for that, and what mending can break. Without an id it
lists all of them. It looks at nothing and asks nobody.

Exit status: 0 explained, 2 there is no such id.`,
		Example: `  hostagent explain
  hostagent explain exposed-listener
  hostagent explain gossip-verify gossip-key`,
		ValidArgsFunction: completeIDs,
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s := newScreen(cmd.OutOrStdout())
		if !s.terminal {
			s.width = helpWidth
		}
		if len(args) == 0 {
			return output(cmd, s.ids())
		}
		for _, arg := range args {
			if _, known := topicOf(catalog.ID(arg)); !known {
				return unknownID(arg)
			}
		}
		for _, arg := range args {
			topic, _ := topicOf(catalog.ID(arg))
			s.explain(&topic)
		}
		return output(cmd, s.text.String())
	}
	return cmd
}

// topic is what there is to tell about a finding or an item. Texts that are paragraphs hold one a line.
type topic struct {
	id              catalog.ID
	title, kind     string
	what, why, mend string
	catalog.Explanation
}

// topicOf returns what the catalog knows of id.
func topicOf(id catalog.ID) (topic, bool) {
	t := topic{id: id}
	if entry, known := catalog.Lookup(id); known {
		t.title, t.kind = entry.Title, "finding, "+entry.Severity.String()
		t.what, t.why, t.mend = sentence(catalog.General(entry.Message)), entry.Why, entry.GeneralRemedy()
		if entry.Mitigated != "" {
			t.what += "\nWhere the guard keeps the network from it: " + catalog.General(entry.Mitigated) + "."
		}
	} else if item, known := catalog.LookupItem(id); known {
		t.title, t.kind = item.Title, "production checklist, "+item.Step.Title()
		t.what, t.why, t.mend = sentence(item.Asks), sentence(item.Why), item.Remedy
	} else {
		return t, false
	}
	t.Explanation, _ = catalog.Explain(id)
	return t, true
}

// sentence begins with a capital, unless with a setting or a command, which stay as they are, and ends with a full stop.
func sentence(text string) string {
	word, _, _ := strings.Cut(text, " ")
	if !strings.Contains(word, "_") && !slices.Contains([]string{"chown", "hostagent", "sysctl"}, word) {
		first, size := utf8.DecodeRuneInString(text)
		text = string(unicode.ToUpper(first)) + text[size:]
	}
	return strings.TrimSuffix(text, ".") + "."
}

// explain writes all of a topic.
func (s *screen) explain(t *topic) {
	if s.text.Len() > 0 {
		s.gap()
	}
	s.wrapped("", string(t.id)+": "+t.title)
	s.wrapped("", t.kind)
	for _, section := range []struct{ heading, text string }{
		{"WHAT", t.what}, {"WHY", t.why}, {"EVIDENCE", t.Evidence},
		{"REMEDY", strings.TrimSuffix(sentence(t.mend)+"\n"+t.Mend, "\n")}, {"RISK", t.Risk},
	} {
		if section.text == "" {
			continue
		}
		s.gap()
		s.text.WriteString(s.tinted("1", section.heading) + "\n")
		for line := range strings.Lines(section.text) {
			s.paragraph(strings.TrimRight(line, "\n"))
		}
	}
}

// paragraph writes a paragraph of an explanation. What begins with two blanks is meant to be pasted, and is not broken.
func (s *screen) paragraph(text string) {
	const indent = "  "
	switch {
	case text == "":
		s.gap()
	case strings.HasPrefix(text, indent):
		s.text.WriteString(indent + text + "\n")
	default:
		s.wrapped(indent, text)
	}
}

// ids lists everything that can be explained.
func (s *screen) ids() string {
	words := 0
	for _, id := range allIDs() {
		words = max(words, len(id))
	}
	line := func(id catalog.ID, title string) {
		const room = 30 // columns that a title has at least
		head := fmt.Sprintf("  %-*s  ", words, id)
		if s.width > 0 && s.width < len(head)+room {
			s.text.WriteString("  " + string(id) + "\n")
			head = "    "
		}
		s.wrapped(head, title)
	}
	s.text.WriteString("Findings\n")
	for _, e := range catalog.Entries() {
		line(e.ID, e.Title)
	}
	for _, step := range catalog.Steps() {
		s.gap()
		s.wrapped("", "Production checklist: "+step.Title())
		for _, item := range catalog.Items() {
			if item.Step == step {
				line(item.ID, item.Title)
			}
		}
	}
	return s.text.String()
}

// allIDs are those of findings and items.
func allIDs() (ids []string) {
	for _, e := range catalog.Entries() {
		ids = append(ids, string(e.ID))
	}
	for _, item := range catalog.Items() {
		ids = append(ids, string(item.ID))
	}
	return ids
}

func unknownID(word string) error {
	if near := cmp.Or(nearest(word, allIDs()), nearest(strings.ToLower(word), allIDs())); near != "" {
		return fmt.Errorf("there is no finding or item %q; did you mean %q?", word, near)
	}
	return fmt.Errorf("there is no finding or item %q; hostagent explain lists all", word)
}

// completeIDs lets shells complete ids that do not stand on the command line yet.
func completeIDs(_ *cobra.Command, args []string, _ string) (words []cobra.Completion, _ cobra.ShellCompDirective) {
	for _, id := range allIDs() {
		if topic, _ := topicOf(catalog.ID(id)); !slices.Contains(args, id) {
			words = append(words, cobra.CompletionWithDesc(id, topic.title))
		}
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
