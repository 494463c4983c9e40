// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/facts"
)

// addrs and prefixes read texts with blanks between.
func addrs(text string) []netip.Addr {
	var all []netip.Addr
	for word := range strings.FieldsSeq(text) {
		all = append(all, netip.MustParseAddr(word))
	}
	return all
}

func prefixes(text string) []netip.Prefix {
	var all []netip.Prefix
	for word := range strings.FieldsSeq(text) {
		if !strings.Contains(word, "/") {
			addr := netip.MustParseAddr(word)
			all = append(all, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		all = append(all, netip.MustParsePrefix(word))
	}
	return all
}

// TestSourcesOf: everybody only where the operator says nothing at all; otherwise nobody but whom they name, and the host.
func TestSourcesOf(t *testing.T) {
	for _, tt := range []struct {
		name                  string
		static                string
		cluster, bridges      bool
		members, own, bridged string
		want                  string // "everybody", or prefixes
	}{
		{"everybody", "", false, true, "10.0.0.1", "192.0.2.1", "172.17.0.0/16", "everybody"},
		{"networks", "10.0.0.0/8 fd00::/8", false, false, "10.9.9.9", "", "", "10.0.0.0/8 fd00::/8"},
		{"networks, the host and its bridges", "10.0.0.0/8", false, true, "", "192.0.2.1 2001:db8::1", "172.17.0.0/16 fd17::/80",
			"10.0.0.0/8 172.17.0.0/16 192.0.2.1/32 2001:db8::1/128 fd17::/80"},
		{"no bridges", "10.0.0.0/8", false, false, "", "192.0.2.1", "172.17.0.0/16", "10.0.0.0/8 192.0.2.1/32"},
		{"members", "", true, false, "10.0.0.1 10.0.0.2 fd00::1", "10.0.0.1", "", "10.0.0.1/32 10.0.0.2/32 fd00::1/128"},
		{"members that are not asked for", "192.0.2.0/24", false, false, "10.0.0.1", "", "", "192.0.2.0/24"},
		{"what lies in others", "10.0.0.0/8 10.1.0.0/16 10.1.2.3/32 10.1.2.3/32 11.0.0.0/8", true, true, "10.0.0.0 10.255.255.255 12.0.0.0",
			"11.0.0.1", "10.1.0.0/24 11.0.0.0/7", "10.0.0.0/7 12.0.0.0/32"},
		{"nested twice", "10.0.0.0/8 10.0.0.0/16 10.0.0.0/24 10.0.1.0/24 10.1.0.0/16", false, false, "", "", "", "10.0.0.0/8"},
		{"host bits", "10.1.2.3/8", false, false, "10.7.7.7", "", "", "10.0.0.0/8"},
		{"the whole of one family", "0.0.0.0/0", true, true, "10.0.0.1 fd00::1", "10.0.0.2", "172.17.0.0/16", "0.0.0.0/0 fd00::1/128"},
		{"members of whom none is known", "", true, true, "", "10.0.0.2", "", "10.0.0.2/32"},
		{"nothing known at all", "", true, true, "", "", "", "127.0.0.1/32 ::1/128"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			in.Policy.AllowFrom, in.Policy.AllowCluster, in.Policy.AllowBridges = prefixes(tt.static), tt.cluster, tt.bridges
			in.Members, in.Networks = addrs(tt.members), facts.Networks{Addresses: addrs(tt.own), Bridged: prefixes(tt.bridged)}
			got := "everybody"
			if sources := Evaluate(in).Rules.AllowFrom; sources != nil {
				got = strings.Trim(fmt.Sprint(sources), "[]")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAdmits(t *testing.T) {
	sources := prefixes("10.0.0.0/8 11.1.0.0/16 192.0.2.7 fd00::/64")
	for text, want := range map[string]bool{
		"10.0.0.0/8": true, "10.255.255.255": true, "10.0.0.0/7": false, "9.255.255.255": false, "11.0.255.255": false, "11.1.0.0/15": false,
		"11.1.9.0/24": true, "192.0.2.7": true, "192.0.2.8": false, "0.0.0.0/0": false, "fd00::1": true, "fd00:0:0:1::": false, "::/0": false, "255.255.255.255": false,
	} {
		if got := admits(sources, prefixes(text)[0]); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
	if admits(nil, prefixes("10.0.0.1")[0]) {
		t.Error("nobody lets somebody in")
	}
}

// TestSourceMemory: lists of members as they come, "SECONDS: LIST", "SECONDS: -" for a failure, and who is let in after
// each. close_delay is 30 s, and no two answers count for more than 20 s.
func TestSourceMemory(t *testing.T) {
	for _, tt := range []struct {
		name, adopted string
		story         []string
	}{
		{"in at once", "", []string{
			"0: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2",
			"10: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3"}},
		{"out after close_delay of answers without it", "", []string{
			"0: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"10: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"39: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3", // 20 s count
			"48: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3", // 29 s
			"49: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"back in time", "", []string{
			"0: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"10: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"30: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"40: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"60: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"70: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"time without answers does not count", "", []string{
			"0: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"10: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"20: -", "300: -",
			"310: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"325: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"340: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"a frozen host", "", []string{
			"0: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"1000: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"2000: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"3000: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"adopted and confirmed", "10.0.0.1 10.0.0.2 fd00::1", []string{
			"0: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 fd00::1",
			"20: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 fd00::1",
			"30: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"networks are not adopted", "10.0.0.0/8 10.9.0.1 fd00::/64", []string{
			"0: - => 10.9.0.1",
			"5: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.9.0.1"}},
		{"adopted, and no answer for ever", "10.0.0.1 10.0.0.2", []string{"0: -", "1000: -", "9999: - => 10.0.0.1 10.0.0.2"}},
		{"an agent that has just started knows itself", "", []string{
			"0: 10.0.0.1 10.0.0.2 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"10: 10.0.0.1 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"30: 10.0.0.1 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"50: 10.0.0.1 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"60: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3", // the time alone counts for nothing
			"80: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2 10.0.0.3",
			"90: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2"}},
		{"a restart in which the agent knows itself", "10.0.0.1 10.0.0.2", []string{
			"0: 10.0.0.1 => 10.0.0.1 10.0.0.2", "20: 10.0.0.1", "40: 10.0.0.1", "60: 10.0.0.1 => 10.0.0.1 10.0.0.2",
			"70: 10.0.0.1 10.0.0.3 => 10.0.0.1 10.0.0.2 10.0.0.3"}},
		{"an agent of another datacenter's name", "", []string{
			"0: 10.0.0.1 10.0.0.2 => 10.0.0.1 10.0.0.2", "10: => 10.0.0.1 10.0.0.2", "30: => 10.0.0.1 10.0.0.2", "50: => 10.0.0.1 10.0.0.2"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newSourceMemory()
			if m.known() {
				t.Error("a new memory knows somebody")
			}
			m.adopt(prefixes(tt.adopted))
			start := time.Now()
			for _, step := range tt.story {
				given, want, look := strings.Cut(step, " =>")
				seconds, list, _ := strings.Cut(given, ":")
				at, err := time.ParseDuration(seconds + "s")
				if err != nil {
					t.Fatal(err)
				}
				if strings.TrimSpace(list) == "-" {
					m.miss()
				} else {
					m.answer(start.Add(at), addrs(list), 30*time.Second)
				}
				if got := strings.Trim(fmt.Sprint(m.all), "[]"); look && got != strings.TrimSpace(want) {
					t.Errorf("%s\n got %s", step, got)
				}
				if !m.known() {
					t.Errorf("%s: nobody is known", step)
				}
			}
		})
	}
}

// TestAdoptedMemberIsNoneTwice: the first answer may come before the kernel is looked at.
func TestAdoptedMemberIsNoneTwice(t *testing.T) {
	m := newSourceMemory()
	m.answer(time.Now(), addrs("10.0.0.1 10.0.0.2"), 30*time.Second)
	m.adopt(prefixes("10.0.0.2 10.0.0.3"))
	if got := fmt.Sprint(m.all); got != "[10.0.0.1 10.0.0.2 10.0.0.3]" {
		t.Errorf("let in: %s", got)
	}
}

// TestLoneMemberInTheEnd: a datacenter may really shrink to one host.
func TestLoneMemberInTheEnd(t *testing.T) {
	m, at := newSourceMemory(), time.Now()
	m.answer(at, addrs("10.0.0.1 10.0.0.2"), 30*time.Second)
	gone := 0
	for ; len(m.all) > 1 && gone < 1000; gone += 10 {
		at = at.Add(10 * time.Second)
		m.answer(at, addrs("10.0.0.1"), 30*time.Second)
	}
	if gone != 610 {
		t.Errorf("the last other member went after %d s, want 610", gone)
	}
}

// TestSourceMemoryIsBounded: however many members come and go, a set can hold those that are remembered, and those of the
// last answer are among them.
func TestSourceMemoryIsBounded(t *testing.T) {
	m, at := newSourceMemory(), time.Now()
	for round := range byte(8) {
		members := make([]netip.Addr, 10_000)
		for i := range members {
			members[i] = netip.AddrFrom4([4]byte{10, round, byte(i >> 8), byte(i)})
		}
		at = at.Add(time.Second)
		m.answer(at, members, time.Hour)
		if want := min(int(round+1)*10_000, maxHeldSources); len(m.all) != want {
			t.Errorf("after round %d there are %d, want %d", round, len(m.all), want)
		}
		for _, addr := range []netip.Addr{members[0], members[9999]} {
			if !contains(m.all, addr) {
				t.Errorf("round %d: %v is a member and forgotten", round, addr)
			}
		}
	}
	if contains(m.all, netip.MustParseAddr("10.0.0.1")) || !contains(m.all, netip.MustParseAddr("10.2.0.1")) {
		t.Error("not those that were absent longest went")
	}
}

// manyMembers is a host's input in a datacenter of n members.
func manyMembers(n int) Input {
	in := base()
	in.Policy.AllowCluster, in.Policy.AllowBridges = true, true
	for i := range n {
		in.Members = append(in.Members, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}))
	}
	in.Networks = facts.Networks{Addresses: addrs("10.1.0.1 172.17.0.1"), Bridged: prefixes("172.17.0.0/16")}
	return in
}

// BenchmarkSources is what 10,000 members cost where nothing changes: to evaluate with them, to compare them, and to hear
// the same list again.
func BenchmarkSources(b *testing.B) {
	in := manyMembers(10_000)
	b.Run("evaluate", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if len(Evaluate(in).Rules.AllowFrom) != 10_001 {
				b.Fatal("they are not all there")
			}
		}
	})
	b.Run("answer", func(b *testing.B) {
		b.ReportAllocs()
		m, at := newSourceMemory(), time.Now()
		other := append([]netip.Addr(nil), in.Members...)
		for i := 0; b.Loop(); i++ {
			at = at.Add(10 * time.Second)
			m.answer(at, [][]netip.Addr{in.Members, other}[i%2], 30*time.Second)
		}
	})
}
