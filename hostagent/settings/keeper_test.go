// SPDX-License-Identifier: MPL-2.0

package settings

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func TestDocuments(t *testing.T) {
	many := make([]string, 2*maxProblems)
	for i := range many {
		many[i] = fmt.Sprintf("h/%d", i)
	}
	for _, tt := range []struct {
		name    string
		entries []string
		want    string // of the documents, or the error
	}{
		{"none", nil, ""},
		{"in order", []string{"h/a.hcl=1", "h/web/b.hcl=2"}, "kv:h/a.hcl=1 kv:h/web/b.hcl=2"},
		{"folders", []string{"h/", "h/a.hcl=1", "h/web/"}, "kv:h/a.hcl=1"},
		{"an empty document", []string{"h/a.hcl"}, "kv:h/a.hcl="},
		{"a folder that holds something", []string{"h/=1"}, "kv:h/: not read"},
		{"another name", []string{"h/a.hcl=1", "h/a.json=2"}, "kv:h/a.json: not read"},
		{"control characters", []string{"h/\x1b[2J"}, `\x1b`},
		{"many", many, "and more keys"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			documents, err := Documents(entriesOf(tt.entries...))
			var texts []string
			for _, d := range documents {
				texts = append(texts, d.Name+"="+string(d.Source))
			}
			got := strings.Join(texts, " ")
			if err != nil {
				got = err.Error()
				if documents != nil {
					t.Errorf("documents beside an error: %q", texts)
				}
			}
			if tt.want != got && (err == nil || !strings.Contains(got, tt.want) || strings.Contains(got, "\x1b")) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// host is what a Keeper works for: it notes what is applied and saved, and refuses documents that say "bad" or, while it is
// broken, all.
type host struct {
	keeper *Keeper
	broken error
	log    []string
}

func newHost() *host {
	h := &host{}
	h.keeper = NewKeeper(h.apply, func(entries []consul.KVEntry) { h.log = append(h.log, fmt.Sprintf("saved %d", len(entries))) })
	return h
}

func (h *host) apply(documents []config.Document) error {
	text := "applied"
	for _, d := range documents {
		text += " " + d.Name
		if string(d.Source) == "bad" {
			h.log = append(h.log, "refused")
			return config.Errors{{File: d.Name, Line: 3, Text: "bad"}}
		}
	}
	if h.broken != nil {
		h.log = append(h.log, "broken")
		return h.broken
	}
	h.log = append(h.log, text)
	return nil
}

// did compares what h has noted since the last call, and its problem.
func (h *host) did(t *testing.T, problem string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, h.log); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	got := ""
	if err := h.keeper.Problem(); err != nil {
		got = err.Error()
	}
	if got != problem {
		t.Errorf("the problem is %q, want %q", got, problem)
	}
	h.log = nil
}

func (h *host) hears(entries ...string) { h.keeper.Heard(Answer{Entries: entriesOf(entries...)}) }

func (h *host) fails(kind consul.Kind, text string) {
	h.keeper.Heard(Answer{Err: &consul.Error{Kind: kind, Err: errors.New(text)}})
}

func TestKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		if _, known := h.keeper.Good(); known {
			t.Error("settings are known before any answer")
		}
		h.hears()
		h.did(t, "", "applied", "saved 0")
		if _, known := h.keeper.Good(); !known {
			t.Error("no keys are no answer")
		}
		h.hears("h/a.hcl=1")
		h.did(t, "", "applied kv:h/a.hcl", "saved 1")
		h.hears("h/a.hcl=1")
		h.did(t, "") // what is in use needs no reload

		h.hears("h/a.hcl=1", "h/b.hcl=bad")
		h.did(t, "kv:h/b.hcl:3: bad", "refused")
		if good, _ := h.keeper.Good(); cmp.Diff(entriesOf("h/a.hcl=1"), good) != "" {
			t.Errorf("in use are %v", good)
		}
		h.keeper.Again()
		h.did(t, "kv:h/b.hcl:3: bad") // to try it again would change nothing
		h.fails(consul.KindUnreachable, "away")
		h.did(t, "kv:h/b.hcl:3: bad")
		h.fails(consul.KindDenied, "no right")
		h.did(t, "no right")
		h.hears("h/a.hcl=1")
		h.did(t, "")

		h.broken = errors.New("no iptables")
		h.hears("h/a.hcl=2")
		h.did(t, "no iptables", "broken")
		h.keeper.Again()
		h.did(t, "no iptables", "broken")
		h.broken = nil
		h.keeper.Again()
		h.did(t, "", "applied kv:h/a.hcl", "saved 1")
		h.keeper.Again()
		h.did(t, "")

		h.hears()
		h.did(t, "", "applied", "saved 0")
	})
}

// TestKeeperWhileConsulIsAway: after a while it is a problem of the settings, too; a token without the right is one at once.
func TestKeeperWhileConsulIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost()
		h.hears("h/a.hcl=1")
		h.did(t, "", "applied kv:h/a.hcl", "saved 1")
		for _, kind := range []consul.Kind{consul.KindDenied, consul.KindFiltered, consul.KindMalformed, consul.KindTooOld} {
			h.fails(kind, string(kind))
			if got := h.keeper.Problem(); consul.KindOf(got) != kind {
				t.Errorf("of %s it tells %v", kind, got)
			}
			h.hears("h/a.hcl=1")
			h.did(t, "")
		}
		for range 10 {
			h.fails(consul.KindStatus, "no leader")
			h.did(t, "")
			if reason := h.keeper.Reason(); reason == nil {
				t.Error("who waits is not told why")
			}
			time.Sleep(patience / 10)
		}
		if got := h.keeper.Problem(); consul.KindOf(got) != consul.KindStatus {
			t.Errorf("after %v it tells %v", patience, got)
		}
		h.hears("h/a.hcl=1")
		h.did(t, "")
		h.fails(consul.KindStatus, "no leader")
		h.did(t, "") // the time begins anew
	})
}

func TestKeeperResumes(t *testing.T) {
	h := newHost()
	if err := h.keeper.Resume(entriesOf("h/a.hcl=bad")); err == nil {
		t.Error("what became invalid is in use")
	}
	if _, known := h.keeper.Good(); known {
		t.Error("what was refused is in use")
	}
	h.did(t, "", "refused")
	if err := h.keeper.Resume(entriesOf("h/a.hcl=1")); err != nil {
		t.Error(err)
	}
	h.did(t, "", "applied kv:h/a.hcl") // and not saved: it is
	h.hears("h/a.hcl=1")
	h.did(t, "")

	h.hears("h/a.hcl=bad")
	h.did(t, "kv:h/a.hcl:3: bad", "refused")
	next := newHost()
	next.keeper.Inherit(h.keeper)
	next.did(t, "kv:h/a.hcl:3: bad")
	next.hears("h/a.hcl=1")
	next.did(t, "")
}
