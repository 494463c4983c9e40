// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
)

// accounts are the users and groups that stand in the host's own files. Whoever comes from a directory service is not among
// them: to ask one could take long, and bring thousands.
type accounts struct {
	users  []account
	groups []group
}

type account struct {
	name     string
	uid, gid uint32
	shell    string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

const maxAccounts = 8 << 20 // bytes of a file

// readAccounts reads /etc/passwd and /etc/group below root; what cannot be read has no names.
func readAccounts(root string) accounts {
	var a accounts
	for fields := range colons(root + "/etc/passwd") {
		uid, okUser := number(fields, 2)
		gid, okGroup := number(fields, 3)
		if okUser && okGroup && len(fields) >= 7 {
			a.users = append(a.users, account{fields[0], uid, gid, fields[6]})
		}
	}
	for fields := range colons(root + "/etc/group") {
		if gid, ok := number(fields, 2); ok && len(fields) >= 4 {
			members := strings.FieldsFunc(fields[3], func(r rune) bool { return r == ',' || r == ' ' })
			a.groups = append(a.groups, group{fields[0], gid, members})
		}
	}
	return a
}

// colons yields the lines of a file of accounts, cut at their colons.
func colons(path string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		file, err := os.Open(path)
		if err != nil {
			return
		}
		defer file.Close()
		text, _ := io.ReadAll(io.LimitReader(file, maxAccounts)) // as far as it can be read
		for line := range strings.Lines(string(text)) {
			if !yield(strings.Split(strings.TrimSuffix(line, "\n"), ":")) {
				return
			}
		}
	}
}

func number(fields []string, i int) (uint32, bool) {
	if i >= len(fields) {
		return 0, false
	}
	n, err := strconv.ParseUint(fields[i], 10, 32)
	return uint32(n), err == nil
}

// user returns the account of uid, or one whose name is the number.
func (a *accounts) user(uid uint32) account {
	if i := slices.IndexFunc(a.users, func(u account) bool { return u.uid == uid }); i >= 0 {
		return a.users[i]
	}
	return account{name: strconv.FormatUint(uint64(uid), 10), uid: uid}
}

// owner is a user and a group as ls writes them.
func (a *accounts) owner(uid, gid uint32) string {
	name := strconv.FormatUint(uint64(gid), 10)
	if i := slices.IndexFunc(a.groups, func(g group) bool { return g.gid == gid }); i >= 0 {
		name = a.groups[i].name
	}
	return a.user(uid).name + ":" + name
}

// members returns who is in a group, by name, but for root and the user that but allows for.
func (a *accounts) members(gid uint32, but func(uid uint32) bool) []string {
	left := func(uid uint32) bool { return uid != 0 && !but(uid) }
	var names []string
	for _, u := range a.users {
		if u.gid == gid && left(u.uid) {
			names = append(names, u.name)
		}
	}
	for _, g := range a.groups {
		if g.gid != gid {
			continue
		}
		for _, name := range g.members {
			i := slices.IndexFunc(a.users, func(u account) bool { return u.name == name })
			if i < 0 || left(a.users[i].uid) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// logsIn tells whether u looks like a person's account: of the range that useradd gives to people, with a shell.
func (u account) logsIn() bool {
	const first, nobody = 1000, 65534
	return u.uid >= first && u.uid != nobody && u.shell != "" &&
		!strings.HasSuffix(u.shell, "/nologin") && !strings.HasSuffix(u.shell, "/false")
}
