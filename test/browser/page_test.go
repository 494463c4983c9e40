// SPDX-License-Identifier: MPL-2.0

package browser

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/hostagent/hostagent/test/host"
)

// trap runs in every page before its own scripts: whatever a text of ours could run leaves window.ran behind.
const trap = `window.ran = false; window.alert = window.confirm = window.prompt = () => { window.ran = true }`

// tab is a tab of the browser that shows the Consul UI. The UI asks for changes for ever, so that its pages are never done:
// what is waited for is always something that they show.
type tab struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // it lives for one test
}

// open loads a page of the UI: "services/web".
func (b *tab) open(path string) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, chromedp.Navigate("http://"+host.ConsulAddress+"/ui/dc1/"+path)); err != nil {
		b.t.Fatal(err)
	}
}

// evaluate returns the value of a JavaScript expression in the page.
func evaluate[T any](b *tab, expression string) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("cannot evaluate %s: %v", expression, err)
	}
	return value
}

// text is what the page shows, so far.
func (b *tab) text() string {
	b.t.Helper()
	return evaluate[string](b, `document.body?.innerText ?? ""`)
}

// until waits for a condition, with a deadline.
func (b *tab) until(what string, within time.Duration, condition func() error) {
	b.t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain until %s: %v; the page shows\n%s", what, err, b.text())
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// shown is a check as a page shows it.
type shown struct {
	Name, Status string
	Notes        string
	Text         string   // of its output, as it is laid out
	Wrapped      []string // the lines of Text that take more than one on the screen
	Scrolls      bool     // there is more of Text to the right
	Wide         bool     // there is more of the page to the right
	Markup       string   // the names of elements inside of its texts
}

// readChecks is what makes shown of the page's checks. A line of text is one on the screen if all its rectangles have one top.
const readChecks = `[...document.querySelectorAll("li.health-check-output")].map(li => {
	const field = name => [...li.querySelectorAll("dl")].find(dl => dl.querySelector("dt").innerText.trim() == name)?.querySelector("dd");
	const box = li.querySelector("pre"), code = li.querySelector("pre code"), text = code.firstChild?.data ?? "";
	const wrapped = [];
	let at = 0;
	for (const line of text.split("\n")) {
		const range = document.createRange();
		if (line) {
			range.setStart(code.firstChild, at); range.setEnd(code.firstChild, at + line.length);
			if (new Set([...range.getClientRects()].map(r => Math.round(r.top))).size > 1) wrapped.push(line);
		}
		at += line.length + 1;
	}
	return {
		Name: li.querySelector("h2").innerText, Status: [...li.classList].find(c => c != "health-check-output") ?? "",
		Notes: field("Notes")?.innerText.trim() ?? "", Text: code.innerText, Wrapped: wrapped,
		Scrolls: box.scrollWidth > box.clientWidth || code.scrollWidth > box.clientWidth,
		Wide: document.documentElement.scrollWidth > document.documentElement.clientWidth,
		Markup: [...li.querySelectorAll("h2 *, dd[data-notes] *, pre code *")].map(e => e.tagName).join(" "),
	};
})`

// checks returns what the page shows, by the checks' names.
func (b *tab) checks() map[string]shown {
	b.t.Helper()
	all := map[string]shown{}
	for _, c := range evaluate[[]shown](b, readChecks) {
		all[c.Name] = c
	}
	return all
}

// checkTurns waits until the page shows a check with this status, and with text in its output; it returns that.
func (b *tab) checkTurns(name, status, text string, within time.Duration) shown {
	b.t.Helper()
	var c shown
	b.until(fmt.Sprintf("%q is %s", name, status), within, func() error {
		var ok bool
		if c, ok = b.checks()[name]; !ok {
			return fmt.Errorf("it is not there")
		}
		if c.Status != status || !strings.Contains(c.Text, text) {
			return fmt.Errorf("it is %s:\n%s", c.Status, c.Text)
		}
		return nil
	})
	return c
}

// listed waits until the list of services shows one with this status.
func (b *tab) listed(service, status string) {
	b.t.Helper()
	b.until(service+" is listed as "+status, soon, func() error {
		got := evaluate[string](b, fmt.Sprintf(`document.querySelector('a[href="/ui/dc1/services/%s"]')?.parentElement.querySelector("dl").className ?? ""`, service))
		if got != status {
			return fmt.Errorf("it is %q", got)
		}
		return nil
	})
}

// calm wants that no text has run as a script.
func (b *tab) calm() {
	b.t.Helper()
	if evaluate[bool](b, `window.ran !== false || document.querySelector("img[src=x]") !== null`) {
		b.t.Errorf("a text has become an element or a script of %s", evaluate[string](b, "location.href"))
	}
}

// picture is a PNG of the element that a JavaScript expression names, with some space around it; of the whole page where that
// is "document.documentElement".
func (b *tab) picture(element string) []byte {
	b.t.Helper()
	const space = 8
	rectangle := evaluate[struct{ X, Y, Width, Height float64 }](b, fmt.Sprintf(`(() => {
		const r = (%s).getBoundingClientRect();
		return {X: r.x + scrollX, Y: r.y + scrollY, Width: r.width, Height: r.height};
	})()`, element))
	clip := page.Viewport{
		X: max(rectangle.X-space, 0), Y: max(rectangle.Y-space, 0), Width: rectangle.Width + 2*space, Height: rectangle.Height + 2*space, Scale: 1,
	}
	beyond := true
	answer, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{Clip: &clip, CaptureBeyondViewport: &beyond})
	if err != nil {
		b.t.Fatal(err)
	}
	return answer.Data
}

// checkElement is the JavaScript expression for the element of a check.
func checkElement(name string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("li.health-check-output")].find(li => li.querySelector("h2").innerText == %q)`, name)
}
