// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/fleet"
	"github.com/hostagent/hostagent/sockets"
)

// inCatalog is what a host's checks become in the catalog, read by package fleet.
func inCatalog(t *testing.T, checks ...consul.Check) fleet.Host {
	t.Helper()
	const own = "hostagent"
	agent := consul.FleetAgent{Node: "n", ID: own}
	for _, c := range checks {
		agent.Checks = append(agent.Checks, consul.FleetCheck{ID: consul.CheckID(own, c.Key), Name: c.Name, Status: c.Status, Output: c.Output, Notes: c.Notes})
	}
	r := fleet.Evaluate(consul.Fleet{
		Nodes: []consul.FleetNode{{Name: "n", Member: true, Alive: true}}, Agents: []consul.FleetAgent{agent},
	}, fleet.Query{Service: own})
	if len(r.Hosts) != 1 {
		t.Fatalf("%d hosts", len(r.Hosts))
	}
	return r.Hosts[0]
}

// spaceless is text without what wrapping changes.
func spaceless(text string) string { return strings.Join(strings.Fields(text), "") }

// asTold is what of a finding must arrive.
func asTold(f *Finding, service Service) fleet.Finding {
	told := fleet.Finding{
		Severity: f.Severity, ID: f.ID, State: string(f.State), Message: spaceless(f.Message),
		Who: spaceless(whoText(f.Listener, f.Owner)), Service: service.Name, ServiceID: service.ID,
	}
	if f.Listener != nil {
		told.Where = address(f.Listener)
	}
	if f.State == Exempt {
		told.Exemption = spaceless(f.Exemption.String())
	} else {
		told.Remedy = spaceless(f.Remedy)
	}
	return told
}

func arrived(fs []fleet.Finding) []fleet.Finding {
	fs = slices.Clone(fs)
	for i := range fs {
		f := &fs[i]
		f.Message, f.Who, f.Remedy, f.Exemption = spaceless(f.Message), spaceless(f.Who), spaceless(f.Remedy), spaceless(f.Exemption)
	}
	slices.SortFunc(fs, func(a, b fleet.Finding) int { return cmp.Compare(a.Message+a.Where+a.State, b.Message+b.Where+b.State) })
	return fs
}

// nastyWords are what a message may hold wherever a line is broken.
const nastyWords = "remedy: exempt: who: critical exposed-admin and 3 more: see hostagent scan sidecar x: port 1, open tcp 0.0.0.0:1 "

// tellable are findings of one kind in each state, of each sort of owner and with texts of several lengths.
func tellable(entry catalog.Entry) (fs []Finding) {
	owners := []*sockets.Owner{
		nil, {}, {User: "app", Unit: "web.service", Processes: []sockets.Process{{PID: 7, Name: "remedy: java"}}},
		{User: "root", Container: "0123456789ab", Processes: []sockets.Process{{PID: 7, Name: strings.Repeat("exempt: ", 30)}}},
	}
	addresses := []string{"", "0.0.0.0:8080", "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535"}
	for _, state := range []State{Open, Mitigated, Exempt} {
		for i, owner := range owners {
			for j, at := range addresses {
				shift := strings.Repeat("x", 3*len(fs)%60)
				f := Finding{
					ID: entry.ID, Severity: entry.Severity, State: state, Owner: owner,
					Message: catalog.Render(entry.Message, "service", shift+" "+nastyWords) + " " + nastyWords, Remedy: shift + " " + nastyWords + entry.Remedy,
				}
				if at != "" {
					f.Listener = &sockets.Listener{Protocol: sockets.TCP, Addr: netip.MustParseAddrPort(at), UID: uint32(i + j)}
				}
				if state != Open {
					f.Severity = catalog.Info
				}
				if state == Exempt {
					x := exemption(string(entry.ID))
					x.Reason = nastyWords + shift
					f.Exemption = &x
				}
				fs = append(fs, f)
			}
		}
	}
	return fs
}

// TestFleetReadsFindings: whatever a check tells of a finding is read back from the catalog.
func TestFleetReadsFindings(t *testing.T) {
	service := Service{ID: "web-1", Name: "web", Sidecars: []Sidecar{{ID: "web-1-sidecar-proxy", Port: 21000, Opened: true}}}
	read := 0
	for _, entry := range catalog.Entries() {
		fs := tellable(entry)
		for size := 1; size <= 3; size++ {
			for chunk := range slices.Chunk(fs, size) {
				told := telling{mode: ModeGuard, stale: size == 2}
				of, check := service, told.serviceCheck(service, chunk)
				if !entry.OfService {
					of, check = Service{}, told.rangeCheck(DefaultSidecarRange(), chunk)
				}
				host := inCatalog(t, check)
				var want []fleet.Finding
				for i := range chunk {
					want = append(want, asTold(&chunk[i], of))
				}
				if diff := gocmp.Diff(arrived(want), arrived(host.Findings)); diff != "" {
					t.Fatalf("%s:\n%s\n%s", entry.ID, diff, check.Output)
				}
				if host.More != 0 || entry.OfService != (len(host.Services) == 1) {
					t.Fatalf("%d more, %d services:\n%s", host.More, len(host.Services), check.Output)
				}
				read += len(chunk)
			}
		}
	}
	if read < 1000 {
		t.Errorf("only %d findings were read", read)
	}
}

// TestFleetReadsCounts: with detail = "counts" there are as many of each kind.
func TestFleetReadsCounts(t *testing.T) {
	var ofRange, ofService []Finding
	for _, entry := range catalog.Entries() {
		if entry.OfService {
			ofService = append(ofService, tellable(entry)...)
		} else {
			ofRange = append(ofRange, tellable(entry)[:20]...)
		}
	}
	ofRange = ofRange[:150]
	for _, stale := range []bool{false, true} {
		told := telling{mode: ModeGuard, counts: true, stale: stale}
		service := Service{ID: "web", Name: "web", Sidecars: []Sidecar{{ID: "web-sidecar-proxy", Port: 21000}}}
		host := inCatalog(t, told.rangeCheck(DefaultSidecarRange(), ofRange), told.serviceCheck(service, ofService))
		tally := map[string]int{}
		for _, f := range slices.Concat(ofRange, ofService) {
			tally[fmt.Sprint(f.Severity, f.ID, f.State)]++
		}
		for _, f := range host.Findings {
			tally[fmt.Sprint(f.Severity, f.ID, f.State)]--
			if f.Message+f.Remedy+f.Where != "" {
				t.Fatalf("%+v", f)
			}
		}
		for kind, n := range tally {
			if n != 0 {
				t.Errorf("%d of %s are lost", n, kind)
			}
		}
		if len(host.Services) != 1 || host.Services[0].Told || host.Services[0].Name != "web" || host.More != 0 {
			t.Errorf("%+v", host.Services)
		}
	}
	for _, c := range []consul.Check{telling{counts: true}.serviceCheck(Service{ID: "web", Name: "web"}, nil)} {
		if host := inCatalog(t, c); len(host.Services) != 1 || host.Services[0].Told || len(host.Findings) != 0 || host.Services[0].Says != "" {
			t.Errorf("%+v", host)
		}
	}
}

// TestFleetReadsMore: what a check has no room for is counted.
func TestFleetReadsMore(t *testing.T) {
	var fs []Finding
	for range 60 {
		fs = append(fs, Finding{ID: catalog.ExposedListener, Severity: catalog.Warning, State: Open, Message: strings.Repeat("word ", 60), Remedy: strings.Repeat("word ", 30)})
	}
	for _, check := range []consul.Check{
		telling{mode: ModeGuard}.serviceCheck(Service{ID: "web", Name: "web", Sidecars: []Sidecar{{ID: "p", Port: 1}}}, fs), telling{}.rangeCheck(DefaultSidecarRange(), fs),
	} {
		if host := inCatalog(t, check); len(host.Findings) == 0 || host.More == 0 || len(host.Findings)+host.More != 60 {
			t.Errorf("%d findings and %d more of 60:\n%s", len(host.Findings), host.More, check.Output)
		}
	}
}

// TestFleetReadsServices: names, sidecars and where the application listens, whatever the names are.
func TestFleetReadsServices(t *testing.T) {
	wide := strings.Repeat("日本", 20)
	names := []string{
		"web", "web: 2 warnings", "a listens on loopback only: tcp 127.0.0.1:1.", "x does not listen on this host's network.", nastyWords,
		strings.Repeat("x", 70) + " sidecar fake: port 22, open", strings.Repeat("日", 36) + " sidecar fake: port 22, open " + strings.Repeat("日", 56),
		wide + " critical saved-rules", "critical  1 exposed-admin", "\n\ncritical exposed-admin\n",
	}
	finding := Finding{ID: catalog.ExposedListener, Severity: catalog.Warning, State: Open, Message: "a", Remedy: "b"}
	for _, name := range names {
		for _, mode := range []Mode{ModeGuard, ModeObserve} {
			for listening := range 7 {
				for _, fs := range [][]Finding{nil, {finding}, {finding, finding}} {
					s := Service{ID: name, Name: name}
					for i := range listening {
						s.Listeners = append(s.Listeners, sockets.Listener{Protocol: sockets.TCP, Addr: netip.AddrPortFrom(netip.IPv6Loopback(), uint16(8000+i))})
						s.Sidecars = append(s.Sidecars, Sidecar{
							ID: name + fmt.Sprint(i), Port: 21000*i - 1, Opened: i%2 == 0, Paths: []SidecarPath{{Port: 20200, Opened: true}, {Port: 20201}}[:i%3],
						})
					}
					checkService(t, s, fs, mode)
				}
			}
		}
	}
	s := Service{ID: "web", Name: "web", Sidecars: make([]Sidecar, 11)}
	if host := inCatalog(t, telling{mode: ModeGuard}.serviceCheck(s, nil)); len(host.Services[0].Sidecars) != 8 || host.Services[0].More != 3 {
		t.Errorf("%+v", host.Services[0])
	}
}

func checkService(t *testing.T, s Service, fs []Finding, mode Mode) {
	t.Helper()
	told := telling{mode: mode}
	check := told.serviceCheck(s, fs)
	host := inCatalog(t, check)
	if len(host.Services) != 1 || len(host.Findings) != len(fs) {
		t.Fatalf("%d services, %d findings in:\n%s", len(host.Services), len(host.Findings), check.Output)
	}
	got := host.Services[0]
	name := s.Name
	if len(fs) > 0 {
		name = catalog.CleanTo(name, 60)
	}
	if spaceless(got.Name) != spaceless(catalog.Clean(name)) {
		t.Fatalf("the name is %q, want %q, in:\n%s", got.Name, name, check.Output)
	}
	var listeners []string
	if len(fs) == 0 && len(s.Listeners) > 0 {
		for i := range s.Listeners {
			listeners = append(listeners, address(&s.Listeners[i]))
		}
		slices.Sort(listeners)
		if len(listeners) > 5 {
			listeners = append(listeners[:5], fmt.Sprintf("%d more", len(listeners)-5))
		}
	}
	if diff := gocmp.Diff(listeners, got.Loopback); diff != "" {
		t.Fatalf("listeners:\n%s\n%s", diff, check.Output)
	}
	if len(got.Sidecars) != len(s.Sidecars) {
		t.Fatalf("%d sidecars of %d in:\n%s", len(got.Sidecars), len(s.Sidecars), check.Output)
	}
	for i, sidecar := range got.Sidecars {
		want := s.Sidecars[i]
		if spaceless(sidecar.ID) != spaceless(catalog.CleanTo(want.ID, 80)) || sidecar.Port != want.Port || sidecar.Open != want.Opened ||
			min(len(want.Paths), 2) != len(sidecar.Paths) || sidecar.Says == "" {
			t.Fatalf("%+v, want %+v, in:\n%s", sidecar, want, check.Output)
		}
	}
}

// TestFleetReadsTheHost: how hostagent is, what it says of itself, and what the checklist has found.
func TestFleetReadsTheHost(t *testing.T) {
	trouble := errors.New("cannot reach the Consul agent\nat 127.0.0.1:8500")
	for _, mode := range []Mode{ModeGuard, ModeObserve} {
		for _, counts := range []bool{false, true} {
			h := newFakeHost()
			parts := h.parts(mode)
			parts.Policy.CountsOnly = counts
			a := NewAgent(parts)
			a.memory.settled = true
			life, failing, stop := a.lifeCheck(nil), a.lifeCheck(trouble), a.stoppedCheck()
			late := func(c consul.Check) consul.Check { // as an agent of Consul has it that nobody refreshes
				c.Status, c.Output = consul.Critical, "TTL expired (last output before timeout follows): "+c.Output
				return c
			}
			version := "1.2.3"
			if counts {
				version = ""
			}
			for _, tt := range []struct {
				name  string
				check consul.Check
				state fleet.State
				says  string // begins so
			}{
				{"well", life, fleet.Runs, ""},
				{"in trouble", failing, fleet.Runs, "The last whole answer of Consul stands"},
				{"stopped", stop, fleet.Stopped, "hostagent was stopped: it"},
				{"stopped a while ago", late(stop), fleet.Stopped, "hostagent was stopped: it"},
				{"dead", late(life), fleet.Silent, "TTL expired, the last it said: hostagent"},
				{"dead in trouble", late(failing), fleet.Silent, "TTL expired, the last it said: hostagent"},
			} {
				host := inCatalog(t, tt.check, a.firewallCheck())
				if host.State != tt.state || !strings.HasPrefix(host.Says, tt.says) || (host.Says == "") != (tt.says == "") || strings.Contains(host.Says, "\n") {
					t.Errorf("%s mode, counts %t, %s: %s, %q", mode, counts, tt.name, host.State, host.Says)
				}
				if tt.state != fleet.Stopped && (host.Self.Version != version || host.Self.Mode != string(mode)) {
					t.Errorf("%s mode, counts %t, %s: %+v", mode, counts, tt.name, host.Self)
				}
			}
			a.applyErr = trouble
			a.result.Rules.Open = firewall.Ports(21000)
			a.result.Openings = []Opening{{Port: 21000, Services: []string{"critical exposed-admin"}}}
			if host := inCatalog(t, life, a.firewallCheck()); host.Worst() != fleet.RankFailing || len(host.Findings) > 0 || len(host.Checks) != 2 {
				t.Errorf("%+v", host)
			}
		}
	}
}

// TestFleetReadsScores where metadata tells none: of reports with each number of items of each status.
func TestFleetReadsScores(t *testing.T) {
	for n := range 50 {
		var report audit.Report
		for i, status := range audit.Statuses() {
			for range (n + 3*i) % 8 {
				report.Rows = append(report.Rows, audit.Row{ID: "acl-default-deny", Status: status, Found: []string{"found"}, Remedy: "mend"})
			}
		}
		for _, counts := range []bool{false, true} {
			check := auditCheck(&report, counts)
			want := report.Score()
			host := inCatalog(t, check)
			if diff := gocmp.Diff(want, host.Self.Score); diff != "" {
				t.Fatalf("%s\n%s", diff, check.Output)
			}
			if len(host.Findings)+host.More > 0 {
				t.Fatalf("findings of the checklist: %+v", host.Findings)
			}
		}
	}
}
