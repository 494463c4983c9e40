// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// statusOf is the status of the worst of findings. Info alone still passes.
func statusOf(fs []Finding) consul.Status {
	status := consul.Passing
	for i := range fs {
		switch fs[i].Severity {
		case catalog.Critical:
			return consul.Critical
		case catalog.Warning:
			status = consul.Warning
		case catalog.Info:
		}
	}
	return status
}

// summary is the first line of an output about findings, and a blank one: of one finding what it is, of several how many there
// are of each severity, worst first.
func summary(subject string, fs []Finding) string {
	if len(fs) == 1 {
		entry, _ := catalog.Lookup(fs[0].ID)
		return wrap("", subject+": "+entry.Title+stateText(&fs[0])) + "\n"
	}
	counts := map[catalog.Severity]int{}
	for i := range fs {
		counts[fs[i].Severity]++
	}
	var parts []string
	for _, severity := range []catalog.Severity{catalog.Critical, catalog.Warning, catalog.Info} {
		if n := counts[severity]; n == 1 || n > 0 && severity != catalog.Warning {
			parts = append(parts, fmt.Sprintf("%d %s", n, severity))
		} else if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %ss", n, severity))
		}
	}
	return wrap("", subject+": "+strings.Join(parts, ", ")) + "\n"
}

// stateText is " (mitigated)", or nothing where a finding is simply open.
func stateText(f *Finding) string {
	if f.State == Open {
		return ""
	}
	return " (" + string(f.State) + ")"
}

// findingsText shows findings one after the other, as far as they fit into that many bytes.
func findingsText(fs []Finding, room int) string {
	const more = "\nand %d more: see hostagent scan\n"
	var b strings.Builder
	left := len(fs)
	for i := range fs {
		text := findingText(&fs[i])
		if i > 0 {
			text = "\n" + text
		}
		if b.Len()+len(text)+len(more)+4 > room {
			break
		}
		b.WriteString(text)
		left--
	}
	if left > 0 {
		fmt.Fprintf(&b, more, left)
	}
	return b.String()
}

// findingText is what hostagent scan shows of a finding, without what changes by itself: what is wrong, where, who it is and
// what mends it.
func findingText(f *Finding) string {
	head := fmt.Sprintf("%s %s%s", f.Severity, f.ID, stateText(f))
	if f.Listener != nil {
		if where := address(f.Listener); len(head)+2+len(where) <= checkWidth {
			head += "  " + where
		} else {
			head += "\n  " + where
		}
	}
	text := head + "\n" + wrap("  ", f.Message)
	if who := whoText(f.Listener, f.Owner); who != "" {
		text += wrap("  who:    ", who)
	}
	if f.State == Exempt {
		return text + wrap("  exempt: ", f.Exemption.String())
	}
	return text + wrap("  remedy: ", f.Remedy)
}

// whoText names who holds a socket, as far as that can be seen: processes, the user that made it, and its container or unit.
func whoText(l *sockets.Listener, owner *sockets.Owner) string {
	switch {
	case l == nil:
		return ""
	case owner == nil:
		return fmt.Sprintf("uid %d, process out of sight", l.UID)
	}
	text := ", user " + catalog.Clean(cmp.Or(owner.User, strconv.FormatUint(uint64(l.UID), 10)))
	switch {
	case owner.Container != "":
		text += ", container " + catalog.Clean(owner.Container)
	case owner.Unit != "":
		text += ", unit " + catalog.Clean(owner.Unit)
	}
	if names := processNames(owner); names != "" {
		return catalog.Clean(names) + text
	}
	return "process out of sight" + text
}

// middleOut makes a name clean and, by leaving out its middle, short enough for the UI's headings and notes: of those it breaks
// no word, and one long name would push part of the page with everybody's checks out of the window. Names that Nomad makes
// differ at both ends.
func middleOut(name string) string {
	const most, tail = 64, 24
	runes := []rune(catalog.CleanTo(name, 1000))
	if len(runes) <= most {
		return string(runes)
	}
	return string(runes[:most-tail-1]) + "…" + string(runes[len(runes)-tail:])
}

// checkWidth is how wide lines of a check's output are: a terminal has 80 columns, and the box of the Consul UI, in a window of
// 1,280 pixels, boxWidth. A line that the UI has to break is aligned no more, and a word that is wider makes the whole page
// wider than its window.
const (
	checkWidth = 78
	boxWidth   = 96
)

// troubleText shows an error, joined ones one below the other.
func troubleText(err error) string {
	var b strings.Builder
	for line := range strings.SplitSeq(ErrorText(err), "\n") {
		b.WriteString(wrap("  ", line))
	}
	return b.String()
}

// wrap breaks text between words into lines behind an indent, of which only the first shows its letters. Only a word that the
// UI has no room for is broken itself.
func wrap(indent, text string) string {
	var b strings.Builder
	for _, line := range catalog.Wrap(text, checkWidth-len(indent), boxWidth-len(indent)) {
		b.WriteString(strings.TrimRight(indent+line, " ") + "\n")
		indent = strings.Repeat(" ", len(indent))
	}
	return b.String()
}
