// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// parseSpans reads ports and ranges of ports with commas between them, "80, 8000-8080", as the kernel and Nomad write
// them. They come back ascending and apart from each other. Beside an error, which is about the first part that is no
// port, come the others.
func parseSpans(text string) ([]PortSpan, error) {
	var spans []PortSpan
	var wrong error
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		span, err := parseSpan(part)
		if err != nil {
			wrong = cmp.Or(wrong, err)
			continue
		}
		spans = append(spans, span)
	}
	slices.SortFunc(spans, func(a, b PortSpan) int { return cmp.Compare(a.First, b.First) })
	joined := spans[:0]
	for _, span := range spans {
		if n := len(joined); n > 0 && int(span.First) <= int(joined[n-1].Last)+1 {
			joined[n-1].Last = max(joined[n-1].Last, span.Last)
			continue
		}
		joined = append(joined, span)
	}
	return joined, wrong
}

// parseSpan reads "80" or "8000-8080".
func parseSpan(text string) (PortSpan, error) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	first, err := strconv.ParseUint(strings.TrimSpace(from), 10, 16)
	last, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 16)
	if errors.Join(err, err2) != nil || first > last {
		return PortSpan{}, fmt.Errorf("%q is no port and no range of ports", shorten(text, mostQuoted))
	}
	return PortSpan{uint16(first), uint16(last)}, nil
}
