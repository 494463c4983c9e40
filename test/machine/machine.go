// SPDX-License-Identifier: MPL-2.0

// Package machine boots whole Debian machines with systemd as their first process, for tests of units and packages.
//
// A machine is a container of systemd-nspawn over a root file system that test/system.sh makes (make test-system). What it
// writes lies in a layer of its own that outlives its reboots and ends with the test. Its one network card leads to the
// network namespace of the tests, which are the network that it is attached to: a test that connects to Machine.Address comes from outside.
package machine

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/test/netns"
)

// RootEnv names the root file system that machines are made of.
const RootEnv = "HOSTAGENT_SYSTEM_ROOT"

// Debs is where packages wait in every machine that tests install by themselves, because not every machine has them: ufw,
// firewalld, netfilter-persistent and iptables-persistent, with what they need. See Machine.Install.
const Debs = "/var/lib/debs"

// HostCgroups is an option of Boot and New: the machine sees the cgroups of the machine that the tests run on, as a real one
// sees its own root. BPF programs can be attached there; but the machine's own units stand below a cgroup of it.
const HostCgroups = "host-cgroups"

const (
	bootWithin = 60 * time.Second
	stopWithin = 60 * time.Second
	runWithin  = 2 * time.Minute
)

// Main runs the tests of a package that boots machines: as root, in a network and mount namespace of their own, and not at
// all, with a line that says so, where RootEnv is empty.
func Main(m *testing.M) {
	if os.Getenv(RootEnv) == "" {
		fmt.Fprintln(os.Stderr, "NOT RUN: every test on a booted system; as root: make test-system")
		os.Exit(0)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "booting a system needs root: mounts, namespaces, containers")
		os.Exit(1)
	}
	netns.Main(m)
}

// Machine is one booted system. Its methods are for one goroutine at a time, but for Run and Try, which any may call.
type Machine struct {
	// Address is the machine's own on its network card host0, Outside that of the tests on the other end.
	Address, Outside netip.Addr

	t    testing.TB
	name string
	// Whether it sees all cgroups of the machine that the tests run on.
	hostCgroups bool
	dir         string
	options     []string
	nspawn      *exec.Cmd
	ended       chan struct{} // closed when nspawn has ended
	init        int           // the pid of its first process; 0 while it is off
}

var machines atomic.Int32

// Boot boots a machine that ends with the test. Options are systemd-nspawn's, --bind-ro=FROM:TO for one.
func Boot(t testing.TB, options ...string) *Machine {
	t.Helper()
	m := New(t, options...)
	m.Boot()
	return m
}

// New makes a machine that is off, to be written to before it boots.
func New(t testing.TB, options ...string) *Machine {
	t.Helper()
	n := int(machines.Add(1))
	// Its cgroup is named after it, and whoever else tests on this machine numbers processes from one, too.
	name := "hostagent-" + strings.ToLower(rand.Text()[:10])
	m := &Machine{
		Address: netip.AddrFrom4([4]byte{10, 77, byte(n), 2}), Outside: netip.AddrFrom4([4]byte{10, 77, byte(n), 1}),
		t: t, name: name, dir: t.TempDir(), options: slices.DeleteFunc(slices.Clone(options), func(o string) bool { return o == HostCgroups }),
		hostCgroups: slices.Contains(options, HostCgroups),
	}
	// The layer lies in memory: an overlay cannot lie on the overlay that some machines have below their folders.
	m.must(unix.Mount("tmpfs", m.dir, "tmpfs", 0, "mode=0755"))
	t.Cleanup(func() { m.unmount(m.dir) })
	for _, name := range []string{"upper", "work", "root"} {
		m.must(os.Mkdir(filepath.Join(m.dir, name), 0o755))
	}
	m.must(unix.Mount("overlay", m.Path("/"), "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", os.Getenv(RootEnv), m.dir, m.dir)))
	t.Cleanup(func() {
		if m.init != 0 {
			m.end()
		}
		m.unmount(m.Path("/"))
		if out, err := exec.Command("unshare", "--mount", "--propagation", "private", "bash", "-c", sweep, "sweep", m.name).CombinedOutput(); err != nil {
			t.Errorf("the machine's cgroups stay: %v\n%s", err, out)
		}
	})
	m.Write("/etc/hostname", m.name+"\n", 0o644)
	m.Write("/etc/machine-id", "", 0o444) // the first boot fills it
	m.Write("/etc/systemd/network/10-host0.network", fmt.Sprintf("[Match]\nName=host0\n[Network]\nAddress=%s/24\nGateway=%s\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n", m.Address, m.Outside), 0o644)
	m.Command("systemctl", "--root", m.Path("/"), "enable", "systemd-networkd.service")
	return m
}

// Path returns where path of the machine lies for the tests. What the machine mounts over it, /run for one, is not there.
func (m *Machine) Path(path string) string { return filepath.Join(m.dir, "root", path) }

// Write writes a file of the machine, with the folders above it.
func (m *Machine) Write(path, content string, mode os.FileMode) {
	m.t.Helper()
	m.must(os.MkdirAll(filepath.Dir(m.Path(path)), 0o755))
	m.must(os.WriteFile(m.Path(path), []byte(content), mode))
	m.must(os.Chmod(m.Path(path), mode))
}

// Copy copies a file of the tests into the machine.
func (m *Machine) Copy(from, to string, mode os.FileMode) {
	m.t.Helper()
	content, err := os.ReadFile(from)
	m.must(err)
	m.Write(to, string(content), mode)
}

// boot makes a cgroup tree of its own out of whatever version the machine of the tests mounts, and becomes nspawn in it.
// $1 is the machine's name, the rest nspawn's options.
const boot = `set -e
name=$1; shift
mkdir -p /run/systemd/nspawn
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$name"
echo $$ >"/sys/fs/cgroup/$name/cgroup.procs"
exec systemd-nspawn --quiet --boot --machine "$name" --register=no --keep-unit --console=pipe --link-journal=no --network-veth \
  --capability=CAP_BPF,CAP_PERFMON --system-call-filter=bpf "$@"
`

// sweep removes the cgroups that the machine $1 leaves. The last processes may need a moment to end.
const sweep = `mount -t cgroup2 cgroup2 /sys/fs/cgroup
for _ in {1..100}; do
  find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} \; 2>/dev/null
  [ -d "/sys/fs/cgroup/$1" ] || exit 0
  sleep 0.05
done
find "/sys/fs/cgroup/$1" -name cgroup.procs -exec grep -H . {} \;
exit 1
`

// Boot boots the machine and waits until systemd has started what it could.
func (m *Machine) Boot() {
	m.t.Helper()
	console, err := os.OpenFile(filepath.Join(m.dir, "console"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	m.must(err)
	defer console.Close()
	args := append([]string{"--mount", "--propagation", "private", "bash", "-c", boot, "boot", m.name, "--directory", m.Path("/")}, m.options...)
	m.nspawn = exec.Command("unshare", args...)
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	if m.hostCgroups {
		m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_USE_CGNS=0")
	}
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	m.must(m.nspawn.Start())
	m.ended = make(chan struct{})
	go func() {
		defer close(m.ended)
		_ = m.nspawn.Wait() // whether it ended well is told by what runs inside
	}()
	m.wait("its first process", func() bool {
		m.init = firstProcess(m.nspawn.Process.Pid)
		return m.init != 0
	})
	m.attach()
	m.wait("a booted system", func() bool {
		state, _ := m.Try("systemctl", "is-system-running")
		state = strings.TrimSpace(state)
		return state == "running" || state == "degraded"
	})
	m.wait("the network", func() bool {
		address, err := m.Try("ip", "-4", "-o", "address", "show", "dev", "host0")
		return err == nil && strings.Contains(address, m.Address.String())
	})
}

// firstProcess returns the child of a nspawn that is the first process of a process namespace, or 0 while there is none.
// Before it others come and go: those that make ready for nspawn, and the one from which nspawn forks it.
func firstProcess(nspawn int) int {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", nspawn))
	for child := range strings.FieldsSeq(string(children)) {
		status, _ := os.ReadFile("/proc/" + child + "/status")
		_, pids, _ := strings.Cut(string(status), "\nNSpid:")
		pids, _, _ = strings.Cut(pids, "\n")
		// Its pid in this namespace, and in each below: its own is the last.
		if inside := strings.Fields(pids); len(inside) > 1 && inside[len(inside)-1] == "1" {
			pid, _ := strconv.Atoi(child)
			return pid
		}
	}
	return 0
}

// attach gives the tests' end of the machine's network card its address.
func (m *Machine) attach() {
	m.t.Helper()
	// nspawn shortens the name of the tests' end to what a card may have, and machines that boot at the same time have cards
	// alike. Which one is this machine's is told by the end inside, which knows the number of its peer: "2: host0@if7: ...".
	var card *net.Interface
	m.wait("its network card", func() bool {
		out, err := exec.Command("nsenter", "--target", strconv.Itoa(m.init), "--net", "ip", "-o", "link", "show", "dev", "host0").Output()
		if err != nil {
			return false // not there yet
		}
		_, peer, _ := strings.Cut(string(out), "@if")
		peer, _, _ = strings.Cut(peer, ":")
		index, err := strconv.Atoi(peer)
		m.must(err)
		card, err = net.InterfaceByIndex(index)
		m.must(err)
		return true
	})
	m.Command("ip", "addr", "add", m.Outside.String()+"/24", "dev", card.Name)
	m.Command("ip", "link", "set", card.Name, "up")
}

// Shutdown stops the machine in good order.
func (m *Machine) Shutdown() {
	m.t.Helper()
	if _, err := m.Try("systemctl", "poweroff", "--no-block"); err != nil {
		m.t.Log(err)
	}
	select {
	case <-m.ended:
	case <-time.After(stopWithin):
		m.t.Errorf("%s did not stop within %s:\n%s", m.name, stopWithin, m.Console())
	}
	m.end()
}

// Reboot stops the machine in good order and boots it again.
func (m *Machine) Reboot() {
	m.t.Helper()
	m.Shutdown()
	m.Boot()
}

// end ends the machine at once, where it has not ended by itself.
func (m *Machine) end() {
	defer func() { m.init = 0 }()
	select {
	case <-m.ended:
		return // its pids may be others' by now
	default:
	}
	for _, pid := range []int{m.init, m.nspawn.Process.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			m.t.Error(err)
		}
	}
	<-m.ended
}

// Init returns the pid of the machine's first process, as the tests see it.
func (m *Machine) Init() int { return m.init }

// command returns a command that runs inside the machine, as root, in a clean environment.
func (m *Machine) command(ctx context.Context, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.init), "--all", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=dumb", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	return exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
}

// Try runs a command inside the machine and returns what it wrote to stdout. The error holds what it wrote to stderr.
func (m *Machine) Try(args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), runWithin)
	defer cancel()
	cmd := m.command(ctx, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err = cmd.Run(); err != nil {
		err = fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, out.String(), complaint.String())
	}
	return out.String(), err
}

// Run runs a command inside the machine, which must succeed, and returns what it wrote to stdout and stderr.
func (m *Machine) Run(args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runWithin)
	defer cancel()
	out, err := m.command(ctx, args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("in %s: %s: %v\n%s", m.name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Shell is Run of a bash script that ends at its first failing command.
func (m *Machine) Shell(script string) string {
	m.t.Helper()
	return m.Run("bash", "-euo", "pipefail", "-c", script)
}

// Install installs packages that wait in Debs, without any network. Their names are those of the packages.
func (m *Machine) Install(packages ...string) {
	m.t.Helper()
	m.Run(append([]string{"apt-get", "-o", "Dir::Cache::Archives=" + Debs, "install", "-y", "--no-download", "--no-install-recommends"}, packages...)...)
}

// Wait waits until a command inside the machine succeeds, and returns what it wrote to stdout.
func (m *Machine) Wait(within time.Duration, args ...string) string {
	m.t.Helper()
	var out string
	var err error
	deadline := time.Now().Add(within)
	for {
		if out, err = m.Try(args...); err == nil {
			return out
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("in %s, still after %s: %v", m.name, within, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Journal returns what a unit has logged since the last boot.
func (m *Machine) Journal(unit string) string {
	m.t.Helper()
	return m.Run("journalctl", "--no-pager", "-b", "-u", unit)
}

// Console returns what the machine has written to its console.
func (m *Machine) Console() string {
	text, _ := os.ReadFile(filepath.Join(m.dir, "console"))
	return string(text)
}

// Command runs a command of the tests' own machine, in their namespace, which must succeed.
func (m *Machine) Command(name string, args ...string) {
	m.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func (m *Machine) wait(what string, reached func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(bootWithin); !reached(); time.Sleep(50 * time.Millisecond) {
		select {
		case <-m.ended:
			m.t.Fatalf("%s has ended instead of reaching %s:\n%s", m.name, what, m.Console())
		default:
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("%s has not reached %s within %s:\n%s", m.name, what, bootWithin, m.Console())
		}
	}
}

func (m *Machine) unmount(path string) {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		m.t.Errorf("cannot unmount %s: %v", path, err)
	}
}

func (m *Machine) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}
