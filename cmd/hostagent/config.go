// SPDX-License-Identifier: MPL-2.0

package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
)

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "config",
		Short:   "Work with the configuration",
		Example: "  hostagent config validate",
		Args:    subcommandOnly,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	validate := &cobra.Command{
		Use:   "validate [FILE or FOLDER]...",
		Short: "Check configuration files, and run nothing",
		Long: `Reads the configuration as run would, with Consul's client environment over the files, and says what is wrong with
file and line. It connects to nothing and needs no root.

Exit status: 0 valid, 2 not.`,
		Example: `  hostagent config validate
  hostagent config validate ./hostagent.hcl`,
	}
	s := addSettings(validate, nil)
	validate.RunE = func(cmd *cobra.Command, args []string) error {
		s.paths = append(s.paths, args...)
		c, err := s.load()
		if err != nil {
			return err
		}
		read := "no file read, the defaults stand"
		if len(c.Files) > 0 {
			read = catalog.CleanTo(strings.Join(c.Files, ", "), 2000)
		}
		mode := string(c.Mode)
		if mode == "" {
			mode = `not set: run needs mode = "observe" or "guard"`
		}
		return output(cmd, fmt.Sprintf("configuration is valid (%s)\nmode: %s\n%s", read, mode, exemptionsText(c, time.Now())))
	}
	cmd.AddCommand(validate)
	return cmd
}
