// SPDX-License-Identifier: MPL-2.0

// Package neighbours proves hostagent beside the firewalls and container engines that share a host with it: real ufw,
// firewalld, nft and Docker, real traffic from another namespace, a real Consul agent and the built binary.
//
// The neighbours are not installed on the machine. They live in a root file system that test/neighbours.sh makes (make
// neighbours); each test mounts it below a writable layer of its own and runs them, and hostagent, inside.
package neighbours

import (
	"fmt"
	"os"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// rootEnv names the root file system that the neighbours are installed in.
const rootEnv = "HOSTAGENT_NEIGHBOURS_ROOT"

func TestMain(m *testing.M) {
	if os.Getenv(rootEnv) == "" {
		fmt.Fprintln(os.Stderr, "NOT RUN: every test beside real ufw, firewalld, nft and Docker; as root: make neighbours")
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the neighbours need root: mounts, namespaces, containers")
		os.Exit(1)
	}
	host.Main(m)
}
