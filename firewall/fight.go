// SPDX-License-Identifier: MPL-2.0

package firewall

import "time"

// When repairs make a fight, how they are then spaced, and how long the other side must be quiet for it to be over.
const (
	// fightBlow is how long what is found in it is one blow: a firewall manager that reloads flushes table after table, and
	// each is put right at once.
	fightBlow   = time.Second
	fightAbove  = 5 // blows within fightWindow
	fightWindow = time.Minute
	// The first pause is as long as a blow, each further one twice as long as the one before, up to this.
	fightPause = 15 * time.Second
)

// others is what is known of other programs that change the firewall; both backends share it. A Firewall's mutex guards it.
type others struct {
	events *events // nil: no Watch runs
	fight  fight
}

// settle completes what an Apply says that it repaired.
func (o *others) settle(changes *Changes) {
	now := time.Now()
	if len(changes.Repaired) > 0 {
		o.fight.repaired(now)
	}
	changes.Fight = o.fight.fought(now)
	o.events.sign(changes)
}

// fight notices that another program undoes what is repaired, again and again, and then spaces the repairs: two programs
// that each restore their rules at once would otherwise keep the machine busy for ever. The zero value is peace. The
// times passed to its methods must not go back.
type fight struct {
	blows [fightAbove + 1]time.Time // when the latest ones began, the newest at last
	last  int
	on    bool
	hits  int // blows since the fight is on
}

// repaired notes that drift was found and repaired.
func (f *fight) repaired(now time.Time) {
	if latest := f.blows[f.last]; !latest.IsZero() && now.Sub(latest) < fightBlow {
		return
	}
	still := f.fought(now)
	f.last = (f.last + 1) % len(f.blows)
	f.blows[f.last] = now
	oldest := f.blows[(f.last+1)%len(f.blows)]
	f.on = still || !oldest.IsZero() && now.Sub(oldest) < fightWindow
	if f.hits++; !f.on {
		f.hits = 0
	}
}

// fought tells whether the fight goes on: one without drift for as long as fightWindow is over.
func (f *fight) fought(now time.Time) bool {
	return f.on && now.Sub(f.blows[f.last]) < fightWindow
}

// wait returns how long repairs have to wait; 0 means that they need not.
func (f *fight) wait(now time.Time) time.Duration {
	if !f.fought(now) {
		return 0
	}
	pause := min(fightBlow<<min(f.hits-1, 10), fightPause)
	return max(0, pause-now.Sub(f.blows[f.last]))
}
