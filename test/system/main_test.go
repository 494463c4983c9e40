// SPDX-License-Identifier: MPL-2.0

// Package system proves units and packages on booted Debian machines with systemd as their first process (make
// test-system): see package machine.
package system

import (
	"testing"

	"github.com/hostagent/hostagent/test/machine"
)

func TestMain(m *testing.M) { machine.Main(m) }
