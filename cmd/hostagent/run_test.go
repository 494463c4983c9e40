// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// hostagentProcess prepares a hostagent that talks to the agent at agentAddress and is killed at the end of the test.
func hostagentProcess(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(programs(t), "hostagent"), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "CONSUL_HTTP_ADDR=" + agentAddress}
	cmd.Dir = t.TempDir()
	return cmd
}

const agentAddress = "127.0.0.1:8500"

// watchedAgent is a Consul agent that counts how often hostagent has looked at its services.
func watchedAgent(t *testing.T, before func(*http.Request)) (looks *atomic.Int64) {
	t.Helper()
	looks = new(atomic.Int64)
	agent := consulAgent("testdata/agent")
	err := serve(t.Cleanup, agentAddress, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/agent/services" {
			looks.Add(1)
		}
		before(r)
		agent.ServeHTTP(w, r)
	}))
	if err != nil {
		t.Fatal(err)
	}
	return looks
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TestRunOutlivesTheReaderOfItsLog: a log collector that dies must not take the guard with it.
func TestRunOutlivesTheReaderOfItsLog(t *testing.T) {
	looks := watchedAgent(t, func(*http.Request) {})
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := hostagentProcess(t, "run", "--mode", "observe", "--log-level", "debug")
	cmd.Stderr = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	waitFor(t, "hostagent runs", func() bool { return looks.Load() > 0 })
	reader.Close()
	before := looks.Load()
	waitFor(t, "hostagent goes on, with a line of log at each pass", func() bool { return looks.Load() >= before+3 })
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("hostagent ended with %v, want a clean stop", err)
	}
}

// TestSecondSignalEndsAtOnce: an agent that hangs while it is told of the stop holds hostagent up for two seconds; who
// will not wait for that sends another signal.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	var hang atomic.Bool
	release := make(chan struct{})
	defer close(release)
	looks := watchedAgent(t, func(r *http.Request) {
		if hang.Load() && r.Method == http.MethodPut {
			<-release
		}
	})
	var log bytes.Buffer
	cmd := hostagentProcess(t, "run", "--mode", "observe")
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "hostagent runs", func() bool { return looks.Load() > 1 })
	hang.Store(true)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	waitFor(t, "hostagent ends", func() bool {
		_ = cmd.Process.Signal(syscall.SIGTERM) // the second may come before the first was heard, so there are more
		select {
		case err := <-ended:
			ended <- err
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	})
	err := <-ended
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGTERM {
		t.Errorf("hostagent ended with %v, want it ended by a signal; its log:\n%s", err, &log)
	}
}

// TestScanToClosedPipe: "hostagent scan | head -1" ends as other programs do, without a word.
func TestScanToClosedPipe(t *testing.T) {
	watchedAgent(t, func(*http.Request) {})
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	defer writer.Close()
	var said strings.Builder
	cmd := hostagentProcess(t, "scan")
	cmd.Stdout, cmd.Stderr = writer, &said
	err = cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGPIPE || said.Len() > 0 {
		t.Errorf("hostagent ended with %v and said %q, want SIGPIPE and nothing", err, &said)
	}
}
