// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// agent answers as handler says and returns its URL.
func agent(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// self is what an agent says of itself, cut down to what surrounds the client's settings.
func self(client string) string {
	return `{"config":{"ACL":{"Enabled":false},"Addresses":{"HTTP":"0.0.0.0"},"BindAddr":"0.0.0.0","Client":` + client +
		`,"Datacenter":"dc1","Server":{"Enabled":false}},"member":{"Name":"","Port":0,"Tags":null},"stats":{"client":{"known_servers":"10.0.0.1:4647"}}}`
}

// nomadOf reads only what concerns Nomad. ADDRESS and DIR stand for the agent's address and the folder.
func nomadOf(t testing.TB, address, dir string) (*Nomad, []string) {
	t.Helper()
	f := &Facts{}
	f.readNomad(t.Context(), Options{NomadAddress: address, NomadConfig: []string{dir}})
	place := strings.NewReplacer(strings.TrimPrefix(address, "http://"), "ADDRESS", dir, "DIR")
	if f.Nomad != nil {
		f.Nomad.Source = place.Replace(f.Nomad.Source)
	}
	for i := range f.Notes {
		f.Notes[i] = place.Replace(f.Notes[i])
	}
	return f.Nomad, f.Notes
}

// TestNomadAgent: what an agent says counts, also that it is no client; where it says nothing of use its files do.
func TestNomadAgent(t *testing.T) {
	inFile := &Nomad{First: 30000, Last: 31000, Source: "DIR/nomad.hcl"}
	cannot := func(why string) []string { return []string{"cannot ask Nomad's agent at http://ADDRESS: " + why} }
	for _, test := range []struct {
		name   string
		status int
		body   string
		want   *Nomad
		notes  []string
	}{
		{"all is said", 200, self(`{"Enabled":true,"MinDynamicPort":25000,"MaxDynamicPort":26000,"Reserved":{"CPU":0,"ReservedPorts":"22,25100-25200"}}`),
			&Nomad{25000, 26000, []PortSpan{{22, 22}, {25100, 25200}}, "its agent at ADDRESS"}, nil},
		{"an old one", 200, self(`{"Enabled":true,"ClientMinPort":14000,"Reserved":{"ReservedPorts":"","ParsedReservedPorts":null}}`),
			&Nomad{20000, 32000, nil, "its agent at ADDRESS"}, nil},
		{"nothing reserved", 200, self(`{"Enabled":true,"MinDynamicPort":20000,"MaxDynamicPort":32000,"Reserved":null}`),
			&Nomad{20000, 32000, nil, "its agent at ADDRESS"}, nil},
		{"a server only", 200, self(`{"Enabled":false,"MinDynamicPort":20000,"MaxDynamicPort":32000}`), nil, nil},
		{"ACLs", 403, "Permission denied", inFile, cannot("it answers 403: its ACLs want a token with agent:read, and none is sent")},
		{"TLS", 400, "Client sent an HTTP request to an HTTPS server.\n", inFile, cannot("it answers 400")},
		{"elsewhere", 302, "", inFile, cannot("it answers 302")},
		{"another program", 200, "<html>\x1b[31m", inFile, cannot("its answer is not that of a Nomad agent")},
		{"another program's JSON", 200, `{"Config":{"Datacenter":"dc1"},"Member":{}}`, inFile, cannot("its answer says nothing of a Nomad client")},
		{"nothing", 200, "", inFile, cannot("its answer is not that of a Nomad agent")},
		{"null", 200, "null", inFile, cannot("its answer says nothing of a Nomad client")},
		{"text for a number", 200, self(`{"Enabled":true,"MinDynamicPort":"20000"}`), inFile, cannot("its answer is not that of a Nomad agent")},
		{"deep", 200, strings.Repeat(`{"config":`, 100_000), inFile, cannot("its answer is not that of a Nomad agent")},
		{"huge", 200, self(`{"Enabled":true,"Meta":{"x":"` + strings.Repeat("x", longestAnswer) + `"}}`), inFile, cannot("its answer has more than 4194304 bytes")},
		{"no range", 200, self(`{"Enabled":true,"MinDynamicPort":40000}`), nil, []string{"Nomad's dynamic ports 40000-32000, by its agent at ADDRESS, are no range of ports"}},
		{"below 1", 200, self(`{"Enabled":true,"MinDynamicPort":-5}`), nil, []string{"Nomad's dynamic ports -5-32000, by its agent at ADDRESS, are no range of ports"}},
		{"above 65535", 200, self(`{"Enabled":true,"MaxDynamicPort":65536}`), nil, []string{"Nomad's dynamic ports 20000-65536, by its agent at ADDRESS, are no range of ports"}},
		{"reserved that is none", 200, self(`{"Enabled":true,"Reserved":{"ReservedPorts":"22,\u001b[31m,80"}}`), &Nomad{20000, 32000, []PortSpan{{22, 22}, {80, 80}}, "its agent at ADDRESS"},
			[]string{`cannot read all of Nomad's reserved_ports, by its agent at ADDRESS: "\x1b[31m" is no port and no range of ports`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("HTTP_PROXY", "http://192.0.2.1:1")
			t.Setenv("NOMAD_TOKEN", "secret")
			dir := tree(t, map[string]string{"nomad.hcl": "client { enabled = true, min_dynamic_port = 30000, max_dynamic_port = 31000 }"})
			address := agent(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method != http.MethodGet || r.URL.Path != "/v1/agent/self" || r.Header.Get("X-Nomad-Token") != "" || r.Header.Get("Authorization") != "" {
					t.Errorf("asked %s %s with %v", r.Method, r.URL, r.Header)
				}
				w.Header().Set("Location", "/v1/agent/other")
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.body)
			})
			got, notes := nomadOf(t, address, dir)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("nomad (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.notes, notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNomadAgentThatHangs: Read ends in time and leaves nothing running, wherever the agent stops, and where it answers.
func TestNomadAgentThatHangs(t *testing.T) {
	silent, err := net.Listen("tcp4", "127.0.0.1:0") // takes connections, says nothing
	check(t, err)
	defer silent.Close()
	release := make(chan struct{})
	midway := agent(t, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"config":`)
		w.(http.Flusher).Flush()
		<-release
	})
	defer close(release)
	quick := agent(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, self(`{"Enabled":true}`)) })
	dir := t.TempDir()
	before := runtime.NumGoroutine()
	for range 10 {
		if nomad, notes := nomadOf(t, quick, dir); nomad == nil || notes != nil {
			t.Errorf("%v, notes %q", nomad, notes)
		}
	}
	for _, address := range []string{"http://" + silent.Addr().String(), midway} {
		began := time.Now()
		nomad, notes := nomadOf(t, address, dir)
		if took := time.Since(began); took > patience || took < agentPatience/2 {
			t.Errorf("%s: took %v", address, took)
		}
		want := []string{"cannot ask Nomad's agent at http://ADDRESS: context deadline exceeded"}
		if diff := cmp.Diff(want, notes); diff != "" || nomad != nil {
			t.Errorf("%s: %v, notes (-want +got):\n%s", address, nomad, diff)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// Two of the server's own for the connection that still waits.
		if runtime.NumGoroutine() <= before+2 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left of %d", runtime.NumGoroutine(), before)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f := Read(ctx, Options{NomadAddress: midway, NomadConfig: []string{dir}}); len(f.Notes) != 2 || !strings.Contains(f.Notes[1], "Nomad's agent at") || !strings.Contains(f.Notes[1], "canceled") {
		t.Errorf("notes of an ended context: %q", f.Notes)
	}
}

// TestNomadInANamespace: the agent of the calling thread's namespace is asked.
func TestNomadInANamespace(t *testing.T) {
	h := newHost(t)
	var l net.Listener
	check(t, h.InHost(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:4646")
		return err
	}))
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, self(`{"Enabled":true}`))
	})}}
	server.Start()
	defer server.Close()
	got := read(t, h)
	if diff := cmp.Diff(&Nomad{20000, 32000, nil, "its agent at 127.0.0.1:4646"}, got.Nomad); diff != "" || got.Notes != nil {
		t.Errorf("nomad (-want +got):\n%s%q", diff, got.Notes)
	}
}

func TestNomadAddress(t *testing.T) {
	for _, address := range []string{"127.0.0.1:4646", "http://", "unix:///run/nomad.sock", "http://[::1", "\x1b"} {
		f := &Facts{}
		f.readNomad(t.Context(), Options{NomadAddress: address, NomadConfig: []string{}})
		want := []string{"cannot ask Nomad's agent at " + strings.ReplaceAll(address, "\x1b", "?") + ": its address is no URL http://HOST:PORT"}
		if diff := cmp.Diff(want, f.Notes); diff != "" {
			t.Errorf("%q: notes (-want +got):\n%s", address, diff)
		}
	}
}

// refused is an address where nobody listens.
func refused(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return "http://" + l.Addr().String()
}

// TestNomadConfig: files are merged in lexical order as Nomad merges them.
func TestNomadConfig(t *testing.T) {
	standard := func(source string) *Nomad { return &Nomad{20000, 32000, nil, source} }
	address := refused(t)
	for _, test := range []struct {
		name  string
		files map[string]string
		want  *Nomad
		notes []string
	}{
		{"no file", nil, nil, nil},
		{"a server", map[string]string{"nomad.hcl": "data_dir = \"/opt/nomad\"\nserver { enabled = true }\n"}, nil, nil},
		{"not enabled", map[string]string{"nomad.hcl": "client { min_dynamic_port = 21000 }"}, nil, nil},
		{"disabled", map[string]string{"nomad.hcl": "client { enabled = false }"}, nil, nil},
		{"standard", map[string]string{"nomad.hcl": "client { enabled = true }"}, standard("DIR/nomad.hcl"), nil},
		{"all is said", map[string]string{"nomad.hcl": `
			datacenter = "dc1" # as packages install it
			bind_addr  = "0.0.0.0"
			client {
			  enabled = true
			  servers = ["127.0.0.1"]
			  min_dynamic_port = 25000
			  max_dynamic_port = 26000
			  host_volume "certs" { path = "/etc/ssl/certs" }
			  host_network "public" { reserved_ports = "1" }
			  reserved {
			    cpu            = 500
			    reserved_ports = "22,80,25500-25600"
			  }
			}
			plugin "docker" { config { allow_privileged = true } }
			telemetry { collection_interval = "1s" }`},
			&Nomad{25000, 26000, []PortSpan{{22, 22}, {80, 80}, {25500, 25600}}, "DIR/nomad.hcl"}, nil},
		{"JSON", map[string]string{"nomad.json": `{"client": {"enabled": true, "min_dynamic_port": 25000, "reserved": {"reserved_ports": "22"}, "meta": [{"a": "b"}]}}`},
			&Nomad{25000, 32000, []PortSpan{{22, 22}}, "DIR/nomad.json"}, nil},
		{"JSON with lists", map[string]string{"nomad.json": `{"client": [{"enabled": true, "max_dynamic_port": 25000, "reserved": [{"reserved_ports": "22"}]}]}`},
			&Nomad{20000, 25000, []PortSpan{{22, 22}}, "DIR/nomad.json"}, nil},
		{"as an attribute", map[string]string{"nomad.hcl": "client = { enabled = true }"}, standard("DIR/nomad.hcl"), nil},
		{"two blocks", map[string]string{"nomad.hcl": "client { enabled = true }\nclient { min_dynamic_port = 25000 }"}, &Nomad{25000, 32000, nil, "DIR/nomad.hcl"}, nil},
		{"merged in lexical order", map[string]string{
			"10-base.hcl":  `client { enabled = true, min_dynamic_port = 25000, max_dynamic_port = 26000, reserved { reserved_ports = "22" } }`,
			"20-ports.hcl": `client { min_dynamic_port = 25100, reserved { cpu = 5 } }`,
			"30-last.json": `{"client": {"enabled": false, "max_dynamic_port": 0}, "server": {"enabled": true}}`,
			"40-none.hcl":  `log_level = "INFO"`,
		}, &Nomad{25100, 26000, []PortSpan{{22, 22}}, "DIR/10-base.hcl, DIR/20-ports.hcl, DIR/30-last.json"}, nil},
		{"what Nomad does not read", map[string]string{
			"nomad.hcl.dpkg-old": "client { enabled = true }", "nomad.conf": "client { enabled = true }", ".#nomad.hcl": "client { enabled = true }",
			"nomad.hcl~": "client { enabled = true }", "folder.hcl/nomad.hcl": "client { enabled = true }",
		}, nil, nil},
		{"one is wrong", map[string]string{"a.hcl": "client {", "b.hcl": "client { enabled = true }", "c.hcl": "client { enabled = \"\x1b\" }"}, standard("DIR/b.hcl"), []string{
			"cannot read Nomad's configuration file DIR/a.hcl: At 1:10: object expected closing RBRACE got: EOF",
			"cannot read Nomad's configuration file DIR/c.hcl: At 1:20: root.client.enabled: unknown type *ast.LiteralType",
		}},
		{"too large", map[string]string{"a.hcl": "client { enabled = true }\n#" + strings.Repeat("x", longestFile), "b.json": strings.Repeat(`{"client":`, 2001)}, nil, []string{
			"cannot read Nomad's configuration file DIR/a.hcl: it has more than 262144 bytes",
			"cannot read Nomad's configuration file DIR/b.json: it has more than 2000 brackets",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, notes := nomadOf(t, address, tree(t, test.files))
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("nomad (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.notes, notes); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNomadPaths: a path may be a file, of any name, or not be there; a pipe keeps nobody waiting.
func TestNomadPaths(t *testing.T) {
	dir := tree(t, map[string]string{"nomad.conf": "client { enabled = true }", "d/b.hcl": "client { min_dynamic_port = 25000 }"})
	check(t, syscall.Mkfifo(filepath.Join(dir, "d/a.hcl"), 0o600))
	f := &Facts{}
	f.readNomad(t.Context(), Options{NomadAddress: refused(t), NomadConfig: []string{dir + "/missing", dir + "/nomad.conf", dir + "/d"}})
	want := &Facts{
		Nomad: &Nomad{25000, 32000, nil, dir + "/nomad.conf, " + dir + "/d/b.hcl"},
		Notes: []string{"cannot read Nomad's configuration file " + dir + "/d/a.hcl: it is not a regular file"},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func FuzzParseNomadFile(f *testing.F) {
	f.Add("client { enabled = true, reserved { reserved_ports = \"22\" } }")
	f.Add(`{"client": [{"enabled": true, "min_dynamic_port": 1e3}]}`)
	f.Add("client \"x\" { enabled = <<E\ntrue\nE\n }")
	f.Fuzz(func(t *testing.T, text string) {
		settings, found, err := parseNomadFile(text)
		if err != nil && (found || settings != clientSettings{}) {
			t.Fatalf("an error and settings: %+v, %v", settings, err)
		}
	})
}

func FuzzParseAgent(f *testing.F) {
	f.Add([]byte(self(`{"Enabled":true,"MinDynamicPort":1}`)))
	f.Fuzz(func(t *testing.T, body []byte) {
		if settings, err := parseAgent(body); err != nil && settings != (clientSettings{}) {
			t.Fatalf("an error and settings: %+v, %v", settings, err)
		}
	})
}

// BenchmarkNomad is what Nomad adds to Read.
func BenchmarkNomad(b *testing.B) {
	dir := tree(b, map[string]string{"nomad.hcl": "client { enabled = true }"})
	address := agent(b, func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, self(`{"Enabled":true,"Meta":{"x":"`+strings.Repeat("x", 20_000)+`"}}`))
	})
	for name, opts := range map[string]Options{
		"refused":           {NomadAddress: refused(b), NomadConfig: []string{b.TempDir()}},
		"refused-with-file": {NomadAddress: refused(b), NomadConfig: []string{dir}},
		"agent":             {NomadAddress: address},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				(&Facts{}).readNomad(b.Context(), opts)
			}
		})
	}
}
