// SPDX-License-Identifier: MPL-2.0

package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeys(t *testing.T) {
	var names []string
	for _, key := range Keys() {
		names = append(names, key.Name)
		if key.Type == "" {
			t.Errorf("%s has no type", key.Name)
		}
	}
	for name, want := range map[string]Key{
		"mode":            {"mode", "text", false},
		"close_delay":     {"close_delay", "duration", true},
		"consul.token":    {"consul.token", "secret text", true},
		"extra_ports":     {"extra_ports", "list of ports and ranges", true},
		"exempt.expires":  {"exempt.expires", "day", false},
		"report.enabled":  {"report.enabled", "true or false", true},
		"native_services": {"native_services", "list of texts", true},
	} {
		at := slices.Index(names, name)
		if at < 0 {
			t.Errorf("%s is missing", name)
		} else if diff := cmp.Diff(want, Keys()[at]); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	}
	if want := len(settings()) + len(exemptSettings()); len(slices.Compact(slices.Sorted(slices.Values(names)))) != want {
		t.Errorf("%d keys, want %d, each once", len(names), want)
	}
}

// TestVariables: each names a key that there is.
func TestVariables(t *testing.T) {
	for _, variable := range Variables() {
		known := slices.ContainsFunc(settings(), func(s setting) bool { return s.name == variable.Key })
		if !known && variable.Name != "CONSUL_HTTP_SSL" {
			t.Errorf("%s stands over %q, which is no key", variable.Name, variable.Key)
		}
	}
}

func TestMistyped(t *testing.T) {
	got := Mistyped([]string{
		"CONSUL_HTTP_ADDR=http://a", "CONSUL_HTTP_ADRR=s3cret", "consul_http_addr=x", "CONSUL_HTTP_TOKEN_FIEL=s3cret", "CONSUL_HTTP_AUTH=a:b",
		"CONSUL_LICENSE=x", "CONSUL_GRPC_ADDR=x", "CONSUL_GRPC_CACERT=x", "CONSUL_BIN=x", "HOME=/", "=C:=x", "", "CONSUL_CAPAHT\x1b[2J=x",
		"CONSUL_CACRT\x1b=x", strings.Repeat("CONSUL_", 10000) + "=x",
	})
	const means = " means nothing to hostagent; did you mean "
	want := []string{
		`the environment variable "CONSUL_HTTP_ADRR"` + means + "CONSUL_HTTP_ADDR?",
		`the environment variable "consul_http_addr"` + means + "CONSUL_HTTP_ADDR?",
		`the environment variable "CONSUL_HTTP_TOKEN_FIEL"` + means + "CONSUL_HTTP_TOKEN_FILE?",
		`the environment variable "CONSUL_CACRT\x1b"` + means + "CONSUL_CACERT?",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestClosestPath(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"hostagent.d", "Upper", "hostagent.d/below"} {
		if err := os.Mkdir(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "hostagent.d/main.hcl"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"hostagnt.d": "hostagent.d", "hostagent": "hostagent.d", "hostagent.d/main.hlc": "hostagent.d/main.hcl",
		"hostagentd/main.hcl": "hostagent.d/main.hcl", "hostagent.dd/below/": "hostagent.d/below", "Uper": "Upper", "uper": "Upper",
		"hostagentd/other.hcl": "", "hostagent.d": "", "hostagent.d/main.hcl": "", "elsewhere": "", "hostagent.d/main.hcl/x": "",
		"hostagent.d/" + strings.Repeat("x", 5000): "", "\x00": "",
	} {
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got := ClosestPath(filepath.Join(dir, path)); got != want {
			t.Errorf("ClosestPath(%.40q) = %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"", "/", "."} {
		if got := ClosestPath(path); got != "" {
			t.Errorf("ClosestPath(%q) = %q", path, got)
		}
	}
	for i := range 1000 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := ClosestPath(filepath.Join(dir, "hostagnt.d")); got != "" {
		t.Errorf("of more than 1,000 names %q is chosen", got)
	}
}
