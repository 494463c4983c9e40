// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lines writes what was published, one on a line.
func lines(all []Published) string {
	var b strings.Builder
	for _, p := range all {
		fmt.Fprintf(&b, "%s %s %s", p.Variant, p.Family, rangeText(p.First, p.Last))
		if p.Destination.IsValid() {
			fmt.Fprintf(&b, " at %s", p.Destination)
		}
		fmt.Fprintf(&b, " to %q in %s\n", p.To, p.Chain)
	}
	return b.String()
}

// TestPublished has the rules that container runtimes write, and some by hand, in table nat of each variant, and reads
// them without any rule of ours.
func TestPublished(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		freshNamespace(t)
		before := shell(t, "nft list ruleset; cat /proc/self/net/ip_tables_names /proc/self/net/ip6_tables_names")
		f := open(t, VariantAuto)
		all, err := f.Published(context.Background())
		if err != nil || len(all) > 0 {
			t.Errorf("without rules: %v, %v", all, err)
		}
		after := shell(t, "nft list ruleset; cat /proc/self/net/ip_tables_names /proc/self/net/ip6_tables_names")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("looking made tables (-want +got):\n%s", diff)
		}
		shell(t, "T=iptables-"+string(variant)+"; T6=ip6tables-"+string(variant)+`
			$T -t nat -N DOCKER
			$T -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
			$T -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
			$T -t nat -A DOCKER -i docker0 -j RETURN
			$T -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 21010 -j DNAT --to-destination 172.17.0.2:80
			$T -t nat -A DOCKER -d 192.0.2.1/32 ! -i docker0 -p tcp -m tcp --dport 21011 -j DNAT --to-destination 172.17.0.3:80
			$T -t nat -A DOCKER -d 127.0.0.1/32 ! -i docker0 -p tcp -m tcp --dport 21012 -j DNAT --to-destination 172.17.0.4:80
			$T -t nat -A DOCKER ! -i docker0 -p udp -m udp --dport 21013 -j DNAT --to-destination 172.17.0.5:53
			$T -t nat -N CNI-HOSTPORT-DNAT; $T -t nat -N CNI-DN-1
			$T -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
			$T -t nat -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment -j -m multiport --dports 21020,21030:21032 -j CNI-DN-1
			$T -t nat -A CNI-DN-1 -p tcp -m tcp --dport 21020 -j DNAT --to-destination 10.88.0.2:8080
			$T -t nat -A CNI-DN-1 -p tcp -m tcp --dport 21031:21040 -j DNAT --to-destination 10.88.0.2
			$T -t nat -N UNUSED; $T -t nat -A UNUSED -p tcp --dport 21040 -j DNAT --to-destination 10.0.0.1
			$T -t nat -A OUTPUT -p tcp --dport 21041 -j DNAT --to-destination 10.0.0.1
			$T -t nat -A PREROUTING -p tcp -m multiport --dports 9999,21050 -j REDIRECT --to-ports 8080
			$T -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15001
			$T6 -t nat -A PREROUTING -p tcp --dport 21010 -j DNAT --to-destination [fd00::2]:80
			$T6 -t nat -A PREROUTING -d ::1 -p tcp --dport 21011 -j DNAT --to-destination [fd00::2]:80`)
		want := strings.ReplaceAll(`V ipv4 9999 to ":8080" in PREROUTING
V ipv4 21010 to "172.17.0.2:80" in DOCKER
V ipv4 21011 at 192.0.2.1/32 to "172.17.0.3:80" in DOCKER
V ipv4 21020 to "10.88.0.2:8080" in CNI-DN-1
V ipv4 21031-21032 to "10.88.0.2" in CNI-DN-1
V ipv4 21050 to ":8080" in PREROUTING
V ipv6 21010 to "[fd00::2]:80" in PREROUTING
`, "V", string(variant))
		held := saved(t)
		all, err = f.Published(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, lines(all)); diff != "" {
			t.Errorf("published (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(held, saved(t)); diff != "" {
			t.Errorf("reading changed something (-want +got):\n%s", diff)
		}
	})
}

// TestPublishedBesideOtherRules: what one variant cannot show does not hide the other's.
func TestPublishedBesideOtherRules(t *testing.T) {
	freshNamespace(t)
	shell(t, `iptables-legacy -t nat -A PREROUTING -p tcp --dport 21010 -j DNAT --to-destination 172.17.0.2:80
		nft add table ip nat; nft 'add chain ip nat PREROUTING { type nat hook prerouting priority dstnat; }'
		nft add rule ip nat PREROUTING tcp dport 80 dnat to 10.0.0.1:80`)
	all, err := open(t, VariantAuto).Published(context.Background())
	if diff := cmp.Diff("legacy ipv4 21010 to \"172.17.0.2:80\" in PREROUTING\n", lines(all)); diff != "" {
		t.Errorf("published (-want +got):\n%s", diff)
	}
	if err == nil || !strings.Contains(err.Error(), "cannot read the published ports: cannot list table nat of ipv4") {
		t.Errorf("error: %v", err)
	}
}

func TestPublishedInAListing(t *testing.T) {
	for _, tt := range []struct{ name, rules, want string }{
		{"no rules", "", ""},
		{"no target", "-A PREROUTING -p tcp --dport 1\n-A PREROUTING -j", ""},
		{"another chain's target", "-A PREROUTING -p tcp --dport 1 -j MARK --set-mark 1", ""},
		{"ports are met on the way", "-A PREROUTING -p tcp --dport 10:20 -j A\n-A A -p tcp --dports 5:12,15,18:30,40 -j B\n-A B -j DNAT --to-destination 10.0.0.1",
			"10-12 to \"10.0.0.1\" in B\n15 to \"10.0.0.1\" in B\n18-20 to \"10.0.0.1\" in B\n"},
		{"no port is left", "-A PREROUTING -p tcp --dport 10 -j A\n-A A -p tcp --dport 11 -j DNAT --to-destination 10.0.0.1", ""},
		{"two ways to one rule", "-A PREROUTING -j A\n-A PREROUTING -g A\n-A A -p tcp --dport 10 -j REDIRECT", "10 to \"\" in A\n10 to \"\" in A\n"},
		{"addresses are met on the way", "-A PREROUTING -d 10.0.0.0/8 -j A\n-A A -d 10.1.0.0/16 -p tcp --dport 1 -j REDIRECT\n-A A -d 11.1.0.0/16 -p tcp --dport 2 -j REDIRECT\n-A A -d 0.0.0.0/1 -p tcp --dport 3 -j REDIRECT",
			"1 at 10.1.0.0/16 to \"\" in A\n3 at 10.0.0.0/8 to \"\" in A\n"},
		{"loopback on the way", "-A PREROUTING -d 127.0.0.0/8 -j A\n-A PREROUTING -i lo -j A\n-A A -p tcp --dport 1 -j REDIRECT", ""},
		{"all but loopback", "-A PREROUTING ! -d 127.0.0.0/8 ! -i lo -p tcp --dport 1 -j REDIRECT", "1 to \"\" in PREROUTING\n"},
		{"not to the host", "-A PREROUTING -m addrtype ! --dst-type LOCAL -p tcp --dport 1 -j REDIRECT\n-A PREROUTING -m addrtype --dst-type BROADCAST -p tcp --dport 1 -j REDIRECT", ""},
		{"local among others", "-A PREROUTING -m addrtype --dst-type UNICAST,LOCAL -p tcp --dport 1 -j REDIRECT", "1 to \"\" in PREROUTING\n"},
		{"other protocols", "-A PREROUTING -p sctp --dport 1 -j REDIRECT\n-A PREROUTING ! -p tcp -j A\n-A A -p tcp --dport 1 -j REDIRECT", ""},
		{"all but a port", "-A PREROUTING -p tcp ! --dport 22 -j REDIRECT --to-ports 9", ""},
		{"all but a port, of some", "-A PREROUTING -p tcp --dport 20:30 -j A\n-A A -p tcp ! --dport 22 -j REDIRECT --to-ports 9", "20-30 to \":9\" in A\n"},
		{"ports that are none", "-A PREROUTING -p tcp --dports 65536,-1,http,9:8,,1:2:3 -j REDIRECT", ""},
		{"text that reads like options", `-A PREROUTING -p tcp -m comment --comment --dport -m comment --comment "-j REDIRECT --dport 9" --dport 8 -j REDIRECT`, "8 to \"\" in PREROUTING\n"},
		{"control characters", "-A PREROUTING -p tcp --dport 1 -j A\x1b\n-A A\x1b -j DNAT --to-destination 1\x1b2", "1 to \"1?2\" in A?\n"},
		{"in a circle", "-A PREROUTING -j A\n-A A -j A\n-A A -p tcp --dport 1 -j REDIRECT --to-ports 2", strings.Repeat("1 to \":2\" in A\n", mostDepth)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all, err := parseSave("*nat\n" + tt.rules + "\nCOMMIT\n")[natTable].published()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, strings.ReplaceAll(lines(all), "  ", "")); diff != "" {
				t.Errorf("published (-want +got):\n%s", diff)
			}
		})
	}
	// Chains that branch out without end are given up.
	deep := "*nat\n-A PREROUTING -j A\n" + strings.Repeat("-A A -j A\n", 10)
	if _, err := parseSave(deep)[natTable].published(); err == nil {
		t.Error("a table without end is no error")
	}
	if all, err := (&table{}).published(); all != nil || err != nil {
		t.Errorf("no table: %v, %v", all, err)
	}
}

func FuzzPublished(f *testing.F) {
	f.Add("-A PREROUTING ! -d 10.0.0.0/8 -p tcp -m multiport --dports 1,2:3 -j A\n-A A -j DNAT --to-destination [::1]:80\n")
	f.Add("-A PREROUTING -j PREROUTING\n")
	f.Fuzz(func(t *testing.T, rules string) {
		table := parseSave("*nat\n" + rules)[natTable]
		if table == nil {
			return
		}
		all, _ := table.published()
		for _, p := range all {
			if p.First > p.Last || strings.ContainsAny(p.To+p.Chain, "\x00\x1b\n") {
				t.Fatalf("published %+v", p)
			}
		}
	})
}

// TestPublishedIsRemembered: nothing is listed again while nothing changes, and whatever changes is seen.
func TestPublishedIsRemembered(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		freshNamespace(t)
		f := start(t, variant)
		command := "iptables-" + string(variant)
		ask := func() int {
			t.Helper()
			ports, err := f.Published(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i := range ports {
				ports[i].First = 0 // the answer is the caller's
			}
			return len(ports)
		}
		if n := ask(); n != 0 {
			t.Fatalf("%d ports in an empty namespace", n)
		}
		for want := 1; want <= 3; want++ {
			shell(t, fmt.Sprintf("%s -t nat -A PREROUTING -p tcp --dport %d -j DNAT --to-destination 192.0.2.1:80", command, 21000+want))
			if n := ask(); n != want {
				t.Errorf("%d ports, want %d", n, want)
			}
		}
		before := f.xtables.runs.Load()
		ports, err := f.Published(t.Context())
		if err != nil || len(ports) != 3 || ports[0].First != 21001 {
			t.Errorf("again: %v, %v", ports, err)
		}
		if ran := f.xtables.runs.Load() != before; ran != (variant == VariantLegacy) {
			t.Errorf("a program was started: %t", ran)
		}
		shell(t, command+" -t nat -D PREROUTING 2")
		if n := ask(); n != 2 {
			t.Errorf("%d ports after one went, want 2", n)
		}
	})
}
