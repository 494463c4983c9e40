// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// authority is a CA of its own, as consul tls ca create makes one.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// signed makes a certificate that by signs, itself where by is nil, and its key.
func signed(t *testing.T, by *authority, template x509.Certificate) *authority {
	t.Helper()
	must := (&world{t: t}).must
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if by == nil {
		by = &authority{&template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.cert, &key.PublicKey, by.key)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	return &authority{cert, key}
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	return signed(t, nil, x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
}

// leaf makes a certificate for both sides that is valid until a time.
func leaf(t *testing.T, by *authority, until time.Time) *authority {
	t.Helper()
	return signed(t, by, x509.Certificate{
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-2 * time.Hour), NotAfter: until,
	})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certificates is a folder of them, for one side.
type certificates struct {
	t   *testing.T
	dir string
}

func newCertificates(t *testing.T) certificates { return certificates{t, t.TempDir()} }

func (c certificates) write(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c certificates) path(name string) string { return filepath.Join(c.dir, name) }

// put writes the CAs to trust and, where leaf is not nil, the certificate and its key.
func (c certificates) put(leaf *authority, trusted ...*authority) {
	c.t.Helper()
	var cas []byte
	for _, ca := range trusted {
		cas = append(cas, ca.pem()...)
	}
	c.write("ca.pem", cas)
	if leaf == nil {
		return
	}
	raw, err := x509.MarshalPKCS8PrivateKey(leaf.key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("cert.pem", leaf.pem())
	c.write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

func (c certificates) hcl() string {
	return fmt.Sprintf("ca_file = %q\ncert_file = %q\nkey_file = %q\n", c.path("ca.pem"), c.path("cert.pem"), c.path("key.pem"))
}

// TestCertificatesRotate: an agent that demands client certificates over https, whose CA changes while everything runs; and
// what stands while the two do not agree.
func TestCertificatesRotate(t *testing.T) {
	netns.Once(t)
	soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	first, second := newAuthority(t, "First CA"), newAuthority(t, "Second CA")
	agents, ours := newCertificates(t), newCertificates(t)
	agents.put(leaf(t, first, soon), first)
	ours.put(leaf(t, first, soon), first)
	w := newWorld(t, host.ConsulOptions{
		Config: "ports { https = 8501 }\ntls {\n  https {\n" + agents.hcl() + "verify_incoming = true\n  }\n}\n",
	})
	app := func(name string, port int) uint16 {
		sidecar := w.register(name, port, 0)
		w.listenOn(name, sidecar)
		return sidecar
	}
	web := app("web", 8080)
	closed := uint16(21200)
	w.listenOn("squatter", closed)
	agent := w.startPrivately(quick + "consul {\naddress = \"https://127.0.0.1:8501\"\n" + ours.hcl() + "}\n")
	w.guarded()
	w.checkTurns("alive", "passing", "guard mode")
	w.checkTurns("firewall", "passing", "Guarded: 21000-21255")
	w.reaches(web, host.Open)
	w.reaches(closed, host.Dropped)

	// The agent goes over to the second CA, and trusts clients of both; hostagent follows.
	agents.put(leaf(t, second, soon), first, second)
	w.must(w.consul.Reload(w.ctx))
	ours.put(leaf(t, second, soon), second)
	agent.logs(0, "certificates for Consul were replaced on disk")
	api := app("api", 8081)
	w.eventually(api, host.Open, 5*time.Second)
	agents.put(nil, second)
	w.must(w.consul.Reload(w.ctx))

	// A CA that is not the agent's, written half and then whole: the state stands, and nothing that is new counts.
	ours.write("ca.pem", first.pem()[:200])
	agent.logs(0, "part of it is cut off or damaged; the certificates that were read before stay in use")
	db := app("db", 8082)
	w.eventually(db, host.Open, 5*time.Second)
	ours.put(nil, first)
	agent.statusTurns(1, `its certificate is signed by "Second CA", which is not in ca_file`)
	late := app("late", 8083)
	time.Sleep(5 * time.Second) // close_delay is 4 s
	for _, port := range []uint16{web, api, db} {
		w.reaches(port, host.Open)
	}
	w.reaches(closed, host.Dropped)
	w.reaches(late, host.Dropped)
	ours.put(nil, second)
	w.eventually(late, host.Open, 8*time.Second)

	// An agent whose certificate has expired; a comment in the CA's file has hostagent connect again.
	agents.put(leaf(t, second, past), second)
	w.must(w.consul.Reload(w.ctx))
	ours.write("ca.pem", append([]byte("# renewed\n"), second.pem()...))
	agent.statusTurns(1, "its certificate expired on "+past.UTC().Format("2006-01-02 15:04:05 UTC")+", by this host's clock")
	w.reaches(web, host.Open)
	w.reaches(closed, host.Dropped)
	agents.put(leaf(t, second, soon), second)
	w.must(w.consul.Reload(w.ctx))
	last := app("last", 8084)
	w.eventually(last, host.Open, 8*time.Second)
}

// TestUnixSocket: an agent whose API is a socket.
func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "http.sock")
	w := newWorld(t, host.ConsulOptions{Config: fmt.Sprintf("addresses { http = %q }\n", "127.0.0.1 unix://"+socket)})
	agent := w.start(quick, "--mode", "guard", "--consul-address", "unix://"+socket)
	w.guarded()
	w.checkTurns("firewall", "passing", "Guarded: 21000-21255")
	port := w.register("web", 8080, 0)
	w.listenOn("web", port)
	w.eventually(port, host.Open, 5*time.Second)

	// Killed, the agent leaves its socket behind, and nobody accepts there.
	w.must(w.consul.Kill())
	w.must(agent.WaitLog(w.ctx, `the last good state stands" step=consul`)) // the report may fail first
	if scan := w.hostagent(2, "scan", "--consul-address", "unix://"+socket); !strings.Contains(scan, "nobody accepts there, so the agent is not running") {
		t.Errorf("scan says\n%s", scan)
	}
	w.reaches(port, host.Open)
	w.must(w.consul.Restart(w.ctx))
	w.must(agent.WaitLog(w.ctx, "msg=recovered step=consul"))
	w.checkTurns("alive", "passing", "guard mode")
}
