// SPDX-License-Identifier: MPL-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
)

const (
	socketMode = 0o660 // connecting takes the right to write
	// maxPath is what fits into sun_path (unix(7)): 108 bytes with the NUL at its end.
	maxPath      = 107
	probeTimeout = time.Second
)

// Socket is a listening unix socket that is the only one at its path. Close removes its file, if it is still the same.
type Socket struct {
	net.Listener
	path  string
	file  os.FileInfo
	lock  *os.File
	close func() error
}

// LiveError tells that a living process serves the socket.
type LiveError struct{ Path string }

func (e *LiveError) Error() string {
	return fmt.Sprintf("another hostagent serves %q; it lives in a namespace that shares this file system, and its status is what is shown there", e.Path)
}

// Listen takes the socket at path, makes its folder (mode 0755) where it is missing, and lets owner and group of the
// process connect (mode 0660). What a killed process left is replaced; where somebody still serves it, the error is a
// *LiveError. Anything but a socket is left alone, symbolic links too, and is an error.
//
// A file with the name of the socket and ".lock" stays beside it: whoever starts sees by it, and not only by asking, that
// another one lives, and so two that start at once never take each other's socket for one that was left behind.
//
// Where root listens in the folder of another user, both files are that user's, who listens there at other times and could
// not replace what a killed process of root's has left.
func Listen(path string) (*Socket, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("cannot make the folder of the status socket %q: %w; run as root", path, err)
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	s, err := listenLocked(path)
	if err != nil {
		lock.Close()
		return nil, err
	}
	s.lock = lock
	return s, nil
}

// Close ends listening and removes the file. It may be called again, from any goroutine.
func (s *Socket) Close() error { return s.close() }

func (s *Socket) shut() error {
	// The file first: while the socket is open, its inode number cannot be another's.
	var removeErr error
	if err := removeSame(s.path, s.file); err != nil {
		removeErr = fmt.Errorf("cannot remove the status socket: %w", err)
	}
	return errors.Join(removeErr, s.Listener.Close(), s.lock.Close())
}

func checkPath(path string) error {
	switch {
	case path == "":
		return errors.New("cannot use an empty path for the status socket")
	case path[0] == '@' || strings.ContainsRune(path, 0):
		return fmt.Errorf("cannot use %q for the status socket: it is no path of a file, and a socket without one lets everybody in", path)
	case len(path) > maxPath:
		return fmt.Errorf("cannot use %q for the status socket: it has %d bytes and the kernel takes %d; choose a shorter one", path, len(path), maxPath)
	}
	return nil
}

// makeDir is os.MkdirAll with modes that do not depend on the umask.
func makeDir(dir string) error {
	switch info, err := os.Stat(dir); {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := makeDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	} else if err == nil {
		return os.Chmod(dir, 0o755)
	}
	return nil
}

// lockSocket takes the right to the path, which the kernel gives back when the process ends.
func lockSocket(path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := os.OpenFile(path+".lock", flags|os.O_EXCL, 0o600)
	if err == nil {
		err = hostagent.GiveToFolder(f, filepath.Dir(path))
	} else if errors.Is(err, fs.ErrExist) {
		f, err = os.OpenFile(path+".lock", flags, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock of the status socket: %w; run as root", err)
	}
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		f.Close()
		return nil, &LiveError{Path: path}
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("cannot lock %q: %w", f.Name(), err)
	}
	return f, nil
}

func listenLocked(path string) (*Socket, error) {
	if err := clearPath(path); err != nil {
		return nil, err
	}
	l, err := bind(path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen at the status socket: %w", err)
	}
	file, err := widen(path)
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot let the group use the status socket: %w", err)
	}
	s := &Socket{Listener: l, path: path, file: file}
	s.close = sync.OnceValue(s.shut)
	return s, nil
}

// bind listens at path, for the owner and the group at most.
func bind(path string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// bind(2) gives the file the mode of the socket less the umask, so that nobody else gets in before chmod.
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }), err)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if unixListener, ok := l.(*net.UnixListener); ok {
		unixListener.SetUnlinkOnClose(false) // it would remove whatever is there by then
	}
	return l, err
}

// clearPath removes a socket that nobody serves.
func clearPath(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("cannot look at the status socket: %w", err)
	case info.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("cannot listen at %q: it is a symbolic link, which is not followed; remove it", path)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("cannot listen at %q: there is a file that is no socket; move it away", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		conn.Close()
		return &LiveError{Path: path}
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EPROTOTYPE): // its queue is full, or it is no stream
		return &LiveError{Path: path}
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission): // another user's; but who serves it would hold the lock, which is ours
	case !errors.Is(err, unix.ECONNREFUSED):
		return fmt.Errorf("cannot tell whether anybody serves the status socket: %w", err)
	}
	if err := removeSame(path, info); err != nil {
		return fmt.Errorf("cannot remove the status socket that a killed process left: %w; run as root", err)
	}
	return nil
}

// removeSame removes the file at path if it is still the one that file tells of.
func removeSame(path string, file os.FileInfo) error {
	now, err := os.Lstat(path)
	if err == nil && os.SameFile(now, file) {
		err = unix.Unlink(path) // os.Remove would take an empty folder too
		if err != nil {
			err = &fs.PathError{Op: "unlink", Path: path, Err: err}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// widen sets the mode of the socket at path whatever the umask was, and its owner, and returns what it is. It never follows
// a link that stands there instead.
func widen(path string) (os.FileInfo, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%q is no socket any more", path)
	}
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), socketMode); err != nil { // fchmod refuses O_PATH
		return nil, err
	}
	if err := hostagent.GiveToFolder(f, filepath.Dir(path)); err != nil {
		return nil, err
	}
	return f.Stat()
}
