// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	if err := replaceFile(folder, []byte("page")); err == nil {
		t.Error("a folder is replaced")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left behind: %s", fmt.Sprint(left))
	}
}
