// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Needs says for what hostagent uses its token on one node. What stands here decides which rules the token's policy has:
// each of them was seen to be missed when it was left out (Consul 1.21). To wait for changes of the catalog needs none.
type Needs struct {
	Node   string // as the agent spells it: rules mind the case; not needed for Fleet
	Origin string // where Node comes from, for a comment; may be empty
	// Service is hostagent's own service, "" where it writes no reports.
	Service string
	// OnServices writes results to the applications' own services.
	OnServices bool
	// Members are let in as sources.
	Members bool
	// Audit is for the token of who runs hostagent audit, and for nothing that hostagent's service does.
	Audit bool
	// Fleet is for the token of who runs hostagent fleet, likewise.
	Fleet bool
	// KVPrefix is the prefix of the keys that hold settings, "" for none.
	KVPrefix string
	// Namespace and Partition are those of Consul Enterprise, "" for none.
	Namespace, Partition string
}

// Policy returns the smallest policy that allows n, in the HCL of Consul's ACL policies, with comments. Each rule has a line
// of its own. It fails where the node or the prefix of keys has a name that cannot be written into a rule.
func (n Needs) Policy() (string, error) {
	if !n.Fleet && !isRuleName(n.Node) {
		return "", fmt.Errorf("cannot write a policy for node %s: Consul's policies hold no such name; give the agent a node_name of letters, digits and dashes",
			strconv.QuoteToASCII(truncate(n.Node, 80)))
	}
	if n.KVPrefix != "" && !isRuleName(n.KVPrefix) {
		return "", fmt.Errorf("cannot write a policy for kv_prefix %s: Consul's policies hold no such name; use letters, digits, dashes and slashes",
			strconv.QuoteToASCII(truncate(n.KVPrefix, 80)))
	}
	var b strings.Builder
	comment := func(text string) { writeComment(&b, text) }
	heading, rules := n.content()
	comment(heading)
	if n.Origin != "" {
		comment(n.Origin)
	}
	if n.Namespace != "" || n.Partition != "" {
		comment(fmt.Sprintf("Consul Enterprise: the configuration names namespace %q and partition %q. Service rules belong there, agent "+
			"and node rules in the default namespace of that partition: distribute them over policies accordingly.", n.Namespace, n.Partition))
	}
	for _, r := range rules {
		b.WriteByte('\n')
		for _, line := range r.why {
			comment(line)
		}
		if r.text != "" {
			b.WriteString(r.text + "\n")
		}
	}
	return b.String(), nil
}

// content is what the policy says it is for, and its rules.
func (n Needs) content() (heading string, rules []neededRule) {
	const person = " (CONSUL_HTTP_TOKEN_FILE), not for hostagent's service."
	switch {
	case n.Fleet:
		return "What hostagent fleet needs to tell of all hosts of a datacenter. It is for the token of a person who looks at them" + person, fleetRules()
	case n.Audit:
		return fmt.Sprintf("What shows hostagent audit on node %q all that the right to read shows. It is for the token of a person who audits"+
			person, n.Node), n.auditRules()
	}
	return fmt.Sprintf("What hostagent's token must be allowed on node %q, with this configuration, and no more.", n.Node), n.rules()
}

// writeComment writes text as a comment that no text can end: in lines of bounded width, without control characters.
func writeComment(b *strings.Builder, text string) {
	const width = 118
	if strings.HasPrefix(text, "  ") { // a rule, to be pasted
		fmt.Fprintf(b, "#%s\n", text)
		return
	}
	line := "#"
	for _, word := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }) {
		if len(line)+1+len(word) > width && line != "#" {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	b.WriteString(line + "\n")
}

type neededRule struct {
	why  []string
	text string // "" for words alone
}

// auditRules are those of an audit. The rights to write show the rest (Consul 1.21), and are not given by what somebody pipes
// into consul.
func (n Needs) auditRules() []neededRule {
	return []neededRule{
		{[]string{"What the agent says of itself: its settings, and what it runs with."}, rule("agent", n.Node, "read")},
		{[]string{"The servers of the datacenter, whose certificates are compared."}, rule("node_prefix", "", "read")},
		{[]string{"The registrations of this host, and the intentions of all services."}, rule("service_prefix", "", "read")},
		{[]string{"Which tokens there are and what they allow; Consul tells no secrets for it."}, `acl = "read"`},
		{[]string{"The gossip keys of all nodes. hostagent compares them and shows none, but whoever has the token can read them."}, `keyring = "read"`},
		{why: []string{
			"Not given: Consul tells the rest only to who may change it. For one audit, in a policy of its own that is deleted after it: " +
				"how the mesh's CA is configured (ca-leaf-ttl, and what ca-provider says), and which token each registration has " +
				"(acl-management-token, acl-token-scope; as root).",
			`  operator = "write"`,
			`  acl = "write"`,
		}},
	}
}

// fleetRules are those of who looks at all hosts. Without a right on all of them Consul leaves some out, which would read as
// if they did not run hostagent.
func fleetRules() []neededRule {
	return []neededRule{
		{[]string{"The nodes of the datacenter, and whether gossip reaches them. hostagent uses no part of a list."}, rule("node_prefix", "", "read")},
		{[]string{"hostagent's own service on each node, with its checks, and the sidecars and instances of services."}, rule("service_prefix", "", "read")},
	}
}

func (n Needs) rules() []neededRule {
	rules := []neededRule{{
		[]string{"What the agent says of itself: its sidecar range, its own ports and its node id."},
		rule("agent", n.Node, "read"),
	}}
	if n.KVPrefix != "" {
		rules = append(rules, neededRule{
			[]string{
				"The settings of the fleet (kv_prefix).",
				"WHO HAS key:write BELOW THIS PREFIX DECIDES ON THESE SETTINGS, on every host that reads them: what is exempt, who is let " +
					"in and what is reported, and with kv_may_enforce the mode too. That right belongs into the policy of operators alone, " +
					"never into this one, and into no key_prefix that is shorter:",
				"  " + rule("key_prefix", n.KVPrefix, "write"),
			},
			rule("key_prefix", n.KVPrefix, "list"), // read is too little where acl { enable_key_list_policy = true } (Consul 1.21)
		})
	}
	if n.Members {
		rules = append(rules, neededRule{
			[]string{`The members of the datacenter, for "cluster" in allow_from or exposed_paths_from. Without a right on all of them ` +
				"Consul leaves some out, and hostagent uses no part of a list."},
			rule("node_prefix", "", "read"),
		})
	}
	services := neededRule{
		[]string{"The registrations of this host. Without a right on all of them Consul leaves some out, and hostagent uses no part of a list."},
		rule("service_prefix", "", "read"),
	}
	switch {
	case n.Service == "":
		return append(rules, services)
	case !n.OnServices:
		return append(rules, services, neededRule{
			[]string{"hostagent's own service, which holds its checks."}, rule("service", n.Service, "write"),
		})
	}
	return append(rules, neededRule{
		[]string{
			`The registrations of this host, and checks on them, for report { on = "service" }. A rule counts by the name of a ` +
				"service, for all of its instances whatever their ids.",
			"THIS IS THE RIGHT TO BE ANY SERVICE OF THE MESH. Narrow it: in its place allow reading all, and writing to hostagent's " +
				"own service and to those applications alone that are to hold results. The others' results cannot be written then.",
			"  " + rule("service_prefix", "", "read"),
			"  " + rule("service", n.Service, "write"),
			"  " + rule("service", "NAME", "write"),
		},
		rule("service_prefix", "", "write"),
	})
}

// rule writes one rule of a policy, on one line. The name must be one of isRuleName, or empty for a prefix.
func rule(resource, name, level string) string {
	return fmt.Sprintf(`%s "%s" { policy = "%s" }`, resource, name, level)
}

// isRuleName tells whether name can stand between quotes in HCL as it is. Consul writes its node's name into a policy of its
// own like that, and an agent whose name holds a quote does not start.
func isRuleName(name string) bool {
	const most = 512
	return name != "" && len(name) <= most && !strings.ContainsAny(name, `"\`) && !strings.Contains(name, "${") &&
		!strings.Contains(name, "%{") && !strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// NodeName asks the agent what its node is called. That needs no right: who may not read what the agent says of itself is
// told so with the node's name (Consul 1.21).
func (c *Client) NodeName(ctx context.Context) (string, error) {
	agent, err := c.Agent(ctx)
	if err == nil {
		return agent.Node, nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == KindDenied {
		if missing, ok := lackOf(e.Err.Error()); ok && missing.resource == "agent" {
			return missing.name, nil
		}
	}
	return "", err
}
