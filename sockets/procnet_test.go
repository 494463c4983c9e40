// SPDX-License-Identifier: MPL-2.0

package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

const tableHead = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

// words writes an address as a table of this machine does.
func words(addr string) string {
	raw := netip.MustParseAddr(addr).AsSlice()
	var b strings.Builder
	for at := 0; at < len(raw); at += 4 {
		fmt.Fprintf(&b, "%08X", binary.NativeEndian.Uint32(raw[at:]))
	}
	return b.String()
}

func tableLine(addr string, port uint16, state string, inode int) string {
	other := words("0.0.0.0")
	if strings.Contains(addr, ":") {
		other = words("::")
	}
	return fmt.Sprintf("   0: %s:%04X %s:0000 %s 00000000:00000000 00:00000000 00000000  1000        0 %d 1 0000000000000000 100 0 0 10 0\n",
		words(addr), port, other, state, inode)
}

func TestReadTable(t *testing.T) {
	for _, tt := range []struct {
		name     string
		protocol Protocol
		lines    string
		want     string
	}{
		{"nothing", TCP, "", ""},
		{"both families", TCP, tableLine("127.0.0.1", 8080, "0A", 1) + tableLine("2001:db8::1", 80, "0A", 2) + tableLine("::ffff:10.0.0.1", 81, "0A", 3),
			"127.0.0.1:8080 1, [2001:db8::1]:80 2, [::ffff:10.0.0.1]:81 3"},
		{"it stops where connections begin", TCP, tableLine("0.0.0.0", 1, "0A", 1) + tableLine("0.0.0.0", 2, "01", 2) + "rubbish\n", "0.0.0.0:1 1"},
		{"request sockets", TCP, tableLine("0.0.0.0", 1, "03", 1), ""},
		{"connected UDP among others", UDP, tableLine("0.0.0.0", 53, "07", 1) + tableLine("10.0.0.1", 53, "01", 2) + tableLine("::", 54, "07", 3),
			"0.0.0.0:53 1, [::]:54 3"},
		{"the same number is another state of TCP", TCP, tableLine("0.0.0.0", 1, "07", 1), ""},
	} {
		var got []string
		err := readTable(tt.protocol, strings.NewReader(tableHead+tt.lines), func(l Listener) error {
			got = append(got, fmt.Sprintf("%v %d", l.Addr, l.Inode))
			if l.UID != 1000 || !l.Partial || l.Cookie != 1<<63|uint64(l.Inode) || l.Protocol != tt.protocol {
				t.Errorf("%s: %+v", tt.name, l)
			}
			return nil
		})
		if err != nil || strings.Join(got, ", ") != tt.want {
			t.Errorf("%s: got %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestReadTableRefuses(t *testing.T) {
	good := tableLine("127.0.0.1", 8080, "0A", 1)
	for _, line := range []string{
		"", "0:", strings.Replace(good, "1F90", "11F90", 1), strings.Replace(good, "0100007F", "0100007", 1),
		strings.Replace(good, "0100007F", "0100007G", 1), strings.Replace(good, "0A", "100", 1), strings.Replace(good, "1000 ", "-1 ", 1),
		strings.Replace(good, " 1 1 ", " 4294967296 1 ", 1), strings.Repeat("x", 5000),
	} {
		if err := readTable(TCP, strings.NewReader(tableHead+line+"\n"), func(Listener) error { return nil }); err == nil {
			t.Errorf("%q is taken for a socket", line)
		}
	}
	endless := &repeated{text: tableLine("10.0.0.1", 1, "01", 1)}
	if err := readTable(UDP, endless, func(Listener) error { return nil }); !errors.Is(err, errTooMany) {
		t.Errorf("an endless table: %v", err)
	}
}

// repeated is a text without end.
type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

func TestParseUsage(t *testing.T) {
	const ipv4 = "sockets: used 7\nTCP: inuse 3 orphan 0 tw 9 alloc 4 mem 1\nUDP: inuse 2 mem 0\nUDPLITE: inuse 5\nRAW: inuse 0\n"
	for _, tt := range []struct {
		text string
		want usage
	}{
		{ipv4 + "TCP6: inuse 4\nUDP6: inuse 1\nRAW6: inuse 0\n", usage{3, 4, 2, 1, true}},
		{ipv4, usage{3, 0, 2, 0, true}},
		{"TCP: inuse -1 orphan 0\nUDP: inuse 0\n", usage{known: true}},
		{"TCP: inuse 1\n", usage{tcp4: 1}},
		{"UDP: inuse x\nTCP: inuse\n", usage{}},
		{"", usage{}},
	} {
		if got := parseUsage([]byte(tt.text)); got != tt.want {
			t.Errorf("%q: got %+v, want %+v", tt.text, got, tt.want)
		}
	}
}

func TestParseAddresses(t *testing.T) {
	const trie = `Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 172.17.0.0/16 2 0 2
        |-- 172.17.0.0
           /16 link UNICAST
        |-- 172.17.0.2
           /32 host LOCAL
        |-- 172.17.255.255
           /32 link BROADCAST
     |-- 127.0.0.1
        /32 host LOCAL
Local:
        |-- 172.17.0.2
           /32 host LOCAL
        |-- rubbish
           /32 host LOCAL
`
	const inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n" +
		"fe800000000000000042acfffe110002 02 40 20 80     eth0\n" +
		"fd000000000000000000000000000002 02 40 00 80     eth0\nrubbish\nzz00000000000000000000000000000z 02\n"
	want := []netip.Addr{netip.MustParseAddr("172.17.0.2"), netip.MustParseAddr("fd00::2")}
	if got := parseAddresses([]byte(trie), []byte(inet6)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "|-- 10.1.%d.%d\n/32 host LOCAL\n", i/256, i%256)
	}
	if got := parseAddresses([]byte(many.String()), nil); len(got) > mostAddresses {
		t.Errorf("%d addresses are kept", len(got))
	}
}

func TestNamespaceMounts(t *testing.T) {
	got := namespaceMounts(`27 1 0:5 / /proc rw - proc proc rw
300 20 0:4 net:[4026532001] /run/docker/netns/ab\040c rw shared:1 - nsfs nsfs rw
301 20 0:4 net:[4026532001] /run/netns/blue rw shared:1 - nsfs nsfs rw
302 20 0:4 net:[4026532001] /run/elsewhere rw shared:1 - nsfs nsfs rw
303 20 0:4 net:[4026532002] /run/docker/netns/ab\040c rw - nsfs nsfs rw
304 20 0:4 mnt:[4026532003] /run/netns/green rw - nsfs nsfs rw
305 20 0:4 net:[4026532004] /tmp rw - ext4 /dev/sda rw
306 20 0:4 net:[x] /run/netns/x rw - nsfs nsfs rw
307 net:[4026532005] - nsfs
`)
	want := map[uint64]string{4026532001: "/run/netns/blue", 4026532002: "/run/docker/netns/ab c"}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzReadTable: whatever a table holds, it is read to an end, and what is taken for a listener has the marks of one.
func FuzzReadTable(f *testing.F) {
	f.Add(tableLine("127.0.0.1", 8080, "0A", 1)+tableLine("2001:db8::1", 80, "0A", 2), false)
	f.Add(tableLine("0.0.0.0", 53, "07", 1)+"rubbish", true)
	f.Fuzz(func(t *testing.T, text string, udp bool) {
		protocol := TCP
		if udp {
			protocol = UDP
		}
		lines := strings.Count(text, "\n") + 1
		err := readTable(protocol, strings.NewReader(tableHead+text), func(l Listener) error {
			if lines--; lines < 0 || !l.Addr.IsValid() || !l.Partial || l.Cookie>>63 != 1 || l.Protocol != protocol || l.Namespace != 0 {
				t.Errorf("%+v", l)
			}
			return nil
		})
		_ = err
		parseUsage([]byte(text))
		parseAddresses([]byte(text), []byte(text))
		namespaceMounts(text)
	})
}

func TestParseForwards(t *testing.T) {
	for arguments, want := range map[string]string{
		"/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 8080 -container-ip 172.17.0.2 -container-port 80": "172.17.0.2:80",
		"docker-proxy --container-ip=fd00::2 -use-listen-fd --container-port=80":                                        "[fd00::2]:80",
		"docker-proxy -container-ip 172.17.0.2":                                                                         "",
		"docker-proxy -container-ip x -container-port 80":                                                               "",
		"docker-proxy -container-ip 172.17.0.2 -container-port 0":                                                       "",
		"docker-proxy -container-ip 172.17.0.2 -container-port 65536":                                                   "",
		"": "",
	} {
		if got := parseForwards(strings.ReplaceAll(arguments, " ", "\x00") + "\x00"); got != want {
			t.Errorf("%s: got %q, want %q", arguments, got, want)
		}
	}
	if got := forwards(1, "/usr/sbin/nginx"); got != "" {
		t.Errorf("another program forwards to %q", got)
	}
}
