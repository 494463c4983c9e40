// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"errors"
)

// Running is what the local agent tells of the settings that it runs with. What it does not tell, because its version does
// not or because it is none of its business, is nil. DebugConfig, where most of it stands, is for humans: keys come and go
// with versions, and Consul 1.8 to 1.21 are read.
type Running struct {
	Agent
	PrimaryDatacenter string
	DevMode           *bool

	ACLsEnabled             *bool
	ACLDefaultPolicy        *string
	ACLTokenPersistence     *bool
	DefaultIntentionPolicy  *string // "" where none is set: the ACLs' default policy counts
	AutoEncrypt, AutoConfig *bool   // the agent gets its TLS settings and certificate from the servers

	// GossipEncrypted is what gossip in the datacenter really does, and GossipEncryptedWAN that between datacenters: nil on
	// clients.
	GossipEncrypted, GossipEncryptedWAN        *bool
	GossipVerifyIncoming, GossipVerifyOutgoing *bool

	RPC, HTTPS, GRPC TLS

	// HTTPAddrs and the others are where the APIs are served, as in "tcp://127.0.0.1:8500" and "unix:///run/consul.sock": nil
	// where the agent does not tell, empty where the API is off.
	HTTPAddrs, HTTPSAddrs, GRPCAddrs, GRPCTLSAddrs, DNSAddrs []string

	ConnectEnabled *bool
	CAProvider     *string // of the configuration; "" where none is named, which is "consul"

	ScriptChecks, LocalScriptChecks *bool
}

// TLS is how one of an agent's protocols uses TLS. Before Consul 1.12 one set of settings stood for all of them.
type TLS struct {
	VerifyIncoming, VerifyOutgoing, VerifyServerHostname *bool
	CAFile, CAPath, CertFile                             *string // "" where none is set
}

// Running asks the local agent what it runs with; the token needs agent:read on this node.
func (c *Client) Running(context.Context) (Running, error) {
	return Running{}, errors.ErrUnsupported
}

// Right is something that a token may be allowed to do, in the words of Consul's ACL rules.
type Right struct {
	Resource string // "service", "intention", "acl", "operator", "keyring", …
	Segment  string // the name it is about; "" for resources that have none
	Access   string // "read", "write", "list"
}

// Authorize asks the agent which of the rights the client's token has, or nobody's with anonymous: nothing is tried. The
// answer has the order of the question. No right is needed. With ACLs disabled the error is of KindACLsOff.
func (c *Client) Authorize(_ context.Context, _ bool, _ ...Right) ([]bool, error) {
	return nil, errors.ErrUnsupported
}

// KindACLsOff is the kind of an error that says that ACLs are disabled.
const KindACLsOff Kind = "acls-off"

// Tokens are the ACL tokens of the datacenter and what they allow.
type Tokens struct {
	Tokens []Token
	// SecretsSeen tells that Hash is known: that takes acl:write.
	SecretsSeen bool
}

// Token is one ACL token.
type Token struct {
	AccessorID  string
	Description string
	Hash        TokenHash // zero where the secret was not told
	Expired     bool
	Rules       []Rule // of all its policies, roles and identities
	// Management tells that it may do everything: it has the built-in policy global-management, or acl:write.
	Management bool
	// Policies are the names of what the rules come from, for people: "policy web", "role deploy", "service identity web".
	Sources []string
	// Unread names the sources whose rules are not known, each with the reason in brackets. Where any stands here, the token
	// may be allowed more than Rules tells, and nothing follows from what Rules lacks.
	Unread []string
}

// Rule is one rule of a token. Prefix tells that Name is a prefix.
type Rule struct {
	Resource string // "service", "intentions" for the intentions of a service, "acl", "operator", …
	Name     string
	Prefix   bool
	Access   string // "read", "write", "deny", "list"
	Source   string // one of Token.Sources
}

// Tokens reads the datacenter's tokens and what they allow; the token needs acl:read. Secrets become hashes at once.
func (c *Client) Tokens(context.Context) (Tokens, error) { return Tokens{}, errors.ErrUnsupported }

// Keyring are the gossip keys of one ring: a datacenter's, or that between datacenters.
type Keyring struct {
	Datacenter string
	WAN        bool
	Nodes      int // that answered
	Keys       []GossipKey
	Problem    string // nodes that did not answer, as Consul tells; "" for none
}

// GossipKey is one key of a ring.
type GossipKey struct {
	Hash    TokenHash // tells whether two rings use the same key
	Bytes   int       // length
	Nodes   int       // that have it
	Primary int       // nodes that send with it
}

// Keyrings asks for the gossip keys of all datacenters; the token needs keyring:read. Keys become hashes at once. Without
// encryption there is none and no error.
func (c *Client) Keyrings(context.Context) ([]Keyring, error) { return nil, errors.ErrUnsupported }

// Authority is the certificate authority of the mesh.
type Authority struct {
	TrustDomain string
	Roots       []Root
}

// Root is one root certificate of the mesh.
type Root struct {
	ID     string
	Name   string // names the provider: "Consul CA Primary Cert", "Vault CA Primary Cert", …
	Active bool
	PEM    string
	// Intermediates are certificates between the root and the leaves of this datacenter, as PEM texts.
	Intermediates       []string
	ExternalTrustDomain string
}

// Authority asks for the certificate authority of the mesh. No right is needed; an agent whose datacenter does without the
// mesh says so with status 500, which is an error of KindMeshOff.
func (c *Client) Authority(context.Context) (Authority, error) {
	return Authority{}, errors.ErrUnsupported
}

// KindMeshOff is the kind of an error that says that the datacenter does without the service mesh.
const KindMeshOff Kind = "mesh-off"

// CAConfig is how the certificate authority of the mesh is configured.
type CAConfig struct {
	Provider string // "consul", "vault", "aws-pca", …
	// LeafTTL, IntermediateTTL and RootTTL are durations as Consul writes them: "72h"; "" where not told.
	LeafTTL, IntermediateTTL, RootTTL string
	// OwnKey and OwnRoot tell that the operator gave the built-in provider its key or root certificate.
	OwnKey, OwnRoot bool
}

// CAConfig asks how the certificate authority of the mesh is configured; the token needs operator:read on newer versions and
// operator:write on others. Keys in the answer are dropped at once.
func (c *Client) CAConfig(context.Context) (CAConfig, error) {
	return CAConfig{}, errors.ErrUnsupported
}

// Intention is a rule about who may call whom.
type Intention struct {
	Source, Destination string // "*" for all
	Allow               bool   // false: it denies, or decides by request with HTTP
	ByRequest           bool   // permissions for HTTP requests decide
}

// Intentions asks for the intentions of the datacenter. The token sees those of services on which it has intentions:read;
// whether it sees all is not told, so that who asks finds out with Authorize.
func (c *Client) Intentions(context.Context) ([]Intention, error) {
	return nil, errors.ErrUnsupported
}

// Server is one of the datacenter's servers, as the members of the local agent's gossip tell.
type Server struct {
	Name    string
	Address string // host:port of its RPC
}

// Servers lists the datacenter's servers; the token needs node:read on each.
func (c *Client) Servers(context.Context) ([]Server, error) { return nil, errors.ErrUnsupported }

// TokenHash stands for a secret that is not kept: two are equal where the secrets are. It is made with a key of this
// process, so that it is worth nothing elsewhere. The zero value is no secret's.
type TokenHash [32]byte
