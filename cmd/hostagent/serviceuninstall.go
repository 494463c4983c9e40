// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
	"github.com/hostagent/hostagent/systemd"
)

func serviceUninstallCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and take away its rules, checks and units",
		Long: `Stops the service and takes away what service install and the service itself have made: the firewall's rules and
sets, with the saved state; the checks in Consul, where the agent answers within 5 seconds; and the units. The sidecar
range is then as open as the host's own rules leave it. It may be called again, and does what is left to do.

The configuration and the system user stay, for the next installation; --purge takes them away too, with the folder of
the state. It removes no file that is not hostagent's own, follows no link, and names what it leaves. The program
itself stays.

Exit status: 0 it is gone, 2 not all of it; a Consul agent that cannot be reached is a warning only.`,
		Example: `  sudo hostagent service uninstall
  sudo hostagent service uninstall --purge`,
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	purge := cmd.Flags().Bool("purge", false, "remove configuration, state and system user too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := errors.Join(needsSystemd(), needsRoot(cmd)); err != nil {
			return err
		}
		if err := refusePackaged(func(manager string) string { return "to remove it: " + manager + " remove hostagent" }); err != nil {
			return err
		}
		release, err := lockUnits()
		if err != nil {
			return err
		}
		defer release()
		u := &uninstallation{cmd: cmd, config: configToLeave(cmd, s)}
		u.run(*purge)
		if u.failed != nil {
			return fmt.Errorf("%w\nthe rest was done; mend this and call it again", u.failed)
		}
		return nil
	}
	return cmd
}

// configToLeave returns the configuration. What is installed has to go even where that is wrong: then the defaults tell where
// its state and its Consul agent are.
func configToLeave(cmd *cobra.Command, s *settings) *config.Config {
	c, err := s.load()
	if err == nil {
		return c
	}
	warn(cmd, fmt.Errorf("the configuration is wrong, so the defaults count: %w", err))
	return config.Default()
}

// warn tells of what keeps a command from nothing.
func warn(cmd *cobra.Command, err error) {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(cmd.ErrOrStderr(), "hostagent: warning: "+catalog.CleanTo(strings.TrimRight(line, "\n"), 2000))
	}
}

// uninstallation goes on after a failure: each thing that is gone is one less to undo by hand.
type uninstallation struct {
	cmd    *cobra.Command
	config *config.Config
	did    bool // something was there
	failed error
}

// say tells what was done, and remembers that something was.
func (u *uninstallation) say(text string) {
	if text != "" {
		u.did = true
		u.fail(output(u.cmd, text))
	}
}

func (u *uninstallation) fail(err error) { u.failed = errors.Join(u.failed, err) }

func (u *uninstallation) run(purge bool) {
	ctx := u.cmd.Context()
	for _, name := range unitNames() {
		u.stop(ctx, name)
	}
	lock, err := takeLock(u.cmd, true) // of a run outside of the service, too: its rules would come back
	u.fail(err)
	if lock != nil {
		u.removeRules(ctx)
		u.removeReports(ctx)
	}
	u.removeUnits(ctx)
	if purge {
		u.purge(ctx)
	} else {
		u.leave()
	}
	if lock != nil {
		// With the lock's file, while it is held: whoever waits for it now runs a hostagent that was just uninstalled.
		u.fail(removeOwn(hostagent.RuntimeDir, runtimeFiles(), true).err)
		u.fail(lock.Release())
	}
	if !u.did && u.failed == nil {
		u.fail(output(u.cmd, "nothing to uninstall\n"))
	}
}

// unitNames are those of all units, the service first: it ends before what it needs.
func unitNames() []string { return []string{systemd.Guard, systemd.Restore, systemd.Sets} }

func (u *uninstallation) stop(ctx context.Context, name string) {
	state, err := showUnit(ctx, name)
	if err != nil {
		u.fail(err)
		return
	}
	if !state.installed() || state.active == "inactive" || state.active == "failed" {
		return
	}
	if err := verbOf("stop").run(ctx, name); err != nil {
		u.fail(err)
		return
	}
	u.say("stopped: " + name + "\n")
}

func (u *uninstallation) removeRules(ctx context.Context) {
	fw, err := newFirewall(u.config)
	if err != nil && u.config.Mode != config.ModeGuard {
		warn(u.cmd, fmt.Errorf("rules of an earlier guard run cannot be seen or removed: %w", err))
		return
	}
	if err != nil {
		u.fail(err)
		return
	}
	text, err := removeRules(ctx, u.config, fw)
	u.say(text)
	u.fail(err)
}

func (u *uninstallation) removeReports(ctx context.Context) {
	client, service, err := reportsOf(u.config)
	if err != nil {
		warn(u.cmd, fmt.Errorf("the checks in Consul stay: %w", err))
		return
	}
	gone, err := removeReports(ctx, client, service)
	u.say(removedText(gone, service))
	if unseen := unseenText(gone); err == nil && unseen != "" {
		warn(u.cmd, errors.New(unseen))
	}
	err = reportsLeft(err, service, gone)
	switch consul.KindOf(err) {
	case consul.KindUnreachable, consul.KindTimeout:
		warn(u.cmd, err)
	default:
		u.fail(err)
	}
}

func (u *uninstallation) removeUnits(ctx context.Context) {
	for _, unit := range unitPaths() {
		done, err := unit.remove(ctx)
		if done {
			u.say("removed: " + unit.path + "\n")
		}
		u.fail(err)
	}
}

// leave says what stays without --purge.
func (u *uninstallation) leave() {
	var left []string
	for _, path := range []string{config.DefaultPath, u.config.StateDir} {
		if _, err := os.Lstat(path); path != "" && err == nil {
			left = append(left, path)
		}
	}
	if ours, _, _ := readOurs(userFile); ours {
		left = append(left, "user "+systemd.User)
	}
	if len(left) > 0 && u.did {
		u.fail(output(u.cmd, "left: "+strings.Join(left, ", ")+"; hostagent service uninstall --purge removes them too\n"))
	}
}
