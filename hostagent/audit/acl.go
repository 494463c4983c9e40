// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

func aclJudges() []judge {
	return []judge{
		{catalog.ACLEnabled, judgeACLEnabled},
		{catalog.ACLDefaultDeny, underACLs(judgeDefaultDeny)},
		{catalog.ACLAnonymous, underACLs(judgeAnonymous)},
		{catalog.ACLInstanceTokens, underACLs(judgeSharedTokens)},
		{catalog.ACLTokenScope, underACLs(judgeTokenScope)},
		{catalog.ACLManagementToken, underACLs(judgeManagementTokens)},
		{catalog.ACLPersistence, underACLs(judgeTokenPersistence)},
		{catalog.InstanceTokens, underACLs(judgeInstanceTokens)},
	}
}

const (
	anonymousAccessor = "00000000-0000-0000-0000-000000000002" // the same in each datacenter
)

// aclsEnabled asks how the agent answers, for that no reload changes, then what it tells of itself, then its files.
func aclsEnabled(in *Input) setting[bool] {
	told := in.Running.Value.ACLsEnabled
	switch {
	case in.Anonymous.Known && in.Anonymous.Value.ACLsOff && (!in.Running.Known || told == nil || *told):
		return setting[bool]{known: true, found: "the agent answers that ACLs are disabled"}
	case in.Anonymous.Known && (!in.Running.Known || told == nil):
		return setting[bool]{known: true, value: true, found: "the agent answers as one with ACLs enabled"}
	}
	return settingOf(in, told, false, "acl.enabled")
}

func judgeACLEnabled(in *Input) Row {
	enabled := aclsEnabled(in)
	switch {
	case !enabled.known:
		return enabled.unknown()
	case !enabled.value:
		return Row{Status: Fail, Found: []string{
			enabled.found, "no token is asked for: anybody who reaches the agent registers any service, and edits intentions",
		}}
	}
	return Row{Status: Pass, Found: []string{enabled.found}}.doubtedACLs(in)
}

// doubtedACLs is doubted for what turns ACLs on, unless the agent shows that they are.
func (r Row) doubtedACLs(in *Input) Row {
	if told := &in.Running.Value; told.ACLsEnabledLive || in.Anonymous.Known && !told.ReloadMisleads() {
		return r
	}
	return r.doubted(in, "acl.enabled")
}

// underACLs spares an item that hangs on ACLs where there are none.
func underACLs(judge func(*Input) Row) func(*Input) Row {
	return func(in *Input) Row {
		if enabled := aclsEnabled(in); enabled.known && !enabled.value {
			return Row{Status: NotApplicable, Found: []string{"ACLs are disabled: see " + string(catalog.ACLEnabled)}}
		}
		return judge(in)
	}
}

func defaultPolicy(in *Input) setting[string] {
	return settingOf(in, in.Running.Value.ACLDefaultPolicy, "allow", "acl.default_policy")
}

func judgeDefaultDeny(in *Input) Row {
	policy := defaultPolicy(in)
	switch {
	case !policy.known:
		return policy.unknown()
	case policy.value != "deny" && isClient(in):
		return Row{Status: Fail, Found: []string{
			policy.found, "ACLs are enabled, and whoever has no token registers what no rule forbids with this agent; " +
				"it is a client, and what its servers take they decide by a default policy of their own",
		}}
	case policy.value != "deny":
		return Row{Status: Fail, Found: []string{
			policy.found, "ACLs are enabled, and whoever has no token may do all that no rule forbids",
		}}
	}
	return Row{Status: Pass, Found: []string{policy.found}}.doubtedPolicy(in)
}

// isClient tells that the agent is known to be no server. One judges itself what is asked of it about registrations; what
// concerns the datacenter, such as intentions, its servers judge, by their own default policy (seen with Consul 1.21).
func isClient(in *Input) bool { return in.Running.Known && !in.Running.Value.Server }

// doubtedPolicy is doubted for the default policy, unless the agent told which one it runs with.
func (r Row) doubtedPolicy(in *Input) Row {
	if in.Running.Value.ACLDefaultPolicyLive {
		return r
	}
	return r.doubted(in, "acl.default_policy")
}

// unheardName is asked for beside the host's services: what is allowed on it is allowed by a prefix, or by default.
const unheardName = "hostagent-asks-for-a-name-that-nobody-has"

// mostAsked bounds the services that anonymousRights asks about: an agent answers 64 questions at a time, from memory.
const mostAsked = 1000

// anonymousRights are what the anonymous token should not have, to be asked with Authorize: to write the host's services and
// their intentions, those of a name that nobody has, and all intentions. A prefix cannot be asked for. Only words that
// Consul 1.8 knows are among them, for an agent refuses a whole question over one that it does not know.
func anonymousRights(services []string) []consul.Right {
	names := slices.Compact(slices.Sorted(slices.Values(services)))
	names = append([]string{unheardName}, names[:min(len(names), mostAsked)]...)
	rights := []consul.Right{{Resource: "intention", Segment: "*", Access: "write"}}
	for _, name := range names {
		rights = append(rights,
			consul.Right{Resource: "service", Segment: name, Access: "write"},
			consul.Right{Resource: "intention", Segment: name, Access: "write"})
	}
	return rights
}

func judgeAnonymous(in *Input) Row {
	found, names := allowedToAnybody(in)
	answered := len(found)
	token, seen := anonymousToken(in)
	for _, rule := range token.Rules {
		if writes(token, rule) && (rule.Resource == "service" || rule.Resource == "intentions") {
			found = append(found, "the anonymous token has "+ruleText(rule))
		}
	}
	if token.Management {
		found = append(found, "the anonymous token is a management token")
	}
	ruleWrites := len(found) > answered
	policy := defaultPolicy(in)
	ruled := seen && len(token.Unread) == 0
	const noRule = "the anonymous token has no rule that writes services or intentions"
	switch {
	case answered > 0 && !ruleWrites && policy.known && policy.value != "deny" && allowedByDefault(in):
		return Row{Status: NotApplicable, Found: []string{
			policy.found + ", so that what no rule denies is allowed to anybody: see " + string(catalog.ACLDefaultDeny)}}
	case len(found) > 0:
		why, remedy := whyAnonymous(in, ruled && !ruleWrites)
		if ruleWrites {
			remedy = "" // the catalog's is about rules
		}
		return Row{Status: Fail, Found: append(found, why...), Remedy: remedy}
	case names > 0 && !ruled && !askedOfAll(in):
		return Row{Status: Unknown, Needs: needsACL, Found: []string{fmt.Sprintf(
			"without a token neither service:write nor intentions:write is allowed on %s, but not all services of this host were asked about",
			plural(names, "name"))}}
	case names > 0:
		row := Row{Status: Pass, Found: []string{fmt.Sprintf(
			"without a token neither service:write nor intentions:write is allowed on %s: %s one that nobody has",
			plural(names, "name"), map[bool]string{true: "those of this host, and", false: "among them"}[askedOfAll(in)])}}
		if ruled {
			row.Found = append(row.Found, noRule)
		}
		if isClient(in) {
			row.Found = append(row.Found, "so answers this agent, a client: its servers have a default policy of their own")
		}
		return row
	case ruled && policy.known && policy.value == "deny":
		return Row{Status: Pass, Found: []string{noRule, policy.found}}.doubtedPolicy(in)
	case in.Anonymous.Known:
		return Row{Status: Unknown, Needs: needsACL, Found: []string{
			"what is allowed without a token: the agent did not answer all that was asked",
		}}
	}
	return in.Anonymous.unknown("what is allowed without a token").needing(needsACL)
}

// allowedToAnybody tells what of the rights that were asked about is allowed, and on how many names neither services nor
// intentions may be written; 0 where the answer is not whole.
func allowedToAnybody(in *Input) (found []string, denied int) {
	asked := in.Anonymous.Value
	if !in.Anonymous.Known || len(asked.Rights) != len(asked.Allowed) {
		return nil, 0
	}
	allowed, denials := map[string][]string{}, map[string]int{}
	for i, right := range asked.Rights {
		switch {
		case right.Access != "write" || right.Resource != "service" && right.Resource != "intention":
		case asked.Allowed[i]:
			allowed[right.Resource] = append(allowed[right.Resource], right.Segment)
		default:
			denials[right.Segment]++
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(allowed)) {
		found = append(found, fmt.Sprintf("without a token %s is allowed on %s",
			map[string]string{"service": "service:write", "intention": "intentions:write"}[resource], namesText(allowed[resource])))
	}
	for _, n := range denials {
		if n == 2 {
			denied++
		}
	}
	return found, denied
}

// allowedByDefault tells whether what nobody has a rule about may be written without a token.
func allowedByDefault(in *Input) bool {
	asked := in.Anonymous.Value
	for i, right := range asked.Rights {
		if right == (consul.Right{Resource: "service", Segment: unheardName, Access: "write"}) {
			return asked.Allowed[i]
		}
	}
	return false
}

// askedOfAll tells whether the services of this host are known and each was asked about.
func askedOfAll(in *Input) bool {
	asked := map[string]bool{}
	for _, right := range in.Anonymous.Value.Rights {
		asked[right.Segment] = true
	}
	return in.Registrations.Known && !slices.ContainsFunc(in.Registrations.Value, func(r consul.Registration) bool { return !asked[r.Name] })
}

// namesText shows the first few of some names that were asked about.
func namesText(names []string) string {
	const most = 5
	if slices.Contains(names, unheardName) {
		return "a name that nobody has, so on any that no rule denies"
	}
	texts := make([]string, len(names))
	for i, name := range names {
		if texts[i] = strconv.Quote(name); name == "*" {
			texts[i] = "all services"
		}
	}
	return few(texts, most)
}

func anonymousToken(in *Input) (consul.Token, bool) {
	if in.Tokens.Known {
		for _, token := range in.Tokens.Value.Tokens {
			if token.AccessorID == anonymousAccessor {
				return token, true
			}
		}
	}
	return consul.Token{}, false
}

// whyAnonymous tells where rights come from that the agent allows without a token and that no rule of the anonymous token
// gives, and what mends that: the default policy, or the default token, with which an agent answers whoever brings none (seen
// with Consul 1.21).
func whyAnonymous(in *Input, noRule bool) (why []string, remedy string) {
	policy := defaultPolicy(in)
	if policy.known && policy.value != "deny" {
		return []string{policy.found + ": what no rule denies is allowed"}, ""
	}
	const mend = "give the agent a default token without these rights: consul acl set-agent-token default TOKEN"
	if in.Disk.Known {
		if set, ok := in.Disk.Value.Settings.Lookup(tokenDefault); ok {
			return []string{fmt.Sprintf("%s:%d sets %s: a request without a token has its rights on this agent",
				set.File, set.Line, tokenDefault)}, mend
		}
	}
	if noRule && policy.known {
		return []string{"the anonymous token has no such rule: the agent answers with its default token"}, mend
	}
	return nil, ""
}

func judgeTokenPersistence(in *Input) Row {
	persistence := settingOf(in, in.Running.Value.ACLTokenPersistence, false, "acl.enable_token_persistence")
	switch {
	case !persistence.known:
		return persistence.unknown()
	case persistence.value:
		return Row{Status: Pass, Found: []string{persistence.found}}.doubted(in, "acl.enable_token_persistence")
	case !in.Disk.Known:
		return Row{Status: Warn, Needs: giveConfig, Found: []string{
			persistence.found, "whether the agent's token stands in its files instead was not seen",
		}}
	}
	set, ok := in.Disk.Value.Settings.Lookup("acl.tokens.agent")
	if !ok || set.Value == "" {
		return Row{Status: Warn, Found: []string{
			persistence.found, "no file sets acl.tokens.agent: a token set through the API is lost at the next restart",
		}}
	}
	return Row{Status: Pass, Found: []string{
		persistence.found, fmt.Sprintf("the agent has its token from %s:%d (acl.tokens.agent), at each start", set.File, set.Line),
	}}
}

// aclFinding is what is said of one token or registration.
type aclFinding struct {
	status      Status
	text, needs string // what would show it stands with what is unknown
}

// rowOf is the row of findings: the worst of them decides, and stands first. What is well stands in it only where all is.
func rowOf(findings []aclFinding) Row {
	rank := func(f aclFinding) int { return slices.Index(Statuses(), f.status) }
	slices.SortFunc(findings, func(a, b aclFinding) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(a.text, b.text))
	})
	findings = slices.Compact(findings)
	row := Row{Status: Pass}
	for i, f := range findings {
		if i == 0 {
			row.Status = f.status
		}
		if f.status == Pass && row.Status != Pass {
			break
		}
		row.Needs = cmp.Or(row.Needs, f.needs)
		row.Found = append(row.Found, f.text)
	}
	return row
}

// writes tells whether a rule allows writing, and no other of the token takes that back: of two rules on the same name, a
// deny counts.
func writes(token consul.Token, rule consul.Rule) bool {
	return rule.Access == "write" && !slices.ContainsFunc(token.Rules, func(other consul.Rule) bool {
		return other.Access == "deny" && other.Resource == rule.Resource && other.Name == rule.Name && other.Prefix == rule.Prefix
	})
}

// ruleText is a rule as a policy has it, with where it comes from.
func ruleText(rule consul.Rule) string {
	block, key := rule.Resource, "policy"
	if block == "intentions" {
		block, key = "service", "intentions"
	}
	if rule.Prefix {
		block += "_prefix"
	}
	text := fmt.Sprintf("%s %q { %s = %q }", block, rule.Name, key, rule.Access)
	switch rule.Resource {
	case "acl", "operator", "keyring", "mesh", "peering": // have no names
		text = fmt.Sprintf("%s = %q", rule.Resource, rule.Access)
	}
	if rule.Source != "" {
		text += " (" + rule.Source + ")"
	}
	return text
}
