// SPDX-License-Identifier: MPL-2.0

// Package probe asks what listens on a port of this host for its certificate, as a caller of the mesh would, and hangs up
// before anything is said. It tells a sidecar of the mesh from what merely sits on its port; what that means is for others
// to decide. Whatever answers is untrusted: time, bytes and the length of its chain are bounded.
package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"
)

const (
	connectTimeout = 500 * time.Millisecond
	wholeTimeout   = 2 * time.Second
	maxBytes       = 64 << 10 // that are read of an answer: a chain of Consul is 2 kB, one of RSA keys 8 kB
	maxChain       = 10
	maxRoots       = 100
)

// Outcome is what a probe found.
type Outcome string

// The outcomes.
const (
	// Named: it proved to hold a certificate of the mesh, and Result.Name is the service in it.
	Named Outcome = "named"
	// Unnamed: its certificate is of the mesh's CA, but names no service of the trust domain.
	Unnamed Outcome = "unnamed"
	// Expired: its certificate is of the mesh's CA, but it, or the CA's own, is not valid now.
	Expired Outcome = "expired"
	// Foreign: its certificate is not of the mesh's CA, or it could not prove that it is its own.
	Foreign Outcome = "foreign"
	// Plain: it answered, but not in TLS.
	Plain Outcome = "plain"
	// Closed: it took the connection and closed it before it had shown a certificate. Consul's own proxy does so while its
	// application does not listen, because it connects to that first.
	Closed Outcome = "closed"
	// Refused: it speaks TLS, and sent an alert in place of a certificate.
	Refused Outcome = "refused"
	// Silent: it took the connection and showed no certificate in time.
	Silent Outcome = "silent"
	// Unknown: it could not be asked.
	Unknown Outcome = "unknown"
)

// Result is what a probe found. It is a value: == compares it.
type Result struct {
	Outcome Outcome
	Name    Name   // of Named
	Detail  string // of the others but Plain and Unnamed: what happened, a phrase, raw: it may quote what answered
}

// CA is what certificates of a mesh are checked against. The zero value trusts nobody. It is read only once it is made, and
// safe for use by several goroutines.
type CA struct {
	trustDomain string
	roots       *x509.CertPool
}

// NewCA returns the CA of a trust domain with the given roots, each one PEM or several. During a rotation there are several,
// and any will do.
func NewCA(trustDomain string, roots []string) (*CA, error) {
	if trustDomain == "" {
		return nil, errors.New("cannot use the mesh's CA: it names no trust domain")
	}
	pool, count := x509.NewCertPool(), 0
	for _, text := range roots {
		for rest := []byte(text); ; count++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			certificate, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("cannot read a root certificate of the mesh: %w", err)
			}
			if count == maxRoots {
				return nil, fmt.Errorf("cannot use the mesh's CA: it has more than %d root certificates", maxRoots)
			}
			pool.AddCert(certificate)
		}
	}
	if count == 0 {
		return nil, errors.New("cannot use the mesh's CA: it has no root certificate")
	}
	return &CA{trustDomain: trustDomain, roots: pool}, nil
}

// Ask connects to address, which must be one of this host: it connects from there, too, so that an address that has gone
// meanwhile leads nowhere. It takes at most 2 s, sends a TLS hello but neither a certificate nor data, and closes the
// connection. It may be called by several goroutines.
//
// Consul's own proxy connects to its application for each connection that it takes, so that sees one come and go.
func Ask(ctx context.Context, ca *CA, address netip.AddrPort) Result {
	ctx, cancel := context.WithTimeout(ctx, wholeTimeout)
	defer cancel()
	dialer := net.Dialer{
		Timeout: connectTimeout, KeepAlive: -1,
		LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(address.Addr(), 0)),
	}
	conn, err := dialer.DialContext(ctx, "tcp", address.String())
	if errors.Is(err, syscall.ECONNRESET) {
		return closed()
	}
	if err != nil {
		return unknown(err)
	}
	defer conn.Close()
	heard := &listening{Conn: conn}
	chain, err := handshake(ctx, heard)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return unknown(ctx.Err())
	case err != nil:
		return failure(heard, err)
	}
	return ca.judge(chain, time.Now())
}

func closed() Result {
	return Result{Outcome: Closed, Detail: "it closes the connection without a word"}
}

func unknown(err error) Result {
	if system, ok := errors.AsType[syscall.Errno](err); ok {
		err = system // without addresses, and the port that the kernel chose
	}
	return Result{Outcome: Unknown, Detail: "it cannot be connected to: " + err.Error()}
}

// errEnough ends a handshake that has told all that a probe wants to know.
var errEnough = errors.New("enough")

// handshake returns the chain that the other side has proven to be its own.
func handshake(ctx context.Context, conn *listening) ([]*x509.Certificate, error) {
	client := tls.Client(conn, &tls.Config{
		MinVersion:             tls.VersionTLS12,
		InsecureSkipVerify:     true, // judge verifies: certificates of the mesh have no DNS name
		SessionTicketsDisabled: true,
		GetClientCertificate:   func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errEnough },
	})
	err := client.HandshakeContext(ctx)
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	// Anybody can copy a chain, only its signature proves it to be the other side's own. TLS 1.3 verifies that before it
	// asks for our certificate. TLS 1.2 does so too, where the other side has sent a signature at all: then there is a curve.
	state := client.ConnectionState()
	if state.CurveID == 0 {
		return nil, errUnproven
	}
	return state.PeerCertificates, nil
}

var errUnproven = errors.New("it does not prove that its certificate is its own")

// failure tells what a handshake that failed says of the other side.
func failure(conn *listening, err error) Result {
	network, isNetwork := errors.AsType[*net.OpError](err)
	switch {
	case conn.read == 0 && isTimeout(err):
		return Result{Outcome: Silent, Detail: "it does not answer a TLS hello"}
	case conn.read == 0:
		return closed()
	case conn.first != recordAlert && conn.first != recordHandshake:
		return Result{Outcome: Plain}
	case isNetwork && network.Op == "remote error":
		return Result{Outcome: Refused, Detail: "it refuses a TLS hello: " + network.Err.Error()}
	case isTimeout(err):
		return Result{Outcome: Silent, Detail: "it does not go on in the middle of a TLS handshake"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return Result{Outcome: Closed, Detail: "it closes the connection in the middle of a TLS handshake"}
	}
	return Result{Outcome: Foreign, Detail: err.Error()}
}

func isTimeout(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}

// The first byte of what a TLS server answers: the type of its first record (RFC 8446, section 5.1).
const (
	recordAlert     = 21
	recordHandshake = 22
)

// errTooMuch is what reading ends with after maxBytes.
var errTooMuch = fmt.Errorf("it sends more than %d bytes", maxBytes)

// listening is a connection that remembers how an answer begins, and takes in no more of it than it has to.
type listening struct {
	net.Conn
	read  int
	first byte // where read is not 0
}

func (c *listening) Read(p []byte) (int, error) {
	if c.read >= maxBytes {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(p[:min(len(p), maxBytes-c.read)])
	if c.read == 0 && n > 0 {
		c.first = p[0]
	}
	c.read += n
	return n, err
}

// judge tells whose chain it is.
func (ca *CA) judge(chain []*x509.Certificate, now time.Time) Result {
	if len(chain) == 0 || len(chain) > maxChain {
		return Result{Outcome: Foreign, Detail: fmt.Sprintf("its chain has %d certificates", len(chain))}
	}
	leaf, options := chain[0], x509.VerifyOptions{Roots: ca.roots, Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, certificate := range chain[1:] {
		options.Intermediates.AddCert(certificate)
	}
	if _, err := leaf.Verify(options); err != nil {
		// Expiry is found before the CA is looked at, so it is looked at as of times at which the chain was, or will be, good: a
		// CA may have expired before what it has signed, and the clock of this host may be slow.
		for _, options.CurrentTime = range times(chain) {
			if _, late := leaf.Verify(options); late == nil {
				return Result{Outcome: Expired, Detail: err.Error()}
			}
		}
		return Result{Outcome: Foreign, Detail: err.Error()}
	}
	for _, uri := range leaf.URIs {
		if name, ok := parseName(uri); ok && strings.EqualFold(uri.Host, ca.trustDomain) {
			return Result{Outcome: Named, Name: name}
		}
	}
	return Result{Outcome: Unnamed}
}

// times returns the end of a chain's leaf, and when each of its certificates begins to be valid.
func times(chain []*x509.Certificate) []time.Time {
	all := []time.Time{chain[0].NotAfter}
	for _, certificate := range chain {
		all = append(all, certificate.NotBefore)
	}
	return all
}

// Name is the service that a certificate names. Partition is empty where there are none.
type Name struct{ Partition, Namespace, Datacenter, Service string }

// parseName reads spiffe://TRUST-DOMAIN/ns/NAMESPACE/dc/DATACENTER/svc/SERVICE, in Consul Enterprise with /ap/PARTITION
// before it. Gateways of the kind mesh and agents have other ids.
func parseName(uri *url.URL) (Name, bool) {
	if uri.Scheme != "spiffe" {
		return Name{}, false
	}
	parts := strings.Split(uri.EscapedPath(), "/")
	for i, part := range parts {
		var err error
		if parts[i], err = url.PathUnescape(part); err != nil {
			return Name{}, false
		}
	}
	var name Name
	if len(parts) == 9 && parts[1] == "ap" && parts[2] != "" {
		name.Partition = parts[2]
		parts = parts[2:]
	}
	if len(parts) != 7 || parts[1] != "ns" || parts[3] != "dc" || parts[5] != "svc" {
		return Name{}, false
	}
	name.Namespace, name.Datacenter, name.Service = parts[2], parts[4], parts[6]
	return name, name.Namespace != "" && name.Datacenter != "" && name.Service != ""
}
