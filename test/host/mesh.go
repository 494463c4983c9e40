// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

const helloLimit = 4096 // bytes in a greeting

// MeshDial connects from the network to address, an IP:PORT of the host, as the mesh service client: with a leaf
// certificate of that name from the host's agent, and only to a sidecar of the service destination, whose certificate
// must descend from the mesh's roots and carry its SPIFFE name.
//
// In TLS 1.3 the client's side of the handshake is over before the server has judged the client, so a connection proves
// nothing about the server's consent: read the application's Hello for that.
func (h *Host) MeshDial(ctx context.Context, client, destination, address string) (net.Conn, error) {
	consul, err := h.agent()
	if err != nil {
		return nil, fmt.Errorf("cannot dial %q through the mesh: %w", destination, err)
	}
	config, err := consul.meshTLS(ctx, client, destination)
	if err != nil {
		return nil, fmt.Errorf("cannot dial %q through the mesh: %w", destination, err)
	}
	plain, err := h.Net.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot dial %q through the mesh: %w", destination, err)
	}
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot dial %q through the mesh: %w", destination, err), plain.Close())
	}
	return conn, nil
}

func (c *Consul) meshTLS(ctx context.Context, client, destination string) (*tls.Config, error) {
	query := (&api.QueryOptions{}).WithContext(ctx)
	leaf, _, err := c.api.Agent().ConnectCALeaf(client, query)
	if err != nil {
		return nil, fmt.Errorf("cannot get leaf certificate of %q: %w", client, err)
	}
	certificate, err := tls.X509KeyPair([]byte(leaf.CertPEM), []byte(leaf.PrivateKeyPEM))
	if err != nil {
		return nil, fmt.Errorf("cannot read leaf certificate of %q: %w", client, err)
	}
	list, _, err := c.api.Agent().ConnectCARoots(query)
	if err != nil {
		return nil, fmt.Errorf("cannot get mesh roots: %w", err)
	}
	roots := x509.NewCertPool()
	for _, root := range list.Roots {
		if !roots.AppendCertsFromPEM([]byte(root.RootCertPEM)) {
			return nil, fmt.Errorf("cannot read mesh root %q", root.ID)
		}
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{certificate},
		// Mesh certificates have a SPIFFE URI and no DNS name, which crypto/tls would insist on.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyMesh(state.PeerCertificates, roots, destination)
		},
	}, nil
}

// verifyMesh checks a server's chain as Consul's own proxies do: it ends at one of roots, and the leaf's only URI is a
// SPIFFE id of the service destination.
func verifyMesh(chain []*x509.Certificate, roots *x509.CertPool, destination string) error {
	if len(chain) == 0 {
		return errors.New("the server sent no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
		return fmt.Errorf("the server is not of this mesh: %w", err)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].Scheme != "spiffe" || !strings.HasSuffix(leaf.URIs[0].Path, "/svc/"+destination) {
		return fmt.Errorf("the server is not service %q: its names are %q", destination, leaf.URIs)
	}
	return nil
}

// Hello reads the application's greeting, one line, and returns it without its end. Where nothing comes until ctx ends,
// or the other side closes first, that is an error: the application was not reached.
func Hello(ctx context.Context, conn net.Conn) (string, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := bufio.NewReader(io.LimitReader(conn, helloLimit)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("cannot read a greeting: %w", errors.Join(err, ctx.Err()))
	}
	return strings.TrimSuffix(line, "\n"), nil
}
