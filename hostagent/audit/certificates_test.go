// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul"
)

const brokenPEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"

// readOf reads what the agent of an Input names.
func readOf(in Input, service bool) Seen[[]Certificate] {
	l := looking{in: &in, from: Sources{Service: service}}
	return l.readCertificates()
}

// TestReadCertificatesHostile: where its certificates are the agent says, and who speaks for it may say anything.
func TestReadCertificatesHostile(t *testing.T) {
	ca := issueCA(t, "agents", nil, days(1000), nil)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, mode := range map[string]os.FileMode{"private.pem": 0o640, "public.pem": 0o644} {
		if err := os.WriteFile(at(name), []byte(ca.pem()), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(at(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"kcore": "/proc/kcore", "kmsg": "/proc/kmsg", "zero": "/dev/zero", "self": "/proc/self/environ",
		"loop": at("loop")} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(at("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("huge"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range mostAuthorityFiles + 1 {
		if err := os.WriteFile(filepath.Join(at("huge"), fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const notRegular, kernels = "it is no regular file", "it is a file of the kernel's"
	for _, test := range []struct {
		name    string
		folder  bool
		service bool
		want    string // a Problem
	}{
		{"private.pem", false, true, notPublic},
		{"private.pem", false, false, ""},
		{"public.pem", false, true, ""},
		{"kmsg", false, false, kernels},
		{"self", false, false, kernels},
		{"zero", false, false, notRegular},
		{"fifo", false, true, notRegular},
		{"fifo", true, false, "not a directory"},
		{"zero", true, false, "not a directory"},
		{"huge", false, false, notRegular},
		{"huge", true, false, "it holds more than 100 files"},
		{"loop", false, false, "too many levels of symbolic links"},
		{"loop", true, false, "too many levels of symbolic links"},
	} {
		in := tlsInput(true, func(r *consul.Running) {
			r.RPC.CAFile, r.RPC.CertFile = new(at(test.name)), new("")
			if test.folder {
				r.RPC.CAFile, r.RPC.CAPath = new(""), r.RPC.CAFile
			}
		})
		got := readOf(in, test.service)
		if len(got.Value) != 1 || got.Value[0].Problem != test.want || (test.want == "") != (got.Value[0].X509 != nil) {
			t.Errorf("%s, folder %t, service %t: %+v", test.name, test.folder, test.service, got)
		}
	}
	if _, err := os.Lstat("/proc/kcore"); err == nil { // containers hide it
		in := tlsInput(true, func(r *consul.Running) { r.RPC.CAFile, r.RPC.CertFile = new(at("kcore")), new("") })
		if got := readOf(in, false).Value[0]; got.X509 != nil || got.Problem == "" {
			t.Errorf("%+v", got)
		}
	}
	t.Run("of an agent with other files", func(t *testing.T) {
		r := certificateReader{elsewhere: func(path string) bool { return path == at("public.pem") }}
		got := r.read(&named{path: at("public.pem"), ca: true}, 1)
		if len(got) != 1 || got[0].X509 != nil || got[0].Problem != notHere {
			t.Errorf("%+v", got)
		}
	})
}

// TestReadCertificates: of the files that settings name, certificates are read, each once, and nothing else.
func TestReadCertificates(t *testing.T) {
	ca := issueCA(t, "agents", nil, days(1000), nil)
	between := issueCA(t, "between", ca, days(900), nil)
	leaf := issue(t, "agent", between, days(300), nil, func(c *x509.Certificate) {
		c.DNSNames = []string{"server.dc1.consul"}
		addresses("127.0.0.1", "::1")(c)
	})
	der, err := x509.MarshalPKCS8PrivateKey(leaf.key)
	if err != nil {
		t.Fatal(err)
	}
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	both := write("both.pem", key+leaf.pem()+between.pem())
	authority := write("ca.pem", ca.pem())
	write("cas/a.pem", ca.pem())
	write("cas/b.pem", between.pem())
	write("cas/notes.txt", "none")
	if err := os.Symlink("a.pem", filepath.Join(dir, "cas", "1234.0")); err != nil {
		t.Fatal(err)
	}
	fifo := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	many := write("many.pem", strings.Repeat(leaf.pem(), 2)+strings.Repeat(ca.pem(), 200))
	own := func(use string) Certificate {
		return Certificate{
			Use: use, Path: both, Subject: "CN=agent", Names: []string{"server.dc1.consul", "127.0.0.1", "::1"},
			NotAfter: days(300), X509: leaf.x509, Chain: []*x509.Certificate{between.x509},
		}
	}
	of := func(use, path string, s *signed) Certificate {
		return Certificate{
			Use: use, Path: path, CA: true, Subject: s.x509.Subject.String(), NotAfter: s.x509.NotAfter, X509: s.x509,
		}
	}
	problem := func(path, text string) []Certificate { return []Certificate{{Use: "https", Path: path, Problem: text}} }
	authorities := func(path, text string) []Certificate {
		return []Certificate{{Use: "https", Path: path, CA: true, Problem: text}}
	}
	https := func(cert, caFile, caPath string) consul.TLS {
		return consul.TLS{CertFile: &cert, CAFile: &caFile, CAPath: &caPath}
	}
	for _, test := range []struct {
		name       string
		rpc, https consul.TLS
		want       []Certificate
	}{
		{"none", https("", "", ""), https("", "", ""), []Certificate{}},
		{"for both protocols", https(both, authority, ""), https(both, authority, ""), []Certificate{
			own("internal_rpc, https"), of("internal_rpc, https", authority, ca)}},
		{"a folder, links once", https("", "", ""), https("", "", filepath.Join(dir, "cas")), []Certificate{
			of("https", filepath.Join(dir, "cas", "1234.0"), ca), of("https", filepath.Join(dir, "cas", "b.pem"), between)}},
		{"a file stands over a folder", https("", "", ""), https("", authority, empty), []Certificate{of("https", authority, ca)}},
		{"an empty folder", https("", "", ""), https("", "", empty), authorities(empty, "no file in it holds a certificate")},
		{"no folder", https("", "", ""), https("", "", authority), authorities(authority, "not a directory")},
		{"missing", https("", "", ""), https("/nowhere/x", "", ""), problem("/nowhere/x", "no such file or directory")},
		{"relative", https("", "", ""), https("x.pem", "", ""), problem("x.pem", notAgentsFolder)},
		{"a FIFO", https("", "", ""), https(fifo, "", ""), problem(fifo, "it is no regular file")},
		{"a device", https("", "", ""), https("/dev/zero", "", ""), problem("/dev/zero", "it is no regular file")},
		{"a key", https("", "", ""), https(write("key.pem", key), "", ""), problem(filepath.Join(dir, "key.pem"),
			noCertificateInside)},
		{"broken", https("", "", ""), https(write("bad.pem", brokenPEM), "", ""),
			problem(filepath.Join(dir, "bad.pem"), "a certificate in it cannot be read")},
		{"large", https("", "", ""), https(write("large.pem", strings.Repeat("x", maxCertificateFile+1)), "", ""),
			problem(filepath.Join(dir, "large.pem"), "it is larger than 1 MiB")},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := tlsInput(true, func(r *consul.Running) { r.RPC, r.HTTPS = test.rpc, test.https })
			got := readOf(in, false)
			if diff := cmp.Diff(Known(test.want), got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if bytes.Contains(fmt.Append(nil, got), der[:8]) {
				t.Error("there is a key in it")
			}
		})
	}
	t.Run("no more than so many", func(t *testing.T) {
		in := tlsInput(true, func(r *consul.Running) { r.RPC, r.HTTPS = https("", many, ""), https(both, "", "") })
		got := readOf(in, false).Value
		if len(got) != 3 || got[2].Problem != "" { // each of many once
			t.Errorf("%d certificates", len(got))
		}
		if chain, err := new(certificateReader).readPEM(many, mostCertificates); len(chain) != mostCertificates || err != nil {
			t.Errorf("%d certificates of a file, %v", len(chain), err)
		}
		file := named{path: both, uses: []string{"https"}}
		here := certificateReader{elsewhere: func(string) bool { return false }}
		if got := here.read(&file, 0); len(got) != 1 || got[0].Problem == "" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("from files of the agent", func(t *testing.T) {
		in := disk(t, fmt.Sprintf("cert_file = %q", both))
		if diff := cmp.Diff(Known([]Certificate{own("internal_rpc, https, grpc")}), readOf(in, false)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
	t.Run("nothing is known", func(t *testing.T) {
		in := Input{Running: Unseen[consul.Running]("it may not", "agent:read")}
		want := Unseen[[]Certificate]("tls.internal_rpc.cert_file: it may not", "agent:read")
		if diff := cmp.Diff(want, readOf(in, false)); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

// TestDevicesAreNotOpened: what is no file is told by a look at it, for to open a device can be enough to set it off.
func TestDevicesAreNotOpened(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, fifo, unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	if _, err := new(certificateReader).readPEM(fifo, 1); err == nil {
		t.Error("a FIFO was read")
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("it was opened: %d bytes of events, %v", n, err)
	}
}
