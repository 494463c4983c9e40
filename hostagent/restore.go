// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/sockets"
)

// Restored is what Restore did.
type Restored struct {
	// Standing tells that rules which a hostagent made stand in the kernel: they are younger than any file, so nothing was
	// done.
	Standing bool
	// Missing tells that there is no saved state.
	Missing bool
	// Rules are what was applied, and Changes what that changed.
	Rules   firewall.Ruleset
	Changes firewall.Changes
	// Nobody tells that no port was opened, because nobody that was let in is still let in by the configuration, or
	// because who that is cannot be told before Consul is up.
	Nobody bool
	// Unpublished is why the set of Policy.PublishSet does not hold the open ports, nil where it does or there is none.
	Unpublished error
}

// RefusedError tells why a saved state was not used. Nothing was opened or closed.
type RefusedError struct {
	Dir string
	Err error
}

func (e *RefusedError) Error() string {
	remedy := "mend that, or set another state_dir"
	remove := "rm " + shellWord(filepath.Join(e.Dir, stateFile))
	switch {
	case errors.Is(e.Err, errDamaged), errors.Is(e.Err, errForeign):
		remedy = remove
	case errors.Is(e.Err, errNewer):
		remedy = "install that version again, or " + remove
	case errors.Is(e.Err, fs.ErrPermission):
		remedy = "run this as the user that hostagent run has"
	}
	return fmt.Sprintf("%v; nothing was opened or closed, and hostagent run saves a new state once Consul answers (%s)", e.Err, remedy)
}

func (e *RefusedError) Unwrap() error { return e.Err }

// Restore makes the kernel hold what an earlier run saved in parts.StateDir, without Consul and without a network. The
// saved state is no authority: its ports go through the gate that registrations go through, with the operator's
// configuration of now, so it opens nothing, and closes nothing, that this would not; and nobody is let in who was not.
// It asks parts for the firewall, and for listeners and their owners, to spare sshd's port, as far as they are there.
//
// Rules that stand already are younger than any saved state where a hostagent made them (claimed, see Lock.Claim): they stay.
// Where none did, something has loaded them from a file, as old as that is, and they are brought to what was saved.
//
// It may be called again. A *RefusedError tells of a state that cannot be used; a missing one is no error.
func Restore(ctx context.Context, parts Parts, claimed bool) (*Restored, error) {
	ctx, cancel := context.WithTimeout(ctx, passDeadline)
	defer cancel()
	if claimed {
		state, err := parts.Firewall.Show(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot see the rules of an earlier run: %w", err)
		}
		if now := standingOf(state); state.Guards() && now.guard.Len()+now.open.Len() > 0 {
			return &Restored{Standing: true, Rules: firewall.Ruleset{Guard: now.guard, Open: now.open, Paths: now.paths, PathsFrom: now.pathSources}}, nil
		}
	}
	saved, err := LoadState(parts.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return &Restored{Missing: true}, nil
	}
	if err == nil {
		err = saved.belongs(parts.Machine)
	}
	if err != nil {
		return nil, &RefusedError{Dir: parts.StateDir, Err: err}
	}
	in := Input{Policy: parts.Policy}
	in.Listeners, in.Owners = parts.rootsListeners(ctx, saved.Guard.Union(saved.Open).Union(saved.Paths))
	var done Restored
	done.Rules, done.Nobody = saved.rules(in)
	if done.Changes, err = parts.Firewall.Apply(ctx, done.Rules); err == nil && parts.Publish != nil {
		_, done.Unpublished = parts.Publish(ctx, done.Rules.Open)
	}
	return &done, err
}

// rootsListeners finds the sockets of root on some ports, and who holds them, because one may be sshd's. At an early boot
// there are none.
func (p *Parts) rootsListeners(ctx context.Context, ports firewall.PortSet) ([]sockets.Listener, map[uint64]sockets.Owner) {
	if p.Listen == nil {
		return nil, nil
	}
	all, err := p.Listen(ctx)
	if err != nil {
		return nil, nil
	}
	var candidates []sockets.Listener
	for _, l := range all {
		if l.UID == 0 && l.Protocol == sockets.TCP && ports.Has(l.Addr.Port()) {
			candidates = append(candidates, l)
		}
	}
	owners, _ := lookup(ctx, p.Owners, candidates)
	return candidates, owners
}

// rules is what of s may stand under in.Policy. With nobody, ports were to be open, and nobody is left to let in.
func (s *Saved) rules(in Input) (rules firewall.Ruleset, nobody bool) {
	policy := &in.Policy
	sidecars := s.Range
	if policy.SidecarRange != nil {
		sidecars = *policy.SidecarRange
	}
	protected := protectedPorts(in)
	in.Settled, in.AdoptedGuard, in.WasOpen = false, s.Guard, s.Cut
	rules = ruleset(in, sidecars, protected, s.Open, s.Cut)
	var limited bool
	rules.AllowFrom, limited = s.sources(policy)
	if limited && len(rules.AllowFrom) == 0 { // to a Ruleset that would mean everybody
		nobody = rules.Open.Len() > 0
		rules.Open = firewall.PortSet{}
	}
	return pathGate(rules, policy, sidecars, protected, s.Paths, s.Cut, s.pathSources(policy)), nobody
}

// pathSources are who may connect to exposed paths: as with sources, nobody who was not let in when s was saved, or is not now.
func (s *Saved) pathSources(policy *Policy) []netip.Prefix {
	if !policy.exposes() {
		return nil
	}
	return stillIn(s.PathSources, s.PathsFrom, canonicalPrefixes(policy.ExposedPathsFrom), s.PathsCluster && !policy.ExposedPathsCluster)
}

// sources are who may connect to open ports, and whether only those may: never more than were let in when s was saved, nor
// more than policy lets in now.
//
// Networks that the operator wrote are in Sources as they are. What else is there came from the members of the cluster or
// from the host's own addresses and bridges, which cannot be asked for yet: it stays while the operator has taken
// neither of these back.
func (s *Saved) sources(policy *Policy) (sources []netip.Prefix, limited bool) {
	networks := canonicalPrefixes(policy.AllowFrom)
	switch {
	case !s.Limited:
		return networks, policy.limits()
	case !policy.limits():
		return s.Sources, true
	}
	took := s.AllowCluster && !policy.AllowCluster || s.AllowBridges && !policy.AllowBridges
	return stillIn(s.Sources, s.AllowFrom, networks, took), true
}

// stillIn are those of the sources that were let in, and of which the operator had written some as networks, who are let in
// by networks, too. What nobody had written stays, unless the operator took back what it was made of.
func stillIn(in, wrote, networks []netip.Prefix, took bool) (sources []netip.Prefix) {
	had, has := indexPrefixes(in), indexPrefixes(networks)
	for _, source := range in {
		if has.covers(source) {
			sources = append(sources, source)
		}
	}
	for _, network := range networks {
		if had.covers(network) {
			sources = append(sources, network)
		}
	}
	if took {
		return canonicalPrefixes(sources)
	}
	written := indexPrefixes(wrote)
	for _, source := range in {
		if !written.covers(source) {
			sources = append(sources, source)
		}
	}
	return canonicalPrefixes(sources)
}

// prefixIndex finds networks around a network in a few steps, however many there are.
type prefixIndex struct {
	all     map[netip.Prefix]bool
	lengths [129]bool
}

func indexPrefixes(prefixes []netip.Prefix) *prefixIndex {
	x := &prefixIndex{all: make(map[netip.Prefix]bool, len(prefixes))}
	for _, p := range prefixes {
		x.all[p], x.lengths[p.Bits()] = true, true
	}
	return x
}

// covers tells whether all of p lies in one of the networks.
func (x *prefixIndex) covers(p netip.Prefix) bool {
	for bits := range p.Bits() + 1 {
		if !x.lengths[bits] {
			continue
		}
		if around, err := p.Addr().Prefix(bits); err == nil && x.all[around] {
			return true
		}
	}
	return false
}
