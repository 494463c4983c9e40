// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// fakeAudit is what answers for package audit. The test looks only while the agent waits.
type fakeAudit struct {
	report audit.Report
	asked  []time.Time
	hosts  []audit.Host
	takes  time.Duration
}

func (f *fakeAudit) look(ctx context.Context, host audit.Seen[audit.Host]) audit.Report {
	handOver()
	f.asked, f.hosts = append(f.asked, time.Now()), append(f.hosts, host.Value)
	sleep(ctx, f.takes)
	handOver()
	return f.report
}

func failing(id catalog.ID) audit.Report {
	return audit.Report{Rows: []audit.Row{
		{ID: catalog.ACLEnabled, Status: audit.Pass, Found: []string{"the agent runs with acl.enabled = true"}},
		{ID: id, Status: audit.Fail, Found: []string{"nothing closes port 21001"}, Remedy: "guard it"},
		{ID: catalog.GossipKey, Status: audit.Unknown, Found: []string{"denied"}, Needs: `keyring = "read"`},
	}}
}

// checklist is the check of the last report, as a line; "kept" where it stands as it is, "none" where it goes.
func (h *fakeHost) checklist() string {
	i := slices.IndexFunc(h.report.Checks, func(c consul.Check) bool { return c.Key == auditKey })
	switch {
	case i < 0 && (h.report.LifeOnly || slices.Contains(h.report.Keep, auditKey)):
		return "kept"
	case i < 0:
		return "none"
	}
	c := h.report.Checks[i]
	return string(c.Status) + ": " + strings.ReplaceAll(c.Output, "\n", "|")
}

func (h *fakeHost) auditing(f *fakeAudit) Parts {
	parts := h.parts(ModeGuard)
	parts.Audit, parts.Owners, parts.Blocked = f.look, noOwners{}, dropping()
	return parts
}

const (
	failsRange = `warning: production checklist: 1 of 3 pass, 1 fail, 1 unknown||fail range-closed|  nothing closes port 21001|  remedy: guard it||unknown gossip-key|  denied|  needs:  keyring = "read"`
	passesAll  = "passing: production checklist: 1 of 1 pass"
)

func TestAuditOnceAnHour(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed)}
	parts := h.auditing(f)
	parts.PollInterval = 10 * time.Second // fewer passes to wait for
	h.runAgent(t, parts, func(agent *Agent, _ chan<- Parts) {
		pass(9 * time.Second)
		if len(f.asked) != 0 {
			t.Error("audited at once")
		}
		want(t, "before the first audit", "kept", h.checklist())
		pass(62 * time.Second)
		if len(f.asked) != 1 {
			t.Fatalf("after a minute there were %d audits", len(f.asked))
		}
		want(t, "after the first audit", failsRange, h.checklist())
		if host := f.hosts[0]; host.Mode != "guard" || !host.Ports.Known || portsBy(host)["closed by hostagent's guard"] != "21001-21255" || len(host.Services) != 1 {
			t.Errorf("the audit was told of the host %s", hostText(host))
		}
		s := agent.Status().Audit
		if diff := cmp.Diff(StatusAudit{
			Enabled: true, Last: s.Last, Failing: []catalog.ID{catalog.RangeClosed},
			Score: map[audit.Status]int{audit.Pass: 1, audit.NotApplicable: 0, audit.Info: 0, audit.Unknown: 1, audit.Warn: 0, audit.Fail: 1},
		}, s); diff != "" || s.Last == nil {
			t.Errorf("status %+v (-want +got)\n%s", s, diff)
		}
		f.report = audit.Report{Rows: failing(catalog.RangeClosed).Rows[:1]}
		pass(50 * time.Minute)
		want(t, "within the hour", failsRange, h.checklist())
		pass(20 * time.Minute)
		want(t, "after the second audit", passesAll, h.checklist())
		pass(10 * time.Hour)
		if n := len(f.asked); n < 10 || n > 14 {
			t.Errorf("in 11 hours there were %d audits", n)
		}
	})
	if n := strings.Count(h.log.String(), "production checklist"); n != 2 {
		t.Errorf("the log tells of the checklist %d times:\n%s", n, h.log.String())
	}
	want(t, "after the stop", passesAll, h.checklist())
}

// TestAuditIsSteady: the same report again is no reason to write a check.
func TestAuditIsSteady(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed)}
	parts := h.auditing(f)
	parts.PollInterval = 10 * time.Second
	h.runAgent(t, parts, func(*Agent, chan<- Parts) {
		pass(2 * time.Minute)
		first := h.report
		pass(3 * time.Hour)
		if len(f.asked) < 3 {
			t.Fatalf("there were %d audits", len(f.asked))
		}
		if diff := cmp.Diff(first, h.report); diff != "" {
			t.Errorf("the same report says something else:\n%s", diff)
		}
	})
}

// TestAuditHoldsUpNobody: one that takes its time delays no pass, is alone, and ends with the agent.
func TestAuditHoldsUpNobody(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{takes: 90 * time.Second, report: failing(catalog.RangeClosed)}
	h.runAgent(t, h.auditing(f), func(*Agent, chan<- Parts) {
		pass(65 * time.Second)
		if len(f.asked) != 1 {
			t.Fatalf("there were %d audits", len(f.asked))
		}
		h.regs = append(h.regs, sidecar("api", 21001))
		pass(time.Second)
		want(t, "while an audit goes on", "guard 21000-21255 open 21000-21001", h.state())
		pass(2 * time.Minute)
		want(t, "after it", failsRange, h.checklist())
		f.takes, f.report = time.Hour, failing(catalog.RangeFree) // gives up at its deadline
		pass(80 * time.Minute)
		want(t, "after one that came to nothing", failsRange, h.checklist())
		if len(f.asked) < 4 {
			t.Errorf("%d audits: one that hangs is not given up, or not tried again", len(f.asked))
		}
	})
}

// TestFailingAgentDelaysAudit: a report that says unknown throughout for a minute is worse than an old one.
func TestFailingAgentDelaysAudit(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed), takes: 2 * time.Second}
	h.runAgent(t, h.auditing(f), func(*Agent, chan<- Parts) {
		pass(5 * time.Second)
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		pass(10 * time.Minute)
		if len(f.asked) != 0 {
			t.Error("audited an agent that does not answer")
		}
		want(t, "while the agent is down", "kept", h.checklist())
		h.fails = nil
		for len(f.asked) == 0 {
			pass(time.Second)
		}
		h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
		pass(30 * time.Second)
		want(t, "an audit during which the agent went away", "kept", h.checklist())
		h.fails = nil
		pass(5 * time.Minute)
		want(t, "when it is back", failsRange, h.checklist())
	})
}

// TestRefusedAuditIsNews: where the agent refuses for long, or the firewall fails, a check says what is not known, until it is.
func TestRefusedAuditIsNews(t *testing.T) {
	denied := &consul.Error{Kind: consul.KindDenied, Err: errors.New("no right")}
	for name, test := range map[string]struct {
		breaks, mends func(*fakeHost)
		want          func(audit.Host) bool // of what is not known
	}{
		"agent:read": {
			func(h *fakeHost) { h.factsFail = denied }, func(h *fakeHost) { h.factsFail = nil },
			func(host audit.Host) bool {
				return strings.Contains(host.NoServices, "no right") && host.First == 0 && !host.Peers.Known
			},
		},
		"service:read": {
			func(h *fakeHost) { h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("left out")} },
			func(h *fakeHost) { h.fails = nil },
			func(host audit.Host) bool { return strings.Contains(host.NoServices, "left out") },
		},
		"an old agent": {
			func(h *fakeHost) { h.fails = &consul.Error{Kind: consul.KindTooOld, Err: errors.New("old")} },
			func(h *fakeHost) { h.fails = nil },
			func(host audit.Host) bool { return strings.Contains(host.NoServices, "old") },
		},
		"the firewall": {
			func(h *fakeHost) { h.applyFail = errors.New("no netlink") }, func(h *fakeHost) { h.applyFail = nil },
			func(host audit.Host) bool {
				return host.NoServices == "" && !host.Ports.Known && strings.Contains(host.Ports.Reason, "no netlink")
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed)}
			test.breaks(h)
			parts := h.auditing(f)
			h.runAgent(t, parts, func(*Agent, chan<- Parts) {
				pass(9 * time.Minute)
				if len(f.asked) != 0 {
					t.Fatal("audited before there was time to mend it")
				}
				pass(5 * time.Minute)
				if len(f.asked) != 1 || !test.want(f.hosts[0]) {
					t.Fatalf("%d audits, of %+v", len(f.asked), f.hosts)
				}
				want(t, "while it fails", failsRange, h.checklist())
				pass(30 * time.Minute)
				if len(f.asked) != 1 {
					t.Errorf("%d audits within an hour", len(f.asked))
				}
				f.report = audit.Report{Rows: failing(catalog.RangeClosed).Rows[:1]}
				test.mends(h)
				pass(3 * time.Minute)
				if len(f.asked) != 2 || test.want(f.hosts[1]) {
					t.Fatalf("mended, and %d audits", len(f.asked))
				}
				want(t, "mended", passesAll, h.checklist())
			})
		})
	}
}

// TestLostRightsAreNews: what was found with a right does not stand for good once it is lost.
func TestLostRightsAreNews(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed)}
	h.runAgent(t, h.auditing(f), func(*Agent, chan<- Parts) {
		pass(2 * time.Minute)
		h.fails = &consul.Error{Kind: consul.KindDenied, Err: errors.New("no right")}
		pass(2 * time.Hour)
		if len(f.asked) < 2 {
			t.Fatalf("%d audits", len(f.asked))
		}
		if last := f.hosts[len(f.hosts)-1]; last.NoServices == "" || last.First != 0 {
			t.Errorf("what was told before counts still: %+v", last)
		}
	})
}

// TestAuditWithoutListeners: what listened before is no evidence of what listens now.
func TestAuditWithoutListeners(t *testing.T) {
	v := &sight{result: &Result{}, unlisted: errors.New("interrupted")}
	if got := v.forAudit(t.Context()); got.Known || !strings.Contains(got.Reason, "interrupted") {
		t.Errorf("%+v", got)
	}
}

func TestReloadOfAudit(t *testing.T) {
	h, f := newFakeHost(), &fakeAudit{report: failing(catalog.RangeClosed), takes: time.Second}
	h.runAgent(t, h.auditing(f), func(agent *Agent, reload chan<- Parts) {
		pass(2 * time.Minute)
		want(t, "before the reload", failsRange, h.checklist())
		counting := h.auditing(f)
		counting.Policy.CountsOnly = true
		reload <- counting
		pass(time.Second)
		want(t, "counts only", "warning: production checklist: 1 of 3 pass, 1 fail, 1 unknown", h.checklist())
		pass(2 * time.Minute)
		if len(f.asked) != 2 {
			t.Errorf("after the reload there were %d audits in all, want 2", len(f.asked))
		}
		off := h.auditing(f)
		off.Audit = nil
		reload <- off
		pass(2 * time.Hour)
		want(t, "off", "none", h.checklist())
		if len(f.asked) != 2 || agent.Status().Audit.Enabled || agent.Status().Audit.Last != nil {
			t.Errorf("off, and %d audits, status %+v", len(f.asked), agent.Status().Audit)
		}
		reload <- h.auditing(f)
		pass(time.Second)
		want(t, "on again", "kept", h.checklist())
		for len(f.asked) == 2 {
			pass(100 * time.Millisecond)
		}
		reload <- off // while it runs
		pass(time.Minute)
		want(t, "off while an audit ran", "none", h.checklist())
		if agent.Status().Audit.Last != nil {
			t.Error("the audit that ran counts")
		}
	})
}

// TestAuditCheckFits: whatever an audit finds, the check holds no more than Consul keeps, in lines that fit.
func TestAuditCheckFits(t *testing.T) {
	var report audit.Report
	for i, item := range catalog.Items() {
		row := audit.Row{ID: item.ID, Status: audit.Statuses()[i%6], Needs: strings.Repeat("needs ", 60), Remedy: strings.Repeat("remedy ", 60)}
		for j := range 12 {
			row.Found = append(row.Found, strings.Repeat(fmt.Sprintf("évidence-%d ", j), 30))
		}
		report.Rows = append(report.Rows, row)
	}
	c := auditCheck(&report, false)
	if len(c.Output) > consul.MaxOutput || !strings.Contains(c.Output, "more: see hostagent audit") || c.Status != consul.Warning {
		t.Errorf("%d bytes, %s:\n%s", len(c.Output), c.Status, c.Output)
	}
	for line := range strings.Lines(c.Output) {
		if catalog.Columns(strings.TrimSuffix(line, "\n")) >= 80 {
			t.Errorf("a line of %d columns: %s", catalog.Columns(line), line)
		}
	}
	fail, warn := strings.Index(c.Output, "\nfail "), strings.Index(c.Output, "\nwarn ")
	if fail < 0 || warn >= 0 && warn < fail || strings.Contains(c.Output, "\npass ") {
		t.Errorf("not the worst first:\n%s", c.Output)
	}
	if again := auditCheck(&report, false); again != c {
		t.Error("the same report makes another check")
	}
}
