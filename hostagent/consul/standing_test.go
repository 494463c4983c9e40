// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
)

// onServices is sample with the results of two applications on their own services.
func onServices() Report {
	r := sample()
	r.Checks[1].Application = "web"
	r.Checks = append(r.Checks, Check{Key: ResultKey("db/ü 1"), Name: "Listeners of db", Status: Passing, Output: "loopback", Application: "db/ü 1"})
	return r
}

// newApplications is newFakeAgent with those two services.
func newApplications(t *testing.T) (*fakeAgent, *Client) {
	t.Helper()
	a, c := newFakeAgent(t)
	a.services["web"], a.services["db/ü 1"] = true, true
	return a, c
}

// where lists hostagent's checks: "id on service: status".
func (a *fakeAgent) where() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var lines []string
	for _, id := range slices.Sorted(maps.Keys(a.checks)) {
		if strings.HasPrefix(id, "hostagent:") {
			lines = append(lines, fmt.Sprintf("%s on %s: %s", id, a.checks[id].ServiceID, a.checks[id].Status))
		}
	}
	return lines
}

// checkFirst is checkError for the first of several errors and several texts.
func checkFirst(t *testing.T, err error, kind Kind, texts ...string) {
	t.Helper()
	several, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("no joined errors: %v", err)
	}
	for _, text := range texts {
		checkError(t, several.Unwrap()[0], kind, text)
	}
}

func TestReportOnServices(t *testing.T) {
	db := (&checkWriter{service: "hostagent"}).id(ResultKey("db/ü 1"))
	all := []string{
		"hostagent:alive on hostagent: passing", "hostagent:firewall on hostagent: passing",
		db + " on db/ü 1: passing", "hostagent:service:web on web: warning",
	}
	for _, tt := range []struct {
		name    string
		change  func(a *fakeAgent, r *Report)
		written int
		where   []string // nil: all
	}{
		{name: "nothing"},
		{name: "status", change: func(_ *fakeAgent, r *Report) { r.Checks[1].Status = Critical }, written: 1,
			where: []string{all[0], all[1], all[2], "hostagent:service:web on web: critical"}},
		{name: "replace-existing-checks, or somebody deregistered it", change: func(a *fakeAgent, _ *Report) { delete(a.checks, "hostagent:service:web") }, written: 1},
		{name: "registered anew between two passes", change: func(a *fakeAgent, _ *Report) {
			a.forget("web")
			a.services["web"] = true
		}, written: 1},
		{name: "agent restarted empty", change: func(a *fakeAgent, _ *Report) { a.forget("hostagent"); a.forget("web"); a.services["web"] = true }, written: 3},
		{name: "deregistered since the registrations were read", change: func(a *fakeAgent, _ *Report) { a.forget("web") }, where: all[:3]},
		{name: "left", change: func(_ *fakeAgent, r *Report) { r.Checks = r.Checks[:2] }, written: 1, where: []string{all[0], all[1], all[3]}},
		{name: "moved to hostagent's", change: func(_ *fakeAgent, r *Report) { r.Checks[1].Application = "" }, written: 1,
			where: []string{all[0], all[1], all[2], "hostagent:service:web on hostagent: warning"}},
		{name: "moved away by somebody", change: func(a *fakeAgent, _ *Report) { a.checks["hostagent:service:web"].ServiceID = "db/ü 1" }, written: 1},
		{name: "orphan of an earlier run", change: func(a *fakeAgent, _ *Report) {
			a.services["old"] = true
			a.register("hostagent:service:old", "old", "Listeners of old", &api.AgentServiceCheck{Status: "critical"})
		}, written: 1},
		{name: "what only looks like ours stays", change: func(a *fakeAgent, _ *Report) {
			a.services["old"] = true
			a.register("hostagent:service:other", "old", "Listeners of old", &api.AgentServiceCheck{Status: "passing"})
			a.register("hostagent:service:old", "old", "Listeners of old", &api.AgentServiceCheck{Status: "passing"})
			a.checks["hostagent:service:old"].Type = "http"
		}, where: []string{all[0], all[1], all[2], "hostagent:service:old on old: passing", "hostagent:service:other on old: passing", all[3]}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, c := newApplications(t)
			r := onServices()
			report(t, c, r)
			if diff := cmp.Diff(all, a.where()); diff != "" {
				t.Fatalf("first (-want +got):\n%s", diff)
			}
			if tt.change != nil {
				tt.change(a, &r)
			}
			want := tt.where
			if want == nil {
				want = all
			}
			for i, written := range []int{tt.written, 0, 0} {
				a.log()
				if got := report(t, c, r); got != written {
					t.Errorf("report %d: %d written, want %d", i, got, written)
				}
				if diff := cmp.Diff(want, a.where()); diff != "" {
					t.Errorf("report %d (-want +got):\n%s", i, diff)
				}
			}
			// Where a service is gone, the one try to write there is no write.
			if requests := a.log(); tt.name != "deregistered since the registrations were read" && !slices.Equal(requests, []string{look}) {
				t.Errorf("requests of a steady host: %q", requests)
			}
		})
	}
}

// TestReportMovesBack: results that stood on hostagent's service move to the applications', and each has one check at
// any time.
func TestReportMovesBack(t *testing.T) {
	a, c := newApplications(t)
	report(t, c, sample())
	a.log()
	if written := report(t, c, onServices()); written != 2 {
		t.Errorf("%d written, want the one that moves and the new one", written)
	}
	if requests := a.log(); slices.ContainsFunc(requests, func(r string) bool { return strings.Contains(r, "deregister") }) {
		t.Errorf("a check was away for a moment: %q", requests)
	}
	if where := a.where(); !slices.Contains(where, "hostagent:service:web on web: warning") || len(where) != 4 {
		t.Errorf("got %q", where)
	}
}

// denyOn lets no check be written on a service, or moved away from it, as an agent's ACLs do.
func (a *fakeAgent) denyOn(service string) {
	a.vet = func(on string) (int, string) {
		if on == service {
			return http.StatusForbidden, "Permission denied: token with AccessorID '1' lacks permission 'service:write' on \"" + service + "\""
		}
		return 0, ""
	}
}

// TestRefusedService: one application on which the token may not write has its result on hostagent's service, beside an
// error that names the rule; the others are not kept from theirs, and it is not asked again for a while.
func TestRefusedService(t *testing.T) {
	for _, stood := range []bool{false, true} {
		t.Run(fmt.Sprintf("stood there %t", stood), func(t *testing.T) {
			a, c := newApplications(t)
			now := time.Now()
			c.now = func() time.Time { return now }
			r := onServices()
			if stood {
				report(t, c, r)
				r.Checks[1].Status = Critical // what stands there must not stay
			}
			a.denyOn("web")
			_, err := c.Report(t.Context(), r)
			checkFirst(t, err, KindDenied,
				`check hostagent:service:web on service "web" at`, `lacks permission 'service:write' on "web"; give hostagent's token service "web" { policy = "write" }; until then its result stands on service hostagent`)
			want := fmt.Sprintf("hostagent:service:web on hostagent: %s", r.Checks[1].Status)
			if where := a.where(); !slices.Contains(where, want) || len(where) != 4 {
				t.Errorf("got %q, want %s", where, want)
			}
			a.log()
			for range 3 {
				written, again := c.Report(t.Context(), r)
				if again == nil || again.Error() != err.Error() || written != 0 {
					t.Errorf("%d written, error %v, want the same as at first", written, again)
				}
				if diff := cmp.Diff([]string{look}, a.log()); diff != "" {
					t.Errorf("requests (-want +got):\n%s", diff)
				}
			}
			a.vet = nil
			if now = now.Add(refusalLasts); report(t, c, r) != 1 {
				t.Error("not written when the token may")
			}
			if where := a.where(); !slices.Contains(where, fmt.Sprintf("hostagent:service:web on web: %s", r.Checks[1].Status)) || len(where) != 4 {
				t.Errorf("got %q", where)
			}
		})
	}
}

// TestRefusedOrphan: a check that cannot be taken away is told, and not tried again at once.
func TestRefusedOrphan(t *testing.T) {
	a, c := newApplications(t)
	report(t, c, onServices())
	a.denyOn("web")
	r := onServices()
	r.Checks = r.Checks[:1]
	_, err := c.Report(t.Context(), r)
	checkFirst(t, err, KindDenied, `cannot take away check hostagent:service:web on service "web"`,
		`give hostagent's token service "web" { policy = "write" }`)
	a.log()
	if _, err := c.Report(t.Context(), r); err == nil || !slices.Equal(a.log(), []string{look}) {
		t.Errorf("again: %v", err)
	}
}

// TestOwnIDTaken: nothing is written while somebody else's service has our id, and theirs is neither overwritten nor taken
// away, now or by our life check.
func TestOwnIDTaken(t *testing.T) {
	for name, other := range map[string]*api.AgentService{
		"another name": {ID: "hostagent", Service: "shop"},
		"a port":       {ID: "hostagent", Service: "hostagent", Port: 8080},
		"tags":         {ID: "hostagent", Service: "hostagent", Tags: []string{"v1"}},
		"a sidecar":    {ID: "hostagent", Service: "hostagent", Kind: "connect-proxy", Proxy: &api.AgentServiceConnectProxyConfig{}},
	} {
		for _, before := range []bool{true, false} {
			if name == "tags" && !before {
				continue // with our checks on it, it is ours, and not written to
			}
			t.Run(fmt.Sprintf("%s, before us %t", name, before), func(t *testing.T) {
				a, c := newFakeAgent(t)
				if !before {
					report(t, c, sample())
				}
				a.services["hostagent"], a.foreign["hostagent"] = true, other
				a.checks["service:hostagent"] = &api.AgentCheck{
					CheckID: "service:hostagent", ServiceID: "hostagent", Type: "tcp", Status: "passing",
				}
				a.known(t, c)
				for range 2 {
					_, err := c.Report(t.Context(), sample())
					checkFirst(t, err, KindTaken,
						`another service has this id`, `deregister that one, or give hostagent another name with report { service_name }`)
					if where := a.where(); len(where) > 0 {
						t.Errorf("on somebody else's service: %q", where)
					}
				}
				if err := c.Withdraw(t.Context(), "hostagent"); err != nil || !a.services["hostagent"] || a.checks["service:hostagent"] == nil {
					t.Errorf("withdrew somebody else's service: %v", err)
				}
				for _, request := range a.log()[1:] {
					if !before && strings.HasPrefix(request, "PUT check/deregister/hostagent:") {
						continue
					}
					if before && strings.HasPrefix(request, "PUT") {
						t.Errorf("wrote: %s", request)
					}
				}
				a.forget("hostagent")
				delete(a.foreign, "hostagent")
				a.known(t, c)
				report(t, c, sample())
				if diff := cmp.Diff(sampleState(), a.state("hostagent")); diff != "" {
					t.Errorf("when it is free (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// known lets c read the registrations, as it does before each report.
func (a *fakeAgent) known(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.Services(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRemove(t *testing.T) {
	a, c := newApplications(t)
	foreign := len(a.checks)
	report(t, c, onServices())
	a.register("hostagent:service:other", "web", "all is well", &api.AgentServiceCheck{Status: "passing"})
	db := (&checkWriter{service: "hostagent"}).id(ResultKey("db/ü 1"))
	want := Standing{Registered: true, Checks: []StandingCheck{
		{ID: "hostagent:alive", Name: "hostagent alive", Status: Passing},
		{ID: "hostagent:firewall", Name: "Firewall", Status: Passing},
		{ID: db, Application: "db/ü 1", Name: "Listeners of db", Status: Passing},
		{ID: "hostagent:service:web", Application: "web", Name: "Listeners of web", Status: Warning},
	}}
	standing, err := c.Standing(t.Context(), "hostagent")
	if diff := cmp.Diff(want, standing); diff != "" || err != nil {
		t.Errorf("standing: %v (-want +got):\n%s", err, diff)
	}
	a.denyOn("web")
	gone, err := c.Remove(t.Context(), "hostagent")
	if KindOf(err) != KindDenied || len(gone.Checks) != 3 || !gone.Registered {
		t.Errorf("with one that may not be written: %v, gone %v", err, gone)
	}
	a.vet = nil
	gone, err = c.Remove(t.Context(), "hostagent")
	if diff := cmp.Diff(Standing{Checks: want.Checks[3:]}, gone); diff != "" || err != nil {
		t.Errorf("the rest: %v (-want +got):\n%s", err, diff)
	}
	if gone, err = c.Remove(t.Context(), "hostagent"); err != nil || gone.Registered || len(gone.Checks) > 0 {
		t.Errorf("again: %v, %v", gone, err)
	}
	if len(a.checks) != foreign+1 || !a.services["web"] {
		t.Errorf("%d checks are left of %d: %q", len(a.checks), foreign+1, a.where())
	}
}

// TestRemoveAtHangingAgent: the time is that of one request, and what was not done is told.
func TestRemoveAtHangingAgent(t *testing.T) {
	a, c := newApplications(t)
	report(t, c, onServices())
	hang := make(chan struct{})
	a.refuse = func(request string) (int, string) {
		if strings.HasPrefix(request, "PUT") {
			<-hang
		}
		return 0, ""
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	gone, err := c.Remove(ctx, "hostagent")
	if KindOf(err) != KindTimeout || gone.Registered || len(gone.Checks) > 0 || time.Since(start) > 3*time.Second {
		t.Errorf("took %v, gone %v: %v", time.Since(start), gone, err)
	}
	if !strings.Contains(err.Error(), "not tried after that: 1 checks") {
		t.Errorf("does not tell what is left: %v", err)
	}
	close(hang)
}

// TestReportLeavesApplications: a check that moves away from an application's service is taken away there first, so that
// aliases of that service hear of it.
func TestReportLeavesApplications(t *testing.T) {
	a, c := newApplications(t)
	report(t, c, onServices())
	a.log()
	report(t, c, sample())
	want := []string{look, "PUT check/deregister/hostagent:service:web", register, updateWeb, register}
	if diff := cmp.Diff(want, a.log()[:len(want)]); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}
