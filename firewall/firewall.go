// SPDX-License-Identifier: MPL-2.0

// Package firewall makes the kernel's firewall equal a Ruleset: three sets of TCP ports, two of sources where these are
// limited, and a few fixed rules that read them. Start with New and Apply.
//
// Only sets named hostagent-*, chains named HOSTAGENT-* and the jumps to those chains are ever touched. Which ports
// belong into which set is decided elsewhere.
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
// methods may be called from several goroutines. Dropped and Published run at once, the others one after another. It holds
// no resource that needs closing.
type Firewall struct {
	mu      sync.Mutex
	sources sourceMemo
	backend *xtables

	published publishedMemo
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
	backend, err := newXtables(ctx, opts)
	if err != nil {
		return nil, fmt.Errorf("cannot use the firewall: %w", err)
	}
	return &Firewall{backend: backend}, nil
}

// Apply makes the kernel equal want and returns what it changed. The same want again changes nothing. Sets that exist
// are taken over, not emptied.
//
// What Apply has once seen and written it takes for granted for Options.VerifyEvery, so most calls cost no more than the
// ports that differ; after that it looks whether another hand was there. After an error it looks at everything anew. A
// failed Apply never leaves a port closed to a source to which it was open before and is open in want; where it could write
// no rule, it leaves no set that was not there before.
//
// While another program undoes what is repaired (Changes.Fight), it looks less often; what differs from the last want is
// applied all the same.
//
// Errors are of the kinds of this package where they are one. Rules of one family are written even where those of the
// other cannot be; the errors are joined.
func (f *Firewall) Apply(ctx context.Context, want Ruleset) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.prepare(ctx, &want); err != nil {
		return Changes{}, fmt.Errorf("cannot apply the firewall: %w", err)
	}
	changes, err := f.backend.apply(ctx, &want)
	if err != nil {
		return changes, fmt.Errorf("cannot apply the firewall: %w", err)
	}
	return changes, nil
}

// Plan returns what Apply would do to the kernel as it is now, and changes nothing. It never says that something is
// repaired.
func (f *Firewall) Plan(ctx context.Context, want Ruleset) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.prepare(ctx, &want); err != nil {
		return Changes{}, fmt.Errorf("cannot plan the firewall: %w", err)
	}
	changes, err := f.backend.plan(ctx, &want)
	if err != nil {
		return changes, fmt.Errorf("cannot plan the firewall: %w", err)
	}
	return changes, nil
}

// Show returns what the kernel holds of ours now, in both variants and families, and changes nothing. Beside an error it
// returns what could be read.
func (f *Firewall) Show(ctx context.Context) (State, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	state, err := f.backend.show(ctx)
	if err != nil {
		return state, fmt.Errorf("cannot read the firewall: %w", err)
	}
	return state, nil
}

// Remove takes everything of ours out of the kernel, in both variants and families, and returns what that was. Nothing
// else is touched. Where nothing is left it does nothing.
func (f *Firewall) Remove(ctx context.Context) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changes, err := f.backend.remove(ctx)
	if err != nil {
		return changes, fmt.Errorf("cannot remove the firewall: %w", err)
	}
	return changes, nil
}

// Degradations returns what cannot be guarded on this host, one sentence each; none is the rule.
func (f *Firewall) Degradations() []string { return slices.Clone(f.backend.notes) }

// Backend names what holds the rules and sets, "iptables-nft 1.8.9 + ipset", as New found it.
func (f *Firewall) Backend() string { return f.backend.name }

// prepare refuses what cannot be applied, takes port 0 out, because no segment carries it, and makes sources canonical.
func (f *Firewall) prepare(ctx context.Context, want *Ruleset) error {
	for _, ports := range []*PortSet{&want.Guard, &want.Open, &want.Cut} {
		ports.Remove(0)
	}
	var err error
	want.AllowFrom, err = f.sources.canonical(want.AllowFrom)
	return errors.Join(ctx.Err(), want.Accept.check(), err)
}
