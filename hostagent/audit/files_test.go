// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"io/fs"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// fileRowOf evaluates in and returns the row of one item.
func fileRowOf(t *testing.T, in Input, id catalog.ID) Row {
	t.Helper()
	for _, row := range Evaluate(in).Rows {
		if row.ID == id {
			return row
		}
	}
	t.Fatalf("no row %s", id)
	return Row{}
}

func itemOf(t *testing.T, id catalog.ID) catalog.Item {
	t.Helper()
	item, ok := catalog.LookupItem(id)
	if !ok {
		t.Fatalf("no item %s", id)
	}
	return item
}

const consulUID = 997

// consulProcess is a confined agent of a user of its own.
func consulProcess() Process {
	return Process{
		UID: consulUID, User: "consul", Unit: "consul.service", NoNewPrivs: new(true),
		Effective: new(uint64(0)), Bounding: new(uint64(0)), CoreLimited: new(true), ReadOnly: new(true),
	}
}

func ours(path string, mode fs.FileMode, holds string) File {
	return File{Path: path, Mode: mode, UID: 0, GID: consulUID, Owner: "root:consul", Holds: holds}
}

func except(f File, change func(*File)) File {
	change(&f)
	return f
}

func TestConfigFiles(t *testing.T) {
	remedy := itemOf(t, catalog.ConfigFiles).Remedy
	folder := ours("/etc/consul.d", fs.ModeDir|0o750, "")
	good := ours("/etc/consul.d/a.hcl", 0o640, "gossip key")
	agent := Known(consulProcess())
	unfound := Unseen[Process]("its process was not found", "run as root")
	for _, c := range []struct {
		name    string
		process Seen[Process]
		files   Seen[[]File]
		want    Row
	}{
		{"not seen", agent, Unseen[[]File]("the service reads no file that may hold secrets", "run hostagent audit as root"), Row{Status: Unknown,
			Found: []string{"configuration files: the service reads no file that may hold secrets"}, Needs: "run hostagent audit as root"}},
		{"none", agent, Known([]File{}), Row{Status: NotApplicable, Found: []string{"the agent was started without configuration files"}}},
		{"private", agent, Known([]File{folder, good}), Row{Status: Pass,
			Found: []string{"/etc/consul.d/a.hcl (root:consul 0640), which holds: gossip key"}}},
		{"no secrets, and others read them", agent,
			Known([]File{ours("/etc/consul.d", fs.ModeDir|0o755, ""), ours("/etc/consul.d/a.hcl", 0o644, "")}), Row{Status: Pass,
				Found: []string{"of 2 paths none holds a token or key, and nobody but root and the agent's user can write to them"}}},
		{"others read a key", agent, Known([]File{folder, good, ours("/etc/consul.d/k.hcl", 0o644, "gossip key, tokens")}), Row{Status: Fail,
			Found: []string{"others can read /etc/consul.d/k.hcl (root:consul 0644), which holds: gossip key, tokens"}, Remedy: remedy}},
		{"a group reads a key", agent, Known([]File{folder, except(good, func(f *File) { f.GroupMembers = []string{"alice"} })}), Row{Status: Warn,
			Found: []string{"the group of /etc/consul.d/a.hcl (root:consul 0640) can read it: alice; it holds: gossip key"}, Remedy: remedy}},
		{"a group reads, and the agent's user is not known", unfound, Known([]File{folder, except(good, func(f *File) { f.GroupMembers = []string{"consul"} })}),
			Row{Status: Unknown, Found: []string{
				"the group of /etc/consul.d/a.hcl (root:consul 0640) can read it: consul; whether that is the agent's user is not known"}, Needs: "run as root"}},
		{"others write a folder", agent, Known([]File{ours("/etc/consul.d", fs.ModeDir|0o777, ""), good}), Row{Status: Fail,
			Found: []string{"others can write to folder /etc/consul.d (root:consul 0777)"}, Remedy: remedy}},
		{"a sticky folder above", agent, Known([]File{ours("/tmp", fs.ModeDir|fs.ModeSticky|0o777, ""), folder, good}), Row{Status: Pass,
			Found: []string{"/etc/consul.d/a.hcl (root:consul 0640), which holds: gossip key"}}},
		{"a group writes", agent, Known([]File{folder, except(ours("/etc/consul.d/b.hcl", 0o660, ""), func(f *File) { f.GroupMembers = []string{"bob"} })}),
			Row{Status: Fail, Found: []string{"the group of /etc/consul.d/b.hcl (root:consul 0660) can write to it: bob"}, Remedy: remedy}},
		{"another's", agent, Known([]File{folder, except(good, func(f *File) { f.UID, f.Owner = 1000, "alice:consul" })}), Row{Status: Fail,
			Found: []string{"/etc/consul.d/a.hcl (alice:consul 0640) is owned by neither root nor the agent's user consul"}, Remedy: remedy}},
		{"the agent's own", agent, Known([]File{folder, except(good, func(f *File) { f.UID, f.Owner = consulUID, "consul:consul" })}), Row{Status: Pass,
			Found: []string{"/etc/consul.d/a.hcl (consul:consul 0640), which holds: gossip key"}}},
		{"somebody's, and the agent's user is not known", unfound, Known([]File{folder, except(good, func(f *File) { f.UID, f.Owner = consulUID, "consul:consul" })}),
			Row{Status: Unknown, Found: []string{
				"/etc/consul.d/a.hcl (consul:consul 0640): whether its owner is the agent's user is not known: its process was not found"}, Needs: "run as root"}},
		{"not to be looked at", agent, Known([]File{folder, {Path: "/etc/consul.d/a.hcl", Problem: "cannot be looked at: permission denied"}}), Row{Status: Unknown,
			Found: []string{"/etc/consul.d/a.hcl cannot be looked at: permission denied"}, Needs: "run as root"}},
		{"broken, and others read it", agent, Known([]File{folder, except(ours("/etc/consul.d/b.hcl", 0o644, ""), func(f *File) { f.Unread = true })}), Row{Status: Unknown,
			Found: []string{"others can read /etc/consul.d/b.hcl (root:consul 0644), and what it holds could not be seen"}, Needs: "run as root"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.ID = catalog.ConfigFiles
			if diff := cmp.Diff(c.want, fileRowOf(t, Input{Process: c.process, ConfigFiles: c.files}, catalog.ConfigFiles)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestDataFiles(t *testing.T) {
	remedy := itemOf(t, catalog.DataFiles).Remedy
	mine := func(path string, mode fs.FileMode, holds string) File {
		return File{Path: path, Mode: mode, UID: consulUID, GID: consulUID, Owner: "consul:consul", Holds: holds}
	}
	raft := mine("/opt/consul/raft/raft.db", 0o644, "the datacenter's state")
	for _, c := range []struct {
		name  string
		files Seen[[]File]
		want  Row
	}{
		{"not seen", Unseen[[]File]("in which folder is not known", "--consul-config with the agent's configuration"), Row{Status: Unknown,
			Found: []string{"the data directory: in which folder is not known"}, Needs: "--consul-config with the agent's configuration"}},
		{"private", Known([]File{mine("/opt/consul", fs.ModeDir|0o700, "")}), Row{Status: Pass,
			Found: []string{"nobody but root and the agent's user comes to secrets in folder /opt/consul (consul:consul 0700)"}}},
		{"as Consul makes it on clients", Known([]File{mine("/opt/consul", fs.ModeDir|0o755, ""), mine("/opt/consul/services", fs.ModeDir|0o700, ""),
			mine("/opt/consul/acl-tokens.json", 0o600, "tokens")}), Row{Status: Warn, Remedy: remedy,
			Found: []string{"others can enter or list folder /opt/consul (consul:consul 0755); what was found to hold secrets in it is private by itself"}}},
		{"as Consul makes it on servers", Known([]File{mine("/opt/consul", fs.ModeDir|0o755, ""), raft}), Row{Status: Fail, Remedy: remedy,
			Found: []string{"others can read /opt/consul/raft/raft.db (consul:consul 0644), which holds: the datacenter's state"}}},
		{"a server's behind a folder", Known([]File{mine("/opt/consul", fs.ModeDir|0o750, ""), except(raft, func(f *File) { f.Kept = othersBits })}),
			Row{Status: Pass, Found: []string{"nobody but root and the agent's user comes to secrets in folder /opt/consul (consul:consul 0750)"}}},
		{"a group enters", Known([]File{except(mine("/opt/consul", fs.ModeDir|0o750, ""), func(f *File) { f.GroupMembers = []string{"alice", "bob"} })}),
			Row{Status: Warn, Remedy: remedy, Found: []string{"the group of folder /opt/consul (consul:consul 0750) can enter or list it: alice, bob"}}},
		{"others write", Known([]File{mine("/opt/consul", fs.ModeDir|0o777, "")}), Row{Status: Fail, Remedy: remedy,
			Found: []string{"others can write to folder /opt/consul (consul:consul 0777)"}}},
		{"another's", Known([]File{except(mine("/opt/consul", fs.ModeDir|0o700, ""), func(f *File) { f.UID, f.Owner = 1000, "alice:alice" })}), Row{Status: Fail,
			Remedy: remedy, Found: []string{"folder /opt/consul (alice:alice 0700) is owned by neither root nor the agent's user consul"}}},
		{"not to be entered", Known([]File{mine("/opt/consul", fs.ModeDir|0o750, ""), {Path: "/opt/consul/raft", Problem: "cannot be looked at: permission denied"}}),
			Row{Status: Unknown, Found: []string{"/opt/consul/raft cannot be looked at: permission denied"}, Needs: "run as root"}},
		{"missing", Known([]File{{Path: "/opt/consul", Problem: "cannot be looked at: no such file or directory"}}), Row{Status: Unknown,
			Found: []string{"/opt/consul cannot be looked at: no such file or directory"}, Needs: "run as root"}},
		{"no folder", Known([]File{mine("/opt/consul", 0o600, "")}), Row{Status: Unknown, Found: []string{"/opt/consul is no folder"},
			Needs: "--consul-config with the agent's configuration"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.ID = catalog.DataFiles
			got := fileRowOf(t, Input{Process: Known(consulProcess()), DataFiles: c.files}, catalog.DataFiles)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestAgentUser(t *testing.T) {
	for _, c := range []struct {
		name    string
		process Seen[Process]
		want    Row
	}{
		{"not seen", Unseen[Process]("its process was not found", "run as root"), Row{Status: Unknown,
			Found: []string{"the agent's user: its process was not found"}, Needs: "run as root"}},
		{"root", Known(Process{User: "root"}), Row{Status: Fail, Found: []string{"the agent runs as root (uid 0)"},
			Remedy: itemOf(t, catalog.AgentUser).Remedy}},
		{"its own", Known(consulProcess()), Row{Status: Pass, Found: []string{"the agent runs as consul (uid 997), in unit consul.service"}}},
		{"a person", Known(Process{UID: 1000, User: "alice", Person: true}), Row{Status: Warn,
			Found: []string{"the agent runs as alice (uid 1000), which looks like a person's account: it can log in"},
			Remedy: "make a system user for it alone (useradd --system --shell /usr/sbin/nologin consul), chown its configuration and data, " +
				"and set User= in its unit"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.ID = catalog.AgentUser
			if diff := cmp.Diff(c.want, fileRowOf(t, Input{Process: c.process}, catalog.AgentUser)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestAgentHardening(t *testing.T) {
	remedy := func(unit string) string {
		return "in a drop-in of its unit (systemctl edit " + unit + ") set what is missing of NoNewPrivileges=yes, " +
			"CapabilityBoundingSet=, LimitCORE=0 and ProtectSystem=full, and restart it"
	}
	good := []string{"/usr is read-only to it", "core dumps are off", "it cannot come to have capabilities beyond CAP_NET_BIND_SERVICE",
		"it cannot gain rights (NoNewPrivileges)", "it has no capabilities beyond CAP_NET_BIND_SERVICE"}
	process := func(change func(*Process)) Seen[Process] {
		p := consulProcess()
		change(&p)
		return Known(p)
	}
	for _, c := range []struct {
		name    string
		process Seen[Process]
		want    Row
	}{
		{"not seen", Unseen[Process]("its process was not found", "run as root"), Row{Status: Unknown,
			Found: []string{"how the agent's process is confined: its process was not found"}, Needs: "run as root"}},
		{"confined", process(func(*Process) {}), Row{Status: Pass, Found: good}},
		{"DNS on port 53", process(func(p *Process) { p.Effective, p.Bounding = new(bindLow), new(bindLow) }), Row{Status: Pass, Found: good}},
		{"not at all", Known(Process{User: "root", NoNewPrivs: new(false), Effective: new(uint64(0x1ff)), Bounding: new(uint64(0x1ff)),
			CoreLimited: new(false), ReadOnly: new(false)}), Row{Status: Warn, Remedy: remedy("consul"), Found: []string{
			"/usr is mounted for it to write to: ProtectSystem is off",
			"capabilities that it can come to have: CapBnd = 00000000000001ff",
			"capabilities that it has: CapEff = 00000000000001ff",
			"core dumps are on, and would hold its tokens and keys: LimitCORE is not 0",
			"it can gain rights through setuid programs: NoNewPrivileges is off"}}},
		{"partly seen", process(func(p *Process) { p.NoNewPrivs, p.Bounding = nil, nil }), Row{Status: Unknown, Needs: "run as root", Found: []string{
			"capabilities that it can come to have could not be seen", "whether it can gain rights could not be seen"}}},
		{"partly seen, and one thing missing", process(func(p *Process) { p.ReadOnly, p.CoreLimited = nil, new(false) }), Row{Status: Warn, Needs: "run as root",
			Remedy: remedy("consul.service"), Found: []string{
				"core dumps are on, and would hold its tokens and keys: LimitCORE is not 0", "whether /usr is read-only to it could not be seen"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.ID = catalog.AgentHardening
			if diff := cmp.Diff(c.want, fileRowOf(t, Input{Process: c.process}, catalog.AgentHardening)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
