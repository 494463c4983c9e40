// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func fileJudges() []judge {
	return []judge{
		{catalog.ConfigFiles, judgeConfigFiles},
		{catalog.DataFiles, judgeDataFiles},
		{catalog.AgentUser, judgeAgentUser},
		{catalog.AgentHardening, judgeHardening},
	}
}

// evidence gathers what is to be said of one item, by what it makes of it.
type evidence struct {
	fail, warn, unknown, pass []string
	needs                     string // of what is unknown
}

// row is the worst that was found. What is not known is told beside it, except where all that was seen is as it should be.
func (e *evidence) row() Row {
	all := func(more ...[]string) []string {
		var found []string
		for _, texts := range more {
			slices.Sort(texts)
			found = append(found, texts...)
		}
		return found
	}
	switch {
	case len(e.fail) > 0:
		return Row{Status: Fail, Found: all(e.fail, e.warn)}
	case len(e.unknown) > 0 && len(e.warn) == 0:
		return Row{Status: Unknown, Found: all(e.unknown), Needs: e.needs}
	case len(e.warn) > 0:
		return Row{Status: Warn, Found: all(e.warn, e.unknown), Needs: e.needs}
	}
	return Row{Status: Pass, Found: all(e.pass)}
}

func (e *evidence) unseen(text, needs string) {
	e.unknown = append(e.unknown, text)
	if e.needs == "" {
		e.needs = needs
	}
}

func judgeConfigFiles(in *Input) Row {
	if !in.ConfigFiles.Known {
		return in.ConfigFiles.unknown("configuration files")
	}
	if len(in.ConfigFiles.Value) == 0 {
		return Row{Status: NotApplicable, Found: []string{"the agent was started without configuration files"}}
	}
	e := &evidence{}
	for _, f := range in.ConfigFiles.Value {
		e.private(in, &f, f.Mode.Perm(), asRoot)
	}
	if e.pass == nil {
		e.pass = []string{fmt.Sprintf("of %s none holds a token or key, and nobody but root and the agent's user can write to them",
			plural(len(in.ConfigFiles.Value), "path"))}
	}
	return e.row()
}

// private judges one file: who but root and the agent's user can write to it, and where it holds a secret, read it. perm are
// its permission bits that are worth something.
func (e *evidence) private(in *Input, f *File, perm fs.FileMode, needs string) {
	if f.Problem != "" {
		e.unseen(f.Path+" "+f.Problem, needs)
		return
	}
	before := len(e.fail) + len(e.warn) + len(e.unknown)
	e.owned(in, f)
	replaced := f.Mode.IsDir() && f.Mode&fs.ModeSticky != 0 // what is in such a folder can only its owner replace
	switch {
	case replaced || f.Mode&fs.ModeSymlink != 0:
	case perm&0o002 != 0:
		e.fail = append(e.fail, "others can write to "+f.shown())
	case perm&0o020 != 0 && len(f.GroupMembers) > 0:
		e.group(in, f, &e.fail, "write to")
	}
	holds := f.Holds
	if f.Unread {
		holds = "not known"
	}
	switch {
	case holds == "" || f.Mode.IsDir() || f.Mode&fs.ModeSymlink != 0:
	case perm&0o004 != 0 && f.Unread:
		e.unseen("others can read "+f.shown()+", and what it holds could not be seen", needs)
	case perm&0o004 != 0:
		e.fail = append(e.fail, fmt.Sprintf("others can read %s, which holds: %s", f.shown(), holds))
	case perm&0o040 != 0 && len(f.GroupMembers) > 0:
		e.group(in, f, &e.warn, "read")
	}
	if len(e.fail)+len(e.warn)+len(e.unknown) == before && holds != "" && !f.Mode.IsDir() {
		e.pass = append(e.pass, fmt.Sprintf("%s, which holds: %s", f.shown(), holds))
	}
}

// owned judges who owns a file: its owner can give himself every right to it.
func (e *evidence) owned(in *Input, f *File) {
	switch {
	case f.UID == 0 || in.Process.Known && f.UID == in.Process.Value.UID:
	case in.Process.Known:
		e.fail = append(e.fail, fmt.Sprintf("%s is owned by neither root nor the agent's user %s", f.shown(), in.Process.Value.User))
	default:
		e.unseen(fmt.Sprintf("%s: whether its owner is the agent's user is not known: %s", f.shown(), in.Process.Reason), in.Process.Needs)
	}
}

// group says what members of a file's group can do, as far as they are not the agent's user.
func (e *evidence) group(in *Input, f *File, to *[]string, can string) {
	text := fmt.Sprintf("the group of %s can %s it: %s", f.shown(), can, few(f.GroupMembers, 5))
	if !in.Process.Known {
		e.unseen(text+"; whether that is the agent's user is not known", in.Process.Needs)
		return
	}
	if f.Holds != "" && can == "read" {
		text += "; it holds: " + f.Holds
	}
	*to = append(*to, text)
}

// shown is a file with its owner and mode.
func (f *File) shown() string {
	kind := ""
	if f.Mode.IsDir() {
		kind = "folder "
	}
	return fmt.Sprintf("%s%s (%s %04o)", kind, f.Path, f.Owner, f.Mode.Perm())
}

// judgeDataFiles judges by what others can come to: behind a folder that does not let them in, modes are worth nothing.
// Consul makes the folder 0755 itself, and in it what holds secrets 0600 or in folders of 0700, but for the Raft state of
// servers, which is 0644 (seen with 1.21).
func judgeDataFiles(in *Input) Row {
	if dev := in.Running.Value.DevMode; !in.DataFiles.Known && in.Running.Known && dev != nil && *dev {
		return Row{Status: NotApplicable, Found: []string{"the agent was started with -dev: it keeps nothing on disk"}}
	}
	if !in.DataFiles.Known {
		return in.DataFiles.unknown("the data directory")
	}
	if len(in.DataFiles.Value) == 0 {
		return Row{Status: Unknown, Found: []string{"the data directory was not looked at"}, Needs: asRoot}
	}
	e := &evidence{}
	top := &in.DataFiles.Value[0]
	if top.Problem == "" && !top.Mode.IsDir() {
		return Row{Status: Unknown, Found: []string{top.Path + " is no folder"}, Needs: giveConfig}
	}
	for _, f := range in.DataFiles.Value {
		e.private(in, &f, f.Mode.Perm()&^f.Kept, asRoot)
	}
	perm := top.Mode.Perm()
	switch {
	case top.Problem != "" || len(e.fail) > 0:
	case perm&0o005 != 0:
		e.warn = append(e.warn, fmt.Sprintf("others can enter or list %s; what was found to hold secrets in it is private by itself",
			top.shown()))
	case perm&0o050 != 0 && len(top.GroupMembers) > 0:
		e.group(in, top, &e.warn, "enter or list")
	}
	e.pass = []string{"nobody but root and the agent's user comes to secrets in " + top.shown()}
	return e.row()
}

func judgeAgentUser(in *Input) Row {
	if !in.Process.Known {
		return in.Process.unknown("the agent's user")
	}
	p := &in.Process.Value
	where := ""
	if p.Unit != "" {
		where = ", in unit " + p.Unit
	}
	text := fmt.Sprintf("the agent runs as %s (uid %d)%s", p.User, p.UID, where)
	switch {
	case p.UID == 0:
		return Row{Status: Fail, Found: []string{text}}
	case p.Person:
		return Row{Status: Warn, Found: []string{text + ", which looks like a person's account: it can log in"},
			Remedy: "make a system user for it alone (useradd --system --shell /usr/sbin/nologin consul), chown its configuration and data, " +
				"and set User= in its unit"}
	}
	return Row{Status: Pass, Found: []string{text}}
}

// bindLow is CAP_NET_BIND_SERVICE, which an agent needs to serve DNS on port 53.
const bindLow = uint64(1) << 10

func judgeHardening(in *Input) Row {
	if !in.Process.Known {
		return in.Process.unknown("how the agent's process is confined")
	}
	p, e := &in.Process.Value, &evidence{}
	yes := func(is *bool, what, good, bad string) {
		switch {
		case is == nil:
			e.unseen(what+" could not be seen", asRoot)
		case *is:
			e.pass = append(e.pass, good)
		default:
			e.warn = append(e.warn, bad)
		}
	}
	set := func(set *uint64, name, what, none string) {
		switch {
		case set == nil:
			e.unseen(what+" could not be seen", asRoot)
		case *set&^bindLow == 0:
			e.pass = append(e.pass, none)
		default:
			e.warn = append(e.warn, fmt.Sprintf("%s: %s = %016x", what, name, *set))
		}
	}
	yes(p.NoNewPrivs, "whether it can gain rights", "it cannot gain rights (NoNewPrivileges)",
		"it can gain rights through setuid programs: NoNewPrivileges is off")
	set(p.Effective, "CapEff", "capabilities that it has", "it has no capabilities beyond CAP_NET_BIND_SERVICE")
	set(p.Bounding, "CapBnd", "capabilities that it can come to have", "it cannot come to have capabilities beyond CAP_NET_BIND_SERVICE")
	yes(p.CoreLimited, "the limit of core dumps", "core dumps are off",
		"core dumps are on, and would hold its tokens and keys: LimitCORE is not 0")
	yes(p.ReadOnly, "whether /usr is read-only to it", "/usr is read-only to it",
		"/usr is mounted for it to write to: ProtectSystem is off")
	row := e.row()
	if row.Status == Warn {
		row.Remedy = "in a drop-in of its unit (systemctl edit " + unitName(p.Unit) + ") set what is missing of NoNewPrivileges=yes, " +
			"CapabilityBoundingSet=, LimitCORE=0 and ProtectSystem=full, and restart it"
	}
	return row
}

func unitName(unit string) string {
	if unit == "" {
		return "consul"
	}
	return unit
}
