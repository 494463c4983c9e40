// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/audit"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/page"
)

func pageText(t *testing.T, p *page.Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := page.Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func pageTime() time.Time { return time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC) }

// TestPageOfHost shows what becomes of a scan and an audit.
func TestPageOfHost(t *testing.T) {
	scan := scanOf([]hostagent.Service{serviceOf("web", "0.0.0.0:8080"), serviceOf("api", "127.0.0.1:9090", "127.0.0.1:9090")},
		exposed("web", "0.0.0.0:8080", process("nginx"), ""),
		finding(hostagent.Finding{ID: catalog.QuarantineRefused, Service: "web", ServiceID: "web", Port: 8080}, "reason", "it is protected"))
	scan.Mode, scan.ExposedPathsFrom = hostagent.ModeGuard, []string{"10.0.0.0/8"}
	scan.Services[0].Sidecars = []hostagent.Sidecar{{ID: "web-sidecar-proxy", Port: 21000, Opened: true, Paths: []hostagent.SidecarPath{{Port: 21500, Opened: true}, {Port: 21501}}}}
	scan.Services[1].Sidecars = []hostagent.Sidecar{{ID: "api-sidecar-proxy", Port: 70000}}
	scan.Notes = []string{"seen by both", "seen by the scan"}
	seen := &audited{scan: scan, subject: audit.Subject{Node: "host-1", Datacenter: "dc1"}, report: audit.Report{
		Rows: []audit.Row{
			{ID: "gossip-key", Status: audit.Unknown, Needs: "operator:read"}, {ID: "acl-default-deny", Status: audit.Fail, Found: []string{"it allows"}, Remedy: "deny"},
			{ID: "ca-root", Status: audit.Pass, Found: []string{"fine"}},
		}, Notes: []string{"seen by both"},
	}}
	p := hostPage(seen, "quarantine", pageTime())
	h := &p.Hosts[0]
	wantServices := []page.Service{
		{Name: "web", ID: "web", Told: true, Listeners: []string{"0.0.0.0:8080"}, In: []page.WayIn{
			{Sidecar: "web-sidecar-proxy", Port: 21000, Open: true, Says: "open"},
			{Sidecar: "web-sidecar-proxy", Port: 21500, Open: true, Says: "open to 10.0.0.0/8", Path: true},
			{Sidecar: "web-sidecar-proxy", Port: 21501, Says: "not opened", Path: true},
		}, Around: []page.WayAround{{At: "0.0.0.0:8080", Finding: "exposed-listener", State: "open"}}},
		{Name: "api", ID: "api", Told: true, Listeners: []string{"127.0.0.1:9090"}, In: []page.WayIn{{Sidecar: "api-sidecar-proxy", Port: 70000, Says: "left closed"}}},
	}
	if diff := cmp.Diff(wantServices, h.Services); diff != "" {
		t.Errorf("services (-want +got):\n%s", diff)
	}
	f := h.Findings[0]
	if f.Service != "web" || f.Where != "tcp 0.0.0.0:8080" || !strings.HasPrefix(f.Who, "nginx (pid 4711)") || f.Title == "" || f.Remedy == "" {
		t.Errorf("the finding is %+v", f)
	}
	var rows []string
	for _, row := range h.Rows {
		rows = append(rows, row.Status+" "+row.ID)
	}
	if diff := cmp.Diff([]string{"fail acl-default-deny", "unknown gossip-key"}, rows); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]page.Count{{Status: "pass", N: 1}, {Status: "unknown", N: 1}, {Status: "fail", N: 1}}, h.Score); diff != "" {
		t.Errorf("score (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"seen by both", "seen by the scan"}, h.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	if p.Title != "host-1" || p.Datacenter != "dc1" || h.Mode != "guard" || h.Enforce != "quarantine" {
		t.Errorf("the page is about %q in %q, mode %q, enforce %q", p.Title, p.Datacenter, h.Mode, h.Enforce)
	}
}

// TestTroubleOfWays: a port that is open and leads to no sidecar is not shown as a way in like others.
func TestTroubleOfWays(t *testing.T) {
	finding := func(id catalog.ID, state hostagent.State, where, message string) page.Finding {
		return page.Finding{ID: string(id), State: string(state), Where: where, Message: message}
	}
	for name, c := range map[string]struct {
		finding page.Finding
		port    int
		want    bool
	}{
		"nobody listens":         {finding(catalog.SidecarNotListening, hostagent.Open, "tcp port 21006", ""), 21006, true},
		"another port":           {finding(catalog.SidecarNotListening, hostagent.Open, "tcp port 21006", ""), 1006, false},
		"as a check tells it":    {finding(catalog.SidecarNotListening, hostagent.Open, "", "nothing listens on port 21006 that web-sidecar-proxy registered"), 21006, true},
		"a check, another port":  {finding(catalog.SidecarNotListening, hostagent.Open, "", "nothing listens on port 21006 that port 2100 registered"), 2100, false},
		"on loopback":            {finding(catalog.SidecarLoopbackOnly, hostagent.Open, "tcp 127.0.0.1:21000", ""), 21000, true},
		"no sidecar":             {finding(catalog.NotASidecar, hostagent.Open, "tcp [::]:21000", ""), 21000, true},
		"meant to be so":         {finding(catalog.SidecarNotListening, hostagent.Exempt, "tcp port 21006", ""), 21006, false},
		"about the application":  {finding(catalog.ExposedListener, hostagent.Open, "tcp 0.0.0.0:21000", ""), 21000, false},
		"blocked":                {finding(catalog.OpeningBlocked, hostagent.Open, "", "port 21000 cannot be reached from the network: x drops (21001)"), 21000, true},
		"blocked, of many":       {finding(catalog.OpeningBlocked, hostagent.Open, "", "ports 8443,21000-21005 cannot be reached from the network over IPv4: x"), 21005, true},
		"blocked, another":       {finding(catalog.OpeningBlocked, hostagent.Open, "", "ports 21000-21005 cannot be reached from the network: x drops (21006)"), 21006, false},
		"blocked, out of bounds": {finding(catalog.OpeningBlocked, hostagent.Open, "", "ports 1-99999999999999999999 cannot be reached"), 21006, false},
	} {
		h := page.Host{Findings: []page.Finding{c.finding}, Services: []page.Service{{In: []page.WayIn{{Port: c.port, Open: true}, {Port: c.port}}}}}
		markTrouble(&h)
		if got := h.Services[0].In[0].Trouble != ""; got != c.want {
			t.Errorf("%s: trouble %t, want %t", name, got, c.want)
		}
		if h.Services[0].In[1].Trouble != "" {
			t.Errorf("%s: a closed port is in trouble", name)
		}
	}
}

// TestPageSaysWhoMayConnect: a port that allow_from limits is not open to all.
func TestPageSaysWhoMayConnect(t *testing.T) {
	scan := scanOf(nil)
	scan.Mode, scan.AllowFrom = hostagent.ModeGuard, []string{"cluster", "10.0.0.0/8", "b", "c", "d", "e"}
	if got, want := sidecarSays(scan, &hostagent.Sidecar{Opened: true}), "open to cluster, 10.0.0.0/8, b, c and 2 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	scan.Mode = hostagent.ModeObserve
	if got, want := sidecarSays(scan, &hostagent.Sidecar{Opened: true}), "guard mode would open it to cluster, 10.0.0.0/8, b, c and 2 more"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestPageKnowsEachUse: what the map on a terminal distinguishes, the page does too, in the same words.
func TestPageKnowsEachUse(t *testing.T) {
	for _, m := range marks() {
		if m.use == "" {
			continue
		}
		runs := pageRuns([]hostagent.PortUse{{Port: 21000, Use: m.use, For: "web"}})
		text := pageText(t, &page.Page{Hosts: []page.Host{{Range: page.Range{First: 21000, Last: 21001, Runs: runs}}}})
		if want := "1 " + m.words + ", 1 free"; !strings.Contains(text, want) || !strings.Contains(text, m.label) {
			t.Errorf("%s: the page lacks %q or %q", m.use, want, m.label)
		}
	}
}

// TestPageWithoutServices says why there are none, and draws nothing from their absence.
func TestPageWithoutServices(t *testing.T) {
	scan := scanOf(nil)
	scan.Source, scan.Errors = hostagent.SourceNone, []error{errors.New("cannot ask the agent:\nno token")}
	h := pageHost(scan, pageTime())
	if h.Unknown != "cannot ask the agent:; no token" || h.Range.First != 0 || h.Services != nil {
		t.Errorf("got %+v", h)
	}
}

// TestPagesOfAllScans writes every scan that tables are tested with, hostile ones too.
func TestPagesOfAllScans(t *testing.T) {
	for name, scan := range scans() {
		text := pageText(t, hostPage(&audited{scan: scan}, "", pageTime()))
		if strings.ContainsAny(text, "\x1b\u202e\u009b\x07") || !strings.HasSuffix(text, "</html>\n") {
			t.Errorf("%s is not written as it should be", name)
		}
		if got := strings.Count(text, `<code class="id">`); got != len(scan.Findings) {
			t.Errorf("%s: the page shows %d findings, the scan has %d", name, got, len(scan.Findings))
		}
		ways := 0
		for _, s := range scan.Services {
			for _, p := range s.Sidecars {
				ways += 1 + len(p.Paths)
			}
		}
		if got := strings.Count(text, "<li>sidecar <code>"); got != ways && scan.Source != hostagent.SourceNone {
			t.Errorf("%s: the page shows %d ways in, the scan has %d", name, got, ways)
		}
	}
}

// TestReplaceFile: a link that appears after the check is replaced and not followed, and a failure leaves what was there.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path, victim := filepath.Join(dir, "host.html"), filepath.Join(dir, "victim")
	if err := errors.Join(os.WriteFile(victim, []byte("mine"), 0o600), os.Symlink(victim, path)); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, []byte("page")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("the page is %v, %v", info.Mode(), err)
	}
	for file, want := range map[string]string{path: "page", victim: "mine"} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", file, got, err)
		}
	}
	folder := filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{folder, filepath.Join(dir, "none", "host.html")} {
		if err := replaceFile(bad, []byte("page")); err == nil || !strings.HasPrefix(err.Error(), strconv.Quote(bad)+": ") || strings.Contains(err.Error(), ".hostagent-") {
			t.Errorf("writing %s ends with %v", bad, err)
		}
	}
	if err := checkPageOutput("-", false); err == nil {
		t.Error("a file of the name - is written")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %s", fmt.Sprint(left))
	}
}
