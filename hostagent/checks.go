// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// report writes the checks where the agent can take them, and tells how many differed. Where only news counts and there is
// none, whether the last report still stands is left to the next pass.
//
// News waits for a moment of its own within the spread. Until then what was said last stands, and is kept from being lost.
//
// An agent that does not tell its registrations, or not in time, is tried: it may take reports all the same, and without any
// the life check would say that hostagent is dead.
func (a *Agent) report(ctx context.Context, consulErr error, onlyNews bool) (written int, err error) {
	if !a.parts.Report && a.reported == "" && len(a.former.names) == 0 {
		return 0, nil
	}
	kind := consul.KindOf(consulErr)
	switch {
	case silent(consulErr):
		return 0, errWaiting // nothing may be sent there
	case a.failures == 0: // it answers, and may keep silent about itself
	case errors.Is(consulErr, errWaiting), kind == consul.KindTLS, kind == consul.KindToken:
		return 0, errWaiting // not tried: the trouble with Consul is told already
	}
	defer func() {
		if err != nil && (kind == consul.KindTimeout || kind == consul.KindUnreachable) {
			err = errWaiting // that Consul is in trouble is told already
		}
	}()
	if a.reported != "" && (!a.parts.Report || a.reported != a.parts.Policy.OwnService) {
		// A reload switched reports off, or gave the service another name: what stands under the old one goes.
		a.former.names, a.former.next, a.reported = append(a.former.names, a.reported), time.Time{}, ""
		a.said, a.saidErr = nil, nil
	}
	a.leaveFormer(ctx)
	if !a.parts.Report {
		return 0, a.former.err
	}
	report := a.checks(consulErr)
	news := a.said == nil || !reflect.DeepEqual(*a.said, report)
	switch {
	case !news:
		a.held.none()
		if onlyNews && a.saidErr == nil {
			return 0, errWaiting
		}
	case !a.held.holds(time.Now(), a.spread()):
	case a.said == nil || onlyNews:
		return 0, errWaiting
	default:
		report = *a.said
	}
	a.reported, a.said = report.Service, &report
	a.meanwhile(ctx, func(ctx context.Context) { written, err = a.parts.Registry.Report(ctx, report) })
	if written > 0 {
		a.parts.Log.Debug("checks written", "count", written)
	}
	if a.saidErr = err; err != nil {
		return written, errors.Join(fmt.Errorf("cannot report to Consul: %w", err), a.former.err)
	}
	return written, a.former.err
}

// former are the names under which hostagent's service stood, as far as what stands there could not be taken away yet.
type former struct {
	names []string
	err   error     // why
	next  time.Time // when it is tried again
}

// formerEvery is how often that is tried: the agent logs each refusal.
const formerEvery = time.Minute

// leaveFormer takes away what stands under former names. What cannot be taken away, because the token has rights on the new
// name only, keeps nothing from being reported.
func (a *Agent) leaveFormer(ctx context.Context) {
	if a.parts.Report {
		a.former.names = slices.DeleteFunc(a.former.names, func(name string) bool { return name == a.parts.Policy.OwnService })
	}
	now := time.Now()
	if len(a.former.names) > 0 && now.Before(a.former.next) {
		return
	}
	var left []string
	var errs []error
	for _, name := range a.former.names {
		var err error
		a.meanwhile(ctx, func(ctx context.Context) { err = a.parts.Registry.Withdraw(ctx, name) })
		if err != nil {
			left, errs = append(left, name), append(errs, fmt.Errorf("cannot take reports away: %w", err))
		}
	}
	a.former = former{names: left, err: errors.Join(errs...), next: now.Add(formerEvery)}
}

// stop tells Consul that hostagent ends on purpose.
func (a *Agent) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopDeadline)
	defer cancel()
	if a.parts.Report && a.reported != "" && !silent(a.news.last("consul")) {
		report := a.checks(nil)
		report.Life = a.stoppedCheck()
		if _, err := a.parts.Registry.Report(ctx, report); err != nil {
			a.parts.Log.Warn("cannot tell Consul of the stop", "error", err)
		}
	}
	a.keeper.wait(stopDeadline)
	a.parts.Log.Info("stopped", "rules", stopMeans(a.parts.Policy.Mode))
}

// stoppedCheck is the last life check.
func (a *Agent) stoppedCheck() consul.Check {
	c := a.lifeCheck(nil)
	c.Status, c.Output = consul.Critical, wrap("", "hostagent was stopped: "+stopMeans(a.parts.Policy.Mode)+".")
	return c
}

func stopMeans(mode Mode) string {
	if mode == ModeGuard {
		return "its rules stay in place: no port opens or closes until it runs again"
	}
	return "it had no rules"
}

// stale stands before what was found in listeners that cannot be listed now.
const stale = "The listeners cannot be listed now; this is what was seen last.\n"

// checks is what Consul shows of the last pass. Every output is sorted and free of times, pids and counters: a steady
// host says the same at every pass, and so writes nothing to the servers.
func (a *Agent) checks(consulErr error) consul.Report {
	r := consul.Report{Service: a.parts.Policy.OwnService, Life: a.lifeCheck(consulErr)}
	if a.memory.answers == 0 || !a.looked {
		r.LifeOnly = true // nothing is known yet, and what an earlier run wrote stands
		if a.parts.Audit != nil && a.audits.report != nil {
			r.Checks = []consul.Check{auditCheck(a.audits.report, a.parts.Policy.CountsOnly)} // it says what is not known
		}
		return r
	}
	told := telling{mode: a.parts.Policy.Mode, counts: a.parts.Policy.CountsOnly, stale: a.listenErr != nil}
	if a.told.of != a.shown || a.told.telling != told {
		a.told = toldChecks{of: a.shown, telling: told, checks: a.resultChecks(told), cells: a.cells()}
	}
	r.Meta, r.KeepMeta = a.meta()
	if a.undecided() {
		r.Keep, r.Checks = []string{firewallKey}, slices.Clone(a.told.checks)
	} else {
		r.Checks = append([]consul.Check{a.firewallCheck()}, a.told.checks...)
	}
	switch {
	case a.parts.Audit == nil:
	case a.audits.report == nil:
		r.Keep = append(r.Keep, auditKey) // what an earlier run found stands until this one knows better
	default:
		r.Checks = append(r.Checks, auditCheck(a.audits.report, a.parts.Policy.CountsOnly))
	}
	return r
}

// toldChecks are what was made of a result last: on a host where nothing happens it is the same for long.
type toldChecks struct {
	of      *Result
	telling telling
	checks  []consul.Check // read only
	cells   string         // of the sidecar range
}

// resultChecks are the checks of the range and of services.
func (a *Agent) resultChecks(told telling) []consul.Check {
	ofRange, ofService := divide(a.result.Findings)
	checks := []consul.Check{told.rangeCheck(a.result.Range, ofRange)}
	for _, s := range a.result.Services {
		fs := ofService[s.ID]
		checks = append(checks, a.parts.Policy.placed(s, fs, told.serviceCheck(s, fs)))
	}
	return checks
}

// telling is how checks tell of findings.
type telling struct {
	mode   Mode
	counts bool // how many there are, and no more
	stale  bool // the listeners cannot be listed now
}

// check completes c with what it tells of findings about a subject: passing is what it says where there are none, and beside
// is said in any case. A check may not pass while nobody can look.
func (t telling) check(c consul.Check, subject string, fs []Finding, passing, beside string) consul.Check {
	c.Status = statusOf(fs)
	if t.counts {
		passing, beside = noFindings, ""
	}
	switch {
	case len(fs) == 0:
		c.Output = strings.TrimSuffix(wrap("", passing), "\n")
	case t.counts:
		c.Output = countsText(fs)
	default:
		head := summary(subject, fs)
		c.Output = head + findingsText(fs, consul.MaxOutput-len(stale)-len(head)-len(beside))
	}
	c.Output += beside
	c.Notes = notesOf(c.Notes, fs, t.counts)
	if t.stale {
		c.Output = stale + c.Output
		if c.Status == consul.Passing {
			c.Status = consul.Warning
		}
	}
	return c
}

func (a *Agent) lifeCheck(consulErr error) consul.Check {
	c := consul.Check{
		Key: "alive", Name: "hostagent alive", Status: consul.Passing, Notes: a.parts.Policy.lifeNotes(),
		Output: a.lifeText(),
	}
	stands := "The last whole answer of Consul stands"
	if a.failures == 0 && a.facts.RangeKnown {
		stands = "Registrations are up to date, but not what Consul tells of itself"
	}
	for _, trouble := range []struct {
		text string
		err  error
	}{
		{stands, consulErr},
		{"Who is a member is not known; who was let in last still is", a.sources.membersErr},
		{"The listeners of this host cannot be listed", a.listenErr},
		{"The settings in Consul's KV are not those in use; the last good ones stand", a.settings},
	} {
		if trouble.err == nil {
			continue
		}
		c.Status = consul.Warning
		c.Output = strings.TrimSuffix(c.Output, "\n") + "\n\n" + trouble.text
		if a.parts.Policy.CountsOnly { // errors name addresses, files and services
			c.Output += ".\n"
		} else {
			c.Output += ":\n" + troubleText(trouble.err)
		}
	}
	return c
}

// lifeText says what runs. When hostagent has died, Consul shows it behind "TTL expired (last output before timeout follows): ",
// on one line: what follows there is short, and what comes next still holds.
func (a *Agent) lifeText() string {
	name := "hostagent " + a.parts.Version
	if a.parts.Policy.CountsOnly {
		name = "hostagent"
	}
	if a.parts.Policy.Mode == ModeGuard {
		return name + "\nIt runs in guard mode; when it ends, its rules stay in place."
	}
	return name + "\nIt runs in observe mode, and keeps no rules."
}

const firewallKey = "firewall"

// undecided tells whether nothing can be told of the firewall yet but that it is so: between the first whole answer and the one
// after which ports may be closed, what an earlier run told still holds, or nothing is enforced anyway. To say something else
// for these seconds would be two writes of each host of a fleet that is upgraded, and a warning about nothing.
func (a *Agent) undecided() bool {
	if a.memory.settled || a.applyErr != nil {
		return false
	}
	return a.parts.Policy.Mode == ModeObserve || a.found.enforced.Len() > 0
}

func (a *Agent) firewallCheck() consul.Check {
	c := consul.Check{
		Key: firewallKey, Name: "Firewall", Status: consul.Passing,
		Notes: "Only registered sidecar ports are open to the network; the rest of the range is closed.",
	}
	if a.parts.Policy.CountsOnly {
		return a.firewallCounts(c)
	}
	var b strings.Builder
	res := &a.result
	switch {
	case a.applyErr != nil:
		c.Status, c.Notes = consul.Critical, notesFirewall
		fmt.Fprintf(&b, "The rules could not be brought up to date:\n%s", troubleText(a.applyErr))
		if len(res.Quarantined)+len(res.Openings) > 0 {
			b.WriteString("\nPorts as they should be:")
		}
	case a.parts.Policy.Mode == ModeObserve && a.parts.Firewall == nil:
		c.Status, c.Notes = consul.Warning, notesNoFirewall
		b.WriteString("Observe mode: nothing is enforced, but the firewall cannot be looked at.\nRules of an earlier guard run may stand.\n")
	case a.parts.Policy.Mode == ModeObserve:
		c.Notes = notesObserve
		b.WriteString("Observe mode: nothing is enforced. Guard mode would\n" + portLines("close: ", res.Rules.Guard) + portLines("open:  ", res.Rules.Open))
		b.WriteString(a.fromText("from:  "))
	case !a.memory.settled:
		c.Status = consul.Warning
		b.WriteString("Waiting for a second whole answer of Consul before anything is closed.\n")
	default:
		b.WriteString(portLines("Guarded: ", res.Rules.Guard) + portLines("Open:    ", res.Rules.Open))
		b.WriteString(a.fromText("From:    "))
	}
	b.WriteString(listedPorts(res, consul.MaxOutput-b.Len()))
	c.Output = strings.TrimRight(b.String(), "\n")
	return c
}

// listedPorts is a line for each port in quarantine, of the first ones, and for each opening, as far as they fit into that many
// bytes; before them a blank line.
func listedPorts(res *Result, room int) string {
	var b strings.Builder
	for _, q := range res.Quarantined[:min(len(res.Quarantined), 20)] {
		b.WriteString(wrap(fmt.Sprintf("%5d  ", q.Port), "in quarantine"+quarantineText(q)))
	}
	for i, o := range res.Openings {
		line, more := wrap(fmt.Sprintf("%5d  ", o.Port), openingText(o)), fmt.Sprintf("and %d more: see hostagent scan\n", len(res.Openings)-i)
		if b.Len()+len(line)+len(more)+1 > room {
			b.WriteString(more)
			break
		}
		b.WriteString(line)
	}
	if b.Len() == 0 {
		return ""
	}
	return "\n" + b.String()
}

// fromText is a line that says who may connect in the operator's words, or nothing where everybody may. Of many networks it
// names the first few. It tells of no member: a thousand hosts would write their checks whenever one more comes.
func (a *Agent) fromText(label string) string {
	const most = 8
	if !a.parts.Policy.limits() {
		return ""
	}
	sources := a.parts.Policy.AllowFrom
	var names []string
	if a.parts.Policy.AllowCluster {
		names = append(names, sourceCluster)
	}
	for _, source := range sources[:min(len(sources), most)] {
		if source.IsSingleIP() {
			names = append(names, source.Addr().String())
		} else {
			names = append(names, source.String())
		}
	}
	text := strings.Join(names, ", ")
	if more := len(sources) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return wrap(label, text)
}

// portLines names ports behind a label, the first of many.
func portLines(label string, ports firewall.PortSet) string {
	const most = 600 // bytes
	text := ports.String()
	if len(text) > most {
		text = fmt.Sprintf("%s and so on, %d in all", text[:strings.LastIndex(text[:most], ",")], ports.Len())
	}
	return wrap(label, text)
}

func openingText(o Opening) string {
	names := make([]string, 0, len(o.Services))
	for _, s := range o.Services {
		names = append(names, catalog.Clean(s))
	}
	if len(names) == 0 {
		for _, id := range o.IDs {
			names = append(names, catalog.Clean(id))
		}
	}
	text := list(names) + o.pathText()
	if o.Held {
		text = strings.TrimSpace(text + " (no longer registered, closes after close_delay)")
	}
	return text
}

// quarantineText says for whom a port is in quarantine: " for web".
func quarantineText(q Quarantined) string {
	if len(q.Services) == 0 {
		return ""
	}
	names := make([]string, len(q.Services))
	for i, name := range q.Services {
		names[i] = catalog.CleanTo(name, 60)
	}
	return " for " + list(names)
}

// divide tells the findings that belong to the host's range and registrations from those of one application each, by
// its id. Their order stays.
func divide(fs []Finding) (ofRange []Finding, ofService map[string][]Finding) {
	ofService = map[string][]Finding{}
	for _, f := range fs {
		if entry, _ := catalog.Lookup(f.ID); entry.OfService {
			ofService[f.ServiceID] = append(ofService[f.ServiceID], f)
		} else {
			ofRange = append(ofRange, f)
		}
	}
	return ofRange, ofService
}

func (t telling) rangeCheck(sidecars PortRange, fs []Finding) consul.Check {
	return t.check(consul.Check{
		Key: "sidecar-range", Name: "Sidecar range",
		Notes: "Who holds ports of the sidecar range, and registrations whose port stays closed.",
	}, "sidecar range", fs, fmt.Sprintf("Range %s: every listener is a registered sidecar, every registered sidecar listens.", sidecars), "")
}

func (t telling) serviceCheck(s Service, fs []Finding) consul.Check {
	passing := catalog.Clean(s.Name) + " does not listen on this host's network."
	if len(s.Listeners) > 0 {
		passing = fmt.Sprintf("%s listens on loopback only: %s.", catalog.Clean(s.Name), listenersText(s))
	}
	return t.check(consul.Check{
		Key: consul.ResultKey(s.ID), Name: "Listeners of " + middleOut(cmp.Or(s.ID, s.Name)),
		Notes: "A mesh service must listen on loopback only, where nothing but its sidecar's host can call it.",
	}, catalog.CleanTo(cmp.Or(s.Name, s.ID), 60), fs, passing, sidecarsText(s.Sidecars, t.mode))
}

// sidecarsText is a line for each of the first sidecars.
func sidecarsText(sidecars []Sidecar, mode Mode) string {
	const most = 8
	var b strings.Builder
	for _, p := range sidecars[:min(len(sidecars), most)] {
		state := "left closed"
		switch {
		case mode == ModeObserve && p.Opened:
			state = "guard mode would open it"
		case mode == ModeObserve:
			state = "guard mode would not open it"
		case p.Opened:
			state = "open"
		}
		text := fmt.Sprintf("%s: port %d, %s", catalog.CleanTo(p.ID, 80), p.Port, state)
		b.WriteString("\n" + strings.TrimSuffix(wrap("sidecar ", text), "\n") + pathsText(p.Paths, mode))
	}
	if more := len(sidecars) - most; more > 0 {
		fmt.Fprintf(&b, "\nand %d more sidecars", more)
	}
	return b.String()
}

func listenersText(s Service) string {
	texts := make([]string, len(s.Listeners))
	for i := range s.Listeners {
		texts[i] = address(&s.Listeners[i])
	}
	slices.Sort(texts)
	return list(slices.Compact(texts))
}
