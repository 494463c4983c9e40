// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// Seen is something that may not be known. The zero value is not known, and not asked for.
type Seen[T any] struct {
	Value T
	Known bool
	// Reason says why it is not known, as part of a sentence: "the token may not read it".
	Reason string
	// Needs says what would show it: `keyring = "read" in the token's policy`, "run as root".
	Needs string
}

// Known returns a Seen of a value.
func Known[T any](value T) Seen[T] { return Seen[T]{Value: value, Known: true} }

// Unseen returns a Seen of something that is not known.
func Unseen[T any](reason, needs string) Seen[T] { return Seen[T]{Reason: reason, Needs: needs} }

// unknown is the row of an item that cannot be judged without s.
func (s Seen[T]) unknown(what string) Row {
	reason := s.Reason
	if reason == "" {
		reason = "it was not asked for"
	}
	return Row{Status: Unknown, Found: []string{what + ": " + reason}, Needs: s.Needs}
}

// Input is all that Evaluate knows. Everything in it is untrusted.
type Input struct {
	Now time.Time

	Running Seen[consul.Running]    // what the local agent runs with
	Disk    Seen[*configdir.Config] // what its files say; read only

	Anonymous  Seen[Rights] // what anybody may do without a token; ReasonACLsOff where ACLs are disabled
	Tokens     Seen[consul.Tokens]
	Keyrings   Seen[[]consul.Keyring]
	Authority  Seen[consul.Authority]
	CAConfig   Seen[consul.CAConfig]
	Intentions Seen[[]consul.Intention]

	// AgentCertificates are those that the agent's settings name, each once.
	AgentCertificates Seen[[]Certificate]
	// ServerCertificates are what the datacenter's servers show on their RPC port. Never asked by the service.
	ServerCertificates Seen[[]ServerCertificate]

	// Registrations are the local agent's, or where no agent was asked those of the files.
	Registrations Seen[[]consul.Registration]
	// InstanceTokens tell with which token each registration was made, by id. Read by root only, and never by the service.
	InstanceTokens Seen[[]InstanceToken]

	Host Seen[Host]

	ConfigFiles Seen[[]File] // of the agent's configuration, folders first
	// Rewritten are configuration files that were changed after the agent was started; asked for where ConfigFiles are not known.
	Rewritten Seen[[]string]
	DataFiles Seen[[]File] // of its data directory: the folder, and what in it holds secrets
	KeyFiles  Seen[[]File] // private keys that the agent's settings name
	Process   Seen[Process]

	Notes []string
}

// Rights are what was asked of Authorize, and the answers.
type Rights struct {
	ACLsOff bool // ACLs are disabled: everything is allowed
	Rights  []consul.Right
	Allowed []bool // of Rights
}

// InstanceToken is the token of one registration.
type InstanceToken struct {
	ID, Name string // of the service or sidecar
	Sidecar  bool
	// DestinationID and DestinationName are of the service whose sidecar it is; "" where the registration does not tell.
	DestinationID, DestinationName string
	Hash                           consul.TokenHash // zero: registered without a token
	Where                          string           // the file that holds it
	// SameAs are the agent's own tokens that it is too, by their keys in configuration files: "acl.tokens.default".
	SameAs []string
	// Problem says why nothing but Where is known, and that only where it is one file; "" for none.
	Problem string
}

// Certificate is what stands in a file that the agent's settings name.
type Certificate struct {
	// Use is the protocol whose settings name it: "internal_rpc", "https", "grpc", joined with ", " where several do.
	Use      string
	Path     string
	CA       bool
	Subject  string
	Names    []string // DNS names and addresses
	NotAfter time.Time
	Problem  string              // why it cannot be judged: not readable, no certificate; "" for none
	X509     *x509.Certificate   // nil where there is a Problem; read only
	Chain    []*x509.Certificate // what stands after it in its file and leads to its CA; read only
}

// ServerCertificate is what one server shows on its RPC port.
type ServerCertificate struct {
	Server      string
	Fingerprint string // of the certificate
	Key         string // fingerprint of its public key
	Problem     string // why it is not known; "" for none
	Plain       bool   // it does no TLS on its RPC port, or has no certificate to do it with
}

// File is a file or folder that should be private.
type File struct {
	Path     string
	Mode     fs.FileMode
	UID, GID uint32
	Owner    string // user and group as text: "root:consul"; numbers where they have no name
	// Holds says what makes it secret: "tokens", "gossip key", "private key"; "" where nothing is known to.
	Holds string
	// Unread tells that what it holds could not be seen, so that Holds says nothing.
	Unread bool
	// Kept are the permission bits of group and others that are worth nothing, because a folder of the agent's above it lets
	// them not in.
	Kept fs.FileMode
	// GroupMembers are those in the group but for root and, where it is known, the agent's user, as far as the host's own
	// files of accounts tell.
	GroupMembers []string
	// Changed is when the file was last written to or otherwise changed: its ctime, which no copy brings along as it does the
	// time of the contents. Zero where it is not known.
	Changed time.Time
	Problem string
}

// Process is the running agent.
type Process struct {
	UID         uint32
	User        string
	Person      bool   // the user looks like a person's account: it can log in
	Unit        string // its systemd unit; "" for none
	NoNewPrivs  *bool
	Effective   *uint64
	Bounding    *uint64 // capabilities
	CoreLimited *bool   // core dumps are off
	ReadOnly    *bool   // /usr cannot be written to: ProtectSystem
	// Flags are the names of the flags that it was started with, but for those that name its configuration. A command line
	// holds secrets: values of flags are not kept.
	Flags   []string
	Started time.Time // when the process was started; zero where it is not known
}

// Host is what the core found on this host, as values.
type Host struct {
	// Mode is "observe" or "guard" where a service runs or is configured, "" for neither.
	Mode string
	// First and Last bound the sidecar range; 0 where the agent has none.
	First, Last uint16
	RangeOff    bool // the agent hands out no ports: sidecars have explicit ones
	// Ports are those of the range and explicit sidecars' ports, each with what the kernel does with it; nil where it could
	// not be seen.
	Ports    Seen[[]Port]
	Findings []Finding
	// Exposed are ports of Consul itself that listen on the network and that peers do not need; Peers those that they need.
	// The plain HTTP and gRPC APIs are not among them: they are findings.
	Exposed, Peers Seen[[]ConsulPort]
	Services       []Service
	// NoServices says why registrations are not known, and NoOwners what kept processes out of sight; "" where they were seen.
	// Nothing passes by the absence of a finding that hangs on them.
	NoServices, NoOwners string
	// Firewalls tells whether firewalls of the host beside hostagent's were looked at.
	Firewalls Seen[bool]
	// Ephemeral are the kernel's ports for outgoing connections, as in "32768-60999".
	Ephemeral Seen[string]
}

// Port is one port, as the kernel has it now.
type Port struct {
	Number   uint16
	InRange  bool   // of the sidecar range
	Assigned bool   // a sidecar is registered on it, or was until a moment ago
	Closed   bool   // a firewall of the host keeps the network from it
	By       string // what does: "hostagent's guard", or a rule
}

// ConsulPort is a port of Consul that listens on the network.
type ConsulPort struct {
	Name     string // "dns", "http", "serf_lan", …
	Listener string // "tcp 0.0.0.0:8600"
	Closed   bool   // a firewall keeps the network from it
}

// Finding is a finding of the core.
type Finding struct {
	ID       catalog.ID
	State    string // "open", "mitigated", "exempt"
	Firewall bool   // it is exempt because a firewall elsewhere holds the port
	Message  string
	Remedy   string
	// HeldBy is what of the host's own firewall keeps the network from the port, although the finding is open; "" for nothing.
	HeldBy string
	// Exemption is the operator's reason where State is "exempt".
	Exemption string
}

// Service is one mesh service of this host.
type Service struct {
	Name      string
	Listeners []string // where it listens: "127.0.0.1:8080"
	Namespace uint64   // network namespace; 0 is the host's own
	UnixOnly  bool     // it is reached through a unix socket
	Upstreams []string // upstream listeners of its sidecars: "db on 127.0.0.1:9191"
}

// few joins the first most of some texts, and says how many more there are.
func few(texts []string, most int) string {
	text := strings.Join(texts[:min(len(texts), most)], ", ")
	if more := len(texts) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
