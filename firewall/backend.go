// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Backend is what holds the rules and sets.
type Backend string

// The backends. BackendAuto is iptables with ipset where they can be had, else nftables.
const (
	BackendAuto     Backend = "auto"
	BackendIptables Backend = "iptables"
	BackendNFTables Backend = "nftables"
)

// backend makes rulesets in the kernel, in its own way. The methods but dropped are called one after another.
type backend interface {
	apply(ctx context.Context, want *Ruleset) (Changes, error)
	plan(ctx context.Context, want *Ruleset) (Changes, error)
	dropped(ctx context.Context) (Drops, error)
	title() string
	// mayDiffer tells cheaply whether repair may find something: never before an apply has succeeded, nor after one failed.
	mayDiffer() bool
	// repair makes the kernel what the last successful apply wanted.
	repair(ctx context.Context) (Changes, error)
}

// choose finds what both backends can do here, and takes one.
func (f *Firewall) choose(ctx context.Context, opts Options) error {
	switch opts.Variant {
	case VariantAuto, VariantNFT, VariantLegacy, "":
	default:
		return fmt.Errorf("cannot use iptables variant %q: it is one of auto, nft and legacy", opts.Variant)
	}
	native, nativeErr := newNative(opts, &f.rivals)
	f.native = native
	f.xtables = newXtables(ctx, opts, &f.rivals)
	missing := f.xtables.unusable
	switch opts.Backend {
	case BackendIptables:
		f.backend = f.xtables
		f.notes = f.xtables.notes
		return missing
	case BackendNFTables:
		f.backend = native
		return nativeErr
	case BackendAuto, "":
	default:
		return fmt.Errorf("cannot use backend %q: it is one of auto, iptables and nftables", opts.Backend)
	}
	switch {
	case missing == nil:
		f.backend = f.xtables
		f.notes = f.xtables.notes
	case !errors.Is(missing, ErrMissingTool): // what fails today may work tomorrow, and rules should not wander about
		return missing
	case nativeErr != nil:
		return errors.Join(missing, nativeErr)
	default:
		f.backend = native
		f.notes = []string{fmt.Sprintf("rules are in nftables, which has no accept of ours, because iptables cannot be used: %v", missing)}
	}
	return nil
}

// leftovers removes what the backend that is not in use holds of ours, or only says what that would be.
func (f *Firewall) leftovers(ctx context.Context, really bool) (Changes, error) {
	switch {
	case f.backend != backend(f.xtables):
		return f.xtables.remove(ctx, really)
	case f.native != nil:
		return f.native.remove(ctx, really)
	}
	return Changes{}, nil
}

// strays removes what has come back of ours in the backend that is not in use, as when somebody loads rules that were saved
// while it was: nobody would change it any more, and it may drop what is open. Where nothing has, it asks the kernel a few
// questions and starts no program. Rules of the variant that is not in use read the same sets and so drop nothing else.
func (f *Firewall) strays(ctx context.Context) (Changes, error) {
	if f.backend != backend(f.xtables) && !f.xtables.holdSets() { // no rule that drops can stand without them
		return Changes{}, nil
	}
	changes, err := f.leftovers(ctx, true)
	changes.Repaired = appeared(&changes)
	return changes, err
}

// appeared says of everything that was removed that it had appeared.
func appeared(removed *Changes) []string {
	var drift []string
	for _, r := range removed.Rules {
		switch {
		case r.Family != FamilyInet:
			drift = append(drift, fmt.Sprintf("%s %s %s: chain %s had appeared", r.Family, r.Variant, r.Table, r.Chain))
		case r.Chain == "":
			drift = append(drift, "table "+nativeTitle+" had appeared")
		}
	}
	for _, s := range removed.Sets {
		if !strings.HasPrefix(s.Set, nativePrefix) {
			drift = append(drift, "set "+s.Set+" had appeared")
		}
	}
	return drift
}

// checkLeftovers fails where leftovers could not remove the native table, before anything is changed.
func (f *Firewall) checkLeftovers() error {
	if f.native == nil || f.alone || f.backend != backend(f.xtables) {
		return nil
	}
	seen := &nativeView{}
	if err := seen.readTable(); err != nil {
		return fmt.Errorf("cannot list table %s: %w", nativeTitle, err)
	}
	return f.native.mayChange(seen)
}

// hold makes the native table this process's own until release is called, from the next Apply on; with iptables it does
// nothing. Rules of the other backend are not held.
func (f *Firewall) hold() (release func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.backend == backend(f.xtables) {
		return func() {}, nil
	}
	let, err := f.native.hold()
	if err != nil {
		return nil, err
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		let()
	}, nil
}
