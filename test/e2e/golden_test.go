// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/sockets"
	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// kindOfSocket is a way to listen.
type kindOfSocket struct {
	name     string
	udp      bool
	protocol int    // 0: the usual one
	address  string // with its port
	device   string // bound to it
	scope    string // interface of a link-local address
	v6only   bool
	freebind bool
	reuse    bool
	backlog  int // 0: 16
	uid      int // of who makes the socket
	sockets  int // on ports from that of address on; 0: 1
	holders  int // processes; 0: 1, -1: none, it waits in a queue between processes
	dropped  int // uid that the holders run as, where it is not root
}

const (
	mptcp        = 262 // IPPROTO_MPTCP
	nobody       = 65534
	anycast      = "198.51.100.7" // on lo
	linkLocal    = "fe80::77"     // on eth0
	elsewhere    = "192.0.2.99"   // on no interface of the host
	otherAddress = "127.0.0.53"
)

// kindsOfSockets are the ways to listen that programs use, and some that they do not.
func kindsOfSockets() []kindOfSocket {
	return []kindOfSocket{
		{name: "IPv4, every address", address: "0.0.0.0:40001"},
		{name: "IPv4, one address", address: host.IPv4 + ":40002"},
		{name: "IPv6 and IPv4, every address", address: "[::]:40003"},
		{name: "IPv6 only, every address", address: "[::]:40004", v6only: true},
		{name: "IPv4 as IPv6", address: "[::ffff:127.0.0.1]:40005"},
		{name: "every IPv4 address as IPv6", address: "[::ffff:0.0.0.0]:40006"},
		{name: "IPv6 loopback", address: "[::1]:40007"},
		{name: "IPv4 loopback", address: "127.0.0.1:40008"},
		{name: "another loopback address", address: otherAddress + ":40009"},
		{name: "bound to lo", address: "0.0.0.0:40010", device: "lo"},
		{name: "bound to an interface", address: "[::]:40011", device: "eth0"},
		{name: "IPv6 only, bound to an interface", address: "[::]:40012", device: "eth0", v6only: true},
		{name: "link-local", address: "[" + linkLocal + "]:40013", scope: "eth0"},
		{name: "an address on lo that is none of loopback", address: anycast + ":40014"},
		{name: "MPTCP", address: "0.0.0.0:40015", protocol: mptcp},
		{name: "MPTCP, IPv6 and IPv4", address: "[::]:40016", protocol: mptcp},
		{name: "SO_REUSEPORT", address: "0.0.0.0:40017", reuse: true},
		{name: "SO_REUSEPORT, the other one", address: "0.0.0.0:40017", reuse: true},
		{name: "prefork", address: "0.0.0.0:40018", holders: 4},
		{name: "prefork, privileges dropped", address: "0.0.0.0:40019", holders: 2, dropped: nobody},
		{name: "another user's", address: "0.0.0.0:40020", uid: nobody, dropped: nobody},
		{name: "an address that is not there", address: elsewhere + ":40021", freebind: true},
		{name: "a long queue", address: "127.0.0.1:40022", backlog: 65535},
		{name: "the last port", address: "[::]:65535"},
		{name: "many sockets of one process", address: "127.0.0.1:41000", sockets: 40},
		{name: "nobody's at the moment", address: "127.0.0.1:40023", holders: -1},
		{name: "UDP, every address", udp: true, address: "0.0.0.0:40001"},
		{name: "UDP, IPv6 and IPv4", udp: true, address: "[::]:40003"},
		{name: "UDP, bound to an interface", udp: true, address: "[::]:40011", device: "eth0"},
		{name: "UDP, link-local", udp: true, address: "[" + linkLocal + "]:40013", scope: "eth0"},
		{name: "UDP, loopback", udp: true, address: "127.0.0.1:40008"},
		{name: "UDP, prefork", udp: true, address: "0.0.0.0:40018", holders: 3},
	}
}

// open makes a socket of a kind on a port, in the namespace of the calling thread, which must be locked.
func (k *kindOfSocket) open(port uint16) (*os.File, error) {
	address := netip.MustParseAddrPort(k.address).Addr()
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var to unix.Sockaddr
	if address.Is4() {
		to = &unix.SockaddrInet4{Port: int(port), Addr: address.As4()}
	} else {
		in6 := &unix.SockaddrInet6{Port: int(port), Addr: address.As16()}
		if k.scope != "" {
			link, err := net.InterfaceByName(k.scope)
			if err != nil {
				return nil, err
			}
			in6.ZoneId = uint32(link.Index)
		}
		family, to = unix.AF_INET6, in6
	}
	if k.udp {
		kind = unix.SOCK_DGRAM
	}
	fd, err := k.socket(family, kind|unix.SOCK_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	file := os.NewFile(uintptr(fd), k.name)
	for _, option := range []struct {
		set         bool
		level, name int
	}{{k.v6only, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, {k.freebind, unix.IPPROTO_IP, unix.IP_FREEBIND}, {k.reuse, unix.SOL_SOCKET, unix.SO_REUSEPORT}} {
		if option.set {
			err = errors.Join(err, unix.SetsockoptInt(fd, option.level, option.name, 1))
		}
	}
	if k.device != "" {
		err = errors.Join(err, unix.BindToDevice(fd, k.device))
	}
	err = errors.Join(err, unix.Bind(fd, to))
	if !k.udp {
		err = errors.Join(err, unix.Listen(fd, cmp.Or(k.backlog, 16)))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// socket makes a socket as the user of the kind: the kernel takes the one that files are made as.
func (k *kindOfSocket) socket(family, kind int) (int, error) {
	if k.uid != 0 && !netns.Rootless() {
		unix.RawSyscall(unix.SYS_SETFSUID, uintptr(k.uid), 0, 0)
		defer unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
	}
	return unix.Socket(family, kind, k.protocol)
}

// listen makes the sockets of a kind in the host, and the processes that hold them; this one holds none.
func (w *world) listen(k kindOfSocket) {
	w.t.Helper()
	var files []*os.File
	w.must(w.InHost(func() error {
		first := netip.MustParseAddrPort(k.address).Port()
		for i := range max(k.sockets, 1) {
			file, err := k.open(first + uint16(i))
			if err != nil {
				return fmt.Errorf("cannot listen, %s: %w", k.name, err)
			}
			files = append(files, file)
		}
		return nil
	}))
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	if k.holders < 0 {
		w.park(files[0])
		return
	}
	for range max(k.holders, 1) {
		holder := exec.Command("sleep", "120")
		holder.ExtraFiles = files
		holder.SysProcAttr = &syscall.SysProcAttr{}
		if k.dropped != 0 && !netns.Rootless() {
			holder.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(k.dropped), Gid: uint32(k.dropped), NoSetGroups: true}
		}
		w.must(holder.Start())
		w.t.Cleanup(func() {
			_ = holder.Process.Kill()
			_ = holder.Wait()
		})
	}
}

// park leaves a file in the queue between two sockets, where no process holds it.
func (w *world) park(file *os.File) {
	w.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	w.t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
	w.must(unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(file.Fd())), nil, 0))
}

// dualStack is how ss writes the IPv6 address of all that takes IPv4 too.
const dualStack = "*"

// seen is a listening socket as a tool tells of it: "tcp 0.0.0.0%lo 40010 uid 0 pids [7]".
func seen(protocol, address, device string, port uint16, uid uint32, pids []int32) string {
	slices.Sort(pids)
	if device != "" {
		address += "%" + device
	}
	return fmt.Sprintf("%s %s %d uid %d pids %v", protocol, address, port, uid, slices.Compact(pids))
}

var (
	// "LISTEN 0 16 [::]%eth0:40012 [::]:* users:((\"sleep\",pid=7,fd=3)) uid:65534 ino:1 sk:1 v6only:1 <->"
	ssLine = regexp.MustCompile(`^(?:LISTEN|UNCONN) +\d+ +\d+ +(\*|\[[0-9a-f:.]+\]|[0-9.]+)(?:%([^: ]+))?:(\d+) +\S+:\* (.*)$`)
	ssPID  = regexp.MustCompile(`,pid=(\d+),`)
	ssUID  = regexp.MustCompile(` uid:(\d+) `)
)

// peer lists what ss sees.
func (w *world) peer() (all []string, err error) {
	w.t.Helper()
	for protocol, flags := range map[string]string{"tcp": "-ltnpeH", "udp": "-lunpeH"} {
		for line := range strings.Lines(w.run("ss", flags)) {
			parts := ssLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
			if parts == nil {
				return nil, fmt.Errorf("ss %s says what this test cannot read: %q", flags, line)
			}
			address, rest := strings.Trim(parts[1], "[]"), " "+parts[4]+" "
			if a, err := netip.ParseAddr(address); err == nil {
				address = a.String()
			}
			port, err := strconv.ParseUint(parts[3], 10, 16)
			if err != nil {
				return nil, err
			}
			var uid uint64
			if match := ssUID.FindStringSubmatch(rest); match != nil { // 0 is left out
				uid, err = strconv.ParseUint(match[1], 10, 32)
			}
			var pids []int32
			for _, match := range ssPID.FindAllStringSubmatch(rest, -1) {
				pid, pidErr := strconv.ParseInt(match[1], 10, 32)
				err = errors.Join(err, pidErr)
				pids = append(pids, int32(pid))
			}
			if err != nil {
				return nil, err
			}
			all = append(all, seen(protocol, address, parts[2], uint16(port), uint32(uid), pids))
		}
	}
	slices.Sort(all)
	return all, nil
}

// ours lists what package sockets sees in the host.
func (w *world) ours() (all []string, err error) {
	w.t.Helper()
	err = w.InHost(func() error {
		listeners, err := sockets.List(w.ctx)
		if err != nil {
			return err
		}
		owners, err := sockets.NewOwners().Lookup(w.ctx, listeners)
		if err != nil {
			return err
		}
		for _, l := range listeners {
			address, device := l.Addr.Addr().String(), ""
			if l.Addr.Addr() == netip.IPv6Unspecified() && !l.V6Only {
				address = dualStack
			}
			if l.Device != 0 {
				link, err := net.InterfaceByIndex(int(l.Device))
				if err != nil {
					return err
				}
				device = link.Name
			}
			var pids []int32
			for _, p := range owners.ByCookie[l.Cookie].Processes {
				pids = append(pids, p.PID)
			}
			all = append(all, seen(l.Protocol.String(), address, device, l.Addr.Port(), l.UID, pids))
		}
		return nil
	})
	slices.Sort(all)
	return all, err
}

// newCrowd makes a host on which every kind of socket listens, beside a Consul agent.
func newCrowd(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, host.ConsulOptions{})
	w.run("ip", "address", "add", anycast+"/32", "dev", "lo")
	w.run("ip", "address", "add", linkLocal+"/64", "dev", "eth0", "nodad")
	for _, k := range kindsOfSockets() {
		w.listen(k)
	}
	return w
}

// agrees wants a view of the host's sockets to be the peer's as adapt writes it, in the end: Consul opens and closes sockets
// of its own.
func (w *world) agrees(whose string, view func() ([]string, error), adapt func([]string) []string) {
	w.t.Helper()
	w.until(whose+" agrees with ss", func() error {
		want, err := w.peer()
		w.must(err)
		got, err := view()
		w.must(err)
		lines := 0
		for _, k := range kindsOfSockets() {
			lines += max(k.sockets, 1)
		}
		if len(want) < lines {
			w.t.Fatalf("ss sees %d sockets, and %d were made:\n%s", len(want), lines, strings.Join(want, "\n"))
		}
		if diff := gocmp.Diff(adapt(want), got); diff != "" {
			return fmt.Errorf("-ss +%s\n%s", whose, diff)
		}
		return nil
	})
}

// TestGoldenSockets: of every kind of listening socket, package sockets sees the same address, device, port, user and
// processes as ss does.
func TestGoldenSockets(t *testing.T) {
	w := newCrowd(t)
	w.agrees("sockets", w.ours, slices.Clone)
}
