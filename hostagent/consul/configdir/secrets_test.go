// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSecretsSayWhatEachFileHolds(t *testing.T) {
	dir := t.TempDir()
	want := map[string]Secret{}
	for name, c := range map[string]struct {
		text string
		want Secret
	}{
		"a-key.hcl":      {`encrypt = "x"`, Secret{GossipKey: true}},
		"b-over.hcl":     {`encrypt = "y"`, Secret{GossipKey: true}},
		"c-tokens.hcl":   {`acl { tokens { agent = "x" } }`, Secret{Tokens: true}},
		"d-old.json":     {`{"acl_token": "x"}`, Secret{Tokens: true}},
		"e-service.hcl":  {`service { name = "web", token = "x" }`, Secret{Tokens: true}},
		"f-sidecar.json": {`{"service": {"name": "db", "connect": {"sidecar_service": {"token": "x"}}}}`, Secret{Tokens: true}},
		"g-vault.hcl":    {`connect { ca_provider = "vault", ca_config { Token = "x", PrivateKey = "y" } }`, Secret{Tokens: true, Keys: true}},
		"h-header.hcl":   {`check { name = "x", http = "http://x", interval = "9s", header { X-Consul-Token = ["x"] } }`, Secret{Tokens: true}},
		"i-none.hcl":     {`acl { enabled = true, token_ttl = "30s", tokens { agent = "" } }`, Secret{}},
		"j-empty.json":   {``, Secret{}},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		want[path] = c.want
	}
	if err := os.WriteFile(filepath.Join(dir, "k-broken.hcl"), []byte(`encrypt = "x" {`), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, c.Secrets); diff != "" {
		t.Errorf("-want +got\n%s%v", diff, c.Problems)
	}
}
