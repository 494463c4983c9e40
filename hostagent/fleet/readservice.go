// SPDX-License-Identifier: MPL-2.0

package fleet

import (
	"slices"
	"strconv"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// maxSidecars are read of one output.
const maxSidecars = 64

// takeSidecars takes the lines about sidecars, which are the last ones, and returns those before.
func (p *parsed) takeSidecars(lines []string) []string {
	for len(lines) > 0 && len(p.sidecars) < maxSidecars {
		start := len(lines) - 1
		for start > 0 && strings.HasPrefix(lines[start], " ") {
			start--
		}
		if n, ok := numberIn(lines[start], "and ", moreSuffix); ok && len(p.sidecars) == 0 && p.moreOf == 0 {
			p.moreOf = n
		} else if sidecar, ok := readSidecar(lines[start:]); ok {
			p.sidecars = append(p.sidecars, sidecar)
		} else {
			break
		}
		lines = lines[:start]
	}
	slices.Reverse(p.sidecars)
	return lines
}

// sidecarStates are what is said of a sidecar's port, and whether that is open or would be.
func sidecarStates(says string) (open, known bool) {
	switch says {
	case "open", "guard mode would open it":
		return true, true
	case "left closed", "guard mode would not open it":
		return false, true
	}
	return false, false
}

// readSidecar reads "sidecar ID: port N, STATE", broken into lines as it may be, and what stands below of its exposed paths.
func readSidecar(lines []string) (Sidecar, bool) {
	const label, pathLabel = "sidecar ", "  exposed paths "
	first, ok := strings.CutPrefix(lines[0], label)
	if !ok {
		return Sidecar{}, false
	}
	text := []string{first}
	var s Sidecar
	for _, line := range lines[1:] {
		if path, ok := strings.CutPrefix(line, pathLabel); ok {
			s.Paths = append(s.Paths, catalog.Clean(path))
		} else {
			text = append(text, line)
		}
	}
	whole := joined(text)
	at := strings.LastIndex(whole, ": port ")
	if at < 0 {
		return Sidecar{}, false
	}
	port, says, _ := strings.Cut(whole[at+len(": port "):], ", ")
	number, err := strconv.Atoi(port)
	open, known := sidecarStates(says)
	if err != nil || !known {
		return Sidecar{}, false
	}
	s.ID, s.Port, s.Says, s.Open = catalog.Clean(whole[:at]), number, says, open
	return s, true
}

// subject is the name of the application that an output is about, and its loopback listeners where it tells of them; "" for
// no name.
func (p *parsed) subject() (name string, loopback []string) {
	if p.counted {
		return "", nil
	}
	const silent, listens = " does not listen on this host's network.", " listens on loopback only: "
	if name, ok := strings.CutSuffix(p.head, silent); ok && len(p.findings) == 0 {
		return catalog.Clean(name), nil
	}
	if at := strings.LastIndex(p.head, listens); at > 0 && len(p.findings) == 0 {
		return catalog.Clean(p.head[:at]), readList(strings.TrimSuffix(p.head[at+len(listens):], "."))
	}
	at := strings.LastIndex(p.head, ": ")
	if at < 1 || len(p.findings) == 0 {
		return "", nil
	}
	return catalog.Clean(p.head[:at]), nil
}

// readList takes "a, b and c" apart.
func readList(text string) []string {
	items := strings.Split(text, ", ")
	if last := items[len(items)-1]; strings.Contains(last, " and ") {
		before, after, _ := strings.Cut(last, " and ")
		items[len(items)-1] = before
		items = append(items, after)
	}
	for i := range items {
		items[i] = catalog.Clean(items[i])
	}
	return items
}
