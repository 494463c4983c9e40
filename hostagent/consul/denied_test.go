// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http/httptest"
	"strings"
	"testing"
)

// What Consul 1.21.0 was seen to say, and what mends it.
func TestDenied(t *testing.T) {
	const lacks = `Permission denied: token with AccessorID '44a45d5d-1660-367e-850d-26740f8986fc' lacks permission `
	const nobody = ` The anonymous token is used implicitly when a request does not specify a token.`
	for _, tt := range []struct {
		name, body, want string
	}{
		{"agent", lacks + `'agent:read' on "Host_1.x"`, `add this rule to a policy of the token: agent "Host_1.x" { policy = "read" }`},
		{"service", lacks + `'service:write' on "hostagent"`, `add this rule to a policy of the token: service "hostagent" { policy = "write" }`},
		{"a key", lacks + `'key:read' on "hostagent/all.hcl"`, `add this rule to a policy of the token: key "hostagent/all.hcl" { policy = "read" }`},
		{"keys", lacks + `'key:list' on "hostagent/"`, `add this rule to a policy of the token: key_prefix "hostagent/" { policy = "list" }`},
		{"by a server", `rpc error making call: ` + lacks + `'node:read' on "host"`, `token: node "host" { policy = "read" }`},
		{"nobody", `Permission denied: anonymous token lacks permission 'agent:read' on "host".` + nobody,
			`no token was sent: give one in consul { token_file } or CONSUL_HTTP_TOKEN_FILE, with this rule: agent "host" { policy = "read" }`},
		{"deleted or expired", "ACL not found", "Consul does not know this token, or no longer: it was deleted, or has expired"},
		{"by a server, deleted", "rpc error making call: ACL not found", "it was deleted, or has expired"},
		{"no server", `Permission denied: token with AccessorID 'primary-dc-down' lacks permission 'agent:read' on "client"`, "reaches no Consul server"},
		{"blocked", "Endpoint is blocked by agent configuration", "block_endpoints"},
		{"without a name", lacks + `'operator:write'`, `add this rule to a policy of the token: operator = "write"`},
		{"nobody, without a name", `Permission denied: anonymous token lacks permission 'acl:read'.` + nobody, `with this rule: acl = "read"`},
		{"a resource that nobody here asks for", lacks + `'peering:read'`, `"hostagent acl-policy" prints`},
		{"a name that is no rule's", lacks + `'service:write' on "a` + "\x1b" + `b"`, `"hostagent acl-policy" prints`},
		{"an injection", lacks + `'service:write' on "${x"`, `"hostagent acl-policy" prints`},
		{"cut", lacks + `'service:write' on "` + strings.Repeat("x", 400) + `"`, `"hostagent acl-policy" prints`},
		{"a page", "<html>Forbidden</html>", `"hostagent acl-policy" prints`},
		{"nothing", "", `"hostagent acl-policy" prints`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(reply(403, tt.body))
			defer srv.Close()
			_, err := newClient(t, Config{Address: srv.URL, Token: secret}).Services(t.Context())
			checkError(t, err, KindDenied, tt.want)
		})
	}
}
