// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestOutputFits: what Consul would cut off is left out as a whole, and counted.
func TestOutputFits(t *testing.T) {
	long := func(words int) string { return strings.Repeat("word ", words) }
	told := telling{mode: ModeGuard}
	for words := range 200 {
		var fs []Finding
		for range 60 {
			fs = append(fs, Finding{ID: catalog.ExposedListener, Severity: catalog.Warning, State: Open, Message: long(30 + words), Remedy: long(words)})
		}
		s := Service{ID: "web", Name: "web"}
		for i := range 50 {
			s.Sidecars = append(s.Sidecars, Sidecar{ID: strings.Repeat("x", 200), Port: 21000 + i, Opened: true})
		}
		for _, c := range []consul.Check{told.serviceCheck(s, fs), told.rangeCheck(DefaultSidecarRange(), fs)} {
			told := strings.Count(c.Output, "exposed-listener\n")
			if len(c.Output)+len(stale) > consul.MaxOutput || told == 0 || !strings.Contains(c.Output, fmt.Sprintf("\nand %d more: see hostagent scan\n", 60-told)) {
				t.Fatalf("%d words: %d bytes, %d findings:\n%s", words, len(c.Output), told, c.Output)
			}
		}
	}
	if status, text := findingsText([]Finding{{ID: catalog.ExposedListener, Message: "a", Remedy: "b"}}, 100); status != consul.Passing || strings.Contains(text, "more") {
		t.Errorf("%s %q", status, text)
	}
}
