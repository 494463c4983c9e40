// SPDX-License-Identifier: MPL-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	maxFileSize = 1 << 20 // bytes
	maxFiles    = 1000
)

// Load reads the configuration from paths, each a file or a folder, over the defaults. Of a folder it reads the files
// whose names end in ".hcl" and do not begin with a dot, in lexical order, and no folders below. Without paths it reads
// DefaultPath where that exists; a path that is named must exist.
//
// Files merge as Consul's do: a later single value wins, lists append without what they hold already, blocks merge key
// by key. A list that files set replaces the default list.
//
// The error is an Errors with everything that is wrong in any file; the Config is nil then.
func Load(paths ...string) (*Config, error) {
	return load(DefaultPath, paths)
}

func load(defaultPath string, paths []string) (*Config, error) {
	c := Default()
	if len(paths) == 0 {
		if _, err := os.Lstat(defaultPath); errors.Is(err, fs.ErrNotExist) {
			return c, nil
		}
		paths = []string{defaultPath}
	}
	files, problems := listFiles(paths)
	whole := len(problems) == 0
	for _, file := range files {
		source, problem := readFile(file)
		if problem != nil {
			problems, whole = append(problems, problem), false
			continue
		}
		found, parsed := c.merge(file, source)
		problems, whole = append(problems, found...), whole && parsed
	}
	c.Files = files
	if len(problems) == 0 {
		return c, nil
	}
	// Contradictions are shown in the same go, unless parts of the configuration could not be read at all: what is
	// missing from them would look like a mistake of its own.
	if whole {
		problems = append(problems, c.contradictions()...)
	}
	return nil, problems.sorted()
}

// listFiles returns the files that paths stand for.
func listFiles(paths []string) (files []string, problems Errors) {
	for _, path := range paths {
		found, err := filesOf(path)
		if err != nil {
			text := "cannot read configuration: " + withoutPath(err)
			if near := ClosestPath(path); near != "" {
				text += "; did you mean " + displayPath(near) + "?"
			}
			problems = append(problems, &Error{File: path, Text: text, cause: err})
		}
		files = append(files, found...)
	}
	if len(files) > maxFiles {
		problems = append(problems, &Error{File: files[maxFiles],
			Text: fmt.Sprintf("cannot read configuration: more than %d files", maxFiles)})
		files = files[:maxFiles]
	}
	return files, problems
}

// ClosestPath returns the path of this host that one which does not exist is most likely a slip of: in the deepest of its
// folders that is there, what has nearly the name that is missing. "" where path exists, where nothing is near, and where
// there are more than 1,000 names to choose from.
func ClosestPath(path string) string {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	const most = 1000
	missing, rest := filepath.Clean(path), ""
	folder, err := os.Open(filepath.Dir(missing))
	for err != nil && filepath.Dir(missing) != missing {
		rest = filepath.Join(filepath.Base(missing), rest)
		missing = filepath.Dir(missing)
		folder, err = os.Open(filepath.Dir(missing))
	}
	if err != nil {
		return ""
	}
	defer folder.Close()
	names, err := folder.Readdirnames(most)
	if err != nil || len(names) == most {
		return ""
	}
	slices.Sort(names) // so that of two equally near always the same one is named
	near := closestAsWritten(filepath.Base(missing), names)
	if near == "" {
		return ""
	}
	found := filepath.Join(filepath.Dir(missing), near, rest)
	if _, err := os.Stat(found); err != nil {
		return ""
	}
	return found
}

// closestAsWritten is Closest among words that may have capitals.
func closestAsWritten(got string, known []string) string {
	lower := make([]string, len(known))
	for i, word := range known {
		lower[i] = strings.ToLower(word)
	}
	if at := slices.Index(lower, Closest(got, lower)); at >= 0 {
		return known[at]
	}
	return ""
}

func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path) // sorted by name
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".hcl") {
			continue
		}
		files = append(files, filepath.Join(path, name))
	}
	return files, nil
}

// readFile reads one regular file of bounded size. It never waits: a named pipe is opened without blocking, and refused.
func readFile(path string) ([]byte, *Error) {
	fail := func(err error) *Error {
		return &Error{File: path, Text: "cannot read configuration: " + withoutPath(err), cause: err}
	}
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fail(err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, fail(err)
	case !info.Mode().IsRegular():
		return nil, fail(errors.New("not a regular file"))
	}
	source, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	switch {
	case err != nil:
		return nil, fail(err)
	case len(source) > maxFileSize:
		return nil, fail(errors.New("larger than 1 MiB"))
	}
	return source, nil
}

// withoutPath returns the system's reason alone: the path stands in front of it already.
func withoutPath(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
