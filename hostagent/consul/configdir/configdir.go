// SPDX-License-Identifier: MPL-2.0

// Package configdir reads the configuration files of a Consul agent the way the agent itself does: HCL (version 1) and
// JSON, the same keys accepted and refused, merged in lexical order. It needs no agent and starts none. Begin with Read;
// Config.Registrations then predicts what an agent started with these files would register.
//
// Where the agent would refuse to start over one bad file, Read says why, with file and line, and goes on with the others.
// It is tested against Consul 1.21.
package configdir

import (
	"fmt"
	"strconv"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// Config is what an agent that is started with some files would be configured to do.
type Config struct {
	// Files were read, in the order in which the agent reads them, the refused ones too.
	Files []string
	// Skipped are the folders in the folders that were given, in order: the agent reads nothing in them. Those whose names
	// begin with two dots are left out; they are where Kubernetes keeps what it links to.
	Skipped []string
	// Services are the good service definitions of all files, in the order in which the agent registers them.
	Services []Service
	// Settings are all else that files say, merged as the agent merges them, without those that it refuses.
	Settings Settings
	// Secrets say of each of Files what it holds, as far as it could be read and decoded: one that is missing may hold any.
	Secrets map[string]Secret
	// Problems are what the agent would refuse to start over, in the order of Files and lines. Definitions that they
	// concern are in Services no more.
	Problems []Problem
}

// Problem is one thing that Consul refuses.
type Problem struct {
	File   string
	Line   int // from 1; 0 where it concerns the file as a whole
	Reason string
}

// Error shows control characters of the file's name as escapes; Reason has none.
func (p Problem) Error() string {
	file := p.File
	if quoted := strconv.Quote(file); len(quoted) != len(file)+2 {
		file = quoted
	}
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", file, p.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", file, p.Line, p.Reason)
}

// Service is one service definition as it is written, before the agent's defaults. Tokens in it are kept out: what is left of
// one is its hash.
type Service struct {
	File string
	Line int // where the definition begins

	ID         string // empty: the name
	Name       string
	Kind       string
	Namespace  string
	Partition  string
	Address    string
	Port       int
	SocketPath string
	// TaggedAddresses are as written, in no order.
	TaggedAddresses []consul.Bind
	Native          bool          // connect { native = true }
	Proxy           *consul.Proxy // proxy {}, nil where there is none
	Sidecar         *Service      // connect { sidecar_service {} }, nil where there is none
	// TokenHash is of the token that the agent registers it with, a sidecar with its service's unless it has one; zero for
	// none.
	TokenHash consul.TokenHash
}
