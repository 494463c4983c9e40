// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxPEMFile = 1 << 20 // bytes: what a whole system trusts is about 250 kB
	maxCAFiles = 1000    // of ca_path
)

// pemFile is a file of the configuration as it was read.
type pemFile struct {
	key  string // of the configuration
	path string
	data []byte
}

// tlsFiles are the files of a Config that TLS uses, as they were read, one after the other: what they say together is
// found out by parse.
type tlsFiles struct {
	ca, client []pemFile // client holds the certificate and its key, or nothing
	sum        [sha256.Size]byte
}

// readTLSFiles reads what cfg names. ca_file stands over ca_path, as it does for Consul's own tools.
func readTLSFiles(cfg *Config) (*tlsFiles, error) {
	files := &tlsFiles{}
	switch {
	case cfg.CAFile != "":
		f, err := readPEM("ca_file", cfg.CAFile)
		if err != nil {
			return nil, err
		}
		files.ca = []pemFile{f}
	case cfg.CAPath != "":
		var err error
		if files.ca, err = readCAPath(cfg.CAPath); err != nil {
			return nil, err
		}
	}
	for _, named := range []struct{ key, path string }{{"cert_file", cfg.CertFile}, {"key_file", cfg.KeyFile}} {
		if cfg.CertFile == "" && cfg.KeyFile == "" {
			break
		}
		if named.path == "" {
			return nil, errors.New("cannot use a client certificate without its key: set cert_file and key_file, or neither")
		}
		f, err := readPEM(named.key, named.path)
		if err != nil {
			return nil, err
		}
		files.client = append(files.client, f)
	}
	files.sum = sumOf(slices.Concat(files.ca, files.client))
	return files, nil
}

func sumOf(files []pemFile) [sha256.Size]byte {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %q %d\n", f.key, f.path, len(f.data))
		h.Write(f.data)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func readPEM(key, path string) (pemFile, error) {
	f := pemFile{key: key, path: path}
	if info, err := os.Stat(path); key == "ca_file" && err == nil && info.IsDir() {
		return f, f.fault("it is a folder; name it in ca_path")
	}
	data, err := readRegular(path, maxPEMFile)
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		err = failed.Err // the path is told once
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return f, f.fault("%w; let the user that hostagent runs as read it", err)
	case errors.Is(err, fs.ErrNotExist):
		return f, f.fault("%w; put the file there, or correct %s", err, key)
	case err != nil:
		return f, f.fault("%w; correct %s", err, key)
	case len(bytes.TrimSpace(data)) == 0:
		return f, f.fault("it is empty")
	}
	f.data = data
	return f, nil
}

// readCAPath reads the files below a folder that hold certificates. Others, such as revocation lists and hidden ones, are left
// alone; an empty one is about to be written. Links to files count, since openssl rehash makes them; links to folders do not,
// since they may lead in circles.
func readCAPath(folder string) ([]pemFile, error) {
	whole := pemFile{key: "ca_path", path: folder}
	var files []pemFile
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if hidden := path != folder && strings.HasPrefix(entry.Name(), "."); hidden && entry.IsDir() {
			return fs.SkipDir
		} else if info, err := os.Stat(path); hidden || err != nil || !info.Mode().IsRegular() {
			return nil // such as a link that leads nowhere
		}
		f, err := readPEM(whole.key, path)
		if err != nil {
			return err
		}
		if bytes.Contains(f.data, []byte("-----BEGIN CERTIFICATE")) {
			files = append(files, f)
		}
		if len(files) > maxCAFiles {
			return whole.fault("it holds more than %d files with certificates", maxCAFiles)
		}
		return nil
	})
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, whole.fault("%w", failed)
	}
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, whole.fault("no file in it holds a PEM certificate")
	}
	return files, nil
}

// fault says what is wrong with a file of the configuration.
func (f *pemFile) fault(format string, args ...any) error {
	return fmt.Errorf("cannot use %s %q: %w", f.key, f.path, fmt.Errorf(format, args...))
}

// certificates are what the agent is verified with, and what it may verify us with.
type certificates struct {
	roots  *x509.CertPool      // nil: what the system trusts
	cas    []*x509.Certificate // that roots holds
	client *tls.Certificate    // nil: none
}

// parse makes certificates of files. It refuses whatever is not whole: a file may be read while it is being written.
func (files *tlsFiles) parse() (*certificates, error) {
	made := &certificates{}
	for i := range files.ca {
		found, err := files.ca[i].certificates()
		if err != nil {
			return nil, err
		}
		made.cas = append(made.cas, found...)
	}
	if files.ca != nil {
		made.roots = x509.NewCertPool()
		for _, ca := range made.cas {
			made.roots.AddCert(ca)
		}
	}
	if files.client == nil {
		return made, nil
	}
	var err error
	made.client, err = keyPair(&files.client[0], &files.client[1])
	return made, err
}

// blocks returns the PEM blocks of a file, all whole.
func (f *pemFile) blocks() ([]*pem.Block, error) {
	var blocks []*pem.Block
	for rest := f.data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		blocks = append(blocks, block)
	}
	switch begun := bytes.Count(f.data, []byte("-----BEGIN ")); {
	case begun > len(blocks):
		return nil, f.fault("it is no whole PEM: part of it is cut off or damaged")
	case len(blocks) == 0 && f.data[0] == 0x30: // an ASN.1 sequence
		return nil, f.fault("it is no PEM but looks like DER; convert it with openssl x509 or openssl pkey, -inform der")
	case len(blocks) == 0:
		return nil, f.fault("it holds no PEM: no line in it begins with -----BEGIN")
	}
	return blocks, nil
}

func isKey(block *pem.Block) bool { return strings.HasSuffix(block.Type, "PRIVATE KEY") }

// certificates returns the certificates of a file, at least one.
func (f *pemFile) certificates() ([]*x509.Certificate, error) {
	blocks, err := f.blocks()
	if err != nil {
		return nil, err
	}
	var found []*x509.Certificate
	for _, block := range blocks {
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, f.fault("a certificate in it cannot be read: %w", err)
		}
		found = append(found, certificate)
	}
	switch {
	case len(found) > 0:
		return found, nil
	case slices.ContainsFunc(blocks, isKey):
		return nil, f.fault("it holds a private key and no certificate; is that the path of key_file?")
	}
	return nil, f.fault("it holds no certificate but a %q", truncate(blocks[0].Type, 40))
}

// keyPair makes the client certificate of two files that belong together.
func keyPair(cert, key *pemFile) (*tls.Certificate, error) {
	keyBlocks, err := key.blocks()
	if err != nil {
		return nil, err
	}
	certBlocks, err := cert.blocks()
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(keyBlocks, isKey)
	if at < 0 && slices.ContainsFunc(certBlocks, isKey) {
		return nil, fmt.Errorf("cannot use cert_file %q and key_file %q: the first holds the key and the second the certificate; swap them",
			cert.path, key.path)
	}
	if at < 0 {
		return nil, key.fault("it holds no private key")
	}
	if keyBlocks[at].Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(keyBlocks[at].Headers["Proc-Type"], "ENCRYPTED") {
		return nil, key.fault("the key in it is encrypted, and there is nobody to ask for its passphrase; decrypt it with openssl pkey")
	}
	chain, err := cert.certificates()
	if err != nil {
		return nil, err
	}
	made, err := tls.X509KeyPair(cert.data, key.data)
	if err == nil {
		made.Leaf = chain[0]
		return &made, nil
	}
	for _, later := range chain[1:] {
		alone := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: later.Raw})
		if _, err := tls.X509KeyPair(alone, key.data); err == nil {
			return nil, cert.fault("the certificate of key_file %q must be the first in it, before those of CAs", key.path)
		}
	}
	return nil, fmt.Errorf("cannot use cert_file %q with key_file %q: %s; the two must be made together", cert.path, key.path, keyFault(err))
}

// keyFault says in our words what crypto/tls says of a pair.
func keyFault(err error) string {
	text := strings.TrimPrefix(err.Error(), "tls: ")
	if strings.Contains(text, "does not match public key") {
		return "the key is not that of the certificate"
	}
	return text
}

// tlsWarnings are what does no harm to the connection but should be mended.
func tlsWarnings(cfg *Config) []string {
	var warnings []string
	scheme, _, _ := strings.Cut(cfg.Address, "://")
	if scheme != "https" {
		var idle []string
		for _, set := range []struct{ key, value string }{
			{"ca_file", cfg.CAFile}, {"ca_path", cfg.CAPath}, {"cert_file", cfg.CertFile}, {"key_file", cfg.KeyFile}, {"tls_server_name", cfg.ServerName},
		} {
			if set.value != "" {
				idle = append(idle, set.key)
			}
		}
		if len(idle) > 0 {
			warnings = append(warnings, fmt.Sprintf("the Consul address %q is not https: without effect is what is set in %s",
				cfg.Address, strings.Join(idle, ", ")))
		}
	} else if cfg.InsecureSkipVerify {
		warnings = append(warnings, "any certificate of the Consul agent is accepted, so whoever answers on its address gets the token: set "+
			"ca_file instead of insecure_skip_verify")
	}
	if cfg.CAFile != "" && cfg.CAPath != "" {
		warnings = append(warnings, "ca_path has no effect beside ca_file: remove one of the two")
	}
	if info, err := os.Stat(cfg.KeyFile); cfg.KeyFile != "" && err == nil && info.Mode().Perm()&0o006 != 0 {
		warnings = append(warnings, fmt.Sprintf("every user of this host can read key_file %q: take that away with chmod o= on it, and make a new key",
			cfg.KeyFile))
	}
	return warnings
}
