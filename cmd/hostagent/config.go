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

With --kv it checks documents of settings for a fleet before they are written to Consul's KV: as documents of kv_prefix,
which may set only some of the keys, and together with the files of a host that will read them. Name all documents that lie
there: they count together.

Exit status: 0 valid, 2 not.`,
		Example: `  hostagent config validate
  hostagent config validate ./hostagent.hcl
  hostagent config validate --quiet && systemctl reload hostagent
  hostagent config validate --kv all.hcl && consul kv put hostagent/all.hcl @all.hcl`,
	}
	s := addSettings(validate, nil)
	quiet := validate.Flags().Bool("quiet", false, "say nothing of a configuration that run would take")
	var documents []string
	validate.Flags().StringArrayVar(&documents, "kv", nil, "`path` of a document for Consul's KV, or of a folder of them, to check too; repeatable")
	completeFiles(validate, "kv", "hcl")
	validate.RunE = func(cmd *cobra.Command, args []string) error {
		s.paths = append(s.paths, args...)
		var err error
		if s.under, err = config.ReadDocuments(documents...); err != nil {
			return err
		}
		c, err := s.load()
		if err != nil {
			return err
		}
		if err := hasHere(c); err != nil {
			return err
		}
		if *quiet {
			if lacksMode(c) {
				return errNoMode
			}
			return nil
		}
		read := "no file read, the defaults stand"
		if len(c.Files) > 0 {
			read = catalog.CleanTo(strings.Join(c.Files, ", "), 2000)
		}
		if len(s.under) > 0 {
			read += "; of Consul's KV " + catalog.CleanTo(documentNames(s.under), 2000)
		}
		mode := string(c.Mode)
		if mode == "" {
			mode = `not set: run needs mode = "observe" or "guard"`
			if !lacksMode(c) {
				mode = "not set: run waits for one in Consul's KV (kv_may_enforce)"
			}
		}
		text := fmt.Sprintf("configuration is valid (%s)\nmode: %s\n%s", read, mode, exemptionsText(c, time.Now()))
		for _, note := range config.Mistyped(os.Environ()) {
			text += "note: " + note + "\n"
		}
		if len(s.under) == 0 && c.KVPrefix != "" {
			text += fmt.Sprintf("note: settings below %q in Consul's KV are not looked at; run refuses them where they are wrong, and --kv checks documents\n", c.KVPrefix)
		}
		if len(s.under) > 0 && c.KVPrefix == "" {
			text += "note: with these files run asks Consul's KV for nothing: they set no kv_prefix\n"
		}
		return output(cmd, text)
	}
	validate.ValidArgsFunction = cobra.FixedCompletions([]string{"hcl"}, cobra.ShellCompDirectiveFilterFileExt)
	cmd.AddCommand(validate)
	return cmd
}

func documentNames(documents []config.Document) string {
	names := make([]string, len(documents))
	for i, document := range documents {
		names[i] = document.Name
	}
	return strings.Join(names, ", ")
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
