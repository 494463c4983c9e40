// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// RuntimeDir is where hostagent keeps what does not outlive a boot.
const RuntimeDir = "/run/hostagent"

// StatusSocket is where a running hostagent answers for its status.
const StatusSocket = RuntimeDir + "/hostagent.sock"

// Lock is the right to change the firewall of this network namespace: one hostagent a host, on every backend. The
// kernel gives it back when the process ends, however it ends. Its file is named after the namespace, because that is
// what rules belong to.
type Lock struct{ file *os.File }

// HeldError tells that a living process holds the lock. PID is 0 where it lives in a pid namespace out of sight.
type HeldError struct{ PID int }

func (e *HeldError) Error() string {
	return fmt.Sprintf("hostagent is running on this host already (pid %d)", e.PID)
}

// AcquireLock takes the lock below dir, usually RuntimeDir, which is made where it is missing. It does not wait: a
// *HeldError says who has it.
func AcquireLock(dir string) (*Lock, error) {
	path, err := lockPath(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make %q for the lock: %w; run as root", dir, err)
	}
	f, err := openLock(dir, path)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock: %w; run as root", err)
	}
	if err := lockFile(f); err != nil {
		f.Close()
		return nil, err
	}
	return &Lock{file: f}, nil
}

// openLock opens the lock's file. One that root makes where another user keeps the locks is that user's.
func openLock(dir, path string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if os.Geteuid() != 0 {
		return os.OpenFile(path, flags, 0o600)
	}
	f, err := os.OpenFile(path, flags|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return openFound(path) // what somebody else made, or put there, is given to nobody
	}
	if err != nil {
		return nil, err
	}
	if err := GiveToFolder(f, dir); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// openFound opens a lock that is there. Where the folder is another user's, that user could have put a second name of any
// file there, into which root would write.
func openFound(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		f.Close()
		return nil, fmt.Errorf("%q is no file of its own: remove it", path)
	}
	return f, nil
}

// Claim notes that from now on rules of ours which stand in this network namespace were made by a hostagent, not by
// something that loaded a file. The note ends with the boot, or with the folder of the lock.
func (l *Lock) Claim() error {
	if _, err := l.file.WriteAt([]byte("claimed\n"), 0); err != nil {
		return fmt.Errorf("cannot write into %q: %w", l.file.Name(), err)
	}
	return nil
}

// Claimed tells whether somebody who had the lock before has claimed the rules.
func (l *Lock) Claimed() bool {
	info, err := l.file.Stat()
	return err == nil && info.Size() > 0
}

// lockFile locks f or names who has it. One that ends between the two questions has not: it is tried again.
func lockFile(f *os.File) error {
	for range 10 {
		lk := flock()
		err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &lk)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return fmt.Errorf("cannot lock %q: %w", f.Name(), err)
		}
		lk = flock()
		if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lk); err != nil {
			return fmt.Errorf("cannot look at the lock %q: %w", f.Name(), err)
		}
		if lk.Type != unix.F_UNLCK {
			return &HeldError{PID: int(lk.Pid)}
		}
	}
	return fmt.Errorf("cannot lock %q: others take it and let go all the time", f.Name())
}

// Release gives the lock back. The file stays: removing it would let two processes hold two locks of one name.
func (l *Lock) Release() error { return l.file.Close() }

// flock describes the whole file. It is a POSIX lock and no flock(2), because the kernel names its holder.
func flock() unix.Flock_t {
	return unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
}

func lockPath(dir string) (string, error) {
	inode, err := NetworkNamespace()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, fmt.Sprintf("netns-%d.lock", inode)), nil
}

// NetworkNamespace returns the inode of this process's network namespace: what its rules and listeners belong to.
func NetworkNamespace() (uint64, error) {
	info, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return 0, fmt.Errorf("cannot tell this network namespace: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("cannot tell this network namespace: the system names no inode")
	}
	return st.Ino, nil
}
