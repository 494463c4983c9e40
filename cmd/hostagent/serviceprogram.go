// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// plainPath are the paths that a unit can name without quotes: systemd reads spaces, quotes, $ and % in its own way.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9._+-]+)+$`)

// passing are folders whose content goes with a boot or a clean-up, or that the units do not see: they have a /tmp of their
// own and no home folders.
func passing() []string {
	return []string{"/tmp", "/var/tmp", "/dev", "/run", "/var/run", "/proc", "/home", "/root"}
}

// ownProgram returns the path of this program, free of links, if a service may be started from there.
func ownProgram() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("cannot tell where this program lies: %w", err)
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", fmt.Errorf("cannot tell where this program lies: %w; it may have been replaced: call it by its path again", err)
	}
	return real, checkProgram(real, os.Lstat)
}

// checkProgram refuses a path from which the service must not be started: one that somebody but root may change, which would
// make him root's equal, or one that is not there when the units need it. The path is absolute and holds no links. It looks
// at the program and at every folder above it.
func checkProgram(path string, lstat func(string) (os.FileInfo, error)) error {
	move := fmt.Sprintf("install -m 0755 %q /usr/local/bin/hostagent, and call that", path)
	if !plainPath.MatchString(path) {
		return fmt.Errorf("a unit cannot name the program %q without quotes: %s", path, move)
	}
	for _, folder := range passing() {
		if strings.HasPrefix(path, folder+"/") {
			return fmt.Errorf("the service would not find the program at its next start: %s is below %s; %s", path, folder, move)
		}
	}
	for part := path; ; part = filepath.Dir(part) {
		info, err := lstat(part)
		if err != nil {
			return fmt.Errorf("cannot look at the program: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("cannot tell who owns %s", part)
		}
		why, mend := "", ""
		switch mode := info.Mode(); {
		case st.Uid != 0:
			why, mend = fmt.Sprintf("belongs to uid %d", st.Uid), "chown root "+part
		case mode.Perm()&0o022 != 0:
			why, mend = fmt.Sprintf("can be written by others than root (mode %04o)", mode.Perm()), "chmod go-w "+part
		case mode.Perm()&0o001 == 0:
			why, mend = fmt.Sprintf("is closed to the user of the service (mode %04o)", mode.Perm()), "chmod a+x "+part
		}
		if why != "" && slices.Contains([]string{"/", "/usr", "/usr/local", "/usr/local/bin"}, filepath.Dir(path)) {
			return fmt.Errorf("a service must not be started from %s, because %s %s: %s", path, part, why, mend)
		}
		if why != "" {
			return fmt.Errorf("a service must not be started from %s, because %s %s: %s", path, part, why, move)
		}
		if part == "/" {
			return nil
		}
	}
}
