// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"testing"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
)

const fromFiles = "no file sets addresses.http or client_addr; Consul's default is \"127.0.0.1\""

func TestAPIHTTP(t *testing.T) {
	at := func(addrs ...string) Input {
		return Input{Running: agentRuns(consul.Running{HTTPAddrs: append([]string{}, addrs...)})}
	}
	files := Input{Running: noAgent}
	for _, c := range []transportCase{
		{name: "off", in: at(), want: Row{Status: Pass, Found: []string{"the plain HTTP API is off"}}},
		{
			name: "loopback and a socket", in: at("tcp://127.0.0.1:8500", "tcp://[::1]:8500", "unix:///run/consul.sock"),
			want: Row{Status: Pass, Found: []string{"the agent serves the plain HTTP API at tcp://127.0.0.1:8500, tcp://[::1]:8500, unix:///run/consul.sock"}},
		},
		{
			name: "network", in: at("tcp://127.0.0.1:8500", "tcp://10.0.0.5:8500"),
			want: Row{Status: Fail, Found: []string{"the agent serves the plain HTTP API at tcp://127.0.0.1:8500, tcp://10.0.0.5:8500"}, Remedy: "catalog"},
		},
		{
			name: "all IPv6", in: at("tcp://[::]:8500"),
			want: Row{Status: Fail, Found: []string{"the agent serves the plain HTTP API at tcp://[::]:8500"}, Remedy: "catalog"},
		},
		{
			name: "unreadable", in: at("tcp://127.0.0.1:8500", "vsock://3:8500"), want: Row{Status: Unknown, Needs: "addresses that can be read",
				Found: []string{"the agent serves the plain HTTP API at tcp://127.0.0.1:8500, vsock://3:8500"}},
		},
		{
			name: "unreadable and network", in: at("vsock://3:8500", "tcp://10.0.0.5:8500"),
			want: Row{Status: Fail, Found: []string{"the agent serves the plain HTTP API at vsock://3:8500, tcp://10.0.0.5:8500"}, Remedy: "catalog"},
		},
		{
			name: "nothing", in: files,
			want: Row{Status: Unknown, Found: []string{"where the agent serves the plain HTTP API: connection refused"}, Needs: "a running agent"},
		},
		{
			name: "not told", in: Input{Running: agentRuns(consul.Running{})}, want: Row{Status: Unknown, Needs: "--consul-config with the agent's configuration",
				Found: []string{"the agent does not tell where it serves the plain HTTP API"}},
		},
		{
			name: "by default", in: files, disk: `server = true`,
			want: Row{Status: Pass, Found: []string{"the plain HTTP API, port 8500: " + fromFiles}},
		},
		{
			name: "turned off", in: files, disk: "client_addr = \"0.0.0.0\"\nports { http = -1 }",
			want: Row{Status: Pass, Found: []string{"the plain HTTP API is off: DIR/a.hcl:2: ports.http = -1"}},
		},
		{
			name: "client_addr", in: files, disk: `client_addr = "127.0.0.1 [::]"`,
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{`the plain HTTP API, port 8500: DIR/a.hcl:1: client_addr = "127.0.0.1 [::]"`}},
		},
		{
			name: "no client_addr", in: files, disk: `client_addr = ""`,
			want: Row{Status: Pass, Found: []string{`the plain HTTP API, port 8500: DIR/a.hcl:1: client_addr = ""`}},
		},
		{
			name: "addresses before client_addr", in: files, disk: "client_addr = \"0.0.0.0\"\naddresses { http = \"127.0.0.1 unix:///run/consul.sock\" }",
			want: Row{Status: Pass, Found: []string{`the plain HTTP API, port 8500: DIR/a.hcl:2: addresses.http = "127.0.0.1 unix:///run/consul.sock"`}},
		},
		{
			name: "empty addresses", in: files, disk: "client_addr = \"0.0.0.0\"\naddresses { http = \"\" }",
			want: Row{Status: Fail, Remedy: "catalog", Found: []string{`the plain HTTP API, port 8500: DIR/a.hcl:1: client_addr = "0.0.0.0"`}},
		},
		{
			name: "template", in: files, disk: `client_addr = "{{ GetPrivateIP }}"`,
			want: Row{Status: Unknown, Needs: "the running agent: hostagent's token with agent:read on this node", Found: []string{
				`the plain HTTP API, port 8500: DIR/a.hcl:1: client_addr = "{{ GetPrivateIP }}": what the template becomes is not known`}},
		},
		{
			name: "no address", in: files, disk: `client_addr = "localhost"`,
			want: Row{Status: Unknown, Needs: "addresses that Consul takes", Found: []string{
				`the plain HTTP API, port 8500: DIR/a.hcl:1: client_addr = "localhost": not an address`}},
		},
		{
			name: "moved to loopback after the start", in: filesChanged(at("tcp://127.0.0.1:8500"), time.Hour), disk: `client_addr = "127.0.0.1"`,
			want: Row{Status: Unknown, Needs: "a restart of the agent: see restart-pending", Found: []string{
				"the agent serves the plain HTTP API at tcp://127.0.0.1:8500",
				"DIR/a.hcl sets client_addr and was changed after the agent was started; after a reload the agent tells what its files say, not what it runs with"}},
		},
	} {
		c.run(t, catalog.APIHTTP)
	}
}

func TestAPIHTTPS(t *testing.T) {
	agent := func(server bool, plain string, https ...string) Input {
		return Input{Running: agentRuns(consul.Running{Agent: consul.Agent{Server: server}, HTTPAddrs: []string{plain}, HTTPSAddrs: append([]string{}, https...)})}
	}
	const here, network = "tcp://127.0.0.1:8500", "tcp://0.0.0.0:8500"
	for _, c := range []transportCase{
		{
			name: "on", in: agent(true, here, "tcp://0.0.0.0:8501"),
			want: Row{Status: Pass, Found: []string{"the agent serves the HTTPS API at tcp://0.0.0.0:8501"}},
		},
		{
			name: "off on a server", in: agent(true, here),
			want: Row{Status: Fail, Found: []string{"the HTTPS API is off", "the agent is a server"}, Remedy: "catalog"},
		},
		{
			name: "off on a client", in: agent(false, here), want: Row{Status: Warn, Remedy: "catalog",
				Found: []string{"the HTTPS API is off", "the agent is a client, and its API is not served to the network in plain"}},
		},
		{
			name: "off where the plain one is on the network", in: agent(false, network), want: Row{Status: Fail, Remedy: "catalog",
				Found: []string{"the HTTPS API is off", "the agent serves the plain HTTP API at tcp://0.0.0.0:8500"}},
		},
		{
			name: "off, and the plain one not told", in: Input{Running: agentRuns(consul.Running{HTTPSAddrs: []string{}})}, want: Row{Status: Warn, Remedy: "catalog",
				Found: []string{"the HTTPS API is off", "the agent does not tell where it serves the plain HTTP API"}},
		},
		{
			name: "nothing", in: Input{Running: noAgent},
			want: Row{Status: Unknown, Found: []string{"where the agent serves the HTTPS API: connection refused"}, Needs: "a running agent"},
		},
		{
			name: "files of a server", in: Input{Running: noAgent}, disk: `server = true`,
			want: Row{Status: Fail, Found: []string{"the HTTPS API is off: no file sets ports.https", "the agent is a server"}, Remedy: "catalog"},
		},
		{
			name: "files", in: Input{Running: noAgent}, disk: "ports { https = 8501 }\naddresses { https = \"0.0.0.0\" }",
			want: Row{Status: Pass, Found: []string{`the HTTPS API, port 8501: DIR/a.hcl:2: addresses.https = "0.0.0.0"`}},
		},
	} {
		c.run(t, catalog.APIHTTPS)
	}
}

func TestAPIGRPC(t *testing.T) {
	agent := func(version string, https []string, cert *string, grpc ...string) Input {
		return Input{Running: agentRuns(consul.Running{Agent: consul.Agent{Version: version}, GRPCAddrs: append([]string{}, grpc...),
			HTTPSAddrs: https, GRPC: consul.TLS{CertFile: cert}})}
	}
	const here, network = "tcp://127.0.0.1:8502", "tcp://0.0.0.0:8502"
	on := []string{"tcp://0.0.0.0:8501"}
	for _, c := range []transportCase{
		{name: "off", in: agent("1.21.0", nil, nil), want: Row{Status: Pass, Found: []string{"plain gRPC is off"}}},
		{
			name: "loopback", in: agent("1.21.0", nil, nil, here),
			want: Row{Status: Pass, Found: []string{"the agent serves plain gRPC at tcp://127.0.0.1:8502"}},
		},
		{
			name: "network", in: agent("1.21.0", on, new("cert.pem"), network),
			want: Row{Status: Fail, Found: []string{"the agent serves plain gRPC at tcp://0.0.0.0:8502"}, Remedy: "catalog"},
		},
		{
			name: "1.13 with TLS", in: agent("1.13.9", on, new("cert.pem"), network),
			want: Row{Status: Pass, Found: []string{"the agent serves gRPC at tcp://0.0.0.0:8502, with TLS: the HTTPS API is on, and gRPC has a certificate"}},
		},
		{
			name: "1.13 without TLS", in: agent("1.13.9", []string{}, new(""), network), want: Row{Status: Fail, Remedy: "catalog",
				Found: []string{"the agent serves gRPC at tcp://0.0.0.0:8502, without TLS: the HTTPS API is off, and gRPC has no certificate"}},
		},
		{
			name: "1.13, TLS not told", in: agent("1.13.9", []string{}, new("cert.pem"), network),
			want: Row{Status: Unknown, Needs: "Consul 1.14 or later, which has a port for each",
				Found: []string{"the agent serves gRPC at tcp://0.0.0.0:8502", "this version does not tell whether it does TLS there"}},
		},
		{
			name: "1.13, told as TLS", disk: `server = true`, in: Input{Running: agentRuns(consul.Running{Agent: consul.Agent{Version: "1.13.9"},
				GRPCAddrs: []string{}, GRPCTLSAddrs: []string{network}, HTTPSAddrs: on, GRPC: consul.TLS{CertFile: new("")}})},
			want: Row{Status: Unknown, Needs: "Consul 1.14 or later, which has a port for each",
				Found: []string{"the agent serves gRPC at tcp://0.0.0.0:8502", "this version does not tell whether it does TLS there"}},
		},
		{
			name: "1.13, off", in: agent("1.13.9", []string{}, new("")),
			want: Row{Status: Pass, Found: []string{"plain gRPC is off"}},
		},
		{
			name: "1.13 on loopback", in: agent("1.13.9", []string{}, new(""), here),
			want: Row{Status: Pass, Found: []string{"the agent serves plain gRPC at tcp://127.0.0.1:8502"}},
		},
		{
			name: "files", in: Input{Running: noAgent}, disk: `server = true`,
			want: Row{Status: Pass, Found: []string{"plain gRPC is off: no file sets ports.grpc"}},
		},
		{
			name: "nothing", in: Input{Running: noAgent},
			want: Row{Status: Unknown, Found: []string{"where the agent serves plain gRPC: connection refused"}, Needs: "a running agent"},
		},
	} {
		c.run(t, catalog.APIGRPC)
	}
}
