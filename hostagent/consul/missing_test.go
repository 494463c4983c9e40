// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"testing"
)

func TestMissingRule(t *testing.T) {
	denied := errors.New(`status 403: Permission denied: token with AccessorID '00000000-0000-0000-0000-000000000002' lacks permission 'agent:read' on "web-1"`)
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"named", &Error{Kind: KindDenied, Err: denied}, `agent "web-1" { policy = "read" }`},
		{"a key, as Consul refuses it", &Error{Kind: KindDenied, Err: errors.New(`status 403: rpc error making call: Permission denied: token with AccessorID ` +
			`'b9bc2ea6-83cb-3981-7665-c2a8fd659178' lacks permission 'key:read' on "hostagent/a.hcl"`)}, `key "hostagent/a.hcl" { policy = "read" }`},
		{"without a name", &Error{Kind: KindDenied, Err: errors.New("status 403: ACL not found")}, ""},
		{"of another kind", &Error{Kind: KindStatus, Err: denied}, ""},
		{"of another package", denied, ""},
		{"none", nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := MissingRule(c.err); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
