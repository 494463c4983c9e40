// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"maps"
	"regexp"
	"strings"
	"testing"
)

func TestItemsAreComplete(t *testing.T) {
	step, seen := StepACLs, map[ID]bool{}
	for _, item := range Items() {
		if seen[item.ID] {
			t.Errorf("%s stands twice", item.ID)
		}
		seen[item.ID] = true
		if _, finding := Lookup(item.ID); finding {
			t.Errorf("%s is a finding's id, too", item.ID)
		}
		if !regexp.MustCompile(`^[a-z]+(-[a-z]+)*$`).MatchString(string(item.ID)) {
			t.Errorf("id %q is not lower-case words joined by dashes", item.ID)
		}
		if item.Step < step || item.Step.Title() == "" {
			t.Errorf("%s: step %d is out of order or none", item.ID, item.Step)
		}
		step = item.Step
		for name, text := range map[string]string{"title": item.Title, "asks": item.Asks, "why": item.Why, "remedy": item.Remedy} {
			if text == "" || strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
				t.Errorf("%s: %s %q is no sentence without a full stop", item.ID, name, text)
			}
		}
		if got, ok := LookupItem(item.ID); !ok || got != item {
			t.Errorf("LookupItem(%q) = %+v, %t", item.ID, got, ok)
		}
	}
	if _, ok := LookupItem("no-such-item"); ok {
		t.Error("LookupItem found an item that does not exist")
	}
}

func TestEverythingIsExplained(t *testing.T) {
	ids := map[ID]bool{}
	for _, e := range Entries() {
		ids[e.ID] = true
	}
	for _, item := range Items() {
		ids[item.ID] = true
	}
	for id := range ids {
		explanation, ok := Explain(id)
		if !ok {
			t.Errorf("%s is not explained", id)
		}
		for name, text := range map[string]string{"evidence": explanation.Evidence, "mend": explanation.Mend, "risk": explanation.Risk} {
			if text == "" || strings.ContainsAny(text, "\t\r") || strings.TrimSpace(text) != strings.Trim(text, " ") {
				t.Errorf("%s: %s is empty, or begins or ends with white space: %q", id, name, text)
			}
		}
	}
	for _, table := range []map[ID]Explanation{findingExplanations(), itemExplanations()} {
		for id := range maps.Keys(table) {
			if !ids[id] {
				t.Errorf("%s is explained and neither a finding nor an item", id)
			}
		}
	}
	if _, ok := Explain("no-such-id"); ok {
		t.Error("Explain found an id that does not exist")
	}
}
