// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func redirectLines(all []Redirect) string {
	var b strings.Builder
	for _, r := range all {
		fmt.Fprintf(&b, "%s to %d: %s\n", r.Family, r.To, r.Ports)
	}
	return b.String()
}

// consulRedirect is what `consul connect redirect-traffic -proxy-uid 1234 -proxy-inbound-port 20000 -exclude-inbound-port 22
// -exclude-inbound-port 8500` of Consul 1.21 runs.
const consulRedirect = `
	$T -t nat -N CONSUL_PROXY_INBOUND; $T -t nat -N CONSUL_PROXY_IN_REDIRECT
	$T -t nat -N CONSUL_PROXY_OUTPUT; $T -t nat -N CONSUL_PROXY_REDIRECT
	$T -t nat -A CONSUL_PROXY_REDIRECT -p tcp -j REDIRECT --to-port 15001
	$T -t nat -A OUTPUT -p tcp -j CONSUL_PROXY_OUTPUT
	$T -t nat -A CONSUL_PROXY_OUTPUT -m owner --uid-owner 0 -j RETURN
	$T -t nat -A CONSUL_PROXY_OUTPUT -d 127.0.0.1/32 -j RETURN
	$T -t nat -A CONSUL_PROXY_OUTPUT -j CONSUL_PROXY_REDIRECT
	$T -t nat -A CONSUL_PROXY_IN_REDIRECT -p tcp -j REDIRECT --to-port 20000
	$T -t nat -A PREROUTING -p tcp -j CONSUL_PROXY_INBOUND
	$T -t nat -A CONSUL_PROXY_INBOUND -p tcp -j CONSUL_PROXY_IN_REDIRECT
	$T -t nat -I CONSUL_PROXY_INBOUND -p tcp --dport 22 -j RETURN
	$T -t nat -I CONSUL_PROXY_INBOUND -p tcp --dport 8500 -j RETURN
`

func TestRedirectsOfConsul(t *testing.T) {
	eachVariant(t, func(t *testing.T, variant Variant) {
		freshNamespace(t)
		f := open(t, VariantAuto)
		ask := func(want string) {
			t.Helper()
			all, err := f.Redirects(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, redirectLines(all)); diff != "" {
				t.Errorf("redirects (-want +got):\n%s", diff)
			}
		}
		ask("")
		script := strings.ReplaceAll(consulRedirect, "$T", "iptables-"+string(variant))
		shell(t, script)
		ask("ipv4 to 20000: 1-21, 23-8499, 8501-65535\n")
		if published, err := f.Published(t.Context()); err != nil || len(published) > 0 {
			t.Errorf("it publishes %v, %v", published, err)
		}
		shell(t, strings.ReplaceAll("$T -t nat -A PREROUTING -p tcp -j ACCEPT; $T -t nat -I PREROUTING -p tcp --dport 9000 -j DNAT --to-destination 192.0.2.1", "$T", "iptables-"+string(variant)))
		ask("ipv4 to 20000: 1-21, 23-8499, 8501-8999, 9001-65535\n")
		shell(t, "iptables-"+string(variant)+" -t nat -F PREROUTING")
		ask("")
	})
}

// TestRedirectsOfBothVariants: whichever meets a packet first has the last word, so that both have to agree.
func TestRedirectsOfBothVariants(t *testing.T) {
	freshNamespace(t)
	f := open(t, VariantAuto)
	for _, step := range []struct{ script, want string }{
		{"iptables-legacy -t nat -A PREROUTING -p tcp --dport 1:9 -j REDIRECT --to-ports 20000", "ipv4 to 20000: 1-9\n"},
		{"iptables-nft -t nat -A PREROUTING -p tcp --dport 5 -j DNAT --to-destination 192.0.2.1", "ipv4 to 20000: 1-4, 6-9\n"},
		{"iptables-nft -t nat -A PREROUTING -p tcp --dport 6:7 -j REDIRECT --to-ports 20001", "ipv4 to 20000: 1-4, 8-9\n"},
		{"iptables-nft -t nat -A PREROUTING -p tcp --dport 8:10 -j REDIRECT --to-ports 20000", "ipv4 to 20000: 1-4, 8-10\n"},
		{"ip6tables-nft -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 20000", "ipv4 to 20000: 1-4, 8-10\nipv6 to 20000: 1-65535\n"},
	} {
		shell(t, step.script)
		all, err := f.Redirects(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, redirectLines(all)); diff != "" {
			t.Errorf("after %s (-want +got):\n%s", step.script, diff)
		}
	}
	// Rules that cannot be read may do anything.
	shell(t, "iptables-nft -t nat -X; nft flush table ip nat; nft delete table ip nat; nft add table ip nat; nft 'add chain ip nat PREROUTING { type nat hook prerouting priority dstnat; }'; nft add rule ip nat PREROUTING tcp dport 80 dnat to 10.0.0.1:80")
	all, err := f.Redirects(t.Context())
	if diff := cmp.Diff("ipv6 to 20000: 1-65535\n", redirectLines(all)); diff != "" || err == nil {
		t.Errorf("beside rules that cannot be read, error %v (-want +got):\n%s", err, diff)
	}
}

func TestRedirectsInAListing(t *testing.T) {
	const catchAll = "\n-A PREROUTING -p tcp -j REDIRECT --to-ports 9"
	for _, tt := range []struct{ name, rules, want string }{
		{"no rules", "", ""},
		{"all", catchAll, "to 9: 1-65535"},
		{"some ports", "-A PREROUTING -p tcp -m multiport --dports 1,5:7 -j REDIRECT --to-ports 9", "to 9: 1, 5-7"},
		{"all but a port", "-A PREROUTING -p tcp -m tcp ! --dport 22 -j REDIRECT --to-ports 9", "to 9: 1-21, 23-65535"},
		{"another protocol above", "-A PREROUTING -p udp -j ACCEPT\n-A PREROUTING ! -p tcp -j ACCEPT" + catchAll, "to 9: 1-65535"},
		{"all but another protocol", "-A PREROUTING ! -p udp --dport 5 -j ACCEPT" + catchAll, "to 9: 1-4, 6-65535"},
		{"loopback above", "-A PREROUTING -i lo -j ACCEPT\n-A PREROUTING -d 127.0.0.0/8 -j RETURN\n-A PREROUTING -m addrtype ! --dst-type LOCAL -j ACCEPT" + catchAll, "to 9: 1-65535"},
		{"all but loopback", "-A PREROUTING ! -i lo ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -p tcp -j REDIRECT --to-ports 9", "to 9: 1-65535"},
		{"another interface's alone", "-A PREROUTING -i eth1 -p tcp -j REDIRECT --to-ports 9", ""},
		{"some sources' alone", "-A PREROUTING -s 10.0.0.0/8 -p tcp -j REDIRECT --to-ports 9", ""},
		{"some addresses alone", "-A PREROUTING -d 10.0.0.1/32 -p tcp -j REDIRECT --to-ports 9", ""},
		{"one packet in two", "-A PREROUTING -p tcp -m statistic --mode random --probability 0.5 -j REDIRECT --to-ports 9", ""},
		{"some accepted above", "-A PREROUTING -s 10.0.0.0/8 -p tcp --dport 80 -j ACCEPT" + catchAll, "to 9: 1-79, 81-65535"},
		{"some let go above", "-A PREROUTING -s 10.0.0.0/8 -p tcp --dport 80 -j RETURN" + catchAll, "to 9: 1-79, 81-65535"},
		{"accepted above", "-A PREROUTING -j ACCEPT" + catchAll, ""},
		{"logged above", "-A PREROUTING -j LOG\n-A PREROUTING -m comment --comment \"--dport 5\"" + catchAll, "to 9: 1-65535"},
		{"sent elsewhere above", "-A PREROUTING -p tcp --dport 80:81 -j REDIRECT --to-ports 7\n-A PREROUTING -p tcp --dport 82 -j REDIRECT\n-A PREROUTING -p tcp --dport 83 -j REDIRECT --to-ports 5-8" + catchAll,
			"to 7: 80-81\nto 9: 1-79, 84-65535"},
		{"perhaps to either", "-A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-ports 7" + catchAll, "to 9: 1-79, 81-65535"},
		{"twice to one", "-A PREROUTING -i eth0 -p tcp --dport 80 -j REDIRECT --to-ports 9" + catchAll, "to 9: 1-65535"},
		{"behind Docker's chain", ":DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80" + catchAll, "to 9: 1-79, 81-65535"},
		{"back from a chain", ":A - [0:0]\n-A PREROUTING -j A\n-A A -p tcp --dport 80 -j RETURN\n-A A -p tcp --dport 1:100 -j REDIRECT --to-ports 9\n-A PREROUTING -p tcp --dport 80 -j REDIRECT --to-ports 9", "to 9: 1-100"},
		{"a chain that some go to", ":A - [0:0]\n-A PREROUTING -i eth0 -j A\n-A A -p tcp --dport 80 -j REDIRECT --to-ports 9", ""},
		{"no way back from a goto", ":A - [0:0]\n-A PREROUTING -p tcp --dport 1:9 -g A\n-A A -p tcp --dport 5 -j REDIRECT --to-ports 9" + catchAll, "to 9: 5, 10-65535"},
		{"into an empty chain", ":A - [0:0]\n-A PREROUTING -j A" + catchAll, "to 9: 1-65535"},
		{"text that reads like options", "-A PREROUTING -p tcp -m comment --comment \"-j\" -m comment --comment \"--dport 5\" -j REDIRECT --to-ports 9", "to 9: 1-65535"},
		{"in a circle", ":A - [0:0]\n-A PREROUTING -j A\n-A A -j A" + catchAll, ""},
		{"another chain's", ":A - [0:0]\n-A OUTPUT -p tcp -j REDIRECT --to-ports 9", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			listed := parseSave("*nat\n" + tt.rules + "\nCOMMIT\n")["nat"]
			got := redirectLines(redirectsOf(map[Family][]*table{IPv4: {listed}}))
			want := ""
			for line := range strings.Lines(tt.want) {
				want += "ipv4 " + strings.TrimSuffix(line, "\n") + "\n"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("redirects (-want +got):\n%s", diff)
			}
		})
	}
	deep := ":A - [0:0]\n-A PREROUTING -j A\n" + strings.Repeat("-A A -j A\n", 10)
	if all := redirectsOf(map[Family][]*table{IPv4: {parseSave("*nat\n" + deep + "-A PREROUTING -p tcp -j REDIRECT --to-ports 9\n")["nat"]}}); all != nil {
		t.Errorf("a table without end redirects: %s", redirectLines(all))
	}
}
