// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nftFilter is a table of somebody who writes his rules in nft's language under iptables' names: iptables-save cannot show it.
const nftFilter = `nft -f - <<'END'
table ip filter {
	chain INPUT {
		type filter hook input priority 0; policy accept;
		ct state vmap { established : accept, invalid : drop }
		tcp dport { 22, 80 } accept
	}
}
END
`

// TestRulesThatIptablesCannotShow: where nothing of ours stands in such a table, or should, it hinders nobody.
func TestRulesThatIptablesCannotShow(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		shell(t, nftFilter)
		before := shell(t, "nft list table ip filter")
		want := sample()
		want.Accept.None = variant == VariantNFT
		if state, err := f.Show(t.Context()); err != nil || state.Exists() {
			t.Errorf("Show before anything stands: %v, %v", state.Exists(), err)
		}
		if _, err := f.Plan(t.Context(), want); err != nil {
			t.Errorf("Plan: %v", err)
		}
		mustApply(t, f, want)
		if diff := cmp.Diff(expected(want, variant), show(t, f)); diff != "" {
			t.Errorf("Show (-want +got):\n%s", diff)
		}
		verifyNow(f)
		if changes := mustApply(t, f, want); !changes.Empty() {
			t.Errorf("the next Apply says: %v", changes)
		}
		if _, err := f.Remove(t.Context()); err != nil {
			t.Errorf("Remove: %v", err)
		}
		if diff := cmp.Diff(before, shell(t, "nft list table ip filter")); diff != "" {
			t.Errorf("somebody else's table (-before +after):\n%s", diff)
		}
	})
}

// TestAcceptAmongRulesThatIptablesCannotShow is refused: the accept rule belongs into that table.
func TestAcceptAmongRulesThatIptablesCannotShow(t *testing.T) {
	f := start(t, VariantNFT)
	shell(t, nftFilter)
	_, err := f.Apply(t.Context(), sample())
	if err == nil || !strings.Contains(err.Error(), `or set accept to "none"`) {
		t.Errorf("Apply: %v", err)
	}
}
