// SPDX-License-Identifier: MPL-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/hostagent/config"
)

// TestConfig: an installation observes, and the line that it shows makes it guard.
func TestConfig(t *testing.T) {
	const place = config.DefaultPath + "/hostagent.hcl"
	change, _, ok := strings.Cut(Guard, " && systemctl reload hostagent")
	if !ok || !strings.Contains(change, place) {
		t.Fatalf("the line changes no %s: %q", place, Guard)
	}
	if !strings.Contains(Config(), "\n#   "+Guard+"\n") {
		t.Errorf("the configuration does not show %q", Guard)
	}
	file := filepath.Join(t.TempDir(), "hostagent.hcl")
	if err := os.WriteFile(file, []byte(Config()), 0o600); err != nil {
		t.Fatal(err)
	}
	mode := func() config.Mode {
		t.Helper()
		c, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		return c.Mode
	}
	if got := mode(); got != config.ModeObserve {
		t.Errorf("mode %q, want observe", got)
	}
	if out, err := exec.Command("sh", "-c", strings.ReplaceAll(change, place, file)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got := mode(); got != config.ModeGuard {
		t.Errorf("mode %q, want guard", got)
	}
}

// TestLineIsTheSameEverywhere: what installations and texts tell operators to call is the line that works.
func TestLineIsTheSameEverywhere(t *testing.T) {
	for _, path := range []string{"deb/postinst", "rpm/post", "FIRST-HOUR.md", "../README.md"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), Guard+"\n") {
			t.Errorf("%s does not tell %q", path, Guard)
		}
	}
}

// TestConfigIsWholeWithItsExample: what stands there as a comment is valid too.
func TestConfigIsWholeWithItsExample(t *testing.T) {
	text := strings.NewReplacer("# consul {", "consul {", "#   token_file", "token_file", "# }", "}").Replace(Config())
	file := filepath.Join(t.TempDir(), "hostagent.hcl")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := config.Load(file); err != nil || c.Consul.TokenFile != "/etc/hostagent.d/token" {
		t.Errorf("%v, %v", c, err)
	}
}
