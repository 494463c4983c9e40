// SPDX-License-Identifier: MPL-2.0

package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const reference = "../../packaging/hostagent.hcl"

// commentedOut matches "# key = value", "#   key = value", "# block {" and "# }", which prose must not look like.
var commentedOut = regexp.MustCompile(`^# ( {2})?([a-z_]+ += .*|[a-z_]+ \{|\})$`)

// TestReferenceConfig takes the comment marks off every key of the shipped configuration and expects the defaults: it
// documents each key, and each with its true default.
func TestReferenceConfig(t *testing.T) {
	source, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(source), "\n")
	var active []string
	for i, line := range lines {
		if line != "" && !strings.HasPrefix(line, "#") {
			active = append(active, line)
		}
		if commentedOut.MatchString(line) {
			lines[i] = strings.TrimPrefix(line, "# ")
		}
	}
	if diff := cmp.Diff([]string{`mode = "observe"`}, active); diff != "" {
		t.Errorf("active lines (-want +got)\n%s", diff)
	}

	path := filepath.Join(t.TempDir(), "reference.hcl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Mode = ModeObserve
	want.Exemptions = []Exempt{{ // an example, with every key
		Finding: findingExposedListener, Service: "web", Port: 8080, Executable: "/usr/bin/node_exporter",
		Reason: "scraped by Prometheus until the migration", Because: BecauseFirewall, Expires: day("2027-01-31"),
	}}
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("defaults (-want +got)\n%s", diff)
	}
	var missing []string
	for _, s := range settings() {
		if _, set := got.origins[s.name]; !set {
			missing = append(missing, s.name)
		}
	}
	if len(missing) > 0 {
		t.Errorf("keys that the reference configuration does not explain: %v", missing)
	}
}

// TestReferenceConfigAsShipped loads the file as packages install it.
func TestReferenceConfigAsShipped(t *testing.T) {
	got, err := Load(reference)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Mode = ModeObserve
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestSettingsCoverBlocks guards the two lists that name blocks.
func TestSettingsCoverBlocks(t *testing.T) {
	var named []string
	for _, s := range settings() {
		if block, _, inBlock := strings.Cut(s.name, "."); inBlock && !slices.Contains(named, block) {
			named = append(named, block)
		}
	}
	if diff := cmp.Diff(blocks(), named); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
