// SPDX-License-Identifier: MPL-2.0

package settings

import (
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// patience is how long Consul may be away before that is a problem of the settings: that it is away is told by others, and
// what was good last is mostly still so.
const patience = 5 * time.Minute

// Documents makes documents of entries: of each key whose name ends in ".hcl". Folders, as Consul's UI makes them, hold
// nothing; another key is an error, because it looks as if it counted.
func Documents(entries []consul.KVEntry) ([]config.Document, error) {
	var documents []config.Document
	var problems config.Errors
	for _, e := range entries {
		name := "kv:" + e.Key
		switch {
		case strings.HasSuffix(e.Key, ".hcl"):
			documents = append(documents, config.Document{Name: name, Source: e.Value})
		case strings.HasSuffix(e.Key, "/") && len(e.Value) == 0:
		case len(problems) == maxProblems:
			return nil, append(problems, &config.Error{Text: "and more keys of other names"})
		default:
			problems = append(problems, &config.Error{File: name,
				Text: `not read, because its name does not end in ".hcl"; rename the key, or move it out of kv_prefix`})
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return documents, nil
}

const maxProblems = 10 // that are told of keys

// Keeper decides what becomes of answers: what is good is applied and saved, and what is not leaves the last good settings
// in use. Its methods are called by one goroutine, but for Problem.
type Keeper struct {
	apply func([]config.Document) error
	save  func([]consul.KVEntry)

	good    []consul.KVEntry
	known   bool             // good is in use
	refused []consul.KVEntry // what was not, where problem says so
	problem atomic.Pointer[problem]
}

// problem is why the entries that Consul holds are not those in use. It does not change.
type problem struct {
	refused error // what is wrong with the entries
	failed  error // why they are not known
	since   time.Time
}

// NewKeeper returns a Keeper in whose view nothing is in use. Apply puts documents in use or returns why it cannot, and then
// has changed nothing; save is called with what was put in use.
func NewKeeper(apply func([]config.Document) error, save func([]consul.KVEntry)) *Keeper {
	k := &Keeper{apply: apply, save: save}
	k.problem.Store(&problem{})
	return k
}

// Resume puts entries in use that were saved. They may have become invalid meanwhile.
func (k *Keeper) Resume(entries []consul.KVEntry) error {
	documents, err := Documents(entries)
	if err == nil {
		err = k.apply(documents)
	}
	if err == nil {
		k.Use(entries)
	}
	return err
}

// Use says that entries, whose documents were applied by somebody else, are in use.
func (k *Keeper) Use(entries []consul.KVEntry) {
	k.good, k.known, k.refused = entries, true, nil
	k.problem.Store(&problem{})
}

// Inherit takes over what another Keeper of the same keys has in use, and its problem until there is an answer.
func (k *Keeper) Inherit(other *Keeper) {
	k.good, k.known, k.refused = other.good, other.known, other.refused
	k.problem.Store(other.problem.Load())
}

// Good returns the entries in use, and whether there are settings in use at all: none is as good as any number.
func (k *Keeper) Good() (entries []consul.KVEntry, known bool) { return k.good, k.known }

// Heard takes an answer.
func (k *Keeper) Heard(a Answer) {
	now := k.problem.Load()
	switch {
	case a.Err != nil:
		since := now.since
		if now.failed == nil {
			since = time.Now()
		}
		k.problem.Store(&problem{refused: now.refused, failed: a.Err, since: since})
	case k.known && same(a.Entries, k.good):
		k.refused = nil
		k.problem.Store(&problem{})
	default:
		k.take(a.Entries)
	}
}

// take puts entries in use if they are good.
func (k *Keeper) take(entries []consul.KVEntry) {
	documents, err := Documents(entries)
	if err == nil {
		err = k.apply(documents)
	}
	if err != nil {
		k.refused = entries
		k.problem.Store(&problem{refused: err})
		return
	}
	k.Use(entries)
	k.save(entries)
}

// Again tries once more what was refused for a reason that lies in this host and may have passed.
func (k *Keeper) Again() {
	now := k.problem.Load()
	if _, invalid := errors.AsType[config.Errors](now.refused); now.refused != nil && !invalid && now.failed == nil {
		k.take(k.refused)
	}
}

// Problem returns why the settings that Consul's KV holds are not those in use, nil where they are. A Consul that is away for
// some minutes is none. Any goroutine may call it.
func (k *Keeper) Problem() error {
	now := k.problem.Load()
	switch {
	case now.failed != nil && (!isAway(now.failed) || time.Since(now.since) >= patience):
		return now.failed
	default:
		return now.refused
	}
}

// Reason is Problem for who cannot begin without settings: whatever there is.
func (k *Keeper) Reason() error {
	now := k.problem.Load()
	if now.failed != nil {
		return now.failed
	}
	return now.refused
}

// isAway tells of a failed question whether it may pass by itself, and is told where the loop's own questions fail too.
func isAway(err error) bool {
	switch consul.KindOf(err) {
	case consul.KindDenied, consul.KindFiltered, consul.KindMalformed, consul.KindTooOld:
		return false
	default:
		return true
	}
}
