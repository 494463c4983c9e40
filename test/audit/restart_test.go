// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// broken is one thing that is wrong from the agent's start on.
type broken struct {
	name string
	// was and is are a part of the agent's configuration, and what stands there instead.
	was, is string
	also    func(*box) // what else is done before the start; nil for nothing
	confinement
	rows []string // what differs from a hardened server
}

// setup writes the configuration.
func (v broken) setup(b *box) {
	text := b.hardened() + asServer
	if strings.Count(text, v.was) != 1 && v.was != "" {
		b.t.Fatalf("the configuration does not have %q once:\n%s", v.was, text)
	}
	if v.was != "" {
		text = strings.Replace(text, v.was, v.is, 1)
	}
	b.write("agent.hcl", text)
	if v.also != nil {
		v.also(b)
	}
}

func chmod(name string, mode os.FileMode) func(*box) {
	return func(b *box) { b.must(os.Chmod(b.path(name), mode)) }
}

func certificateOf(name string) func(*box) { return func(b *box) { b.copyKey(name) } }

// withoutKeyrings takes away the keys that the agent keeps beside its configuration: they would count before it.
func withoutKeyrings(b *box) {
	b.must(errors.Join(os.Remove(b.path("data/serf/local.keyring")), os.Remove(b.path("data/serf/remote.keyring"))))
}

// ownedByRoot gives the agent's files to root, who has no right over others' here.
func ownedByRoot(b *box) {
	b.must(filepath.WalkDir(b.dir, func(path string, _ os.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, 0, 0))
	}))
}

const shortKey = "c2l4dGVlbiBieXRlcyBsIQ=="

// brokenFromTheStart are hardened servers with one thing broken that takes a restart. Each differs in the row of what is
// broken, and where other rows ask nothing without it, in theirs.
func brokenFromTheStart() []broken {
	return []broken{
		{
			name: "ACLs disabled", was: "enabled = true\n  default_policy", is: "enabled = false\n  default_policy",
			rows: []string{
				"acl-enabled fail", "acl-default-deny n/a", "acl-anonymous n/a", "acl-instance-tokens n/a", "acl-token-scope n/a",
				"acl-management-token n/a", "acl-token-persistence n/a", "instance-tokens n/a",
			},
		},
		{
			name: "default allow", was: `default_policy = "deny"`, is: `default_policy = "allow"`,
			rows: []string{"acl-default-deny fail", "acl-anonymous n/a"},
		},
		{
			name: "no token persistence", was: "enable_token_persistence = true", is: "enable_token_persistence = false",
			rows: []string{"acl-token-persistence warn"},
		},
		{
			name: "gossip not encrypted", was: "encrypt = ", is: "# encrypt = ", also: withoutKeyrings,
			rows: []string{"gossip-encryption fail", "gossip-verify n/a", "gossip-key n/a"},
		},
		{
			name: "plain gossip is taken", was: "encrypt_verify_incoming = true", is: "encrypt_verify_incoming = false",
			rows: []string{"gossip-verify fail"},
		},
		{
			name: "gossip not verified", was: "encrypt_verify_incoming = true\nencrypt_verify_outgoing = true",
			is: "encrypt_verify_incoming = false\nencrypt_verify_outgoing = false", rows: []string{"gossip-verify fail"},
		},
		{
			name: "a short gossip key", also: func(b *box) {
				withoutKeyrings(b)
				b.kit.secrets.addKey(shortKey)
				b.write("agent.hcl", strings.Replace(b.hardened()+asServer, b.kit.gossip, shortKey, 1))
			},
			rows: []string{"gossip-key fail"},
		},
		{
			name: "servers not verified", // verify_server_hostname alone turns verify_outgoing on
			was:  "verify_outgoing = true\n  }\n  internal_rpc {\n    verify_server_hostname = true",
			is:   "verify_outgoing = false\n  }\n  internal_rpc {\n    verify_server_hostname = false",
			rows: []string{"tls-verify-outgoing fail", "tls-verify-server-hostname n/a"},
		},
		{
			name: "clients not verified", was: "verify_incoming = true\n    verify_outgoing", is: "verify_incoming = false\n    verify_outgoing",
			rows: []string{"tls-verify-incoming fail"},
		},
		{
			name: "servers not verified by name", was: "verify_server_hostname = true", is: "verify_server_hostname = false",
			rows: []string{"tls-verify-server-hostname fail"},
		},
		{name: "an expired certificate", also: certificateOf(expiredCertificate), rows: []string{"tls-certificate fail"}},
		{name: "a certificate that expires soon", also: certificateOf(soonCertificate), rows: []string{"tls-certificate warn"}},
		{name: "a client's certificate", also: certificateOf(clientCertificate), rows: []string{"tls-certificate fail"}},
		{
			name: "HTTP on the network", was: "ports {", is: "addresses { http = \"0.0.0.0\" }\nports {",
			rows: []string{"api-http fail"},
		},
		{name: "no HTTPS", was: "https = 8501", is: "https = -1", rows: []string{"api-https fail"}},
		{
			name: "gRPC on the network", was: "ports {", is: "addresses { grpc = \"0.0.0.0\" }\nports {\n  grpc = 8502\n  grpc_tls = 8503",
			rows: []string{"api-grpc fail"},
		},
		{
			name: "DNS on the network", was: "ports {", is: "addresses { dns = \"0.0.0.0\" }\nports {",
			rows: []string{"consul-ports-unexposed fail"},
		},
		{
			name: "no mesh", was: "connect { enabled = true }", is: "connect { enabled = false }",
			rows: []string{
				"ca-enabled fail", "ca-provider n/a", "ca-root-expiry n/a", "ca-rotation n/a", "ca-leaf-ttl n/a",
				"intention-wildcards n/a",
			},
		},
		{
			name: "intentions allow by default", was: `default_intention_policy = "deny"`, is: `default_intention_policy = "allow"`,
			rows: []string{"intention-default fail"},
		},
		{name: "a file with a token that all may read", also: chmod("consul.d/tokens.hcl", 0o644), rows: []string{"config-files fail"}},
		{name: "an agent that is root", also: ownedByRoot, confinement: confinement{uid: rootUID}, rows: []string{"agent-user fail"}},
		{
			name: "an agent that may gain rights", confinement: confinement{uid: consulUID, privilege: true},
			rows: []string{"agent-hardening warn"},
		},
	}
}

func TestOneThingBroken(t *testing.T) {
	t.Parallel()
	for _, v := range brokenFromTheStart() {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			c := v.confinement
			if c == (confinement{}) {
				c = hardenedProcess()
			}
			newHardened(t, c, v.setup).expects(v.rows...)
		})
	}
}

// TestOldSpelling: the settings as they were written before Consul 1.12 count as those of today.
func TestOldSpelling(t *testing.T) {
	t.Parallel()
	newHardened(t, hardenedProcess(), func(b *box) {
		text, _, _ := strings.Cut(b.hardened(), "tls {")
		b.write("agent.hcl", text+asServer+strings.Join([]string{
			`ca_file = "` + b.path("tls/ca.pem") + `"`, `cert_file = "` + b.path("tls/cert.pem") + `"`, `key_file = "` + b.path("tls/key.pem") + `"`,
			"verify_incoming = true", "verify_outgoing = true", "verify_server_hostname = true", "",
		}, "\n"))
	}).expects()
}
