// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"path/filepath"
	"time"
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

// doubted makes a row that passes unknown where the agent may tell of one of keys what a file says since a reload.
func (r Row) doubted(in *Input, keys ...string) Row {
	if r.Status != Pass || !in.Running.Known || !in.Running.Value.Since(showsReload) || !in.Disk.Known {
		return r
	}
	for _, key := range keys {
		setting, ok := in.Disk.Value.Settings.Lookup(key)
		if !ok || in.age(setting.File) != newer {
			continue
		}
		r.Status = Unknown
		r.Found = append(r.Found, setting.File+" sets "+key+" and was changed after the agent was started; "+
			"after a reload the agent tells what its files say, not what it runs with")
		r.Needs = "a restart of the agent: see restart-pending"
		return r
	}
	return r
}
