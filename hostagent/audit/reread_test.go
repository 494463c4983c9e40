// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// After a reload an agent tells what its files say. Nothing passes by that alone, and what shows what runs counts before it.
func TestReloadedACLs(t *testing.T) {
	const acls = "acl { enabled = true, default_policy = \"deny\", enable_token_persistence = true }\ndefault_intention_policy = \"deny\"\n"
	server := func(r *consul.Running) { r.ACLsEnabledLive, r.ACLDefaultPolicyLive = true, true }
	client := func(r *consul.Running) { r.ACLDefaultPolicyLive = true }
	nothing := func(*consul.Running) {}
	answers, off := Known(Rights{}), Known(Rights{ACLsOff: true})
	for _, tt := range []struct {
		name      string
		version   string
		live      func(*consul.Running)
		anonymous Seen[Rights]
		want      map[catalog.ID]Status
	}{
		{"a server", "1.21.0", server, answers, map[catalog.ID]Status{
			catalog.ACLEnabled: Pass, catalog.ACLDefaultDeny: Pass, catalog.ACLPersistence: Unknown, catalog.IntentionDefault: Unknown}},
		{"a client", "1.21.0", client, answers, map[catalog.ID]Status{
			catalog.ACLEnabled: Pass, catalog.ACLDefaultDeny: Pass, catalog.ACLPersistence: Unknown, catalog.IntentionDefault: Unknown}},
		{"a client that was not asked more", "1.21.0", client, Seen[Rights]{}, map[catalog.ID]Status{
			catalog.ACLEnabled: Unknown, catalog.ACLDefaultDeny: Pass}},
		{"a client without ACLs", "1.21.0", client, off, map[catalog.ID]Status{
			catalog.ACLEnabled: Fail, catalog.ACLDefaultDeny: NotApplicable, catalog.ACLPersistence: NotApplicable}},
		{"of a version whose answers change", "1.16.2", nothing, answers, map[catalog.ID]Status{
			catalog.ACLEnabled: Unknown, catalog.ACLDefaultDeny: Unknown, catalog.ACLPersistence: Unknown}},
		{"of a version that tells what it was started with", "1.13.9", nothing, Seen[Rights]{}, map[catalog.ID]Status{
			catalog.ACLEnabled: Pass, catalog.ACLDefaultDeny: Pass, catalog.ACLPersistence: Pass, catalog.IntentionDefault: Pass}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := hardened(tt.version)
			r.DefaultIntentionPolicy = new("deny")
			tt.live(&r)
			in := filesChanged(Input{Running: Known(r), Anonymous: tt.anonymous}, time.Hour)
			in.Disk, in.ConfigFiles.Value[1].Path = transportDisk(t, acls)
			in.ConfigFiles.Value[1].Path += "/a.hcl"
			for id, want := range tt.want {
				if got := transportRow(t, in, id); got.Status != want {
					t.Errorf("%s: got %s %q, want %s", id, got.Status, got.Found, want)
				}
			}
		})
	}
}

// With no policy for intentions, that of ACLs counts, which must be what runs; and what a changed file said of intentions before
// is not known.
func TestReloadedIntentionDefault(t *testing.T) {
	for _, tt := range []struct {
		live    bool
		changed time.Duration // after the agent's start
		want    Status
	}{{true, -time.Hour, Pass}, {true, time.Hour, Unknown}, {false, time.Hour, Unknown}} {
		r := hardened("1.21.0")
		r.ACLsEnabledLive, r.ACLDefaultPolicyLive = true, tt.live
		in := filesChanged(Input{Running: Known(r)}, tt.changed)
		in.Disk, in.ConfigFiles.Value[1].Path = transportDisk(t, `acl { enabled = true, default_policy = "deny" }`)
		in.ConfigFiles.Value[1].Path += "/a.hcl"
		if got := transportRow(t, in, catalog.IntentionDefault); got.Status != tt.want {
			t.Errorf("%+v: got %s %q", tt, got.Status, got.Found)
		}
	}
}
