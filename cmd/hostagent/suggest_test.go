// SPDX-License-Identifier: MPL-2.0

package main

import (
	"strings"
	"testing"
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

// TestErrorsAreSafeToShow: pflag repeats what it cannot read as it is.
func TestErrorsAreSafeToShow(t *testing.T) {
	var stdout, stderr strings.Builder
	status := run([]string{"--=\x1b[2J\u202e\nforged"}, &stdout, &stderr)
	want := "hostagent: bad flag syntax: --=\\u001b[2J\\u202e\nhostagent: forged\nhostagent: see hostagent --help\n"
	if status != exitFailure || stdout.Len() > 0 || stderr.String() != want {
		t.Errorf("status %d, stdout %q, stderr %q, want %q", status, &stdout, &stderr, want)
	}
}
