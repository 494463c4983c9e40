// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// news remembers what was logged, so that each change is one line and a lasting trouble one line a minute.
type news struct {
	findings map[findingKey]Finding
	open     firewall.PortSet
	guard    firewall.PortSet
	paths    firewall.PortSet
	closed   []Quarantined
	notes    []string            // of the host, as told
	ended    map[Exemption]bool  // as told
	troubles map[string]trouble  // by the step that fails
	blamed   map[blame]time.Time // when a line was last written
	told     bool
	since    time.Time // when the minute began in which lines were written
	lines    int       // since then, about findings
	omitted  int
}

type trouble struct {
	err    error
	logged bool // a line says so, and none yet that it is over
}

// blame is what makes a trouble the same one as before. An agent's fails in a handful of ways, and each is news.
type blame struct {
	step string
	kind consul.Kind
}

func newNews() news {
	return news{findings: map[findingKey]Finding{}, troubles: map[string]trouble{}, blamed: map[blame]time.Time{}}
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
	if paths := result.Rules.Paths; paths != n.paths {
		message := "exposed paths"
		if mode == ModeObserve {
			message = "exposed paths that guard mode would open"
		}
		log.Info(message, "ports", paths.String(), "opened", paths.Minus(n.paths).String(), "closed", n.paths.Minus(paths).String())
		n.paths = paths
	}
	n.tellQuarantine(log, mode, result.Quarantined)
	n.tellFindings(log, result.Findings)
}

// tellQuarantine logs each port that went into quarantine or came out of it, a line each.
func (n *news) tellQuarantine(log *slog.Logger, mode Mode, quarantined []Quarantined) {
	type line struct {
		text string
		q    Quarantined
	}
	closed, released := "port quarantined", "port released from quarantine"
	if mode == ModeObserve {
		closed, released = "guard mode would quarantine a port", "guard mode would release a port from quarantine"
	}
	now, before := portsIn(quarantined), portsIn(n.closed)
	var lines []line
	for _, q := range quarantined {
		if !before.Has(q.Port) {
			lines = append(lines, line{closed, q})
		}
	}
	for _, q := range n.closed {
		if !now.Has(q.Port) {
			lines = append(lines, line{released, q})
		}
	}
	for _, l := range lines[:n.grant(log, len(lines))] {
		log.Info(l.text, "port", l.q.Port, "service", strings.TrimPrefix(quarantineText(l.q), " for "))
	}
	n.closed = quarantined
}

// tellFindings logs each finding that opened, changed or was resolved, in this order, a line each. The keys of these lines
// are API, as the finding ids are.
func (n *news) tellFindings(log *slog.Logger, findings []Finding) {
	type line struct {
		level slog.Level
		text  string
		attrs []slog.Attr
	}
	var lines []line
	current := make(map[findingKey]Finding, len(findings))
	for _, f := range findings {
		key := keyOf(&f)
		for _, taken := current[key]; taken; _, taken = current[key] {
			key.nth++
		}
		current[key] = f
		before, known := n.findings[key]
		switch {
		case !known:
			lines = append(lines, line{level(f.Severity), "finding opened", findingAttrs(&f)})
		case before.Severity != f.Severity || before.State != f.State || before.Message != f.Message:
			attrs := append(findingAttrs(&f), slog.String("severity_before", before.Severity.String()), slog.String("state_before", string(before.State)))
			lines = append(lines, line{level(f.Severity), "finding changed", attrs})
		}
	}
	var resolved []Finding
	for key, f := range n.findings {
		if _, ok := current[key]; !ok {
			resolved = append(resolved, f)
		}
	}
	sortFindings(resolved)
	for i := range resolved {
		lines = append(lines, line{slog.LevelInfo, "finding resolved", findingAttrs(&resolved[i])})
	}
	granted := n.grant(log, len(lines))
	for _, l := range lines[:granted] {
		log.LogAttrs(context.Background(), l.level, l.text, l.attrs...)
	}
	if granted < len(lines) && n.omitted == len(lines)-granted {
		log.Warn("too many findings for a line each", "count", n.omitted, "remedy", "see hostagent status")
	}
	n.findings = current
}

// grant returns how many of some lines may be written now: maxLines a minute. How many were left out is told when the
// minute is over and something else is news.
func (n *news) grant(log *slog.Logger, wanted int) int {
	if now := time.Now(); now.Sub(n.since) >= troubleEvery {
		if n.omitted > 0 {
			log.Warn("findings opened, changed or were resolved without a line each", "count", n.omitted, "remedy", "see hostagent status")
		}
		n.since, n.lines, n.omitted = now, 0, 0
	}
	granted := min(wanted, maxLines-n.lines)
	n.lines += granted
	n.omitted += wanted - granted
	return granted
}

// tellNotes logs what could not be read of the host, each when it is new.
func (n *news) tellNotes(log *slog.Logger, notes []string) {
	for _, note := range notes {
		if !slices.Contains(n.notes, note) {
			log.Warn("degraded", "reason", note)
		}
	}
	n.notes = notes
}

// tellPlan logs what guard mode is about to change.
func (n *news) tellPlan(log *slog.Logger, plan *Plan) {
	for _, o := range plan.Opens[:min(len(plan.Opens), maxLines)] {
		log.Info("guard mode opens a port", "port", o.Port, "services", openingText(o))
	}
	for i := range plan.Cuts[:min(len(plan.Cuts), maxLines)] {
		c := &plan.Cuts[i]
		attrs := []slog.Attr{slog.Int("port", int(c.Port))}
		if c.Listener != nil {
			attrs = append(attrs, slog.String("listener", address(c.Listener)), slog.String("process", catalog.Clean(processNames(c.Owner))))
		}
		if c.GoesTo != "" {
			attrs = append(attrs, slog.String("goes_to", c.GoesTo))
		}
		if c.Owner != nil {
			attrs = append(attrs, slog.String("user", catalog.Clean(c.Owner.User)), slog.String("unit", catalog.Clean(c.Owner.Unit)))
		}
		switch {
		case c.Path:
			attrs = append(attrs, slog.String("outside", "exposed_paths_from"))
		case c.Outside:
			attrs = append(attrs, slog.String("outside", "allow_from"))
		}
		if c.Connections >= 0 {
			attrs = append(attrs, slog.Int("connections", c.Connections))
		}
		if len(c.For) > 0 {
			attrs = append(attrs, slog.String("quarantine", strings.TrimPrefix(quarantineText(Quarantined{Services: c.For}), " for ")))
		}
		message := "guard mode cuts off a port: new connections from the network are dropped"
		if c.Ends {
			message = "guard mode cuts off a port: connections from the network end and new ones are dropped"
		}
		log.LogAttrs(context.Background(), slog.LevelWarn, message, attrs...)
	}
	if plan.Closes.Len() > 0 || plan.Releases.Len() > 0 {
		log.Info("guard mode closes ports", "closes", plan.Closes.String(), "releases", plan.Releases.String(),
			"opens", len(plan.Opens), "cuts_off", len(plan.Cuts))
	}
}

// findingKey is what makes a finding the same one from pass to pass, whatever its state and its sentences.
type findingKey struct {
	id        catalog.ID
	serviceID string
	port      uint16
	listener  socketKey
	nth       int // of several that differ in their sentences only
}

func keyOf(f *Finding) findingKey {
	key := findingKey{id: f.ID, serviceID: f.ServiceID, port: f.Port}
	if l := f.Listener; l != nil {
		key.listener = socketKey{l.Protocol, l.Addr, l.UID}
	}
	return key
}

func findingAttrs(f *Finding) []slog.Attr {
	listener := ""
	if f.Listener != nil {
		listener = address(f.Listener)
	}
	attrs := []slog.Attr{
		slog.String("id", string(f.ID)), slog.String("severity", f.Severity.String()), slog.String("state", string(f.State)),
		slog.String("service", catalog.Clean(f.Service)), slog.String("service_id", catalog.Clean(f.ServiceID)),
		slog.Int("port", int(f.Port)), slog.String("listener", listener),
		slog.String("message", f.Message), slog.String("remedy", f.Remedy),
	}
	if f.State == Exempt {
		attrs = append(attrs, slog.String("exemption", f.Exemption.String()))
	}
	return attrs
}

// maxLines is how many lines about findings may be written a minute: whoever may register services, or listen, can make
// thousands.
const maxLines = 50

func level(s catalog.Severity) slog.Level {
	if s == catalog.Info {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}

// trouble logs a step's failure, the same one once a minute at most, however often it comes and goes, and the end of what
// was logged.
func (n *news) trouble(log *slog.Logger, now time.Time, step string, err error) {
	before, failing := n.troubles[step]
	switch {
	case errors.Is(err, errWaiting):
	case errors.Is(err, context.Canceled): // the agent ends; what is late fails with context.DeadlineExceeded
	case err == nil && failing:
		delete(n.troubles, step)
		if before.logged {
			log.Info("recovered", "step", step)
		}
	case err == nil:
	default:
		same := blame{step, consul.KindOf(err)}
		if last, known := n.blamed[same]; !known || now.Sub(last) >= troubleEvery {
			n.blamed[same], before.logged = now, true
			log.Error("step failed, the last good state stands", "step", step, "error", err)
		}
		n.troubles[step] = trouble{err: err, logged: before.logged}
	}
}

// last returns the failure of a step that still lasts, nil if there is none.
func (n *news) last(step string) error { return n.troubles[step].err }

// standing returns err, or, while a step waits for its next try, what it failed with before.
func (n *news) standing(step string, err error) error {
	if errors.Is(err, errWaiting) {
		return n.last(step)
	}
	return err
}
