// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The port that packets go to, the 256th that is open.
const benchPort = 21255

// gauge counts TCP packets to benchPort before any rule of ours sees them and after all of them did, and ends them there,
// so that no TCP answers.
const gauge = `table ip gauge {
	counter came { }
	counter passed { }
	chain early { type filter hook prerouting priority -310; tcp dport 21255 counter name came; }
	chain late { type filter hook input priority 100; tcp dport 21255 counter name passed drop; }
}
`

// metered returns how many packets came and how many our rules let through, since the last call.
func metered(b testing.TB) (came, passed int) {
	b.Helper()
	output := shell(b, "nft reset counters table ip gauge")
	var name string
	for line := range strings.Lines(output) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && fields[0] == "counter":
			name = fields[1]
		case len(fields) > 1 && fields[0] == "packets":
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				b.Fatal(err)
			}
			if name == "came" {
				came = n
			} else {
				passed = n
			}
		}
	}
	return came, passed
}

// syns is a raw socket that sends bare SYNs to benchPort from a namespace beside this one. A veth pair hands each packet to
// the receiver's rules before sendto returns, so the time of a send is the time of its whole way.
type syns struct {
	fd     int
	packet []byte
	to     unix.SockaddrInet4
}

// newSYNs opens the socket in the calling thread's namespace.
func newSYNs(source, destination netip.Addr) (*syns, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	s := &syns{fd: fd, packet: make([]byte, 20), to: unix.SockaddrInet4{Addr: destination.As4()}}
	binary.BigEndian.PutUint16(s.packet, 40000)
	binary.BigEndian.PutUint16(s.packet[2:], benchPort)
	s.packet[12], s.packet[13] = 5<<4, 1<<1 // five words of header; SYN
	return s, unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()})
}

func (s *syns) send() error { return unix.Sendto(s.fd, s.packet, 0, &s.to) }

// benchPeer connects a namespace that sends, and puts the gauge in place.
func benchPeer(b testing.TB, network int) (*peer, *syns) {
	b.Helper()
	p := newPeer(b, network)
	shell(b, "nft -f - <<'E'\n"+gauge+"E")
	b.Cleanup(func() { shell(b, "nft delete table ip gauge") })
	var s *syns
	var err error
	p.do(func() {
		s, err = newSYNs(netip.MustParseAddr("10.9."+strconv.Itoa(network)+".2"), netip.MustParseAddr("10.9."+strconv.Itoa(network)+".1"))
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = unix.Close(s.fd) })
	for deadline := time.Now().Add(eventually); ; time.Sleep(5 * time.Millisecond) { // until link and neighbour are known
		if err := s.send(); err != nil {
			b.Fatal(err)
		}
		if came, _ := metered(b); came > 0 {
			return p, s
		}
		if time.Now().After(deadline) {
			b.Fatal("no packet comes")
		}
	}
}

// linear writes a rule for each of 256 ports, as firewalls without sets do.
func linear(program string) string {
	var b strings.Builder
	b.WriteString("*mangle\n:LINEAR - [0:0]\n-A PREROUTING ! -i lo -p tcp --syn -j LINEAR\n")
	for port := benchPort - 255; port <= benchPort; port++ {
		fmt.Fprintf(&b, "-A LINEAR -p tcp --dport %d -j RETURN\n", port)
	}
	b.WriteString("-A LINEAR -p tcp --dport 21000:21255 -j DROP\nCOMMIT\n")
	return program + "-restore --noflush <<'E'\n" + b.String() + "E"
}

// BenchmarkPacket is what one bare SYN to the last of 256 open ports costs, from sendto in another namespace to the end of
// the rules.
func BenchmarkPacket(b *testing.B) {
	open := Ruleset{Guard: portRange(21000, 21255), Open: portRange(21000, 21255)}
	limited := func(n int) Ruleset {
		r := open
		r.AllowFrom = append(many(n-1), netip.MustParsePrefix("10.9.77.0/24"))
		return r
	}
	cut := open
	cut.CutRules = true
	few, many := limited(10), limited(10_000)
	type setting struct {
		name    string
		variant Variant
		apply   *Ruleset
		peer    string
	}
	settings := []setting{
		{name: "no-rules"},
		{name: "linear-256-nft", peer: "iptables-nft"},
		{name: "linear-256-legacy", peer: "iptables-legacy"},
	}
	for _, variant := range []Variant{VariantNFT, VariantLegacy, onNFTables} {
		name := "hostagent-" + string(variant)
		settings = append(settings,
			setting{name: name, variant: variant, apply: &open},
			setting{name: name + "-cut-rules", variant: variant, apply: &cut},
			setting{name: name + "-10-sources", variant: variant, apply: &few},
			setting{name: name + "-10000-sources", variant: variant, apply: &many})
	}
	for _, s := range settings {
		b.Run(s.name, func(b *testing.B) {
			freshNamespace(b) // what iptables leaves behind, tables with empty chains, costs packets time too
			_, sender := benchPeer(b, 77)
			if s.apply != nil {
				benchFirewall(b, s.variant, *s.apply)
			}
			if s.peer != "" {
				shell(b, linear(s.peer))
			}
			metered(b)
			sent := 0
			for b.Loop() {
				if err := sender.send(); err != nil {
					b.Fatal(err)
				}
				sent++
			}
			if came, passed := metered(b); came != sent || passed != sent {
				b.Fatalf("of %d packets %d came and %d passed", sent, came, passed)
			}
		})
	}
}

func mustRemove(t testing.TB, f *Firewall) {
	t.Helper()
	if _, err := f.Remove(context.Background()); err != nil { // t's own has ended when cleanups run
		t.Error(err)
	}
}

// BenchmarkReplace replaces what the sets hold, again and again, while SYNs that are allowed all the time come without
// pause: 255 of 256 open ports, the networks around one that is let in, and whether sources are limited at all, for which
// iptables writes rules, so that 10,000 times would take it a quarter of an hour. Of the packets none should be dropped.
func BenchmarkReplace(b *testing.B) {
	p, sender := benchPeer(b, 78)
	guard := portRange(21000, 21255)
	state := func(open PortSet, sources ...string) Ruleset {
		return Ruleset{Guard: guard, Open: open, AllowFrom: prefixes(sources...)}
	}
	all, one := portRange(21001, 21255), Ports(benchPort)
	near, far := state(all, "10.9.78.0/24"), state(all, "10.9.78.2/32", "10.0.0.0/16", "172.16.0.0/12")
	for _, kind := range []struct {
		name      string
		variant   Variant
		times     int
		even, odd Ruleset
	}{
		{"ports", VariantNFT, 10_000, state(all), state(one)},
		{"ports", onNFTables, 10_000, state(all), state(one)},
		{"sources", VariantNFT, 10_000, near, far},
		{"sources", onNFTables, 10_000, near, far},
		{"limits", VariantNFT, 100, state(all), near},
		{"limits", VariantLegacy, 100, state(all), near},
		{"limits", onNFTables, 10_000, state(all), near},
	} {
		b.Run(kind.name+"/"+string(kind.variant), func(b *testing.B) {
			f := benchFirewall(b, kind.variant, kind.even)
			metered(b)
			came, passed := flooded(b, p, sender, func() {
				for b.Loop() {
					for i := range kind.times {
						mustApply(b, f, []Ruleset{kind.odd, kind.even}[i%2])
					}
				}
			})
			if came < kind.times {
				b.Fatalf("only %d packets came", came)
			}
			b.ReportMetric(float64(came), "packets")
			b.ReportMetric(float64(came-passed), "wrong-drops")
		})
	}
}
