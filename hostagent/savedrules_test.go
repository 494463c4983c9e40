// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"strings"
	"testing"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
)

func TestSavedRulesFindings(t *testing.T) {
	many := facts.SavedRules{File: "/etc/sysconfig/ip6tables"}
	for line := 1; line < 100; line += 2 {
		many.Lines = append(many.Lines, line)
	}
	in := base()
	in.Host = &Host{Facts: facts.Facts{SavedRules: []facts.SavedRules{
		{File: "/etc/iptables/rules.v4", Lines: []int{12, 14, 15, 16, 17}},
		{File: "/etc/iptables/rules.v6", Lines: []int{7}},
		many,
		{File: "/etc/nftables.conf", Lines: []int{3, 4, 5, 9}, NFT: true},
	}}}
	var text strings.Builder
	for _, f := range Evaluate(in).Findings {
		if f.ID == catalog.SavedRules {
			text.WriteString(f.Severity.String() + " " + f.Message + "\n" + f.Remedy + "\n")
		}
	}
	const sed = "look at these lines, then delete them: sed -i.bak -E '/" + facts.SavedRulePattern + "/d' "
	const harm = ": at the next boot its loader loads nothing at all where a set that they name is missing\n"
	want(t, "the findings", "warning /etc/iptables/rules.v4 holds rules of hostagent (lines 12, 14-17)"+harm+
		sed+"/etc/iptables/rules.v4\n"+
		"warning /etc/iptables/rules.v6 holds rules of hostagent (line 7)"+harm+
		sed+"/etc/iptables/rules.v6\n"+
		"warning /etc/nftables.conf holds rules of hostagent (lines 3-5, 9): at the next boot its loader brings back ports as they were when it was written\n"+
		"look at these lines, then delete them: sed -i.bak '3,5d;9d' /etc/nftables.conf\n"+
		"warning /etc/sysconfig/ip6tables holds rules of hostagent (lines 1, 3, 5, 7, 9, 11, 13, 15, and more)"+harm+
		sed+"/etc/sysconfig/ip6tables\n", text.String())
}
