// SPDX-License-Identifier: MPL-2.0

package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/test/netns"
)

func TestMain(m *testing.M) { netns.Main(m) }

const domain = "11111111-2222-3333-4444-555555555555.consul"

// authority is a CA of the tests, or an intermediate one.
type authority struct {
	t           testing.TB
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	chain       [][]byte // from itself up to what the root has signed; empty for a root
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes a certificate of template for key, signed by a, or by itself where a is nil.
func sign(t testing.TB, template *x509.Certificate, key *ecdsa.PrivateKey, a *authority) *x509.Certificate {
	t.Helper()
	parent, signer := template, key
	if a != nil {
		parent, signer = a.certificate, a.key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if template.NotAfter.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func caTemplate(name string) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		SubjectKeyId: []byte(name), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t)
	return &authority{t: t, certificate: sign(t, caTemplate(name), key, nil), key: key}
}

// intermediate is a CA below a.
func (a *authority) intermediate(name string) *authority {
	key := newKey(a.t)
	certificate := sign(a.t, caTemplate(name), key, a)
	return &authority{t: a.t, certificate: certificate, key: key, chain: append([][]byte{certificate.Raw}, a.chain...)}
}

// leaf is a certificate of a that holds uris, as a server of the mesh has it.
func (a *authority) leaf(change func(*x509.Certificate), uris ...string) tls.Certificate {
	template := &x509.Certificate{
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, text := range uris {
		uri, err := url.Parse(text)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, uri)
	}
	if change != nil {
		change(template)
	}
	key := newKey(a.t)
	return tls.Certificate{Certificate: append([][]byte{sign(a.t, template, key, a).Raw}, a.chain...), PrivateKey: key}
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw}))
}

func newCA(t testing.TB, roots ...*authority) *CA {
	t.Helper()
	texts := make([]string, len(roots))
	for i, root := range roots {
		texts[i] = root.pem()
	}
	ca, err := NewCA(domain, texts)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// serve answers one connection after the other with talk, which need not close it, and tells where.
func serve(t testing.TB, talk func(net.Conn)) netip.AddrPort {
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
			talk(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-done
	})
	return listener.Addr().(*net.TCPAddr).AddrPort()
}

// serveTLS serves a configuration and tells what it got of each client: a certificate or a byte of data, which a probe never
// sends.
func serveTLS(t *testing.T, config *tls.Config) netip.AddrPort {
	t.Helper()
	return serve(t, func(conn net.Conn) {
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		server := tls.Server(conn, config)
		n, _ := server.Read(make([]byte, 1))
		if n > 0 || len(server.ConnectionState().PeerCertificates) > 0 {
			t.Error("the probe sends data or a certificate")
		}
	})
}

// web is the id of the service that is asked.
const web = "spiffe://" + domain + "/ns/default/dc/dc1/svc/web"

// TestAsk: what servers of every kind show of themselves.
func TestAsk(t *testing.T) {
	mesh, old, other := newAuthority(t, "mesh"), newAuthority(t, "old"), newAuthority(t, "other")
	below := mesh.intermediate("below")
	crossed := &authority{t: t, certificate: below.certificate, key: below.key} // signed by the old root, too
	crossed.chain = [][]byte{sign(t, caTemplate("below"), below.key, old).Raw}
	stolen := mesh.leaf(nil, web)
	stolen.PrivateKey = newKey(t)
	isWeb := Result{Outcome: Named, Name: Name{Namespace: "default", Datacenter: "dc1", Service: "web"}}
	span := func(from, to time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
	}
	lasts := func(root *authority, from, to time.Duration) *authority {
		template := caTemplate("short")
		span(from, to)(template)
		key := newKey(t)
		below := &authority{t: t, certificate: sign(t, template, key, root), key: key}
		if root != nil {
			below.chain = [][]byte{below.certificate.Raw}
		}
		return below
	}
	ended, endedBelow, later := lasts(nil, -4*time.Hour, -time.Hour), lasts(mesh, -4*time.Hour, -time.Hour), lasts(nil, time.Hour, 3*time.Hour)
	long := other.leaf(nil, web)
	for range maxChain {
		long.Certificate = append(long.Certificate, other.certificate.Raw)
	}
	giant := mesh.leaf(func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: []int{1, 2, 3, 4}, Value: make([]byte, 100_000)}}
	}, web)
	for _, test := range []struct {
		name string
		leaf tls.Certificate
		ca   *CA
		want Result
	}{
		{"sidecar", mesh.leaf(nil, web), newCA(t, mesh), isWeb},
		{"signed by an intermediate", below.leaf(nil, web), newCA(t, mesh), isWeb},
		{"signed by either root of a rotation", mesh.leaf(nil, web), newCA(t, old, mesh), isWeb},
		{"rotated, and only the old root is known", crossed.leaf(nil, web), newCA(t, old), isWeb},
		{"Enterprise", mesh.leaf(nil, "spiffe://"+domain+"/ap/p1/ns/n1/dc/dc1/svc/web"), newCA(t, mesh),
			Result{Outcome: Named, Name: Name{Partition: "p1", Namespace: "n1", Datacenter: "dc1", Service: "web"}}},
		{"another id beside", mesh.leaf(nil, "https://web.example", web), newCA(t, mesh), isWeb},
		{"another CA", other.leaf(nil, web), newCA(t, mesh), Result{Outcome: Foreign}},
		{"intermediate left out", tls.Certificate{Certificate: below.leaf(nil, web).Certificate[:1]}, newCA(t, mesh), Result{Outcome: Foreign}},
		{"somebody else's certificate", stolen, newCA(t, mesh), Result{Outcome: Foreign}},
		{"expired", mesh.leaf(span(-2*time.Hour, -time.Hour), web), newCA(t, mesh), Result{Outcome: Expired}},
		{"not yet valid", mesh.leaf(span(time.Hour, 2*time.Hour), web), newCA(t, mesh), Result{Outcome: Expired}},
		{"expired CA", ended.leaf(span(-2*time.Hour, time.Hour), web), newCA(t, ended), Result{Outcome: Expired}},
		{"expired after its CA", ended.leaf(span(-2*time.Hour, -time.Minute), web), newCA(t, ended), Result{Outcome: Expired}},
		{"expired intermediate", endedBelow.leaf(span(-2*time.Hour, time.Hour), web), newCA(t, mesh), Result{Outcome: Expired}},
		{"not yet valid and longer than its CA", later.leaf(span(2*time.Hour, 4*time.Hour), web), newCA(t, later), Result{Outcome: Expired}},
		{"expired CA, not the mesh's", ended.leaf(span(-2*time.Hour, time.Hour), web), newCA(t, mesh), Result{Outcome: Foreign}},
		{"expired and of another CA", other.leaf(span(-2*time.Hour, -time.Hour), web), newCA(t, mesh), Result{Outcome: Foreign}},
		{"for clients only", mesh.leaf(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }, web), newCA(t, mesh),
			Result{Outcome: Foreign}},
		{"without an id", mesh.leaf(func(c *x509.Certificate) { c.DNSNames = []string{"web"} }), newCA(t, mesh), Result{Outcome: Unnamed}},
		{"an agent", mesh.leaf(nil, "spiffe://"+domain+"/agent/client/dc/dc1/id/n1"), newCA(t, mesh), Result{Outcome: Unnamed}},
		{"a mesh gateway", mesh.leaf(nil, "spiffe://"+domain+"/gateway/mesh/dc/dc1"), newCA(t, mesh), Result{Outcome: Unnamed}},
		{"another trust domain", mesh.leaf(nil, "spiffe://other.consul/ns/default/dc/dc1/svc/web"), newCA(t, mesh), Result{Outcome: Unnamed}},
		{"endless chain", long, newCA(t, other), Result{Outcome: Foreign}},
		{"giant certificate", giant, newCA(t, mesh), Result{Outcome: Foreign}},
	} {
		if test.leaf.PrivateKey == nil {
			test.leaf.PrivateKey = below.key // of no matter: the chain is judged first, or the signature fails
		}
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, auth := range []tls.ClientAuthType{tls.RequireAnyClientCert, tls.NoClientCert} {
				t.Run(test.name+"/"+tls.VersionName(version)+"/"+auth.String(), func(t *testing.T) {
					t.Parallel()
					address := serveTLS(t, &tls.Config{
						MinVersion: version, MaxVersion: version, ClientAuth: auth, Certificates: []tls.Certificate{test.leaf},
					})
					got := Ask(t.Context(), test.ca, address)
					if test.want.Outcome == Foreign && got.Detail == "" {
						t.Error("it does not tell why")
					}
					got.Detail = ""
					if diff := cmp.Diff(test.want, got); diff != "" {
						t.Errorf("(-want +got)\n%s", diff)
					}
				})
			}
		}
	}
}

// record wraps handshake messages in TLS 1.2.
func record(body []byte) []byte {
	return append([]byte{recordHandshake, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
}

// message is a handshake message.
func message(kind byte, body []byte) []byte {
	return append([]byte{kind, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// copied is what a server says in TLS 1.2 that has seen the certificate of a sidecar and leaves out the one message that it
// could not sign.
func copied(chain [][]byte) []byte {
	hello := append([]byte{3, 3}, make([]byte, 32+1)...) // version, random, no session
	hello = append(hello, 0xc0, 0x2b, 0)                 // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, no compression
	request := []byte{1, 64, 0, 2, 4, 3, 0, 0}           // ecdsa_sign, ecdsa_secp256r1_sha256, any CA
	certificate := append([]byte{0, byte(len(chain[0]) >> 8), byte(len(chain[0]))}, chain[0]...)
	certificate = append([]byte{0, byte(len(certificate) >> 8), byte(len(certificate))}, certificate...)
	all := append(message(2, hello), message(11, certificate)...)
	return record(append(append(all, message(13, request)...), message(14, nil)...))
}

// TestAskHostile: whatever answers, a probe ends soon, takes in little and believes nothing.
func TestAskHostile(t *testing.T) {
	mesh := newAuthority(t, "mesh")
	endless := func(piece []byte) func(net.Conn) {
		return func(conn net.Conn) {
			sent := 0
			for {
				n, err := conn.Write(piece)
				if sent += n; err != nil {
					break
				}
			}
			if sent > 8<<20 { // what both ends buffer
				t.Errorf("the probe let %d bytes in", sent)
			}
		}
	}
	say := func(text string) func(net.Conn) {
		return func(conn net.Conn) {
			conn.Read(make([]byte, 4096)) //nolint:errcheck // or not
			io.WriteString(conn, text)
		}
	}
	for _, test := range []struct {
		name string
		talk func(net.Conn)
		want Outcome
	}{
		{"closes", func(net.Conn) {}, Closed},
		{"resets", func(c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, Closed},
		{"says nothing", func(c net.Conn) { io.Copy(io.Discard, c) }, Silent},
		{"greets", say("220 mail.example ESMTP\r\n"), Plain},
		{"HTTP", say("HTTP/1.1 400 Bad Request\r\n\r\n"), Plain},
		{"one byte", say("x"), Plain},
		{"empty line", say("\n"), Plain},
		{"alert: handshake failure", say("\x15\x03\x03\x00\x02\x02\x28"), Refused},
		{"half of a record", say("\x16\x03\x03\x00\xff\x02\x00"), Closed},
		{"no version of TLS that proxies speak", say("\x16\x03\x01\x00\x2a\x02\x00\x00\x26\x03\x01" + strings.Repeat("r", 32) + "\x00\xc0\x09\x00"), Foreign},
		{"rubbish in a record", say("\x16\x03\x03\x00\x04abcd"), Foreign},
		{"a copied certificate and no signature", say(string(copied(mesh.leaf(nil, web).Certificate))), Foreign},
		{"endless text", endless([]byte(strings.Repeat("x", 4096))), Plain},
		{"endless empty records", endless([]byte("\x16\x03\x03\x00\x00")), Foreign},
		{"endless warnings", endless([]byte("\x15\x03\x03\x00\x02\x01\x5a")), Foreign},
		{"endless handshake message", endless(record(append([]byte{11, 255, 255, 255}, make([]byte, 16000)...))), Foreign},
		{"a message just under Go's own limit", endless(record(append([]byte{2, 0, 255, 255}, make([]byte, 1000)...))), Foreign},
		{"one byte every ten milliseconds", func(conn net.Conn) {
			for _, b := range record(make([]byte, 16000)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, Silent},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			got := Ask(t.Context(), newCA(t, mesh), serve(t, test.talk))
			if got.Outcome != test.want {
				t.Errorf("got %+v, want %s", got, test.want)
			}
			if took := time.Since(start); took > wholeTimeout+2*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestAskUnknown: who cannot be asked is accused of nothing, and nobody beyond this host is asked.
func TestAskUnknown(t *testing.T) {
	ca := newCA(t, newAuthority(t, "mesh"))
	closed := serve(t, func(net.Conn) {})
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := gone.Addr().(*net.TCPAddr).AddrPort()
	gone.Close()
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		name    string
		ctx     context.Context //nolint:containedctx // of one case
		address netip.AddrPort
		want    string
	}{
		{"refused", t.Context(), refused, "it cannot be connected to: connection refused"},
		{"an address that is none of ours", t.Context(), netip.MustParseAddrPort("192.0.2.1:21000"), "it cannot be connected to: cannot assign requested address"},
		{"no address", t.Context(), netip.AddrPort{}, ""},
		{"given up", cancelled, closed, ""},
	} {
		got := Ask(test.ctx, ca, test.address)
		if got.Outcome != Unknown || test.want != "" && got.Detail != test.want {
			t.Errorf("%s: got %+v, want it unknown: %s", test.name, got, test.want)
		}
	}
}

func TestGivenUpInTheMiddle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := serve(t, func(conn net.Conn) {
		conn.Read(make([]byte, 1)) //nolint:errcheck // the hello has come
		cancel()
		io.Copy(io.Discard, conn) //nolint:errcheck // until the probe hangs up
	})
	if got := Ask(ctx, newCA(t, newAuthority(t, "mesh")), address); got.Outcome != Unknown {
		t.Errorf("got %+v", got)
	}
}

func TestNewCA(t *testing.T) {
	good := newAuthority(t, "mesh").pem()
	for _, test := range []struct {
		name, domain string
		roots        []string
		want         string
	}{
		{"good", domain, []string{good}, ""},
		{"two in one", domain, []string{good + good}, ""},
		{"no trust domain", "", []string{good}, "names no trust domain"},
		{"no roots", domain, nil, "has no root certificate"},
		{"no PEM", domain, []string{"x"}, "has no root certificate"},
		{"no certificate", domain, []string{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "cannot read a root certificate"},
		{"too many", domain, []string{strings.Repeat(good, maxRoots+1)}, "more than 100 root certificates"},
	} {
		ca, err := NewCA(test.domain, test.roots)
		if test.want == "" && (err != nil || ca == nil) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestParseName(t *testing.T) {
	web := Name{Namespace: "default", Datacenter: "dc1", Service: "web"}
	for _, test := range []struct {
		uri  string
		want Name
	}{
		{"spiffe://d/ns/default/dc/dc1/svc/web", web},
		{"spiffe://d/ap/p1/ns/default/dc/dc1/svc/web", Name{"p1", "default", "dc1", "web"}},
		{"spiffe://d/ns/default/dc/dc1/svc/a%2Fb", Name{"", "default", "dc1", "a/b"}},
		{"spiffe://d/ns/default/dc/dc1/svc/", Name{}},
		{"spiffe://d/ns//dc/dc1/svc/web", Name{}},
		{"spiffe://d/ap//ns/default/dc/dc1/svc/web", Name{}},
		{"spiffe://d/ns/default/dc/dc1/svc/web/x", Name{}},
		{"spiffe://d/ns/default/dc/dc1/web", Name{}},
		{"https://d/ns/default/dc/dc1/svc/web", Name{}},
		{"spiffe://d", Name{}},
		{"spiffe:ns/default/dc/dc1/svc/web", Name{}},
	} {
		uri, err := url.Parse(test.uri)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := parseName(uri); ok != (test.want != Name{}) || ok && got != test.want {
			t.Errorf("%s: got %+v, %t", test.uri, got, ok)
		}
	}
}

// FuzzHandshake plays a server that says anything.
func FuzzHandshake(f *testing.F) {
	mesh := newAuthority(f, "mesh")
	ca := newCA(f, mesh)
	f.Add(copied(mesh.leaf(nil, web).Certificate))
	f.Add([]byte("\x15\x03\x03\x00\x02\x02\x28"))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		ours, theirs := net.Pipe()
		go io.Copy(io.Discard, theirs) //nolint:errcheck // until the pipe is closed
		go func() {
			theirs.Write(said)
			theirs.Close()
		}()
		defer ours.Close()
		heard := &listening{Conn: ours}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		chain, err := handshake(ctx, heard)
		if ctx.Err() != nil {
			t.Fatalf("%q keeps the probe waiting though the connection is closed", said)
		}
		if err == nil {
			t.Fatalf("took %q for %+v", said, ca.judge(chain, time.Now()))
		}
		switch got := failure(heard, err); got.Outcome {
		case Closed, Refused, Plain, Foreign:
		default:
			t.Fatalf("%q makes %+v of %v", said, got, err)
		}
	})
}
