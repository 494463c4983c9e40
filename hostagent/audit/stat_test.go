// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// filesAsText shows files as lines: mode, what they hold, what is not known of them, and the path below dir.
func filesAsText(dir string, files []File) string {
	var b strings.Builder
	for _, f := range files {
		path := strings.TrimPrefix(strings.TrimPrefix(f.Path, dir), "/")
		fmt.Fprintf(&b, "%v %s", f.Mode, path)
		for _, extra := range []struct {
			is   bool
			text string
		}{{f.Holds != "", " holds " + f.Holds}, {f.Unread, " unread"}, {f.Kept != 0, fmt.Sprintf(" kept %04o", f.Kept)}, {f.Problem != "", " " + f.Problem}} {
			if extra.is {
				b.WriteString(extra.text)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}

// inFolder makes a folder whose parents are private to nobody, with files of some mode.
func inFolder(t *testing.T, files map[string]string, modes map[string]os.FileMode) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	for name, mode := range modes {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLookAtConfigFiles(t *testing.T) {
	dir := inFolder(t, map[string]string{
		"open/conf/a.hcl": `encrypt = "x"`, "open/conf/b.json": `{"acl": {"tokens": {"agent": "x"}}}`, "open/conf/c.hcl": `node_name = "n"`,
		"open/conf/d.hcl": `encrypt = "x" {`, "elsewhere/e.hcl": `node_name = "m"`,
	}, map[string]os.FileMode{"open": 0o777, "open/conf": 0o750, "open/conf/a.hcl": 0o644, "open/conf/b.json": 0o640, "open/conf/c.hcl": 0o604, "elsewhere": 0o700})
	if err := os.Symlink(filepath.Join(dir, "elsewhere/e.hcl"), filepath.Join(dir, "open/conf/link.hcl")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "open/conf")
	config, err := configdir.Read(conf)
	if err != nil {
		t.Fatal(err)
	}
	want := `drwx------ elsewhere
drwxrwxrwx open
drwxr-x--- open/conf
-rw-r--r-- open/conf/a.hcl holds gossip key
-rw-r----- open/conf/b.json holds tokens
-rw----r-- open/conf/c.hcl
-rw------- open/conf/d.hcl unread
-rw------- elsewhere/e.hcl
`
	got := lookingAt(Sources{}).configFiles([]string{conf}, config)
	if diff := cmp.Diff(want, filesAsText(dir, got)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, f := range got {
		if age := time.Since(f.Changed); age < -time.Second || age > time.Minute {
			t.Errorf("%s was changed %v ago", f.Path, age)
		}
	}
}

func TestLookAtKeyFiles(t *testing.T) {
	dir := inFolder(t, map[string]string{"key.pem": "x", "rpc.pem": "x"}, map[string]os.FileMode{"key.pem": 0o640})
	if err := os.Symlink(filepath.Join(dir, "key.pem"), filepath.Join(dir, "link.pem")); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"a.hcl": fmt.Sprintf(`
key_file = "%[1]s/link.pem"
tls {
  internal_rpc { key_file = "%[1]s/rpc.pem" }
  https { key_file = "%[1]s/rpc.pem" }
  grpc { key_file = "relative.pem" }
}`, dir)})
	config, err := configdir.Read(dir + "/a.hcl")
	if err != nil {
		t.Fatal(err)
	}
	want := `-rw-r----- key.pem holds private key
-rw------- rpc.pem holds private key
---------- relative.pem holds private key its path hangs on the folder in which the agent was started
`
	if diff := cmp.Diff(want, filesAsText(dir, lookingAt(Sources{}).keyFiles(config))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestLookAtDataFiles has what Consul 1.21 makes in its data directory, with the modes that it gives.
func TestLookAtDataFiles(t *testing.T) {
	made := map[string]string{
		"d/acl-tokens.json": "", "d/checks/1": "", "d/node-id": "", "d/raft/wal/1.wal": "", "d/raft/wal/wal-meta.db": "", "d/raft/peers.info": "", "d/raft/snapshots/1/state.bin": "",
		"d/serf/local.keyring": "", "d/serf/local.snapshot": "", "d/services/1": "", "d/services/configs/1": "",
	}
	modes := func(top os.FileMode) map[string]os.FileMode {
		return map[string]os.FileMode{"d": top, "d/checks": 0o700, "d/raft": 0o755, "d/raft/wal": 0o755, "d/raft/wal/1.wal": 0o644, "d/raft/peers.info": 0o755, "d/raft/wal/wal-meta.db": 0o644,
			"d/raft/snapshots/1/state.bin": 0o644, "d/serf": 0o755, "d/serf/local.snapshot": 0o644, "d/services": 0o700}
	}
	for _, c := range []struct {
		name string
		top  os.FileMode
		want string
	}{
		{"private", 0o700, "drwx------ d\n"},
		{"as it is made", 0o755, `drwxr-xr-x d
-rw------- d/acl-tokens.json holds tokens
drwx------ d/checks
drwxr-xr-x d/raft
-rwxr-xr-x d/raft/peers.info
drwxr-xr-x d/raft/snapshots
drwxr-xr-x d/raft/snapshots/1
-rw-r--r-- d/raft/snapshots/1/state.bin holds the datacenter's state
drwxr-xr-x d/raft/wal
-rw-r--r-- d/raft/wal/1.wal holds the datacenter's state
-rw-r--r-- d/raft/wal/wal-meta.db
drwxr-xr-x d/serf
-rw------- d/serf/local.keyring holds gossip key
-rw-r--r-- d/serf/local.snapshot
drwx------ d/services
`},
		{"open to its group", 0o750, `drwxr-x--- d
-rw------- d/acl-tokens.json holds tokens kept 0007
drwx------ d/checks kept 0007
drwxr-xr-x d/raft kept 0007
-rwxr-xr-x d/raft/peers.info kept 0007
drwxr-xr-x d/raft/snapshots kept 0007
drwxr-xr-x d/raft/snapshots/1 kept 0007
-rw-r--r-- d/raft/snapshots/1/state.bin holds the datacenter's state kept 0007
drwxr-xr-x d/raft/wal kept 0007
-rw-r--r-- d/raft/wal/1.wal holds the datacenter's state kept 0007
-rw-r--r-- d/raft/wal/wal-meta.db kept 0007
drwxr-xr-x d/serf kept 0007
-rw------- d/serf/local.keyring holds gossip key kept 0007
-rw-r--r-- d/serf/local.snapshot kept 0007
drwx------ d/services kept 0007
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := inFolder(t, made, modes(c.top))
			if diff := cmp.Diff(c.want, filesAsText(dir, lookingAt(Sources{}).dataFiles(filepath.Join(dir, "d")))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestLookAtDataFilesIsBounded(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "raft/a/b/c/d/e/f/g/h"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "services"), 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range maxDataFiles + 10 {
		if err := os.WriteFile(filepath.Join(dir, "services", fmt.Sprint(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := lookingAt(Sources{}).dataFiles(dir)
	if len(files) > maxDataFiles+5 {
		t.Errorf("%d files", len(files))
	}
	problems := 0
	for _, f := range files {
		if f.Problem != "" {
			problems++
		}
	}
	if problems != 2 {
		t.Errorf("%d times it was told that something was left out, want of raft and of services:\n%s", problems, filesAsText(dir, files)[:500])
	}
	in := Input{Process: Known(Process{}), DataFiles: Known(files)}
	if row := judgeDataFiles(&in); row.Status == Pass {
		t.Errorf("passes with files that were not looked at: %v", row)
	}
}

func TestLookAtNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	want := []File{{Path: dir, Problem: "cannot be looked at: no such file or directory"}}
	if diff := cmp.Diff(want, lookingAt(Sources{}).dataFiles(dir)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
