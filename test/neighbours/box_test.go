// SPDX-License-Identifier: MPL-2.0

package neighbours

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/host"
)

// box is a host with a Consul agent whose neighbours, and whose hostagent, run inside a root file system of their own.
// Consul, sidecars and applications run outside of it, in the same network namespace.
type box struct {
	*host.Host
	t      *testing.T
	ctx    context.Context //nolint:containedctx // it lives for one test
	consul *host.Consul
	root   string // the root file system, as seen from outside
	// standing is what firewall show said when the guard stood first.
	standing string
}

// newBox makes a box, beside those of other tests. Everything in it must end within three minutes.
func newBox(t *testing.T) *box {
	t.Helper()
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	b := &box{t: t, ctx: ctx}
	dir, err := os.MkdirTemp("", "hostagent-neighbours-")
	b.must(err)
	// The last to go: nothing runs in the root any more when it is unmounted, with everything mounted below it.
	t.Cleanup(func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	b.must(unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"))
	b.Host, err = host.New(ctx, host.Options{})
	b.must(err)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	b.furnish(dir)
	b.consul, err = b.StartConsul(ctx, host.ConsulOptions{})
	b.must(err)
	return b
}

// furnish mounts the root below dir: the packages, read only, below a layer that is thrown away.
func (b *box) furnish(dir string) {
	b.t.Helper()
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	b.root = filepath.Join(dir, "root")
	for _, folder := range []string{upper, work, b.root} {
		b.must(os.Mkdir(folder, 0o755))
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", os.Getenv(rootEnv), upper, work)
	b.must(unix.Mount("overlay", b.root, "overlay", 0, options))
	b.mount("proc", "/proc", "proc", 0)
	// Docker would like to change settings of the whole machine, too.
	for _, folder := range []string{"/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs"} {
		b.mount(filepath.Join(b.root, folder), folder, "", unix.MS_BIND)
		b.mount("", folder, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
	}
	b.must(b.InHost(func() error { // it shows the interfaces of the namespace that mounts it
		return unix.Mount("sysfs", filepath.Join(b.root, "sys"), "sysfs", 0, "")
	}))
	b.mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0)
	b.mount("/dev", "/dev", "", unix.MS_BIND)
	b.mount("tmpfs", "/run", "tmpfs", 0)
	programs, err := host.Binary(b.ctx, host.HostagentProgram)
	b.must(err)
	b.mount(filepath.Dir(programs), "/usr/local/bin", "", unix.MS_BIND)
	b.mount("", "/usr/local/bin", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY)
}

func (b *box) mount(source, target, kind string, flags uintptr) {
	b.t.Helper()
	if err := unix.Mount(source, filepath.Join(b.root, target), kind, flags, ""); err != nil {
		b.t.Fatalf("cannot mount %q in the root: %v", target, err)
	}
}

func (b *box) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// command is a line of shell inside the root and the host's network namespace.
func (b *box) command(ctx context.Context, line string) *host.Cmd {
	cmd := b.Command(ctx, "/bin/sh", "-c", line)
	cmd.SysProcAttr.Chroot, cmd.Dir = b.root, "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C",
		"CONSUL_HTTP_ADDR=" + host.ConsulAddress, "DOCKER_HOST=unix:///run/docker.sock"}
	return cmd
}

// sh runs lines of shell inside the root, to the end of each, and returns their output. A line that fails fails the test.
func (b *box) sh(lines ...string) string {
	b.t.Helper()
	var all strings.Builder
	for _, line := range lines {
		ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
		out, err := b.command(ctx, line).CombinedOutput()
		cancel()
		all.Write(out)
		if err != nil {
			b.t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	return all.String()
}

// try runs a line of shell inside the root and returns its output and its exit code.
func (b *box) try(line string) (output string, code int) {
	b.t.Helper()
	cmd := b.command(b.ctx, line)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		b.t.Fatalf("%s: %v", line, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// daemon starts a program inside the root; its log is shown if the test fails.
func (b *box) daemon(name, line string) *host.Process {
	b.t.Helper()
	process, err := b.Start(name, b.command(context.Background(), "exec "+line))
	b.must(err)
	b.t.Cleanup(func() {
		if b.t.Failed() {
			b.t.Logf("the log of %s:\n%s", name, process.Log())
		}
	})
	return process
}

// write writes a file inside the root.
func (b *box) write(path, text string) {
	b.t.Helper()
	path = filepath.Join(b.root, path)
	b.must(os.MkdirAll(filepath.Dir(path), 0o755))
	b.must(os.WriteFile(path, []byte(text), 0o644))
}

// Ports that most tests use.
const (
	sidecar  = 21000 // Consul's first: it is given to the service web
	squatted = 21100 // in the range, and of an application that has no business there
	plain    = 8081  // of an application that is none of hostagent's business
	service  = 8080  // of the service web
)

// mesh registers the service web and starts it with its sidecar, and an application that squats a port of the range and
// listens on a port outside.
func (b *box) mesh() {
	b.t.Helper()
	b.register()
	b.app("web", fmt.Sprintf("127.0.0.1:%d", service))
	b.sidecar()
	b.app("other", fmt.Sprintf("[::]:%d", squatted), fmt.Sprintf("[::]:%d", plain))
}

func (b *box) register() {
	b.t.Helper()
	b.must(b.consul.API().Agent().ServiceRegister(&api.AgentServiceRegistration{
		Name: "web", Port: service,
		Connect: &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{Port: sidecar}},
	}))
}

func (b *box) sidecar() {
	b.t.Helper()
	_, err := b.StartSidecar(b.ctx, "web")
	b.must(err)
}

func (b *box) app(name string, listen ...string) {
	b.t.Helper()
	_, err := b.StartApp(b.ctx, host.App{Name: name, Listen: listen})
	b.must(err)
}

// appIn starts an application in another namespace than the host's.
func (b *box) appIn(n *host.Namespace, name string, listen ...string) {
	b.t.Helper()
	binary, err := host.Binary(b.ctx, host.AppProgram)
	b.must(err)
	args := []string{"-name", name}
	for _, address := range listen {
		args = append(args, "-listen", address)
	}
	process, err := b.Start("app "+name, n.Command(context.Background(), binary, args...))
	b.must(err)
	b.must(process.WaitLog(b.ctx, "ready\n"))
}

// quick is a configuration that does not keep tests waiting. How long a repair takes is measured with the shipped one.
const quick = `
mode = "guard"
poll_interval = "200ms"
close_delay = "4s"
`

// Configurations that say what holds the rules.
const (
	nftVariant    = "firewall {\n  iptables_variant = \"nft\"\n}\n"
	legacyVariant = "firewall {\n  iptables_variant = \"legacy\"\n}\n"
	nativeBackend = "firewall {\n  backend = \"nftables\"\n}\n"
)

// guard starts hostagent with the quick configuration and more, and waits until the range is closed, and the sidecar's
// port open.
func (b *box) guard(more string) {
	b.t.Helper()
	b.write("/etc/hostagent.d/hostagent.hcl", quick+more)
	agent := b.daemon("hostagent", "hostagent run")
	b.until("the range is guarded", func() error {
		select {
		case <-agent.Done():
			b.t.Fatalf("hostagent has ended:\n%s", agent.Log())
		default:
		}
		b.standing, _ = b.try("hostagent firewall show")
		if !stands.MatchString(b.standing) || !opened.MatchString(b.standing) || !drops.MatchString(b.standing) {
			return fmt.Errorf("firewall show says\n%s", b.standing)
		}
		return nil
	})
	if native := strings.Contains(b.standing, "table inet hostagent"); native != (more == nativeBackend) {
		b.t.Fatalf("the rules are in backend nftables: %t, want %t", native, !native)
	}
}

// What firewall show says once the guard stands, in the words of whichever backend holds it.
var (
	stands = regexp.MustCompile(`\b21255\b`)
	opened = regexp.MustCompile(`\b21000([ ,\n]|$)`)
	drops  = regexp.MustCompile(`(?i)\bdrop\b`)
)

// until waits for a condition, with a deadline.
func (b *box) until(what string, condition func() error) {
	b.t.Helper()
	b.must(b.waitUntil(what, 20*time.Second, condition))
}

// waitUntil is until for what the rest of a test does not depend on.
func (b *box) waitUntil(what string, patience time.Duration, condition func() error) error {
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Since(start) > patience {
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		}
	}
}

// at joins an address and a port.
func at(address string, port uint16) string {
	return net.JoinHostPort(address, strconv.Itoa(int(port)))
}

// both are the host's addresses.
func both() []string { return []string{host.IPv4, host.IPv6} }

// see tries one connection from the network. A firewall that rejects with "administratively prohibited", as firewalld
// does, has refused it.
func (b *box) see(address string) (host.Reach, error) {
	seen, err := b.Reachable(b.ctx, address)
	if errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.EACCES) {
		return host.Refused, nil
	}
	return seen, err
}

// sees returns nil where the network sees an address and port as given.
func (b *box) sees(address string, want host.Reach) error {
	got, err := b.see(address)
	if err == nil && got != want {
		return fmt.Errorf("from the network %s is %s, want %s", address, got, want)
	}
	return err
}

// reaches wants the network to see a port as given, over IPv4 and IPv6.
func (b *box) reaches(port uint16, want host.Reach) {
	b.t.Helper()
	for _, address := range both() {
		b.reachesAt(address, port, want)
	}
}

// reachesAt wants the network to see a port of one address as given.
func (b *box) reachesAt(address string, port uint16, want host.Reach) {
	b.t.Helper()
	if err := b.sees(at(address, port), want); err != nil {
		b.t.Error(err)
	}
}

// blocks wants the network not to reach a port, whether it hears of that or not.
func (b *box) blocks(port uint16) {
	b.t.Helper()
	for _, address := range both() {
		if got, err := b.see(at(address, port)); err != nil || got == host.Open {
			b.t.Errorf("from the network %s is %q, %v; want it closed", at(address, port), got, err)
		}
	}
}

// seesBoth wants the network to see a port as given, over IPv4 and IPv6, and returns the first thing that it does not.
func (b *box) seesBoth(port uint16, want host.Reach) error {
	for _, address := range both() {
		if err := b.sees(at(address, port), want); err != nil {
			return err
		}
	}
	return nil
}

// eventually waits until the network sees a port as given, over IPv4 and IPv6.
func (b *box) eventually(port uint16, want host.Reach) {
	b.t.Helper()
	b.until(fmt.Sprintf("the network sees port %d %s", port, want), func() error { return b.seesBoth(port, want) })
}

// greets wants an application's greeting from a connection made in namespace n.
func (b *box) greets(n *host.Namespace, address, name string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 5*time.Second)
	defer cancel()
	conn, err := n.Dial(ctx, "tcp", address)
	if err != nil {
		b.t.Errorf("from %s: %v", n.Name, err)
		return
	}
	defer conn.Close()
	if greeting, err := host.Hello(ctx, conn); err != nil || greeting != "hello from "+name {
		b.t.Errorf("from %s, %s says %q, %v; want a greeting from %s", n.Name, address, greeting, err, name)
	}
}

// meshWorks wants the greeting of service web through its sidecar, with mTLS.
func (b *box) meshWorks() {
	b.t.Helper()
	for _, address := range both() {
		ctx, cancel := context.WithTimeout(b.ctx, 10*time.Second)
		conn, err := b.MeshDial(ctx, "client", "web", at(address, sidecar))
		b.must(err)
		if greeting, err := host.Hello(ctx, conn); err != nil || !strings.HasPrefix(greeting, "hello from ") {
			b.t.Errorf("through the mesh %s says %q, %v", address, greeting, err)
		}
		conn.Close()
		cancel()
	}
}
