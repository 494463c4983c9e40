// SPDX-License-Identifier: MPL-2.0

// Package firewall makes the kernel's firewall equal a Ruleset: three sets of TCP ports, two of sources where these are
// limited, one more of ports with two of sources where some are for a few only, and a few fixed rules that read them. Start with New and Apply.
//
// There are two backends, iptables with ipset and nftables; see Backend. Only sets named hostagent-*, chains named
// HOSTAGENT-* and the jumps to those chains, and table "inet hostagent" of nf_tables are ever touched. Which ports belong
// into which set is decided elsewhere.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Options say which programs are used, and how. The zero value is good.
type Options struct {
	// Backend is what holds rules and sets; empty means BackendAuto.
	Backend Backend
	// Variant is the variant of iptables; empty means VariantAuto.
	Variant Variant
	// LockTimeout is how long to wait for the xtables lock that legacy programs share, in whole seconds, rounded up;
	// 0 means 5 s.
	LockTimeout time.Duration
	// VerifyEvery is how long Apply takes for granted what it has seen in the kernel; 0 means 5 s. Legacy rules whose
	// sizes are as before are listed once a minute at most.
	VerifyEvery time.Duration
}

// Firewall is the kernel's firewall in the network namespace of the calling thread, as far as it is hostagent's. Its
// methods may be called from several goroutines. Dropped, Published, Redirects, Blocked and Publish run at once, the others one after
// another. It holds no resource that needs closing.
type Firewall struct {
	mu      sync.Mutex
	sources sourceMemo
	paths   sourceMemo
	backend backend      // xtables or native: what Apply writes with
	xtables *xtables     // never nil; it can always show and remove
	native  *nativeTable // nil where the kernel has no nf_tables
	notes   []string
	rivals  others
	alone   bool      // the backend that is not in use is known to hold nothing of ours
	strayed time.Time // when strays were looked for last

	nat     natMemo
	blocked blockedMemo
	publish publishMemo
}

// New probes what this host's firewall can be made with and changes nothing. The error tells what to install or grant;
// it is an ErrPermission or ErrMissingTool where it is one.
func New(opts Options) (*Firewall, error) {
	if opts.LockTimeout <= 0 {
		opts.LockTimeout = 5 * time.Second
	}
	if opts.VerifyEvery <= 0 {
		opts.VerifyEvery = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	f := &Firewall{}
	if err := f.choose(ctx, opts); err != nil {
		return nil, fmt.Errorf("cannot use the firewall: %w", err)
	}
	return f, nil
}

// Apply makes the kernel equal want and returns what it changed. The same want again changes nothing. Sets that exist
// are taken over, not emptied. The first one removes what another backend or variant has of ours, once its own rules stand;
// what somebody loads from a file into another backend later goes after Options.VerifyEvery.
//
// What Apply has once seen and written it takes for granted for Options.VerifyEvery, so most calls cost no more than the
// ports that differ; after that it looks whether another hand was there. After an error it looks at everything anew. A
// failed Apply never leaves a port closed to a source to which it was open before and is open in want, nor open to one to
// which it was closed before and is closed in want; where it could write no rule, it leaves no set that was not there before but, with nftables, sets of sources, which no rule reads.
//
// While another program undoes what is repaired (Changes.Fight), it looks less often; what differs from the last want is
// applied all the same.
//
// Errors are of the kinds of this package where they are one. With iptables, rules of one family are written even where
// those of the other cannot be; the errors are joined. With nftables all rules and sets of ports change at one instant, or
// none. Where nobody tampers with what is ours, neither drops a packet that is let in before and after.
func (f *Firewall) Apply(ctx context.Context, want Ruleset) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.prepare(ctx, &want); err != nil {
		return Changes{}, fmt.Errorf("cannot apply the firewall: %w", err)
	}
	if err := f.checkLeftovers(); err != nil {
		return Changes{}, fmt.Errorf("cannot apply the firewall: %w", err)
	}
	changes, err := f.backend.apply(ctx, &want)
	if err == nil && !f.alone {
		var more Changes
		more, err = f.leftovers(ctx, true)
		changes.add(more)
	}
	alone := f.alone
	f.alone = err == nil
	if alone && err == nil && time.Since(f.strayed) >= f.xtables.verifyEvery {
		var more Changes
		if more, err = f.strays(ctx); err == nil {
			f.strayed = time.Now()
		}
		changes.add(more)
	}
	if err != nil {
		return changes, fmt.Errorf("cannot apply the firewall: %w", err)
	}
	return changes, nil
}

// Plan returns what Apply would do to the kernel as it is now, and changes nothing. It never says that something is
// repaired. A native table that another living process owns is planned as if that process called Apply.
func (f *Firewall) Plan(ctx context.Context, want Ruleset) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.prepare(ctx, &want); err != nil {
		return Changes{}, fmt.Errorf("cannot plan the firewall: %w", err)
	}
	changes, err := f.backend.plan(ctx, &want)
	more, moreErr := f.leftovers(ctx, false)
	changes.add(more)
	if err = errors.Join(err, moreErr); err != nil {
		return changes, fmt.Errorf("cannot plan the firewall: %w", err)
	}
	return changes, nil
}

// Show returns what the kernel holds of ours now, in both backends, variants and families, and changes nothing. Beside an
// error it returns what could be read.
func (f *Firewall) Show(ctx context.Context) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state, err := f.xtables.show(ctx)
	state.Notes = slices.Clone(f.notes)
	if f.native != nil {
		seen, nativeErr := f.native.rules.readNative()
		err = errors.Join(err, nativeErr)
		if nativeErr == nil {
			state.Native = seen.state()
		}
	}
	if err != nil {
		return state, fmt.Errorf("cannot read the firewall: %w", err)
	}
	return state, nil
}

// Remove takes everything of ours out of the kernel, in both backends, variants and families, and returns what that was.
// Nothing else is touched. Where nothing is left it does nothing. A native table that another living process owns
// (ErrOwned) ends it before anything is removed.
func (f *Firewall) Remove(ctx context.Context) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var changes Changes
	var err error
	if f.native != nil {
		changes, err = f.native.remove(ctx, true)
	}
	if err == nil {
		var more Changes
		more, err = f.xtables.remove(ctx, true)
		changes.add(more)
	}
	if err != nil {
		return changes, fmt.Errorf("cannot remove the firewall: %w", err)
	}
	return changes, nil
}

// Degradations returns what cannot be guarded on this host, one sentence each; none is the rule.
func (f *Firewall) Degradations() []string { return slices.Clone(f.notes) }

// Backend names what holds the rules and sets, "iptables-nft 1.8.9 + ipset" or "nftables", as New found it.
func (f *Firewall) Backend() string { return f.backend.title() }

// prepare refuses what cannot be applied, takes out what says nothing, and makes sources canonical.
func (f *Firewall) prepare(ctx context.Context, want *Ruleset) error {
	want.tidy()
	var err, pathsErr error
	want.AllowFrom, err = f.sources.canonical(want.AllowFrom)
	want.PathsFrom, pathsErr = f.paths.canonical(want.PathsFrom)
	return errors.Join(ctx.Err(), want.Accept.check(), err, pathsErr)
}

// tidy takes out what says nothing: port 0, which no segment carries, and of Paths what is open to others or for nobody.
func (r *Ruleset) tidy() {
	for _, ports := range []*PortSet{&r.Guard, &r.Open, &r.Cut, &r.Paths} {
		ports.Remove(0)
	}
	r.Paths = r.Paths.Minus(r.Open)
	if len(r.PathsFrom) == 0 {
		r.Paths = PortSet{}
	}
}
