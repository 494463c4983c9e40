// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
)

// sampleMeta is sample with metadata.
func sampleMeta() Report {
	r := sample()
	r.Meta = map[string]string{"mode": "guard", "version": "1.2.3"}
	return r
}

// Each case begins with sampleMeta standing and reported, by a client that is used on or by a new one.
func TestReportMeta(t *testing.T) {
	guard := map[string]string{"mode": "guard", "version": "1.2.3"}
	observe := map[string]string{"mode": "observe"}
	theirs := func(a *fakeAgent, _ *Report, _ *time.Time) { a.meta["hostagent"] = map[string]string{"mode": "theirs"} }
	for _, tt := range []struct {
		name     string
		change   func(a *fakeAgent, r *Report, now *time.Time)
		fresh    bool // by a client that knows nothing
		requests []string
		written  int
		want     map[string]string
	}{
		{name: "nothing", requests: []string{look}, want: guard},
		{name: "nothing, after a start", fresh: true, requests: []string{look, lookOwn, updateLife}, want: guard},
		{
			name: "another mode", change: func(_ *fakeAgent, r *Report, _ *time.Time) { r.Meta = observe },
			requests: []string{look, registerLife}, written: 1, want: observe,
		},
		{
			name: "another mode, after a start", change: func(_ *fakeAgent, r *Report, _ *time.Time) { r.Meta = observe },
			fresh: true, requests: []string{look, lookOwn, updateLife, registerLife}, written: 1, want: observe,
		},
		{
			name: "another mode where little is known", change: func(_ *fakeAgent, r *Report, _ *time.Time) { r.Meta, r.LifeOnly = observe, true },
			requests: []string{look, registerLife}, written: 1, want: observe,
		},
		{
			name: "none any more", change: func(_ *fakeAgent, r *Report, _ *time.Time) { r.Meta = map[string]string{} },
			requests: []string{look, registerLife}, written: 1,
		},
		{name: "not told", change: func(_ *fakeAgent, r *Report, _ *time.Time) { r.Meta = nil }, requests: []string{look}, want: guard},
		{
			name: "not told, after a start, with another life check",
			change: func(_ *fakeAgent, r *Report, _ *time.Time) {
				r.Meta, r.Life.Notes = nil, "stopped"
			},
			fresh: true, requests: []string{look, lookOwn, registerLife, updateLife, register}, written: 1, want: guard,
		},
		{
			name: "a key that is to stay, after a start",
			change: func(_ *fakeAgent, r *Report, _ *time.Time) {
				r.Meta, r.KeepMeta = map[string]string{"mode": "guard"}, []string{"version", "checklist"}
			},
			fresh: true, requests: []string{look, lookOwn, updateLife}, want: guard,
		},
		{name: "somebody else's, not seen yet", change: theirs, requests: []string{look}, want: map[string]string{"mode": "theirs"}},
		{
			name: "somebody else's", change: func(a *fakeAgent, r *Report, now *time.Time) {
				theirs(a, r, now)
				*now = now.Add(metaLasts)
			},
			requests: []string{look, lookOwn, updateLife, registerLife}, written: 1, want: guard,
		},
		{
			name: "life check lost", change: func(a *fakeAgent, _ *Report, _ *time.Time) { delete(a.checks, "hostagent:alive") },
			requests: []string{look, lookOwn, registerLife, updateLife, register}, written: 1, want: guard,
		},
		{
			name: "agent restarted empty", change: func(a *fakeAgent, _ *Report, _ *time.Time) { a.forget("hostagent") },
			requests: []string{look, lookOwn, registerLife, updateLife, register, register, updateRules, register, register, updateWeb, register},
			written:  3, want: guard,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			now := time.Now()
			clock := func() time.Time { return now }
			c.now = clock
			r := sampleMeta()
			report(t, c, r)
			if diff := cmp.Diff(guard, a.meta["hostagent"]); diff != "" {
				t.Fatalf("first metadata (-want +got):\n%s", diff)
			}
			checks := a.state("hostagent")
			a.log()
			if tt.fresh {
				c = newClient(t, Config{Address: c.Address()})
				c.now = clock
			}
			if tt.change != nil {
				tt.change(a, &r, &now)
			}
			for _, round := range []struct {
				requests []string
				written  int
			}{{tt.requests, tt.written}, {[]string{look}, 0}} {
				written := report(t, c, r)
				if diff := cmp.Diff(round.requests, a.log()); diff != "" || written != round.written {
					t.Errorf("%d written, want %d; requests (-want +got):\n%s", written, round.written, diff)
				}
				if got := a.meta["hostagent"]; !maps.Equal(tt.want, got) {
					t.Errorf("metadata %v, want %v", got, tt.want)
				}
			}
			if got := a.state("hostagent"); r.Life.Notes == sample().Life.Notes {
				if diff := cmp.Diff(checks, got); diff != "" {
					t.Errorf("checks (-want +got):\n%s", diff)
				}
			}
			gone, err := c.Remove(t.Context(), "hostagent")
			if err != nil || !gone.Registered || a.services["hostagent"] {
				t.Errorf("removed %+v, %v", gone, err)
			}
		})
	}
}

// What is known of the metadata is known for a whole Report, however long the agent takes for it: else a steady host would
// write again what stands, and lose what is to stay.
func TestReportMetaExpiresBetweenReports(t *testing.T) {
	a, c := newFakeAgent(t)
	now := time.Now()
	c.now = func() time.Time { return now }
	r := sampleMeta()
	report(t, c, r)
	c.own.until = now.Add(lifeRefresh) // the life check is due just before
	now = c.own.until.Add(-time.Millisecond)
	a.log()
	a.refuse = func(request string) (int, string) {
		if request == updateLife {
			now = now.Add(time.Second)
		}
		return 0, ""
	}
	r.Meta, r.KeepMeta = map[string]string{"mode": "guard"}, []string{"version"}
	c.lifeRefreshed = now.Add(-lifeRefresh)
	written := report(t, c, r)
	if diff := cmp.Diff([]string{look, updateLife}, a.log()); diff != "" || written != 0 {
		t.Errorf("%d written; requests (-want +got):\n%s", written, diff)
	}
	if got := a.meta["hostagent"]; !maps.Equal(sampleMeta().Meta, got) {
		t.Errorf("metadata %v", got)
	}
}

// What refuses a registration keeps the checks from nothing, and is told each time.
func TestReportMetaRefused(t *testing.T) {
	a, c := newFakeAgent(t)
	report(t, c, sampleMeta())
	a.log()
	a.refuse = func(request string) (int, string) {
		if request == registerLife {
			return 500, "no"
		}
		return 0, ""
	}
	r := sampleMeta()
	r.Meta["mode"], r.Checks[0].Status = "observe", Critical
	for _, want := range [][]string{{look, registerLife, updateRules}, {look, registerLife}} {
		written, err := c.Report(t.Context(), r)
		checkError(t, err, KindStatus, "cannot register service hostagent")
		if diff := cmp.Diff(want, a.log()); diff != "" || written != len(want)-2 {
			t.Errorf("%d written; requests (-want +got):\n%s", written, diff)
		}
	}
}

// A check that has to be registered with the service, because somebody else's holds its id, keeps the metadata too.
func TestReportMetaOfFallback(t *testing.T) {
	for name, meta := range map[string]map[string]string{"told": sampleMeta().Meta, "not told": nil} {
		t.Run(name, func(t *testing.T) {
			a, c := newFakeAgent(t)
			r := sampleMeta()
			r.Checks = nil
			report(t, c, r)
			a.services["web"] = true
			a.checks["hostagent:firewall"] = &api.AgentCheck{CheckID: "hostagent:firewall", ServiceID: "web", Status: "passing"}
			a.vet = func(service string) (int, string) {
				if service == "web" {
					return 403, "Permission denied"
				}
				return 0, ""
			}
			c = newClient(t, Config{Address: c.Address()})
			r.Checks, r.Meta = sample().Checks[:1], meta
			report(t, c, r)
			if is := a.checks["hostagent:firewall"]; is.ServiceID != "hostagent" {
				t.Errorf("the check stands on %q", is.ServiceID)
			}
			if got := a.meta["hostagent"]; !maps.Equal(sampleMeta().Meta, got) {
				t.Errorf("metadata %v", got)
			}
		})
	}
}

func TestCleanMeta(t *testing.T) {
	if got := cleanMeta(nil); got != nil {
		t.Errorf("of nothing: %v", got)
	}
	many := map[string]string{}
	for i := range 70 {
		many[fmt.Sprintf("k%02d", i)] = "v"
	}
	if got := cleanMeta(many); len(got) != 64 || got["k63"] == "" {
		t.Errorf("of 70 pairs: %d", len(got))
	}
	long := strings.Repeat("x", 513)
	got := cleanMeta(map[string]string{
		"": "a", "consul-version": "b", "a b": "c", "ü": "d", "a\n": "e", long[:129]: "f", "long": long,
		long[:128]: "g", "fits": long[:512], "bad": "a\xffb", "empty": "", "sidecar-range": "21000-21255",
	})
	want := map[string]string{long[:128]: "g", "fits": long[:512], "bad": "a\uFFFDb", "empty": "", "sidecar-range": "21000-21255"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
