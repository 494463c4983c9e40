// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

// freshNamespace moves the test into an empty network namespace, which ends with the test's thread.
func freshNamespace(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("cannot make a network namespace: %v", err)
	}
	shell(t, "ip link set lo up")
}

// shell runs a script in the test's namespace and returns its output.
func shell(t testing.TB, script string) string {
	t.Helper()
	output, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, output)
	}
	return string(output)
}

// onNFTables stands for the nftables backend where tests go through the variants of iptables and it.
const onNFTables Variant = "nftables"

// tables is the variant of iptables in which other people's rules are made.
func tables(variant Variant) string {
	if variant == onNFTables {
		return string(VariantNFT)
	}
	return string(variant)
}

// named writes names of ipsets as those of native sets, for the nftables backend.
func named(variant Variant, text string) string {
	if variant == onNFTables {
		return strings.ReplaceAll(text, "hostagent-", "inet hostagent ")
	}
	return text
}

// start returns a Firewall of one variant, in a fresh namespace.
func start(t testing.TB, variant Variant) *Firewall {
	t.Helper()
	freshNamespace(t)
	return open(t, variant)
}

// open returns a Firewall in the test's namespace.
func open(t testing.TB, variant Variant) *Firewall {
	t.Helper()
	options := Options{Backend: BackendIptables, Variant: variant, LockTimeout: time.Second}
	if variant == onNFTables {
		options = Options{Backend: BackendNFTables}
	}
	f, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustApply(t testing.TB, f *Firewall, want Ruleset) Changes {
	t.Helper()
	changes, err := f.Apply(context.Background(), want)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return changes
}

// tableFlags is the line with the native table's flags. Which there are depends on the kernel; see flagsOf.
var tableFlags = regexp.MustCompile(`(?m)^\tflags.*\n`)

// show is what Show says, without the native table's flags.
func show(t testing.TB, f *Firewall) string {
	t.Helper()
	state, err := f.Show(context.Background())
	if err != nil {
		t.Fatalf("Show: %v", err)
	}
	return tableFlags.ReplaceAllString(state.String(), "")
}

// expected is what Show says when want stands in one variant: the rules once for each family.
func expected(want Ruleset, variant Variant) string {
	want.AllowFrom, _ = canonicalSources(want.AllowFrom)
	want.PathsFrom, _ = canonicalSources(want.PathsFrom)
	want.tidy()
	if variant == onNFTables {
		rules, err := newNativeRules()
		if err != nil {
			return err.Error()
		}
		return rules.wants(&want).state().String()
	}
	s := State{Sets: want.sets(), Tables: append(want.tables(IPv4), want.tables(IPv6)...)}
	for i := range s.Tables {
		s.Tables[i].Variant = variant
	}
	return s.String()
}

// verifyNow makes the next Apply look at the kernel again.
func verifyNow(f *Firewall) {
	if f.native != nil && f.native.memory != nil {
		f.native.memory.verified = time.Time{}
	}
	if f.xtables.memory != nil {
		f.xtables.memory.verified = time.Time{}
		f.xtables.memory.listed = time.Time{}
	}
}

var saveNoise = regexp.MustCompile(`(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+`)

// saved is everything that iptables and ipset show in both variants and families, and nft of tables of its own family,
// without comments and counters.
func saved(t testing.TB) string {
	t.Helper()
	text := shell(t, "iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; ipset save; nft list ruleset inet")
	return saveNoise.ReplaceAllString(text, "")
}

func portRange(first, last uint16) PortSet {
	var s PortSet
	s.AddRange(first, last)
	return s
}

// eachVariant runs a test in both variants.
func eachVariant(t *testing.T, test func(t *testing.T, variant Variant)) {
	for _, variant := range []Variant{VariantNFT, VariantLegacy} {
		t.Run(string(variant), func(t *testing.T) { test(t, variant) })
	}
}

// eachBackend runs a test in both variants of iptables, and with nftables.
func eachBackend(t *testing.T, test func(t *testing.T, variant Variant)) {
	eachVariant(t, test)
	t.Run(string(onNFTables), func(t *testing.T) { test(t, onNFTables) })
}

// dropNetAdmin takes CAP_NET_ADMIN from the test's thread, which ends with the test.
func dropNetAdmin(t testing.TB) error {
	t.Helper()
	runtime.LockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_NET_ADMIN
	return unix.Capset(&header, &data[0])
}

// lockThreadIn moves the calling goroutine, for the rest of its life, to a thread in a network namespace.
func lockThreadIn(namespace int) {
	runtime.LockOSThread()
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
}
