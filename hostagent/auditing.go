// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	// auditFirst to auditFirstMost is how long after the first whole answer the first audit begins: a host that starts has
	// other work, and a thousand that start at once should not ask the servers at once.
	auditFirst     = 10 * time.Second
	auditFirstMost = time.Minute
	auditEvery     = time.Hour
	auditAgain     = time.Minute // after one that could not begin, or came to nothing
	auditDeadline  = 2 * time.Minute
	// auditLate is how long one is put off while the agent refuses to answer or a step fails. From then on that something
	// cannot be seen is news.
	auditLate = 10 * time.Minute
)

// audits is what the loop knows of audits. They run beside it on a goroutine of their own, one at a time: the loop never
// waits for one, unless it ends or takes other parts over.
type audits struct {
	wake chan struct{} // to the loop: holds one token when an audit has ended

	running bool
	stop    func()    // waits for the goroutine of the last one; nil: there was none
	next    time.Time // when the next begins; zero: that is not settled
	putOff  time.Time // since when one is due and put off; zero: none is, or there is nobody to ask
	partial bool      // the last one began although not all could be seen
	report  *audit.Report
	at      time.Time // of report
	failing []catalog.ID

	box *auditBox
}

// auditBox is where an audit leaves its report: nil where it came to nothing.
type auditBox struct {
	mu     sync.Mutex
	full   bool
	report *audit.Report
}

func newAudits() audits { return audits{wake: make(chan struct{}, 1), box: new(auditBox)} }

func (b *auditBox) put(report *audit.Report) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.report, b.full = report, true
}

func (b *auditBox) take() (report *audit.Report, full bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	report, full = b.report, b.full
	b.report, b.full = nil, false
	return report, full
}

// end waits for the audit that runs, whose context ends.
func (u *audits) end() {
	if u.stop != nil {
		u.stop()
	}
	u.stop, u.running = nil, false
	u.box.take()
}

// replace takes note that other parts come into force: they are audited anew. What the last audit found stands until then,
// unless audits are off.
func (u *audits) replace(on bool) {
	u.end()
	u.next, u.putOff, u.partial = time.Time{}, time.Time{}, false
	if !on {
		u.report, u.at, u.failing = nil, time.Time{}, nil
	}
}

// startAudit begins an audit when one is due and the agent answers. One that would see half a host, or nothing of the agent,
// is put off: its report would be full of items that are unknown for a minute. Where that lasts because the agent refuses,
// or a step of ours fails, the report says so; where nobody answers, there is nobody to tell.
func (a *Agent) startAudit(ctx context.Context, now time.Time) {
	u := &a.audits
	switch {
	case a.parts.Audit == nil, u.running, a.memory.answers == 0 && !a.refused(), !a.looked, ctx.Err() != nil:
		return
	case u.partial && a.sound():
		u.partial, u.next = false, now.Add(auditAgain)
		return
	case u.next.IsZero():
		u.next = now.Add(auditFirst + rand.N(auditFirstMost-auditFirst))
		return
	case now.Before(u.next):
		return
	case !a.sound() && !a.isLate(now):
		u.next = now.Add(auditAgain)
		return
	}
	u.end() // long done: it makes room
	u.running, u.partial, u.putOff = true, !a.sound(), time.Time{}
	look, seen, box, wake := a.parts.Audit, a.sight(), u.box, u.wake
	u.stop = aside(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, auditDeadline)
		defer cancel()
		report := look(ctx, seen.forAudit(ctx))
		if ctx.Err() != nil {
			box.put(nil)
		} else {
			box.put(&report)
		}
		signal(wake)
	})
}

// sound tells whether the agent answers, and all of this host was seen and is as wanted.
func (a *Agent) sound() bool {
	return a.consulErr == nil && a.listenErr == nil && a.applyErr == nil && (a.memory.settled || a.parts.Policy.Mode != ModeGuard)
}

// consulTrouble is why the agent's last answer does not count, nil where it does.
func (a *Agent) consulTrouble() error { return a.news.standing("consul", a.consulErr) }

// refused tells whether the agent answers, but not what it is asked for: it may take reports all the same.
func (a *Agent) refused() bool {
	switch consul.KindOf(a.consulTrouble()) {
	case consul.KindDenied, consul.KindFiltered, consul.KindTooOld:
		return true
	default:
		return false
	}
}

// isLate tells whether an audit that is due now has been put off for long enough.
func (a *Agent) isLate(now time.Time) bool {
	u := &a.audits
	switch {
	case a.consulErr != nil && !a.refused():
		u.putOff = time.Time{}
		return false
	case u.putOff.IsZero():
		u.putOff = now
	}
	return now.Sub(u.putOff) >= auditLate
}

// sight is what the last pass has seen. Later passes put others in the place of what it points to, and change none of it.
func (a *Agent) sight() *sight {
	seen := &sight{
		policy: a.parts.Policy, agent: a.facts, result: a.shown, registrations: a.regs, listeners: a.listeners, host: a.host,
		enforced: a.enforced, blocked: a.parts.Blocked, hidden: a.incomplete, firewallErr: a.applyErr, unlisted: a.listenErr,
	}
	if trouble := a.consulTrouble(); trouble != nil {
		seen.agent = consul.Agent{} // what it told before is old
		if a.factsErr == nil || !errors.Is(trouble, a.factsErr) || !a.facts.RangeKnown {
			seen.unregistered = trouble
		}
	}
	if a.parts.Policy.Mode == ModeGuard {
		seen.open = a.holds.open
	} else if a.parts.Firewall == nil {
		seen.firewallErr = errNoFirewall
	}
	if a.parts.Owners == nil {
		seen.hidden = notLookedUp
	}
	return seen
}

// takeAudit takes an audit over that has ended, and tells whether it says other things than the last. One during which the
// agent failed does not count, unless it failed before.
func (a *Agent) takeAudit(now time.Time) (changed bool) {
	u := &a.audits
	if a.beside.busy {
		return false
	}
	report, ended := u.box.take()
	if !ended {
		return false
	}
	u.running = false
	counts := a.sound() || u.partial && (a.consulErr == nil || a.refused())
	if report == nil || !counts {
		u.next = now.Add(auditAgain/2 + rand.N(auditAgain/2))
		return false
	}
	u.next = now.Add(auditEvery - auditEvery/10 + rand.N(auditEvery/5))
	before := u.report
	u.report, u.at = report, now
	var failing []catalog.ID
	for i := range report.Rows {
		if report.Rows[i].Status == audit.Fail {
			failing = append(failing, report.Rows[i].ID)
		}
	}
	if before == nil || !slices.Equal(failing, u.failing) {
		a.parts.Log.Info("production checklist", "score", report.Score().String(), "failing", fmt.Sprint(failing))
	}
	u.failing = failing
	brief := a.parts.Policy.CountsOnly
	return before == nil || auditCheck(before, brief) != auditCheck(report, brief)
}

// auditKey is the key of the check about the production checklist.
const auditKey = "production-checklist"

// auditCheck shows an audit: what fails, what is weak and what could not be seen. It warns at worst, because what a checklist
// asks is no outage.
func auditCheck(report *audit.Report, counts bool) consul.Check {
	c := consul.Check{
		Key: auditKey, Name: "Production checklist", Status: consul.Passing,
		Notes: "What the guarantees of the mesh rest on; hostagent audit shows all of it. No checklist is exhaustive.",
	}
	if report.Score()[audit.Fail] > 0 {
		c.Status = consul.Warning
	}
	c.Output = wrap("", "production checklist: "+report.Score().String())
	if !counts {
		c.Output += auditText(report, consul.MaxOutput-len(c.Output))
	}
	c.Output = strings.TrimSuffix(c.Output, "\n")
	return c
}

// auditText shows the items that somebody has to look at, the worst first, as far as they fit into that many bytes.
func auditText(report *audit.Report, room int) string {
	const more = "\nand %d more: see hostagent audit\n"
	var rows []*audit.Row
	for _, status := range []audit.Status{audit.Fail, audit.Warn, audit.Unknown} {
		for i := range report.Rows {
			if report.Rows[i].Status == status {
				rows = append(rows, &report.Rows[i])
			}
		}
	}
	var b strings.Builder
	for i, row := range rows {
		text := "\n" + rowText(row)
		if b.Len()+len(text)+len(more)+4 > room {
			fmt.Fprintf(&b, more, len(rows)-i)
			break
		}
		b.WriteString(text)
	}
	return b.String()
}

// rowText is an item with its evidence and what mends it.
func rowText(row *audit.Row) string {
	const most = 3 // sentences
	text := wrap("", string(row.Status)+" "+string(row.ID))
	for _, found := range row.Found[:min(len(row.Found), most)] {
		text += wrap("  ", found)
	}
	if left := len(row.Found) - most; left > 0 {
		text += wrap("  ", fmt.Sprintf("and %d more", left))
	}
	if row.Needs != "" {
		text += wrap("  needs:  ", row.Needs)
	}
	if row.Remedy != "" {
		text += wrap("  remedy: ", row.Remedy)
	}
	return text
}
