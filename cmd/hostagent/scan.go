// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/hostagent"
	"github.com/hostagent/hostagent/hostagent/catalog"
)

func scanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scan",
		Short: "Look once at this host and print what is wrong",
		Long: `Looks once at the services of the local Consul agent and at the listeners of this host, and prints what is wrong.
It changes nothing and needs no root; what it cannot see without root, it says.

Exit status: 0 nothing found, 1 findings at or above --fail-on, 2 it could not look.`,
		Example: `  hostagent scan
  sudo hostagent scan                      also names the processes of other users
  hostagent scan --format json | jq '.findings[].message'
  hostagent scan --fail-on critical        for a cron job that is quiet about warnings`,
		Args: cobra.NoArgs,
	}
	s := addSettings(cmd, consulKeys())
	format := cmd.Flags().String("format", "table", "`format`: table or json")
	failOn := cmd.Flags().String("fail-on", "warning", "`severity` from which findings make the exit status 1: info, warning, critical or never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold, err := parseFailOn(*failOn)
		if err != nil {
			return err
		}
		if *format != "table" && *format != "json" {
			return fmt.Errorf("--format %q is not one of table, json", *format)
		}
		scan, err := look(cmd, s)
		if err != nil {
			return err
		}
		if *format == "json" {
			err = writeJSON(cmd, scan.Document(version()))
		} else {
			err = writeTable(cmd.OutOrStdout(), scan)
		}
		if err != nil {
			return fmt.Errorf("cannot write the result: %w", err)
		}
		if worst, any := scan.Worst(); any && worst >= threshold {
			return &exitError{status: exitFindings}
		}
		return nil
	}
	return cmd
}

// never is above every severity.
const never = catalog.Critical + 1

func parseFailOn(text string) (catalog.Severity, error) {
	if text == "never" {
		return never, nil
	}
	severity, err := catalog.ParseSeverity(text)
	if err != nil {
		return 0, fmt.Errorf("--fail-on: %w, never", err)
	}
	return severity, nil
}

func look(cmd *cobra.Command, s *settings) (*hostagent.Scan, error) {
	c, err := s.load()
	if err != nil {
		return nil, err
	}
	p, err := parts(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	// Without root the firewall stays out of sight, which Look says.
	if fw, err := newFirewall(c); err == nil {
		p.Firewall = fw
	}
	return hostagent.Look(cmd.Context(), p)
}

func writeJSON(cmd *cobra.Command, v any) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}
