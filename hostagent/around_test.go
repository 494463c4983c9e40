// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hostagent/hostagent/firewall"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/sockets"
)

// inhabit gives an input listeners with owners, one from each line: "tcp 0.0.0.0:80 uid=0 cg=5 | 7 nginx /usr/sbin/nginx
// nginx.service", with "8+9" for two processes, "-" for what is not known, and @ID for a container.
func inhabit(in *Input, texts ...string) {
	if in.Owners == nil {
		in.Owners = map[uint64]sockets.Owner{}
	}
	for _, text := range texts {
		socket, who, known := strings.Cut(text, " | ")
		l := listener(socket)
		l.CgroupID = 0
		for _, field := range strings.Fields(socket) {
			fmt.Sscanf(field, "cg=%d", &l.CgroupID)
		}
		l.Cookie = uint64(1000 + len(in.Listeners))
		in.Listeners = append(in.Listeners, l)
		if !known {
			continue
		}
		fields := append(strings.Fields(who), "-", "-", "-")
		owner := sockets.Owner{User: fmt.Sprint(l.UID)}
		for _, pid := range strings.Split(fields[0], "+") {
			p := sockets.Process{Name: fields[1], Exe: strings.Trim(fields[2], "-")}
			fmt.Sscan(pid, &p.PID)
			if p.PID != 0 {
				owner.Processes = append(owner.Processes, p)
			}
		}
		if id, is := strings.CutPrefix(fields[3], "@"); is {
			owner.Container, owner.Runtime = id, "docker"
		} else if fields[3] != "-" {
			owner.Unit = fields[3]
		}
		in.Owners[l.Cookie] = owner
	}
}

const (
	webAlone     = "tcp 127.0.0.1:8080 cg=5 | 7 web /usr/bin/web web.service"
	sidecarAlone = "tcp [::]:21000 uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"
)

// settled is a host with web behind its sidecar, and nothing else.
func settled(texts ...string) Input {
	in := base()
	in.Listeners = nil
	inhabit(&in, texts...)
	return in
}

// aroundDump writes the findings about listeners, with what they say of whose they are.
func aroundDump(r Result) string {
	var lines []string
	for _, f := range r.Findings {
		if f.Listener == nil {
			continue
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %s: %s; %s\n", f.Severity, f.ID, f.State, cmp.Or(f.ServiceID, "-"), f.Message, f.Remedy))
	}
	return strings.Join(lines, "")
}

// siblingOf is the finding of a listener of a unit, and of a process where that is another one than web or the unit is one.
func siblingOf(unit, listener string, process ...string) string {
	name, isProcess := strings.CutPrefix(unit, "process ")
	if !isProcess {
		name = "web"
	}
	if len(process) > 0 {
		name = process[0]
	}
	port := listener[strings.LastIndex(listener, ":")+1:]
	return fmt.Sprintf("warning exposed-sibling open web: %s, which runs web, also listens on %s: the network reaches it without mTLS and without intentions; "+
		"bind %s to 127.0.0.1, port %s; if the network is meant to reach it, exempt it with a reason\n", unit, listener, name, port)
}

func TestSiblings(t *testing.T) {
	for _, test := range []struct {
		name   string
		owners []string
		change func(in *Input)
		want   string
	}{
		{"alone", []string{webAlone, sidecarAlone}, nil, ""},

		// By process.
		{"the same process", []string{webAlone, sidecarAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web /usr/bin/web web.service"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"on loopback", []string{webAlone, "tcp 127.0.0.1:9102 cg=5 | 7 web /usr/bin/web web.service"}, nil, ""},
		{"UDP", []string{webAlone, "udp 0.0.0.0:9102 cg=5 | 7 web /usr/bin/web web.service"}, nil, ""},
		{"on an own address, beside the loopback", []string{webAlone, "tcp 10.9.9.9:8080 cg=5 | 7 web /usr/bin/web web.service"}, nil,
			siblingOf("process web", "tcp 10.9.9.9:8080")},
		{"workers that share a socket", []string{"tcp 127.0.0.1:8080 | 7+70 web - -", "tcp 0.0.0.0:9102 | 70+71 web - -"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"several sockets on one address", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service", "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"of a process that nobody can name", []string{"tcp 127.0.0.1:8080 | 7  - -", "tcp 0.0.0.0:9102 | 7 \x1b[31m - -"}, nil,
			siblingOf(`process \u001b[31m`, "tcp 0.0.0.0:9102")},
		{"another process in a session", []string{"tcp 127.0.0.1:8080 | 7 web /w session-1.scope", "tcp 0.0.0.0:9102 | 9 web /w session-1.scope"}, nil, ""},
		{"an owner out of sight", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | - - - web.service"}, nil,
			siblingOf("unit web.service", "tcp 0.0.0.0:9102", "the application")},
		{"owners out of sight", []string{"tcp 127.0.0.1:8080 | - - - -", "tcp 0.0.0.0:9102 | - - - -"}, nil, ""},
		{"owners that were not looked up", []string{"tcp 127.0.0.1:8080 cg=5", "tcp 0.0.0.0:9102 cg=5"}, nil, ""},
		{"in the sidecar range", []string{webAlone, "tcp 0.0.0.0:21007 cg=5 | 7 web - -"}, nil,
			"warning squatted-port open -: tcp 0.0.0.0:21007 is in the sidecar range and no registered sidecar explains it; " +
				"stop web or move it out of 21000-21255: Consul hands these ports out without looking whether they are free\n"},
		{"held by the guard", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web - -"}, func(in *Input) { in.Enforced = firewall.Ports(9102) },
			strings.NewReplacer("warning", "info", "open", "mitigated", "the network reaches it without mTLS and without intentions", "only hostagent's guard keeps the network from it").
				Replace(siblingOf("process web", "tcp 0.0.0.0:9102"))},
		{"over IPv6 alone", []string{webAlone, "tcp [::]:9102 v6only cg=5 | 7 web - -"}, nil,
			strings.Replace(siblingOf("process web", "tcp [::]:9102"), "127.0.0.1", "::1", 1)},

		// By unit.
		{"another process of the unit", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 9 web-helper /usr/bin/helper web.service"}, nil,
			siblingOf("unit web.service", "tcp 0.0.0.0:9102", "web-helper")},
		{"another user's process of the unit", []string{webAlone, "tcp 0.0.0.0:9102 uid=1 cg=5 | 9 web /usr/bin/web (deleted) web.service"}, nil, ""},
		{"another user's, of the same program", []string{webAlone, "tcp 0.0.0.0:9102 uid=1 cg=5 | 9 web /usr/bin/web web.service"}, nil,
			siblingOf("unit web.service", "tcp 0.0.0.0:9102")},
		{"another user's, of another program", []string{webAlone, "tcp 0.0.0.0:9102 uid=1 cg=5 | 9 nginx /usr/sbin/nginx web.service"}, nil, ""},
		{"a unit of the same name of another user", []string{webAlone, "tcp 0.0.0.0:9102 cg=55 | 9 web /usr/bin/web web.service"}, nil, ""},
		{"a unit whose cgroup is not known", []string{"tcp 127.0.0.1:8080 | 7 web /w web.service", "tcp 0.0.0.0:9102 | 9 web /w web.service"}, nil,
			siblingOf("unit web.service", "tcp 0.0.0.0:9102")},
		{"a unit whose cgroup is not known, of another user", []string{"tcp 127.0.0.1:8080 | 7 web /w web.service", "tcp 0.0.0.0:9102 uid=1 | 9 web /w web.service"}, nil, ""},
		{"another unit", []string{webAlone, "tcp 0.0.0.0:9102 cg=55 | 9 web /usr/bin/web other.service"}, nil, ""},
		{"another instance", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w web@1.service", "tcp 0.0.0.0:9102 cg=6 | 9 web /w web@2.service"}, nil, ""},
		{"a supervisor", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w supervisor.service", "tcp 0.0.0.0:9102 cg=5 | 9 web /w supervisor.service"}, nil, ""},
		{"a supervisor's own process", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w supervisor.service", "tcp 0.0.0.0:9102 cg=5 | 7 web /w supervisor.service"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"a unit of pm2", []string{"tcp 127.0.0.1:8080 cg=5 | 7 node /w pm2-deploy.service", "tcp 0.0.0.0:9102 cg=5 | 9 node /w pm2-deploy.service"}, nil, ""},
		{"a unit in which two applications live", []string{
			"tcp 127.0.0.1:8080 cg=5 | 7 node /w all.service", "tcp 127.0.0.1:8081 cg=5 | 9 node /w all.service", "tcp 0.0.0.0:9102 cg=5 | 10 node /w all.service",
		}, func(in *Input) { in.Registrations = append(in.Registrations, app("api", 8081), sidecar("api", 21001)) }, ""},
		{"two applications in one process", []string{
			"tcp 127.0.0.1:8080 cg=5 | 7 node /w all.service", "tcp 127.0.0.1:8081 cg=5 | 7 node /w all.service", "tcp 0.0.0.0:9102 cg=5 | 10 node /w all.service",
		}, func(in *Input) { in.Registrations = append(in.Registrations, app("api", 8081), sidecar("api", 21001)) },
			siblingOf("unit all.service", "tcp 0.0.0.0:9102", "node")},
		{"application and sidecar in one unit", []string{
			"tcp 127.0.0.1:8080 cg=5 | 7 web /w all.service", "tcp [::]:21000 cg=5 | 8 envoy /e all.service",
			"tcp 0.0.0.0:9102 cg=5 | 10 helper /h all.service", "tcp 0.0.0.0:9103 cg=5 | 7 web /w all.service",
		}, nil, siblingOf("process web", "tcp 0.0.0.0:9103")},

		// By container.
		{"a container", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w @ab12", "tcp 0.0.0.0:9102 uid=0 cg=5 | 9 helper /h @ab12"}, nil,
			siblingOf("container ab12 (docker)", "tcp 0.0.0.0:9102", "helper")},
		{"another container", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w @ab12", "tcp 0.0.0.0:9102 cg=6 | 9 web /w @ab13"}, nil, ""},
		{"a container with the sidecar", []string{
			"tcp 127.0.0.1:8080 cg=5 | 7 web /w @ab12", "tcp [::]:21000 cg=5 | 8 envoy /e @ab12", "tcp 0.0.0.0:9102 cg=5 | 9 helper /h @ab12",
		}, nil, ""},
		{"sshd in a container", []string{"tcp 127.0.0.1:8080 cg=5 | 7 web /w @ab12", "tcp 0.0.0.0:2222 cg=5 | 9 sshd /s @ab12"}, nil, ""},

		// Sockets that somebody holds for others.
		{"systemd's", []string{"tcp 127.0.0.1:8080 uid=0 | 1 systemd - init.scope", "tcp 0.0.0.0:9102 uid=0 | 1 systemd - init.scope"}, nil, ""},
		{"systemd's and the unit's", []string{"tcp 127.0.0.1:8080 uid=0 cg=3 | 1+7 web - web.service", "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"docker-proxy", []string{"tcp 127.0.0.1:8080 uid=0 | 7 docker-proxy /d docker.service", "tcp 0.0.0.0:9102 uid=0 | 7 docker-proxy /d docker.service"}, nil, ""},
		{"rootless containers", []string{"tcp 127.0.0.1:8080 | 7 rootlessport - user.slice", "tcp 0.0.0.0:9102 | 7 rootlessport - user.slice"}, nil, ""},
		{"ssh's forwards", []string{"tcp 127.0.0.1:8080 | 7 sshd - session-1.scope", "tcp 0.0.0.0:9102 | 7 sshd - session-1.scope"}, nil, ""},

		// Others'.
		{"another registered service of the process", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service"},
			func(in *Input) { in.Registrations = append(in.Registrations, app("web-metrics", 9102)) }, ""},
		{"a port that another sidecar claims", []string{webAlone, "tcp 0.0.0.0:9443 cg=5 | 7 web - web.service"},
			func(in *Input) { in.Registrations = append(in.Registrations, sidecar("api", 9443)) }, ""},
		{"Consul's, of its own agent", []string{"tcp 127.0.0.1:8500 cg=5 | 7 consul /c consul.service", "tcp 0.0.0.0:8301 cg=5 | 7 consul /c consul.service"},
			func(in *Input) {
				in.Registrations = []consul.Registration{app("ui", 8500), sidecar("ui", 21000)}
				in.Agent.Ports["serf_lan"] = 8301
			}, ""},
		{"a container's published port", []string{"tcp 127.0.0.1:8080 uid=0 | 7 dockerd2 - -", "tcp 0.0.0.0:9102 uid=0 | 7 dockerd2 - -"},
			func(in *Input) { in.Host = &Host{Published: []firewall.Published{{First: 9102, Last: 9102}}} }, ""},
		{"the sidecar's process", []string{webAlone, sidecarAlone, "tcp 0.0.0.0:9102 uid=2000 cg=6 | 8 envoy - -"},
			func(in *Input) { in.Registrations[1].Proxy.MetricsPorts = []int{9102} }, ""},
		{"outside the mesh", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service"},
			func(in *Input) { in.Registrations = in.Registrations[:1] }, ""},
		{"outside the mesh, where everything belongs into it", []string{webAlone, "tcp 0.0.0.0:9102 cg=5 | 7 web - web.service"},
			func(in *Input) {
				in.Registrations, in.Policy.AllServices = in.Registrations[:1], true
				in.Registrations[0].Address = "127.0.0.1"
			}, siblingOf("process web", "tcp 0.0.0.0:9102")},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := settled(test.owners...)
			if test.change != nil {
				test.change(&in)
			}
			want(t, "findings", test.want, aroundDump(Evaluate(in)))
			if test.want != "" && strings.Contains(test.want, "exposed-sibling") {
				if !slices.ContainsFunc(Evaluate(in).Services, func(s Service) bool { return len(s.Listeners) == 2 }) {
					t.Error("no service has two listeners")
				}
			}
			asked(t, in)
		})
	}
}

// asked wants everything that was judged by owners to be found in two rounds, as a pass has them: Evaluate without owners
// has to ask for all that matter.
func asked(t *testing.T, in Input) {
	t.Helper()
	blind := in
	blind.Owners = nil
	known := map[uint64]sockets.Owner{}
	for _, l := range Evaluate(blind).Suspects {
		if owner, ok := in.Owners[l.Cookie]; ok {
			known[l.Cookie] = owner
		}
	}
	whole := aroundDump(Evaluate(in))
	in.Owners = known
	want(t, "with the owners that were asked for", whole, aroundDump(Evaluate(in)))
}

func upstreamOf(upstream, listener, fix string) string {
	return fmt.Sprintf("critical exposed-upstream open web: the sidecar of web listens for upstream %[1]s on %[2]s: whoever reaches it calls %[1]s as web; %[3]s\n",
		upstream, listener, fix)
}

func TestUpstreams(t *testing.T) {
	const (
		rebind  = `register upstream db with local_bind_address = "127.0.0.1", or without it`
		restart = "restart the sidecar: upstream db is registered to listen on 127.0.0.1"
	)
	envoyOn := func(address string) string {
		return "tcp " + address + " uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"
	}
	for _, test := range []struct {
		name     string
		upstream consul.Upstream
		owners   []string
		want     string
	}{
		{"on the network", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{webAlone, sidecarAlone, envoyOn("0.0.0.0:9191")},
			upstreamOf("db", "tcp 0.0.0.0:9191", rebind)},
		{"on both versions of IP", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, envoyOn("[::]:9191")},
			upstreamOf("db", "tcp [::]:9191", rebind)},
		{"on loopback", consul.Upstream{Name: "db", Port: 9191}, []string{sidecarAlone, envoyOn("127.0.0.1:9191")}, ""},
		{"registered for the network, on loopback", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, envoyOn("127.0.0.1:9191")}, ""},
		{"registered for the network, and not there", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone}, ""},
		{"registered for loopback, on the network", consul.Upstream{Name: "db", Port: 9191}, []string{sidecarAlone, envoyOn("0.0.0.0:9191")},
			upstreamOf("db", "tcp 0.0.0.0:9191", restart)},
		{"registered for loopback, somebody's on the network", consul.Upstream{Name: "db", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191 | 9 other - -"}, ""},
		{"registered for the network, somebody else's", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191 | 9 other - -"}, ""},
		{"registered for the network, nobody knows whose", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191"},
			upstreamOf("db", "tcp 0.0.0.0:9191", rebind)},
		{"registered for loopback, nobody knows whose", consul.Upstream{Name: "db", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191"}, ""},
		{"registered by name, nobody knows whose", consul.Upstream{Name: "db", Address: "host.internal", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191"}, ""},
		{"registered for another address, nobody knows whose", consul.Upstream{Name: "db", Address: "10.0.0.1", Port: 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191"}, ""},
		{"registered for an address, nobody knows whose", consul.Upstream{Name: "db", Address: "10.0.0.1", Port: 9191}, []string{sidecarAlone, "tcp 10.0.0.1:9191"},
			upstreamOf("db", "tcp 10.0.0.1:9191", rebind)},
		{"the sidecar is not there", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{envoyOn("0.0.0.0:9191")},
			upstreamOf("db", "tcp 0.0.0.0:9191", rebind)},
		{"published for a container", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191},
			[]string{"tcp [::]:21000 uid=0 | 8 docker-proxy - docker.service", "tcp 0.0.0.0:9191 uid=0 | 9 docker-proxy - docker.service"},
			upstreamOf("db", "tcp 0.0.0.0:9191", rebind)},
		{"several users on the sidecar's port", consul.Upstream{Name: "db", Port: 9191},
			[]string{envoyOn("10.0.0.1:21000"), "tcp 10.0.0.2:21000 uid=3 | 9 other - -", envoyOn("0.0.0.0:9191")},
			"warning squatted-port open -: tcp 10.0.0.1:21000 is in the sidecar range and several users listen on it (uids 3 2000); stop envoy or move it out of 21000-21255: Consul hands these ports out without looking whether they are free\n" +
				"warning squatted-port open -: tcp 10.0.0.2:21000 is in the sidecar range and several users listen on it (uids 3 2000); stop other or move it out of 21000-21255: Consul hands these ports out without looking whether they are free\n"},
		{"in the sidecar range", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 21007}, []string{sidecarAlone, envoyOn("0.0.0.0:21007")},
			upstreamOf("db", "tcp 0.0.0.0:21007", rebind)},
		{"somebody else's in the sidecar range", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 21007}, []string{sidecarAlone, "tcp 0.0.0.0:21007 | 9 other - -"},
			"warning squatted-port open -: tcp 0.0.0.0:21007 is in the sidecar range and no registered sidecar explains it; stop other or move it out of 21000-21255: Consul hands these ports out without looking whether they are free\n"},
		{"without a name", consul.Upstream{Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, envoyOn("0.0.0.0:9191")},
			upstreamOf("on port 9191", "tcp 0.0.0.0:9191", strings.Replace(rebind, "db", "on port 9191", 1))},
		{"that is no port", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 65536 + 9191}, []string{sidecarAlone, "tcp 0.0.0.0:9191"}, ""},
		{"on a unix socket", consul.Upstream{Name: "db"}, []string{sidecarAlone}, ""},
		{"UDP", consul.Upstream{Name: "db", Address: "0.0.0.0", Port: 9191}, []string{sidecarAlone, "udp 0.0.0.0:9191 uid=2000 cg=6 | 8 envoy - -"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := settled(test.owners...)
			in.Registrations[1].Proxy.Upstreams = []consul.Upstream{test.upstream}
			want(t, "findings", test.want, aroundDump(Evaluate(in)))
			asked(t, in)
		})
	}
}

func TestAdmin(t *testing.T) {
	also := func(listener, fix string) string {
		return "critical exposed-admin open web: the sidecar of web also listens on " + listener + ", which no registration explains: the network reaches it; bind it to 127.0.0.1" + fix + "\n"
	}
	administered := func(port int) string {
		return fmt.Sprintf("critical exposed-admin open web: the sidecar of web can be administered at tcp 0.0.0.0:%d: the network reaches it; "+
			"bind it to 127.0.0.1 (consul connect envoy -admin-bind 127.0.0.1:%[1]d)\n", port)
	}
	const envoy = " uid=2000 cg=6 | 8 envoy /usr/bin/envoy web-proxy.service"
	for _, test := range []struct {
		name   string
		owners []string
		change func(p *consul.Proxy, in *Input)
		want   string
	}{
		{"Envoy's default", []string{sidecarAlone, "tcp 0.0.0.0:19000" + envoy}, nil, administered(19000)},
		{"Envoy's second", []string{sidecarAlone, "tcp 0.0.0.0:19001" + envoy}, nil, administered(19001)},
		{"on loopback", []string{sidecarAlone, "tcp 127.0.0.1:19000" + envoy}, nil, ""},
		{"another listener of Envoy's", []string{sidecarAlone, "tcp 0.0.0.0:8443" + envoy}, nil, also("tcp 0.0.0.0:8443", " (consul connect envoy -admin-bind 127.0.0.1:8443)")},
		{"the built-in proxy's profiles", []string{"tcp [::]:21000 | 8 consul /c -", "tcp [::]:6060 | 8 consul /c -"}, nil,
			also("tcp [::]:6060", " (consul connect proxy -pprof-addr 127.0.0.1:6060)")},
		{"of a version", []string{"tcp [::]:21000 | 8 consul-1.21.0 /c -", "tcp [::]:6060 v6only | 8 consul-1.21.0 /c -"}, nil,
			strings.Replace(also("tcp [::]:6060", " (consul connect proxy -pprof-addr [::1]:6060)"), "127.0.0.1", "::1", 1)},
		{"of another program of Consul's", []string{"tcp [::]:21000 | 8 consul-dataplan /c -", "tcp [::]:20600 | 8 consul-dataplan /c -"}, nil, also("tcp [::]:20600", "")},
		{"another proxy's", []string{"tcp [::]:21000 | 8 haproxy /h -", "tcp 0.0.0.0:6060 | 8 haproxy /h -"}, nil, also("tcp 0.0.0.0:6060", "")},
		{"another process of its unit", []string{sidecarAlone, "tcp 0.0.0.0:19000 uid=2000 cg=6 | 9 envoy /usr/bin/envoy web-proxy.service"}, nil, ""},
		{"Envoy of nobody", []string{sidecarAlone, "tcp 0.0.0.0:19000 uid=2001 | 9 envoy /usr/bin/envoy edge.service"}, nil, ""},
		{"where the sidecar really listens", []string{"tcp [::]:20000" + envoy, "tcp [::]:21000" + envoy, "tcp 0.0.0.0:19000" + envoy},
			func(p *consul.Proxy, _ *Input) { p.BindPort = 20000 }, administered(19000)},
		{"exposed paths", []string{sidecarAlone, "tcp 0.0.0.0:21500" + envoy}, func(p *consul.Proxy, _ *Input) { p.ExposedPorts = []int{21500} }, ""},
		{"statistics", []string{sidecarAlone, "tcp 0.0.0.0:20200" + envoy}, func(p *consul.Proxy, _ *Input) { p.MetricsPorts = []int{20200} }, ""},
		{"exposed checks", []string{sidecarAlone, "tcp 0.0.0.0:21500" + envoy, "tcp 0.0.0.0:21756" + envoy}, func(p *consul.Proxy, in *Input) {
			p.ExposesChecks, in.Agent.ExposeMin, in.Agent.ExposeMax = true, 21500, 21755
		}, also("tcp 0.0.0.0:21756", " (consul connect envoy -admin-bind 127.0.0.1:21756)")},
		{"no checks are exposed", []string{sidecarAlone, "tcp 0.0.0.0:21500" + envoy}, func(_ *consul.Proxy, in *Input) {
			in.Agent.ExposeMin, in.Agent.ExposeMax = 21500, 21755
		}, also("tcp 0.0.0.0:21500", " (consul connect envoy -admin-bind 127.0.0.1:21500)")},
		{"another service's word for it", []string{sidecarAlone, "tcp 0.0.0.0:19000" + envoy}, func(_ *consul.Proxy, in *Input) {
			evil := sidecar("evil", 21009)
			evil.Proxy.MetricsPorts = []int{19000}
			in.Registrations = append(in.Registrations, evil, app("evil", 19000))
		}, administered(19000) +
			"warning exposed-listener open evil: evil listens on tcp 0.0.0.0:19000: the network reaches it without mTLS and without intentions; in its listener (or admin block) set socket_address: { address: 127.0.0.1, port_value: 19000 } and restart Envoy; only its sidecar should be able to call it\n"},
		{"another sidecar of the same process", []string{sidecarAlone, "tcp [::]:21001" + envoy, "tcp 0.0.0.0:20200" + envoy}, func(_ *consul.Proxy, in *Input) {
			api := sidecar("api", 21001)
			api.Proxy.MetricsPorts = []int{20200}
			in.Registrations = append(in.Registrations, app("api", 8081), api)
		}, ""},
		{"in the sidecar range", []string{sidecarAlone, "tcp 0.0.0.0:21050" + envoy}, nil, also("tcp 0.0.0.0:21050", " (consul connect envoy -admin-bind 127.0.0.1:21050)")},
		{"application and sidecar in one process", []string{"tcp 127.0.0.1:8080 | 7 web /w -", "tcp [::]:21000 | 7 web /w -", "tcp 0.0.0.0:9102 | 7 web /w -"}, nil,
			siblingOf("process web", "tcp 0.0.0.0:9102")},
		{"a sidecar on a protected port", []string{"tcp 0.0.0.0:22 uid=0 | 8 dropbear /d -", "tcp 0.0.0.0:2222 uid=0 | 8 dropbear /d -"}, func(_ *consul.Proxy, in *Input) {
			in.Registrations[1].Port = 22
		}, ""},
		{"published for a container", []string{"tcp [::]:21000 uid=0 | 8 docker-proxy - docker.service", "tcp 0.0.0.0:19000 uid=0 | 8 docker-proxy - docker.service"}, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := settled(test.owners...)
			if test.change != nil {
				test.change(in.Registrations[1].Proxy, &in)
			}
			want(t, "findings", test.want, aroundDump(Evaluate(in)))
			asked(t, in)
		})
	}
}
