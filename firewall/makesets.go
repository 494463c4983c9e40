// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// MakeSets makes those of our sets that are missing, empty, and touches no other and no rule. An empty set lets everything
// be: ports are guarded and open by membership only. It is for the time before iptables-restore reads files in which
// somebody saved our rules: that loads nothing at all of a file in which one rule names a missing set. Apply takes
// the sets over, and takes away those that it does not need.
//
// It may be called again, and beside other programs.
func (f *Firewall) MakeSets(ctx context.Context) (Changes, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.backend != backend(f.xtables) {
		return Changes{}, nil // the native table's sets are in it, and whoever saved one saved both
	}
	changes, err := f.xtables.makeSets(ctx)
	if err != nil {
		return changes, fmt.Errorf("cannot make the firewall's sets: %w", err)
	}
	return changes, nil
}

// makeSets makes the missing sets; what is known of the kernel is then no longer so.
func (x *xtables) makeSets(ctx context.Context) (Changes, error) {
	x.memory = nil
	var changes Changes
	if err := ctx.Err(); err != nil {
		return changes, err
	}
	var errs []error
	for _, name := range ourSets() {
		err := createSet(name, name, 0)
		switch {
		case err == nil:
			changes.set(name).Created = true
		case !errors.Is(err, unix.EEXIST):
			errs = append(errs, err)
		}
	}
	return changes, errors.Join(errs...)
}
