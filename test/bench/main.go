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

// measurements are values by benchmark and unit, "Apply/1/hostagent-nft ns/op", in the order in which they were read.
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

// figure is one line of the summary. Below it stand others, how many times as much these are.
type figure struct {
	text      string
	benchmark string
	unit      string
	target    float64 // 0 for none; a figure must stay under it
	others    []other
}

type other struct{ text, benchmark, unit string }

const (
	perOp   = "ns/op"
	percent = "cpu-%"
	drops   = "wrong-drops"
	missed  = "missed"

	notOne = 1 // the target of what must not happen
)

// section is what stands below one heading.
type section struct {
	heading string
	figures []figure
}

// figures are all lines of the summary.
func figures() []section {
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
		{"Firewall: Apply, ports open and close in turn; for 2,000 rules go-iptables is 125 times what 16 take it in a chain of 1,000", slices.Concat(
			ports("1", 200*us), ports("256", 1*ms), ports("2000", 0), []figure{
				{"256 ports, no two neighbours, iptables + ipset", "Apply/256-scattered/hostagent-nft", perOp, 1 * ms, nil},
				{"256 ports, no two neighbours, nftables", "Apply/256-scattered/hostagent-nftables", perOp, 1 * ms, nil},
			})},
		{"Firewall: Apply, 10,000 networks that may connect", []figure{
			{"they come where there was one, iptables + ipset", "ApplySources/come/hostagent-nft", perOp, 50 * ms, []other{
				{"peer: ipset restore", "ApplySources/come/ipset-restore", perOp},
			}},
			{"they come where there was one, nftables", "ApplySources/come/hostagent-nftables", perOp, 50 * ms, []other{
				{"peer: nft -f", "ApplySources/come/nft", perOp},
			}},
			{"others in their place, iptables + ipset", "ApplySources/others/hostagent-nft", perOp, 50 * ms, nil},
			{"others in their place, nftables", "ApplySources/others/hostagent-nftables", perOp, 50 * ms, nil},
			{"one more or less, iptables + ipset", "ApplySources/one/hostagent-nft", perOp, 50 * ms, nil},
			{"one more or less, nftables", "ApplySources/one/hostagent-nftables", perOp, 50 * ms, nil},
			{"a port more or less, iptables + ipset", "ApplySources/port/hostagent-nft", perOp, 0, nil},
			{"a port more or less, nftables", "ApplySources/port/hostagent-nftables", perOp, 0, nil},
			{"nothing to do, iptables + ipset", "ApplySources/known/hostagent-nft", perOp, 0, nil},
			{"nothing to do, nftables", "ApplySources/known/hostagent-nftables", perOp, 0, nil},
			{"nothing to do, kernel looked at, iptables + ipset", "ApplySources/verified/hostagent-nft", perOp, 50 * ms, nil},
			{"nothing to do, kernel looked at, nftables", "ApplySources/verified/hostagent-nftables", perOp, 50 * ms, nil},
			{"nothing to do, first of a process, iptables + ipset", "ApplySources/first/hostagent-nft", perOp, 50 * ms, nil},
			{"nothing to do, first of a process, nftables", "ApplySources/first/hostagent-nftables", perOp, 50 * ms, nil},
		}},
		{"Firewall: Apply, nothing to do", []figure{
			{"iptables + ipset", "ApplyUnchanged/known/nft", perOp, 0, nil},
			{"nftables", "ApplyUnchanged/known/nftables", perOp, 0, nil},
			{"kernel looked at, iptables (nft) + ipset", "ApplyUnchanged/verified/nft", perOp, 0, nil},
			{"kernel looked at, iptables (legacy) + ipset", "ApplyUnchanged/verified/legacy", perOp, 0, nil},
			{"kernel looked at, nftables", "ApplyUnchanged/verified/nftables", perOp, 0, nil},
			{"first of a process, iptables (nft) + ipset", "ApplyUnchanged/first/nft", perOp, 0, nil},
			{"first of a process, iptables (legacy) + ipset", "ApplyUnchanged/first/legacy", perOp, 0, nil},
			{"first of a process, nftables", "ApplyUnchanged/first/nftables", perOp, 0, nil},
		}},
		{"Firewall: repair by event, from before the other's program starts until it is told, 100 times each", slices.Concat(
			repair("iptables-nft -t mangle -F", "nft/flush-mangle"), repair("nft flush ruleset (backend iptables)", "nft/flush-ruleset"),
			repair("iptables-legacy -t mangle -F", "legacy/flush-mangle"), repair("ip6tables-legacy -F", "legacy/flush-filter6"))},
		{"Firewall: way of a SYN to the last of 256 open ports, from sendto until it is let in", []figure{
			{"no rules", "Packet/no-rules", perOp, 0, slices.Concat(
				packet("iptables (nft) + ipset", "nft"), packet("iptables (legacy) + ipset", "legacy"), packet("nftables", "nftables"),
				[]other{
					{"peer: 256 rules, iptables-nft", "Packet/linear-256-nft", perOp},
					{"peer: 256 rules, iptables-legacy", "Packet/linear-256-legacy", perOp},
				})},
		}},
		{"Firewall: SYNs lost, of those let in all the time, while Apply replaces under traffic", []figure{
			replace("255 of 256 ports, 10,000 times, iptables + ipset", "ports/nft"),
			replace("255 of 256 ports, 10,000 times, nftables", "ports/nftables"),
			replace("networks around one, 10,000 times, iptables + ipset", "sources/nft"),
			replace("networks around one, 10,000 times, nftables", "sources/nftables"),
			replace("limits begin and end, 100 times, iptables (nft)", "limits/nft"),
			replace("limits begin and end, 100 times, iptables (legacy)", "limits/legacy"),
			replace("limits begin and end, 10,000 times, nftables", "limits/nftables"),
		}},
		{"Sockets", []figure{
			{"List 2,000 listeners", "List2000/List", perOp, 0, []other{
				{"peer: exec ss -Hltun", "List2000/peer=ss_-Hltun", perOp},
				{"peer: exec ss -Hltunp, with owners", "List2000/peer=ss_-Hltunp", perOp},
			}},
			{"find owners of 10 among 2,000 sockets", "Owners/unknown", perOp, 0, nil},
			{"check known owners of 10 sockets", "Owners/known", perOp, 0, nil},
			ownersOfAll("each in its cgroup, alone", "cgroups/connections=0"),
			ownersOfAll("each in its cgroup, 50,000 connections", "cgroups/connections=50000"),
			ownersOfAll("all in one cgroup, 50,000 connections", "one-cgroup/connections=50000"),
		}},
		{"New listeners, 1,000 in all, heard of as they appear and not polled for; from before listen(2)", slices.Concat(
			heard("told by the kernel", "Watch", 0),
			heard("finding in the process, 50 services, 500 listeners", "Heard/finding", 10),
			heard("finding, 250 services, 2,000 listeners", "Heard/finding-large", 0),
			heard("warning in a real Consul agent", "Heard/warning", 100),
			[]figure{
				{"1,000 applications in a row, all found", "Heard/burst", "p50-ms", 0, nil},
				{"  not found", "Heard/burst", missed, notOne, nil},
				{"CPU of hostagent while a process listens without pause", "Storm", percent, 0, nil},
				{"finding by polling every second, p99", "Polled", "p99-ms", 1200, nil},
			})},
		{"Scan of a folder of 2,000 service definitions, whole processes", []figure{
			{"hostagent scan --consul-config", "ScanDefinitions/hostagent", perOp, 200 * ms, []other{
				{"peer: consul validate, which looks at no socket", "ScanDefinitions/consul-validate", perOp},
			}},
		}},
		{"Idle for 60 s: hostagent run --mode guard, its default settings, 50 services with sidecars, a real Consul agent", []figure{
			{"CPU of hostagent and its children, nft", "Idle/nft", percent, 0.2, nil},
			{"CPU of hostagent and its children, legacy", "Idle/legacy", percent, 0.2, nil},
			{"memory of hostagent (RSS), nft", "Idle/nft", "rss-MB", 25, nil},
			{"memory of hostagent (RSS), legacy", "Idle/legacy", "rss-MB", 25, nil},
			{"CPU of the Consul agent that hostagent asks, nft", "Idle/nft", "consul-%", 0, []other{
				{"the same without hostagent", "Idle/nft", "consul-alone-%"},
			}},
			{"CPU of the Consul agent that hostagent asks, legacy", "Idle/legacy", "consul-%", 0, []other{
				{"the same without hostagent", "Idle/legacy", "consul-alone-%"},
			}},
		}},
	}
}

// ownersOfAll are the lines of whole processes that find the owners of many listeners.
func ownersOfAll(text, benchmark string) figure {
	at := "OwnersOfAll/" + benchmark + "/"
	return figure{"processors' ms for owners of 2,000 in 200 processes, " + text, at + "hostagent", "cpu-ms", 0, []other{
		{"10 of them", at + "hostagent-10", "cpu-ms"},
		{"all, without BPF", at + "hostagent-without-bpf", "cpu-ms"},
		{"peer: ss -ltnp", at + "peer=ss_-ltnp", "cpu-ms"},
	}}
}

// ports are the lines of a number of ports that open and close.
func ports(n string, target float64) []figure {
	at, text := "Apply/"+n+"/", n+" ports, "
	if n == "1" {
		text = "1 port, "
	}
	return []figure{
		{text + "iptables + ipset", at + "hostagent-nft", perOp, target, []other{
			{"peer: ipset restore", at + "ipset-restore", perOp},
			{"peer: iptables-restore, nft", at + "iptables-restore-nft", perOp},
			{"peer: iptables-restore, legacy", at + "iptables-restore-legacy", perOp},
			{"peer: go-iptables, rule by rule, nft", at + "go-iptables-nft", perOp},
			{"peer: go-iptables, rule by rule, legacy", at + "go-iptables-legacy", perOp},
		}},
		{text + "nftables", at + "hostagent-nftables", perOp, target, []other{{"peer: nft -f, elements of a set", at + "nft", perOp}}},
	}
}

// repair are the lines of one kind of harm.
func repair(harm, benchmark string) []figure {
	return []figure{
		{harm + ", p50", "Repair/" + benchmark, "p50-ms", 100, nil},
		{harm + ", p99", "Repair/" + benchmark, "p99-ms", 100, nil},
	}
}

// heard are the lines of what follows listens. Of a target it is the slowest but one in a hundred that must meet it.
func heard(what, benchmark string, target float64) []figure {
	return []figure{
		{what + ", p50", benchmark, "p50-ms", 0, nil},
		{what + ", p99", benchmark, "p99-ms", target, nil},
		{"  missed", benchmark, missed, notOne, nil},
	}
}

// packet are the lines of what packets cost in one backend.
func packet(backend, variant string) []other {
	at := "Packet/hostagent-" + variant
	return []other{
		{backend, at, perOp},
		{backend + ", cut rules", at + "-cut-rules", perOp},
		{backend + ", 10 sources", at + "-10-sources", perOp},
		{backend + ", 10,000 sources", at + "-10000-sources", perOp},
	}
}

// replace is the lines of one kind of replacement.
func replace(text, benchmark string) figure {
	benchmark = "Replace/" + benchmark
	return figure{text, benchmark, drops, notOne, []other{{"of SYNs sent meanwhile", benchmark, "packets"}}}
}

// summarize writes the table. What was not measured is an error, once the rest is written.
func summarize(w io.Writer, measured measurements) error {
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
				if f.unit == drops || f.unit == missed {
					target = "none"
				}
				if value >= f.target {
					verdict = "MISSED"
				}
			}
			line(w, f.text, text(value, f.unit), target, verdict)
			for _, o := range f.others {
				measure, ok := measured.median(o.benchmark, o.unit)
				if !ok {
					missing = append(missing, o.text)
					continue
				}
				times := ""
				if f.unit != drops {
					times = digits(measure/value) + " times"
				}
				line(w, "  "+o.text, text(measure, o.unit), "", times)
			}
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(missing, "; "))
	}
	return nil
}

func line(w io.Writer, columns ...any) {
	fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("  %-56s %10s   %-12s %s", columns...), " "))
}

// text writes a value with a unit that suits its size.
func text(value float64, unit string) string {
	switch {
	case strings.HasSuffix(unit, "%"):
		return fmt.Sprintf("%.2f %%", value)
	case unit == drops, unit == missed, unit == "packets":
		return fmt.Sprintf("%.0f", value)
	case unit != perOp: // "rss-MB", "p99-ms"
		return digits(value) + " " + unit[strings.LastIndex(unit, "-")+1:]
	case value < 1e3:
		return digits(value) + " ns"
	case value < 1e6:
		return digits(value/1e3) + " µs"
	case value < 1e9:
		return digits(value/1e6) + " ms"
	}
	return digits(value/1e9) + " s"
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
