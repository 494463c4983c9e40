// SPDX-License-Identifier: MPL-2.0

package firewall

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
)

// Kinds of failure that a caller may want to tell apart with errors.Is. Every error that carries one also says in its
// text what would mend it.
var (
	// ErrPermission means that the process may not read or change the firewall.
	ErrPermission = errors.New("needs CAP_NET_ADMIN: run as root")
	// ErrMissingTool means that a program or a kernel module that the firewall is made with is not there.
	ErrMissingTool = errors.New("not to be had on this host")
	// ErrForeignSet means that an ipset has one of our names but is not the kind of set that we make. Nothing has been
	// changed.
	ErrForeignSet = errors.New("set has our name but is not ours")
	// ErrLocked means that somebody else held the xtables lock for all of Options.LockTimeout. Trying again later helps.
	ErrLocked = errors.New("another program holds the xtables lock: try again later, end it if it hangs")
	// ErrOwned means that the table of nf_tables with our name belongs to another process, which lives: as a rule another
	// hostagent. Nothing has been changed.
	ErrOwned = errors.New("the table is owned by another process")
	// ErrNoChain means that the filter table has no chain of the name in Accept.Chain.
	ErrNoChain = errors.New("no such chain")
)

// ToolError is a failed run of one of the iptables programs.
type ToolError struct {
	// Command is the program and its arguments.
	Command string
	// Stderr is what the program said, on one line and without control characters.
	Stderr string
	// Err says how the program ended. Kind is, or wraps, one of the kinds above, or is nil.
	Err, Kind error
	// Holder names the program that held the xtables lock just after an ErrLocked, as far as /proc tells.
	Holder string
}

func (e *ToolError) Error() string {
	said := e.Stderr
	if said == "" {
		said = "it said nothing"
	}
	text := fmt.Sprintf("%s: %v: %s", e.Command, e.Err, said)
	if e.Holder != "" {
		text += "; its holder is " + e.Holder
	}
	if e.Kind != nil {
		text += " (" + e.Kind.Error() + ")"
	}
	return text
}

// Unwrap makes errors.Is find the kind as well as the way the program ended.
func (e *ToolError) Unwrap() []error {
	if e.Kind == nil {
		return []error{e.Err}
	}
	return []error{e.Err, e.Kind}
}

// newToolError turns a program's text into a typed error. The texts are those of iptables 1.4.20 to 1.8.11, which are
// never translated; anything else stays without a kind.
func newToolError(command, stderr string, err error) *ToolError {
	e := &ToolError{Command: command, Stderr: oneLine(stderr), Err: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Kind = errProgramGone
	case strings.Contains(stderr, "holding the xtables lock"):
		e.Kind = ErrLocked
	case strings.Contains(stderr, "open lock file"):
		e.Kind = errLockFile
	case strings.Contains(stderr, "you must be root"), strings.Contains(stderr, "Permission denied"),
		strings.Contains(stderr, "Operation not permitted"), strings.Contains(stderr, "Can't open socket to ipset"):
		e.Kind = errToolPermission{}
	}
	return e
}

// errToolPermission is the ErrPermission of the iptables programs. They do not tell which capability they miss: those of
// variant legacy, and both to name a set, talk to the kernel through a raw socket.
type errToolPermission struct{}

func (errToolPermission) Error() string { return "needs CAP_NET_ADMIN and CAP_NET_RAW: run as root" }

func (errToolPermission) Unwrap() error { return ErrPermission }

var errProgramGone = fmt.Errorf("%w any more: install the iptables package", ErrMissingTool)

var errLockFile = errors.New("make the lock file's directory, and make the file writable for this user, " +
	"or name another file in XTABLES_LOCKFILE")

// oneLine makes a program's text fit to be part of an error: bounded, on one line, without control characters.
func oneLine(text string) string {
	const most = 600
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	return text
}
