// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// needsSecrets is what tells which of the datacenter's tokens a registration has.
const needsSecrets = `acl = "write" in the token's policy, which is a lot to give: ` +
	"use such a token for one run of hostagent audit as root"

func judgeTokenScope(in *Input) Row {
	if !in.Tokens.Known {
		return in.Tokens.unknown("what the tokens of registrations allow").needing(needsACL)
	}
	if secretsSeen(in) && in.InstanceTokens.Known {
		return ofTokens(in, func(tokens []InstanceToken) []aclFinding { return scopesOf(in, tokens) })
	}
	return scopesByName(in)
}

// scopesOf judges the tokens that registrations have.
func scopesOf(in *Input, tokens []InstanceToken) []aclFinding {
	var findings []aclFinding
	known := tokensByHash(in)
	groups := byHash(tokens)
	narrow, management := 0, 0
	for _, group := range groups {
		token, ok := known[group[0].Hash]
		about := listed(group) + ": token " + token.AccessorID
		switch {
		case !ok:
			findings = append(findings, notListed(group))
			continue
		case token.Management:
			management++
			continue
		}
		wide := beyond(token, namesOf(group))
		for _, f := range wide {
			findings = append(findings, aclFinding{status: f.status, text: about + " has " + f.text})
		}
		switch {
		case len(wide) > 0:
		case len(token.Unread) > 0:
			findings = append(findings, unreadRules(group, token))
		default:
			narrow++
		}
	}
	if narrow > 0 {
		findings = append(findings, aclFinding{status: Pass,
			text: "each writes its own service alone, by exact name: " + plural(narrow, "token")})
	}
	if management > 0 {
		status := Pass
		if management == len(groups) {
			status = NotApplicable
		}
		findings = append(findings, aclFinding{status: status,
			text: fmt.Sprintf("%s may do everything: see %s", plural(management, "token"), catalog.ACLManagementToken)})
	}
	return findings
}

// namesOf are the services that the holders of one token may be: their own, and their sidecars'. That several services share
// a token is another item's.
func namesOf(tokens []InstanceToken) map[string]bool {
	names := map[string]bool{}
	for _, t := range tokens {
		names[t.Name] = true
		if t.Sidecar && t.DestinationName != "" {
			names[t.DestinationName] = true
		}
	}
	for _, name := range slices.Collect(maps.Keys(names)) {
		names[name+sidecarNameSuffix] = true
	}
	return names
}

// beyond is what a token writes beside the services that are its own. Who writes another service is that service in the mesh,
// who writes its intentions decides who calls it, and an operator can replace the mesh's CA: that fails. Other rights are
// more than a service needs.
func beyond(token consul.Token, own map[string]bool) []aclFinding {
	var findings []aclFinding
	for _, rule := range token.Rules {
		if !writes(token, rule) {
			continue
		}
		mine := !rule.Prefix && own[rule.Name]
		status := Warn
		switch rule.Resource {
		case "service":
			if mine {
				continue
			}
			status = Fail
		case "intentions":
			if !mine {
				status = Fail
			}
		case "operator", "acl":
			status = Fail
		}
		findings = append(findings, aclFinding{status: status, text: ruleText(rule)})
	}
	return findings
}

// scopesByName judges which tokens there are for the host's services, where it is not known which of them a registration
// has.
func scopesByName(in *Input) Row {
	if !in.Registrations.Known {
		return in.Registrations.unknown("which services are registered")
	}
	families := families(in.Registrations.Value)
	if len(families) == 0 {
		return Row{Status: NotApplicable, Found: []string{"no service is registered on this host"}}
	}
	var findings []aclFinding
	unread := 0
	for _, token := range in.Tokens.Value.Tokens {
		if len(token.Unread) > 0 {
			unread++
		}
	}
	if unread > 0 {
		findings = append(findings, aclFinding{status: Unknown, needs: "policies that this version of hostagent can read",
			text: "the rules of " + plural(unread, "token") + " could not be read"})
	}
	for _, name := range slices.Sorted(maps.Keys(families)) {
		findings = append(findings, scopeByName(in.Tokens.Value.Tokens, name, families[name]))
	}
	return rowOf(findings)
}

// families are the names of applications, each with the names that it and its sidecars have.
func families(registrations []consul.Registration) map[string]map[string]bool {
	families := map[string]map[string]bool{}
	add := func(name, member string) {
		if families[name] == nil {
			families[name] = map[string]bool{name: true, name + sidecarNameSuffix: true}
		}
		families[name][member] = true
	}
	for _, r := range registrations {
		switch {
		case !isApplication(r.Name):
		case r.Kind == consul.KindConnectProxy && r.Proxy != nil && r.Proxy.DestinationName != "":
			add(r.Proxy.DestinationName, r.Name)
		default:
			add(r.Name, r.Name)
		}
	}
	return families
}

// scopeByName tells of one service whether its instances can, or must, have a token that writes more than it.
func scopeByName(tokens []consul.Token, name string, family map[string]bool) aclFinding {
	var wide []string
	exact := 0
	for _, token := range tokens {
		if token.Management || token.Expired || token.AccessorID == anonymousAccessor || !mayWrite(token, name) {
			continue
		}
		beyond := slices.IndexFunc(token.Rules, func(r consul.Rule) bool {
			return r.Resource == "service" && writes(token, r) && (r.Prefix || !family[r.Name])
		})
		if beyond < 0 {
			exact++
		} else {
			wide = append(wide, fmt.Sprintf("token %s has %s", token.AccessorID, ruleText(token.Rules[beyond])))
		}
	}
	slices.Sort(wide)
	some := few(wide, 2)
	switch {
	case len(wide) > 0 && exact > 0:
		return aclFinding{status: Warn, text: fmt.Sprintf("%q: beside %s for it alone, %s", name, plural(exact, "token"), some)}
	case len(wide) > 0:
		return aclFinding{status: Fail, text: fmt.Sprintf("%q: no token writes it alone: %s", name, some)}
	case exact == 0:
		return aclFinding{status: Unknown, needs: needsSecrets,
			text: fmt.Sprintf("%q: no token that was seen has service:write on it, but management tokens", name)}
	}
	return aclFinding{status: Pass,
		text: fmt.Sprintf("%q: %s with service:write on it by exact name, and on nothing else", name, plural(exact, "token"))}
}

// mayWrite decides as Consul does: the rule on the name itself counts, and else that on the longest prefix of it.
func mayWrite(token consul.Token, name string) bool {
	var best *consul.Rule
	for i, rule := range token.Rules {
		fits := rule.Resource == "service" && (rule.Name == name || rule.Prefix && strings.HasPrefix(name, rule.Name))
		closer := best == nil || !rule.Prefix && best.Prefix || rule.Prefix == best.Prefix && len(rule.Name) > len(best.Name)
		same := best != nil && rule.Prefix == best.Prefix && rule.Name == best.Name
		if fits && (closer || same && rank(rule.Access) > rank(best.Access)) {
			best = &token.Rules[i]
		}
	}
	return best != nil && best.Access == "write"
}

// rank orders what counts where policies of one token say different things of one name.
func rank(access string) int { return slices.Index([]string{"list", "read", "write", "deny"}, access) }
