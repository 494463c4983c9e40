// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/systemd"
)

// Names of hostagent's own files, as path.Match has them.

func configFiles() []string { return []string{"*.hcl"} }

func runtimeFiles() []string {
	return []string{"netns-*.lock", path.Base(hostagent.StatusSocket) + "*"}
}

// stateFiles are the state and the settings of Consul's KV, and those whose writer was killed: they have a random text behind
// the name.
func stateFiles() []string {
	random := "." + strings.Repeat("[A-Z2-7]", len(rand.Text()))
	return []string{"state.json", "state.json" + random, "settings.json", "settings.json" + random}
}

// purge removes the configuration, the state and the user.
func (u *uninstallation) purge(ctx context.Context) {
	folders := []struct {
		path  string
		files []string
		whole bool
	}{
		{config.DefaultPath, configFiles(), true},
		{config.DefaultStateDir, stateFiles(), true},
		// One that the operator has named was there before, so the folder itself is his.
		{u.config.StateDir, stateFiles(), false},
	}
	for _, folder := range folders {
		if folder.path == "" || !folder.whole && filepath.Clean(folder.path) == config.DefaultStateDir {
			continue
		}
		gone := removeOwn(folder.path, folder.files, folder.whole)
		u.say(gone.text())
		u.fail(gone.err)
	}
	made, err := removeUser(ctx)
	u.fail(err)
	if made && err == nil {
		u.say("removed: user " + systemd.User + "\n")
	}
	for _, unit := range unitPaths() {
		if _, err := os.Lstat(unit.path + ".d"); err == nil {
			u.fail(output(u.cmd, "left: "+unit.path+".d, because it is not hostagent's own\n"))
		}
	}
}

// removal tells what removeOwn did in a folder.
type removal struct {
	folder        string
	removed, left []string
	all           bool // the folder is gone too
	err           error
}

func (r removal) text() string {
	text := ""
	if r.all {
		text = "removed: " + r.folder + "\n"
	} else {
		for _, name := range r.removed {
			text += "removed: " + filepath.Join(r.folder, name) + "\n"
		}
	}
	for _, name := range r.left {
		text += "left: " + filepath.Join(r.folder, catalog.Clean(name)) + ", because it is not hostagent's own\n"
	}
	return text
}

// removeOwn removes from a folder the files whose names match one of files and, where whole says so and nothing is left in it, the
// folder. It follows no links: what is a link in there goes as a link, and a folder that is one stays as it is with all that
// it leads to.
func removeOwn(folder string, files []string, whole bool) removal {
	done := removal{folder: filepath.Clean(folder)}
	dir, err := openUnlinked(done.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return done
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		done.left = []string{""} // the folder itself
		return done
	}
	if err != nil {
		done.err = fmt.Errorf("cannot look into %q: %w", done.folder, err)
		return done
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		done.err = fmt.Errorf("cannot read %q: %w", done.folder, err)
		return done
	}
	for _, entry := range entries {
		name := entry.Name()
		ours := func(pattern string) bool {
			matches, _ := path.Match(pattern, name)
			return matches
		}
		if entry.IsDir() || !slices.ContainsFunc(files, ours) {
			done.left = append(done.left, name)
			continue
		}
		if err := unix.Unlinkat(int(dir.Fd()), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			done.err = errors.Join(done.err, fmt.Errorf("cannot remove %q: %w", filepath.Join(done.folder, name), err))
			continue
		}
		done.removed = append(done.removed, name)
	}
	slices.Sort(done.removed)
	slices.Sort(done.left)
	if whole && len(done.left) == 0 && done.err == nil {
		if err := unix.Rmdir(done.folder); err != nil {
			done.err = fmt.Errorf("cannot remove the folder %q: %w; if it is a mount point, unmount it", done.folder, err)
		}
		done.all = done.err == nil
	}
	return done
}

// openUnlinked opens a folder that is no link itself.
func openUnlinked(folder string) (*os.File, error) {
	fd, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), folder), nil
}
