// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Consul reads whatever it is given. These bounds keep a hostile or mistaken folder from exhausting this host; Consul's
// documentation has no example of more than some kilobytes.
const (
	maxFileSize  = 1 << 20
	maxTotalSize = 64 << 20
	maxFiles     = 20000
)

// file is one that counts as a part of the configuration.
type file struct {
	path   string
	format string // hcl or json
	wrong  error  // why it cannot be read, as far as that is known
}

// listFiles finds what Consul would read, in its order: files by themselves, and those of a folder by name, not those of
// folders in it: these are skipped. Of a symbolic link in a folder, the name of its target counts and not its own.
func listFiles(paths []string) (files []file, skipped []string, err error) {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read %s: %w", strconv.Quote(path), reason(err))
		}
		if !info.IsDir() {
			format := formatOf(path)
			if format == "" {
				return nil, nil, fmt.Errorf("cannot read %s: Consul takes only names that end in .hcl or .json", strconv.Quote(path))
			}
			files = append(files, file{path: path, format: format, wrong: irregular(info)})
			continue
		}
		entries, err := os.ReadDir(path) // sorted by name
		if err != nil {
			return nil, nil, fmt.Errorf("cannot read %s: %w", strconv.Quote(path), reason(err))
		}
		for _, entry := range entries {
			f, kind := inFolder(path, entry)
			switch {
			case kind == configuration:
				files = append(files, f)
			case kind == folder && !strings.HasPrefix(entry.Name(), ".."): // ConfigMaps keep what they link to in those
				skipped = append(skipped, filepath.Join(path, entry.Name()))
			}
		}
	}
	return files, skipped, nil
}

// entryKind is what an entry of a folder is to Consul.
type entryKind int

const (
	other entryKind = iota
	configuration
	folder
)

func inFolder(path string, entry fs.DirEntry) (file, entryKind) {
	f := file{path: filepath.Join(path, entry.Name())}
	if entry.Type()&fs.ModeSymlink != 0 {
		target, err := filepath.EvalSymlinks(f.path)
		if err != nil {
			f.wrong = fmt.Errorf("is a symbolic link that leads nowhere: %w", cause(err))
			return f, configuration
		}
		f.path = target
	}
	// The agent looks at the target of a link too, and reads neither folders nor other names.
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return f, other // gone since the folder was listed
	case err != nil:
		f.wrong = unreadable(err)
	case info.IsDir():
		return f, folder
	default:
		f.wrong = irregular(info)
	}
	if f.format = formatOf(f.path); f.format == "" {
		return f, other
	}
	return f, configuration
}

func formatOf(path string) string {
	switch {
	case strings.HasSuffix(path, ".json"):
		return "json"
	case strings.HasSuffix(path, ".hcl"):
		return "hcl"
	}
	return ""
}

// irregular tells why what is no file is not opened: a FIFO would block, and Consul with it.
func irregular(info fs.FileInfo) error {
	if info.Mode().IsRegular() {
		return nil
	}
	return errors.New("is not a regular file; Consul would wait for it or fail")
}

// read returns the content of a file that listFiles found, or why there is none.
func (f *file) read() ([]byte, error) {
	if f.wrong != nil {
		return nil, f.wrong
	}
	opened, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may have become a FIFO since
	if err != nil {
		return nil, unreadable(err)
	}
	defer opened.Close()
	info, err := opened.Stat()
	if err != nil {
		return nil, unreadable(err)
	}
	if err := irregular(info); err != nil {
		return nil, err
	}
	return readBounded(opened, info.Size())
}

// readBounded reads all, which can be more than size: a file grows, or has no size in /proc.
func readBounded(r io.Reader, size int64) ([]byte, error) {
	text := make([]byte, 0, min(size, maxFileSize)+1)
	for {
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case len(text) > maxFileSize:
			return nil, fmt.Errorf("is larger than %d MiB", maxFileSize>>20)
		case errors.Is(err, io.EOF):
			return text, nil
		case err != nil:
			return nil, unreadable(err)
		case len(text) == cap(text): // more than its size
			text = append(text, 0)[:len(text)]
		}
	}
}

func unreadable(err error) error { return fmt.Errorf("cannot be read: %w", reason(err)) }

// reason is err without the path, which stands beside it already, and what would help.
func reason(err error) error {
	remedy := ""
	if errors.Is(err, fs.ErrPermission) {
		remedy = "; run as root, or as the user that Consul runs as"
	}
	return fmt.Errorf("%w%s", cause(err), remedy)
}

// cause is err without the path, which stands beside it already.
func cause(err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped.Err
	}
	return err
}
