// SPDX-License-Identifier: MPL-2.0

package page

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what tests compare with anew, in testdata")

func written(t *testing.T, p *Page) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, p); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func at() time.Time {
	return time.Date(2026, 3, 4, 6, 7, 8, 0, time.FixedZone("elsewhere", 3600))
}

// usual is Consul's usual range, in use in every way.
func usual() Range {
	return Range{First: 21000, Last: 21255, Runs: []Run{
		{21000, 21002, UseSidecar, "web, api, billing"}, {21003, 21003, UseUnserved, "nobody listens for batch"},
		{21010, 21010, UseSquatted, "squatted by nc"}, {21011, 21011, UsePath, "web (exposed path)"},
		{21031, 21032, UseHeld, "closing: old-sidecar-proxy"}, {21100, 21101, UseShared, "shared: cache"}, {21255, 21255, UseLocal, "in use locally"},
	}}
}

func oneHost() Host {
	return Host{
		Name: "web-17", Address: "10.0.0.5", Version: "v0.9.0", Mode: "guard", Enforce: "quarantine", Range: usual(),
		Services: []Service{
			{Name: "web", ID: "web", Told: true, Listeners: []string{"0.0.0.0:8080"},
				In:     []WayIn{{Sidecar: "web-sidecar-proxy", Port: 21000, Open: true, Says: "open"}, {Sidecar: "web-sidecar-proxy", Port: 21011, Open: true, Path: true, Says: "open to exposed_paths_from"}},
				Around: []WayAround{{"0.0.0.0:8080", "exposed-listener", "open"}, {"[::]:9229", "exposed-sibling", "mitigated"}, {"0.0.0.0:9102", "exposed-sibling", "exempt"}}},
			{Name: "api", ID: "api-1", Told: true, Listeners: []string{"127.0.0.1:9090", "[::1]:9090"},
				In: []WayIn{{Sidecar: "api-1-sidecar-proxy", Port: 21001, Open: true, Says: "open"}}},
			{Name: "batch", ID: "batch", Told: true, In: []WayIn{{Sidecar: "batch-sidecar-proxy", Port: 22, Says: "left closed"},
				{Sidecar: "batch-2", Port: 21003, Open: true, Says: "open", Trouble: "sidecar-not-listening"}}},
			{Name: "cron", ID: "cron"},
		},
		Findings: []Finding{
			{Severity: "critical", ID: "exposed-admin", State: "open", Title: "proxy's admin interface reachable from the network", Service: "web", Where: "tcp 0.0.0.0:19000",
				Message: "the admin interface of web-sidecar-proxy listens on tcp 0.0.0.0:19000", Who: "envoy (pid 812), user envoy, envoy.service", Reach: "10.0.0.5 (eth0)", Remedy: "bind it to 127.0.0.1"},
			{Severity: "info", ID: "exposed-sibling", State: "exempt", Title: "another listener of the application", Service: "web", Where: "tcp 0.0.0.0:9102", Message: "metrics", Exemption: "scraped by the monitoring, until 2026-12-31"},
			{Severity: "warning", ID: "exposed-listener", State: "open", Title: "application reachable around the mesh", Service: "web", Where: "tcp 0.0.0.0:8080",
				Message: "web listens on tcp 0.0.0.0:8080: the network reaches it at 10.0.0.5 (eth0) without mTLS and without intentions", Who: "nginx (pid 4711), user www-data, nginx.service", Remedy: "listen 127.0.0.1:8080; in the server block; only its sidecar should be able to call it"},
		},
		Score: []Count{{"pass", 31}, {"n/a", 4}, {"info", 1}, {"unknown", 3}, {"warn", 2}, {"fail", 2}},
		Rows: []Row{
			{Status: "fail", ID: "acl-default-deny", Title: "Everything that no ACL rule allows is denied", Found: []string{"acl.default_policy is allow", "at the agent itself"}, Remedy: `acl { default_policy = "deny" } on every server and client`},
			{Status: "unknown", ID: "gossip-key", Title: "The gossip key is not that of documentation", Needs: "operator:read shows it"},
		},
		Notes: []string{"processes of other users are out of sight: run as root"},
	}
}

func onePage() *Page {
	return &Page{Title: "web-17", Datacenter: "dc1", Version: "v0.9.0", At: at(), Hosts: []Host{oneHost()}}
}

func fleetPage() *Page {
	fine := oneHost()
	fine.Name, fine.Findings, fine.Services, fine.Rows, fine.Notes = "api-2", nil, fine.Services[1:2], nil, nil
	fine.Score = []Count{{"pass", 37}, {"n/a", 4}}
	fine.Range.Runs = []Run{{21001, 21001, UseSidecar, "api"}}
	silent := Host{Name: "db-3", Address: "10.0.0.9", Version: "v0.8.0", Mode: "observe", Life: Silent, Says: "TTL expired, and nothing was heard since",
		More: 4, Checks: []Check{{"Firewall", "critical", "The rules could not be brought up to date:\n  ipset v7.17: <Kernel error>\n"}}}
	return &Page{
		Title: "datacenter dc1", Datacenter: "dc1", Version: "v0.9.0", At: at(), Fleet: true, Hosts: []Host{silent, oneHost(), fine},
		Missing: []Missing{{"legacy-1", "10.0.0.77", 3, true}, {"old-2", "", 0, false}}, Notes: []string{"4 nodes of the catalog are no hosts of an agent"},
	}
}

// TestGolden holds whole pages to what they were when somebody last looked at them in a browser.
func TestGolden(t *testing.T) {
	for name, p := range map[string]*Page{"host": onePage(), "fleet": fleetPage(), "empty": {Title: "datacenter dc1", Fleet: true, At: at()}} {
		t.Run(name, func(t *testing.T) {
			got := written(t, p)
			got = strings.Replace(got, style, "STYLE\n", 1)
			path := filepath.Join("testdata", name+".html")
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("the page (-want +got), go test -update writes it anew:\n%s", diff)
			}
		})
	}
}

// hostilePage has every text of a page be the same.
func hostilePage(text string, fleet bool) *Page {
	h := Host{
		Name: text, Address: text, Version: text, Mode: text, Enforce: text, Says: text, Unknown: text, Range: usual(), Notes: []string{text},
		Services: []Service{{Name: text, ID: text + "2", Told: true, Listeners: []string{text}, In: []WayIn{{Sidecar: text, Port: 21000, Open: true, Says: text, Trouble: text}}, Around: []WayAround{{text, text, text}}}},
		Findings: []Finding{{text, text, text, text, text, text, text, text, text, text, text}},
		Checks:   []Check{{text, text, text + "\n" + text}}, Score: []Count{{text, 1}, {"pass", 1}}, Rows: []Row{{text, text, text, []string{text}, text, text}}, Checklist: text + "\n" + text,
	}
	h.Range.Runs[0].Text, h.Range.Runs[1].Use = text, Use(text)
	return &Page{Title: text, Datacenter: text + "1", Version: text, At: at(), Fleet: fleet, Hosts: []Host{h, h}, Missing: []Missing{{text, text, 1, false}}, Notes: []string{text}}
}

// TestTextIsText: whatever a text holds, the page has the elements that it has for harmless ones.
func TestTextIsText(t *testing.T) {
	tags := regexp.MustCompile(`<[^>]*>`)
	elements := func(page string) []string {
		_, body, _ := strings.Cut(page, "</head>")
		all := tags.FindAllString(body, -1)
		for i := range all {
			all[i], _, _ = strings.Cut(all[i], " ")
		}
		return all
	}
	for _, fleet := range []bool{false, true} {
		want := elements(written(t, hostilePage("harmless", fleet)))
		for _, text := range []string{
			`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `' onload='x`, `</style><script>`, `</title><b>`, "--><!--", `]]><x>`,
			"javascript:alert(1)", "&lt;b&gt;&#60;", "pay\u202egnp.exe", "\x00\x1b[31m\u2028\x7f\x9b", "\xff\xfe<", strings.Repeat("<", 3000),
		} {
			page := written(t, hostilePage(text, fleet))
			if diff := cmp.Diff(want, elements(page)); diff != "" {
				t.Errorf("%.20q becomes markup: %s", text, diff)
			}
			if i := strings.IndexFunc(page, func(r rune) bool {
				return r != '\n' && r < ' ' || r >= 0x7f && r < 0xa0 || r == '\u202e' || r == '\u2028'
			}); i >= 0 {
				t.Errorf("%.20q leaves %.20q in the page", text, page[i:])
			}
		}
	}
}

// TestSpread: each finding is counted once a host, the worst first, and not where it does not stand open.
func TestSpread(t *testing.T) {
	of := func(ids ...string) (h Host) {
		for _, id := range ids {
			severity, id, _ := strings.Cut(id, " ")
			id, state, _ := strings.Cut(id, " ")
			h.Findings = append(h.Findings, Finding{Severity: severity, ID: id, State: state})
		}
		return h
	}
	p := &Page{Fleet: true, Hosts: []Host{
		of("info i open", "warning w open", "warning w open", "warning m mitigated"), of("warning x open", "warning e exempt"), of("warning x open", "critical c open"),
	}}
	var got []string
	for _, s := range spread(p) {
		got = append(got, fmt.Sprint(s.ID, " ", s.hosts))
	}
	if diff := cmp.Diff([]string{"c 1", "x 2", "w 1", "i 1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestNothingIsLoaded: a page refers to itself only.
func TestNothingIsLoaded(t *testing.T) {
	for _, p := range []*Page{onePage(), fleetPage(), hostilePage("http://evil.example/x", true)} {
		page := written(t, p)
		for _, found := range regexp.MustCompile(`(?i)\b(href|src|srcset|action|data|xlink:href)="[^#][^"]*"|@import|url\(|<script|<link|<base|<iframe|<object| on[a-z]+="`).FindAllString(page, -1) {
			t.Errorf("the page holds %q", found)
		}
		if !strings.Contains(page, `content="default-src 'none'; style-src 'unsafe-inline'; img-src data:;`) {
			t.Error("the page has no policy")
		}
	}
}

// TestGridHasACellForEachPort reads the paths back.
func TestGridHasACellForEachPort(t *testing.T) {
	for _, c := range []struct {
		r    Range
		free int
	}{
		{usual(), 245}, {Range{First: 21000, Last: 21000, Runs: []Run{{21000, 21000, UseSidecar, ""}}}, 0},
		{Range{First: 30000, Last: 34095, Runs: []Run{{30000, 34094, UseSquatted, ""}}}, 1}, {Range{First: 65500, Last: 65535, Runs: []Run{{1, 65535, UseLocal, ""}}}, 0},
		{Range{First: 21000, Last: 21039, Runs: []Run{{20990, 21010, UseSidecar, ""}, {21005, 21012, UseSquatted, ""}, {21038, 21050, UsePath, ""}, {21200, 21201, UseHeld, ""}}}, 25},
	} {
		r := c.r
		page := written(t, &Page{Hosts: []Host{{Range: r}}})
		_, grid, _ := strings.Cut(page, `<svg class="grid"`)
		grid, _, _ = strings.Cut(grid, "</svg>")
		behind := 0
		for _, row := range regexp.MustCompile(`M34 \d+h(\d+)`).FindAllStringSubmatch(regexp.MustCompile(`class="kf" d="([^"]*)"`).FindString(grid), -1) {
			var length int
			if _, err := fmt.Sscan(row[1], &length); err != nil {
				t.Fatal(err)
			}
			behind += (length + 2) / pitch
		}
		if behind != r.size() {
			t.Errorf("%d-%d: %d cells, want %d", r.First, r.Last, behind, r.size())
		}
		used, free := counts(&r, r.bounded())
		sum := free
		if free != c.free {
			t.Errorf("%d-%d: %d are free, want %d", r.First, r.Last, free, c.free)
		}
		for i, k := range kinds() {
			d := regexp.MustCompile(`class="` + string(k.class) + `" d="([^"]*)"`).FindStringSubmatch(grid)
			got := 0
			if d != nil {
				got = len(regexp.MustCompile(`M`).FindAllString(d[1], -1))
			}
			if got != used[i] {
				t.Errorf("%d-%d: %d cells %s, want %d", r.First, r.Last, got, k.words, used[i])
			}
			sum += used[i]
		}
		if sum != r.size() {
			t.Errorf("%d-%d: the legend counts %d", r.First, r.Last, sum)
		}
	}
}

// thousand is a datacenter of so many hosts with eight services each, every fourth of them troubled.
func thousand(hosts int) *Page {
	p := &Page{Title: "datacenter dc1", Fleet: true, At: at()}
	for i := range hosts {
		h := oneHost()
		h.Name = fmt.Sprintf("host-%04d.dc1.example", i)
		h.Services, h.Rows, h.Notes = nil, nil, nil
		for s := range 8 {
			name := fmt.Sprintf("service-%d", s)
			h.Services = append(h.Services, Service{Name: name, ID: name, Told: true, Listeners: []string{"127.0.0.1:8080"},
				In: []WayIn{{Sidecar: name + "-sidecar-proxy", Port: 21000 + s, Open: true, Says: "open"}}})
		}
		if i%4 != 0 {
			h.Findings, h.Score = nil, []Count{{"pass", 30}}
		}
		p.Hosts = append(p.Hosts, h)
	}
	return p
}

// TestSize: a thousand hosts are a page that a browser opens at once, and ten thousand one that it opens.
func TestSize(t *testing.T) {
	for hosts, most := range map[int]int{1000: 8 << 20, 10000: 24 << 20} {
		page := written(t, thousand(hosts))
		t.Logf("%d hosts: %d kB", hosts, len(page)>>10)
		if len(page) > most {
			t.Errorf("%d hosts are %d bytes", hosts, len(page))
		}
		said := strings.Contains(page, "of more than 1000 hosts only the others are shown one by one")
		if details := strings.Count(page, `<details class="host"`); said != (hosts > 1000) || details != map[int]int{1000: 1000, 10000: 2500}[hosts] {
			t.Errorf("%d hosts: %d are shown one by one, and the page says so: %t", hosts, details, said)
		}
	}
}

// TestAnchors: each link leads to one place.
func TestAnchors(t *testing.T) {
	page := written(t, fleetPage())
	ids := map[string]int{}
	for _, id := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		ids[id[1]]++
	}
	links := regexp.MustCompile(` (?:href="#|aria-[a-z]+by=")([^"]*)"`).FindAllStringSubmatch(page, -1)
	for _, link := range links {
		if ids[link[1]] != 1 {
			t.Errorf("%s leads to %d places", link[0], ids[link[1]])
		}
	}
	if len(links) < 10 {
		t.Errorf("%d links", len(links))
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteFails(t *testing.T) {
	if err := Write(full{}, onePage()); err == nil || err.Error() != "disk full" {
		t.Errorf("got %v", err)
	}
}
