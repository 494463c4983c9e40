// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"testing"

	"github.com/hostagent/hostagent/sockets"
)

func TestExposedListenerNamesTheSetting(t *testing.T) {
	const sidecarOnly = "; only its sidecar should be able to call it"
	process := func(name, exe string) sockets.Process { return sockets.Process{PID: 7, Name: name, Exe: exe} }
	for name, test := range map[string]struct {
		v6only bool
		owner  *sockets.Owner
		want   string
	}{
		"nobody is seen": {want: "bind the application to 127.0.0.1, port 8080"},
		"unknown program": {
			owner: &sockets.Owner{Processes: []sockets.Process{process("app\x1b", "/opt/app")}},
			want:  `bind app\u001b to 127.0.0.1, port 8080`,
		},
		"well-known": {
			owner: &sockets.Owner{Processes: []sockets.Process{process("nginx", "/usr/sbin/nginx")}},
			want:  "in the server block in /etc/nginx/sites-enabled set listen 127.0.0.1:8080 and restart nginx",
		},
		"IPv6 only": {
			v6only: true,
			owner:  &sockets.Owner{Processes: []sockets.Process{process("nginx", "/usr/sbin/nginx")}},
			want:   "in the server block in /etc/nginx/sites-enabled set listen [::1]:8080 and restart nginx",
		},
		"in a container": {
			owner: &sockets.Owner{Container: "0123456789ab", Processes: []sockets.Process{process("redis-server", "/usr/bin/redis-server")}},
			want:  "in /etc/redis/redis.conf of its container set bind 127.0.0.1 and restart Redis",
		},
		"socket activation": {
			owner: &sockets.Owner{Processes: []sockets.Process{process("systemd", "/usr/lib/systemd/systemd"), process("nginx", "/usr/sbin/nginx")}},
			want:  "in its socket unit set ListenStream=127.0.0.1:8080 (systemctl edit; an empty ListenStream= before it) and restart that",
		},
		"a server started by an interpreter": {
			owner: &sockets.Owner{Processes: []sockets.Process{process("sh", "/usr/bin/python3.11"), process("gunicorn", "/usr/bin/python3.11")}},
			want:  "start gunicorn with --bind 127.0.0.1:8080",
		},
	} {
		in := base()
		in.Listeners[0] = listener("tcp 0.0.0.0:8080")
		if test.v6only {
			in.Listeners[0] = listener("tcp [::]:8080")
			in.Registrations[1].Proxy.LocalServiceAddress = "::1"
		}
		in.Listeners[0].V6Only = test.v6only
		if test.owner != nil {
			in.Owners = map[uint64]sockets.Owner{in.Listeners[0].Cookie: *test.owner}
		}
		want(t, name, test.want+sidecarOnly, Evaluate(in).Findings[0].Remedy)
	}
}
