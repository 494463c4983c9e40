// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/consul/api"

	testhost "github.com/hostagent/hostagent/test/host"
)

const (
	serverAddress = "127.0.0.1"
	serverHTTP    = "http://127.0.0.1:8500"
	serverTimeout = time.Minute // until it has a leader
)

// program is a process of ours that runs until it is stopped.
type program struct {
	cmd   *exec.Cmd
	input io.Closer
	lines *bufio.Scanner // of its standard output
}

// startProgram starts a program that dies with this one, with its standard error in a file, and its standard output too
// unless that is listened to.
func startProgram(log string, listen bool, path string, args ...string) (*program, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	p := &program{cmd: exec.Command(path, args...)}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if listen {
		p.cmd.Stdout = nil
		out, err := p.cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		p.lines = bufio.NewScanner(out)
	}
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", path, err)
	}
	return p, nil
}

// said waits for a line of standard output.
func (p *program) said(ctx context.Context, line string, limit time.Duration) error {
	heard := make(chan error, 1)
	go func() {
		for p.lines.Scan() {
			if p.lines.Text() == line {
				heard <- nil
				return
			}
		}
		heard <- fmt.Errorf("%s ended before it said %q", filepath.Base(p.cmd.Path), line)
	}()
	select {
	case err := <-heard:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(limit):
		return fmt.Errorf("%s has not said %q in %v", filepath.Base(p.cmd.Path), line, limit)
	}
}

// stop kills the process: what it has written is deleted with the folder.
func (p *program) stop() {
	_ = p.cmd.Process.Kill() // it may have ended
	p.input.Close()
	_ = p.cmd.Wait()
}

// server is a Consul server that is a cluster by itself.
type server struct {
	*program
	api *api.Client
}

// startServer returns when the server has a leader. Signing certificates is not slowed down: with 50 a second, as without
// csr_max_per_second, the sidecars of a thousand hosts that appear at once take minutes.
func startServer(ctx context.Context, consul, dir string) (*server, error) {
	config := fmt.Sprintf(`server = true
bootstrap_expect = 1
node_name = "server"
data_dir = %q
bind_addr = %q
client_addr = %q
disable_update_check = true
enable_debug = true
disable_coordinates = true
performance {
  raft_multiplier = 1
}
ports {
  dns = -1
}
connect {
  enabled = true
  ca_config {
    csr_max_per_second = 0
  }
}
`, filepath.Join(dir, "server"), serverAddress, serverAddress)
	path := filepath.Join(dir, "server.hcl")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return nil, err
	}
	client, err := api.NewClient(&api.Config{Address: serverHTTP, HttpClient: &http.Client{}})
	if err != nil {
		return nil, err
	}
	p, err := startProgram(filepath.Join(dir, "server.log"), false, consul, "agent", "-config-file", path)
	if err != nil {
		return nil, err
	}
	s := &server{program: p, api: client}
	last := errors.New("no answer")
	err = until(ctx, serverTimeout, 100*time.Millisecond, func() (bool, error) {
		var leader string
		leader, last = s.api.Status().LeaderWithQueryOptions((&api.QueryOptions{}).WithContext(ctx))
		if last != nil || leader == "" {
			return false, nil
		}
		_, _, last = s.api.Agent().ConnectCARoots((&api.QueryOptions{}).WithContext(ctx))
		return last == nil, nil
	}, func() string { return fmt.Sprintf("the server has no leader: %v", last) })
	if err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// index returns the index of the last entry of the raft log that the server has applied.
func (s *server) index() (int, error) {
	self, err := s.api.Agent().Self()
	if err != nil {
		return 0, err
	}
	raft, _ := self["Stats"]["raft"].(map[string]any)
	text, _ := raft["applied_index"].(string)
	index, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("cannot read the server's applied_index: %w", err)
	}
	return index, nil
}

// catalogIndex returns the index of the last write to services, checks or nodes.
func (s *server) catalogIndex() (uint64, error) {
	_, meta, err := s.api.Health().State(api.HealthAny, &api.QueryOptions{Filter: `CheckID == ""`})
	if err != nil {
		return 0, err
	}
	_, services, err := s.api.Catalog().Services(&api.QueryOptions{Filter: `ServiceName == ""`})
	if err != nil {
		return 0, err
	}
	return max(meta.LastIndex, services.LastIndex), nil
}

// ownService is the name of hostagent's own service.
const ownService = "hostagent"

// changed names what hostagents and what others wrote to checks and to hostagent's services since an index: the first few, and
// how many there are; "" for nothing. Gossip writes too: it calls a host critical that is slow to answer.
func (s *server) changed(since uint64) (ours, others string, err error) {
	checks, _, err := s.api.Health().State(api.HealthAny, nil)
	if err != nil {
		return "", "", err
	}
	services, _, err := s.api.Catalog().Service(ownService, "", nil)
	if err != nil {
		return "", "", err
	}
	var own, rest []string
	for _, c := range checks {
		text := fmt.Sprintf("%s on %s is %s: %.60q", c.CheckID, c.Node, c.Status, c.Output)
		switch {
		case c.ModifyIndex <= since:
		case c.ServiceName == ownService:
			own = append(own, text)
		default:
			rest = append(rest, text)
		}
	}
	for _, service := range services {
		if service.ModifyIndex > since {
			own = append(own, fmt.Sprintf("service %s on %s: %v", service.ServiceID, service.Node, service.ServiceMeta))
		}
	}
	return few(own), few(rest), nil
}

// few writes how many texts there are, and the first of them.
func few(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	return fmt.Sprintf("%d: %s", len(texts), strings.Join(texts[:min(len(texts), 3)], "; "))
}

// usage is what the server has used and holds.
type usage struct {
	at         time.Time
	cpu        time.Duration
	resident   float64 // MB
	heap       float64 // MB that is reachable, and stacks
	goroutines int
}

func (s *server) usage() (u usage, err error) {
	u.at = time.Now()
	if u.cpu, err = testhost.CPUTime(s.cmd.Process.Pid); err == nil {
		u.resident, err = testhost.ResidentMegabytes(s.cmd.Process.Pid)
	}
	return u, err
}

// memory adds what is reachable once the garbage is collected. It costs the server a collection.
func (s *server) memory(ctx context.Context) (u usage, err error) {
	if u, err = s.usage(); err != nil {
		return u, err
	}
	text, err := s.debug(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return u, err
	}
	for _, name := range []string{"# HeapAlloc = ", "# Stack = "} {
		_, after, found := strings.Cut(text, name)
		var bytes float64
		if _, err := fmt.Sscanf(after, "%f", &bytes); !found || err != nil {
			return u, fmt.Errorf("cannot read %q of the server's heap profile", name)
		}
		u.heap += bytes / 1e6
	}
	text, err = s.debug(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return u, err
	}
	if _, err := fmt.Sscanf(text, "goroutine profile: total %d", &u.goroutines); err != nil {
		return u, fmt.Errorf("cannot read the server's goroutines: %w", err)
	}
	return u, nil
}

func (s *server) debug(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, serverHTTP+path, nil)
	if err != nil {
		return "", err
	}
	got, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer got.Body.Close()
	body, err := io.ReadAll(got.Body)
	if got.StatusCode != http.StatusOK {
		return "", fmt.Errorf("cannot ask the server for %s: %s", path, got.Status)
	}
	return string(body), err
}
