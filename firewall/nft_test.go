// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"testing"

	"github.com/google/go-cmp/cmp"
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
	t.Log(shell(t, "nft list table inet hostagent"))
	if changes := mustApply(t, open(t, onNFTables), want); !changes.Empty() {
		t.Errorf("Apply of a new process says: %v", changes)
	}
}
