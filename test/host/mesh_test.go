// SPDX-License-Identifier: MPL-2.0

package host

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/consul/api"
)

func startConsul(t *testing.T, h *Host, options ConsulOptions) *Consul {
	t.Helper()
	start := time.Now()
	consul, err := h.StartConsul(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("consul ready in %v", time.Since(start).Round(time.Millisecond))
	return consul
}

// register makes web a mesh service with a sidecar on port 21000, its application on 127.0.0.1:8080.
func register(t *testing.T, consul *Consul) {
	t.Helper()
	err := consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: 8080,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func startSidecar(t *testing.T, h *Host, serviceID string) *Process {
	t.Helper()
	start := time.Now()
	sidecar, err := h.StartSidecar(t.Context(), serviceID)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("sidecar listens after %v", time.Since(start).Round(time.Millisecond))
	return sidecar
}

// hello dials through the mesh and returns the application's greeting.
func hello(t *testing.T, h *Host, client, destination, address string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	conn, err := h.MeshDial(ctx, client, destination, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return Hello(ctx, conn)
}

func TestMesh(t *testing.T) {
	h := newHost(t)
	consul := startConsul(t, h, ConsulOptions{})
	startApp(t, h, "web", "127.0.0.1:8080")
	register(t, consul)
	startSidecar(t, h, "web")

	if _, err := h.StartSidecar(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "must be free") {
		t.Errorf("a second sidecar on the same port: %v", err)
	}

	t.Run("mTLS reaches the application", func(t *testing.T) {
		got := map[string]string{}
		want := map[string]string{}
		for _, address := range []string{IPv4 + ":21000", "[" + IPv6 + "]:21000"} {
			want[address] = "hello from web"
			greeting, err := hello(t, h, "client", "web", address)
			if err != nil {
				t.Error(err)
			}
			got[address] = greeting
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("greetings (-want +got):\n%s", diff)
		}
	})
	t.Run("the plain port is closed to the network", func(t *testing.T) {
		if seen, err := h.Reachable(t.Context(), IPv4+":8080"); err != nil || seen != Refused {
			t.Errorf("got %q, %v; want %q", seen, err, Refused)
		}
	})
	t.Run("another destination's name is refused", func(t *testing.T) {
		if _, err := hello(t, h, "client", "db", IPv4+":21000"); err == nil || !strings.Contains(err.Error(), `not service "db"`) {
			t.Errorf("got %v, want a complaint of the server's name", err)
		}
	})
	t.Run("without a client certificate nothing comes", func(t *testing.T) { withoutCertificate(t, h) })
	t.Run("an intention denies", func(t *testing.T) {
		_, _, err := consul.API().ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{
			Kind: api.ServiceIntentions, Name: "web",
			Sources: []*api.SourceIntention{{Name: "client", Action: api.IntentionActionDeny}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		// The agent caches its answer to a proxy's question; the denial comes in its own time.
		eventually(t, "client is denied", func() bool { _, err := hello(t, h, "client", "web", IPv4+":21000"); return err != nil })
		if got, err := hello(t, h, "other", "web", IPv4+":21000"); err != nil || got != "hello from web" {
			t.Errorf("another client: greeting %q, %v", got, err)
		}
	})
}

// withoutCertificate proves that the sidecar answers neither plain TCP nor a TLS client that shows no certificate.
func withoutCertificate(t *testing.T, h *Host) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"plain TCP": func(conn net.Conn) net.Conn { return conn },
		"TLS":       func(conn net.Conn) net.Conn { return tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		plain, err := h.Net.Dial(ctx, "tcp", IPv4+":21000")
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		conn := wrap(plain)
		// Asking first makes the sidecar judge: a silent client could not tell a refusal from a delay.
		_, writeErr := conn.Write([]byte("are you there?\n"))
		if got, err := Hello(ctx, conn); err == nil || ctx.Err() != nil {
			t.Errorf("%s: greeting %q, %v (write: %v); want the sidecar to hang up", name, got, err, writeErr)
		}
	}
}

func TestConsulRestartKeepsItsState(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	consul := startConsul(t, h, ConsulOptions{ConfigDir: dir, Config: `connect { } ports { dns = -1 }`, NodeName: "n1"})
	if _, err := h.StartConsul(t.Context(), ConsulOptions{}); err == nil {
		t.Error("a second agent: no error")
	}
	register(t, consul)
	first := consul.PID()
	start := time.Now()
	if err := consul.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("consul restarted in %v", time.Since(start).Round(time.Millisecond))
	if consul.PID() == first || !gone(first) {
		t.Errorf("the agent is process %d, was %d", consul.PID(), first)
	}
	proxy, _, err := consul.API().Agent().Service("web-sidecar-proxy", nil)
	if err != nil || proxy.Port != 21000 {
		t.Errorf("after a restart the sidecar is %+v, %v", proxy, err)
	}
	self, err := consul.API().Agent().Self()
	if err != nil || self["Config"]["NodeName"] != "n1" {
		t.Errorf("node name %v, %v; want n1", self["Config"]["NodeName"], err)
	}

	writeFile(t, dir+"/db.hcl", `service { name = "db" port = 5432 }`)
	if err := consul.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := consul.API().Agent().Service("db", nil); err != nil {
		t.Errorf("after a reload: %v", err)
	}
}

func TestConsulSpeaksWithItsToken(t *testing.T) {
	h := newHost(t)
	const token = "7f3f0f3e-5d0e-4b6f-9c0e-3c1f5a0b9d11"
	consul := startConsul(t, h, ConsulOptions{Token: token, Config: `acl {
		enabled = true
		default_policy = "deny"
		tokens { initial_management = "` + token + `" agent = "` + token + `" }
	}`})
	startApp(t, h, "web", "127.0.0.1:8080")
	register(t, consul)
	_, _, err := consul.API().ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{
		Kind: api.ServiceIntentions, Name: "web",
		Sources: []*api.SourceIntention{{Name: "client", Action: api.IntentionActionAllow}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	startSidecar(t, h, "web")
	if got, err := hello(t, h, "client", "web", IPv4+":21000"); err != nil || got != "hello from web" {
		t.Errorf("the client that is allowed: greeting %q, %v", got, err)
	}
	if got, err := hello(t, h, "other", "web", IPv4+":21000"); err == nil {
		t.Errorf("the default is deny, yet another client is greeted: %q", got)
	}
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	h := newHost(t)
	if _, err := h.StartSidecar(t.Context(), "web"); err == nil || !strings.Contains(err.Error(), "StartConsul comes first") {
		t.Errorf("a sidecar without an agent: %v", err)
	}
	if _, err := h.StartConsul(t.Context(), ConsulOptions{Config: "nonsense = true"}); err == nil || !strings.Contains(err.Error(), "invalid config key nonsense") {
		t.Errorf("a wrong configuration: %v, want Consul's own words", err)
	}
	if _, err := h.StartApp(t.Context(), App{Name: "web", Listen: []string{"198.51.100.1:80"}}); err == nil || !strings.Contains(err.Error(), "cannot assign requested address") {
		t.Errorf("a foreign address: %v, want the application's own words", err)
	}
}

func TestHelloIsBounded(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go theirs.Write([]byte(strings.Repeat("x", helloLimit) + "\n"))
	if got, err := Hello(t.Context(), ours); err == nil {
		t.Errorf("a line of %d bytes was read", len(got))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	silent, other := net.Pipe()
	defer silent.Close()
	defer other.Close()
	if _, err := Hello(ctx, silent); err == nil {
		t.Error("Hello outlived its context")
	}
}

func TestVerifyMesh(t *testing.T) {
	name := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	const web = "spiffe://11111111.consul/ns/default/dc/dc1/svc/web"
	for _, test := range []struct {
		uris []*url.URL
		want string // empty: accepted
	}{
		{[]*url.URL{name(web)}, ""},
		{nil, "not service"},
		{[]*url.URL{name(web), name(web)}, "not service"},
		{[]*url.URL{name("https://11111111.consul/ns/default/dc/dc1/svc/web")}, "not service"},
		{[]*url.URL{name(web + "2")}, "not service"},
		{[]*url.URL{name("spiffe://11111111.consul/ns/default/dc/dc1/svc/my-web")}, "not service"},
	} {
		leaf, roots := selfSigned(t, test.uris)
		err := verifyMesh([]*x509.Certificate{leaf}, roots, "web")
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.uris, err, test.want)
		}
		if err := verifyMesh([]*x509.Certificate{leaf}, x509.NewCertPool(), "web"); err == nil {
			t.Errorf("%v: accepted without a root", test.uris)
		}
	}
	if err := verifyMesh(nil, x509.NewCertPool(), "web"); err == nil {
		t.Error("accepted without a certificate")
	}
}
