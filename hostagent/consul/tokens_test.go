// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// aclServer answers for tokens, roles and policies by id.
type aclServer struct {
	tokens, roles string
	policies      map[string]json.RawMessage
	requests      int
}

func (s *aclServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.requests++
	policy, isPolicy := strings.CutPrefix(r.URL.Path, "/v1/acl/policy/")
	switch body, known := s.policies[policy]; {
	case r.URL.Path == "/v1/acl/tokens":
		fmt.Fprint(w, s.tokens)
	case r.URL.Path == "/v1/acl/roles":
		fmt.Fprint(w, s.roles)
	case isPolicy && known:
		w.Write(body)
	default:
		http.Error(w, "Requested policy does not exist: ACL not found", http.StatusNotFound)
	}
}

func recordedACLs(t testing.TB, tokens string) *aclServer {
	s := &aclServer{tokens: string(recorded(t, tokens)), roles: string(recorded(t, "acl-roles.json"))}
	if err := json.Unmarshal(recorded(t, "acl-policies.json"), &s.policies); err != nil {
		t.Fatal(err)
	}
	return s
}

func tokensOf(t *testing.T, s http.Handler) (Tokens, error) {
	t.Helper()
	srv := httptest.NewServer(s)
	defer srv.Close()
	return newClient(t, Config{Address: srv.URL, Token: secret}).Tokens(t.Context())
}

// write writes tokens as a block of text, without what is the same for all.
func (t Tokens) write() string {
	var b strings.Builder
	fmt.Fprintf(&b, "secrets %v\n", t.SecretsSeen)
	for _, token := range t.Tokens {
		fmt.Fprintf(&b, "%s management=%v expired=%v hash=%v\n", token.Description, token.Management, token.Expired, token.Hash)
		for _, r := range token.Rules {
			resource := r.Resource
			if r.Prefix {
				resource += "_prefix"
			}
			fmt.Fprintf(&b, "  %s %q %s: %s\n", resource, r.Name, r.Access, r.Source)
		}
		for _, unread := range token.Unread {
			fmt.Fprintf(&b, "  unread: %s\n", unread)
		}
	}
	return b.String()
}

// Recorded with a token that has acl:read, and with one that has acl:write.
func TestTokens(t *testing.T) {
	identity := func(service, source string) string {
		return strings.NewReplacer("NAME", service, "SOURCE", source).Replace(`  service "NAME" write: SOURCE
  service "NAME-sidecar-proxy" write: SOURCE
  service_prefix "" read: SOURCE
  node_prefix "" read: SOURCE
`)
	}
	node := func(source string) string {
		return "  node \"host-1\" write: " + source + "\n  service_prefix \"\" read: " + source + "\n"
	}
	of := func(what, source string) string { return strings.ReplaceAll(what, ": SOURCE", ": "+source) }
	want := `secrets SEEN
Anonymous Token management=false expired=false hash=HASH
acl writer management=true expired=false hash=HASH
  acl "" write: policy acl-write
api management=false expired=false hash=HASH
` + identity("api", "service identity api") + identity("billing", "templated policy builtin/service for billing") +
		`web management=false expired=false hash=HASH
  service "web" write: policy web
  service "web-sidecar-proxy" write: policy web
  intentions "web-sidecar-proxy" deny: policy web
  service_prefix "" read: policy web
  node_prefix "" read: policy web
Bootstrap Token (Global Management) management=true expired=false hash=HASH
` + of(`  acl "" write: SOURCE
  agent_prefix "" write: SOURCE
  event_prefix "" write: SOURCE
  key_prefix "" write: SOURCE
  keyring "" write: SOURCE
  node_prefix "" write: SOURCE
  operator "" write: SOURCE
  mesh "" write: SOURCE
  peering "" write: SOURCE
  query_prefix "" write: SOURCE
  service_prefix "" write: SOURCE
  intentions_prefix "" write: SOURCE
  session_prefix "" write: SOURCE
`, "policy global-management") + `deploy management=false expired=false hash=HASH
` + of(`  service_prefix "" write: SOURCE
  intentions_prefix "" write: SOURCE
  operator "" write: SOURCE
  key_prefix "a/" list: SOURCE
`, "policy json of role deploy") + identity("api", "service identity api of role deploy") + node("node identity host-1 of role deploy") +
		of(`  node_prefix "" read: SOURCE
  service_prefix "" read: SOURCE
  query_prefix "" read: SOURCE
`, "templated policy builtin/dns of role deploy") + `node management=false expired=false hash=HASH
` + node("node identity host-1") + `auditor management=false expired=false hash=HASH
` + of(`  acl "" read: SOURCE
  keyring "" read: SOURCE
  operator "" read: SOURCE
  agent_prefix "" read: SOURCE
  service_prefix "" read: SOURCE
  intentions_prefix "" read: SOURCE
  node_prefix "" read: SOURCE
`, "policy acl-read")
	for _, tt := range []struct{ file, seen, hash string }{
		{"acl-tokens-read.json", "false", "(none)"},
		{"acl-tokens-write.json", "true", "(hash)"},
	} {
		t.Run(tt.file, func(t *testing.T) {
			s := recordedACLs(t, tt.file)
			srv := httptest.NewServer(s)
			defer srv.Close()
			c := newClient(t, Config{Address: srv.URL})
			c.now = func() time.Time { return time.Date(2026, 11, 22, 20, 0, 0, 0, time.UTC) }
			got, err := c.Tokens(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.NewReplacer("SEEN", tt.seen, "HASH", tt.hash).Replace(want), got.write()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if s.requests != 2+5 { // each policy once
				t.Errorf("%d requests", s.requests)
			}
			c.now = func() time.Time { return time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC) }
			got, err = c.Tokens(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, token := range got.Tokens {
				if token.Expired != (token.Description == "node") {
					t.Errorf("a day later %s has expired=%v", token.Description, token.Expired)
				}
			}
		})
	}
}

// Whatever is not known of a token is told as such.
func TestUnreadTokens(t *testing.T) {
	const id = "0d26c1a7-8c3a-949a-8fd2-7dd3656c0790"
	policy := func(rules string) json.RawMessage { return fmt.Appendf(nil, `{"ID":%q,"Rules":%q}`, id, rules) }
	linked := `[{"AccessorID":"a","Policies":[{"ID":"` + id + `","Name":"p"}]}]`
	many := func(n int, entry string) string {
		return "[" + strings.TrimSuffix(strings.Repeat(entry+",", n), ",") + "]"
	}
	for _, tt := range []struct {
		name string
		s    aclServer
		want string
	}{
		{"no HCL", aclServer{tokens: linked, policies: map[string]json.RawMessage{id: policy(`service "web" {`)}}, "policy p (it is no HCL)"},
		{"unknown", aclServer{tokens: linked, policies: map[string]json.RawMessage{id: policy(`warp = "write"`)}},
			"policy p (it has a rule that hostagent does not know)"},
		{"deleted", aclServer{tokens: linked}, "policy p (it was deleted meanwhile)"},
		{"no id", aclServer{tokens: strings.Replace(linked, id, "../../agent/leave", 1)}, "policy p (its id is none of Consul's)"},
		{"a role that is gone", aclServer{tokens: `[{"Roles":[{"ID":"1","Name":"r"}]}]`, roles: "[]"}, "role r (it is not in the list of roles)"},
		{"a template", aclServer{tokens: `[{"TemplatedPolicies":[{"TemplateName":"builtin/new","TemplateVariables":{"name":"x"}}]}]`},
			"templated policy builtin/new for x (hostagent does not know this template)"},
		{"legacy", aclServer{tokens: `[{"AccessorID":"","Legacy":true}]`}, "legacy token (its rules stand in no policy)"},
		{"too many identities", aclServer{tokens: `[{"ServiceIdentities":` + many(101, `{"ServiceName":"x"}`) + `}]`},
			"policies and identities (more than 100)"},
		{"too many roles", aclServer{tokens: `[{"Roles":` + many(101, `{"ID":"1"}`) + `}]`, roles: "[]"}, "roles (more than 100)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tokensOf(t, &tt.s)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{tt.want}, got.Tokens[0].Unread); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// No more policies are asked for than the bound says, and the others are told.
func TestTooManyPolicies(t *testing.T) {
	s := aclServer{policies: map[string]json.RawMessage{}}
	var tokens []string
	for i := range maxPoliciesRead + 2 {
		id := fmt.Sprintf("%036x", i+2)
		s.policies[id] = fmt.Appendf(nil, `{"ID":%q,"Rules":""}`, id)
		tokens = append(tokens, fmt.Sprintf(`{"AccessorID":"%04d","Policies":[{"ID":%q,"Name":"p"}]}`, i, id))
	}
	s.tokens = "[" + strings.Join(tokens, ",") + "]"
	got, err := tokensOf(t, &s)
	if err != nil {
		t.Fatal(err)
	}
	unread := 0
	for _, token := range got.Tokens {
		unread += len(token.Unread)
	}
	if s.requests != 1+maxPoliciesRead || unread != 2 {
		t.Errorf("%d requests, %d unread", s.requests, unread)
	}
}

func TestNoTokens(t *testing.T) {
	const linked = `[{"AccessorID":"a","Policies":[{"ID":"1","Name":"p"}]}]`
	with := func(policy string) http.Handler {
		return &aclServer{tokens: linked, policies: map[string]json.RawMessage{"1": json.RawMessage(policy)}}
	}
	for _, tt := range []struct {
		name   string
		answer http.Handler
		kind   Kind
		text   string
	}{
		{"ACLs are off", reply(401, "ACL support disabled"), KindACLsOff, "ACL support disabled"},
		{"denied", reply(403, "Permission denied: token with AccessorID 'x' lacks permission 'acl:read'"), KindDenied, `a policy of the token: acl = "read"`},
		{"denied before 1.12", reply(403, "Permission denied"), KindDenied, `this takes acl = "read"`},
		{"an unknown token", reply(403, "ACL not found"), KindDenied, "Consul does not know this token"},
		{"none", reply(200, "[]"), KindMalformed, "not even the anonymous one"},
		{"null", reply(200, "null"), KindMalformed, "not even the anonymous one"},
		{"a null token", reply(200, "[null]"), KindMalformed, "not the form"},
		{"too many", reply(200, "["+strings.Repeat("{},", maxTokens)+"{}]"), KindMalformed, "more than 20000 tokens"},
		{"too many rules", reply(200, "["+strings.Repeat(`{"ServiceIdentities":[`+strings.Repeat(`{},`, 99)+`{}]},`, 501)+"{}]"), KindMalformed, "more than 200000 rules"},
		{"roles cannot be read", &aclServer{tokens: `[{"Roles":[{"ID":"1"}]}]`, roles: `{}`}, KindMalformed, "list of ACL roles"},
		{"another policy", with(`{"ID":"2","Rules":""}`), KindMalformed, "not the one that was asked for"},
		{"a policy without rules", with(`{"ID":"1"}`), KindMalformed, "not the one that was asked for"},
		{"half a policy", with(`{"ID":"1"`), KindMalformed, "no JSON"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tokensOf(t, tt.answer)
			checkError(t, err, tt.kind, tt.text)
			if got.Tokens != nil {
				t.Errorf("tokens beside the error: %v", got)
			}
		})
	}
}

// TestOwnTokenIsListed: the client takes its own token out of every answer, and still knows it in the list of tokens.
func TestOwnTokenIsListed(t *testing.T) {
	got, err := tokensOf(t, reply(200, `[{"AccessorID": "a", "SecretID": "`+secret+`"}, {"AccessorID": "b", "SecretID": "another"}]`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []TokenHash{HashSecret(secret), HashSecret("another")} {
		if got.Tokens[i].Hash != want {
			t.Errorf("the hash of token %s is not that of its secret", got.Tokens[i].AccessorID)
		}
	}
}

// A policy of some datacenters takes nothing back in the others.
func TestTokensDeniedElsewhere(t *testing.T) {
	s := &aclServer{tokens: `[{"AccessorID": "a", "Policies": [{"ID": "1", "Name": "p"}, {"ID": "2", "Name": "q"}]}]`,
		policies: map[string]json.RawMessage{
			"1": json.RawMessage(`{"ID": "1", "Rules": "service_prefix \"\" { policy = \"write\" }"}`),
			"2": json.RawMessage(`{"ID": "2", "Datacenters": ["dc2"], "Rules": "service_prefix \"\" { policy = \"deny\" }\nkey_prefix \"\" { policy = \"write\" }"}`),
		}}
	got, err := tokensOf(t, s)
	if err != nil {
		t.Fatal(err)
	}
	want := []Rule{{Resource: "service", Prefix: true, Access: "write", Source: "policy p"}, {Resource: "key", Prefix: true, Access: "write", Source: "policy q"}}
	if diff := cmp.Diff(want, got.Tokens[0].Rules); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
