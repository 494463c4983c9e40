// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// lack is a right that a token does not have, as Consul names it.
type lack struct{ resource, level, name string }

// rule is the line of a policy that would give it.
func (l lack) rule() string {
	if l.resource == "key" && l.level == "list" { // what is listed is what lies below the name
		return rule("key_prefix", l.name, l.level)
	}
	if l.name == "" {
		return fmt.Sprintf("%s = %q", l.resource, l.level)
	}
	return rule(l.resource, l.name, l.level)
}

// lackOf reads which right is missing out of the text of a refusal. The text is whoever's who answered: what could not stand
// in a rule is not read.
func lackOf(text string) (l lack, ok bool) {
	// Consul 1.21: Permission denied: token with AccessorID '…' lacks permission 'agent:read' on "host"
	found := regexp.MustCompile(`lacks permission '(agent|key|node|service):(read|list|write)' on "([^"]*)"`).FindStringSubmatch(text)
	if found == nil { // some resources have no names
		if found = regexp.MustCompile(`lacks permission '(acl|keyring|operator):(read|write)'`).FindStringSubmatch(text); found == nil {
			return lack{}, false
		}
		return lack{resource: found[1], level: found[2]}, true
	}
	if !isRuleName(found[3]) {
		return lack{}, false
	}
	return lack{found[1], found[2], found[3]}, true
}

// needing tells of a refusal which rule it takes, where Consul does not name the right that is missing, as before 1.12.
func needing(err error, rule string) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Kind != KindDenied {
		return err
	}
	text := e.Err.Error()
	if _, named := lackOf(text); named || strings.Contains(text, "ACL not found") {
		return err
	}
	return &Error{Kind: e.Kind, Err: fmt.Errorf("%w; this takes %s", e.Err, rule), Fix: e.Fix}
}

// deniedRemedy says what mends a refusal, by the text that came with it (all seen with Consul 1.21).
func deniedRemedy(body string) string {
	const tokenFrom = "consul { token_file } or CONSUL_HTTP_TOKEN_FILE"
	missing, named := lackOf(body)
	switch {
	case strings.Contains(body, "ACL not found"):
		return "; Consul does not know this token, or no longer: it was deleted, or has expired; put a valid one in " + tokenFrom
	case strings.Contains(body, "primary-dc-down"):
		return "; the agent reaches no Consul server and has not kept what this token may do; it mends itself when a server is back"
	case strings.Contains(body, "blocked by agent configuration"):
		return "; take the endpoint out of the agent's http_config { block_endpoints }"
	case strings.Contains(body, "anonymous token") && named:
		return "; no token was sent: give one in " + tokenFrom + ", with this rule: " + missing.rule()
	case named:
		return "; add this rule to a policy of the token: " + missing.rule()
	}
	return `; compare the policy of the token with what "hostagent acl-policy" prints`
}
