// SPDX-License-Identifier: MPL-2.0

package catalog

import "testing"

func TestGeneral(t *testing.T) {
	for in, want := range map[string]string{
		"{service} listens on {listener}":        "<service> listens on <listener>",
		"cannot be reached{where}: {chain}":      "cannot be reached: <chain>",
		`set acl { default_policy = "deny" }`:    `set acl { default_policy = "deny" }`,
		"{a}{b} is more words of what some have": "<a> is more words of what some have",
	} {
		if got := General(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func TestGeneralRemedy(t *testing.T) {
	for remedy, want := range map[string]string{
		"{fix}":                "depends on the case; the finding itself says it",
		"{fix}{keep}":          "depends on the case; the finding itself says it",
		"stop {process}{keep}": "stop <process>",
	} {
		if got := (Entry{Remedy: remedy}).GeneralRemedy(); got != want {
			t.Errorf("%q: %q", remedy, got)
		}
	}
}
