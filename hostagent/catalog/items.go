// SPDX-License-Identifier: MPL-2.0

package catalog

import "sync"

// Step is one of the five steps in which Consul's guide takes a mesh to production; StepFiles is what its security checklist
// asks beside them.
type Step int

// The steps, in the guide's order.
const (
	StepACLs Step = iota + 1
	StepTransport
	StepCA
	StepFirewall
	StepInstances
	StepFiles
)

// Steps returns all steps in order.
func Steps() []Step {
	return []Step{StepACLs, StepTransport, StepCA, StepFirewall, StepInstances, StepFiles}
}

// Title is a heading for s.
func (s Step) Title() string {
	switch s {
	case StepACLs:
		return "1 Access control"
	case StepTransport:
		return "2 Agent transport encryption"
	case StepCA:
		return "3 Certificate authority of the mesh"
	case StepFirewall:
		return "4 Host firewall"
	case StepInstances:
		return "5 Service instances"
	case StepFiles:
		return "Beside the steps: directories and the agent's process"
	}
	return ""
}

// The items of the production checklist that an audit knows.
const (
	ACLEnabled         ID = "acl-enabled"
	ACLDefaultDeny     ID = "acl-default-deny"
	ACLAnonymous       ID = "acl-anonymous"
	ACLInstanceTokens  ID = "acl-instance-tokens"
	ACLTokenScope      ID = "acl-token-scope"
	ACLManagementToken ID = "acl-management-token"
	ACLPersistence     ID = "acl-token-persistence"

	GossipEncryption  ID = "gossip-encryption"
	GossipVerify      ID = "gossip-verify"
	GossipKey         ID = "gossip-key"
	TLSOutgoing       ID = "tls-verify-outgoing"
	TLSIncoming       ID = "tls-verify-incoming"
	TLSServerHostname ID = "tls-verify-server-hostname"
	TLSCertificate    ID = "tls-certificate"
	TLSAuthority      ID = "tls-ca"
	TLSKeyFiles       ID = "tls-key-files"
	TLSServers        ID = "tls-server-certificates"
	APIHTTP           ID = "api-http"
	APIHTTPS          ID = "api-https"
	APIGRPC           ID = "api-grpc"
	RestartPending    ID = "restart-pending"

	CAEnabled      ID = "ca-enabled"
	CAProvider     ID = "ca-provider"
	CARoot         ID = "ca-root-expiry"
	CAIntermediate ID = "ca-intermediate-expiry"
	CARotation     ID = "ca-rotation"
	CALeafTTL      ID = "ca-leaf-ttl"

	RangeClosed     ID = "range-closed"
	RangeFree       ID = "range-free"
	RangeReserved   ID = "range-reserved"
	SidecarPorts    ID = "sidecar-ports"
	ConsulReachable ID = "consul-ports-reachable"
	ConsulUnexposed ID = "consul-ports-unexposed"

	InstanceTokens     ID = "instance-tokens"
	AppListeners       ID = "app-listeners"
	UpstreamListeners  ID = "upstream-listeners"
	ProxyAdmin         ID = "proxy-admin"
	LoopbackTenancy    ID = "loopback-tenancy"
	IntentionDefault   ID = "intention-default"
	IntentionWildcards ID = "intention-wildcards"

	ConfigFiles    ID = "config-files"
	DataFiles      ID = "data-files"
	AgentUser      ID = "agent-user"
	AgentHardening ID = "agent-hardening"
)

// Item is what the catalog knows of one item of the checklist. All texts are one sentence or a few words, without
// placeholders.
type Item struct {
	ID     ID
	Step   Step
	Title  string // a few words, for headings
	Asks   string // what the guide asks
	Why    string // why it matters
	Remedy string // what mends it, where the audit knows no better for this host
}

// Items returns every item in the order in which they are shown.
func Items() []Item {
	return []Item{
		{
			ID: ACLEnabled, Step: StepACLs, Title: "ACLs enabled",
			Asks:   "ACLs are enabled on this agent",
			Why:    "without ACLs anybody who reaches an agent registers as any service, takes its certificate and edits intentions",
			Remedy: "set acl { enabled = true } on the servers first, bootstrap, give each agent a token, then set it on clients",
		},
		{
			ID: ACLDefaultDeny, Step: StepACLs, Title: "default policy deny",
			Asks:   "the default policy of ACLs is deny",
			Why:    "under default allow whatever no rule names is allowed: a token is needed for nothing, and services talk without an intention",
			Remedy: `set acl { default_policy = "deny" } on every agent, once each client of Consul has a token`,
		},
		{
			ID: ACLAnonymous, Step: StepACLs, Title: "anonymous token may not write",
			Asks:   "the anonymous token has no service:write and no intentions:write",
			Why:    "who may write a service without a token is that service in the mesh, and who may write intentions decides who talks to whom",
			Remedy: "take these rules from the anonymous token's policies: consul acl token read -accessor-id anonymous names them",
		},
		{
			ID: ACLInstanceTokens, Step: StepACLs, Title: "a token for each service and instance",
			Asks:   "each service, and each instance of it, has a token of its own",
			Why:    "a shared token makes each of its holders all of its services, and cannot be revoked for one of them",
			Remedy: "make a token for each instance (consul acl token create -service-identity=NAME) and register the instance with it",
		},
		{
			ID: ACLTokenScope, Step: StepACLs, Title: "tokens limited to one service",
			Asks:   "each service's token allows service:write on that service alone, by its exact name",
			Why:    "a token with a wider rule takes the identity of every service that the rule names",
			Remedy: "replace service_prefix rules with a service identity, or with a rule on the exact name",
		},
		{
			ID: ACLManagementToken, Step: StepACLs, Title: "no management tokens in registrations",
			Asks:   "no service is registered with a token that may do everything",
			Why:    "registrations keep their token on disk: whoever reads one of them has the whole datacenter",
			Remedy: "make a token with a service identity, register the service again with it, and revoke what stood there",
		},
		{
			ID: ACLPersistence, Step: StepACLs, Title: "agent tokens survive a restart",
			Asks:   "tokens that are set through the API are kept over a restart of the agent",
			Why:    "an agent that forgets its tokens comes back as anonymous: its services leave the catalog, or operators put tokens into files that all may read",
			Remedy: "set acl { enable_token_persistence = true }, restart the agent, and set its tokens once more: consul acl set-agent-token",
		},
		{
			ID: GossipEncryption, Step: StepTransport, Title: "gossip encrypted",
			Asks:   "gossip is encrypted",
			Why:    "whoever reaches a gossip port otherwise reads who is a member, and can join, fail nodes and fire events",
			Remedy: "follow the rolling enablement: encrypt with both verify flags false everywhere, then encrypt_verify_outgoing, then encrypt_verify_incoming",
		},
		{
			ID: GossipVerify, Step: StepTransport, Title: "gossip verified both ways",
			Asks:   "encrypt_verify_incoming and encrypt_verify_outgoing are on",
			Why:    "an agent with a key that does not verify still takes, or sends, plain gossip: encryption is offered and not demanded",
			Remedy: "take the next step of the rolling enablement on every agent: first encrypt_verify_outgoing, then encrypt_verify_incoming",
		},
		{
			ID: GossipKey, Step: StepTransport, Title: "one strong gossip key",
			Asks:   "all nodes and datacenters use one 32-byte key",
			Why:    "a second key is an unfinished rotation that may cut nodes off, and a shorter key is weaker than what consul keygen makes",
			Remedy: "finish the rotation: consul keyring -install NEW, when -list shows it everywhere -use NEW, then -remove OLD",
		},
		{
			ID: TLSOutgoing, Step: StepTransport, Title: "RPC: outgoing verified",
			Asks:   "verify_outgoing is on for RPC",
			Why:    "an agent that does not verify sends tokens and secrets to whoever answers in a server's place",
			Remedy: "give every agent the CA, then set tls { internal_rpc { verify_outgoing = true } } and run consul reload on one agent after another",
		},
		{
			ID: TLSIncoming, Step: StepTransport, Title: "RPC: incoming verified",
			Asks:   "verify_incoming is on for RPC",
			Why:    "a server that does not verify takes plain connections, and RPC from whoever has no certificate of the datacenter",
			Remedy: "once every agent has a certificate and verify_outgoing, set tls { internal_rpc { verify_incoming = true } } on the servers, and run consul reload",
		},
		{
			ID: TLSServerHostname, Step: StepTransport, Title: "RPC: servers verified by name",
			Asks:   "verify_server_hostname is on",
			Why:    "without it any client's certificate passes for a server's: a compromised client becomes a server and gets all data",
			Remedy: "give each server a certificate for server.DATACENTER.DOMAIN, then set tls { internal_rpc { verify_server_hostname = true } } on every agent, and run consul reload",
		},
		{
			ID: TLSCertificate, Step: StepTransport, Title: "the agent's certificate",
			Asks:   "the agent's certificate names what it is, and lasts",
			Why:    "an expired or wrongly named certificate takes the agent, and with it every service of the host, out of the datacenter",
			Remedy: "issue a new one (consul tls cert create -server or -client), replace the files and run consul reload",
		},
		{
			ID: TLSAuthority, Step: StepTransport, Title: "the CA of agents",
			Asks:   "the CA that agents trust lasts",
			Why:    "when it expires no agent reaches a server any more, on all hosts at the same moment",
			Remedy: "make the new CA, let every agent trust both (one file with both certificates), then renew the certificates, then drop the old one",
		},
		{
			ID: TLSKeyFiles, Step: StepTransport, Title: "key files are private",
			Asks:   "private keys can be read by the agent alone",
			Why:    "whoever copies the key is this agent to every server",
			Remedy: "chown the key to the agent's user, chmod 0600, and replace a key that others could read",
		},
		{
			ID: TLSServers, Step: StepTransport, Title: "each server has a certificate of its own",
			Asks:   "servers do not share one certificate",
			Why:    "a shared key is stolen from the weakest server, and cannot be replaced on one of them",
			Remedy: "issue one for each server (consul tls cert create -server) and replace them one server after another",
		},
		{
			ID: APIHTTP, Step: StepTransport, Title: "plain HTTP API off or on loopback",
			Asks:   "the plain HTTP API is off, or listens on loopback only",
			Why:    "tokens cross it in the clear, for everybody on the way to read",
			Remedy: `set addresses { http = "127.0.0.1" } or ports { http = -1 }, and restart the agent`,
		},
		{
			ID: APIHTTPS, Step: StepTransport, Title: "HTTPS API on",
			Asks:   "the API is served with TLS",
			Why:    "where only the plain API exists, whoever needs it from elsewhere opens it to the network",
			Remedy: "set ports { https = 8501 } with a certificate in tls { https { } }, and restart the agent",
		},
		{
			ID: APIGRPC, Step: StepTransport, Title: "plain gRPC off or on loopback",
			Asks:   "plain gRPC is off, or listens on loopback only",
			Why:    "sidecars send their service's token over it and receive their configuration and keys",
			Remedy: `set addresses { grpc = "127.0.0.1" } or ports { grpc = -1 }, use ports { grpc_tls = 8503 }, and restart the agent`,
		},
		{
			ID: RestartPending, Step: StepTransport, Title: "no restart pending",
			Asks:   "the agent runs what its files say",
			Why:    "what was switched on in the files protects nothing until the agent has taken it up, and a reload changes neither gossip, ACLs nor ports",
			Remedy: "restart the agent (systemctl restart consul), servers one after another, the leader last; for settings of tls alone consul reload does",
		},
		{
			ID: CAEnabled, Step: StepCA, Title: "service mesh enabled",
			Asks:   "the certificate authority of the mesh runs",
			Why:    "without it no sidecar gets a certificate",
			Remedy: "set connect { enabled = true } on the servers",
		},
		{
			ID: CAProvider, Step: StepCA, Title: "where the root key is",
			Asks:   "the root's private key is kept where the datacenter's servers cannot lose it",
			Why:    "with the built-in provider it lies in the servers' Raft state and in every snapshot: whoever reads one can sign any service",
			Remedy: "accept it with protected snapshots, or move to an external provider (Vault, AWS Private CA): consul connect ca set-config",
		},
		{
			ID: CARoot, Step: StepCA, Title: "root certificate lasts",
			Asks:   "the active root certificate does not expire soon",
			Why:    "when it expires every mTLS connection of the mesh fails at once",
			Remedy: "rotate it early: consul connect ca set-config with a new root; Consul cross-signs where the provider can",
		},
		{
			ID: CAIntermediate, Step: StepCA, Title: "intermediate certificate lasts",
			Asks:   "the certificate that signs leaves is renewed in time",
			Why:    "leaves end with it: sidecars that cannot renew drop out one after another",
			Remedy: "look in the leader's log for why it is not renewed; with an external provider, check Consul's access to it",
		},
		{
			ID: CARotation, Step: StepCA, Title: "no rotation half done",
			Asks:   "one root is in use, or a rotation goes on that ends by itself",
			Why:    "while several roots count, whoever holds the old root's key still signs any service",
			Remedy: "wait until leaves of the old root have expired (leaf_cert_ttl); Consul takes it away after that",
		},
		{
			ID: CALeafTTL, Step: StepCA, Title: "leaf certificates are short-lived",
			Asks:   "certificates of services last 72 hours or less",
			Why:    "a stolen leaf is its service until it expires: the mesh knows no revocation",
			Remedy: "set leaf_cert_ttl to 72h or less with consul connect ca set-config",
		},
		{
			ID: RangeClosed, Step: StepFirewall, Title: "sidecar range closed",
			Asks:   "ports of the sidecar range that no sidecar has are closed to the network",
			Why:    "whatever listens on an open port of the range is reached without mTLS",
			Remedy: `run hostagent with mode = "guard"`,
		},
		{
			ID: RangeFree, Step: StepFirewall, Title: "sidecar range free of squatters",
			Asks:   "nothing but sidecars listens in the sidecar range",
			Why:    "Consul hands these ports out without looking: a squatter keeps a sidecar from starting, or takes its traffic",
			Remedy: "hostagent scan names the processes: stop them or move them",
		},
		{
			ID: RangeReserved, Step: StepFirewall, Title: "sidecar range left alone by the kernel and others",
			Asks:   "no outgoing connection and no other allocator takes ports of the sidecar range",
			Why:    "a sidecar that is given a port in use fails to start, now and then and without a trace",
			Remedy: "put the range into net.ipv4.ip_local_reserved_ports",
		},
		{
			ID: SidecarPorts, Step: StepFirewall, Title: "registered sidecars can be reached",
			Asks:   "the ports of registered sidecars, assigned or explicit, are open",
			Why:    "a sidecar that nobody reaches is an outage that looks healthy on its own host",
			Remedy: "hostagent scan says which firewall or registration keeps a port closed",
		},
		{
			ID: ConsulReachable, Step: StepFirewall, Title: "Consul's own ports reachable for peers",
			Asks:   "gossip and RPC ports are open to the datacenter's members",
			Why:    "without gossip and RPC the agent is taken for failed, and its services leave the mesh",
			Remedy: "let the members in on these ports",
		},
		{
			ID: ConsulUnexposed, Step: StepFirewall, Title: "no needless port of Consul on the network",
			Asks:   "ports of Consul that peers do not need are closed to the network",
			Why:    "each of them is one more way to ask the agent, most of them without TLS",
			Remedy: "bind DNS and the plain APIs to loopback in addresses { }, or close them in the host's firewall",
		},
		{
			ID: InstanceTokens, Step: StepInstances, Title: "every registration carries a token",
			Asks:   "each service and sidecar is registered with a token",
			Why:    "without one the agent registers it with its own default token, which then needs the right to be every service",
			Remedy: "register with a token: token in the service definition, or X-Consul-Token on the request",
		},
		{
			ID: AppListeners, Step: StepInstances, Title: "applications on loopback only",
			Asks:   "applications listen on loopback, on a unix socket or in a network namespace of their own",
			Why:    "whoever reaches the application's own port goes round mTLS and intentions",
			Remedy: "bind the application to 127.0.0.1, or let hostagent quarantine the port",
		},
		{
			ID: UpstreamListeners, Step: StepInstances, Title: "upstreams on loopback only",
			Asks:   "upstream listeners of sidecars are bound to loopback",
			Why:    "whoever reaches an upstream calls it as the service whose sidecar it is",
			Remedy: "leave local_bind_address out, or set it to 127.0.0.1",
		},
		{
			ID: ProxyAdmin, Step: StepInstances, Title: "proxy administration on loopback only",
			Asks:   "the administration of sidecars is bound to loopback",
			Why:    "Envoy's administration port shows certificates, changes the configuration and asks nobody who he is",
			Remedy: "start the sidecar with -admin-bind 127.0.0.1:PORT",
		},
		{
			ID: LoopbackTenancy, Step: StepInstances, Title: "services that share this host's loopback",
			Asks:   "services that share a host trust each other, or are kept apart",
			Why:    "each process of the host calls what listens on loopback, and each sidecar's upstreams, without any intention being asked",
			Remedy: "give services that do not trust each other hosts or network namespaces of their own",
		},
		{
			ID: IntentionDefault, Step: StepInstances, Title: "intentions deny by default",
			Asks:   "services without an intention may not talk to each other",
			Why:    "otherwise each new service may be called by every other one until somebody remembers to forbid it",
			Remedy: `write the allow intentions that are needed, then set default_intention_policy = "deny" or acl { default_policy = "deny" }`,
		},
		{
			ID: IntentionWildcards, Step: StepInstances, Title: "no intention that allows all",
			Asks:   "no intention allows any service to call any other",
			Why:    "an allow from * to * is the end of default deny",
			Remedy: "write an intention for each pair that talks, then delete the wildcard",
		},
		{
			ID: ConfigFiles, Step: StepFiles, Title: "configuration files",
			Asks:   "the agent's configuration is private to its user and root",
			Why:    "it holds gossip keys and tokens, and whoever may write it runs what he likes as the agent",
			Remedy: "chown -R root:consul, chmod 0750 for folders and 0640 for files",
		},
		{
			ID: DataFiles, Step: StepFiles, Title: "data directory",
			Asks:   "the agent's data directory is private to its user",
			Why:    "it holds every registration with its token, the gossip keyring, and on servers the state with the mesh's root key",
			Remedy: "chown -R consul:consul and chmod 0700 the data directory",
		},
		{
			ID: AgentUser, Step: StepFiles, Title: "the agent's user",
			Asks:   "the agent runs as a user of its own, not as root",
			Why:    "script checks and any hole in the agent run with its rights",
			Remedy: "run it with User=consul in its unit, after chown of its configuration and data",
		},
		{
			ID: AgentHardening, Step: StepFiles, Title: "the agent's process is confined",
			Asks:   "the agent's unit takes away what it does not need",
			Why:    "an agent talks to the whole datacenter: what its process cannot do, nobody can make it do",
			Remedy: "set NoNewPrivileges=yes, CapabilityBoundingSet= and LimitCORE=0 in a drop-in of its unit: systemctl edit consul",
		},
	}
}

// LookupItem returns the item of id.
func LookupItem(id ID) (Item, bool) {
	item, ok := itemsByID()[id]
	return item, ok
}

// itemsByID returns all items, which nobody changes.
var itemsByID = sync.OnceValue(func() map[ID]Item {
	items := map[ID]Item{}
	for _, item := range Items() {
		items[item.ID] = item
	}
	return items
})

// Explanation is what is told of a finding or an item beside its entry: texts of several sentences, one paragraph a line.
type Explanation struct {
	Evidence string // how it is seen, and what it cannot see
	Mend     string // the exact settings and commands; lines that begin with two blanks are meant to be pasted
	Risk     string // what the remedy can break, and when
}
