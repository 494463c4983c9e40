// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/facts"
	"github.com/hostagent/hostagent/sockets"
)

// findingsOf lists the messages of findings of one kind.
func findingsOf(r Result, id catalog.ID) (messages []string) {
	for _, f := range r.Findings {
		if f.ID == id {
			messages = append(messages, string(f.State)+" "+f.Message)
		}
	}
	return messages
}

// plainAt reads "http=0.0.0.0:8500,[::1]:8500 grpc=".
func plainAt(text string) map[string][]netip.AddrPort {
	if text == "" {
		return nil
	}
	plain := map[string][]netip.AddrPort{}
	for _, field := range strings.Fields(text) {
		key, list, _ := strings.Cut(field, "=")
		plain[key] = []netip.AddrPort{}
		for _, at := range strings.Split(list, ",") {
			if at != "" {
				plain[key] = append(plain[key], netip.MustParseAddrPort(at))
			}
		}
	}
	return plain
}

func TestExposedConsulAPI(t *testing.T) {
	const (
		http = "open Consul's HTTP API without TLS listens on tcp "
		grpc = "open Consul's gRPC API without TLS listens on tcp "
		at   = ": the network reaches it at 10.0.0.1 (eth0)"
		both = ": the network reaches it at 10.0.0.1 (eth0) and fd00::1 (eth0)"
	)
	for _, tt := range []struct {
		name      string
		plain     string
		listeners []string
		owners    map[uint64]sockets.Owner
		unknown   bool // the agent told nothing
		want      []string
	}{
		{"on loopback", "http=127.0.0.1:8500 grpc=127.0.0.1:8502", []string{"tcp 127.0.0.1:8500", "tcp 127.0.0.1:8502"}, nil, false, nil},
		{"everywhere", "http=0.0.0.0:8500 grpc=", []string{"tcp [::]:8500"}, nil, false, []string{http + "[::]:8500" + both}},
		{"gRPC too", "http=0.0.0.0:8500 grpc=0.0.0.0:8502", []string{"tcp 0.0.0.0:8500", "tcp 0.0.0.0:8502"}, nil, false,
			[]string{http + "0.0.0.0:8500" + at, grpc + "0.0.0.0:8502" + at}},
		{"other ports", "http=10.0.0.1:9500 grpc=", []string{"tcp 10.0.0.1:9500", "tcp 0.0.0.0:8500"}, nil, false, []string{http + "10.0.0.1:9500" + at}},
		{"one finding for two addresses", "http=10.0.0.1:8500,[fd00::1]:8500,127.0.0.1:8500", []string{"tcp 10.0.0.1:8500", "tcp 127.0.0.1:8500", "tcp [fd00::1]:8500 v6only"},
			nil, false, []string{http + "10.0.0.1:8500 and tcp [fd00::1]:8500" + both}},
		{"somebody else adds TLS on another address", "http=127.0.0.1:8500", []string{"tcp 10.0.0.1:8500", "tcp 127.0.0.1:8500"}, nil, false, nil},
		{"a container's port, published", "http=0.0.0.0:8500", []string{"tcp 10.0.0.1:8500"}, owned("docker-proxy", "tcp 10.0.0.1:8500"), false,
			[]string{http + "10.0.0.1:8500" + at}},
		{"bound to lo", "http=0.0.0.0:8500", []string{"tcp 0.0.0.0:8500 dev=1"}, nil, false, nil},
		{"UDP", "http=0.0.0.0:8500", []string{"udp 0.0.0.0:8500"}, nil, false, nil},
		{"nobody listens", "http=0.0.0.0:8500 grpc=0.0.0.0:8502", nil, nil, false, nil},
		{"on unix sockets", "http= grpc=", []string{"tcp 0.0.0.0:8500"}, owned("consul", "tcp 0.0.0.0:8500"), false, nil},
		{"addresses not told, no owner", "", []string{"tcp 0.0.0.0:8500"}, nil, false, nil},
		{"addresses not told, an owner", "", []string{"tcp 0.0.0.0:8500", "tcp 0.0.0.0:8502"}, owned("consul", "tcp 0.0.0.0:8500", "tcp 0.0.0.0:8502"), false,
			[]string{http + "0.0.0.0:8500" + at}},
		{"nothing told, an owner", "", []string{"tcp 0.0.0.0:8500"}, owned("consul", "tcp 0.0.0.0:8500"), true, []string{http + "0.0.0.0:8500" + at}},
		{"nothing told, another owner", "", []string{"tcp 0.0.0.0:8500"}, owned("nginx", "tcp 0.0.0.0:8500"), true, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := base()
			in.Host = &Host{Facts: facts.Facts{Interfaces: ifaces("1 lo 127.0.0.1/8", "2 eth0 10.0.0.1/24 fd00::1/64")}}
			in.Listeners = append(in.Listeners, listeners(tt.listeners...)...)
			in.Owners, in.Agent.Plain = tt.owners, plainAt(tt.plain)
			if tt.unknown {
				in.Agent.Ports = nil
			}
			result := Evaluate(in)
			if diff := cmp.Diff(tt.want, findingsOf(result, catalog.ExposedConsulAPI)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if in.Agent.Plain != nil || in.Owners != nil || len(tt.listeners) == 0 {
				return
			}
			if !slices.ContainsFunc(result.Suspects, func(l sockets.Listener) bool { return l.Addr.Port() == 8500 }) {
				t.Error("nobody asks for the owner")
			}
		})
	}
}

func TestConsulFix(t *testing.T) {
	in := base()
	in.Agent.Plain = plainAt("http=0.0.0.0:8500 grpc=0.0.0.0:8502")
	in.Listeners = listeners("tcp 0.0.0.0:8500", "tcp 0.0.0.0:8502")
	in.Owners = owned("docker-proxy", "tcp 0.0.0.0:8500")
	var got []string
	for _, f := range Evaluate(in).Findings {
		if f.ID == catalog.ExposedConsulAPI {
			got = append(got, f.Remedy)
		}
	}
	want := []string{
		`set client_addr = "127.0.0.1" in the Consul agent's configuration, or addresses { grpc = "127.0.0.1" } for this API alone; ` +
			`where others need it, serve it over TLS: ports { grpc = -1, grpc_tls = 8503 }`,
		"publish the port of Consul's container on loopback only, as in docker run -p 127.0.0.1:8500:8500",
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
