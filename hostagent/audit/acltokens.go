// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// isApplication tells hostagent's own service and Consul's apart from those that the checklist is about.
func isApplication(name string) bool { return name != "hostagent" && name != "consul" }

// isNone tells that a registration brought no token of its own: none at all, or one that the agent fills in where there is
// none. Of requests to its API that is the agent's default token, which it even keeps with the registration (seen with
// Consul 1.21); of definitions in files it can be another.
func (t InstanceToken) isNone() bool {
	return t.Hash == (consul.TokenHash{}) || slices.ContainsFunc(t.SameAs, func(key string) bool {
		return key == tokenDefault || key == tokenFromFiles || key == tokenAnonymous
	})
}

func (t InstanceToken) text() string { return fmt.Sprintf("%q (%s)", t.ID, t.Where) }

// registeredTokens are those of applications and their sidecars, and what is to be said of registrations whose tokens were
// not seen.
func registeredTokens(in *Input) (tokens []InstanceToken, unseen []aclFinding) {
	ids := map[string]bool{}
	for _, token := range in.InstanceTokens.Value {
		ids[token.ID] = true
		switch {
		case token.Problem != "":
			unseen = append(unseen, aclFinding{status: Unknown, needs: needsTokenFiles,
				text: strings.TrimSpace(token.Where+" "+token.Problem) + ": tokens in it are not known"})
		case isApplication(token.Name):
			tokens = append(tokens, token)
		}
	}
	if in.Registrations.Known {
		for _, r := range in.Registrations.Value {
			if !ids[r.ID] && isApplication(r.Name) {
				unseen = append(unseen, aclFinding{status: Unknown, needs: needsTokenFiles,
					text: fmt.Sprintf("the token of %q is in no file that was read", r.ID)})
			}
		}
	}
	return tokens, unseen
}

// needsTokenFiles is what shows the tokens that registeredTokens misses.
const needsTokenFiles = "run hostagent audit as root, with --consul-config DIR for registrations in files"

// ofTokens judges registrations by their tokens, of which those without one are passed over: they are another item's.
func ofTokens(in *Input, judge func(tokens []InstanceToken) []aclFinding) Row {
	if !in.InstanceTokens.Known {
		return in.InstanceTokens.unknown("with which tokens registrations were made").needing(asAuditor)
	}
	all, findings := registeredTokens(in)
	tokens := slices.DeleteFunc(slices.Clone(all), InstanceToken.isNone)
	switch {
	case len(findings) > 0 || len(tokens) > 0:
		return rowOf(append(findings, judge(tokens)...))
	case len(all) > 0:
		return Row{Status: NotApplicable, Found: []string{"no registration brought a token: see " + string(catalog.InstanceTokens)}}
	}
	return Row{Status: NotApplicable, Found: []string{"no service is registered on this host"}}
}

func judgeInstanceTokens(in *Input) Row {
	if !in.InstanceTokens.Known {
		return ofTokens(in, nil)
	}
	tokens, findings := registeredTokens(in)
	for _, token := range tokens {
		switch {
		case token.Hash == (consul.TokenHash{}):
			findings = append(findings, aclFinding{status: Fail, text: token.text() + " is registered without a token"})
		case slices.Contains(token.SameAs, tokenAnonymous):
			findings = append(findings, aclFinding{status: Fail, text: token.text() + " is registered as anonymous"})
		case token.isNone():
			findings = append(findings, aclFinding{status: Fail, text: fmt.Sprintf(
				"%s has the agent's own token (%s), as what is registered without one has",
				token.text(), strings.Join(token.SameAs, ", "))})
		}
	}
	switch {
	case len(findings) > 0:
		return rowOf(findings)
	case len(tokens) == 0:
		return Row{Status: NotApplicable, Found: []string{"no service is registered on this host"}}
	case !in.Disk.Known:
		return Row{Status: Unknown, Needs: giveConfig, Found: []string{plural(len(tokens), "registration") +
			" with a token: whether one is the agent's default token, kept with what came without one, was not seen"}}
	}
	return Row{Status: Pass, Found: []string{"a token came with " + plural(len(tokens), "registration")}}
}

func judgeSharedTokens(in *Input) Row {
	return ofTokens(in, func(tokens []InstanceToken) []aclFinding {
		var findings []aclFinding
		groups := byHash(tokens)
		for _, group := range groups {
			switch owners, same := owners(group), otherUse(group[0]); {
			case slices.ContainsFunc(owners, func(o owner) bool { return o.name != owners[0].name }):
				findings = append(findings, aclFinding{status: Fail, text: "services share a token: " + listed(group)})
			case len(owners) > 1:
				findings = append(findings, aclFinding{status: Fail, text: "instances of one service share a token: " + listed(group)})
			case same != "":
				findings = append(findings, aclFinding{status: Fail,
					text: fmt.Sprintf("%s is also the agent's own token (%s)", listed(group), same)})
			}
		}
		return append(findings, aclFinding{status: Pass, text: fmt.Sprintf("%s with %s: no two services or instances share one",
			plural(len(tokens), "registration"), plural(len(groups), "token"))})
	})
}

// otherUse tells for what else a token is used. One that may do everything is judged by another item.
func otherUse(t InstanceToken) string {
	if slices.Contains(t.SameAs, tokenInitial) {
		return ""
	}
	return strings.Join(t.SameAs, ", ")
}

// byHash groups registrations by their token, in the order of their ids.
func byHash(tokens []InstanceToken) [][]InstanceToken {
	at := map[consul.TokenHash]int{}
	var groups [][]InstanceToken
	for _, token := range tokens {
		i, ok := at[token.Hash]
		if !ok {
			i = len(groups)
			at[token.Hash] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], token)
	}
	return groups
}

// owner is an application: a sidecar and what it stands before are one, and share a token rightfully.
type owner struct{ id, name string }

// owners are the applications of some registrations. A sidecar that names no instance belongs to whichever is there.
func owners(tokens []InstanceToken) []owner {
	var found []owner
	add := func(o owner) {
		if !slices.ContainsFunc(found, func(f owner) bool { return f.id == o.id }) {
			found = append(found, o)
		}
	}
	for _, t := range tokens {
		switch {
		case !t.Sidecar:
			add(owner{t.ID, t.Name})
		case t.DestinationID != "":
			add(owner{t.DestinationID, t.DestinationName})
		}
	}
	for _, t := range tokens {
		unnamed := t.Sidecar && t.DestinationID == ""
		if unnamed && !slices.ContainsFunc(found, func(f owner) bool { return f.name == t.DestinationName }) {
			add(owner{"any of " + t.DestinationName, t.DestinationName})
		}
	}
	return found
}

// listed names registrations, the first few of many.
func listed(tokens []InstanceToken) string {
	texts := make([]string, len(tokens))
	for i, token := range tokens {
		texts[i] = token.text()
	}
	return few(texts, 3)
}

func judgeManagementTokens(in *Input) Row {
	return ofTokens(in, func(tokens []InstanceToken) []aclFinding {
		var findings []aclFinding
		known, groups := tokensByHash(in), byHash(tokens)
		for _, group := range groups {
			token, ok := known[group[0].Hash]
			findings = append(findings, managementOf(group, token, ok, secretsSeen(in))...)
		}
		return append(findings, aclFinding{status: Pass, text: fmt.Sprintf("%s with %s: none may do everything",
			plural(len(tokens), "registration"), plural(len(groups), "token"))})
	})
}

// managementOf judges the token of some registrations, which is known where the datacenter lists it; nothing is said of one
// that is no management token.
func managementOf(group []InstanceToken, token consul.Token, known, secrets bool) []aclFinding {
	var f aclFinding
	switch {
	case token.Management:
		f = aclFinding{status: Fail, text: fmt.Sprintf("%s: token %s may do everything", listed(group), token.AccessorID)}
	case known && len(token.Unread) > 0:
		f = unreadRules(group, token)
	case known:
		return nil
	case secrets:
		f = notListed(group)
	case slices.Contains(group[0].SameAs, tokenInitial):
		f = aclFinding{status: Fail, text: fmt.Sprintf("%s: its token is the agent's %s", listed(group), tokenInitial)}
	default:
		f = aclFinding{status: Unknown, needs: needsSecrets,
			text: "which of the datacenter's tokens a registration has cannot be told without their secrets"}
	}
	return []aclFinding{f}
}

// unreadRules is said where a token's rules are not all known.
func unreadRules(group []InstanceToken, token consul.Token) aclFinding {
	return aclFinding{status: Unknown, needs: "policies that this version of hostagent can read", text: fmt.Sprintf(
		"%s: token %s has rules that are not known: %s", listed(group), token.AccessorID, strings.Join(token.Unread, ", "))}
}

// notListed is said of a token that may have been revoked, or stand where the list does not reach.
func notListed(group []InstanceToken) aclFinding {
	return aclFinding{status: Unknown, text: listed(group) + ": the datacenter lists no such token",
		needs: "a registration with a token that consul acl token list shows"}
}

func secretsSeen(in *Input) bool { return in.Tokens.Known && in.Tokens.Value.SecretsSeen }

// tokensByHash are the datacenter's tokens whose secrets were seen.
func tokensByHash(in *Input) map[consul.TokenHash]consul.Token {
	byHash := map[consul.TokenHash]consul.Token{}
	if secretsSeen(in) {
		for _, token := range in.Tokens.Value.Tokens {
			if token.Hash != (consul.TokenHash{}) {
				byHash[token.Hash] = token
			}
		}
	}
	return byHash
}
