// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"fmt"
	"testing"

	"github.com/hostagent/hostagent/test/host"
)

// nftablesConf is a ruleset as operators write one: it begins by emptying the kernel, drops by default, and has a place
// for the mesh's ports. So that a closed port is seen to be closed by us, it lets the squatter's in.
// (%s is what the set begins with.)
const nftablesConf = `#!/usr/sbin/nft -f
flush ruleset

table inet filter {
	set mesh_ports {
		type inet_service
		%s
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ct state established,related accept
		iif lo accept
		meta l4proto ipv6-icmp accept
		tcp dport 22 accept
		tcp dport 21100 accept
		tcp dport @mesh_ports accept
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
	}
}
`

// TestNativeNft: a native ruleset that drops by default opens the sidecars' ports itself, or through a set that hostagent
// keeps. Both that set and our own rules come back by themselves after the ruleset is loaded anew, which empties the kernel.
func TestNativeNft(t *testing.T) {
	for _, test := range []struct{ name, elements, config string }{
		{"its own list", "flags interval\n\t\telements = { 21000-21255 }", ""},
		{"its own list beside backend nftables", "flags interval\n\t\telements = { 21000-21255 }", nativeBackend},
		{"publish_set", "", "firewall {\n  publish_set = \"inet filter mesh_ports\"\n}\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			b.mesh()
			b.write("/etc/nftables.conf", fmt.Sprintf(nftablesConf, test.elements))
			b.sh("nft -f /etc/nftables.conf")
			b.reaches(squatted, host.Open)
			b.reaches(plain, host.Dropped)

			b.guard(test.config)
			b.reaches(squatted, host.Dropped)
			b.reaches(plain, host.Dropped)
			b.eventually(sidecar, host.Open)
			b.meshWorks()

			for range 2 {
				b.through("nft -f /etc/nftables.conf", "nft -f /etc/nftables.conf")
			}
			b.through("nft flush ruleset alone", "nft flush ruleset")
			b.through("nft -f /etc/nftables.conf after that", "nft -f /etc/nftables.conf")
			b.meshWorks()
			b.reaches(plain, host.Dropped)
		})
	}
}

// TestNativeNftWithoutASet: where the operator's ruleset has no place for the mesh's ports, hostagent names the chain that
// keeps the network from them.
func TestNativeNftWithoutASet(t *testing.T) {
	b := newBox(t)
	b.mesh()
	b.write("/etc/nftables.conf", fmt.Sprintf(nftablesConf, ""))
	b.sh("nft -f /etc/nftables.conf")
	b.guard("")
	b.reaches(sidecar, host.Dropped)
	b.blocked(`chain "input" of table inet "filter"`)
}
