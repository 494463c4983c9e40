// SPDX-License-Identifier: MPL-2.0

// Package datadir reads what a Consul agent keeps in its data directory about the registrations that came through its API,
// and which tokens it was given through it. Begin with Read. It keeps hashes of tokens, and nothing else of them.
//
// Definitions in configuration files are not there: see package configdir. Consul 1.8 to 1.21 write the same shapes.
package datadir

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul"
)

// The agent's user writes the folder, and root reads it: these bounds keep it from exhausting this process.
const (
	maxFileSize  = 1 << 20
	maxTotalSize = 64 << 20
	maxFiles     = 20000
)

// Data is what was found.
type Data struct {
	// Services are the registrations, by ID; those whose files could not be read stand first, and have a Problem.
	Services []Service
	// Tokens are hashes of the agent's own tokens that were set through the API and kept, by what they are called in
	// configuration files: "acl.tokens.default". The agent uses these, and not those of its files.
	Tokens map[string]consul.TokenHash
	// Problems are what could not be read beside registrations, one sentence each.
	Problems []string
}

// Service is one registration. Every text is a claim of whoever registered it.
type Service struct {
	File string

	ID, Name, Kind string
	// DestinationName and DestinationID are of the service that a proxy stands before.
	DestinationName, DestinationID string
	// TokenHash is of the token that the request brought, or where it brought none of the agent's default token; zero where
	// there was none either.
	TokenHash consul.TokenHash

	Problem string // why nothing but File is known; "" for none
}

// Read reads the data directory of an agent, which is private to the agent's user and root. It follows no symbolic link in
// it. A file that cannot be read is a Problem; Read fails where one of the folders cannot be. Without a folder of
// registrations there are none.
func Read(dir string) (*Data, error) {
	folder, err := openFolder(unix.AT_FDCWD, dir, 0)
	if err != nil {
		return nil, cannotRead(dir, err)
	}
	defer folder.Close()
	data := &Data{}
	data.readTokens(folder, dir)
	if err := data.readServices(folder, dir); err != nil {
		return nil, err
	}
	return data, nil
}

func (d *Data) readServices(folder *os.File, dir string) error {
	path := filepath.Join(dir, "services")
	services, err := openFolder(int(folder.Fd()), "services", unix.O_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return cannotRead(path, err)
	}
	defer services.Close()
	entries, err := services.ReadDir(maxFiles + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return cannotRead(path, err)
	}
	if len(entries) > maxFiles {
		d.Services = append(d.Services, Service{File: path,
			Problem: fmt.Sprintf("holds more than %d files, of which the others were not read", maxFiles)})
		entries = entries[:maxFiles]
	}
	size := 0
	for _, entry := range entries {
		// The agent itself passes over folders, and over what it had not written to the end.
		if entry.IsDir() || strings.HasSuffix(entry.Name(), "tmp") {
			continue
		}
		service := Service{File: filepath.Join(path, entry.Name())}
		text, err := readFile(services, entry.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue // deregistered since the folder was listed
		case err != nil:
			service.Problem = "cannot be read: " + cause(err).Error()
		default:
			service.decode(text)
		}
		if size += len(text); size > maxTotalSize {
			d.Services = append(d.Services, Service{File: path,
				Problem: fmt.Sprintf("holds more than %d MiB, of which the rest was not read", maxTotalSize>>20)})
			break
		}
		d.Services = append(d.Services, service)
	}
	slices.SortFunc(d.Services, func(a, b Service) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.File, b.File)) })
	return nil
}

// decode never shows what the decoder says: it quotes parts of what it refuses, and these can be a token.
func (s *Service) decode(text []byte) {
	var kept struct {
		Token   string
		Service struct {
			Kind, ID, Service string
			Proxy             struct{ DestinationServiceName, DestinationServiceID string }
		}
	}
	if json.Unmarshal(text, &kept) != nil || kept.Service.ID == "" {
		s.Problem = "is no registration as Consul keeps it"
		return
	}
	s.ID, s.Name, s.Kind = kept.Service.ID, kept.Service.Service, kept.Service.Kind
	s.DestinationName, s.DestinationID = kept.Service.Proxy.DestinationServiceName, kept.Service.Proxy.DestinationServiceID
	s.TokenHash = consul.HashSecret(kept.Token)
}

// readTokens reads what enable_token_persistence keeps.
func (d *Data) readTokens(folder *os.File, dir string) {
	const name = "acl-tokens.json"
	path := filepath.Join(dir, name)
	text, err := readFile(folder, name)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		d.Problems = append(d.Problems, cannotRead(path, err).Error())
		return
	}
	var kept struct {
		Agent                  string `json:"agent"`
		AgentRecovery          string `json:"agent_recovery"`
		AgentMaster            string `json:"agent_master"` // of Consul before 1.11
		Default                string `json:"default"`
		Replication            string `json:"replication"`
		ConfigFileRegistration string `json:"config_file_service_registration"`
		DNS                    string `json:"dns"`
	}
	if json.Unmarshal(text, &kept) != nil {
		d.Problems = append(d.Problems, fmt.Sprintf("%q holds no tokens as Consul keeps them", path))
		return
	}
	for key, secret := range map[string]string{
		"agent": kept.Agent, "agent_recovery": cmp.Or(kept.AgentRecovery, kept.AgentMaster), "default": kept.Default,
		"replication": kept.Replication, "config_file_service_registration": kept.ConfigFileRegistration, "dns": kept.DNS,
	} {
		if secret == "" {
			continue
		}
		if d.Tokens == nil {
			d.Tokens = map[string]consul.TokenHash{}
		}
		d.Tokens["acl.tokens."+key] = consul.HashSecret(secret)
	}
}

func openFolder(at int, name string, flags int) (*os.File, error) {
	return open(at, name, flags|unix.O_DIRECTORY)
}

// open asks beneath an open folder, which nobody can put another in the place of meanwhile. A FIFO would block without
// O_NONBLOCK.
func open(at int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		default:
			return os.NewFile(uintptr(fd), name), nil
		}
	}
}

func readFile(folder *os.File, name string) ([]byte, error) {
	file, err := open(int(folder.Fd()), name, unix.O_NOFOLLOW)
	if errors.Is(err, unix.ELOOP) {
		return nil, errors.New("it is a symbolic link, as Consul makes none")
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(text) > maxFileSize {
		err = fmt.Errorf("it is larger than %d MiB", maxFileSize>>20)
	}
	return text, err
}

func cannotRead(path string, err error) error {
	remedy := ""
	if errors.Is(err, fs.ErrPermission) {
		remedy = "; run as root, or as the user that Consul runs as"
	}
	return fmt.Errorf("cannot read %q: %w%s", path, cause(err), remedy)
}

// cause is err without the path, which stands beside it already.
func cause(err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped.Err
	}
	return err
}
