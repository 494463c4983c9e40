// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"
)

const commandRuns = 10

// fleet measures the command that lists all hosts.
func (s *sim) fleet(ctx context.Context) error {
	if s.hostagent == "" {
		s.figure("not measured", "-", "no hostagent was named")
		return nil
	}
	for _, format := range []string{"table", "json"} {
		took := make([]time.Duration, commandRuns)
		var out []byte
		for i := range took {
			var err error
			if took[i], out, err = s.runFleet(ctx, serverHTTP, format); err != nil {
				return err
			}
		}
		if n := bytes.Count(out, []byte("host-")); n < len(s.hosts) {
			return fmt.Errorf("hostagent fleet --format %s names %d hosts of %d", format, n, len(s.hosts))
		}
		median, most := percentile(took, 50), percentile(took, 100)
		s.must(fmt.Sprintf("--format %s, median of %d", format, commandRuns), ms(median), median < time.Second, "under 1 s")
		s.figure("  slowest", ms(most), fmt.Sprintf("%d kB of output", len(out)/1000))
	}
	fetched, err := s.fetched(ctx)
	if err != nil {
		return err
	}
	s.figure("  fetched of the server", fmt.Sprintf("%.1f MB", float64(fetched)/1e6), "")
	return nil
}

// runFleet runs the command once. What it exits with tells what it found, so 0 and 1 are both fine.
func (s *sim) runFleet(ctx context.Context, address, format string) (took time.Duration, out []byte, err error) {
	config := filepath.Join(s.dir, "hostagent.hcl")
	if err := os.WriteFile(config, []byte("mode = \"observe\"\n"), 0o600); err != nil {
		return 0, nil, err
	}
	cmd := exec.CommandContext(ctx, s.hostagent, "fleet", "--config", config, "--format", format)
	cmd.Env = append(os.Environ(), "CONSUL_HTTP_ADDR="+address)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	err = cmd.Run()
	took = time.Since(began)
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == 1 {
		err = nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("cannot run hostagent fleet: %w\n%s", err, stderr.Bytes())
	}
	return took, stdout.Bytes(), nil
}

// fetched returns how many bytes the servers send to one run of the command.
func (s *sim) fetched(ctx context.Context) (int64, error) {
	listener, err := net.Listen("tcp", serverAddress+":0")
	if err != nil {
		return 0, err
	}
	defer listener.Close()
	var bytes atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(conn, &bytes)
		}
	}()
	_, _, err = s.runFleet(ctx, "http://"+listener.Addr().String(), "table")
	return bytes.Load(), err
}

// pass connects conn with the server and counts what that sends.
func pass(conn net.Conn, bytes *atomic.Int64) {
	defer conn.Close()
	server, err := net.Dial("tcp", strings.TrimPrefix(serverHTTP, "http://"))
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, conn) // until either side is closed
		server.Close()
	}()
	n, _ := io.Copy(conn, server)
	bytes.Add(n)
}
