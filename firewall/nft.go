// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// nativeTable makes rulesets in nf_tables, in table "inet hostagent", over netlink and without programs: each apply is one
// transaction, or up to three where sources begin or cease to be limited; see next. But for dropped it is not safe for
// concurrent use.
//
// It has the drops of the iptables backend, in base chains of the same priority, and no accept: what a chain of one table
// accepts, a chain of another may still drop, so an accept here would open nothing that somebody else's rules close. The
// host's own rules must let in the open ports; Ruleset.Accept has no effect.
//
// Every transaction names the generation of nf_tables on which it was worked out, and the kernel refuses it where another
// program changed anything since. So what is remembered is exactly what is there for as long as the generation stays.
type nativeTable struct {
	rules       *nativeRules
	verifyEvery time.Duration
	memory      *nativeMemory // nil: nothing is known about the kernel
	rivals      *others

	// socket, while it is held, is what all transactions go through, and what owns the table. flags are what the table
	// has then, or 0 where this kernel knows no such flags. One that is made while it is not held has them without owner.
	socket *nftSocket
	flags  uint32
}

// nativeMemory is what the kernel is known to hold: what was applied, and how that looks, as of view's generation.
type nativeMemory struct {
	applied  Ruleset
	view     *nativeView
	verified time.Time
}

// newNative tells whether this kernel has nf_tables, and we may change them. The kernel loads it by itself.
func newNative(opts Options, rivals *others) (*nativeTable, error) {
	_, err := nftGeneration()
	switch {
	case errors.Is(err, ErrPermission):
		return nil, fmt.Errorf("cannot reach nf_tables: %w", ErrPermission)
	case err != nil:
		return nil, fmt.Errorf("cannot reach nf_tables: kernel module nf_tables %w (modprobe nf_tables): %w", ErrMissingTool, err)
	}
	rules, err := newNativeRules()
	if err != nil {
		return nil, err
	}
	return &nativeTable{rules: rules, verifyEvery: opts.VerifyEvery, rivals: rivals, flags: nftOwner | nftPersist}, nil
}

func (n *nativeTable) title() string { return "nftables" }

// hold makes the table this process's own, from the next apply until release is called: all transactions go through one
// socket, and the table has the flags owner and persist, where the kernel knows both (6.9). Meanwhile nobody else can
// change it, and "nft flush ruleset" leaves it alone; when the socket closes, be it with the process, it stays and is
// anybody's. A table that another process left so, or made without holding it, is taken over as it is: it has persist, and
// the kernel gives owner to such a table only. One without persist cannot get it, so it is made anew, in one transaction.
func (n *nativeTable) hold() (release func(), err error) {
	if n.socket != nil {
		return nil, fmt.Errorf("cannot hold table %s: it is held already", nativeTitle)
	}
	socket, err := openNFTSocket()
	if err != nil {
		return nil, fmt.Errorf("cannot hold table %s: %w", nativeTitle, err)
	}
	n.socket = socket
	n.doubt()
	return func() {
		if n.socket == socket {
			n.socket = nil
			socket.close()
			n.doubt()
			if n.memory != nil {
				n.memory.view.flags, n.memory.view.owner = n.memory.view.flags&^nftOwner, 0
			}
		}
	}, nil
}

// doubt makes the next apply look at the kernel, without forgetting what was applied.
func (n *nativeTable) doubt() {
	if n.memory != nil {
		n.memory.verified, n.memory.view.generation = time.Time{}, 0
	}
}

// apply makes the kernel equal want. Any error makes the next call look at everything anew.
func (n *nativeTable) apply(ctx context.Context, want *Ruleset) (Changes, error) {
	var changes Changes
	var err error
	for _, next := range n.memory.way(want) {
		if err = n.bring(ctx, next, &changes); err != nil {
			break
		}
	}
	if err != nil {
		n.memory = nil
	}
	n.rivals.settle(&changes)
	return changes, err
}

// mayDiffer tells whether anything of nf_tables was changed since the table was last seen.
func (n *nativeTable) mayDiffer() bool {
	if n.memory == nil {
		return false
	}
	generation, err := nftGeneration()
	return err == nil && generation != n.memory.view.generation
}

// repair makes the table what was last applied.
func (n *nativeTable) repair(ctx context.Context) (Changes, error) {
	if n.memory == nil {
		return Changes{}, nil
	}
	n.memory.verified = time.Time{}
	want := n.memory.applied
	return n.apply(ctx, &want)
}

// bring is apply. It works out each transaction from what is known, or read, and begins again where another program was
// quicker or the kernel takes the transaction for wrong: then the table is made anew.
func (n *nativeTable) bring(ctx context.Context, want *Ruleset, changes *Changes) error {
	const most = 20 // transactions; three lead to the end where nobody interferes
	now := time.Now()
	seen, verified := n.known(now)
	if seen != nil && n.memory.applied.sameNative(want) {
		n.memory.verified = verified
		return nil
	}
	wanted := n.wanted(want)
	way := nativeWay{}
	if n.memory != nil {
		way.left = n.memory.view
	}
	for range most {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, way.failed)
		}
		if seen == nil {
			var err error
			if seen, err = n.rules.readNative(); err != nil {
				return err
			}
			verified = now
			if way.left != nil {
				changes.Repaired = append(changes.Repaired, way.left.drift(seen)...)
				way.left = seen
			}
		}
		if err := n.mayChange(seen); err != nil {
			return err
		}
		step := n.next(seen, wanted, way.anew)
		batch, err := step.batch(way.blind())
		if err != nil {
			return err
		}
		switch {
		case batch.empty():
			step.after.generation = seen.generation
		case way.blind():
			step.after.generation = 0
		}
		if !batch.empty() {
			if err := n.send(batch); err != nil {
				seen = nil
				if err := n.afterFailure(err, step, &way); err != nil {
					return err
				}
				continue
			}
			step.note(changes)
		}
		if step.last {
			n.memory = &nativeMemory{applied: *want, view: step.after, verified: verified}
			return nil
		}
		seen, way.left, way.anew = step.after, step.after, false
	}
	return errors.Join(fmt.Errorf("cannot write table %s: it does not become what was written", nativeTitle), way.failed)
}

// nativeWay is how far an apply has come.
type nativeWay struct {
	left     *nativeView // how the table was last left; nil is unknown
	anew     bool        // the next transaction must make the table anew
	remade   bool        // one had to
	failures int
	failed   error // the last of them
}

// blind tells whether somebody never rests, so that transactions must do without certainty.
func (w *nativeWay) blind() bool { return w.failures >= 4 }

// known is the kernel's state as it is remembered, and since when, where that may be taken for granted or has just been
// found to be so still; nil where it must be read.
func (n *nativeTable) known(now time.Time) (*nativeView, time.Time) {
	if n.memory == nil {
		return nil, now
	}
	if now.Sub(n.memory.verified) < n.verifyEvery || n.rivals.fight.wait(now) > 0 {
		return n.memory.view, n.memory.verified
	}
	generation, err := nftGeneration()
	if err != nil || generation != n.memory.view.generation {
		return nil, now
	}
	return n.memory.view, now
}

// wanted is the table that want asks for. What is remembered of the same sources serves again.
func (n *nativeTable) wanted(want *Ruleset) *nativeView {
	if n.memory == nil {
		return n.rules.wants(want)
	}
	light := *want
	var again []string
	if applied := n.memory.applied.AllowFrom; len(want.AllowFrom) > 0 && sameSources(want.AllowFrom, applied) {
		light.AllowFrom, again = want.AllowFrom[:1], append(again, "from4", "from6")
	}
	if applied := n.memory.applied.PathsFrom; len(want.PathsFrom) > 0 && sameSources(want.PathsFrom, applied) {
		light.PathsFrom, again = want.PathsFrom[:1], append(again, "paths4", "paths6")
	}
	v := n.rules.wants(&light)
	for _, name := range again {
		v.set(name).runs = n.memory.view.set(name).runs
	}
	return v
}

// sameNative tells whether r and other ask for the same native table.
func (r *Ruleset) sameNative(other *Ruleset) bool {
	return r.Guard == other.Guard && r.Open == other.Open && r.Cut == other.Cut && r.CutRules == other.CutRules &&
		r.Paths == other.Paths && sameSources(r.AllowFrom, other.AllowFrom) && sameSources(r.PathsFrom, other.PathsFrom)
}

// nextGeneration is the one after a transaction that was worked out on the given one; 0 is unknown, and the kernel leaves
// it out.
func nextGeneration(generation uint32) uint32 {
	if generation == 0 {
		return 0
	}
	return max(generation+1, 1)
}

// mayChange refuses a table that another living process owns.
func (n *nativeTable) mayChange(seen *nativeView) error {
	if seen.flags&nftOwner == 0 || n.socket != nil && seen.owner == n.socket.port {
		return nil
	}
	return fmt.Errorf("cannot change table %s: %w: netlink port %d, as a rule the id of the process "+
		"(stop that process; the table then stays and is taken over)", nativeTitle, ErrOwned, seen.owner)
}

// send makes a transaction through the socket that is held, or one of its own.
func (n *nativeTable) send(batch *nftBatch) error {
	socket := n.socket
	if socket == nil {
		var err error
		if socket, err = openNFTSocket(); err != nil {
			return err
		}
		defer socket.close()
	}
	if err := socket.send(batch); err != nil {
		return fmt.Errorf("cannot write table %s: %w", nativeTitle, err)
	}
	return nil
}

// afterFailure notes what the next transaction must do after one that failed, or returns the error that ends the apply.
func (n *nativeTable) afterFailure(failed error, step *nativeStep, way *nativeWay) error {
	const most = 8
	way.failed = failed
	way.failures++
	var refused *batchError
	switch {
	case way.failures >= most:
		return failed
	case errors.Is(failed, errNoAnswer):
		way.left = nil // what will be seen may be our own doing
		return nil
	case !errors.As(failed, &refused):
		return failed
	}
	absent, unsupported := refused.errno == unix.ENOENT, refused.errno == unix.EOPNOTSUPP
	switch onTable := refused.what == "table"; {
	case slices.Contains([]syscall.Errno{unix.ERESTART, unix.EINTR, unix.EAGAIN, unix.ENOBUFS}, refused.errno):
		return nil
	case refused.errno == unix.EPERM && way.failures == 1: // another process may have made the table its own just now
		return nil
	case refused.errno == unix.EPERM:
		return fmt.Errorf("%w (%w)", failed, ErrPermission)
	case onTable && step.anew && step.after.flags != 0 && (unsupported || refused.errno == unix.EINVAL):
		n.flags = 0 // this kernel does not know them
		return nil
	case !step.anew && !way.remade, onTable && absent: // in the second case it went away
		way.anew, way.remade = true, true
		return nil
	case absent || unsupported:
		return fmt.Errorf("%w: a kernel module is %w (modprobe -a nft_fib_inet nft_ct)", failed, ErrMissingTool)
	}
	return failed
}

// plan says what an apply that knows nothing would do, whoever owns the table: as a rule that is the hostagent that runs,
// and people want to know what it would change.
func (n *nativeTable) plan(ctx context.Context, want *Ruleset) (Changes, error) {
	var changes Changes
	seen, err := n.rules.readNative()
	if err != nil {
		return changes, err
	}
	wanted := n.rules.wants(want)
	for ctx.Err() == nil {
		step := n.next(seen, wanted, false)
		batch, err := step.batch(true)
		if err != nil {
			return changes, err
		}
		if !batch.empty() {
			step.note(&changes)
		}
		if step.last {
			return changes, nil
		}
		seen = step.after
	}
	return changes, ctx.Err()
}

// remove takes the table away, or only says what that would be.
func (n *nativeTable) remove(ctx context.Context, really bool) (Changes, error) {
	n.memory = nil
	var failed error
	for range 5 {
		seen, err := n.rules.readNative()
		if err == nil && really {
			err = n.mayChange(seen)
		}
		if err = errors.Join(err, ctx.Err()); err != nil || !seen.exists {
			return Changes{}, err
		}
		step := &nativeStep{seen: seen, after: &nativeView{}, anew: true}
		batch, err := step.batch(false)
		if err == nil && really {
			if failed = n.send(batch); failed != nil {
				continue
			}
		}
		var changes Changes
		step.note(&changes)
		return changes, err
	}
	return Changes{}, failed
}

// dropped adds up the counters of the rules, which are told apart by what they do.
func (n *nativeTable) dropped(ctx context.Context) (Drops, error) {
	var drops Drops
	v := &nativeView{}
	err := errors.Join(ctx.Err(), v.readTable())
	if err == nil && v.exists {
		if err = v.readChains(); err == nil {
			err = v.readRules(n.rules)
		}
	}
	if errors.Is(err, unix.ENOENT) { // it went away meanwhile
		return Drops{}, nil
	}
	for _, c := range v.chains {
		for _, r := range c.rules {
			switch r.code {
			case n.rules.guard4.code:
				drops.IPv4.Guard += r.packets
			case n.rules.guard6.code:
				drops.IPv6.Guard += r.packets
			case n.rules.from4.code:
				drops.IPv4.Source += r.packets
			case n.rules.from6.code:
				drops.IPv6.Source += r.packets
			}
		}
	}
	return drops, err
}
