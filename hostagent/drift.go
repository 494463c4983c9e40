// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

// driftShown is how long a repair stays a finding: long enough to be seen in Consul by people and by alerts.
const driftShown = 10 * time.Minute

// Drift is what others did to the kernel's rules and sets of ours lately.
type Drift struct {
	What  []string // what was found, a phrase each, sorted
	By    []string // names of processes, as the kernel told them, sorted; empty where it did not
	Fight bool     // it comes back again and again, so repairs wait for each other
}

// driftMemory remembers repairs until they are no news any more.
type driftMemory struct {
	what, by map[string]time.Time // when each was found last
	fightAt  time.Time            // the last repair that was part of a fight
}

// mostDrift is how many phrases are kept: whoever edits sets by hand can make any number.
const mostDrift = 20

// add notes what an Apply or a repair found.
func (m *driftMemory) add(now time.Time, changes firewall.Changes) {
	if len(changes.Repaired) == 0 {
		return
	}
	if m.what == nil {
		m.what, m.by = map[string]time.Time{}, map[string]time.Time{}
	}
	note := func(seen map[string]time.Time, texts []string) {
		for _, text := range texts {
			if _, known := seen[text]; known || len(seen) < mostDrift {
				seen[text] = now
			}
		}
	}
	note(m.what, changes.Repaired)
	note(m.by, changes.By)
	if changes.Fight {
		m.fightAt = now
	}
}

// standing returns what is still to be shown, nil where nothing is. It is the same in memory as long as it says the same,
// so that nothing is evaluated anew for it.
func (m *driftMemory) standing(now time.Time, before *Drift) *Drift {
	recent := func(seen map[string]time.Time) []string {
		var texts []string
		for text, at := range seen {
			if now.Sub(at) >= driftShown {
				delete(seen, text)
				continue
			}
			texts = append(texts, text)
		}
		slices.Sort(texts)
		return texts
	}
	d := &Drift{What: recent(m.what), By: recent(m.by)}
	if len(d.What) == 0 {
		return nil
	}
	d.Fight = !m.fightAt.IsZero() && now.Sub(m.fightAt) < time.Minute
	if before != nil && slices.Equal(d.What, before.What) && slices.Equal(d.By, before.By) && d.Fight == before.Fight {
		return before
	}
	return d
}

// judgeDrift says who changed what.
func (e *evaluation) judgeDrift() {
	d := e.in.Drift
	if d == nil {
		return
	}
	who, culprit := "somebody", "whatever does it"
	if len(d.By) > 0 {
		culprit = list(quoted(d.By))
		who = culprit
	}
	state, fix := "it was put back", "make "+culprit+" leave chains HOSTAGENT-*, sets hostagent-* and table inet hostagent alone; "+
		"this goes ten minutes after the last time"
	if d.Fight {
		state, fix = "it comes back again and again, so hostagent waits up to 15 s before it puts it back",
			"stop "+culprit+" from changing chains HOSTAGENT-*, sets hostagent-* and table inet hostagent"
	}
	e.find(Finding{ID: catalog.FirewallDrift}, "who", who, "what", listTo(d.What, 150), "state", state, "fix", fix)
}

func quoted(names []string) []string {
	all := make([]string, len(names))
	for i, name := range names {
		all[i] = `"` + catalog.Clean(name) + `"`
	}
	return all
}

// inbox is what the goroutine that watches the firewall leaves for the loop. It never waits for the loop: a pass may take
// as long as Consul does, and a repair must not.
type inbox struct {
	wake chan struct{} // holds one token while there is something

	mu      sync.Mutex
	repairs []firewall.Changes
	err     error
	told    bool
}

// mostRepairs is how many repairs wait for a slow pass; more are dropped, after the kernel was put right.
const mostRepairs = 100

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) put(changes firewall.Changes, err error) {
	b.mu.Lock()
	if !changes.Empty() && len(b.repairs) < mostRepairs {
		b.repairs = append(b.repairs, changes)
	}
	b.err, b.told = err, true
	b.mu.Unlock()
	signal(b.wake)
}

// take empties b. The error is that of the last repair; told is false where nothing came since.
func (b *inbox) take() (repairs []firewall.Changes, err error, told bool) { //nolint:revive // the error is one of the values
	b.mu.Lock()
	defer b.mu.Unlock()
	repairs, err, told = b.repairs, b.err, b.told
	b.repairs, b.err, b.told = nil, nil, false
	return repairs, err, told
}

// watchAgain is how long to wait before a watch that failed begins anew.
const watchAgain = time.Minute

// watch lets others' changes of the firewall be repaired as they happen, until the returned function is called, which
// waits for the end.
func (a *Agent) watch(ctx context.Context) (stop func()) {
	foreign := a.parts.Foreign
	if foreign == nil {
		return func() {}
	}
	log := a.parts.Log
	return aside(ctx, func(ctx context.Context) {
		for ctx.Err() == nil {
			if err := foreign(ctx, a.inbox.put); err != nil && ctx.Err() == nil {
				log.Warn("degraded", "reason", "changes that others make to the firewall are seen at check_interval only", "error", err)
			}
			sleep(ctx, watchAgain)
		}
	})
}

// takeForeign takes over what the watch saw and did, and makes the next look at everything that others may have touched.
func (a *Agent) takeForeign(now time.Time) {
	repairs, err, told := a.inbox.take()
	if !told {
		return
	}
	for _, changes := range repairs {
		a.tellChanges(now, changes)
	}
	a.lookAgain()
	if err != nil {
		a.enforced = firewall.PortSet{} // nobody knows now what the kernel holds
	}
	a.news.trouble(a.parts.Log, now, "repair", err)
}
