// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// natChainType is the type of base chains that rewrite addresses.
const natChainType = "nat"

// ForeignNAT tells whether nf_tables has a chain that rewrites where packets from the network go and that iptables does not
// show: a native one, as netavark's and firewalld's are. Published and Redirects do not know what stands in it. Where the
// kernel cannot be asked the answer is yes. It starts no program and changes nothing.
func (f *Firewall) ForeignNAT() bool {
	answer, err := nftRequest(unix.NFPROTO_UNSPEC, unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, nil)
	if err != nil {
		return f.native != nil // without nf_tables in the kernel nothing is in it
	}
	return slices.ContainsFunc(answer, isForeignNAT)
}

// isForeignNAT looks at a chain of a dump.
func isForeignNAT(message []byte) bool {
	family := message[0]
	table, kind, hook := "", "", uint32(unix.NF_INET_NUMHOOKS)
	for attribute, value := range attributes(message[nl.SizeofNfgenmsg:]) {
		switch attribute {
		case unix.NFTA_CHAIN_TABLE:
			table = unix.ByteSliceToString(value)
		case unix.NFTA_CHAIN_TYPE:
			kind = unix.ByteSliceToString(value)
		case unix.NFTA_CHAIN_HOOK:
			for inner, number := range attributes(value) {
				if inner == unix.NFTA_HOOK_HOOKNUM && len(number) >= 4 {
					hook = binary.BigEndian.Uint32(number)
				}
			}
		}
	}
	iptables := table == natTable && (family == unix.NFPROTO_IPV4 || family == unix.NFPROTO_IPV6)
	return kind == natChainType && hook == unix.NF_INET_PRE_ROUTING && !iptables
}
