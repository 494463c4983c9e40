// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestLookBelievesRulesNotSets: a set that no rule reads keeps nobody out.
func TestLookBelievesRulesNotSets(t *testing.T) {
	h := newFakeHost()
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp [::]:21000")
	h.rules, h.exists = firewall.Ruleset{Guard: firewall.Ports(8080)}, true
	for state, alone := range map[State]bool{Mitigated: false, Open: true} {
		h.noRules = alone
		scan, err := Look(t.Context(), h.parts(ModeGuard))
		if err != nil {
			t.Fatal(err)
		}
		if f := scan.Findings[0]; f.State != state {
			t.Errorf("with the sets alone: %t, the finding is %s, want %s", alone, f.State, state)
		}
	}
	if h.applies+h.removes > 0 {
		t.Error("a scan changed the firewall")
	}
}

func TestLookSaysWhatItCouldNotSee(t *testing.T) {
	h := newFakeHost()
	h.factsFail = errors.New("no agent:read\x1b[2J")
	h.showFail = errors.New("needs CAP_NET_ADMIN")
	scan, err := Look(t.Context(), h.parts(""))
	if err != nil {
		t.Fatal(err)
	}
	want(t, "the notes", "the sidecar range is assumed: no agent:read\\u001b[2J\nthe firewall was not looked at: needs CAP_NET_ADMIN",
		strings.Join(scan.Notes, "\n"))
	want(t, "the range", "21000-21255", scan.Range.String())

	h.fails = &consul.Error{Kind: consul.KindUnreachable, Err: errors.New("refused")}
	h.listeners = listeners("tcp 0.0.0.0:8080", "tcp 127.0.0.1:8081", "tcp [::]:21000", "udp 0.0.0.0:21000")
	scan, err = Look(t.Context(), h.parts(""))
	if err != nil || scan.Source != SourceNone || len(scan.Errors) != 1 {
		t.Errorf("a scan without Consul gives %+v, %v", scan, err)
	}
	var reachable []string
	for _, r := range scan.Network {
		reachable = append(reachable, address(&r.Listener))
	}
	want(t, "who can be reached", "tcp 0.0.0.0:8080\ntcp [::]:21000\nudp 0.0.0.0:21000", strings.Join(reachable, "\n"))
	if len(scan.Findings) > 0 {
		t.Errorf("services that are not known make findings: %s", dump(scan.Result))
	}
	h.fails = &consul.Error{Kind: consul.KindFiltered, Err: errors.New("no service:read")}
	if scan, err := Look(t.Context(), h.parts("")); err != nil || scan.Findings[0].ID != "registrations-filtered" {
		t.Errorf("a filtered answer gives %+v, %v", scan, err)
	}
}

// TestDocumentHasNoNulls: programs that read JSON want [] for nothing.
func TestDocumentHasNoNulls(t *testing.T) {
	text, err := json.Marshal((&Scan{}).Document("1"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "null") {
		t.Errorf("null in %s", text)
	}
}
