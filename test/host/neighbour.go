// SPDX-License-Identifier: MPL-2.0

package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Neighbour is one more network namespace: another host, or a container of the host. Close of the host ends it.
type Neighbour struct {
	*Namespace
	IPv4, IPv6 string // its addresses
}

// ContainerBridge is the host's bridge that containers are on, as a container runtime would make it.
const ContainerBridge = "containers0"

const segmentBridge = "segment" // in the network's namespace

// Neighbour adds another host to the network around the host, with the next free addresses there.
func (h *Host) Neighbour() (*Neighbour, error) {
	return h.plug(h.Net, segmentBridge, NetIPv4, NetIPv6, interfaceName)
}

// Container adds a container to the host: a namespace behind ContainerBridge, through which it reaches all of the host's
// addresses.
func (h *Host) Container() (*Neighbour, error) {
	return h.plug(h.Local, ContainerBridge, "172.30.0.1", "fd00:30::1", "")
}

// plug adds a namespace to a bridge of another one. The bridge is made where it is missing and gets the given addresses,
// and uplink, if any, becomes a port of it.
func (h *Host) plug(in *Namespace, bridge, ipv4, ipv6, uplink string) (*Neighbour, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, fmt.Errorf("cannot add a namespace: %w", errClosed)
	}
	number := len(h.neighbours) + 1
	name := fmt.Sprintf("%s-%d", h.Net.Name, number)
	if err := removeName(name); err != nil { // of a program that was killed
		return nil, err
	}
	namespace, err := newNamespace(name)
	if err != nil {
		return nil, err
	}
	n := &Neighbour{Namespace: namespace, IPv4: after(ipv4, number), IPv6: after(ipv6, number)}
	h.neighbours = append(h.neighbours, n)
	err = in.Do(func() error {
		link, err := makeBridge(bridge, uplink, ipv4+"/24", ipv6+"/64")
		if err != nil {
			return err
		}
		port := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("port%d", number), MasterIndex: link.Attrs().Index},
			PeerName:  interfaceName, PeerNamespace: netlink.NsFd(namespace.handle),
		}
		return errors.Join(netlink.LinkAdd(port), netlink.LinkSetUp(port))
	})
	if err != nil {
		return nil, fmt.Errorf("cannot plug %q into %s: %w", name, bridge, err)
	}
	err = n.Do(func() error {
		if err := errors.Join(linkUp(), addAddresses(n.IPv4+"/24", n.IPv6+"/64")); err != nil {
			return err
		}
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(ipv4)}),
			netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(ipv6)}))
	})
	if err != nil {
		return nil, fmt.Errorf("cannot set up %q: %w", name, err)
	}
	return n, nil
}

// after is the address some numbers behind another.
func after(text string, steps int) string {
	addr := netip.MustParseAddr(text)
	for range steps {
		addr = addr.Next()
	}
	return addr.String()
}

// makeBridge returns the bridge of that name, which it makes where it is missing.
func makeBridge(name, uplink string, prefixes ...string) (netlink.Link, error) {
	if link, err := netlink.LinkByName(name); err == nil {
		return link, nil
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(bridge); err != nil {
		return nil, err
	}
	if uplink != "" {
		link, err := netlink.LinkByName(uplink)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(flushAddresses(link), netlink.LinkSetMaster(link, bridge)); err != nil {
			return nil, err
		}
	}
	return bridge, errors.Join(netlink.LinkSetUp(bridge), addAddressesTo(bridge, prefixes...))
}

// flushAddresses takes away the addresses that are of the bridge from now on.
func flushAddresses(link netlink.Link) error {
	addresses, err := netlink.AddrList(link, unix.AF_UNSPEC)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		err = errors.Join(err, netlink.AddrDel(link, &address))
	}
	return err
}
