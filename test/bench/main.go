// SPDX-License-Identifier: MPL-2.0

// Command bench reads the output of `go test -bench` and prints hostagent's figures with their targets, each beside what
// its peers take for the same in the same run. Where a figure was measured several times it is the median.
//
// The benchmarks beside it, in the _test files, measure a whole pass and an idle host. bench.sh runs all.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	measured, err := parse(os.Stdin)
	if err == nil {
		err = summarize(os.Stdout, measured)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measurements are values by benchmark and unit, "ApplyOne/hostagent ns/op", in the order in which they were read.
type measurements map[string][]float64

// parse reads the lines of benchmarks and leaves the others out.
func parse(output io.Reader) (measurements, error) {
	line := regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)
	measured := measurements{}
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		match := line.FindStringSubmatch(lines.Text())
		if match == nil {
			continue
		}
		fields := strings.Fields(match[2])
		for i := 0; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("cannot read the result %q: %w", lines.Text(), err)
			}
			key := match[1] + " " + fields[i+1]
			measured[key] = append(measured[key], value)
		}
	}
	return measured, lines.Err()
}

// median returns the middle one of what was measured, and false where nothing was.
func (m measurements) median(benchmark, unit string) (float64, bool) {
	values := slices.Sorted(slices.Values(m[benchmark+" "+unit]))
	if len(values) == 0 {
		return 0, false
	}
	return values[len(values)/2], true
}

// figure is one line of the summary. Below it stand its peers, in the same unit.
type figure struct {
	text      string
	benchmark string
	unit      string
	target    float64 // 0 for none; a figure must stay under it
	peers     []peer
}

type peer struct{ text, benchmark, unit string }

const (
	perOp   = "ns/op"
	percent = "cpu-%"
)

// figures are all lines of the summary, by headings.
func figures() []struct {
	heading string
	figures []figure
} {
	type section = struct {
		heading string
		figures []figure
	}
	ms, us := float64(time.Millisecond), float64(time.Microsecond)
	return []section{
		{"One pass: 250 services with sidecars, 2,000 listeners, 252 checks; a stub of the Consul agent, real sockets and firewall (nft)", []figure{
			{"nothing differs from the pass before", "Pass/steady", perOp, 10 * ms, nil},
			{"another listener, no owners looked up", "Pass/listener", perOp, 10 * ms, nil},
			{"another answer of the agent, no owners looked up", "Pass/answer", perOp, 10 * ms, nil},
			{"another answer, known owners of 250 sockets checked", "Pass/answer-with-owners", perOp, 0, nil},
		}},
		{"Parts of a pass", []figure{
			{"ask for 250 services, answer as before", "Answer/unchanged", perOp, 0, nil},
			{"ask for 250 services and decode a changed answer", "Answer/changed", perOp, 0, nil},
			{"Evaluate 250 services, 2,000 listeners", "Evaluate/250-services", perOp, 0, nil},
			{"Evaluate 250 exposed services, 2,000 listeners", "Evaluate/250-services-exposed", perOp, 0, nil},
			{"Evaluate 4,000 services, 10,000 listeners", "Evaluate/4000-services", perOp, 0, nil},
			{"write 252 checks' texts", "Checks/250-services", perOp, 0, nil},
			{"write 4,002 checks' texts, every service exposed", "Checks/4000-services-exposed", perOp, 0, nil},
		}},
		{"Firewall", []figure{
			{"Apply, one port more or less", "ApplyOne/hostagent", perOp, 200 * us, []peer{
				{"exec ipset", "ApplyOne/exec-ipset", perOp},
				{"go-iptables rule, nft", "ApplyOne/go-iptables-rule-nft", perOp},
				{"go-iptables rule, legacy", "ApplyOne/go-iptables-rule-legacy", perOp},
			}},
			{"Apply, 256 ports at once", "Apply256/hostagent", perOp, 1 * ms, []peer{
				{"exec ipset restore", "Apply256/exec-ipset-restore", perOp},
				{"iptables-restore, nft", "Apply256/iptables-restore-nft", perOp},
				{"iptables-restore, legacy", "Apply256/iptables-restore-legacy", perOp},
			}},
			{"Apply, 256 ports at once, no two neighbours", "Apply256/hostagent-scattered", perOp, 1 * ms, nil},
			{"Apply, nothing to do", "ApplyUnchanged/known", perOp, 0, nil},
			{"Apply, nothing to do, kernel looked at", "ApplyUnchanged/verified", perOp, 0, nil},
			{"Apply, first of a process", "ApplyUnchanged/first", perOp, 0, nil},
		}},
		{"Sockets", []figure{
			{"List 2,000 listeners", "List2000/List", perOp, 0, []peer{
				{"exec ss -Hltun", "List2000/peer=ss_-Hltun", perOp},
				{"exec ss -Hltunp, with owners", "List2000/peer=ss_-Hltunp", perOp},
			}},
			{"find owners of 10 among 2,000 sockets", "Owners/unknown", perOp, 0, nil},
			{"check known owners of 10 sockets", "Owners/known", perOp, 0, nil},
		}},
		{"Scan of a folder of 2,000 service definitions, whole processes", []figure{
			{"hostagent scan --consul-config", "ScanDefinitions/hostagent", perOp, 200 * ms, []peer{
				{"consul validate, which looks at no socket", "ScanDefinitions/consul-validate", perOp},
			}},
		}},
		{"Idle for 60 s: hostagent run --mode guard, its default settings, 50 services with sidecars, a real Consul agent", []figure{
			{"CPU of hostagent and its children, nft", "Idle/nft", percent, 0.2, nil},
			{"CPU of hostagent and its children, legacy", "Idle/legacy", percent, 0.2, nil},
			{"memory of hostagent (RSS), nft", "Idle/nft", "rss-MB", 25, nil},
			{"memory of hostagent (RSS), legacy", "Idle/legacy", "rss-MB", 25, nil},
			{"CPU of the Consul agent that hostagent asks, nft", "Idle/nft", "consul-%", 0, []peer{
				{"the same without hostagent", "Idle/nft", "consul-alone-%"},
			}},
			{"CPU of the Consul agent that hostagent asks, legacy", "Idle/legacy", "consul-%", 0, []peer{
				{"the same without hostagent", "Idle/legacy", "consul-alone-%"},
			}},
		}},
	}
}

// summarize writes the table. What was not measured is an error, once the rest is written.
func summarize(w io.Writer, measured measurements) error {
	const row = "  %-56s %10s   %-12s %s\n"
	var missing []string
	for _, section := range figures() {
		fmt.Fprintf(w, "\n%s\n", section.heading)
		for _, f := range section.figures {
			value, ok := measured.median(f.benchmark, f.unit)
			if !ok {
				missing = append(missing, f.text)
				continue
			}
			target, verdict := "", ""
			if f.target > 0 {
				target, verdict = "under "+text(f.target, f.unit), "met"
				if value >= f.target {
					verdict = "MISSED"
				}
			}
			fmt.Fprint(w, strings.TrimRight(fmt.Sprintf(row, f.text, text(value, f.unit), target, verdict), " \n")+"\n")
			for _, p := range f.peers {
				other, ok := measured.median(p.benchmark, p.unit)
				if !ok {
					missing = append(missing, p.text)
					continue
				}
				fmt.Fprintf(w, row, "  peer: "+p.text, text(other, p.unit), "", digits(other/value)+" times")
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(missing, "; "))
	}
	return nil
}

// text writes a value with a unit that suits its size.
func text(value float64, unit string) string {
	switch {
	case strings.HasSuffix(unit, "%"):
		return fmt.Sprintf("%.2f %%", value)
	case unit != perOp:
		return digits(value) + " " + strings.TrimPrefix(unit, "rss-")
	case value < 1e3:
		return digits(value) + " ns"
	case value < 1e6:
		return digits(value/1e3) + " µs"
	}
	return digits(value/1e6) + " ms"
}

// digits writes a value with about three digits.
func digits(value float64) string {
	switch {
	case value < 10:
		return fmt.Sprintf("%.2f", value)
	case value < 100:
		return fmt.Sprintf("%.1f", value)
	}
	return fmt.Sprintf("%.0f", value)
}
