// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// mustHold holds the firewall and applies want.
func mustHold(t testing.TB, f *Firewall, want Ruleset) (release func()) {
	t.Helper()
	release, err := f.hold()
	if err != nil {
		t.Fatal(err)
	}
	mustApply(t, f, want)
	return release
}

func flagsOf(t testing.TB, f *Firewall) string {
	t.Helper()
	state, err := f.Show(context.Background())
	if err != nil || state.Native == nil {
		t.Fatalf("Show: %v", err)
	}
	return strings.Join(state.Native.Flags, ",")
}

// TestHeldTableIsOurs: while it is held nobody else changes the table, or takes it away with everything else; afterwards
// it stays, and the next one takes it over as it is.
func TestHeldTableIsOurs(t *testing.T) {
	f := start(t, onNFTables)
	f.native.flags = 0 // as a kernel does that does not know them
	mustApply(t, f, sample())
	if flags := flagsOf(t, f); flags != "" {
		t.Errorf("flags before: %s", flags)
	}
	f.native.flags = nftOwner | nftPersist
	release, err := f.hold()
	if err != nil {
		t.Fatal(err)
	}
	before := generationNow(t)
	if changes := mustApply(t, f, sample()); changes.Repaired != nil || generationNow(t)-before != 1 {
		t.Errorf("made anew in %d transactions: %v", generationNow(t)-before, changes)
	}
	if flags := flagsOf(t, f); flags != "owner,persist" {
		t.Errorf("flags while held: %s", flags)
	}
	if changes := mustApply(t, f, sample()); !changes.Empty() {
		t.Errorf("the next Apply says: %v", changes)
	}
	standing := show(t, f)
	shell(t, "nft add table inet others; nft flush ruleset")
	if text := shell(t, "nft list tables"); text != "table inet hostagent\n" {
		t.Errorf("a flush of everything leaves %q", text)
	}
	for _, harm := range []string{
		"add element inet hostagent open { 21200 }", "flush table inet hostagent", "delete table inet hostagent",
		"insert rule inet hostagent input accept",
	} {
		if text := shell(t, "nft '"+harm+"' 2>&1 || true"); !strings.Contains(text, "Operation not permitted") {
			t.Errorf("%s says %q", harm, text)
		}
	}
	other := open(t, onNFTables)
	want := sample()
	want.Open.Add(21100)
	for name, call := range map[string]func() (Changes, error){
		"Apply":  func() (Changes, error) { return other.Apply(context.Background(), want) },
		"Remove": func() (Changes, error) { return other.Remove(context.Background()) },
		"Apply of iptables": func() (Changes, error) {
			return open(t, VariantNFT).Apply(context.Background(), want)
		},
	} {
		changes, err := call()
		if !errors.Is(err, ErrOwned) || !changes.Empty() || !strings.Contains(err.Error(), "stop that process") {
			t.Errorf("%s of another: %v, %v", name, changes, err)
		}
	}
	for backend, plan := range map[Variant]string{
		onNFTables: "inet hostagent open +21100",
		VariantNFT: "inet hostagent guard destroyed",
	} {
		changes, err := open(t, backend).Plan(context.Background(), want)
		if err != nil || !strings.Contains(changes.String(), plan) {
			t.Errorf("Plan of another for %s: %v, %v, want %q", backend, changes, err, plan)
		}
	}
	if diff := cmp.Diff(standing, show(t, f)); diff != "" {
		t.Errorf("others changed it (-before +after):\n%s", diff)
	}
	verifyNow(f)
	if changes := mustApply(t, f, want); changes.Repaired != nil {
		t.Errorf("taken for drift: %q", changes.Repaired)
	}
	if _, err := f.hold(); err == nil {
		t.Error("held twice")
	}
	release()
	release()
	if flags := flagsOf(t, f); flags != "persist" {
		t.Errorf("flags after: %s", flags)
	}
	if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() || flagsOf(t, f) != "persist" {
		t.Errorf("a command that runs once changes an orphan: %v", changes)
	}
	release, err = other.hold()
	if err != nil {
		t.Fatal(err)
	}
	before = generationNow(t)
	if changes := mustApply(t, other, want); !changes.Empty() || generationNow(t)-before != 1 || flagsOf(t, f) != "owner,persist" {
		t.Errorf("taken over in %d transactions, with flags %s: %v", generationNow(t)-before, flagsOf(t, f), changes)
	}
	if _, err := other.Remove(context.Background()); err != nil {
		t.Errorf("Remove by the owner: %v", err)
	}
	mustApply(t, other, want)
	if flags := flagsOf(t, f); flags != "owner,persist" {
		t.Errorf("flags of a table made while held: %s", flags)
	}
	release()
	if _, err := f.Remove(context.Background()); err != nil || shell(t, "nft list tables") != "" {
		t.Errorf("Remove of an orphan: %v", err)
	}
}

const holderEnv = "HOSTAGENT_TEST_HOLDER"

// TestHolder is the other process of TestHolderKilled.
func TestHolder(t *testing.T) {
	if os.Getenv(holderEnv) == "" {
		return
	}
	mustHold(t, open(t, onNFTables), sample())
	if _, err := os.Stdout.WriteString("held\n"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Minute) // until it is killed
}

// TestHolderKilled: the table outlives a process that is killed, and belongs to nobody then.
func TestHolderKilled(t *testing.T) {
	freshNamespace(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHolder$")
	cmd.Env = append(os.Environ(), holderEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	f := open(t, onNFTables)
	if _, err := f.Apply(context.Background(), sample()); !errors.Is(err, ErrOwned) {
		t.Errorf("Apply while the other lives: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if flags := flagsOf(t, f); flags != "persist" {
		t.Errorf("flags after the kill: %s", flags)
	}
	release, err := f.hold()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if changes := mustApply(t, f, sample()); !changes.Empty() || flagsOf(t, f) != "owner,persist" {
		t.Errorf("taken over with flags %s: %v", flagsOf(t, f), changes)
	}
}

// TestHoldWithoutTheFlags: where the kernel does not know the flags the table has none, and all else is as ever.
func TestHoldWithoutTheFlags(t *testing.T) {
	f := start(t, onNFTables)
	f.native.flags = nftOwner | nftPersist | 1<<20 // what no kernel knows yet
	defer mustHold(t, f, sample())()
	if flags := flagsOf(t, f); flags != "" {
		t.Errorf("flags: %s", flags)
	}
	verifyNow(f)
	if changes := mustApply(t, f, sample()); !changes.Empty() {
		t.Errorf("the next Apply says: %v", changes)
	}
	if diff := cmp.Diff(expected(sample(), onNFTables), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

// TestHoldOfIptables holds nothing, and hinders nobody.
func TestHoldOfIptables(t *testing.T) {
	f := start(t, VariantNFT)
	defer mustHold(t, f, sample())()
	mustApply(t, open(t, VariantNFT), sample())
}
