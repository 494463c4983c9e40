// SPDX-License-Identifier: MPL-2.0

// Package audit proves `hostagent audit` against real Consul agents: hardened ones, hardened ones with one thing broken, and
// agents as nobody should run them.
//
// A hardened server is made once and stopped (see kit); each test starts a copy of it on a host of its own, as a user of its
// own and without any right, with hostagent beside it that guards the sidecar range.
package audit

import (
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

func TestMain(m *testing.M) { host.Main(m) }
