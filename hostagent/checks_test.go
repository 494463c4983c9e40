// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// TestOutputFits: what Consul would cut off is left out as a whole, and counted.
func TestOutputFits(t *testing.T) {
	long := func(words int) string { return strings.Repeat("word ", words) }
	told := telling{mode: ModeGuard}
	for words := range 200 {
		var fs []Finding
		for range 60 {
			fs = append(fs, Finding{ID: catalog.ExposedListener, Severity: catalog.Warning, State: Open, Message: long(30 + words), Remedy: long(words)})
		}
		s := Service{ID: "web", Name: "web"}
		for i := range 50 {
			s.Sidecars = append(s.Sidecars, Sidecar{ID: strings.Repeat("x", 200), Port: 21000 + i, Opened: true})
		}
		for _, c := range []consul.Check{told.serviceCheck(s, fs), told.rangeCheck(DefaultSidecarRange(), fs)} {
			told := strings.Count(c.Output, "warning exposed-listener\n")
			if len(c.Output)+len(stale) > consul.MaxOutput || told == 0 || !strings.Contains(c.Output, fmt.Sprintf("\nand %d more: see hostagent scan\n", 60-told)) {
				t.Fatalf("%d words: %d bytes, %d findings:\n%s", words, len(c.Output), told, c.Output)
			}
		}
	}
	if text := findingsText([]Finding{{ID: catalog.ExposedListener, Message: "a", Remedy: "b"}}, 100); strings.Contains(text, "more") {
		t.Errorf("%q", text)
	}
}

// TestOutputsAreReadable: the UI breaks lines that are too wide anywhere, and Consul cuts what is too long.
func TestOutputsAreReadable(t *testing.T) {
	name := func(s string) string { return strings.Repeat(s+" ", 100) }
	var services []string
	var listening []sockets.Listener
	var networks []netip.Prefix
	for i := range 100 {
		services = append(services, fmt.Sprintf("service-%d", i))
		listening = append(listening, sockets.Listener{Addr: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(8000+i))})
		networks = append(networks, netip.MustParsePrefix(fmt.Sprintf("2001:db8:aaaa:bbbb:cccc:dddd:eeee:%x/127", 2*i)))
	}
	var odd, all firewall.PortSet
	for port := uint16(20001); port < 24000; port += 2 {
		odd.Add(port)
		all.Add(port)
		all.Add(port - 1)
	}
	full := Result{Rules: firewall.Ruleset{Guard: all, Open: odd}}
	for port := range odd.All() {
		full.Openings = append(full.Openings, Opening{Port: port, Services: services, Held: true})
	}
	for port := range uint16(40) {
		full.Quarantined = append(full.Quarantined, Quarantined{Port: 8000 + port, Services: services})
	}
	sidecars := []Sidecar{{ID: name("日本"), Port: 21000, Paths: []SidecarPath{{Port: 1}, {Port: 2, Opened: true}}}}
	finding := Finding{ID: catalog.ExposedListener, Severity: catalog.Critical, State: Open, Message: name("日本"), Remedy: name("é")}
	for _, mode := range []Mode{ModeGuard, ModeObserve} {
		for _, counts := range []bool{false, true} {
			for _, failure := range []error{nil, errors.New(name("failure"))} {
				h := newFakeHost()
				parts := h.parts(mode)
				parts.Policy.CountsOnly, parts.Policy.AllowFrom, parts.Policy.AllowCluster = counts, networks, true
				a := NewAgent(parts)
				a.result, a.memory.settled, a.applyErr, a.listenErr = full, true, failure, failure
				told := telling{mode: mode, counts: counts, stale: failure != nil}
				for _, c := range []consul.Check{
					a.firewallCheck(), a.lifeCheck(failure), a.stoppedCheck(),
					told.rangeCheck(DefaultSidecarRange(), nil), told.rangeCheck(DefaultSidecarRange(), []Finding{finding}),
					told.serviceCheck(Service{Name: name("日本"), Sidecars: sidecars}, nil),
					told.serviceCheck(Service{Name: "web", Listeners: listening}, []Finding{finding, finding, finding, finding, finding, finding}),
					told.serviceCheck(Service{Name: "web", Listeners: listening}, nil),
				} {
					if len(c.Output) > consul.MaxOutput || !utf8.ValidString(c.Output) || c.Output == "" {
						t.Errorf("%s mode: %s has %d bytes", mode, c.Key, len(c.Output))
					}
					for line := range strings.Lines(c.Output) {
						if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 79 || strings.ContainsAny(line, "\x1b\r\t") {
							t.Errorf("%s mode, counts %t: a line of %s has %d columns: %s", mode, counts, c.Key, n, line)
						}
					}
					if says := strings.Contains(c.Notes, "the rest of the range is closed"); says && mode == ModeObserve {
						t.Errorf("in observe mode %s says: %s", c.Key, c.Notes)
					}
				}
			}
		}
	}
}
