// SPDX-License-Identifier: MPL-2.0

// Command benchscan measures hostagent scan beside its peers on one host: 2,000 listeners in 500 processes, each in a
// cgroup of its own, and a growing number of connections. Every figure of a table comes from whole processes, run in turn.
//
//	benchscan HOSTAGENT [ROUNDS]
//
// It is root's, because peers name the processes of others only then. bench-scan.sh runs it.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hostagent/hostagent/test/netns"
)

func main() {
	var err error
	switch {
	case len(os.Args) == 3 && os.Args[1] == workerMode:
		err = work(os.Args[2])
	case len(os.Args) == 2 && os.Args[1] == gopsutilMode:
		err = listWithGopsutil(os.Stdout)
	case len(os.Args) == 2 || len(os.Args) == 3:
		netns.Enter()
		rounds := 7
		if len(os.Args) == 3 {
			rounds, err = strconv.Atoi(os.Args[2])
		}
		if err == nil {
			err = measure(os.Stdout, os.Args[1], max(rounds, 1))
		}
	default:
		err = fmt.Errorf("usage: benchscan HOSTAGENT [ROUNDS]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchscan:", err)
		os.Exit(1)
	}
}

const (
	services    = 50 // of the mesh
	exposed     = 5  // of them that listen for the network
	perProcess  = 4  // listeners
	processes   = 500
	firstPort   = 10000
	peer        = "ss -ltnp" // which the others are compared with
	maxOutput   = 64 << 20
	rssProgram  = "/usr/bin/time" // a child of a Go program inherits that program's peak; time has next to none
	findingName = "exposed-listener"
)

// connections are how many the host has, one table each. Both ends of each are on it.
func connections() []int { return []int{0, 20_000, 50_000} }

// program is one that is measured.
type program struct {
	name string
	args []string
	// holds is what its output must hold, so that nothing is measured that did not do the work, and lines how often.
	holds string
	lines int
	// target is how many times as long as peer it may take at 50,000 connections; 0 for none.
	target float64
}

func programs(hostagent, definitions string) ([]program, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	scan := []string{hostagent, "scan", "--fail-on", "never", "--consul-config", definitions}
	return []program{
		{"hostagent scan", scan, findingName, exposed, 0.02},
		{"hostagent scan --all", append(slices.Clone(scan), "--all"), "benchscan (pid ", processes * perProcess, 0.15},
		{peer, []string{"ss", "-ltnp"}, "benchscan", processes * perProcess, 0},
		{"lsof -nP -iTCP -sTCP:LISTEN", []string{"lsof", "-nP", "-iTCP", "-sTCP:LISTEN"}, "benchscan", processes * perProcess, 0},
		{"netstat -ltnp", []string{"netstat", "-ltnp"}, "benchscan", processes * perProcess, 0},
		{"gopsutil Connections", []string{self, gopsutilMode}, "benchscan", processes * perProcess, 0},
	}, nil
}

func measure(out io.Writer, hostagent string, rounds int) error {
	hostagent, err := filepath.Abs(hostagent)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "benchscan")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	if err := writeDefinitions(folder); err != nil {
		return err
	}
	all, err := programs(hostagent, folder)
	if err != nil {
		return err
	}
	crowd, err := gather(processes)
	if err != nil {
		return err
	}
	defer crowd.disperse()
	walls := map[string][]time.Duration{}
	for _, n := range connections() {
		if err := crowd.connect(n); err != nil {
			return err
		}
		results, err := runAll(all, rounds)
		if err != nil {
			return fmt.Errorf("at %d connections: %w", n, err)
		}
		table(out, n, all, results)
		for i, p := range all {
			walls[p.name] = append(walls[p.name], results[i].wall)
		}
	}
	fmt.Fprintf(out, "\nFrom %d to %d connections, times as long:\n", connections()[0], connections()[len(connections())-1])
	for _, p := range all {
		w := walls[p.name]
		fmt.Fprintf(out, "  %-30s %.2f\n", p.name, float64(w[len(w)-1])/float64(w[0]))
	}
	return nil
}

// writeDefinitions makes services of the mesh of the first processes, one each.
func writeDefinitions(folder string) error {
	var b strings.Builder
	for i := range services {
		fmt.Fprintf(&b, "services {\n  name = \"shop-%02d\"\n  port = %d\n  connect {\n    sidecar_service {}\n  }\n}\n", i, firstPort+i*perProcess)
	}
	return os.WriteFile(filepath.Join(folder, "services.hcl"), []byte(b.String()), 0o600)
}

// result is the medians of a program's runs.
type result struct {
	wall, cpu time.Duration
	rss       int // kB, the most that it held at once
}

func runAll(all []program, rounds int) ([]result, error) {
	walls, cpus := make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for range rounds {
		for i, p := range all { // in turn, so that a busy moment of the machine hits all
			wall, cpu, err := run(p)
			if err != nil {
				return nil, err
			}
			walls[i], cpus[i] = append(walls[i], wall), append(cpus[i], cpu)
		}
	}
	results := make([]result, len(all))
	for i, p := range all {
		rss, err := peak(p)
		if err != nil {
			return nil, err
		}
		results[i] = result{wall: median(walls[i]), cpu: median(cpus[i]), rss: rss}
	}
	return results, nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

// run runs a program once and checks what it prints.
func run(p program) (wall, cpu time.Duration, err error) {
	var out bytes.Buffer
	cmd := exec.Command(p.args[0], p.args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	start := time.Now()
	err = cmd.Run()
	wall = time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", p.name, err)
	}
	if out.Len() > maxOutput {
		return 0, 0, fmt.Errorf("%s printed %d bytes", p.name, out.Len())
	}
	found := 0
	for line := range bytes.Lines(out.Bytes()) {
		if bytes.Contains(line, []byte(p.holds)) {
			found++
		}
	}
	if found < p.lines {
		return 0, 0, fmt.Errorf("%s printed %d lines with %q, want %d or more", p.name, found, p.holds, p.lines)
	}
	return wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// peak returns the most memory that a program held at once, in kB.
func peak(p program) (int, error) {
	report := filepath.Join(os.TempDir(), fmt.Sprintf("benchscan-rss-%d", os.Getpid()))
	defer os.Remove(report)
	cmd := exec.Command(rssProgram, append([]string{"-f", "%M", "-o", report}, p.args...)...)
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%s under %s: %w", p.name, rssProgram, err)
	}
	text, err := os.ReadFile(report)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

func table(out io.Writer, n int, all []program, results []result) {
	base := results[slices.IndexFunc(all, func(p program) bool { return p.name == peer })]
	fmt.Fprintf(out, "\n%d listeners in %d processes, %d connections\n", processes*perProcess, processes, n)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\twall ms\tcpu ms\tRSS MB\twall of %s\t\n", peer)
	for i, p := range all {
		r := results[i]
		ratio := float64(r.wall) / float64(base.wall)
		note := ""
		if p.target > 0 && n == connections()[len(connections())-1] {
			note = fmt.Sprintf("  target %.2f", p.target)
			if ratio > p.target {
				note += " MISSED"
			}
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.3f%s\t\n", p.name, ms(r.wall), ms(r.cpu), float64(r.rss)/1024, ratio, note)
	}
	w.Flush() //nolint:errcheck // what cannot be printed cannot be mended
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
