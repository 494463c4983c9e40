// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

const (
	accessorWeb = "aaaaaaaa-0000-0000-0000-000000000001"
	accessorDB  = "aaaaaaaa-0000-0000-0000-000000000002"
)

func serviceRule(name, access string) consul.Rule {
	return consul.Rule{Resource: "service", Name: name, Access: access, Source: "policy p"}
}

func prefixRule(name, access string) consul.Rule {
	rule := serviceRule(name, access)
	rule.Prefix = true
	return rule
}

// guardedInput is what an audit by root sees of a host whose ACLs are as the guide asks: web and its sidecar, and db.
func guardedInput() *Input {
	web, db := consul.HashSecret("web's"), consul.HashSecret("db's")
	rights := anonymousRights([]string{"db", "hostagent", "web", "web-sidecar-proxy"})
	return &Input{
		Running: Known(consul.Running{
			Agent: consul.Agent{Server: true}, ACLsEnabled: new(true), ACLDefaultPolicy: new("deny"), ACLTokenPersistence: new(true),
		}),
		Disk:      Known(&configdir.Config{}),
		Anonymous: Known(Rights{Rights: rights, Allowed: make([]bool, len(rights))}),
		Tokens: Known(consul.Tokens{SecretsSeen: true, Tokens: []consul.Token{
			{AccessorID: anonymousAccessor, Hash: consul.HashSecret("anonymous"), Rules: []consul.Rule{prefixRule("", "read")}},
			{AccessorID: accessorWeb, Hash: web, Rules: []consul.Rule{
				serviceRule("web", "write"), serviceRule("web-sidecar-proxy", "write"), prefixRule("", "read"),
			}},
			{AccessorID: accessorDB, Hash: db, Rules: []consul.Rule{serviceRule("db", "write")}},
		}}),
		Registrations: Known([]consul.Registration{
			{ID: "db", Name: "db"}, {ID: "hostagent", Name: "hostagent"}, {ID: "web-1", Name: "web"},
			{ID: "web-1-sidecar-proxy", Name: "web-sidecar-proxy", Kind: "connect-proxy", Proxy: &consul.Proxy{DestinationName: "web"}},
		}),
		InstanceTokens: Known([]InstanceToken{
			{ID: "db", Name: "db", Hash: db, Where: "/d/1"},
			{ID: "web-1", Name: "web", Hash: web, Where: "/d/2"},
			{ID: "web-1-sidecar-proxy", Name: "web-sidecar-proxy", Sidecar: true, DestinationID: "web-1", DestinationName: "web", Hash: web, Where: "/d/3"},
		}),
	}
}

// asConfigured reads one file of an agent.
func asConfigured(t *testing.T, text string) Seen[*configdir.Config] {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := configdir.Read(path)
	if err != nil || len(config.Problems) > 0 {
		t.Fatal(err, config.Problems)
	}
	return Known(config)
}

func allow(in *Input, segments ...string) {
	for i, right := range in.Anonymous.Value.Rights {
		in.Anonymous.Value.Allowed[i] = slices.Contains(segments, right.Resource+" "+right.Segment)
	}
}

// webToken is the token that web and its sidecar have.
func webToken(in *Input) *consul.Token { return &in.Tokens.Value.Tokens[1] }

const mendDefault = "give the agent a default token without these rights: consul acl set-agent-token default TOKEN"

var unseenTokens = Unseen[[]InstanceToken]("only root may read them", "run hostagent audit as root")

// aclCases are what one change to guardedInput makes of one item.
var aclCases = []struct {
	name   string
	id     catalog.ID
	change func(*testing.T, *Input)
	want   Row // an empty Remedy is the catalog's
}{
	{"", catalog.ACLEnabled, nil, Row{Status: Pass, Found: []string{"the agent runs with acl.enabled = true"}}},
	{"disabled", catalog.ACLEnabled, func(_ *testing.T, in *Input) { in.Running.Value.ACLsEnabled = new(false) }, Row{Status: Fail, Found: []string{
		"the agent runs with acl.enabled = false",
		"no token is asked for: anybody who reaches the agent registers any service, and edits intentions"}}},
	{"answers alone", catalog.ACLEnabled, func(_ *testing.T, in *Input) {
		in.Running, in.Anonymous = Unseen[consul.Running]("x", "y"), Known(Rights{ACLsOff: true})
	}, Row{Status: Fail, Found: []string{"the agent answers that ACLs are disabled",
		"no token is asked for: anybody who reaches the agent registers any service, and edits intentions"}}},
	{"answers alone, enabled", catalog.ACLEnabled, func(_ *testing.T, in *Input) { in.Running = Unseen[consul.Running]("x", "y") },
		Row{Status: Pass, Found: []string{"the agent answers as one with ACLs enabled"}}},
	{"unseen", catalog.ACLEnabled, func(_ *testing.T, in *Input) {
		*in = Input{Running: Unseen[consul.Running]("the token may not ask", `agent:read`)}
	}, Row{Status: Unknown, Found: []string{"acl.enabled: the token may not ask"}, Needs: "agent:read"}},

	{"", catalog.ACLDefaultDeny, nil, Row{Status: Pass, Found: []string{`the agent runs with acl.default_policy = "deny"`}}},
	{"allow", catalog.ACLDefaultDeny, func(_ *testing.T, in *Input) { in.Running.Value.ACLDefaultPolicy = new("allow") },
		Row{Status: Fail, Found: []string{`the agent runs with acl.default_policy = "allow"`,
			"ACLs are enabled, and whoever has no token may do all that no rule forbids"}}},
	{"allow on a client", catalog.ACLDefaultDeny, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLDefaultPolicy, in.Running.Value.Server = new("allow"), false
	}, Row{Status: Fail, Found: []string{`the agent runs with acl.default_policy = "allow"`,
		"ACLs are enabled, and whoever has no token registers what no rule forbids with this agent; " +
			"it is a client, and what its servers take they decide by a default policy of their own"}}},
	{"unseen", catalog.ACLDefaultDeny, func(_ *testing.T, in *Input) { *in = Input{Running: Unseen[consul.Running]("no agent", "one")} },
		Row{Status: Unknown, Found: []string{"acl.default_policy: no agent"}, Needs: "one"}},

	{"", catalog.ACLAnonymous, nil, Row{Status: Pass, Found: []string{
		"without a token neither service:write nor intentions:write is allowed on 5 names: those of this host, and one that nobody has",
		"the anonymous token has no rule that writes services or intentions"}}},
	{"asked alone", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { in.Tokens = Seen[consul.Tokens]{} }, Row{Status: Pass, Found: []string{
		"without a token neither service:write nor intentions:write is allowed on 5 names: those of this host, and one that nobody has"}}},
	{"asked alone, services unseen", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Tokens, in.Registrations = Seen[consul.Tokens]{}, Unseen[[]consul.Registration]("filtered", "x")
	}, Row{Status: Unknown, Needs: needsACL, Found: []string{"without a token neither service:write nor intentions:write is allowed on " +
		"5 names, but not all services of this host were asked about"}}},
	{"asked alone, of some", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Tokens, in.Registrations.Value[1].Name = Seen[consul.Tokens]{}, "late"
	}, Row{Status: Unknown, Needs: needsACL, Found: []string{"without a token neither service:write nor intentions:write is allowed on " +
		"5 names, but not all services of this host were asked about"}}},
	{"services unseen", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Registrations = Seen[[]consul.Registration]{}
	}, Row{Status: Pass, Found: []string{"without a token neither service:write nor intentions:write is allowed on 5 names: among them one that nobody has",
		"the anonymous token has no rule that writes services or intentions"}}},
	{"read alone", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { in.Anonymous = Seen[Rights]{} }, Row{Status: Pass, Found: []string{
		"the anonymous token has no rule that writes services or intentions", `the agent runs with acl.default_policy = "deny"`}}},
	{"one service", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { allow(in, "service web") },
		Row{Status: Fail, Found: []string{`without a token service:write is allowed on "web"`,
			"the anonymous token has no such rule: the agent answers with its default token"}, Remedy: mendDefault}},
	{"one service, rules unseen", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		allow(in, "service web")
		in.Tokens = Seen[consul.Tokens]{}
	}, Row{Status: Fail, Found: []string{`without a token service:write is allowed on "web"`}}},
	{"the agent's default token", catalog.ACLAnonymous, func(t *testing.T, in *Input) {
		allow(in, "service web")
		in.Disk = asConfigured(t, `acl { tokens { default = "x" } }`)
	}, Row{Status: Fail, Found: []string{`without a token service:write is allowed on "web"`,
		"FILE:1 sets acl.tokens.default: a request without a token has its rights on this agent"}, Remedy: mendDefault}},
	{"the agent's default token, and a rule", catalog.ACLAnonymous, func(t *testing.T, in *Input) {
		allow(in, "service web")
		in.Disk = asConfigured(t, `acl { tokens { default = "x" } }`)
		in.Tokens.Value.Tokens[0].Rules = []consul.Rule{serviceRule("web", "write")}
	}, Row{Status: Fail, Found: []string{`without a token service:write is allowed on "web"`,
		`the anonymous token has service "web" { policy = "write" } (policy p)`,
		"FILE:1 sets acl.tokens.default: a request without a token has its rights on this agent"}}},
	{"intentions", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { allow(in, "intention *") },
		Row{Status: Fail, Found: []string{"without a token intentions:write is allowed on all services",
			"the anonymous token has no such rule: the agent answers with its default token"}, Remedy: mendDefault}},
	{"default allow", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLDefaultPolicy = new("allow")
		allow(in, "service web", "service db", "service "+unheardName)
	}, Row{Status: NotApplicable, Found: []string{
		`the agent runs with acl.default_policy = "allow", so that what no rule denies is allowed to anybody: see acl-default-deny`}}},
	{"default allow, and a rule", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLDefaultPolicy = new("allow")
		allow(in, "service "+unheardName)
		in.Tokens.Value.Tokens[0].Rules = []consul.Rule{serviceRule("web", "write")}
	}, Row{Status: Fail, Found: []string{"without a token service:write is allowed on a name that nobody has, so on any that no rule denies",
		`the anonymous token has service "web" { policy = "write" } (policy p)`,
		`the agent runs with acl.default_policy = "allow": what no rule denies is allowed`}}},
	{"default allow, denied by a rule but for one", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLDefaultPolicy = new("allow")
		allow(in, "service web")
	}, Row{Status: Fail, Found: []string{`without a token service:write is allowed on "web"`,
		`the agent runs with acl.default_policy = "allow": what no rule denies is allowed`}}},
	{"a client", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { in.Running.Value.Server = false }, Row{Status: Pass, Found: []string{
		"without a token neither service:write nor intentions:write is allowed on 5 names: those of this host, and one that nobody has",
		"the anonymous token has no rule that writes services or intentions",
		"so answers this agent, a client: its servers have a default policy of their own"}}},
	{"a prefix that was not asked about", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		token := &in.Tokens.Value.Tokens[0]
		token.Rules = append(token.Rules, prefixRule("team-", "write"), consul.Rule{Resource: "intentions", Name: "db", Access: "write"})
	}, Row{Status: Fail, Found: []string{`the anonymous token has service_prefix "team-" { policy = "write" } (policy p)`,
		`the anonymous token has service "db" { intentions = "write" }`}}},
	{"a rule that is taken back", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		token := &in.Tokens.Value.Tokens[0]
		token.Rules = append(token.Rules, prefixRule("team-", "write"), prefixRule("team-", "deny"))
		in.Anonymous = Seen[Rights]{}
	}, Row{Status: Pass, Found: []string{
		"the anonymous token has no rule that writes services or intentions", `the agent runs with acl.default_policy = "deny"`}}},
	{"management", catalog.ACLAnonymous, func(_ *testing.T, in *Input) { in.Tokens.Value.Tokens[0].Management = true },
		Row{Status: Fail, Found: []string{"the anonymous token is a management token"}}},
	{"unseen", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Anonymous, in.Tokens = Unseen[Rights]("the agent did not answer", ""), Seen[consul.Tokens]{}
	}, Row{Status: Unknown, Found: []string{"what is allowed without a token: the agent did not answer"}, Needs: needsACL}},
	{"rules unread", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Anonymous, in.Tokens.Value.Tokens[0].Unread = Unseen[Rights]("the agent did not answer", "x"), []string{"policy p"}
	}, Row{Status: Unknown, Found: []string{"what is allowed without a token: the agent did not answer"}, Needs: "x"}},
	{"read alone, default allow", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Anonymous, in.Running.Value.ACLDefaultPolicy = Unseen[Rights]("the agent did not answer", "x"), new("allow")
	}, Row{Status: Unknown, Found: []string{"what is allowed without a token: the agent did not answer"}, Needs: "x"}},
	{"half an answer", catalog.ACLAnonymous, func(_ *testing.T, in *Input) {
		in.Anonymous.Value.Allowed, in.Tokens = in.Anonymous.Value.Allowed[:1], Seen[consul.Tokens]{}
	}, Row{Status: Unknown, Found: []string{"what is allowed without a token: the agent did not answer all that was asked"}, Needs: needsACL}},

	{"", catalog.ACLPersistence, nil, Row{Status: Pass, Found: []string{"the agent runs with acl.enable_token_persistence = true"}}},
	{"off, files unread", catalog.ACLPersistence, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLTokenPersistence, in.Disk = new(false), Seen[*configdir.Config]{}
	}, Row{Status: Warn, Found: []string{"the agent runs with acl.enable_token_persistence = false",
		"whether the agent's token stands in its files instead was not seen"}, Needs: giveConfig}},
	{"off, and not in files", catalog.ACLPersistence, func(t *testing.T, in *Input) {
		in.Running.Value.ACLTokenPersistence, in.Disk = new(false), asConfigured(t, `acl { tokens { default = "x" } }`)
	}, Row{Status: Warn, Found: []string{"the agent runs with acl.enable_token_persistence = false",
		"no file sets acl.tokens.agent: a token set through the API is lost at the next restart"}}},
	{"off, and empty in files", catalog.ACLPersistence, func(t *testing.T, in *Input) {
		in.Running.Value.ACLTokenPersistence, in.Disk = new(false), asConfigured(t, `acl { tokens { agent = "" } }`)
	}, Row{Status: Warn, Found: []string{"the agent runs with acl.enable_token_persistence = false",
		"no file sets acl.tokens.agent: a token set through the API is lost at the next restart"}}},
	{"off, and in files", catalog.ACLPersistence, func(t *testing.T, in *Input) {
		in.Running.Value.ACLTokenPersistence, in.Disk = new(false), asConfigured(t, `acl { tokens { agent = "x" } }`)
	}, Row{Status: Pass, Found: []string{"the agent runs with acl.enable_token_persistence = false",
		"the agent has its token from FILE:1 (acl.tokens.agent), at each start"}}},
	{"unseen", catalog.ACLPersistence, func(_ *testing.T, in *Input) {
		in.Running.Value.ACLTokenPersistence, in.Disk = nil, Seen[*configdir.Config]{}
	}, Row{Status: Unknown, Found: []string{"acl.enable_token_persistence: the agent does not tell, and its files were not read"},
		Needs: "--consul-config with the agent's configuration"}},

	{"", catalog.InstanceTokens, nil, Row{Status: Pass, Found: []string{"a token came with 3 registrations"}}},
	{"none", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].Hash = consul.TokenHash{} },
		Row{Status: Fail, Found: []string{`"db" (/d/1) is registered without a token`}}},
	{"the agent's", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].SameAs = []string{tokenDefault} },
		Row{Status: Fail, Found: []string{`"db" (/d/1) has the agent's own token (acl.tokens.default), as what is registered without one has`}}},
	{"anonymous", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].SameAs = []string{tokenAnonymous} },
		Row{Status: Fail, Found: []string{`"db" (/d/1) is registered as anonymous`}}},
	{"hostagent's own", catalog.InstanceTokens, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value = append(in.InstanceTokens.Value, InstanceToken{ID: "hostagent", Name: "hostagent"})
	}, Row{Status: Pass, Found: []string{"a token came with 3 registrations"}}},
	{"one unseen", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value = in.InstanceTokens.Value[1:] },
		Row{Status: Unknown, Found: []string{`the token of "db" is in no file that was read`}, Needs: needsTokenFiles}},
	{"one damaged", catalog.InstanceTokens, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value = append(in.InstanceTokens.Value, InstanceToken{Where: "/d/4", Problem: "is no registration"})
	}, Row{Status: Unknown, Found: []string{"/d/4 is no registration: tokens in it are not known"}, Needs: needsTokenFiles}},
	{"no files", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.Disk = Seen[*configdir.Config]{} },
		Row{Status: Unknown, Found: []string{"3 registrations with a token: " +
			"whether one is the agent's default token, kept with what came without one, was not seen"}, Needs: giveConfig}},
	{"unseen", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens = unseenTokens },
		Row{Status: Unknown, Found: []string{"with which tokens registrations were made: only root may read them"}, Needs: "run hostagent audit as root"}},
	{"not asked for", catalog.InstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens = Seen[[]InstanceToken]{} },
		Row{Status: Unknown, Found: []string{"with which tokens registrations were made: it was not asked for"}, Needs: "run hostagent audit as root"}},
	{"no services", catalog.InstanceTokens, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value, in.Registrations.Value = nil, in.Registrations.Value[1:2]
	}, Row{Status: NotApplicable, Found: []string{"no service is registered on this host"}}},

	{"", catalog.ACLInstanceTokens, nil, Row{Status: Pass, Found: []string{"3 registrations with 2 tokens: no two services or instances share one"}}},
	{"two services", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].Hash = in.InstanceTokens.Value[1].Hash },
		Row{Status: Fail, Found: []string{`services share a token: "db" (/d/1), "web-1" (/d/2), "web-1-sidecar-proxy" (/d/3)`}}},
	{"two instances", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0] = another(in, "web-0", "web") },
		Row{Status: Fail, Found: []string{`instances of one service share a token: "web-0" (/d/9), "web-1" (/d/2), "web-1-sidecar-proxy" (/d/3)`}}},
	{"a proxy that names no instance", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[2].DestinationID = "" },
		Row{Status: Pass, Found: []string{"3 registrations with 2 tokens: no two services or instances share one"}}},
	{"a proxy of another that names no instance", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value[2].DestinationID, in.InstanceTokens.Value[2].DestinationName = "", "mail"
	}, Row{Status: Fail, Found: []string{`services share a token: "web-1" (/d/2), "web-1-sidecar-proxy" (/d/3)`}}},
	{"the agent's", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].SameAs = []string{"acl.tokens.agent"} },
		Row{Status: Fail, Found: []string{`"db" (/d/1) is also the agent's own token (acl.tokens.agent)`}}},
	{"the agent's that may do everything", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value[0].SameAs = []string{"acl.tokens.agent", tokenInitial}
	}, Row{Status: Pass, Found: []string{"3 registrations with 2 tokens: no two services or instances share one"}}},
	{"one without", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value[0].Hash = consul.TokenHash{} },
		Row{Status: Pass, Found: []string{"2 registrations with 1 token: no two services or instances share one"}}},
	{"all without", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) {
		for i := range in.InstanceTokens.Value {
			in.InstanceTokens.Value[i].Hash = consul.TokenHash{}
		}
	}, Row{Status: NotApplicable, Found: []string{"no registration brought a token: see instance-tokens"}}},
	{"one unseen", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value = in.InstanceTokens.Value[1:] },
		Row{Status: Unknown, Found: []string{`the token of "db" is in no file that was read`}, Needs: needsTokenFiles}},
	{"unseen", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens = unseenTokens },
		Row{Status: Unknown, Found: []string{"with which tokens registrations were made: only root may read them"}, Needs: "run hostagent audit as root"}},
	{"no services", catalog.ACLInstanceTokens, func(_ *testing.T, in *Input) { in.InstanceTokens.Value, in.Registrations.Value = nil, nil },
		Row{Status: NotApplicable, Found: []string{"no service is registered on this host"}}},

	{"", catalog.ACLManagementToken, nil, Row{Status: Pass, Found: []string{"3 registrations with 2 tokens: none may do everything"}}},
	{"one", catalog.ACLManagementToken, func(_ *testing.T, in *Input) { webToken(in).Management = true },
		Row{Status: Fail, Found: []string{`"web-1" (/d/2), "web-1-sidecar-proxy" (/d/3): token ` + accessorWeb + " may do everything"}}},
	{"not listed", catalog.ACLManagementToken, func(_ *testing.T, in *Input) { in.Tokens.Value.Tokens = in.Tokens.Value.Tokens[:2] },
		Row{Status: Unknown, Found: []string{`"db" (/d/1): the datacenter lists no such token`}, Needs: "a registration with a token that consul acl token list shows"}},
	{"rules unread", catalog.ACLManagementToken, func(_ *testing.T, in *Input) { webToken(in).Unread = []string{"policy p (it is no HCL)"} },
		Row{Status: Unknown, Found: []string{
			`"web-1" (/d/2), "web-1-sidecar-proxy" (/d/3): token ` + accessorWeb + " has rules that are not known: policy p (it is no HCL)"}, Needs: "policies that this version of hostagent can read"}},
	{"without secrets", catalog.ACLManagementToken, func(_ *testing.T, in *Input) { in.Tokens.Value.SecretsSeen = false },
		Row{Status: Unknown, Found: []string{"which of the datacenter's tokens a registration has cannot be told without their secrets"},
			Needs: needsSecrets}},
	{"without secrets, the agent's", catalog.ACLManagementToken, func(_ *testing.T, in *Input) {
		in.Tokens, in.InstanceTokens.Value[0].SameAs = Seen[consul.Tokens]{}, []string{tokenInitial}
	}, Row{Status: Fail, Found: []string{`"db" (/d/1): its token is the agent's acl.tokens.initial_management`,
		"which of the datacenter's tokens a registration has cannot be told without their secrets"},
		Needs: needsSecrets}},
	{"unseen", catalog.ACLManagementToken, func(_ *testing.T, in *Input) { in.InstanceTokens = unseenTokens },
		Row{Status: Unknown, Found: []string{"with which tokens registrations were made: only root may read them"}, Needs: "run hostagent audit as root"}},

	{"", catalog.ACLTokenScope, nil, Row{Status: Pass, Found: []string{"each writes its own service alone, by exact name: 2 tokens"}}},
	{"a prefix", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { webToken(in).Rules = []consul.Rule{prefixRule("web", "write")} },
		Row{Status: Fail, Found: []string{`"web-1" (/d/2), "web-1-sidecar-proxy" (/d/3): token ` + accessorWeb +
			` has service_prefix "web" { policy = "write" } (policy p)`}}},
	{"another service", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { in.Tokens.Value.Tokens[2].Rules[0].Name = "mail" },
		Row{Status: Fail, Found: []string{`"db" (/d/1): token ` + accessorDB + ` has service "mail" { policy = "write" } (policy p)`}}},
	{"others' intentions", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.Tokens[2].Rules[0].Resource = "intentions"
		in.Tokens.Value.Tokens[2].Rules[0].Name = "web"
	},
		Row{Status: Fail, Found: []string{`"db" (/d/1): token ` + accessorDB + ` has service "web" { intentions = "write" } (policy p)`}}},
	{"its own intentions, and keys", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.Tokens[2].Rules = []consul.Rule{{Resource: "intentions", Name: "db", Access: "write"}, {Resource: "key", Prefix: true, Access: "write"}}
	}, Row{Status: Warn, Found: []string{`"db" (/d/1): token ` + accessorDB + ` has key_prefix "" { policy = "write" }`,
		`"db" (/d/1): token ` + accessorDB + ` has service "db" { intentions = "write" }`}}},
	{"operator", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.Tokens[2].Rules = []consul.Rule{{Resource: "operator", Access: "write"}}
	}, Row{Status: Fail, Found: []string{`"db" (/d/1): token ` + accessorDB + ` has operator = "write"`}}},
	{"a management token", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		webToken(in).Management, webToken(in).Rules = true, []consul.Rule{prefixRule("", "write")}
	}, Row{Status: Pass, Found: []string{"1 token may do everything: see acl-management-token", "each writes its own service alone, by exact name: 1 token"}}},
	{"management tokens alone", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		webToken(in).Management, in.Tokens.Value.Tokens[2].Management = true, true
	}, Row{Status: NotApplicable, Found: []string{"2 tokens may do everything: see acl-management-token"}}},
	{"a sidecar's own", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value[2].Name = "edge"
		in.InstanceTokens.Value[2].Hash = consul.HashSecret("edge's")
		in.Tokens.Value.Tokens = append(in.Tokens.Value.Tokens, consul.Token{AccessorID: "x", Hash: consul.HashSecret("edge's"), Rules: []consul.Rule{
			serviceRule("web", "write"), serviceRule("edge", "write"),
		}})
	}, Row{Status: Pass, Found: []string{"each writes its own service alone, by exact name: 3 tokens"}}},
	{"shared", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.InstanceTokens.Value[0].Hash = in.InstanceTokens.Value[1].Hash
		webToken(in).Rules = append(webToken(in).Rules, serviceRule("db", "write"))
	}, Row{Status: Pass, Found: []string{"each writes its own service alone, by exact name: 1 token"}}},
	{"not listed", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { in.Tokens.Value.Tokens = in.Tokens.Value.Tokens[:2] },
		Row{Status: Unknown, Found: []string{`"db" (/d/1): the datacenter lists no such token`}, Needs: "a registration with a token that consul acl token list shows"}},
	{"rules unread", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { webToken(in).Unread = []string{"policy p (it is no HCL)"} },
		Row{Status: Unknown, Found: []string{
			`"web-1" (/d/2), "web-1-sidecar-proxy" (/d/3): token ` + accessorWeb + " has rules that are not known: policy p (it is no HCL)"}, Needs: "policies that this version of hostagent can read"}},
	{"without acl:read", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { in.Tokens = Unseen[consul.Tokens]("the token may not list them", "") },
		Row{Status: Unknown, Found: []string{"what the tokens of registrations allow: the token may not list them"}, Needs: needsACL}},
	{"by name", catalog.ACLTokenScope, func(_ *testing.T, in *Input) { in.Tokens.Value.SecretsSeen = false }, Row{Status: Pass, Found: []string{
		`"db": 1 token with service:write on it by exact name, and on nothing else`,
		`"web": 1 token with service:write on it by exact name, and on nothing else`}}},
	{"by name, beside management and the anonymous token", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen = false
		in.Tokens.Value.Tokens[0].Rules = []consul.Rule{prefixRule("", "write")}
		in.Tokens.Value.Tokens = append(in.Tokens.Value.Tokens, consul.Token{AccessorID: "all", Management: true, Rules: []consul.Rule{prefixRule("", "write")}})
	}, Row{Status: Pass, Found: []string{
		`"db": 1 token with service:write on it by exact name, and on nothing else`,
		`"web": 1 token with service:write on it by exact name, and on nothing else`}}},
	{"by name, a prefix that is the name", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen, webToken(in).Rules = false, []consul.Rule{prefixRule("web", "write")}
	}, Row{Status: Fail, Found: []string{`"web": no token writes it alone: token ` + accessorWeb + ` has service_prefix "web" { policy = "write" } (policy p)`}}},
	{"by name, a sidecar of another name", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen, in.Registrations.Value[3].Name = false, "edge"
		webToken(in).Rules = append(webToken(in).Rules, serviceRule("edge", "write"))
	}, Row{Status: Pass, Found: []string{
		`"db": 1 token with service:write on it by exact name, and on nothing else`,
		`"web": 1 token with service:write on it by exact name, and on nothing else`}}},
	{"by name, for the service", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.InstanceTokens = unseenTokens
		webToken(in).Rules = []consul.Rule{prefixRule("we", "write"), prefixRule("", "deny")}
	}, Row{Status: Fail, Found: []string{`"web": no token writes it alone: token ` + accessorWeb + ` has service_prefix "we" { policy = "write" } (policy p)`}}},
	{"by name, both", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen = false
		in.Tokens.Value.Tokens = append(in.Tokens.Value.Tokens, consul.Token{AccessorID: "wide", Rules: []consul.Rule{
			prefixRule("", "write"), serviceRule("db", "read"),
		}})
	}, Row{Status: Warn, Found: []string{`"web": beside 1 token for it alone, token wide has service_prefix "" { policy = "write" } (policy p)`}}},
	{"by name, several", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen = false
		in.Tokens.Value.Tokens[2].Rules = append(in.Tokens.Value.Tokens[2].Rules, serviceRule("mail", "write"))
	}, Row{Status: Fail, Found: []string{`"db": no token writes it alone: token ` + accessorDB + ` has service "mail" { policy = "write" } (policy p)`}}},
	{"by name, none", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen, in.Tokens.Value.Tokens = false, in.Tokens.Value.Tokens[:2]
		in.Tokens.Value.Tokens = append(in.Tokens.Value.Tokens, consul.Token{AccessorID: "old", Expired: true, Rules: []consul.Rule{serviceRule("db", "write")}})
	}, Row{Status: Unknown, Found: []string{`"db": no token that was seen has service:write on it, but management tokens`}, Needs: needsSecrets}},
	{"by name, rules unread", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen, webToken(in).Unread = false, []string{"policy p (it is no HCL)"}
	}, Row{Status: Unknown, Found: []string{"the rules of 1 token could not be read"}, Needs: "policies that this version of hostagent can read"}},
	{"by name, no registrations seen", catalog.ACLTokenScope, func(_ *testing.T, in *Input) {
		in.Tokens.Value.SecretsSeen, in.Registrations = false, Unseen[[]consul.Registration]("the agent is away", "an agent")
	}, Row{Status: Unknown, Found: []string{"which services are registered: the agent is away"}, Needs: "an agent"}},
}

// another is an instance that has web's token.
func another(in *Input, id, name string) InstanceToken {
	in.Registrations.Value = in.Registrations.Value[1:] // db's
	return InstanceToken{ID: id, Name: name, Hash: in.InstanceTokens.Value[1].Hash, Where: "/d/9"}
}

func rowIn(t *testing.T, in *Input, id catalog.ID) Row {
	t.Helper()
	report := Evaluate(*in)
	i := slices.IndexFunc(report.Rows, func(row Row) bool { return row.ID == id })
	return report.Rows[i]
}

func TestACLItems(t *testing.T) {
	for _, tt := range aclCases {
		t.Run(fmt.Sprintf("%s/%s", tt.id, tt.name), func(t *testing.T) {
			in := guardedInput()
			if tt.change != nil {
				tt.change(t, in)
			}
			want := tt.want
			want.ID = tt.id
			if want.Remedy == "" && (want.Status == Warn || want.Status == Fail) {
				item, _ := catalog.LookupItem(tt.id)
				want.Remedy = item.Remedy
			}
			got := rowIn(t, in, tt.id)
			if in.Disk.Known && len(in.Disk.Value.Files) > 0 {
				for i := range got.Found {
					got.Found[i] = strings.ReplaceAll(got.Found[i], in.Disk.Value.Files[0], "FILE")
				}
			}
			if diff := gocmp.Diff(want, got); diff != "" {
				t.Error("(-want +got)\n" + diff)
			}
		})
	}
}

// TestACLsDisabled holds all that hangs on ACLs to naming the one item that says it.
func TestACLsDisabled(t *testing.T) {
	in := guardedInput()
	in.Running.Value.ACLsEnabled = new(false)
	for _, j := range aclJudges() {
		want := Row{ID: j.id, Status: NotApplicable, Found: []string{"ACLs are disabled: see acl-enabled"}}
		if got := rowIn(t, in, j.id); j.id != catalog.ACLEnabled && !gocmp.Equal(want, got) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// TestACLsUnseen holds every item to pass nowhere without evidence.
func TestACLsUnseen(t *testing.T) {
	for _, j := range aclJudges() {
		if got := rowIn(t, &Input{}, j.id); got.Status != Unknown || len(got.Found) == 0 {
			t.Errorf("got %+v, want it unknown", got)
		}
	}
}

func TestAnonymousRights(t *testing.T) {
	want := []consul.Right{
		{Resource: "intention", Segment: "*", Access: "write"},
		{Resource: "service", Segment: unheardName, Access: "write"}, {Resource: "intention", Segment: unheardName, Access: "write"},
		{Resource: "service", Segment: "a", Access: "write"}, {Resource: "intention", Segment: "a", Access: "write"},
		{Resource: "service", Segment: "b", Access: "write"}, {Resource: "intention", Segment: "b", Access: "write"},
	}
	if diff := gocmp.Diff(want, anonymousRights([]string{"b", "a", "b"})); diff != "" {
		t.Error("(-want +got)\n" + diff)
	}
	var many []string
	for i := range 2 * mostAsked {
		many = append(many, fmt.Sprint(i))
	}
	if got := len(anonymousRights(many)); got != 1+2*(mostAsked+1) {
		t.Errorf("got %d questions", got)
	}
}

func TestMayWrite(t *testing.T) {
	for _, tt := range []struct {
		rules []consul.Rule
		want  bool
	}{
		{nil, false},
		{[]consul.Rule{serviceRule("web", "write")}, true},
		{[]consul.Rule{serviceRule("we", "write")}, false},
		{[]consul.Rule{prefixRule("we", "write")}, true},
		{[]consul.Rule{prefixRule("we", "write"), serviceRule("web", "read")}, false},
		{[]consul.Rule{serviceRule("web", "read"), prefixRule("web", "write")}, false},
		{[]consul.Rule{prefixRule("w", "deny"), prefixRule("we", "write")}, true},
		{[]consul.Rule{prefixRule("we", "write"), prefixRule("w", "deny")}, true},
		{[]consul.Rule{serviceRule("web", "write"), serviceRule("web", "deny")}, false},
		{[]consul.Rule{serviceRule("web", "read"), serviceRule("web", "write")}, true},
		{[]consul.Rule{{Resource: "key", Name: "web", Access: "write"}}, false},
	} {
		if got := mayWrite(consul.Token{Rules: tt.rules}, "web"); got != tt.want {
			t.Errorf("%+v: got %v, want %v", tt.rules, got, tt.want)
		}
	}
}
