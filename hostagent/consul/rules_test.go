// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseRules(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []Rule
	}{
		{"nothing", "", nil},
		{"a comment", "# nothing", nil},
		{"one service", `service "web" { policy = "write" }`, []Rule{{Resource: "service", Name: "web", Access: "write"}}},
		{"all services", `service_prefix "" { policy = "WRITE" }`, []Rule{{Resource: "service", Prefix: true, Access: "write"}}},
		{"intentions", `service "web" { policy = "read" intentions = "write" }`, []Rule{
			{Resource: "service", Name: "web", Access: "read"}, {Resource: "intentions", Name: "web", Access: "write"},
		}},
		{"intentions of all", "service_prefix \"\" {\n  policy = \"deny\"\n  intentions = \"read\"\n}", []Rule{
			{Resource: "service", Prefix: true, Access: "deny"}, {Resource: "intentions", Prefix: true, Access: "read"},
		}},
		{"without names", "acl = \"write\"\noperator = \"read\"\nkeyring = \"deny\"\nmesh = \"read\"\npeering = \"write\"", []Rule{
			{Resource: "acl", Access: "write"}, {Resource: "operator", Access: "read"}, {Resource: "keyring", Access: "deny"},
			{Resource: "mesh", Access: "read"}, {Resource: "peering", Access: "write"},
		}},
		{"the others", `agent "a" { policy = "read" } key_prefix "k/" { policy = "list" } node_prefix "" { policy = "read" }
			session "s" { policy = "read" } event "e" { policy = "write" } query_prefix "" { policy = "read" }`, []Rule{
			{Resource: "agent", Name: "a", Access: "read"}, {Resource: "key", Name: "k/", Prefix: true, Access: "list"},
			{Resource: "node", Prefix: true, Access: "read"}, {Resource: "session", Name: "s", Access: "read"},
			{Resource: "event", Name: "e", Access: "write"}, {Resource: "query", Prefix: true, Access: "read"},
		}},
		{"JSON", `{"acl": "read", "service_prefix": {"": {"policy": "write", "intentions": "write"}}, "key": {"a": {"policy": "read"}}}`, []Rule{
			{Resource: "acl", Access: "read"}, {Resource: "service", Prefix: true, Access: "write"},
			{Resource: "intentions", Prefix: true, Access: "write"}, {Resource: "key", Name: "a", Access: "read"},
		}},
		{"JSON with lists", `{"service": [{"web": [{"policy": "write"}]}, {"db": {"policy": "read"}}]}`, []Rule{
			{Resource: "service", Name: "web", Access: "write"}, {Resource: "service", Name: "db", Access: "read"},
		}},
		{"in another case", `Service "Web" { Policy = "Write" }`, []Rule{{Resource: "service", Name: "Web", Access: "write"}}},
		{"nested in place of labels", `service { web { policy = "write" } }`, []Rule{{Resource: "service", Name: "web", Access: "write"}}},
		{"twice: both stand", "acl = \"read\"\nacl = \"write\"", []Rule{{Resource: "acl", Access: "read"}, {Resource: "acl", Access: "write"}}},
		{"an empty scalar is none", `acl = ""`, nil},
		{"empty intentions are none", `service "web" { policy = "read" intentions = "" }`, []Rule{{Resource: "service", Name: "web", Access: "read"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseRules(tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// What is not understood is never taken for a policy that allows little.
func TestUnreadableRules(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"no HCL", `service "web" {`, "no HCL"},
		{"half JSON, which the library takes for an empty object", `{"service": `, "no JSON"},
		{"an unknown resource", `wormhole = "write"`, "does not know"},
		{"an unknown resource with names", `wormhole "x" { policy = "write" }`, "does not know"},
		{"a namespace", `namespace "team" { service_prefix "" { policy = "write" } }`, "does not know"},
		{"a namespace with a scalar", `namespace "team" { acl = "write" }`, "does not know"},
		{"a partition", `partition_prefix "" { namespace_prefix "" { acl = "write" } }`, "does not know"},
		{"an unknown access", `service "web" { policy = "own" }`, "does not know"},
		{"no access", `service "web" { policy = "" }`, "does not know"},
		{"a number", `acl = 7`, "does not know"},
		{"a list", `acl = ["write"]`, "does not know"},
		{"a scalar for a resource with names", `service = "write"`, "does not know"},
		{"an unknown key", `service "web" { policy = "read" admin = "write" }`, "does not know"},
		{"intentions of keys", `key "a" { policy = "read" intentions = "write" }`, "does not know"},
		{"an object for a scalar", `acl { policy = "write" }`, "does not know"},
		{"too large", strings.Repeat("#", maxRulesText+1), "more than 262144 bytes"},
		{"too deep", strings.Repeat("{\"a\":", 3000), "nests deeper"},
		{"too deep in HCL", "a = " + strings.Repeat("[", 3000), "nests deeper"},
		{"too many labels", strings.Repeat("a ", 30) + "{ policy = \"read\" }", "does not know"},
		{"too many rules", strings.Repeat("acl = \"read\"\n", maxRules+1), "more than 1000 rules"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rules, err := parseRules(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) || rules != nil {
				t.Errorf("got %v and the error %v, want %q", rules, err, tt.want)
			}
		})
	}
}

func FuzzParseRules(f *testing.F) {
	for _, text := range []string{
		`service "web" { policy = "write" }`, `{"service": {"web": {"policy": "write"}}}`, "acl = <<E\nwrite\nE\n", `acl = "write"`, "\xef\xbb\xbf", `a = "\x"`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := parseRules(text)
		if err != nil && rules != nil || len(rules) > maxRules {
			t.Errorf("%d rules and the error %v", len(rules), err)
		}
		for _, r := range rules {
			if r.Resource == "" || r.Access == "" || r.Source != "" {
				t.Errorf("%+v", r)
			}
		}
	})
}
