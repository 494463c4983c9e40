// SPDX-License-Identifier: MPL-2.0

// Package browser looks at hostagent's results where operators do: in the Consul UI, with a real browser, on a whole host. It
// is a module of its own, so that what drives the browser stays out of hostagent's requirements.
package browser

import (
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

func TestMain(m *testing.M) { host.Main(m) }
