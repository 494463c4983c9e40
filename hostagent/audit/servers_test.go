// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// serveRPC is a server's RPC port; without certificates it does as Consul does then.
func serveRPC(t *testing.T, certificates ...tls.Certificate) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			io.ReadFull(conn, make([]byte, 1))
			config := &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, Certificates: certificates}
			if certificates == nil {
				config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }
			}
			tls.Server(conn, config).Read(make([]byte, 1))
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// TestAskServers asks real listeners, and holds what they show against each other.
func TestAskServers(t *testing.T) {
	ca := issueCA(t, "agents", nil, days(1000), nil)
	one, two := issueLeaf(t, ca, days(300), "server.dc1.consul"), issueLeaf(t, ca, days(300), "server.dc1.consul")
	again := issue(t, "again", ca, days(300), one.key, nil)
	of := func(s *signed) tls.Certificate {
		return tls.Certificate{Certificate: [][]byte{s.x509.Raw}, PrivateKey: s.key}
	}
	servers := []consul.Server{
		{Name: "s5", Address: "server.example:8300"},
		{Name: "s3", Address: serveRPC(t, of(again))},
		{Name: "s1", Address: serveRPC(t, of(one))},
		{Name: "s2", Address: serveRPC(t, of(two))},
		{Name: "s4", Address: serveRPC(t)},
		{Name: "s6", Address: "127.0.0.1:1"},
	}
	got := askServers(t.Context(), append(servers, servers[2]))
	key := fingerprint(one.x509.RawSubjectPublicKeyInfo)
	want := Known([]ServerCertificate{
		{Server: "s1", Fingerprint: fingerprint(one.x509.Raw), Key: key},
		{Server: "s2", Fingerprint: fingerprint(two.x509.Raw), Key: fingerprint(two.x509.RawSubjectPublicKeyInfo)},
		{Server: "s3", Fingerprint: fingerprint(again.x509.Raw), Key: key},
		{Server: "s4", Plain: true, Problem: "it refuses a TLS hello: tls: unrecognized name"},
		{Server: "s5", Problem: "its address is no IP address with a port"},
		{Server: "s6", Problem: "it cannot be connected to: connection refused"},
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"servers with different certificates of the same key: s1, s3"},
		sharedCertificates(got.Value)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestServersShow: servers of a datacenter without TLS are left in peace, for they note each question as an error.
func TestServersShow(t *testing.T) {
	asked := Known([]consul.Server{{Name: "s1", Address: serveRPC(t)}})
	for _, test := range []struct {
		name string
		in   Input
		want bool
	}{
		{"TLS", tlsInput(true, nil), true},
		{"no TLS", tlsInput(false, noTLS), false},
		{"auto_encrypt", tlsInput(false, autoEncrypt("")), true},
		{"a server with a CA and no certificate", tlsInput(true, func(r *consul.Running) { r.RPC.CertFile = new("") }), false},
		{"a client with a CA and no certificate", tlsInput(false, func(r *consul.Running) { r.RPC.CertFile = new("") }), true},
	} {
		if got := serversShow(t.Context(), &test.in, asked); got.Known != test.want || !got.Known && got.Needs == "" {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
	in := tlsInput(true, nil)
	if got := serversShow(t.Context(), &in, Unseen[[]consul.Server]("why", "what")); got.Known || got.Reason != "why" || got.Needs != "what" {
		t.Errorf("%+v", got)
	}
}

// TestAskServersBounded: gossip names as many servers as it likes.
func TestAskServersBounded(t *testing.T) {
	var servers []consul.Server
	for i := range mostServers + 3 {
		servers = append(servers, consul.Server{Name: fmt.Sprintf("s%02d", i), Address: "x"})
	}
	got := askServers(t.Context(), servers).Value
	want := ServerCertificate{Server: "3 more", Problem: "no more than 50 are asked"}
	if len(got) != mostServers+1 || got[mostServers] != want {
		t.Errorf("%d answers, the last %+v", len(got), got[len(got)-1])
	}
}
