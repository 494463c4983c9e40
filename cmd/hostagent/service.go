// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/systemd"
)

// Exit statuses of "service status" and its like, those of systemctl(1) and of init scripts.
const (
	exitNotRunning   = 3
	exitNotInstalled = 4
)

func serviceCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Install, look at or remove hostagent as a systemd service",
		Long: `Installs this program as a service, where no package does. It writes the units that packages ship, a configuration
that observes, and makes the system user that they run as. start, stop, restart and status work with the units of a
package too.`,
		Example: `  sudo hostagent service install
  hostagent service status
  sudo hostagent service uninstall`,
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(serviceInstallCommand(), serviceUninstallCommand(), serviceStatusCommand())
	for _, verb := range serviceVerbs() {
		cmd.AddCommand(verb.command())
	}
	return cmd
}

// serviceVerb is one of start, stop and restart.
type serviceVerb struct {
	name, short, long string
	do                func(service.Service) error
	running           bool // what it leads to
	after             string
}

func serviceVerbs() []serviceVerb {
	return []serviceVerb{
		{
			name: "start", short: "Start the service", do: service.Service.Start, running: true,
			long: "Starts the service and waits until it is ready, which it is without Consul too.",
		},
		{
			name: "stop", short: "Stop the service, whose rules stay", do: service.Service.Stop,
			long: `Stops the service and waits for its end. Its rules stay in place, so that a stop opens and closes nothing; hostagent
firewall remove takes them away. It comes back with the next start of this host.`,
			after: "its rules stay in place; hostagent firewall remove takes them away\n",
		},
		{
			name: "restart", short: "Stop the service and start it again", do: service.Service.Restart, running: true,
			long: "Stops the service, starts it again and waits until it is ready. Its rules stand all the time.",
		},
	}
}

func (v serviceVerb) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: v.name, Short: v.short, Args: noArguments,
		Long: v.long + `

Exit status: 0 done, 4 the service is not installed, 2 anything else.`,
		Example: "  sudo hostagent service " + v.name,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := errors.Join(needsSystemd(), needsRoot(cmd)); err != nil {
			return err
		}
		ctx := cmd.Context()
		state, err := showUnit(ctx, systemd.Guard)
		if err != nil {
			return err
		}
		if !state.installed() {
			return errNotInstalled()
		}
		if v.running {
			if err := resetFailed(ctx, state); err != nil {
				return err
			}
		}
		if err := v.run(ctx, systemd.Guard); err != nil {
			return err
		}
		if state, err = showUnit(ctx, systemd.Guard); err != nil {
			return err
		}
		return output(cmd, state.text()+v.after)
	}
	return cmd
}

// run does it to a unit and says why it failed: the service manager's own error holds nothing but an exit status.
func (v serviceVerb) run(ctx context.Context, unit string) error {
	svc, err := newService(unit, "")
	if err != nil {
		return err
	}
	if err := v.do(svc); err != nil {
		return fmt.Errorf("cannot %s %s: %w%s", v.name, unit, err, whyFailed(ctx, unit))
	}
	return nil
}

func verbOf(name string) serviceVerb {
	for _, verb := range serviceVerbs() {
		if verb.name == name {
			return verb
		}
	}
	panic("no such verb: " + name) // a mistake in this program
}

func errNotInstalled() error {
	return &exitError{exitNotInstalled, errors.New("hostagent is not installed as a service; install its package, or: sudo hostagent service install")}
}

// needsRoot refuses whoever could not finish what the command begins.
func needsRoot(cmd *cobra.Command) error {
	if os.Geteuid() == 0 {
		return nil
	}
	return fmt.Errorf("%s needs root; run as root: sudo %[1]s", cmd.CommandPath())
}

// needsSystemd refuses a host that some other init runs, as sd_booted(3) tells it.
func needsSystemd() error {
	if info, err := os.Lstat("/run/systemd/system"); err == nil && info.IsDir() {
		return nil
	}
	return errors.New(`this host is not run by systemd, so there is no service to manage
let what does run it start, as root: "hostagent run"; and before the network comes up: "hostagent firewall restore"`)
}
