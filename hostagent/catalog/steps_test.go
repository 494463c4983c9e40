// SPDX-License-Identifier: MPL-2.0

package catalog

import "testing"

// TestWordsAreOneThingEach: what an option takes is a step, an item or a finding, and never two of them.
func TestWordsAreOneThingEach(t *testing.T) {
	seen := map[string]bool{}
	add := func(word, title string) {
		if word == "" || title == "" || seen[word] {
			t.Errorf("%q (%s) is empty or stands twice", word, title)
		}
		seen[word] = true
	}
	steps := map[Step]bool{}
	for _, step := range Steps() {
		add(step.String(), step.Title())
		steps[step] = true
	}
	for _, item := range Items() {
		add(string(item.ID), item.Title)
		if !steps[item.Step] {
			t.Errorf("%s belongs to no step", item.ID)
		}
		if got, known := LookupItem(item.ID); !known || got != item {
			t.Errorf("LookupItem(%q) = %+v, %t", item.ID, got, known)
		}
	}
	for _, e := range Entries() {
		add(string(e.ID), e.Title)
	}
	if Step(0).String() != "" || Step(0).Title() != "" {
		t.Error("no step has a name")
	}
}
