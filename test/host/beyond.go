// SPDX-License-Identifier: MPL-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// Addresses of the pair that AddBeyond lays.
const (
	HostBeyondIPv4 = "10.98.0.1"  // the host
	HostBeyondIPv6 = "fd00:98::1" // the host
	BeyondIPv4     = "10.98.0.2"  // the network beyond
	BeyondIPv6     = "fd00:98::2" // the network beyond
)

const beyondInterface = "eth1" // in the host

// AddBeyond makes a second network on the other side of the host, behind the host's eth1, and lets the host forward: what
// passes between Net and it is transit. It may be called once; Close takes the network away.
func (h *Host) AddBeyond() (*Namespace, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || h.beyond != nil {
		return nil, errors.New("cannot add the network beyond: the host is closed or has it already")
	}
	name := strings.TrimSuffix(h.Local.Name, "-host") + "-beyond"
	if err := removeName(name); err != nil {
		return nil, err
	}
	beyond, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	h.beyond = beyond
	err = h.Local.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: beyondInterface},
			PeerName:      interfaceName,
			PeerNamespace: netlink.NsFd(beyond.handle),
		})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot add veth pair: %w", err)
	}
	if err := errors.Join(beyond.Do(linkUp), h.Local.Do(func() error { return setUp(beyondInterface) })); err != nil {
		return nil, fmt.Errorf("cannot set the pair to the network beyond up: %w", err)
	}
	err = errors.Join(
		h.Local.Do(func() error {
			return errors.Join(addressesOf(beyondInterface, HostBeyondIPv4+"/24", HostBeyondIPv6+"/64"), forward())
		}),
		beyond.Do(func() error {
			return errors.Join(addAddresses(BeyondIPv4+"/24", BeyondIPv6+"/64"), defaultRoutes(HostBeyondIPv4, HostBeyondIPv6))
		}),
		h.Net.Do(func() error { return defaultRoutes(IPv4, IPv6) }))
	if err != nil {
		return nil, fmt.Errorf("cannot set up the network beyond: %w", err)
	}
	return beyond, nil
}

// forward lets the namespace of this thread pass packets on.
func forward() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0))
}

func defaultRoutes(gateways ...string) error {
	for _, gateway := range gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gateway)}); err != nil {
			return fmt.Errorf("route by way of %s: %w", gateway, err)
		}
	}
	return nil
}
