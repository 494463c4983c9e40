// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// agent is the local Consul agent.
type agent interface {
	Running(context.Context) (consul.Running, error)
	Services(context.Context) (consul.Answer, error)
	Authorize(ctx context.Context, anonymous bool, rights ...consul.Right) ([]bool, error)
	Tokens(context.Context) (consul.Tokens, error)
	Keyrings(context.Context) ([]consul.Keyring, error)
	Authority(context.Context) (consul.Authority, error)
	CAConfig(context.Context) (consul.CAConfig, error)
	Intentions(context.Context) ([]consul.Intention, error)
	Servers(context.Context) ([]consul.Server, error)
}

// Sources say where Look looks.
type Sources struct {
	Consul      agent    // nil: no agent is asked
	Address     string   // of the agent, to find its process
	ConfigPaths []string // the agent's configuration; empty: where its process was told to read, if that can be seen
	// Service tells that the long-running service asks: it reads no file that may hold a token, asks no server but the local
	// agent, and needs no right beyond those of its own policy.
	Service bool
	Root    bool // the process is root's
	Host    Seen[Host]
	PID     int    // of the agent, where it is known; else 0
	Unit    string // its systemd unit; "" for none, and where it is not known
}

// Look gathers what an audit needs. What cannot be seen is no error: it is unknown in the Input.
func Look(context.Context, Sources) Input { return Input{} }
