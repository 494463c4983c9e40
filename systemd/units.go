// SPDX-License-Identifier: MPL-2.0

// Package systemd holds hostagent's units, one source for packages and for "hostagent service install", and talks to the
// systemd that runs it.
package systemd

import (
	"embed"
	"strings"
)

//go:embed units/*.service units/*.sysusers
var files embed.FS

// Names of the units. Guard is the daemon; Sets and Restore run once at boot, before the network comes up.
const (
	Guard   = "hostagent.service"
	Sets    = "hostagent-sets.service"
	Restore = "hostagent-restore.service"
)

// User is the system user, with a group of the same name, that the units run as.
const User = "hostagent"

// packaged is where packages put the program, and what the unit files name.
const packaged = "/usr/bin/hostagent"

// Unit is one unit file.
type Unit struct {
	Name string // Guard, Sets or Restore
	Text string
}

// Units returns all units, in the order in which they start at boot, for a program at an absolute path.
func Units(program string) []Unit {
	units := make([]Unit, 0, 3)
	for _, name := range []string{Sets, Restore, Guard} {
		text := mustRead(name)
		units = append(units, Unit{Name: name, Text: strings.ReplaceAll(text, packaged, program)})
	}
	return units
}

// Sysusers returns the entry for systemd-sysusers(8) that makes User.
func Sysusers() string { return mustRead("hostagent.sysusers") }

func mustRead(name string) string {
	text, err := files.ReadFile("units/" + name)
	if err != nil {
		panic(err) // embedded: a mistake in this program
	}
	return string(text)
}
