// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/hostagent/hostagent/test/host"
)

const apiAddress = "127.0.0.1:8500"

// node is a Consul agent in a namespace, with folders of its own.
type node struct {
	t         *testing.T
	ctx       context.Context //nolint:containedctx // it lives for one test
	kit       *kit
	host      *host.Host
	namespace *host.Namespace
	ip        string
	dir       string

	process *host.Process // the agent; nil while none runs
	http    *http.Client
}

// newNode makes the folders of an agent: the configuration is root's and its group reads it, the data is the agent's alone.
func newNode(t *testing.T, k *kit, h *host.Host, namespace *host.Namespace, ip, dir string) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	n := &node{t: t, ctx: ctx, kit: k, host: h, namespace: namespace, ip: ip, dir: dir}
	n.http = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return namespace.Dial(ctx, network, address)
		},
		DisableKeepAlives: true, // an agent that was restarted would meet connections of the one before
	}}
	n.folder("", 0o711, 0) // the agent's user passes through
	n.folder("consul.d", 0o750, 0)
	n.folder("tls", 0o750, 0)
	n.folder("data", 0o700, consulUID)
	n.copyKey(serverCertificate)
	n.must(n.install(n.kit.path("tls/"+authority), n.path("tls/ca.pem"), 0o644, 0))
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) folder(name string, mode fs.FileMode, uid int) {
	n.t.Helper()
	n.must(errors.Join(os.MkdirAll(n.path(name), 0o700), os.Chown(n.path(name), uid, consulUID), os.Chmod(n.path(name), mode)))
}

// install copies a file.
func (n *node) install(from, to string, mode fs.FileMode, uid int) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, text, 0o600), os.Chown(to, uid, consulUID), os.Chmod(to, mode))
}

// copyKey gives the agent one of the kit's certificates.
func (n *node) copyKey(certificate string) {
	n.t.Helper()
	n.must(errors.Join(
		n.install(n.kit.path("tls/"+certificate+".pem"), n.path("tls/cert.pem"), 0o640, 0),
		n.install(n.kit.path("tls/"+certificate+"-key.pem"), n.path("tls/key.pem"), 0o600, consulUID)))
}

// write writes a file of the agent's configuration.
func (n *node) write(name, text string) {
	n.t.Helper()
	path := n.path("consul.d/" + name)
	n.must(errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chown(path, 0, consulUID), os.Chmod(path, 0o640)))
}

// hardened is the configuration of an agent as the guide wants it.
func (n *node) hardened() string {
	return fmt.Sprintf(`node_name = "host"
data_dir = %q
bind_addr = %q
client_addr = "127.0.0.1"
encrypt = %q
encrypt_verify_incoming = true
encrypt_verify_outgoing = true
default_intention_policy = "deny"
disable_update_check = true
acl {
  enabled = true
  default_policy = "deny"
  enable_token_persistence = true
  token_ttl = "0s"
  policy_ttl = "0s"
}
ports {
  https = 8501
}
tls {
  defaults {
    ca_file = %q
    cert_file = %q
    key_file = %q
    verify_incoming = true
    verify_outgoing = true
  }
  internal_rpc {
    verify_server_hostname = true
  }
}
`, n.path("data"), n.ip, n.kit.gossip, n.path("tls/ca.pem"), n.path("tls/cert.pem"), n.path("tls/key.pem"))
}

// withTokens is a file of the configuration that holds a token.
func (n *node) withTokens() string {
	return fmt.Sprintf("acl {\n  tokens {\n    dns = %q\n  }\n}\n", n.kit.dns.secret)
}

// asServer is what makes an agent a server that is a datacenter by itself.
const asServer = `server = true
bootstrap_expect = 1
connect { enabled = true }
performance { raft_multiplier = 1 }
raft_logstore { backend = "boltdb" }
`

// confinement is how the agent's process runs.
type confinement struct {
	uid       int  // rootUID for root
	privilege bool // it may gain rights: no_new_privs is off
}

// hardenedProcess is how a hardened unit starts it.
func hardenedProcess() confinement { return confinement{uid: consulUID} }

// start starts the agent and waits until it has a leader and, where the mesh is on, its CA.
func (n *node) start(c confinement) {
	n.t.Helper()
	// ProtectSystem=yes in the words of mount.
	const confine = `mount --bind /usr /usr; mount -o remount,bind,ro /usr; ulimit -c 0; exec "$@"`
	args := []string{"-m", "sh", "-ec", confine, "sh", "setpriv"}
	if c.uid != rootUID {
		args = append(args, fmt.Sprintf("--reuid=%d", c.uid), fmt.Sprintf("--regid=%d", c.uid), "--clear-groups",
			"--bounding-set=-all", "--inh-caps=-all")
	} else {
		args = append(args, "--bounding-set=-all", "--inh-caps=-all")
	}
	if !c.privilege {
		args = append(args, "--no-new-privs")
	}
	args = append(args, n.kit.path("consul"), "agent", "-config-dir", n.path("consul.d"))
	process, err := n.host.Start("consul", n.namespace.Command(context.Background(), "unshare", args...))
	n.must(err)
	host.ShowLog(n.t, process)
	n.process = process
	n.until("the agent has a leader", n.ready)
}

func (n *node) ready() error {
	select {
	case <-n.process.Done():
		n.t.Fatalf("the agent ended:\n%s", n.process.Log())
	default:
	}
	leader, err := n.client("").Status().Leader()
	if err != nil {
		return err
	}
	if leader == "" {
		return errors.New("no leader")
	}
	_, _, err = n.client("").Agent().ConnectCARoots(nil)
	if err != nil && !strings.Contains(err.Error(), "Connect must be enabled") {
		return err
	}
	return nil
}

func (n *node) stop() {
	n.t.Helper()
	n.must(n.process.Stop())
}

// until waits for a condition, for half a minute.
func (n *node) until(what string, condition func() error) {
	n.t.Helper()
	n.within(30*time.Second, what, condition)
}

// within waits for a condition, with a deadline.
func (n *node) within(longest time.Duration, what string, condition func() error) {
	n.t.Helper()
	deadline := time.Now().Add(longest)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			n.t.Fatalf("waited in vain until %s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// client asks the agent with a token.
func (n *node) client(secret string) *api.Client {
	n.t.Helper()
	client, err := api.NewClient(&api.Config{Address: apiAddress, Scheme: "http", HttpClient: n.http, Token: secret})
	n.must(err)
	return client
}

func (n *node) manager() *api.Client { return n.client(n.kit.management.secret) }

// bootstrap makes the datacenter's first token.
func (n *node) bootstrap() token {
	n.t.Helper()
	var made *api.ACLToken
	n.until("ACLs are bootstrapped", func() (err error) {
		made, _, err = n.client("").ACL().Bootstrap()
		return err
	})
	return n.known("the management token", made)
}

func (n *node) known(what string, made *api.ACLToken) token {
	n.kit.secrets.addUUID(what, made.SecretID)
	return token{made.AccessorID, made.SecretID}
}

// tokenWith makes a token with an identity or, where services is empty, with a policy of rules.
func (n *node) tokenWith(name, rules string, services ...string) token {
	n.t.Helper()
	wanted := &api.ACLToken{Description: name}
	for _, service := range services {
		wanted.ServiceIdentities = append(wanted.ServiceIdentities, &api.ACLServiceIdentity{ServiceName: service})
	}
	if rules != "" {
		policy, _, err := n.manager().ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
		n.must(err)
		wanted.Policies = []*api.ACLTokenPolicyLink{{ID: policy.ID}}
	}
	made, _, err := n.manager().ACL().TokenCreate(wanted, nil)
	n.must(err)
	return n.known("the token "+name, made)
}

// register registers a service with its sidecar, and the token of both. change changes the registration; nil for nothing.
func (n *node) register(t token, id, name string, port, sidecar int, change func(*api.AgentServiceRegistration)) {
	n.t.Helper()
	service := &api.AgentServiceRegistration{
		ID: id, Name: name, Port: port,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: sidecar}},
	}
	if change != nil {
		change(service)
	}
	n.must(n.client(t.secret).Agent().ServiceRegister(service))
}

// copyTree copies a folder with its owners.
func copyTree(ctx context.Context, from, to string) error {
	out, err := exec.CommandContext(ctx, "cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w\n%s", from, err, out)
	}
	return nil
}
