// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"path"
	"slices"
	"strings"
	"sync"
)

// Server is what the catalog knows of one well-known server: the setting that binds it to one address.
type Server struct {
	Name string // as its makers write it
	// Programs are the base names of its executables, or of the scripts that an interpreter runs. Digits, dots and dashes of a
	// version may follow.
	Programs []string
	// Units are the names of its systemd units, without suffix and instance, for servers that an interpreter runs.
	Units []string
	// Ports are those that Setting is about, where the server has others too; none: all of its ports.
	Ports []uint16
	// File is where Setting stands, as Debian or else the maker's package has it; "" for an option of the command line.
	File string
	// Setting holds placeholders: {loopback}, {port}, and {address} for both together, bracketed where that is due.
	Setting string
	// Advice is the whole remedy, for where File and Setting do not say it.
	Advice string
	// Interpreter tells that the program runs somebody else's code, and that Advice is no more than a hint.
	Interpreter bool
}

// Remedy is the phrase that mends where s listens, with placeholders for Render. It holds no {fix}. A server in a container
// has its files there.
func (s *Server) Remedy(inContainer bool) string {
	where := s.File
	if inContainer {
		where += " of its container"
	}
	switch {
	case s.Advice != "":
		return s.Advice
	case s.File == "":
		return "start " + s.Name + " with " + s.Setting
	}
	return "in " + where + " set " + s.Setting + " and restart " + s.Name
}

// FindServer tells which well-known server a process is that listens on port: by its executable, and where that is not to be
// seen by the name that it has given itself. What an interpreter runs it takes from that name or else from the systemd unit.
func FindServer(exe, name, unit string, port uint16) (Server, bool) {
	program := path.Base(strings.TrimSuffix(exe, " (deleted)"))
	if exe == "" {
		program = name
	}
	all := servers()
	found := func(match func(*Server) bool) *Server {
		for i := range all {
			if s := &all[i]; match(s) && (len(s.Ports) == 0 || slices.Contains(s.Ports, port)) {
				return s
			}
		}
		return nil
	}
	s := found(func(s *Server) bool { return slices.ContainsFunc(s.Programs, isVersionOf(program)) })
	if s == nil {
		return Server{}, false
	}
	if !s.Interpreter {
		return *s, true
	}
	script, _, _ := strings.Cut(name, ":") // "gunicorn: master"
	script, _, _ = strings.Cut(script, " ")
	if run := found(func(s *Server) bool { return !s.Interpreter && slices.ContainsFunc(s.Programs, isVersionOf(script)) }); run != nil {
		return *run, true
	}
	unit, _, _ = strings.Cut(strings.TrimSuffix(unit, ".service"), "@")
	if run := found(func(s *Server) bool { return slices.ContainsFunc(s.Units, isVersionOf(unit)) }); run != nil {
		return *run, true
	}
	return *s, s.Advice != ""
}

// isVersionOf returns what tells whether name is a program's, with or without a version: "php-fpm8.2" is php-fpm.
func isVersionOf(name string) func(program string) bool {
	return func(program string) bool {
		version, ok := strings.CutPrefix(name, program)
		return ok && strings.Trim(version, "0123456789.-") == ""
	}
}

// servers returns the table, which nobody changes. The first entry that fits is taken, so those for some ports come before
// those for all.
var servers = sync.OnceValue(func() []Server {
	return slices.Concat(databases(), webServers(), queues(), infrastructure(), interpreted(), interpreters())
})

func databases() []Server {
	return []Server{
		{Name: "PostgreSQL", Programs: []string{"postgres"}, File: "/etc/postgresql/*/main/postgresql.conf", Setting: "listen_addresses = '{loopback}'"},
		{Name: "PgBouncer", Programs: []string{"pgbouncer"}, File: "/etc/pgbouncer/pgbouncer.ini", Setting: "listen_addr = {loopback}"},
		{
			Name: "MySQL", Programs: []string{"mysqld"}, Ports: []uint16{33060},
			File: "/etc/mysql/mysql.conf.d/mysqld.cnf", Setting: "mysqlx-bind-address = {loopback}",
		},
		{Name: "MySQL", Programs: []string{"mysqld"}, File: "/etc/mysql/mysql.conf.d/mysqld.cnf", Setting: "bind-address = {loopback}"},
		{Name: "MariaDB", Programs: []string{"mariadbd"}, File: "/etc/mysql/mariadb.conf.d/50-server.cnf", Setting: "bind-address = {loopback}"},
		{Name: "Redis Sentinel", Programs: []string{"redis-sentinel"}, File: "/etc/redis/sentinel.conf", Setting: "bind {loopback}"},
		{
			// Debian's redis-server is a link to redis-check-rdb, and that is the executable that the kernel tells.
			Name: "Redis", Programs: []string{"redis-server", "redis-check-rdb"}, File: "/etc/redis/redis.conf", Setting: "bind {loopback}",
		},
		{Name: "Valkey", Programs: []string{"valkey-server", "valkey-check-rdb"}, File: "/etc/valkey/valkey.conf", Setting: "bind {loopback}"},
		{Name: "Memcached", Programs: []string{"memcached"}, File: "/etc/memcached.conf", Setting: "-l {loopback}"},
		{Name: "MongoDB", Programs: []string{"mongod"}, File: "/etc/mongod.conf", Setting: "net.bindIp: {loopback}"},
		{Name: "InfluxDB", Programs: []string{"influxd"}, Ports: []uint16{8086}, Advice: "in /etc/influxdb/influxdb.conf, section [http], set " +
			`bind-address = "{address}" (version 2: http-bind-address in /etc/influxdb/config.toml) and restart InfluxDB`},
		{
			Name: "ClickHouse", Programs: []string{"clickhouse", "clickhouse-server"},
			File: "a file of /etc/clickhouse-server/config.d", Setting: "<listen_host>{loopback}</listen_host>",
		},
		{Name: "VictoriaMetrics", Programs: []string{"victoria-metrics", "victoria-metrics-prod"}, Setting: "-httpListenAddr={address}"},
		{
			Name: "etcd", Programs: []string{"etcd"}, Ports: []uint16{2379, 4001},
			File: "/etc/default/etcd", Setting: `ETCD_LISTEN_CLIENT_URLS="http://{address}" (https where it speaks TLS; --listen-client-urls)`,
		},
		{Name: "OpenLDAP", Programs: []string{"slapd"}, Ports: []uint16{389}, File: "/etc/default/slapd", Setting: `SLAPD_SERVICES="ldap://{address}/ ldapi:///"`},
		{Name: "MinIO", Programs: []string{"minio"}, Ports: []uint16{9001}, File: "/etc/default/minio", Setting: `--console-address {address} in MINIO_OPTS`},
		{Name: "MinIO", Programs: []string{"minio"}, File: "/etc/default/minio", Setting: `--address {address} in MINIO_OPTS`},
	}
}

func webServers() []Server {
	return []Server{
		{Name: "nginx", Programs: []string{"nginx"}, File: "the server block in /etc/nginx/sites-enabled", Setting: "listen {address}"},
		{Name: "Apache", Programs: []string{"apache2", "httpd"}, File: "/etc/apache2/ports.conf", Setting: "Listen {address}"},
		{Name: "lighttpd", Programs: []string{"lighttpd"}, File: "/etc/lighttpd/lighttpd.conf", Setting: `server.bind = "{loopback}"`},
		{Name: "Caddy", Programs: []string{"caddy"}, File: "the site's block in /etc/caddy/Caddyfile", Setting: "bind {loopback}"},
		{Name: "HAProxy", Programs: []string{"haproxy"}, File: "/etc/haproxy/haproxy.cfg", Setting: "bind {address}"},
		{Name: "Traefik", Programs: []string{"traefik"}, File: "its entryPoints", Setting: `address: "{address}"`},
		{Name: "Envoy", Programs: []string{"envoy"}, File: "its listener (or admin block)", Setting: "socket_address: { address: {loopback}, port_value: {port} }"},
		{Name: "Varnish", Programs: []string{"varnishd", "cache-main"}, Setting: "-a {address}"},
		{Name: "Squid", Programs: []string{"squid"}, File: "/etc/squid/squid.conf", Setting: "http_port {address}"},
		{Name: "PHP-FPM", Programs: []string{"php-fpm"}, File: "/etc/php/*/fpm/pool.d/www.conf", Setting: "listen = {address}"},
		{Name: "uWSGI", Programs: []string{"uwsgi", "uwsgi-core"}, File: "the file in /etc/uwsgi/apps-enabled", Setting: "http-socket = {address}"},
		{Name: "Gitea", Programs: []string{"gitea"}, Ports: []uint16{3000, 80, 443}, File: "/etc/gitea/app.ini, section [server],", Setting: "HTTP_ADDR = {loopback}"},
	}
}

func queues() []Server {
	return []Server{
		{Name: "NATS", Programs: []string{"nats-server"}, Ports: []uint16{8222}, File: "/etc/nats-server.conf", Setting: "http: {address}"},
		{Name: "NATS", Programs: []string{"nats-server"}, Ports: []uint16{4222}, File: "/etc/nats-server.conf", Setting: "listen: {address}"},
		{Name: "Mosquitto", Programs: []string{"mosquitto"}, File: "/etc/mosquitto/mosquitto.conf", Setting: "listener {port} {loopback}"},
		{Name: "beanstalkd", Programs: []string{"beanstalkd"}, File: "/etc/default/beanstalkd", Setting: "BEANSTALKD_LISTEN_ADDR={loopback}"},
		{
			Name: "RabbitMQ", Units: []string{"rabbitmq-server", "rabbitmq"}, Ports: []uint16{15672},
			File: "/etc/rabbitmq/rabbitmq.conf", Setting: "management.tcp.ip = {loopback}",
		},
		{
			Name: "RabbitMQ", Units: []string{"rabbitmq-server", "rabbitmq"}, Ports: []uint16{5672},
			File: "/etc/rabbitmq/rabbitmq.conf", Setting: "listeners.tcp.local = {address}",
		},
		{Name: "Kafka", Units: []string{"kafka"}, Ports: []uint16{9092}, File: "its server.properties", Setting: "listeners=PLAINTEXT://{address}"},
		{Name: "ZooKeeper", Units: []string{"zookeeper"}, Ports: []uint16{2181}, File: "/etc/zookeeper/conf/zoo.cfg", Setting: "clientPortAddress={loopback}"},
	}
}

func infrastructure() []Server {
	return []Server{
		{Name: "Consul", Programs: []string{"consul"}, Ports: []uint16{8500, 8501, 8502, 8503, 8600}, File: "/etc/consul.d/consul.hcl", Setting: `client_addr = "{loopback}"`},
		{Name: "Vault", Programs: []string{"vault"}, Ports: []uint16{8200}, File: "/etc/vault.d/vault.hcl", Setting: `listener "tcp" { address = "{address}" }`},
		{Name: "Nomad", Programs: []string{"nomad"}, Ports: []uint16{4646}, File: "/etc/nomad.d/nomad.hcl", Setting: `addresses { http = "{loopback}" }`},
		{Name: "Prometheus", Programs: []string{"prometheus"}, File: "/etc/default/prometheus", Setting: "--web.listen-address={address} in ARGS"},
		{
			Name: "the node exporter", Programs: []string{"prometheus-node-exporter", "node_exporter"},
			File: "/etc/default/prometheus-node-exporter", Setting: "--web.listen-address={address} in ARGS",
		},
		{
			Name: "Alertmanager", Programs: []string{"prometheus-alertmanager", "alertmanager"}, Ports: []uint16{9093},
			File: "/etc/default/prometheus-alertmanager", Setting: "--web.listen-address={address} in ARGS",
		},
		{
			Name: "the exporter", Programs: []string{
				"prometheus-blackbox-exporter", "blackbox_exporter", "prometheus-mysqld-exporter", "mysqld_exporter",
				"prometheus-postgres-exporter", "postgres_exporter", "prometheus-pushgateway", "pushgateway", "consul_exporter",
			},
			Setting: "--web.listen-address={address}",
		},
		{Name: "Grafana", Programs: []string{"grafana", "grafana-server"}, File: "/etc/grafana/grafana.ini, section [server],", Setting: "http_addr = {loopback}"},
		{Name: "Loki", Programs: []string{"loki"}, Ports: []uint16{3100}, File: "/etc/loki/config.yml, section server,", Setting: "http_listen_address: {loopback}"},
		{Name: "dnsmasq", Programs: []string{"dnsmasq"}, File: "/etc/dnsmasq.conf", Setting: "listen-address={loopback} and bind-interfaces"},
		{Name: "the container", Programs: []string{"docker-proxy"}, Advice: "publish the container's port as {address}:… (docker run -p, or ports: of its compose file)"},
		{Name: "the container", Programs: []string{"conmon", "rootlessport"}, Advice: "publish the container's port as {address}:… (podman run -p)"},
		{
			// It holds the sockets of socket activation, and then the server has no word in where they are.
			Name: "systemd", Programs: []string{"systemd"}, Advice: "in its socket unit set ListenStream={address} (systemctl edit; an empty ListenStream= before it) and restart that",
		},
	}
}

// interpreted are servers whose executable is an interpreter.
func interpreted() []Server {
	return []Server{
		{Name: "gunicorn", Programs: []string{"gunicorn"}, Units: []string{"gunicorn"}, Setting: "--bind {address}"},
		{Name: "uvicorn", Programs: []string{"uvicorn"}, Units: []string{"uvicorn"}, Setting: "--host {loopback}"},
		{Name: "hypercorn", Programs: []string{"hypercorn"}, Setting: "--bind {address}"},
		{Name: "daphne", Programs: []string{"daphne"}, Setting: "-b {loopback}"},
		{Name: "Puma", Programs: []string{"puma"}, Units: []string{"puma"}, Setting: "-b tcp://{address}"},
		{Name: "Unicorn", Programs: []string{"unicorn"}, Setting: "-l {address}"},
		{Name: "Elasticsearch", Units: []string{"elasticsearch"}, Ports: []uint16{9200}, File: "/etc/elasticsearch/elasticsearch.yml", Setting: "http.host: {loopback}"},
		{Name: "OpenSearch", Units: []string{"opensearch"}, Ports: []uint16{9200}, File: "/etc/opensearch/opensearch.yml", Setting: "http.host: {loopback}"},
		{Name: "Cassandra", Units: []string{"cassandra"}, Ports: []uint16{9042}, File: "/etc/cassandra/cassandra.yaml", Setting: "rpc_address: {loopback}"},
		{Name: "Tomcat", Units: []string{"tomcat"}, File: "its Connector in /etc/tomcat*/server.xml", Setting: `address="{loopback}"`},
		{Name: "Jenkins", Units: []string{"jenkins"}, Ports: []uint16{8080}, File: "its unit (systemctl edit jenkins)", Setting: `Environment="JENKINS_LISTEN_ADDRESS={loopback}"`},
		{Name: "Solr", Units: []string{"solr"}, Ports: []uint16{8983}, File: "/etc/default/solr.in.sh", Setting: "SOLR_JETTY_HOST={loopback}"},
		{Name: "Keycloak", Units: []string{"keycloak"}, Ports: []uint16{8080}, File: "its conf/keycloak.conf", Setting: "http-host={loopback}"},
		{Name: "CouchDB", Units: []string{"couchdb"}, Ports: []uint16{5984}, File: "/opt/couchdb/etc/local.ini, section [chttpd],", Setting: "bind_address = {loopback}"},
	}
}

// interpreters run what nobody but its operator knows: these are hints.
func interpreters() []Server {
	return []Server{
		{Name: "Node.js", Programs: []string{"node", "nodejs", "bun", "deno"}, Interpreter: true, Advice: `have it listen on {address}: ` +
			`listen({port}, "{loopback}") in its code, or HOST={loopback} in its environment where it reads that`},
		{Name: "Python", Programs: []string{"python", "pypy"}, Interpreter: true, Advice: `have it listen on {address}: ` +
			`host="{loopback}" in its code, or --host or --bind where it takes that`},
		{Name: "Java", Programs: []string{"java"}, Interpreter: true, Advice: `have it listen on {address}: ` +
			`server.address={loopback} with Spring Boot, quarkus.http.host={loopback} with Quarkus`},
		{Name: ".NET", Programs: []string{"dotnet"}, Interpreter: true, Advice: `have it listen on {address}: ASPNETCORE_URLS=http://{address} in its environment`},
		{Name: "Ruby", Programs: []string{"ruby"}, Interpreter: true, Advice: `have it listen on {address}: ` +
			`-b {loopback} with rails server, bind "tcp://{address}" in config/puma.rb`},
		{Name: "PHP", Programs: []string{"php"}, Interpreter: true, Advice: `have it listen on {address}: php -S {address}`},
		{Name: "Erlang", Programs: []string{"beam.smp"}, Interpreter: true},
	}
}
