// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// peer is another host: a network namespace that is reached through a veth pair.
type peer struct {
	work chan func()
	fd   int
}

// newPeer makes a namespace that is connected to the test's own one. The test's side has the addresses 10.9.NET.1 and
// fd09:NET::1, the peer's .2 and ::2.
func newPeer(t testing.TB, network int) *peer {
	t.Helper()
	p := &peer{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			p.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		ready <- err
		for f := range p.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatalf("cannot make a peer's namespace: %v", err)
	}
	t.Cleanup(func() {
		close(p.work)
		_ = unix.Close(p.fd)
	})
	near, far := fmt.Sprintf("near%d", network), fmt.Sprintf("far%d", network)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: near}, PeerName: far, PeerNamespace: netlink.NsFd(p.fd)}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("cannot connect a peer: %v", err)
	}
	// Without duplicate address detection IPv6 works at once.
	addresses := `echo 0 > /proc/sys/net/ipv6/conf/%[3]s/accept_dad; ip addr add 10.9.%[1]d.%[2]d/24 dev %[3]s; ip -6 addr add fd09:%[1]d::%[2]d/64 dev %[3]s nodad
		ip link set %[3]s up; ip link set lo up`
	shell(t, fmt.Sprintf(addresses, network, 1, near))
	p.do(func() {
		shell(t, fmt.Sprintf(addresses, network, 2, far)+
			fmt.Sprintf("; ip route add default via 10.9.%[1]d.1; ip -6 route add default via fd09:%[1]d::1", network))
	})
	return p
}

// do runs f in the peer's namespace.
func (p *peer) do(f func()) {
	done := make(chan struct{})
	p.work <- func() { defer close(done); f() }
	<-done
}

// listen accepts connections on all addresses of the calling thread's namespace and echoes what they send.
func listen(t *testing.T, ports ...int) {
	t.Helper()
	for _, port := range ports {
		l, err := net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
			}
		}()
	}
}

// dropped is how long a connection attempt takes that nobody answers; the first SYN is repeated after a second.
const dropped = 250 * time.Millisecond

// reach tells whether a connection from the calling thread's namespace comes about and echoes.
func reach(address string, port int, from *net.TCPAddr) bool {
	dialer := net.Dialer{Timeout: 2 * time.Second}
	if from != nil {
		dialer.LocalAddr = from
	}
	c, err := dialer.Dial("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return false
	}
	defer c.Close()
	return echoes(c, 2*time.Second)
}

func echoes(c net.Conn, within time.Duration) bool {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := c.Write([]byte("x")); err != nil {
		return false
	}
	_, err := io.ReadFull(c, make([]byte, 1))
	return err == nil
}

// blocked tells whether a connection attempt goes unanswered, neither accepted nor refused.
func blocked(address string, port int) bool {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(address, fmt.Sprint(port)), dropped)
	if err == nil {
		c.Close()
		return false
	}
	return os.IsTimeout(err)
}

func TestTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client, server := newPeer(t, 1), newPeer(t, 2)
		shell(t, "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
		listen(t, 21000, 21050, 21055, 8080, 9000)
		client.do(func() { listen(t, 7000) })
		server.do(func() { listen(t, 21060) })
		want := sample()
		families := []struct {
			tables, host, client, server string
			sourcePort                   int
		}{
			{"iptables-" + tables(variant), "10.9.1.1", "10.9.1.2", "10.9.2.2:21060", 21100},
			{"ip6tables-" + tables(variant), "fd09:1::1", "fd09:1::2", "[fd09:2::2]:21060", 21101},
		}
		for _, fam := range families {
			shell(t, fmt.Sprintf("T=%s HOST=%s SERVER=%s", fam.tables, fam.host, fam.server)+`
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 21078 -j REDIRECT --to-ports 8080
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 9999 -j REDIRECT --to-ports 21055
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 21056 -j DNAT --to-destination $SERVER
				$T -I INPUT -p tcp -j ACCEPT`)
			client.do(func() {
				for _, port := range []int{21000, 21050, 21078, 9999, 21056, 8080} {
					if !reach(fam.host, port, nil) {
						t.Errorf("%s without rules: port %d cannot be reached", fam.host, port)
					}
				}
			})
		}
		mustApply(t, f, want)
		for _, fam := range families {
			client.do(func() {
				for _, port := range []int{21050, 21078, 9999, 21056} {
					if !blocked(fam.host, port) {
						t.Errorf("%s: guarded port %d answers", fam.host, port)
					}
				}
				for _, port := range []int{21000, 8080} {
					if !reach(fam.host, port, nil) {
						t.Errorf("%s: port %d cannot be reached", fam.host, port)
					}
				}
			})
			for _, own := range []string{"127.0.0.1", "::1", fam.host} {
				if !reach(own, 21050, nil) {
					t.Errorf("%s: a guarded port cannot be reached through lo", own)
				}
			}
			if !reach(fam.client, 7000, &net.TCPAddr{Port: fam.sourcePort}) {
				t.Errorf("%s: an outgoing connection from a guarded source port got no answer", fam.client)
			}
			if variant == onNFTables { // it has no accept
				continue
			}
			// Only our accept rule lets anything in, and it lets every packet of the open port in.
			shell(t, "T="+fam.tables+`
				$T -D INPUT -p tcp -j ACCEPT
				case $T in ip6*) $T -A INPUT -p ipv6-icmp -j ACCEPT;; esac # neighbour discovery
				$T -P INPUT DROP`)
			client.do(func() {
				if !reach(fam.host, 21000, nil) {
					t.Errorf("%s: an open port cannot be reached through a policy of DROP", fam.host)
				}
				if !blocked(fam.host, 9000) {
					t.Errorf("%s: our rules open port 9000", fam.host)
				}
			})
			shell(t, fam.tables+" -P INPUT ACCEPT")
		}
	})
}

// TestCutEndsRunningConnections: a closed port keeps its running connections, a cut one loses them.
func TestCutEndsRunningConnections(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client := newPeer(t, 1)
		listen(t, 21000)
		client.do(func() { listen(t, 7000) })
		want := sample()
		want.CutRules = true
		mustApply(t, f, want)
		var in net.Conn
		var err error
		client.do(func() { in, err = net.DialTimeout("tcp", "10.9.1.1:21000", 2*time.Second) })
		if err != nil || !echoes(in, 2*time.Second) {
			t.Fatalf("cannot connect to an open port: %v", err)
		}
		defer in.Close()
		out, err := (&net.Dialer{LocalAddr: &net.TCPAddr{Port: 21077}, Timeout: 2 * time.Second}).Dial("tcp", "10.9.1.2:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		want.Open = PortSet{}
		mustApply(t, f, want)
		if !echoes(in, 2*time.Second) {
			t.Error("closing a port ended a running connection")
		}
		want.Cut = portRange(21000, 21255)
		mustApply(t, f, want)
		if echoes(in, dropped) {
			t.Error("a connection to a cut port lives on")
		}
		if !echoes(out, 2*time.Second) {
			t.Error("cutting a port ended an outgoing connection from that source port")
		}
	})
}
