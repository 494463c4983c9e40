// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"

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
	if err := s.send(); err != nil { // and the neighbour's address is known
		b.Fatal(err)
	}
	return p, s
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
	type setting struct {
		name  string
		apply *Ruleset
		peer  string
	}
	few, many := limited(10), limited(10000)
	settings := []setting{
		{"no-rules", nil, ""},
		{"hostagent", &open, ""},
		{"hostagent-cut-rules", &cut, ""},
		{"hostagent-10-sources", &few, ""},
		{"hostagent-10000-sources", &many, ""},
		{"linear-256-nft", nil, "iptables-nft"},
		{"linear-256-legacy", nil, "iptables-legacy"},
	}
	_, sender := benchPeer(b, 77)
	for _, s := range settings {
		b.Run(s.name, func(b *testing.B) {
			if s.apply != nil {
				f, err := New(Options{Variant: VariantNFT})
				if err != nil {
					b.Fatal(err)
				}
				mustApply(b, f, *s.apply)
				b.Cleanup(func() { mustRemove(b, f) })
			}
			if s.peer != "" {
				shell(b, linear(s.peer))
				b.Cleanup(func() {
					shell(b, s.peer+" -t mangle -F PREROUTING; "+s.peer+" -t mangle -F LINEAR; "+s.peer+" -t mangle -X LINEAR")
				})
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
	if _, err := f.Remove(t.Context()); err != nil && t.Context().Err() == nil {
		t.Error(err)
	}
}

// BenchmarkReplace replaces what the sets hold, again and again, while SYNs that are allowed all the time come without
// pause: 255 of 256 open ports, the networks around one that is let in, and whether sources are limited at all. None of
// the packets may be dropped: it fails where one is.
func BenchmarkReplace(b *testing.B) {
	p, sender := benchPeer(b, 78)
	guard := portRange(21000, 21255)
	state := func(open PortSet, sources ...string) Ruleset {
		return Ruleset{Guard: guard, Open: open, AllowFrom: prefixes(sources...)}
	}
	all, one := portRange(21001, 21255), Ports(benchPort)
	for _, kind := range []struct {
		name      string
		times     int
		even, odd Ruleset
	}{
		{"ports", 10000, state(all), state(one)},
		{"sources", 10000, state(all, "10.9.78.0/24"), state(all, "10.9.78.2/32", "10.0.0.0/16", "172.16.0.0/12")},
		{"limits", 100, state(all), state(all, "10.9.78.0/24")},
	} {
		for _, backend := range []Options{{Backend: BackendIptables, Variant: VariantNFT}, {Backend: BackendNFTables}} {
			b.Run(kind.name+"-"+string(backend.Backend), func(b *testing.B) {
				f, err := New(backend)
				if err != nil {
					b.Fatal(err)
				}
				release, err := f.hold()
				if err != nil {
					b.Fatal(err)
				}
				defer release()
				mustApply(b, f, kind.even)
				b.Cleanup(func() { mustRemove(b, f) })
				metered(b)
				came, passed := flooded(b, p, sender, func() {
					for b.Loop() {
						for i := range kind.times {
							mustApply(b, f, []Ruleset{kind.odd, kind.even}[i%2])
						}
					}
				})
				b.ReportMetric(float64(came), "packets")
				b.ReportMetric(float64(came-passed), "wrong-drops")
				if came < kind.times || came != passed {
					b.Errorf("of %d packets %d were dropped", came, came-passed)
				}
			})
		}
	}
}
