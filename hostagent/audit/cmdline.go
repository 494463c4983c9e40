// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"path/filepath"
	"slices"
	"strings"
)

// started is how an agent was started, without any value of a flag: they may be keys and tokens.
type started struct {
	paths []string // -config-file and -config-dir, in order
	flags []string // names of all other flags, sorted
	// nowhere tells that a path is relative to a folder that is not known; it is not among paths.
	nowhere bool
}

// switches are the flags of consul agent that take their value after "=" only (agent/config/flags.go of Consul 1.8 to 1.21);
// those of Enterprise have none.
func switches() []string {
	return []string{
		"auto-reload-config", "bootstrap", "dev", "disable-host-node-id", "disable-keyring-file", "enable-local-script-checks",
		"enable-script-checks", "log-json", "non-voting-server", "read-replica", "rejoin", "server", "syslog", "ui",
	}
}

// readCommandLine reads the text of /proc/PID/cmdline as Go's package flag does; false where it is no consul agent's. cwd
// is where relative paths begin, "" where that is not known.
func readCommandLine(text, cwd string) (s started, isAgent bool) {
	args := strings.Split(strings.TrimSuffix(text, "\x00"), "\x00")
	if len(args) < 2 || args[1] != "agent" {
		return started{}, false
	}
	for args = args[2:]; len(args) > 0; {
		arg := args[0]
		args = args[1:]
		name := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-")
		if name == arg || name == "" { // no flag, "-" or "--": package flag reads no further
			break
		}
		name, value, given := strings.Cut(name, "=")
		if !given && !slices.Contains(switches(), name) && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		switch {
		case name == "config-file" || name == "config-dir":
			switch {
			case filepath.IsAbs(value):
				s.paths = append(s.paths, value)
			case cwd == "":
				s.nowhere = true
			case value != "": // with "" no agent starts
				s.paths = append(s.paths, filepath.Join(cwd, value))
			}
		case isFlagName(name):
			s.flags = append(s.flags, name)
		}
	}
	slices.Sort(s.flags)
	s.flags = slices.Compact(s.flags)
	return s, true
}

// isFlagName tells whether name looks like a flag of Consul: what does not could be a secret that came to stand there.
func isFlagName(name string) bool {
	const longest = 32 // disable-host-node-id has 20
	return name != "" && len(name) <= longest && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && r != '-' && r != '_'
	})
}
