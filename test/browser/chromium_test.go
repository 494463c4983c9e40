// SPDX-License-Identifier: MPL-2.0

package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/hostagent/hostagent/test/host"
)

// chromiumEnv names the browser; test/browser.sh sets it.
const chromiumEnv = "HOSTAGENT_CHROMIUM"

// The window: as wide as a small laptop's, where the UI is at its narrowest beside its menu.
const (
	windowWidth  = 1280
	windowHeight = 1000
)

// chromiumPath finds the browser.
func chromiumPath() (string, error) {
	for _, name := range []string{os.Getenv(chromiumEnv), "google-chrome", "chromium"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("cannot find a browser: install chromium or google-chrome, or name one in %s (make test-browser does)", chromiumEnv)
}

// startChromium starts a browser on the host, as if its administrator sat there, and returns a context whose actions run in
// a tab of it. It ends with the test, before the host does.
func startChromium(t *testing.T, h *host.Host) context.Context {
	t.Helper()
	path, err := chromiumPath()
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(h.Dir, "chromium") // profile, caches and, in place of /dev/shm, shared memory: gone with the host
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.Background(), path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
		"--remote-debugging-pipe", "--user-data-dir="+home, "--no-first-run", "--no-default-browser-check", "--no-proxy-server",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-breakpad",
		"--password-store=basic", "--hide-scrollbars", "--force-device-scale-factor=1", "--force-color-profile=srgb", "--lang=en-US",
		fmt.Sprintf("--window-size=%d,%d", windowWidth, windowHeight), "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "LANGUAGE=en",
		"DBUS_SESSION_BUS_ADDRESS=unix:path="+home+"/no-bus") // the tester's own is none of its business
	talk, err := startTalking(t, h, cmd)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancelAllocator := chromedp.NewAllocatorContext(t.Context(), talk)
	t.Cleanup(cancelAllocator)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(cancelTab)
	if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: trap}); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// startTalking starts a browser that takes commands from its descriptor 3 and answers on its descriptor 4: it needs no port,
// of which the host under test has only those that the test gives it.
func startTalking(t *testing.T, h *host.Host, cmd *host.Cmd) (*conversation, error) {
	commands, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer commands.Close()
	answers, theirs, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{commands, theirs}
	process, err := h.Start("chromium", cmd)
	if err != nil {
		return nil, errors.Join(err, ours.Close(), answers.Close())
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("chromium's log:\n%s", process.Log())
		}
		// Killed, for nothing of it is kept: its helpers are in its group and end with it.
		if err := process.Kill(); err != nil {
			t.Error(err)
		}
	})
	return &conversation{chromedp.NewPipeConn(answers, ours)}, nil
}

// conversation is the one browser there is, for chromedp.
type conversation struct{ pipe *chromedp.PipeConn }

// Allocate takes the browser over.
func (c *conversation) Allocate(ctx context.Context, options ...chromedp.BrowserOption) (*chromedp.Browser, error) {
	return chromedp.NewBrowserTransport(ctx, c.pipe, options...)
}

// Wait does nothing: the browser's process is the host's.
func (*conversation) Wait() {}
