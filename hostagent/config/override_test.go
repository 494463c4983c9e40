// SPDX-License-Identifier: MPL-2.0

package config

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func lookupIn(environment map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		value, ok := environment[name]
		return value, ok
	}
}

func TestApplyEnv(t *testing.T) {
	const file = `
consul {
  address              = "http://10.0.0.1:8500"
  token                = "file"
  ca_file              = "file"
  insecure_skip_verify = true
}
`
	for _, test := range []struct {
		name, file string
		env        map[string]string
		want       func(*Consul)
	}{
		{"nothing set", file, nil, func(*Consul) {}},
		{"empty counts as unset", file, map[string]string{"CONSUL_HTTP_ADDR": "", "CONSUL_HTTP_SSL": ""}, func(*Consul) {}},
		{"every variable", "", map[string]string{
			"CONSUL_HTTP_ADDR": "127.0.0.1:9500", "CONSUL_HTTP_TOKEN": "t", "CONSUL_HTTP_SSL": "true",
			"CONSUL_HTTP_SSL_VERIFY": "false", "CONSUL_CACERT": "ca", "CONSUL_CAPATH": "path", "CONSUL_CLIENT_CERT": "c",
			"CONSUL_CLIENT_KEY": "k", "CONSUL_TLS_SERVER_NAME": "name", "CONSUL_NAMESPACE": "ns",
			"CONSUL_PARTITION": "p", "CONSUL_HTTP_AUTH": "ignored:ignored",
		}, func(c *Consul) {
			*c = Consul{Address: "https://127.0.0.1:9500", Token: "t", CAFile: "ca", CAPath: "path", CertFile: "c",
				KeyFile: "k", TLSServerName: "name", InsecureSkipVerify: true, Namespace: "ns", Partition: "p",
				CatalogWakeup: true, Timeout: 5 * time.Second}
		}},
		{"over the file", file, map[string]string{
			"CONSUL_HTTP_ADDR": "unix:///run/c.sock", "CONSUL_CACERT": "env", "CONSUL_HTTP_SSL_VERIFY": "1",
		}, func(c *Consul) {
			c.Address, c.CAFile, c.InsecureSkipVerify = "unix:///run/c.sock", "env", false
		}},
		{"a token file displaces the file's token", file, map[string]string{"CONSUL_HTTP_TOKEN_FILE": "f"},
			func(c *Consul) { c.Token, c.TokenFile = "", "f" }},
		{"a token displaces the file's token file", "consul {\n token_file = \"f\"\n}\n",
			map[string]string{"CONSUL_HTTP_TOKEN": "t"}, func(c *Consul) { c.Token, c.TokenFile = "t", "" }},
		{"TLS makes the file's address https", file, map[string]string{"CONSUL_HTTP_SSL": "true"},
			func(c *Consul) { c.Address = "https://10.0.0.1:8500" }},
		{"no TLS leaves https alone", "consul {\n address = \"https://h:1\"\n}\n", map[string]string{"CONSUL_HTTP_SSL": "0"},
			func(*Consul) {}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := mustLoad(t, test.file)
			want := *c
			test.want(&want.Consul)
			if err := c.ApplyEnv(lookupIn(test.env)); err != nil {
				t.Fatal(err)
			}
			if err := c.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
			if diff := cmp.Diff(&want, c, values); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestApplyEnvBad(t *testing.T) {
	for _, test := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"values", map[string]string{
			"CONSUL_HTTP_ADDR": "ftp://h:1", "CONSUL_HTTP_SSL": "maybe", "CONSUL_HTTP_SSL_VERIFY": "\x1b[2J",
			"CONSUL_HTTP_TOKEN": "s3cret\n", "CONSUL_CACERT": "a\x07",
		}, `
CONSUL_HTTP_ADDR: unknown scheme "ftp"; write http, https or unix
CONSUL_HTTP_TOKEN: the token holds blanks or control characters (not shown)
CONSUL_HTTP_SSL: "maybe" is neither true nor false
CONSUL_HTTP_SSL_VERIFY: "\x1b[2J" is neither true nor false
CONSUL_CACERT: "a\a" holds control characters`},
		{"contradictions", map[string]string{
			"CONSUL_HTTP_ADDR": "unix:///run/c.sock", "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_TOKEN": "t",
			"CONSUL_HTTP_TOKEN_FILE": "f", "CONSUL_CLIENT_CERT": "c",
		}, `
CONSUL_HTTP_TOKEN_FILE: a token is set too; keep one of them (CONSUL_HTTP_TOKEN)
CONSUL_CLIENT_CERT: needs consul.key_file too
CONSUL_HTTP_ADDR: "unix:///run/c.sock" is a unix socket, but CONSUL_HTTP_SSL asks for TLS`},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := Default()
			err := c.ApplyEnv(lookupIn(test.env))
			if err == nil {
				err = c.Validate()
			}
			if diff := cmp.Diff(strings.TrimSpace(test.want), fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestSetFlag(t *testing.T) {
	c := mustLoad(t, "mode = \"observe\"\nextra_ports = [80]\nconsul {\n token_file = \"f\"\n}\n")
	if err := c.ApplyEnv(lookupIn(map[string]string{"CONSUL_HTTP_SSL": "true"})); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"mode": "guard", "extra-ports": "443,9000-9010", "protected-ports": "", "close-delay": "45s",
		"consul-address": "127.0.0.1:9", "consul-token": "t", "report-enabled": "false", "firewall-accept": "chain X",
	} {
		if err := c.SetFlag(name, value); err != nil {
			t.Error(err)
		}
	}
	want := Default()
	want.Mode, want.CloseDelay, want.ProtectedPorts = ModeGuard, 45*time.Second, nil
	want.ExtraPorts = []PortRange{{443, 443}, {9000, 9010}}
	want.Consul.Address, want.Consul.Token = "https://127.0.0.1:9", "t"
	want.Report.Enabled, want.Firewall.Accept = false, Accept{Chain: "X"}
	if diff := cmp.Diff(want, c, values); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestSetFlagBad(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"mode", "gaurd", `flag --mode: unknown value "gaurd"; did you mean "guard"?`},
		{"extra-ports", "80,90-80", `flag --extra-ports: range "90-80" is inverted; write "80-90"`},
		{"extra-ports", "80,80", `flag --extra-ports: port "80" overlaps "80" (flag --extra-ports)`},
		{"extra-ports", "22,443", `flag --extra-ports: port "22" holds port 22, which protected_ports protects`},
		{"close-delay", "soon", `flag --close-delay: "soon" is not a duration such as "500ms", "30s" or "2m"`},
		{"consul-key-file", "k", `flag --consul-key-file: needs consul.cert_file too`},
		{"extra_ports", "80", `flag --"extra_ports": no such key`},
	} {
		c := Default()
		err := c.SetFlag(test.name, test.value)
		if err == nil {
			err = c.Validate()
		}
		if diff := cmp.Diff(test.want, fmt.Sprint(err)); diff != "" {
			t.Errorf("--%s=%s (-want +got)\n%s", test.name, test.value, diff)
		}
	}
}

// TestTwoTokensOfOneLayer shows that a token displaces only what weighs less: of two flags neither is dropped in silence.
func TestTwoTokensOfOneLayer(t *testing.T) {
	for _, names := range [][2]string{{"consul-token-file", "consul-token"}, {"consul-token", "consul-token-file"}} {
		c := Default()
		for _, name := range names {
			if err := c.SetFlag(name, "x"); err != nil {
				t.Fatal(err)
			}
		}
		want := "flag --consul-token-file: a token is set too; keep one of them (flag --consul-token)"
		if diff := cmp.Diff(want, fmt.Sprint(c.Validate())); diff != "" {
			t.Errorf("%v (-want +got)\n%s", names, diff)
		}
	}
}

// TestValidateHandMade shows that a caller who sets fields instead of using SetFlag is checked as well.
func TestValidateHandMade(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	c := &Config{
		Mode: "x", SidecarRange: PortRange{9, 8}, ExtraPorts: []PortRange{{0, 7}, {80, 80}, {80, 80}},
		Firewall: Firewall{Accept: Accept{None: true, Chain: "X"}}, Consul: Consul{Address: "http://h"}, LogLevel: 3,
	}
	want := `mode: unknown value "x"; write one of "observe", "guard"
sidecar_range: range "9-8" is inverted; write "8-9"
extra_ports: port 0 is not a port (1 to 65535)
scope: unknown value ""; write one of "mesh", "all"
enforce: unknown value ""; write one of "report", "quarantine"
close_delay: "0s" is out of bounds (1s to 1h)
poll_interval: "0s" is out of bounds (200ms to 10s)
check_interval: "0s" is out of bounds (1s to 10m)
log_level: unknown value "INFO+3"; did you mean "info"?
log_format: unknown value ""; write one of "text", "json"
firewall.backend: unknown value ""; write one of "auto", "iptables", "nftables"
firewall.accept: accept is both none and chain "X"
firewall.iptables_variant: unknown value ""; write one of "auto", "nft", "legacy"
consul.timeout: "0s" is out of bounds (100ms to 20s)
report.service_name: "" is not a DNS label (1 to 63 letters, digits and "-", neither first nor last "-")
report.on: unknown value ""; write one of "hostagent", "service"
report.status: unknown value ""; write one of "warning", "critical"
report.detail: unknown value ""; write one of "full", "counts"
extra_ports: port "80" overlaps "80"`
	if diff := cmp.Diff(want, fmt.Sprint(c.Validate())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
