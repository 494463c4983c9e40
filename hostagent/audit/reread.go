// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostagent/hostagent/hostagent/consul/configdir"
)

// A reload makes DebugConfig of /v1/agent/self show what the files say from then on, though it changes neither gossip nor
// ACLs, ports or addresses: Consul 1.21 with acl.enabled written into a file and reloaded says ACLsEnabled, and answers
// "ACL support disabled" (reloadConfigInternal keeps a copy of the new configuration for display; that of 1.14.11 puts it in the
// place of the agent's own). Older agents tell what they were started with. So what a newer one tells is what it
// runs with only where no file that sets it was changed since its start.

// showsReload is the first version whose answers can be those of its files: the change was backported to 1.14.
const showsReload = "1.14.0"

// startTakes is how long after the start of its process an agent has surely read its files, and how exactly the kernel tells
// when that was.
const startTakes = 2 * time.Second

// age is what is known of a file beside the start of the agent.
type age int

const (
	ageUnknown age = iota
	older
	newer
)

func (in *Input) age(path string) age {
	if !in.Process.Known || in.Process.Value.Started.IsZero() || !in.ConfigFiles.Known {
		return ageUnknown
	}
	for _, file := range in.ConfigFiles.Value {
		if filepath.Clean(file.Path) != filepath.Clean(path) || file.Changed.IsZero() {
			continue
		}
		if file.Changed.After(in.Process.Value.Started.Add(startTakes)) {
			return newer
		}
		return older
	}
	return ageUnknown
}

// rewritten names the first configuration file that was changed after the agent was started and may have said something of
// key, "" for none that is known. A setting that was taken out of a file is as little in force without a restart as one that
// was written into it, so that any file counts but one that another setting of it, or a service, explains.
func (in *Input) rewritten(key string) string {
	if !in.ConfigFiles.Known || !in.Disk.Known {
		if len(in.Rewritten.Value) > 0 {
			return in.Rewritten.Value[0]
		}
		return ""
	}
	if setting, ok := in.Disk.Value.Settings.Lookup(key); ok {
		if in.age(setting.File) == newer {
			return setting.File
		}
		return ""
	}
	for _, file := range in.Disk.Value.Files {
		if in.age(file) == newer && !in.definesOnly(file) {
			return file
		}
	}
	return ""
}

// definesOnly tells whether a file holds services and no setting.
func (in *Input) definesOnly(path string) bool {
	config := in.Disk.Value
	return !slices.Contains(config.Settings.Files(), path) &&
		slices.ContainsFunc(config.Services, func(s configdir.Service) bool { return s.File == path })
}

// doubted makes a row that passes unknown where the agent may tell of one of keys what its files say since a reload.
func (r Row) doubted(in *Input, keys ...string) Row {
	if r.Status != Pass || !in.Running.Known || !in.Running.Value.Since(showsReload) {
		return r
	}
	isSet := func(key string) bool {
		if !in.Disk.Known {
			return false
		}
		_, set := in.Disk.Value.Settings.Lookup(key)
		return set
	}
	unset := slices.DeleteFunc(slices.Clone(keys), isSet)
	for _, key := range append(slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return !isSet(key) }), unset...) {
		file := in.rewritten(key)
		if flag := in.flagOver(key); file == "" || flag != "" && flag != flagAny && flag != flagDev {
			continue
		}
		text := file + " was changed after the agent was started, and may have said something of " + key + " before"
		if isSet(key) {
			text = file + " sets " + key + " and was changed after the agent was started"
		}
		r.Status = Unknown
		r.Found = append(r.Found, text+"; after a reload the agent tells what its files say, not what it runs with")
		r.Needs = "a restart of the agent: see restart-pending"
		return r
	}
	return r
}

const mostRewritten = 1000 // files of a folder that are looked at

// readRewritten finds configuration files that were changed after the agent was started, where their contents are not to be
// read: nothing of them is looked at but the time.
func (l *looking) readRewritten(proc string) Seen[[]string] {
	if !l.in.Process.Known || l.in.Process.Value.Started.IsZero() || l.started.nowhere {
		return Unseen[[]string]("when the agent was started is not known", asRoot)
	}
	since := l.in.Process.Value.Started.Add(startTakes)
	var files []string
	look := func(path string) {
		if f := l.look(path, ""); f.Changed.After(since) && !f.Mode.IsDir() {
			files = append(files, path)
		}
	}
	for _, path := range l.started.paths {
		if l.isElsewhere(proc, path) {
			return Unseen[[]string]("the agent sees other files than this host, as in a container", giveConfig)
		}
		folder, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
		if errors.Is(err, unix.ENOTDIR) {
			look(path)
			continue
		}
		if err != nil {
			return Unseen[[]string](path+" cannot be looked at: "+bare(err).Error(), asRoot)
		}
		names, err := folder.Readdirnames(mostRewritten)
		folder.Close()
		if err != nil && !errors.Is(err, io.EOF) {
			return Unseen[[]string](path+" cannot be looked at: "+bare(err).Error(), asRoot)
		}
		slices.Sort(names)
		for _, name := range names {
			if ext := filepath.Ext(name); ext == ".hcl" || ext == ".json" {
				look(filepath.Join(path, name))
			}
		}
	}
	return Known(files)
}
