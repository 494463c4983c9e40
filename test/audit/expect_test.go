// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hardenedServer is what an audit says of a hardened server: the root's key is in Raft's state with the built-in CA, and two
// services share the host.
const hardenedServer = `acl-enabled pass
acl-default-deny pass
acl-anonymous pass
acl-instance-tokens pass
acl-token-scope pass
acl-management-token pass
acl-token-persistence pass
gossip-encryption pass
gossip-verify pass
gossip-key pass
tls-verify-outgoing pass
tls-verify-incoming pass
tls-verify-server-hostname pass
tls-certificate pass
tls-ca pass
tls-key-files pass
tls-server-certificates n/a
api-http pass
api-https pass
api-grpc pass
restart-pending pass
ca-enabled pass
ca-provider warn
ca-root-expiry pass
ca-intermediate-expiry n/a
ca-rotation pass
ca-leaf-ttl pass
range-closed pass
range-free pass
range-reserved pass
sidecar-ports pass
consul-ports-reachable pass
consul-ports-unexposed pass
instance-tokens pass
app-listeners pass
upstream-listeners pass
proxy-admin pass
loopback-tenancy info
intention-default pass
intention-wildcards pass
config-files pass
data-files pass
agent-user pass
agent-hardening pass
`

// but returns a list with other statuses for some ids: "ID STATUS" each.
func but(t *testing.T, list string, differences ...string) string {
	t.Helper()
	lines := strings.Split(list, "\n")
	for _, difference := range differences {
		id, _, _ := strings.Cut(difference, " ")
		found := false
		for i, line := range lines {
			if strings.HasPrefix(line, id+" ") {
				found = line != difference
				lines[i] = difference
			}
		}
		if !found {
			t.Fatalf("%q is no difference", difference)
		}
	}
	return strings.Join(lines, "\n")
}

// expect compares a whole audit with a list.
func (b *box) expect(what, want string, got document) {
	b.t.Helper()
	if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got.text(), "\n")); diff != "" {
		b.t.Errorf("%s (-want +got):\n%s\n%s", what, diff, got.evidence(want))
	}
}

// expects says that a list is expected of the host now.
func (b *box) expects(differences ...string) {
	b.t.Helper()
	b.expect("an audit", but(b.t, hardenedServer, differences...), b.full())
}
