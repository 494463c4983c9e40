// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// How the firewall fails: the error says what mends it, the kernel is as before or whole, and once the cause is gone the
// next Apply succeeds.

// mustFail applies want, which must fail with a kind, with words in the error, and without any change in the kernel.
func mustFail(t *testing.T, f *Firewall, want Ruleset, kind error, says ...string) {
	t.Helper()
	before := saved(t)
	changes, err := f.Apply(context.Background(), want)
	if kind != nil && !errors.Is(err, kind) || err == nil || !changes.Empty() {
		t.Fatalf("Apply: %v, %v", changes, err)
	}
	for _, part := range says {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
	if diff := cmp.Diff(before, saved(t)); diff != "" {
		t.Errorf("an Apply that failed changed the kernel (-before +after):\n%s", diff)
	}
}

// mustStand applies want and looks whether it is all there.
func mustStand(t *testing.T, f *Firewall, want Ruleset, variant Variant) {
	t.Helper()
	mustApply(t, f, want)
	if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

// makeTables makes the tables of a variant, empty: to look at a legacy one is enough for that.
func makeTables(t *testing.T, variant Variant) {
	t.Helper()
	shell(t, forVariant("for t in filter mangle; do iptables-X -t $t -L -n; ip6tables-X -t $t -L -n; done", variant))
}

// holdLock takes the xtables lock and returns what lets go of it.
func holdLock(t *testing.T) (release func()) {
	t.Helper()
	lock, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { lock.Close() }
}

func TestLockHeld(t *testing.T) {
	f := start(t, VariantLegacy)
	makeTables(t, VariantLegacy)
	release := holdLock(t)
	name, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	holder := fmt.Sprintf("its holder is %s, pid %d (another program holds the xtables lock: try again later",
		strings.TrimSpace(string(name)), os.Getpid())
	began := time.Now()
	mustFail(t, f, sample(), ErrLocked, "cannot write the rules of ipv4", "cannot write the rules of ipv6", holder)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Apply took %v", took)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.Apply(ctx, sample()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Apply with a deadline: %v", err)
	}
	release()
	mustStand(t, f, sample(), VariantLegacy)
	release = holdLock(t)
	want := sample()
	want.CutRules = true
	mustFail(t, f, want, ErrLocked, holder) // what stood stands
	release()
	mustStand(t, f, want, VariantLegacy)
}

// TestLockHeldNFT: nft rules need no lock.
func TestLockHeldNFT(t *testing.T) {
	f := start(t, VariantNFT)
	defer holdLock(t)()
	mustStand(t, f, sample(), VariantNFT)
}

func TestLockHolder(t *testing.T) {
	proc := t.TempDir()
	path := filepath.Join(proc, "xtables.lock")
	var file unix.Stat_t
	err := errors.Join(
		os.WriteFile(path, nil, 0o600), unix.Stat(path, &file),
		os.Mkdir(filepath.Join(proc, "708"), 0o700), os.WriteFile(filepath.Join(proc, "708/comm"), []byte("dock\x1ber\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(file.Dev), unix.Minor(file.Dev), file.Ino)
	for _, tt := range []struct{ name, locks, want string }{
		{"held", "1: POSIX  ADVISORY  WRITE 9 " + place + " 0 EOF\n2: FLOCK  ADVISORY  WRITE 708 " + place + " 0 EOF\n", "dock?er, pid 708"},
		{"by a process that is hidden", "1: FLOCK  ADVISORY  WRITE 709 " + place + " 0 EOF\n", "pid 709"},
		{"waited for", "1: -> FLOCK  ADVISORY  WRITE 708 " + place + " 0 EOF\n", ""},
		{"another file", "1: FLOCK  ADVISORY  WRITE 708 00:00:1 0 EOF\n", ""},
		{"from another namespace", "1: FLOCK  ADVISORY  WRITE 0 " + place + " 0 EOF\n", ""},
		{"no number", "1: FLOCK  ADVISORY  WRITE ../708 " + place + " 0 EOF\n", ""},
		{"nothing", "\n1:\n", ""},
	} {
		if err := os.WriteFile(filepath.Join(proc, "locks"), []byte(tt.locks), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lockHolder(proc, path); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := lockHolder(proc+"/missing", path); got != "" {
		t.Errorf("without /proc: %q", got)
	}
}

// ownMounts lets the test's thread, and the programs that it starts, see files of their own; it ends with the test.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
}

// onlyPrograms hides the directories in which administrators' programs are, but for those whose names begin with a prefix.
func onlyPrograms(t *testing.T, prefixes ...string) {
	t.Helper()
	ownMounts(t)
	const aside = "/run/tools"
	real, err := filepath.EvalSymlinks(lookPath("iptables-nft"))
	if err != nil {
		t.Fatal(err)
	}
	shell(t, "mkdir -p "+aside+"; mount --rbind "+filepath.Dir(real)+" "+aside)
	for _, directory := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if place, err := filepath.EvalSymlinks(directory); err == nil && place == directory {
			if err := unix.Mount("tmpfs", directory, "tmpfs", 0, "mode=0755"); err != nil {
				t.Fatal(err)
			}
		}
	}
	programs, err := os.ReadDir(aside)
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range programs {
		name := program.Name()
		if !slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		to := filepath.Join(aside, name)
		if link, err := os.Readlink(to); err == nil && filepath.IsAbs(link) {
			to = link // by way of the alternatives, back to one of those that stay
		}
		if err := os.Symlink(to, "/usr/sbin/"+name); err != nil {
			t.Fatal(err)
		}
	}
}

func TestProgramsMissing(t *testing.T) {
	tests := []struct {
		name     string
		programs []string
		variant  Variant
		says     string // empty where New succeeds
	}{
		{"none", nil, VariantAuto, "cannot find iptables, neither of variant nft nor of legacy: not to be had on this host (install the iptables package)"},
		{"none of the asked variant", []string{"iptables-legacy", "ip6tables-legacy"}, VariantNFT,
			"cannot find iptables, iptables-save and iptables-restore of variant nft: not to be had on this host (install the iptables package"},
		{"only IPv4", []string{"iptables"}, VariantAuto, "cannot find ip6tables, ip6tables-save and ip6tables-restore of variant"},
		{"only IPv6", []string{"ip6tables"}, VariantAuto, "cannot find iptables, iptables-save and iptables-restore of variant"},
		{"only legacy", []string{"iptables-legacy", "ip6tables-legacy"}, VariantAuto, ""},
		{"only nft", []string{"iptables-nft", "ip6tables-nft"}, VariantAuto, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			freshNamespace(t)
			onlyPrograms(t, tt.programs...)
			f, err := New(Options{Backend: BackendIptables, Variant: tt.variant})
			if tt.says == "" {
				if err != nil {
					t.Fatal(err)
				}
				mustApply(t, f, sample())
				return
			}
			if !errors.Is(err, ErrMissingTool) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("New: %v", err)
			}
		})
	}
}

// TestProgramsGone: they are removed, or replaced by an upgrade, while hostagent runs.
func TestProgramsGone(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		makeTables(t, variant)
		restores := []string{}
		for _, tool := range f.xtables.tools {
			restores = append(restores, tool.restore)
			tool.restore = "/run/missing-restore"
		}
		mustFail(t, f, sample(), nil, "cannot write the rules of ipv4", "no such file or directory", "install the iptables package")
		for i, tool := range f.xtables.tools {
			tool.restore = restores[i]
		}
		mustStand(t, f, sample(), variant)
	})
}

// TestOneFamilyFails: what can be written of the other is whole, and the rest comes as soon as it can.
func TestOneFamilyFails(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		for broken, whole := range []Family{IPv6, IPv4} {
			f := start(t, variant)
			restore := f.xtables.tools[broken].restore
			f.xtables.tools[broken].restore = "/bin/false"
			changes, err := f.Apply(context.Background(), sample())
			if err == nil || !strings.Contains(err.Error(), "cannot write the rules of "+string(f.xtables.tools[broken].family)) {
				t.Fatalf("Apply: %v, %v", changes, err)
			}
			want := sample()
			state := State{Sets: want.sets(), Tables: want.tables(whole)}
			for i := range state.Tables {
				state.Tables[i].Variant = variant
			}
			if diff := cmp.Diff(state.String(), show(t, f)); diff != "" {
				t.Errorf("Show with one family (-want +got):\n%s", diff)
			}
			f.xtables.tools[broken].restore = restore
			mustStand(t, f, sample(), variant)
		}
	})
}

func TestWithoutIPv6(t *testing.T) {
	freshNamespace(t)
	ownMounts(t)
	for _, hidden := range []string{"/proc/sys/net", fmt.Sprintf("/proc/self/task/%d/net", unix.Gettid())} {
		if err := unix.Mount("tmpfs", hidden, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	f := open(t, VariantNFT)
	if notes := strings.Join(f.Degradations(), "\n"); !strings.Contains(notes, "IPv6 is disabled on this host: only IPv4 is guarded") {
		t.Errorf("degradations: %s", notes)
	}
	mustApply(t, f, sample())
	want := sample()
	state := State{Sets: want.sets(), Tables: want.tables(IPv4), Notes: f.xtables.notes}
	for i := range state.Tables {
		state.Tables[i].Variant = VariantNFT
	}
	if diff := cmp.Diff(state.String(), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

func TestIPsetMissing(t *testing.T) {
	err := probeError(unix.EOPNOTSUPP)
	if !errors.Is(err, ErrMissingTool) || !strings.Contains(err.Error(),
		"cannot reach ipset: kernel module ip_set not to be had on this host (modprobe ip_set)") {
		t.Errorf("error: %v", err)
	}
	if err := probeError(ErrPermission); err.Error() != "cannot reach ipset: needs CAP_NET_ADMIN: run as root" {
		t.Errorf("error: %v", err)
	}
}

func TestPermission(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		makeTables(t, variant)
		before := saved(t)
		var held [2]unix.CapUserData
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		if err := errors.Join(unix.Capget(&header, &held[0]), dropNetAdmin(t)); err != nil {
			t.Fatal(err)
		}
		_, err := New(Options{Variant: variant})
		if !errors.Is(err, ErrPermission) || !strings.Contains(err.Error(), "run as root") {
			t.Errorf("New without CAP_NET_ADMIN: %v", err)
		}
		changes, err := f.Apply(context.Background(), sample())
		if !errors.Is(err, ErrPermission) || !changes.Empty() || !strings.Contains(err.Error(), "run as root") {
			t.Errorf("Apply without CAP_NET_ADMIN: %v, %v", changes, err)
		}
		if err := unix.Capset(&header, &held[0]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, saved(t)); diff != "" {
			t.Errorf("an Apply that failed changed the kernel (-before +after):\n%s", diff)
		}
		mustStand(t, f, sample(), variant)
	})
}

// TestForeignChains: chains of our names are ours, whoever made them; who refers to them from elsewhere loses that.
func TestForeignChains(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		shell(t, forVariant(`iptables-X -t mangle -N HOSTAGENT-GUARD
			iptables-X -t mangle -A HOSTAGENT-GUARD -p udp -j ACCEPT
			iptables-X -t mangle -N OWN
			iptables-X -t mangle -A OWN -p tcp --dport 22 -j ACCEPT
			iptables-X -t mangle -A OWN -p udp -g HOSTAGENT-GUARD
			iptables-X -N HOSTAGENT-ACCEPT
			iptables-X -N HOSTAGENT-OTHER
			iptables-X -A HOSTAGENT-ACCEPT -j HOSTAGENT-OTHER`, variant))
		mustStand(t, f, sample(), variant)
		text := shell(t, forVariant("iptables-X-save", variant))
		for _, part := range []string{":OWN ", "-A OWN -p tcp -m tcp --dport 22 -j ACCEPT", ":HOSTAGENT-OTHER "} {
			if !strings.Contains(text, part) {
				t.Errorf("of another's rules there is no more %q:\n%s", part, text)
			}
		}
		if strings.Contains(text, "-A OWN -p udp") {
			t.Errorf("another chain still leads to ours:\n%s", text)
		}
	})
}

// TestUninterrupted: netlink returns a part of a listing beside an error that is EINTR to errors.Is.
func TestUninterrupted(t *testing.T) {
	for _, tt := range []struct {
		name  string
		fails []error
		want  error
		calls int
	}{
		{"whole", []error{nil}, nil, 1},
		{"interrupted by a change", []error{nl.ErrDumpInterrupted, nl.ErrDumpInterrupted, nil}, nil, 3},
		{"interrupted by a signal", []error{unix.EINTR, nil}, nil, 2},
		{"another error", []error{unix.ENOENT}, unix.ENOENT, 1},
		{"another error in the end", []error{nl.ErrDumpInterrupted, unix.EPERM}, unix.EPERM, 2},
		{"always", slices.Repeat([]error{nl.ErrDumpInterrupted}, 9), nl.ErrDumpInterrupted, 5},
	} {
		calls := 0
		answer, err := uninterrupted(func() ([][]byte, error) {
			calls++
			return [][]byte{{byte(calls)}}, tt.fails[calls-1]
		})
		if !errors.Is(err, tt.want) || calls != tt.calls {
			t.Errorf("%s: %v after %d calls", tt.name, err, calls)
		}
		if tt.want == nil && (len(answer) != 1 || int(answer[0][0]) != tt.calls) {
			t.Errorf("%s: returned %v, not the last answer", tt.name, answer)
		}
	}
}
