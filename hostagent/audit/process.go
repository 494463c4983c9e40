// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const maxProcFile = 1 << 20 // bytes of a file in /proc that are read; a mountinfo has some ten kilobytes

// looking is a Look under way: what it knows of the host beside the Input.
type looking struct {
	from     Sources
	in       *Input
	accounts accounts
	started  started
}

// readProcess looks at the agent's process in proc, as /proc is one. A folder of /proc that is held open is its process's as
// long as it lives, and nobody's afterwards: a new process of the same number is not taken for it.
func (l *looking) readProcess(proc string) Seen[Process] {
	if l.from.PID <= 0 {
		needs := asRoot
		if l.from.Root {
			needs = whereItIs
		}
		if l.from.Address != "" {
			return Unseen[Process]("no process was found that listens at "+l.from.Address, needs)
		}
		return Unseen[Process]("its process was not found", needs)
	}
	dir, err := os.OpenRoot(proc + "/" + strconv.Itoa(l.from.PID))
	if err != nil {
		return Unseen[Process]("its process cannot be looked at: "+bare(err).Error(), asRoot)
	}
	defer dir.Close()
	cwd, _ := dir.Readlink("cwd") // needs the right to trace it
	commandLine, err := readProc(dir, "cmdline")
	if err != nil {
		return Unseen[Process]("its process cannot be looked at: "+bare(err).Error(), asRoot)
	}
	var isAgent bool
	if l.started, isAgent = readCommandLine(commandLine, cwd); !isAgent {
		return Unseen[Process](`what listens at its address was not started as "consul agent"`,
			"run it where the agent itself listens at its HTTP address")
	}
	status, err := readProc(dir, "status")
	if err != nil {
		return Unseen[Process]("its process cannot be looked at: "+bare(err).Error(), asRoot)
	}
	p := Process{Unit: l.from.Unit, Flags: l.started.flags}
	if err := p.readStatus(status); err != nil {
		return Unseen[Process]("its process cannot be looked at: "+err.Error(), "")
	}
	user := l.accounts.user(p.UID)
	p.User, p.Person = user.name, user.logsIn()
	if stat, err := readProc(dir, "stat"); err == nil {
		p.Started = startOf(stat)
	}
	if limits, err := readProc(dir, "limits"); err == nil {
		p.CoreLimited = coreLimited(limits)
	}
	if mounts, err := readProc(dir, "mountinfo"); err == nil {
		p.ReadOnly = readOnly(mounts, "/usr")
	}
	return Known(p)
}

func readProc(dir *os.Root, name string) (string, error) {
	file, err := dir.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxProcFile))
	return string(text), err
}

// readStatus takes what counts out of /proc/PID/status; fields that an older kernel does not have stay nil. The error is of a
// text without a user, as of a process that has ended.
func (p *Process) readStatus(text string) error {
	user := false
	for line := range strings.Lines(text) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		switch {
		case name == "Uid" && len(fields) == 4:
			effective, err := strconv.ParseUint(fields[1], 10, 32)
			p.UID, user = uint32(effective), err == nil
		case len(fields) != 1:
		case name == "NoNewPrivs":
			p.NoNewPrivs = new(fields[0] == "1")
		case name == "CapEff":
			p.Effective = capabilities(fields[0])
		case name == "CapBnd":
			p.Bounding = capabilities(fields[0])
		}
	}
	if !user {
		return errors.New("it has ended")
	}
	return nil
}

// startOf reads out of /proc/PID/stat when a process was started, to about a hundredth of a second; zero where it is not
// there. It stands there in ticks, of which Linux tells 100 a second on every platform, of a clock that runs through sleep.
func startOf(stat string) time.Time {
	const tick, place = time.Second / 100, 19 // of starttime, behind the name, which may hold blanks and brackets
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= place {
		return time.Time{}
	}
	ticks, err := strconv.ParseInt(fields[place], 10, 64)
	var sinceBoot unix.Timespec
	if err != nil || ticks < 0 || ticks > math.MaxInt64/int64(tick) || unix.ClockGettime(unix.CLOCK_BOOTTIME, &sinceBoot) != nil {
		return time.Time{}
	}
	return time.Now().Add(time.Duration(ticks)*tick - time.Duration(sinceBoot.Nano()))
}

func capabilities(hex string) *uint64 {
	set, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return nil
	}
	return &set
}

// coreLimited reads the limit that counts, the soft one, out of /proc/PID/limits; nil where it is not there.
func coreLimited(text string) *bool {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "Max core file size"); ok {
			if fields := strings.Fields(rest); len(fields) > 1 {
				return new(fields[0] == "0")
			}
		}
	}
	return nil
}

// readOnly tells by a process's mountinfo whether the mount that holds path is read-only; nil where none does. What was
// mounted last on a point covers what was there.
func readOnly(mountinfo, path string) *bool {
	var found *bool
	longest := 0
	for line := range strings.Lines(mountinfo) {
		mount, filesystem, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(mount), strings.Fields(filesystem)
		if !ok || len(fields) < 6 || len(source) < 3 {
			continue
		}
		point := strings.TrimSuffix(fields[4], "/")
		if path != point && !strings.HasPrefix(path, point+"/") || len(point) < longest {
			continue
		}
		longest = len(point)
		found = new(hasOption(fields[5], "ro") || hasOption(source[2], "ro"))
	}
	return found
}

func hasOption(options, name string) bool {
	for option := range strings.SplitSeq(options, ",") {
		if option == name {
			return true
		}
	}
	return false
}

// flagsNote says what beside its files decides what an agent does.
func (p *Process) flagsNote() string {
	if len(p.Flags) == 0 {
		return ""
	}
	names := make([]string, len(p.Flags))
	for i, name := range p.Flags {
		names[i] = "-" + name
	}
	return fmt.Sprintf("the agent was started with flags, which stand over its files and are not read: %s", strings.Join(names, " "))
}

// bare is err without the path, which stands beside it or holds a process's number.
func bare(err error) error {
	if wrapped, ok := errors.AsType[*fs.PathError](err); ok {
		return wrapped.Err
	}
	return err
}
