// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
	"github.com/hostagent/hostagent/test/netns"
)

// Users of these tests. The agent's has a name, in an /etc/passwd that only these tests see.
const (
	consulUID = 8300
	nobodyUID = 65534
	rootUID   = -1 // so that the zero value is nobody's
)

// base is where everything lives: on the tmpfs that the tests have for /run, where every user gets through and Raft's writes
// cost nothing.
const base = "/run/audit"

// kit is what all hosts share: programs where every user may run them, certificates and keys as Consul's own commands make
// them, and a hardened server that was bootstrapped and stopped.
type kit struct {
	secrets *secrets
	gossip  string // the gossip key

	template                       string // the folder of the stopped server
	management, web, db, hostagent token
	agent, dns                     token  // the agent's own
	policy                         string // of hostagent's token, as `hostagent acl-policy` prints it
}

// token is an ACL token.
type token struct{ accessor, secret string }

var kits struct {
	once sync.Once
	kit  *kit
}

// kitFor makes the kit in the first test that asks.
func kitFor(t *testing.T) *kit {
	t.Helper()
	netns.RequireRoot(t, "the agent runs as a user of its own")
	kits.once.Do(func() {
		k := &kit{secrets: &secrets{}}
		if err := k.furnish(t.Context()); err != nil {
			t.Error(err)
			return
		}
		k.makeTemplate(t)
		kits.kit = k
	})
	if kits.kit == nil {
		t.Fatal("the first test could not make the server that all start from")
	}
	return kits.kit
}

// furnish puts programs, users and certificates into their places.
func (k *kit) furnish(ctx context.Context) error {
	if err := errors.Join(os.MkdirAll(k.path("tls"), 0o755), namedUser()); err != nil {
		return err
	}
	binary, err := host.ConsulBinary(ctx, io.Discard)
	if err != nil {
		return err
	}
	programs := map[string]string{"consul": binary}
	for _, program := range []host.Program{host.HostagentProgram, host.AppProgram} {
		if programs[string(program)], err = host.Binary(ctx, program); err != nil {
			return err
		}
	}
	for name, path := range programs {
		if err := bind(path, k.path(name)); err != nil {
			return err
		}
	}
	return k.makeKeys(ctx)
}

func (k *kit) path(name string) string { return filepath.Join(base, name) }

// bind shows a file at another place, where everybody may read it.
func bind(from, to string) error {
	return errors.Join(os.WriteFile(to, nil, 0o600), mountBind(from, to))
}

func mountBind(from, to string) error {
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("cannot show %s at %s: %w", from, to, err)
	}
	return nil
}

// namedUser gives the agent's user a name: mounts of these tests are private.
func namedUser() error {
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("consul:x:%d:%d::/nonexistent:/usr/sbin/nologin\n", consulUID, consulUID),
		"/etc/group":  fmt.Sprintf("consul:x:%d:\n", consulUID),
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var kept strings.Builder // a machine that has a user consul
		for l := range strings.Lines(string(text)) {
			if !strings.HasPrefix(l, "consul:") {
				kept.WriteString(l)
			}
		}
		own := filepath.Join(base, filepath.Base(file))
		if err := os.WriteFile(own, []byte(kept.String()+line), 0o644); err != nil { //nolint:gosec // everybody reads users
			return err
		}
		if err := mountBind(own, file); err != nil {
			return err
		}
	}
	return nil
}

// makeKeys has Consul make what its guide has operators make.
func (k *kit) makeKeys(ctx context.Context) error {
	for _, args := range []string{
		"tls ca create", "tls cert create -server -node=host", "tls cert create -client", "tls cert create -server -days=5",
	} {
		cmd := exec.CommandContext(ctx, k.path("consul"), strings.Fields(args)...)
		cmd.Dir = k.path("tls")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot run consul %s: %w\n%s", args, err, out)
		}
	}
	key, err := exec.CommandContext(ctx, k.path("consul"), "keygen").Output()
	if err != nil {
		return err
	}
	k.gossip = strings.TrimSpace(string(key))
	k.secrets.addKey(k.gossip)
	if err := k.makeExpired(); err != nil {
		return err
	}
	keys, err := filepath.Glob(k.path("tls/*-key.pem"))
	if err != nil {
		return err
	}
	for _, path := range keys {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := k.secrets.addPEM(text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

// Certificates of the kit, by the name that Consul's commands give them.
const (
	serverCertificate  = "dc1-server-consul-0"
	soonCertificate    = "dc1-server-consul-1" // it lasts five days
	clientCertificate  = "dc1-client-consul-0"
	expiredCertificate = "expired"
	authority          = "consul-agent-ca.pem"
)

// makeExpired makes a server's certificate that has expired, which Consul's command does not.
func (k *kit) makeExpired() error {
	parent, err := tlsCertificate(k.path("tls/"+authority), k.path("tls/consul-agent-ca-key.pem"))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(k.path("tls/" + serverCertificate + "-key.pem"))
	if err != nil {
		return err
	}
	key, err := keyOf(text)
	if err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(4711), Subject: pkix.Name{CommonName: "server.dc1.consul"},
		DNSNames:  []string{"server.dc1.consul", "localhost"},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, parent.certificate, &key.PublicKey, parent.key)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(k.path("tls/expired-key.pem"), text, 0o600),
		os.WriteFile(k.path("tls/expired.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

// pair is a certificate with its key.
type pair struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func tlsCertificate(certificate, key string) (p pair, err error) {
	text, err := os.ReadFile(certificate)
	if err != nil {
		return p, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return p, fmt.Errorf("%s is no PEM", certificate)
	}
	if p.certificate, err = x509.ParseCertificate(block.Bytes); err != nil {
		return p, err
	}
	if text, err = os.ReadFile(key); err != nil {
		return p, err
	}
	p.key, err = keyOf(text)
	return p, err
}

func keyOf(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("the key is no PEM")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}
