// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// problemCases are texts that Consul 1.21 refuses, and what is said of them. The real Consul's verdict on texts like these
// is in testdata/parity.
var problemCases = []struct {
	name, file, text string
	want             []string
}{
	{"syntax: no value", "a.hcl", "a = 1\nb =\n}", []string{`a.hcl:3: is not valid HCL: after "=", a value must follow`}},
	{"syntax: no =", "a.hcl", "token \"hunter2\"\nname = 1", []string{`a.hcl:2: is not valid HCL: a key with a label needs "{", not "="`}},
	{"syntax: in a list", "a.hcl", "services = [\n  {\n    name \"x\"\n  }\n]", []string{`a.hcl:4: is not valid HCL: after a key, "=" or "{" must follow`}},
	{"syntax: quote", "a.hcl", "a = \"x\n", []string{"a.hcl:1: is not valid HCL: a text has no closing quote"}},
	{"syntax: heredoc", "a.hcl", "a = <<EOF\nx\n", []string{"a.hcl:3: is not valid HCL: a heredoc (<<NAME) has no end, or no good name"}},
	{"octal", "a.hcl", "service {\n  name = \"a\"\n  port = 08\n}", []string{"a.hcl:3: is not valid HCL: a number cannot be read; one that begins with 0 is octal"}},
	{"key twice with two types", "a.hcl", "tags = \"a\"\ntags = [\"b\"]", []string{"a.hcl:2: is not valid HCL: a key is there twice, with values that do not fit together"}},
	{"mark", "a.hcl", "\xef\xbb\xbfserver = true", []string{"a.hcl:1: begins with a byte order mark, which Consul refuses; save it as UTF-8 without"}},
	{"JSON: mark", "a.json", "\xef\xbb\xbf{}", []string{"a.json:1: begins with a byte order mark, which Consul refuses; save it as UTF-8 without"}},
	{"JSON: comment", "a.json", "{\n  // x\n}", []string{"a.json:2: is not valid JSON: invalid character '/' looking for beginning of object key string; JSON has no comments"}},
	{"JSON: comma", "a.json", "{\n  \"server\": true,\n}", []string{"a.json:3: is not valid JSON: invalid character '}' looking for beginning of object key string; JSON has no comma after the last one"}},
	{"JSON: ends", "a.json", "{\n", []string{"a.json:2: is not valid JSON: unexpected end of JSON input"}},
	{"JSON: blank", "a.json", " \n", []string{"a.json:2: is not valid JSON: unexpected end of JSON input"}},
	{"JSON: list", "a.json", "[]", []string{"a.json:1: must be one JSON object, not array"}},
	{"JSON: huge", "a.json", "{\"services\":[\n{\"port\": 1e999}]}", []string{"a.json:2: holds a number that is too large"}},
	{"JSON in HCL", "a.hcl", "{\"a\" 1}", []string{`a.hcl: is not valid JSON, for which Consul takes HCL that begins with "{"`}},

	{"a crash of Consul", "a.hcl", `node_meta { a = "\U00110000" }`, []string{"a.hcl: is not valid HCL: Consul's parser crashes on it"}},
	{"a crash of Consul, JSON in HCL", "a.hcl", `{"node_meta": {"a": "\ud83d\ude00"}}`, []string{"a.hcl: is not valid HCL: Consul's parser crashes on it"}},
	{"deep HCL", "a.hcl", "watches = " + strings.Repeat("[", 201) + strings.Repeat("]", 201), []string{"a.hcl: nests deeper than 200 levels"}},
	{"deep JSON in HCL", "a.hcl", strings.Repeat(`{"a":`, 201) + "{}" + strings.Repeat("}", 201), []string{"a.hcl: nests deeper than 200 levels"}},
	{"a label beside a list", "a.hcl", "services = [{ name = \"a\" }]\n\nservices \"db\" {\n  port = 1\n}", []string{`a.hcl:3: is not valid HCL: Consul takes no label after services; write name = "db" inside`}},
	{"a label before a list", "a.hcl", "services \"db\" {\n  port = 1\n}\nservices = [{ name = \"a\" }]", []string{`a.hcl:1: is not valid HCL: Consul takes no label after services; write name = "db" inside`}},
	{"a label beside a block", "a.hcl", "services {\n  name = \"a\"\n}\nservices \"db\" { }", []string{`a.hcl:4: is not valid HCL: Consul takes no label after services; write name = "db" inside`}},
	{"a label beside a number", "a.hcl", "services = 5\nservices \"e\" {}", []string{`a.hcl:2: is not valid HCL: Consul takes no label after services; write name = "e" inside`}},
	{"a label of a setting", "a.hcl", "acl = [{}]\nacl \"hunter2\" {}", []string{"a.hcl:2: is not valid HCL: a key is there twice, with a label and without one"}},
	{"deep JSON", "a.json", `{"snapshot_agent":` + strings.Repeat(`{"a":`, 200) + "1" + strings.Repeat("}", 201), []string{"a.json: nests deeper than 200 levels"}},

	{"unknown keys", "a.hcl", "sevices { }\nservice {\n  name = \"web\"\n  prot = 80\n  connect {\n    SidecarService {}\n  }\n}", []string{
		"a.hcl:1: invalid config key sevices; did you mean services?",
		`a.hcl:4: service "web": invalid config key prot; did you mean port?`,
		`a.hcl:6: service "web": invalid config key connect.SidecarService; did you mean sidecar_service?`,
	}},
	{"unknown keys are quoted", "a.json", "{\n\"\\u001b[2J\": 1,\n\"6b1f4a52-0000-1111-2222-0123456789ab\": 2}", []string{
		`a.json:2: invalid config key "\x1b[2J"`, `a.json:3: invalid config key "(a UUID)"`,
	}},
	{"Enterprise", "a.hcl", "service {\n  name = \"web\"\n  namespace = \"x\"\n}", []string{`a.hcl:3: service "web": invalid config key namespace`}},
	{"spelled twice", "a.json", "{\"server\": true,\n\"SERVER\": false}", []string{"a.json:2: invalid config key SERVER; server is there twice, in two spellings"}},
	{"types", "a.json", `{
  "service": {
    "name": "web",
    "port": "80",
    "address": 5,
    "enable_tag_override": "true",
    "tags": "a",
    "meta": {"a b": 1},
    "weights": [],
    "connect": {"sidecar_service": true}
  }
}`, []string{
		`a.json:4: service "web": port must be a number, not text; write it without quotes`,
		`a.json:5: service "web": address must be text, not a number; write it in quotes`,
		`a.json:6: service "web": enable_tag_override must be true or false, not text; write it without quotes`,
		`a.json:7: service "web": tags must be a list, not text; put it in [ ]`,
		`a.json:8: service "web": meta["a b"] must be text, not a number; write it in quotes`,
		`a.json:9: service "web": weights must be one block, not an empty list`,
		`a.json:10: service "web": connect.sidecar_service must be one block, not true or false`,
	}},
	{"two blocks", "a.hcl", "service { name = \"a\" }\nservice { name = \"b\" }", []string{"a.hcl:1: service must be one block, not 2; write services instead"}},
	{"two connect", "a.hcl", "service {\n  name = \"a\"\n  connect { }\n  connect { }\n}", []string{`a.hcl:3: service "a": connect must be one block, not 2`}},
	{"two in a list", "a.json", `{"service": [{"name": "a"}, {"name": "b"}]}`, []string{"a.json:1: service must be one block, not a list of 2; write services instead"}},
	{"services as an object", "a.json", `{"services": {"name": "a"}}`, []string{"a.json:1: services must be a list, not a block; put it in [ ]"}},
	{"label", "a.hcl", `service "web" { }`, []string{"a.hcl:1: invalid config key service.web"}},
	{"list of null", "a.json", `{"services": [{"name": "a", "port": [null]}]}`, []string{`a.json:1: service "a": port must not be a list of null; Consul crashes on it`}},
	{"null as a service", "a.json", "{\"services\": [\nnull]}", []string{"a.json:2: service: the name is missing"}},
	{"negative", "a.hcl", "autopilot { min_quorum = -1 }", []string{"a.hcl:1: autopilot.min_quorum must be a number from 0 up, not a negative one"}},

	{"JSON in HCL has lines", "a.hcl", "{\n\"services\": [\n  {\"name\": \"a\"},\n  {\"name\": \"b\",\n  \"port\": \"1\"},\n  {}\n]}", []string{
		`a.hcl:5: service "b": port must be a number, not text; write it without quotes`, "a.hcl:6: service: the name is missing",
	}},
	{"JSON in HCL has lines in blocks", "a.hcl", "{\"service\": {\"name\": \"a\",\n\"port\": \"1\",\n\"checks\": [\n{}]}}", []string{
		`a.hcl:2: service "a": port must be a number, not text; write it without quotes`,
		`a.hcl:4: service "a": checks[0]: needs a ttl, or http, tcp, udp, grpc, h2ping, os_service or args with an interval`,
	}},
	{"a wrong type and more", "a.hcl", `service {
  name = "a"
  kind = "connect-proxy"
  port = "80"
  connect { native = true }
  weights { passing = 0 }
  proxy {
    destination_service_name = 1
    upstreams = [{ destination_name = "b", local_bind_port = "1" }, { destination_name = "*" }, { destination_name = 1, local_bind_port = 3 }, { destination_name = "b", local_bind_port = 2 }]
    expose { paths = [{ path = 1, listener_port = "1" }, { path = 2, listener_port = 0 }] }
  }
  locality { zone = "z", region = 1 }
  tagged_addresses { lan_ipv4 { address = 1 } }
  checks = [{ ttl = "1s", failures_before_warning = 2, failures_before_critical = "3" }, 5, { http = "x", intervall = "1s" }, { ttl = "x" }, { htp = "x" }]
}
check { nmae = "x", ttl = "x" }
services { nam = "c" }`, []string{
		`a.hcl:4: service "a": port must be a number, not text; write it without quotes`,
		`a.hcl:5: service "a": connect.native is for applications, and this is a proxy`,
		`a.hcl:6: service "a": weights.passing must be in 1-65535`,
		`a.hcl:8: service "a": proxy.destination_service_name must be text, not a number; write it in quotes`,
		`a.hcl:9: service "a": proxy.upstreams[0].local_bind_port must be a number, not text; write it without quotes`,
		`a.hcl:9: service "a": proxy.upstreams[2].destination_name must be text, not a number; write it in quotes`,
		`a.hcl:9: service "a": proxy.upstreams[1]: destination_name must be one service, not *`,
		`a.hcl:10: service "a": proxy.expose.paths[0].listener_port must be a number, not text; write it without quotes`,
		`a.hcl:10: service "a": proxy.expose.paths[0].path must be text, not a number; write it in quotes`,
		`a.hcl:10: service "a": proxy.expose.paths[1].path must be text, not a number; write it in quotes`,
		`a.hcl:10: service "a": proxy.expose.paths[1]: listener_port must be in 1-65535`,
		`a.hcl:12: service "a": locality.region must be text, not a number; write it in quotes`,
		`a.hcl:13: service "a": tagged_addresses[lan_ipv4].address must be text, not a number; write it in quotes`,
		`a.hcl:14: service "a": checks[0].failures_before_critical must be a number, not text; write it without quotes`,
		`a.hcl:14: service "a": checks[1] must be one block, not a number`,
		`a.hcl:14: service "a": invalid config key checks[2].intervall; did you mean interval?`,
		`a.hcl:14: service "a": invalid config key checks[4].htp; did you mean http?`,
		`a.hcl:14: service "a": checks[3]: ttl is no duration such as "10s"`,
		`a.hcl:16: invalid config key check.nmae; did you mean name?`,
		`a.hcl:16: check: ttl is no duration such as "10s"`,
		`a.hcl:17: invalid config key services[0].nam; did you mean name?`,
	}},
	{"a gateway of a wrong type", "a.json", `{"service": {"name": "a", "kind": "mesh-gateway", "port": "1"}}`, []string{
		`a.json:1: service "a": port must be a number, not text; write it without quotes`,
	}},
	{"no name", "a.hcl", "\nservice {\n  id = \"x\"\n}", []string{"a.hcl:2: service: the name is missing"}},
	{"meta", "a.hcl", "service {\n  name = \"a\"\n  meta {\n    \"a b\" = \"1\"\n    consul-x = \"1\"\n    \"\" = \"1\"\n  }\n}", []string{
		`a.hcl:4: service "a": meta key "a b" may hold letters, digits, - and _ only`,
		`a.hcl:5: service "a": meta key "consul-x": consul- is reserved for Consul`,
		`a.hcl:6: service "a": meta key "" may hold letters, digits, - and _ only`,
	}},
	{"meta: lengths", "a.json", `{"service": {"name": "a", "meta": {"` + strings.Repeat("k-", 65) + `": "x", "k":
"` + strings.Repeat("v", 513) + `"}}}`, []string{
		`a.json:1: service "a": the value of meta key "k" is longer than 512 characters`,
		`a.json:1: service "a": meta key "` + strings.Repeat("k-", 40) + `…" is longer than 128 characters`,
	}},
	{"meta: too many", "a.json", `{"service": {"name": "a", "meta": {` + manyMembers(65) + `}}}`, []string{`a.json:1: service "a": meta cannot have more than 64 keys`}},
	{"weights and socket", "a.hcl", "service {\n  name = \"a\"\n  port = 1\n  socket_path = \"/x\"\n  weights { passing = 0, warning = 65536 }\n}", []string{
		`a.hcl:4: service "a": cannot have both socket_path and port or address`,
		`a.hcl:5: service "a": weights.passing must be in 1-65535`,
		`a.hcl:5: service "a": weights.warning must be in 0-65535`,
	}},
	{"checks", "a.hcl", `service {
  name = "a"
  checks = [
    { http = "http://x" },
    { name = "both", ttl = "1s", interval = "1s" },
    { ttl = "1 s" },
    { },
    { alias_service = "b", tcp = "x", interval = "1s" },
    { alias_node = "b", ttl = "1s" },
    { ttl = "1s", failures_before_warning = 2, failures_before_critical = 1 },
    { ttl = "1s", output_max_size = -1 },
  ]
}
check { ttl = "1s" }`, []string{
		`a.hcl:4: service "a": checks[0]: interval must be more than 0`,
		`a.hcl:5: service "a": check "both": has both an interval and a ttl; a check either runs or waits to be told`,
		`a.hcl:6: service "a": checks[2]: ttl is no duration such as "10s"`,
		`a.hcl:7: service "a": checks[3]: needs a ttl, or http, tcp, udp, grpc, h2ping, os_service or args with an interval`,
		`a.hcl:8: service "a": checks[4]: an alias check cannot check anything else`,
		`a.hcl:9: service "a": checks[5]: ttl cannot be set for an alias check`,
		`a.hcl:10: service "a": checks[6]: would be critical before it is a warning: failures_before_warning is above failures_before_critical`,
		`a.hcl:11: service "a": checks[7]: output_max_size must not be negative`,
		`a.hcl:14: check: the name is missing`,
	}},
	{"sidecar", "a.hcl", `service {
  name = "a"
  connect {
    sidecar_service {
      id = "x"
      connect { sidecar_service {} }
      proxy {
        mode = "clear"
        mesh_gateway { mode = "near" }
        upstreams { local_bind_socket_mode = "0999" }
      }
      tagged_addresses { lan_ipv4 { address = "::1" } }
    }
  }
}`, []string{
		`a.hcl:5: service "a": sidecar_service: id cannot be set; the agent chooses it`,
		`a.hcl:6: service "a": sidecar_service: cannot have a sidecar_service of its own`,
		`a.hcl:8: service "a": sidecar_service: proxy.mode must be "direct" or "transparent"`,
		`a.hcl:9: service "a": sidecar_service: proxy.mesh_gateway.mode must be "local", "remote" or "none"`,
		`a.hcl:10: service "a": sidecar_service: proxy.upstreams[0].local_bind_socket_mode must be octal, such as "0600"`,
		`a.hcl:12: service "a": sidecar_service: tagged_addresses.lan_ipv4 must be an ipv4 address`,
	}},
	{"connect-proxy", "a.hcl", `service {
  name = "a"
  kind = "connect-proxy"
  connect { native = true }
  proxy {
    destination_service_name = "*"
    upstreams = [
      { destination_name = "x", local_bind_port = 1 },
      { destination_name = "x", local_bind_port = 2 },
      { destination_name = "y", local_bind_port = 1 },
      { destination_name = "", local_bind_port = 3 },
      { destination_name = "*", local_bind_port = 3 },
      { destination_name = "z" },
      { destination_name = "z", local_bind_port = 4, local_bind_socket_path = "/x" },
      { destination_name = "z", destination_type = "thing", local_bind_port = 5 },
      { destination_name = "z", destination_peer = "p", datacenter = "d", local_bind_port = 5 },
      { destination_name = "z", destination_peer = "p", destination_partition = "q", local_bind_port = 5 },
      { destination_name = "z", destination_partition = "q", datacenter = "d", local_bind_port = 5 },
    ]
    expose { paths = [{ path = "", listener_port = 1 }, { path = "/a", listener_port = 1, protocol = "udp" }, { path = "/b" }] }
  }
}`, []string{
		`a.hcl:1: service "a": a proxy must listen somewhere: give it a port or a socket_path`,
		`a.hcl:4: service "a": connect.native is for applications, and this is a proxy`,
		`a.hcl:4: service "a": with connect.native, others must know where to reach it: give it a port or a socket_path`,
		`a.hcl:6: service "a": proxy.destination_service_name must be one service, not *`,
		`a.hcl:9: service "a": proxy.upstreams[1]: "x" is the destination of another upstream too`,
		`a.hcl:10: service "a": proxy.upstreams[2]: another upstream listens on "127.0.0.1:1" too`,
		`a.hcl:11: service "a": proxy.upstreams[3]: the service that it leads to is not named: destination_name`,
		`a.hcl:12: service "a": proxy.upstreams[4]: destination_name must be one service, not *`,
		`a.hcl:13: service "a": proxy.upstreams[5]: listens nowhere: give it a local_bind_port or a local_bind_socket_path`,
		`a.hcl:14: service "a": proxy.upstreams[6]: listens on a local_bind_port and a local_bind_socket_path; only one of them can be`,
		`a.hcl:15: service "a": proxy.upstreams[7]: destination_type must be "service" or "prepared_query"`,
		`a.hcl:16: service "a": proxy.upstreams[8]: names both a destination_peer and a datacenter; only one of them can be`,
		`a.hcl:17: service "a": proxy.upstreams[9]: must target a peer in the partition of the service`,
		`a.hcl:18: service "a": proxy.upstreams[10]: names both a datacenter and a destination_partition; only one of them can be`,
		`a.hcl:20: service "a": proxy.expose.paths[0]: has no path`,
		`a.hcl:20: service "a": proxy.expose.paths[1]: another path has listener_port 1 too`,
		`a.hcl:20: service "a": proxy.expose.paths[1]: protocol must be "http" or "http2"`,
		`a.hcl:20: service "a": proxy.expose.paths[2]: listener_port must be in 1-65535`,
	}},
	{"gateway", "a.hcl", `service {
  name = "a"
  kind = "terminating-gateway"
  connect { sidecar_service {} }
  proxy {
    destination_service_name = "x"
    local_service_port = 1
    upstreams { destination_name = "x", local_bind_port = 1 }
  }
  locality { zone = "z" }
}`, []string{
		`a.hcl:1: service "a": a terminating-gateway must listen somewhere: give it a port`,
		`a.hcl:4: service "a": a terminating-gateway cannot have a sidecar_service`,
		`a.hcl:6: service "a": proxy.destination_service_name cannot be set for a terminating-gateway`,
		`a.hcl:7: service "a": proxy.local_service_port cannot be set for a terminating-gateway`,
		`a.hcl:8: service "a": proxy.upstreams cannot be set for a terminating-gateway`,
		`a.hcl:10: service "a": locality.zone is of no use alone: name its region too`,
	}},
	{"ports", "a.hcl", "ports {\n  http = 65536\n  server = 0\n  serf_lan = -1\n  sidecar_min_port = 22000\n  expose_max_port = 21000\n  dns = -1\n}", []string{
		"a.hcl:2: ports.http must not be higher than 65535",
		"a.hcl:3: ports.server must be greater than zero",
		"a.hcl:4: ports.serf_lan must be greater than zero",
		"a.hcl:5: ports.sidecar_max_port must not be lower than sidecar_min_port; set both to zero for none",
		"a.hcl:6: ports.expose_max_port must not be lower than expose_min_port; set both to zero for none",
	}},
}

func TestProblems(t *testing.T) {
	for _, tt := range problemCases {
		t.Run(tt.name, func(t *testing.T) {
			folder := folderOf(t, map[string]string{tt.file: tt.text, "z.hcl": `service { name = "good" }`})
			c, err := Read(folder)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(tt.want, problemLines(folder, c.Problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if last := len(c.Services) - 1; last < 0 || c.Services[last].Name != "good" {
				t.Errorf("the good file is hidden: %v", c.Services)
			}
		})
	}
}

// TestManyProblems keeps a hostile file from drowning the others, whoever finds the problems.
func TestManyProblems(t *testing.T) {
	empty := strings.Repeat("{},", 199) + "{}"
	for name, text := range map[string]string{
		"keys.hcl":      manyKeys(200),
		"checks.json":   `{"service":{"name":"a","checks":[` + empty + `]}}`,
		"alone.json":    `{"service":{"name":"a"},"checks":[{"name":"a","ttl":"1s"},` + empty + `]}`,
		"services.json": `{"services":[` + empty + `]}`,
		"nulls.json":    `{"services":[` + strings.Repeat("null,", 199) + `null]}`,
		"both.json":     `{"services":[` + strings.Repeat(`{"name":"a","x":1},`, 30) + strings.Repeat("null,", 169) + `null]}`,
	} {
		folder := folderOf(t, map[string]string{name: text})
		c, err := Read(folder)
		if err != nil {
			t.Fatal(err)
		}
		more := 200 - maxProblems
		if name == "alone.json" {
			more = 400 - maxProblems // neither a name nor anything to check
		}
		lines := problemLines(folder, c.Problems)
		if len(lines) != maxProblems+1 || !strings.HasSuffix(lines[maxProblems], fmt.Sprintf(": %d more of this kind", more)) {
			t.Errorf("%s: %d problems, the last: %s", name, len(lines), lines[len(lines)-1])
		}
	}
}

// TestManyGuesses proves that what is not shown is not guessed at: a guess goes through all keys.
func TestManyGuesses(t *testing.T) {
	allocations := func(keys int) float64 {
		text := []byte(manyForeignKeys(keys))
		return testing.AllocsPerRun(1, func() { decodeFile("hcl", text) })
	}
	const more = 1000
	few, many := allocations(maxProblems), allocations(maxProblems+more)
	if each := (many - few) / more; each > 60 || few < 60*maxProblems {
		t.Errorf("%.0f allocations for each key that is not shown, %.0f for %d shown ones", each, few, maxProblems)
	}
}

func manyMembers(n int) string {
	members := make([]string, n)
	for i := range members {
		members[i] = fmt.Sprintf(`"k%d": "x"`, i)
	}
	return strings.Join(members, ", ")
}

func manyKeys(n int) string {
	var text strings.Builder
	for i := range n {
		text.WriteString("zz" + strings.Repeat("z", i) + " = 1\n")
	}
	return text.String()
}

// TestNoSecretInProblems puts a token wherever a slip can put one.
func TestNoSecretInProblems(t *testing.T) {
	const (
		uuid   = "6b1f4a52-dead-beef-cafe-0123456789ab"
		gossip = "pUqJrVyVRj5jsiYEkM/tFQYfWyJIv4s3XkvDwy7Cu5s="
		short  = "cg8StVXbQJ0gPvMd9o7yrg=="
		hcp    = "wO8e1p0vNqYz3mR7tK5uXcJ2sL9aBdF4gHiQoMkEyTnVrWxUzCbPfGjDhSlAaI6e"
		word   = "hunter2"
	)
	for _, tt := range secretTexts {
		for _, secret := range []string{uuid, gossip, short, hcp, word} {
			if tt.named && secret == word {
				continue // a name like any other
			}
			for _, file := range []string{"a.hcl", "a.json"} {
				text := strings.ReplaceAll(tt.text, "SECRET", secret)
				c, err := Read(folderOf(t, map[string]string{file: text}))
				if err != nil {
					t.Fatal(err)
				}
				lenient := file == "a.hcl" && consul.IsHCLJSON([]byte(text)) // the library's own JSON
				if len(c.Problems) == 0 && !lenient {
					t.Errorf("%s: taken as %s", text, file)
				}
				for _, p := range c.Problems {
					if strings.Contains(p.Reason, secret[:7]) {
						t.Errorf("%s: %s", text, p.Reason)
					}
				}
			}
		}
	}
}

// secretTexts are texts that Consul refuses; named where the secret stands for a name, which is shown unless it looks
// like a secret.
var secretTexts = []struct {
	named bool
	text  string
}{
	{false, `acl { tokens { agent = ["SECRET", "x"] } }`},
	{false, `acl { tokens { agent "SECRET" } }`},
	{false, `acl { tokens { agent = SECRET } }`},
	{false, `acl { tokens { agent "SECRET" {} } }`},
	{false, `acl { tokens { "SECRET" = true } }`},
	{false, `acl { tokens { agent = "SECRET } }`},
	{false, `acl { tokens = "SECRET" }`},
	{false, `acl { tokens { agent = 1 agent = "SECRET" } }`},
	{false, `acl { tokens { agent = true agent = "SECRET" } }`},
	{false, `acl { tokens { agent = <<SECRET } }`},
	{false, `services { name = "a" port = "SECRET" }`},
	{false, `services = [{ token "SECRET" }]`},
	{false, `encrypt = 'SECRET'`},
	{false, `{"acl": {"tokens": {"agent": SECRET}}}`},
	{false, `{"acl": {"tokens": {"agent": "SECRET`},
	{false, `{"acl": {"tokens": "SECRET"}}`},
	{false, `{"encrypt": "SECRET" 5}`},
	{false, `{"encrypt": ["SECRET", 5]}`},
	{false, `acl { tokens { SECRET = "x" } }`},
	{false, `{"acl": {"tokens": {"SECRET": "x", "agent": [{"SECRET": 1}, 2]}}}`},
	{false, `{"encrypt": {"SECRET": 1}}`},
	{false, `{"cloud": {"SECRET": 1}}`},
	{false, `{"http_config": {"response_headers": {"SECRET": 1}}}`},
	{false, `{"http_config": {"response_headers": {"a": [["SECRET"], 2]}}}`},
	{false, `services { name = "a" check { ttl = "SECRET" } }`},
	{false, `services { name = "a" check { http = "x" interval = "SECRET" timeout = "SECRET" } }`},
	{false, `services { name = "a" proxy { mode = "SECRET" } }`},
	{false, `services { name = "a" proxy { mesh_gateway { mode = "SECRET" } } }`},
	{false, `services { name = "a" proxy { upstreams { local_bind_socket_mode = "SECRET" } } }`},
	{false, `services { name = "a" kind = "connect-proxy" proxy { upstreams { destination_type = "SECRET" } } }`},
	{false, `services { name = "a" kind = "connect-proxy" proxy { expose { paths { protocol = "SECRET" } } } }`},
	{true, `{"SECRET": 1}`},
	{true, `{"node_meta": {"SECRET": 1}}`},
	{true, `{"service": {"name": "SECRET", "port": "1"}}`},
	{true, `{"service": {"name": "SECRET", "checks": [{"name": "SECRET"}]}}`},
	{true, `{"service": {"name": "` + strings.Repeat("x-", 35) + `SECRET", "port": "1"}}`},
	{true, `{"service": {"name": "a", "meta": {" SECRET": "1"}}}`},
	{true, `services = 1` + "\n" + `services "SECRET" {}`},
}
