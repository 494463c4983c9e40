// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Whatever is wrong with a file is told with its key, before anything is sent.
func TestTLSFiles(t *testing.T) {
	dir := newFolder(t)
	ca := authority(t, "Agent CA")
	mine, other := ca.client(t), ca.client(t)
	caFile, cert, key := dir.file("ca.pem", ca.cert), dir.file("cert.pem", mine.cert), dir.file("key.pem", mine.key)
	pkcs8, _ := pem.Decode(mine.key)
	encrypted := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: pkcs8.Bytes})
	legacy := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED"}, Bytes: pkcs8.Bytes})
	damaged := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: mine.leaf.Raw[:100]})
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: mine.leaf.Raw})
	mixed := newFolder(t)
	mixed.file("ca.pem", ca.cert)
	mixed.file("README", []byte("hello"))
	mixed.file(".keep")
	folder := func(name string, content ...[]byte) string {
		sub := newFolder(t)
		sub.file(name, content...)
		return sub.path
	}
	ca0 := func(name string, content ...[]byte) Config { return Config{CAFile: dir.file(name, content...)} }
	pair := func(cert, key string) Config { return Config{CertFile: cert, KeyFile: key} }
	for _, tt := range []struct {
		name string
		cfg  Config
		text string // DIR stands for the folder; empty: good
	}{
		{"all", Config{CAFile: caFile, CertFile: cert, KeyFile: key}, ""},
		{"key and certificate in one file", pair(dir.file("both.pem", mine.key, mine.cert, ca.cert), dir.path+"/both.pem"), ""},
		{"several CAs with comments", ca0("many.pem", []byte("# old\n"), ca.cert, []byte("\r\n# new\r\n"), ca.cert), ""},
		{"folder with others", Config{CAPath: mixed.path}, ""},

		{"CA missing", Config{CAFile: dir.path + "/none.pem"}, `cannot use ca_file "DIR/none.pem": no such file or directory; put the file there, or correct ca_file`},
		{"certificate missing", pair(dir.path+"/none.pem", key), `cannot use cert_file "DIR/none.pem": no such file or directory; put the file there, or correct cert_file`},
		{"key missing", pair(cert, dir.path+"/none.pem"), `cannot use key_file "DIR/none.pem": no such file or directory; put the file there, or correct key_file`},
		{"folder missing", Config{CAPath: dir.path + "/none"}, `cannot use ca_path "DIR/none": lstat DIR/none: no such file or directory`},
		{"CA is a folder", Config{CAFile: dir.path}, `cannot use ca_file "DIR": it is a folder; name it in ca_path`},
		{"key without certificate", Config{KeyFile: key}, `cannot use a client certificate without its key: set cert_file and key_file, or neither`},
		{"certificate without key", Config{CertFile: cert}, `cannot use a client certificate without its key: set cert_file and key_file, or neither`},
		{"CA empty", ca0("empty.pem", []byte("\n")), `cannot use ca_file "DIR/empty.pem": it is empty`},
		{"CA no PEM", ca0("text.pem", []byte("hello")), `cannot use ca_file "DIR/text.pem": it holds no PEM: no line in it begins with -----BEGIN`},
		{"CA DER", ca0("ca.der", ca.leaf.Raw), `cannot use ca_file "DIR/ca.der": it is no PEM but looks like DER; convert it with openssl x509 or openssl pkey, -inform der`},
		{"CA cut off", ca0("half.pem", ca.cert, ca.cert[:len(ca.cert)/2]), `cannot use ca_file "DIR/half.pem": it is no whole PEM: part of it is cut off or damaged`},
		{"CA damaged", ca0("damaged.pem", damaged), `cannot use ca_file "DIR/damaged.pem": a certificate in it cannot be read: x509: `},
		{"CA is a key", Config{CAFile: key}, `cannot use ca_file "DIR/key.pem": it holds a private key and no certificate; is that the path of key_file?`},
		{"CA is a request", ca0("request.pem", request), `cannot use ca_file "DIR/request.pem": it holds no certificate but a "CERTIFICATE REQUEST"`},
		{"folder without", Config{CAPath: folder("README", []byte("hello"))}, `: no file in it holds a PEM certificate`},
		{"folder with half a file", Config{CAPath: folder("ca.pem", ca.cert[:len(ca.cert)/2])}, `/ca.pem": it is no whole PEM: part of it is cut off or damaged`},
		{"folder with an empty file", Config{CAPath: folder("ca.pem")}, `/ca.pem": it is empty`},
		{"swapped", pair(key, cert), `cannot use cert_file "DIR/key.pem" and key_file "DIR/cert.pem": the first holds the key and the second the certificate; swap them`},
		{"two certificates", pair(cert, cert), `cannot use key_file "DIR/cert.pem": it holds no private key`},
		{"two keys", pair(key, key), `cannot use cert_file "DIR/key.pem": it holds a private key and no certificate; is that the path of key_file?`},
		{"key encrypted", pair(cert, dir.file("encrypted.pem", encrypted)), `cannot use key_file "DIR/encrypted.pem": the key in it is encrypted, and there is nobody to ask for its passphrase; decrypt it with openssl pkey`},
		{"key encrypted as of old", pair(cert, dir.file("legacy.pem", legacy)), `cannot use key_file "DIR/legacy.pem": the key in it is encrypted, and there is nobody to ask for its passphrase; decrypt it with openssl pkey`},
		{"key cut off", pair(cert, dir.file("half.key", mine.key[:len(mine.key)/2])), `cannot use key_file "DIR/half.key": it is no whole PEM: part of it is cut off or damaged`},
		{"key of another", pair(cert, dir.file("other.key", other.key)), `cannot use cert_file "DIR/cert.pem" with key_file "DIR/other.key": the key is not that of the certificate; the two must be made together`},
		{"CA before certificate", pair(dir.file("order.pem", ca.cert, mine.cert), key), `cannot use cert_file "DIR/order.pem": the certificate of key_file "DIR/key.pem" must be the first in it, before those of CAs`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(tt.cfg)
			if tt.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("accepted")
			}
			if got := strings.ReplaceAll(err.Error(), dir.path, "DIR"); !strings.Contains(got, tt.text) || KindOf(err) != "" {
				t.Errorf("\n got %s (kind %q)\nwant %s", got, KindOf(err), tt.text)
			}
			if strings.Contains(err.Error(), "PRIVATE KEY-") || strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
				t.Errorf("error holds what it must not: %q", err)
			}
		})
	}
	// Links into a folder of another name count, as Kubernetes and openssl rehash make them.
	links := newFolder(t)
	os.Mkdir(filepath.Join(links.path, "..data"), 0o700)         //nolint:errcheck // seen below
	os.Symlink(caFile, filepath.Join(links.path, "1a2b3c4d.0"))  //nolint:errcheck // seen below
	os.Symlink("..data", filepath.Join(links.path, "current"))   //nolint:errcheck // seen below
	os.Symlink("nowhere", filepath.Join(links.path, "dead.pem")) //nolint:errcheck // seen below
	links.file("crl.pem", bytes.Replace(ca.cert, []byte("CERTIFICATE"), []byte("X509 CRL"), 2))
	files, err := readTLSFiles(&Config{CAPath: links.path})
	if err != nil || len(files.ca) != 1 {
		t.Errorf("folder of links: %v, %v", files, err)
	}
}

func TestPermissionDenied(t *testing.T) {
	f := pemFile{key: "key_file", path: "/k"}
	if os.Geteuid() != 0 {
		path := newFolder(t).file("key.pem", []byte("x"))
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := readPEM("key_file", path); err == nil || !strings.Contains(err.Error(), "permission denied; let the user that hostagent runs as read it") {
			t.Errorf("got %v", err)
		}
	}
	if got := f.fault("it is empty").Error(); got != `cannot use key_file "/k": it is empty` {
		t.Error(got)
	}
}

func TestTLSWarnings(t *testing.T) {
	dir := newFolder(t)
	ca := authority(t, "Agent CA")
	mine := ca.client(t)
	caFile, cert, key := dir.file("ca.pem", ca.cert), dir.file("cert.pem", mine.cert), dir.file("key.pem", mine.key)
	open := dir.file("open.pem", mine.key)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	const https = "https://127.0.0.1:8501"
	for _, tt := range []struct {
		name string
		cfg  Config
		want []string
	}{
		{"none", Config{Address: https, CAFile: caFile, CertFile: cert, KeyFile: key}, nil},
		{"plain", Config{Address: "http://127.0.0.1:8500", InsecureSkipVerify: true}, nil},
		{"key for everybody", Config{Address: https, CAFile: caFile, CertFile: cert, KeyFile: open}, []string{
			`every user of this host can read key_file "` + open + `": take that away with chmod o= on it, and make a new key`}},
		{"plain with CA", Config{Address: "127.0.0.1:8500", CAFile: caFile, CertFile: cert, KeyFile: key, ServerName: "x"}, []string{
			`the Consul address "127.0.0.1:8500" is not https: without effect is what is set in ca_file, cert_file, key_file, tls_server_name`}},
		{"unix with CA", Config{Address: "unix:///run/consul.sock", CAPath: dir.path}, []string{
			`the Consul address "unix:///run/consul.sock" is not https: without effect is what is set in ca_path`}},
		{"unverified", Config{Address: https, InsecureSkipVerify: true}, []string{
			`any certificate of the Consul agent is accepted, so whoever answers on its address gets the token: set ca_file instead of insecure_skip_verify`}},
		{"two CAs", Config{Address: https, CAFile: caFile, CAPath: dir.path}, []string{`ca_path has no effect beside ca_file: remove one of the two`}},
	} {
		if diff := cmp.Diff(tt.want, newClient(t, tt.cfg).Warnings()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// Any bytes in any file are an error or certificates, never a panic.
func FuzzTLSFiles(f *testing.F) {
	ca := authority(f, "Agent CA")
	mine := ca.client(f)
	f.Add(ca.cert, mine.cert, mine.key)
	f.Add(ca.cert[:100], append(mine.cert, ca.cert...), []byte("-----BEGIN -----"))
	f.Add([]byte{0x30}, []byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"), []byte{0})
	f.Fuzz(func(t *testing.T, ca, cert, key []byte) {
		if len(ca) == 0 || len(cert) == 0 || len(key) == 0 {
			return // refused when they are read
		}
		files := &tlsFiles{ca: []pemFile{{"ca_file", "a", ca}}, client: []pemFile{{"cert_file", "b", cert}, {"key_file", "c", key}}}
		made, err := files.parse()
		if err != nil {
			if len(err.Error()) > 2000 {
				t.Errorf("long error: %d bytes", len(err.Error()))
			}
			return
		}
		if made.roots.Equal(x509.NewCertPool()) || made.client.Leaf == nil {
			t.Error("accepted files that hold nothing")
		}
	})
}
