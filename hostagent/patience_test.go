// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// mute is an agent that tells its services and takes its time to tell of itself.
type mute struct {
	*fakeHost
	self  time.Duration // how long an answer about itself takes
	asked int           // about itself
}

func (m *mute) Agent(ctx context.Context) (consul.Agent, error) {
	m.asked++
	if err := wait(ctx, min(m.self, 5*time.Second)); err != nil || m.self > 5*time.Second {
		return consul.Agent{}, &consul.Error{Kind: consul.KindTimeout, Err: context.DeadlineExceeded}
	}
	return m.fakeHost.Agent(ctx)
}

// TestOpeningDoesNotWaitForFacts: what the agent told of itself before stands for as long as it keeps silent about it, and a
// new sidecar's port opens soon, whenever it comes.
func TestOpeningDoesNotWaitForFacts(t *testing.T) {
	m := &mute{fakeHost: newFakeHost()}
	parts := m.parts(ModeGuard)
	parts.Registry = m
	sidecar := m.regs[1]
	m.runParts(t, parts, func(chan<- Parts) {
		pass(time.Minute)
		m.self = time.Hour
		worst := time.Duration(0)
		for i := range 40 { // at any time between two questions
			another := sidecar
			another.ID, another.Port = "new", 21100+i
			m.regs = append(m.regs[:2:2], another)
			took := time.Duration(0)
			for ; !m.rules.Open.Has(uint16(another.Port)) && took < time.Minute; took += 10 * time.Millisecond {
				pass(10 * time.Millisecond)
			}
			worst = max(worst, took)
			pass(1700 * time.Millisecond)
		}
		if most := parts.PollInterval + factsPatience + 20*time.Millisecond; worst > most {
			t.Errorf("a port opened %v after its registration, want %v at most", worst, most)
		}
		asked := m.asked
		pass(time.Minute)
		if more := m.asked - asked; more < 5 || more > 12 {
			t.Errorf("asked %d times in a minute", more)
		}
	})
}

// TestFirstFactsAreWaitedFor: without the range nothing can be decided, so nobody is impatient.
func TestFirstFactsAreWaitedFor(t *testing.T) {
	m := &mute{fakeHost: newFakeHost(), self: 4 * time.Second}
	parts := m.parts(ModeGuard)
	parts.Registry = m
	m.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		want(t, "in the end", guarded, m.state())
	})
}
