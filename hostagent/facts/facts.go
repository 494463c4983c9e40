// SPDX-License-Identifier: MPL-2.0

// Package facts reads what a host itself says that bears on the sidecar range: which ports the kernel hands out and which
// it keeps back, on which interfaces the network reaches loopback addresses, which interfaces and addresses the host has,
// which ports Nomad gives to its jobs, and whether hostagent's own rules stand in files that other firewall loaders read.
//
// Read is all there is. What follows from it is decided elsewhere.
package facts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Options say where to look. The zero value is the host that the process runs on.
type Options struct {
	// Proc is where proc is mounted; empty means /proc.
	Proc string
	// Root is where the root folder's files are; empty means /. Only SavedRules are looked for there.
	Root string
	// NomadAddress is the URL of the HTTP API of this host's Nomad agent; empty means http://127.0.0.1:4646. No token is
	// sent to it, no proxy used and no redirection followed.
	NomadAddress string
	// NomadConfig are Nomad's configuration files, and folders of them, in the order in which Nomad is given them; nil
	// means /etc/nomad.d.
	NomadConfig []string
}

// Facts is what was found. A zero field was not found; Notes say why where that is no matter of course.
type Facts struct {
	// EphemeralFirst to EphemeralLast are the ports from which the kernel chooses for who does not care
	// (net.ipv4.ip_local_port_range; IPv6 uses the same). Both are 0 where that is not known.
	EphemeralFirst, EphemeralLast uint16
	// Reserved are the ports that it leaves out of that choice (net.ipv4.ip_local_reserved_ports), ascending, and
	// ReservedText is the same as the kernel writes it, "8080,9148-9150": writing the sysctl replaces all of it, so
	// whoever wants more of them writes this too.
	Reserved     []PortSpan
	ReservedText string
	// RouteLocalnet are the interfaces other than lo on which the kernel takes packets for 127.0.0.0/8 from the network
	// (net.ipv4.conf.IF.route_localnet), sorted: a neighbour there reaches what listens on loopback only. Where
	// conf.all says so they are all interfaces, because the kernel asks whether either does.
	RouteLocalnet []string
	// Interfaces are those of this host by index, none where they are not known, and Addresses those of all of them, sorted,
	// each once, without zones.
	Interfaces []Interface
	Addresses  []netip.Addr
	// TCPAcrossVRFs and UDPAcrossVRFs tell that sockets which are bound to no interface are reached through those of VRFs,
	// too (net.ipv4.tcp_l3mdev_accept and udp_l3mdev_accept, for IPv6 as well).
	TCPAcrossVRFs, UDPAcrossVRFs bool
	// Nomad is nil where no Nomad client is found.
	Nomad *Nomad
	// SavedRules are the files from which firewall loaders would bring hostagent's rules back.
	SavedRules []SavedRules
	// Notes say what could not be read and why, a phrase each, without control characters.
	Notes []string
}

// PortSpan is the ports from First to Last, both included.
type PortSpan struct{ First, Last uint16 }

// String writes s as "80" or "8000-8080".
func (s PortSpan) String() string {
	if s.First == s.Last {
		return strconv.Itoa(int(s.First))
	}
	return fmt.Sprintf("%d-%d", s.First, s.Last)
}

const (
	// patience is how long Read may take in all.
	patience = time.Second
	// mostQuoted is how many bytes an error quotes of what it is about.
	mostQuoted = 80
	// mostInterfaces is how many interfaces are looked at.
	mostInterfaces = 10_000
)

// Read looks once. It is meant to be called time and again: it keeps nothing open and leaves nothing running, and ends
// within a second whatever the agent at Options.NomadAddress does. It never fails: what cannot be read is a note.
//
// Sysctls of the network belong to the network namespace of the thread that reads them, so for another one call it on a
// thread that is locked into it. Nomad's agent is asked in that namespace too.
func Read(ctx context.Context, opts Options) Facts {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	f := &Facts{}
	net := filepath.Join(cmp.Or(opts.Proc, "/proc"), "sys/net/ipv4")
	f.readPorts(net)
	f.readRouteLocalnet(filepath.Join(net, "conf"))
	f.readSavedRules(cmp.Or(opts.Root, "/"))
	var err error
	if f.Interfaces, err = readInterfaces(ctx); err != nil {
		f.note("cannot list the host's addresses: %v", err)
	}
	f.Addresses = addressesOf(f.Interfaces)
	f.readVRFs(net)
	f.readNomad(ctx, opts)
	return *f
}

// note adds a note, made fit to be shown.
func (f *Facts) note(format string, arguments ...any) {
	const longest = 400
	f.Notes = append(f.Notes, clean(shorten(fmt.Sprintf(format, arguments...), longest)))
}

func (f *Facts) readPorts(net string) {
	text, err := readSysctl(filepath.Join(net, "ip_local_port_range"))
	if err == nil {
		f.EphemeralFirst, f.EphemeralLast, err = parseRange(text)
	}
	if err != nil {
		f.note("cannot read net.ipv4.ip_local_port_range: %v", err)
	}
	text, err = readSysctl(filepath.Join(net, "ip_local_reserved_ports"))
	if err == nil {
		f.Reserved, err = parseSpans(text)
		f.ReservedText = clean(text)
	}
	if err != nil {
		f.note("cannot read net.ipv4.ip_local_reserved_ports: %v", err)
	}
}

// parseRange reads two numbers with a tab between them.
func parseRange(text string) (first, last uint16, err error) {
	fields := strings.Fields(text)
	if len(fields) != 2 {
		return 0, 0, fmt.Errorf("%q are not two ports", shorten(text, mostQuoted))
	}
	span, err := parseSpan(fields[0] + "-" + fields[1])
	return span.First, span.Last, err
}

func (f *Facts) readRouteLocalnet(conf string) {
	all, err := readFlag(filepath.Join(conf, "all/route_localnet"))
	if err != nil {
		f.note("cannot read net.ipv4.conf.all.route_localnet: %v", err)
	}
	names, err := readNames(conf, mostInterfaces)
	if err != nil {
		f.note("cannot read net.ipv4.conf: %v", err)
	}
	var errs []error
	for _, name := range names {
		if name == "all" || name == "default" || name == "lo" {
			continue
		}
		on := all
		if !on {
			if on, err = readFlag(filepath.Join(conf, name, "route_localnet")); err != nil {
				// An interface may go at any moment.
				if !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, fmt.Errorf("%s: %w", name, err))
				}
				continue
			}
		}
		if on {
			f.RouteLocalnet = append(f.RouteLocalnet, clean(name))
		}
	}
	if len(errs) > 0 {
		f.note("cannot read route_localnet of %d interfaces, the first being %v", len(errs), errs[0])
	}
}

// readVRFs reads what a kernel without VRFs does not have.
func (f *Facts) readVRFs(net string) {
	read := func(name string) bool {
		on, err := readFlag(filepath.Join(net, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.note("cannot read net.ipv4.%s: %v", name, err)
		}
		return on
	}
	f.TCPAcrossVRFs, f.UDPAcrossVRFs = read("tcp_l3mdev_accept"), read("udp_l3mdev_accept")
}

// readFlag reads a sysctl that is off where it is 0.
func readFlag(path string) (bool, error) {
	text, err := readSysctl(path)
	if err != nil {
		return false, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return false, fmt.Errorf("%q is not a number", shorten(text, mostQuoted))
	}
	return n != 0, nil
}

// readSysctl reads a file of /proc/sys without the spaces around it. The kernel fills the first read of a list of ports
// and calls the rest of it the end of the file (proc_do_large_bitmap in kernel/sysctl.c), so a list that fills the buffer
// is read anew with a larger one. The longest one, every other port, has 191 kB.
func readSysctl(path string) (string, error) {
	for size := 512; size <= 256<<10; size *= 8 {
		n, buffer, err := readOnce(path, size)
		if err != nil {
			return "", err
		}
		if n < size {
			return strings.TrimSpace(string(buffer[:n])), nil
		}
	}
	return "", errors.New("it is too long")
}

func readOnce(path string, size int) (n int, buffer []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, nil, err
	}
	defer file.Close()
	buffer = make([]byte, size)
	n, err = file.Read(buffer)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, buffer, err
}

// readNames returns the names in a folder, sorted; beyond most it is an error.
func readNames(path string, most int) ([]string, error) {
	folder, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(most + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(names) > most {
		return nil, fmt.Errorf("it has more than %d entries", most)
	}
	slices.Sort(names)
	return names, nil
}

// clean makes text from elsewhere fit to be shown: without control characters. Its length is the caller's concern.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, text)
}

// shorten cuts text after some bytes.
func shorten(text string, most int) string {
	if len(text) > most {
		return strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
