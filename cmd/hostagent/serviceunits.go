// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/systemd"
)

// unitFolder is where an operator's units stand, before those of packages. Package service writes there.
const unitFolder = "/etc/systemd/system"

// signature begins every file that only "service install" writes. Files without it are never overwritten or removed.
const signature = `# Written by "hostagent service install"; "hostagent service uninstall" takes it away. Changes belong into a drop-in.` + "\n"

// readOurs reads a file that may be ours. One without content counts as ours: package service writes its files in place, so
// that is what a crash leaves behind.
func readOurs(path string) (ours bool, text string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err == nil && !info.Mode().IsRegular() {
		return false, "", nil // a masked unit is a link
	}
	var content []byte
	if err == nil {
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return false, "", fmt.Errorf("cannot read %q: %w", path, err)
	}
	text = string(content)
	return text == "" || strings.HasPrefix(text, signature), text, nil
}

// unitFile is a unit as it is to stand in unitFolder.
type unitFile struct {
	name, path, text string
	stands, same     bool // a file is there already, and with this text
}

// unitFiles renders the units for a program and looks at what stands in their places. It writes nothing.
func unitFiles(program string) ([]unitFile, error) {
	var units []unitFile
	var errs error
	for _, u := range systemd.Units(program) {
		path := filepath.Join(unitFolder, u.Name)
		unit := unitFile{name: u.Name, path: path, text: signature + u.Text}
		ours, text, err := readOurs(path)
		if err != nil {
			errs = errors.Join(errs, err)
		}
		_, err = os.Lstat(path)
		unit.stands = err == nil
		unit.same = ours && text == unit.text
		if target, err := os.Readlink(path); err == nil && target == os.DevNull {
			errs = errors.Join(errs, fmt.Errorf("%s is masked: systemctl unmask %[1]s", u.Name))
		} else if unit.stands && !ours {
			errs = errors.Join(errs, fmt.Errorf("%s was not written by hostagent: move it away, or keep to it", path))
		}
		units = append(units, unit)
	}
	return units, errs
}

// unitPaths are the units without their texts, the service first.
func unitPaths() []unitFile {
	var units []unitFile
	for _, name := range unitNames() {
		units = append(units, unitFile{name: name, path: filepath.Join(unitFolder, name)})
	}
	return units
}

// lockUnits lets one command at a time change the units, and leaves nothing behind: the lock is on their folder, until
// release.
func lockUnits() (release func(), err error) {
	folder, err := os.Open(unitFolder)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the units: %w", err)
	}
	if err := unix.Flock(int(folder.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		folder.Close()
		return nil, fmt.Errorf("cannot lock %s: another hostagent service install or uninstall is at work: %w", unitFolder, err)
	}
	return func() { folder.Close() }, nil
}

// install makes the file stand, enabled.
func (u unitFile) install(ctx context.Context) error {
	if u.same {
		_, err := systemctl(ctx, "enable", u.name)
		return err
	}
	if u.stands {
		if err := writeFile(u.path, u.text); err != nil {
			return err
		}
		_, err := systemctl(ctx, "reenable", u.name) // what it is wanted by may have changed
		return err
	}
	svc, err := newService(u.name, u.text)
	if err != nil {
		return err
	}
	if err := svc.Install(); err != nil {
		return errors.Join(fmt.Errorf("cannot install %s: %w", u.path, err), u.tidy())
	}
	return u.tidy()
}

// tidy removes what was written in part, or not as it was meant: package service runs texts through templates of its own.
func (u unitFile) tidy() error {
	written, err := os.ReadFile(u.path)
	if err != nil || string(written) == u.text {
		return err
	}
	return errors.Join(fmt.Errorf("%s was not written as a whole, and is removed again", u.path), os.Remove(u.path))
}

// remove stops the unit for good. A file that is not there, or not ours, stays as it is; done tells that one was removed.
func (u unitFile) remove(ctx context.Context) (done bool, err error) {
	state, err := showUnit(ctx, u.name)
	if err != nil {
		return false, err
	}
	ours, _, err := readOurs(u.path)
	if err != nil || !ours {
		return false, err
	}
	err = resetFailed(ctx, state)
	svc, newErr := newService(u.name, "")
	if newErr != nil {
		return false, errors.Join(err, newErr)
	}
	if removeErr := svc.Uninstall(); removeErr != nil {
		return false, errors.Join(err, fmt.Errorf("cannot remove %s: %w; do it by hand: systemctl disable %s; rm %[1]s; systemctl daemon-reload",
			u.path, removeErr, u.name))
	}
	return true, err
}

// packagedUnits are the places of a package's unit.
func packagedUnits() []string {
	return []string{"/usr/lib/systemd/system/" + systemd.Guard, "/lib/systemd/system/" + systemd.Guard}
}

// refusePackaged refuses to touch what a package has installed. instead says what to do with the package manager's name.
func refusePackaged(instead func(manager string) string) error {
	for _, path := range packagedUnits() {
		if _, err := os.Lstat(path); err != nil {
			continue
		}
		manager := "the package manager"
		for _, name := range []string{"apt", "dnf", "yum", "zypper"} {
			if _, err := exec.LookPath(name); err == nil {
				manager = name
				break
			}
		}
		text := fmt.Sprintf("hostagent is installed by a package already (%s): %s", path, instead(manager))
		if ours, _, _ := readOurs(filepath.Join(unitFolder, systemd.Guard)); ours {
			text += "\nunits of an older service install hide those of the package; to change over to it:\n  rm -f " + userFile
			for _, unit := range unitPaths() {
				text += " " + unit.path
			}
			text += "; systemctl daemon-reload; systemctl restart hostagent"
		}
		return errors.New(text)
	}
	return nil
}

// writeFile puts a whole file in its place, or leaves what was there.
func writeFile(path, text string) error {
	folder := filepath.Dir(path)
	err := os.MkdirAll(folder, 0o755)
	var temp *os.File
	if err == nil {
		temp, err = os.CreateTemp(folder, "."+filepath.Base(path)+".")
	}
	if err != nil {
		return fmt.Errorf("cannot write %q: %w", path, err)
	}
	_, err = temp.WriteString(text)
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cannot write %q: %w", path, err), os.Remove(temp.Name()))
	}
	return nil
}
