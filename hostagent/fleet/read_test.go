// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestReadFindings: what hostagent writes is held to this package by tests of the core; this is what else may stand there.
func TestReadFindings(t *testing.T) {
	const head = "web: 1 warning\n\n"
	exposed := Finding{Severity: catalog.Warning, ID: "exposed-listener", State: "open"}
	with := func(change func(*Finding)) []Finding {
		f := exposed
		change(&f)
		return []Finding{f}
	}
	for _, tt := range []struct {
		name, output string
		want         []Finding
		more         int
	}{
		{"nothing", "", nil, 0},
		{"lines of blanks", "  \n\n \r\n", nil, 0},
		{"a whole one", head + "warning exposed-listener  tcp 0.0.0.0:8080\n  web listens\n  there\n  who:    java\n          17\n  remedy: bind it\n          to lo\n",
			with(func(f *Finding) {
				f.Where, f.Message, f.Who, f.Remedy = "tcp 0.0.0.0:8080", "web listens there", "java 17", "bind it to lo"
			}), 0},
		{"with carriage returns", "a\r\n\r\nwarning exposed-listener\r\n  b\r\n", with(func(f *Finding) { f.Message = "b" }), 0},
		{"a head alone", head + "warning exposed-listener", with(func(*Finding) {}), 0},
		{"cut in its remedy", head + "warning exposed-listener\n  m\n  remedy: bi\n(cut)", with(func(f *Finding) { f.Message, f.Remedy = "m", "bi" }), 0},
		{"an id of a newer one", head + "warning brand-new2\n  m", with(func(f *Finding) { f.ID, f.Message = "brand-new2", "m" }), 0},
		{"control characters", head + "warning exposed-listener  tcp\x1b\n  m\x07\n  remedy: \u202e", with(func(f *Finding) {
			f.Where, f.Message, f.Remedy = `tcp\u001b`, `m\u0007`, `\u202e`
		}), 0},
		{"in the first paragraph", "warning exposed-listener\n  m", nil, 0},
		{"indented", head + "  warning exposed-listener\n  m", nil, 0},
		{"a severity that is none", head + "grave exposed-listener\n  m", nil, 0},
		{"a state that is none", head + "warning exposed-listener (closed)\n  m", nil, 0},
		{"an address below a short head is text", head + "warning exposed-listener\n  tcp 0.0.0.0:80\n  m", with(func(f *Finding) { f.Message = "tcp 0.0.0.0:80 m" }), 0},
		{"an exemption of what is not exempt is text", head + "warning exposed-listener\n  m\n  exempt: x", with(func(f *Finding) { f.Message = "m exempt: x" }), 0},
		{"more", head + "warning exposed-listener\n  m\n\nand 7 more: see hostagent scan\n", with(func(f *Finding) { f.Message = "m" }), 7},
		{"cut by the agent", "web: 1 critical, 3 warnings, 2 info\n\nwarning exposed-listener\n  m\n  remedy: bi ... (captured 60 of 900 bytes)",
			with(func(f *Finding) { f.Message, f.Remedy = "m", "bi …" }), 5},
		{"cut by the agent, the only one", head + "warning exposed-listener\n  m ... (captured 60 of 900 bytes)", with(func(f *Finding) { f.Message = "m …" }), 0},
		{"cut by the agent, of a title", "web: application reachable\n\nwarning exposed-listener\n  m ... (captured 60 of 900 bytes)",
			with(func(f *Finding) { f.Message = "m …" }), 0},
		{"a count that is whole", "web: 3 warnings\n\nwarning exposed-listener\n  m", with(func(f *Finding) { f.Message = "m" }), 0},
		{"more than there can be", head + "and 99999999 more: see hostagent scan\nand -1 more: see hostagent scan\nand x more: see hostagent scan", nil, 0},
		{"counts", "warning   2 exposed-listener\n", []Finding{exposed, exposed}, 0},
		{"many counts", "info      999999 exposed-listener (exempt)\n", nil, 999999},
		{"counts among text", "warning   2 exposed-listener\nand so on", nil, 0},
		{"counts with one blank", "warning 2 exposed-listener", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, more := ReadFindings(tt.output)
			if tt.name == "many counts" {
				if len(got) != maxFindings {
					t.Errorf("%d findings", len(got))
				}
				got, more = nil, more+len(got)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || more != tt.more {
				t.Errorf("%d more\n%s", more, diff)
			}
		})
	}
	if got, more := ReadFindings(head + strings.Repeat("warning exposed-listener\n", 5000)); len(got) != maxFindings || more < 100 {
		t.Errorf("%d findings and %d more", len(got), more)
	}
}

// FuzzEvaluate: whatever stands in a check, nothing of it is shown raw, and little of it makes little.
func FuzzEvaluate(f *testing.F) {
	for _, output := range []string{
		"web: 2 warnings\n\nwarning exposed-listener  tcp 0.0.0.0:8080\n  m\n  remedy: r\n\nand 7 more: see hostagent scan\n\nsidecar x: port 1, open\n  exposed paths 20200, not opened\nand 3 more sidecars",
		"web listens on loopback only: tcp 127.0.0.1:1, tcp 127.0.0.1:2 and 3 more.\nsidecar x: port 1, left closed", "No findings.",
		staleLine + "\nwarning   2 exposed-listener (mitigated)\n", "production checklist: 23 of 38 pass, 2 fail; 6 do not apply\n\nfail acl",
		expiredLast + "hostagent 1.2.3\nIt runs in guard mode; it", "hostagent was stopped: it had no rules.", "\xff\x1b", "sidecar ", "and  more sidecars",
	} {
		f.Add("service:web", "Listeners of web", "warning", output, "web")
		f.Add("sidecar-range", "", "critical", output, "")
		f.Add("alive", "\x1b", "odd", output, "")
		f.Add("production-checklist", "", "passing", output, "")
	}
	f.Fuzz(func(t *testing.T, key, name, status, output, application string) {
		fleet := consul.Fleet{
			Datacenter: name, Nodes: []consul.FleetNode{{Name: key, ID: name, Member: true, Alive: true}},
			Agents: []consul.FleetAgent{{Node: key, ID: "h", Meta: map[string]string{"version": output}, Checks: []consul.FleetCheck{
				{ID: "h:" + key, Name: name, Status: consul.Status(status), Output: output}, {ID: "h:alive", Status: "passing", Output: output},
			}}},
			Instances: []consul.FleetInstance{{Node: key, ID: application}},
		}
		r := Evaluate(fleet, Query{Service: "h", Application: application})
		if len(r.Hosts) != 1 {
			t.Fatalf("%d hosts", len(r.Hosts))
		}
		h := &r.Hosts[0]
		r.Worst()
		r.Summary()
		if len(h.Findings) > 2*maxFindings || h.More < 0 {
			t.Fatalf("%d findings, %d more", len(h.Findings), h.More)
		}
		if text := fmt.Sprint(allTexts(reflect.ValueOf(r.Document(""))), allTexts(reflect.ValueOf(r.Hosts))); !isSafe(text) {
			t.Fatalf("%q", text)
		}
	})
}

// isSafe tells whether nothing in text but the ends of lines moves a cursor or turns letters round.
func isSafe(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool {
		return r != '\n' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp))
	})
}

// allTexts are all strings below a value.
func allTexts(v reflect.Value) (texts []string) {
	switch v.Kind() {
	case reflect.String:
		return []string{v.String()}
	case reflect.Slice:
		for i := range v.Len() {
			texts = append(texts, allTexts(v.Index(i))...)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				texts = append(texts, allTexts(v.Field(i))...)
			}
		}
	default: // has no text
	}
	return texts
}
