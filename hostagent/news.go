// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// news remembers what was logged, so that each change is one line and a lasting trouble one line a minute.
type news struct {
	findings map[string]Finding // by text: what identifies a finding to a reader
	open     firewall.PortSet
	guard    firewall.PortSet
	troubles map[string]trouble // by the step that fails
	told     bool
}

type trouble struct {
	err    error
	logged time.Time
}

func newNews() news {
	return news{findings: map[string]Finding{}, troubles: map[string]trouble{}}
}

// tell logs what differs from the result before. Until a first whole answer nothing is known, so nothing is news.
func (n *news) tell(log *slog.Logger, mode Mode, result *Result, known bool) {
	if !known {
		return
	}
	if open, guard := result.Rules.Open, result.Rules.Guard; !n.told || open != n.open || guard != n.guard {
		message := "sidecar ports"
		if mode == ModeObserve {
			message = "sidecar ports that guard mode would open and close"
		}
		log.Info(message, "open", open.String(), "opened", open.Minus(n.open).String(), "closed", n.open.Minus(open).String(),
			"guarded", guard.String())
		n.open, n.guard, n.told = open, guard, true
	}
	current := map[string]Finding{}
	lines := 0
	for _, f := range result.Findings {
		key := string(f.ID) + "\x00" + string(f.State) + "\x00" + f.ServiceID + "\x00" + f.Message
		current[key] = f
		if _, ok := n.findings[key]; ok {
			continue
		}
		if lines++; lines <= maxLines {
			log.Log(context.Background(), level(f.Severity), "finding opened", "id", f.ID, "severity", f.Severity, "state", f.State,
				"service", f.Service, "message", f.Message, "remedy", f.Remedy)
		}
	}
	for key, f := range n.findings {
		if _, ok := current[key]; ok {
			continue
		}
		if lines++; lines <= maxLines {
			log.Info("finding resolved", "id", f.ID, "service", f.Service, "message", f.Message)
		}
	}
	if lines > maxLines {
		log.Warn("more findings opened or were resolved", "count", lines-maxLines, "remedy", "see hostagent scan")
	}
	n.findings = current
}

// maxLines is how many lines about findings one pass may log: whoever may register services can make thousands.
const maxLines = 50

func level(s catalog.Severity) slog.Level {
	if s == catalog.Info {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// trouble logs a step's failure when it is new or a minute old, and its end.
func (n *news) trouble(log *slog.Logger, now time.Time, step string, err error) {
	before, failing := n.troubles[step]
	switch {
	case errors.Is(err, errWaiting):
	case err == nil && failing:
		delete(n.troubles, step)
		log.Info("recovered", "step", step)
	case err == nil:
	case !failing || now.Sub(before.logged) >= troubleEvery:
		n.troubles[step] = trouble{err: err, logged: now}
		log.Error("step failed, the last good state stands", "step", step, "error", err)
	default:
		n.troubles[step] = trouble{err: err, logged: before.logged}
	}
}

// last returns the failure of a step that still lasts, nil if there is none.
func (n *news) last(step string) error { return n.troubles[step].err }
