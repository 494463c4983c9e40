// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/probe"
	"github.com/hostagent/hostagent/sockets"
)

// fakeMesh is what a prober asks: a CA, and by port what sidecars show.
type fakeMesh struct {
	*fakeHost

	mu       sync.Mutex
	roots    consul.Roots
	fails    error
	asked    int // for the roots
	shows    map[uint16]probe.Result
	probed   map[uint16]int
	takes    time.Duration
	open     int // probes at this moment
	mostOpen int
}

func newFakeMesh(t *testing.T) *fakeMesh {
	t.Helper()
	return &fakeMesh{
		fakeHost: newFakeHost(), roots: consul.Roots{TrustDomain: "a.consul", PEM: []string{rootOf(t, 0)}},
		shows: map[uint16]probe.Result{21000: named("web")}, probed: map[uint16]int{},
	}
}

// rootOf is a root certificate of a rotation that an agent told.
func rootOf(t *testing.T, n int) string {
	t.Helper()
	text, err := os.ReadFile("consul/testdata/roots.json")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Split(string(text), `"RootCert": "`)
	if len(all) != 3 {
		t.Fatalf("%d parts in the recorded answer", len(all))
	}
	root, _, _ := strings.Cut(all[n+1], `"`)
	return strings.ReplaceAll(root, `\n`, "\n")
}

func (m *fakeMesh) parts() Parts {
	parts := m.fakeHost.parts(ModeGuard)
	parts.Policy.Probe = true
	parts.Roots = func(context.Context) (consul.Roots, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.asked++
		return m.roots, m.fails
	}
	parts.Ask = func(ctx context.Context, _ *probe.CA, at netip.AddrPort) probe.Result {
		m.mu.Lock()
		m.probed[at.Port()]++
		m.open++
		m.mostOpen = max(m.mostOpen, m.open)
		result := m.shows[at.Port()]
		m.mu.Unlock()
		select {
		case <-time.After(m.takes):
		case <-ctx.Done():
		}
		m.mu.Lock()
		m.open--
		m.mu.Unlock()
		return result
	}
	return parts
}

// set changes what the mesh is.
func (m *fakeMesh) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

// tries tells how often port 21000 was asked during d.
func (m *fakeMesh) tries(d time.Duration) int {
	m.mu.Lock()
	before := m.probed[21000]
	m.mu.Unlock()
	pass(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.probed[21000] - before
}

func (m *fakeMesh) run(t *testing.T, story func(agent *Agent, reload chan<- Parts)) {
	t.Helper()
	m.runAgent(t, m.parts(), story)
}

// accused is what Consul and people see of no sidecars, one reason each.
func accused(agent *Agent) string {
	var reasons []string
	for _, f := range agent.Status().Findings {
		if f.ID == "not-a-sidecar" {
			_, reason, _ := strings.Cut(f.Message, "no sidecar of it: ")
			reasons = append(reasons, fmt.Sprintf("%d: %s", f.Port, reason))
		}
	}
	return strings.Join(reasons, "; ")
}

const plainReason = "21000: it does not speak TLS"

// TestASidecarIsAskedOnce: and again only where another socket or another CA comes.
func TestASidecarIsAskedOnce(t *testing.T) {
	m := newFakeMesh(t)
	m.run(t, func(agent *Agent, reload chan<- Parts) {
		if n := m.tries(time.Hour); n != 0 || m.probed[21000] != 1 {
			t.Errorf("asked %d times, and %d times later", m.probed[21000], n)
		}
		want(t, "a sidecar", "", accused(agent))
		if m.asked < 12 || m.asked > 14 {
			t.Errorf("the CA was asked for %d times in an hour", m.asked)
		}

		m.listeners = slices.Clone(m.listeners)
		m.listeners[1].Cookie = 7001
		if n := m.tries(10 * time.Second); n != 1 {
			t.Errorf("a new socket was asked %d times", n)
		}
		m.set(func() { m.roots.PEM = append(m.roots.PEM, rootOf(t, 1)) })
		if n := m.tries(6 * time.Minute); n != 1 {
			t.Errorf("after a rotation it was asked %d times", n)
		}
		reload <- m.parts()
		if n := m.tries(time.Minute); n != 1 {
			t.Errorf("after a reload it was asked %d times", n) // nobody knows if the CA is the same
		}
		want(t, "in the end", "", accused(agent))
	})
}

// TestAnImpostorIsFoundAtOnce: within the pass after that which saw it, whatever the loop does, and until it is another
// one or mends its ways.
func TestAnImpostorIsFoundAtOnce(t *testing.T) {
	m := newFakeMesh(t)
	m.shows[21000] = probe.Result{Outcome: probe.Plain}
	parts := m.parts()
	parts.PollInterval = 10 * time.Second
	m.runAgent(t, parts, func(agent *Agent, _ chan<- Parts) {
		pass(time.Second)
		want(t, "before the next poll", plainReason, accused(agent))
		status := agent.Status()
		if check := checkOf(m.report, "sidecar-range"); check.Status != consul.Critical || !strings.Contains(check.Output, "not-a-sidecar") {
			t.Errorf("the check of the range is %+v", check)
		}
		if len(status.Degradations) > 0 {
			t.Errorf("degradations %q", status.Degradations)
		}
		if n := m.tries(29 * time.Minute); n < 7 || n > 10 { // after 30, 90, 210 s, then every 5 min
			t.Errorf("asked %d times again in half an hour", n)
		}
		for _, shy := range []probe.Outcome{probe.Silent, probe.Unknown, probe.Closed} {
			m.set(func() { m.shows[21000] = probe.Result{Outcome: shy, Detail: "why"} })
			if m.tries(10*time.Minute) == 0 {
				t.Error("it is not asked again")
			}
			want(t, "who has been found out and is "+string(shy)+" now", plainReason, accused(agent))
		}
		m.set(func() { m.shows[21000] = named("web") })
		pass(6 * time.Minute)
		want(t, "after it has mended its ways", "", accused(agent))
		if n := m.tries(time.Hour); n != 0 {
			t.Errorf("asked %d times again", n)
		}
	})
}

// TestAnotherServiceIsAskedAgain: its certificate is good, and so is what it shows, but not here.
func TestAnotherServiceIsAskedAgain(t *testing.T) {
	m := newFakeMesh(t)
	m.shows[21000] = named("api")
	m.run(t, func(agent *Agent, _ chan<- Parts) {
		pass(2 * time.Second)
		want(t, "another service's sidecar", "21000: its certificate is that of api", accused(agent))
		m.set(func() { m.shows[21000] = named("web") })
		pass(time.Minute)
		want(t, "after a hot restart that kept the socket", "", accused(agent))

		m.regs = append(slices.Clone(m.regs[:1]), sidecar("db", 21000))
		pass(2 * time.Second)
		want(t, "after another service claimed the port", "21000: its certificate is that of web", accused(agent))
	})
}

// TestOnlyWhoLastsIsAccusedOfClosing: a sidecar whose application starts late closes connections, too.
func TestOnlyWhoLastsIsAccusedOfClosing(t *testing.T) {
	const reason = "21000: it closes connections before it has shown a certificate, although the application listens"
	m := newFakeMesh(t)
	m.regs[1].Proxy.LocalServicePort = 8080
	m.shows[21000] = probe.Result{Outcome: probe.Closed, Detail: "closed"}
	m.run(t, func(agent *Agent, _ chan<- Parts) {
		pass(80 * time.Second)
		want(t, "after two tries", "", accused(agent))
		if d := agent.Status().Degradations; len(d) != 1 || !strings.Contains(d[0], "nobody knows if what listens on tcp [::]:21000 is the sidecar of web: closed") {
			t.Errorf("degradations %q", d)
		}
		pass(20 * time.Second)
		want(t, "after three", reason, accused(agent))
		m.set(func() { m.shows[21000] = probe.Result{Outcome: probe.Silent, Detail: "silent"} })
		pass(10 * time.Minute)
		want(t, "when it says no more", reason, accused(agent))
		m.set(func() { m.shows[21000] = named("web") })
		pass(6 * time.Minute)
		want(t, "in the end", "", accused(agent))
	})
}

// TestNobodyIsAccusedByAnOldCA: the CA is asked for again before anybody is called foreign.
func TestNobodyIsAccusedByAnOldCA(t *testing.T) {
	m := newFakeMesh(t)
	m.run(t, func(agent *Agent, _ chan<- Parts) {
		pass(time.Minute)
		m.set(func() { m.fails = errors.New("no answer") })
		m.shows[21000] = probe.Result{Outcome: probe.Foreign, Detail: "unknown authority"}
		m.listeners = slices.Clone(m.listeners)
		m.listeners[1].Cookie = 7002
		pass(2 * time.Minute)
		want(t, "while the agent does not tell if its CA is the same", "", accused(agent))
		if d := agent.Status().Degradations; len(d) != 1 || !strings.Contains(d[0], "does not tell if the mesh's CA is still the same") {
			t.Errorf("degradations %q", d)
		}
		m.set(func() { m.fails = nil })
		pass(6 * time.Minute)
		want(t, "when it does", "21000: it has no certificate of the mesh's CA", accused(agent))
	})
	if m.asked > 20 {
		t.Errorf("the CA was asked for %d times", m.asked)
	}
}

// TestACAThatFlutters does not make the prober spin.
func TestACAThatFlutters(t *testing.T) {
	m := newFakeMesh(t)
	m.shows[21000] = probe.Result{Outcome: probe.Foreign, Detail: "unknown authority"}
	parts := m.parts()
	roots := parts.Roots
	parts.Roots = func(ctx context.Context) (consul.Roots, error) {
		answer, err := roots(ctx)
		answer.TrustDomain = fmt.Sprintf("a%d.consul", m.asked)
		return answer, err
	}
	m.runAgent(t, parts, func(*Agent, chan<- Parts) {
		if n := m.tries(time.Hour); n > 60 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestNoCA(t *testing.T) {
	for _, test := range []struct {
		name string
		m    func(m *fakeMesh)
		want string
	}{
		{"the mesh is off", func(m *fakeMesh) { m.fails = errors.New("status 500: Connect must be enabled") },
			"what listens on sidecars' ports is not probed: status 500: Connect must be enabled"},
		{"no certificate", func(m *fakeMesh) { m.roots.PEM = []string{"x"} },
			"what listens on sidecars' ports is not probed: cannot use the mesh's CA: it has no root certificate"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newFakeMesh(t)
			m.shows[21000] = probe.Result{Outcome: probe.Plain}
			test.m(m)
			m.run(t, func(agent *Agent, reload chan<- Parts) {
				pass(10 * time.Minute)
				if d := agent.Status().Degradations; !slices.Equal(d, []string{test.want}) {
					t.Errorf("degradations %q", d)
				}
				if m.probed[21000] > 0 || m.asked < 10 || m.asked > 30 {
					t.Errorf("asked %d times, and for the CA %d times", m.probed[21000], m.asked)
				}
				m.set(func() { m.fails, m.roots.PEM = nil, []string{rootOf(t, 0)} })
				pass(time.Minute)
				want(t, "with a CA", plainReason, accused(agent))
				if d := agent.Status().Degradations; len(d) > 0 {
					t.Errorf("degradations %q", d)
				}
				parts := m.parts()
				parts.Policy.Probe = false
				reload <- parts
				pass(time.Second)
				want(t, "switched off", "", accused(agent))
				if n := m.tries(time.Hour); n > 0 {
					t.Errorf("switched off, it asks %d times", n)
				}
			})
		})
	}
}

// TestTheLoopWaitsForNoProbe: hundreds of listeners that say nothing are asked a few at once, and the loop goes on.
func TestTheLoopWaitsForNoProbe(t *testing.T) {
	m := newFakeMesh(t)
	m.takes = 2 * time.Second
	m.regs, m.listeners = nil, nil
	for i := range 100 {
		m.regs = append(m.regs, sidecar(fmt.Sprintf("s%03d", i), 21000+i))
		m.listeners = append(m.listeners, sockets.Listener{
			Protocol: sockets.TCP, Addr: netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(21000+i)), UID: 1000, Cookie: uint64(2000 + i),
		})
		m.shows[uint16(21000+i)] = probe.Result{Outcome: probe.Silent, Detail: "silent"}
	}
	m.run(t, func(agent *Agent, _ chan<- Parts) {
		before := agent.Status().Pass.Count
		pass(50 * time.Second)
		if passes := agent.Status().Pass.Count - before; passes < 50 {
			t.Errorf("%d passes in 50 s", passes)
		}
		if took := agent.Status().Pass.Duration; took > 0 {
			t.Errorf("a pass took %v s", took)
		}
		if m.mostOpen != probesAtOnce {
			t.Errorf("%d probes at once, want %d", m.mostOpen, probesAtOnce)
		}
		m.set(func() { m.shows[21099] = probe.Result{Outcome: probe.Plain} })
		pass(3 * time.Minute)
		want(t, "among a hundred", "21099: it does not speak TLS", accused(agent))
	})
}

// TestSteadyMeshIsLeftAlone: probes that tell the same make nothing be evaluated or written anew.
func TestSteadyMeshIsLeftAlone(t *testing.T) {
	m := newFakeMesh(t)
	m.shows[21000] = probe.Result{Outcome: probe.Plain}
	h := &counted{fakeHost: m.fakeHost}
	parts := m.parts()
	parts.Registry, parts.Owners = h, h
	h.runParts(t, parts, func(chan<- Parts) {
		pass(10 * time.Second)
		reports := h.reports
		pass(10 * time.Minute)
		if n := h.reports - reports; n != 120 {
			t.Errorf("%d reports in ten steady minutes, want one every 5 s", n)
		}
	})
}

// TestScanProbes: a scan asks once, all at the same time, and tells whom it asked in vain.
func TestScanProbes(t *testing.T) {
	look := func(t *testing.T, m *fakeMesh, change func(*Parts)) *Scan {
		t.Helper()
		parts := m.parts()
		if change != nil {
			change(&parts)
		}
		var scan *Scan
		synctest.Test(t, func(t *testing.T) {
			var err error
			if scan, err = Look(t.Context(), parts); err != nil {
				t.Fatal(err)
			}
		})
		return scan
	}
	find := func(scan *Scan) string {
		for _, f := range scan.Findings {
			if f.ID == "not-a-sidecar" {
				return f.Message
			}
		}
		return ""
	}
	m := newFakeMesh(t)
	want(t, "a sidecar", "", find(look(t, m, nil)))
	m.shows[21000] = probe.Result{Outcome: probe.Plain}
	want(t, "no sidecar", "what listens on tcp [::]:21000 for web is no sidecar of it: it does not speak TLS", find(look(t, m, nil)))
	want(t, "not wanted", "", find(look(t, m, func(p *Parts) { p.Policy.Probe = false })))
	for _, test := range []struct {
		name   string
		change func(*Parts)
		note   string
	}{
		{"no CA", func(*Parts) { m.fails = errors.New("no answer") }, "what listens on sidecars' ports is not probed: no answer"},
		{"definitions", func(p *Parts) { p.Source = SourceFiles }, "what listens on sidecars' ports is not probed: no Consul agent is asked"},
		{"silence", func(*Parts) { m.shows[21000] = probe.Result{Outcome: probe.Silent, Detail: "silent"} },
			"nobody knows if what listens on tcp [::]:21000 is the sidecar of web: silent"},
	} {
		m.fails = nil
		scan := look(t, m, test.change)
		if find(scan) != "" || !slices.Contains(scan.Notes, test.note) {
			t.Errorf("%s: finding %q, notes %q", test.name, find(scan), scan.Notes)
		}
	}
	m.fails = nil
	plan := m.probed[21000]
	parts := m.parts()
	synctest.Test(t, func(t *testing.T) {
		if _, err := LookAhead(t.Context(), parts); err != nil {
			t.Fatal(err)
		}
	})
	if m.probed[21000] != plan {
		t.Error("a plan probes")
	}
}

// TestWhoIsGoneIsForgotten: sockets come and go for as long as hostagent runs.
func TestWhoIsGoneIsForgotten(t *testing.T) {
	m := newFakeMesh(t)
	parts := m.parts()
	w := &probing{prober: newProber(), roots: parts.Roots, ask: parts.Ask, asked: map[ProbeTarget]*inquiry{}}
	for cookie := range uint64(100) {
		w.prober.want([]ProbeTarget{{Cookie: cookie, At: netip.MustParseAddrPort("127.0.0.1:21000")}}, nil)
		w.round(t.Context(), time.Now())
	}
	if len(w.asked) != 1 || len(w.prober.shown()) != 1 || w.prober.shown()[0].Cookie != 99 {
		t.Errorf("remembers %d sockets and tells of %+v", len(w.asked), w.prober.shown())
	}
	w.prober.want(nil, nil)
	w.round(t.Context(), time.Now())
	if len(w.asked) != 0 || len(w.prober.shown()) != 0 {
		t.Errorf("remembers %d sockets and tells of %+v", len(w.asked), w.prober.shown())
	}
}
