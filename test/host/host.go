// SPDX-License-Identifier: MPL-2.0

// Package host makes whole hosts to try hostagent on, for the end-to-end tests and for the demo: one network namespace
// that is the host, a second one that is the network around it, a veth pair between them, and in the host a real Consul
// agent, real sidecar proxies, applications and hostagent itself.
//
// Prepare comes first, once a run, where the network of the machine can still be reached: it builds what hosts run. New
// makes a host, which works for root and for an ordinary user inside the namespaces of package test/netns; any number
// may exist at once. Everything a host starts ends with Close, and also when the program that made it dies.
//
// The package knows nothing of package testing: whatever fails is returned as an error.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the veth pair. They are the same in every host: each pair is a network of its own.
const (
	IPv4    = "10.99.0.1"  // the host
	IPv6    = "fd00:99::1" // the host
	NetIPv4 = "10.99.0.2"  // the network
	NetIPv6 = "fd00:99::2" // the network
)

const (
	interfaceName = "eth0" // on either side
	locksDir      = "/run/hostagent-test"
	maxHosts      = 1000
)

// Options are the choices of New. The zero value is a good one.
type Options struct {
	// Dir receives configurations, data and logs, and stays. Empty means a temporary folder that Close deletes.
	Dir string
}

// Host is a host made of network namespaces. Its methods may be called concurrently.
type Host struct {
	// Local is the host's own namespace: where hostagent, Consul and the applications run.
	Local *Namespace
	// Net is the network around the host: where the probes come from.
	Net *Namespace
	// Dir holds configurations, data and logs.
	Dir string

	lock    *os.File // held while the host lives: its number is taken
	tempDir bool
	http    *http.Client

	mu         sync.Mutex
	processes  []*Process // in the order of their starts
	logs       int        // number of logs made, so that names differ
	consul     *Consul
	neighbours []*Neighbour
	beyond     *Namespace // nil until AddBeyond
	closed     bool
}

// New makes a host. The caller closes it.
func New(ctx context.Context, options Options) (*Host, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot make host: %w", err)
	}
	h := &Host{Dir: options.Dir}
	err := h.build()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make host: %w", err), h.Close())
	}
	return h, nil
}

func (h *Host) build() (err error) {
	if h.Dir == "" {
		if h.Dir, err = os.MkdirTemp("", "hostagent-host-"); err != nil {
			return err
		}
		h.tempDir = true
	}
	if err := os.MkdirAll(filepath.Join(h.Dir, "logs"), 0o755); err != nil {
		return err
	}
	var number int
	if number, h.lock, err = reserve(); err != nil {
		return err
	}
	localName, netName := names(number)
	// A host of this number whose program was killed has left its names: nobody holds its lock.
	if err := errors.Join(removeName(localName), removeName(netName)); err != nil {
		return err
	}
	if h.Local, err = newNamespace(localName); err != nil {
		return err
	}
	if h.Net, err = newNamespace(netName); err != nil {
		return err
	}
	h.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.Local.Dial(ctx, network, address)
		},
		MaxIdleConnsPerHost: 4,
	}}
	return h.connect()
}

func names(number int) (local, network string) {
	return fmt.Sprintf("hostagent-%d-host", number), fmt.Sprintf("hostagent-%d-net", number)
}

// reserve takes the first free number. A lock on a file says that it is taken, because the kernel gives that back
// however the program ends.
func reserve() (int, *os.File, error) {
	if err := os.MkdirAll(locksDir, 0o755); err != nil {
		return 0, nil, err
	}
	for number := range maxHosts {
		lock, err := tryLock(filepath.Join(locksDir, fmt.Sprintf("%d.lock", number+1)))
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		return number + 1, lock, err
	}
	return 0, nil, fmt.Errorf("cannot reserve a number: all %d are taken, close some hosts", maxHosts)
}

// tryLock locks the file at path, which it makes where needed; EWOULDBLOCK says that another program or host has it.
// Closing the file gives the lock back. The file itself stays: to delete it would let two hold it at once.
func tryLock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot lock %q: %w", path, err), file.Close())
	}
	return file, nil
}

// connect lays the veth pair.
func (h *Host) connect() error {
	err := h.Local.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs:     netlink.LinkAttrs{Name: interfaceName},
			PeerName:      interfaceName,
			PeerNamespace: netlink.NsFd(h.Net.handle),
		})
	})
	if err != nil {
		return fmt.Errorf("cannot add veth pair: %w", err)
	}
	// Both ends are up before the addresses come, so that none is tried on a link without a carrier.
	for _, n := range []*Namespace{h.Local, h.Net} {
		if err := n.Do(linkUp); err != nil {
			return fmt.Errorf("cannot set %s of namespace %q up: %w", interfaceName, n.Name, err)
		}
	}
	err = errors.Join(
		h.Local.Do(func() error { return addAddresses(IPv4+"/24", IPv6+"/64") }),
		h.Net.Do(func() error { return addAddresses(NetIPv4+"/24", NetIPv6+"/64") }))
	if err != nil {
		return fmt.Errorf("cannot add addresses: %w", err)
	}
	return nil
}

func linkUp() error { return setUp(interfaceName) }

func setUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func addAddresses(prefixes ...string) error { return addressesOf(interfaceName, prefixes...) }

func addressesOf(name string, prefixes ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return addAddressesTo(link, prefixes...)
}

func addAddressesTo(link netlink.Link, prefixes ...string) error {
	for _, prefix := range prefixes {
		address, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		address.Flags = unix.IFA_F_NODAD // duplicate address detection would keep IPv6 waiting for seconds
		if err := netlink.AddrAdd(link, address); err != nil {
			return fmt.Errorf("%s: %w", prefix, err)
		}
	}
	return nil
}

// Close ends every process of the host, the youngest first, deletes its namespaces, and the folder where New made it.
// The error tells of processes that had to be killed. A second call does nothing.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	processes := slices.Clone(h.processes)
	h.mu.Unlock()

	var errs []error
	for _, p := range slices.Backward(processes) {
		errs = append(errs, p.Stop())
	}
	if h.http != nil {
		h.http.CloseIdleConnections()
	}
	for _, n := range h.neighbours { // nobody adds to them any more
		errs = append(errs, n.close())
	}
	for _, n := range []*Namespace{h.Local, h.Net, h.beyond} {
		if n != nil {
			errs = append(errs, n.close())
		}
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	if h.tempDir {
		errs = append(errs, os.RemoveAll(h.Dir))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot close host cleanly: %w", err)
	}
	return nil
}

// InHost runs f inside the host's namespace: see Namespace.Do.
func (h *Host) InHost(f func() error) error { return h.Local.Do(f) }

// InNet runs f inside the network's namespace: see Namespace.Do.
func (h *Host) InNet(f func() error) error { return h.Net.Do(f) }

// HTTPClient returns a client whose connections start inside the host, so that 127.0.0.1 is the host's own. All calls
// share one client. Addresses must be literal ones.
func (h *Host) HTTPClient() *http.Client { return h.http }

// Command returns a program to start in the host: see Namespace.Command.
func (h *Host) Command(ctx context.Context, name string, args ...string) *Cmd {
	return h.Local.Command(ctx, name, args...)
}

// Run runs a program in the host to its end and returns its standard output and error, mixed, and its exit code. An
// exit code other than 0 is not an error; that the program could not run, or was killed with ctx, is one.
func (h *Host) Run(ctx context.Context, name string, args ...string) (output string, code int, err error) {
	out, err := h.Command(ctx, name, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return string(out), exit.ExitCode(), nil
	}
	if err != nil {
		return string(out), -1, fmt.Errorf("cannot run %q: %w", strings.Join(append([]string{name}, args...), " "),
			errors.Join(err, ctx.Err()))
	}
	return string(out), 0, nil
}

// Family is an IP version of a firewall.
type Family string

// The families that Iptables knows, named for their programs.
const (
	FamilyIPv4 Family = "iptables"
	FamilyIPv6 Family = "ip6tables"
)

// Iptables runs iptables or ip6tables in the host and returns its output. An exit code other than 0 is an error here.
func (h *Host) Iptables(ctx context.Context, family Family, args ...string) (string, error) {
	output, code, err := h.Run(ctx, string(family), append([]string{"-w", "5"}, args...)...)
	if err != nil {
		return output, err
	}
	if code != 0 {
		return output, fmt.Errorf("cannot run %s %s: exit code %d: %q", family, strings.Join(args, " "), code, output)
	}
	return output, nil
}
