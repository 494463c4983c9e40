// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"github.com/hostagent/hostagent/firewall"
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
		Args: noArguments,
	}
	s := addSettings(cmd, consulKeys())
	format := cmd.Flags().String("format", "table", "`format`: table or json")
	failOn := cmd.Flags().String("fail-on", "warning", "`severity` from which findings make the exit status 1: info, warning, critical or never")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		threshold, err := parseFailOn(*failOn)
		if err != nil {
			return err
		}
		if err := checkChoice("format", *format, "table", "json"); err != nil {
			return err
		}
		scan, err := look(cmd, s)
		if err != nil {
			return err
		}
		text := ""
		if *format == "json" {
			text, err = jsonText(scan.Document(version()))
		} else {
			text = newScreen(cmd.OutOrStdout()).table(scan)
		}
		if err := errors.Join(err, output(cmd, text)); err != nil {
			return err
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
	if err := checkChoice("fail-on", text, "info", "warning", "critical", "never"); err != nil {
		return 0, err
	}
	if text == "never" {
		return never, nil
	}
	return catalog.ParseSeverity(text)
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
	fw, err := newFirewall(c)
	p.Firewall = fw
	if err != nil {
		p.Firewall = unseen{err: err}
	}
	return hostagent.Look(cmd.Context(), p)
}

// unseen stands for a firewall that cannot be looked at. The reason (no root, no iptables) becomes a note of the scan.
type unseen struct {
	*firewall.Firewall // nil: a scan calls nothing but Show
	err                error
}

func (u unseen) Show(context.Context) (firewall.State, error) { return firewall.State{}, u.err }

func jsonText(v any) (string, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return escapeUnseen(b.String()), err
}

// escapeUnseen writes what a terminal could take for an order (C1 controls, marks of direction) as JSON's own escapes,
// which read back as the same text. Below DEL the encoder has done so already.
func escapeUnseen(text string) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r < 0x7f || unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
