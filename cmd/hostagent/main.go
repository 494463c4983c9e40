// SPDX-License-Identifier: MPL-2.0

// Command hostagent guards the sidecar ports of a Consul service mesh host. See the README for its use.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

// Exit statuses. Those of scan are documented; exitConfig lets a service manager tell that trying again cannot help.
const (
	exitFindings = 1
	exitFailure  = 2
	exitConfig   = 78 // EX_CONFIG of sysexits.h
)

// exitError ends the program with a status of its own. A nil err says nothing.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func run(args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if len(args) > 0 && args[0] == cobra.ShellCompRequestCmd {
		unquoteUsages(root)
	}
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return 0
	}
	status := exitFailure
	if e, ok := errors.AsType[*exitError](err); ok {
		if status, err = e.status, e.err; err == nil {
			return status
		}
	}
	prefix := "hostagent: "
	if toJournal(stderr, os.Getenv("JOURNAL_STREAM")) {
		prefix = priority(slog.LevelError) + prefix
	}
	// An error may hold what Consul or a file said; its own line ends are wanted, nothing else of the kind is.
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(stderr, prefix+catalog.CleanTo(strings.TrimRight(line, "\n"), 2000))
	}
	return status
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "hostagent",
		Short: "Guards the sidecar ports of a Consul service mesh host",
		Long: `hostagent opens exactly the ports of the sidecars that are registered with the local Consul agent, keeps the
rest of the sidecar range closed, finds mesh services that listen on anything but loopback, and shows both as
health checks in Consul.

In mode observe it reports and owns no firewall rule; in mode guard it manages the firewall. There is no default.`,
		Example: `  hostagent scan                 what is wrong on this host, changing nothing
  sudo hostagent audit           which of the mesh's guarantees it has, and which not
  hostagent fleet                how all hosts of the datacenter are
  hostagent run --mode observe   the same all the time, reported to Consul
  hostagent run --mode guard     and with the firewall managed`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		Args:          subcommandOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(runCommand(), scanCommand(), auditCommand(), reportCommand(), fleetCommand(), explainCommand(), statusCommand(), firewallCommand(), reportsCommand(), configCommand(), aclPolicyCommand(), serviceCommand(), versionCommand())
	explain(root)
	return root
}

// output writes what a command was asked for.
func output(cmd *cobra.Command, text string) error {
	if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
		return fmt.Errorf("cannot write the result: %w", err)
	}
	return nil
}

// version comes from what the Go toolchain recorded, so that there is nothing to set at build time.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "development"
	}
	return info.Main.Version
}
