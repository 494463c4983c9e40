// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

var update = flag.Bool("update", false, "write what tests compare with anew, in testdata")

func listener(address string) *sockets.Listener {
	return &sockets.Listener{Protocol: sockets.TCP, Addr: netip.MustParseAddrPort(address), UID: 1000}
}

func process(names ...string) *sockets.Owner {
	o := &sockets.Owner{}
	for i, name := range names {
		o.Processes = append(o.Processes, sockets.Process{PID: int32(4711 + i), Name: name, Started: *before(time.Duration(50+i) * time.Hour)})
	}
	return o
}

// finding is as Evaluate makes it: its sentences come from the catalog, their values cleaned.
func finding(f hostagent.Finding, pairs ...string) hostagent.Finding {
	entry, _ := catalog.Lookup(f.ID)
	f.Severity = entry.Severity
	if f.State == "" {
		f.State = hostagent.Open
	} else {
		f.Severity = catalog.Info
	}
	pairs = append(pairs, "ways", "it at 10.0.0.5 (eth0)")
	f.Message, f.Remedy = catalog.Render(entry.Message, pairs...), catalog.Render(entry.Remedy, pairs...)
	return f
}

func exposed(name, address string, owner *sockets.Owner, state hostagent.State) hostagent.Finding {
	l := listener(address)
	f := hostagent.Finding{ID: catalog.ExposedListener, Service: name, ServiceID: name, Listener: l, Port: l.Addr.Port(), Owner: owner, State: state}
	who := "the application"
	if owner != nil {
		who = owner.Processes[0].Name
	}
	return finding(f, "service", name, "listener", "tcp "+address, "who", "the network", "port", fmt.Sprint(f.Port), "fix", "bind "+catalog.Clean(who)+" to 127.0.0.1, port "+fmt.Sprint(f.Port))
}

// serviceOf is a mesh service that listens at the addresses.
func serviceOf(name string, addresses ...string) hostagent.Service {
	s := hostagent.Service{ID: name, Name: name}
	s.Sidecars = []hostagent.Sidecar{{ID: name + "-sidecar-proxy"}}
	for _, a := range addresses {
		s.Listeners = append(s.Listeners, *listener(a))
	}
	return s
}

// scanOf is a scan of a host on which some ports are to be open.
func scanOf(services []hostagent.Service, findings ...hostagent.Finding) *hostagent.Scan {
	s := &hostagent.Scan{Source: hostagent.SourceAgent, Agent: consul.Agent{Node: "host-1", Datacenter: "dc1", Version: "1.21.0"}}
	s.Range = hostagent.DefaultSidecarRange()
	s.Services, s.Findings = services, findings
	for port := uint16(21000); int(port) < 21000+len(services); port++ {
		s.Rules.Open.Add(port)
		s.Openings = append(s.Openings, hostagent.Opening{Port: port, Services: []string{services[port-21000].Name}})
	}
	return s
}

const hostileName = "web\x1b]0;pwned\x07\r\n\u202egnp.exe"

func scans() map[string]*hostagent.Scan {
	many := scanOf(
		[]hostagent.Service{
			serviceOf("api", "127.0.0.1:9090", "[::1]:9090"), serviceOf("batch"), serviceOf("cron"), serviceOf("billing", "0.0.0.0:7000"), serviceOf("web", "[::]:8080"),
		},
		finding(hostagent.Finding{ID: catalog.RegistrationsFiltered}, "reason", "Consul denies by default and no token was sent"),
		exposed("web", "[::]:8080", process("nginx", "nginx", "nginx"), ""),
		finding(hostagent.Finding{ID: catalog.SidecarNotListening, Service: "batch", ServiceID: "batch-sidecar-proxy", Port: 21000},
			"port", "21000", "service", "batch-sidecar-proxy", "destination", "batch"),
		finding(hostagent.Finding{ID: catalog.SquattedPort, Port: 21005, Listener: listener("[fd00:1234:5678:9abc::1]:21005")},
			"listener", "tcp [fd00:1234:5678:9abc::1]:21005", "reason", "no registered sidecar explains it", "process", "its process", "range", "21000-21255"),
		exposed("billing", "0.0.0.0:7000", process("java"), hostagent.Mitigated),
	)
	for port := uint16(21010); port < 21100; port += 2 {
		many.Rules.Open.Add(port)
	}
	many.Notes = []string{
		"the firewall was not looked at: cannot use the firewall: needs CAP_NET_ADMIN: run as root",
		"processes of other users are out of sight: run as root",
	}
	long := strings.Repeat("long-", 60)
	hostile := scanOf(
		[]hostagent.Service{serviceOf(long, "127.0.0.1:9090"), serviceOf("fine\u009b31m", "127.0.0.1:9091")},
		exposed(hostileName, "0.0.0.0:8080", process("x\x1b[2J"), ""),
	)
	hostile.Agent.Node = "host\x1b[31m"
	f := &hostile.Findings[0]
	f.Owner.User, f.Owner.Container, f.Owner.Runtime = hostileName, hostileName, hostileName
	f.Ways = []hostagent.Way{{Addr: netip.MustParseAddr("10.0.0.5"), Interface: hostileName}}
	nothing := &hostagent.Scan{}
	return map[string]*hostagent.Scan{
		"all": scanOfAll(), "blind": blindScan(), "large": largeScan(),
		"nothing": nothing, "clean": scanOf([]hostagent.Service{serviceOf("web", "127.0.0.1:8080")}),
		"many": many, "hostile": hostile, "foreign": foreignScan(),
	}
}

// foreignScan has names of wide characters, a squatter that the guard holds and one who is out of sight.
func foreignScan() *hostagent.Scan {
	ways := []hostagent.Way{{Addr: netip.MustParseAddr("10.0.0.5"), Interface: "eth0"}}
	squat := func(port uint16, owner *sockets.Owner, state hostagent.State, who string) hostagent.Finding {
		at := fmt.Sprintf("0.0.0.0:%d", port)
		return finding(hostagent.Finding{ID: catalog.SquattedPort, Port: port, Listener: listener(at), Owner: owner, State: state, Ways: ways},
			"listener", "tcp "+at, "reason", "no registered sidecar explains it", "process", who, "range", "21000-21255")
	}
	long := process("prometheus-node")
	long.User, long.Processes[0].Exe = "prometheus", "/usr/bin/prometheus-node-exporter"
	s := scanOf([]hostagent.Service{serviceOf("注文管理サービス", "127.0.0.1:9090"), serviceOf("web", "127.0.0.1:8080"), serviceOf("在庫")},
		squat(21050, long, "", "prometheus-node-exporter"), squat(21051, long, hostagent.Mitigated, "prometheus-node-exporter"),
		squat(21052, &sockets.Owner{User: "root"}, "", "its process"))
	s.Listeners = []hostagent.Reachable{
		{Listener: *listener("0.0.0.0:21050"), Owner: long}, {Listener: *listener("0.0.0.0:21052"), Owner: &sockets.Owner{User: "root"}},
		{Listener: *listener("127.0.0.1:9090"), Owner: process("注文管理")},
	}
	return s
}

// scanOfAll is what scan --all sees of a host with much of everything.
func scanOfAll() *hostagent.Scan {
	master := process("nginx", "nginx", "nginx", "nginx")
	master.User, master.Unit = "www-data", "nginx.service"
	boxed := process("java")
	boxed.User, boxed.Container, boxed.Runtime = "1000", "0123456789ab", "docker"
	web := exposed("web", "[::]:8080", master, "")
	web.Ways = []hostagent.Way{
		{Addr: netip.MustParseAddr("10.0.0.5"), Interface: "eth0"}, {Addr: netip.MustParseAddr("fd00::5"), Interface: "eth0"},
	}
	for i := range 10 {
		web.Ways = append(web.Ways, hostagent.Way{Addr: netip.AddrFrom4([4]byte{172, 17, byte(i), 1}), Interface: fmt.Sprintf("br-%d", i)})
	}
	second := exposed("web", "0.0.0.0:8085", boxed, hostagent.Exempt)
	second.ServiceID = "web-2"
	second.Exemption = &hostagent.Exemption{Reason: "the load balancer's health checks", Expires: time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)}
	mitigated := exposed("web", "0.0.0.0:9102", boxed, hostagent.Mitigated)
	squatter := finding(hostagent.Finding{ID: catalog.SquattedPort, Port: 21009, Listener: listener("0.0.0.0:21009"), Owner: process("nc")},
		"listener", "tcp 0.0.0.0:21009", "reason", "no registered sidecar explains it", "process", "nc", "range", "21000-21255")
	silent := finding(hostagent.Finding{ID: catalog.SidecarNotListening, Service: "web", ServiceID: "web-sidecar-proxy", Port: 21002},
		"port", "21002", "service", "web-sidecar-proxy", "start", "start the sidecar, for example: consul connect proxy -sidecar-for web")
	s := scanOf([]hostagent.Service{serviceOf("api", "127.0.0.1:9090"), serviceOf("db", "127.0.0.1:5432"), serviceOf("web", "[::]:8080")},
		web, squatter, silent, mitigated, second)
	s.Openings = append(s.Openings, hostagent.Opening{Port: 21030, IDs: []string{"gone-sidecar-proxy"}, Held: true})
	s.Listeners = []hostagent.Reachable{
		{Listener: *listener("0.0.0.0:22"), Owner: &sockets.Owner{User: "root", Unit: "ssh.service", Processes: []sockets.Process{{PID: 812, Name: "sshd"}}}},
		{Listener: *listener("127.0.0.1:5432"), Owner: process("postgres")},
		{Listener: *listener("[::]:8080"), Owner: master},
		{Listener: *listener("0.0.0.0:9102"), Owner: boxed, Guarded: true},
		{Listener: *listener("0.0.0.0:21009"), Owner: process("nc")},
		{Listener: sockets.Listener{Protocol: sockets.UDP, Addr: netip.MustParseAddrPort("[fe80::1234:5678:9abc:def0]:546"), Device: 2}},
	}
	s.Devices = map[uint32]string{2: "eth0"}
	for i, id := range []uint64{4026532001, 4026532001, 4026532002, 4026532003, 4026532004, 4026532005} {
		l := *listener(fmt.Sprintf("0.0.0.0:%d", 7000+i))
		l.Namespace, l.Device = id, uint32(i/5)*2 // the last one's is of its own namespace
		s.Listeners = append(s.Listeners, hostagent.Reachable{Listener: l})
	}
	s.Namespaces = []sockets.Namespace{
		{ID: 4026532001, PID: 99, Container: "0123456789ab", Runtime: "docker"}, {ID: 4026532002, Name: "blue\x1b"},
		{ID: 4026532003, Unit: "private.service"}, {ID: 4026532004, PID: 99},
	}
	return s
}

// blindScan is what a scan sees without an agent.
func blindScan() *hostagent.Scan {
	return &hostagent.Scan{Source: hostagent.SourceNone, Network: scanOfAll().Listeners[2:5]}
}

// largeScan is a host with a large range and more of everything than a terminal is good for.
func largeScan() *hostagent.Scan {
	var services []hostagent.Service
	var findings []hostagent.Finding
	for i := range 60 {
		services = append(services, serviceOf(fmt.Sprintf("service-%d", i), fmt.Sprintf("127.0.0.1:%d", 8000+i)))
	}
	for i := range 14 {
		findings = append(findings, exposed("many", fmt.Sprintf("0.0.0.0:%d", 9000+i), nil, ""))
	}
	s := scanOf(services, findings...)
	s.Range.Last = 25095
	for port := uint16(22000); port < 22080; port += 2 {
		s.Openings = append(s.Openings, hostagent.Opening{Port: port, Services: []string{"sparse"}})
	}
	return s
}

func TestTable(t *testing.T) {
	for name, scan := range scans() {
		widths(t, name, func(s *screen) string { return s.table(scan) }, 0, 40, 80, 120)
		wide := &screen{width: 200, now: statusNow}
		checkLines(t, wide.table(scan), 200)
	}
}

func TestTableOfUDP(t *testing.T) {
	scan := scanOf(nil, finding(hostagent.Finding{ID: catalog.ConsulPortBlocked, Port: 8301, Protocol: sockets.UDP}))
	if table := (&screen{}).table(scan); !strings.Contains(table, "  udp port 8301\n") {
		t.Errorf("a UDP port is shown as\n%s", table)
	}
}

// golden compares text with a file; -update writes the file.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// checkLines wants every line within the width, unless it holds a single word that cannot be broken.
func checkLines(t *testing.T, text string, width int) {
	t.Helper()
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.IndexFunc(line, unshown) >= 0 {
			t.Errorf("this line could drive a terminal: %q", line)
		}
		if strings.HasSuffix(line, " ") {
			t.Errorf("this line ends in spaces: %q", line)
		}
		words := regexp.MustCompile(`^(remedy|found|mend|to see it|note): +`).ReplaceAllString(strings.TrimSpace(line), "")
		if width > 0 && catalog.Columns(line) > width && strings.Contains(words, " ") {
			t.Errorf("this line is wider than %d: %q", width, line)
		}
	}
}

func TestColoursOfSeverities(t *testing.T) {
	s := &screen{colour: true}
	got := s.tinted("", "ok")
	for _, severity := range []catalog.Severity{catalog.Info, catalog.Warning, catalog.Critical} {
		got += s.paint(severity, "x")
	}
	if want := "ok\x1b[36mx\x1b[0m\x1b[33mx\x1b[0m\x1b[31;1mx\x1b[0m"; got != want {
		t.Errorf("painted %q, want %q", got, want)
	}
}

// TestScreen asks what kind of screen stdout is: a real terminal, and what is none.
func TestScreen(t *testing.T) {
	type kind struct {
		Width  int
		Colour bool
	}
	for _, test := range []struct {
		name    string
		columns uint16
		env     map[string]string
		want    kind
	}{
		{"terminal", 132, nil, kind{132, true}},
		{"narrow terminal", 12, nil, kind{narrowest, true}},
		{"terminal that does not tell its size", 0, nil, kind{0, true}},
		{"no colours wanted", 80, map[string]string{"NO_COLOR": "1"}, kind{80, false}},
		{"NO_COLOR empty", 80, map[string]string{"NO_COLOR": ""}, kind{80, true}},
		{"dumb terminal", 80, map[string]string{"TERM": "dumb"}, kind{80, false}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", "")
			t.Setenv("TERM", "xterm")
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			terminal, _ := pseudoTerminal(t, test.columns, 24)
			s := newScreen(terminal)
			if diff := cmp.Diff(test.want, kind{s.width, s.colour}); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, s := range []*screen{newScreen(null), newScreen(new(bytes.Buffer))} {
		if s.width != 0 || s.colour {
			t.Errorf("what is no terminal has width %d, colours %t", s.width, s.colour)
		}
	}
}

// pseudoTerminal opens a terminal of that many columns, and the end from which it is controlled.
func pseudoTerminal(t *testing.T, columns, rows uint16) (screen, control *os.File) {
	t.Helper()
	control, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { control.Close() })
	if err := unix.IoctlSetPointerInt(int(control.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(control.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	screen, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetWinsize(int(screen.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		t.Fatal(err)
	}
	return screen, control
}

func TestManyFindingsPrintFast(t *testing.T) {
	var findings []hostagent.Finding
	for i := range 2000 {
		findings = append(findings, exposed(fmt.Sprintf("service-%d", i), "0.0.0.0:8080", process("java"), ""))
	}
	scan := scanOf(nil, findings...)
	for width, want := range map[int]string{0: "service-1999: 1 warning\n", 80: "… and 1800 more findings of 1800 more services: scan | less shows all\n"} {
		start := time.Now()
		text := (&screen{width: width, colour: true}).table(scan)
		if took := time.Since(start); took > time.Second {
			t.Errorf("2,000 findings took %s", took)
		} else {
			t.Logf("2,000 findings: %d kB in %s", len(text)/1000, took)
		}
		plain := regexp.MustCompile("\x1b\\[[0-9;]*m").ReplaceAllString(text, "")
		if !strings.Contains(plain, want) {
			t.Errorf("with width %d the table lacks %q", width, want)
		}
	}
}

func TestJSONIsSafeToShow(t *testing.T) {
	want := map[string]string{"name": hostileName + "\u009b\u007f\u2028 größe 東京 \U000e0001 <&>"}
	text, err := jsonText(want)
	if err != nil {
		t.Fatal(err)
	}
	if strings.IndexFunc(text, unshown) >= 0 || !strings.Contains(text, "größe 東京") || !strings.Contains(text, "<&>") {
		t.Errorf("the text is %q", text)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reads back as another text (-want +got):\n%s", diff)
	}
}
