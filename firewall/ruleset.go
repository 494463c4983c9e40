// SPDX-License-Identifier: MPL-2.0

package firewall

import "net/netip"

// Ruleset is everything that hostagent wants from the kernel's firewall. It is a whole state, never a change: Apply may
// be called again with the same one, and with any other one after it.
type Ruleset struct {
	// Guard holds the ports that the network may not reach unless they are in Open.
	Guard PortSet
	// Open holds the ports that the network may reach, whatever the host's own filter rules say (see Accept).
	Open PortSet
	// AllowFrom holds the networks whose hosts may connect to the ports in Open; empty means everybody. What comes over
	// lo, as the host's traffic with itself does, may always. Apply does not keep the slice.
	AllowFrom []netip.Prefix
	// Paths holds the ports that only PathsFrom may reach, which AllowFrom says nothing of: guarded ports let these sources
	// in, and others of the network not. Ports outside of Guard are let in from these sources whatever the host's own filter
	// rules say; for everybody else those rules alone count. A port that is in Open, too, is open as the others there.
	Paths PortSet
	// PathsFrom holds the networks whose hosts may connect to the ports in Paths; empty means nobody, and Paths is taken for
	// empty then. What comes over lo may always. Apply does not keep the slice.
	PathsFrom []netip.Prefix
	// Cut holds the ports whose running connections end too. The rules that read it need connection tracking, so
	// they stand only where CutRules is set.
	Cut      PortSet
	CutRules bool
	// Accept says where the jump to our accept rule stands. The nftables backend has no such rule: what one table accepts
	// another may still drop, so there the host's own rules must let in the open ports.
	Accept Accept
}

// Accept is the place of the jump to our accept rule in the filter table. The zero value is AcceptHead.
type Accept struct {
	// None leaves the accept rule out: the host's own rules admit the open ports.
	None bool
	// Chain is the filter chain at whose head the jump stands; empty means INPUT.
	Chain string
}
