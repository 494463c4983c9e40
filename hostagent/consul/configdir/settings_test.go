// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

func TestSettings(t *testing.T) {
	for _, tt := range []struct {
		name, first, second string
		want                map[string]any
	}{
		{"the last scalar counts", `server = true, ports { http = 1, dns = 2 }`, `ports { http = 3 }`,
			map[string]any{"server": true, "ports.http": int64(3), "ports.dns": int64(2)}},
		{"lists grow", `retry_join = ["a"]`, `retry_join = ["b", "c"]`, map[string]any{"retry_join": []any{"a", "b", "c"}}},
		{"maps overlay", `node_meta { a = "1", b = "2" }`, `node_meta { b = "3", C = "4" }`,
			map[string]any{"node_meta.a": "1", "node_meta.b": "3", "node_meta.C": "4"}},
		{"a pointer is replaced as a whole", `cloud { client_id = "x", hostname = "h" }`, `cloud { client_id = "y" }`, map[string]any{"cloud.client_id": "y"}},
		{"a map in a map is replaced as a whole", `connect { ca_config { a { b = 1, c = 2 } } }`, `connect { ca_config { a { b = 3 } } }`,
			map[string]any{"connect.ca_config.a": map[string]any{"b": int64(3)}}},
		{"blocks of open type", `connect { ca_config { a { b { c = [1, [2]] }, d = [{ e { f = 1.5 } }, {}] } } }`, ``,
			map[string]any{"connect.ca_config.a": map[string]any{
				"b": map[string]any{"c": []any{int64(1), []any{int64(2)}}},
				"d": []any{map[string]any{"e": map[string]any{"f": 1.5}}, map[string]any{}},
			}}},
		{"lists of blocks of open type", `connect { ca_config { a { b = 1 } a { b = 2 } } }`, ``,
			map[string]any{"connect.ca_config.a": []any{map[string]any{"b": int64(1)}, map[string]any{"b": int64(2)}}}},
		{"null says nothing", `{"server": true}`, `{"server": null}`, map[string]any{"server": true}},
		{"case of keys", `{"SERVER": true, "Ports": {"hTTP": 1}}`, ``, map[string]any{"server": true, "ports.http": int64(1)}},
		{"an alias", `non_voting_server = true`, ``, map[string]any{"read_replica": true}},
		{"numbers", `limits { rpc_rate = 5, rpc_max_burst = 7.9, kv_max_value_size = 9 }`, ``,
			map[string]any{"limits.rpc_rate": 5.0, "limits.rpc_max_burst": int64(7), "limits.kv_max_value_size": int64(9)}},
		{"lists of maps", `watches = [{ type = "key", args = ["a", 1] }]`, `watches { type = "nodes" }`,
			map[string]any{"watches": []any{map[string]any{"type": "key", "args": []any{"a", int64(1)}}, map[string]any{"type": "nodes"}}}},
		{"config entries are no services", `config_entries { bootstrap { kind = "x", Services = [{ Name = "a" }] } }`, ``,
			map[string]any{"config_entries.bootstrap": []any{map[string]any{"kind": "x", "Services": map[string]any{"Name": "a"}}}}},
		{"definitions are no settings", `service { name = "a" }`, `checks = [{ name = "a", ttl = "1s" }]`, map[string]any{}},

		{"older ACL keys", `acl_datacenter = "dc1", acl_token = "t", acl_replication_token = "r", acl { tokens { default = "new", master = "m", agent_master = "am" } }`, ``,
			map[string]any{"primary_datacenter": "dc1", "acl.enabled": true, "acl.tokens.default": "new", "acl.tokens.replication": "r",
				"acl.enable_token_replication": true, "acl.tokens.initial_management": "m", "acl.tokens.agent_recovery": "am"}},
		{"older TLS keys", `verify_incoming = true, verify_outgoing = true, tls_min_version = "tls12", ca_file = "/ca"`, `tls { defaults { ca_file = "/new" } }`,
			map[string]any{"tls.defaults.verify_incoming": true, "tls.grpc.verify_incoming": false, "tls.defaults.verify_outgoing": true,
				"tls.defaults.tls_min_version": "TLSv1_2", "tls.defaults.ca_file": "/new"}},
		{"an older key in a later file counts", `tls { defaults { ca_file = "/new" } }`, `ca_file = "/old"`, map[string]any{"tls.defaults.ca_file": "/old"}},
		{"start_join", `start_join = ["a"], retry_join = ["b"]`, ``, map[string]any{"retry_join": []any{"b", "a"}}},
		{"raft_boltdb", `raft_boltdb { NoFreelistSync = true }`, ``, map[string]any{"raft_logstore.boltdb.no_freelist_sync": true}},
		{"ui", `ui = true, ui_dir = "/x"`, `ui_config { dir = "/y" }`, map[string]any{"ui_config.enabled": true, "ui_config.dir": "/y"}},
		{"what Consul ignores", `tls_prefer_server_cipher_suites = true, acl_enforce_version_8 = true, license_path = "/x"`,
			`audit { sink "x" { name = "y", type = "file" } }`, map[string]any{"audit.sink.x": map[string]any{"type": "file"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ending := ".hcl"
			if consul.IsHCLJSON([]byte(tt.first)) {
				ending = ".json"
			}
			folder := folderOf(t, map[string]string{"1" + ending: tt.first, "2" + ending: tt.second})
			c, err := Read(folder)
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Problems) > 0 {
				t.Fatal(c.Problems)
			}
			got := map[string]any{}
			for key, setting := range c.Settings.values {
				got[key] = setting.Value
				if setting.Line != 1 {
					t.Errorf("%s is on line %d", key, setting.Line)
				}
			}
			if diff := gocmp.Diff(tt.want, got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	if setting, ok := (Settings{}).Lookup("server"); ok || setting != (Setting{}) {
		t.Errorf("the zero value holds %v", setting)
	}
}

// A setting that is refused must not lead to more.
func TestRefusedPorts(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.hcl": `
ports { sidecar_min_port = 22000, sidecar_max_port = 21000, expose_min_port = 30000, http = 65536, https = 8501, server = 0, serf_lan = -1, proxy_max_port = 70000 }
service {
  name = "web"
  port = 80
  connect { sidecar_service {} }
}`})
	c, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	if want := settings("ports.https", int64(8501)).values; len(c.Settings.values) != 1 || c.Settings.values["ports.https"].Value != want["ports.https"].Value {
		t.Errorf("settings: %v", c.Settings.values)
	}
	registrations, problems := c.Registrations()
	if len(c.Problems) != 6 || len(problems) != 0 || len(registrations) != 2 || registrations[1].Port != 21000 {
		t.Errorf("problems %v, then %v; registrations %v", c.Problems, problems, registrations)
	}
	agent := c.Agent()
	if agent.SidecarMin != 21000 || agent.SidecarMax != 21255 || agent.Ports["http"] != 8500 || agent.Ports["server"] != 8300 {
		t.Errorf("the agent: %+v", agent)
	}
}
