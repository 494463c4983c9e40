// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const (
	slowDisk   = 10 * time.Second // how long saving may take before it is a trouble
	retryState = time.Minute      // between tries that fail for the same state
)

// keeper keeps the saved state equal to what the kernel was made to hold. It writes beside the loop, one state at a time: a
// slow disk holds up no port. Its methods are called from the loop only.
type keeper struct {
	dir     string
	known   bool       // saved is what stands on the disk
	saved   *Saved     // nil: nothing
	done    chan error // nil: nothing is being written
	pending *Saved     // what is being written, or was tried last
	since   time.Time  // when that began
	err     error      // of the last write
	kept    *Result    // that saved was made of
}

// load learns what stands on the disk already, so that a steady host that restarts hostagent writes nothing. While it is
// being changed, what will stand is known.
func (k *keeper) load(dir string) {
	if k.done != nil && k.dir == dir {
		return
	}
	saved, err := LoadState(dir)
	*k = keeper{dir: dir, saved: saved, known: err == nil || errors.Is(err, fs.ErrNotExist)}
}

// keep has want written where it is not what stands on the disk; nil has it removed. It never waits, so what it returns is
// how the last write went. A write that failed is tried again for another want, or after retryState.
func (k *keeper) keep(now time.Time, dir string, want *Saved) error {
	if k.dir != dir {
		*k = keeper{dir: dir} // what is being written in the other folder ends by itself
	}
	select {
	case err := <-k.done:
		k.finish(err)
	default:
	}
	switch {
	case k.done != nil && now.Sub(k.since) >= slowDisk:
		return fmt.Errorf("cannot save the state in %q: the disk has not answered for %s", dir, now.Sub(k.since).Round(time.Second))
	case k.done != nil:
		return k.err
	case k.known && sameSaved(k.saved, want):
		k.err = nil
		return nil
	case k.err != nil && sameSaved(k.pending, want) && now.Sub(k.since) < retryState:
		return k.err
	}
	done := make(chan error, 1)
	k.done, k.pending, k.since = done, want, now
	go func() {
		if want == nil {
			done <- RemoveState(dir)
		} else {
			done <- SaveState(dir, want)
		}
	}()
	return k.err
}

// finish notes how a write went.
func (k *keeper) finish(err error) {
	k.done, k.err, k.known, k.saved = nil, err, err == nil, k.pending
}

// wait gives a write under way some time to end.
func (k *keeper) wait(most time.Duration) {
	if k.done == nil {
		return
	}
	select {
	case err := <-k.done:
		k.finish(err)
	case <-time.After(most):
	}
}

func sameSaved(a, b *Saved) bool { return a == b || a != nil && b != nil && a.equal(b) }

// keepState has what was applied saved, or in observe mode, which owns nothing, removed. Only settled rules are saved:
// what stands before them is an earlier run's, or no decision yet.
func (a *Agent) keepState(now time.Time) {
	parts, k := &a.parts, &a.keeper
	if parts.StateDir == "" {
		a.stateErr = nil
		return
	}
	if k.kept == a.shown && k.dir == parts.StateDir {
		return // nothing was looked at anew since it was saved
	}
	var want *Saved
	if parts.Policy.Mode == ModeGuard {
		if a.applyErr != nil || !a.memory.settled || parts.Machine == "" {
			return
		}
		want = a.toSave()
	}
	a.stateErr = k.keep(now, parts.StateDir, want)
	if a.news.trouble(parts.Log, now, "state", a.stateErr); a.stateErr == nil && k.done == nil {
		k.kept = a.shown
	}
}

// toSave is what the kernel was made to hold last.
func (a *Agent) toSave() *Saved {
	rules, policy := &a.result.Rules, &a.parts.Policy
	s := &Saved{
		Version: oneWord(a.parts.Version), Machine: a.parts.Machine, NodeID: oneWord(a.facts.NodeID), DataDir: a.facts.DataDir,
		Range: a.result.Range, Guard: rules.Guard, Open: rules.Open, Cut: rules.Cut,
		Limited: policy.limits(), Sources: canonicalPrefixes(rules.AllowFrom),
		AllowFrom: canonicalPrefixes(policy.AllowFrom), AllowCluster: policy.AllowCluster, AllowBridges: policy.AllowBridges,
	}
	if policy.exposes() {
		s.Paths, s.PathSources = rules.Paths, canonicalPrefixes(rules.PathsFrom)
		s.PathsFrom, s.PathsCluster = canonicalPrefixes(policy.ExposedPathsFrom), policy.ExposedPathsCluster
	}
	if !usableFolder(s.DataDir) {
		s.DataDir = ""
	}
	return s
}

// oneWord drops what decodeState would refuse: ids come from Consul.
func oneWord(text string) string {
	if len(text) > maxWord || !plainText(text) {
		return ""
	}
	return text
}

// recallState learns what an earlier run saved.
func (a *Agent) recallState() {
	if a.parts.StateDir == "" {
		return
	}
	a.keeper.load(a.parts.StateDir)
	if saved := a.keeper.saved; saved != nil {
		a.savedNode = saved.NodeID
	}
}

// checkNode looks, once it is settled, whether the ports that were taken over from an earlier run are this Consul node's:
// on a cloned machine they are another's, and nobody here ever registered them.
func (a *Agent) checkNode() {
	if a.savedNode == "" || a.facts.NodeID == "" || !a.memory.settled {
		return
	}
	if !strings.EqualFold(a.savedNode, a.facts.NodeID) {
		ports := a.memory.disown()
		a.parts.Log.Warn("the state of the earlier run is another Consul node's: its open ports close unless they are registered here",
			"ports", ports.String())
	}
	a.savedNode = ""
}
