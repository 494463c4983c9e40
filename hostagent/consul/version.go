// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MinVersion is the oldest Consul of which a whole answer can be told from a part of one. Its agents set
// X-Consul-Default-ACL-Policy since 1.9.0, and X-Consul-Results-Filtered-By-ACLs on /v1/agent/services since 1.11.0
// (agent/agent_endpoint.go of the releases; 1.10.12 does not). The second one is sent only where something was left out, so
// an answer without it tells nothing of an agent that knows no such header: its version has to.
const MinVersion = "1.11.0"

var errTooOld = errors.New("cannot tell whether the Consul agent's answers are whole")

// TooOld returns an *Error of KindTooOld where the agent is older than MinVersion. One of which no version is known, because
// the token lacks agent:read or it tells nothing that reads like one, is not.
func (a *Agent) TooOld() error {
	is, known := parseVersion(a.Version)
	oldest, _ := parseVersion(MinVersion)
	if !known || is.compare(oldest) >= 0 {
		return nil
	}
	return &Error{Kind: KindTooOld, Err: fmt.Errorf(
		"%w: it is Consul %s, which leaves out what the token may not read without a word; upgrade Consul to %s or later",
		errTooOld, truncate(a.Version, 40), MinVersion)}
}

// VersionKnown tells whether the agent told a version that reads like one.
func (a *Agent) VersionKnown() bool {
	_, known := parseVersion(a.Version)
	return known
}

// release is a version of Consul: three numbers, and whether it came before the release itself.
type release struct {
	numbers [3]int
	pre     bool
}

// parseVersion reads a version as agents tell it: "1.21.0", "1.21.0+ent", "1.22.0-rc1", "1.10.0dev".
func parseVersion(text string) (r release, ok bool) {
	text, _, _ = strings.Cut(strings.TrimPrefix(text, "v"), "+") // edition
	numbers, pre := text, ""
	if end := strings.IndexFunc(text, func(c rune) bool { return c != '.' && (c < '0' || c > '9') }); end >= 0 {
		numbers, pre = text[:end], text[end:]
	}
	parts := strings.Split(numbers, ".")
	if len(parts) < 2 || len(parts) > len(r.numbers) {
		return release{}, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return release{}, false
		}
		r.numbers[i] = int(n)
	}
	r.pre = pre != ""
	return r, true
}

func (r release) compare(other release) int {
	for i, n := range r.numbers {
		if c := cmp.Compare(n, other.numbers[i]); c != 0 {
			return c
		}
	}
	switch {
	case r.pre == other.pre:
		return 0
	case r.pre:
		return -1
	}
	return 1
}
