// SPDX-License-Identifier: MPL-2.0

package catalog

import (
	"regexp"
	"strings"
	"testing"
)

func TestFindServer(t *testing.T) {
	for _, test := range []struct {
		exe, name, unit string
		port            uint16
		want            string // the remedy, "" for none
	}{
		{"/usr/lib/postgresql/15/bin/postgres", "postgres", "postgresql@15-main.service", 5432, "in /etc/postgresql/*/main/postgresql.conf set listen_addresses = '{loopback}' and restart PostgreSQL"},
		{"/usr/bin/redis-check-rdb", "redis-server", "", 6379, "in /etc/redis/redis.conf set bind {loopback} and restart Redis"},
		{"/usr/sbin/nginx (deleted)", "nginx", "", 80, "in the server block in /etc/nginx/sites-enabled set listen {address} and restart nginx"},
		{"", "nginx", "", 80, "in the server block in /etc/nginx/sites-enabled set listen {address} and restart nginx"}, // out of sight
		{"/opt/app", "nginx", "nginx.service", 80, ""}, // what calls itself nginx
		{"/usr/sbin/php-fpm8.2", "php-fpm8.2", "", 9000, "in /etc/php/*/fpm/pool.d/www.conf set listen = {address} and restart PHP-FPM"},
		{"/usr/sbin/apache2", "apache2", "", 80, "in /etc/apache2/ports.conf set Listen {address} and restart Apache"},
		{"/usr/bin/nginx-agent", "nginx-agent", "", 80, ""}, // begins with a name
		{"/usr/sbin/mysqld", "mysqld", "", 33060, "in /etc/mysql/mysql.conf.d/mysqld.cnf set mysqlx-bind-address = {loopback} and restart MySQL"},
		{"/usr/bin/consul", "consul", "", 8300, ""}, // gossip and RPC are for the network
		{"/usr/bin/python3.11", "gunicorn: maste", "", 8000, "start gunicorn with --bind {address}"},
		{"/usr/bin/python3.11", "python3", "uvicorn.service", 8000, "start uvicorn with --host {loopback}"},
		{"/usr/bin/python3.11", "python3", "web.service", 8000, `have it listen on {address}: host="{loopback}" in its code, or --host or --bind where it takes that`},
		{"/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "java", "elasticsearch.service", 9200, "in /etc/elasticsearch/elasticsearch.yml set http.host: {loopback} and restart Elasticsearch"},
		{"/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "java", "tomcat10.service", 8080, `in its Connector in /etc/tomcat*/server.xml set address="{loopback}" and restart Tomcat`},
		{"/usr/lib/erlang/erts-13.1/bin/beam.smp", "beam.smp", "rabbitmq-server.service", 5672, "in /etc/rabbitmq/rabbitmq.conf set listeners.tcp.local = {address} and restart RabbitMQ"},
		{"/usr/lib/erlang/erts-13.1/bin/beam.smp", "beam.smp", "other.service", 4000, ""},
		{"/usr/sbin/docker-proxy", "docker-proxy", "", 8080, "publish the container's port as {address}:… (docker run -p, or ports: of its compose file)"},
		{"/usr/bin/app", "app", "", 8080, ""},
		{"", "", "", 8080, ""},
	} {
		server, ok := FindServer(test.exe, test.name, test.unit, test.port)
		got := ""
		if ok {
			got = server.Remedy(false)
		}
		if got != test.want {
			t.Errorf("%s (%s, %s) on %d: %q, want %q", test.exe, test.name, test.unit, test.port, got, test.want)
		}
	}
	server, _ := FindServer("/usr/bin/redis-server", "", "", 6379)
	if got := server.Remedy(true); got != "in /etc/redis/redis.conf of its container set bind {loopback} and restart Redis" {
		t.Errorf("in a container: %q", got)
	}
}

// TestServersAreComplete: each entry can be found, and what it says names where to listen.
func TestServersAreComplete(t *testing.T) {
	for _, s := range servers() {
		remedy := s.Remedy(false)
		if s.Name == "" || len(s.Programs)+len(s.Units) == 0 || s.Advice != "" && s.Setting != "" || s.File != "" && s.Setting == "" {
			t.Errorf("%q has no name, no way to be found, or not one remedy", s.Name)
		}
		if s.Advice == "" && s.Setting == "" {
			if !s.Interpreter {
				t.Errorf("%s has no remedy", s.Name)
			}
			continue
		}
		if !strings.Contains(remedy, "{loopback}") && !strings.Contains(remedy, "{address}") {
			t.Errorf("%s: %q names no address", s.Name, remedy)
		}
		for _, place := range regexp.MustCompile(`\{[a-z]+\}`).FindAllString(remedy, -1) {
			if place != "{loopback}" && place != "{address}" && place != "{port}" {
				t.Errorf("%s: nothing fills %s", s.Name, place)
			}
		}
		if rest := regexp.MustCompile(`\{(loopback|address|port)\}`).ReplaceAllString(remedy, ""); len([]rune(rest)) > 200 || rest != Clean(rest) {
			t.Errorf("%s: %q is long or not clean", s.Name, rest)
		}
	}
}

func FuzzFindServer(f *testing.F) {
	f.Add("/usr/bin/java", "java", "tomcat10.service", uint16(8080))
	f.Add("/", "gunicorn: \x1b", "@.service", uint16(0))
	f.Fuzz(func(t *testing.T, exe, name, unit string, port uint16) {
		if s, ok := FindServer(exe, name, unit, port); ok && s.Remedy(false) == "" {
			t.Errorf("%+v has no remedy", s)
		}
	})
}
