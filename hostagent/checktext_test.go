// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// TestNoLineIsTooWide: whatever there is to be told of a finding, of however long names, no line is wider than 79 columns but
// for a word that is, and no word is wider than the UI's box.
func TestNoLineIsTooWide(t *testing.T) {
	placeholder := regexp.MustCompile(`{([a-z]+)}`)
	listener := &sockets.Listener{
		Protocol: sockets.TCP, Addr: netip.MustParseAddrPort("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535"), UID: 4294967294,
	}
	long := strings.Repeat("postgresql-replica ", 40)
	owner := &sockets.Owner{User: strings.Repeat("u", 32), Unit: strings.Repeat("unit", 12) + ".service"}
	for pid := range int32(30) {
		owner.Processes = append(owner.Processes, sockets.Process{PID: pid + 1, Name: strings.Repeat("p", int(pid)/2)})
	}
	told := telling{mode: ModeGuard, stale: true}
	for _, value := range []string{long, strings.Repeat("x", 60) + " y", strings.Repeat("x", 85), "\u202e\x1b[2J\t" + long, strings.Repeat("x", 5000)} {
		for _, entry := range catalog.Entries() {
			for _, state := range []State{Open, Mitigated, Exempt} {
				for _, o := range []*sockets.Owner{nil, {}, owner} {
					var pairs []string
					for _, match := range placeholder.FindAllStringSubmatch(entry.Message+entry.Mitigated+entry.Remedy, -1) {
						pairs = append(pairs, match[1], value)
					}
					f := Finding{
						ID: entry.ID, Severity: entry.Severity, State: state, Listener: listener, Owner: o, Exemption: &Exemption{Reason: value},
						Message: catalog.Render(entry.Message+". "+entry.Mitigated, pairs...), Remedy: catalog.Render(entry.Remedy, pairs...),
					}
					s := Service{ID: value, Name: value, Listeners: []sockets.Listener{*listener}, Sidecars: []Sidecar{{ID: value, Port: 65535}}}
					for _, fs := range [][]Finding{{f}, {f, f, f}} {
						fitsTheUI(t, told.serviceCheck(s, fs))
						fitsTheUI(t, told.rangeCheck(DefaultSidecarRange(), fs))
					}
				}
			}
		}
	}
}

func fitsTheUI(t *testing.T, c consul.Check) {
	t.Helper()
	if len(c.Output) > consul.MaxOutput || strings.ContainsFunc(strings.ReplaceAll(c.Output, "\n", ""), func(r rune) bool { return r < ' ' || r == '\u202e' }) {
		t.Errorf("%s has %d bytes, or characters that it should not:\n%q", c.Key, len(c.Output), c.Output)
	}
	for _, text := range []string{c.Name, c.Notes} {
		for word := range strings.FieldsSeq(text) {
			if utf8.RuneCountInString(word) > 80 {
				t.Errorf("the UI would have to break %q", text)
			}
		}
	}
	const label = len("  remedy: ")
	for line := range strings.Lines(c.Output) {
		longest := 0
		for word := range strings.FieldsSeq(line) {
			longest = max(longest, utf8.RuneCountInString(word))
		}
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 79 && (label+longest <= 79 || n > label+longest) || n > 96 {
			t.Errorf("a line has %d columns: %q", n, line)
		}
	}
}

// TestFindingsAreLaidOut as operators read them: what it is about, what is wrong, who it is and what mends it.
func TestFindingsAreLaidOut(t *testing.T) {
	f := func(id catalog.ID, severity catalog.Severity, state State) Finding {
		return Finding{ID: id, Severity: severity, State: state, Message: "one sentence", Remedy: "another", Exemption: &Exemption{Reason: "meant so"}}
	}
	exposed := f(catalog.ExposedListener, catalog.Warning, Open)
	exposed.Listener = &sockets.Listener{Protocol: sockets.TCP, Addr: netip.MustParseAddrPort("0.0.0.0:8080")}
	exposed.Owner = &sockets.Owner{Processes: []sockets.Process{{PID: 7, Name: "nginx"}, {PID: 8, Name: "nginx"}}, User: "root", Unit: "nginx.service"}
	unseen := exposed
	unseen.Owner = nil
	for _, tt := range []struct {
		name string
		fs   []Finding
		want string
	}{
		{"one", []Finding{exposed}, `web: application reachable around the mesh

warning exposed-listener  tcp 0.0.0.0:8080
  one sentence
  who:    nginx, user root, unit nginx.service
  remedy: another

sidecar web-sidecar-proxy: port 21000, open`},
		{"out of sight", []Finding{unseen}, `web: application reachable around the mesh

warning exposed-listener  tcp 0.0.0.0:8080
  one sentence
  who:    uid 0, process out of sight
  remedy: another

sidecar web-sidecar-proxy: port 21000, open`},
		{"several", []Finding{
			f(catalog.ExposedAdmin, catalog.Critical, Open), exposed, f(catalog.QuarantineRefused, catalog.Warning, Open), f(catalog.ExposedSibling, catalog.Info, Exempt),
		}, `web: 1 critical, 2 warnings, 1 info

critical exposed-admin
  one sentence
  remedy: another

warning exposed-listener  tcp 0.0.0.0:8080
  one sentence
  who:    nginx, user root, unit nginx.service
  remedy: another

warning quarantine-refused
  one sentence
  remedy: another

info exposed-sibling (exempt)
  one sentence
  exempt: meant so

sidecar web-sidecar-proxy: port 21000, open`},
	} {
		s := Service{ID: "web", Name: "web", Sidecars: []Sidecar{{ID: "web-sidecar-proxy", Port: 21000, Opened: true}}}
		want(t, tt.name, tt.want, telling{mode: ModeGuard}.serviceCheck(s, tt.fs).Output)
	}
}

func TestMiddleOut(t *testing.T) {
	nomad := "_nomad-task-6fbb6c07-64d1-6e2f-8c1d-0d5a4c9d5b3e-group-api-count-api-9001"
	for name, short := range map[string]string{
		"": "", "web": "web", strings.Repeat("é", 64): strings.Repeat("é", 64), "a\u202eb": `a\u202eb`,
		nomad: "_nomad-task-6fbb6c07-64d1-6e2f-8c1d-0d5…group-api-count-api-9001",
	} {
		want(t, name, short, middleOut(name))
	}
	if n := utf8.RuneCountInString(middleOut(strings.Repeat("é", 5000))); n != 64 {
		t.Errorf("%d characters", n)
	}
}
