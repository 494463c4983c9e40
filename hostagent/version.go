// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"context"
	"fmt"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// startPatience is how long a start waits for an agent to tell its version.
const startPatience = time.Second

// RefuseOld returns an error where the agent that answers now is older than consul.MinVersion: it would never give a whole
// answer. One that does not answer is no reason not to start: Run waits for it, and refuses what it says while it is too old.
func (p *Parts) RefuseOld(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	agent, err := p.Registry.Agent(ctx)
	if err != nil { // without agent:read a very old one can still be told
		_, err = p.Registry.Services(ctx)
	} else {
		err = agent.TooOld()
	}
	if consul.KindOf(err) == consul.KindTooOld {
		return fmt.Errorf("cannot run beside this Consul agent: %w; until then hostagent scan works, and rules of an earlier run stand", err)
	}
	return nil
}

// unknownVersion is what a whole answer cannot be relied on for, where the agent did not tell its version.
const unknownVersion = "the version of the Consul agent is not known, because the token lacks agent:read; " +
	"one older than " + consul.MinVersion + " leaves out what the token may not read without a word"
