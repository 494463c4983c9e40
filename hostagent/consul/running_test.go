// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What agents were recorded to tell of themselves. Coordinates, node metadata and most statistics are left out of the
// recordings, and paths are those of an ordinary host.
func TestRunningRecorded(t *testing.T) {
	const ca, cert = "/etc/consul.d/tls/consul-agent-ca.pem", "/etc/consul.d/tls/dc1-server-consul-0.pem"
	with := func(incoming, outgoing, hostname bool) TLS {
		return TLS{new(incoming), new(outgoing), new(hostname), new(ca), new(""), new(cert)}
	}
	without := TLS{new(false), new(false), new(false), new(""), new(""), new("")}
	server := Running{
		PrimaryDatacenter: "dc1", Domain: "consul", DevMode: new(false),
		ACLsEnabled: new(true), ACLDefaultPolicy: new("deny"), ACLTokenPersistence: new(true),
		ACLsEnabledLive: true, ACLDefaultPolicyLive: true,
		AutoEncrypt: new(false), AutoConfig: new(false),
		GossipEncrypted: new(true), GossipEncryptedWAN: new(true), GossipVerifyIncoming: new(true), GossipVerifyOutgoing: new(true),
		ConnectEnabled: new(true),
	}
	newest, old, client := server, server, server

	newest.DefaultIntentionPolicy = new("deny")
	newest.RPC, newest.HTTPS, newest.GRPC = with(true, true, true), with(false, true, false), with(false, false, false)
	newest.HTTPAddrs, newest.HTTPSAddrs = []string{"tcp://127.0.0.1:8500", "unix:///opt/consul/http.sock"}, []string{"tcp://127.0.0.1:8501"}
	newest.GRPCAddrs, newest.GRPCTLSAddrs = []string{}, []string{"tcp://127.0.0.1:8503"}

	old.ACLDefaultPolicyLive = false
	old.GossipVerifyIncoming = new(false)
	old.RPC, old.HTTPS, old.GRPC = with(true, true, true), with(false, false, false), with(false, false, false)
	old.HTTPAddrs, old.HTTPSAddrs = []string{"tcp://127.0.0.1:8500"}, []string{"tcp://127.0.0.1:8501"}
	old.GRPCAddrs, old.GRPCTLSAddrs = []string{}, []string{"tcp://127.0.0.1:8503"}

	client.ACLDefaultPolicy, client.ACLTokenPersistence = new("allow"), new(false)
	client.ACLsEnabledLive = false // clients have no such tag
	client.DefaultIntentionPolicy, client.GossipEncryptedWAN, client.GossipVerifyIncoming = new(""), nil, new(false)
	client.RPC, client.HTTPS, client.GRPC = without, without, without
	client.HTTPAddrs, client.HTTPSAddrs = []string{"tcp://127.0.0.1:9500"}, []string{}
	client.GRPCAddrs, client.GRPCTLSAddrs = []string{}, []string{}

	for _, tt := range []struct {
		file   string
		header string
		want   Running
	}{
		{"self-1.21.0-server.json", deny, newest},
		{"self-1.14.11-server.json", deny, old},
		{"self-1.21.0-client.json", allow, client},
	} {
		t.Run(tt.file, func(t *testing.T) {
			srv := httptest.NewServer(reply(200, string(recorded(t, tt.file)), tt.header))
			defer srv.Close()
			c := newClient(t, Config{Address: srv.URL})
			got, err := c.Running(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Running{}, "Agent")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			agent, err := c.Agent(t.Context())
			if err != nil || agent.Node == "" {
				t.Fatal(agent, err)
			}
			if !reflect.DeepEqual(agent, got.Agent) {
				t.Errorf("Agent tells %+v, Running %+v", agent, got.Agent)
			}
		})
	}
}

// TestRunningAfterReload: an agent shows what its files say then, and is what it was started as.
func TestRunningAfterReload(t *testing.T) {
	for _, tt := range []struct {
		file, shown, says string
		server            bool
	}{
		{"self-1.21.0-server.json", `"Server": true,`, `"Server": false,`, true},
		{"self-1.21.0-client.json", `"Server": false,`, `"Server": true,`, false},
	} {
		text := string(recorded(t, tt.file))
		if !strings.Contains(text, tt.shown) {
			t.Fatalf("%s does not say %s", tt.file, tt.shown)
		}
		got, err := decodeRunning([]byte(strings.Replace(text, tt.shown, tt.says, 1)))
		if err != nil || got.Server != tt.server {
			t.Errorf("%s: server %t, %v", tt.file, got.Server, err)
		}
	}
}

// TestRunningDomain: Consul takes a domain in any case, with a dot at its end and without.
func TestRunningDomain(t *testing.T) {
	for told, want := range map[string]string{`"Mesh.Example."`: "mesh.example", `"mesh.example"`: "mesh.example", `null`: "", `7`: ""} {
		got, err := decodeRunning([]byte(`{"Config": {"NodeName": "n"}, "DebugConfig": {"DNSDomain": ` + told + `}}`))
		if err != nil || got.Domain != want {
			t.Errorf("%s: %q, %v", told, got.Domain, err)
		}
	}
}

// DERIVED, NOT RECORDED: the shapes of versions before 1.14, written after the sources of Consul 1.8.19, 1.9.17, 1.10.12,
// 1.11.11, 1.12.9 and 1.13.9 (agent/config/runtime.go, agent/agent_endpoint.go, tlsutil/config.go).
func TestRunningDerived(t *testing.T) {
	const flat = `"CAFile": "/ca.pem", "CAPath": "", "CertFile": "/c.pem", "VerifyIncoming": %t, "VerifyIncomingRPC": %t, "VerifyIncomingHTTPS": %t,
		"VerifyOutgoing": true, "VerifyServerHostname": %t, "EncryptVerifyIncoming": true, "EncryptVerifyOutgoing": false, `
	files := TLS{CAFile: new("/ca.pem"), CAPath: new(""), CertFile: new("/c.pem")}
	tls := func(incoming bool, outgoing, hostname *bool) TLS {
		of := files
		of.VerifyIncoming, of.VerifyOutgoing, of.VerifyServerHostname = new(incoming), outgoing, hostname
		return of
	}
	gossip := Running{GossipVerifyIncoming: new(true), GossipVerifyOutgoing: new(false)}
	v18, v19, v110, v112 := gossip, gossip, gossip, Running{}

	v18.RPC, v18.HTTPS, v18.GRPC = tls(true, new(true), new(true)), tls(false, new(true), nil), tls(false, nil, nil)
	v18.ACLsEnabled, v18.ACLDefaultPolicy, v18.ACLTokenPersistence = new(true), new("deny"), new(true)
	v18.GRPCAddrs, v18.GRPCTLSAddrs = []string{"tcp://127.0.0.1:8502"}, []string{}

	v19.RPC, v19.HTTPS, v19.GRPC = tls(true, new(true), new(false)), tls(true, new(true), nil), tls(false, nil, nil)
	v19.ACLDefaultPolicy, v19.ACLTokenPersistence = new("allow"), new(false)
	v19.GRPCAddrs, v19.GRPCTLSAddrs = []string{}, []string{"tcp://127.0.0.1:8502"}

	v110.RPC, v110.HTTPS, v110.GRPC = tls(false, new(true), new(false)), tls(true, new(true), nil), tls(false, nil, nil)
	v110.ACLDefaultPolicy = new("deny")

	v112.GossipVerifyIncoming, v112.GossipVerifyOutgoing = new(true), new(false)
	v112.RPC = TLS{new(true), new(true), new(true), new("/ca.pem"), new(""), new("/c.pem")}
	v112.GRPCAddrs, v112.GRPCTLSAddrs = []string{}, []string{"tcp://127.0.0.1:8502"}

	for _, tt := range []struct {
		name, config string
		want         Running
	}{
		{"1.8", fmt.Sprintf(flat, false, true, false, true) + `"ACLsEnabled": true, "ACLDefaultPolicy": "deny", "ACLEnableTokenPersistence": true,
			"HTTPSPort": -1, "GRPCPort": 8502, "GRPCAddrs": ["tcp://127.0.0.1:8502"]`, v18},
		{"1.9 and 1.10", fmt.Sprintf(flat, true, false, false, false) + `"ACLDefaultPolicy": "allow", "ACLTokens": {"EnablePersistence": false},
			"HTTPSPort": 8501, "GRPCPort": 8502, "GRPCAddrs": ["tcp://127.0.0.1:8502"]`, v19},
		{"1.11", fmt.Sprintf(flat, false, false, true, false) + `"ACLResolverSettings": {"ACLDefaultPolicy": "deny"}`, v110},
		{"1.12 and 1.13", `"StaticRuntimeConfig": {"EncryptVerifyIncoming": true, "EncryptVerifyOutgoing": false},
			"TLS": {"InternalRPC": {"VerifyIncoming": true, "VerifyOutgoing": true, "VerifyServerHostname": true, "CAFile": "/ca.pem", "CAPath": "", "CertFile": "/c.pem"}},
			"HTTPSPort": 8501, "GRPCAddrs": ["tcp://127.0.0.1:8502"]`, v112},
		{"rubbish", `"TLS": 7, "ACLsEnabled": "yes", "ACLResolverSettings": [], "ACLTokens": null, "HTTPAddrs": "tcp://", "GRPCAddrs": [7],
			"StaticRuntimeConfig": "", "DevMode": null, "AutoConfig": true`, Running{}},
		{"only half of what decides", `"VerifyIncomingRPC": false, "VerifyIncomingHTTPS": true`, Running{HTTPS: TLS{VerifyIncoming: new(true)}}},
		{"too many addresses", `"HTTPAddrs": ["a"` + strings.Repeat(`,"a"`, maxAddrs) + `]`, Running{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decodeRunning(fmt.Appendf(nil, `{"Config": {"NodeName": "n"}, "DebugConfig": {%s}}`, tt.config))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Running{}, "Agent")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// A reload makes DebugConfig show what the files say since: the tag and the header are what runs.
func TestACLsThatRun(t *testing.T) {
	yes, no, denies, allows := new(true), new(false), new("deny"), new("allow")
	for _, tt := range []struct {
		name, version, tags string
		header              string
		want                Running
	}{
		{"off, and on in files", "1.21.0", `{"acls": "0"}`, allow,
			Running{ACLsEnabled: no, ACLDefaultPolicy: allows, ACLsEnabledLive: true, ACLDefaultPolicyLive: true}},
		{"as in files", "1.21.0", `{"acls": "1"}`, deny,
			Running{ACLsEnabled: yes, ACLDefaultPolicy: denies, ACLsEnabledLive: true, ACLDefaultPolicyLive: true}},
		{"mode of 1.10 among older agents", "1.10.12", `{"acls": "2"}`, deny,
			Running{ACLsEnabled: yes, ACLDefaultPolicy: denies, ACLsEnabledLive: true, ACLDefaultPolicyLive: true}},
		{"a client", "1.21.0", `{}`, allow, Running{ACLsEnabled: yes, ACLDefaultPolicy: allows, ACLDefaultPolicyLive: true}},
		{"a header that a reload changes", "1.17.1", `{"acls": "0"}`, deny,
			Running{ACLsEnabled: no, ACLDefaultPolicy: denies, ACLsEnabledLive: true}},
		{"neither", "1.8.19", `{"acls": "3"}`, "X-Else: 1", Running{ACLsEnabled: yes, ACLDefaultPolicy: denies}},
		{"rubbish", "1.21.0", `7`, headerPolicy + ": maybe", Running{ACLsEnabled: yes, ACLDefaultPolicy: denies}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := httptest.NewServer(reply(200, fmt.Sprintf(`{"Config": {"NodeName": "n", "Version": %q}, "Member": {"Tags": %s},
				"DebugConfig": {"ACLsEnabled": true, "ACLResolverSettings": {"ACLDefaultPolicy": "deny"}}}`, tt.version, tt.tags), tt.header))
			defer srv.Close()
			got, err := newClient(t, Config{Address: srv.URL}).Running(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.IgnoreFields(Running{}, "Agent")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGossipStatistics(t *testing.T) {
	for _, tt := range []struct {
		stats string
		want  *bool
	}{
		{`{"serf_lan": {"encrypted": "true"}}`, new(true)},
		{`{"serf_lan": {"encrypted": "false"}}`, new(false)},
		{`{"serf_lan": {"encrypted": "maybe"}}`, nil},
		{`{"serf_lan": {"encrypted": true}}`, nil},
		{`{"serf_lan": 7}`, nil},
		{`{}`, nil},
		{`null`, nil},
	} {
		got, err := decodeRunning(fmt.Appendf(nil, `{"Config": {"NodeName": "n"}, "Stats": %s}`, tt.stats))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got.GossipEncrypted); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.stats, diff)
		}
	}
}

func FuzzRunning(f *testing.F) {
	for _, file := range []string{"self.json", "self-1.21.0-server.json", "self-1.14.11-server.json"} {
		f.Add(recorded(f, file))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeRunning(body)
		if err != nil {
			return
		}
		if !json.Valid(body) || got.Node == "" || len(got.HTTPAddrs) > maxAddrs {
			t.Errorf("took %q for %+v", body, got)
		}
	})
}
