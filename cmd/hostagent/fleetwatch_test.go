// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hostagent/hostagent/hostagent/fleet"
)

// TestFleetLooksKeepTheirPace: many events are one look, a slow one leaves the servers in peace for three times as long, and
// one that failed is repeated.
func TestFleetLooksKeepTheirPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // hands over between the goroutines: the race detector sees no order in a sleep
		looks, took := 0, time.Duration(0)
		var fails error
		wakes := make(chan func(), 1)
		w := newFleetWatch(func(context.Context) (*fleet.Report, error) {
			mu.Lock()
			looks++
			takes, err := took, fails
			mu.Unlock()
			time.Sleep(takes)
			return new(fleet.Report), err
		}, func(_ context.Context, wake func()) error { wakes <- wake; return nil })
		w.show = func(*fleet.Report, error) error { return nil }
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = w.run(ctx)
		}()
		wake := <-wakes
		after := func(what string, d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if looks != want {
				t.Errorf("%s: %d looks, want %d", what, looks, want)
			}
		}
		next := func(takes time.Duration, err error) {
			mu.Lock()
			defer mu.Unlock()
			took, fails = takes, err
		}
		after("at first", 0, 1)
		wake()
		after("an event at once", 900*time.Millisecond, 1)
		next(time.Second, nil)
		after("a second after the look", 200*time.Millisecond, 2)
		next(0, nil)
		time.Sleep(time.Second) // that look ends
		wake()
		after("an event after a slow look", 2800*time.Millisecond, 2)
		after("three times as long after it", 400*time.Millisecond, 3)
		after("nothing happens", 55*time.Second, 3)
		next(0, errors.New("gone"))
		after("a minute later", 7*time.Second, 4)
		after("it failed", 6*time.Second, 5)
		cancel()
		<-ended
	})
}

// changingAgent is a Consul agent whose catalog changes.
type changingAgent struct {
	mu    sync.Mutex
	index int
	news  chan struct{}     // closed when the index moves
	swap  map[string]string // what stands in place of what in its answers
	down  bool
	waits int // questions that wait for another index than this one
}

// settled waits until both questions for changes wait, and until what they woke before was looked at.
func (a *changingAgent) settled(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		a.mu.Lock()
		waits := a.waits
		a.mu.Unlock()
		if waits == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d questions wait for changes", waits)
		}
	}
	time.Sleep(fleetApart + fleetApart/2)
}

func (a *changingAgent) change(down bool, swap map[string]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.index++
	a.down, a.swap = down, swap
	close(a.news)
	a.news = make(chan struct{})
}

func (a *changingAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	index, news := a.index, a.news
	a.mu.Unlock()
	if waits := r.FormValue("index"); waits != "" && waits == strconv.Itoa(index) {
		a.mu.Lock()
		a.waits++
		a.mu.Unlock()
		gone := false
		select {
		case <-news:
		case <-r.Context().Done():
			gone = true
		}
		a.mu.Lock()
		a.waits--
		a.mu.Unlock()
		if gone {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.down {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte("No cluster leader"))
		return
	}
	names := map[string]string{"/v1/catalog/nodes": "nodes", "/v1/health/state/any": "checks", "/v1/health/service/hostagent": "agents"}
	text, err := os.ReadFile(filepath.Join("testdata/fleet", names[r.URL.Path]+".json"))
	if err != nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	for from, to := range a.swap {
		text = bytes.ReplaceAll(text, []byte(from), []byte(to))
	}
	w.Header().Set("X-Consul-Default-Acl-Policy", "allow")
	w.Header().Set("X-Consul-Index", strconv.Itoa(a.index))
	_, _ = w.Write(text)
}

// TestFleetWatchFollows runs the program through news, an outage of the servers and its end.
func TestFleetWatchFollows(t *testing.T) {
	agent := &changingAgent{index: 1, news: make(chan struct{})}
	if err := serve(t.Cleanup, "127.0.0.1:8500", agent); err != nil {
		t.Fatal(err)
	}
	out, errs := new(collected), new(collected)
	cmd := exec.Command(filepath.Join(programs(t), "hostagent"), "fleet", "--watch", "--format", "json", "--fail-on", "critical")
	cmd.Stdout, cmd.Stderr = out, errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(40*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	out.until(t, `"node":"app-03"`)
	agent.change(false, map[string]string{"nginx": "apache"})
	out.until(t, "bind apache to 127.0.0.1")
	agent.settled(t)
	agent.change(true, nil)
	errs.until(t, "No cluster leader")
	agent.change(false, map[string]string{"app-03": "app-99"})
	out.until(t, `"node":"app-99"`)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != exitFindings {
		t.Errorf("with a silent host it ends by %v", err)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines of 3 fleets that differ", n)
	}
}

// collected collects what a program writes.
type collected struct{ viewer }

func (o *collected) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *collected) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// TestFleetPicture: while Consul is away the last picture stays, under the error.
func TestFleetPicture(t *testing.T) {
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	screen, control := pseudoTerminal(t, 80, 24)
	seen := &viewer{}
	go seen.read(control)
	term, err := openTerminal(screen, screen)
	if err != nil {
		t.Fatal(err)
	}
	p := &picture[fleet.Report]{terminal: term, how: showingFleet(false, nil)}
	r := fleets()["fine"]
	if err := p.show(r, nil); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "2 in order")
	if err := p.show(nil, errors.New("no cluster leader")); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "error: no cluster leader\x1b[0m\r\r\n"+overwrite+"datacenter dc1, 2 hosts: 2 in order")
	worse := *fleets()["fine"]
	worse.Hosts = append([]fleet.Host{hostOf("app-01", fleetFindingOf("web", "0.0.0.0:8080", "open"))}, worse.Hosts[1:]...)
	if err := p.show(&worse, nil); err != nil {
		t.Fatal(err)
	}
	seen.until(t, "\x1b[7mapp-01\x1b[0m")
}
