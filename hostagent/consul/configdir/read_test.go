// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// folderOf writes files into a folder of the test, by name.
func folderOf(t testing.TB, files map[string]string) string {
	t.Helper()
	folder := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// problemLines are problems as people see them, without the folder.
func problemLines(folder string, problems []Problem) []string {
	lines := []string{}
	for _, p := range problems {
		lines = append(lines, strings.TrimPrefix(p.Error(), folder+"/"))
	}
	return lines
}

func TestReadWhole(t *testing.T) {
	folder := folderOf(t, map[string]string{
		"agent.hcl": `node_name = "one"
ports { http = 8501, grpc = 8502.0 }
recursors = ["10.0.0.1"]
node_meta { Rack = "r1" }
acl { tokens { default = "hunter2" } }
`,
		"broken.hcl": "service {\n  name = \"x\"\n",
		"web.hcl": `
service {
  name  = "web"
  id    = "web-1"
  port  = 0x1F90
  token = "hunter2"
  connect {
    native = false
    sidecar_service {
      port = 21010
      proxy {
        local_service_port = 8080
        config { bind_port = "21011" }
        upstreams {
          destination_name = "db"
          local_bind_port  = 9191
        }
        upstreams { destination_name = "cache", local_bind_address = "0.0.0.0", local_bind_port = 9192 }
      }
    }
  }
}
services = [{ name = "first", address = "10.0.0.2" }]
`,
		"z.json": `{
  "node_name": "two",
  "recursors": ["10.0.0.3"],
  "node_meta": {"Zone": "z"},
  "Services": [
    {"name": "gw", "kind": "mesh-gateway", "port": 8443.9},
    {"name": "bad", "port": "80"},
    {"name": "edge", "kind": "connect-proxy", "socket_path": "/run/edge.sock",
     "proxy": {"destination_service_name": "web", "destination_service_id": "web-1", "local_service_address": "127.0.0.2"}}
  ]
}`,
	})
	got, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(folder, name) }
	want := &Config{
		Files: []string{in("agent.hcl"), in("broken.hcl"), in("web.hcl"), in("z.json")},
		Services: []Service{
			{File: in("web.hcl"), Line: 23, Name: "first", Address: "10.0.0.2"},
			{File: in("web.hcl"), Line: 2, ID: "web-1", Name: "web", Port: 8080, TokenHash: consul.HashSecret("hunter2"), Sidecar: &Service{
				File: in("web.hcl"), Line: 9, Port: 21010, TokenHash: consul.HashSecret("hunter2"), Proxy: &consul.Proxy{
					LocalServicePort: 8080, BindPort: 21011, Upstreams: []consul.Upstream{
						{Name: "db", Port: 9191}, {Name: "cache", Address: "0.0.0.0", Port: 9192},
					},
				},
			}},
			{File: in("z.json"), Line: 6, Name: "gw", Kind: consul.KindMeshGateway, Port: 8443},
			{File: in("z.json"), Line: 8, Name: "edge", Kind: consul.KindConnectProxy, SocketPath: "/run/edge.sock",
				Proxy: &consul.Proxy{DestinationName: "web", DestinationID: "web-1", LocalServiceAddress: "127.0.0.2"}},
		},
		Settings: Settings{values: map[string]Setting{
			"node_name":          {Value: "two", File: in("z.json"), Line: 2},
			"ports.http":         {Value: int64(8501), File: in("agent.hcl"), Line: 2},
			"ports.grpc":         {Value: int64(8502), File: in("agent.hcl"), Line: 2},
			"recursors":          {Value: []any{"10.0.0.1", "10.0.0.3"}, File: in("z.json"), Line: 3},
			"node_meta.Rack":     {Value: "r1", File: in("agent.hcl"), Line: 4},
			"node_meta.Zone":     {Value: "z", File: in("z.json"), Line: 4},
			"acl.tokens.default": {Value: "hunter2", File: in("agent.hcl"), Line: 5},
		}},
		Secrets: map[string]Secret{in("agent.hcl"): {Tokens: true}, in("web.hcl"): {Tokens: true}, in("z.json"): {}},
		Problems: []Problem{
			{File: in("broken.hcl"), Line: 3, Reason: `is not valid HCL: a "}" is missing`},
			{File: in("z.json"), Line: 7, Reason: `service "bad": port must be a number, not text; write it without quotes`},
		},
	}
	if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(Settings{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestReadOrder(t *testing.T) {
	one := folderOf(t, map[string]string{"b.hcl": `service { name = "b" }`, "a.json": `{"service": {"name": "a"}}`, "B.hcl": `service { name = "B" }`})
	two := folderOf(t, map[string]string{"0.hcl": `service { name = "0" }`})
	c, err := Read(one, filepath.Join(two, "0.hcl"), two)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range c.Services {
		got = append(got, s.Name)
	}
	if diff := gocmp.Diff([]string{"B", "a", "b", "0", "0"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestProblemError(t *testing.T) {
	for want, p := range map[string]Problem{
		"a.hcl:3: is wrong":             {File: "a.hcl", Line: 3, Reason: "is wrong"},
		"a.hcl: is wrong":               {File: "a.hcl", Reason: "is wrong"},
		`"\x1b[2Ja.hcl":3: is wrong`:    {File: "\x1b[2Ja.hcl", Line: 3, Reason: "is wrong"},
		`"\u202elch.a.hcl":1: is wrong`: {File: "\u202elch.a.hcl", Line: 1, Reason: "is wrong"},
	} {
		if got := p.Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestReadMany proves that files which are read side by side keep their order.
func TestReadMany(t *testing.T) {
	files, want := map[string]string{}, []string{}
	for i := range 300 {
		name := fmt.Sprintf("s%03d", i)
		files[name+".hcl"] = fmt.Sprintf("service { name = %q }", name)
		want = append(want, name)
	}
	c, err := Read(folderOf(t, files))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, s := range c.Services {
		got = append(got, s.Name)
	}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
