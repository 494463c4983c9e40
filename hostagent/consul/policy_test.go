// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl"
)

// rulesOf returns the lines of a policy that are no comments.
func rulesOf(policy string) []string {
	var rules []string
	for line := range strings.Lines(policy) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			rules = append(rules, line)
		}
	}
	return rules
}

func TestPolicy(t *testing.T) {
	const (
		agent         = `agent "db-1" { policy = "read" }`
		nodes         = `node_prefix "" { policy = "read" }`
		services, all = `service_prefix "" { policy = "read" }`, `service_prefix "" { policy = "write" }`
		own           = `service "hostagent" { policy = "write" }`
	)
	for _, tt := range []struct {
		name  string
		needs Needs
		want  []string
		text  string // in a comment
	}{
		{"the defaults", Needs{Service: "hostagent"}, []string{agent, services, own}, "# hostagent's own service"},
		{"nothing but a look", Needs{}, []string{agent, services}, "# The registrations of this host."},
		{"no reports", Needs{OnServices: true}, []string{agent, services}, ""},
		{"another name", Needs{Service: "guard"}, []string{agent, services, `service "guard" { policy = "write" }`}, ""},
		{"members", Needs{Members: true}, []string{agent, nodes, services}, `"cluster" in allow_from`},
		{"results on applications", Needs{Service: "hostagent", OnServices: true}, []string{agent, all}, "#  " + own},
		{"an audit", Needs{Service: "hostagent", OnServices: true, Audit: true},
			[]string{agent, nodes, services, `acl = "read"`, `keyring = "read"`}, "#  operator = \"write\"\n#  acl = \"write\"\n"},
		{"a fleet", Needs{Service: "hostagent", OnServices: true, Members: true, KVPrefix: "hostagent/", Fleet: true},
			[]string{nodes, services}, "# What hostagent fleet needs"},
		{"settings in KV", Needs{Service: "hostagent", KVPrefix: "hosts/agent"},
			[]string{agent, `key_prefix "hosts/agent" { policy = "list" }`, services, own}, "#  key_prefix \"hosts/agent\" { policy = \"write\" }\n"},
		{"Enterprise", Needs{Namespace: "shop", Partition: "east\n" + all}, []string{agent, services}, `namespace "shop" and partition "east\nservice_prefix`},
		{"origin", Needs{Origin: "told by\nagent \"x\" { policy = \"write\" }\r\u2028" + all + strings.Repeat(" words", 50)}, []string{agent, services}, "# told by agent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.needs.Node = "db-1"
			got, err := tt.needs.Policy()
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, rulesOf(got)); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
			if !strings.Contains(got, tt.text) {
				t.Errorf("lacks %q:\n%s", tt.text, got)
			}
			for line := range strings.Lines(got) {
				if len(line) > 126 {
					t.Errorf("a line has %d bytes: %s", len(line), line)
				}
			}
			if err := hcl.Unmarshal([]byte(got), new(map[string]any)); err != nil {
				t.Errorf("no HCL: %v\n%s", err, got)
			}
		})
	}
}

// A node may have any name; what is printed holds it as it is, or nothing is.
func TestPolicyNodeNames(t *testing.T) {
	for _, name := range []string{"host", "Host_1.x", "a b", "a/b", "ü", "a$b", "a{b}", "#", "a//b", "a*/b"} {
		text, err := Needs{Node: name}.Policy()
		if err != nil {
			t.Errorf("%q: %v", name, err)
			continue
		}
		var policy struct {
			Agent []map[string][]map[string]any
		}
		if err := hcl.Unmarshal([]byte(text), &policy); err != nil || len(policy.Agent) != 1 || policy.Agent[0][name] == nil {
			t.Errorf("%q: %v, read as %v", name, err, policy.Agent)
		}
	}
	for _, name := range []string{
		"", `a"b`, `a\`, "${", "${a}", "%{a}", "a\nb", "a\tb", "a\x00b", "\u2028", "\xff", strings.Repeat("x", 513), "x\" { policy = \"write\" }\nagent \"y",
	} {
		if text, err := (Needs{Node: name}).Policy(); err == nil || text != "" || strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: %q, %v", name, text, err)
		}
	}
}

// Who looks at a fleet needs no node; what KV's prefix is called must fit into a rule.
func TestPolicyNames(t *testing.T) {
	if text, err := (Needs{Fleet: true}).Policy(); err != nil || strings.Contains(text, `agent "`) {
		t.Errorf("of a fleet: %q, %v", text, err)
	}
	for _, prefix := range []string{`a"b`, `a\`, "${a}", "%{a}", "a\nb", "\xff", strings.Repeat("x", 513), "x\" { policy = \"write\" }\nkey \"y"} {
		if text, err := (Needs{Node: "db-1", KVPrefix: prefix}).Policy(); err == nil || text != "" || strings.ContainsAny(err.Error(), "\n\x00") {
			t.Errorf("%q: %q, %v", prefix, text, err)
		}
	}
}

func TestNodeName(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		body   string
		want   string
	}{
		{"told", 200, `{"Config":{"NodeName":"Host_1.x"}}`, "Host_1.x"},
		{"refused, by name", 403, `Permission denied: anonymous token lacks permission 'agent:read' on "Host_1.x". The anonymous token is used`, "Host_1.x"},
		{"another right", 403, `Permission denied: anonymous token lacks permission 'service:read' on "web".`, ""},
		{"refused otherwise", 403, `Permission denied`, ""},
		{"hostile", 403, "lacks permission 'agent:read' on \"a\n\".", ""},
		{"no leader", 500, "No cluster leader", ""},
	} {
		srv := httptest.NewServer(reply(tt.status, tt.body))
		got, err := newClient(t, Config{Address: srv.URL}).NodeName(t.Context())
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
		srv.Close()
	}
}
