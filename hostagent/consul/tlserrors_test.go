// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Each mistake is told in one sentence that names what to change.
func TestTLSErrors(t *testing.T) {
	const hour = time.Hour
	longAgo := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	farAhead := time.Date(2120, 1, 2, 3, 4, 5, 0, time.UTC)
	past := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = longAgo.Add(-hour), longAgo }
	future := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = farAhead, farAhead.Add(hour) }
	names := func(names ...string) func(c *x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = names, nil }
	}
	dir := newFolder(t)
	ca, other, namesake, expiredCA := authority(t, "Agent CA"), authority(t, "Other CA"), authority(t, "Agent CA"), authority(t, "Old CA", longAgo.Add(-hour), longAgo)
	caFile := dir.file("ca.pem", ca.cert)
	handler := reply(200, string(recorded(t, "services.json")), allow)
	serving := func(cert *issued, change ...func(*tls.Config)) string {
		config := &tls.Config{Certificates: []tls.Certificate{cert.pair()}}
		for _, f := range change {
			f(config)
		}
		return serveTLS(t, config, handler).URL
	}
	verify := func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, ca.pool() }
	tls12 := func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }
	tls11 := func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }
	good, strict, strict12 := serving(ca.server(t)), serving(ca.server(t), verify), serving(ca.server(t), verify, tls12)
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	of := func(cert *issued, name string) Config {
		return Config{CAFile: caFile, CertFile: dir.file(name+".pem", cert.cert), KeyFile: dir.file(name+"-key.pem", cert.key)}
	}
	ours := of(ca.client(t), "ours")
	only := Config{CAFile: caFile}

	for _, tt := range []struct {
		name    string
		address string
		cfg     Config
		kind    Kind
		text    string // behind the address; DIR stands for the folder
	}{
		{"right CA", good, only, "", ""},
		{"CA in a folder", good, Config{CAPath: dir.path}, "", ""},
		{"another name of it", good, Config{CAFile: caFile, ServerName: "localhost"}, "", ""},
		{"its name with a port", good, Config{CAFile: caFile, ServerName: "server.dc1.consul:8501"}, "", ""},
		{"host name", strings.Replace(good, "127.0.0.1", "localhost", 1), only, "", ""},
		{"unverified", good, Config{InsecureSkipVerify: true}, "", ""},
		{"client certificate", strict, ours, "", ""},
		{"client certificate, TLS 1.2", strict12, ours, "", ""},
		{"client certificate that nobody asks for", good, ours, "", ""},

		{"CA not given", good, Config{}, KindTLS,
			`its certificate is signed by "Agent CA", which this host does not trust; name the file with the certificate of that CA in ca_file (CONSUL_CACERT)`},
		{"another CA", good, Config{CAFile: dir.file("other.pem", other.cert)}, KindTLS,
			`its certificate is signed by "Agent CA", which is not in ca_file "DIR/other.pem"; put the certificate of that CA there`},
		{"another CA of that name", good, Config{CAFile: dir.file("namesake.pem", namesake.cert)}, KindTLS,
			`its certificate is signed by a CA named "Agent CA", but not by the one of that name in ca_file "DIR/namesake.pem"; put the certificate of the agent's CA there`},
		{"another CA in a folder", good, Config{CAPath: filepath.Dir(newFolder(t).file("a.pem", other.cert))}, KindTLS,
			`its certificate is signed by "Agent CA", which is not in ca_path "DIR"; put the certificate of that CA there`},
		{"CA expired", serving(expiredCA.server(t)), Config{CAFile: dir.file("expired.pem", expiredCA.cert)}, KindTLS,
			`the CA "Old CA" in ca_file "DIR/expired.pem" expired on 2020-01-02 03:04:05 UTC, by this host's clock; renew it, unless that clock is wrong`},
		{"CA expired, and another of its name", serving(expiredCA.server(t)), Config{CAFile: dir.file("two.pem", expiredCA.cert, authority(t, "Old CA").cert)}, KindTLS,
			`the CA "Old CA" in ca_file "DIR/two.pem" expired on 2020-01-02 03:04:05 UTC, by this host's clock; renew it, unless that clock is wrong`},
		{"certificate expired", serving(ca.server(t, past)), only, KindTLS,
			`its certificate expired on 2020-01-02 03:04:05 UTC, by this host's clock; renew it, unless that clock is wrong`},
		{"certificate not yet valid", serving(ca.server(t, future)), only, KindTLS,
			`its certificate is valid only from 2120-01-02 03:04:05 UTC on, by this host's clock; renew it, unless that clock is wrong`},
		{"a client's certificate", serving(ca.client(t, names("localhost"))), Config{CAFile: caFile, ServerName: "localhost"}, KindTLS,
			`its certificate is not made for servers; give the agent one with the extended key usage serverAuth`},
		{"wrong tls_server_name", good, Config{CAFile: caFile, ServerName: "server.dc2.consul"}, KindTLS,
			`its certificate is not for tls_server_name "server.dc2.consul" but for "server.dc1.consul", "localhost" and 127.0.0.1; set tls_server_name = "server.dc1.consul" (CONSUL_TLS_SERVER_NAME)`},
		{"not for the address", serving(ca.server(t, names("*.dc1.consul", "web.example"))), only, KindTLS,
			`its certificate is not for the name "127.0.0.1" of address but for "*.dc1.consul" and "web.example"; set tls_server_name = "web.example" (CONSUL_TLS_SERVER_NAME)`},
		{"a wildcard only", serving(ca.server(t, names("*.dc1.consul"))), only, KindTLS,
			`its certificate is not for the name "127.0.0.1" of address but for "*.dc1.consul"; set tls_server_name (CONSUL_TLS_SERVER_NAME) to a name that it is for`},
		{"many and long names", serving(ca.server(t, names(strings.Repeat("x", 200), "b\x1b[2J", "c", "d", "e", "f"))), only, KindTLS,
			`its certificate is not for the name "127.0.0.1" of address but for "` + strings.Repeat("x", 64) + `\u2026", "b\x1b[2J", "c", "d" and 2 more; set tls_server_name = "c" (CONSUL_TLS_SERVER_NAME)`},
		{"no names", serving(ca.server(t, names())), only, KindTLS,
			`its certificate is not for the name "127.0.0.1" of address: it has no names (subject alternative names) at all; give the agent one that has`},

		{"https to http", strings.Replace(plain.URL, "http:", "https:", 1), only, KindTLS,
			`it answers in plain HTTP; write the agent's https port into address, usually 8501, or write http:// there`},
		{"http to https", strings.Replace(good, "https:", "http:", 1), only, KindTLS,
			`it answers in TLS only; write https:// in address (CONSUL_HTTP_ADDR)`},

		{"client certificate missing", strict, only, KindTLS,
			`it demands a client certificate signed by "Agent CA"; name one and its key in cert_file (CONSUL_CLIENT_CERT) and key_file (CONSUL_CLIENT_KEY)`},
		{"client certificate missing, TLS 1.2", strict12, only, KindTLS,
			`it demands a client certificate signed by "Agent CA"; name one and its key in cert_file (CONSUL_CLIENT_CERT) and key_file (CONSUL_CLIENT_KEY)`},
		{"client certificate of another CA", strict, of(other.client(t), "foreign"), KindTLS,
			`it does not accept the client certificate in cert_file "DIR/foreign.pem", because it does not know its CA "Other CA"; take a certificate signed by "Agent CA"`},
		{"client certificate of another CA, TLS 1.2", strict12, of(other.client(t), "foreign"), KindTLS,
			`it does not accept the client certificate in cert_file "DIR/foreign.pem", because it does not know its CA "Other CA"; take a certificate signed by "Agent CA"`},
		{"client certificate of a namesake", strict, of(namesake.client(t), "twin"), KindTLS,
			`it does not accept the client certificate in cert_file "DIR/twin.pem", because it does not know its CA "Agent CA"; take a certificate signed by "Agent CA"`},
		{"client certificate expired", strict, of(ca.client(t, past), "late"), KindTLS,
			`it does not accept the client certificate in cert_file "DIR/late.pem", which expired on 2020-01-02 03:04:05 UTC, by this host's clock; renew it, unless that clock is wrong`},
		{"client certificate expired by the agent's clock", serving(ca.server(t), verify, func(c *tls.Config) { c.Time = func() time.Time { return farAhead } }), ours, KindTLS,
			`by its clock the client certificate in cert_file "DIR/ours.pem" is not valid now, but by this host's it is; set the clocks right, or renew the CA that signed it`},
		{"client certificate for servers", strict, of(ca.server(t), "server"), KindTLS,
			`it does not accept the client certificate in cert_file "DIR/server.pem", which is not made for clients; take one with the extended key usage clientAuth`},

		{"TLS too old", serving(ca.server(t), tls11), only, KindTLS,
			`it speaks only versions of TLS below 1.2, which hostagent does not; set tls_min_version = "TLSv1_2" in the agent's configuration, or upgrade what answers there`},
		{"TLS too old, and it goes on", "https://" + strange(t, serverHello11), only, KindTLS,
			`it speaks only versions of TLS below 1.2, which hostagent does not; set tls_min_version = "TLSv1_2" in the agent's configuration, or upgrade what answers there`},
		{"closes", "https://" + strange(t, ""), only, KindTLS,
			`it closed the connection during the TLS handshake; write the agent's https port into address, usually 8501`},
		{"resets", "https://" + strange(t, "RST"), only, KindTLS,
			`it closed the connection during the TLS handshake; write the agent's https port into address, usually 8501`},
		{"is no TLS", "https://" + strange(t, "SSH-2.0-OpenSSH_9.2\r\n"), only, KindTLS,
			`it does not answer in TLS; write the agent's https port into address, usually 8501`},
		{"is gRPC", "https://" + strange(t, "\x00\x00\x0c\x04\x00\x00\x00\x00\x00"), only, KindTLS,
			`it does not answer in TLS; write the agent's https port into address, usually 8501`},
		{"is silent", "https://" + strange(t, "wait"), Config{Timeout: 200 * time.Millisecond}, KindTimeout,
			`it did not end the TLS handshake in time`},
		{"http to gRPC", "http://" + strange(t, "\x00\x00\x0c\x04\x00\x00\x00\x00\x00"), Config{}, KindUnreachable,
			`it answers in HTTP/2, as Consul's gRPC ports do; write the port of the agent's HTTP API into address, usually 8500, or 8501 for https`},
		{"answers http with an alert", "http://" + strange(t, "\x15\x03\x01\x00\x02\x02\x46"), Config{}, KindTLS,
			`it answers in TLS only; write https:// in address (CONSUL_HTTP_ADDR)`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cfg.Token, tt.cfg.Address = secret, tt.address
			_, err := newClient(t, tt.cfg).Services(t.Context())
			checkError(t, err, tt.kind, "")
			if err == nil {
				return
			}
			got := strings.ReplaceAll(err.Error(), dir.path, "DIR")
			if tt.cfg.CAPath != "" {
				got = strings.ReplaceAll(got, tt.cfg.CAPath, "DIR")
			}
			want := fmt.Sprintf("cannot ask for /v1/agent/services at the Consul agent %s: %s", tt.address, tt.text)
			// The message quotes what is not printable once more.
			if got = strings.ReplaceAll(got, `\\`, `\`); got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
		})
	}
}

// serverHello11 is an answer that goes on with TLS 1.1.
var serverHello11 = "\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02" + strings.Repeat("r", 32) + "\x00\xc0\x13\x00"

// strange listens and answers every connection with the given bytes, and then closes it: "RST" resets it, and "wait" says
// nothing.
func strange(t *testing.T, answer string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				conn.Read(make([]byte, 4096))
				if answer == "RST" {
					conn.(*net.TCPConn).SetLinger(0)
					return
				}
				if answer != "wait" {
					io.WriteString(conn, answer)
					conn.(*net.TCPConn).CloseWrite()
				}
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return l.Addr().String()
}

// With TLS 1.3 the refusal comes when the request is on its way, in any order of what each side does.
func TestRefusalIsAlwaysSeen(t *testing.T) {
	ca := authority(t, "Agent CA")
	srv := serveTLS(t, &tls.Config{
		Certificates: []tls.Certificate{ca.server(t).pair()}, ClientAuth: tls.RequireAnyClientCert,
	}, http.NotFoundHandler())
	c := newClient(t, Config{Address: srv.URL, CAFile: newFolder(t).file("ca.pem", ca.cert), Token: secret})
	for range 200 {
		_, err := c.Services(t.Context())
		checkError(t, err, KindTLS, "it demands a client certificate signed by a CA that the agent knows; name one")
		if t.Failed() {
			return
		}
	}
}

// What speaks first is no HTTP server; net/http must not tell of it in the program's log.
func TestSpeaksFirst(t *testing.T) {
	var logged bytes.Buffer
	log.SetOutput(&logged)
	defer log.SetOutput(os.Stderr)
	ca := authority(t, "Agent CA")
	config := &tls.Config{Certificates: []tls.Certificate{ca.server(t).pair()}}
	cfg := Config{Token: secret, CAFile: newFolder(t).file("ca.pem", ca.cert)}
	const asked = `malformed HTTP response "SSH-2.0-\x1b[2J"` // by then
	for banner, want := range map[string]string{
		"\x00\x00\x0c\x04\x00\x00\r\n": "it answers in HTTP/2, as Consul's gRPC ports do; write the port",
		"SSH-2.0-\x1b[2J\r\n":          `malformed HTTP response "SSH-2.0-\x1b[2J\r\n" before anything was asked; is the agent running`,
	} {
		for _, scheme := range []string{"http", "https"} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Address = scheme + "://" + l.Addr().String(); scheme == "https" {
				l = tls.NewListener(l, config)
			}
			go func() {
				for {
					conn, err := l.Accept()
					if err != nil {
						return
					}
					io.WriteString(conn, banner)
					defer conn.Close() // with the listener: what is said must arrive
				}
			}()
			c := newClient(t, cfg)
			for range 20 {
				_, err := c.Services(t.Context())
				checkError(t, err, KindUnreachable, "")
				if got := err.Error(); !strings.Contains(got, want) && !strings.Contains(got, asked) {
					t.Errorf("%s: got %s", scheme, got)
				}
			}
			l.Close()
		}
	}
	if logged.Len() > 0 {
		t.Errorf("logged:\n%s", &logged)
	}
}

func TestPortHints(t *testing.T) {
	for address, want := range map[string]string{
		"https://127.0.0.1:8600": "; port 8600 is where Consul answers DNS", "127.0.0.1:8503": "; port 8503 is where Consul serves gRPC over TLS",
		"http://[::1]:8300/prefix": "; port 8300 is where servers talk to each other", "http://127.0.0.1:8500": "", "https://localhost": "",
		"unix:///8600": "", "": "",
	} {
		if got := portHint(address); got != want {
			t.Errorf("%q: got %q, want %q", address, got, want)
		}
	}
}

func TestUnixSocketErrors(t *testing.T) {
	dir := newFolder(t)
	stale := filepath.Join(dir.path, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for path, want := range map[string]string{
		stale:                           "connect: connection refused; nobody accepts there, so the agent is not running and left it behind: start the agent",
		dir.file("file"):                "connect: connection refused; nobody accepts there",
		filepath.Join(dir.path, "none"): "connect: no such file or directory; is the agent running, and is that path in addresses { http } of its configuration?",
		filepath.Join(dir.path, "none", "a.sock"): "connect: no such file or directory; is the agent running",
	} {
		_, err := newClient(t, Config{Address: "unix://" + path, Token: secret}).Services(t.Context())
		checkError(t, err, KindUnreachable, "dial unix "+path+": "+want)
	}
	if got := socketRemedy(&os.SyscallError{Syscall: "connect", Err: syscall.EACCES}); !strings.Contains(got, "unix_sockets { group, mode }") {
		t.Errorf("permission denied: %q", got)
	}
	_, err = New(Config{Address: "unix:///" + strings.Repeat("x", 107)})
	if err == nil || !strings.Contains(err.Error(), "has at most 107 bytes") {
		t.Errorf("long path: %v", err)
	}
}
