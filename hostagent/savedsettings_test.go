// SPDX-License-Identifier: MPL-2.0

package hostagent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul"
)

func settingsToSave() *SavedSettings {
	return &SavedSettings{Machine: "m", Prefix: "hostagent/", Namespace: "n", Partition: "p", Entries: []consul.KVEntry{
		{Key: "hostagent/"}, {Key: "hostagent/all.hcl", Value: []byte("close_delay = \"10s\"\n\x00\xff")},
	}}
}

func TestSavedSettings(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	want := settingsToSave()
	where := SavedSettings{Machine: "m", Prefix: "hostagent/", Namespace: "n", Partition: "p"}
	if _, err := LoadSettings(dir, where); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there are none: %v", err)
	}
	if err := errors.Join(SaveSettings(dir, want), SaveSettings(dir, want)); err != nil {
		t.Fatal(err)
	}
	got, err := LoadSettings(dir, where)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	info, err := os.Stat(filepath.Join(dir, settingsFile))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 1 {
		t.Errorf("the folder holds %v", names)
	}
}

func TestSavedSettingsRefused(t *testing.T) {
	rewrite := func(old, text string) func(string) error {
		return func(file string) error {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			if !strings.Contains(string(data), old) {
				return errors.New("it lacks " + old)
			}
			return os.WriteFile(file, []byte(strings.Replace(string(data), old, text, 1)), 0o600)
		}
	}
	asSaved := func(string) error { return nil }
	for _, tt := range []struct {
		name   string
		change func(file string) error
		where  func(*SavedSettings)
		text   string
	}{
		{"another machine", asSaved, func(w *SavedSettings) { w.Machine = "x" }, "another host"},
		{"an unknown machine", asSaved, func(w *SavedSettings) { w.Machine = "" }, "cannot be told"},
		{"another prefix", asSaved, func(w *SavedSettings) { w.Prefix = "hostagent/web/" }, "another kv_prefix"},
		{"another namespace", asSaved, func(w *SavedSettings) { w.Namespace = "" }, "another kv_prefix, namespace"},
		{"another partition", asSaved, func(w *SavedSettings) { w.Partition = "" }, "another kv_prefix, namespace"},
		{"edited", rewrite("hostagent/all.hcl", "hostagent/own.hcl"), nil, "checksum"},
		{"newer", rewrite(`"version":1`, `"version":2`), nil, "newer hostagent"},
		{"no version", rewrite(`"version":1`, `"version":0`), nil, "no saved settings"},
		{"unknown fields", rewrite(`"version":1`, `"version":1,"more":2`), nil, "unknown field"},
		{"torn", func(file string) error { return os.Truncate(file, 40) }, nil, "no saved settings"},
		{"too long", func(file string) error { return os.Truncate(file, maxSettings+1) }, nil, "damaged"},
		{"writable by others", func(file string) error { return os.Chmod(file, 0o666) }, nil, "others may write"},
		{"a link", func(file string) error {
			return errors.Join(os.Rename(file, file+"-real"), os.Symlink(file+"-real", file))
		}, nil, "symbolic link"},
		{"another user's", func(file string) error { return os.Chown(file, 12345, 12345) }, nil, "belongs to uid 12345"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "another user's" && os.Geteuid() != 0 {
				t.Skip("only root gives files away")
			}
			dir := t.TempDir()
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(SaveSettings(dir, settingsToSave()), tt.change(filepath.Join(dir, settingsFile))); err != nil {
				t.Fatal(err)
			}
			where := *settingsToSave()
			if tt.where != nil {
				tt.where(&where)
			}
			got, err := LoadSettings(dir, where)
			if err == nil || got != nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}
