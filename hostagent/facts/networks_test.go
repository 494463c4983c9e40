// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// readNetworks is ReadNetworks in the host, as text.
func readNetworks(t testing.TB, h *host.Host) string {
	t.Helper()
	var n Networks
	check(t, h.InHost(func() (err error) {
		n, err = ReadNetworks(context.Background())
		return err
	}))
	return fmt.Sprintf("%v behind %v", n.Addresses, n.Bridged)
}

// shell runs a script in the host.
func shell(t testing.TB, h *host.Host, script string) {
	t.Helper()
	out, code, err := h.Run(t.Context(), "sh", "-ec", script)
	if err != nil || code != 0 {
		t.Fatalf("%s: %d, %v\n%s", script, code, err, out)
	}
}

// TestReadNetworks: what lies behind a bridge of this host is told apart from what merely has a bridge in between.
func TestReadNetworks(t *testing.T) {
	const (
		own      = "10.99.0.1 fd00:99::1"
		docker   = "ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up\n"
		withPort = docker + "ip link add p0 type veth peer name p1; ip link set p0 master docker0 up; ip link set p1 up\n"
	)
	for _, tt := range []struct{ name, script, want string }{
		{"no bridge", "true", "[" + own + "] behind []"},
		{"more addresses", "ip addr add 192.0.2.9/32 dev lo; ip addr add 169.254.7.7/16 dev eth0; ip addr add 127.0.0.9/8 dev lo; " +
			"ip addr add 10.5.0.1 peer 10.5.0.2 dev eth0; ip addr add 2001:db8::5/64 dev eth0 nodad",
			"[10.5.0.1 10.99.0.1 192.0.2.9 2001:db8::5 fd00:99::1] behind []"},
		{"a bridge that nobody is on", docker, "[10.99.0.1 172.17.0.1 fd00:99::1] behind [172.17.0.0/16]"},
		{"containers on it", withPort, "[10.99.0.1 172.17.0.1 fd00:99::1] behind [172.17.0.0/16]"},
		{"both families, link-local left out", withPort + "ip addr add fd00:17::1/80 dev docker0 nodad; ip addr add 169.254.1.1/16 dev docker0",
			"[10.99.0.1 172.17.0.1 fd00:17::1 fd00:99::1] behind [172.17.0.0/16 fd00:17::/80]"},
		{"a network routed behind it", withPort + "ip route add 10.244.0.0/24 via 172.17.0.9; ip -6 route add fd00:244::/64 dev docker0",
			"[10.99.0.1 172.17.0.1 fd00:99::1] behind [10.244.0.0/24 172.17.0.0/16 fd00:244::/64]"},
		{"a tap, and several bridges", docker + "ip tuntap add t0 mode tap; ip link set t0 master docker0; ip link add cni0 type bridge; " +
			"ip addr add 10.88.0.1/16 dev cni0; ip link set cni0 up", "[10.88.0.1 10.99.0.1 172.17.0.1 fd00:99::1] behind [10.88.0.0/16 172.17.0.0/16]"},
		{"routes that lead elsewhere", withPort + "ip route add 10.245.0.0/24 via 10.99.0.2; ip route add blackhole 10.246.0.0/24; " +
			"ip route add 10.247.0.0/24 dev docker0 table 77; ip route add local 10.248.0.0/24 dev docker0 table main", "[10.99.0.1 172.17.0.1 fd00:99::1] behind [172.17.0.0/16]"},
		{"a default route elsewhere", withPort + "ip route add default via 10.99.0.2; ip -6 route add default via fd00:99::2",
			"[10.99.0.1 172.17.0.1 fd00:99::1] behind [172.17.0.0/16]"},

		{"a default route through it", withPort + "ip route add default via 172.17.0.9", "[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
		{"IPv6's default route through it", withPort + "ip -6 route add default dev docker0", "[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
		{"a default route of another table through it", withPort + "ip route add default via 172.17.0.9 table 77", "[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
		{"half of the internet through it", withPort + "ip route add 128.0.0.0/1 via 172.17.0.9", "[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
		{"a default route that goes two ways", withPort + "ip route add default nexthop via 10.99.0.2 nexthop via 172.17.0.9",
			"[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
		{"a tunnel on it", withPort + "ip link add vx0 type vxlan id 7 local 10.99.0.1 dstport 4789; ip link set vx0 master docker0",
			"[10.99.0.1 172.17.0.1 fd00:99::1] behind []"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Contains(tt.script, "tuntap") {
				netns.RequireRoot(t, "opens /dev/net/tun")
			}
			h := newHost(t)
			shell(t, h, tt.script)
			if diff := cmp.Diff(tt.want, readNetworks(t, h)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestIsVirtual: a network card has no kind, and none can be made for a test.
func TestIsVirtual(t *testing.T) {
	for kind, want := range map[string]bool{
		"veth": true, "tun": true, "dummy": true,
		"": false, "vlan": false, "bond": false, "vxlan": false, "team": false, "gretap": false, "wireguard": false, "macvlan": false,
	} {
		if isVirtual(kind) != want {
			t.Errorf("a port of kind %q is taken for virtual: %t", kind, !want)
		}
	}
}

// TestEachMessage: half of a dump is none, and what is no message is an error.
func TestEachMessage(t *testing.T) {
	message := func(kind, flags uint16, body ...byte) []byte {
		b := native.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
		b = native.AppendUint16(native.AppendUint16(b, kind), flags)
		b = append(append(b, make([]byte, 8)...), body...)
		return append(b, make([]byte, align(len(b))-len(b))...)
	}
	end := message(unix.NLMSG_DONE, unix.NLM_F_MULTI, 0, 0, 0, 0)
	refusal := message(unix.NLMSG_ERROR, 0, native.AppendUint32(nil, ^uint32(unix.EPERM)+1)...)
	for _, tt := range []struct {
		name     string
		datagram []byte
		count    int
		done     bool
		err      error // nil: none, or any where count is -1
	}{
		{"two and more to come", slices.Concat(message(16, 2, 1, 2, 3), message(16, 2)), 2, false, nil},
		{"the end", slices.Concat(message(16, 2), end), 1, true, nil},
		{"interrupted", slices.Concat(message(16, unix.NLM_F_DUMP_INTR), end), 0, false, unix.EINTR},
		{"interrupted at its end", message(unix.NLMSG_DONE, unix.NLM_F_DUMP_INTR, 0, 0, 0, 0), 0, false, unix.EINTR},
		{"refused", refusal, 0, true, unix.EPERM},
		{"an end without a status", message(unix.NLMSG_DONE, 0), 0, true, nil},
		{"nothing", nil, 0, false, nil},
		{"half a header", make([]byte, 9), 0, false, nil},
		{"longer than it is", append(native.AppendUint32(nil, 900), make([]byte, 20)...), -1, false, nil},
		{"shorter than a header", append(native.AppendUint32(nil, 3), make([]byte, 20)...), -1, false, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			count := 0
			done, err := eachMessage(tt.datagram, func(uint16, []byte) { count++ })
			if tt.count == -1 {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if count != tt.count || done != tt.done || !errors.Is(err, tt.err) {
				t.Errorf("%d messages, done %t, %v", count, done, err)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	for name, tt := range map[string]struct {
		errs  []error // of the tries, the last one of all that follow
		want  error
		tries int
	}{
		"at once":                     {[]error{nil}, nil, 1},
		"interrupted twice":           {[]error{unix.EINTR, fmt.Errorf("full: %w", unix.ENOBUFS), nil}, nil, 3},
		"interrupted again and again": {[]error{unix.EINTR}, unix.EINTR, dumpAttempts},
		"refused":                     {[]error{unix.EINTR, unix.EPERM, nil}, unix.EPERM, 2},
	} {
		tries := 0
		err := retry(t.Context(), func() error {
			tries++
			return tt.errs[min(tries, len(tt.errs))-1]
		})
		if !errors.Is(err, tt.want) || tries != tt.tries {
			t.Errorf("%s: %v after %d tries", name, err, tries)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := retry(ended, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}

// FuzzNetlink: no answer of the kernel, however odd, makes a panic.
func FuzzNetlink(f *testing.F) {
	f.Add(make([]byte, 60))
	f.Add(slices.Concat([]byte{2, 24, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0}, appendAttribute(nil, unix.RTA_DST, []byte{10, 0, 0, 0}),
		appendAttribute(nil, unix.RTA_OIF, []byte{1, 0, 0, 0}), appendAttribute(nil, unix.RTA_MULTIPATH, []byte{8, 0, 0, 0, 1, 0, 0, 0})))
	f.Add(append([]byte{2, 24, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0}, appendAttribute(appendAttribute(nil, unix.RTA_OIF, []byte{1, 0, 0, 0}), unix.RTA_DST, []byte{10})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = eachMessage(data, func(uint16, []byte) {})
		parseLink(data)
		for _, r := range appendRoutes(nil, data, map[uint32]bool{0: true, 1: true}) {
			if !r.to.IsValid() {
				t.Errorf("a route to %v", r.to)
			}
		}
	})
}

// BenchmarkReadNetworks is what limited sources cost every few seconds: on a host without bridges, and on one with 5
// bridges and 500 containers.
func BenchmarkReadNetworks(b *testing.B) {
	measure := func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ReadNetworks(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("plain", measure)
	h := newHost(b)
	var script strings.Builder
	for bridge := range 5 {
		fmt.Fprintf(&script, "link add br%d type bridge\naddr add 172.%d.0.1/16 dev br%[1]d\nlink set br%[1]d up\n", bridge, 20+bridge)
		for port := range 100 {
			fmt.Fprintf(&script, "link add v%d-%d type veth peer name w%[1]d-%[2]d\nlink set v%[1]d-%[2]d master br%[1]d up\n", bridge, port)
		}
	}
	shell(b, h, "ip -batch - <<'END'\n"+script.String()+"END\n")
	b.Run("500-containers", func(b *testing.B) {
		check(b, h.InHost(func() error {
			measure(b)
			return nil
		}))
	})
}
