// SPDX-License-Identifier: MPL-2.0

package status

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mode is the type and permission bits of path itself.
func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// leave leaves a socket at path as a killed process does.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func withUmask(t *testing.T, umask int) {
	t.Helper()
	before := syscall.Umask(umask)
	t.Cleanup(func() { syscall.Umask(before) })
}

func TestListenModes(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		base := t.TempDir() // before the umask
		withUmask(t, umask)
		path := filepath.Join(base, "run", "hostagent", "hostagent.sock")
		s, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for file, want := range map[string]fs.FileMode{
			path:                       fs.ModeSocket | 0o660,
			path + ".lock":             0o600 &^ fs.FileMode(umask),
			filepath.Dir(path):         fs.ModeDir | 0o755,
			filepath.Join(base, "run"): fs.ModeDir | 0o755,
		} {
			if got := mode(t, file); got != want {
				t.Errorf("umask %#o: %s has mode %v, want %v", umask, filepath.Base(file), got, want)
			}
		}
	}
}

// TestListenAsRootForAnother: where another user keeps the socket, what root makes is that user's, and what was there before, or
// has a second name, is not given away.
func TestListenAsRootForAnother(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("NOT RUN: it gives folders away, which only root may")
		return
	}
	const other = 12345
	dir := t.TempDir()
	if err := os.Chown(dir, other, other); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	check := func(want uint32, files ...string) {
		t.Helper()
		for _, file := range files {
			var st unix.Stat_t
			if err := unix.Lstat(file, &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != want || st.Gid != want {
				t.Errorf("%s belongs to %d:%d, want %d", filepath.Base(file), st.Uid, st.Gid, want)
			}
		}
	}
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	check(other, path, path+".lock")
	if err := errors.Join(s.Close(), os.Chown(path+".lock", 0, 0)); err != nil {
		t.Fatal(err)
	}
	if s, err = Listen(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check(0, path+".lock")

	root := filepath.Join(t.TempDir(), "root")
	leave(t, root)
	second := filepath.Join(dir, "second")
	if err := os.Link(root, second); err != nil {
		t.Fatal(err)
	}
	if _, err := widen(second); err != nil {
		t.Fatal(err)
	}
	check(0, root)
}

// TestBindIsNarrow looks at the moment before chmod: with an open umask everybody could get in.
func TestBindIsNarrow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	withUmask(t, 0)
	l, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got, want := mode(t, path), fs.ModeSocket|0o660; got != want {
		t.Errorf("mode %v right after bind, want %v", got, want)
	}
}

// TestWidenFollowsNoLink has somebody put a link, or a file, where the socket was a moment ago.
func TestWidenFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	file, link, socket := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "socket")
	leave(t, socket)
	if err := errors.Join(os.Chmod(socket, 0o600), os.WriteFile(file, nil, 0o600), os.Symlink(socket, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, file} {
		if _, err := widen(path); err == nil {
			t.Errorf("%s passes for the socket", filepath.Base(path))
		}
	}
	for _, path := range []string{file, socket} {
		if got := mode(t, path).Perm(); got != 0o600 {
			t.Errorf("%s has mode %v now", filepath.Base(path), got)
		}
	}
}

func TestListenLeavesAStandingFolderAlone(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := Listen(filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, want := mode(t, dir), fs.ModeDir|0o700; got != want {
		t.Errorf("the folder has mode %v now, want %v", got, want)
	}
}

func TestListenReplacesWhatAKilledProcessLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	leave(t, path)
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestListenRefusesALivingOne(t *testing.T) {
	dir := t.TempDir()
	ours := filepath.Join(dir, "ours")
	s, err := Listen(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()

	unlocked := filepath.Join(dir, "unlocked") // served by a program that knows nothing of our lock
	l, err := net.Listen("unix", unlocked)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	full := filepath.Join(dir, "full") // its process hangs and its queue is full
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: full}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	for {
		c, err := net.Dial("unix", full)
		if err != nil {
			break
		}
		defer c.Close()
	}

	datagram := filepath.Join(dir, "datagram")
	d, err := net.ListenPacket("unixgram", datagram)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()

	// What a hostagent holds whose socket somebody removed; it lives all the same.
	held := filepath.Join(dir, "held")
	h, err := Listen(held)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}

	for _, path := range []string{ours, unlocked, full, datagram, held} {
		_, err := Listen(path)
		live, ok := errors.AsType[*LiveError](err)
		if !ok || live.Path != path || !strings.Contains(err.Error(), "another hostagent serves \""+path) {
			t.Errorf("%s: %v, want a *LiveError", filepath.Base(path), err)
		}
		if _, err := os.Lstat(path); err != nil && path != held {
			t.Errorf("%s: the living socket was removed", filepath.Base(path))
		}
	}
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(path string) error
		want string
	}{
		{"a file", func(path string) error { return os.WriteFile(path, []byte("precious"), 0o600) }, "a file that is no socket"},
		{"an empty folder", func(path string) error { return os.Mkdir(path, 0o755) }, "a file that is no socket"},
		{"a pipe", func(path string) error { return unix.Mkfifo(path, 0o600) }, "a file that is no socket"},
		{"a dangling link", func(path string) error { return os.Symlink(path+"-elsewhere", path) }, "symbolic link, which is not followed"},
		{"a link to a dead socket", func(path string) error {
			leave(t, path+"-dead")
			return os.Symlink(path+"-dead", path)
		}, "symbolic link, which is not followed"},
		{"a link for a lock", func(path string) error { return os.Symlink(path+"-elsewhere", path+".lock") }, "cannot open the lock"},
	} {
		path := filepath.Join(t.TempDir(), "s")
		if err := test.make(path); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(path)
		s, err := Listen(path)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if after, _ := os.Lstat(path); before != nil && (after == nil || !os.SameFile(before, after) || before.Mode() != after.Mode()) {
			t.Errorf("%s is not what it was", test.name)
		}
		if _, err := os.Lstat(path + "-elsewhere"); err == nil {
			t.Errorf("%s was followed", test.name)
		}
	}
}

func TestListenPath(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	longest := dir + "/" + strings.Repeat("x", maxPath-len(dir)-1)
	for _, test := range []struct{ path, want string }{
		{"", "empty path"},
		{"@hostagent", "lets everybody in"},
		{dir + "/a\x00b", "lets everybody in"},
		{longest + "x", "has 108 bytes and the kernel takes 107"},
		{file + "/s", "not a directory"},
	} {
		if _, err := Listen(test.path); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Listen(%q): %v, want %q", test.path, err, test.want)
		}
	}
	s, err := Listen(longest)
	if err != nil {
		t.Fatalf("a path of %d bytes: %v", len(longest), err)
	}
	s.Close()
}

func TestCloseRemovesOnlyItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	open := func() *Socket {
		s, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v, want no file", err)
	}
	if _, err := net.Dial("unix", path); err == nil {
		t.Error("it still listens")
	}

	for name, replace := range map[string]func(){
		"another socket": func() { leave(t, path) },
		"a file": func() {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"nothing": func() {},
	} {
		s := open()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		replace()
		_, before := os.Lstat(path)
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, after := os.Lstat(path); (before == nil) != (after == nil) {
			t.Errorf("%s was removed", name)
		}
		os.Remove(path)
	}
}

// TestListenAtOnce lets many take one socket that was left behind: one gets it, and nobody takes it from that one.
func TestListenAtOnce(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "s")
		leave(t, path)
		var mu sync.Mutex
		var won []*Socket
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				s, err := Listen(path)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, s)
				} else if _, ok := errors.AsType[*LiveError](err); !ok {
					t.Errorf("%v, want a *LiveError", err)
				}
			})
		}
		all.Wait()
		if len(won) != 1 {
			t.Fatalf("%d took the socket, want one", len(won))
		}
		if c, err := net.Dial("unix", path); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		won[0].Close()
	}
}
