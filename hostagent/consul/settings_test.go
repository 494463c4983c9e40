// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seen is what reaches the agent of a client's settings.
type seen struct {
	Token, Auth, Query string
	Path               string
}

// spy answers like an agent without services and keeps what it was asked.
func spy(t *testing.T) (url string, requests *[]seen) {
	t.Helper()
	requests = new([]seen)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests = append(*requests, seen{r.Header.Get("X-Consul-Token"), r.Header.Get("Authorization"), r.URL.RawQuery, r.URL.Path})
		reply(200, `{}`, allow)(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, requests
}

// api.NewClient would take what a Config leaves empty from the environment.
func TestEnvironmentIsNotLookedAt(t *testing.T) {
	url, got := spy(t)
	for name, value := range map[string]string{
		"CONSUL_HTTP_ADDR": "127.0.0.1:1", "CONSUL_HTTP_TOKEN": secret, "CONSUL_HTTP_TOKEN_FILE": "/nonexistent",
		"CONSUL_HTTP_AUTH": "user:" + secret, "CONSUL_HTTP_SSL": "true", "CONSUL_HTTP_SSL_VERIFY": "false",
		"CONSUL_CACERT": "/nonexistent", "CONSUL_CAPATH": "/nonexistent", "CONSUL_CLIENT_CERT": "/nonexistent",
		"CONSUL_CLIENT_KEY": "/nonexistent", "CONSUL_TLS_SERVER_NAME": "elsewhere",
		"CONSUL_NAMESPACE": "elsewhere", "CONSUL_PARTITION": "elsewhere",
		"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1",
	} {
		t.Setenv(name, value)
	}
	for _, cfg := range []Config{
		{Address: url},
		{Address: url, Token: "mine", Namespace: "shop", Partition: "east"},
	} {
		c := newClient(t, cfg)
		if _, err := c.Services(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.api.Agent().ServiceDeregisterOpts("hostagent", opts(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	want := []seen{
		{Path: "/v1/agent/services"},
		{Path: "/v1/agent/service/deregister/hostagent"},
		{Path: "/v1/agent/services", Token: "mine", Query: "ns=shop&partition=east"},
		{Path: "/v1/agent/service/deregister/hostagent", Token: "mine", Query: "ns=shop&partition=east"},
	}
	if diff := cmp.Diff(want, *got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	defer srv.Close()
	_, err := newClient(t, Config{Address: srv.URL}).Services(t.Context())
	checkError(t, err, KindTLS, "which this host does not trust") // CONSUL_HTTP_SSL_VERIFY=false is not ours
	if got := newClient(t, Config{}).Address(); got != "http://127.0.0.1:8500" {
		t.Errorf("default address %q", got)
	}
}

func TestAddress(t *testing.T) {
	url, got := spy(t)
	host := strings.TrimPrefix(url, "http://")
	for _, address := range []string{host, url, url + "/", url + "/consul", url + "/consul/"} {
		if _, err := newClient(t, Config{Address: address}).Services(t.Context()); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	plain, prefixed := seen{Path: "/v1/agent/services"}, seen{Path: "/consul/v1/agent/services"}
	if diff := cmp.Diff([]seen{plain, plain, plain, prefixed, prefixed}, *got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	for address, want := range map[string]string{
		"ftp://127.0.0.1":               "the scheme must be http, https or unix",
		"http://":                       "names no host",
		":8500":                         "names no host",
		"unix://run/consul.sock":        "absolute path",
		"http://host:port":              "write it as in http://127.0.0.1:8500",
		"http://127.0.0.1:8500\x1b[2J":  "write it as in",
		"http://u:" + secret + "@host":  "write it as in",
		"http://u:" + secret + "@ho st": "write it as in",
		"http://host?token=" + secret:   "write it as in",
	} {
		_, err := New(Config{Address: address})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("%q: got %v, want %q", address, err, want)
		}
	}
}

func TestToken(t *testing.T) {
	for _, bad := range []string{"two tokens", "line\n", "esc\x1b"} {
		_, err := New(Config{Token: bad + secret})
		checkError(t, err, KindToken, "not shown")
	}
	if _, err := New(Config{TokenFile: filepath.Join(t.TempDir(), "none")}); KindOf(err) != KindToken {
		t.Errorf("missing token file at the start: %v", err)
	}
}

// The file counts as it is at each request; what is wrong with it never sends a request, and never an older token.
func TestTokenFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(secret + "\n")
	url, got := spy(t)
	c := newClient(t, Config{Address: url, Token: "lower", TokenFile: path})
	rotated := strings.Replace(secret, "6ba7", "7ba6", 1) // of the same length, within the same clock tick
	for _, tt := range []struct {
		name   string
		change func()
		token  string // empty: an error
		text   string
	}{
		{"as written", func() {}, secret, ""},
		{"rotated in place", func() { write(rotated) }, rotated, ""},
		{"rotated by rename", func() { os.Rename(path, path+".old"); write(secret) }, secret, ""}, //nolint:errcheck // seen below
		{"empty", func() { write(" \n") }, "", "must hold one token"},
		{"mended", func() { write(secret) }, secret, ""},
		{"two tokens", func() { write(secret + "\n" + rotated) }, "", "must hold one token"},
		{"control characters", func() { write(secret + "\x00") }, "", "must hold one token"},
		{"too big", func() { write(strings.Repeat("x", maxTokenFile+1)) }, "", "no regular file of at most 4096 bytes"},
		{"removed", func() { os.Remove(path) }, "", "no such file or directory; hostagent must be able to read token_file"},
		{"a folder", func() { os.Mkdir(path, 0o700) }, "", "no regular file"},                      //nolint:errcheck // seen below
		{"a FIFO", func() { os.Remove(path); syscall.Mkfifo(path, 0o600) }, "", "no regular file"}, //nolint:errcheck // seen below
		{"back", func() { os.Remove(path); write("\t" + rotated + "\r\n") }, rotated, ""},          //nolint:errcheck // seen below
	} {
		tt.change()
		*got = nil
		_, err := c.Services(t.Context())
		if tt.token == "" {
			checkError(t, err, KindToken, tt.text)
			if len(*got) != 0 {
				t.Errorf("%s: sent %v", tt.name, *got)
			}
			continue
		}
		if diff := cmp.Diff([]seen{{Token: tt.token, Path: "/v1/agent/services"}}, *got); err != nil || diff != "" {
			t.Errorf("%s: %v, requests (-want +got):\n%s", tt.name, err, diff)
		}
	}
}

// A URL has a zone's percent sign escaped, and a dialler does not.
func TestZoneOfAnAddress(t *testing.T) {
	_, err := newClient(t, Config{Address: "http://[fe80::1%25lo]:1", Token: secret}).Services(t.Context())
	checkError(t, err, KindUnreachable, "dial tcp [fe80::1%lo]:1: ")
}
