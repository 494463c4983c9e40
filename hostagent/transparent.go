// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// mitigation tells what keeps the network from an exposed listener of an application or of its sidecar: our guard, or a
// transparent proxy, to which the kernel sends what the network wants of the listener.
func (e *evaluation) mitigation(proxies []*consul.Registration, l *sockets.Listener) (state State, guard string) {
	switch {
	case e.in.Enforced.Has(l.Addr.Port()):
		return Mitigated, "hostagent's guard"
	case e.redirected(proxies, l):
		return Mitigated, "the redirect to its transparent proxy"
	}
	return Open, ""
}

// redirected tells whether whatever the network sends to a listener ends at a transparent proxy of its application, over
// each version of IP at which the network reaches it. The proxy's word that it is one is not enough: the rules have to
// stand.
func (e *evaluation) redirected(proxies []*consul.Registration, l *sockets.Listener) bool {
	if e.in.Host == nil || len(e.in.Host.Redirects) == 0 {
		return false
	}
	families := e.families(l)
	return slices.ContainsFunc(proxies, func(p *consul.Registration) bool {
		return p.Proxy.Mode == consul.ModeTransparent && !slices.ContainsFunc(families, func(f firewall.Family) bool {
			return !e.redirects(f, p, l.Addr.Port())
		})
	})
}

// redirects tells whether the network's connections to a port, or to any where that is 0, end at a proxy.
func (e *evaluation) redirects(family firewall.Family, p *consul.Registration, port uint16) bool {
	inbound := cmp.Or(p.Proxy.BindPort, p.Port)
	return slices.ContainsFunc(e.in.Host.Redirects, func(r firewall.Redirect) bool {
		return r.Family == family && int(r.To) == inbound && (port == 0 || r.Ports.Has(port))
	})
}

// families are the versions of IP at which the network reaches a listener: those that it takes and of which the host has
// an address, as far as that is known.
func (e *evaluation) families(l *sockets.Listener) []firewall.Family {
	own := l.Addr.Addr()
	takes4 := own.Unmap().Is4() || own.IsUnspecified() && !l.V6Only
	takes6 := own.Is6() && !own.Is4In6()
	has := func(is func(netip.Addr) bool) bool {
		addresses := e.in.Host.Addresses
		return len(addresses) == 0 || slices.ContainsFunc(addresses, func(a netip.Addr) bool { return is(a) && !a.IsLoopback() })
	}
	var families []firewall.Family
	if takes4 && (!takes6 || has(netip.Addr.Is4)) {
		families = append(families, firewall.IPv4)
	}
	if takes6 && (!takes4 || has(netip.Addr.Is6)) {
		families = append(families, firewall.IPv6)
	}
	if families == nil {
		return []firewall.Family{firewall.IPv4, firewall.IPv6} // addresses that nobody understands
	}
	return families
}

// redirectText says of an open listener, behind its remedy, why the transparent proxy does not keep the network from it. It
// says nothing where there is none, or where it is not known what stands.
func (e *evaluation) redirectText(proxies []*consul.Registration, l *sockets.Listener) string {
	at := slices.IndexFunc(proxies, func(p *consul.Registration) bool { return p.Proxy.Mode == consul.ModeTransparent })
	if at < 0 || e.in.Host == nil || !e.in.Host.RedirectsKnown {
		return ""
	}
	const mode = "; its sidecar is in transparent mode, but "
	p, port := proxies[at], l.Addr.Port()
	four, six := e.redirects(firewall.IPv4, p, port), e.redirects(firewall.IPv6, p, port)
	switch {
	case four != six && !slices.Equal(e.families(l), []firewall.Family{firewall.IPv4}):
		return mode + "the network's connections to it are redirected over one version of IP only"
	case e.redirects(firewall.IPv4, p, 0) || e.redirects(firewall.IPv6, p, 0):
		return mode + "the redirect of the network's connections leaves this port out"
	}
	return mode + "nothing redirects the network's connections to the sidecar (consul connect redirect-traffic)"
}
