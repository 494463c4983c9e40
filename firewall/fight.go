// SPDX-License-Identifier: MPL-2.0

package firewall

import "time"

// When repairs make a fight, how they are then spaced, and how long the other side must be quiet for it to be over.
const (
	fightAbove  = 5 // repairs within fightWindow
	fightWindow = time.Minute
	fightPause  = 15 * time.Second
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
	repairs [fightAbove + 1]time.Time // the latest ones, the newest at last
	last    int
	on      bool
}

// repaired notes that drift was found and repaired.
func (f *fight) repaired(now time.Time) {
	still := f.fought(now)
	f.last = (f.last + 1) % len(f.repairs)
	f.repairs[f.last] = now
	oldest := f.repairs[(f.last+1)%len(f.repairs)]
	f.on = still || !oldest.IsZero() && now.Sub(oldest) < fightWindow
}

// fought tells whether the fight goes on: one without drift for as long as fightWindow is over.
func (f *fight) fought(now time.Time) bool {
	return f.on && now.Sub(f.repairs[f.last]) < fightWindow
}

// wait returns how long repairs have to wait; 0 means that they need not.
func (f *fight) wait(now time.Time) time.Duration {
	if !f.fought(now) {
		return 0
	}
	return max(0, fightPause-now.Sub(f.repairs[f.last]))
}
