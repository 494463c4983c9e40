// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func start(t *testing.T, h *Host, script string) *Process {
	t.Helper()
	p, err := h.Start("a script", h.Command(context.Background(), "sh", "-c", script))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestProcessLogSignalAndWait(t *testing.T) {
	h := newHost(t)
	p := start(t, h, `trap 'echo usr2' USR2; trap 'echo bye >&2; exit 7' USR1; echo up; while :; do sleep 0.02; done`)
	for _, step := range []struct {
		text   string
		signal syscall.Signal
	}{{"up\n", syscall.SIGUSR2}, {"usr2\n", syscall.SIGUSR1}, {"bye\n", 0}} {
		if err := p.WaitLog(t.Context(), step.text); err != nil {
			t.Fatal(err)
		}
		if step.signal != 0 {
			if err := p.Signal(step.signal); err != nil {
				t.Fatal(err)
			}
		}
	}
	code, err := p.Wait(t.Context())
	if err != nil || code != 7 {
		t.Errorf("exit code %d, %v; want 7", code, err)
	}
	if diff := cmp.Diff("up\nusr2\nbye\n", p.Log()); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if err := p.Signal(syscall.SIGHUP); err == nil {
		t.Error("a signal to a process that has ended: no error")
	}
	if err := p.Stop(); err != nil {
		t.Errorf("Stop of a process that has ended: %v", err)
	}
}

func TestProcessLeavesNoChildren(t *testing.T) {
	h := newHost(t)
	p := start(t, h, `sleep 600 & echo $!`)
	if code, err := p.Wait(t.Context()); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v; want 0", code, err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(p.Log()))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child of a process that ended is killed", func() bool { return gone(child) })
}

func TestWaitLogGivesUp(t *testing.T) {
	h := newHost(t)
	p := start(t, h, `printf 'why\033[31m it\a failed\n'; exit 1`)
	err := p.WaitLog(t.Context(), "never")
	if err == nil || !strings.Contains(err.Error(), "why[31m it failed") || strings.ContainsAny(err.Error(), "\033\a") {
		t.Errorf("got %q, want the end of the log without control characters", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	sleeper := start(t, h, "exec sleep 600")
	if err := sleeper.WaitLog(ctx, "never"); err == nil {
		t.Error("WaitLog outlived its context")
	}
	if _, err := sleeper.Wait(ctx); err == nil {
		t.Error("Wait outlived its context")
	}
}

func TestStop(t *testing.T) {
	h := newHost(t)
	frozen := start(t, h, `trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done`)
	if err := frozen.WaitLog(t.Context(), "up"); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Stop(); err != nil {
		t.Errorf("a stopped process: %v", err)
	}
	stubborn := start(t, h, `trap '' TERM; echo up; while :; do sleep 0.02; done`)
	if err := stubborn.WaitLog(t.Context(), "up"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := stubborn.Stop()
	if err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("a process that ignores SIGTERM: %v, want to hear that it was killed", err)
	}
	if took := time.Since(begin); took < stopTimeout || took > 2*stopTimeout {
		t.Errorf("Stop took %v, want about %v", took, stopTimeout)
	}
	if code, err := stubborn.Wait(t.Context()); err != nil || code != -1 {
		t.Errorf("exit code %d, %v; want -1", code, err)
	}
}

// The real hostagent has its own tests; here a script stands for it and tells what it was given.
func TestStartHostagent(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"$1 $2 $4\"; cat \"$3/hostagent.hcl\"; echo \"$CONSUL_HTTP_ADDR\"; exec sleep 600\n"
	if err := os.WriteFile(filepath.Join(dir, "hostagent"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(binariesEnv, dir)
	p, err := h.StartHostagent(t.Context(), "mode = \"guard\"\n", "--once")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitLog(t.Context(), ConsulAddress); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("run --config --once\nmode = \"guard\"\n127.0.0.1:8500\n", p.Log()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := h.StartApp(t.Context(), App{Name: "web"}); err == nil || !strings.Contains(err.Error(), binariesEnv) {
		t.Errorf("a program that was not built: %v, want to hear of %s", err, binariesEnv)
	}
}
