// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// withoutAddresses is f for a test of everything else.
func withoutAddresses(f Facts) Facts {
	f.Addresses, f.Interfaces = nil, nil
	return f
}

// TestAddresses asks a real kernel, in the namespace of the calling thread.
func TestAddresses(t *testing.T) {
	h := newHost(t)
	shell(t, h, "ip link add d0 type veth peer name d1; for d in d0 d1; do ip link set $d up; ip addr add fe80::7/64 dev $d nodad; done; "+
		"ip addr add 10.5.0.1 peer 10.5.0.2 dev d0")
	got := read(t, h).Addresses
	if !slices.IsSortedFunc(got, netip.Addr.Compare) || len(slices.Compact(slices.Clone(got))) < len(got) {
		t.Errorf("not sorted, or not each once: %v", got)
	}
	for _, text := range []string{"127.0.0.1", "::1", host.IPv4, host.IPv6, "fe80::7", "10.5.0.1"} {
		if !slices.Contains(got, netip.MustParseAddr(text)) {
			t.Errorf("%s is missing in %v", text, got)
		}
	}
	for _, text := range []string{host.NetIPv4, "10.5.0.2"} {
		if slices.Contains(got, netip.MustParseAddr(text)) {
			t.Errorf("the network's address %s is in %v", text, got)
		}
	}
}

// TestInterfaces asks a real kernel what it has and what that takes in.
func TestInterfaces(t *testing.T) {
	h := newHost(t)
	shell(t, h, `
ip link set eth0 addrgenmode none
ip -6 addr flush dev eth0 scope link
ip link add v0 type veth peer name v1
ip link add br0 type bridge
ip link set v0 master br0
ip link set v1 addrgenmode none
ip link set v1 up
ip addr add 10.9.9.9/32 dev lo
ip addr add 10.5.0.1 peer 10.5.0.2 dev v1
sysctl -qw net.ipv6.conf.v1.disable_ipv6=1
ip route add local 192.0.2.77/32 dev eth0
ip route add local 198.51.100.0/24 dev lo
ip route add local fd00:77::/64 dev lo
ip route add local 192.0.2.78/32 dev eth0 table 77
ip route add 192.0.2.79/32 dev eth0
`)
	f := read(t, h)
	var got []string
	names := map[uint32]string{}
	for _, i := range f.Interfaces {
		names[i.Index] = i.Name
	}
	for _, i := range f.Interfaces {
		got = append(got, fmt.Sprintf("%s %q master=%q loopback=%t up=%t ipv6=%t %v %v", i.Name, i.Kind, names[i.Master], i.Loopback, i.Up, i.IPv6, i.Addresses, i.Routed))
	}
	slices.Sort(got)
	want := []string{
		`br0 "bridge" master="" loopback=false up=false ipv6=true [] []`,
		`eth0 "veth" master="" loopback=false up=true ipv6=true [10.99.0.1/24 fd00:99::1/64] [192.0.2.77/32]`,
		`lo "" master="" loopback=true up=true ipv6=true [10.9.9.9/32 127.0.0.1/8 ::1/128] [198.51.100.0/24 fd00:77::/64]`,
		`v0 "veth" master="br0" loopback=false up=false ipv6=true [] []`,
		`v1 "veth" master="" loopback=false up=true ipv6=false [10.5.0.1/32] []`,
	}
	if diff := cmp.Diff(want, got); diff != "" || f.Notes != nil || f.TCPAcrossVRFs || f.UDPAcrossVRFs {
		t.Errorf("(-want +got), notes %q:\n%s", f.Notes, diff)
	}
	sysctl(t, h.Local, "tcp_l3mdev_accept=1")
	if f := read(t, h); !f.TCPAcrossVRFs || f.UDPAcrossVRFs {
		t.Errorf("across VRFs: TCP %t, UDP %t", f.TCPAcrossVRFs, f.UDPAcrossVRFs)
	}
	sysctl(t, h.Local, "udp_l3mdev_accept=1", "tcp_l3mdev_accept=0")
	if f := read(t, h); f.TCPAcrossVRFs || !f.UDPAcrossVRFs {
		t.Errorf("across VRFs: TCP %t, UDP %t", f.TCPAcrossVRFs, f.UDPAcrossVRFs)
	}
}

// TestDuplicateAddress: an IPv6 address that another host has is none of this one's.
func TestDuplicateAddress(t *testing.T) {
	h := newHost(t)
	shell(t, h, "ip addr add "+host.NetIPv6+"/64 dev eth0; timeout 5 sh -c 'until ip addr show dev eth0 | grep -q dadfailed; do sleep 0.05; done'")
	if got := read(t, h).Addresses; slices.Contains(got, netip.MustParseAddr(host.NetIPv6)) {
		t.Errorf("it is in %v", got)
	}
}

// TestManyInterfaces: more than one message of the kernel, and names that nobody should print.
func TestManyInterfaces(t *testing.T) {
	h := newHost(t)
	var script strings.Builder
	for i := range 150 {
		fmt.Fprintf(&script, "link add v%d type veth peer name w%[1]d\naddr add 10.77.%[1]d.1/24 dev v%[1]d\n", i)
	}
	fmt.Fprintf(&script, "link set v0 name v\x1b[2J\n")
	shell(t, h, "ip -batch - <<'END'\n"+script.String()+"END")
	f := read(t, h)
	if len(f.Interfaces) != 302 || !slices.IsSortedFunc(f.Interfaces, func(a, b Interface) int { return int(a.Index) - int(b.Index) }) {
		t.Errorf("%d interfaces", len(f.Interfaces))
	}
	named := 0
	for _, i := range f.Interfaces {
		if strings.HasPrefix(i.Name, "v") && len(i.Addresses) == 1 {
			named++
		}
		if i.Name != clean(i.Name) {
			t.Errorf("name %q", i.Name)
		}
	}
	if named != 150 {
		t.Errorf("%d have their address", named)
	}
}

// TestParseOddMessages: what is too short is no interface, address or route.
func TestParseOddMessages(t *testing.T) {
	for size := range unix.SizeofIfInfomsg {
		if _, ok := parseInterface(make([]byte, size)); ok {
			t.Errorf("an interface of %d bytes", size)
		}
	}
	for size := range unix.SizeofIfAddrmsg {
		if _, ok := parseOwn(make([]byte, size)); ok {
			t.Errorf("an address of %d bytes", size)
		}
	}
	wrong := append(make([]byte, unix.SizeofIfAddrmsg), appendAttribute(nil, unix.IFA_ADDRESS, []byte{10, 0, 0, 1})...)
	wrong[1] = 33
	if _, ok := parseOwn(wrong); ok {
		t.Error("an address of 33 bits")
	}
	if takesIPv6(appendAttribute(nil, unix.AF_INET6, appendAttribute(nil, unix.IFLA_INET6_CONF, make([]byte, 8)))) {
		t.Error("settings without disable_ipv6")
	}
}

// BenchmarkReadInterfaces asks for two interfaces and for those of a host with many containers.
func BenchmarkReadInterfaces(b *testing.B) {
	for _, pairs := range []int{0, 500} {
		h := newHost(b)
		var script strings.Builder
		for i := range pairs {
			fmt.Fprintf(&script, "link add v%d type veth peer name w%[1]d\naddr add 10.77.%d.%d/32 dev v%[1]d\n", i, i/250, i%250+1)
		}
		shell(b, h, "ip -batch - <<'END'\n"+script.String()+"END")
		b.Run(fmt.Sprintf("%d", 2*pairs+2), func(b *testing.B) {
			b.ReportAllocs()
			check(b, h.InHost(func() error {
				for b.Loop() {
					if all, err := readInterfaces(context.Background()); err != nil || len(all) < 2*pairs+2 {
						return fmt.Errorf("%d interfaces, %w", len(all), err)
					}
				}
				return nil
			}))
		})
	}
}

// TestManyAddressesOfOneInterface: each has a local route, which is not to be compared with each address.
func TestManyAddressesOfOneInterface(t *testing.T) {
	i := Interface{}
	addr := netip.MustParseAddr("10.0.0.0")
	for range 60_000 {
		i.Addresses = append(i.Addresses, netip.PrefixFrom(addr, 8))
		addr = addr.Next()
	}
	start := time.Now()
	for _, p := range i.Addresses {
		if !i.hasAddress(netip.PrefixFrom(p.Addr(), 32)) {
			t.Fatalf("%v is not there", p)
		}
	}
	for _, text := range []string{"10.0.0.0/8", "10.0.0.0/31", "10.255.0.0/32", "fd00::1/128"} {
		if i.hasAddress(netip.MustParsePrefix(text)) {
			t.Errorf("%s is an address", text)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %v", took)
	}
}
