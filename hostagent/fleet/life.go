// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"strings"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	// Consul puts this before the last output of a check that nobody has refreshed in time: 30 seconds after a stop on purpose,
	// too.
	expired     = "TTL expired"
	expiredLast = expired + " (last output before timeout follows): "
	stopped     = "hostagent was stopped"
)

// live tells how a host is by its life check, nil for none.
func (h *Host) live(life *consul.FleetCheck) {
	if life == nil {
		h.State, h.Says = Silent, "its service has no life check"
		return
	}
	output := strings.Join(linesOf(life.Output), "\n")
	last, isExpired := strings.CutPrefix(output, expiredLast)
	h.tellOf(last)
	text := paragraphs(last)
	switch status := statusOf(life.Status); {
	case status == consul.Critical && strings.HasPrefix(last, stopped):
		h.State, h.Says = Stopped, joined(linesOf(last))
	case status == consul.Critical && isExpired:
		h.State, h.Says = Silent, expired+", the last it said: "+joined(linesOf(last))
	case status == consul.Critical:
		h.State, h.Says = Silent, joined(linesOf(output))
	case status == consul.Warning:
		h.State, h.Says = Runs, text
	default:
		h.State = Runs
	}
	if h.State == Silent && h.Says == "" {
		h.Says = "its life check is critical"
	}
	if !h.Alive {
		unreached := "gossip does not reach the host"
		if h.State == Stopped {
			unreached += "; " + h.Says
		}
		h.State, h.Says = Silent, unreached
	}
}

// tellOf takes over what the life check says of hostagent itself, where the metadata does not: one without metadata is of an
// earlier version.
func (h *Host) tellOf(output string) {
	first, rest, _ := strings.Cut(output, "\n")
	if version, ok := strings.CutPrefix(first, "hostagent "); ok && h.Self.Version == "" && !strings.Contains(version, " ") {
		h.Self.Version = ReadSelf(map[string]string{keyVersion: version}).Version
	}
	for _, mode := range []string{"observe", "guard"} {
		if h.Self.Mode == "" && strings.HasPrefix(rest, "It runs in "+mode+" mode") {
			h.Self.Mode = mode
		}
	}
}

// paragraphs is what follows the first paragraph of a life check, or all where nothing does: in one line, troubles behind each
// other.
func paragraphs(output string) string {
	var texts []string
	for paragraph := range strings.SplitSeq(output, "\n\n") {
		if text := joined(linesOf(paragraph)); text != "" {
			texts = append(texts, text)
		}
	}
	if len(texts) > 1 {
		texts = texts[1:]
	}
	return strings.Join(texts, "; ")
}

// scoreIn reads the score in the first lines of the checklist's check, as audit.Score writes it; nil where there is none.
func scoreIn(output string) audit.Score {
	first, _, _ := strings.Cut(output, "\n\n")
	text, ok := strings.CutPrefix(joined(linesOf(first)), "production checklist: ")
	if !ok {
		return nil
	}
	score := audit.Score{}
	text = strings.ReplaceAll(text, "; ", ", ")
	for part := range strings.SplitSeq(text, ", ") {
		for _, known := range []struct {
			suffix string
			status audit.Status
		}{
			{" pass", audit.Pass}, {" fail", audit.Fail}, {" warn", audit.Warn}, {" unknown", audit.Unknown},
			{" to be known", audit.Info}, {" does not apply", audit.NotApplicable}, {" do not apply", audit.NotApplicable},
		} {
			number, ok := strings.CutSuffix(part, known.suffix)
			number, _, _ = strings.Cut(number, " of ")
			if n, counts := numberIn(number, "", ""); ok && counts && n <= maxItems {
				score[known.status] = n
			}
		}
	}
	if len(score) == 0 {
		return nil
	}
	return score
}
