// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"
)

const (
	maxRulesText  = 256 << 10 // bytes of one policy's rules
	maxRulesDepth = 20        // four are enough for what Consul knows
	maxRules      = 1000      // of one policy
)

// Rule is one rule of a token. Prefix tells that Name is a prefix.
type Rule struct {
	Resource string // "service", "intentions" for the intentions of a service, "acl", "operator", …
	Name     string
	Prefix   bool
	Access   string // "read", "write", "deny", "list"
	Source   string // what it comes from, for people: "policy web", "policy web of role deploy", "service identity web"
}

// parseRules reads the text of an ACL policy, HCL of version 1 or JSON, without its Source. A text of which anything cannot be
// read is an error, for a rule that is overlooked would read as if it allowed nothing. A key that stands there twice gives
// both rules. Errors quote nothing of the text.
func parseRules(text string) (rules []Rule, err error) {
	// The library panics on a few texts that its scanner lets through.
	defer func() {
		if recover() != nil {
			rules, err = nil, errors.New("HCL's parser fails on it")
		}
	}()
	if len(text) > maxRulesText {
		return nil, fmt.Errorf("it has more than %d bytes", maxRulesText)
	}
	if HCLNestsDeeper([]byte(text), maxRulesDepth) {
		return nil, fmt.Errorf("it nests deeper than %d levels", maxRulesDepth)
	}
	if IsHCLJSON([]byte(text)) && !json.Valid([]byte(text)) { // the library takes a half object for an empty one
		return nil, errors.New("it is no JSON")
	}
	// Into a target of this type, Decode puts the syntax tree itself. Parse would refuse what older versions took.
	var node ast.Node
	if err := hcl.Decode(&node, text); err != nil {
		return nil, errors.New("it is no HCL")
	}
	r := ruleReader{}
	if err := r.read(node, nil); err != nil {
		return nil, err
	}
	return r.rules, nil
}

// ruleReader walks a syntax tree. Labels and nested objects read alike: the path to a value is what counts, so that
// service "web" { policy = "write" } and {"service": {"web": {"policy": "write"}}} are one.
type ruleReader struct{ rules []Rule }

func (r *ruleReader) read(node ast.Node, path []string) error {
	switch n := node.(type) {
	case *ast.ObjectList:
		for _, item := range n.Items {
			keys := slices.Clone(path)
			for _, key := range item.Keys {
				text, ok := key.Token.Value().(string)
				if !ok {
					return errors.New("it has a key that is no text")
				}
				keys = append(keys, text)
			}
			if len(keys) > maxRulesDepth {
				return errUnknownRule
			}
			if err := r.read(item.Val, keys); err != nil {
				return err
			}
		}
		return nil
	case *ast.ObjectType:
		return r.read(n.List, path)
	case *ast.ListType:
		for _, item := range n.List {
			if _, isObject := item.(*ast.ObjectType); !isObject {
				return errUnknownRule
			}
			if err := r.read(item, path); err != nil {
				return err
			}
		}
		return nil
	case *ast.LiteralType:
		return r.value(n, path)
	}
	return errUnknownRule
}

var (
	errUnknownRule = errors.New("it has a rule that hostagent does not know")
	errTooManyRule = fmt.Errorf("it has more than %d rules", maxRules)
)

// value reads one value, by the path that leads to it.
func (r *ruleReader) value(literal *ast.LiteralType, path []string) error {
	access, ok := literal.Token.Value().(string)
	access = strings.ToLower(access)
	if !ok {
		return errUnknownRule
	}
	resource := strings.ToLower(path[0])
	rule := Rule{Access: access}
	switch len(path) {
	case 1:
		if !slices.Contains([]string{"acl", "keyring", "operator", "mesh", "peering"}, resource) {
			return errUnknownRule
		}
		if access == "" { // it stands for none
			return nil
		}
		rule.Resource = resource
	case 3:
		rule.Resource, rule.Prefix = strings.CutSuffix(resource, "_prefix")
		rule.Name = path[1]
		if !slices.Contains([]string{"agent", "event", "identity", "key", "node", "query", "service", "session"}, rule.Resource) {
			return errUnknownRule
		}
		switch what := strings.ToLower(path[2]); {
		case what == "intentions" && (rule.Resource == "service" || rule.Resource == "identity"):
			if access == "" { // the policy counts
				return nil
			}
			if rule.Resource == "service" {
				rule.Resource = "intentions"
			}
		case what != "policy":
			return errUnknownRule
		}
	default: // namespaces and partitions of Consul Enterprise are deeper
		return errUnknownRule
	}
	if !slices.Contains([]string{"deny", "read", "list", "write"}, access) {
		return errUnknownRule
	}
	if len(r.rules) == maxRules {
		return errTooManyRule
	}
	r.rules = append(r.rules, rule)
	return nil
}

// serviceRules are those that Consul gives to a service identity.
func serviceRules(service string) []Rule {
	return []Rule{
		{Resource: "service", Name: service, Access: "write"},
		{Resource: "service", Name: service + "-sidecar-proxy", Access: "write"},
		{Resource: "service", Prefix: true, Access: "read"},
		{Resource: "node", Prefix: true, Access: "read"},
	}
}

// nodeRules are those that Consul gives to a node identity.
func nodeRules(node string) []Rule {
	return []Rule{
		{Resource: "node", Name: node, Access: "write"},
		{Resource: "service", Prefix: true, Access: "read"},
	}
}

// templateRules are those of a policy that is built into Consul as a template (1.21); ok is false for one that is not known.
func templateRules(template, name string) (rules []Rule, ok bool) {
	all := func(resource, access string) Rule { return Rule{Resource: resource, Prefix: true, Access: access} }
	switch template {
	case "builtin/service":
		return serviceRules(name), true
	case "builtin/node":
		return nodeRules(name), true
	case "builtin/dns":
		return []Rule{all("node", "read"), all("service", "read"), all("query", "read")}, true
	case "builtin/api-gateway":
		own := Rule{Resource: "service", Name: name, Access: "write"}
		return []Rule{{Resource: "mesh", Access: "read"}, all("node", "read"), all("service", "read"), own}, true
	case "builtin/nomad-client":
		return []Rule{all("agent", "read"), all("node", "read"), all("service", "write"), all("key", "read")}, true
	case "builtin/nomad-server":
		return []Rule{{Resource: "acl", Access: "write"}, all("agent", "read"), all("node", "read"), all("service", "write")}, true
	}
	return nil, false
}
