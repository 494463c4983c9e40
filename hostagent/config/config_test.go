// SPDX-License-Identifier: MPL-2.0

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/rogpeppe/go-internal/txtar"
)

// values compares two configurations by what they say, whatever said it.
var values = cmp.Options{
	cmpopts.IgnoreUnexported(Config{}),
	cmpopts.IgnoreFields(Config{}, "Files"),
	cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}),
}

// write makes a folder of the files in archive ("-- NAME --" before each; without one, all of it is 10.hcl) and makes it
// the working directory, so that errors name files without a folder.
func write(t *testing.T, archive string) {
	t.Helper()
	dir := t.TempDir()
	parsed := txtar.Parse([]byte(archive))
	if len(parsed.Files) == 0 {
		parsed.Files = []txtar.File{{Name: "10.hcl", Data: []byte(archive)}}
	}
	for _, file := range parsed.Files {
		path := filepath.Join(dir, file.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, file.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// loadAndValidate is what a run does, with an empty environment and no flags.
func loadAndValidate() (*Config, error) {
	c, err := Load(".")
	if err != nil {
		return nil, err
	}
	return c, c.Validate()
}

func mustLoad(t *testing.T, archive string) *Config {
	t.Helper()
	write(t, archive)
	c, err := loadAndValidate()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadEveryKey(t *testing.T) {
	got := mustLoad(t, `
mode            = "guard"
sidecar_range   = "21000-21255"
extra_ports     = ["8443", 443, "9000-9010"]
protected_ports = [22, "8300-8302"]
guard_ports     = [8443, 8080]
allow_from      = ["10.0.0.0/8", "fd00::/8", "192.0.2.7", "2001:db8::1", "cluster", "10.0.0.0/8"]
allow_local_bridges = false
enforce = "quarantine"
quarantine_ports = ["8080-8099", 9090]
quarantine_findings = ["exposed-listener", "exposed-sibling", "exposed-upstream", "exposed-admin"]
quarantine_services = ["web", "db"]
cut_on_close = true
state_dir = "/srv/hostagent"
gateways        = ["edge", "edge"]
native_services = ["billing"]
exposed_paths_from = ["192.0.2.9", "cluster"]
scope           = "all"
probe           = true
audit           = false
close_delay     = "1m"
poll_interval   = "200ms"
check_interval  = "10m"
log_level       = "warn"
log_format      = "json"
firewall {
  backend          = "iptables"
  publish_set      = "inet  filter mesh_ports"
  accept           = "chain MY-INPUT.1"
  iptables_variant = "legacy"
}
consul {
  address              = "https://[::1]:8501/"
  token_file           = "/etc/hostagent/token"
  ca_file              = "ca.pem"
  ca_path              = "/etc/ssl/consul"
  cert_file            = "c.pem"
  key_file             = "k.pem"
  tls_server_name      = "client.dc1.consul"
  insecure_skip_verify = true
  namespace            = "team"
  partition            = "east"
  user                 = "1500"
  allow_remote_agent   = true
  catalog_wakeup       = false
  timeout              = "20s"
}
report {
  enabled      = false
  service_name = "hostagent-2"
  on           = "service"
  status       = "critical"
  detail       = "counts"
  warning_services  = ["web"]
  critical_services = ["db", "db"]
}
metrics {
  address       = "192.0.2.1:9521"
  allow_network = true
}
`)
	sources := []Source{
		network("10.0.0.0/8"), network("fd00::/8"), network("192.0.2.7/32"), network("2001:db8::1/128"), {Cluster: true},
	}
	want := &Config{
		Mode:               ModeGuard,
		SidecarRange:       PortRange{21000, 21255},
		ExtraPorts:         []PortRange{{8443, 8443}, {443, 443}, {9000, 9010}},
		ProtectedPorts:     []PortRange{{22, 22}, {8300, 8302}},
		GuardPorts:         []PortRange{{8443, 8443}, {8080, 8080}},
		AllowFrom:          sources,
		ExposedPathsFrom:   []Source{network("192.0.2.9/32"), {Cluster: true}},
		Enforce:            EnforceQuarantine,
		QuarantinePorts:    []PortRange{{8080, 8099}, {9090, 9090}},
		QuarantineFindings: []string{"exposed-listener", "exposed-sibling", "exposed-upstream", "exposed-admin"},
		QuarantineServices: []string{"web", "db"},
		CutOnClose:         true,
		StateDir:           "/srv/hostagent",
		Gateways:           []string{"edge"},
		NativeServices:     []string{"billing"},
		Scope:              ScopeAll,
		Probe:              true,
		CloseDelay:         time.Minute,
		PollInterval:       200 * time.Millisecond,
		CheckInterval:      10 * time.Minute,
		LogLevel:           slog.LevelWarn,
		LogFormat:          LogJSON,
		Firewall: Firewall{
			Backend: BackendIptables, Accept: Accept{Chain: "MY-INPUT.1"}, IptablesVariant: IptablesLegacy,
			PublishSet: SetName{"inet", "filter", "mesh_ports"},
		},
		Consul: Consul{
			Address: "https://[::1]:8501", TokenFile: "/etc/hostagent/token", CAFile: "ca.pem", CAPath: "/etc/ssl/consul",
			CertFile: "c.pem", KeyFile: "k.pem", TLSServerName: "client.dc1.consul", InsecureSkipVerify: true,
			Namespace: "team", Partition: "east", User: "1500", AllowRemoteAgent: true, Timeout: 20 * time.Second,
		},
		Report: Report{ServiceName: "hostagent-2", On: ReportOnService, Status: ReportCritical, Detail: ReportCounts,
			WarningServices: []string{"web"}, CriticalServices: []string{"db"}},
		Metrics: Metrics{Address: netip.MustParseAddrPort("192.0.2.1:9521"), AllowNetwork: true},
	}
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestMerge(t *testing.T) {
	for _, test := range []struct {
		name, archive string
		want          func(*Config)
		files         []string
	}{
		{
			name:    "empty folder",
			archive: "-- notes.txt --\nmode = 1\n",
			want:    func(*Config) {},
		},
		{
			name: "a later scalar wins, lists append without duplicates, blocks merge by field",
			archive: `
-- 10.hcl --
mode        = "observe"
extra_ports = [80, "90-95"]
gateways    = ["a", "b"]
allow_from  = ["10.0.0.0/8"]
consul {
  token     = "t"
  namespace = "one"
}
-- 20.hcl --
mode        = "guard"
extra_ports = ["90-95", 8080, "80-80"]
gateways    = ["b", "c"]
allow_from  = ["10.0.0.0/8", "10.1.0.0/16"]
consul {
  namespace = "two"
}
`,
			want: func(c *Config) {
				c.Mode = ModeGuard
				c.ExtraPorts = []PortRange{{80, 80}, {90, 95}, {8080, 8080}}
				c.Gateways = []string{"a", "b", "c"}
				c.AllowFrom = []Source{network("10.0.0.0/8"), network("10.1.0.0/16")}
				c.Consul.Token, c.Consul.Namespace = "t", "two"
			},
			files: []string{"10.hcl", "20.hcl"},
		},
		{
			name: "the first list replaces the default, later ones append",
			archive: `
-- 10.hcl --
protected_ports = [2222]
-- 20.hcl --
protected_ports = [8500]
`,
			want:  func(c *Config) { c.ProtectedPorts = []PortRange{{2222, 2222}, {8500, 8500}} },
			files: []string{"10.hcl", "20.hcl"},
		},
		{
			name:    "an empty list replaces the default too",
			archive: "protected_ports = []\n",
			want:    func(c *Config) { c.ProtectedPorts = nil },
			files:   []string{"10.hcl"},
		},
		{
			name: "lexical order; hidden files, other endings and folders are left alone",
			archive: `
-- b.hcl --
scope = "mesh"
-- a.hcl --
scope = "all"
-- .c.hcl --
scope = "bad"
-- d.hcl.bak --
scope = "bad"
-- e.json --
{}
-- sub/f.hcl --
scope = "bad"
-- g.hcl/h.hcl --
scope = "bad"
`,
			want:  func(c *Config) { c.Scope = ScopeMesh },
			files: []string{"a.hcl", "b.hcl"},
		},
		{
			name:    "an address without scheme",
			archive: "consul {\n  address = \"localhost:8500\"\n}\n",
			want:    func(c *Config) { c.Consul.Address = "http://localhost:8500" },
			files:   []string{"10.hcl"},
		},
		{
			name:    "CRLF, comments, a unix socket, a file behind a proxy prefix",
			archive: "# a\r\n/* b */ log_level = \"error\" // c\r\nconsul {\r\n address = \"unix:///run/c.sock\"\r\n}\r\n",
			want:    func(c *Config) { c.LogLevel = slog.LevelError; c.Consul.Address = "unix:///run/c.sock" },
			files:   []string{"10.hcl"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := mustLoad(t, test.archive)
			want := Default()
			test.want(want)
			if diff := cmp.Diff(want, got, values); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(test.files, got.Files); diff != "" {
				t.Errorf("files (-want +got)\n%s", diff)
			}
		})
	}
}

func TestLoadPaths(t *testing.T) {
	write(t, "-- a/1.hcl --\nmode = \"observe\"\nscope = \"all\"\n-- b.conf --\nmode = \"guard\"\n")
	c, err := Load("a", "b.conf")
	if err != nil {
		t.Fatal(err)
	}
	if c.Mode != ModeGuard || c.Scope != ScopeAll {
		t.Errorf("mode %q, scope %q: want guard from the later path, all from the earlier", c.Mode, c.Scope)
	}
	if diff := cmp.Diff([]string{"a/1.hcl", "b.conf"}, c.Files); diff != "" {
		t.Errorf("files (-want +got)\n%s", diff)
	}

	if c, err = load("missing", nil); err != nil {
		t.Errorf("a missing default folder: %v", err)
	} else if diff := cmp.Diff(Default(), c, values); diff != "" {
		t.Errorf("a missing default folder (-want +got)\n%s", diff)
	}
	if c, err = load("a", nil); err != nil || c.Scope != ScopeAll {
		t.Errorf("the default folder was not read: %v", err)
	}

	c, err = Load("missing", "gone.hcl", "b.conf")
	if c != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("named paths that do not exist: %v, %v", c, err)
	}
	want := "gone.hcl: cannot read configuration: no such file or directory\n" +
		"missing: cannot read configuration: no such file or directory"
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestLoadRefusesWhatIsNoSmallFile(t *testing.T) {
	write(t, "-- ok.hcl --\n")
	if err := os.WriteFile("large.hcl", bytes.Repeat([]byte("#"), maxFileSize+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo("pipe.hcl", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", "dangling.hcl"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("odd\x1b[2J.hcl", []byte("mod = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Load(".")
	want := `dangling.hcl: cannot read configuration: no such file or directory
large.hcl: cannot read configuration: larger than 1 MiB
"odd\x1b[2J.hcl":1: unknown key "mod"; did you mean "mode"?
pipe.hcl: cannot read configuration: not a regular file`
	if diff := cmp.Diff(want, fmt.Sprint(err)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	if err := os.WriteFile("full.hcl", append(bytes.Repeat([]byte("#"), maxFileSize-1), '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load("full.hcl"); err != nil {
		t.Errorf("a file of exactly 1 MiB: %v", err)
	}
}

func TestLoadBoundsTheNumberOfFiles(t *testing.T) {
	write(t, "-- ok.hcl --\n")
	paths := make([]string, maxFiles)
	for i := range paths {
		paths[i] = "ok.hcl"
	}
	if _, err := Load(paths...); err != nil {
		t.Errorf("%d files: %v", len(paths), err)
	}
	_, err := Load(append(paths, "ok.hcl")...)
	if want := "ok.hcl: cannot read configuration: more than 1000 files"; fmt.Sprint(err) != want {
		t.Errorf("%d files: got %v, want %s", len(paths)+1, err, want)
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	const token = "b1gs3cr3t-0000"
	c := mustLoad(t, "consul {\n  token = \""+token+"\"\n}\n")
	if c.Consul.Token.Reveal() != token {
		t.Fatalf("token %q not loaded", c.Consul.Token.Reveal())
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		fmt.Fprintf(&out, verb+"\n", c)
		fmt.Fprintf(&out, verb+"\n", *c)
		fmt.Fprintf(&out, verb+"\n", c.Consul)
		fmt.Fprintf(&out, verb+"\n", c.Consul.Token)
	}
	fmt.Fprintf(&out, "%v %+v %#v", struct{ hidden *Config }{c}, struct{ hidden *Config }{c}, struct{ hidden *Config }{c})
	fmt.Fprintln(&out, c, c.Consul.Token, c.Consul.Token.String(), c.Consul.Token.GoString())
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("loaded", "config", c, "value", *c, "consul", c.Consul, "token", c.Consul.Token)
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	shown := out.String()
	for _, form := range []string{token, fmt.Sprintf("%x", token), fmt.Sprintf("%X", token)} {
		if strings.Contains(shown, form) {
			t.Errorf("%q is shown in\n%s", form, shown)
		}
	}
	if n := strings.Count(shown, redacted); n < 40 {
		t.Errorf("%q stands %d times in the output: is it printed at all?\n%s", redacted, n, shown)
	}
	if got := fmt.Sprintf("%v|%#v|%q", Secret(""), Secret(""), Secret("")); got != `|""|""` {
		t.Errorf("an empty secret shows as %s", got)
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	const token = "b1gs3cr3t"
	for _, input := range []string{
		`consul {` + "\n" + `token = "b1gs3cr3t` + "\n}",
		`consul {` + "\n" + `token = b1gs3cr3t` + "\n}",
		`consul {` + "\n" + `token = b1gs3cr3t.0.1` + "\n}",
		`consul {` + "\n" + `token = "x\b1gs3cr3t"` + "\n}",
		`consul {` + "\n" + `token = ["b1gs3cr3t"]` + "\n}",
		`consul {` + "\n" + `token = "b1gs3cr3t ${x}"` + "\n}",
		`consul {` + "\n" + `token = "b1gs3cr3t two"` + "\n}",
		`consul {` + "\n" + `token = b1gs3cr3t("x")` + "\n}",
		`consul {` + "\n" + `token = {b1gs3cr3t = 1}` + "\n}",
		`consul {` + "\n" + `token "b1gs3cr3t" {}` + "\n}",
		`consul {` + "\n" + `token "b1gs3cr3t"` + "\n}",
		`consul {` + "\n" + `token : b1gs3cr3t` + "\n}",
		`consul {` + "\n" + `token = "b1gs3cr3t"` + "\n" + `token = "b1gs3cr3t"` + "\n}",
		`consul {` + "\n" + `token_fil = "b1gs3cr3t"` + "\n}",
		`consul {` + "\n" + `token = "b1gs3cr3t"` + "\n" + `token_file = "x"` + "\n}",
		`consul {` + "\n" + `address = "http://me:b1gs3cr3t@host:8500"` + "\n}",
		`consul {` + "\n" + `address = "me:b1gs3cr3t@host"` + "\n}",
	} {
		write(t, input+"\n")
		if _, err := loadAndValidate(); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s\ngives %v", input, err)
		}
	}
	c := Default()
	if err := c.SetFlag("consul-token", token+"\n"); err == nil || strings.Contains(err.Error(), token) {
		t.Errorf("flag: %v", err)
	}
	for _, bad := range []string{" ", "\n", "\x00", "\x1b", "\xff"} {
		c.Consul.Token = Secret(token + bad)
		if err := c.Validate(); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("Validate, with %q: %v", bad, err)
		}
	}
}

func TestPortRange(t *testing.T) {
	for _, test := range []struct {
		r    PortRange
		text string
		size int
		in   []uint16
		out  []uint16
	}{
		{PortRange{}, "", 0, nil, []uint16{0, 1}},
		{PortRange{80, 80}, "80", 1, []uint16{80}, []uint16{79, 81}},
		{PortRange{80, 90}, "80-90", 11, []uint16{80, 85, 90}, []uint16{79, 91}},
		{PortRange{1, 65535}, "1-65535", 65535, []uint16{1, 65535}, []uint16{0}},
		{PortRange{90, 80}, "90-80", 0, nil, []uint16{85}},
	} {
		if got := test.r.String(); got != test.text {
			t.Errorf("String %q, want %q", got, test.text)
		}
		if got := test.r.Size(); got != test.size {
			t.Errorf("%v: size %d, want %d", test.r, got, test.size)
		}
		for _, port := range test.in {
			if !test.r.Contains(port) {
				t.Errorf("%v does not contain %d", test.r, port)
			}
		}
		for _, port := range test.out {
			if test.r.Contains(port) {
				t.Errorf("%v contains %d", test.r, port)
			}
		}
	}
}

func network(text string) Source { return Source{Network: netip.MustParsePrefix(text)} }
