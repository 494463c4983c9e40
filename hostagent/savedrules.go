// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
)

// judgeSavedRules finds rules of ours in files that other firewall loaders read.
func (e *evaluation) judgeSavedRules(h *Host) {
	for i := range h.SavedRules {
		saved := &h.SavedRules[i]
		harm := "at the next boot its loader loads nothing at all where a set that they name is missing"
		// The pattern leaves alone what merely speaks of hostagent, and sed keeps a copy.
		fix := "sed -i.bak -E '/" + facts.SavedRulePattern + "/d' " + saved.File
		if saved.NFT {
			harm = "at the next boot its loader brings back ports as they were when it was written"
			fix = sedLines(saved)
		}
		e.find(Finding{ID: catalog.SavedRules}, "file", saved.File, "lines", linesText(saved), "harm", harm, "fix", fix)
	}
}

// mostSpans is how many runs of lines are named.
const mostSpans = 8

// linesText writes the lines of saved as "line 12" or "lines 12, 14-17".
func linesText(saved *facts.SavedRules) string {
	spans := saved.Spans()
	texts := make([]string, 0, mostSpans+1)
	for _, span := range spans[:min(len(spans), mostSpans)] {
		texts = append(texts, spanText(span, "-"))
	}
	if len(spans) > mostSpans || saved.More {
		texts = append(texts, "and more")
	}
	if len(saved.Lines) == 1 {
		return "line " + texts[0]
	}
	return "lines " + strings.Join(texts, ", ")
}

// sedLines deletes the lines of saved by their numbers, because blocks have no pattern.
func sedLines(saved *facts.SavedRules) string {
	spans := saved.Spans()
	var commands []string
	for _, span := range spans[:min(len(spans), mostSpans)] {
		commands = append(commands, spanText(span, ",")+"d")
	}
	return "sed -i.bak '" + strings.Join(commands, ";") + "' " + saved.File
}

func spanText(span [2]int, to string) string {
	if span[0] == span[1] {
		return fmt.Sprint(span[0])
	}
	return fmt.Sprintf("%d%s%d", span[0], to, span[1])
}
