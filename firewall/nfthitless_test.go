// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"errors"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNativeLosesNothing: of SYNs that are allowed all the time, and come as fast as they can, none is dropped while
// sources begin and cease to be limited, while ports may be cut and may not, while sets become another kind, and while the
// table changes hands.
func TestNativeLosesNothing(t *testing.T) {
	guard := Ruleset{Guard: portRange(21000, 21255), Open: portRange(21001, 21255)}
	limits := guard
	limits.AllowFrom = prefixes("10.9.78.0/24", "172.16.0.0/12")
	limits.Open = portRange(21200, 21255)
	cutRules := limits
	cutRules.CutRules, cutRules.Cut = true, Ports(8080)
	both := guard
	both.CutRules = true
	large := limits
	large.Open = portRange(20000, 30000)
	toggle := func(times int, even, odd Ruleset) func(*testing.T, *Firewall) {
		return func(t *testing.T, f *Firewall) {
			for i := range times {
				mustApply(t, f, []Ruleset{odd, even}[i%2])
			}
		}
	}
	// harmed has the table repaired after somebody changed it.
	harmed := func(script string) func(*testing.T, *Firewall) {
		return func(t *testing.T, f *Firewall) {
			pipeNft(t, script)
			verifyNow(f)
			peace(f)
			if changes := mustApply(t, f, limits); len(changes.Repaired) == 0 {
				t.Errorf("after %s nothing was repaired: %v", script, changes)
			}
		}
	}
	tests := []struct {
		name  string
		first *Ruleset // what stands before; nil is nothing
		do    func(*testing.T, *Firewall)
	}{
		{"limits", &guard, toggle(30, guard, limits)},
		{"limits and cut rules", &both, toggle(6, both, cutRules)},
		{"cut rules", &limits, toggle(20, limits, cutRules)},
		{"kinds of sets", &limits, toggle(3, limits, large)},
		{"first", nil, func(t *testing.T, f *Firewall) {
			for range 6 {
				mustApply(t, f, limits)
				mustRemove(t, f)
			}
		}},
		{"claim", &limits, func(t *testing.T, _ *Firewall) {
			for range 6 {
				f := open(t, onNFTables)
				release := mustHold(t, f, limits)
				mustBeRemembered(t, f)
				release()
			}
		}},
		{"rules flushed", &limits, harmed("flush table inet hostagent")},
		{"a chain added", &limits, harmed("add chain inet hostagent other { type filter hook input priority 0; }")},
		{"a chain deleted", &limits, harmed("delete chain inet hostagent input")},
		{"a rule and a set added", &limits, harmed("add set inet hostagent other { type ipv4_addr; }\n" +
			"insert rule inet hostagent input ip saddr @other tcp dport { 1, 2 } drop")},
		{"sets deleted", &limits, harmed("flush table inet hostagent\ndelete set inet hostagent from4\ndelete set inet hostagent open")},
		{"table deleted", &limits, harmed("delete table inet hostagent")},
	}
	f := start(t, onNFTables)
	p, sender := benchPeer(t, 78)
	for _, tt := range tests { // in one namespace, so in one test
		mustRemove(t, f)
		if tt.first != nil {
			mustApply(t, f, *tt.first)
		}
		metered(t)
		came, passed := flooded(t, p, sender, func() { tt.do(t, f) })
		if came < 100 || came != passed {
			t.Errorf("%s: of %d packets %d were dropped", tt.name, came, came-passed)
		}
		t.Logf("%s: %d packets", tt.name, came)
	}
}

// flooded does something while SYNs come without pause, and returns how many came and how many passed.
func flooded(t testing.TB, p *peer, sender *syns, do func()) (came, passed int) {
	t.Helper()
	var stop atomic.Bool
	done := make(chan error)
	go p.do(func() {
		var err error
		for err == nil && !stop.Load() {
			err = sender.send()
		}
		done <- err
	})
	defer func() {
		if !stop.Swap(true) { // do ended the test
			<-done
		}
	}()
	do()
	stop.Store(true)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return metered(t)
}

// TestNativeOneAfterAnother: processes that run once, one after another and before one that holds the table, need not make
// it anew, and each can do with it what it likes.
func TestNativeOneAfterAnother(t *testing.T) {
	f := start(t, onNFTables)
	want := limited("10.9.0.0/16", "fd09::/16")
	mustApply(t, f, want)
	if f.native.flags == 0 {
		t.Log("this kernel does not know the flags")
		return
	}
	if flags := flagsOf(t, open(t, onNFTables)); flags != "persist" {
		t.Errorf("flags: %q", flags)
	}
	other := open(t, onNFTables)
	handle := shell(t, "nft -a list chain inet hostagent input")
	if changes := mustApply(t, other, want); !changes.Empty() {
		t.Errorf("another says: %v", changes)
	}
	release := mustHold(t, other, want)
	if flags := flagsOf(t, other); flags != "owner,persist" {
		t.Errorf("flags when held: %q", flags)
	}
	mustBeRemembered(t, other)
	release()
	more := want
	more.Open.Add(21222)
	mustApply(t, f, more)
	mustBeRemembered(t, f)
	if now := shell(t, "nft -a list chain inet hostagent input"); now != handle {
		t.Errorf("the rules were made anew:\n%s\nbefore:\n%s", now, handle)
	}
	mustRemove(t, open(t, onNFTables))
	if left := shell(t, "nft list tables"); left != "" {
		t.Errorf("Remove left %s", left)
	}
}

// TestNativeGoesOn: an apply that ends between its transactions leaves nothing wrong, and the next one goes on from there.
func TestNativeGoesOn(t *testing.T) {
	f := start(t, onNFTables)
	plain, want := sample(), limited("10.9.0.0/16", "fd09::/16")
	for _, from := range []*Ruleset{nil, &plain, &want} {
		to := want
		if from == &want {
			to = plain
		}
		mustRemove(t, f)
		seen, err := f.native.rules.readNative()
		if from != nil {
			mustApply(t, f, *from)
			seen, err = f.native.rules.readNative()
		}
		if err != nil {
			t.Fatal(err)
		}
		step := f.native.next(seen, f.native.rules.wants(&to), false)
		b, err := step.batch(false)
		if err == nil {
			err = f.native.send(b)
		}
		if err != nil {
			t.Fatal(err)
		}
		there, err := f.native.rules.readNative()
		if err != nil {
			t.Fatal(err)
		}
		if drift := step.after.drift(there); drift != nil || there.flags != step.after.flags {
			t.Errorf("after the first transaction: %q", drift)
		}
		before := generationNow(t)
		mustApply(t, open(t, onNFTables), to)
		if made := generationNow(t) - before; made != 1 {
			t.Errorf("the rest took %d transactions", made)
		}
		if got := show(t, f); got != expected(to, onNFTables) {
			t.Errorf("Show: %s", got)
		}
	}
}

// TestNativeInterrupted: what another program does between two transactions of ours is seen by the second one.
func TestNativeInterrupted(t *testing.T) {
	f := start(t, onNFTables)
	mustApply(t, f, sample())
	want := limited("10.9.0.0/16")
	seen, err := f.native.rules.readNative()
	if err != nil {
		t.Fatal(err)
	}
	wanted := f.native.rules.wants(&want)
	first := f.native.next(seen, wanted, false)
	b, err := first.batch(false)
	if err == nil {
		err = f.native.send(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	shell(t, "nft flush set inet hostagent from4")
	second, err := f.native.next(first.after, wanted, false).batch(false)
	if err != nil {
		t.Fatal(err)
	}
	var refused *batchError
	if err := f.native.send(second); err == nil || !errors.As(err, &refused) || refused.errno != unix.ERESTART {
		t.Errorf("the second transaction: %v", err)
	}
}

// TestNativeMovesInTwo: a port that is let in before and after, but for another reason, has both reasons in between.
func TestNativeMovesInTwo(t *testing.T) {
	f := start(t, onNFTables)
	sidecar := Ruleset{Guard: portRange(21000, 21255), Open: Ports(21000, 21001), Paths: Ports(21100), PathsFrom: prefixes("10.9.0.0/16")}
	path := sidecar
	path.Open, path.Paths = Ports(21000), Ports(21001, 21100)
	unguarded := sidecar
	unguarded.Guard, unguarded.Open = portRange(21000, 21000), Ports(21000)
	closed := sidecar
	closed.Open = Ports(21000)
	for _, test := range []struct {
		name             string
		from, to         Ruleset
		open, paths      PortSet // after the first transaction
		guard            PortSet
		wantTransactions int
	}{
		{"to a path", sidecar, path, Ports(21000, 21001), Ports(21001, 21100), sidecar.Guard, 2},
		{"from a path", path, sidecar, Ports(21000, 21001), Ports(21001, 21100), sidecar.Guard, 2},
		{"to no guard", sidecar, unguarded, Ports(21000, 21001), Ports(21100), Ports(21000), 2},
		{"closed", sidecar, closed, Ports(21000), Ports(21100), sidecar.Guard, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			mustApply(t, f, test.from)
			seen, err := f.native.rules.readNative()
			if err != nil {
				t.Fatal(err)
			}
			step := f.native.next(seen, f.native.rules.wants(&test.to), false)
			if open, paths, guard := step.after.ports("open"), step.after.ports("paths"), step.after.ports("guard"); open != test.open ||
				paths != test.paths || guard != test.guard {
				t.Errorf("first open %s, paths %s, guard %s; want %s, %s, %s", open, paths, guard, test.open, test.paths, test.guard)
			}
			before := generationNow(t)
			mustApply(t, f, test.to)
			if made := int(generationNow(t) - before); made != test.wantTransactions {
				t.Errorf("%d transactions, want %d", made, test.wantTransactions)
			}
			if got := show(t, f); got != expected(test.to, onNFTables) {
				t.Errorf("Show: %s", got)
			}
		})
	}
}
