// SPDX-License-Identifier: MPL-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// scrapeText is what one scrape gets.
func scrapeText(t testing.TB, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != http.StatusOK {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// ours are the lines of text about hostagent itself.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(line, "# HELP "), "# TYPE "), "hostagent_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// samples are the lines of text whose series begins with name.
func samples(text, name string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, name) {
			b.WriteString(line)
		}
	}
	return b.String()
}

func counters(values map[string]uint64) func(context.Context) (map[string]uint64, error) {
	return func(context.Context) (map[string]uint64, error) { return values, nil }
}

func fixed(s hostagent.Status) func() hostagent.Status { return func() hostagent.Status { return s } }

func TestExposition(t *testing.T) {
	s := sample(3)
	s.Findings[2].Severity, s.Findings[2].State = catalog.Info, hostagent.Mitigated
	s.Firewall.Open = "21000-21002, 21010"
	s.Firewall.LastApply = nil
	s.Listeners.Events = true
	s.Audit.Score = map[audit.Status]int{audit.Pass: 40, audit.Fail: 2}
	m := NewMetrics(Sources{Version: "1.2.3", Status: fixed(s), Dropped: counters(map[string]uint64{"ipv4": 12, "ipv6": 0, "ipx": 9})})
	m.Stepped("pass", 12*time.Millisecond)
	m.Stepped("pass", 30*time.Second)
	m.Stepped("apply", 300*time.Microsecond)
	m.Stepped("dance", time.Second) // none of ours
	m.Repaired()
	m.ConsulFailed(consul.KindTimeout)
	m.ConsulFailed(consul.KindTimeout)
	m.ConsulFailed("surprise") // none of ours
	m.Configured(true)
	m.Configured(false)
	got := strings.ReplaceAll(ours(scrapeText(t, m)), runtime.Version(), "GO")
	got = regexp.MustCompile(`(?m)^(hostagent_config_.*_seconds) \d\S+$`).ReplaceAllString(got, "$1 NOW")
	golden := filepath.Join("testdata", "metrics.txt")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	// Findings of the catalog come and go with it; what they look like is below.
	if diff := cmp.Diff(string(want), zeroFindings.ReplaceAllString(got, "")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", golden, diff)
	}
}

var zeroFindings = regexp.MustCompile(`(?m)^hostagent_findings\{.*\} 0\n`)

// TestEveryFindingIsThere looks at a host that is fine: an alert on any id sees a 0.
func TestEveryFindingIsThere(t *testing.T) {
	m := NewMetrics(Sources{Status: fixed(sample(0))})
	var want strings.Builder
	entries := catalog.Entries()
	slices.SortFunc(entries, func(a, b catalog.Entry) int { return strings.Compare(string(a.ID), string(b.ID)) })
	for _, e := range entries {
		fmt.Fprintf(&want, "hostagent_findings{id=%q,severity=%q,state=\"open\"} 0\n", e.ID, e.Severity)
	}
	if diff := cmp.Diff(want.String(), samples(scrapeText(t, m), "hostagent_findings{")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLint(t *testing.T) {
	m := NewMetrics(Sources{Version: "1", Status: fixed(sample(2)), Dropped: counters(map[string]uint64{"ipv4": 1, "ipv6": 2})})
	problems, err := promlint.New(strings.NewReader(scrapeText(t, m))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestBeforeTheFirstPass scrapes an agent that has done nothing yet.
func TestBeforeTheFirstPass(t *testing.T) {
	m := NewMetrics(Sources{Status: hostagent.NewAgent(hostagent.Parts{}).Status})
	text := scrapeText(t, m)
	for _, want := range []string{
		"hostagent_open_ports 0\n", "hostagent_guarded_ports 0\n", `hostagent_mode{mode="guard"} 0` + "\n", `hostagent_mode{mode="observe"} 0` + "\n",
		"hostagent_last_pass_timestamp_seconds 0\n", "hostagent_last_apply_timestamp_seconds 0\n", "hostagent_last_whole_answer_timestamp_seconds 0\n",
		"hostagent_scrape_errors_total 0\n", "hostagent_pass_duration_seconds_count{step=\"pass\"} 0\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the scrape lacks %q", want)
		}
	}
	if strings.Contains(text, "hostagent_guard_dropped") {
		t.Error("dropped SYNs are shown though nobody counts them")
	}
}

// TestLabelsAreFromClosedLists gives a status what no hostagent says: nothing of it becomes a series.
func TestLabelsAreFromClosedLists(t *testing.T) {
	s := sample(3)
	s.Mode = "surprise"
	s.Findings[0].ID, s.Findings[1].State, s.Findings[2].Severity = "surprise", "surprise", 7777
	m := NewMetrics(Sources{Status: fixed(s), Dropped: counters(map[string]uint64{"surprise": 1})})
	before := strings.Count(scrapeText(t, NewMetrics(Sources{Status: fixed(sample(0))})), "\nhostagent_")
	m.Stepped("surprise", 1)
	m.ConsulFailed("surprise")
	text := scrapeText(t, m)
	if strings.Contains(text, "surprise") || strings.Contains(text, "Severity(") {
		t.Errorf("a value from outside became a label:\n%s", ours(text))
	}
	if after := strings.Count(text, "\nhostagent_"); after != before {
		t.Errorf("%d series, want %d", after, before)
	}
}

// constants are the values of all constants of a type in a Go file: a closed list must not fall behind it.
func constants(t *testing.T, path, typeName string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == typeName {
			for _, value := range spec.Values {
				found = append(found, strings.Trim(value.(*ast.BasicLit).Value, `"`))
			}
		}
		return true
	})
	return found
}

func TestClosedListsAreWhole(t *testing.T) {
	for name, list := range map[string][2][]string{
		"consul kinds": {constants(t, "../consul/errors.go", "Kind"), texts(ConsulKinds())},
		"modes":        {constants(t, "../model.go", "Mode"), texts(modes())},
		"states":       {constants(t, "../model.go", "State"), texts(states())},
	} {
		if diff := cmp.Diff(list[0], list[1]); diff != "" || len(list[0]) == 0 {
			t.Errorf("%s (-source +list):\n%s", name, diff)
		}
	}
	for _, e := range catalog.Entries() {
		if !slices.Contains(severities(), e.Severity) {
			t.Errorf("severity %v of %s is in no list", e.Severity, e.ID)
		}
	}
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, item := range list {
		out = append(out, string(item))
	}
	return out
}

// loneAgent is a Consul agent that nobody registered with.
type loneAgent struct{}

func (loneAgent) Services(context.Context) (consul.Answer, error)    { return consul.Answer{}, nil }
func (loneAgent) Agent(context.Context) (consul.Agent, error)        { return consul.Agent{}, nil }
func (loneAgent) Report(context.Context, consul.Report) (int, error) { return 0, nil }
func (loneAgent) Withdraw(context.Context, string) error             { return nil }
func nothing[T any](context.Context) (none T, err error)             { return none, nil }

// TestEveryStepOfTheLoopIsKnown runs the real loop, so that a step under a new name is noticed.
func TestEveryStepOfTheLoopIsKnown(t *testing.T) {
	var agent *hostagent.Agent
	m := NewMetrics(Sources{Status: func() hostagent.Status { return agent.Status() }})
	seen := &stepWatch{Metrics: m, steps: map[string]bool{}}
	parts := hostagent.Parts{
		Policy:   hostagent.Policy{Mode: hostagent.ModeObserve, SidecarRange: &hostagent.PortRange{First: 21000, Last: 21255}, OwnService: "hostagent"},
		Registry: loneAgent{}, Log: quiet(), Watch: seen, PollInterval: time.Hour, Report: true,
	}
	parts.Listen, parts.Elsewhere = nothing, nothing
	agent = hostagent.NewAgent(parts)
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() {
		if err := agent.Run(ctx, nil); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "a pass", func() bool { return agent.Status().Pass.Count > 0 })
	text := scrapeText(t, m)
	cancel()
	all.Wait()
	for _, step := range steps() {
		if !seen.steps[step] {
			t.Errorf("the loop never told of step %s", step)
		}
		if !strings.Contains(text, fmt.Sprintf("hostagent_pass_duration_seconds_count{step=%q} 1\n", step)) {
			t.Errorf("step %s is not counted", step)
		}
		delete(seen.steps, step)
	}
	if len(seen.steps) > 0 {
		t.Errorf("the loop tells of steps that are not counted: %v", seen.steps)
	}
	if !strings.Contains(text, `hostagent_mode{mode="observe"} 1`) || strings.Contains(text, "hostagent_last_pass_timestamp_seconds 0\n") {
		t.Errorf("the pass is not to be seen:\n%s", ours(text))
	}
}

type stepWatch struct {
	*Metrics
	steps map[string]bool
}

func (s *stepWatch) Stepped(step string, took time.Duration) {
	s.steps[step] = true
	s.Metrics.Stepped(step, took)
}

func TestCountPorts(t *testing.T) {
	for _, test := range []struct {
		text string
		want int
	}{
		{"none", 0}, {"0", 1}, {"21000", 1}, {"21000-21255", 256}, {"22,21000-21002, 21010", 5}, {"1-65535", 65535},
		{"", -1}, {"x", -1}, {"1-", -1}, {"-1", -1}, {"2-1", -1}, {"1-65536", -1}, {"1,,2", -1}, {"1-2-3", -1}, {"None", -1},
	} {
		got, err := countPorts(test.text)
		if err != nil {
			got = -1
		}
		if got != test.want {
			t.Errorf("countPorts(%q) = %d, %v, want %d", test.text, got, err, test.want)
		}
	}
}

// TestPortsThatCannotBeCountedAreLeftOut shows no number rather than a wrong one.
func TestPortsThatCannotBeCountedAreLeftOut(t *testing.T) {
	s := sample(1)
	s.Firewall.Open = "many"
	text := scrapeText(t, NewMetrics(Sources{Status: fixed(s)}))
	if strings.Contains(text, "\nhostagent_open_ports ") || !strings.Contains(text, "\nhostagent_guarded_ports 256\n") ||
		!strings.Contains(text, "\nhostagent_scrape_errors_total 1\n") {
		t.Errorf("open ports %q:\n%s", s.Firewall.Open, ours(text))
	}
}

// TestConfigured has a reload that is refused, and one that is not.
func TestConfigured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics(Sources{Status: fixed(sample(0))})
		want := func(what string, successful int, at time.Time) {
			t.Helper()
			text := samples(scrapeText(t, m), "hostagent_config_")
			want := fmt.Sprintf("hostagent_config_last_reload_success_timestamp_seconds %v\nhostagent_config_last_reload_successful %d\n",
				float64(at.Unix()), successful)
			if diff := cmp.Diff(want, text); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
		}
		want("at first", 0, time.Unix(0, 0))
		m.Configured(true)
		start := time.Now()
		want("read", 1, start)
		time.Sleep(time.Minute)
		m.Configured(false)
		want("refused", 0, start)
		m.Configured(true)
		want("mended", 1, start.Add(time.Minute))
	})
}

// TestStepsThatFail has each step fail alone.
func TestStepsThatFail(t *testing.T) {
	for step, fail := range map[string]func(*hostagent.Status){
		"consul":    func(s *hostagent.Status) { s.Consul.Error = "x" },
		"listeners": func(s *hostagent.Status) { s.Listeners.Error = "x" },
		"apply":     func(s *hostagent.Status) { s.Firewall.Error = "x" },
		"report":    func(s *hostagent.Status) { s.Report.Error = "x" },
		"settings":  func(s *hostagent.Status) { s.Settings.Error = "x" },
		"none":      func(*hostagent.Status) {},
	} {
		s := sample(0)
		s.Firewall.Error = ""
		fail(&s)
		var want strings.Builder
		for _, name := range []string{"apply", "consul", "listeners", "report", "settings"} {
			value := 0
			if name == step {
				value = 1
			}
			fmt.Fprintf(&want, "hostagent_step_failing{step=%q} %d\n", name, value)
		}
		if diff := cmp.Diff(want.String(), samples(scrapeText(t, NewMetrics(Sources{Status: fixed(s)})), "hostagent_step_failing")); diff != "" {
			t.Errorf("%s fails (-want +got):\n%s", step, diff)
		}
	}
}

func TestDroppedAreKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		var fails error
		m := NewMetrics(Sources{Status: fixed(sample(0)), Dropped: func(ctx context.Context) (map[string]uint64, error) {
			if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > dropsDeadline {
				t.Error("no deadline")
			}
			calls++
			return map[string]uint64{"ipv4": uint64(calls), "ipv6": 7}, fails
		}})
		want := func(what string, reads, errors int, values string) {
			t.Helper()
			text := scrapeText(t, m)
			got := samples(text, "hostagent_guard_dropped") + samples(text, "hostagent_scrape_errors_total ")
			if diff := cmp.Diff(values+fmt.Sprintf("hostagent_scrape_errors_total %d\n", errors), got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", what, diff)
			}
			if calls != reads {
				t.Errorf("%s: read %d times, want %d", what, calls, reads)
			}
		}
		const series = "hostagent_guard_dropped_syns_total{family=\"ipv4\"} %d\nhostagent_guard_dropped_syns_total{family=\"ipv6\"} 7\n"
		want("at first", 1, 0, fmt.Sprintf(series, 1))
		time.Sleep(dropsKept - time.Nanosecond)
		want("a moment before 5 s", 1, 0, fmt.Sprintf(series, 1))
		time.Sleep(time.Nanosecond)
		want("after 5 s", 2, 0, fmt.Sprintf(series, 2))
		fails = errors.New("cannot list rules")
		time.Sleep(dropsKept)
		want("it fails", 3, 1, "")
		fails = nil
		want("failures are kept as well", 3, 2, "")
		time.Sleep(dropsKept)
		want("it is well again", 4, 2, fmt.Sprintf(series, 4))
	})
}

// TestDroppedThatCannotBeRead has a reader of counters that gives up when told, and one that never does.
func TestDroppedThatCannotBeRead(t *testing.T) {
	for _, obeys := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			release := make(chan struct{})
			calls := 0
			m := NewMetrics(Sources{Status: fixed(sample(1)), Dropped: func(ctx context.Context) (map[string]uint64, error) {
				if calls++; calls > 1 {
					return map[string]uint64{"ipv4": 5}, nil
				}
				if obeys {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				<-release
				return map[string]uint64{"ipv4": 1}, nil
			}})
			var all sync.WaitGroup
			start := time.Now()
			for range 5 {
				all.Go(func() {
					text := scrapeText(t, m)
					if strings.Contains(text, "hostagent_guard_dropped") || !strings.Contains(text, "hostagent_open_ports 1\n") {
						t.Errorf("obeys %t:\n%s", obeys, ours(text))
					}
				})
			}
			all.Wait()
			if took := time.Since(start); took != dropsDeadline {
				t.Errorf("obeys %t: scrapes took %s, want %s", obeys, took, dropsDeadline)
			}
			if got := m.lacking.Load(); got != 5 {
				t.Errorf("obeys %t: %d scrapes lacked something, want 5", obeys, got)
			}
			close(release)
			synctest.Wait()
			time.Sleep(dropsKept)
			if text := scrapeText(t, m); !strings.Contains(text, `{family="ipv4"} 5`) || calls != 2 {
				t.Errorf("obeys %t: not well again after %d calls:\n%s", obeys, calls, ours(text))
			}
		})
	}
}

// TestAScraperThatLeaves takes its read along, and that failure is nobody else's.
func TestAScraperThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		d := newDrops(func(ctx context.Context) (map[string]uint64, error) {
			if calls++; calls > 1 {
				return map[string]uint64{"ipv4": 2}, nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		})
		ctx, cancel := context.WithCancel(t.Context())
		go d.get(ctx)
		synctest.Wait()
		cancel()
		if values, err := d.get(t.Context()); err != nil || values["ipv4"] != 2 {
			t.Errorf("the next one gets %v, %v", values, err)
		}
	})
}

func TestServeMetrics(t *testing.T) {
	m := NewMetrics(Sources{Version: "1", Status: fixed(sample(250)), Dropped: counters(map[string]uint64{"ipv4": 1})})
	server, err := ServeMetrics("127.0.0.1:0", m, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	c := client(t, server.Addr())
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 5 {
				m.Stepped("pass", time.Duration(i)*time.Millisecond)
				m.Repaired()
				m.ConsulFailed(consul.KindDenied)
				body, err := fetch(c, "/metrics")
				if err != nil || !strings.Contains(body, "\nhostagent_open_ports 250\n") || !strings.Contains(body, "\nprocess_open_fds ") || !strings.Contains(body, "\ngo_goroutines ") {
					t.Errorf("%v:\n%s", err, body)
				}
			}
		})
	}
	all.Wait()
	response, err := c.Get("http://localhost/metrics")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if got := response.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain; version=0.0.4") {
		t.Errorf("Content-Type %q", got)
	}
	if _, err := fetch(c, "/"); err == nil || !strings.Contains(err.Error(), "404: hostagent answers GET /metrics here") {
		t.Errorf("GET /: %v", err)
	}
	response, err = c.Post("http://localhost/metrics", "text/plain", strings.NewReader("x"))
	if err != nil || response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", response, err)
	}
	if _, err := ServeMetrics(server.Addr().String(), m, quiet()); err == nil || !strings.Contains(err.Error(), "a port that is free") {
		t.Errorf("a second server at one address: %v", err)
	}
}

// TestStuckScrapers keeps every place taken and sees that an honest scraper gets in all the same.
func TestStuckScrapers(t *testing.T) {
	m := NewMetrics(Sources{Status: fixed(sample(1))})
	server, err := serveMetrics("127.0.0.1:0", m, quiet(), hurried(2))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	dial(t, server.Addr())
	dial(t, server.Addr())
	c := client(t, server.Addr())
	eventually(t, "an honest scraper gets in", func() bool { _, err := fetch(c, "/metrics"); return err == nil })
}

// TestCloseEndsTheReadOfCounters closes while a scrape waits for the kernel.
func TestCloseEndsTheReadOfCounters(t *testing.T) {
	reading, ended := make(chan struct{}), make(chan error, 1)
	m := NewMetrics(Sources{Status: fixed(sample(1)), Dropped: func(ctx context.Context) (map[string]uint64, error) {
		close(reading)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}})
	server, err := ServeMetrics("127.0.0.1:0", m, quiet())
	if err != nil {
		t.Fatal(err)
	}
	go fetch(client(t, server.Addr()), "/metrics")
	<-reading
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the read ended with %v, want that Close ended it", err)
	}
}

func BenchmarkScrape(b *testing.B) {
	m := NewMetrics(Sources{Version: "1", Status: fixed(sample(250)), Dropped: counters(map[string]uint64{"ipv4": 1})})
	for _, step := range steps() {
		m.Stepped(step, time.Millisecond)
	}
	b.ReportAllocs()
	for b.Loop() {
		b.SetBytes(int64(len(scrapeText(b, m))))
	}
}

func BenchmarkStepped(b *testing.B) {
	m := NewMetrics(Sources{Status: fixed(sample(1))})
	b.ReportAllocs()
	for b.Loop() {
		m.Stepped("pass", time.Millisecond)
	}
}
