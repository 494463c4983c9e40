// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/hashicorp/consul/api"
)

// mishap is one thing that goes wrong while everything runs.
type mishap struct {
	name string
	make func(*box)
	mend func(*box)
	rows []string // what differs from a hardened server
}

const anonymousID = "00000000-0000-0000-0000-000000000002"

// letAnonymous gives the anonymous token rules; none takes them away.
func letAnonymous(rules string) func(*box) {
	return func(b *box) {
		b.t.Helper()
		acl := b.manager().ACL()
		anonymous, _, err := acl.TokenRead(anonymousID, nil)
		b.must(err)
		anonymous.Policies = nil
		if rules != "" {
			policy, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: "careless", Rules: rules}, nil)
			b.must(err)
			anonymous.Policies = []*api.ACLTokenPolicyLink{{ID: policy.ID}}
		}
		_, _, err = acl.TokenUpdate(anonymous, nil)
		b.must(err)
		if rules == "" {
			policy, _, err := acl.PolicyReadByName("careless", nil)
			b.must(err)
			_, err = acl.PolicyDelete(policy.ID, nil)
			b.must(err)
		}
	}
}

func anonymousMay(name, rules string) mishap {
	return mishap{name: name, make: letAnonymous(rules), mend: letAnonymous(""), rows: []string{"acl-anonymous fail"}}
}

// registerWeb registers web again, with another token or address of its upstream.
func (b *box) registerWeb(t token, upstreams string) {
	b.register(t, "web", "web", webPort, webSidecar, toDB(upstreams))
}

func webAgain(b *box) { b.registerWeb(b.kit.web, "127.0.0.1") }

// ofRegistrations are mishaps with tokens and registrations.
func ofRegistrations() []mishap {
	return []mishap{
		anonymousMay("anonymous may be every service", `service_prefix "" { policy = "write" }`),
		anonymousMay("anonymous may be one service", `service "web" { policy = "write" intentions = "deny" }`),
		anonymousMay("anonymous may write intentions", `service_prefix "" { policy = "read" intentions = "write" }`),
		{
			name: "a token for a prefix",
			make: func(b *box) {
				b.registerWeb(b.tokenWith("wide", `service_prefix "web" { policy = "write" }`+
					"\nservice_prefix \"\" { policy = \"read\" }\nnode_prefix \"\" { policy = \"read\" }\n"), "127.0.0.1")
			},
			mend: webAgain, rows: []string{"acl-token-scope fail"},
		},
		{
			name: "a management token in a registration",
			make: func(b *box) { b.registerWeb(b.kit.management, "127.0.0.1") }, mend: webAgain,
			rows: []string{"acl-management-token fail"},
		},
		{
			name: "a registration without a token",
			make: func(b *box) {
				b.write("cache.hcl", "service {\n  name = \"cache\"\n  port = 6379\n}\n")
				b.reload()
			},
			mend: func(b *box) { b.must(os.Remove(b.path("consul.d/cache.hcl"))); b.reload() },
			rows: []string{"instance-tokens fail"},
		},
		{
			name: "all may call all",
			make: func(b *box) { b.intend("*", "*", api.IntentionActionAllow) },
			mend: func(b *box) {
				_, err := b.manager().ConfigEntries().Delete(api.ServiceIntentions, "*", nil)
				b.must(err)
			},
			rows: []string{"intention-wildcards fail"},
		},
		{
			name: "an upstream on the network",
			make: func(b *box) {
				b.registerWeb(b.kit.web, "0.0.0.0")
				b.serve("sidecar-web", at("::", webSidecar), at("0.0.0.0", upstreamPort))
			},
			mend: func(b *box) {
				webAgain(b)
				b.serve("sidecar-web", at("::", webSidecar), at("127.0.0.1", upstreamPort))
			},
			rows: []string{"upstream-listeners fail"},
		},
		{ // last: the port of a sidecar that has gone stays open for a while
			name: "two instances share a token",
			make: func(b *box) {
				b.register(b.kit.web, "web-2", "web", webPort+1, webSidecar+2, nil)
				b.serve("web-2", at("127.0.0.1", webPort+1), at("::", webSidecar+2))
			},
			rows: []string{"acl-instance-tokens fail"},
		},
	}
}

func (b *box) reload() {
	b.t.Helper()
	b.must(b.manager().Agent().Reload())
}

func (b *box) intend(source, destination string, action api.IntentionAction) {
	b.t.Helper()
	_, _, err := b.manager().ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: destination, Sources: []*api.SourceIntention{{Name: source, Action: action}},
	}, nil)
	b.must(err)
}

// leafTTL changes how long certificates of services last.
func leafTTL(ttl string) func(*box) {
	return func(b *box) {
		b.t.Helper()
		config, _, err := b.manager().Connect().CAGetConfig(nil)
		b.must(err)
		config.Config["LeafCertTTL"] = ttl
		_, err = b.manager().Connect().CASetConfig(config, nil)
		b.must(err)
	}
}

const exemptWeb = `exempt {
  finding = "exposed-listener"
  service = "web"
  reason  = "the rack's firewall lets nobody in"
  because = "firewall"
}
`

const secondKey = "dGhlIG5leHQgZ29zc2lwIGtleSwgMzIgYnl0ZXMgaXM="

// ofTheHost are mishaps with files, ports and the kernel.
func ofTheHost() []mishap {
	return []mishap{
		{
			name: "a second gossip key",
			make: func(b *box) {
				b.kit.secrets.addKey(secondKey)
				b.must(b.manager().Operator().KeyringInstall(secondKey, nil))
			},
			mend: func(b *box) { b.must(b.manager().Operator().KeyringRemove(secondKey, nil)) },
			rows: []string{"gossip-key warn"},
		},
		{name: "a key that all may read", make: chmod("tls/key.pem", 0o644), mend: chmod("tls/key.pem", 0o600), rows: []string{"tls-key-files fail"}},
		{name: "a data directory that all may enter", make: chmod("data", 0o755), mend: chmod("data", 0o700), rows: []string{"data-files warn"}},
		{
			name: "a keyring that all may read",
			make: func(b *box) {
				chmod("data", 0o755)(b)
				chmod("data/serf", 0o755)(b)
				chmod("data/serf/local.keyring", 0o644)(b)
			},
			mend: func(b *box) {
				chmod("data/serf/local.keyring", 0o600)(b)
				chmod("data/serf", 0o700)(b)
				chmod("data", 0o700)(b)
			},
			rows: []string{"data-files fail"},
		},
		{name: "leaves for a month", make: leafTTL("720h"), mend: leafTTL("72h"), rows: []string{"ca-leaf-ttl fail"}},
		{
			name: "a squatter in the range", // which the guard keeps from the network
			make: func(b *box) { b.serve("squatter", at("0.0.0.0", 21100)) }, mend: func(b *box) { b.unserve("squatter") },
			rows: []string{"range-free warn"},
		},
		{
			name: "outgoing connections from the range",
			make: func(b *box) { b.sysctl("net/ipv4/ip_local_reserved_ports", "\n") },
			mend: func(b *box) { b.sysctl("net/ipv4/ip_local_reserved_ports", hardenedReservedPorts) },
			rows: []string{"range-reserved fail"},
		},
		{
			name: "an application on the network", make: func(b *box) { b.serve("web", at("0.0.0.0", webPort)) },
			rows: []string{"app-listeners fail"},
		},
		{ // the application is still there
			name: "an application that another firewall holds", make: func(b *box) { b.reconfigure(exemptWeb) },
			mend: func(b *box) { b.reconfigure(""); b.serve("web", at("127.0.0.1", webPort)) },
			rows: []string{"app-listeners warn"},
		},
		{name: "an open range", make: (*box).unguard, mend: (*box).guard, rows: []string{"range-closed fail"}},
		{ // last: what a file that was changed said before is not known, nor so what runs of what no other file sets
			name: "files that nobody restarted for",
			make: func(b *box) { b.write("later.hcl", "tls {\n  internal_rpc {\n    verify_incoming = false\n  }\n}\n") },
			rows: []string{"restart-pending fail", "api-http unknown", "api-https unknown", "api-grpc unknown"},
		},
	}
}

// reconfigure changes hostagent's configuration while it runs.
func (b *box) reconfigure(more string) {
	b.t.Helper()
	b.configure(b.kit.hostagent, more)
	b.must(errors.Join(b.hostagent.Signal(syscall.SIGHUP)))
}

// TestMishaps breaks and mends one thing after another on a hardened server that runs.
func TestMishaps(t *testing.T) {
	t.Parallel()
	for name, mishaps := range map[string][]mishap{"registrations": ofRegistrations(), "host": ofTheHost()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newHardened(t, hardenedProcess(), nil)
			b.expects()
			for _, m := range mishaps {
				m.make(b)
				b.expect(m.name, but(t, hardenedServer, m.rows...), b.full())
				if m.mend != nil {
					m.mend(b)
				}
			}
		})
	}
}
