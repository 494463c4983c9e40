// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
)

func sample() Report {
	return Report{
		Service: "hostagent",
		Life:    Check{Name: "hostagent alive", Status: Passing, Output: "runs", Notes: "life"},
		Checks: []Check{
			{Key: "firewall", Name: "Firewall", Status: Passing, Output: "open: 21000", Notes: "rules"},
			{Key: "service:web", Name: "Listeners of web", Status: Warning, Output: "0.0.0.0:80"},
		},
	}
}

// sampleState is what stands after sample.
func sampleState() map[string]string {
	return map[string]string{
		"hostagent:alive":       "passing|hostagent alive|life|runs",
		"hostagent:firewall":    "passing|Firewall|rules|open: 21000",
		"hostagent:service:web": "warning|Listeners of web||0.0.0.0:80",
	}
}

const (
	look         = "GET checks"
	lookOwn      = "GET service/hostagent"
	registerLife = "PUT service/register"
	register     = "PUT check/register"
	updateLife   = "PUT check/update/hostagent:alive"
	updateRules  = "PUT check/update/hostagent:firewall"
	updateWeb    = "PUT check/update/hostagent:service:web"
)

func report(t *testing.T, c *Client, r Report) int {
	t.Helper()
	written, err := c.Report(t.Context(), r)
	if err != nil {
		t.Fatalf("report: %v", err)
	}
	return written
}

// Each case begins with the sample standing and reported; another report of the same must write nothing.
func TestReport(t *testing.T) {
	for _, tt := range []struct {
		name     string
		change   func(a *fakeAgent, r *Report)
		requests []string
		written  int
		state    func(map[string]string) // changes to sampleState
	}{
		{name: "nothing", requests: []string{look}},
		{
			name:     "output",
			change:   func(_ *fakeAgent, r *Report) { r.Checks[0].Output = "open: 21001" },
			requests: []string{look, updateRules, register}, written: 1,
			state: func(s map[string]string) { s["hostagent:firewall"] = "passing|Firewall|rules|open: 21001" },
		},
		{
			name:     "status",
			change:   func(_ *fakeAgent, r *Report) { r.Checks[0].Status = Critical },
			requests: []string{look, updateRules}, written: 1,
			state: func(s map[string]string) { s["hostagent:firewall"] = "critical|Firewall|rules|open: 21000" },
		},
		{
			name:     "status and output",
			change:   func(_ *fakeAgent, r *Report) { r.Checks[1].Status, r.Checks[1].Output = Passing, "loopback" },
			requests: []string{look, updateWeb}, written: 1,
			state: func(s map[string]string) { s["hostagent:service:web"] = "passing|Listeners of web||loopback" },
		},
		{
			name:     "name",
			change:   func(_ *fakeAgent, r *Report) { r.Checks[0].Name = "Rules" },
			requests: []string{look, register, updateRules, register}, written: 1,
			state: func(s map[string]string) { s["hostagent:firewall"] = "passing|Rules|rules|open: 21000" },
		},
		{
			name:     "one more and one gone",
			change:   func(_ *fakeAgent, r *Report) { r.Checks[1].Key = "service:db" },
			requests: []string{look, register, "PUT check/update/hostagent:service:db", register, "PUT check/deregister/hostagent:service:web"}, written: 2,
			state: func(s map[string]string) {
				s["hostagent:service:db"] = s["hostagent:service:web"]
				delete(s, "hostagent:service:web")
			},
		},
		{
			name:     "one that stands as it is",
			change:   func(_ *fakeAgent, r *Report) { r.Checks, r.Keep = r.Checks[:1], []string{r.Checks[1].Key, "none such"} },
			requests: []string{look},
		},
		{
			name:     "check lost",
			change:   func(a *fakeAgent, _ *Report) { delete(a.checks, "hostagent:firewall") },
			requests: []string{look, register, updateRules, register}, written: 1,
		},
		{
			name:     "life check lost",
			change:   func(a *fakeAgent, _ *Report) { delete(a.checks, "hostagent:alive") },
			requests: []string{look, lookOwn, registerLife, updateLife, register}, written: 1,
		},
		{
			name: "life check expired",
			change: func(a *fakeAgent, _ *Report) {
				a.checks["hostagent:alive"].Status, a.checks["hostagent:alive"].Output = "critical", "TTL expired"
			},
			requests: []string{look, updateLife}, written: 1,
		},
		{
			name:     "life changed",
			change:   func(_ *fakeAgent, r *Report) { r.Life.Status, r.Life.Name = Critical, "alive?" },
			requests: []string{look, lookOwn, registerLife, updateLife}, written: 1,
			state: func(s map[string]string) { s["hostagent:alive"] = "critical|alive?|life|runs" },
		},
		{
			name:     "agent restarted empty",
			change:   func(a *fakeAgent, _ *Report) { a.forget("hostagent") },
			requests: []string{look, lookOwn, registerLife, updateLife, register, register, updateRules, register, register, updateWeb, register}, written: 3,
		},
		{
			name:     "somebody else's output",
			change:   func(a *fakeAgent, _ *Report) { a.checks["hostagent:firewall"].Output = "all is well" },
			requests: []string{look, updateRules, register}, written: 1,
		},
		{
			name: "foreign check on our service stays",
			change: func(a *fakeAgent, _ *Report) {
				a.checks["service:hostagent"] = &api.AgentCheck{CheckID: "service:hostagent", ServiceID: "hostagent", Status: "passing", Name: "theirs"}
			},
			requests: []string{look},
			state:    func(s map[string]string) { s["service:hostagent"] = "passing|theirs||" },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			r, want := sample(), sampleState()
			report(t, c, r)
			foreign := a.state("web-1-sidecar-proxy")
			if diff := cmp.Diff(want, a.state("hostagent")); diff != "" {
				t.Fatalf("first state (-want +got):\n%s", diff)
			}
			a.log()
			if tt.change != nil {
				tt.change(a, &r)
			}
			if tt.state != nil {
				tt.state(want)
			}
			for _, round := range []struct {
				requests []string
				written  int
			}{{tt.requests, tt.written}, {[]string{look}, 0}, {[]string{look}, 0}} {
				written := report(t, c, r)
				if diff := cmp.Diff(round.requests, a.log()); diff != "" || written != round.written {
					t.Errorf("%d written, want %d; requests (-want +got):\n%s", written, round.written, diff)
				}
				if diff := cmp.Diff(want, a.state("hostagent")); diff != "" {
					t.Errorf("state (-want +got):\n%s", diff)
				}
			}
			if len(c.sent) != 0 {
				t.Errorf("remembers %d outputs that stand as they were sent", len(c.sent))
			}
			if diff := cmp.Diff(foreign, a.state("web-1-sidecar-proxy")); diff != "" {
				t.Errorf("checks of another service (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFirstReport(t *testing.T) {
	a, c := newFakeAgent(t)
	if written := report(t, c, sample()); written != 3 {
		t.Errorf("%d written, want 3", written)
	}
	want := []string{look, lookOwn, registerLife, updateLife, register, register, updateRules, register, register, updateWeb, register}
	if diff := cmp.Diff(want, a.log()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// The life check is refreshed three times within its TTL, and counts as nothing written.
func TestLifeRefresh(t *testing.T) {
	a, c := newFakeAgent(t)
	now := time.Now()
	c.now = func() time.Time { return now }
	report(t, c, sample())
	a.log()
	var refreshed []int
	for second := 1; second <= 31; second++ {
		now = now.Add(time.Second)
		if written := report(t, c, sample()); written != 0 {
			t.Errorf("second %d: %d written", second, written)
		}
		if slices.Contains(a.log(), updateLife) {
			refreshed = append(refreshed, second)
		}
	}
	if diff := cmp.Diff([]int{10, 20, 30}, refreshed); diff != "" {
		t.Errorf("refreshed in second (-want +got):\n%s", diff)
	}
}

// An agent that does not keep outputs as they were sent is not written to for ever.
func TestReportToCuttingAgent(t *testing.T) {
	for name, setUp := range map[string]func(*fakeAgent){
		"check_output_max_size": func(a *fakeAgent) { a.outputMax = 7 },
		"discard_check_output":  func(a *fakeAgent) { a.discard = true },
	} {
		t.Run(name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			setUp(a)
			r := sample()
			for range 2 {
				if written := report(t, c, r); written == 0 {
					t.Error("a new output was not written")
				}
				report(t, c, r) // looks, and tries once more
				a.log()
				for range 3 {
					if written := report(t, c, r); written != 0 {
						t.Errorf("%d written", written)
					}
				}
				if diff := cmp.Diff([]string{look, look, look}, a.log()); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
				r.Checks[0].Output += ", 21001" // beyond what the agent keeps
			}
			a.checks["hostagent:firewall"].Output = "all is well"
			if written := report(t, c, r); written != 1 {
				t.Errorf("%d written after somebody else's output, want 1", written)
			}
			r.Checks = nil
			report(t, c, r)
			report(t, c, r)
			if len(c.sent) > 1 { // the life check's
				t.Errorf("%d outputs remembered of checks that are gone", len(c.sent))
			}
		})
	}
}

func TestLongOutput(t *testing.T) {
	for _, tt := range []struct {
		name, output string
		size         int
	}{
		{"just fits", strings.Repeat("x", MaxOutput), MaxOutput},
		{"just too long", strings.Repeat("x", MaxOutput+1), MaxOutput},
		{"two bytes a rune", strings.Repeat("é", MaxOutput), MaxOutput},
		{"two bytes a rune, odd", "x" + strings.Repeat("é", MaxOutput), MaxOutput - 1},
		{"four bytes a rune", "x" + strings.Repeat("🔥", MaxOutput), MaxOutput - 1},
		{"replacement runes", strings.Repeat("\uFFFD", MaxOutput), MaxOutput - 1},
		{"not UTF-8", strings.Repeat("a\xff", MaxOutput), MaxOutput - 1},
		{"short, not UTF-8", "a\xffb", 5},
		{"control characters", "a\x00\x1b\n<>&\u2028", 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			r := sample()
			r.Checks[0].Output, r.Checks[0].Name, r.Checks[0].Notes = tt.output, "bad\xff", "bad\xff"
			report(t, c, r)
			got := a.checks["hostagent:firewall"].Output
			if len(got) != tt.size || !utf8.ValidString(got) || strings.HasSuffix(got, "(cut)") != (len(tt.output) > MaxOutput) {
				t.Errorf("got %d bytes, want %d, ending in %q", len(got), tt.size, got[max(0, len(got)-20):])
			}
			a.log()
			report(t, c, r)
			if diff := cmp.Diff([]string{look}, a.log()); diff != "" {
				t.Errorf("requests of a steady host (-want +got):\n%s", diff)
			}
		})
	}
}

// Keys are made of service ids, which are anybody's text.
func TestHostileKeys(t *testing.T) {
	a, c := newFakeAgent(t)
	r := sample()
	r.Checks = nil
	safe := regexp.MustCompile(`^hostagent:[-A-Za-z0-9_.:~]{0,110}$`)
	w := checkWriter{service: r.Service}
	for _, key := range []string{
		"", "-", "-leading", ".", "..", "../..", "a/b", "a_b", "a b", "a%b", "a%2Fb", "a?b", "a#b", "a&b", "a;b", "a\\b", "a\nb", "a\x00b", "a\x1bb",
		"ä", "a\u202eb", "\xff", "\xfe", "~", "a~b", strings.Repeat("x", 100), strings.Repeat("x", 101), strings.Repeat("x", 300), strings.Repeat("x", 299) + "y",
		strings.Repeat("/", 300), "service:web/../../../catalog", strings.TrimPrefix(w.id("a/b"), "hostagent:"), // chosen to meet a/b
	} {
		r.Checks = append(r.Checks, Check{Key: key, Name: key, Status: Passing, Output: fmt.Sprintf("%q", key)})
	}
	report(t, c, r)
	state := a.state("hostagent")
	if len(state) != len(r.Checks)+1 {
		t.Errorf("%d keys became %d checks: %q", len(r.Checks), len(state)-1, slices.Sorted(maps.Keys(state)))
	}
	for id := range state {
		if !safe.MatchString(id) {
			t.Errorf("unsafe id %q", id)
		}
	}
	for _, request := range a.log() {
		if strings.Contains(request, "%") || strings.Contains(request, "//") {
			t.Errorf("escapes in request %s", request)
		}
	}
	report(t, c, r)
	if diff := cmp.Diff([]string{look}, a.log()); diff != "" {
		t.Errorf("requests of a steady host (-want +got):\n%s", diff)
	}
	r.Checks = nil
	report(t, c, r)
	if state := a.state("hostagent"); len(state) != 1 {
		t.Errorf("left over: %v", state)
	}
}

// An agent that ignores the filter shows everybody's checks, some under ids of ours.
// Where little is known, that little is told, and what else stands is left alone.
func TestReportOfLittle(t *testing.T) {
	a, c := newFakeAgent(t)
	report(t, c, sample())
	little := sample()
	little.LifeOnly, little.Checks = true, []Check{{Key: "new", Name: "New", Status: Warning, Output: "unknown", Notes: "n"}}
	if written := report(t, c, little); written != 1 {
		t.Errorf("%d written, want 1", written)
	}
	want := sampleState()
	want["hostagent:new"] = "warning|New|n|unknown"
	if diff := cmp.Diff(want, a.state("hostagent")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReportLeavesOtherServicesAlone(t *testing.T) {
	a, c := newFakeAgent(t)
	a.checks["hostagent:stolen"] = &api.AgentCheck{CheckID: "hostagent:stolen", ServiceID: "web", Status: "passing"}
	a.checks["hostagent:nobody"] = &api.AgentCheck{CheckID: "hostagent:nobody"}
	unfiltered := func(request string) (int, string) {
		if request != look {
			return 0, ""
		}
		_, text := a.list("")
		return http.StatusOK, text
	}
	a.refuse = unfiltered
	report(t, c, sample())
	a.log()
	report(t, c, sample())
	if diff := cmp.Diff([]string{look}, a.log()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if a.checks["hostagent:stolen"] == nil || a.checks["hostagent:nobody"] == nil {
		t.Error("took away a check of another service")
	}
}

func TestReportErrors(t *testing.T) {
	const forbidden = "Permission denied: token with AccessorID '0f61edca' lacks permission 'service:write' on \"web\"\x1b[2J"
	on := func(part string, status int, text string) func(string) (int, string) {
		return func(request string) (int, string) {
			if strings.Contains(request, part) {
				return status, text
			}
			return 0, ""
		}
	}
	// afterFirst lets the first request of a kind through.
	afterFirst := func(first string, then func(string) (int, string)) func(string) (int, string) {
		seen := false
		return func(request string) (int, string) {
			if request == first && !seen {
				seen = true
				return 0, ""
			}
			return then(request)
		}
	}
	many := sample()
	for i := range 20 {
		many.Checks = append(many.Checks, Check{Key: fmt.Sprint(i), Name: "n", Status: Passing})
	}
	for _, tt := range []struct {
		name    string
		report  Report
		refuse  func(string) (int, string)
		kind    Kind
		text    []string
		written int
		calls   int
	}{
		{"throttled look", sample(), on(look, 429, "later"), KindThrottled, []string{"status 429: later; hostagent tries again"}, 0, 1},
		{"forbidden look", sample(), on(look, 403, forbidden), KindDenied, []string{`lacks permission 'service:write' on "web"\x1b[2J;`}, 0, 1},
		{"null look", sample(), on(look, 200, "null"), KindMalformed, []string{"cannot read the checks"}, 0, 1},
		{"list look", sample(), on(look, 200, "[]"), KindMalformed, []string{"no JSON object"}, 0, 1},
		{"odd look", sample(), on(look, 200, `{"a":[]}`), KindMalformed, []string{"cannot unmarshal"}, 0, 1},
		{"services for checks", sample(), on(look, 200, `{"web":{"ID":"web","Service":"web","Port":80}}`), KindMalformed, []string{`the entry "web" does not describe the check`}, 0, 1},
		{"check twice", sample(), on(look, 200, `{"a":null,"a":null}`), KindMalformed, []string{`the entry "a" stands there twice`}, 0, 1},
		{"null check", sample(), on(look, 200, `{"hostagent:firewall":null}`), "", nil, 3, 11},
		{"service", sample(), on(registerLife, 403, forbidden), KindDenied, []string{"cannot register service hostagent at"}, 0, 3},
		{"one check", sample(), on(updateRules, 500, "no"), KindStatus, []string{"cannot update check hostagent:firewall at", "status 500: no"}, 2, 10},
		{"registering fails", many, afterFirst(registerLife, on("register", 403, forbidden)), KindDenied,
			[]string{"cannot register check hostagent:alive", "cannot register check hostagent:firewall", "and 20 more checks"}, 1, 4 + 2*23},
		{"throttled in between", many, on("hostagent:3", 429, "later"), KindThrottled,
			[]string{"cannot update check hostagent:3 at", "not tried after that: 16 checks"}, 6, 5 + 5*3 + 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			a.refuse = tt.refuse
			written, err := c.Report(t.Context(), tt.report)
			if KindOf(err) != tt.kind || written != tt.written || len(a.log()) != tt.calls {
				t.Errorf("got kind %q, %d written; want %q, %d in %d requests: %v", KindOf(err), written, tt.kind, tt.written, tt.calls, err)
			}
			for _, text := range tt.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error lacks %q: %v", text, err)
				}
			}
			a.refuse = func(string) (int, string) { return 0, "" }
			report(t, c, tt.report)
			a.log()
			report(t, c, tt.report)
			if diff := cmp.Diff([]string{look}, a.log()); diff != "" || len(a.state("hostagent")) != len(tt.report.Checks)+1 {
				t.Errorf("%d checks; requests afterwards (-want +got):\n%s", len(a.state("hostagent")), diff)
			}
		})
	}
}

// What does not fit into one report follows in the next ones; the life check comes first in each.
func TestReportContinues(t *testing.T) {
	a, c := newFakeAgent(t)
	now := time.Now()
	c.now = func() time.Time { return now }
	a.refuse = func(request string) (int, string) {
		if strings.HasPrefix(request, "PUT") {
			now = now.Add(writeBudget / 10)
		}
		return 0, ""
	}
	r := sample()
	r.Checks = nil
	for i := range 10 {
		r.Checks = append(r.Checks, Check{Key: fmt.Sprint(i), Name: "n", Status: Passing, Output: "o"})
	}
	var written []int
	for range 4 {
		written = append(written, report(t, c, r))
	}
	if diff := cmp.Diff([]int{1 + 3, 4, 3, 0}, written); diff != "" { // of three writes each, beside two for the life check
		t.Errorf("written (-want +got):\n%s", diff)
	}
	r.Checks = nil
	written = []int{report(t, c, r)}
	if diff := cmp.Diff([]int{10}, written); diff != "" {
		t.Errorf("taken away (-want +got):\n%s", diff)
	}
}

// A hanging agent costs one timeout and not one for each check.
func TestReportToHangingAgent(t *testing.T) {
	a, c := newFakeAgent(t)
	c.timeout = 200 * time.Millisecond
	hang := make(chan struct{})
	a.refuse = func(request string) (int, string) {
		if request == updateRules {
			<-hang
		}
		return 0, ""
	}
	start := time.Now()
	_, err := c.Report(t.Context(), sample())
	checkError(t, err.(interface{ Unwrap() []error }).Unwrap()[0], KindTimeout, "cannot update check hostagent:firewall")
	if took := time.Since(start); took > 3*time.Second || !strings.Contains(err.Error(), "not tried after that") {
		t.Errorf("took %v: %v", took, err)
	}
	close(hang)
	c.timeout = 5 * time.Second
	report(t, c, sample())
}

func TestWithdraw(t *testing.T) {
	a, c := newFakeAgent(t)
	foreign := len(a.checks)
	report(t, c, sample())
	for range 2 {
		if err := c.Withdraw(t.Context(), "hostagent"); err != nil {
			t.Fatal(err)
		}
		if len(a.services) != 0 || len(a.checks) != foreign {
			t.Errorf("left over: %v", a.state("hostagent"))
		}
	}
	a.services["hostagent"] = true // without a single check
	if err := c.Withdraw(t.Context(), "hostagent"); err != nil || len(a.services) != 0 {
		t.Errorf("service without checks: %v, left over: %v", err, a.services)
	}
	report(t, c, sample())
	if diff := cmp.Diff(sampleState(), a.state("hostagent")); diff != "" {
		t.Errorf("reported again (-want +got):\n%s", diff)
	}
	a.refuse = func(request string) (int, string) {
		if strings.HasPrefix(request, "PUT") {
			return 403, "Permission denied"
		}
		return 0, ""
	}
	checkError(t, c.Withdraw(t.Context(), "hostagent"), KindDenied, "cannot deregister service hostagent")
}
