// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

// hardened is what an agent runs with that has all guarantees.
func hardened(version string) consul.Running {
	tls := consul.TLS{VerifyIncoming: new(true), VerifyOutgoing: new(true), VerifyServerHostname: new(true),
		CAFile: new("ca.pem"), CAPath: new(""), CertFile: new("cert.pem")}
	return consul.Running{
		Agent: consul.Agent{Version: version, Node: "n1", Datacenter: "dc1", Server: true, RangeKnown: true, SidecarMin: 21000, SidecarMax: 21255,
			Ports: map[string]uint16{"http": 8500, "https": 8501, "grpc_tls": 8503, "dns": 8600, "serf_lan": 8301, "serf_wan": 8302, "server": 8300}},
		ACLsEnabled: new(true), ACLDefaultPolicy: new("deny"), ACLTokenPersistence: new(true), DefaultIntentionPolicy: new(""),
		AutoConfig: new(false), GossipEncrypted: new(true), GossipVerifyIncoming: new(true), GossipVerifyOutgoing: new(true),
		RPC: tls, HTTPS: tls, GRPC: tls, ConnectEnabled: new(true),
		HTTPAddrs: []string{"tcp://127.0.0.1:8500"}, HTTPSAddrs: []string{"tcp://127.0.0.1:8501"}, GRPCAddrs: []string{},
		GRPCTLSAddrs: []string{"tcp://127.0.0.1:8503"},
	}
}

func restartInput(change func(*consul.Running)) Input {
	r := hardened("1.21.0")
	change(&r)
	lan := consul.Keyring{Datacenter: "dc1", Nodes: 1, Keys: []consul.GossipKey{{Hash: consul.HashSecret(keyA), Bytes: 32, Nodes: 1, Primary: 1}}}
	wan := lan
	wan.WAN, wan.Keys = true, []consul.GossipKey{{Hash: consul.HashSecret(keyB), Bytes: 32, Nodes: 1, Primary: 1}}
	other := wan
	other.WAN, other.Datacenter = false, "dc2"
	return filesChanged(Input{Running: agentRuns(r), Keyrings: Known([]consul.Keyring{wan, other, lan})}, -time.Hour)
}

func asIs(*consul.Running) {}

const hardenedFile = `server = true
datacenter = "DC1"
node_name = "n1 "
encrypt = "` + keyA + `"
encrypt_verify_incoming = true
encrypt_verify_outgoing = true
verify_incoming = true
verify_outgoing = true
verify_server_hostname = true
ca_file = "ca.pem"
cert_file = "cert.pem"
client_addr = "127.0.0.1"
default_intention_policy = ""
ports { http = 8500, https = 8501, grpc = 0, sidecar_min_port = 21000 }
acl { enabled = true, default_policy = "deny", enable_token_persistence = true }
connect { enabled = true }
`

func TestRestartPending(t *testing.T) {
	plainGRPC := func(r *consul.Running) { r.GRPC.VerifyIncoming = new(false) } // the old form is not about gRPC
	for _, c := range []transportCase{
		{
			name: "hardened", in: restartInput(plainGRPC), disk: hardenedFile,
			want: Row{Status: Pass, Found: []string{"the agent tells what its files say"}},
		},
		{
			name: "hardened, of 1.11", in: restartInput(func(r *consul.Running) { *r = hardened("1.11.11") }), disk: hardenedFile,
			want: Row{Status: Pass, Found: []string{"the agent tells what its files say"}},
		},
		{
			name: "an agent of before reloads were shown", disk: hardenedFile,
			in:   func() Input { r := hardened("1.13.9"); plainGRPC(&r); return Input{Running: agentRuns(r)} }(),
			want: Row{Status: Pass, Found: []string{"the agent tells what its files say"}},
		},
		{
			name: "nothing to compare", in: Input{Running: agentRuns(hardened("1.21.0"))}, disk: `log_level = "debug"`,
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "gossip", in: restartInput(func(r *consul.Running) { r.GossipVerifyIncoming = new(false) }), disk: "encrypt_verify_incoming = true",
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{
				"DIR/a.hcl:1 says encrypt_verify_incoming = true, the agent runs with false"}},
		},
		{
			name: "encryption", in: restartInput(func(r *consul.Running) { r.GossipEncrypted = new(false) }), disk: `encrypt = "` + keyA + `"`,
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{"DIR/a.hcl:1 sets encrypt, the agent runs without encrypted gossip"}},
		},
		{
			name: "all that only a restart takes up", disk: hardenedFile + `
dns_config {}
`, in: restartInput(func(r *consul.Running) {
				plainGRPC(r)
				r.Server, r.Datacenter, r.Node = false, "dc3", "n2"
				r.ACLsEnabled, r.ACLDefaultPolicy, r.ACLTokenPersistence = new(false), new("allow"), new(false)
				r.ConnectEnabled, r.DefaultIntentionPolicy = new(false), new("allow")
				r.GossipVerifyOutgoing = new(false)
			}),
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{
				`DIR/a.hcl:1 says server = true, the agent runs with false`,
				`DIR/a.hcl:2 says datacenter = "dc1", the agent runs with "dc3"`,
				`DIR/a.hcl:3 says node_name = "n1", the agent runs with "n2"`,
				`DIR/a.hcl:15 says acl.enabled = true, the agent runs with false`,
				`DIR/a.hcl:15 says acl.default_policy = "deny", the agent runs with "allow"`,
				`DIR/a.hcl:15 says acl.enable_token_persistence = true, the agent runs with false`,
				`DIR/a.hcl:16 says connect.enabled = true, the agent runs with false`,
				`DIR/a.hcl:13 says default_intention_policy = "", the agent runs with "allow"`,
				`DIR/a.hcl:6 says encrypt_verify_outgoing = true, the agent runs with false`,
			}},
		},
		{
			name: "ports", in: restartInput(asIs), disk: `ports { http = -1, grpc = 8502, https = 8501, sidecar_min_port = 0, sidecar_max_port = 0 }`,
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{
				"DIR/a.hcl:1 says ports.http = -1, the agent runs with 8500",
				"DIR/a.hcl:1 says ports.grpc = 8502, the agent runs with -1",
				"DIR/a.hcl:1 says ports.sidecar_min_port = -1, the agent runs with 21000",
				"DIR/a.hcl:1 says ports.sidecar_max_port = -1, the agent runs with 21255",
			}},
		},
		{
			name: "addresses", disk: "client_addr = \"127.0.0.1\"\naddresses { https = \"0.0.0.0\" }\nports { https = 8501 }",
			in: restartInput(func(r *consul.Running) { r.HTTPAddrs = []string{"tcp://0.0.0.0:8500"} }),
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{
				`DIR/a.hcl:1 says client_addr = "127.0.0.1", the agent serves the plain HTTP API at tcp://0.0.0.0:8500`,
				`DIR/a.hcl:2 says addresses.https = "0.0.0.0", the agent serves the HTTPS API at tcp://127.0.0.1:8501`,
			}},
		},
		{
			name: "TLS", in: restartInput(func(r *consul.Running) {
				r.RPC.VerifyIncoming, r.RPC.VerifyServerHostname, r.HTTPS.CertFile = new(false), new(false), new("old.pem")
			}), disk: `tls {
  defaults { cert_file = "cert.pem" }
  internal_rpc {
    verify_incoming = true
    verify_outgoing = false
    verify_server_hostname = true
  }
}`,
			want: Row{Status: Fail, Remedy: reloadRemedy, Found: []string{
				"DIR/a.hcl:4 says tls.internal_rpc.verify_incoming = true, the agent runs with false: a reload takes it up",
				"DIR/a.hcl:5 says tls.internal_rpc.verify_outgoing = false, the agent runs with true: a reload takes it up",
				"DIR/a.hcl:6 says tls.internal_rpc.verify_server_hostname = true, the agent runs with false: a reload takes it up",
				`DIR/a.hcl:2 says tls.defaults.cert_file = "cert.pem", the agent runs with "old.pem": a reload takes it up`,
			}},
		},
		{
			name: "TLS of all protocols", disk: `tls { defaults { verify_incoming = true, ca_file = "ca.pem" } }`, in: restartInput(func(r *consul.Running) {
				for _, tls := range []*consul.TLS{&r.RPC, &r.HTTPS, &r.GRPC} {
					tls.VerifyIncoming, tls.CAFile = new(false), new("old.pem")
				}
			}),
			want: Row{Status: Fail, Remedy: reloadRemedy, Found: []string{
				"DIR/a.hcl:1 says tls.defaults.verify_incoming = true, the agent runs with false: a reload takes it up",
				`DIR/a.hcl:1 says tls.defaults.ca_file = "ca.pem", the agent runs with "old.pem": a reload takes it up`,
			}},
		},
		{
			name: "verify_server_hostname implies verify_outgoing", in: restartInput(asIs), disk: "verify_server_hostname = true\nverify_outgoing = false",
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "TLS of before reloads were shown", disk: `verify_incoming = true`, in: restartInput(func(r *consul.Running) {
				*r = hardened("1.11.11")
				r.RPC.VerifyIncoming = new(false)
			}),
			want: Row{Status: Warn, Remedy: reloadRemedy, Found: []string{
				"DIR/a.hcl:1 says tls.defaults.verify_incoming = true, the agent was started with false; " +
					"this version does not tell whether a reload has taken it up since"}},
		},
		{
			name: "settings from the servers", disk: "encrypt_verify_incoming = false\nverify_incoming = false",
			in:   restartInput(func(r *consul.Running) { r.AutoConfig = new(true) }),
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "another key", in: restartInput(asIs), disk: `encrypt = "` + keyB + `"`,
			want: Row{Status: Warn, Remedy: keyRemedy, Found: []string{
				"DIR/a.hcl:1 sets an encrypt key that is not the datacenter's; not even a restart changes that while serf/local.keyring " +
					"stands in the agent's data directory, but an agent that starts without it cannot join"}},
		},
		{
			name: "another key that counts", in: restartInput(asIs), disk: "disable_keyring_file = true\nencrypt = \"" + keyB + `"`,
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{
				"DIR/a.hcl:2 sets an encrypt key that is not the datacenter's, and the agent would take it at its next start"}},
		},
		{
			name: "the key, with other bits beyond its end", in: restartInput(asIs), disk: `encrypt = "` + keyA[:42] + `V="`,
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "ports not told", in: Input{Running: agentRuns(consul.Running{})}, disk: `ports { https = 8501, sidecar_min_port = 21001 }`,
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "a key that cannot be compared", in: Input{Running: agentRuns(hardened("1.21.0")), Keyrings: noKeyring}, disk: `encrypt = "` + keyB + `"`,
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "changed after the start", in: filesChanged(restartInput(asIs), time.Hour), disk: "acl { enabled = true }\nencrypt_verify_incoming = true",
			want: Row{Status: Unknown, Needs: "a restart of the agent", Found: []string{
				"the agent tells what its files say, as it does after a reload, though that changes neither gossip, ACLs nor ports",
				"DIR/a.hcl was changed after the agent was started, and sets acl.enabled, encrypt_verify_incoming"}},
		},
		{
			name: "changed while it started", in: filesChanged(restartInput(asIs), time.Second), disk: "acl { enabled = true }",
			want: Row{Status: Pass, Found: []string{"the agent tells what its files say"}},
		},
		{
			name: "changed nobody knows when", in: Input{Running: agentRuns(hardened("1.21.0"))}, disk: "acl { enabled = true }",
			want: Row{Status: Unknown, Needs: "run as root on the agent's host, with --consul-config: the process tells when it was started, " +
				"and the files when they were changed", Found: []string{
				"the agent tells what its files say, as it does after a reload, though that changes neither gossip, ACLs nor ports",
				"whether DIR/a.hcl was changed after the agent was started is not known"}},
		},
		{
			name: "changed, and nobody knows when it was started", disk: "acl { enabled = true }",
			in: func() Input {
				in := filesChanged(restartInput(asIs), time.Hour)
				in.Process.Value.Started = time.Time{}
				return in
			}(),
			want: Row{Status: Unknown, Needs: "run as root on the agent's host, with --consul-config: the process tells when it was started, " +
				"and the files when they were changed", Found: []string{
				"the agent tells what its files say, as it does after a reload, though that changes neither gossip, ACLs nor ports",
				"whether DIR/a.hcl was changed after the agent was started is not known"}},
		},
		{
			name: "flags stand over files", disk: `server = true
client_addr = "10.0.0.1"
datacenter = "dc9"
encrypt = "` + keyB + `"
ports { http = 9500 }
`, in: func() Input {
				in := restartInput(func(r *consul.Running) { r.Server, r.GossipEncrypted = false, new(false) })
				in.Process.Value.Flags = []string{"client", "datacenter", "encrypt", "http-port", "server"}
				return in
			}(),
			want: Row{Status: Pass, Found: []string{"the files set nothing else than the agent tells"}},
		},
		{
			name: "flags that may stand over files", disk: "server = true",
			in: func() Input {
				in := restartInput(func(r *consul.Running) { r.Server = false })
				in.Process.Value.Flags = []string{"hcl"}
				return in
			}(),
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{"DIR/a.hcl:1 says server = true, the agent runs with false", flagsStandOver}},
		},
		{
			name: "a process that was not seen", disk: "server = true",
			in:   Input{Running: agentRuns(func() consul.Running { r := hardened("1.21.0"); r.Server = false; return r }())},
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{"DIR/a.hcl:1 says server = true, the agent runs with false", flagsStandOver}},
		},
		{
			name: "no agent", in: Input{Running: noAgent}, disk: "server = true",
			want: Row{Status: Unknown, Found: []string{"what the agent runs with: connection refused"}, Needs: "a running agent"},
		},
		{
			name: "no files", in: restartInput(asIs),
			want: Row{Status: Unknown, Found: []string{"what the agent's files say: it was not asked for"},
				Needs: "--consul-config with the agent's configuration"},
		},
	} {
		c.run(t, catalog.RestartPending)
	}
}
