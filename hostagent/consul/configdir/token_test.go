// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// TestTokens holds what is kept of tokens to what Consul does with them: a sidecar has its service's unless it has its own.
func TestTokens(t *testing.T) {
	c, err := Read(folderOf(t, map[string]string{"a.hcl": `
acl_token = "secret-default"
acl { tokens { initial_management = "secret-management" } }
services {
  name  = "web"
  token = "secret-web"
  connect { sidecar_service {} }
}
services {
  name  = "db"
  token = "secret-db"
  connect { sidecar_service { token = "secret-sidecar" } }
}
services {
  name = "none"
  connect { sidecar_service {} }
}
`}))
	if err != nil || len(c.Problems) > 0 {
		t.Fatal(err, c.Problems)
	}
	got := map[string][2]consul.TokenHash{}
	for _, s := range c.Services {
		got[s.Name] = [2]consul.TokenHash{s.TokenHash, s.Sidecar.TokenHash}
	}
	hash := consul.HashSecret
	if diff := gocmp.Diff(map[string][2]consul.TokenHash{
		"web": {hash("secret-web"), hash("secret-web")}, "db": {hash("secret-db"), hash("secret-sidecar")}, "none": {},
	}, got); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
	for key, want := range map[string]consul.TokenHash{
		"acl.tokens.default": hash("secret-default"), "acl.tokens.initial_management": hash("secret-management"),
		"acl.tokens.agent": {}, "acl.tokens": {},
	} {
		if got := c.Settings.Hash(key); got != want {
			t.Errorf("%s: got %v, want %v", key, got, want)
		}
	}
	if shown := fmt.Sprintf("%+v", c.Services); strings.Contains(shown, "secret-") {
		t.Error("a token is in " + shown)
	}
}
