// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// The keys of the metadata. They are API: programs of others may read them.
const (
	keyVersion   = "version"
	keyMode      = "mode"
	keyEnforce   = "enforce"
	keyRange     = "sidecar-range"
	keyCells     = "range-cells"
	keyChecklist = "checklist"
)

const (
	// maxMeta is the length in bytes of a value, which is Consul's bound: it refuses the whole service for a longer one.
	maxMeta    = 512
	maxVersion = 64   // runes
	maxRange   = 4096 // ports, as hostagent takes them from an agent
	maxItems   = 1000 // of the checklist, far above what it has
	noRange    = "none"
)

// cellSigns are all signs of Cells.
var cellSigns = string([]rune{CellSidecar, CellPath, CellSilent, CellHeld, CellSquatted, CellShared, CellLocal, CellFree})

// Meta writes s as metadata of a service; ReadSelf reads it. What is not told has no key. That the range is disabled is told
// where the version is: with neither, only modes are told of.
func (s *Self) Meta() map[string]string {
	meta := map[string]string{}
	tell := func(key, value string) {
		if value != "" && len(value) <= maxMeta {
			meta[key] = value
		}
	}
	tell(keyVersion, cleanVersion(s.Version))
	tell(keyMode, s.Mode)
	tell(keyEnforce, s.Enforce)
	switch {
	case s.First != 0:
		tell(keyRange, s.Range())
		tell(keyCells, strings.TrimRight(s.Cells, string(CellFree)))
	case s.Version != "":
		tell(keyRange, noRange)
	}
	var counts []string
	for _, status := range audit.Statuses() {
		if n := s.Score[status]; n > 0 {
			counts = append(counts, fmt.Sprintf("%s=%d", status, n))
		}
	}
	tell(keyChecklist, strings.Join(counts, " "))
	return meta
}

// ReadSelf reads metadata, which is text of others: what it does not understand is not told.
func ReadSelf(meta map[string]string) Self {
	s := Self{
		Version: cleanVersion(bounded(meta[keyVersion])),
		Mode:    oneOf(meta[keyMode], "observe", "guard"),
		Enforce: oneOf(meta[keyEnforce], "report", "quarantine"),
		Score:   readScore(bounded(meta[keyChecklist])),
	}
	s.First, s.Last = readRange(bounded(meta[keyRange]))
	cells := strings.TrimRight(bounded(meta[keyCells]), string(CellFree))
	if s.First != 0 && len(cells) <= int(s.Last)-int(s.First)+1 && strings.Trim(cells, cellSigns) == "" {
		s.Cells = cells
	}
	return s
}

// bounded is value, or nothing where it is longer than Consul lets a value be.
func bounded(value string) string {
	if len(value) > maxMeta {
		return ""
	}
	return value
}

// cleanVersion makes a version safe to show and short: once more, because what is not harmless is written with more letters.
func cleanVersion(text string) string {
	return catalog.CleanTo(catalog.CleanTo(text, maxVersion), maxVersion)
}

func oneOf(value string, known ...string) string {
	for _, word := range known {
		if value == word {
			return word
		}
	}
	return ""
}

// readRange reads "21000-21255"; 0 and 0 for anything else.
func readRange(text string) (first, last uint16) {
	low, high, _ := strings.Cut(text, "-")
	from, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, 0
	}
	to, err := strconv.ParseUint(high, 10, 16)
	if err != nil || from == 0 || to < from || to-from+1 > maxRange {
		return 0, 0
	}
	return uint16(from), uint16(to)
}

// readScore reads "pass=31 fail=2"; nil for nothing of that.
func readScore(text string) audit.Score {
	score := audit.Score{}
	for field := range strings.FieldsSeq(text) {
		word, number, _ := strings.Cut(field, "=")
		for _, status := range audit.Statuses() {
			if n, err := strconv.Atoi(number); err == nil && n > 0 && n <= maxItems && word == string(status) {
				score[status] = n
			}
		}
	}
	if len(score) == 0 {
		return nil
	}
	return score
}
