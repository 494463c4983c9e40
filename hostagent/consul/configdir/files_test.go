// SPDX-License-Identifier: MPL-2.0

package configdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

func TestListFiles(t *testing.T) {
	elsewhere := folderOf(t, map[string]string{"real.hcl": `service { name = "real" }`, "real.txt": "", "zz.json": "{}"})
	folder := folderOf(t, map[string]string{
		"b.hcl": "", "a.json": "{}", ".hidden.hcl": "", ".hcl": "", "c.HCL": "?", "d.hcl~": "?", "e.json.bak": "?", "f.txt": "?", "README": "?",
	})
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(filepath.Join(elsewhere, "real.hcl"), "g.txt")  // its target's name counts
	link(filepath.Join(elsewhere, "real.txt"), "h.hcl")  // and here too
	link(filepath.Join(elsewhere, "zz.json"), "00.json") // its own name gives it its place
	link(filepath.Join(elsewhere, "none.hcl"), "i.hcl")  // nowhere
	link(elsewhere, "j.hcl")                             // a folder
	link(filepath.Join(folder, "k.hcl"), "k.hcl")        // itself
	if err := os.Mkdir(filepath.Join(folder, "l.hcl"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"..data", "a", ".git"} {
		if err := os.MkdirAll(filepath.Join(folder, name, "deeper"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"m.hcl", "m.txt"} {
		if err := syscall.Mkfifo(filepath.Join(folder, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Read(folder + "//")
	if err != nil {
		t.Fatal(err)
	}
	wantSkipped := []string{filepath.Join(folder, ".git"), filepath.Join(folder, "a"), filepath.Join(folder, "j.hcl"), filepath.Join(folder, "l.hcl")}
	if diff := gocmp.Diff(wantSkipped, c.Skipped); diff != "" {
		t.Errorf("skipped (-want +got):\n%s", diff)
	}
	got := []string{}
	for _, path := range c.Files {
		got = append(got, strings.NewReplacer(folder, "", elsewhere, "elsewhere").Replace(path))
	}
	want := []string{"/.hcl", "/.hidden.hcl", "elsewhere/zz.json", "/a.json", "/b.hcl", "elsewhere/real.hcl", "/i.hcl", "/k.hcl", "/m.hcl"}
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	wantProblems := []string{
		"i.hcl: is a symbolic link that leads nowhere: no such file or directory",
		"k.hcl: is a symbolic link that leads nowhere: EvalSymlinks: too many links",
		"m.hcl: is not a regular file; Consul would wait for it or fail",
	}
	if diff := gocmp.Diff(wantProblems, problemLines(folder, c.Problems)); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestReadNothing(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.txt": "", "a.hcl": ""})
	for _, tt := range []struct {
		path, want string
		is         error
	}{
		{filepath.Join(folder, "none"), `none": no such file or directory`, fs.ErrNotExist},
		{filepath.Join(folder, "no\nne"), `no\nne": no such file`, fs.ErrNotExist},
		{filepath.Join(folder, "a.txt"), "Consul takes only names that end in .hcl or .json", nil},
		{filepath.Join(folder, "a.hcl", "x"), `x": not a directory`, syscall.ENOTDIR},
	} {
		c, err := Read(folder, tt.path)
		if err == nil || c != nil || !strings.HasPrefix(err.Error(), "cannot read ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v", tt.path, err)
		}
		if tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%q: %v is not %v", tt.path, err, tt.is)
		}
	}
	if c, err := Read(t.TempDir()); err != nil || len(c.Files)+len(c.Services)+len(c.Problems) != 0 {
		t.Errorf("an empty folder: %v, %v", c, err)
	}
	if c, err := Read(); err != nil || len(c.Files) != 0 {
		t.Errorf("no path: %v, %v", c, err)
	}
}

func TestReadOneUnreadable(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.hcl": "", "big.hcl": strings.Repeat("#", maxFileSize+1), "c.hcl": `service { name = "c" }`})
	c, err := Read(folder)
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff([]string{"big.hcl: is larger than 1 MiB"}, problemLines(folder, c.Problems)); diff != "" || len(c.Services) != 1 {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	for _, name := range []string{"a.hcl", "c.hcl"} {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := Read(folder); err == nil || !strings.HasPrefix(err.Error(), "cannot read any file: ") {
		t.Errorf("nothing but unreadable files: %v, %v", c, err)
	}
	// The largest that is read ends the test's patience long before a real folder does.
	if err := os.WriteFile(filepath.Join(folder, "full.hcl"), []byte(strings.Repeat("#", maxFileSize)), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := Read(filepath.Join(folder, "full.hcl")); err != nil || len(c.Problems) != 0 {
		t.Errorf("a file of %d bytes: %v, %v", maxFileSize, err, c)
	}
}

// TestUnreadable has no file at hand that root cannot read.
func TestUnreadable(t *testing.T) {
	err := unreadable(&fs.PathError{Op: "open", Path: "/etc/consul.d/a.hcl", Err: syscall.EACCES})
	if want := "cannot be read: permission denied; run as root, or as the user that Consul runs as"; err.Error() != want || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTooManyFiles(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.hcl": ""})
	path := filepath.Join(folder, "a.hcl")
	paths := make([]string, maxFiles+1)
	for i := range paths {
		paths[i] = path
	}
	c, err := Read(paths...)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("a.hcl: is beyond the first %d files; it and what follows were not read", maxFiles)}
	if diff := gocmp.Diff(want, problemLines(folder, c.Problems)); diff != "" || len(c.Files) != maxFiles {
		t.Errorf("%d files, problems (-want +got):\n%s", len(c.Files), diff)
	}
}

// TestTooManyBytes has files that are good by themselves.
func TestTooManyBytes(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.json": "{}" + strings.Repeat(" ", maxFileSize-2), "b.hcl": `service { name = "b" }`})
	large, small := filepath.Join(folder, "a.json"), filepath.Join(folder, "b.hcl")
	paths := slices.Repeat([]string{large}, maxTotalSize/maxFileSize)
	c, err := Read(append(paths, small, large)...)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"b.hcl: is beyond the first 64 MiB; it and what follows were not read"}
	if diff := gocmp.Diff(want, problemLines(folder, c.Problems)); diff != "" || len(c.Files) != len(paths) || len(c.Services) != 0 {
		t.Errorf("%d files, %v, problems (-want +got):\n%s", len(c.Files), c.Services, diff)
	}
}

// TestReadAhead proves that files are not decoded long before they are merged.
func TestReadAhead(t *testing.T) {
	folder := folderOf(t, map[string]string{"a.hcl": "", "last.hcl": ""})
	files := slices.Repeat([]file{{path: filepath.Join(folder, "a.hcl"), format: "hcl"}}, filesAhead)
	files = append(files, file{path: filepath.Join(folder, "last.hcl"), format: "hcl"})
	var unreadable []bool
	for content := range inOrder(files) {
		if len(unreadable) == 0 {
			if err := os.Remove(files[filesAhead].path); err != nil {
				t.Fatal(err)
			}
		}
		unreadable = append(unreadable, content.unreadable != nil)
	}
	if want := append(make([]bool, filesAhead), true); !slices.Equal(want, unreadable) {
		t.Errorf("unreadable: got %v, want %v", unreadable, want)
	}
}

// TestReadChanged has what files can become after they were listed.
func TestReadChanged(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "a.hcl")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := (&file{path: fifo, format: "hcl"}).read()
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Errorf("a FIFO: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for somebody to write to a FIFO")
	}

	text, err := (&file{path: "/proc/self/status", format: "hcl"}).read()
	if err != nil || !strings.HasPrefix(string(text), "Name:") || !strings.HasSuffix(string(text), "\n") {
		t.Errorf("a file without a size: %q, %v", text, err)
	}
	for _, size := range []int64{0, 10, maxFileSize, 1 << 60} {
		full := strings.Repeat("#", maxFileSize)
		if text, err := readBounded(strings.NewReader(full), size); err != nil || string(text) != full {
			t.Errorf("a full file that claims %d bytes: %d, %v", size, len(text), err)
		}
		if text, err := readBounded(strings.NewReader(full+"#"), size); err == nil || err.Error() != "is larger than 1 MiB" {
			t.Errorf("a larger file that claims %d bytes: %d, %v", size, len(text), err)
		}
	}
}
