// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	maxTokens       = 20_000
	maxRoles        = 5000
	maxLinks        = 100 // of one token or role, of each kind
	maxPoliciesRead = 500 // each is a request
	maxAllRules     = 200_000
	maxDescription  = 256 // bytes that are kept
	maxPolicyID     = 64  // bytes; it is a UUID
)

// globalManagement is the id of the policy that allows everything.
const globalManagement = "00000000-0000-0000-0000-000000000001"

// Tokens are the ACL tokens of the datacenter and what they allow.
type Tokens struct {
	Tokens []Token
	// SecretsSeen tells that the Hash of every token is known: that takes acl:write, and Consul 1.12 or later.
	SecretsSeen bool
}

// Token is one ACL token.
type Token struct {
	AccessorID  string
	Description string
	Hash        TokenHash // zero where the secret was not told
	Expired     bool
	Rules       []Rule // of all its policies, roles and identities
	// Management tells that it may do everything: it has the built-in policy global-management, or acl:write.
	Management bool
	// Unread names the sources (as Rule.Source does) whose rules are not known, each with the reason in brackets. Where any
	// stands here, the token may be allowed more than Rules tells, and nothing follows from what Rules lacks.
	Unread []string
}

// Tokens reads the datacenter's tokens and what they allow, sorted by accessor id; the token needs acl:read. Secrets become
// hashes at once. Rules that count in some datacenters only are among those of a token as if they counted here, but for
// those that deny. It takes a request for each policy that a token has: those beyond 500 are told as unread.
func (c *Client) Tokens(ctx context.Context) (Tokens, error) {
	const needed = `acl = "read"`
	got, err := c.get(ctx, "/v1/acl/tokens", "")
	if err != nil {
		return Tokens{}, needing(err, needed)
	}
	entries, err := decodeList[tokenEntry](got.body, maxTokens, "tokens")
	clear(got.body)
	if err == nil && len(entries) == 0 {
		err = errors.New("it has no token, not even the anonymous one")
	}
	if err != nil {
		return Tokens{}, c.malformed("list of ACL tokens", err)
	}
	r := rulebook{client: c, policies: map[string]policyRules{}, roles: map[string]*roleEntry{}}
	if slices.ContainsFunc(entries, func(t tokenEntry) bool { return len(t.Roles) > 0 }) {
		if err := r.readRoles(ctx); err != nil {
			return Tokens{}, needing(err, needed)
		}
	}
	tokens := Tokens{SecretsSeen: true}
	now, total := c.now(), 0
	placeholder := secretText(HashSecret(concealed))
	for _, e := range entries {
		if e.SecretID == placeholder { // this client's own, which is taken out of every answer
			e.SecretID = secretText(got.own)
		}
		t, err := r.token(ctx, &e, now)
		if err != nil {
			return Tokens{}, needing(err, needed)
		}
		if total += len(t.Rules); total > maxAllRules {
			return Tokens{}, c.malformed("list of ACL tokens", fmt.Errorf("they have more than %d rules", maxAllRules))
		}
		tokens.SecretsSeen = tokens.SecretsSeen && t.Hash != TokenHash{}
		tokens.Tokens = append(tokens.Tokens, t)
	}
	slices.SortFunc(tokens.Tokens, func(a, b Token) int { return strings.Compare(a.AccessorID, b.AccessorID) })
	return tokens, nil
}

// link names a policy or a role.
type link struct{ ID, Name string }

// grants are what tokens and roles have alike.
type grants struct {
	Policies          []link
	ServiceIdentities []struct{ ServiceName string }
	NodeIdentities    []struct{ NodeName string }
	TemplatedPolicies []struct {
		TemplateName      string
		TemplateVariables struct{ Name string }
	}
}

func (g *grants) tooMany() bool {
	return max(len(g.Policies), len(g.ServiceIdentities), len(g.NodeIdentities), len(g.TemplatedPolicies)) > maxLinks
}

type tokenEntry struct {
	AccessorID, Description string
	SecretID                secretText
	grants
	Roles          []link
	ExpirationTime *time.Time
	Legacy         bool
}

type roleEntry struct {
	ID, Name string
	grants
}

// policyRules are the rules of one policy, or why they are not known.
type policyRules struct {
	rules  []Rule
	unread string
}

// rulebook reads what tokens are allowed, each policy once.
type rulebook struct {
	client   *Client
	policies map[string]policyRules // by id
	roles    map[string]*roleEntry  // by id
}

func (r *rulebook) readRoles(ctx context.Context) error {
	got, err := r.client.get(ctx, "/v1/acl/roles", "")
	if err != nil {
		return err
	}
	roles, err := decodeList[roleEntry](got.body, maxRoles, "roles")
	if err != nil {
		return r.client.malformed("list of ACL roles", err)
	}
	for i := range roles {
		r.roles[roles[i].ID] = &roles[i]
	}
	return nil
}

func (r *rulebook) token(ctx context.Context, e *tokenEntry, now time.Time) (Token, error) {
	t := Token{
		AccessorID: e.AccessorID, Description: truncateUTF8(e.Description, maxDescription), Hash: TokenHash(e.SecretID),
		Expired: e.ExpirationTime != nil && !e.ExpirationTime.IsZero() && e.ExpirationTime.Before(now),
	}
	if e.Legacy { // of Consul 1.3 and before; until 1.11 they still count
		t.Unread = append(t.Unread, "legacy token (its rules stand in no policy)")
	}
	if err := r.grant(ctx, &t, &e.grants, ""); err != nil {
		return Token{}, err
	}
	if len(e.Roles) > maxLinks {
		t.Unread = append(t.Unread, fmt.Sprintf("roles (more than %d)", maxLinks))
		return t, nil
	}
	for _, l := range e.Roles {
		role := r.roles[l.ID]
		if role == nil {
			t.Unread = append(t.Unread, fmt.Sprintf("role %s (it is not in the list of roles)", l.Name))
			continue
		}
		if err := r.grant(ctx, &t, &role.grants, " of role "+role.Name); err != nil {
			return Token{}, err
		}
	}
	return t, nil
}

// grant adds to t what g allows; suffix is put behind the names of sources.
func (r *rulebook) grant(ctx context.Context, t *Token, g *grants, suffix string) error {
	if g.tooMany() {
		t.Unread = append(t.Unread, fmt.Sprintf("policies and identities%s (more than %d)", suffix, maxLinks))
		return nil
	}
	for _, l := range g.Policies {
		policy, err := r.policy(ctx, l.ID)
		if err != nil {
			return err
		}
		t.Management = t.Management || l.ID == globalManagement
		t.add("policy "+l.Name+suffix, policy)
	}
	for _, identity := range g.ServiceIdentities {
		t.add("service identity "+identity.ServiceName+suffix, policyRules{rules: serviceRules(identity.ServiceName)})
	}
	for _, identity := range g.NodeIdentities {
		t.add("node identity "+identity.NodeName+suffix, policyRules{rules: nodeRules(identity.NodeName)})
	}
	for _, template := range g.TemplatedPolicies {
		name := template.TemplateVariables.Name
		source := "templated policy " + template.TemplateName
		if name != "" {
			source += " for " + name
		}
		rules, known := templateRules(template.TemplateName, name)
		if !known {
			t.add(source+suffix, policyRules{unread: "hostagent does not know this template"})
			continue
		}
		t.add(source+suffix, policyRules{rules: rules})
	}
	return nil
}

func (t *Token) add(source string, from policyRules) {
	if from.unread != "" {
		t.Unread = append(t.Unread, fmt.Sprintf("%s (%s)", source, from.unread))
	}
	for _, rule := range from.rules {
		rule.Source = source
		t.Rules = append(t.Rules, rule)
		t.Management = t.Management || rule.Resource == "acl" && rule.Access == "write"
	}
}

// policy reads the rules of the policy with this id. One that cannot be read by itself is told as unread, and an error is what
// the next one would meet too.
func (r *rulebook) policy(ctx context.Context, id string) (policyRules, error) {
	if known, ok := r.policies[id]; ok {
		return known, nil
	}
	const digits = "0123456789abcdefABCDEF-"
	if id == "" || len(id) > maxPolicyID || strings.Trim(id, digits) != "" {
		return policyRules{unread: "its id is none of Consul's"}, nil
	}
	if len(r.policies) == maxPoliciesRead {
		return policyRules{unread: fmt.Sprintf("hostagent reads %d policies and no more", maxPoliciesRead)}, nil
	}
	read, err := r.readPolicy(ctx, id)
	if err != nil {
		return policyRules{}, err
	}
	r.policies[id] = read
	return read, nil
}

func (r *rulebook) readPolicy(ctx context.Context, id string) (policyRules, error) {
	ctx, cancel := context.WithTimeout(ctx, r.client.timeout)
	defer cancel()
	var got answer
	err := r.client.query(ctx, "/v1/acl/policy/"+id, "", &got)
	switch {
	case err != nil && got.status == http.StatusNotFound:
		return policyRules{unread: "it was deleted meanwhile"}, nil
	case err != nil:
		return policyRules{}, err
	}
	var raw struct {
		ID          string
		Rules       *string
		Datacenters []string
	}
	if err := json.Unmarshal(got.body, &raw); err != nil {
		return policyRules{}, r.client.malformed("ACL policy", unquoted(err))
	}
	if raw.ID != id || raw.Rules == nil {
		return policyRules{}, r.client.malformed("ACL policy", errors.New("it is not the one that was asked for"))
	}
	rules, err := parseRules(*raw.Rules)
	if err != nil {
		return policyRules{unread: err.Error()}, nil
	}
	if len(raw.Datacenters) > 0 { // what it takes back elsewhere may be allowed here
		rules = slices.DeleteFunc(rules, func(r Rule) bool { return r.Access == "deny" })
	}
	return policyRules{rules: rules}, nil
}
