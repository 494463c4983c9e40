// SPDX-License-Identifier: MPL-2.0

package probe

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serveRPC serves TLS behind the byte that begins it, as Consul's servers do, and tells what a probe never sends.
func serveRPC(t *testing.T, config *tls.Config) func(net.Conn) {
	return func(conn net.Conn) {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		first := make([]byte, 1)
		if _, err := io.ReadFull(conn, first); err != nil || first[0] != 3 {
			t.Errorf("the connection begins with %d (%v), not with the byte of TLS", first, err)
			return
		}
		server := tls.Server(conn, config)
		n, _ := server.Read(make([]byte, 1))
		if n > 0 || len(server.ConnectionState().PeerCertificates) > 0 {
			t.Error("the probe sends data or a certificate")
		}
	}
}

// TestAskServer: a server shows its certificate whether or not it verifies callers, and whatever its names and CA are.
func TestAskServer(t *testing.T) {
	leaf := newAuthority(t, "agents").leaf(nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, auth := range []tls.ClientAuthType{tls.RequireAndVerifyClientCert, tls.NoClientCert} {
			t.Run(tls.VersionName(version)+"/"+auth.String(), func(t *testing.T) {
				t.Parallel()
				address := serve(t, serveRPC(t, &tls.Config{
					MinVersion: version, MaxVersion: version, ClientAuth: auth, Certificates: []tls.Certificate{leaf},
				}))
				certificate, result := AskServer(t.Context(), address)
				if certificate == nil {
					t.Fatalf("no certificate: %+v", result)
				}
				if diff := cmp.Diff(leaf.Certificate[0], certificate.Raw); diff != "" || result != (Result{}) {
					t.Errorf("%+v, and another certificate (-want +got)\n%s", result, diff)
				}
			})
		}
	}
}

// TestAskServerWithout: what shows no certificate of its own shows none.
func TestAskServerWithout(t *testing.T) {
	leaf := newAuthority(t, "agents").leaf(nil)
	read := func(conn net.Conn) {
		conn.Read(make([]byte, 4096)) //nolint:errcheck // or not
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name string
		ctx  context.Context
		talk func(net.Conn)
		want Outcome
	}{
		{"closes", t.Context(), func(net.Conn) {}, Closed},
		{"closes after the hello", t.Context(), read, Closed},
		{"no TLS", t.Context(), func(conn net.Conn) { read(conn); io.WriteString(conn, "no") }, Plain},
		{"no certificate", t.Context(), serveRPC(t, &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil },
		}), Refused},
		{"says nothing", t.Context(), func(c net.Conn) { io.Copy(io.Discard, c) }, Silent},
		{"a copied certificate and no signature", t.Context(), func(conn net.Conn) {
			io.ReadFull(conn, make([]byte, 1))
			conn.Read(make([]byte, 4096)) //nolint:errcheck // or not
			conn.Write(copied(leaf.Certificate))
		}, Foreign},
		{"is not waited for", cancelled, read, Unknown},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			certificate, result := AskServer(test.ctx, serve(t, test.talk))
			if certificate != nil || result.Outcome != test.want {
				t.Errorf("%+v with certificate %v, want %q", result, certificate != nil, test.want)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}
