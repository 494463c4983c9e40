// SPDX-License-Identifier: MPL-2.0

package facts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/hcl"
)

const (
	mostFiles   = 1000      // in a folder
	longestFile = 256 << 10 // bytes
	// mostBrackets is how many may be opened in a file. HCL's parser calls itself for those that stand in each other, and
	// with JSON its time and memory grow with their number's square (10,000: 0.6 s, 400 MB).
	mostBrackets = 2000
)

// readNomadConfig merges the client settings of Nomad's configuration files, and names those that have any. A path that is
// not there is left out.
func (f *Facts) readNomadConfig(paths []string) (clientSettings, string) {
	var merged clientSettings
	var sources []string
	for _, path := range paths {
		files, err := nomadFiles(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.note("cannot read Nomad's configuration %s: %v", path, err)
		}
		for _, file := range files {
			settings, found, err := readNomadFile(file)
			if err != nil {
				f.note("cannot read Nomad's configuration file %s: %v", file, err)
			}
			if found {
				merged.merge(settings)
				sources = append(sources, file)
			}
		}
	}
	return merged, strings.Join(sources, ", ")
}

// nomadFiles returns the files that Nomad reads of a path: the file, or of a folder, in lexical order, those named so.
func nomadFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	names, err := readNames(path, mostFiles)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, name := range names {
		file := filepath.Join(path, name)
		named := strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".json")
		if !named || strings.HasPrefix(name, ".#") { // an editor's own
			continue
		}
		if info, err := os.Lstat(file); err != nil || info.IsDir() {
			continue
		}
		files = append(files, file)
	}
	return files, nil
}

// readNomadFile returns the client settings of a file, and tells whether it has any.
func readNomadFile(path string) (settings clientSettings, found bool, err error) {
	// Opened so, a pipe does not keep anybody waiting.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return settings, false, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return settings, false, errors.Join(err, errors.New("it is not a regular file"))
	}
	text, err := io.ReadAll(io.LimitReader(file, longestFile+1))
	if err != nil {
		return settings, false, err
	}
	return parseNomadFile(string(text))
}

// parseNomadFile reads HCL, version 1, or JSON, with the parser and into the shape that Nomad does, so that odd spellings
// mean the same to both. Only what is asked for has to be right.
func parseNomadFile(text string) (settings clientSettings, found bool, err error) {
	if len(text) > longestFile {
		return settings, false, fmt.Errorf("it has more than %d bytes", longestFile)
	}
	if strings.Count(text, "{")+strings.Count(text, "[") > mostBrackets {
		return settings, false, fmt.Errorf("it has more than %d brackets", mostBrackets)
	}
	var file struct {
		Client *struct {
			Enabled        bool  `hcl:"enabled"`
			MinDynamicPort int64 `hcl:"min_dynamic_port"`
			MaxDynamicPort int64 `hcl:"max_dynamic_port"`
			Reserved       *struct {
				ReservedPorts string `hcl:"reserved_ports"`
			} `hcl:"reserved"`
		} `hcl:"client"`
	}
	if err := hcl.Decode(&file, text); err != nil || file.Client == nil {
		return settings, false, err
	}
	client := file.Client
	settings = clientSettings{enabled: client.Enabled, first: client.MinDynamicPort, last: client.MaxDynamicPort}
	if client.Reserved != nil {
		settings.reserved = client.Reserved.ReservedPorts
	}
	return settings, true, nil
}
