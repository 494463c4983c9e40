// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// The folders of testdata/parity say what Consul does with the definitions in them.
const (
	accepted       = "accepted"
	refused        = "refused"          // by consul validate, and so by the agent
	refusedAtStart = "refused-at-start" // by the agent alone

	// By either, for what Read leaves out: see there.
	refusedOtherwise = "refused-otherwise"
)

const (
	consulsAtOnce = 3
	consulTimeout = 20 * time.Second // a Consul that is left alone takes 0.1 s
)

func TestMain(m *testing.M) {
	if err := host.Prepare(context.Background(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	netns.Main(m)
}

// TestParity holds Read and its predictions to the real Consul, definition by definition: each is a file or a folder in
// testdata/parity, and is refused by us where Consul refuses it; where an agent starts with it, Registrations is what that
// agent holds and Agent what it says of itself. Where Consul changes its mind, the folder is wrong and the case fails.
func TestParity(t *testing.T) {
	binary, err := host.ConsulBinary(t.Context(), os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	slots := make(chan *realConsul, consulsAtOnce)
	for i := range consulsAtOnce {
		slots <- newRealConsul(t, binary, i)
	}
	var same, all atomic.Int32
	start := time.Now()
	t.Run("case", func(t *testing.T) {
		for _, verdict := range []string{accepted, refused, refusedAtStart, refusedOtherwise} {
			folder := filepath.Join("testdata", "parity", verdict)
			entries, err := os.ReadDir(folder)
			if err != nil {
				t.Fatal(err)
			}
			for _, entry := range entries {
				t.Run(verdict+"/"+entry.Name(), func(t *testing.T) {
					t.Parallel()
					all.Add(1)
					c := <-slots
					defer func() { slots <- c }()
					compare(t, c, filepath.Join(folder, entry.Name()), verdict)
					if !t.Failed() {
						same.Add(1)
					}
				})
			}
		}
	})
	t.Logf("%d of %d definitions: as Consul has it (%v)", same.Load(), all.Load(), time.Since(start).Round(time.Second))
}

// compare is one case.
func compare(t *testing.T, c *realConsul, path, verdict string) {
	t.Helper()
	want := c.try(t, path)
	if verdict == refusedOtherwise && want.verdict != accepted {
		want.verdict = refusedOtherwise
	}
	if want.verdict != verdict {
		t.Fatalf("Consul says %s, the folder says %s; Consul's words:\n%s", want.verdict, verdict, want.words)
	}
	got, err := Read(c.base, path)
	if err != nil {
		t.Fatal(err)
	}
	registrations, problems := got.Registrations()
	problems = append(got.Problems, problems...)
	switch verdict {
	case refused, refusedAtStart:
		if len(problems) == 0 {
			t.Errorf("Consul refuses it and we do not; Consul's words:\n%s", want.words)
		}
		for _, p := range problems {
			t.Logf("ours: %v", p)
		}
		return
	case refusedOtherwise:
		if len(problems) > 0 {
			t.Errorf("we do refuse it, so it belongs into another folder: %v", problems)
		}
		return
	}
	for _, p := range problems {
		t.Errorf("Consul takes it, and we say: %v", p)
	}
	if diff := gocmp.Diff(want.registrations, registrations,
		cmpopts.IgnoreFields(consul.Registration{}, "Predicted"), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("registrations (-consul +ours):\n%s", diff)
	}
	agent := got.Agent()
	want.agent.Version, want.agent.DataDir, want.agent.Server = "", "", false // no scan asks for them
	want.agent.Plain = nil                                                    // nor for what a running agent serves
	want.agent.Members = 0                                                    // or whom it knows
	if agent.NodeID == "" {
		want.agent.NodeID = "" // the agent made one up
	}
	if strings.HasSuffix(path, "-template.hcl") {
		want.agent.Address = netip.Addr{} // it looked at the interfaces
	}
	if diff := gocmp.Diff(want.agent, agent, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("the agent of itself (-consul +ours):\n%s", diff)
	}
}

// realConsul runs one Consul at a time, on a loopback address of its own and so on the default ports.
type realConsul struct {
	binary string
	dir    string
	base   string // configuration beside that of the case
}

func newRealConsul(t *testing.T, binary string, number int) *realConsul {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "") // of the namespace; short, as the path of a unix socket must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &realConsul{binary: binary, dir: dir, base: filepath.Join(dir, "base.hcl")}
	base := fmt.Sprintf(`
data_dir = "%[1]s/data"
bind_addr = "127.0.0.%[2]d"
client_addr = "127.0.0.%[2]d"
addresses { http = "unix://%[1]s/http.sock" }
disable_update_check = true
`, dir, number+2)
	if err := os.WriteFile(c.base, []byte(base), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// trial is what Consul makes of a case.
type trial struct {
	verdict       string
	words         string // why it was refused
	registrations []consul.Registration
	agent         consul.Agent
}

// try asks consul validate, and where that has no objection, an agent.
func (c *realConsul) try(t *testing.T, path string) trial {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), consulTimeout)
	defer cancel()
	words, err := exec.CommandContext(ctx, c.binary, "validate", c.base, path).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return trial{verdict: refused, words: string(words)}
	}
	if err != nil {
		t.Fatalf("consul validate: %v\n%s", err, words)
	}

	flag := "-config-file"
	if info, err := os.Stat(path); err != nil {
		t.Fatal(err)
	} else if info.IsDir() {
		flag = "-config-dir"
	}
	socket := filepath.Join(c.dir, "http.sock")
	if err := errors.Join(os.RemoveAll(filepath.Join(c.dir, "data")), os.RemoveAll(socket)); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.CommandContext(ctx, c.binary, "agent", "-config-file", c.base, flag, path)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	got, err := ask(ctx, socket, ended)
	cancel() // which kills the agent: to end well, it would wait for its cluster
	if err == nil {
		<-ended
		return got
	}
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return trial{verdict: refusedAtStart, words: lastLines(log.String())}
	}
	t.Fatalf("consul agent: %v\n%s", err, lastLines(log.String()))
	return trial{}
}

// ask waits for the agent's first answer; an agent loads all its definitions before it opens its API. An error is that of
// an agent that ended instead, and is ended's.
func ask(ctx context.Context, socket string, ended <-chan error) (trial, error) {
	client, err := consul.New(consul.Config{Address: "unix://" + socket})
	if err != nil {
		return trial{}, err
	}
	for {
		services, err := client.Services(ctx)
		if err == nil {
			agent, err := client.Agent(ctx)
			if err == nil {
				return trial{verdict: accepted, registrations: services.Registrations, agent: agent}, nil
			}
		}
		select {
		case failure := <-ended:
			if failure == nil {
				failure = errors.New("it ended by itself")
			}
			return trial{}, failure
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-4):], "\n")
}
