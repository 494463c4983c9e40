// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

const (
	maxDataFiles = 5000 // that are looked at in a data directory that others may enter
	maxDataDepth = 6    // raft/snapshots/ID/state.bin has 4
)

const (
	othersBits = fs.FileMode(0o007)
	groupBits  = fs.FileMode(0o070)
)

// look says who may do what with one file; a symbolic link is looked at itself.
func (l *looking) look(path, holds string) File {
	f := File{Path: path, Holds: holds}
	info, err := os.Lstat(path)
	if err != nil {
		f.Problem = "cannot be looked at: " + bare(err).Error()
		return f
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		f.Problem = "cannot be looked at: it tells no owner"
		return f
	}
	f.Mode, f.UID, f.GID = info.Mode(), stat.Uid, stat.Gid
	f.Changed = time.Unix(stat.Ctim.Unix())
	f.Owner = l.accounts.owner(f.UID, f.GID)
	f.GroupMembers = l.accounts.members(f.GID, func(uid uint32) bool { return l.in.Process.Known && uid == l.in.Process.Value.UID })
	return f
}

// configFiles looks at the folders that were given and what is above them, as far as it lets others put something else in
// their place, then at the files in them.
func (l *looking) configFiles(paths []string, config *configdir.Config) []File {
	var folders []string
	for _, path := range paths {
		if resolved, err := filepath.EvalSymlinks(path); err == nil {
			path = resolved
		}
		folders = append(folders, path)
	}
	for _, path := range config.Files {
		folders = append(folders, filepath.Dir(path)) // a link leads to other folders
	}
	slices.Sort(folders)
	folders = slices.Compact(folders)
	var files []File
	above := map[string]bool{}
	for _, folder := range folders {
		if f := l.look(folder, ""); f.Mode.IsDir() || f.Problem != "" {
			files = append(files, f)
		}
		for up := filepath.Dir(folder); !above[up]; up = filepath.Dir(up) {
			above[up] = true
			if f := l.look(up, ""); !slices.Contains(folders, up) && isOpenForWriting(&f) {
				files = append(files, f)
			}
		}
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	for _, path := range config.Files {
		secrets, read := config.Secrets[path]
		f := l.look(path, holdsOf(secrets))
		f.Unread = !read
		files = append(files, f)
	}
	return files
}

func holdsOf(s configdir.Secret) string {
	var holds []string
	for _, h := range []struct {
		is   bool
		what string
	}{{s.GossipKey, "gossip key"}, {s.Tokens, "tokens"}, {s.Keys, "private key"}} {
		if h.is {
			holds = append(holds, h.what)
		}
	}
	return strings.Join(holds, ", ")
}

// isOpenForWriting tells whether more than f's owner may put something else in the place of what is in the folder f. In one
// with the sticky bit, as /tmp, nobody but its owner may.
func isOpenForWriting(f *File) bool {
	return f.Mode.IsDir() && f.Mode&fs.ModeSticky == 0 && f.Mode.Perm()&0o022 != 0
}

// keyFiles looks at the private keys that settings name, each once.
func (l *looking) keyFiles(config *configdir.Config) []File {
	var files []File
	seen := map[string]bool{}
	for _, protocol := range []string{"defaults", "internal_rpc", "https", "grpc"} {
		setting, _ := config.Settings.Lookup("tls." + protocol + ".key_file")
		path, _ := setting.Value.(string)
		if path == "" || seen[path] {
			continue
		}
		seen[path] = true
		switch {
		case !filepath.IsAbs(path):
			files = append(files, File{Path: path, Holds: "private key",
				Problem: "its path hangs on the folder in which the agent was started"})
			continue
		case l.isElsewhere(procDir, path):
			files = append(files, File{Path: path, Holds: "private key",
				Problem: "the agent sees another file at this path than this host"})
			continue
		}
		resolved, err := filepath.EvalSymlinks(path)
		if err != nil {
			resolved = path
		}
		files = append(files, l.look(resolved, "private key"))
	}
	return files
}

// dataFiles looks at an agent's data directory, and at what in it holds secrets as far as others may come there: what is
// beyond a folder that lets nobody in is not looked at.
func (l *looking) dataFiles(dir string) []File {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil {
		dir = resolved
	}
	w := &walk{looking: l}
	top := l.look(dir, "")
	w.files = append(w.files, top)
	if top.Problem != "" || !top.Mode.IsDir() {
		return w.files
	}
	kept := keptBy(&top, 0)
	if kept == groupBits|othersBits {
		return w.files
	}
	// What Consul 1.21 makes there: services/ and checks/ of registrations through the API, raft/ of servers, 0644 and with
	// the root key of the mesh in it.
	for _, entry := range []struct{ name, holds string }{
		{"acl-tokens.json", "tokens"}, {"auto-config.json", "tokens, gossip key"},
		{"checks", "tokens"}, {"raft", "the datacenter's state"},
		{"serf", "gossip key"}, {"services", "tokens"},
	} {
		w.add(filepath.Join(dir, entry.name), entry.holds, kept, 0)
	}
	return w.files
}

type walk struct {
	*looking
	files []File
}

func (w *walk) add(path, holds string, kept fs.FileMode, depth int) {
	if len(w.files) > maxDataFiles || depth > maxDataDepth {
		if last := &w.files[len(w.files)-1]; last.Problem == "" {
			w.files = append(w.files, File{Path: path, Holds: holds, Problem: "was not looked at: there is too much beside it"})
		}
		return
	}
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return
	}
	if !isSecretData(path) {
		holds = ""
	}
	f := w.look(path, holds)
	f.Kept = kept
	if !f.Mode.IsDir() {
		w.files = append(w.files, f)
		return
	}
	f.Holds = ""
	w.files = append(w.files, f)
	if kept = keptBy(&f, kept); kept == groupBits|othersBits {
		return
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		w.files = append(w.files, File{Path: path, Holds: holds, Problem: "cannot be listed: " + bare(err).Error()})
		return
	}
	for _, entry := range entries {
		w.add(filepath.Join(path, entry.Name()), holds, kept, depth+1)
	}
}

// isSecretData tells whether a file of a data directory may hold what its folder holds: serf/ tells who is a member too, and
// of raft/ some files are about the others (Consul 1.21; raft.db, *.wal and snapshots' state.bin are the state).
func isSecretData(path string) bool {
	switch filepath.Base(path) {
	case "peers.info", "meta.json", "wal-meta.db":
		return false
	}
	return filepath.Base(filepath.Dir(path)) != "serf" || strings.HasSuffix(path, ".keyring")
}

// keptBy adds to kept those whom the folder f does not let in. The group of a file below can be another one than the
// folder's, to which its members are others.
func keptBy(f *File, kept fs.FileMode) fs.FileMode {
	switch {
	case f.Mode.Perm()&0o011 == 0:
		kept |= groupBits | othersBits
	case f.Mode.Perm()&0o001 == 0:
		kept |= othersBits
	}
	return kept
}
