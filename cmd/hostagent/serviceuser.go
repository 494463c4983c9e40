// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/systemd"
)

// userFile holds the entry of the user for systemd-sysusers. It also tells uninstall that the user is hostagent's own and
// not one that stood there before.
const userFile = "/etc/sysusers.d/hostagent.conf"

// needsUser tells whether the user of the units is still to be made. One that stands there must be fit for them.
func needsUser() (bool, error) {
	found, err := user.Lookup(systemd.User)
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot look up user %s: %w", systemd.User, err)
	}
	if found.Uid == "0" {
		return false, fmt.Errorf("user %s is root under another name, which the units must not run as: rename it", systemd.User)
	}
	if _, err := user.LookupGroup(systemd.User); err != nil {
		return false, fmt.Errorf("user %s stands without a group of its name, which the units run as: groupadd --system %[1]s: %w", systemd.User, err)
	}
	return false, nil
}

// makeUser makes the user of the units, with the tool of systemd or, where that is missing, with the older one.
func makeUser(ctx context.Context) error {
	if err := writeFile(userFile, signature+systemd.Sysusers()); err != nil {
		return err
	}
	name, args := "systemd-sysusers", []string{userFile}
	if _, err := exec.LookPath(name); err != nil {
		name, args = "useradd", []string{"--system", "--user-group", "--no-create-home", "--home-dir", "/var/lib/hostagent",
			"--shell", "/usr/sbin/nologin", "--comment", "hostagent, guard of the sidecar ports", systemd.User}
	}
	if _, err := command(ctx, name, args...); err != nil {
		return errors.Join(fmt.Errorf("cannot make user %s: %w", systemd.User, err), removeUserFile())
	}
	return nil
}

// removeUser takes away the user that makeUser has made, and no other. made is false where there is none of ours.
func removeUser(ctx context.Context) (made bool, err error) {
	ours, _, err := readOurs(userFile)
	if err != nil || !ours {
		return false, err
	}
	if _, err := user.Lookup(systemd.User); err == nil {
		if _, err := command(ctx, "userdel", systemd.User); err != nil {
			return true, fmt.Errorf("cannot remove user %s: %w; end its processes, then call this again", systemd.User, err)
		}
	}
	if _, err := user.LookupGroup(systemd.User); err == nil { // userdel removes it only where login.defs says so
		if _, err := command(ctx, "groupdel", systemd.User); err != nil {
			return true, fmt.Errorf("cannot remove group %s: %w", systemd.User, err)
		}
	}
	return true, removeUserFile()
}

// removeUserFile removes the entry, and its folder where nobody else has entries, as on most hosts.
func removeUserFile() error {
	if err := os.Remove(userFile); err != nil {
		return err
	}
	if err := os.Remove(filepath.Dir(userFile)); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}
