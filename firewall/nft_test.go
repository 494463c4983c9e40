// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

const goldenNative = `table inet hostagent {
	set guard {
		type inet_service
		elements = { 21000, 21001, 21002 }
	}
	set open {
		type inet_service
		elements = { 21001 }
	}
	set cut {
		type inet_service
		elements = { 8080 }
	}
	set from4 {
		type ipv4_addr
		flags interval
		elements = { 10.0.0.0/8, 11.0.0.0/8, 192.0.2.7 }
	}
	set from6 {
		type ipv6_addr
		flags interval
		elements = { fd00::/8 }
	}
	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		iifname != "lo" tcp dport @cut ct direction original fib daddr type local counter drop
		meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @guard tcp dport != @open fib daddr type local counter drop
		meta nfproto ipv6 tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @guard tcp dport != @open fib daddr type local counter drop
		tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @open ip saddr != @from4 fib daddr type local counter drop
		tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @open ip6 saddr != @from6 fib daddr type local counter drop
	}
	chain input {
		type filter hook input priority mangle; policy accept;
		iifname != "lo" tcp dport @cut ct direction original fib daddr type local counter drop
		meta nfproto ipv4 tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @guard tcp dport != @open fib daddr type local counter drop
		meta nfproto ipv6 tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @guard tcp dport != @open fib daddr type local counter drop
		tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @open ip saddr != @from4 fib daddr type local counter drop
		tcp flags & (fin | syn | rst | ack) == syn iifname != "lo" tcp dport @open ip6 saddr != @from6 fib daddr type local counter drop
	}
}
`

// nativeSample has something in every set, and a rule of every kind.
func nativeSample() Ruleset {
	return Ruleset{
		Guard: portRange(21000, 21002), Open: Ports(21001), Cut: Ports(8080), CutRules: true,
		AllowFrom: prefixes("fd00::/8", "10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "11.0.0.0/8"),
	}
}

func TestNativeGolden(t *testing.T) {
	f := start(t, onNFTables)
	want := nativeSample()
	changes := mustApply(t, f, want)
	if diff := cmp.Diff(goldenNative, show(t, f)); diff != "" {
		t.Errorf("Show after Apply (-want +got):\n%s", diff)
	}
	const said = "inet hostagent guard created +21000-21002; inet hostagent open created +21001; inet hostagent cut created +8080; " +
		"inet hostagent from4 created +10.0.0.0/8 +11.0.0.0/8 +192.0.2.7; inet hostagent from6 created +fd00::/8; " +
		"nftables inet hostagent: prerouting, input written"
	if diff := cmp.Diff(said, changes.String()); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() {
		t.Errorf("Apply of a new process says: %v", changes)
	}
}

// listed is what nft lists of the native table, in the words in which Show does: versions differ in how they write flags.
func listed(t testing.TB) string {
	t.Helper()
	return words80(strings.NewReplacer(
		"tcp flags syn / fin,syn,rst,ack", "tcp flags & (fin | syn | rst | ack) == syn",
		"counter packets 0 bytes 0 drop", "counter drop",
	).Replace(tableFlags.ReplaceAllString(shell(t, "nft list table inet hostagent"), "")))
}

// rangesComment is what Show adds for people.
var rangesComment = regexp.MustCompile(`\t*# ports .*\n`)

// words80 takes out how a listing breaks its lines.
func words80(text string) string {
	return regexp.MustCompile(`\s+`).ReplaceAllString(text, " ")
}

// TestNativeReadsLikeNft: what the rules are called is what nft takes them for, and it can read them back.
func TestNativeReadsLikeNft(t *testing.T) {
	f := start(t, onNFTables)
	large := sample()
	large.Open = portRange(30000, 35000)
	large.Open.Remove(31000)
	for _, want := range []Ruleset{sample(), nativeSample(), limited("0.0.0.0/0", "::/0", "255.255.255.255/32", "ffff::/16"), large} {
		mustRemove(t, f) // else a set that is replaced comes last
		mustApply(t, f, want)
		text := show(t, f)
		if diff := cmp.Diff(listed(t), words80(rangesComment.ReplaceAllString(text, ""))); diff != "" {
			t.Errorf("Show (-nft +Show):\n%s", diff)
		}
		pipeNft(t, "delete table inet hostagent\n"+text)
		if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() {
			t.Errorf("made by nft from what Show says, Apply changes: %v", changes)
		}
	}
}

func pipeNft(t testing.TB, script string) {
	t.Helper()
	shell(t, "nft -f - <<'EOF'\n"+script+"\nEOF")
}

func TestNativeDriftIsRepaired(t *testing.T) {
	tests := []struct{ name, harm, want string }{
		{"table deleted", "delete table inet hostagent", "table inet hostagent was gone"},
		{"everything flushed", "flush ruleset", "table inet hostagent was gone"},
		{"rules flushed", "flush table inet hostagent", "inet hostagent: chain prerouting had changed"},
		{"rule added", "insert rule inet hostagent input tcp dport 21050 accept", "inet hostagent: chain input had changed"},
		{"rule with what we do not know", "insert rule inet hostagent input tcp option maxseg size set 1200 accept", "inet hostagent: chain input had changed"},
		{"table asleep", "", "table inet hostagent had other flags"},
		{"chain flushed", "flush chain inet hostagent prerouting", "inet hostagent: chain prerouting had changed"},
		{"chain removed", "delete chain inet hostagent input", "inet hostagent: chain input was gone"},
		{"chain appeared", "add chain inet hostagent other { type filter hook input priority -200; policy drop; }", "inet hostagent: chain other had appeared"},
		{"policy changed", "add chain inet hostagent input { policy drop; }", "inet hostagent: chain input had changed"},
		{"set appeared", "add set inet hostagent other { type ipv4_addr; }", "inet hostagent: set other had appeared"},
		{"object appeared", "add counter inet hostagent other", "inet hostagent: 1 other objects had appeared"},
		{"set flushed", "flush set inet hostagent open", "set inet hostagent open had lost ports 21001 and gained none"},
		{"port added", "add element inet hostagent open { 21200 }", "set inet hostagent open had lost ports none and gained 21200"},
		{"everything added", "add element inet hostagent open { * }", "set inet hostagent open was of another kind, or had members that are none of ours"},
		{"source added", "add element inet hostagent from6 { 2001:db8::/32 }", "set inet hostagent from6 had lost sources none and gained 2001:db8::/32"},
		{"odd range added", "add element inet hostagent from4 { 172.16.0.1-172.16.0.2 }", "set inet hostagent from4 had lost sources none and gained 172.16.0.1, 172.16.0.2"},
		{"source narrowed", "delete element inet hostagent from4 { 10.0.0.0/8 }; add element inet hostagent from4 { 10.0.0.0/9 }",
			"set inet hostagent from4 had lost sources 10.0.0.0/8 and gained 10.0.0.0/9"},
		{"all sources gone", "flush set inet hostagent from4; flush set inet hostagent from6",
			"set inet hostagent from6 had lost sources fd00::/8 and gained none"},
		{"sets of sources gone", "flush table inet hostagent; delete set inet hostagent from4; delete set inet hostagent from6",
			"set inet hostagent from6 was gone"},
		{"set made anew", "flush chain inet hostagent prerouting; flush chain inet hostagent input; delete set inet hostagent cut; " +
			"add set inet hostagent cut { type inet_service; flags timeout; }", "set inet hostagent cut was of another kind, or had members that are none of ours"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := start(t, onNFTables)
			mustApply(t, f, nativeSample())
			if tt.harm == "" {
				putAsleep(t)
			}
			pipeNft(t, strings.ReplaceAll(tt.harm, "; ", "\n"))
			transactions := uint32(1)
			if slices.Contains([]string{"table deleted", "everything flushed", "table asleep", "sets of sources gone"}, tt.name) {
				transactions = 2 // the sets of sources come first
			}
			before := generationNow(t)
			verifyNow(f)
			changes := mustApply(t, f, nativeSample())
			if !slices.Contains(changes.Repaired, tt.want) {
				t.Errorf("repaired: %q\nwant among them: %q", changes.Repaired, tt.want)
			}
			if made := generationNow(t) - before; made != transactions {
				t.Errorf("the repair made %d transactions, want %d", made, transactions)
			}
			if diff := cmp.Diff(goldenNative, show(t, f)); diff != "" {
				t.Errorf("Show after the repair (-want +got):\n%s", diff)
			}
			verifyNow(f)
			if changes := mustApply(t, f, nativeSample()); !changes.Empty() {
				t.Errorf("the next Apply says: %v", changes)
			}
		})
	}
}

// putAsleep does to a table with the flag persist what nft 1.0.6 cannot.
func putAsleep(t testing.TB) {
	t.Helper()
	socket, err := openNFTSocket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.close()
	seen := &nativeView{}
	if err := seen.readTable(); err != nil {
		t.Fatal(err)
	}
	b := newNFTBatch(0)
	b.newTable(seen.flags | nftDormant)
	if err := socket.send(b); err != nil {
		t.Fatal(err)
	}
}

// plainSets leaves out which kind of set holds ports: one that was large stays what it is.
func plainSets(text string) string { return strings.ReplaceAll(text, "\t\tflags dynamic\n", "") }

func generationNow(t testing.TB) uint32 {
	t.Helper()
	generation, err := nftGeneration()
	if err != nil {
		t.Fatal(err)
	}
	return generation
}

// TestNativeAppliesAtOnce: each Apply is one transaction, whatever it changes, but two where sources begin or cease to be
// limited or an open port is no longer guarded, and none where nothing is to change.
func TestNativeAppliesAtOnce(t *testing.T) {
	f := start(t, onNFTables)
	ports, rules, sources, unlimited := nativeSample(), nativeSample(), nativeSample(), nativeSample()
	ports.Guard, ports.Open, ports.Cut = portRange(1000, 3000), portRange(1000, 2999), Ports(1, 2, 3)
	rules.CutRules, unlimited.AllowFrom, unlimited.CutRules = false, nil, false
	sources.AllowFrom = prefixes("10.0.0.0/9", "10.128.0.0/10", "192.0.2.6/31", "::/0")
	large := nativeSample()
	large.Open, large.AllowFrom = portRange(1, 65535), many(8000)
	plain := unlimited
	plain.CutRules = true
	for i, step := range []struct {
		want         Ruleset
		transactions uint32
	}{
		{nativeSample(), 2}, {ports, 2}, {rules, 2}, {sources, 1}, {unlimited, 2}, {plain, 1}, {unlimited, 1}, {sources, 2}, {large, 1},
		{nativeSample(), 1},
	} {
		want := step.want
		for _, transactions := range []uint32{step.transactions, 0} {
			before := generationNow(t)
			changes := mustApply(t, f, want)
			if made := generationNow(t) - before; made != transactions || changes.Repaired != nil {
				t.Errorf("step %d made %d transactions, want %d, and repaired %q", i, made, transactions, changes.Repaired)
			}
			verifyNow(f)
		}
		if diff := cmp.Diff(plainSets(expected(want, onNFTables)), plainSets(show(t, f))); diff != "" {
			t.Fatalf("Show after step %d (-want +got):\n%s", i, diff)
		}
	}
}

// TestNativeTakesOverForeignTable: a table of our name is ours, whatever somebody made of it.
func TestNativeTakesOverForeignTable(t *testing.T) {
	for name, script := range map[string]string{
		"other types": "table inet hostagent { set guard { type ipv4_addr; }; set open { type mark; elements = { 1 }; }; map cut { type inet_service : verdict; }; }",
		"maps":        "table inet hostagent { chain x { counter; }; chain input { type filter hook forward priority 0; policy drop; jump x; }; counter c { }; }",
		"empty":       "table inet hostagent { }",
		"asleep":      "table inet hostagent { flags dormant; }",
		"narrower":    "table inet hostagent { set guard { type inet_service; timeout 1h; elements = { 1, 2 }; }; set from4 { type ipv4_addr; elements = { 1.2.3.4 }; }; }",
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, onNFTables)
			pipeNft(t, script)
			plan, err := f.Plan(context.Background(), nativeSample())
			if err != nil {
				t.Fatal(err)
			}
			changes := mustApply(t, f, nativeSample())
			if diff := cmp.Diff(plan.String(), changes.String()); diff != "" || changes.Repaired != nil {
				t.Errorf("Apply did not do what Plan said (-plan +done):\n%s", diff)
			}
			if diff := cmp.Diff(goldenNative, show(t, f)); diff != "" {
				t.Errorf("Show (-want +got):\n%s", diff)
			}
			if changes, err := f.Remove(context.Background()); err != nil || changes.Empty() {
				t.Errorf("Remove: %v, %v", changes, err)
			}
			if text := shell(t, "nft list ruleset"); text != "" {
				t.Errorf("Remove left %s", text)
			}
		})
	}
}

// TestNativeBesideABusyProgram: another program's transactions, in another table and without a pause, neither keep ours
// from being made nor are taken for drift.
func TestNativeBesideABusyProgram(t *testing.T) {
	f := start(t, onNFTables)
	shell(t, "nft add table inet busy")
	namespace, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(namespace)
	stop, done := make(chan struct{}), make(chan int)
	go func() { // the thread ends with the goroutine
		commits := 0
		defer func() { done <- commits }()
		lockThreadIn(namespace)
		socket, err := openNFTSocket()
		if err != nil {
			t.Error(err)
			return
		}
		defer socket.close()
		for {
			select {
			case <-stop:
				return
			default:
			}
			b := newNFTBatch(0)
			kind := uint16(unix.NFT_MSG_NEWSET)
			attributes := appendText(appendText(nil, unix.NFTA_SET_TABLE, "busy"), unix.NFTA_SET_NAME, "busy")
			if commits%2 == 1 {
				kind = unix.NFT_MSG_DELSET
			} else {
				attributes = appendUint32(appendUint32(attributes, unix.NFTA_SET_KEY_LEN, 2), unix.NFTA_SET_ID, 1)
			}
			b.command("set", kind, unix.NLM_F_CREATE, attributes)
			if err := socket.send(b); err != nil {
				t.Error(err)
				return
			}
			if commits++; commits%50 == 0 { // a short rest, so that some transactions of ours find one
				time.Sleep(20 * time.Millisecond)
			}
		}
	}()
	even, odd := nativeSample(), nativeSample()
	odd.Open, odd.AllowFrom = portRange(21000, 21002), many(300)
	for i := range 20 {
		want := &even
		if i%2 == 1 {
			want = &odd
		}
		verifyNow(f)
		if changes := mustApply(t, f, *want); changes.Repaired != nil {
			t.Fatalf("taken for drift: %q", changes.Repaired)
		}
	}
	close(stop)
	if commits := <-done; commits < 20 {
		t.Errorf("the other program made %d transactions only", commits)
	} else {
		t.Logf("%d transactions of another program", commits)
	}
	verifyNow(f)
	if diff := cmp.Diff(expected(odd, onNFTables), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

// TestNativeSeesTheRace: what another hand does to the table after our last look is found by the transaction itself.
func TestNativeSeesTheRace(t *testing.T) {
	f := start(t, onNFTables)
	mustApply(t, f, sample())
	pipeNft(t, "add element inet hostagent open { 21222 }")
	want := sample()
	want.Open.Add(21100)
	changes := mustApply(t, f, want) // what was seen is taken for granted still
	if !slices.Contains(changes.Repaired, "set inet hostagent open had lost ports none and gained 21222") {
		t.Errorf("changes: %v", changes)
	}
	if diff := cmp.Diff(expected(want, onNFTables), show(t, f)); diff != "" {
		t.Errorf("Show (-want +got):\n%s", diff)
	}
}

func TestNativeSources(t *testing.T) {
	tests := []struct{ given, want string }{
		{"10.0.0.0/8 10.1.0.0/16 10.255.255.255/32 11.0.0.0/8", "10.0.0.0/8 11.0.0.0/8"},
		{"10.0.0.0/9 10.128.0.0/9", "10.0.0.0/9 10.128.0.0/9"}, // neighbours stay what they are
		{"0.0.0.0/0 192.0.2.7/32", "0.0.0.0/1 128.0.0.0/1"},
		{"255.255.255.255/32 ::/0 ffff::/16", "255.255.255.255/32 ::/1 8000::/1"},
		{"192.0.2.7/24 fd00::1/128 fd00::/8", "192.0.2.0/24 fd00::/8"},
		{"", ""},
	}
	for _, tt := range tests {
		sources, err := canonicalSources(prefixes(strings.Fields(tt.given)...))
		if err != nil {
			t.Fatal(err)
		}
		runs := familyRuns(sources)
		if diff := cmp.Diff(prefixes(strings.Fields(tt.want)...), slices.Concat(networksOf(runs[0]), networksOf(runs[1])),
			cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.given, diff)
		}
	}
	run := addressRun{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.8")}
	if diff := cmp.Diff("10.0.0.1, 10.0.0.2/31, 10.0.0.4/30, 10.0.0.8", sourcesText(run.networks())); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
}

func TestNativeManySources(t *testing.T) {
	f := start(t, onNFTables)
	want := sample()
	steps := []string{"first", "again", "one less", "none"}
	want.AllowFrom = many(9000) // as much as an ordinary user's socket takes
	if !netns.Rootless() {
		want.AllowFrom = many(10000)
		for i := range 3000 {
			a := netip.AddrFrom16([16]byte{0xfd, 2: byte(i >> 8), 3: byte(i)})
			want.AllowFrom = append(want.AllowFrom, netip.PrefixFrom(a, 64+i%65))
		}
		steps = []string{"first", "again", "one less", "all of them", "none"}
	}
	for _, apply := range steps {
		switch apply {
		case "one less":
			want.AllowFrom = want.AllowFrom[1:]
		case "all of them":
			want.AllowFrom = many(maxSources)
		case "none":
			want.AllowFrom = nil
		}
		began := time.Now()
		mustApply(t, f, want)
		t.Logf("%s: %v", apply, time.Since(began).Round(10*time.Microsecond))
		if diff := cmp.Diff(expected(want, onNFTables), show(t, f)); diff != "" {
			t.Fatalf("Show after %s differs", apply)
		}
	}
}

// TestNativeManyPorts: sets of more ports than a bitmap changes in good time.
func TestNativeManyPorts(t *testing.T) {
	f := start(t, onNFTables)
	var odd Ruleset
	for p := uint16(1); p < 65000; p += 2 {
		odd.Guard.Add(p)
	}
	for _, want := range []Ruleset{odd, {Guard: portRange(0, 65535)}, sample(), odd} {
		began := time.Now()
		mustApply(t, f, want)
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%d ports took %v", want.Guard.Len(), took)
		}
		if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() {
			t.Errorf("a new process changes %d sets and %d chains", len(changes.Sets), len(changes.Rules))
		}
	}
}

// TestNativeFromAnyState: whatever was there before, Apply leads to one and the same state.
func TestNativeFromAnyState(t *testing.T) {
	const rounds = 176 // TestApplyFromAnyState makes 24
	harms := []string{
		"flush ruleset", "flush table inet hostagent", "delete table inet hostagent", "flush chain inet hostagent input",
		"insert rule inet hostagent input accept", "add rule inet hostagent prerouting tcp dport 1-100 drop",
		"add chain inet hostagent mine { type filter hook input priority -300; policy accept; }", "add chain inet hostagent mine",
		"flush set inet hostagent guard", "flush set inet hostagent from4", "add element inet hostagent open { 1-30, 40000 }",
		"add element inet hostagent cut { * }", "add element inet hostagent from4 { 172.16.0.3-172.16.9.1, 255.255.255.255 }",
		"add element inet hostagent from6 { ::/1 }", "add set inet hostagent from4 { type ipv4_addr; }", "delete set inet hostagent cut",
		"add table inet hostagent { flags dormant; }", "add quota inet hostagent q { 1 mbytes; }", "add table ip hostagent",
		"add table inet hostagent; add set inet hostagent open { type ipv4_addr; }",
		"add chain inet hostagent input { policy drop; }", "delete chain inet hostagent prerouting",
	}
	random := rand.New(rand.NewPCG(7, 11))
	draw := func() (r Ruleset) {
		for _, set := range []*PortSet{&r.Guard, &r.Open, &r.Cut} {
			for range random.IntN(4) {
				first := uint16(random.IntN(65536))
				set.AddRange(first, first+uint16(random.IntN(40)))
			}
		}
		if random.IntN(20) == 0 {
			r.Guard = portRange(1, uint16(950+random.IntN(150)))
		}
		r.CutRules = random.IntN(2) == 0
		if random.IntN(2) == 0 {
			for range 1 + random.IntN(4) {
				a := netip.AddrFrom4([4]byte{byte(10 + random.IntN(3)), byte(random.IntN(4)), 0, byte(random.IntN(256))})
				r.AllowFrom = append(r.AllowFrom, netip.PrefixFrom(a, random.IntN(33)))
			}
			if random.IntN(2) == 0 {
				r.AllowFrom = append(r.AllowFrom, prefixes("fd00::/8", "fd01::/16", "::/0")[random.IntN(3):]...)
			}
		}
		return r
	}
	f := start(t, onNFTables)
	var release func()
	for round := range rounds {
		before := draw()
		mustApply(t, f, before)
		var script strings.Builder
		for range random.IntN(3) {
			script.WriteString("nft '" + harms[random.IntN(len(harms))] + "' 2>/dev/null || true\n")
		}
		if script.Len() > 0 {
			shell(t, script.String())
		}
		switch random.IntN(5) {
		case 0:
			if release != nil {
				release()
				release = nil
			}
			f = open(t, onNFTables)
		case 1:
			if release == nil {
				var err error
				if release, err = f.hold(); err != nil {
					t.Fatal(err)
				}
			}
		}
		verifyNow(f)
		want := draw()
		mustApply(t, f, want)
		text := show(t, f)
		if flags := flagsOf(t, f); release != nil && flags != "owner,persist" {
			t.Fatalf("round %d: a held table has flags %q", round, flags)
		}
		mustBeRemembered(t, f)
		if diff := cmp.Diff(plainSets(expected(want, onNFTables)), plainSets(text)); diff != "" {
			t.Fatalf("round %d: Show (-want +got):\n%s", round, diff)
		}
	}
}

// TestNativePermission: without the capability nothing is half done, and the error says what is missing.
func TestNativePermission(t *testing.T) {
	f := start(t, onNFTables)
	mustApply(t, f, sample())
	if err := dropNetAdmin(t); err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Open.Add(21100)
	if _, err := f.Apply(context.Background(), want); !errors.Is(err, ErrPermission) {
		t.Errorf("Apply: %v", err)
	}
	if _, err := New(Options{Backend: BackendNFTables}); !errors.Is(err, ErrPermission) {
		t.Errorf("New: %v", err)
	}
	if _, err := f.Dropped(context.Background()); !errors.Is(err, ErrPermission) {
		t.Errorf("Dropped: %v", err)
	}
}

// TestNativeShowsRanges: a sidecar range is read as one, and what is shown is what nft takes.
func TestNativeShowsRanges(t *testing.T) {
	f := start(t, onNFTables)
	want := sample()
	want.Open = PortSet{}
	for port := uint16(21000); port < 21040; port += 2 {
		want.Open.Add(port)
	}
	mustApply(t, f, want)
	text := show(t, f)
	for _, part := range []string{
		"\tset guard {\n\t\ttype inet_service\n\t\t# ports 21000-21255\n\t\telements = { 21000, 21001, ",
		"\tset open {\n\t\ttype inet_service\n\t\telements = { 21000, 21002, 21004, ",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("Show lacks %q:\n%s", part, text)
		}
	}
	pipeNft(t, "delete table inet hostagent\n"+text)
}

// TestNativeSeesAlteredRules: a table in which one word of a rule or chain is another is not taken for ours.
func TestNativeSeesAlteredRules(t *testing.T) {
	f := start(t, onNFTables)
	mustApply(t, f, nativeSample())
	for word, other := range map[string]string{
		"!= @open": "@open", "type local": "type unicast", "daddr type": "saddr type", `iifname != "lo"`: `iifname "lo"`,
		`!= "lo"`: `!= "lo1"`, `counter drop`: `counter accept`, "== syn": "== ack", "| ack)": "| psh)", "@guard": "@cut",
		"original": "reply", "ip saddr": "ip daddr", "nfproto ipv4": "nfproto ipv6", "tcp dport @guard": "tcp sport @guard",
		"priority mangle": "priority filter", "hook input": "hook forward", "policy accept": "policy drop", "@from4": "!= @from4",
		" counter": "",
	} {
		altered := strings.Replace(goldenNative, word, other, 1)
		altered = strings.ReplaceAll(altered, "!= !=", "")
		pipeNft(t, "delete table inet hostagent\n"+altered)
		verifyNow(f)
		peace(f)
		changes := mustApply(t, f, nativeSample())
		if !slices.ContainsFunc(changes.Repaired, func(s string) bool { return strings.HasSuffix(s, " had changed") }) {
			t.Errorf("%q for %q: repaired %q", other, word, changes.Repaired)
		}
		if diff := cmp.Diff(goldenNative, show(t, f)); diff != "" {
			t.Errorf("Show after %q (-want +got):\n%s", other, diff)
		}
	}
}

// mustBeRemembered compares what the backend believes of its table with what is there.
func mustBeRemembered(t testing.TB, f *Firewall) {
	t.Helper()
	there, err := f.native.rules.readNative()
	if err != nil {
		t.Fatal(err)
	}
	believed := f.native.memory.view
	if drift := believed.drift(there); drift != nil {
		t.Fatalf("remembered otherwise: %q", drift)
	}
	if believed.flags != there.flags || believed.owner != there.owner || believed.uses != there.uses ||
		believed.generation != there.generation {
		t.Fatalf("remembered: flags %d, owner %d, %d uses, generation %d; there are %d, %d, %d, %d", believed.flags, believed.owner,
			believed.uses, believed.generation, there.flags, there.owner, there.uses, there.generation)
	}
	for i := range believed.sets {
		if s := there.set(believed.sets[i].name); s == nil || !s.sameObject(&believed.sets[i]) {
			t.Fatalf("set %s is not as remembered", believed.sets[i].name)
		}
	}
}
