// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// keeping are the parts of an agent that keeps its state in dir.
func (h *fakeHost) keeping(mode Mode, dir string) Parts {
	parts := h.parts(mode)
	parts.StateDir, parts.Machine = dir, "abc"
	return parts
}

// stateIn is the saved state as one line.
func stateIn(dir string) string {
	s, err := LoadState(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "nothing"
	case err != nil:
		return err.Error()
	}
	return "guard " + s.Guard.String() + " open " + s.Open.String()
}

// written tells when the state was last written: the inode is another one each time.
func written(t *testing.T, dir string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestGuardSavesWhatItApplied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	h := newFakeHost()
	h.facts.NodeID, h.facts.DataDir = "node-1", "/opt/consul"
	h.runParts(t, h.keeping(ModeGuard, dir), func(chan<- Parts) {
		pass(1500 * time.Millisecond)
		want(t, "before it is settled", "nothing", stateIn(dir))
		pass(3 * time.Second)
		want(t, "settled", guarded, stateIn(dir))
		before := written(t, dir)
		pass(10 * time.Minute)
		if !os.SameFile(before, written(t, dir)) {
			t.Error("a steady host writes its state again")
		}
		h.regs = append(h.regs, sidecar("api", 21001))
		pass(2 * time.Second)
		want(t, "after another sidecar came", "guard 21000-21255 open 21000-21001", stateIn(dir))
		h.applyFail = errors.New("held lock")
		h.regs = append(h.regs, sidecar("db", 21002))
		pass(time.Minute)
		want(t, "while nothing can be applied", "guard 21000-21255 open 21000-21001", stateIn(dir))
	})
	s, err := LoadState(dir)
	if err != nil || s.Machine != "abc" || s.NodeID != "node-1" || s.DataDir != "/opt/consul" || s.Range != DefaultSidecarRange() {
		t.Errorf("saved %+v, %v", s, err)
	}
	before := written(t, dir)
	h.applyFail, h.regs = nil, h.regs[:3]
	h.runParts(t, h.keeping(ModeGuard, dir), func(chan<- Parts) { pass(time.Minute) })
	if !os.SameFile(before, written(t, dir)) {
		t.Error("a restart on a steady host writes the state again")
	}
}

func TestNoStateWithoutAFolderOrAMachine(t *testing.T) {
	for name, spoil := range map[string]func(*Parts){
		"no folder": func(p *Parts) { p.StateDir = "" }, "no machine": func(p *Parts) { p.Machine = "" },
	} {
		dir := filepath.Join(t.TempDir(), "state")
		h := newFakeHost()
		parts := h.keeping(ModeGuard, dir)
		spoil(&parts)
		h.runParts(t, parts, func(chan<- Parts) { pass(time.Minute) })
		want(t, name, "nothing", stateIn(dir))
	}
}

func TestObserveRemovesTheState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := SaveState(dir, sampleState()); err != nil {
		t.Fatal(err)
	}
	h := newFakeHost()
	h.runParts(t, h.keeping(ModeObserve, dir), func(reload chan<- Parts) {
		pass(time.Second)
		want(t, "in observe mode", "nothing", stateIn(dir))
		reload <- h.keeping(ModeGuard, dir)
		pass(5 * time.Second)
		want(t, "in guard mode", guarded, stateIn(dir))
		reload <- h.keeping(ModeObserve, dir)
		pass(5 * time.Second)
		want(t, "in observe mode again", "nothing", stateIn(dir))
	})
}

// TestFailingDiskStopsNothing: the state cannot be saved, which is told once a minute and in the status, and holds up
// nothing; once it can, it is.
func TestFailingDiskStopsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file in the folder's place
		t.Fatal(err)
	}
	h := newFakeHost()
	h.watched(t, h.keeping(ModeGuard, dir), func(a *Agent) {
		pass(5 * time.Second)
		want(t, "the kernel", guarded, h.state())
		pass(10 * time.Minute)
		if degraded := strings.Join(a.Status().Degradations, "\n"); !strings.Contains(degraded, "cannot save the state") {
			t.Errorf("degradations: %q", degraded)
		}
		if lines := strings.Count(h.log.String(), "step=state"); lines < 9 || lines > 11 {
			t.Errorf("%d lines in ten minutes:\n%s", lines, h.log.String())
		}
		h.regs = append(h.regs, sidecar("api", 21001))
		pass(time.Second)
		want(t, "the kernel, later", "guard 21000-21255 open 21000-21001", h.state())
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		pass(70 * time.Second)
		want(t, "mended", "guard 21000-21255 open 21000-21001", stateIn(dir))
		if degraded := a.Status().Degradations; len(degraded) > 0 {
			t.Errorf("mended, but %q", degraded)
		}
	})
}

// TestSlowDiskHoldsUpNothing: what is being written does not end.
func TestSlowDiskHoldsUpNothing(t *testing.T) {
	now := time.Now()
	k := keeper{dir: "/state", done: make(chan error), pending: sampleState(), since: now}
	if err := k.keep(now.Add(time.Second), "/state", sampleState()); err != nil {
		t.Errorf("after a second: %v", err)
	}
	if err := k.keep(now.Add(time.Minute), "/state", sampleState()); err == nil || !strings.Contains(err.Error(), "has not answered for 1m0s") {
		t.Errorf("after a minute: %v", err)
	}
}

// TestFailedWriteIsTriedNowAndThen: for the same state once a minute, for another one at once.
func TestFailedWriteIsTriedNowAndThen(t *testing.T) {
	now, dir := time.Now(), filepath.Join(t.TempDir(), "state")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	k := &keeper{}
	tries := func(after time.Duration, want *Saved) bool {
		_ = k.keep(now.Add(after), dir, want) // how the last write went
		writes := k.done != nil
		k.wait(time.Minute)
		return writes
	}
	other := sampleState()
	other.Open = firewall.Ports(21255)
	for _, c := range []struct {
		after time.Duration
		want  *Saved
		tries bool
	}{
		{0, sampleState(), true}, {time.Second, sampleState(), false}, {59 * time.Second, sampleState(), false},
		{60 * time.Second, sampleState(), true}, {61 * time.Second, other, true}, {62 * time.Second, other, false},
	} {
		if got := tries(c.after, c.want); got != c.tries {
			t.Errorf("after %s: tries %v", c.after, got)
		}
	}
}

// TestStateIsNotReadWhileItIsRemoved: what is being written is what will stand.
func TestStateIsNotReadWhileItIsRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := SaveState(dir, sampleState()); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	k := &keeper{dir: dir, done: done, since: time.Now()} // a removal under way on a slow disk
	k.load(dir)
	if err := RemoveState(dir); err != nil {
		t.Fatal(err)
	}
	done <- nil
	for range 3 {
		if err := k.keep(time.Now(), dir, sampleState()); err != nil {
			t.Fatal(err)
		}
		k.wait(time.Minute)
	}
	if _, err := LoadState(dir); err != nil {
		t.Errorf("nothing was saved: %v", err)
	}
}

// TestClonedMachine: the rules that an earlier run left are of the machine that this one was cloned from.
func TestClonedMachine(t *testing.T) {
	for node, after := range map[string]string{
		"NODE-1": "guard 21000-21255 open 21000, 21042", // the same
		"node-2": "guard 21000-21255 open 21000",
		"":       "guard 21000-21255 open 21000, 21042",
	} {
		dir := filepath.Join(t.TempDir(), "state")
		saved := sampleState()
		saved.NodeID = "node-1"
		if err := SaveState(dir, saved); err != nil {
			t.Fatal(err)
		}
		h := newFakeHost()
		h.facts.NodeID = node
		h.exists = true
		h.rules.Guard, h.rules.Open = DefaultSidecarRange().Ports(), firewall.Ports(21000, 21042)
		h.runParts(t, h.keeping(ModeGuard, dir), func(chan<- Parts) {
			pass(1500 * time.Millisecond)
			want(t, "before it is settled, with node "+node, "guard 21000-21255 open 21000, 21042", h.state())
			pass(5 * time.Second)
			want(t, "settled, with node "+node, after, h.state())
		})
		if told := strings.Contains(h.log.String(), "another Consul node's"); told != (node == "node-2") {
			t.Errorf("node %q: told %v", node, told)
		}
	}
}

func TestRestore(t *testing.T) {
	at := func(dir string, h *fakeHost) Parts {
		parts := h.keeping(ModeGuard, dir)
		parts.Registry = nil // nobody may ask Consul
		return parts
	}
	dir := filepath.Join(t.TempDir(), "state")
	saved := sampleState()
	saved.Limited, saved.Sources, saved.AllowFrom = false, nil, nil
	if err := SaveState(dir, saved); err != nil {
		t.Fatal(err)
	}
	h := newFakeHost()
	done, err := Restore(t.Context(), at(dir, h), true)
	if err != nil || done.Standing || done.Missing || done.Nobody {
		t.Errorf("restored: %+v, %v", done, err)
	}
	want(t, "restored", "guard 21000-21255 open 21000, 21003", h.state())

	// What stands is younger than the file.
	h.rules.Open.Add(21005)
	if done, err := Restore(t.Context(), at(dir, h), true); err != nil || !done.Standing || h.applies != 1 {
		t.Errorf("the second time: %+v, %v", done, err)
	}
	// What something loaded from a file of its own is not.
	h.rules.Open.Add(21007)
	if done, err := Restore(t.Context(), at(dir, h), false); err != nil || done.Standing {
		t.Errorf("over rules that were loaded: %+v, %v", done, err)
	}
	want(t, "restored over rules that were loaded", "guard 21000-21255 open 21000, 21003", h.state())
	h.applies = 1
	// Sets alone hold nothing back.
	h.noRules = true
	if done, err := Restore(t.Context(), at(dir, h), true); err != nil || done.Standing || h.applies != 2 {
		t.Errorf("over sets without rules: %+v, %v", done, err)
	}

	fresh := newFakeHost()
	if done, err := Restore(t.Context(), at(t.TempDir(), fresh), true); err != nil || !done.Missing || fresh.applies > 0 {
		t.Errorf("without a state: %+v, %v", done, err)
	}
	foreign := at(dir, fresh)
	foreign.Machine = "def"
	_, err = Restore(t.Context(), foreign, true)
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok || fresh.applies > 0 || !strings.Contains(refused.Error(), "another host") || !strings.Contains(refused.Error(), "(rm "+dir+"/state.json)") {
		t.Errorf("a foreign state: %v", err)
	}
	fresh.showFail = errors.New("no right")
	if _, err := Restore(t.Context(), at(dir, fresh), true); err == nil || fresh.applies > 0 {
		t.Errorf("a kernel that cannot be seen: %v", err)
	}
}

// TestRestorePublishes: a rule of the operator's reads the set from the start of the host on.
func TestRestorePublishes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	saved := sampleState()
	saved.Limited, saved.Sources, saved.AllowFrom = false, nil, nil
	if err := SaveState(dir, saved); err != nil {
		t.Fatal(err)
	}
	h, set := newFakeHost(), &fakeSet{}
	parts := h.publishing(ModeGuard, "one", set)
	parts.StateDir, parts.Machine = dir, "abc"
	h.applyFail = errors.New("held lock")
	if _, err := Restore(t.Context(), parts, true); err == nil || set.calls > 0 {
		t.Errorf("what is not open is published: %s, %v", set.ports, err)
	}
	h.applyFail = nil
	if done, err := Restore(t.Context(), parts, true); err != nil || done.Unpublished != nil {
		t.Errorf("restored: %+v, %v", done, err)
	}
	want(t, "published", "21000, 21003", set.ports.String())
	h.exists, set.fails = false, firewall.ErrNoSet
	if done, err := Restore(t.Context(), parts, true); err != nil || !errors.Is(done.Unpublished, firewall.ErrNoSet) {
		t.Errorf("restored without the set: %+v, %v", done, err)
	}
	want(t, "restored", "guard 21000-21255 open 21000, 21003", h.state())
}

// TestRestoreSparesSSH: sshd has moved onto a port that was a sidecar's when the state was saved.
func TestRestoreSparesSSH(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	saved := sampleState()
	saved.Limited, saved.Sources, saved.AllowFrom = false, nil, nil
	if err := SaveState(dir, saved); err != nil {
		t.Fatal(err)
	}
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:21009")
	h.listeners[0].UID = 0
	parts := h.keeping(ModeGuard, dir)
	parts.Owners = fakeOwners{h.listeners[0].Cookie: {Processes: []sockets.Process{{PID: 7, Name: "sshd"}}}}
	if _, err := Restore(t.Context(), parts, true); err != nil {
		t.Fatal(err)
	}
	want(t, "restored", "guard 21000-21008, 21010-21255 open 21000, 21003", h.state())
}

// TestHostileAgentDoesNotSpoilTheState: what Consul says of itself goes into the file, and must not make it unreadable.
func TestHostileAgentDoesNotSpoilTheState(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	h := newFakeHost()
	h.facts = consul.Agent{NodeID: "a\x1b[31m\n" + strings.Repeat("x", 300), DataDir: "../etc\x00", RangeKnown: true, SidecarMin: 21000, SidecarMax: 21255}
	h.runParts(t, h.keeping(ModeGuard, dir), func(chan<- Parts) { pass(10 * time.Second) })
	want(t, "saved", guarded, stateIn(dir))
}
