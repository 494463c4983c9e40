// SPDX-License-Identifier: MPL-2.0

package main

import (
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/systemd"
)

func serviceStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print whether the service runs, what it says and who installed it",
		Long: `Prints what systemd knows of the service: whether it runs and since when, whether it starts with the host, and what it
says of itself. It needs no root. What hostagent guards and has found is told by hostagent status.

Exit status: 0 it runs, 3 it does not, 4 it is not installed, 2 it could not be asked.`,
		Example: `  hostagent service status
  hostagent service status >/dev/null || echo "hostagent does not run"`,
		Args: noArguments,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needsSystemd(); err != nil {
			return err
		}
		guard, err := showUnit(cmd.Context(), systemd.Guard)
		if err != nil {
			return err
		}
		if !guard.installed() {
			return errNotInstalled()
		}
		text := guard.text() + origin(guard)
		for _, name := range []string{systemd.Sets, systemd.Restore} {
			state, err := showUnit(cmd.Context(), name)
			if err != nil {
				return err
			}
			text += state.text()
		}
		if err := output(cmd, text+hint(guard)); err != nil {
			return err
		}
		if !guard.running() {
			return &exitError{status: exitNotRunning}
		}
		return nil
	}
	return cmd
}

// origin says where the unit comes from.
func origin(guard unitState) string {
	switch {
	case guard.path == "":
		return ""
	case strings.HasPrefix(guard.path, unitFolder+"/"):
		return "  installed by hostagent service install: " + guard.path + "\n"
	}
	return "  installed by a package: " + guard.path + "\n"
}

// hint says where to look next.
func hint(guard unitState) string {
	switch {
	case guard.load == "masked":
		return "it is masked, so that nobody starts it: systemctl unmask " + guard.name + "\n"
	case guard.running():
		return "what it guards and has found: hostagent status; its log: journalctl -u hostagent\n"
	case guard.exit == strconv.Itoa(exitConfig):
		return "its configuration is wrong: hostagent config validate; its log: journalctl -u hostagent\n"
	}
	return "to start it: hostagent service start; its log: journalctl -u hostagent\n"
}
