// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFleetOfFive runs the whole simulation with five hosts: all their checks come into the catalog, nothing is written there
// while nothing happens, and a listener that is exposed everywhere is told by all. CONSUL_BIN names a consul.
func TestFleetOfFive(t *testing.T) {
	consul := os.Getenv("CONSUL_BIN")
	if consul == "" {
		t.Fatal("set CONSUL_BIN to a consul: go run ./test/cmd/consul -print in the module above tells one")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	dir := t.TempDir()
	agents, simfleet := filepath.Join(dir, "agents"), filepath.Join(dir, "simfleet")
	for _, args := range [][]string{{"build", "-o", agents, "."}, {"build", "-C", "../..", "-o", simfleet, "./test/cmd/simfleet"}} {
		if out, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	out, err := exec.CommandContext(ctx, simfleet, "-consul", consul, "-agents", agents, "-hosts", "5", "-window", "12s", "-check").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
