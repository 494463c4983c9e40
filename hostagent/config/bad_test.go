// SPDX-License-Identifier: MPL-2.0

package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestBad shows what an operator reads for each mistake: the file or files, then every line of the error.
func TestBad(t *testing.T) {
	for _, test := range []struct{ name, input, want string }{
		{"unknown keys", `
mod = "guard"
colour = "red"
address = "127.0.0.1:8500"
consul {
  adress = "127.0.0.1:8500"
  scope  = "all"
  enabled = true
}
consul_timeout = "5s"
`, `
10.hcl:2: unknown key "mod"; did you mean "mode"?
10.hcl:3: unknown key "colour"
10.hcl:4: unknown key "address"; it belongs into the block "consul" or "metrics"
10.hcl:6: unknown key "consul.adress"; did you mean "address"?
10.hcl:7: unknown key "consul.scope"; it stands outside the blocks
10.hcl:8: unknown key "consul.enabled"; it belongs into the block "report"
10.hcl:10: unknown key "consul_timeout"; write consul { timeout = … }
`},
		{"unknown blocks", `
firewal {
  accept = "head"
}
mode {
}
report "x" {
  nested {
  }
}
consul = {
  token = "t"
}
`, `
10.hcl:2: unknown block "firewal"; did you mean "firewall"?
10.hcl:5: "mode" is no block; write "mode = ..."
10.hcl:7: block "report" takes no label; write "report {"
10.hcl:8: unknown block "nested" in block "report"
10.hcl:11: "consul" is a block; write "consul {" without "="
`},
		{"twice in one file", `
mode = "guard"
consul {
  namespace = "a"
  namespace = "b"
}
mode = "observe"
consul {
}
`, `
10.hcl:5: key "consul.namespace" is set twice; first on line 4
10.hcl:7: key "mode" is set twice; first on line 2
10.hcl:8: block "consul" stands twice in this file; first on line 3
`},
		{"ports", `
extra_ports = [
  "70000",
  0,
  -5,
  80.5,
  8e3,
  "080",
  "",
  " 80",
  "http",
  "80-90-100",
  "-80",
  "80-",
  "90-80",
  "1-70000",
  "0-9",
  "\u001b[2J",
  true,
  ["80"],
]
guard_ports = 8080
protected_ports = "22"
sidecar_range = [21000]
`, `
10.hcl:3: extra_ports: "70000" is not a port (1 to 65535)
10.hcl:4: extra_ports: "0" is not a port (1 to 65535)
10.hcl:5: extra_ports: "-5" is neither a port nor a range such as "80-90"
10.hcl:6: extra_ports: "80.5" is not a port (1 to 65535)
10.hcl:7: extra_ports: "8e3" is not a port (1 to 65535)
10.hcl:8: extra_ports: "080" is not a port (1 to 65535)
10.hcl:9: extra_ports: "" is not a port (1 to 65535)
10.hcl:10: extra_ports: " 80" is not a port (1 to 65535)
10.hcl:11: extra_ports: "http" is not a port (1 to 65535)
10.hcl:12: extra_ports: "80-90-100" is neither a port nor a range such as "80-90"
10.hcl:13: extra_ports: "-80" is neither a port nor a range such as "80-90"
10.hcl:14: extra_ports: "80-" is neither a port nor a range such as "80-90"
10.hcl:15: extra_ports: range "90-80" is inverted; write "80-90"
10.hcl:16: extra_ports: range "1-70000": "70000" is not a port (1 to 65535)
10.hcl:17: extra_ports: range "0-9": "0" is not a port (1 to 65535)
10.hcl:18: extra_ports: "\x1b[2J" is not a port (1 to 65535)
10.hcl:19: extra_ports: "true" is a bool; write "true" in quotes
10.hcl:20: extra_ports: a list does not belong into a list
10.hcl:22: guard_ports: "8080" is not a list; write [8080]
10.hcl:23: protected_ports: "22" is not a list; write ["22"]
10.hcl:24: sidecar_range: takes one value, not a list
`},
		{"overlaps in one list", `
extra_ports = [
  "85-95",
  "80-90",
  443, 443,
  "100-200",
  150,
  "160-170",
]
guard_ports = [7, "7-7"]
protected_ports = ["20-30", 22]
`, `
10.hcl:4: extra_ports: range "80-90" overlaps "85-95" (line 3)
10.hcl:5: extra_ports: port "443" overlaps "443" (line 5)
10.hcl:7: extra_ports: port "150" overlaps "100-200" (line 6)
10.hcl:8: extra_ports: range "160-170" overlaps "100-200" (line 6)
10.hcl:10: guard_ports: port "7" overlaps "7" (line 10)
10.hcl:11: protected_ports: port "22" overlaps "20-30" (line 11)
`},
		{"overlaps between files", `
-- 10.hcl --
extra_ports = [80, "85-95"]
-- 20.hcl --
extra_ports = [80]
-- 30.hcl --
extra_ports = ["90-99"]
-- 40.hcl --
extra_ports = [80, 80]
`, `
30.hcl:1: extra_ports: range "90-99" overlaps "85-95" (10.hcl:1)
40.hcl:1: extra_ports: port "80" overlaps "80" (10.hcl:1)
`},
		{"protected ports, the default", `
sidecar_range = "20-100"
extra_ports   = ["10-22", 443]
guard_ports   = [22]
`, `
10.hcl:2: sidecar_range: range "20-100" holds port 22, which protected_ports protects
10.hcl:3: extra_ports: range "10-22" holds port 22, which protected_ports protects
10.hcl:3: extra_ports: range "10-22" overlaps sidecar_range "20-100", whose ports need no entry (line 2)
10.hcl:4: guard_ports: port "22" holds port 22, which protected_ports protects
`},
		{"protected ports, the operator's", `
-- 10.hcl --
protected_ports = [443, "8300-8302"]
-- 20.hcl --
extra_ports = [22, 443, "8000-9000"]
guard_ports = [8301]
`, `
20.hcl:1: extra_ports: port "443" holds port 443, which protected_ports protects (10.hcl:1)
20.hcl:1: extra_ports: range "8000-9000" holds port 8300, which protected_ports protects (10.hcl:1)
20.hcl:2: guard_ports: port "8301" holds port 8301, which protected_ports protects (10.hcl:1)
`},
		{"sidecar range", "sidecar_range = \"20000-24096\"\n", `
10.hcl:1: sidecar_range: range "20000-24096" has 4097 ports; at most 4096 are accepted
`},
		{"extra ports inside the sidecar range", `
sidecar_range = "21000-21255"
extra_ports = [20999, "21200-21300", 21256]
`, `
10.hcl:3: extra_ports: port "21256" overlaps "21200-21300" (line 3)
10.hcl:3: extra_ports: range "21200-21300" overlaps sidecar_range "21000-21255", whose ports need no entry (line 2)
`},
		{"words", `
mode      = "gaurd"
scope     = "ALL"
log_level = "verbose"
firewall {
  accept           = "haed"
  iptables_variant = "nftables"
}
`, `
10.hcl:2: mode: unknown value "gaurd"; did you mean "guard"?
10.hcl:3: scope: unknown value "ALL"; did you mean "all"?
10.hcl:4: log_level: unknown value "verbose"; write one of "debug", "info", "warn", "error"
10.hcl:6: firewall.accept: unknown value "haed"; did you mean "head"?
10.hcl:7: firewall.iptables_variant: unknown value "nftables"; did you mean "nft"?
`},
		{"a bad value that a later file replaces", `
-- 10.hcl --
mode = ""
log_level = "loud"
-- 20.hcl --
mode = "guard"
log_level = "debug"
`, `
10.hcl:1: mode: unknown value ""; write one of "observe", "guard"
10.hcl:2: log_level: unknown value "loud"; write one of "debug", "info", "warn", "error"
`},
		{"metrics", `
-- 10.hcl --
metrics {
  address = ":9521"
}
-- 20.hcl --
metrics {
  address = "localhost:9521"
}
-- 30.hcl --
metrics {
  address = "127.0.0.1:0"
}
log_format = "jsn"
-- 40.hcl --
metrics {
  address = "0.0.0.0:9521"
}
`, `
10.hcl:2: metrics.address: ":9521" is not an IP address with a port, such as "127.0.0.1:9521" or "[::1]:9521"
20.hcl:2: metrics.address: "localhost:9521" is not an IP address with a port, such as "127.0.0.1:9521" or "[::1]:9521"
30.hcl:2: metrics.address: "127.0.0.1:0" names no port from 1 to 65535
30.hcl:4: log_format: unknown value "jsn"; did you mean "json"?
40.hcl:2: metrics.address: "0.0.0.0:9521" is no loopback address: whoever reaches it could read the names of this host's services; add allow_network = true to mean it
`},
		{"durations", `
close_delay    = "0s"
poll_interval  = "199ms"
check_interval = "10m1s"
consul {
  timeout = 5
}
`, `
10.hcl:2: close_delay: "0s" is out of bounds (1s to 1h)
10.hcl:3: poll_interval: "199ms" is out of bounds (200ms to 10s)
10.hcl:4: check_interval: "10m1s" is out of bounds (1s to 10m)
10.hcl:6: consul.timeout: "5" has no unit; write "5s" for seconds
`},
		{"durations that are none", `
close_delay    = "30"
poll_interval  = "soon"
check_interval = "-5s"
consul {
  timeout = "9999999999h"
}
`, `
10.hcl:2: close_delay: "30" has no unit; write "30s" for seconds
10.hcl:3: poll_interval: "soon" is not a duration such as "500ms", "30s" or "2m"
10.hcl:4: check_interval: "-5s" is out of bounds (1s to 10m)
10.hcl:6: consul.timeout: "9999999999h" is not a duration such as "500ms", "30s" or "2m"
`},
		{"chains", `
-- a.hcl --
firewall {
  accept = "chain"
}
-- b.hcl --
firewall {
  accept = "chain -X"
}
-- c.hcl --
firewall {
  accept = "chain A23456789-123456789-123456789"
}
-- d.hcl --
firewall {
  accept = "chain IN;PUT"
}
-- e.hcl --
firewall {
  accept = "chain A23456789-123456789-12345678"
}
-- f.hcl --
firewall {
  accept = "chain  X"
}
`, `
a.hcl:2: firewall.accept: "chain" needs a name; write "chain NAME"
b.hcl:2: firewall.accept: chain name "-X" may hold only A-Z, a-z, 0-9, "_", "." and "-", and not begin with "-"
c.hcl:2: firewall.accept: chain name "A23456789-123456789-123456789" has 29 characters; iptables takes at most 28
d.hcl:2: firewall.accept: chain name "IN;PUT" may hold only A-Z, a-z, 0-9, "_", "." and "-", and not begin with "-"
f.hcl:2: firewall.accept: chain name " X" may hold only A-Z, a-z, 0-9, "_", "." and "-", and not begin with "-"
`},
		{"quarantine without ports", `
-- 10.hcl --
enforce = "quarantine"
`, `
10.hcl:1: enforce: "quarantine" closes only ports that quarantine_ports lists, and it lists none
`},
		{"quarantine with ports that cannot be read", `
-- 10.hcl --
enforce          = "quarantine"
quarantine_ports = [8080-8090]
sidecar_range    = 21000-21255
-- 20.hcl --
quarantine_ports = ["8080_8090"]
-- 30.hcl --
quarantine_ports = "8080-8090"
`, `
10.hcl:2: quarantine_ports: a range stands in quotes; write "8080-8090"
10.hcl:3: sidecar_range: a range stands in quotes; write "21000-21255"
20.hcl:1: quarantine_ports: "8080_8090" is not a port (1 to 65535)
30.hcl:1: quarantine_ports: "8080-8090" is not a list; write ["8080-8090"]
`},
		{"enforcement and firewall", `
-- 10.hcl --
enforce          = "quarantaine"
quarantine_ports = [22, "8080-8081", 8081]
quarantine_findings = ["exposed-listner", "squatted-port"]
quarantine_services = [""]
state_dir = "var/lib"
firewall {
  backend     = "nft"
  publish_set = "filter mesh"
}
-- 20.hcl --
enforce = "quarantine"
firewall {
  publish_set = "bridge filter mesh"
}
-- 30.hcl --
firewall {
  backend     = "nftables"
  accept      = "chain X"
  publish_set = "inet hostagent open"
}
-- 40.hcl --
firewall {
  publish_set = "inet filter 1x"
}
`, `
10.hcl:1: enforce: unknown value "quarantaine"; did you mean "quarantine"?
10.hcl:2: quarantine_ports: port "8081" overlaps "8080-8081" (line 2)
10.hcl:2: quarantine_ports: port "22" holds port 22, which protected_ports protects
10.hcl:3: quarantine_findings: unknown value "exposed-listner"; did you mean "exposed-listener"?
10.hcl:3: quarantine_findings: unknown value "squatted-port"; write one of "exposed-listener", "exposed-sibling", "exposed-upstream", "exposed-admin"
10.hcl:4: quarantine_services: "" is not a name
10.hcl:5: state_dir: "var/lib" is not an absolute path
10.hcl:7: firewall.backend: unknown value "nft"; did you mean "nftables"?
10.hcl:8: firewall.publish_set: "filter mesh" is not a set; write its family, table and name, such as "inet filter mesh_ports"
20.hcl:3: firewall.publish_set: family "bridge" is not one of "inet", "ip" and "ip6"
30.hcl:3: firewall.accept: chain "X" is one of iptables, but backend is "nftables"; name a set of your own in publish_set instead (line 2)
30.hcl:4: firewall.publish_set: table "hostagent" is hostagent's own; name a set of your ruleset
40.hcl:2: firewall.publish_set: "1x" is no name that nft takes (letters, digits, "_", ".", "/", "\\", beginning with a letter)
`},
		{"allow_from", `
allow_from = [
  "10.0.0.5/8",
  "fd00::1/8",
  "10.0.0.0/33",
  "::ffff:10.0.0.0/104",
  "::ffff:10.0.0.1",
  "fe80::1%eth0",
  "fe80::1%eth0/64",
  "example.org",
  "",
  "10.0.0.0/08",
  10,
]
`, `
10.hcl:3: allow_from: "10.0.0.5/8" has host bits set; write "10.0.0.0/8" for the network or "10.0.0.5" for the one address
10.hcl:4: allow_from: "fd00::1/8" has host bits set; write "fd00::/8" for the network or "fd00::1" for the one address
10.hcl:5: allow_from: "10.0.0.0/33" is not a network such as "10.0.0.0/8" or "fd00::/8"
10.hcl:6: allow_from: "::ffff:10.0.0.0/104" is IPv4 written as IPv6; write "10.0.0.0/8"
10.hcl:7: allow_from: "::ffff:10.0.0.1/128" is IPv4 written as IPv6; write "10.0.0.1/32"
10.hcl:8: allow_from: "fe80::1%eth0" has a zone; write the address without it
10.hcl:9: allow_from: "fe80::1%eth0/64" is not a network such as "10.0.0.0/8" or "fd00::/8"
10.hcl:10: allow_from: "example.org" is neither an address, nor a network such as "10.0.0.0/8", nor "cluster"
10.hcl:11: allow_from: "" is neither an address, nor a network such as "10.0.0.0/8", nor "cluster"
10.hcl:12: allow_from: "10.0.0.0/08" is not a network such as "10.0.0.0/8" or "fd00::/8"
10.hcl:13: allow_from: "10" is a number; write "10" in quotes
`},
		{"names", `
gateways        = ["", "edge\u0007"]
native_services = ["a\u202eb", 5]
report {
  service_name = "-host"
}
`, `
10.hcl:2: gateways: "" is not a name
10.hcl:2: gateways: "edge\a" holds control characters
10.hcl:3: native_services: "5" is a number; write "5" in quotes
10.hcl:3: native_services: "a\u202eb" holds control characters
10.hcl:5: report.service_name: "-host" is not a DNS label (1 to 63 letters, digits and "-", neither first nor last "-")
`},
		{"consul", `
consul {
  address    = "http://127.0.0.1:8500"
  token      = "t"
  token_file = "f"
  cert_file  = "c"
  ca_file    = "a\u0000b"
}
`, `
10.hcl:5: consul.token_file: a token is set too; keep one of them (line 4)
10.hcl:6: consul.cert_file: needs consul.key_file too
10.hcl:7: consul.ca_file: "a\x00b" holds control characters
`},
		{"consul, in two files", `
-- 10.hcl --
consul {
  token_file = "f"
  key_file   = "k"
}
-- 20.hcl --
consul {
  token = "t"
}
`, `
10.hcl:2: consul.token_file: a token is set too; keep one of them (20.hcl:2)
10.hcl:3: consul.key_file: needs consul.cert_file too
`},
		{"addresses", `
-- a.hcl --
consul {
  address = "ftp://127.0.0.1:8500"
}
-- b.hcl --
consul {
  address = "localhost"
}
-- c.hcl --
consul {
  address = "127.0.0.1:85000"
}
-- d.hcl --
consul {
  address = "unix://run/consul.sock"
}
-- e.hcl --
consul {
  address = "http://"
}
-- f.hcl --
consul {
  address = "http://me:pw@127.0.0.1:8500"
}
-- g.hcl --
consul {
  address = "http://127.0.0.1:8500?x=1"
}
-- h.hcl --
consul {
  address = ""
}
-- i.hcl --
consul {
  address = "::1:8500"
}
`, `
a.hcl:2: consul.address: unknown scheme "ftp"; write http, https or unix
b.hcl:2: consul.address: "localhost" has no port; write it as in "127.0.0.1:8500"
c.hcl:2: consul.address: "127.0.0.1:85000": "85000" is not a port (1 to 65535)
d.hcl:2: consul.address: "unix://run/consul.sock" needs an absolute path, as in "unix:///run/consul/http.sock"
e.hcl:2: consul.address: "http://" is not an address such as "http://127.0.0.1:8500"
f.hcl:2: consul.address: the address holds "@" (not shown); credentials do not belong into it
g.hcl:2: consul.address: the address holds "?" or "#" (not shown); write it as in "http://127.0.0.1:8500"
h.hcl:2: consul.address: "" is not an address such as "http://127.0.0.1:8500"
i.hcl:2: consul.address: "::1:8500" is not an address such as "http://127.0.0.1:8500"
`},
		{"expressions", `
mode            = guard
scope           = var.scope
log_level       = "${level}"
close_delay     = "${n}s"
poll_interval   = file("x")
check_interval  = 1 + 2
gateways        = [for g in x : g]
native_services = [null, web, upper("x")]
extra_ports     = null
guard_ports     = {}
sidecar_range   = (1)
firewall {
  accept           = !true
  iptables_variant = true ? "nft" : "legacy"
}
report {
  enabled      = "true"
  service_name = true
}
consul {
  insecure_skip_verify = 1
  token                = 5
  namespace            = yes
}
`, `
10.hcl:2: mode: "guard" refers to a variable, and there are none; write "guard" in quotes
10.hcl:3: scope: "var.scope" refers to a variable, and there are none; write a plain value
10.hcl:4: log_level: "${level}" refers to a variable, and there are none; write "$${" for a plain "${"
10.hcl:5: close_delay: "${n}s" refers to a variable, and there are none; write "$${" for a plain "${"
10.hcl:6: poll_interval: "file(\"x\")" calls a function, and there are none; write a plain value
10.hcl:7: check_interval: "1 + 2" is an expression; write a plain value
10.hcl:8: gateways: "[for g in x : g]" is an expression; write a plain value
10.hcl:9: native_services: null is not a value; leave the line out to have the default
10.hcl:9: native_services: "web" refers to a variable, and there are none; write "web" in quotes
10.hcl:9: native_services: "upper(\"x\")" calls a function, and there are none; write a plain value
10.hcl:10: extra_ports: null is not a value; leave the line out to have the default
10.hcl:11: guard_ports: takes a plain value, not "{ }"
10.hcl:12: sidecar_range: "(1)" is an expression; write a plain value
10.hcl:14: firewall.accept: "!true" is an expression; write a plain value
10.hcl:15: firewall.iptables_variant: "true ? \"nft\" : \"legacy\"" is an expression; write a plain value
10.hcl:18: report.enabled: "true" is a text; write true or false without quotes
10.hcl:19: report.service_name: "true" is a bool; write "true" in quotes
10.hcl:22: consul.insecure_skip_verify: "1" is a number; write true or false
10.hcl:23: consul.token: the value (not shown) is a number; write it in quotes
10.hcl:24: consul.namespace: "yes" refers to a variable, and there are none; write "yes" in quotes
`},
		{"what is too long to read", "scope = \"" + strings.Repeat("x", 5000) + "\"\n",
			"\n10.hcl:1: scope: unknown value \"" + strings.Repeat("x", 80) + "\"...; write one of \"mesh\", \"all\"\n"},
		{"syntax; contradictions wait until all can be read", `
-- 10.hcl --
mode = "guard
-- 20.hcl --
mode = "gaurd"
extra_ports = [80, 80]
-- 30.hcl --
consul {
`, `
10.hcl:1: Invalid multi-line string: Quoted strings may not be split over multiple lines. To produce a multi-line string, either use the \n escape to represent a newline character or use the "heredoc" multi-line template syntax.
10.hcl:1: Unterminated template string: No closing marker was found for the string.
20.hcl:1: mode: unknown value "gaurd"; did you mean "guard"?
30.hcl:1: Unclosed configuration block: There is no closing brace for this block before the end of the file. This may be caused by incorrect brace nesting elsewhere in this file.
`},
		{"one service, two statuses", "report {\n  warning_services = [\"a\", \"b\"]\n  critical_services = [\"c\", \"b\"]\n}\n", `
10.hcl:3: report.critical_services: "b" stands in report.warning_services too; keep one of them (line 2)
`},
		{"syntax in a line that could hold a token", "consul {\n  token = \"a\\qb\"\n  namespace = \"a\\qb\"\n}\n", `
10.hcl:2: Invalid escape sequence
10.hcl:3: Invalid escape sequence: The symbol "q" is not a valid escape sequence selector.
`},
		{"bytes that are no text", "mode = \"\xff\x1b\"\n", `
10.hcl:1: Invalid character encoding: All input files must be UTF-8 encoded. Ensure that UTF-8 encoding is selected in your editor.
10.hcl:1: Unterminated template string: No closing marker was found for the string.
`},
		{"a heredoc", "scope = <<A\nall\nA\n", `
10.hcl:1: scope: unknown value "all\n"; did you mean "all"?
`},
		{"nesting that would overflow the parser", "mode = 1\nscope = " + strings.Repeat("[", 100_000) + "\n", `
10.hcl:2: more than 1000 brackets, operators and heredoc lines; only plain values are accepted
`},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, test.input)
			_, err := loadAndValidate()
			if diff := cmp.Diff(strings.TrimSpace(test.want), fmt.Sprint(err)); diff != "" {
				t.Errorf("(-want +got)\n%s\ngot:\n%s", diff, err)
			}
		})
	}
}
