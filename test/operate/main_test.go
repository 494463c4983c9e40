// SPDX-License-Identifier: MPL-2.0

// Package operate holds what packaging gives to operators, alert rules and a dashboard, to a hostagent that runs (make
// test-alerts).
package operate

import (
	"fmt"
	"os"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// toolsEnv names the folder with promtool and the program of test/alerts.
const toolsEnv = "HOSTAGENT_ALERTS_TOOLS"

func TestMain(m *testing.M) {
	if os.Getenv(toolsEnv) == "" {
		fmt.Fprintln(os.Stderr, "NOT RUN: alert rules and dashboard beside a hostagent that runs: make test-alerts")
		os.Exit(0)
	}
	host.Main(m)
}
