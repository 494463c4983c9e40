// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestNothingToAsk: rows that ask nothing of an agent say what it lacks, and ask for no right that would not show more.
func TestNothingToAsk(t *testing.T) {
	noFiles := Unseen[[]File]("in which folder is not known", "--consul-config with the agent's configuration")
	for name, test := range map[string]struct {
		id   catalog.ID
		in   Input
		want string
	}{
		"intentions without the mesh": {
			catalog.IntentionWildcards,
			Input{Authority: Unseen[consul.Authority](reasonMeshOff, ""), Intentions: Unseen[[]consul.Intention](reasonMeshOff, "")},
			"intention-wildcards n/a\n  the service mesh is off, and with it intentions: see ca-enabled",
		},
		"a restart without files": {
			catalog.RestartPending, Input{Running: Known(consul.Running{}), ConfigFiles: Known([]File{})},
			"restart-pending n/a\n  the agent was started without configuration files",
		},
		"data of -dev": {
			catalog.DataFiles, Input{Running: Known(consul.Running{DevMode: new(true)}), DataFiles: noFiles},
			"data-files n/a\n  the agent was started with -dev: it keeps nothing on disk",
		},
		"data of an agent that does not tell": {
			catalog.DataFiles, Input{Running: Known(consul.Running{}), DataFiles: noFiles},
			"data-files unknown\n  the data directory: in which folder is not known\n  needs: --consul-config with the agent's configuration",
		},
	} {
		if diff := cmp.Diff(test.want, text(Evaluate(test.in), test.id)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

// TestGuardedSquatterWarns: what the guard keeps from the network still takes a sidecar's port.
func TestGuardedSquatterWarns(t *testing.T) {
	h := soundHost()
	h.Findings = []Finding{{ID: catalog.SquattedPort, State: "mitigated", Message: "tcp 0.0.0.0:21100 is in the range", Remedy: "stop it"}}
	const want = "range-free warn\n  tcp 0.0.0.0:21100 is in the range; the guard keeps the network from it, and the port is still not free for a sidecar\n" +
		"  remedy: stop it"
	if diff := cmp.Diff(want, text(Evaluate(Input{Host: Known(h)}), catalog.RangeFree)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
