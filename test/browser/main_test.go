// SPDX-License-Identifier: MPL-2.0

// Package browser looks at hostagent's results where operators do: in the Consul UI, with a real browser, on a whole host. It
// is a module of its own, so that what drives the browser stays out of hostagent's requirements.
package browser

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) {
	if err := host.Prepare(context.Background(), os.Stderr, host.AppProgram, host.HostagentProgram); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	netns.Main(m)
}
