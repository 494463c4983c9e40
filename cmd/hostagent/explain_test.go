// SPDX-License-Identifier: MPL-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// TestExplainsAll: each id has something to say in every section that its texts fill, at any width.
func TestExplainsAll(t *testing.T) {
	for _, id := range allIDs() {
		topic, known := topicOf(catalog.ID(id))
		if !known {
			t.Fatalf("%s is not known", id)
		}
		if e, told := catalog.Explain(topic.id); told && (e.Evidence == "" || e.Mend == "" || e.Risk == "") {
			t.Errorf("the explanation of %s is not whole: %+v", id, e)
		}
		for _, width := range []int{0, narrowest, 80, 200} {
			s := &screen{width: width}
			s.explain(&topic)
			text := s.text.String()
			for _, want := range []string{id + ": ", "\nWHAT\n  ", "\nWHY\n  ", "\nREMEDY\n  "} {
				if !strings.Contains(text, want) {
					t.Errorf("%s at width %d lacks %q:\n%s", id, width, want, text)
				}
			}
			if strings.Contains(text, "\n\n\n") || strings.Contains(text, "WHAT\n\n") || strings.Contains(topic.what+topic.mend, "{service}") {
				t.Errorf("%s has gaps, or words of templates:\n%s", id, text)
			}
			for line := range strings.Lines(text) {
				line = strings.TrimSuffix(line, "\n")
				pasted := strings.HasPrefix(line, "    ")
				if width > 0 && catalog.Columns(line) > width && !pasted && strings.Contains(strings.TrimSpace(line), " ") {
					t.Errorf("%s: this line is wider than %d: %q", id, width, line)
				}
			}
		}
	}
}

func TestExplainWritesAllSections(t *testing.T) {
	s := &screen{width: 40}
	for range 2 {
		s.explain(&topic{
			id: "an-id", title: "a title", kind: "a kind", what: "What.", why: "Why it matters, in a line that is too long for one.", mend: "do this",
			Explanation: catalog.Explanation{
				Evidence: "Seen here.\nNot seen there.", Mend: "Then paste:\n  consul keyring -install NEW -token-file A-RATHER-LONG-PATH\n\nThat was it.", Risk: "It may break.",
			},
		})
	}
	one := `an-id: a title
a kind

WHAT
  What.

WHY
  Why it matters, in a line that is too
  long for one.

EVIDENCE
  Seen here.
  Not seen there.

REMEDY
  Do this.
  Then paste:
    consul keyring -install NEW -token-file A-RATHER-LONG-PATH

  That was it.

RISK
  It may break.
`
	if got, want := s.text.String(), one+"\n"+one; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestIDs(t *testing.T) {
	for _, width := range []int{0, 40, 80} {
		text := (&screen{width: width}).ids()
		checkLines(t, text, width)
		for _, id := range allIDs() {
			if !slices.Contains(strings.Fields(text), id) {
				t.Errorf("the list lacks %s", id)
			}
		}
	}
}
