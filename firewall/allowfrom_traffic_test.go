// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// unanswered is how long a connection may take whose first SYN was not dropped: that one is repeated after a second.
const unanswered = 900 * time.Millisecond

// dialFrom connects from one address of the calling thread's namespace.
func dialFrom(source, address string, port int, within time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: within, LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	return dialer.Dial("tcp", net.JoinHostPort(address, fmt.Sprint(port)))
}

// outcome is what becomes of a connection from one address to another: "open", "dropped" or an error. One that should be
// dropped is given less time.
func outcome(want, source, address string, port int) string {
	within := unanswered
	if want == "dropped" {
		within = dropped
	}
	c, err := dialFrom(source, address, port, within)
	switch {
	case err == nil:
		defer c.Close()
		if !echoes(c, 2*time.Second) {
			return "mute"
		}
		return "open"
	case os.IsTimeout(err):
		return "dropped"
	}
	return err.Error()
}

// sources is a peer with two addresses of each family: one that rules may list, and one that they do not.
type sources struct{ *peer }

func newSources(t *testing.T) sources {
	t.Helper()
	p := newPeer(t, 1)
	p.do(func() { shell(t, "ip addr add 10.9.1.3/24 dev far1; ip -6 addr add fd09:1::3/64 dev far1 nodad") })
	return sources{p}
}

// sourceFamily is what a family has: its program, the host's address, the two of the sources, and loopback.
type sourceFamily struct {
	t                                     *testing.T
	from                                  sources
	tables, host, listed, other, loopback string
}

func (s sources) families(t *testing.T, variant Variant) []sourceFamily {
	return []sourceFamily{
		{t, s, "iptables-" + tables(variant), "10.9.1.1", "10.9.1.2", "10.9.1.3", "127.0.0.1"},
		{t, s, "ip6tables-" + tables(variant), "fd09:1::1", "fd09:1::2", "fd09:1::3", "::1"},
	}
}

// expect wants a connection from one of the sources to the host to end so.
func (f *sourceFamily) expect(what, source string, port int, want string) {
	f.t.Helper()
	f.from.do(func() {
		if got := outcome(want, source, f.host, port); got != want {
			f.t.Errorf("%s: %s to %s port %d is %s, want %s", what, source, f.host, port, got, want)
		}
	})
}

// own wants the host to reach its own port.
func (f *sourceFamily) own(what string, port int) {
	f.t.Helper()
	for _, address := range []string{f.loopback, f.host} {
		if got := outcome("open", address, address, port); got != "open" {
			f.t.Errorf("%s: the host to itself at %s is %s", what, address, got)
		}
	}
}

// onlyIPv4 wants a port to be open to all sources of IPv4, and to none of IPv6.
func (s sources) onlyIPv4(t *testing.T, port int) {
	t.Helper()
	families := s.families(t, VariantNFT) // whose addresses are those of all
	families[0].expect("10.9.1.0/24 alone", families[0].other, port, "open")
	families[1].expect("10.9.1.0/24 alone", families[1].listed, port, "dropped")
}

// TestAllowFromTraffic: a source that is not allowed reaches no open port, whatever the host's own rules say, and one that
// is does; the host with itself is never limited.
func TestAllowFromTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client := newSources(t)
		listen(t, 21000, 21001, 21050, 8080, 9443)
		want := limited("10.9.1.2/32", "fd09:1::2/128")
		want.Open.Add(9443) // beside the guarded range
		mustApply(t, f, want)
		for _, fam := range client.families(t, variant) {
			shell(t, "T="+fam.tables+" HOST="+fam.host+`
				$T -I INPUT -p tcp -j ACCEPT
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 9999 -j REDIRECT --to-ports 21000
				$T -t nat -A PREROUTING -p tcp -d $HOST --dport 21001 -j REDIRECT --to-ports 8080`)
			for _, port := range []int{21000, 9443, 9999, 21001} {
				fam.expect("policy ACCEPT", fam.listed, port, "open")
				fam.expect("policy ACCEPT", fam.other, port, "dropped")
			}
			fam.expect("policy ACCEPT, closed port", fam.listed, 21050, "dropped")
			fam.expect("policy ACCEPT, none of ours", fam.other, 8080, "open")
			fam.own("policy ACCEPT", 21000)

			// The host's own rules now let in established connections and IPv6's neighbour discovery only.
			shell(t, "T="+fam.tables+`
				$T -D INPUT -p tcp -j ACCEPT
				case $T in ip6*) $T -A INPUT -p ipv6-icmp -j ACCEPT;; esac
				$T -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
				$T -P INPUT DROP`)
			if variant == onNFTables { // it has no accept, and drops nothing that is let in
				shell(t, fam.tables+" -A INPUT -p tcp --dport 21000 -j ACCEPT; "+fam.tables+" -I INPUT -i lo -j ACCEPT")
			}
			fam.expect("policy DROP", fam.listed, 21000, "open")
			fam.expect("policy DROP", fam.other, 21000, "dropped")
			fam.expect("policy DROP, none of ours", fam.listed, 8080, "dropped")
			fam.own("policy DROP", 21000)
			// Our accept takes every packet of the open port, not only those of established connections.
			shell(t, fam.tables+" -D INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT")
			fam.expect("policy DROP, nothing established", fam.listed, 21000, "open")
			shell(t, fam.tables+" -P INPUT ACCEPT")
		}
		// A family without a network is for nobody.
		mustApply(t, f, limited("10.9.1.0/24"))
		client.onlyIPv4(t, 21000)
	})
}

// connections come without pause from two peers, one of which is always let in and the other never.
type connections struct {
	stop                   atomic.Bool
	tries, lost, intruders atomic.Int64
	done                   chan struct{}
}

// connecting begins: client connects to one port, other to each of some.
func connecting(client, other *peer, port int, closed ...int) *connections {
	c := &connections{done: make(chan struct{}, 2)}
	until := func(p *peer, connect func()) {
		p.do(func() {
			for !c.stop.Load() {
				connect()
			}
			c.done <- struct{}{}
		})
	}
	go until(client, func() {
		conn, err := dialFrom("10.9.1.2", "10.9.1.1", port, unanswered)
		c.tries.Add(1)
		if err != nil {
			c.lost.Add(1)
			return
		}
		conn.Close()
	})
	go until(other, func() {
		for _, port := range closed {
			if conn, err := net.DialTimeout("tcp", fmt.Sprintf("10.9.2.1:%d", port), 3*time.Millisecond); err == nil {
				c.intruders.Add(1)
				conn.Close()
			}
		}
	})
	return c
}

// end wants all of client's connections to have come through, and so many at least, and none of the other's.
func (c *connections) end(t *testing.T, least int64) {
	t.Helper()
	c.stop.Store(true)
	<-c.done
	<-c.done
	tries, lost, intruders := c.tries.Load(), c.lost.Load(), c.intruders.Load()
	if lost > 0 || intruders > 0 || tries < least {
		t.Errorf("of %d connections of an allowed source %d failed; of others %d came through", tries, lost, intruders)
	}
	t.Logf("%d connections", tries)
}

// TestAllowFromChangesUnderTraffic: while sources come, change and go, who is always among them loses no connection and
// gets every new one, and who never is gets none to a port that opens meanwhile.
func TestAllowFromChangesUnderTraffic(t *testing.T) {
	eachBackend(t, func(t *testing.T, variant Variant) {
		f := start(t, variant)
		client, other := newPeer(t, 1), newPeer(t, 2)
		listen(t, 21000, 21005)
		closed := sample()
		mustApply(t, f, closed)
		var running net.Conn
		client.do(func() {
			var err error
			if running, err = dialFrom("10.9.1.2", "10.9.1.1", 21000, unanswered); err != nil {
				t.Fatal(err)
			}
		})
		defer running.Close()
		states := []Ruleset{closed, limited("10.9.1.0/24"), limited("10.9.1.2/32", "172.16.0.0/12"), limited("10.0.0.0/8", "fd00::/8"), closed}
		states[1].Open.Add(21005) // opens with the limit, and closes with the one that lets others in
		states[2].Open.Add(21005)
		c := connecting(client, other, 21000, 21005)
		for range 4 {
			for _, want := range states {
				mustApply(t, f, want)
				if !echoes(running, 2*time.Second) {
					t.Fatal("a running connection of an allowed source ended")
				}
			}
			f = open(t, variant)
		}
		for deadline := time.Now().Add(5 * time.Second); c.tries.Load() < 500 && time.Now().Before(deadline); {
			for _, want := range states {
				mustApply(t, f, want)
			}
		}
		c.end(t, 100)
	})
}
