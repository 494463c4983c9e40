// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent/catalog"
	"github.com/hostagent/hostagent/hostagent/config"
	"github.com/hostagent/hostagent/hostagent/consul"
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
file and line. Users and certificates that it names must be on this host, as run needs them. It connects to nothing and
needs no root; what it may not read it takes for good. With --quiet its exit status tells whether run would take the
configuration, as a reload of the service has to know: one without a mode fails too.

Exit status: 0 valid, 2 not.`,
		Example: `  hostagent config validate
  hostagent config validate ./hostagent.hcl
  hostagent config validate --quiet && systemctl reload hostagent`,
	}
	s := addSettings(validate, nil)
	quiet := validate.Flags().Bool("quiet", false, "say nothing of a configuration that run would take")
	validate.RunE = func(cmd *cobra.Command, args []string) error {
		s.paths = append(s.paths, args...)
		c, err := s.load()
		if err != nil {
			return err
		}
		if err := hasHere(c); err != nil {
			return err
		}
		if *quiet {
			if c.Mode == "" {
				return errNoMode
			}
			return nil
		}
		read := "no file read, the defaults stand"
		if len(c.Files) > 0 {
			read = catalog.CleanTo(strings.Join(c.Files, ", "), 2000)
		}
		mode := string(c.Mode)
		if mode == "" {
			mode = `not set: run needs mode = "observe" or "guard"`
		}
		text := fmt.Sprintf("configuration is valid (%s)\nmode: %s\n%s", read, mode, exemptionsText(c, time.Now()))
		for _, note := range config.Mistyped(os.Environ()) {
			text += "note: " + note + "\n"
		}
		return output(cmd, text)
	}
	validate.ValidArgsFunction = cobra.FixedCompletions([]string{"hcl"}, cobra.ShellCompDirectiveFilterFileExt)
	cmd.AddCommand(validate)
	return cmd
}

// hasHere returns why run would refuse a configuration on this host: a user that it does not have, or certificates that
// cannot be used. The token is none of it, because it may come later.
func hasHere(c *config.Config) error {
	options, err := consulOptions(c)
	if err != nil {
		return err
	}
	options.Token, options.TokenFile = "", ""
	if _, err = consul.New(options); errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}
