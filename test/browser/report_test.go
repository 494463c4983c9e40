// SPDX-License-Identifier: MPL-2.0

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/page"
	"github.com/hostagent/hostagent/test/host"
)

// requests are the addresses that a tab has asked for.
type requests struct {
	mu  sync.Mutex
	all []string
}

// record has requests be noted from now on.
func (w *world) record() *requests {
	w.t.Helper()
	r := new(requests)
	w.must(chromedp.Do(w.tab.ctx)) // the tab is there
	w.must(chromedp.Listen(w.tab.ctx, func(event any) {
		if sent, ok := event.(*network.EventRequestWillBeSent); ok {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.all = append(r.all, sent.Request.URL)
		}
	}))
	return r
}

func (r *requests) seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// look opens a page from a file, and wants it to ask for nothing, run nothing, and to be readable wherever it is shown.
func (w *world) look(path, name string) {
	w.t.Helper()
	sent := w.record()
	address := "file://" + path
	w.must(chromedp.Do(w.tab.ctx, chromedp.Navigate(address)))
	for _, scheme := range []string{"light", "dark"} {
		w.show("", scheme)
		evaluate[bool](w.tab, `document.querySelectorAll("details").forEach(d => d.open = true), true`)
		for _, width := range []int64{360, 1280} {
			w.must(chromedp.Do(w.tab.ctx, chromedp.EmulateViewport(width, windowHeight)))
			w.fits(width)
			keep(w.t, fmt.Sprintf("%s-%s-%d", name, scheme, width), w.picture("document.documentElement"))
		}
		w.contrasts(scheme)
	}
	w.prints(name)
	w.calm()
	if diff := cmp.Diff([]string{address}, sent.seen()); diff != "" {
		w.t.Errorf("%s is not all that is asked for (-want +got):\n%s", name, diff)
	}
}

// show sets what the page is shown on, "" for a screen, and which colours its reader prefers.
func (w *world) show(media, scheme string) {
	w.t.Helper()
	_, err := chromedp.Call(w.tab.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: media, Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	w.must(err)
}

// fits wants nothing to stick out of the window.
func (w *world) fits(width int64) {
	w.t.Helper()
	if wide := evaluate[int64](w.tab, "document.documentElement.scrollWidth"); wide > width {
		w.t.Errorf("the page is %d pixels wide in a window of %d: %s", wide, width, strings.Join(evaluate[[]string](w.tab, `
			[...document.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map(e => e.outerHTML.slice(0, 120))`), "\n"))
	}
}

// contrasting yields what is too pale: texts with less than 4.5 to what is behind them, shapes with less than 3 (WCAG 2.2,
// 1.4.3 and 1.4.11).
const contrasting = `(() => {
	const parse = c => (c.match(/[\d.]+/g) ?? []).map(Number);
	const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
	const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05) };
	const behind = e => {
		for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length == 3 || c[3] == 1) return c }
		return [255, 255, 255];
	};
	const pale = new Set();
	let texts = 0, shapes = 0;
	for (const e of document.body.querySelectorAll("*")) {
		const style = getComputedStyle(e);
		if ([...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()) && e.tagName != "title" && e.tagName != "desc") {
			texts++;
			const got = ratio(parse(e instanceof SVGElement ? style.fill : style.color).slice(0, 3), behind(e));
			if (got < 4.5) pale.add(e.tagName + "." + e.getAttribute("class") + " in " + e.parentElement.className + ": " + got.toFixed(2));
		}
		if (e.tagName == "path" && e.closest(".grid, .bar") && !e.matches(".kf, .na")) {
			shapes++;
			const got = ratio(parse(style.fill), behind(e));
			if (got < 3) pale.add("shape " + e.getAttribute("class") + ": " + got.toFixed(2));
		}
	}
	return {Texts: texts, Shapes: shapes, Pale: [...pale], Ground: light(behind(document.body))};
})()`

// contrasts wants every text to stand out from what is behind it, and every shape.
func (w *world) contrasts(scheme string) {
	w.t.Helper()
	got := evaluate[struct {
		Texts, Shapes int
		Pale          []string
		Ground        float64
	}](w.tab, contrasting)
	if len(got.Pale) > 0 || got.Texts < 20 || got.Shapes < 2 {
		w.t.Errorf("in %s colours, of %d texts and %d shapes these are too pale: %q", scheme, got.Texts, got.Shapes, got.Pale)
	}
	if dark := got.Ground < 0.1; dark != (scheme == "dark") {
		w.t.Errorf("in %s colours the ground is %.2f light", scheme, got.Ground)
	}
}

// prints wants paper to be white for those too who like it dark, and to have what a screen has folded away.
func (w *world) prints(name string) {
	w.t.Helper()
	const paper = 680 // pixels, of A4 between its margins
	w.must(chromedp.Do(w.tab.ctx, chromedp.EmulateViewport(paper, windowHeight)))
	evaluate[bool](w.tab, `document.querySelectorAll("details").forEach(d => d.open = false), true`)
	w.show("print", "dark")
	if ground := evaluate[string](w.tab, "getComputedStyle(document.documentElement).backgroundColor"); ground != "rgb(255, 255, 255)" {
		w.t.Errorf("paper is %s", ground)
	}
	if folded := evaluate[int](w.tab, `[...document.querySelectorAll("details > div")].filter(e => e.getBoundingClientRect().height < 10 || !e.checkVisibility()).length`); folded > 0 {
		w.t.Errorf("%d hosts stay folded on paper", folded)
	}
	w.fits(paper)
	keep(w.t, name+"-print", w.picture("document.documentElement"))
	w.show("", "light")
}

// cells counts the cells of the first grid that lie behind, and those of each kind by class.
func (w *world) cells() map[string]int {
	w.t.Helper()
	return evaluate[map[string]int](w.tab, `Object.fromEntries([...document.querySelector("svg.grid").querySelectorAll("path")].map(p => {
		const d = p.getAttribute("d"), kind = p.getAttribute("class");
		return [kind, kind == "kf" ? [...d.matchAll(/h(\d+)/g)].reduce((sum, row) => sum + (Number(row[1]) + 2) / 12, 0) : d.match(/M/g).length];
	}))`)
}

// TestReport looks at the page that the program writes of a host with an exposed application and a squatter.
func TestReport(t *testing.T) {
	w := newWorld(t)
	w.service("web", "0.0.0.0:8080")
	w.service("db", "127.0.0.1:5432")
	w.startAs("squatter", "-listen", "0.0.0.0:21077")
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	path := filepath.Join(w.Dir, "host.html")
	w.until("the sidecars listen", soon, func() error {
		w.run(binary, "report", "--output", path)
		text, err := os.ReadFile(path)
		w.must(err)
		if strings.Contains(string(text), "sidecar-not-listening") {
			return fmt.Errorf("they do not")
		}
		return nil
	})
	w.look(path, "report")
	if diff := cmp.Diff(map[string]int{"kf": 256, "ks": 2, "kq": 1}, w.cells()); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	text := w.text()
	for _, part := range []string{node, "application reachable around the mesh", "squatted by squatter", "open, around the sidecar", "127.0.0.1:5432", "of the checklist pass"} {
		if !strings.Contains(text, part) {
			t.Errorf("the page does not show %q:\n%s", part, text)
		}
	}
}

// TestFleetReport looks at the page that the program writes of a datacenter with one host, of what that has reported.
func TestFleetReport(t *testing.T) {
	w := newWorld(t)
	w.service("web", "0.0.0.0:8080")
	w.guard()
	w.until("the host has reported", soon, func() error {
		if c := w.standing()["Listeners of web"]; c == nil || c.Status != "warning" {
			return fmt.Errorf("its check is %+v", c)
		}
		return nil
	})
	binary, err := host.Binary(w.ctx, host.HostagentProgram)
	w.must(err)
	path := filepath.Join(w.Dir, "fleet.html")
	w.run(binary, "fleet", "--format", "html", "--fail-on", "never", "--output", path)
	w.must(chromedp.Do(w.tab.ctx, chromedp.Navigate("file://"+path)))
	if open := evaluate[bool](w.tab, `document.querySelector("details").open`); !open {
		t.Error("the only host is folded")
	}
	keep(t, "fleet", w.picture("document.documentElement"))
	text := w.text()
	for _, part := range []string{"datacenter dc1", node, "application reachable around the mesh", "sidecar :21000", "open, around the sidecar"} {
		if !strings.Contains(flat(text), part) {
			t.Errorf("the page does not show %q:\n%s", part, text)
		}
	}
}

// hostile are names that would be something else than text, were they let.
func hostile() []string {
	return []string{
		`<script>window.ran=true</script>`, `"><img src=x onerror=window.ran=true>`, `' onmouseover='window.ran=true`, `javascript:window.ran=true`,
		`</style><svg onload=window.ran=true>`, `</title><iframe src=http://10.99.0.2/>`, "pay\u202egnp.exe", strings.Repeat("W", 300), "&lt;b&gt;",
	}
}

// TestPageOfHostileNames: names are text on the page of a datacenter, whatever they hold, and however long they are.
func TestPageOfHostileNames(t *testing.T) {
	w := newWorld(t)
	p := &page.Page{Title: hostile()[0], Datacenter: hostile()[1], Version: hostile()[2], At: time.Now(), Fleet: true, Notes: hostile()}
	for _, name := range hostile() {
		p.Missing = append(p.Missing, page.Missing{Name: name, Address: name, Sidecars: 1})
		p.Hosts = append(p.Hosts, page.Host{
			Name: name, Address: name, Version: name, Mode: name, Enforce: name, Life: page.Life(name), Says: name, Unknown: name, Notes: []string{name},
			Range:    page.Range{First: 21000, Last: 21255, Runs: []page.Run{{First: 21000, Last: 21009, Use: page.UseSidecar, Text: name}, {First: 21255, Last: 21255, Use: page.UseSquatted, Text: name}}},
			Services: []page.Service{{Name: name, ID: name + "2", Told: true, Listeners: []string{name}, In: []page.WayIn{{Sidecar: name, Port: 21000, Open: true, Says: name, Trouble: name}}, Around: []page.WayAround{{At: name, Finding: name}}}},
			Findings: []page.Finding{{Severity: name, ID: name, State: name, Title: name, Service: name, Where: name, Message: name, Who: name, Reach: name, Remedy: name, Exemption: name}},
			Checks:   []page.Check{{Name: name, Status: name, Output: name + "\n" + name}}, Checklist: name,
			Score: []page.Count{{Status: "pass", N: 3}, {Status: "fail", N: 1}}, Rows: []page.Row{{Status: name, ID: name, Title: name, Found: []string{name}, Needs: name, Remedy: name}},
		})
	}
	path := filepath.Join(w.Dir, "fleet.html")
	file, err := os.Create(path)
	w.must(err)
	w.must(page.Write(file, p))
	w.must(file.Close())
	w.look(path, "hostile-fleet")
	if got := evaluate[string](w.tab, `document.querySelector("h1").innerText`); got != hostile()[0] {
		t.Errorf("the heading is %q", got)
	}
	shown := evaluate[[]string](w.tab, `[...document.querySelectorAll("details h3")].map(e => e.textContent)`)
	want := hostile()
	want[6], want[7] = `pay\u202egnp.exe`, strings.Repeat("W", 300)
	if diff := cmp.Diff(want, shown); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if n := evaluate[int](w.tab, `document.querySelectorAll("script, img, iframe, b b, svg[onload], [onerror], [onmouseover]").length`); n > 0 {
		t.Errorf("%d elements were made by names", n)
	}
	if diff := cmp.Diff(map[string]int{"kf": 256, "ks": 10, "kq": 1}, w.cells()); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	if !evaluate[bool](w.tab, `document.querySelector(".hosts a").click(), document.querySelector("details").open`) {
		t.Error("the link to a host does not unfold it")
	}
}
