// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"slices"
	"time"

	"github.com/hostagent/hostagent/firewall"
)

// settleAfter is how far apart two equal whole answers must be before anything is closed.
const settleAfter = 2 * time.Second

// memory turns whole answers, one at a time, into what may be opened and closed: open at once, close slowly. An agent
// that reloads its files forgets all services for a moment, and gives sidecars other ports than those on which they
// still run.
//
// Time counts between consecutive whole answers: while the agent is away, nothing ages. An answer that comes after
// failures counts for one poll interval at most, whatever time has passed, so that an agent of which every other answer is
// none delays what closes and does not keep it open for ever.
type memory struct {
	claims  map[Held]bool          // of the last whole answer
	absent  map[Held]time.Duration // every remembered claim: for how long whole answers have been without it
	last    time.Time              // of the last whole answer
	missed  bool                   // there was none since
	answers int                    // whole answers so far

	settled bool
	whole   time.Duration // of whole answers so far
	steady  time.Duration // of those since one of them lost a claim of the one before

	adoptedGuard firewall.PortSet

	former map[PortRange]time.Duration // sidecar ranges before the one in force: for how long whole answers have come since

	wasOpen    firewall.PortSet
	quarantine map[uint16]kept
}

// kept is a port in quarantine.
type kept struct {
	services []string
	named    bool          // by a registration of the last whole answer
	absent   time.Duration // else: for how long whole answers have not named it
}

func newMemory() *memory {
	return &memory{absent: map[Held]time.Duration{}, former: map[PortRange]time.Duration{}, quarantine: map[uint16]kept{}}
}

// adopt takes over the ports of an earlier run: they stay as they are until whole answers say otherwise.
func (m *memory) adopt(guard, open, paths firewall.PortSet) {
	m.adoptedGuard = guard
	for port := range open.All() {
		m.absent[Held{Port: port}] = 0
	}
	for port := range paths.All() {
		m.absent[Held{Port: port, Path: true}] = 0
	}
}

// disown forgets the open ports that adopt took over, as if their time were up, and returns them.
func (m *memory) disown() firewall.PortSet {
	var ports firewall.PortSet
	for claim := range m.absent {
		if claim.ID == "" {
			ports.Add(claim.Port)
			delete(m.absent, claim)
		}
	}
	return ports
}

// miss records that there was no whole answer.
func (m *memory) miss() { m.missed = true }

// answer records the claims of a whole answer that came at now. Claims that it lacks age, from the first answer without
// them on; after delay they are forgotten. Two answers that are further apart than two intervals, because hostagent was
// frozen, age nothing by more than that.
func (m *memory) answer(now time.Time, claims map[Held]bool, delay, interval time.Duration) {
	var elapsed time.Duration
	switch {
	case m.last.IsZero():
	case m.missed:
		elapsed = min(now.Sub(m.last), interval)
	default:
		elapsed = min(now.Sub(m.last), 2*interval)
	}
	m.settle(claims, elapsed, delay)
	for claim, absent := range m.absent {
		switch {
		case claims[claim], m.claims[claim]:
		case absent+elapsed >= delay:
			delete(m.absent, claim)
		default:
			m.absent[claim] = absent + elapsed
		}
	}
	for claim := range claims {
		m.absent[claim] = 0
	}
	for former, since := range m.former {
		if m.former[former] = since + elapsed; since+elapsed >= delay {
			delete(m.former, former)
		}
	}
	m.age(elapsed, delay)
	m.claims, m.last, m.missed = claims, now, false
	m.answers++
}

// settle decides when ports may be closed: when whole answers have lost no claim for settleAfter. A claim that comes is no
// reason to doubt. Nor may somebody who registers and deregisters without pause
// keep the range open: after delay of whole answers every claim that was seen is remembered, so closing the rest is safe.
func (m *memory) settle(claims map[Held]bool, elapsed, delay time.Duration) {
	m.whole += elapsed
	m.steady += elapsed
	for claim := range m.claims {
		if !claims[claim] {
			m.steady = 0
		}
	}
	m.settled = m.settled || m.steady >= settleAfter || m.whole >= max(delay, settleAfter)
}

// ranged records which sidecar range is in force now, and which was before.
func (m *memory) ranged(before, now PortRange) {
	if before != now {
		m.former[before] = 0
		delete(m.former, now)
	}
}

// leaving returns the ports that were open under other sidecar ranges and may stay so for a while.
func (m *memory) leaving() firewall.PortSet {
	var ports firewall.PortSet
	for former := range m.former {
		ports = ports.Union(former.Ports())
	}
	return ports.Intersect(m.wasOpen)
}

// held returns the claims that the last whole answer did not make and that still count, sorted.
func (m *memory) held() []Held {
	var held []Held
	for claim := range m.absent {
		if !m.claims[claim] {
			held = append(held, claim)
		}
	}
	slices.SortFunc(held, func(a, b Held) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.ID, b.ID), compareBools(a.Path, b.Path))
	})
	return held
}

// adoptCut takes over which closed ports of an earlier run had their connections cut: those were open once, or in
// quarantine. Which, it need not know.
func (m *memory) adoptCut(guard, open, cut firewall.PortSet) {
	cut = cut.Intersect(guard).Minus(open)
	m.wasOpen = m.wasOpen.Union(open).Union(cut)
	for port := range cut.All() {
		if _, known := m.quarantine[port]; !known {
			m.quarantine[port] = kept{}
		}
	}
}

// opened records which ports the kernel has open and guards. A port that the guard no longer holds is nobody's to cut.
func (m *memory) opened(open, guard firewall.PortSet) {
	m.wasOpen = m.wasOpen.Union(open)
	if m.settled {
		m.wasOpen = m.wasOpen.Intersect(guard.Union(open))
	}
}

// keep records what is in quarantine now.
func (m *memory) keep(quarantined []Quarantined) {
	now := make(map[uint16]kept, len(quarantined))
	for _, q := range quarantined {
		k := kept{services: q.Services, named: !q.Held}
		if q.Held {
			k.absent = m.quarantine[q.Port].absent
		}
		now[q.Port] = k
	}
	m.quarantine = now
}

// age forgets ports in quarantine that whole answers have not named for delay, as answer does claims.
func (m *memory) age(elapsed, delay time.Duration) {
	for port, k := range m.quarantine {
		switch {
		case k.named: // what this answer says of it is judged first
		case k.absent+elapsed >= delay:
			delete(m.quarantine, port)
		default:
			k.absent += elapsed
			m.quarantine[port] = k
		}
	}
}

// quarantined returns what was in quarantine and may stay there, by port.
func (m *memory) quarantined() []Quarantined {
	var all []Quarantined
	for port, k := range m.quarantine {
		all = append(all, Quarantined{Port: port, Services: k.services, Held: !k.named})
	}
	slices.SortFunc(all, func(a, b Quarantined) int { return cmp.Compare(a.Port, b.Port) })
	return all
}
