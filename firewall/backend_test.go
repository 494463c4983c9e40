// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestBackendSwitch: a new backend or variant leaves nothing of the one before, nor of both others.
func TestBackendSwitch(t *testing.T) {
	freshNamespace(t)
	for _, variant := range []Variant{VariantLegacy, onNFTables, VariantNFT, onNFTables, VariantLegacy, VariantNFT} {
		f := open(t, variant)
		plan, err := f.Plan(context.Background(), nativeSample())
		if err != nil {
			t.Fatal(err)
		}
		changes := mustApply(t, f, nativeSample())
		// A set that legacy and nft share stays where only the variant changes.
		if diff := cmp.Diff(plan.String(), changes.String()); diff != "" {
			t.Errorf("the switch to %s did not do what Plan said (-plan +done):\n%s", variant, diff)
		}
		if diff := cmp.Diff(expected(nativeSample(), variant), show(t, f)); diff != "" {
			t.Errorf("Show after the switch to %s (-want +got):\n%s", variant, diff)
		}
		if changes := mustApply(t, open(t, variant), nativeSample()); !changes.Empty() {
			t.Errorf("a new process after the switch to %s says: %v", variant, changes)
		}
	}
	mustApply(t, open(t, onNFTables), nativeSample())
	shell(t, "ipset create hostagent-tmp hash:ip; ipset create hostagent-open hash:ip; iptables-legacy -t mangle -N HOSTAGENT-GUARD")
	changes, err := open(t, VariantNFT).Remove(context.Background())
	if err != nil || show(t, open(t, onNFTables)) != "" {
		t.Errorf("Remove of both: %v, %v\n%s", changes, err, show(t, open(t, onNFTables)))
	}
}

// TestBackendStrays: what somebody loads that was saved while another backend was in use goes again, and is told.
func TestBackendStrays(t *testing.T) {
	for _, tt := range []struct {
		variant, saved Variant
		repaired       []string
	}{
		{VariantNFT, onNFTables, []string{"table inet hostagent had appeared"}},
		{VariantLegacy, onNFTables, []string{"table inet hostagent had appeared"}},
		{onNFTables, VariantNFT, []string{
			"ipv4 nft mangle: chain HOSTAGENT-PREROUTING had appeared", "ipv4 nft mangle: chain HOSTAGENT-GUARD had appeared",
			"ipv6 nft mangle: chain HOSTAGENT-PREROUTING had appeared", "ipv6 nft mangle: chain HOSTAGENT-GUARD had appeared",
			"set hostagent-guard had appeared", "set hostagent-open had appeared", "set hostagent-cut had appeared",
		}},
	} {
		t.Run(string(tt.saved)+" beside "+string(tt.variant), func(t *testing.T) {
			f := start(t, tt.variant)
			want := sample()
			mustApply(t, f, want)
			mustApply(t, f, want)
			old := Ruleset{Guard: want.Guard, Accept: Accept{None: true}}
			if err := loadBeside(t, open(t, tt.saved), &old); err != nil {
				t.Fatal(err)
			}
			if changes := mustApply(t, f, want); !changes.Empty() {
				t.Errorf("too soon: %v", changes)
			}
			f.strayed = time.Time{}
			changes := mustApply(t, f, want)
			if diff := cmp.Diff(tt.repaired, changes.Repaired); diff != "" {
				t.Errorf("repaired (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(expected(want, tt.variant), show(t, f)); diff != "" {
				t.Errorf("Show (-want +got):\n%s", diff)
			}
			f.strayed = time.Time{}
			before := f.xtables.runs.Load()
			if changes := mustApply(t, f, want); !changes.Empty() || f.xtables.runs.Load() != before {
				t.Errorf("the next Apply starts %d programs and says: %v", f.xtables.runs.Load()-before, changes)
			}
		})
	}
}

// TestStrayOfAnother: a table that another process makes later, and owns, is told as long as it stands, and hinders nothing.
func TestStrayOfAnother(t *testing.T) {
	f := start(t, VariantNFT)
	want := sample()
	mustApply(t, f, want)
	other := open(t, onNFTables)
	release, err := other.hold()
	if err != nil {
		t.Fatal(err)
	}
	if err := loadBeside(t, other, &Ruleset{}); err != nil {
		t.Fatal(err)
	}
	for _, port := range []uint16{21100, 21101} {
		want.Open.Add(port)
		if _, err := f.Apply(t.Context(), want); !errors.Is(err, ErrOwned) {
			t.Errorf("Apply beside it: %v", err)
		}
		if state, err := f.Show(t.Context()); err != nil || state.ports(openSet) != want.Open {
			t.Errorf("open are %v, %v", state.ports(openSet), err)
		}
	}
	release()
	if changes := mustApply(t, f, want); !strings.Contains(changes.String(), "table inet hostagent had appeared") {
		t.Errorf("once it is nobody's: %v", changes)
	}
}

// loadBeside puts a ruleset into the kernel beside what another backend has there.
func loadBeside(t *testing.T, f *Firewall, r *Ruleset) error {
	t.Helper()
	_, err := f.backend.apply(t.Context(), r)
	return err
}

// TestBackendSwitchUnderTraffic: while backends change, the closed port never opens and the open one never closes.
func TestBackendSwitchUnderTraffic(t *testing.T) {
	f := start(t, VariantNFT)
	client, other := newPeer(t, 1), newPeer(t, 2)
	listen(t, 21000, 21050)
	mustApply(t, f, sample())
	var stop atomic.Bool
	var tries, lost, intruders atomic.Int64
	done := make(chan struct{}, 2)
	go client.do(func() {
		for !stop.Load() {
			c, err := net.DialTimeout("tcp", "10.9.1.1:21000", unanswered)
			if tries.Add(1); err != nil {
				lost.Add(1)
				continue
			}
			c.Close()
		}
		done <- struct{}{}
	})
	go other.do(func() {
		for !stop.Load() {
			if c, err := net.DialTimeout("tcp", "10.9.2.1:21050", 2*time.Millisecond); err == nil {
				intruders.Add(1)
				c.Close()
			}
		}
		done <- struct{}{}
	})
	for range 4 {
		for _, variant := range []Variant{onNFTables, VariantLegacy, onNFTables, VariantNFT} {
			mustApply(t, open(t, variant), sample())
		}
	}
	stop.Store(true)
	<-done
	<-done
	if lost.Load() > 0 || intruders.Load() > 0 || tries.Load() < 50 {
		t.Errorf("of %d connections to the open port %d failed; to the closed one %d came through", tries.Load(), lost.Load(), intruders.Load())
	}
	t.Logf("%d connections", tries.Load())
}

// hidePrograms makes folders of programs empty for the calling thread, which ends with the test.
func hidePrograms(t *testing.T, folders ...string) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	for _, folder := range folders {
		if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "mode=0755"); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", "/nonexistent")
}

// TestBackendAuto: iptables where its programs are, else nftables, without any program and with the reason.
func TestBackendAuto(t *testing.T) {
	freshNamespace(t)
	f, err := New(Options{})
	if err != nil || !strings.HasPrefix(f.Backend(), "iptables-") || f.Degradations() != nil {
		t.Fatalf("backend %q with %q (%v)", f.Backend(), f.Degradations(), err)
	}
	mustApply(t, f, sample())
	_, err = f.Remove(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	hidePrograms(t, "/usr/sbin", "/usr/local/sbin")
	for _, backend := range []Backend{BackendAuto, BackendNFTables} {
		f, err := New(Options{Backend: backend})
		if err != nil || f.Backend() != "nftables" {
			t.Fatalf("backend %q (%v)", f.Backend(), err)
		}
		notes := strings.Join(f.Degradations(), "\n")
		if reason := "because iptables cannot be used: cannot find iptables"; strings.Contains(notes, reason) != (backend == BackendAuto) {
			t.Errorf("backend %q degrades to %q", backend, notes)
		}
		mustApply(t, f, nativeSample())
		state, err := f.Show(context.Background())
		if err != nil || !state.Guards() || !state.Exists() || state.Guard() != nativeSample().Guard ||
			state.Open() != nativeSample().Open || state.Cut() != nativeSample().Cut {
			t.Errorf("Show: %v, %v", state, err)
		}
		if sources, limited := state.Limited(); !limited || len(sources) != 4 {
			t.Errorf("limited: %v, %v", sources, limited)
		}
		if published, err := f.Published(context.Background()); err != nil || published != nil {
			t.Errorf("Published: %v, %v", published, err)
		}
		if drops, err := f.Dropped(context.Background()); err != nil || drops != (Drops{}) {
			t.Errorf("Dropped: %v, %v", drops, err)
		}
		if runs := f.xtables.runs.Load(); runs != 0 {
			t.Errorf("%d programs were started", runs)
		}
		if _, err := f.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if _, err := New(Options{Backend: BackendIptables}); !errors.Is(err, ErrMissingTool) {
		t.Errorf("iptables without its programs: %v", err)
	}
	if _, err := New(Options{Backend: "nft"}); err == nil || errors.Is(err, ErrMissingTool) {
		t.Errorf("a backend that is none: %v", err)
	}
}

// TestNativeStartsNoPrograms where all programs are there, and nothing of iptables is to be removed.
func TestNativeStartsNoPrograms(t *testing.T) {
	f := start(t, onNFTables)
	mustApply(t, f, sample())
	verifyNow(f)
	mustApply(t, f, nativeSample())
	if _, err := f.Plan(context.Background(), sample()); err != nil {
		t.Fatal(err)
	}
	mustDropped(t, f)
	if runs := f.xtables.runs.Load(); runs != 0 {
		t.Errorf("%d programs were started", runs)
	}
}

// TestStateOfBoth: a port is open where one backend opens it and none drops it; one that guards is enough.
func TestStateOfBoth(t *testing.T) {
	f := start(t, VariantNFT)
	mustApply(t, f, sample())
	rules, err := newNativeRules()
	if err != nil {
		t.Fatal(err)
	}
	both, err := f.Show(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	r := Ruleset{Guard: portRange(20990, 21005), Open: Ports(20990, 21000, 9000), Cut: Ports(7)}
	both.Native = rules.wants(&r).state()
	if both.Guard() != portRange(20990, 21255) || both.Open() != Ports(20990, 21000, 21010, 9000) || both.Cut() != Ports(7) {
		t.Errorf("both: guard %v, open %v, cut %v", both.Guard(), both.Open(), both.Cut())
	}
	alone := State{Native: both.Native}
	if !alone.Guards() || alone.Open() != r.Open || alone.Guard() != r.Guard {
		t.Errorf("alone: %v", alone)
	}
	for name, harm := range map[string]func(*NativeState){
		"asleep":               func(s *NativeState) { s.Flags = []string{"dormant"} },
		"one chain":            func(s *NativeState) { s.Chains = s.Chains[1:] },
		"another hook":         func(s *NativeState) { s.Chains[1].Hook = "type filter hook output priority mangle; policy accept;" },
		"one family":           func(s *NativeState) { s.Chains[0].Rules = s.Chains[0].Rules[1:] },
		"a rule above":         func(s *NativeState) { s.Chains[0].Rules = append([]string{"# not ours"}, s.Chains[0].Rules...) },
		"no rules in a chain":  func(s *NativeState) { s.Chains[1].Rules = nil },
		"nothing but the sets": func(s *NativeState) { s.Chains = nil },
	} {
		harmed := rules.wants(&r).state()
		harm(harmed)
		if (State{Native: harmed}).Guards() {
			t.Errorf("%s: it guards", name)
		}
	}
}
