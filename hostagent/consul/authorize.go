// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/consul/api"
)

// Right is something that a token may be allowed to do, in the words of Consul's ACL rules.
type Right struct {
	Resource string // "service", "intention", "acl", "operator", "keyring", …
	Segment  string // the name it is about; "" for resources that have none
	Access   string // "read", "write", "list"
}

// maxRights is how many questions an agent answers at once (agent/acl_endpoint.go, 1.8 to 1.21).
const maxRights = 64

// Authorize asks the agent which of the rights the client's token has, or nobody's with anonymous: nothing is tried. The
// answer has the order of the question. No right is needed. With ACLs disabled the error is of KindACLsOff.
//
// Nobody's rights are what whoever reaches the agent may do: by a request without a token, which has the rights of the agent's
// default token (acl.tokens.default) where there is one, and by one that calls itself anonymous, which has those of the
// anonymous token (seen with Consul 1.21).
func (c *Client) Authorize(ctx context.Context, anonymous bool, rights ...Right) ([]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	allowed := make([]bool, 0, len(rights))
	for len(rights) > 0 {
		some := rights[:min(len(rights), maxRights)]
		rights = rights[len(some):]
		answers, err := c.authorize(ctx, some, answer{nobody: anonymous})
		if err != nil {
			return nil, err
		}
		if anonymous {
			named, err := c.authorize(ctx, some, answer{nobody: true, as: anonymousSecret})
			if err != nil && KindOf(err) != KindDenied { // denied where that token was deleted
				return nil, err
			}
			for i, allows := range named {
				answers[i] = answers[i] || allows
			}
		}
		allowed = append(allowed, answers...)
	}
	return allowed, nil
}

// anonymousSecret is the secret of the anonymous token, the same in each datacenter.
const anonymousSecret = "anonymous"

func (c *Client) authorize(ctx context.Context, rights []Right, got answer) ([]bool, error) {
	if err := c.post(ctx, "/v1/internal/acl/authorize", rights, &got); err != nil {
		return nil, err
	}
	allowed, err := decodeRights(got.body, rights)
	if err != nil {
		return nil, c.malformed("answer about rights", err)
	}
	return allowed, nil
}

// decodeRights takes no answer for another question's.
func decodeRights(body []byte, rights []Right) ([]bool, error) {
	type verdict struct {
		Right
		Allow bool
	}
	verdicts, err := decodeList[verdict](body, maxRights, "answers")
	if err != nil {
		return nil, err
	}
	if len(verdicts) != len(rights) {
		return nil, fmt.Errorf("it has %d answers to %d questions", len(verdicts), len(rights))
	}
	allowed := make([]bool, len(rights))
	for i, v := range verdicts {
		if v.Right != rights[i] {
			return nil, errors.New("it answers another question")
		}
		allowed[i] = v.Allow
	}
	return allowed, nil
}

// post sends body as JSON, which api.Client does with PUT alone, and keeps the response whole in got. A status other than
// 200 is an error of the matching kind.
func (c *Client) post(ctx context.Context, path string, body any, got *answer) error {
	verb := "ask for " + path
	encoded, err := json.Marshal(body)
	if err != nil {
		return c.failure(verb, err)
	}
	ctx = context.WithValue(ctx, answerKey{}, got)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(encoded))
	if err != nil {
		return c.failure(verb, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return c.failure(verb, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return c.failure(verb, api.StatusError{Code: resp.StatusCode, Body: string(got.body[:min(len(got.body), maxErrorBody)])})
	}
	return nil
}
