// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul"
)

const (
	maxCertificateFile  = 1 << 20 // bytes
	mostCertificates    = 100     // that are read of all files together
	mostAuthorityFiles  = 100     // of a folder of CAs
	needsCertificates   = "run as root, on the agent's host"
	notAgentsFolder     = "it is a relative path, and the folder that it is relative to is the agent's"
	noCertificateInside = "it holds no certificate"
	notHere             = "the agent sees another file at this path than this host, as in a container"
	notPublic           = "not everybody may read it, and the service reads no file that may hold a key"
)

// protocols are those of an agent that use TLS, by their name in tls { }.
var protocols = [...]string{"internal_rpc", "https", "grpc"}

// tlsPaths are where one protocol's certificates are. Each is known or not by itself.
type tlsPaths struct {
	caFile, caPath, certFile setting[string]
}

func pathsOf(in *Input, protocol string) tlsPaths {
	running := map[string]*consul.TLS{
		"internal_rpc": &in.Running.Value.RPC, "https": &in.Running.Value.HTTPS, "grpc": &in.Running.Value.GRPC,
	}[protocol]
	look := func(running *string, key string) setting[string] {
		return settingOf(in, running, "", "tls."+protocol+"."+key, "tls.defaults."+key)
	}
	return tlsPaths{
		caFile: look(running.CAFile, "ca_file"), caPath: look(running.CAPath, "ca_path"),
		certFile: look(running.CertFile, "cert_file"),
	}
}

// named is a file or folder of certificates that settings name.
type named struct {
	path   string
	ca     bool
	folder bool
	uses   []string
}

// certificateReader reads certificates where the agent says that they are, which is as untrusted as all that it says.
type certificateReader struct {
	publicOnly bool // files that not everybody may read stay closed: there may be a key in them
	elsewhere  func(path string) bool
}

// readCertificates reads the certificates that the agent's settings name, those of CAs too, and nothing else of these files:
// a key that stands in one is passed over. What cannot be read is a Certificate with a Problem. The service, which reads no
// file that may hold a secret, reads those that everybody may read.
func (l *looking) readCertificates() Seen[[]Certificate] {
	in := l.in
	r := certificateReader{publicOnly: l.from.Service, elsewhere: func(path string) bool { return l.isElsewhere(procDir, path) }}
	var files []named
	add := func(path setting[string], use string, ca, folder bool) bool {
		if !path.known || path.value == "" {
			return path.known
		}
		at := slices.IndexFunc(files, func(n named) bool { return n.path == path.value && n.ca == ca && n.folder == folder })
		if at < 0 {
			at, files = len(files), append(files, named{path: path.value, ca: ca, folder: folder})
		}
		files[at].uses = append(files[at].uses, use)
		return true
	}
	known := true
	for _, protocol := range protocols {
		paths := pathsOf(in, protocol)
		known = add(paths.certFile, protocol, false, false) && known
		known = add(paths.caFile, protocol, true, false) && known
		if paths.caFile.value == "" { // it stands over the folder
			known = add(paths.caPath, protocol, true, true) && known
		}
	}
	if !known {
		unknown := pathsOf(in, protocols[0]).certFile
		if len(files) == 0 {
			return Unseen[[]Certificate](unknown.found, unknown.needs)
		}
	}
	all := []Certificate{}
	for _, file := range files {
		all = append(all, r.read(&file, mostCertificates-len(all))...)
	}
	return Known(all)
}

// read returns the certificates of a file or folder, at most most of them and at least one that tells why there is none.
func (r *certificateReader) read(n *named, most int) []Certificate {
	paths := []string{n.path}
	switch {
	case !filepath.IsAbs(n.path):
		return []Certificate{n.problem(n.path, notAgentsFolder)}
	case r.elsewhere(n.path):
		return []Certificate{n.problem(n.path, notHere)}
	case most <= 0:
		return []Certificate{n.problem(n.path, fmt.Sprintf("it is not read: there are %d certificates before it", mostCertificates))}
	case n.folder:
		var err error
		if paths, err = certificateFiles(n.path); err != nil {
			return []Certificate{n.problem(n.path, bare(err).Error())}
		}
	}
	var all []Certificate
	for _, path := range paths {
		chain, err := r.readPEM(path, most-len(all))
		switch {
		case err != nil:
			all = append(all, n.problem(path, bare(err).Error()))
		case len(chain) == 0 && !n.folder:
			all = append(all, n.problem(path, noCertificateInside))
		case n.ca:
			for _, certificate := range chain {
				// openssl rehash links to each file of a folder.
				if !slices.ContainsFunc(all, func(c Certificate) bool { return certificate.Equal(c.X509) }) {
					all = append(all, n.certificate(path, certificate))
				}
			}
		case len(chain) > 0: // the first is the agent's, others lead from it to the CA
			own := n.certificate(path, chain[0])
			own.Chain = chain[1:]
			all = append(all, own)
		}
		if len(all) >= most {
			return all[:most]
		}
	}
	if len(all) == 0 {
		all = append(all, n.problem(n.path, "no file in it holds a certificate"))
	}
	return all
}

func (n *named) problem(path, reason string) Certificate {
	return Certificate{Use: n.use(), Path: path, CA: n.ca, Problem: reason}
}

func (n *named) use() string { return strings.Join(n.uses, ", ") }

func (n *named) certificate(path string, c *x509.Certificate) Certificate {
	names := slices.Clone(c.DNSNames)
	for _, address := range c.IPAddresses {
		names = append(names, address.String())
	}
	return Certificate{
		Use: n.use(), Path: path, CA: n.ca, Subject: c.Subject.String(), Names: names, NotAfter: c.NotAfter, X509: c,
	}
}

// certificateFiles are the regular files of a folder, in order, without those in folders below it: Consul reads those too, but
// links may lead there in circles.
func certificateFiles(folder string) ([]string, error) {
	f, err := os.OpenFile(folder, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(mostAuthorityFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > mostAuthorityFiles {
		return nil, fmt.Errorf("it holds more than %d files", mostAuthorityFiles)
	}
	var files []string
	for _, entry := range entries {
		path := filepath.Join(folder, entry.Name())
		if info, err := os.Stat(path); err != nil || info.Mode().IsRegular() {
			files = append(files, path)
		}
	}
	slices.Sort(files)
	return files, nil
}

// readPEM returns the certificates of a file, at most most of them. Other blocks are passed over unread.
func (r *certificateReader) readPEM(path string, most int) ([]*x509.Certificate, error) {
	f, err := r.open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCertificateFile))
	if err != nil {
		return nil, err
	}
	defer clear(data) // there may be a key in it
	var chain []*x509.Certificate
	for len(chain) < most {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("a certificate in it cannot be read")
		}
		chain = append(chain, certificate)
	}
	return chain, nil
}

// open opens a regular file on a disk, and touches nothing else: to open a device can set it off, a FIFO waits, and a read of
// /proc/kmsg takes away what it reads. So what path is counts before it is opened, and that is then opened, whatever stands
// at path by now.
func (r *certificateReader) open(path string) (*os.File, error) {
	at, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	info, err := at.Stat()
	if err != nil {
		return nil, err
	}
	var system unix.Statfs_t
	if err := unix.Fstatfs(int(at.Fd()), &system); err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case slices.Contains(kernelsOwn[:], int64(uint32(system.Type))):
		return nil, errors.New("it is a file of the kernel's")
	case info.Size() > maxCertificateFile:
		return nil, errors.New("it is larger than 1 MiB")
	case r.publicOnly && info.Mode().Perm()&0o004 == 0:
		return nil, errors.New(notPublic)
	}
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", at.Fd()), os.O_RDONLY, 0)
}

// kernelsOwn are file systems whose regular files are none.
var kernelsOwn = [...]int64{
	unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC,
	unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
}
