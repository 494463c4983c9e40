// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// What is written here is what hostagent's core writes into checks, and a test of the core holds both together. Consul's
// servers have it from whoever may write the service, so nothing of it is believed to be well formed; and names in it are of
// people who may want a line of their own. They cannot have one: findings begin at column 0 below the first paragraph,
// where no name does, and sidecars are read from the end, which no name is.
const (
	maxOutput   = 16 << 10 // bytes that are read of an output; Consul keeps 4,096 unless its operator wants more
	maxFindings = 200      // that are read of an output, or counted there; the rest is in More
	maxCount    = 100_000  // a larger number is none
	maxText     = 4096     // runes of a message or a remedy

	staleLine   = "The listeners cannot be listed now; this is what was seen last."
	countsOnly  = "No findings." // what an output of counts says where there is none
	seeScan     = " more: see hostagent scan"
	moreSuffix  = " more sidecars"
	headWidth   = 78 // where an address does not fit behind the head of a finding, it stands below
	fieldIndent = "          "
)

// parsed is what an output says.
type parsed struct {
	stale bool // the listeners could not be listed
	// counted tells that there are only numbers of findings, or that there is none.
	counted  bool
	head     string // the first paragraph in one line, "" where that only counts
	findings []Finding
	more     int
	sidecars []Sidecar
	moreOf   int // sidecars
}

// ReadFindings reads the findings that the output of a check tells of, or counts, in their order there; more is how many
// others it has. An output may be anything: what is not understood is left out.
func ReadFindings(output string) (findings []Finding, more int) {
	p := parse(output)
	return p.findings, p.more
}

func parse(output string) parsed {
	var p parsed
	output, isCut := uncut(output)
	lines := linesOf(output)
	if len(lines) > 0 && lines[0] == staleLine {
		p.stale, lines = true, lines[1:]
	}
	lines = p.takeSidecars(lines)
	end := 0
	for end < len(lines) && lines[end] != "" {
		end++
	}
	switch first := lines[:end]; {
	case p.takeCounts(first):
	case len(first) == 1 && first[0] == countsOnly:
		p.counted = true
	default:
		p.head = joined(first)
	}
	for lines = lines[end:]; len(lines) > 0; {
		var part []string
		part, lines = cutPart(lines)
		p.takePart(part)
	}
	if isCut {
		p.more = max(p.more, countIn(p.head)-len(p.findings))
	}
	return p
}

var cutPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?s)^(.*) \.\.\. \(captured [0-9]{1,9} of [0-9]{1,9} bytes\)$`)
})

// uncut takes off what an agent puts behind an output that it has cut, because its check_output_max_size is small.
func uncut(output string) (string, bool) {
	if match := cutPattern().FindStringSubmatch(output); match != nil {
		return match[1] + " …", true
	}
	return output, false
}

// countIn is how many findings the head of an output says that it has: "web: 1 critical, 2 warnings"; 0 where it has no count.
func countIn(head string) (count int) {
	for part := range strings.SplitSeq(head[strings.LastIndex(head, ": ")+1:], ",") {
		number, word, _ := strings.Cut(strings.TrimSpace(part), " ")
		_, err := catalog.ParseSeverity(strings.TrimSuffix(word, "s"))
		n, ok := numberIn(number, "", "")
		if err != nil || !ok {
			return 0
		}
		count += n
	}
	return min(count, maxCount)
}

// linesOf splits an output, as much of it as is read, into lines without blanks at their ends.
func linesOf(output string) []string {
	if len(output) > maxOutput {
		output = output[:maxOutput]
	}
	lines := strings.Split(strings.TrimRight(output, " \r\n\t"), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " \r\t")
	}
	return lines
}

// cutPart cuts the first line off and the indented ones that belong to it.
func cutPart(lines []string) (part, rest []string) {
	n := 1
	for n < len(lines) && (lines[n] == "" || lines[n][0] == ' ') {
		n++
	}
	return lines[:n], lines[n:]
}

// takePart takes a finding, or how many others there are.
func (p *parsed) takePart(part []string) {
	if n, ok := numberIn(part[0], "and ", seeScan); ok {
		p.more += n
	} else if f, ok := readFinding(part); ok {
		p.add(f, 1)
	}
}

// add adds a finding that many times.
func (p *parsed) add(f Finding, times int) {
	for ; times > 0 && len(p.findings) < maxFindings; times-- {
		p.findings = append(p.findings, f)
	}
	p.more += times
}

// numberIn reads the number between the two.
func numberIn(line, before, after string) (int, bool) {
	text, ok := strings.CutPrefix(line, before)
	if !ok {
		return 0, false
	}
	if text, ok = strings.CutSuffix(text, after); !ok {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n > 0 && n <= maxCount
}

// idPattern is how ids are spelled: one that the catalog does not know is a newer hostagent's.
const idPattern = `([a-z][a-z0-9-]{0,62}[a-z0-9])`

var headPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(info|warning|critical) ` + idPattern + `(?: \((mitigated|exempt)\))?(?:  (\S.*))?$`)
})

var countPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(info    |warning |critical)  ([1-9][0-9]{0,5}) ` + idPattern + `(?: \((mitigated|exempt)\))?$`)
})

// takeCounts takes lines that only count findings, if all of them do.
func (p *parsed) takeCounts(lines []string) bool {
	var counts [][]string
	for _, line := range lines {
		match := countPattern().FindStringSubmatch(line)
		if match == nil {
			return false
		}
		counts = append(counts, match)
	}
	for _, match := range counts {
		n, _ := strconv.Atoi(match[2])
		p.add(finding(strings.TrimSpace(match[1]), match[3], match[4]), n)
	}
	p.counted = len(counts) > 0
	return p.counted
}

func finding(severity, id, state string) Finding {
	f := Finding{ID: catalog.ID(id), State: state}
	f.Severity, _ = catalog.ParseSeverity(severity) // which the pattern knows
	if state == "" {
		f.State = stateOpen
	}
	return f
}

// readFinding reads a head and what is indented below: the address where it does not fit into the head, the message, who it
// is, and as the last the remedy or the exemption. Whose label a line begins with, be it part of a message, is told by what
// follows: below a field all lines are indented as far as its text.
func readFinding(part []string) (Finding, bool) {
	match := headPattern().FindStringSubmatch(part[0])
	if match == nil {
		return Finding{}, false
	}
	f := finding(match[1], match[2], match[3])
	f.Where = catalog.Clean(match[4])
	lines := part[1:]
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) > 0 && match[4] == "" {
		where := strings.TrimSpace(lines[0])
		if len(part[0])+2+len(where) > headWidth && isAddress(where) {
			f.Where, lines = catalog.Clean(where), lines[1:]
		}
	}
	if text, rest, ok := cutField(lines, "  remedy:"); ok && f.State != stateExempt {
		f.Remedy, lines = text, rest
	} else if text, rest, ok := cutField(lines, "  exempt:"); ok && f.State == stateExempt {
		f.Exemption, lines = text, rest
	}
	if text, rest, ok := cutField(lines, "  who:   "); ok {
		f.Who, lines = text, rest
	}
	f.Message = joined(lines)
	return f, true
}

// cutField cuts the last field off, if it has that label.
func cutField(lines []string, label string) (text string, rest []string, ok bool) {
	i := len(lines) - 1
	for i >= 0 && (lines[i] == "" || strings.HasPrefix(lines[i], fieldIndent)) {
		i--
	}
	if i < 0 {
		return "", lines, false
	}
	first, ok := strings.CutPrefix(lines[i], label)
	if !ok || first != "" && first[0] != ' ' {
		return "", lines, false
	}
	return joined(append([]string{first}, lines[i+1:]...)), lines[:i], true
}

// isAddress tells whether text is a protocol and a socket's address.
func isAddress(text string) bool {
	protocol, address, _ := strings.Cut(text, " ")
	_, err := netip.ParseAddrPort(address)
	return err == nil && (protocol == "tcp" || protocol == "udp")
}

// joined puts lines together that were one.
func joined(lines []string) string {
	var words []string
	for _, line := range lines {
		if line = strings.TrimSpace(line); line != "" {
			words = append(words, line)
		}
	}
	return catalog.CleanTo(strings.Join(words, " "), maxText)
}
