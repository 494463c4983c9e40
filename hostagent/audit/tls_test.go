// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// auditNow is when these tests look.
var auditNow = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func days(n int) time.Time { return auditNow.AddDate(0, 0, n) }

// signed is a certificate with its key.
type signed struct {
	x509 *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (s *signed) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.x509.Raw}))
}

// issue makes a certificate that by signs, itself where by is nil, valid from a year ago until end. A key of another may be
// given.
func issue(t testing.TB, name string, by *signed, end time.Time, key *ecdsa.PrivateKey,
	change func(*x509.Certificate)) *signed {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(int64(len(name))), NotBefore: days(-365), NotAfter: end,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	if key == nil {
		var err error
		if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.x509, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signed{certificate, key}
}

func issueCA(t testing.TB, name string, by *signed, end time.Time, key *ecdsa.PrivateKey) *signed {
	t.Helper()
	return issue(t, name, by, end, key, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	})
}

func issueLeaf(t testing.TB, by *signed, end time.Time, names ...string) *signed {
	t.Helper()
	return issue(t, "agent", by, end, nil, func(c *x509.Certificate) { c.DNSNames = names })
}

// onFile is what is read of a file with s in it.
func onFile(use, path string, ca bool, s *signed) Certificate {
	n := named{path: path, ca: ca, uses: []string{use}}
	return n.certificate(path, s.x509)
}

const (
	caPath   = "/etc/consul.d/ca.pem"
	certPath = "/etc/consul.d/agent.pem"
)

// tlsInput is an agent that runs with TLS for RPC as given, and whose files were not read.
func tlsInput(server bool, change func(*consul.Running)) Input {
	in := Input{Now: auditNow}
	running := consul.Running{
		Agent: consul.Agent{Datacenter: "dc1", Server: server},
		RPC: consul.TLS{
			VerifyIncoming: new(server), VerifyOutgoing: new(true), VerifyServerHostname: new(true),
			CAFile: new(caPath), CAPath: new(""), CertFile: new(certPath),
		},
		HTTPS: consul.TLS{CAFile: new(""), CAPath: new(""), CertFile: new("")},
		GRPC:  consul.TLS{CAFile: new(""), CAPath: new(""), CertFile: new("")},
	}
	if change != nil {
		change(&running)
	}
	in.Running = Known(running)
	return in
}

// flags sets the verify flags of RPC.
func flags(outgoing, incoming, hostname bool) func(*consul.Running) {
	return func(r *consul.Running) {
		r.RPC.VerifyOutgoing, r.RPC.VerifyIncoming, r.RPC.VerifyServerHostname = new(outgoing), new(incoming), new(hostname)
	}
}

func noTLS(r *consul.Running) {
	flags(false, false, false)(r)
	r.RPC.CAFile, r.RPC.CertFile = new(""), new("")
}

func autoEncrypt(ca string) func(*consul.Running) {
	return func(r *consul.Running) {
		noTLS(r)
		r.AutoEncrypt, r.RPC.CAFile = new(true), new(ca)
	}
}

// disk is an agent whose files are read, and nothing else.
func disk(t *testing.T, text string) Input {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("a.hcl", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := configdir.Read("a.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return Input{Now: auditNow, Running: Unseen[consul.Running]("no agent was asked", "an agent"), Disk: Known(config)}
}

type judged struct {
	name string
	in   Input
	want Row
}

func checkRows(t *testing.T, judge func(*Input) Row, tests []judged) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, judge(&test.in)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

const (
	runsOut  = "the agent runs with tls.internal_rpc.verify_outgoing = "
	runsIn   = "the agent runs with tls.internal_rpc.verify_incoming = "
	runsHost = "the agent runs with tls.internal_rpc.verify_server_hostname = "
	runsCert = "the agent runs with tls.internal_rpc.cert_file = "
	seeOff   = "TLS is not configured for RPC: see tls-verify-outgoing"
)

func TestOutgoingVerified(t *testing.T) {
	checkRows(t, outgoingVerified, []judged{
		{"on", tlsInput(true, nil), passed(runsOut + "true")},
		{"no TLS", tlsInput(true, noTLS), failed("TLS is not configured for RPC: there is neither a CA nor a certificate, and "+
			"nothing is verified", runsOut+"false")},
		{"no TLS, and paths are not told", tlsInput(true, func(r *consul.Running) { noTLS(r); r.RPC.CAFile = nil }),
			failed("TLS is not configured for RPC, as far as it is known: nothing is verified", runsOut+"false")},
		{"step 1", tlsInput(true, flags(false, false, false)), failed(runsOut+"false", stepPrepared)},
		{"step 1, with a CA alone", tlsInput(true, func(r *consul.Running) {
			flags(false, false,
				false)(r)
			r.RPC.CertFile = new("")
		}),
			failed(runsOut+"false", stepPrepared)},
		{"steps reversed", tlsInput(true, flags(false, true, false)), failed(runsOut+"false", stepReversed)},
		{"auto_encrypt", tlsInput(false, autoEncrypt(caPath)), passed(runsOut+"false",
			"auto_encrypt is on and a CA is set: servers are verified all the same")},
		{"auto_encrypt without a CA", tlsInput(false, autoEncrypt("")), Row{Status: Warn, Found: []string{
			"auto_encrypt is on, and no ca_file or ca_path is set: whoever answers first in a server's place is believed, and " +
				"the CA that it sends is trusted from then on"},
			Remedy: "give this agent the CA of the servers' certificates: set tls { defaults { ca_file } } and run consul reload"}},
		{"old form", disk(t, "verify_outgoing = true"), passed("a.hcl:1: tls.defaults.verify_outgoing = true")},
		{"implied", disk(t, "tls { internal_rpc { verify_server_hostname = true } }"),
			passed("a.hcl:1: tls.internal_rpc.verify_server_hostname = true, which implies verify_outgoing")},
		{"auto_config, from files", disk(t, "auto_config { enabled = true }"),
			notSeen("the address of the local agent", "auto_config is on: what the servers hand out counts, and it is not known")},
		{"auto_encrypt, and the CA is not told", tlsInput(false, func(r *consul.Running) { autoEncrypt("")(r); r.RPC.CAFile = nil }),
			notSeen("--consul-config with the agent's configuration",
				"tls.internal_rpc.ca_file: the agent does not tell, and its files were not read")},
		{"nothing is known", Input{Running: Unseen[consul.Running]("the token may not read it", "agent:read")},
			notSeen("agent:read", "tls.internal_rpc.verify_outgoing: the token may not read it")},
	})
}

func TestIncomingVerified(t *testing.T) {
	checkRows(t, incomingVerified, []judged{
		{"on", tlsInput(true, nil), passed(runsIn + "true")},
		{"on a client too", tlsInput(false, flags(true, true, true)), passed(runsIn + "true")},
		{"no TLS", tlsInput(true, noTLS), notApplicable(seeOff)},
		{"step 1", tlsInput(true, flags(false, false, false)), notApplicable("verify_incoming comes after verify_outgoing: see "+
			"tls-verify-outgoing", runsIn+"false")},
		{"step 2", tlsInput(true, flags(true, false, true)), failed(runsIn+"false", stepOutgoing)},
		{"client", tlsInput(false, nil), notApplicable("this agent is a client, which takes no RPC from the network: " +
			"verify_incoming counts on servers")},
		{"server, from files", disk(t, "server = true\nca_file = \"/ca\"\nverify_outgoing = true\nverify_incoming_rpc = false"),
			failed("a.hcl:4: tls.internal_rpc.verify_incoming = false", stepOutgoing)},
		{"server that does not tell", tlsInput(true, func(r *consul.Running) { r.RPC.VerifyIncoming = nil }),
			notSeen("--consul-config with the agent's configuration", "tls.internal_rpc.verify_incoming: the agent does not tell, "+
				"and its files were not read")},
		{"nothing is known", Input{Running: Unseen[consul.Running]("the token may not read it", "agent:read")},
			notSeen("agent:read", "tls.internal_rpc.verify_incoming: the token may not read it")},
	})
}

func TestHostnameVerified(t *testing.T) {
	undecided := func(found string) Row {
		return notSeen("verify_server_hostname = true among this agent's own settings, or hostagent audit on a server",
			"the servers decide beside this agent's own settings, and it does not tell what they said", found)
	}
	checkRows(t, hostnameVerified, []judged{
		{"on", tlsInput(false, nil), passed(runsHost + "true")},
		{"no TLS", tlsInput(false, noTLS), notApplicable(seeOff)},
		{"step 1", tlsInput(true, flags(false, false, false)), notApplicable("nothing of servers is verified: see " +
			"tls-verify-outgoing")},
		{"only it is off on a server", tlsInput(true, flags(true, true, false)), failed(runsHost+"false", stepAllButNames)},
		{"only it is off on a client", tlsInput(false, flags(true, false, false)), failed(runsHost+"false", stepNames)},
		{"auto_encrypt", tlsInput(false, autoEncrypt(caPath)), undecided(runsHost + "false")},
		{"auto_config told by the agent", tlsInput(false, func(r *consul.Running) {
			flags(true, false,
				false)(r)
			r.AutoConfig = new(true)
		}),
			failed(runsHost+"false", stepNames)},
		{"auto_config in files", disk(t, "auto_config { enabled = true }"),
			undecided("no file sets tls.internal_rpc.verify_server_hostname; Consul's default is false")},
		{"auto_encrypt in a server's files", disk(t, "server = true\nauto_encrypt { tls = true }\nverify_outgoing = true"),
			failed("no file sets tls.internal_rpc.verify_server_hostname; Consul's default is false", stepNames)},
		{"nothing is known", Input{Running: Unseen[consul.Running]("the token may not read it", "agent:read")},
			notSeen("agent:read", "tls.internal_rpc.verify_server_hostname: the token may not read it")},
	})
}

// TestByFilesAndFlags: where the agent does not tell, its files are judged, and the flags that stand over them.
func TestByFilesAndFlags(t *testing.T) {
	const tls = "ca_file = \"/ca\"\nverify_outgoing = true\n"
	for _, test := range []struct {
		name, disk string
		flags      []string
		judge      func(*Input) Row
		want       Row
	}{
		{"-server", tls, []string{"server"}, incomingVerified,
			failed("no file sets tls.internal_rpc.verify_incoming; Consul's default is false", stepOutgoing)},
		{"-dev", tls, []string{"dev"}, incomingVerified,
			failed("no file sets tls.internal_rpc.verify_incoming; Consul's default is false", stepOutgoing)},
		{"files over -dev", tls + "server = false", []string{"dev"}, incomingVerified, notApplicable("this agent is a client, which takes " +
			"no RPC from the network: verify_incoming counts on servers")},
		{"-hcl", tls, []string{"hcl"}, incomingVerified, notSeen(byAgent,
			"tls.internal_rpc.verify_incoming: the agent was started with -hcl, which stands over its files and is not read")},
		{"-client", `client_addr = "127.0.0.1"`, []string{"client"}, apiHTTP, notSeen(byAgent,
			"where the agent serves the plain HTTP API: the agent was started with -client, which stands over its files and is not read")},
		{"-http-port", `client_addr = "127.0.0.1"`, []string{"https-port"}, apiHTTP,
			passed(`the plain HTTP API, port 8500: a.hcl:1: client_addr = "127.0.0.1"`)},
		{"-encrypt", "", []string{"encrypt"}, gossipEncryption, passed("the agent was started with -encrypt")},
		{"-dev without a key", "", []string{"dev"}, gossipEncryption, notSeen(byAgent,
			"whether gossip is encrypted: the agent was started with -dev, and no file says otherwise")},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := disk(t, test.disk)
			in.Process = Known(Process{Flags: test.flags})
			if diff := cmp.Diff(test.want, test.judge(&in)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// TestTLSOneCauseOneRow: each thing that is not as it should be fails one row of these, and TLS that is off one as well.
func TestTLSOneCauseOneRow(t *testing.T) {
	ca := issueCA(t, "agents", nil, days(1000), nil)
	certificates := Known([]Certificate{
		onFile("internal_rpc", caPath, true, ca), onFile("internal_rpc", certPath, false,
			issueLeaf(t, ca, days(300), "server.dc1.consul")),
	})
	for _, test := range []struct {
		name   string
		change func(*consul.Running)
		want   []string
	}{
		{"nothing", nil, nil},
		{"no TLS", noTLS, []string{"tls-verify-outgoing"}},
		{"verify_outgoing", flags(false, true, false), []string{"tls-verify-outgoing"}},
		{"verify_incoming", flags(true, false, true), []string{"tls-verify-incoming"}},
		{"verify_server_hostname", flags(true, true, false), []string{"tls-verify-server-hostname"}},
		{"all flags", flags(false, false, false), []string{"tls-verify-outgoing"}},
		{"certificate", func(r *consul.Running) { r.RPC.CertFile = new("") }, []string{"tls-certificate"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := tlsInput(true, test.change)
			in.KeyFiles = Known([]File{})
			in.AgentCertificates = certificates
			in.ServerCertificates = Known([]ServerCertificate{{Server: "s1", Key: "1"}, {Server: "s2", Key: "2"}})
			var got []string
			for _, j := range tlsJudges() {
				if row := j.judge(&in); row.Status == Fail {
					got = append(got, string(j.id))
				} else if row.Status.Worse(Info) {
					t.Errorf("%s: %+v", j.id, row)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestServerCertificates(t *testing.T) {
	with := func(servers ...ServerCertificate) Input {
		in := tlsInput(true, nil)
		in.ServerCertificates = Known(servers)
		return in
	}
	one, two := ServerCertificate{Server: "s1", Fingerprint: "a", Key: "k"}, ServerCertificate{Server: "s2", Fingerprint: "b",
		Key: "l"}
	silent := ServerCertificate{Server: "s3", Problem: "it cannot be connected to: connection refused"}
	reachable := "the servers' RPC port, usually 8300, reachable from this host, and node:read on the servers"
	checkRows(t, serverCertificates, []judged{
		{"each its own", with(one, two), passed("2 servers, each with a key of its own")},
		{"the same certificate", with(one, ServerCertificate{Server: "s2", Fingerprint: "a", Key: "k"}, silent),
			failed("servers with the same certificate: s1, s2")},
		{"the same key", with(one, two, ServerCertificate{Server: "s4", Fingerprint: "c", Key: "k"}),
			failed("servers with different certificates of the same key: s1, s4")},
		{"one does no TLS", with(one, two, ServerCertificate{Server: "s5", Plain: true, Problem: "it answers without TLS"}),
			Row{Status: Warn, Found: []string{
				"server s5 does no TLS on its RPC port: it answers without TLS"},
				Remedy: "configure TLS on every server, with a certificate for each"}},
		{"one is not seen", with(one, two, silent), notSeen(reachable, "server s3: it cannot be connected to: connection refused")},
		{"none", with(), notSeen(reachable, "no server is seen")},
		{"only one", with(one), notApplicable("one server is seen, there is nothing to compare")},
		{"not asked", tlsInput(true, nil), notSeen("run hostagent audit: the service asks no server",
			"the servers' certificates: it was not asked for")},
		{"no TLS", tlsInput(true, noTLS), notApplicable(seeOff)},
	})
}

// addresses are those of a certificate.
func addresses(texts ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, text := range texts {
			c.IPAddresses = append(c.IPAddresses, net.ParseIP(text))
		}
	}
}
