// SPDX-License-Identifier: MPL-2.0

package settings

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// servers are those of Consul, with a KV.
type servers struct {
	mu      sync.Mutex // over all that follows, and what is told
	index   uint64
	entries []consul.KVEntry
	err     error
	changed chan struct{} // closed at each change
	asked   []uint64
	told    []string
	hasty   bool // they answer before anything changes
}

func newServers() *servers { return &servers{index: 7, changed: make(chan struct{})} }

// set changes what the servers hold or how they fail, and wakes who waits; entries are "KEY=VALUE".
func (s *servers) set(err error, entries ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	s.err, s.entries = err, entriesOf(entries...)
	close(s.changed)
	s.changed = make(chan struct{})
}

func entriesOf(texts ...string) (entries []consul.KVEntry) {
	for _, text := range texts {
		key, value, _ := strings.Cut(text, "=")
		entries = append(entries, consul.KVEntry{Key: key, Value: []byte(value)})
	}
	return entries
}

func (s *servers) ask(ctx context.Context, index uint64) (consul.KV, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, index)
	if index != 0 && index == s.index && s.err == nil && !s.hasty {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(5 * time.Minute):
		case <-ctx.Done():
		}
		s.mu.Lock()
	}
	if s.err != nil {
		return consul.KV{}, s.err
	}
	return consul.KV{Index: s.index, Entries: s.entries}, nil
}

// follow follows s until the end of the test. What is told stands in s, as text.
func follow(t *testing.T, s *servers) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	go func() {
		defer close(done)
		Follow(ctx, s.ask, func(a Answer) {
			text := fmt.Sprint(a.Err)
			if a.Err == nil {
				text = "entries:"
				for _, e := range a.Entries {
					text += " " + e.Key + "=" + string(e.Value)
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, text)
		})
	}()
}

// since returns what was told and asked since the last call.
func (s *servers) since() (told []string, asked []uint64) {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() { s.told, s.asked = nil, nil }()
	return s.told, s.asked
}

// heard waits for d and compares what was told meanwhile.
func heard(t *testing.T, s *servers, d time.Duration, want ...string) {
	t.Helper()
	time.Sleep(d)
	told, _ := s.since()
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers()
		follow(t, s)
		heard(t, s, time.Second, "entries:") // no keys is an answer too
		s.set(nil, "a=1")
		heard(t, s, time.Second/2, "entries: a=1")
		s.set(nil, "a=1") // the same again
		heard(t, s, time.Second)
		s.set(nil, "a=2")
		heard(t, s, time.Second, "entries: a=2")
		time.Sleep(time.Hour) // in which nothing changes
		if told, asked := s.since(); len(told) > 0 || len(asked) > 20 {
			t.Errorf("it asked %d times in an hour, and told %q", len(asked), told)
		}
		s.set(nil, "b=2")
		heard(t, s, time.Second/10, "entries: b=2")
		s.set(nil)
		heard(t, s, time.Second, "entries:")
	})
}

// TestFollowFailures: each is told, they come ever more rarely, and what comes after them is told even where it is as before.
func TestFollowFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServers()
		s.set(nil, "a=1")
		follow(t, s)
		heard(t, s, time.Minute, "entries: a=1")
		away := errors.New("away")
		s.set(away)
		heard(t, s, 0, "away")
		time.Sleep(10 * time.Minute)
		told, asked := s.since()
		if n := len(told); n < 15 || n > 60 {
			t.Errorf("it asked %d times in ten minutes", n)
		}
		if last := asked[len(asked)-1]; last != 0 {
			t.Errorf("it waits for index %d of servers that failed", last)
		}
		s.set(nil, "a=1")
		time.Sleep(maxRetry)
		if told, _ := s.since(); len(told) == 0 || told[len(told)-1] != "entries: a=1" {
			t.Errorf("it told %q", told)
		}

		s.set(&consul.Error{Kind: consul.KindUnreachable, Err: away})
		time.Sleep(10 * time.Minute)
		if told, _ := s.since(); len(told) < 120 || len(told) > 260 {
			t.Errorf("it asked an agent of the host %d times in ten minutes", len(told))
		}
	})
}

// TestFollowIsGentle to servers that answer at once, or whose keys change without end.
func TestFollowIsGentle(t *testing.T) {
	for _, tt := range []struct {
		name    string
		entries []string
		churn   time.Duration // between changes of other keys, which are answers where there are no keys
		hasty   bool
		most    int           // questions in ten minutes
		within  time.Duration // a key is seen
	}{
		{"who answers at once", []string{"a=1"}, 0, true, 260, maxPause},
		{"who answers at once with nothing", nil, 0, true, 60, maxPauseEmpty},
		{"other keys change", nil, time.Second / 100, false, 60, maxPauseEmpty},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newServers()
				s.set(nil, tt.entries...)
				s.hasty = tt.hasty
				follow(t, s)
				for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); {
					if tt.churn == 0 {
						time.Sleep(10 * time.Minute)
						break
					}
					time.Sleep(tt.churn)
					synctest.Wait()
					s.set(nil, tt.entries...)
				}
				told, asked := s.since()
				if len(asked) > tt.most {
					t.Errorf("it asked %d times in ten minutes", len(asked))
				}
				if len(told) != 1 {
					t.Errorf("it told %q", told)
				}
				s.mu.Lock()
				s.hasty = false
				s.mu.Unlock()
				s.set(nil, "new=1")
				heard(t, s, tt.within, "entries: new=1")
			})
		})
	}
}
