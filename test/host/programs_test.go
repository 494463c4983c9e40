// SPDX-License-Identifier: MPL-2.0

package host

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"io"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/netns"
)

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// selfSigned makes a server certificate with the given URIs, and the pool that trusts it.
func selfSigned(t *testing.T, uris []*url.URL) (*x509.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: uris,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return certificate, roots
}

func TestConsulBinaryPrefersWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "consul"), "#!/bin/sh\n")
	writeFile(t, filepath.Join(dir, "other"), "#!/bin/sh\n")
	cache := filepath.Join(dir, "cache")
	cached := filepath.Join(cache, "hostagent", "consul-"+consulVersion)
	if err := os.MkdirAll(filepath.Dir(cached), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, cached, "#!/bin/sh\n")
	t.Setenv("XDG_CACHE_HOME", cache)
	for _, test := range []struct{ env, path, want string }{
		{filepath.Join(dir, "other"), dir, filepath.Join(dir, "other")},
		{"", dir, filepath.Join(dir, "consul")},
		{"", "/nonexistent", cached},
		{filepath.Join(dir, "nonexistent"), dir, ""},
	} {
		t.Setenv(consulEnv, test.env)
		t.Setenv("PATH", test.path)
		got, err := ConsulBinary(t.Context(), io.Discard)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%s=%q PATH=%q: %q, %v; want %q", consulEnv, test.env, test.path, got, err, test.want)
		}
	}
}

// A build that another test binary has begun is waited for, not done twice.
func TestConsulBinaryWaitsForAnotherBuild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "consul")
	other, err := tryLock(path + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := buildConsul(ctx, io.Discard, path); err == nil {
		t.Error("built while another held the lock")
	}
	done := make(chan error, 1)
	go func() { done <- buildConsul(context.Background(), io.Discard, path) }()
	writeFile(t, path, "built by the other")
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "built by the other" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestRunShowing(t *testing.T) {
	var progress bytes.Buffer
	err := runShowing(exec.Command("sh", "-c", "sleep 0.2"), &progress, "waiting", 10*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(progress.String(), "waiting: 0s\n"); lines < 2 || !strings.HasSuffix(progress.String(), "waiting: done after 0s\n") {
		t.Errorf("progress:\n%s", progress.String())
	}
	err = runShowing(exec.Command("sh", "-c", "echo wrong >&2; exit 1"), io.Discard, "failing", time.Minute)
	if err == nil || !strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v, want what the program said", err)
	}
}

func TestPrepareTakesTheOperatorsConsulAway(t *testing.T) {
	consul, err := ConsulBinary(t.Context(), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(consulEnv, consul)
	t.Setenv(binariesEnv, os.Getenv(binariesEnv))
	t.Setenv("CONSUL_HTTP_TOKEN", "secret")
	t.Setenv("CONSUL_HTTP_ADDR", "https://production:8501")
	if err := Prepare(t.Context(), io.Discard, AppProgram); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CONSUL_HTTP_TOKEN", "CONSUL_HTTP_ADDR"} {
		if value, set := os.LookupEnv(name); set {
			t.Errorf("%s is still %q", name, value)
		}
	}
	if got := os.Getenv(consulEnv); got != consul {
		t.Errorf("%s is %q, want %q", consulEnv, got, consul)
	}
	if err := Prepare(t.Context(), io.Discard, "nonexistent"); err == nil {
		t.Error("a program that does not exist: no error")
	}
}

func TestModuleRoot(t *testing.T) {
	top := t.TempDir()
	deep := filepath.Join(top, "test", "consul")
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(deep)
	if got, err := moduleRoot(); err == nil {
		t.Errorf("no module: %q without an error", got)
	}
	writeFile(t, filepath.Join(top, "go.mod"), "// ours\nmodule "+module+"\n")
	writeFile(t, filepath.Join(deep, "go.mod"), "module "+module+"/test/consul\n")
	if got, err := moduleRoot(); err != nil || got != top {
		t.Errorf("got %q, %v; want %q", got, err, top)
	}
}

// The name of the cached binary must follow the version that is built.
func TestConsulVersionIsTheModules(t *testing.T) {
	text, err := os.ReadFile("../consul/go.mod")
	if err != nil {
		// A binary that was carried elsewhere for an ordinary user; it is named at the end.
		netns.RequireRoot(t, "reads the checkout, which is not here")
		t.Fatalf("%v (run in the folder of the package)", err)
	}
	required := regexp.MustCompile(`(?m)^\s*` + consulPackage + ` v(\S+)`).FindSubmatch(text)
	if required == nil || string(required[1]) != consulVersion {
		t.Errorf("test/consul/go.mod requires %q, want %q", required, consulVersion)
	}
}
