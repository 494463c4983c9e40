// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hostagent/hostagent/test/host"
)

// docker is a Docker engine inside a box.
type docker struct {
	b       *box
	process *host.Process
	options string
	group   string // of the containers, below the root of the control groups
}

// docker starts an engine with an image "app" that holds test/app and nothing else.
func (b *box) docker(options string) *docker {
	b.t.Helper()
	d := &docker{b: b, options: options, group: "/" + strings.TrimSuffix(b.Local.Name, "-host")}
	b.t.Cleanup(func() { // before the host is closed: the engine ends in good order and takes its containers along
		_, _ = b.try("docker rm -f $(docker ps -aq)")
		if err := d.process.Stop(); err != nil {
			b.t.Error(err)
		}
		_, _ = b.try("find /sys/fs/cgroup" + d.group + " -depth -type d -exec rmdir {} +")
	})
	d.start()
	b.sh(`tar -C /usr/local/bin -c app | docker import -c 'ENTRYPOINT ["/app"]' - app`)
	return d
}

// start starts the engine and waits until it answers.
func (d *docker) start() {
	d.b.t.Helper()
	d.process = d.b.daemon("dockerd", "dockerd --data-root /var/lib/docker --exec-root /run/docker --pidfile /run/docker.pid "+
		"-H unix:///run/docker.sock --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "+d.group+" "+d.options)
	d.b.until("the Docker engine answers", func() error {
		if out, code := d.b.try("docker version"); code != 0 {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
}

// stop ends the engine, and its containers with it.
func (d *docker) stop() {
	d.b.t.Helper()
	d.b.must(d.process.Stop())
}

// runs starts a container that greets with its name on port 80, with options of docker run.
func (d *docker) runs(name, options string, listen ...string) {
	d.b.t.Helper()
	if len(listen) == 0 {
		listen = []string{"[::]:80"}
	}
	d.b.sh(fmt.Sprintf("docker run -d --restart always --name %s %s app -name %s -listen %s", name, options, name,
		strings.Join(listen, " -listen ")))
}

// dials tries a TCP connection from inside a container's network namespace and returns what it sees.
func (d *docker) dials(container, address string, port uint16) host.Reach {
	d.b.t.Helper()
	out, code := d.b.try(fmt.Sprintf("nsenter -t $(docker inspect -f '{{.State.Pid}}' %s) -n timeout 0.7 bash -c '</dev/tcp/%s/%d'",
		container, address, port))
	switch {
	case code == 0:
		return host.Open
	case code == 124:
		return host.Dropped
	case strings.Contains(out, "refused"):
		return host.Refused
	}
	d.b.t.Fatalf("from container %s to %s: exit code %d: %s", container, at(address, port), code, out)
	return ""
}

// published is where the container "box" is published.
const published = 8088

// works wants container "box" to be reached from the network, and to reach the network.
func (d *docker) works() {
	d.b.t.Helper()
	address := at(host.IPv4, published)
	d.b.until("the network reaches container box", func() error { return d.b.sees(address, host.Open) })
	d.b.greets(d.b.Net, address, "box")
	if got := d.dials("box", host.NetIPv4, 7000); got != host.Open {
		d.b.t.Errorf("from container box the network is %s", got)
	}
}

// iptablesVariant makes iptables of the root one variant.
func (b *box) iptablesVariant(variant string) {
	b.t.Helper()
	b.sh("update-alternatives --set iptables /usr/sbin/iptables-"+variant, "update-alternatives --set ip6tables /usr/sbin/ip6tables-"+variant)
}

// TestDocker: an engine that starts, stops and starts again beside a running guard finds its own rules undisturbed, and
// the guard stands all the time; a published port of the sidecar range is closed, whoever serves it.
func TestDocker(t *testing.T) {
	for _, test := range []struct{ name, variant, config, options string }{
		{"nft", "nft", nftVariant, ""},
		{"without its proxy", "nft", nftVariant, "--userland-proxy=false"},
		{"legacy", "legacy", legacyVariant, ""},
		{"nftables", "nft", nativeBackend, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			b.iptablesVariant(test.variant)
			b.mesh()
			b.appIn(b.Net, "net", "[::]:7000")
			b.guard(test.config)
			d := b.docker(test.options)
			b.settled()
			d.runs("box", fmt.Sprintf("-p %d:80", published))
			d.runs("sidecarport", "-p 21077:80")
			d.works()
			b.reaches(21077, host.Dropped)
			b.greets(b.Local, at(host.IPv4, 21077), "sidecarport") // it works, but not for the network

			open, closed := b.watchPort(sidecar, host.Open), b.watchPort(21077, host.Dropped)
			d.stop()
			b.settled()
			d.start()
			b.settled()
			d.works()
			b.until("container sidecarport is back", func() error {
				ctx, cancel := context.WithTimeout(b.ctx, time.Second)
				defer cancel()
				conn, err := b.Local.Dial(ctx, "tcp", at(host.IPv4, 21077))
				if err == nil {
					conn.Close()
				}
				return err
			})
			t.Logf("restart of Docker: %s; %s", open.report(heardWithin), closed.report(heardWithin))
			b.meshWorks()
			b.shared()
			if out, _ := b.try("hostagent firewall remove --stop"); !strings.HasPrefix(out, "stopped hostagent") {
				t.Errorf("firewall remove says %s", out)
			}
			d.works()
			b.reachesAt(host.IPv4, 21077, host.Open)
		})
	}
}

// shared wants the published port to be reported, and to be known as closed by the guard.
func (b *box) shared() {
	b.t.Helper()
	err := b.waitUntil("range-shared is found", 10*time.Second, func() error {
		found := b.scan("range-shared")
		if len(found) != 1 || !strings.Contains(found[0].Message, "21077") {
			return fmt.Errorf("scan finds %+v", found)
		}
		return nil
	})
	if err != nil {
		b.t.Error(err)
	}
}

// TestDockerStartsFirst: an engine that was there before the guard, as on most hosts.
func TestDockerStartsFirst(t *testing.T) {
	b := newBox(t)
	b.mesh()
	b.appIn(b.Net, "net", "[::]:7000")
	d := b.docker("")
	d.runs("box", fmt.Sprintf("-p %d:80", published))
	d.runs("sidecarport", "-p 21077:80")
	d.works()
	b.reaches(21077, host.Open)
	b.guard("")
	b.reaches(21077, host.Dropped)
	d.works()
	b.shared()
	d.stop()
	b.settled()
	d.start()
	b.settled()
	d.works()
	b.reaches(21077, host.Dropped)
}

// TestContainersAreNetwork: a container reaches of the host what the network does, and what it calls elsewhere is nobody's
// business, whatever the port.
func TestContainersAreNetwork(t *testing.T) {
	b := newBox(t)
	b.mesh()
	b.appIn(b.Net, "net", "[::]:7000", "[::]:21000", "[::]:21100")
	d := b.docker("")
	d.runs("client", "")
	d.runs("server", "", "[::]:21100", "[::]:21101")
	addresses := []string{host.IPv4, "172.17.0.1"}
	for _, address := range addresses {
		if got := d.dials("client", address, squatted); got != host.Open {
			t.Fatalf("before the guard the container sees %s port %d %s, so its test proves nothing", address, squatted, got)
		}
	}
	b.guard("")
	server := strings.TrimSpace(b.sh("docker inspect -f '{{.NetworkSettings.IPAddress}}' server"))
	for _, test := range []struct {
		address string
		port    uint16
		want    host.Reach
	}{
		{addresses[0], sidecar, host.Open},
		{addresses[0], squatted, host.Dropped},
		{addresses[0], plain, host.Open},
		{addresses[1], sidecar, host.Open},
		{addresses[1], squatted, host.Dropped},
		{host.NetIPv4, sidecar, host.Open}, // transit
		{host.NetIPv4, squatted, host.Open},
		{server, squatted, host.Open}, // from container to container
		{server, 21101, host.Open},
	} {
		if got := d.dials("client", test.address, test.port); got != test.want {
			t.Errorf("from a container %s is %s, want %s", at(test.address, test.port), got, test.want)
		}
	}
	b.greets(b.Local, at(server, squatted), "server")
}

// TestContainersAndAllowFrom: where the operator limits who may connect, the containers of this host still may, unless the
// operator says otherwise.
func TestContainersAndAllowFrom(t *testing.T) {
	for _, test := range []struct {
		name, config string
		want         host.Reach
	}{
		{"as shipped", "", host.Open},
		{"bridges kept out", "allow_local_bridges = false\n", host.Dropped},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			b.mesh()
			d := b.docker("")
			d.runs("client", "")
			b.guard("allow_from = [\"10.99.0.0/24\", \"fd00:99::/64\"]\n" + test.config)
			if err := b.waitUntil("the container is treated as configured", 10*time.Second, func() error {
				if got := d.dials("client", host.IPv4, sidecar); got != test.want {
					return fmt.Errorf("it sees port %d %s, want %s", sidecar, got, test.want)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			if got := d.dials("client", host.IPv4, squatted); got != host.Dropped {
				t.Errorf("the container sees a closed port %s", got)
			}
			b.meshWorks()
		})
	}
}

// TestQuarantineOfAContainer: the application is a container that publishes its port on every address. The network loses
// it, running connections and all; the host, and so the sidecar, keeps it.
func TestQuarantineOfAContainer(t *testing.T) {
	for _, test := range []struct{ name, options string }{{"with its proxy", ""}, {"without", "--userland-proxy=false"}} {
		t.Run(test.name, func(t *testing.T) {
			b := newBox(t)
			d := b.docker(test.options)
			d.runs("web", fmt.Sprintf("-p %d:80", service))
			b.register()
			b.sidecar()
			b.app("other", fmt.Sprintf("[::]:%d", squatted), fmt.Sprintf("[::]:%d", plain))
			b.reachesAt(host.IPv4, service, host.Open)
			ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
			defer cancel()
			conn, err := b.Net.Dial(ctx, "tcp", at(host.IPv4, service))
			b.must(err)
			defer conn.Close()
			if greeting, err := host.Hello(ctx, conn); err != nil || greeting != "hello from web" {
				t.Fatalf("the container says %q, %v", greeting, err)
			}

			b.guard(fmt.Sprintf("enforce = \"quarantine\"\nquarantine_ports = [%d]\n", service))
			if err := b.waitUntil("the network has lost the container", 10*time.Second, func() error {
				return b.seesBoth(service, host.Dropped)
			}); err != nil {
				t.Error(err)
			}
			b.must(conn.SetDeadline(time.Now().Add(3 * time.Second)))
			_, err = conn.Write([]byte("still there?"))
			buffer := make([]byte, 16)
			if err == nil {
				if n, err := conn.Read(buffer); err == nil {
					t.Errorf("the running connection still echoes %q", buffer[:n])
				}
			}
			b.greets(b.Local, at("127.0.0.1", service), "web")
			b.greets(b.Local, at(host.IPv4, service), "web")
			b.meshWorks()
			b.reaches(plain, host.Open)
			b.reaches(squatted, host.Dropped)
		})
	}
}
