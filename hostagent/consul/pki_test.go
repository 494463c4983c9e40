// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// issued is a certificate with its key, as PEM and as what servers take.
type issued struct {
	cert, key []byte
	leaf      *x509.Certificate
	private   *ecdsa.PrivateKey
}

// issue makes a certificate that by signs, itself where by is nil.
func issue(t testing.TB, by *issued, template x509.Certificate) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.SerialNumber == nil {
		template.SerialNumber = big.NewInt(time.Now().UnixNano())
	}
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	signer, signing := &template, key
	if by != nil {
		signer, signing = by.leaf, by.private
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, signer, &key.PublicKey, signing)
	if err != nil {
		t.Fatal(err)
	}
	made := &issued{private: key, cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
	if made.leaf, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	made.key = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
	return made
}

// authority makes a CA.
func authority(t testing.TB, name string, valid ...time.Time) *issued {
	t.Helper()
	template := x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	if len(valid) == 2 {
		template.NotBefore, template.NotAfter = valid[0], valid[1]
	}
	return issue(t, nil, template)
}

// server makes a certificate as consul tls cert create -server does.
func (i *issued) server(t testing.TB, change ...func(*x509.Certificate)) *issued {
	t.Helper()
	template := x509.Certificate{
		Subject: pkix.Name{CommonName: "server.dc1.consul"}, DNSNames: []string{"server.dc1.consul", "localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, f := range change {
		f(&template)
	}
	return issue(t, i, template)
}

// client makes a client's certificate.
func (i *issued) client(t testing.TB, change ...func(*x509.Certificate)) *issued {
	t.Helper()
	template := x509.Certificate{
		Subject: pkix.Name{CommonName: "client.dc1.consul"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(&template)
	}
	return issue(t, i, template)
}

func (i *issued) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.leaf)
	return pool
}

func (i *issued) pair() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{i.leaf.Raw}, PrivateKey: i.private}
}

// serveTLS serves handler over TLS.
func serveTLS(t testing.TB, config *tls.Config, handler http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.ErrorLog, srv.TLS = quiet, config
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

// folder is a folder of files for a test.
type folder struct {
	t    testing.TB
	path string
}

func newFolder(t testing.TB) folder {
	t.Helper()
	return folder{t, t.TempDir()}
}

// file writes a file of the given parts, and returns its path.
func (f folder) file(name string, parts ...[]byte) string {
	f.t.Helper()
	path := filepath.Join(f.path, name)
	var content []byte
	for _, part := range parts {
		content = append(content, part...)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}
