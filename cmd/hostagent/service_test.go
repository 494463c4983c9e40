// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/systemd"
)

// entry is a file or folder of a host that is not there.
type entry struct {
	mode os.FileMode
	uid  uint32
}

func (entry) Name() string        { return "" }
func (entry) Size() int64         { return 0 }
func (e entry) Mode() os.FileMode { return e.mode }
func (entry) ModTime() time.Time  { return time.Time{} }
func (e entry) IsDir() bool       { return e.mode.IsDir() }
func (e entry) Sys() any          { return &syscall.Stat_t{Uid: e.uid} }

func TestProgramsThatMustNotBeServices(t *testing.T) {
	folder := entry{mode: os.ModeDir | 0o755}
	good := map[string]entry{"/": folder, "/usr": folder, "/usr/local": folder, "/usr/local/bin": folder, "/opt": folder, "/opt/mesh": folder}
	for name, c := range map[string]struct {
		path  string
		spoil map[string]entry
		want  string // "" where it may be one
	}{
		"where it belongs":   {path: "/usr/local/bin/hostagent"},
		"elsewhere":          {path: "/opt/mesh/hostagent-1.2+3"},
		"world-writable":     {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt/mesh/hostagent": {mode: 0o757}}, want: "written by others than root (mode 0757)"},
		"in such a folder":   {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt/mesh": {mode: os.ModeDir | os.ModeSticky | 0o777}}, want: "because /opt/mesh can be written"},
		"somewhere below it": {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt": {mode: os.ModeDir | 0o775}}, want: "because /opt can be written"},
		"of a user":          {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt/mesh/hostagent": {mode: 0o755, uid: 1000}}, want: "belongs to uid 1000: install -m 0755"},
		"folder of a user":   {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt/mesh": {mode: os.ModeDir | 0o755, uid: 1000}}, want: "/opt/mesh belongs to uid 1000"},
		"closed to others":   {path: "/opt/mesh/hostagent", spoil: map[string]entry{"/opt/mesh": {mode: os.ModeDir | 0o750}}, want: "closed to the user of the service (mode 0750)"},
		"staff's":            {path: "/usr/local/bin/hostagent", spoil: map[string]entry{"/usr/local": {mode: os.ModeDir | os.ModeSetgid | 0o775}}, want: "chmod go-w /usr/local"},
		"temporary":          {path: "/tmp/hostagent", want: "is below /tmp"},
		"in a home":          {path: "/home/alice/bin/hostagent", want: "is below /home"},
		"root's home":        {path: "/root/hostagent", want: "is below /root"},
		"goes with a boot":   {path: "/run/hostagent", want: "is below /run"},
		"a space":            {path: "/opt/my mesh/hostagent", want: "without quotes"},
		"a specifier":        {path: "/opt/%n/hostagent", want: "without quotes"},
		"a template":         {path: "/opt/{{Name}}/hostagent", want: "without quotes"},
		"two lines":          {path: "/opt/mesh/hostagent\nUser=root", want: "without quotes"},
		"relative":           {path: "hostagent", want: "without quotes"},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkProgram(c.path, func(path string) (os.FileInfo, error) {
				if e, ok := c.spoil[path]; ok {
					return e, nil
				}
				if e, ok := good[path]; ok {
					return e, nil
				}
				if path == c.path {
					return entry{mode: 0o755}, nil
				}
				return nil, fs.ErrNotExist
			})
			switch {
			case c.want == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// TestUnitsSurviveTemplates: package service runs the texts of units through templates of its own.
func TestUnitsSurviveTemplates(t *testing.T) {
	for _, unit := range systemd.Units("/usr/local/bin/hostagent") {
		if strings.Contains(unit.Text, "{{") {
			t.Errorf("%s holds what package service takes for a template", unit.Name)
		}
	}
}

func TestUnitStates(t *testing.T) {
	const since = "\nActiveEnterTimestamp=Sat 2026-03-07 10:00:00 UTC\nInactiveEnterTimestamp=Fri 2026-03-06 09:00:00 UTC\n"
	for name, c := range map[string]struct {
		said, want string
		runs       bool
	}{
		"running": {
			"LoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\nStatusText=guards a = b\x1b[31m\nResult=success" + since,
			"u: active (running) since Sat 2026-03-07 10:00:00 UTC, enabled\n  guards a = b\\u001b[31m\n", true,
		},
		"reloading":  {"LoadState=loaded\nActiveState=reloading\nSubState=reload" + since, "u: reloading (reload) since Sat 2026-03-07 10:00:00 UTC\n", true},
		"starting":   {"LoadState=loaded\nActiveState=activating\nSubState=start\n", "u: activating (start)\n", true},
		"looping":    {"LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=signal\n", "u: activating (auto-restart), result signal\n", false},
		"stopped":    {"LoadState=loaded\nActiveState=inactive\nSubState=dead\nUnitFileState=disabled\nStatusText=old" + since, "u: inactive (dead) since Fri 2026-03-06 09:00:00 UTC, disabled\n", false},
		"failed":     {"LoadState=loaded\nActiveState=failed\nSubState=failed\nResult=exit-code\nExecMainStatus=78\n", "u: failed (failed), exit status 78\n", false},
		"masked":     {"LoadState=masked\nActiveState=inactive\nSubState=dead\nUnitFileState=masked\n", "u: inactive (dead), its unit is masked, masked\n", false},
		"missing":    {"LoadState=not-found\nActiveState=inactive\nSubState=dead\n", "u: not installed\n", false},
		"no answer":  {"", "u: not installed\n", false},
		"other text": {"Warning: something\n=\n", "u: not installed\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			state := parseUnit("u", c.said)
			if diff := cmp.Diff(c.want, state.text()); diff != "" {
				t.Error(diff)
			}
			if state.running() != c.runs {
				t.Errorf("running: %t", state.running())
			}
		})
	}
}

// TestOnlyOwnFilesAreRemoved: no link is followed, and what is left is named.
func TestOnlyOwnFilesAreRemoved(t *testing.T) {
	elsewhere, folder := t.TempDir(), filepath.Join(t.TempDir(), "state")
	half := "state.json." + strings.Repeat("A", 26)
	err := errors.Join(
		hostagent.SaveState(folder, &hostagent.Saved{Machine: "abc"}),
		os.WriteFile(filepath.Join(folder, half), nil, 0o600),
		os.WriteFile(filepath.Join(folder, "state.json.bak"), nil, 0o600),
		os.WriteFile(filepath.Join(elsewhere, "state.json"), nil, 0o600),
		os.Symlink(elsewhere, filepath.Join(folder, "link")),
		os.Mkdir(filepath.Join(folder, "sub"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	got := removeOwn(folder+"/", stateFiles(), true)
	if got.err != nil {
		t.Error(got.err)
	}
	want := "removed: F/state.json\nremoved: F/" + half + "\nleft: F/link, because it is not hostagent's own\n" +
		"left: F/state.json.bak, because it is not hostagent's own\nleft: F/sub, because it is not hostagent's own\n"
	if diff := cmp.Diff(want, strings.ReplaceAll(got.text(), folder, "F")); diff != "" {
		t.Error(diff)
	}
	if err := errors.Join(os.RemoveAll(folder), os.Symlink(elsewhere, folder)); err != nil {
		t.Fatal(err)
	}
	got = removeOwn(folder+"/", stateFiles(), true)
	if want := "left: " + folder + ", because it is not hostagent's own\n"; got.text() != want || got.err != nil {
		t.Errorf("a link in the folder's place: %q, %v, want %q", got.text(), got.err, want)
	}
	if _, err := os.Stat(filepath.Join(elsewhere, "state.json")); err != nil {
		t.Errorf("what links lead to: %v", err)
	}
	if err := errors.Join(os.Remove(folder), hostagent.SaveState(folder, &hostagent.Saved{Machine: "abc"})); err != nil {
		t.Fatal(err)
	}
	if got = removeOwn(folder, stateFiles(), true); got.text() != "removed: "+folder+"\n" || got.err != nil {
		t.Errorf("a folder of nothing else: %q, %v", got.text(), got.err)
	}
	if got = removeOwn(folder, stateFiles(), true); got.text() != "" || got.err != nil {
		t.Errorf("a second time: %q, %v", got.text(), got.err)
	}
	if err := errors.Join(os.Mkdir(folder, 0o755), unix.Mount("tmpfs", folder, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	got = removeOwn(folder, stateFiles(), true)
	if err := unix.Unmount(folder, 0); err != nil {
		t.Fatal(err)
	}
	if got.err == nil || !strings.Contains(got.err.Error(), fmt.Sprintf("cannot remove the folder %q: ", folder)) || !strings.Contains(got.err.Error(), "unmount it") {
		t.Errorf("a mount point: %v", got.err)
	}
}

// TestOwnUnitsAreKnown: what somebody else has written is never taken for a unit of ours.
func TestOwnUnitsAreKnown(t *testing.T) {
	folder := t.TempDir()
	file, link := filepath.Join(folder, "u.service"), filepath.Join(folder, "masked.service")
	if err := os.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"": true, signature + "[Unit]\n": true, "[Unit]\n": false, "\n" + signature: false} {
		if err := writeFile(file, text); err != nil {
			t.Fatal(err)
		}
		if ours, got, err := readOurs(file); ours != want || got != text || err != nil {
			t.Errorf("%q: ours %t, %q, %v", text, ours, got, err)
		}
	}
	for _, path := range []string{link, filepath.Join(folder, "missing")} {
		if ours, _, err := readOurs(path); ours || err != nil {
			t.Errorf("%s: ours %t, %v", path, ours, err)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 2 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
}
