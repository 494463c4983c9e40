// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func TestPlaced(t *testing.T) {
	finding := func(severity catalog.Severity, state State) []Finding {
		return []Finding{{ID: catalog.ExposedListener, Severity: severity, State: state, Message: "m", Remedy: "r"}}
	}
	warning := map[string]consul.Status{"": consul.Warning, "db": consul.Critical}
	critical := map[string]consul.Status{"": consul.Critical, "web": consul.Warning}
	for _, tt := range []struct {
		name    string
		policy  map[string]consul.Status
		service string
		fs      []Finding
		stale   bool
		want    consul.Status
	}{
		{"own service", nil, "web", finding(catalog.Critical, Open), false, consul.Critical},
		{"own service, stale", nil, "web", nil, true, consul.Warning},
		{"nothing wrong", critical, "shop", nil, false, consul.Passing},
		{"default", warning, "web", finding(catalog.Critical, Open), false, consul.Warning},
		{"default is critical", critical, "shop", finding(catalog.Warning, Open), false, consul.Critical},
		{"named critical", warning, "db", finding(catalog.Warning, Open), false, consul.Critical},
		{"named warning", critical, "web", finding(catalog.Warning, Open), false, consul.Warning},
		{"a service without a name", critical, "", finding(catalog.Warning, Open), false, consul.Critical},
		{"info", critical, "shop", finding(catalog.Info, Open), false, consul.Passing},
		{"mitigated", critical, "shop", finding(catalog.Warning, Mitigated), false, consul.Passing},
		{"exempt", critical, "shop", finding(catalog.Info, Exempt), false, consul.Passing},
		{"unknown is not wrong", critical, "shop", nil, true, consul.Passing},
		{"what was wrong stays so", critical, "shop", finding(catalog.Warning, Open), true, consul.Critical},
	} {
		policy := Policy{ReportOnService: tt.policy}
		s := Service{ID: tt.service + "-1", Name: tt.service}
		c := policy.placed(s, tt.fs, telling{mode: ModeObserve, stale: tt.stale}.serviceCheck(s, tt.fs))
		want := s.ID
		if tt.policy == nil {
			want = ""
		}
		if c.Status != tt.want || c.Application != want || strings.HasPrefix(c.Output, stale) != tt.stale {
			t.Errorf("%s: %s on %q, want %s on %q:\n%s", tt.name, c.Status, c.Application, tt.want, want, c.Output)
		}
	}
}

func TestNotes(t *testing.T) {
	f := func(severity catalog.Severity, remedy string) Finding {
		return Finding{ID: catalog.ExposedListener, Severity: severity, State: Open, Remedy: remedy}
	}
	long := strings.Repeat("word ", 60)
	for _, tt := range []struct {
		name string
		fs   []Finding
		want string
	}{
		{"passing", nil, "purpose"},
		{"info", []Finding{f(catalog.Info, "no")}, "purpose"},
		{"one", []Finding{f(catalog.Warning, "bind web to 127.0.0.1"), f(catalog.Info, "no")}, "Remedy: bind web to 127.0.0.1."},
		{"the worst", []Finding{f(catalog.Critical, "stop it."), f(catalog.Warning, "no")}, "Remedy: stop it."},
		{"each once", []Finding{f(catalog.Warning, "a"), f(catalog.Warning, "b"), f(catalog.Warning, "a")}, "Remedy: a. Also: b."},
		{"too many", []Finding{f(catalog.Warning, "a"), f(catalog.Warning, long+"b"), f(catalog.Warning, long+"c"), f(catalog.Warning, "d")},
			"Remedy: a. Also: " + long + "b. And 2 more: see the output."},
	} {
		if got := notesOf("purpose", tt.fs, false); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if got := notesOf("purpose", []Finding{f(catalog.Warning, "bind 10.0.0.5")}, true); got != notesCounts {
		t.Errorf("counts: %q", got)
	}
	if got := notesOf("", []Finding{f(catalog.Warning, strings.Repeat("x", 5000))}, false); len(got) > maxNotes+100 {
		t.Errorf("%d bytes of notes", len(got))
	}
}

func TestCounts(t *testing.T) {
	var fs []Finding
	for range 12 {
		fs = append(fs, Finding{ID: catalog.SquattedPort, Severity: catalog.Warning, State: Open, Message: "secret 10.0.0.5"})
	}
	fs = append(fs, Finding{ID: catalog.ExposedListener, Severity: catalog.Critical, State: Open},
		Finding{ID: catalog.ExposedListener, Severity: catalog.Info, State: Mitigated},
		Finding{ID: catalog.ExposedListener, Severity: catalog.Info, State: Exempt})
	want(t, "counts", "critical  1 exposed-listener\nwarning   12 squatted-port\ninfo      1 exposed-listener (exempt)\ninfo      1 exposed-listener (mitigated)\n", countsText(fs))
	want(t, "status", "critical", string(statusOf(fs)))
}

// TestCountsTellNoDetails: with detail = "counts" no check tells an address, a port, a process, a name beside that of the
// check's own service, or what an error says; the status of each is what it is in full.
func TestCountsTellNoDetails(t *testing.T) {
	for name, set := range map[string]func(*fakeHost, *Parts){
		"well": func(*fakeHost, *Parts) {},
		"exposed": func(h *fakeHost, _ *Parts) {
			h.listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000 uid=0", "tcp [::]:21077 uid=0")
		},
		"firewall": func(h *fakeHost, _ *Parts) { h.applyFail = errors.New("secret: 10.0.0.5 at /etc/secret") },
		"consul": func(h *fakeHost, _ *Parts) {
			h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("secret 10.0.0.5")}
		},
		"listeners": func(h *fakeHost, _ *Parts) { h.listenFail = errors.New("secret: /proc/secret") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHost()
			parts := h.parts(ModeGuard)
			h.runParts(t, parts, func(reload chan<- Parts) {
				pass(10 * time.Second)
				set(h, &parts)
				pass(10 * time.Second)
				full := h.report
				counts := parts
				counts.Policy.CountsOnly = true
				reload <- counts
				pass(5 * time.Second)
				if len(full.Checks) < 3 || len(full.Checks) != len(h.report.Checks) {
					t.Fatalf("%d checks in full, %d of counts", len(full.Checks), len(h.report.Checks))
				}
				for i, c := range append(slices.Clone(h.report.Checks), h.report.Life) {
					before := append(slices.Clone(full.Checks), full.Life)[i]
					if c.Status != before.Status || c.Key != before.Key || c.Name != before.Name {
						t.Errorf("%s is %s, in full %s is %s", c.Key, c.Status, before.Key, before.Status)
					}
					for _, detail := range []string{"secret", "127.0.0.1", "0.0.0.0", "10.0.", "8080", "21000", "21077", "sidecar-proxy", "/"} {
						if strings.Contains(c.Output+c.Notes, detail) {
							t.Errorf("%s tells %q:\n%s\n%s", c.Key, detail, c.Output, c.Notes)
						}
					}
				}
			})
		})
	}
}

// TestReportMoves: a reload of "on" places the results of applications elsewhere at the next report, and only them.
func TestReportMoves(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080 uid=0", "tcp [::]:21000 uid=0")
	placed := func() string {
		var lines []string
		for _, c := range h.report.Checks {
			lines = append(lines, fmt.Sprintf("%s on %q: %s", c.Key, c.Application, c.Status))
		}
		return strings.Join(lines, "\n")
	}
	h.run(t, ModeObserve, func(reload chan<- Parts) {
		pass(10 * time.Second)
		own := placed()
		want(t, "own", "firewall on \"\": passing\nsidecar-range on \"\": passing\nservice:web on \"\": warning", own)
		parts := h.parts(ModeObserve)
		parts.Policy.ReportOnService = map[string]consul.Status{"": consul.Critical}
		reload <- parts
		pass(0)
		want(t, "on service", strings.Replace(own, `web on "": warning`, `web on "web": critical`, 1), placed())
		if !strings.Contains(h.report.Life.Notes, "hostagent reports remove") {
			t.Errorf("the life check does not tell what stays: %s", h.report.Life.Notes)
		}
		reload <- h.parts(ModeObserve)
		pass(0)
		want(t, "own again", own, placed())
	})
}

// TestDisabledReportsGo: what an earlier run reported is taken away once by a run that does not report.
func TestDisabledReportsGo(t *testing.T) {
	h := newFakeHost()
	parts := h.parts(ModeObserve)
	parts.Report = false
	h.runParts(t, parts, func(chan<- Parts) {
		pass(time.Minute)
		if diff := cmp.Diff([]string{"hostagent"}, h.withdrawn); diff != "" || len(h.report.Checks) > 0 {
			t.Errorf("%d checks reported; withdrawn (-want +got):\n%s", len(h.report.Checks), diff)
		}
	})
}

// TestOwnServiceIsKnown: whoever takes hostagent's name is judged, unless he does nothing.
func TestOwnServiceIsKnown(t *testing.T) {
	policy := Policy{OwnService: "hostagent"}
	for text, want := range map[string]bool{
		`{"ID":"hostagent","Name":"hostagent"}`:             true,
		`{"ID":"hostagent","Name":"hostagent","Port":8080}`: false,
		`{"ID":"hostagent-2","Name":"hostagent"}`:           false,
		`{"ID":"hostagent","Name":"web"}`:                   false,
	} {
		var r consul.Registration
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		if policy.isOwn(&r) != want {
			t.Errorf("%s: want %t", text, want)
		}
	}
}
