// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

// policy is the one that the README gives.
const policy = `
agent "host"        { policy = "read" }
node "host"         { policy = "read" }
service_prefix ""   { policy = "read" }
service "hostagent" { policy = "write" }
`

// TestDefaultDeny: with the README's policy everything works; without a token nothing is decided.
func TestDefaultDeny(t *testing.T) {
	const management = "11111111-2222-3333-4444-555555555555"
	w := newWorld(t, host.ConsulOptions{
		Token: management,
		Config: fmt.Sprintf(`acl {
  enabled = true
  default_policy = "deny"
  tokens {
    initial_management = %q
    agent = %[1]q
  }
}`, management),
	})
	_, port := w.service("web", 8080, "127.0.0.1:8080")
	_, err := w.StartApp(w.ctx, host.App{Name: "squatter", Listen: []string{"[::]:21200"}})
	w.must(err)

	anonymous := w.start(quick, "--mode", "guard")
	w.must(anonymous.WaitLog(w.ctx, "no token was sent"))
	time.Sleep(3 * time.Second)
	w.reaches(21200, host.Open)
	w.must(anonymous.Stop())

	acl := w.consul.API().ACL()
	_, _, err = acl.PolicyCreate(&api.ACLPolicy{Name: "hostagent", Rules: policy}, nil)
	w.must(err)
	token, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "hostagent"}}}, nil)
	w.must(err)
	file := filepath.Join(t.TempDir(), "token")
	w.must(os.WriteFile(file, []byte(token.SecretID+"\n"), 0o600))

	// Whoever may write web alone takes the ids of hostagent's checks before it does.
	_, _, err = acl.PolicyCreate(&api.ACLPolicy{Name: "web", Rules: `service "web" { policy = "write" }`}, nil)
	w.must(err)
	web, _, err := acl.TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{Name: "web"}}}, nil)
	w.must(err)
	for _, id := range []string{"hostagent:firewall", "hostagent:service:web"} {
		w.must(w.consul.API().Agent().CheckRegisterOpts(&api.AgentCheckRegistration{
			ID: id, Name: "all is well", ServiceID: "web", AgentServiceCheck: api.AgentServiceCheck{TTL: "24h", Status: "passing"},
		}, &api.QueryOptions{Token: web.SecretID}))
	}

	agent := w.guard(fmt.Sprintf("consul { token_file = %q }\n", file))
	w.checkTurns("alive", "passing", "guard mode")
	w.checkTurns("service:web", "passing", "web listens on loopback only")
	w.checkTurns("firewall", "passing", "Guarded: 21000-21255")
	w.reaches(port, host.Open)
	w.reaches(21200, host.Dropped)
	if log := agent.Log(); strings.Contains(log, "level=ERROR") || strings.Contains(log, token.SecretID) {
		t.Errorf("hostagent's log has an error or the token:\n%s", log)
	}

	// A token that is deleted while hostagent runs: the state stands.
	_, err = acl.TokenDelete(token.AccessorID, nil)
	w.must(err)
	w.must(agent.WaitLog(w.ctx, "ACL not found"))
	time.Sleep(5 * time.Second) // close_delay is 4 s
	w.reaches(port, host.Open)
	w.reaches(21200, host.Dropped)
}
