// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

// newHost makes a host and the network around it, in namespaces of their own.
func newHost(t testing.TB) *host.Host {
	t.Helper()
	h, err := host.New(t.Context(), host.Options{Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, h.Close()) })
	return h
}

// read is Read in the host, where no Nomad is.
func read(t testing.TB, h *host.Host) Facts {
	t.Helper()
	var facts Facts
	check(t, h.InHost(func() error {
		facts = Read(t.Context(), Options{NomadConfig: []string{t.TempDir()}})
		return nil
	}))
	return facts
}

// sysctl sets net.ipv4 settings in a namespace.
func sysctl(t testing.TB, n *host.Namespace, settings ...string) {
	t.Helper()
	check(t, n.Do(func() error {
		for _, setting := range settings {
			name, value, _ := strings.Cut(setting, "=")
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
}

// TestKernel reads what a real kernel says, in the namespace of the calling thread.
func TestKernel(t *testing.T) {
	h := newHost(t)
	sysctl(t, h.Local, "ip_local_port_range=20001 60998", "ip_local_reserved_ports=")
	want := Facts{EphemeralFirst: 20001, EphemeralLast: 60998}
	if diff := cmp.Diff(want, withoutAddresses(read(t, h))); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	sysctl(t, h.Local, "ip_local_reserved_ports=8080,21000-21100,21101-21255")
	want.Reserved, want.ReservedText = []PortSpan{{8080, 8080}, {21000, 21255}}, "8080,21000-21255"
	if diff := cmp.Diff(want, withoutAddresses(read(t, h))); diff != "" {
		t.Errorf("facts with reserved ports (-want +got):\n%s", diff)
	}
}

// TestLongReservedPorts: the kernel tells of a list no more than fits into the first read.
func TestLongReservedPorts(t *testing.T) {
	h := newHost(t)
	var ports []string
	for port := 1; port < 65536; port += 2 {
		ports = append(ports, fmt.Sprint(port))
	}
	for _, n := range []int{700, 1000, 6000, len(ports)} {
		text := strings.Join(ports[:n], ",")
		sysctl(t, h.Local, "ip_local_reserved_ports="+text)
		got := read(t, h)
		if got.ReservedText != text || len(got.Reserved) != n || got.Notes != nil {
			t.Errorf("of %d ports in %d bytes: %d ports, %d bytes, notes %q",
				n, len(text), len(got.Reserved), len(got.ReservedText), got.Notes)
		}
	}
}

// TestRouteLocalnet: whether the network reaches a listener on loopback is what RouteLocalnet says, whichever of the two
// sysctls does it.
func TestRouteLocalnet(t *testing.T) {
	h := newHost(t)
	check(t, h.InHost(func() error {
		l, err := net.Listen("tcp4", "127.0.0.1:21000")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
	// A neighbour that sends 127.0.0.0/8 out instead of keeping it.
	check(t, h.InNet(func() error {
		return exec.Command("sh", "-ec", "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.0/8 dev eth0").Run()
	}))
	sysctl(t, h.Net, "conf/eth0/route_localnet=1", "conf/eth0/rp_filter=0", "conf/all/rp_filter=0")
	check(t, h.InHost(func() error {
		return exec.Command("ip", "link", "add", "other.1", "type", "veth", "peer", "name", "other.2").Run()
	}))
	for _, test := range []struct {
		all, eth0 string
		want      []string
	}{
		{"0", "0", nil},
		{"0", "1", []string{"eth0"}},
		{"1", "0", []string{"eth0", "other.1", "other.2"}},
		{"1", "1", []string{"eth0", "other.1", "other.2"}},
	} {
		sysctl(t, h.Local, "conf/all/route_localnet="+test.all, "conf/eth0/route_localnet="+test.eth0,
			"conf/default/route_localnet=1", "conf/lo/route_localnet=1")
		got := read(t, h)
		if diff := cmp.Diff(test.want, got.RouteLocalnet); diff != "" || got.Notes != nil {
			t.Errorf("all=%s eth0=%s (-want +got):\n%s%q", test.all, test.eth0, diff, got.Notes)
		}
		within := 300 * time.Millisecond
		if test.want != nil {
			within = 5 * time.Second
		}
		// A question who has 127.0.0.1 that got no answer is asked again only after a second.
		check(t, h.InNet(func() error { return exec.Command("ip", "neigh", "flush", "dev", "eth0").Run() }))
		ctx, cancel := context.WithTimeout(t.Context(), within)
		c, err := h.Net.Dial(ctx, "tcp4", "127.0.0.1:21000")
		cancel()
		if err == nil {
			c.Close()
		}
		if reached := err == nil; reached != (test.want != nil) {
			t.Errorf("all=%s eth0=%s: the network reaches loopback: %v (%v)", test.all, test.eth0, reached, err)
		}
	}
}

// tree writes files under a new folder; a name that ends with a slash is a folder.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			check(t, os.MkdirAll(path, 0o755))
			continue
		}
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(text), 0o644))
	}
	return root
}

// TestStrangeProc: what is not there, or is not what it should be, is a note; the rest is read.
func TestStrangeProc(t *testing.T) {
	const ipv4 = "sys/net/ipv4/"
	for _, test := range []struct {
		name  string
		files map[string]string
		want  Facts
	}{
		{"nothing", nil, Facts{Notes: []string{
			"cannot read net.ipv4.ip_local_port_range: open PROC/sys/net/ipv4/ip_local_port_range: no such file or directory",
			"cannot read net.ipv4.ip_local_reserved_ports: open PROC/sys/net/ipv4/ip_local_reserved_ports: no such file or directory",
			"cannot read net.ipv4.conf.all.route_localnet: open PROC/sys/net/ipv4/conf/all/route_localnet: no such file or directory",
			"cannot read net.ipv4.conf: open PROC/sys/net/ipv4/conf: no such file or directory",
		}}},
		{"garbage", map[string]string{
			ipv4 + "ip_local_port_range":             "32768\t\x1b[31m\n",
			ipv4 + "ip_local_reserved_ports":         "5,\x1b7,70000,-1,9-8,3-4,\n",
			ipv4 + "conf/all/route_localnet":         "yes",
			ipv4 + "conf/eth0/route_localnet":        "1\n",
			ipv4 + "conf/bad\x1b\xff/route_localnet": "2\n",
			ipv4 + "conf/gone/":                      "",
			ipv4 + "conf/odd/route_localnet":         strings.Repeat("9", 200) + "\n",
			ipv4 + "conf/odd2/route_localnet":        "",
		}, Facts{
			Reserved: []PortSpan{{3, 5}}, ReservedText: "5,?7,70000,-1,9-8,3-4,", RouteLocalnet: []string{"bad??", "eth0"},
			Notes: []string{
				`cannot read net.ipv4.ip_local_port_range: "32768-\x1b[31m" is no port and no range of ports`,
				`cannot read net.ipv4.ip_local_reserved_ports: "\x1b7" is no port and no range of ports`,
				`cannot read net.ipv4.conf.all.route_localnet: "yes" is not a number`,
				`cannot read route_localnet of 2 interfaces, the first being odd: "` + strings.Repeat("9", 80) + `..." is not a number`,
			},
		}},
		{"huge", map[string]string{
			ipv4 + "ip_local_port_range":      "1 2 3",
			ipv4 + "ip_local_reserved_ports":  strings.Repeat("1,", 200_000),
			ipv4 + "conf/all/route_localnet":  "0",
			ipv4 + "conf/eth0/route_localnet": "0",
		}, Facts{Notes: []string{
			`cannot read net.ipv4.ip_local_port_range: "1 2 3" are not two ports`,
			"cannot read net.ipv4.ip_local_reserved_ports: it is too long",
		}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			proc := tree(t, test.files)
			got := Read(t.Context(), Options{Proc: proc, NomadConfig: []string{}})
			for i := range got.Notes {
				got.Notes[i] = strings.ReplaceAll(got.Notes[i], proc, "PROC")
			}
			if diff := cmp.Diff(test.want, withoutAddresses(got)); diff != "" {
				t.Errorf("facts (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseSpans(t *testing.T) {
	for _, test := range []struct{ text, want, err string }{
		{"", "[]", ""},
		{" , ,", "[]", ""},
		{"80", "[80]", ""},
		{"22, 80 ,8500 - 8600", "[22 80 8500-8600]", ""},
		{"5-7,1-3,4,100,6-9", "[1-9 100]", ""},
		{"0-65535,65535", "[0-65535]", ""},
		{"65534,65535,0", "[0 65534-65535]", ""},
		{"80,http,443,x", "[80 443]", `"http" is no port and no range of ports`},
		{"7-5", "[]", `"7-5" is no port and no range of ports`},
		{"65536", "[]", `"65536" is no port and no range of ports`},
		{"-1", "[]", `"-1" is no port and no range of ports`},
		{"1-2-3", "[]", `"1-2-3" is no port and no range of ports`},
		{"+1", "[]", `"+1" is no port and no range of ports`},
	} {
		spans, err := parseSpans(test.text)
		if diff := cmp.Diff(test.want, fmt.Sprint(spans)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.text, diff)
		}
		if got := fmt.Sprint(err); got != test.err && (err != nil || test.err != "") {
			t.Errorf("%q: error %q, want %q", test.text, got, test.err)
		}
	}
}

func FuzzParseSpans(f *testing.F) {
	f.Add("1-3,7")
	f.Fuzz(func(t *testing.T, text string) {
		spans, _ := parseSpans(text)
		for i, span := range spans {
			if span.First > span.Last || i > 0 && int(span.First) <= int(spans[i-1].Last)+1 {
				t.Fatalf("%q: %v", text, spans)
			}
		}
	})
}

// BenchmarkRead reads a host with 500 interfaces and neither an agent nor a configuration of Nomad.
func BenchmarkRead(b *testing.B) {
	h := newHost(b)
	var batch strings.Builder
	for i := range 250 {
		fmt.Fprintf(&batch, "link add near%d type veth peer name far%d\n", i, i)
	}
	check(b, h.InHost(func() error {
		add := exec.Command("ip", "-batch", "-")
		add.Stdin = strings.NewReader(batch.String())
		return add.Run()
	}))
	empty := []string{b.TempDir()}
	for _, all := range []string{"0", "1"} {
		sysctl(b, h.Local, "conf/all/route_localnet="+all)
		b.Run("all="+all, func(b *testing.B) {
			b.ReportAllocs()
			check(b, h.InHost(func() error {
				for b.Loop() {
					Read(b.Context(), Options{NomadConfig: empty})
				}
				return nil
			}))
		})
	}
}
