// SPDX-License-Identifier: MPL-2.0

package catalog

// itemExplanations tells of every item of the checklist, in the order of Items. Settings and commands are those of Consul
// 1.21; where an older version spells them otherwise, that is said.
func itemExplanations() map[ID]Explanation {
	return map[ID]Explanation{
		ACLEnabled: {
			Evidence: "How the agent answers and its tag among the members, or what it tells of itself (/v1/agent/self, which needs agent:read on its node), or acl { enabled } in its files; before Consul 1.4 acl_datacenter. Since 1.14 an agent tells after a reload what its files say and not what it runs with: where nothing else shows that, the row is unknown until the restart.",
			Mend: `On the servers first, one after another:
  acl { enabled = true, default_policy = "allow", enable_token_persistence = true }
Then bootstrap, once for the datacenter, and keep the token that it prints where only operators find it:
  consul acl bootstrap
Give each agent a token with a node identity, then set the same acl block on the clients and restart them:
  consul acl token create -node-identity=NODE:DATACENTER
  acl { tokens { agent = "TOKEN" } }
The last line belongs into a file of mode 0640 of NODE; consul reload takes it up, unless one that was set through the API is kept. consul acl set-agent-token sets one so, but shows the token to every user of the host (ps) while it runs.`,
			Risk: "A rolling restart of every agent: a reload does not change ACLs. With default_policy = \"allow\" nothing is refused yet; going to deny at once cuts off every caller that has no token. While some servers have ACLs and others have not, answers depend on which one leads.",
		},
		ACLDefaultDeny: {
			Evidence: "What the agent sends with its answers (X-Consul-Default-ACL-Policy), or tells of itself, or acl { default_policy } in its files; Consul's default is allow. A client decides by its own policy what is registered with it, and its servers by theirs who gets certificates and intentions: the row is about the agent that was asked. With ACLs disabled it does not apply: then everything is allowed, to everybody, intentions included.",
			Mend: `Under allow nothing is refused, and so Consul does not log what will be. See who calls the agent at all, by address and path:
  consul monitor -log-level=debug
give each of these callers a token, and try deny on one client first. Then on every agent, servers first:
  acl { default_policy = "deny" }
Services keep talking if allow intentions stand there before; under allow none was needed.`,
			Risk: "A rolling restart: a reload does not change it. Whatever worked by default stops at once: DNS and catalog lookups of clients without a token, service registrations, KV reads, calls between services without an intention. default_intention_policy lets calls be decided apart from tokens.",
		},
		ACLAnonymous: {
			Evidence: "The agent is asked what a caller may do who brings no token, and one who calls himself anonymous: an agent with a default token tells them apart (POST /v1/internal/acl/authorize, which tries nothing); only names that are asked for are answered. With acl:read the anonymous token's own rules are read too. A client answers by its own default policy: ask a server, too.",
			Mend: `See what the anonymous token has, and take the policy away that writes:
  consul acl token read -accessor-id anonymous
  consul acl policy read -name POLICY
  consul acl policy update -id POLICY-ID -rules 'node_prefix "" { policy = "read" } service_prefix "" { policy = "read" }'`,
			Risk: "It counts at once, with no restart. Whoever registers services or writes intentions without a token, a script for example, is refused from then on.",
		},
		ACLInstanceTokens: {
			Evidence: "The tokens that registrations were made with, from services/ in the agent's data directory and from its configuration files: only root reads them, the long-running service never does. Each becomes a keyed hash at once, and only hashes are compared. A sidecar shares its application's token and may.",
			Mend: `For each instance:
  consul acl token create -service-identity=NAME -description='NAME on HOST'
Put it into the registration (token = "…" in the definition, or -token with consul services register) and register once more. When nothing uses the shared one any more:
  consul acl token delete -accessor-id ACCESSOR`,
			Risk: "Registering again with another token is no outage. Deleting the shared token is one for every registration that still has it: its sidecar gets no new certificate and its check no longer reaches the catalog.",
		},
		ACLTokenScope: {
			Evidence: "The rules of tokens (acl:read). Which token an instance has is known where hostagent runs as root and its token has acl:write, for only then Consul tells secrets, which become hashes at once. With acl:read alone, a local service that only a service_prefix rule covers fails, and one that an exact rule covers besides is a warning.",
			Mend: `Make a token for the service by name, register with it, then delete the wide one:
  consul acl token create -service-identity=NAME
The same as a policy:
  service "NAME" { policy = "write" }
  service "NAME-sidecar-proxy" { policy = "write" }
  service_prefix "" { policy = "read" }
  node_prefix "" { policy = "read" }`,
			Risk: "A policy that loses a rule loses it for all of its tokens at once. Change registrations first and the policy last.",
		},
		ACLManagementToken: {
			Evidence: "Tokens of registrations (root), matched by hash with those that may do everything: acl:write shows these, and so do acl.tokens in the agent's files.",
			Mend: `Register the service with a token of its own, then replace the management token, for it stood in a file:
  consul acl token create -service-identity=NAME
  consul acl token create -policy-name=global-management
  consul acl token delete -accessor-id OLD`,
			Risk: "Whoever else uses the old management token is locked out when it is deleted: backups, Terraform, operators. Make and distribute the new one first.",
		},
		ACLPersistence: {
			Evidence: "What the running agent tells of itself, or acl { enable_token_persistence } in its files; Consul's default is false.",
			Mend: `  acl { enable_token_persistence = true }
Restart the agent, then set its tokens once more; they are kept in acl-tokens.json of its data directory:
  consul acl set-agent-token agent TOKEN
  consul acl set-agent-token default TOKEN
Every user of the host can read these tokens (ps) while the commands run. Where that matters, hand them over in files, HEADER with X-Consul-Token: and a token that may do it, BODY with {"Token": "…"}:
  curl -X PUT -H @HEADER --data @BODY http://127.0.0.1:8500/v1/agent/token/agent`,
			Risk: "A restart of the agent: a reload does not change it. Until the tokens are set once more it acts with those of its files, or as anonymous.",
		},
		GossipEncryption: {
			Evidence: "What gossip really does, from the running agent (Stats.serf_lan.encrypted); without it, whether a file sets encrypt. Consul takes a key from serf/local.keyring in the data directory before one from its files.",
			Mend: `Make one key:
  consul keygen
and bring it to every agent in three rounds, each a rolling restart of all of them. The first, in a file of mode 0640:
  encrypt                 = "KEY"
  encrypt_verify_incoming = false
  encrypt_verify_outgoing = false
The second:
  encrypt_verify_outgoing = true
The third:
  encrypt_verify_incoming = true`,
			Risk: "An agent that verifies before all others have the key is cut off from them: its services are taken for failed. Finish one round on every agent of every datacenter before the next. A reload does not change gossip.",
		},
		GossipVerify: {
			Evidence: "What the running agent tells of itself, or encrypt_verify_incoming and encrypt_verify_outgoing in its files; Consul's default is true for both. The row says at which step of the rolling enablement this agent stands.",
			Mend: `When every agent has the key, on every agent:
  encrypt_verify_outgoing = true
and when every agent has that:
  encrypt_verify_incoming = true`,
			Risk: "A rolling restart each: a reload does not change gossip. Incoming before outgoing is on everywhere refuses the gossip of agents that still send it plain: they fail in the eyes of this one.",
		},
		GossipKey: {
			Evidence: "The keyring of all nodes (/v1/operator/keyring, which needs keyring:read). Keys become hashes at once; their length, and on how many nodes each is installed and used, is what is looked at. Without that right the length of encrypt in the agent's files is seen, and no more.",
			Mend: `A rotation, on one server for all agents:
  consul keygen
  consul keyring -install=NEW
  consul keyring -list
  consul keyring -use=NEW
  consul keyring -remove=OLD
Use the new key when -list shows it on every node of every datacenter. Then write it into encrypt of every agent's files, for those that start without a keyring.
Every user of the host can read these keys (ps) while the commands run. Where that matters, hand them over in files, HEADER with X-Consul-Token: and a token that has keyring:write, BODY with {"Key": "…"}; -X PUT uses the key, -X DELETE removes it:
  curl -X POST -H @HEADER --data @BODY http://127.0.0.1:8500/v1/operator/keyring`,
			Risk: "No restart. Using a key that some nodes have not installed splits them off; they are away while -install runs. Once removed, a node that comes back with the old key alone cannot join.",
		},
		TLSOutgoing: {
			Evidence: "What the running agent tells of itself (TLS.InternalRPC), or tls { internal_rpc { verify_outgoing } }, tls { defaults { … } } and the older verify_outgoing in its files; Consul's default is false. auto_encrypt and auto_config bring it with them. The row says at which step of enabling TLS this agent stands.",
			Mend: `Make a CA, and a certificate for each server; clients get theirs from the servers (auto_encrypt) or one each:
  consul tls ca create
  consul tls cert create -server -dc=DATACENTER
Then on every agent:
  tls { defaults { ca_file = "…/consul-agent-ca.pem" } internal_rpc { verify_outgoing = true, verify_server_hostname = true } }`,
			Risk: "consul reload takes it up for connections made from then on, a restart for all. An agent with verify_outgoing reaches no server that has no certificate yet: certificates come first, on all servers.",
		},
		TLSIncoming: {
			Evidence: "What the running agent tells of itself, or tls { internal_rpc { verify_incoming } } and its older forms in its files; Consul's default is false. It counts on servers, which take RPC from the network.",
			Mend: `When every agent has a certificate and verify_outgoing, on the servers:
  tls { internal_rpc { verify_incoming = true } }`,
			Risk: "consul reload takes it up for connections made from then on, a restart for all. Agents without a certificate of the CA are cut off from them at that moment. Set for the API too (tls { https { verify_incoming } }) it demands a client certificate of everybody who uses it: the UI, consul, hostagent.",
		},
		TLSServerHostname: {
			Evidence: "What the running agent tells of itself, or tls { internal_rpc { verify_server_hostname } } and the older verify_server_hostname in its files; Consul's default is false.",
			Mend: `Servers need certificates that name server.DATACENTER.DOMAIN, which consul tls cert create -server makes. Then on every agent:
  tls { internal_rpc { verify_server_hostname = true } }`,
			Risk: "consul reload takes it up for connections made from then on, a restart for all. An agent that has it reaches no server whose certificate lacks that name.",
		},
		TLSCertificate: {
			Evidence: "The certificate files that the agent's settings name, as far as they can be read: whom they name, who signed them, and until when they hold. 30 days before the end it is a warning. A client whose certificate names a server could act as one.",
			Mend: `  consul tls cert create -server -dc=DATACENTER
  consul tls cert create -client -dc=DATACENTER
Put the files in the old ones' place, with the same owner and mode, and
  consul reload`,
			Risk: "New connections use the new certificate after a reload; running ones keep the old one. A pair that does not fit makes the reload fail and the old one stay.",
		},
		TLSAuthority: {
			Evidence: "The CA certificates in the files that the agent's settings name, and until when they hold. 90 days before the end it is a warning.",
			Mend: `Make a new CA, and let every agent trust both for as long as certificates of both are in use:
  consul tls ca create -domain=consul
  cat consul-agent-ca.pem old-ca.pem > bundle.pem
Do it in a folder of its own: the command writes over no older CA. Set ca_file to the bundle on every agent and run consul reload, then renew all certificates, then drop the old CA.`,
			Risk: "Certificates of a CA that some agent does not trust yet cut the two off from each other. Do the three rounds in this order, each on every agent before the next.",
		},
		TLSKeyFiles: {
			Evidence: "Owner and mode of the files that key_file names. The running agent hides their paths: they come from its configuration files.",
			Mend: `  chown consul:consul KEYFILE && chmod 0600 KEYFILE
A key that others could read is to be replaced:
  consul tls cert create -client -dc=DATACENTER`,
			Risk: "An agent that cannot read its key does not start, and a reload fails: the owner must be the user that it runs as.",
		},
		TLSServers: {
			Evidence: "Each server of the datacenter is asked for its certificate on its RPC port, with a TLS greeting and nothing else; which servers there are takes node:read on all nodes. Certificates and their public keys are compared. Only hostagent audit asks, never the long-running service.",
			Mend: `On a safe machine, once for each server:
  consul tls cert create -server -dc=DATACENTER -additional-dnsname=NAME
Replace them one server after another, with consul reload on each.`,
			Risk: "Little: servers do not look at each other's names beyond server.DATACENTER.DOMAIN. Keep that name in each of them.",
		},
		APIHTTP: {
			Evidence: "Where the running agent says that it serves plain HTTP, or ports { http }, addresses { http } and client_addr in its files.",
			Mend: `For programs of this host only:
  addresses { http = "127.0.0.1" }
or not at all:
  ports { http = -1, https = 8501 }`,
			Risk: "A restart of the agent. Whoever used the plain address from elsewhere has to go to HTTPS; without any plain port, consul's command line and hostagent need CONSUL_HTTP_ADDR=https://… and the CA.",
		},
		APIHTTPS: {
			Evidence: "Where the running agent says that it serves HTTPS, or ports { https } in its files; Consul's default is off.",
			Mend: `  ports { https = 8501 }
  tls { https { cert_file = "…", key_file = "…", ca_file = "…" } }`,
			Risk: "A restart of the agent, and one more port: bind it with addresses { https } if the network is not to reach it.",
		},
		APIGRPC: {
			Evidence: "Where the running agent says that it serves plain gRPC, or ports { grpc }, addresses { grpc } and client_addr in its files. Before Consul 1.14 one port served both, with TLS where a certificate was configured.",
			Mend: `  addresses { grpc = "127.0.0.1" }
or with TLS only:
  ports { grpc = -1, grpc_tls = 8503 }
  tls { grpc { cert_file = "…", key_file = "…", ca_file = "…" } }`,
			Risk: "A restart of the agent; sidecars reconnect. Envoy has to be started with the new address and the CA: consul connect envoy -grpc-addr=https://127.0.0.1:8503 -grpc-ca-file=….",
		},
		RestartPending: {
			Evidence: "What the agent's files set, held against what it tells that it runs with: gossip, TLS, ACLs, ports and addresses. A setting of its command line stands over its files and looks the same. Both, the agent and its files, are needed. What only a reload has to take up, settings and certificates of tls, is told apart from what takes a restart.",
			Mend: `  consul validate /etc/consul.d
For tls and its certificates
  consul reload
and for gossip, ACLs, ports and addresses, which a reload leaves as they are:
  systemctl restart consul`,
			Risk: "What the files say now takes effect, perhaps after months: read the difference first. On servers, one after another, waiting each time until consul operator raft list-peers shows all voters.",
		},
		CAEnabled: {
			Evidence: "Whether the datacenter has a certificate authority for its mesh (/v1/agent/connect/ca/roots, which needs no right), or connect { enabled } in the agent's files.",
			Mend:     `On the servers:` + "\n" + `  connect { enabled = true }`,
			Risk:     "A rolling restart of the servers. The first leader that has it makes a root certificate: choose the CA provider before.",
		},
		CAProvider: {
			Evidence: "The CA's configuration (/v1/connect/ca/configuration, which needs operator:write, for Consul tells the provider's settings to nobody else); without that right, the name of the root certificate tells the provider.",
			Mend: `Write the provider's settings into a file and hand it over; Consul makes a new root and signs across where it can. The file may hold a private key or the provider's token:
  umask 077
  consul connect ca get-config > ca.json
  consul connect ca set-config -config-file=ca.json
With the built-in provider, at least keep snapshots and the servers' data directories as you would keep the key itself.`,
			Risk: "A change of the provider rotates the root: every leaf is signed anew. With ForceWithoutCrossSigning connections fail until all sidecars have new leaves. Afterwards the mesh depends on the external CA being there.",
		},
		CARoot: {
			Evidence: "The active root certificate (/v1/agent/connect/ca/roots, which needs no right). 90 days before its end it is a warning.",
			Mend: `A configuration that asks for another key rotates the root: another PrivateKeyType or PrivateKeyBits, or PrivateKey and RootCert of one's own. The file may hold the key:
  umask 077
  consul connect ca get-config > ca.json
  consul connect ca set-config -config-file=ca.json`,
			Risk: "During the rotation both roots count. Applications that check certificates themselves (native ones) must follow the roots.",
		},
		CAIntermediate: {
			Evidence: "The certificates between root and leaves (/v1/agent/connect/ca/roots). The leader renews them at half of their life: one that is near its end is not being renewed.",
			Mend: `Look for what the leader says of it:
  journalctl -u consul | grep -i intermediate
With Vault or AWS, check that Consul's token or role may still sign.`,
			Risk: "None in looking. When the intermediate has expired, every sidecar fails as its leaf ends.",
		},
		CARotation: {
			Evidence: "How many root certificates the agent holds to be good (/v1/agent/connect/ca/roots).",
			Mend: `Wait: Consul takes the old root away when its leaves have expired, after leaf_cert_ttl and a margin. If it stays for days:
  consul connect ca get-config
  journalctl -u consul | grep -i 'root'`,
			Risk: "None in waiting, but that the old key still signs.",
		},
		CALeafTTL: {
			Evidence: "LeafCertTTL of the CA's configuration, which needs operator:write: a token for one run of hostagent audit, not for the service. Consul's default is 72h, its least 1h.",
			Mend: `  umask 077
  consul connect ca get-config > ca.json
Set "LeafCertTTL": "72h" in it, and
  consul connect ca set-config -config-file=ca.json`,
			Risk: "Shorter leaves mean more signing: servers sign at most csr_max_per_second. Leaves that are out keep their old life.",
		},
		RangeClosed: {
			Evidence: "The kernel's rules, hostagent's own and those of others, for every port of the sidecar range: what its configuration says does not count. Firewalls outside of the host are not seen. It takes root, or hostagent's service.",
			Mend: `Look at what would change:
  hostagent firewall plan
then write into hostagent's configuration, and systemctl reload hostagent:
  mode = "guard"`,
			Risk: "Whatever listens in the range and is no registered sidecar can no longer be reached from the network: the plan names it.",
		},
		RangeFree: {
			Evidence: "The findings squatted-port, duplicate-port and not-a-sidecar of hostagent scan. That a listener really is a sidecar is proved only with --probe or probe = true.",
			Mend:     "What the findings say; each names the process or the registrations:\n  hostagent scan",
			Risk:     "Moving a program means telling its callers.",
		},
		RangeReserved: {
			Evidence: "The findings range-ephemeral-overlap and range-shared of hostagent scan: the kernel's ephemeral ports, Nomad's dynamic ports, published container ports.",
			Mend: `  sysctl -w net.ipv4.ip_local_reserved_ports=21000-21255
and the same line in a file of /etc/sysctl.d for the next boot. Keep what is reserved there already: the value replaces the whole list.`,
			Risk: "None for running connections. Programs that bind one of these ports by number still may.",
		},
		SidecarPorts: {
			Evidence: "The findings about registered ports: port-not-opened, opening-blocked, sidecar-loopback-only, sidecar-not-listening, unconfirmed-claim and range-refused. With the range switched off (0/0), explicit ports are judged alike.",
			Mend:     "What the findings say:\n  hostagent scan\nExplicit ports outside of the range are opened only where the operator lists them:\n  extra_ports = [20000]",
			Risk:     "Each port that opens is reached by everybody whom allow_from lets in.",
		},
		ConsulReachable: {
			Evidence: "The finding consul-port-blocked: rules of this host that drop what comes for gossip (8301, on servers 8302) and server RPC (8300).",
			Mend: `With iptables, for the datacenter's networks:
  iptables -I INPUT -p tcp -s 10.0.0.0/8 -m multiport --dports 8300,8301,8302 -j ACCEPT
  iptables -I INPUT -p udp -s 10.0.0.0/8 -m multiport --dports 8301,8302 -j ACCEPT`,
			Risk: "Limit it to the members' networks: gossip without encryption lets anybody in who reaches it.",
		},
		ConsulUnexposed: {
			Evidence: "Listeners of the agent on the network that other agents do not need: DNS, plain HTTP and gRPC, and on clients the APIs with TLS. What a firewall of this host closes does not count as exposed.",
			Mend: `  client_addr = "127.0.0.1"
  addresses { dns = "127.0.0.1", http = "127.0.0.1", grpc = "127.0.0.1" }`,
			Risk: "A restart of the agent. Whoever uses this agent from another host, a resolver or a UI for example, loses it.",
		},
		InstanceTokens: {
			Evidence: "The registrations in services/ of the agent's data directory and in its configuration files: only root reads them. Only whether there is a token is looked at.",
			Mend: `In the service's definition:
  token = "…"
or with the API, whose caller's token is kept with the registration:
  consul services register -token-file=FILE web.hcl`,
			Risk: "None: registering again replaces what stands there. Then take service:write from the agent's default token.",
		},
		AppListeners: {
			Evidence: "The findings exposed-listener and exposed-sibling: sockets of mesh services on anything but loopback, in this and other network namespaces. A listener that hostagent's quarantine holds, or an exemption with because = \"firewall\", counts as held and not as fixed.",
			Mend:     "Bind the application to loopback; the findings say how for known programs:\n  hostagent scan\nor let hostagent close the port to the network:\n  enforce          = \"quarantine\"\n  quarantine_ports = [\"8080\"]",
			Risk:     "Everybody who calls the application directly, checks and monitoring included, is cut off. Move them into the mesh or onto exposed paths first.",
		},
		UpstreamListeners: {
			Evidence: "The finding exposed-upstream: listeners of sidecars for their upstreams on anything but loopback.",
			Mend:     "In the sidecar's definition leave local_bind_address out, or\n  local_bind_address = \"127.0.0.1\"",
			Risk:     "Whoever used this host's sidecar from elsewhere needs one of his own.",
		},
		ProxyAdmin: {
			Evidence: "The finding exposed-admin: the administration port of Envoy, and what else a sidecar listens on, on anything but loopback.",
			Mend:     "  consul connect envoy -sidecar-for=NAME -admin-bind=127.0.0.1:19000",
			Risk:     "Metrics that are scraped from the administration port need envoy_prometheus_bind_addr and an exposed path.",
		},
		LoopbackTenancy: {
			Evidence: "Which mesh services share this host's network namespace. Loopback knows no callers: hostagent does not see who really calls.",
			Mend:     "Where they do not trust each other: a host, a container or a network namespace for each, with its sidecar in it; or unix sockets with modes:\n  socket_path = \"/run/web/web.sock\"",
			Risk:     "A sidecar in another namespace needs an address that reaches its application, and its port published.",
		},
		IntentionDefault: {
			Evidence: "default_intention_policy, or where none is set the ACLs' default policy, of the running agent or its files; a deny intention from * to * counts too.",
			Mend: `See who talks to whom, allow that, then deny the rest, on servers and clients:
  consul intention list
  consul intention create -allow web db
  default_intention_policy = "deny"`,
			Risk: "A rolling restart (before Consul 1.17 it is the ACLs' default policy alone). Calls without an intention fail from then on. An intention that denies * to * does the same at once, without a restart, and goes away as fast.",
		},
		IntentionWildcards: {
			Evidence: "The intentions that the token may read; only one that may read all of them makes this row pass.",
			Mend: `For each pair that talks:
  consul intention create -allow SOURCE DESTINATION
then
  consul intention delete '*' '*'`,
			Risk: "It counts at once. Running connections stay with most proxies, new ones are refused: look at the sidecars' metrics for who still needs one.",
		},
		ConfigFiles: {
			Evidence: "Owner and mode of the files that the agent reads, of their folders, and whether a gossip key or a token stands in them. Contents are not shown.",
			Mend: `  chown -R root:consul /etc/consul.d
  chmod 0750 /etc/consul.d && chmod 0640 /etc/consul.d/*
A token or key that others could read is to be replaced.`,
			Risk: "The agent must still be able to read them: its user has to be in the group.",
		},
		DataFiles: {
			Evidence: "Owner and mode of the data directory and of what in it holds secrets: registrations with their tokens, the gossip keyring, the agent's tokens, a server's Raft state.",
			Mend:     "  chown -R consul:consul /opt/consul\n  chmod 0700 /opt/consul",
			Risk:     "None for the agent. Backups that run as another user lose their access.",
		},
		AgentUser: {
			Evidence: "The user of the process that listens at the agent's address.",
			Mend: `  useradd --system --home /etc/consul.d --shell /bin/false consul
  chown -R consul:consul /opt/consul && chown -R root:consul /etc/consul.d
and in its unit, with systemctl edit consul:
  [Service]
  User=consul
  Group=consul`,
			Risk: "A restart. DNS on port 53 then needs AmbientCapabilities=CAP_NET_BIND_SERVICE, and script checks run as that user.",
		},
		AgentHardening: {
			Evidence: "The running process as the kernel has it: no_new_privs, its capabilities, a seccomp filter, whether it may write to /usr, whether it may leave core dumps, which hold tokens and keys.",
			Mend: `With systemctl edit consul:
  [Service]
  NoNewPrivileges=yes
  CapabilityBoundingSet=
  ProtectSystem=full
  PrivateTmp=yes
  LimitCORE=0`,
			Risk: "A restart. ProtectSystem=full makes /usr and /etc read-only for it, and for its script checks; NoNewPrivileges takes sudo from them.",
		},
	}
}
