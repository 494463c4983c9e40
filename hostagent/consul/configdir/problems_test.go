// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
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

	{"no name", "a.hcl", "\nservice {\n  id = \"x\"\n}", []string{"a.hcl:2: service: the name is missing"}},
	{"meta", "a.hcl", "service {\n  name = \"a\"\n  meta {\n    \"a b\" = \"1\"\n    consul-x = \"1\"\n    \"\" = \"1\"\n  }\n}", []string{
		`a.hcl:4: service "a": meta key "a b" may hold letters, digits, - and _ only`,
		`a.hcl:5: service "a": meta key "consul-x": consul- is reserved for Consul`,
		`a.hcl:6: service "a": meta key "" may hold letters, digits, - and _ only`,
	}},
	{"meta: lengths", "a.json", `{"service": {"name": "a", "meta": {"` + strings.Repeat("k", 129) + `": "x", "k":
"` + strings.Repeat("v", 513) + `"}}}`, []string{
		`a.json:1: service "a": the value of meta key "k" is longer than 512 characters`,
		`a.json:1: service "a": meta key "` + strings.Repeat("k", 80) + `…" is longer than 128 characters`,
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
		`a.hcl:5: service "a": check "both": interval and ttl cannot both be set`,
		`a.hcl:6: service "a": checks[2]: ttl "1 s" is no duration such as "10s"`,
		`a.hcl:7: service "a": checks[3]: needs a ttl, or http, tcp, udp, grpc, h2ping, os_service or args with an interval`,
		`a.hcl:8: service "a": checks[4]: an alias check cannot check anything else`,
		`a.hcl:9: service "a": checks[5]: ttl cannot be set for an alias check`,
		`a.hcl:10: service "a": checks[6]: failures_before_warning cannot be higher than failures_before_critical`,
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
		`a.hcl:8: service "a": sidecar_service: proxy.mode must be "direct" or "transparent", not "clear"`,
		`a.hcl:9: service "a": sidecar_service: proxy.mesh_gateway.mode must be "local", "remote" or "none", not "near"`,
		`a.hcl:10: service "a": sidecar_service: proxy.upstreams[0].local_bind_socket_mode must be octal, such as "0600", not "0999"`,
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
		`a.hcl:1: service "a": port or socket_path must be set for a connect-proxy`,
		`a.hcl:4: service "a": a connect-proxy cannot be Connect-native too`,
		`a.hcl:4: service "a": port or socket_path must be set for a Connect-native service`,
		`a.hcl:6: service "a": proxy.destination_service_name must not be a wildcard`,
		`a.hcl:9: service "a": proxy.upstreams[1]: "x" is the destination of another upstream too`,
		`a.hcl:10: service "a": proxy.upstreams[2]: another upstream listens on "127.0.0.1:1" too`,
		`a.hcl:11: service "a": proxy.upstreams[3]: destination_name cannot be empty`,
		`a.hcl:12: service "a": proxy.upstreams[4]: destination_name cannot be a wildcard`,
		`a.hcl:13: service "a": proxy.upstreams[5]: local_bind_port or local_bind_socket_path must be set`,
		`a.hcl:14: service "a": proxy.upstreams[6]: cannot have both local_bind_port and local_bind_socket_path`,
		`a.hcl:15: service "a": proxy.upstreams[7]: destination_type must be "service" or "prepared_query", not "thing"`,
		`a.hcl:16: service "a": proxy.upstreams[8]: cannot have both destination_peer and datacenter`,
		`a.hcl:17: service "a": proxy.upstreams[9]: must target a peer in the partition of the service`,
		`a.hcl:18: service "a": proxy.upstreams[10]: cannot target another datacenter in a partition`,
		`a.hcl:20: service "a": proxy.expose.paths[0]: path cannot be empty`,
		`a.hcl:20: service "a": proxy.expose.paths[1]: another path has listener_port 1 too`,
		`a.hcl:20: service "a": proxy.expose.paths[1]: protocol must be "http" or "http2", not "udp"`,
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
		`a.hcl:1: service "a": port must be set for a terminating-gateway`,
		`a.hcl:4: service "a": a terminating-gateway cannot have a sidecar_service`,
		`a.hcl:6: service "a": proxy.destination_service_name cannot be set for a terminating-gateway`,
		`a.hcl:7: service "a": proxy.local_service_port cannot be set for a terminating-gateway`,
		`a.hcl:8: service "a": proxy.upstreams cannot be set for a terminating-gateway`,
		`a.hcl:10: service "a": locality.zone cannot be set without locality.region`,
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

// TestManyProblems keeps a hostile file from drowning the others.
func TestManyProblems(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.hcl": strings.Repeat("x", 10) + " = 1\n" + manyKeys(200)})
	c, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	lines := problemLines(folder, c.Problems)
	if len(lines) != maxProblems+1 || !strings.HasSuffix(lines[maxProblems], "151 more of this kind") {
		t.Errorf("%d problems, the last: %s", len(lines), lines[len(lines)-1])
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
	const secret = "6b1f4a52-dead-beef-cafe-0123456789ab"
	for _, text := range []string{
		`acl { tokens { agent = ["SECRET", "x"] } }`,
		`acl { tokens { agent "SECRET" } }`,
		`acl { tokens { agent = SECRET } }`,
		`acl { tokens { agent "SECRET" {} } }`,
		`acl { tokens { "SECRET" = true } }`,
		`acl { tokens { agent = "SECRET } }`,
		`acl { tokens = "SECRET" }`,
		`acl { tokens { agent = 1 agent = "SECRET" } }`,
		`acl { tokens { agent = true agent = "SECRET" } }`,
		`acl { tokens { agent = <<SECRET } }`,
		`services { name = "a" port = "SECRET" }`,
		`services = [{ token "SECRET" }]`,
		`encrypt = 'SECRET'`,
		`{"acl": {"tokens": {"agent": SECRET}}}`,
		`{"acl": {"tokens": {"agent": "SECRET`,
		`{"acl": {"tokens": "SECRET"}}`,
		`{"encrypt": "SECRET" 5}`,
		`{"encrypt": ["SECRET", 5]}`,
	} {
		for _, file := range []string{"a.hcl", "a.json"} {
			folder := folderOf(t, map[string]string{file: strings.ReplaceAll(text, "SECRET", secret)})
			c, err := Read(folder)
			if err != nil {
				t.Fatal(err)
			}
			lenient := file == "a.hcl" && isJSON([]byte(text)) // the library's own JSON
			if len(c.Problems) == 0 && !lenient {
				t.Errorf("%s: taken as %s", text, file)
			}
			for _, p := range c.Problems {
				if strings.Contains(p.Reason, secret[:8]) {
					t.Errorf("%s: %s", text, p.Reason)
				}
			}
		}
	}
}
