// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/kardianos/service"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// newService returns what package service does with a unit. text is what it installs.
func newService(unit, text string) (service.Service, error) {
	svc, err := service.New(nil, &service.Config{
		Name:   strings.TrimSuffix(unit, ".service"),
		Option: service.KeyValue{"SystemdScript": text},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot use this host's service manager: %w", err)
	}
	return svc, nil
}

// askWithin is how long systemd may take to answer, or to read its units again. Starting and stopping have no limit here,
// because systemd has its own for each unit.
const askWithin = 30 * time.Second

// systemctl runs systemctl and returns what it wrote. Package service does so too, but throws away what it says of a failure.
func systemctl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, "systemctl", append([]string{"--no-pager"}, args...)...)
}

// command runs one of the system's programs, in its own words and without colours. Its complaint becomes the error.
func command(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, findProgram(name), args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if complaint := strings.TrimSpace(string(exit.Stderr)); complaint != "" {
			err = errors.New(complaint)
		}
	}
	if err != nil {
		err = fmt.Errorf("cannot run %q: %w", strings.Join(append([]string{name}, args...), " "), err)
	}
	return string(out), err
}

// findProgram returns the path of one of the system's programs, or its name where there is none. After a plain "su" root's
// PATH lacks the folders of useradd and its like.
func findProgram(name string) string {
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	for _, folder := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(folder + "/" + name); err == nil {
			return path
		}
	}
	return name
}

// unitState is what systemd says of a unit.
type unitState struct {
	name   string
	load   string // loaded, not-found, masked, bad-setting, error
	active string // active, reloading, inactive, failed, activating, deactivating
	sub    string // running, exited, dead, auto-restart and others
	file   string // enabled, disabled, masked and others; "" where there is no file
	status string // what the service says of itself
	since  string // the time of the last change, in systemd's own words; "" where there was none
	result string // success, exit-code, signal, watchdog and others, of the last run
	exit   string // status of the main process's end, "0" while it runs
	path   string // of the unit file
}

// showUnit asks for a unit, which need not exist.
func showUnit(ctx context.Context, name string) (unitState, error) {
	text, err := systemctl(ctx, "show", name, "--property=LoadState,ActiveState,SubState,UnitFileState,StatusText,"+
		"ActiveEnterTimestamp,InactiveEnterTimestamp,Result,ExecMainStatus,FragmentPath")
	return parseUnit(name, text), err
}

// parseUnit reads what "systemctl show" wrote, a property a line.
func parseUnit(name, text string) unitState {
	said := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		said[key] = catalog.CleanTo(value, 500)
	}
	state := unitState{
		name: name, load: said["LoadState"], active: said["ActiveState"], sub: said["SubState"], file: said["UnitFileState"],
		status: said["StatusText"], result: said["Result"], exit: said["ExecMainStatus"], path: said["FragmentPath"],
		since: said["InactiveEnterTimestamp"],
	}
	if state.running() {
		state.since = said["ActiveEnterTimestamp"]
	}
	return state
}

func (u unitState) installed() bool { return u.load != "" && u.load != "not-found" }

// running tells whether a process of the unit is there to do its work, ready or about to be.
func (u unitState) running() bool {
	switch u.active {
	case "active", "reloading":
		return true
	case "activating":
		return u.sub != "auto-restart"
	}
	return false
}

// text is a line for people, and below it what the service says of itself.
func (u unitState) text() string {
	if !u.installed() {
		return u.name + ": not installed\n"
	}
	text := fmt.Sprintf("%s: %s (%s)", u.name, u.active, u.sub)
	if u.load != "loaded" {
		text += ", its unit is " + u.load
	}
	if u.active == "failed" || u.sub == "auto-restart" {
		text += ", " + u.failure()
	}
	if u.since != "" {
		text += " since " + u.since
	}
	if u.file != "" {
		text += ", " + u.file
	}
	text += "\n"
	if u.status != "" && u.running() {
		text += "  " + u.status + "\n"
	}
	return text
}

func (u unitState) failure() string {
	if u.result == "exit-code" {
		return "exit status " + u.exit
	}
	return "result " + u.result
}

// resetFailed lets systemd start a unit again that it has given up. Of one that it has not loaded it would not know.
func resetFailed(ctx context.Context, state unitState) error {
	if state.active != "failed" {
		return nil
	}
	_, err := systemctl(ctx, "reset-failed", state.name)
	return err
}

// whyFailed tells what became of a unit and its last words, to stand behind an error.
func whyFailed(ctx context.Context, unit string) string {
	text := ""
	if state, err := showUnit(ctx, unit); err == nil {
		text = "\n" + strings.TrimRight(state.text(), "\n")
	}
	lines, err := command(ctx, "journalctl", "--no-pager", "--output=cat", "--lines=5", "--boot", "--unit="+unit)
	if err == nil && strings.TrimSpace(lines) != "" {
		text += "\nits last words:\n" + strings.TrimRight(lines, "\n")
	}
	return text + "\nsee journalctl -u " + unit
}
