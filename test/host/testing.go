// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/netns"
)

// testWithin bounds what a test does with a host.
const testWithin = 2 * time.Minute

// Main prepares what hosts run and then runs the tests of a package in namespaces of their own: see Prepare and netns.Main.
func Main(m *testing.M) {
	if err := Prepare(context.Background(), os.Stderr, AppProgram, HostagentProgram); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	netns.Main(m)
}

// ForTest makes a host with a running Consul agent. Both end with the test, as does the context, which allows for two
// minutes; the test fails where something of the host stays.
func ForTest(t testing.TB, options ConsulOptions) (context.Context, *Host, *Consul) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testWithin)
	t.Cleanup(cancel)
	h, err := New(ctx, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	consul, err := h.StartConsul(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	return ctx, h, consul
}

// ShowLog shows what a process has logged at the end of a test that has failed.
func ShowLog(t testing.TB, p *Process) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of %s:\n%s", p.Name, p.Log())
		}
	})
}
