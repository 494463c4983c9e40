# Configuration of hostagent.
#
# hostagent reads every file of /etc/hostagent.d whose name ends in ".hcl", in lexical order. Of a key with one value the
# later file wins, lists of several files are joined, blocks merge key by key. Consul's client environment
# (CONSUL_HTTP_ADDR and its like) stands over the files, command-line flags stand over both; settings for a fleet, in
# Consul's KV, stand under the files. Unknown keys and values that make no sense are refused with file and line. Values are
# plain: no variables, no functions.
#
# Every key stands here with its default, but for the example of an exemption. The file that packages install in
# /etc/hostagent.d is short, and this one lies with their documentation. What you change stands best in a file of your own,
# /etc/hostagent.d/site.hcl for one: copy the key without the "#" in front of it; for a key inside a block, also the block's
# first and last line.


# What hostagent does. There is no default, so that installing it changes nothing:
#   "observe"  reports what it finds, and says what it would do. Owns no firewall rule.
#   "guard"    also manages the firewall: closes the sidecar range, and opens the ports of registered proxies.
# Let it observe for a while, read the findings, then guard.
mode = "observe"


# ---- Ports ----------------------------------------------------------------------------------------------------------
# Ports are numbers (8443), texts ("8443") or ranges with both ends included ("9000-9010").

# The ports that Consul gives to sidecar proxies. Empty asks the local agent, which is right unless the agent cannot be
# asked or must not be believed. At most 4096 ports, none of them protected. Restart the agent to change its own range: one
# that is only reloaded (1.21) tells of the new range and goes on assigning ports of the old one.
# sidecar_range = ""

# Ports outside the sidecar range that a registration may open. A registration is a claim: whoever may register one
# service can name any port, so hostagent opens none beyond the range that is not listed here. List the ports of gateways
# and of proxies with a port of their own.
# extra_ports = []

# Ports that hostagent never opens and never closes, whatever a registration says. Your list replaces this one, so keep 22
# in it. The ports on which root's sshd listens, and Consul's own, are protected besides.
# protected_ports = [22]

# Further ports that the network may not reach unless a registration has them and extra_ports lists them. Unlike the
# sidecar range they are closed only because you say so.
# guard_ports = []

# Who may connect to open ports: networks ("10.0.0.0/8", "fd00::/8") or single addresses. Empty means everybody. Set it
# where the host also faces networks that no mesh service calls from. All others are kept out of open ports, whatever the
# host's own rules let in; an IP version without a network here is closed altogether but for what allow_local_bridges
# adds. "cluster" stands for the members of this Consul datacenter, as the local agent knows them: of each the one address
# that it advertises. A member that leaves is let in for close_delay more, one that has failed stays, and the token needs
# node_prefix "" { policy = "read" }. Until members and local bridges are known, nothing is opened or closed. What the host
# itself connects to is never limited, and its own addresses are always let in. Running connections of a network that is
# taken out end only where the host's own rules drop them.
# allow_from = []

# Whether containers and virtual machines on this host's bridges may connect to open ports too, where allow_from limits who
# may: all networks routed to a bridge whose ports are virtual ones only. A bridge with a network card, bond, VLAN or tunnel
# on it, or with a default route through it, is the network itself and not meant.
# allow_local_bridges = true


# ---- Services -------------------------------------------------------------------------------------------------------

# Who may connect to the ports on which sidecars let paths of their application through without mTLS (expose { paths } of a
# registration, and the statistics of Envoy that a registration puts on a port for the network): networks or "cluster", as
# in allow_from, which says nothing of these ports. They are for a few callers, Prometheus and load balancers, so local
# bridges are let in only where their networks stand here; the host itself always is. Such a port opens only inside the
# sidecar range or on extra_ports, and closes as a sidecar's does, but at once when nobody is let in here any more. On a port
# that is a registered sidecar's, too, allow_from counts and not this. Others are kept out of ports in the sidecar range and
# in guard_ports only: a port that stands in extra_ports alone, say of 21500-21755 as Consul's documentation suggests, is let
# in for these sources, and for all others the host's own rules decide, so add it to guard_ports as well. A set of
# publish_set does not hold these ports. Checks of the agent (expose { checks }) need nothing here. Empty opens none.
# exposed_paths_from = []

# Names of the gateway services of this host (mesh, ingress, terminating, API). A registration that calls itself a gateway
# counts as one only when its name is here. It then opens its own port and those of the addresses at which it is registered
# to listen (envoy_gateway_bind_addresses and its like), each of them only inside the sidecar range or on extra_ports. The
# ports of the config entries of ingress and API gateways are known to Consul's servers alone: hostagent neither opens nor
# closes them, so keep them out of the sidecar range and let the host's own firewall accept them. With Consul Enterprise a
# name stands for the service in the namespace of consul { namespace }; that of another one is "namespace/name".
# gateways = []

# Names of services that speak mutual TLS themselves (connect-native) and so need no sidecar. Others that claim it are
# reported. Namespaces count as in gateways.
# native_services = []

# Whose listeners are judged:
#   "mesh"  services without a sidecar may listen on the network
#   "all"   they may not either; for hosts where everything belongs into the mesh
# scope = "mesh"

# Whether what listens on a sidecar's port is asked if it is that sidecar: it must show a certificate of the mesh's CA that
# names its service. Without this, an open port proves only that somebody registered it. hostagent connects from this host
# to this host, once for each new listener and again for those that fail, says nothing but a TLS hello and hangs up. A
# sidecar may log that: Consul's own proxy writes at most one line ("connection failed"), and its application sees one
# connection come and go. Gateways are not asked. What takes connections and never answers is not accused: "hostagent
# status" names it.
# probe = false

# Whether the production checklist of Consul's service mesh (hostagent audit) is held against this host once an hour. What
# fails is told as one check on hostagent's own service, "Production checklist": at worst a warning, because what a checklist
# asks is no outage. The service reads no file that may hold a token for it, and asks nobody but the local agent; what it may
# not see counts as unknown and not as passed. Run "hostagent audit" as root to see more.
# audit = true


# ---- Exposed listeners ----------------------------------------------------------------------------------------------

# What is done about a mesh service that listens on more than loopback, so that the network reaches it around the mesh:
#   "report"      it is reported
#   "quarantine"  and, in mode "guard", its port is closed to the network and connections from there end, until it listens
#                 on loopback only. The host itself still reaches it.
# enforce = "report"

# Ports that may be closed so, and no others: a registration is a claim, and whoever may register one service could
# otherwise close any port of this host. "hostagent firewall plan" names what would be closed.
# quarantine_ports = []

# Findings that are acted on: "exposed-listener", an application's registered port; "exposed-sibling", its other ports;
# "exposed-upstream" and "exposed-admin", its sidecar's. The last two are closed only where the listener was seen to be the
# sidecar's own.
# quarantine_findings = ["exposed-listener"]

# Names of the services that are acted on. Empty means all, but for ports on which root listens and ports that another
# registration names too: whoever may register one service could name those, so they are closed only for a service that
# stands here.
# quarantine_services = []

# Whether running connections to a sidecar's port end when the port closes because its registration has gone for
# close_delay. Needs connection tracking.
# cut_on_close = false


# ---- Exemptions -----------------------------------------------------------------------------------------------------

# A finding that you mean to be so: it is still listed, as "exempt" and with the reason, but it is no warning any more, and
# quarantine leaves its port alone. It opens nothing: what guard mode closes stays closed. One block each, at most 400, in any
# of the files. There is no default: this one is an example. Of service, port and executable at least one must stand there,
# and the finding has to meet all that do; a key that no such finding has is refused: of duplicate-port, name the port.
# exempt {
# The finding's id, as "hostagent scan" names it. Findings about the host as a whole cannot be exempted.
#   finding = "exposed-listener"

# Name of the service that the finding is about. A registration may take any name, so add the port where that matters.
#   service = "web"

# Port that the finding is about. Whoever gets hold of the port is exempt.
#   port = 8080

# Path of the program that listens, of every process that holds the socket, as /proc/PID/exe tells it. A program that was
# replaced on disk while it runs still counts; while the processes cannot be seen, nothing is exempt. Any user of this host
# can run what he likes under any path: where users do not trust each other, add service and port.
#   executable = "/usr/bin/node_exporter"

# Why, in one line of at most 200 characters. It is shown with the finding, in Consul too.
#   reason = "scraped by Prometheus until the migration"

# "firewall" where a firewall elsewhere keeps the network from the listener, such as a security group. Only for
# findings whose id begins with "exposed-". The production checklist then warns of it, because nobody on this host sees that.
#   because = "firewall"

# The last day on which the exemption holds, in UTC. From the next day on the finding is what it was, and says so. Without
# it the exemption holds for good.
#   expires = "2027-01-31"
# }


# ---- Times ----------------------------------------------------------------------------------------------------------

# How long a port stays open after its registration has gone, 1s to 1h. Covers reloads and restarts of the agent, during
# which registrations vanish for a moment. Longer where deployments take their time, shorter where ports are reused fast.
# close_delay = "30s"

# How often registrations and listeners are looked at, 200ms to 10s. Raise it on hosts with thousands of services. TCP
# listeners are heard of as they appear, too, where hostagent has CAP_BPF and CAP_NET_ADMIN; hostagent status says where
# it has not.
# poll_interval = "1s"

# How often the kernel's rules and sets are compared with what they should be, 1s to 10m. What somebody else changed in a
# set of ipset is put back then; changes of rules are heard of as they happen, and put back at once.
# check_interval = "5s"

# How much is logged: "debug", "info", "warn" or "error".
# log_level = "info"

# How log lines are written: "text" (key=value) or "json". In the journal they carry priorities and no time stamps.
# log_format = "text"

# Where the ports of the last run are kept for the next start of the host, before Consul is up. Empty keeps nothing.
# state_dir = "/var/lib/hostagent"


# ---- Settings for a fleet -------------------------------------------------------------------------------------------

# Settings that many hosts share can lie in Consul's KV: one write there reaches all of them within seconds. They stand under
# the files. A value that a file of this host sets wins, and a list that a file sets, an empty one too, replaces theirs;
# exemptions of both count, those of the files first.
#
# Each key below kv_prefix whose name ends in ".hcl" is a document in the language of this file. Several are read in the order
# of their keys and merge as files do: at most 100, of 512 KiB together. Folders without a value may be there, and no other
# keys.
#
# What may stand there: exempt blocks, allow_from, close_delay, and of the block report enabled, detail and spread. Only with
# kv_may_enforce: mode, enforce, and of the block report on, status, warning_services and critical_services. Nothing else,
# ever: no ports, ranges, services, gateways, backends, addresses or tokens.
#
# Documents count all together or not at all. Where one of them has a mistake, sets what it may not set, or contradicts a file
# of this host, all are refused, the last good ones stand, and hostagent's own check says why. So try a document before it is
# written, best with the files of a host that will read it, and write it only if nobody else has changed it meanwhile (the
# index is that of "consul kv get -detailed", 0 for a key that is not there yet):
#
#   "hostagent config validate --kv all.hcl && consul kv put -cas -modify-index=N hostagent/all.hcl @all.hcl"
#
# Hosts read and never write: their tokens need key_prefix "hostagent/" { policy = "list" }, which reads and lists, and which
# "hostagent acl-policy" adds. Keep at least one key below the prefix: a question for an empty one is answered at every write
# anywhere in the KV.
# Whoever has policy = "write" there decides for every host that reads it: exemptions silence findings, allow_from lets callers
# in or keeps them out where no file sets it, and report takes results out of sight. That right belongs to those who may change
# the configuration of every host, and into no token of a host, a service or a deployment. Without ACLs, or with their default
# policy "allow", everybody who reaches an agent has it: then leave kv_prefix empty. What stands there can be read by whoever
# may read the prefix.

# Where documents lie, such as "hostagent/": at most 200 bytes, without "/" at its beginning and with one at its end, because
# "hostagent" would stand for the keys of "hostagent-other/" too. Hosts that need other settings have another prefix. Empty
# asks for nothing. With allow_from = ["cluster"] in a document the token needs what that needs in a file.
# kv_prefix = ""

# Whether documents may also say what hostagent does to a host and its services: turn guard mode and quarantine on and off, on
# quarantine_ports of the files and no others, and let results take services out of discovery. Without it an exemption from
# there leaves a quarantined port closed; with it the port is left alone, as with one of a file. Where it is false, a document
# that says any of this is refused, and all others with it.
# kv_may_enforce = false


# ---- Firewall -------------------------------------------------------------------------------------------------------

# firewall {
# What holds rules and sets: "iptables" (with ipset), "nftables" (a table of its own, inet hostagent), or "auto" for iptables
# where it and ip_set can be had, else nftables.
#   backend = "auto"

# Where the rule stands that lets the network reach open ports:
#   "head"        at the head of the filter table's INPUT, before every rule of the host, fail2ban's too
#   "chain NAME"  at the head of this chain, when the host's rules have a place for it
#   "none"        nowhere: the host's own rules admit the ports, hostagent only closes
# In nftables no accept of one table stands against a drop of another: with that backend this has no effect.
#   accept = "head"

# Which iptables holds the rules: "nft", "legacy", or "auto" for the one that the host's own rules are in. Name it where
# both hold rules.
#   iptables_variant = "auto"

# A set of your own nftables ruleset, "inet filter NAME", that is kept equal to the open ports, so that a rule of yours can
# accept them. It must exist, with "type inet_service". Ports of exposed_paths_from are not put into it, because such a rule
# would let in everybody. Empty keeps none.
#   publish_set = ""
# }


# ---- Consul ---------------------------------------------------------------------------------------------------------

# How to reach the agent of this host. The variables that stand over these keys are named with them.
# consul {
# http://, https:// or unix:// address, or host and port alone (CONSUL_HTTP_ADDR; CONSUL_HTTP_SSL makes it https).
#   address = "http://127.0.0.1:8500"

# ACL token (CONSUL_HTTP_TOKEN). Prefer token_file: this file is easily copied. Only one of the two may be set.
#   token = ""

# File that holds the token (CONSUL_HTTP_TOKEN_FILE). Let only root read it. It is read anew for every request, so a token
# put there counts at once. "hostagent acl-policy" prints the policy that the token needs.
#   token_file = ""

# Certificate authority that signed the agent's certificate, one file (CONSUL_CACERT) or a folder (CONSUL_CAPATH). Empty
# trusts what the system trusts; where both are set, the file counts alone. Files that are replaced while hostagent runs are
# taken over within a second, those of a folder within ten; while one is broken, what was read before stands.
#   ca_file = ""
#   ca_path = ""

# Client certificate and its key, for agents that verify their clients (CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY). Both or
# neither. They are taken over as soon as both were replaced.
#   cert_file = ""
#   key_file = ""

# Name that the agent's certificate must have, where it differs from the address (CONSUL_TLS_SERVER_NAME).
#   tls_server_name = ""

# Accepts any certificate of the agent (CONSUL_HTTP_SSL_VERIFY, the other way round). On this host "user" then has to prove
# the agent; whoever answers on another one gets the token: for trials only.
#   insecure_skip_verify = false

# Namespace and admin partition, for Consul Enterprise (CONSUL_NAMESPACE, CONSUL_PARTITION). Empty sends none; the
# Community Edition refuses them.
#   namespace = ""
#   partition = ""

# User that the agent runs as, a name or a number (--consul-user). Any user can listen on the agent's port while the agent is
# down: hostagent sends requests only to a process of this user, of root or of its own, unless TLS proves the agent. Empty
# is "consul", where that user exists.
#   user = ""

# Allows an agent of another host, or one at the address of a container of this host. Its registrations then decide about the
# ports of this one, and whose process answers is not known: use https.
#   allow_remote_agent = false

# Whether changes of the catalog wake hostagent, so that a new sidecar's port opens at once instead of at the next look. It
# costs one waiting request and needs no right but "agent:read"; while no server answers, poll_interval counts.
#   catalog_wakeup = true

# How long one request may take, 100ms to 20s. Raise it on hosts that are slow under load.
#   timeout = "5s"
# }


# ---- Reports --------------------------------------------------------------------------------------------------------

# Results are health checks of one service that hostagent registers for itself, unless "on" says otherwise. "hostagent
# reports" lists them, "hostagent reports remove" takes all away.
# report {
# Switches the service and its checks on. Without them results are seen on this host only, in "hostagent status", the log and
# metrics, and what an earlier run reported is taken away.
#   enabled = true

# Name of the service, a DNS label. The token needs "service:write" on it, and on nothing else. No other service may have it
# for its id: hostagent then says so and reports nothing. Before you change it while hostagent does not run, call "hostagent
# reports remove".
#   service_name = "hostagent"

# Which service holds the results of an application:
#   "hostagent"  hostagent's own: no application is touched
#   "service"    the application's. While it passes nothing changes. What a failing check does there (measured with Consul
#                1.21, the sidecar with its default check, which is an alias of the application's):
#                  "warning"   the application stays in DNS, but /v1/health/service/NAME?passing and ?passing of its
#                              sidecars leave it out, and mesh traffic through Consul's built-in proxy ends: callers find
#                              no instance
#                  "critical"  all of that, and DNS leaves it out, too
#                The token needs "service:write" on each of these services, which is the right to be that service in the
#                mesh; where it lacks that, the result stands on hostagent's own, and the log names the rule. Results do not
#                expire: when hostagent dies they stand until it runs again or "hostagent reports remove" takes them away,
#                and do not go after three days as those on its own service do.
#   on = "hostagent"

# Status that a result on an application's own service takes while something is wrong there (a finding that is a warning or
# worse, neither exempt nor closed by guard mode), "warning" or "critical", and applications that take the other one, by name.
#   status = "warning"
#   warning_services = []
#   critical_services = []

# How much the checks tell to whoever may read them in Consul: "full", or "counts" for the number of findings of each kind
# and of ports, without addresses, processes, other services and errors. Names and ids of checks name their service.
#   detail = "full"

# How long news may wait before it is written to Consul, 0s to 10m. A change that a whole fleet sees at once would otherwise
# have all hosts write at once; each waits a random part of this time. "auto" follows the number of members of this Consul
# datacenter, 250 of them a second: 4s for 1,000 hosts, 20s for 5,000, and nothing for less than 13, nor where the agent
# does not tell that number. A result that turns critical waits as well. Ports open and close without it, the first report
# comes within 10s, and the word that hostagent stops is never late.
#   spread = "auto"
# }


# ---- Metrics --------------------------------------------------------------------------------------------------------

# Metrics for Prometheus, over HTTP at /metrics.
# metrics {
# Where they are served, an IP address with a port such as "127.0.0.1:9521". Empty serves none.
#   address = ""

# Allows an address that is not on loopback. The metrics tell anybody who reaches it what is open and what is wrong here.
#   allow_network = false
# }
