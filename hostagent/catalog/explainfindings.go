// SPDX-License-Identifier: MPL-2.0

package catalog

// findingExplanations tells of every finding, in the order of Entries.
func findingExplanations() map[ID]Explanation {
	return map[ID]Explanation{
		ExposedListener: {
			Evidence: "A listening socket on the service's port, in the namespace and on an address where its sidecar expects it, whose own address is not loopback. Firewalls of others are not taken into account: the finding says where the socket is, and its addresses where the network could come from.",
			Mend: `Bind the application to loopback: server.address=127.0.0.1, listen 127.0.0.1:8080 and the like; the finding names the setting of programs that are known. Or let hostagent close the port to the network:
  enforce          = "quarantine"
  quarantine_ports = ["8080"]
If it is meant to be so:
  exempt {
    finding = "exposed-listener"
    service = "web"
    reason  = "the load balancer's port"
  }
with because = "firewall" where another firewall holds it.`,
			Risk: "Whoever calls the application directly is cut off: load balancers, monitoring, checks from other hosts, services that are not in the mesh yet.",
		},
		SquattedPort: {
			Evidence: "A listening socket, TCP or UDP, on a port of the sidecar range that no registration explains, or sockets of several users on one that does.",
			Mend:     "Stop the program, or give it a port outside of the range. Where it picks ports by itself, reserve the range:\n  sysctl -w net.ipv4.ip_local_reserved_ports=21000-21255",
			Risk:     "Its callers have to follow. In guard mode the network does not reach it any more anyway.",
		},
		DuplicatePort: {
			Evidence: "Two registrations at the local agent with the same port and addresses that overlap.",
			Mend:     "Leave port out of one of them, so that Consul assigns one, and register again:\n  consul services register web.hcl",
			Risk:     "The sidecar whose port changes has to be restarted.",
		},
		PortNotOpened: {
			Evidence: "A registration that asks for a port outside of the sidecar range and of extra_ports, or for a protected one.",
			Mend:     "If it really is a sidecar's:\n  extra_ports = [20000]\nelse register it again without a port.",
			Risk:     "A port in extra_ports opens for whoever may register a service on this agent.",
		},
		UnconfirmedClaim: {
			Evidence: "A registration of a gateway's kind, or with connect { native = true }, whose name the operator has not listed.",
			Mend:     "  gateways        = [\"mesh-gateway\"]\n  native_services = [\"billing\"]",
			Risk:     "A listed name is believed: whoever has service:write on it may have its ports opened.",
		},
		SidecarNotListening: {
			Evidence: "A registered port on which no socket of this host listens, in no namespace that could be looked at.",
			Mend:     "  consul connect envoy -sidecar-for=NAME\nor\n  consul services deregister -id=NAME-sidecar-proxy",
			Risk:     "Deregistering takes the service out of the mesh on this host.",
		},
		RangeRefused: {
			Evidence: "The range that the agent tells (ports { sidecar_min_port, sidecar_max_port }) is larger than 4,096 ports, or holds a protected one.",
			Mend:     "In the agent's configuration:\n  ports { sidecar_min_port = 21000, sidecar_max_port = 21255 }\nor in hostagent's, over whatever the agent tells:\n  sidecar_range = \"21000-21255\"",
			Risk:     "A restart of the agent. Sidecars outside of the new range keep their ports, which then belong into extra_ports.",
		},
		RangeShared: {
			Evidence: "Nomad's dynamic ports, as its agent or its configuration tell, ports that container runtimes publish, and other allocators' ranges that hold ports of the sidecar range.",
			Mend:     "Move one of the two. Nomad:\n  client { min_dynamic_port = 22000, max_dynamic_port = 32000 }",
			Risk:     "Running tasks keep their ports until they are started anew.",
		},
		RangeEphemeralOverlap: {
			Evidence: "net.ipv4.ip_local_port_range and net.ipv4.ip_local_reserved_ports of the host's network namespace.",
			Mend:     "  sysctl -w net.ipv4.ip_local_reserved_ports=21000-21255\nand the same line in a file of /etc/sysctl.d. The value replaces the whole list: keep what stands there.",
			Risk:     "None for running connections.",
		},
		RangeNearlyFull: {
			Evidence: "How many ports of the range registrations of the local agent hold.",
			Mend:     "In the agent's configuration:\n  ports { sidecar_max_port = 21511 }",
			Risk:     "A restart of the agent. The wider range must be free of other programs.",
		},
		RouteLocalnet: {
			Evidence: "net.ipv4.conf.*.route_localnet of the host's network namespace.",
			Mend:     "Docker with userland-proxy off and kube-proxy set it for themselves. Where nothing needs it:\n  sysctl -w net.ipv4.conf.all.route_localnet=0\nWhere something does, drop what comes from elsewhere:\n  iptables -I INPUT ! -i lo -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP",
			Risk:     "Published container ports that are called from this host through 127.0.0.1 stop working without it.",
		},
		RegistrationsFiltered: {
			Evidence: "The header X-Consul-Results-Filtered-By-Acls of the agent's answer, or an anonymous answer under default deny: such an answer is never acted on.",
			Mend:     "  hostagent acl-policy | consul acl policy create -name hostagent -rules -\n  consul acl token create -policy-name hostagent\n  consul { token_file = \"/etc/hostagent.d/token\" }",
			Risk:     "None: until then what is open and closed stays.",
		},
		AgentImpostor: {
			Evidence: "The user of the process at the other end of the connection, as the kernel tells: neither root nor the Consul user, and nothing else proves the agent.",
			Mend:     "If the agent runs as another user:\n  consul { user = \"consul-agent\" }\nelse find out who listens there:\n  ss -ltnp 'sport = :8500'",
			Risk:     "A user who is named there is believed about every registration.",
		},
		AgentNotLocal: {
			Evidence: "The node address that the agent tells is none of this host's.",
			Mend:     "Point hostagent to the agent of this host:\n  consul { address = \"http://127.0.0.1:8500\" }\nor, where a host has no agent of its own and you mean it:\n  consul { allow_remote_agent = true }",
			Risk:     "Another host's registrations open ports here that nobody uses.",
		},
		FirewallDrift: {
			Evidence: "hostagent compares its rules and sets in the kernel with what it wants, and hears of changes from the kernel, which names the program.",
			Mend:     "Tell the program that it names to leave tables, chains and sets called hostagent alone, or to run before hostagent. Reload others' rules without flushing everything.",
			Risk:     "None: hostagent puts its rules back by itself.",
		},
		OpeningBlocked: {
			Evidence: "Rules of other base chains, iptables and nftables, that drop a packet from the network to an open port.",
			Mend:     "Accept the ports there, too. hostagent keeps a set of yours equal to the open ports:\n  nft add set inet filter mesh_open '{ type inet_service; }'\n  nft insert rule inet filter input tcp dport @mesh_open accept\n  firewall { publish_set = \"inet filter mesh_open\" }",
			Risk:     "The rule accepts for everybody: limits of allow_from do not reach into others' chains.",
		},
		ConsulPortBlocked: {
			Evidence: "Rules of this host that drop a packet from the network to one of the agent's ports for gossip or RPC.",
			Mend:     "  iptables -I INPUT -p tcp -s 10.0.0.0/8 -m multiport --dports 8300,8301 -j ACCEPT\n  iptables -I INPUT -p udp -s 10.0.0.0/8 --dport 8301 -j ACCEPT",
			Risk:     "Limit it to the members' networks.",
		},
		SavedRules: {
			Evidence: "Files from which iptables-restore or nft load rules at boot, and which name chains or sets of hostagent.",
			Mend:     "Look at the lines that it names, delete them, and save without them from now on:\n  grep -n -i hostagent /etc/iptables/rules.v4",
			Risk:     "None: hostagent writes its own rules at boot, before the network is up.",
		},
		QuarantineRefused: {
			Evidence: "The rules under which hostagent closes a port: listed by the operator, no one else's, not protected, and nothing of the mesh calls it from outside of the host.",
			Mend:     "The finding says which of them is not met. To list the port and the service:\n  quarantine_ports    = [\"8080\"]\n  quarantine_services = [\"web\"]",
			Risk:     "What is closed wrongly is an outage: that is why it is refused.",
		},
		ExposedSibling: {
			Evidence: "Another listening socket of the service's process, unit or container on an address that is not loopback.",
			Mend:     "Bind it to loopback, or exempt it:\n  exempt {\n    finding = \"exposed-sibling\"\n    port    = 9100\n    reason  = \"metrics, read only\"\n  }",
			Risk:     "Whoever scrapes or debugs it over the network is cut off.",
		},
		ExposedUpstream: {
			Evidence: "A listening socket on a port that the sidecar's registration names as an upstream's, on an address that is not loopback.",
			Mend:     "  upstreams { destination_name = \"db\", local_bind_port = 9191, local_bind_address = \"127.0.0.1\" }",
			Risk:     "The sidecar's callers from elsewhere need sidecars of their own.",
		},
		ExposedAdmin: {
			Evidence: "A listening socket of the sidecar's process beside the ports that its registration explains, on an address that is not loopback.",
			Mend:     "  consul connect envoy -sidecar-for=web -admin-bind=127.0.0.1:19000",
			Risk:     "Metrics that are scraped there need envoy_prometheus_bind_addr.",
		},
		ExposedConsulAPI: {
			Evidence: "Where the agent says that it serves plain HTTP and gRPC, and the sockets of this host.",
			Mend:     "  addresses { http = \"127.0.0.1\", grpc = \"127.0.0.1\" }\n  ports { https = 8501 }",
			Risk:     "A restart of the agent. Others then need HTTPS.",
		},
		NotASidecar: {
			Evidence: "With probe = true or --probe: a TLS greeting over loopback to the sidecar's port shows no certificate of the mesh's CA with the service's name.",
			Mend:     "Find out who holds the port, stop him, and start the sidecar:\n  hostagent scan --probe",
			Risk:     "A gateway or a native service with a certificate of its own may be meant: confirm it by name.",
		},
		SidecarLoopbackOnly: {
			Evidence: "The sidecar's socket listens on a loopback address only.",
			Mend:     "In the sidecar's registration leave bind_address out of proxy { config { } }, or name the host's address there, and restart it.",
			Risk:     "The port can then be reached from the network: that is its purpose, with mTLS.",
		},
	}
}
