// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// stateFile is the name of the saved state in its folder. What is being written has this prefix and another end.
const stateFile = "state.json"

// staleAfter is how old a half-written file must be before it is taken for one whose writer was killed.
const staleAfter = time.Minute

// SaveState writes s into dir, which is made where it is missing. Whoever reads meanwhile, or after a crash at any
// moment, finds either what stood there before or all of s. A folder that others may write to, or that is a symbolic
// link, is refused. Several processes may do this at once; the last one wins.
func SaveState(dir string, s *Saved) error {
	data, err := s.encode()
	if err != nil {
		return fmt.Errorf("cannot save the state: %w", err)
	}
	if err := saveFile(dir, stateFile, data); err != nil {
		return fmt.Errorf("cannot save the state: %w", err)
	}
	return nil
}

// saveFile is SaveState for any file of such a folder.
func saveFile(dir, name string, data []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	folder, err := openStateFolder(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	removeStale(folder, name)
	temporary := name + "." + rand.Text()
	if err := replaceFile(folder, temporary, name, data); err != nil {
		_ = unix.Unlinkat(int(folder.Fd()), temporary, 0) // it may never have been there
		return fmt.Errorf("cannot write to %q: %w", dir, err)
	}
	return nil
}

// replaceFile writes data under a name of its own and renames it, with the disk's word at each step: without it a crash
// of the host could leave the new name and the old, or no, content.
func replaceFile(folder *os.File, temporary, name string, data []byte) error {
	at := int(folder.Fd())
	fd, err := unix.Openat(at, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), temporary)
	_, err = file.Write(data)
	if err = errors.Join(err, file.Sync()); err != nil {
		file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := unix.Renameat(at, temporary, at, name); err != nil {
		return err
	}
	return folder.Sync()
}

// removeStale removes what writers of a file that were killed have left. It fails in silence: nothing depends on it.
func removeStale(folder *os.File, file string) {
	names, _ := folder.Readdirnames(1000)
	for _, name := range names {
		if !strings.HasPrefix(name, file+".") {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(int(folder.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && time.Since(time.Unix(st.Mtim.Unix())) > staleAfter {
			_ = unix.Unlinkat(int(folder.Fd()), name, 0)
		}
	}
}

// LoadState reads what SaveState wrote into dir, and refuses what somebody else could have written. Where there is none,
// the error is an fs.ErrNotExist.
func LoadState(dir string) (*Saved, error) {
	data, err := loadFile(dir, stateFile, maxState)
	if err != nil {
		return nil, fmt.Errorf("cannot use the saved state: %w", err)
	}
	s, err := decodeState(data)
	if err != nil {
		return nil, fmt.Errorf("cannot use the saved state %q: %w", filepath.Join(dir, stateFile), err)
	}
	return s, nil
}

// loadFile is LoadState for any file of such a folder. What it returns may have one byte more than most.
func loadFile(dir, name string, most int64) ([]byte, error) {
	path := filepath.Join(dir, name)
	folder, err := openStateFolder(dir)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if err := checkOwn(file, unix.S_IFREG); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(file, most+1))
}

// RemoveState removes what SaveState wrote into dir. Where there is none it does nothing. Root may remove what the user that
// the service runs as has written: to unlink a name follows no link, and believes nothing.
func RemoveState(dir string) error {
	folder, err := openFolder(dir)
	if err == nil && os.Geteuid() != 0 {
		if err = checkOwn(folder, unix.S_IFDIR); err != nil {
			folder.Close()
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot remove the saved state: %w", err)
	}
	defer folder.Close()
	err = unix.Unlinkat(int(folder.Fd()), stateFile, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err = errors.Join(err, folder.Sync()); err != nil {
		return fmt.Errorf("cannot remove the saved state in %q: %w", dir, err)
	}
	return nil
}

// openStateFolder opens the folder of the state, which nobody else may write to. What is done in it is done below its
// descriptor, so that nobody can put another folder in its place meanwhile.
func openStateFolder(dir string) (*os.File, error) {
	folder, err := openFolder(dir)
	if err != nil {
		return nil, err
	}
	if err := checkOwn(folder, unix.S_IFDIR); err != nil {
		folder.Close()
		return nil, err
	}
	return folder, nil
}

// openFolder opens a folder that is no link, whoever owns it.
func openFolder(dir string) (*os.File, error) {
	dir = filepath.Clean(dir) // a slash behind a link would have it followed
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, openError(dir, err)
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// openError says why something was not opened.
func openError(path string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q is a symbolic link or of the wrong kind: %w", path, err)
	}
	return &fs.PathError{Op: "open", Path: path, Err: err}
}

// checkOwn refuses what is of another kind, belongs to another user, or may be written by others.
func checkOwn(file *os.File, kind uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	uid := os.Geteuid()
	switch {
	case st.Mode&unix.S_IFMT != kind:
		return fmt.Errorf("%q is of the wrong kind", file.Name())
	case int(st.Uid) != uid:
		remedy := fmt.Sprintf("chown -R %d it", uid)
		if uid == 0 {
			remedy = "run it as that user, as hostagent's units do"
		}
		return fmt.Errorf("%q belongs to uid %d, not to %d, which hostagent runs as: %s", file.Name(), st.Uid, uid, remedy)
	case st.Mode&0o022 != 0:
		return fmt.Errorf("others may write to %q (mode %04o): chmod go-w it", file.Name(), st.Mode&0o7777)
	}
	return nil
}
