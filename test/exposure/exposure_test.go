// SPDX-License-Identifier: MPL-2.0

// Package exposure proves what hostagent says of how the network reaches a listener: real sockets, and connections to every
// address of the host from two networks around it.
package exposure

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a host between two networks: one behind its eth0, the other behind its eth1.
type world struct {
	*host.Host
	t        *testing.T
	networks []*host.Namespace
	last     uint16 // port that was given out: the kernel would choose one twice, for each family
}

func newWorld(t *testing.T, script string) *world {
	t.Helper()
	t.Parallel()
	h, err := host.New(t.Context(), host.Options{Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, h.Close()) })
	beyond, err := h.AddBeyond()
	check(t, err)
	w := &world{Host: h, t: t, networks: []*host.Namespace{h.Net, beyond}, last: 7000}
	w.shell(script)
	return w
}

// shell runs a script in the host.
func (w *world) shell(script string) {
	w.t.Helper()
	out, code, err := w.Run(w.t.Context(), "sh", "-ec", script)
	if err != nil || code != 0 {
		w.t.Fatalf("%s: %d, %v\n%s", script, code, err, out)
	}
}

// socket is one to be made.
type socket struct {
	name     string
	addr     string
	device   string // SO_BINDTODEVICE
	scope    string // interface of a link-local address
	protocol int
	v6only   bool
	free     bool // IP_FREEBIND
}

// listen makes the socket, which stays until the test binary ends, and returns its port.
func (w *world) listen(s *socket) (port uint16, err error) {
	w.last++
	addr := netip.MustParseAddr(s.addr)
	family := unix.AF_INET
	if !addr.Is4() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, s.protocol)
	if err != nil {
		return 0, err
	}
	if family == unix.AF_INET6 {
		only := 0
		if s.v6only {
			only = 1
		}
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
	}
	if s.free {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1))
	}
	if s.device != "" {
		err = errors.Join(err, unix.BindToDevice(fd, s.device))
	}
	sockaddr, scopeErr := sockaddrOf(addr, w.last, s.scope)
	err = errors.Join(err, scopeErr)
	if err == nil {
		err = errors.Join(unix.Bind(fd, sockaddr), unix.Listen(fd, 4096))
	}
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return w.last, nil
}

func sockaddrOf(addr netip.Addr, port uint16, scope string) (unix.Sockaddr, error) {
	if addr.Is4() {
		return &unix.SockaddrInet4{Port: int(port), Addr: addr.As4()}, nil
	}
	to := &unix.SockaddrInet6{Port: int(port), Addr: addr.As16()}
	if scope != "" {
		link, err := netlink.LinkByName(scope)
		if err != nil {
			return nil, err
		}
		to.ZoneId = uint32(link.Attrs().Index)
	}
	return to, nil
}

// connects tries one connection through eth0 of the namespace that the thread is in.
func connects(addr netip.Addr, port uint16) (bool, error) {
	family, scope := unix.AF_INET, ""
	if addr.Is6() {
		family = unix.AF_INET6
	}
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		scope = "eth0"
	}
	to, err := sockaddrOf(addr, port, scope)
	if err != nil {
		return false, err
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	patience := unix.NsecToTimeval(700e6) // an answer takes less than 1 ms, and after 1 s the kernel asks again
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patience); err != nil {
		return false, err
	}
	err = unix.Connect(fd, to)
	for errors.Is(err, unix.EINTR) { // a signal of Go's runtime: called once more it goes on to wait
		err = unix.Connect(fd, to)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.EALREADY), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		return false, nil
	default:
		return false, fmt.Errorf("connect to %v: %w", addr, err)
	}
}

// reached lists the addresses at which a port of the host can be connected to from any of the networks, each with its
// interface as ways have it.
func (w *world) reached(f *facts.Facts, port uint16, more ...string) []string {
	w.t.Helper()
	type target struct {
		addr netip.Addr
		on   string
	}
	var targets []target
	for _, i := range f.Interfaces {
		for _, p := range i.Addresses {
			if !p.Addr().IsLoopback() {
				targets = append(targets, target{p.Addr(), i.Name})
			}
		}
	}
	for _, text := range more {
		addr, on, _ := strings.Cut(text, " ")
		targets = append(targets, target{netip.MustParseAddr(addr), on})
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	var found []string
	for _, to := range targets {
		for _, network := range w.networks {
			group.Go(func() {
				open := false
				err := network.Do(func() (err error) {
					open, err = connects(to.addr, port)
					return err
				})
				mu.Lock()
				defer mu.Unlock()
				if text := way(to.addr, to.on); open && !slices.Contains(found, text) {
					found = append(found, text)
				}
				if err != nil {
					w.t.Error(err)
				}
			})
		}
	}
	group.Wait()
	slices.Sort(found)
	return found
}

func way(addr netip.Addr, on string) string { return addr.String() + " " + on }

// look reads the host's facts and lists its listeners by port.
func (w *world) look() (f facts.Facts, listeners map[uint16]sockets.Listener) {
	w.t.Helper()
	listeners = map[uint16]sockets.Listener{}
	check(w.t, w.InHost(func() error {
		f = facts.Read(w.t.Context(), facts.Options{NomadConfig: []string{w.t.TempDir()}})
		all, err := sockets.List(w.t.Context())
		for _, l := range all {
			listeners[l.Addr.Port()] = l
		}
		return err
	}))
	if len(f.Interfaces) == 0 || f.Notes != nil {
		w.t.Fatalf("facts: %+v", f)
	}
	return f, listeners
}

// said lists at which addresses a listener is reached by what a finding says of it; none without a finding.
func said(f facts.Facts, l sockets.Listener) (ways []string, exposed bool) {
	at := l.Addr.Addr().Unmap() // where the application is called
	switch at {
	case netip.IPv4Unspecified():
		at = netip.MustParseAddr(host.IPv4)
	case netip.IPv6Unspecified():
		at = netip.MustParseAddr(host.IPv6)
	}
	in := hostagent.Input{
		Source: hostagent.SourceAgent, Settled: true, Listeners: []sockets.Listener{l}, Host: &hostagent.Host{Facts: f},
		Registrations: []consul.Registration{{ID: "app", Name: "app", Port: int(l.Addr.Port()), Address: at.String()}},
		Policy:        hostagent.Policy{Mode: hostagent.ModeObserve, AllServices: true},
	}
	result := hostagent.Evaluate(in)
	for _, finding := range result.Findings {
		if finding.ID != catalog.ExposedListener {
			continue
		}
		for _, w := range finding.Ways {
			ways = append(ways, way(w.Addr, w.Interface))
		}
		slices.Sort(ways)
		return ways, true
	}
	return nil, false
}

// prove opens sockets and compares what is said of each with what connections tell. more are addresses with their
// interfaces that are none of an interface's own.
func (w *world) prove(all []socket, more ...string) {
	w.t.Helper()
	ports := make([]uint16, len(all))
	check(w.t, w.InHost(func() (err error) {
		for i := range all {
			if ports[i], err = w.listen(&all[i]); err != nil {
				return fmt.Errorf("%s: %w", all[i].name, err)
			}
		}
		return nil
	}))
	f, listeners := w.look()
	var group sync.WaitGroup
	for i, s := range all {
		group.Go(func() {
			said, exposed := said(f, listeners[ports[i]])
			var reached []string
			for deadline := time.Now().Add(5 * time.Second); ; {
				reached = w.reached(&f, ports[i], more...)
				if slices.Equal(reached, said) || time.Now().After(deadline) {
					break // on a loaded machine an answer may be late, and a new bridge not ready
				}
			}
			if diff := cmp.Diff(reached, said); diff != "" {
				w.t.Errorf("%s: (-reached +said):\n%s", s.name, diff)
			}
			if exposed != listeners[ports[i]].Exposed() || !exposed && len(reached) > 0 {
				w.t.Errorf("%s: Exposed is %t, reached at %v, a finding: %t", s.name, listeners[ports[i]].Exposed(), reached, exposed)
			}
			if os.Getenv("HOSTAGENT_TEST_SHOW") != "" {
				w.t.Log(s.name, reached)
			}
		})
	}
	group.Wait()
}

// addresses are beside those of every host: on lo, of one link only, and by routes alone.
const addresses = `
for i in eth0 eth1; do ip link set $i addrgenmode none; ip -6 addr flush dev $i scope link; done
ip addr add 10.9.9.9/32 dev lo
ip addr add 10.9.9.8/32 dev lo scope host
ip addr add fd00:9::9/128 dev lo
ip addr add 169.254.7.7/16 dev eth1
ip addr add fe80::a0/64 dev eth0 nodad
ip addr add fe80::a1/64 dev eth1 nodad
ip addr add fe80::aa/64 dev lo nodad
ip addr add 127.0.9.9/32 dev eth0
ip route add local 192.0.2.77/32 dev eth0
ip route add local fd00:77::7/128 dev lo
ip route add local 198.51.100.0/24 dev lo
`

// routed are the addresses that no interface has.
func routed() []string {
	return []string{"192.0.2.77 eth0", "fd00:77::7 lo"}
}

// TestListeners: each kind of listener on a host whose interfaces are as they should be.
func TestListeners(t *testing.T) {
	w := newWorld(t, addresses)
	w.prove([]socket{
		{name: "IPv4 wildcard", addr: "0.0.0.0"},
		{name: "IPv6 wildcard takes IPv4", addr: "::"},
		{name: "IPv6 wildcard, V6ONLY", addr: "::", v6only: true},
		{name: "mapped wildcard", addr: "::ffff:0.0.0.0"},
		{name: "loopback", addr: "127.0.0.1"},
		{name: "loopback net on eth0", addr: "127.0.9.9"},
		{name: "IPv6 loopback", addr: "::1"},
		{name: "mapped loopback", addr: "::ffff:127.0.0.1"},
		{name: "wildcard on device lo", addr: "0.0.0.0", device: "lo"},
		{name: "IPv6 wildcard on device lo", addr: "::", device: "lo"},
		{name: "address on device lo", addr: "10.9.9.9", device: "lo"},
		{name: "wildcard on device eth0", addr: "0.0.0.0", device: "eth0"},
		{name: "IPv6 wildcard on device eth0", addr: "::", device: "eth0"},
		{name: "IPv6 wildcard on device eth1", addr: "::", device: "eth1"},
		{name: "address of eth1 on device eth0", addr: host.HostBeyondIPv4, device: "eth0"},
		{name: "address of lo on device eth1", addr: "fd00:9::9", device: "eth1"},
		{name: "loopback on device eth0", addr: "127.0.0.1", device: "eth0"},
		{name: "address of eth0", addr: host.IPv4},
		{name: "IPv6 address of eth1", addr: host.HostBeyondIPv6},
		{name: "mapped address", addr: "::ffff:" + host.IPv4},
		{name: "address on lo", addr: "10.9.9.9"},
		{name: "address on lo of scope host", addr: "10.9.9.8"},
		{name: "IPv6 address on lo", addr: "fd00:9::9"},
		{name: "IPv4 link-local", addr: "169.254.7.7"},
		{name: "link-local of eth0", addr: "fe80::a0", scope: "eth0"},
		{name: "link-local of eth1", addr: "fe80::a1", scope: "eth1"},
		{name: "link-local of lo", addr: "fe80::aa", scope: "lo"},
		{name: "MPTCP", addr: "::", protocol: unix.IPPROTO_MPTCP},
		{name: "MPTCP, V6ONLY", addr: "::", protocol: unix.IPPROTO_MPTCP, v6only: true},
		{name: "MPTCP on device lo", addr: "0.0.0.0", protocol: unix.IPPROTO_MPTCP, device: "lo"},
		{name: "MPTCP on device eth0", addr: "::", protocol: unix.IPPROTO_MPTCP, device: "eth0"},
		{name: "address by a route", addr: "192.0.2.77"},
		{name: "IPv6 address by a route", addr: "fd00:77::7", free: true},
		{name: "address that the host does not have", addr: "203.0.113.5", free: true},
		{name: "IPv6 address that the host does not have", addr: "fd00:5::5", free: true},
	}, append(routed(), "203.0.113.5 eth0", "fd00:5::5 eth0")...)
	w.prove([]socket{{name: "address in a network by a route", addr: "198.51.100.9"}}, append(routed(), "198.51.100.9 lo")...)
}

// TestAddressThatMoves: a listener at an address which another host has is reached once the address is here.
func TestAddressThatMoves(t *testing.T) {
	w := newWorld(t, addresses)
	const vip = "203.0.113.5"
	var port uint16
	check(t, w.InHost(func() (err error) {
		port, err = w.listen(&socket{addr: vip, free: true})
		return err
	}))
	f, listeners := w.look()
	if ways, exposed := said(f, listeners[port]); len(ways) > 0 || !exposed {
		t.Errorf("before it moves: %v, exposed %t", ways, exposed)
	}
	w.shell("ip addr add " + vip + "/32 dev eth1")
	f, listeners = w.look()
	ways, _ := said(f, listeners[port])
	if diff := cmp.Diff(w.reached(&f, port), ways); diff != "" || len(ways) != 1 {
		t.Errorf("after it moved (-reached +said):\n%s", diff)
	}
}

// TestInterfaces: the same listeners where an interface is not what it was.
func TestInterfaces(t *testing.T) {
	all := []socket{
		{name: "IPv6 wildcard", addr: "::"},
		{name: "IPv4 wildcard", addr: "0.0.0.0"},
		{name: "IPv6 wildcard on device eth0", addr: "::", device: "eth0"},
		{name: "IPv6 wildcard on device eth1", addr: "::", device: "eth1"},
		{name: "address of eth1", addr: host.HostBeyondIPv4},
		{name: "IPv6 address of eth1", addr: host.HostBeyondIPv6, free: true},
		{name: "IPv6 address on lo", addr: "fd00:9::9", free: true},
	}
	for _, tt := range []struct {
		name, script string
		more         []socket
	}{
		{"eth1 is down", "ip link set eth1 down", nil},
		{"eth1 is down and keeps its addresses", "sysctl -qw net.ipv6.conf.eth1.keep_addr_on_down=1; ip addr add fd00:98::3/64 dev eth1 nodad; ip link set eth1 down; " +
			"ip addr show dev eth1 | grep -q fd00:98::3", nil},
		{"all are down", "ip link set eth0 down; ip link set eth1 down", nil},
		{"IPv6 is disabled on eth0", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1", nil},
		{"IPv6 is disabled on both", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1 net.ipv6.conf.eth1.disable_ipv6=1", nil},
		{"IPv6 is disabled", "sysctl -qw net.ipv6.conf.all.disable_ipv6=1", nil},
		{"eth1 is a port of a bridge", `
ip link add br0 type bridge
ip link set br0 addrgenmode none
ip link set eth1 master br0
ip link set br0 up
timeout 5 sh -c 'until ip link show dev br0 | grep -q "state UP"; do sleep 0.02; done'
ip addr del fd00:98::1/64 dev eth1
ip addr add fd00:98::1/64 dev br0 nodad
ip addr add 10.97.0.1/24 dev br0
ip addr add fe80::b0/64 dev br0 nodad
ip route flush dev eth1
ip route add 10.98.0.0/24 dev br0
ip link set eth0 down`,
			[]socket{{name: "wildcard on device br0", addr: "0.0.0.0", device: "br0"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, addresses)
			w.shell(tt.script)
			w.prove(append(slices.Clone(all), tt.more...), routed()...)
		})
	}
}

// TestRouteLocalnet: with route_localnet neighbours reach listeners on loopback, the one that is bound to their device too,
// but not one that is bound to lo. Exposed says nothing of that: it is a finding about the host.
func TestRouteLocalnet(t *testing.T) {
	w := newWorld(t, "sysctl -qw net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.all.rp_filter=0")
	sockets := []socket{
		{name: "loopback", addr: "127.0.0.1"},
		{name: "loopback on device eth0", addr: "127.0.0.1", device: "eth0"},
		{name: "loopback on device eth1", addr: "127.0.0.1", device: "eth1"},
		{name: "loopback on device lo", addr: "127.0.0.1", device: "lo"},
	}
	ports := make([]uint16, len(sockets))
	check(t, w.InHost(func() (err error) {
		for i := range sockets {
			if ports[i], err = w.listen(&sockets[i]); err != nil {
				return err
			}
		}
		return nil
	}))
	// A neighbour that sends 127.0.0.0/8 out instead of keeping it.
	out, err := w.Net.Command(t.Context(), "sh", "-ec", `ip addr del 127.0.0.1/8 dev lo
sysctl -qw net.ipv4.conf.eth0.route_localnet=1 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.conf.all.rp_filter=0
ip route add 127.0.0.0/8 dev eth0`).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, on := range []bool{false, true} {
		if on {
			w.shell("sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
			out, err := w.Net.Command(t.Context(), "ip", "neigh", "flush", "dev", "eth0").CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		}
		f, listeners := w.look()
		if slices.Contains(f.RouteLocalnet, "eth0") != on {
			t.Errorf("route_localnet on %v, want %t for eth0", f.RouteLocalnet, on)
		}
		for i, s := range sockets {
			open := false
			check(t, w.InNet(func() (err error) {
				open, err = connects(netip.MustParseAddr("127.0.0.1"), ports[i])
				return err
			}))
			if want := on && (s.device == "" || s.device == "eth0"); open != want || listeners[ports[i]].Exposed() {
				t.Errorf("%s, route_localnet %t: reached %t, want %t; Exposed %t", s.name, on, open, want, listeners[ports[i]].Exposed())
			}
		}
	}
}
