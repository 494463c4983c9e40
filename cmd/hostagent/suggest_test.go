// SPDX-License-Identifier: MPL-2.0

package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestNearest(t *testing.T) {
	flags := []string{"config", "consul-address", "consul-token-file", "fail-on", "format", "help"}
	for word, want := range map[string]string{
		"fromat": "format", "consul-addr": "consul-address", "token-file": "consul-token-file", "failon": "fail-on",
		"hlep": "help", "address": "consul-address", "verbose": "", "x": "", "": "",
		"a\x1b[31m": "", strings.Repeat("x", 1000): "",
	} {
		if got := nearest(word, flags); got != want {
			t.Errorf("nearest(%.20q) = %q, want %q", word, got, want)
		}
	}
}

// TestEveryCommandIsExplained looks at every command, those that cobra makes too.
func TestEveryCommandIsExplained(t *testing.T) {
	seen := 0
	var look func(*cobra.Command)
	look = func(cmd *cobra.Command) {
		seen++
		path := cmd.CommandPath()
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: the short text is %q, want a phrase without a full stop", path, cmd.Short)
		}
		if !strings.Contains(cmd.Example, path) {
			t.Errorf("%s: no example shows it: %q", path, cmd.Example)
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example) {
			if len(line) > 120 {
				t.Errorf("%s: this line is too long for many terminals: %q", path, line)
			}
		}
		for _, sub := range cmd.Commands() {
			look(sub)
		}
	}
	look(rootCommand())
	if seen != 27 {
		t.Errorf("looked at %d commands, want 27: add new ones here and to the scripts", seen)
	}
}

// TestErrorsAreSafeToShow: pflag repeats what it cannot read as it is.
func TestErrorsAreSafeToShow(t *testing.T) {
	var stdout, stderr strings.Builder
	status := run([]string{"--=\x1b[2J\u202e\nforged"}, &stdout, &stderr)
	want := "hostagent: bad flag syntax: --=\\u001b[2J\\u202e\nhostagent: forged\nhostagent: see hostagent --help\n"
	if status != exitFailure || stdout.Len() > 0 || stderr.String() != want {
		t.Errorf("status %d, stdout %q, stderr %q, want %q", status, &stdout, &stderr, want)
	}
}
