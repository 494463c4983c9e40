// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// eventually is how long a test waits for what takes some milliseconds: the machine may be busy.
const eventually = 5 * time.Second

// report is one call of told.
type report struct {
	changes Changes
	err     error
	at      time.Time
}

// watching runs Watch in the test's namespace until the test ends, and returns what it tells.
func watching(t testing.TB, f *Firewall) <-chan report {
	t.Helper()
	namespace, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	reports, ended := make(chan report, 1000), make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			ended <- err
			return
		}
		ended <- f.Watch(ctx, func(changes Changes, err error) { reports <- report{changes, err, time.Now()} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Watch: %v", err)
		}
		namespace.Close()
	})
	settle(t, f)
	return reports
}

// settle waits until Watch has taken in everything that happened, and returns how many programs ran by then.
func settle(t testing.TB, f *Firewall) int64 {
	t.Helper()
	for deadline := time.Now().Add(eventually); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		f.mu.Lock()
		e, x := f.rivals.events, f.xtables
		if e != nil {
			_ = e.drain()
			e.poke() // what was taken in here would not wake Watch any more
		}
		if e != nil && !x.mayDiffer() {
			runs := x.runs.Load()
			f.mu.Unlock()
			return runs
		}
		f.mu.Unlock()
	}
	t.Fatal("Watch does not come to rest")
	return 0
}

// nextRepair waits for the next report of a repair.
func nextRepair(t testing.TB, reports <-chan report) report {
	t.Helper()
	deadline := time.After(eventually)
	for {
		select {
		case r := <-reports:
			if r.err != nil || len(r.changes.Repaired) > 0 {
				return r
			}
		case <-deadline:
			t.Fatal("no repair was told")
		}
	}
}

// peace makes Firewall forget its repairs, so that a test may have many.
func peace(f *Firewall) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rivals.fight = fight{}
}

// forVariant fits the commands of a test to a variant.
func forVariant(text string, variant Variant) string {
	return strings.NewReplacer("tables-X", "tables-"+string(variant), " X ", " "+string(variant)+" ").Replace(text)
}

// TestWatchRepairs: the same drift as by the periodic look is found by event, whatever the harm is.
func TestWatchRepairs(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, driftSample())
		whole := show(t, f)
		reports := watching(t, f)
		for _, tt := range drifts() {
			if tt.silent || tt.only != "" && tt.only != variant {
				continue
			}
			peace(f)
			began := time.Now()
			shell(t, forVariant(tt.harm, variant))
			first := nextRepair(t, reports)
			t.Logf("%s: repaired %v after the harm began", tt.name, first.at.Sub(began).Round(time.Millisecond))
			told := first.changes.Repaired
			for deadline := time.Now().Add(eventually); ; {
				settle(t, f)
				for len(reports) > 0 {
					told = append(told, (<-reports).changes.Repaired...)
				}
				diff := cmp.Diff(whole, show(t, f))
				if diff == "" {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: Show after the repair (-want +got):\n%s", tt.name, diff)
				}
			}
			if want := forVariant(tt.want, variant); !slices.Contains(told, want) {
				t.Errorf("%s: repaired: %q\nwant among them: %q", tt.name, told, want)
			}
			if variant == VariantNFT && len(first.changes.By) == 0 {
				t.Errorf("%s: nobody is named: %v", tt.name, first.changes)
			}
		}
	})
}

// TestWatchIsIdle: what we write ourselves, and what Watch repairs, wakes it for no more than one look.
func TestWatchIsIdle(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		reports := watching(t, f)
		idle := func(after string) {
			t.Helper()
			before := settle(t, f)
			time.Sleep(300 * time.Millisecond)
			if ran := f.xtables.runs.Load() - before; ran != 0 {
				t.Errorf("idle after %s Watch started %d programs", after, ran)
			}
			if len(reports) > 0 {
				t.Errorf("after %s Watch told: %v", after, <-reports)
			}
		}
		idle("its start")
		mustApply(t, f, sample())
		idle("the first Apply")
		other := sample()
		other.Accept.None, other.CutRules = true, true
		mustApply(t, f, other)
		idle("an Apply with other rules")
		before := settle(t, f)
		shell(t, forVariant("iptables-X -t mangle -F", variant))
		nextRepair(t, reports)
		lists := int64(4)
		if variant == VariantNFT {
			lists = 2 // table filter has nothing of ours
		}
		if ran := settle(t, f) - before; ran != lists+1+lists {
			t.Errorf("to list, to write and to list again took %d programs", ran)
		}
		for len(reports) > 0 { // the harm may have been told a second time, as a foreign change
			<-reports
		}
		idle("a repair")
	})
}

// TestWatchOtherWords: where iptables lists our rules in other words it is asked for them, which takes the lock, but not
// again and again; and what stands is not taken for changed.
func TestWatchOtherWords(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		for _, tool := range f.xtables.tools {
			wrapper := t.TempDir() + "/save"
			script := "#!/bin/sh\n" + tool.save + ` "$@" | sed 's/--tcp-flags FIN,SYN,RST,ACK SYN/--syn/'`
			if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			tool.save = wrapper
		}
		mustApply(t, f, sample())
		reports := watching(t, f)
		shell(t, forVariant("iptables-X -t mangle -D INPUT 1; ip6tables-X -t mangle -D HOSTAGENT-GUARD 1", variant))
		nextRepair(t, reports)
		settle(t, f)
		for len(reports) > 0 {
			<-reports
		}
		before := settle(t, f)
		time.Sleep(300 * time.Millisecond)
		if ran := f.xtables.runs.Load() - before; ran != 0 {
			t.Errorf("idle Watch started %d programs", ran)
		}
		verifyNow(f)
		if changes := mustApply(t, f, sample()); !changes.Empty() {
			t.Errorf("the next look says: %v", changes)
		}
	})
}

// TestWatchTells: a foreign change that needs no repair is told as such, however many there are once a second; our own
// are not.
func TestWatchTells(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		reports := watching(t, f)
		shell(t, "for i in 1 2 3 4 5 6 7 8; do nft add table inet other$i; done")
		var told []report
		timeout := time.After(tellEvery + tellEvery/2)
		for waiting := true; waiting; {
			select {
			case r := <-reports:
				told = append(told, r)
			case <-timeout:
				waiting = false
			}
		}
		if len(told) == 0 || len(told) > 2 {
			t.Errorf("8 foreign changes were told %d times: %v", len(told), told)
		}
		for _, r := range told {
			if !r.changes.Empty() || r.err != nil || r.changes.Fight {
				t.Errorf("told: %+v", r)
			}
		}
	})
}

// TestWatchNames: a repair says who made it necessary, without whoever changed something before, and without us.
func TestWatchNames(t *testing.T) {
	f := start(t, VariantNFT)
	reports := watching(t, f)
	mustApply(t, f, sample())
	const other = "cp $(command -v nft) /run/harm$(printf '\\033')less; /run/harm*less COMMAND; rm /run/harm*"
	shell(t, strings.Replace(other, "COMMAND", "add table inet other", 1))
	if r := <-reports; !r.changes.Empty() || r.changes.By != nil {
		t.Fatalf("a change elsewhere was told as %+v", r)
	}
	shell(t, strings.Replace(other, "COMMAND", "delete table inet other", 1)) // too soon after the first to be told
	for differs := true; differs; time.Sleep(2 * time.Millisecond) {
		f.mu.Lock()
		differs = f.xtables.mayDiffer()
		f.mu.Unlock()
	}
	shell(t, "nft flush ruleset")
	r := nextRepair(t, reports)
	if diff := cmp.Diff([]string{"nft"}, r.changes.By); diff != "" {
		t.Errorf("named by event (-want +got):\n%s", diff)
	}
	shell(t, strings.Replace(other, "COMMAND", "flush ruleset", 1))
	if diff := cmp.Diff([]string{"harm?less"}, nextRepair(t, reports).changes.By); diff != "" {
		t.Errorf("named by event (-want +got):\n%s", diff)
	}
	if text := r.changes.String(); !strings.HasSuffix(text, "; changed by nft") {
		t.Errorf("the text does not name it: %s", text)
	}
}

// TestWatchAndApply: an Apply that finds drift before Watch does names who it was too, and Watch does not repair it again.
func TestWatchAndApply(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	e, err := f.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer f.unlisten(e)
	if err := f.Watch(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "watched already") {
		t.Errorf("a second Watch: %v", err)
	}
	shell(t, "nft flush ruleset")
	verifyNow(f)
	changes := mustApply(t, f, sample())
	if diff := cmp.Diff([]string{"nft"}, changes.By); diff != "" || len(changes.Repaired) == 0 {
		t.Errorf("repaired %q, named (-want +got):\n%s", changes.Repaired, diff)
	}
	began := time.Now()
	if err := e.wait(eventually); err != nil {
		t.Fatal(err)
	}
	if time.Since(began) >= eventually {
		t.Error("Watch sleeps on")
	}
	seen, err := f.look(context.Background(), e, &watch{})
	if err != nil || seen.err != nil || !seen.changes.Empty() || !seen.tell {
		t.Errorf("Watch then: %+v, %v", seen, err)
	}
}

// TestWatchLegacyNames: whoever changed nf_tables did not change legacy rules.
func TestWatchLegacyNames(t *testing.T) {
	f := start(t, VariantLegacy)
	mustApply(t, f, sample())
	e, err := f.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer f.unlisten(e)
	shell(t, "nft add table inet other; iptables-legacy -t mangle -F")
	seen, err := f.look(context.Background(), e, &watch{})
	if err != nil || seen.changes.Repaired == nil || seen.changes.By != nil {
		t.Errorf("look: %+v, %v", seen, err)
	}
}

// TestWatchBlamesNobodyForSets: a change of a set sends no event, so whoever changed rules of their own is not who did it.
func TestWatchBlamesNobodyForSets(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	reports := watching(t, f)
	shell(t, "ipset flush hostagent-open; nft add table inet bystander")
	if r := nextRepair(t, reports); len(r.changes.Repaired) != 1 || r.changes.By != nil {
		t.Errorf("repaired %q, named %q", r.changes.Repaired, r.changes.By)
	}
	shell(t, "ipset flush hostagent-open; nft flush chain ip mangle HOSTAGENT-GUARD")
	if r := nextRepair(t, reports); len(r.changes.Repaired) != 2 || !slices.Equal(r.changes.By, []string{"nft"}) {
		t.Errorf("repaired %q, named %q", r.changes.Repaired, r.changes.By)
	}
}

// TestWatchEndsAfterRepair: a repair that has begun is not cut off half-way, and is told, when Watch has to end.
func TestWatchEndsAfterRepair(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		shell(t, map[Variant]string{
			VariantNFT: "nft flush ruleset", VariantLegacy: "iptables-legacy -t mangle -F", onNFTables: "nft flush ruleset",
		}[variant])
		e, err := f.listen()
		if err != nil {
			t.Fatal(err)
		}
		defer f.unlisten(e)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // as if just after the loop of Watch looked
		seen, err := f.look(ctx, e, &watch{})
		if err != nil || seen.err != nil || seen.changes.Repaired == nil || !seen.tell {
			t.Errorf("look: %+v, %v", seen, err)
		}
		if diff := cmp.Diff(expected(sample(), variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
	})
}

// TestWatchNothingKnown: before the first Apply, and after one that failed, Watch keeps its hands off.
func TestWatchNothingKnown(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, open(t, variant), sample())
		reports := watching(t, f)
		shell(t, forVariant("iptables-X -t mangle -F", variant))
		settle(t, f)
		time.Sleep(50 * time.Millisecond)
		for len(reports) > 0 {
			if r := <-reports; !r.changes.Empty() || r.err != nil {
				t.Errorf("before the first Apply Watch told %+v", r)
			}
		}
		mustApply(t, f, sample())
		shell(t, forVariant("iptables-X -t mangle -F", variant))
		nextRepair(t, reports)
	})
}

// TestWatchError: a repair that cannot be made is told, and the Apply after it brings all back.
func TestWatchError(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		reports := watching(t, f)
		f.mu.Lock()
		restore := f.xtables.tools[1].restore
		f.xtables.tools[1].restore = "/bin/false"
		f.mu.Unlock()
		shell(t, forVariant("ip6tables-X -t mangle -F", variant))
		if r := nextRepair(t, reports); r.err == nil || !strings.HasPrefix(r.err.Error(), "cannot repair the firewall: cannot write the rules of ipv6") {
			t.Errorf("told: %v", r.err)
		}
		f.mu.Lock()
		f.xtables.tools[1].restore = restore
		f.mu.Unlock()
		mustApply(t, f, sample())
		if diff := cmp.Diff(expected(sample(), variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
	})
}

// TestWatchFight: repairs that are undone at once are spaced, by event and by Apply, and another want is applied all the same.
func TestWatchFight(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		mustApply(t, f, sample())
		reports := watching(t, f)
		harm := forVariant("iptables-X -t mangle -F", variant)
		for i := range fightAbove + 1 {
			shell(t, harm)
			r := nextRepair(t, reports)
			if r.err != nil || r.changes.Fight != (i == fightAbove) {
				t.Errorf("repair %d: fight %t, %v", i+1, r.changes.Fight, r.err)
			}
			settle(t, f)
			f.mu.Lock() // some time later
			for i := range f.rivals.fight.blows {
				f.rivals.fight.blows[i] = f.rivals.fight.blows[i].Add(-fightBlow)
			}
			f.mu.Unlock()
		}
		f.mu.Lock() // and after a longer fight
		f.rivals.fight.blows[f.rivals.fight.last], f.rivals.fight.hits = time.Now().Add(-500*time.Millisecond), 2
		f.mu.Unlock()
		shell(t, harm)
		time.Sleep(100 * time.Millisecond)
		f.mu.Lock()
		verifyNow(f)
		f.mu.Unlock()
		want := sample()
		want.Open.Add(21200)
		changes := mustApply(t, f, want)
		text := shell(t, forVariant("iptables-X-save -t mangle", variant))
		f.mu.Lock()
		paused := f.rivals.fight.wait(time.Now()) > 0 // else the machine was too busy to tell
		f.mu.Unlock()
		if paused && (changes.String() != "hostagent-open +21200" || !changes.Fight) {
			t.Errorf("Apply of another want in a fight: %v (fight %t)", changes, changes.Fight)
		}
		if paused && strings.Contains(text, "-A HOSTAGENT") {
			t.Errorf("repaired in a fight:\n%s", text)
		}
		if r := nextRepair(t, reports); r.err != nil || !r.changes.Fight {
			t.Errorf("after the pause: %+v", r)
		}
		if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
	})
}

// TestWatchLockFile: the lock file may come later, be replaced, and be named by XTABLES_LOCKFILE.
func TestWatchLockFile(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("XTABLES_LOCKFILE", directory+"/lock")
	f := start(t, VariantLegacy)
	reports := watching(t, f)
	mustApply(t, f, sample())
	for _, before := range []string{"true", "rm " + directory + "/lock", "touch " + directory + "/new; mv " + directory + "/new " + directory + "/lock"} {
		peace(f)
		shell(t, before)
		settle(t, f)
		shell(t, "iptables-legacy -t mangle -F HOSTAGENT-GUARD")
		if r := nextRepair(t, reports); r.err != nil {
			t.Fatal(r.err)
		}
		settle(t, f)
	}
	t.Setenv("XTABLES_LOCKFILE", directory+"/missing/lock")
	err := open(t, VariantLegacy).Watch(context.Background(), nil)
	if err == nil || !strings.Contains(err.Error(), "make the lock file's directory") {
		t.Errorf("Watch without the lock file's directory: %v", err)
	}
}

// TestEventsLost: a socket that is full counts as a change, and the rules are looked at.
func TestEventsLost(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	e, err := f.listen()
	if err != nil {
		t.Fatal(err)
	}
	defer f.unlisten(e)
	if err := unix.SetsockoptInt(e.nft, unix.SOL_SOCKET, unix.SO_RCVBUF, 0); err != nil { // the least there is
		t.Fatal(err)
	}
	flood := "for i in 1 2 3 4 5 6 7 8 9; do nft add table inet other; nft delete table inet other; done"
	shell(t, flood)
	if lost, err := unix.GetsockoptInt(e.nft, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || lost != int(unix.ENOBUFS) {
		t.Fatalf("the socket took all: %d, %v", lost, err)
	}
	if err := e.drain(); err != nil {
		t.Fatal(err)
	}
	shell(t, "nft flush ruleset; "+flood)
	seen, err := f.look(context.Background(), e, &watch{})
	if err != nil || seen.err != nil || len(seen.changes.Repaired) == 0 {
		t.Errorf("look: %+v, %v", seen, err)
	}
}
